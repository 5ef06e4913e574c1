//! Tracking by content: [`Method::Hashes`](super::Method). Works on any kernel and any process that can be read, at the
//! price of reading and hashing all of it in each round (BLAKE3: some 2.5 GB/s for each core).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::books::Books;
use super::mappings;
use super::reader::read_pages;
use super::target::Target;
use super::{Error, PAGE, Round, pagemap, ranges};

/// Read and hashed at a time.
const CHUNK: u64 = 1 << 20;

/// One process whose pages are compared with what was handed out of them. Invariant: a hash is kept of the very bytes that
/// [`Hashes::read`] gave; were it kept of what a round saw, a page that changes in between and back would be missed.
#[derive(Debug)]
pub(super) struct Hashes {
    target: Arc<Target>,
    /// By address; 1 % of the memory tracked.
    handed: BTreeMap<u64, blake3::Hash>,
    books: Books,
}

impl Hashes {
    pub fn attach(target: &Arc<Target>) -> Self {
        Self { target: Arc::clone(target), handed: BTreeMap::new(), books: Books::default() }
    }

    pub fn round(&mut self) -> Result<Round, Error> {
        let list = mappings::read(&self.target)?.list;
        let mut pages = pagemap::read(&self.target, mappings::tracked(&list))?;
        pages.written.clear();
        let mut buffer = vec![0; usize::try_from(CHUNK).expect("small")];
        for range in &pages.populated {
            for chunk in chunks(range) {
                let read = read_pages(self.target.pid, &[chunk], &mut buffer)?;
                for (address, bytes) in by_page(&read, &buffer) {
                    if self.handed.get(&address) != Some(&blake3::hash(bytes)) {
                        ranges::push(&mut pages.written, address..address + PAGE);
                    }
                }
            }
        }
        let round = self.books.settle(list, pages);
        for range in round.zeroed.iter().chain(&round.gone) {
            let forgotten: Vec<u64> = self.handed.range(range.clone()).map(|(&address, _)| address).collect();
            for address in forgotten {
                self.handed.remove(&address);
            }
        }
        Ok(round)
    }

    pub fn read(&mut self, wanted: &[Range<u64>], buffer: &mut [u8]) -> Result<Vec<Range<u64>>, Error> {
        let read = read_pages(self.target.pid, wanted, buffer)?;
        self.handed.extend(by_page(&read, buffer).map(|(address, bytes)| (address, blake3::hash(bytes))));
        Ok(read)
    }
}

fn chunks(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.clone().step_by(usize::try_from(CHUNK).expect("small")).map(move |start| start..(start + CHUNK).min(end))
}

/// The pages that were read, with their addresses.
fn by_page<'a>(read: &'a [Range<u64>], buffer: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
    let page = usize::try_from(PAGE).expect("small");
    read.iter().cloned().flat_map(move |range| range.step_by(page)).zip(buffer.chunks_exact(page))
}
