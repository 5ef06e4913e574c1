//! What target and source say to each other about pages, over any ordered stream of bytes.
//!
//! All integers are little-endian, a page is 4,096 bytes, addresses are those that the page had when its process was
//! frozen, `pid` is the task's pid in CRIU's images.
//!
//! Both sides first send a greeting of 9 bytes: `"gwpages\0"` and the version, 1. A side that reads another version
//! closes the connection: pages are too precious to be guessed at, and the versions two sites speak are settled before a
//! handoff.
//!
//! Then the target sends requests:
//!
//! | bytes | fault | hurry | push | done |
//! | --- | --- | --- | --- | --- |
//! | 1 | 1 | 2 | 3 | 4 |
//! | 4 | pid (i32) | pid | pid | |
//! | 8 | address (u64) | address | address | |
//! | 4 | | | pages (u32), 1 to 4,096 | |
//!
//! A *fault* is answered before all pushes. A *hurry* is a fault on a page that a push asked for before: it is answered
//! only if that page was not sent yet, and then the push leaves it out. *Done* ends the connection: no page is missing.
//!
//! The source answers with batches: frames (see `frame`) with the BLAKE3 of the plain body, which has at most 270,336 bytes. A
//! body is a row of entries, none in a batch that only shows that the source lives:
//!
//! | bytes | raw | zero | repeat | unreadable |
//! | --- | --- | --- | --- | --- |
//! | 1 | 1 | 2 | 3 | 4 |
//! | 4 | pid | pid | pid | pid |
//! | 8 | address | address | address | address |
//! | 4 | pages (u32), at most 64 a batch | pages (u32), at most 4,096 | back (u32), 1 to 1,024 | pages (u32) |
//! | | the pages' bytes | | | |
//!
//! A *repeat* is a page with the content of a raw page sent before on this connection: 1 is the latest. (A counter says in 4
//! bytes what a hash says in 32, and spares the target from hashing each page.) *Unreadable* pages are lost: the source's
//! task does not have them any more.
//!
//! Invariant: what the other side sends is bounded before it is believed, and checked by its hash before it is used.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::ops::Range;

use super::frame::{Frame, HEAD as FRAME_HEAD, Packer};
use super::{PAGE, PAGE_BYTES};

const GREETING: [u8; 9] = *b"gwpages\0\x01";

/// Raw pages in one batch. At 1 Gbit/s this is 2 ms.
pub(crate) const BATCH_PAGES_MAX: usize = 64;
/// Pages that one push asks for, or one entry of zeros stands for.
pub(crate) const RUN_MAX: u32 = 4096;
/// Raw pages that may be referred to; the target keeps 4 MiB of them.
const REPEATS_MAX: usize = 1024;
const ENTRY_HEAD: usize = 17;
const BODY_MAX: usize = BATCH_PAGES_MAX * PAGE_BYTES + 8192;
/// User addresses end below.
pub(crate) const ADDRESS_END: u64 = 1 << 56;

/// What went wrong between target and source.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream ended or failed: connect again.
    #[error("the connection for pages is lost")]
    Lost(#[from] io::Error),
    /// The other side is none that speaks of pages, or one of another version.
    #[error("the other side greets with {0:02x?}, which is not spoken here: both sites need the same version")]
    Greeting([u8; 9]),
    /// The other side breaks the protocol.
    #[error("the other side breaks the page protocol: {0}")]
    Broken(&'static str),
    /// The content is not what its hash says.
    #[error("a batch of pages was damaged on its way: its BLAKE3 differs")]
    Damaged,
}

/// What the target asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Fault {
        pid: i32,
        address: u64,
    },
    Hurry {
        pid: i32,
        address: u64,
    },
    /// At most [`RUN_MAX`] pages.
    Push {
        pid: i32,
        address: u64,
        pages: u64,
    },
    Done,
}

/// Sends the greeting.
pub(super) fn greet(stream: &mut impl Write) -> io::Result<()> {
    stream.write_all(&GREETING)?;
    stream.flush()
}

/// Reads the other side's greeting.
pub(super) fn greeted(stream: &mut impl Read) -> Result<(), WireError> {
    expect(stream, GREETING)
}

/// Reads a greeting, which must be this one.
pub(crate) fn expect(stream: &mut impl Read, greeting: [u8; 9]) -> Result<(), WireError> {
    let got = array(stream)?;
    if got == greeting { Ok(()) } else { Err(WireError::Greeting(got)) }
}

impl Request {
    pub fn encode(self, into: &mut Vec<u8>) {
        let (kind, pid, address, pages) = match self {
            Self::Fault { pid, address } => (1, pid, address, None),
            Self::Hurry { pid, address } => (2, pid, address, None),
            Self::Push { pid, address, pages } => (3, pid, address, Some(pages)),
            Self::Done => return into.push(4),
        };
        into.push(kind);
        into.extend(pid.to_le_bytes());
        into.extend(address.to_le_bytes());
        into.extend(pages.into_iter().flat_map(|pages| narrow(pages).to_le_bytes()));
    }

    /// Reads the next request.
    pub fn read(stream: &mut impl Read) -> Result<Self, WireError> {
        let [kind] = array(stream)?;
        if kind == 4 {
            return Ok(Self::Done);
        }
        let (pid, address) = (i32::from_le_bytes(array(stream)?), u64::from_le_bytes(array(stream)?));
        checked(address, 1)?;
        match kind {
            1 => Ok(Self::Fault { pid, address }),
            2 => Ok(Self::Hurry { pid, address }),
            3 => {
                let pages = u32::from_le_bytes(array(stream)?);
                checked(address, pages)?;
                Ok(Self::Push { pid, address, pages: u64::from(pages) })
            }
            _ => Err(WireError::Broken("a request of an unknown kind")),
        }
    }
}

pub(crate) fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Whether these are pages that a task could have, and no more than one entry may tell.
pub(crate) fn checked(address: u64, pages: u32) -> Result<(), WireError> {
    let end = address.saturating_add(u64::from(pages) * PAGE);
    if !address.is_multiple_of(PAGE) || pages == 0 || pages > RUN_MAX || end > ADDRESS_END {
        return Err(WireError::Broken("pages that cannot be"));
    }
    Ok(())
}

/// A number that its bounds keep far below what the wire holds; one that they did not would be refused there.
pub(crate) fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Puts pages into batches; one for each connection.
pub(super) struct Batcher {
    /// Behind room for the frame's head.
    body: Vec<u8>,
    raw_pages: usize,
    /// The raw entry that the last page was put into: where its count of pages stands, and where it would go on.
    open: Option<(usize, i32, u64)>,
    sent: u64,
    seen: HashMap<[u8; 32], u64>,
    order: VecDeque<[u8; 32]>,
    packer: Packer,
}

impl Batcher {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            body: vec![0; FRAME_HEAD],
            raw_pages: 0,
            open: None,
            sent: 0,
            seen: HashMap::new(),
            order: VecDeque::new(),
            packer: Packer::new()?,
        })
    }

    /// Adds a run of pages. The caller adds at most [`BATCH_PAGES_MAX`] to a batch.
    pub fn pages(&mut self, pid: i32, address: u64, content: &[u8]) {
        for (index, page) in content.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
            self.page(pid, address + index as u64 * PAGE, page);
        }
    }

    fn page(&mut self, pid: i32, address: u64, page: &[u8; PAGE_BYTES]) {
        if *page == [0; PAGE_BYTES] {
            return self.entry(2, pid, address, 1);
        }
        let hash = *blake3::hash(page).as_bytes();
        if let Some(number) = self.seen.get(&hash) {
            let back = self.sent - number;
            self.open = None;
            self.head(3, pid, address, narrow(back));
            return;
        }
        if self.order.len() == REPEATS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(hash);
        self.seen.insert(hash, self.sent);
        self.sent += 1;
        self.raw_pages += 1;
        debug_assert!(self.raw_pages <= BATCH_PAGES_MAX, "the caller bounds a batch");
        self.entry(1, pid, address, 1);
        self.body.extend(page);
    }

    /// Pages that the source's task does not have.
    pub fn unreadable(&mut self, pid: i32, address: u64, pages: u64) {
        self.open = None;
        self.head(4, pid, address, narrow(pages));
    }

    /// Adds to the entry that is open if it goes on there, else opens another.
    fn entry(&mut self, kind: u8, pid: i32, address: u64, pages: u32) {
        if let Some((at, open, next)) = self.open
            && (self.body[at], open, next) == (kind, pid, address)
        {
            let count = at + ENTRY_HEAD - 4..at + ENTRY_HEAD;
            let before = self.body[count.clone()].try_into().map_or(0, u32::from_le_bytes);
            self.body[count].copy_from_slice(&(before + pages).to_le_bytes());
            self.open = Some((at, pid, address + u64::from(pages) * PAGE));
            return;
        }
        self.open = Some((self.body.len(), pid, address + u64::from(pages) * PAGE));
        self.head(kind, pid, address, pages);
    }

    fn head(&mut self, kind: u8, pid: i32, address: u64, number: u32) {
        self.body.push(kind);
        self.body.extend(pid.to_le_bytes());
        self.body.extend(address.to_le_bytes());
        self.body.extend(number.to_le_bytes());
    }

    /// Ends the batch and gives it to `send`.
    pub fn finish<T>(&mut self, send: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        let hash = blake3::hash(&self.body[FRAME_HEAD..]);
        self.packer.pack(&mut self.body, &hash, self.raw_pages > 0)?;
        let sent = send(&self.body);
        self.body.truncate(FRAME_HEAD);
        self.raw_pages = 0;
        self.open = None;
        sent
    }
}

/// What a batch says about a run of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Their bytes, in [`Batch::bytes`].
    Bytes(Range<usize>),
    Zero,
    Unreadable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub pid: i32,
    pub address: u64,
    pub pages: u32,
    pub content: Content,
}

/// What the source answered, checked.
#[derive(Debug)]
pub(super) struct Batch {
    pub bytes: Vec<u8>,
    pub entries: Vec<Entry>,
    /// As it came over the wire.
    pub wire_bytes: u64,
}

/// Takes batches apart; one for each connection.
pub(super) struct Unbatcher {
    /// The latest raw pages; each takes the place of the one [`REPEATS_MAX`] before it.
    kept: Vec<[u8; PAGE_BYTES]>,
    received: usize,
}

impl Unbatcher {
    pub fn new() -> Self {
        Self { kept: Vec::with_capacity(REPEATS_MAX), received: 0 }
    }

    /// Reads the next batch.
    pub fn read(&mut self, stream: &mut impl Read) -> Result<Batch, WireError> {
        let frame = Frame::read(stream, BODY_MAX, Vec::new())?;
        if !frame.proved_by(&blake3::hash(&frame.body)) {
            return Err(WireError::Damaged);
        }
        self.parse(frame.body, frame.wire_bytes)
    }

    fn parse(&mut self, mut bytes: Vec<u8>, wire_bytes: u64) -> Result<Batch, WireError> {
        let (mut at, end, mut entries, mut repeats) = (0, bytes.len(), Vec::new(), 0);
        while at < end {
            let mut head = bytes.get(at..end).unwrap_or_default();
            let short = |_| WireError::Broken("an entry that ends early");
            let [kind] = array(&mut head).map_err(short)?;
            let pid = i32::from_le_bytes(array(&mut head).map_err(short)?);
            let address = u64::from_le_bytes(array(&mut head).map_err(short)?);
            let number = u32::from_le_bytes(array(&mut head).map_err(short)?);
            at += ENTRY_HEAD;
            let pages = if kind == 3 { 1 } else { number };
            checked(address, pages)?;
            let content = match kind {
                1 => {
                    let range = at..at + pages as usize * PAGE_BYTES;
                    let raw = bytes.get(range.clone()).filter(|_| range.end <= end);
                    self.keep(raw.ok_or(WireError::Broken("an entry that ends early"))?);
                    at = range.end;
                    Content::Bytes(range)
                }
                2 => Content::Zero,
                3 => {
                    repeats += 1;
                    if repeats > BATCH_PAGES_MAX {
                        return Err(WireError::Broken("more pages than a batch may have"));
                    }
                    let start = bytes.len();
                    bytes.extend(self.kept(number).ok_or(WireError::Broken("a repeat of a page that was not sent"))?);
                    Content::Bytes(start..bytes.len())
                }
                4 => Content::Unreadable,
                _ => return Err(WireError::Broken("an entry of an unknown kind")),
            };
            entries.push(Entry { pid, address, pages, content });
        }
        Ok(Batch { bytes, entries, wire_bytes })
    }

    fn keep(&mut self, pages: &[u8]) {
        for page in pages.as_chunks::<PAGE_BYTES>().0 {
            match self.kept.get_mut(self.received % REPEATS_MAX) {
                Some(place) => *place = *page,
                None => self.kept.push(*page),
            }
            self.received += 1;
        }
    }

    fn kept(&self, back: u32) -> Option<&[u8; PAGE_BYTES]> {
        let back = usize::try_from(back).ok().filter(|back| (1..=REPEATS_MAX).contains(back))?;
        self.kept.get(self.received.checked_sub(back)? % REPEATS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(seed: u64, pages: usize) -> Vec<u8> {
        let mut x = seed * 2 + 1;
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 56) as u8
        };
        (0..pages * PAGE_BYTES).map(|_| next()).collect()
    }

    fn through(batcher: &mut Batcher, unbatcher: &mut Unbatcher) -> Batch {
        batcher.finish(|mut frame| Ok(unbatcher.read(&mut frame).unwrap())).unwrap()
    }

    fn pages(batch: &Batch) -> Vec<(i32, u64, Vec<u8>)> {
        let page = |entry: &Entry, index: u64| match &entry.content {
            Content::Bytes(range) => batch.bytes[range.clone()][super::super::bytes(index)..][..PAGE_BYTES].to_vec(),
            Content::Zero => vec![0; PAGE_BYTES],
            Content::Unreadable => Vec::new(),
        };
        let all = |entry: &Entry| -> Vec<_> {
            let each = |index| (entry.pid, entry.address + index * PAGE, page(entry, index));
            (0..u64::from(entry.pages)).map(each).collect()
        };
        batch.entries.iter().flat_map(all).collect()
    }

    #[test]
    fn pages_arrive_as_they_were_sent_in_few_entries() {
        let (mut batcher, mut unbatcher) = (Batcher::new().unwrap(), Unbatcher::new());
        let mut sent = content(1, 3);
        sent.extend([0; 2 * PAGE_BYTES]);
        sent.extend(&content(1, 1));
        batcher.pages(9, 0x7000, &sent);
        batcher.unreadable(9, 0x1_0000, 2);
        let batch = through(&mut batcher, &mut unbatcher);
        assert_eq!(batch.entries.iter().map(|entry| entry.pages).collect::<Vec<_>>(), [3, 2, 1, 2]);
        let arrived = pages(&batch);
        for (index, page) in sent.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
            assert_eq!(arrived[index], (9, 0x7000 + index as u64 * PAGE, page.to_vec()));
        }
    }

    #[test]
    fn a_page_repeats_until_it_is_forgotten() {
        let (mut batcher, mut unbatcher) = (Batcher::new().unwrap(), Unbatcher::new());
        for number in 0..REPEATS_MAX as u64 + 5 {
            batcher.pages(1, 0x1000, &content(number, 1));
            through(&mut batcher, &mut unbatcher);
        }
        for (number, kept) in [(4, false), (7, true), (REPEATS_MAX as u64, true)] {
            batcher.pages(1, 0x1000, &content(number, 1));
            let batch = through(&mut batcher, &mut unbatcher);
            assert_eq!(pages(&batch)[0].2, content(number, 1));
            assert_eq!(batch.wire_bytes < 100, kept);
        }
    }

    #[test]
    fn what_compresses_travels_small_and_what_does_not_travels_plain() {
        let (mut batcher, mut unbatcher) = (Batcher::new().unwrap(), Unbatcher::new());
        let text: Vec<u8> = (0..8 * PAGE_BYTES).map(|i| b"some text, again "[i % 17]).collect();
        batcher.pages(1, 0x1000, &text);
        assert!(through(&mut batcher, &mut unbatcher).wire_bytes < 1000);
        batcher.pages(1, 0x1000, &content(5, 8));
        assert_eq!(through(&mut batcher, &mut unbatcher).wire_bytes, 41 + 17 + 8 * PAGE);
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        let requests = [
            Request::Fault { pid: 1, address: 0x1000 },
            Request::Hurry { pid: -1, address: ADDRESS_END - PAGE },
            Request::Push { pid: 7, address: 0x2000, pages: u64::from(RUN_MAX) },
            Request::Done,
        ];
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.encode(&mut bytes));
        let mut stream = &bytes[..];
        assert!(requests.iter().all(|request| Request::read(&mut stream).unwrap() == *request));
        assert!(stream.is_empty());
    }

    #[test]
    fn a_changed_byte_is_found_out() {
        let mut batcher = Batcher::new().unwrap();
        batcher.pages(1, 0x1000, &content(1, 1));
        let frame = batcher.finish(|frame| Ok(frame.to_vec())).unwrap();
        for at in [0, 1, 5, 9, 41, 60, frame.len() - 1] {
            let mut damaged = frame.clone();
            damaged[at] ^= 4;
            assert!(Unbatcher::new().read(&mut &damaged[..]).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::read(&mut &bytes[..]);
            let _ = Unbatcher::new().read(&mut &bytes[..]);
            // As a source that lies might: a right hash over any body.
            let _ = Unbatcher::new().parse(bytes, 0);
        }
    }
}
