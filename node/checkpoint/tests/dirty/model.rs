//! What a receiver has of a process's memory, and whether it is what the process has.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use godwit_checkpoint::dirty::{PAGE, Round};

const CHUNK: usize = 1 << 20;

/// Pages by address, as hashes of their content.
#[derive(Default)]
pub struct Model {
    pages: BTreeMap<u64, blake3::Hash>,
}

impl Model {
    /// Follows a round, reading through `read` what it tells to copy.
    pub fn apply(&mut self, round: &Round, mut read: impl FnMut(&[Range<u64>], &mut [u8]) -> Vec<Range<u64>>) {
        for range in round.zeroed.iter().chain(&round.gone) {
            self.pages.retain(|address, _| !range.contains(address));
        }
        let mut buffer = vec![0; CHUNK];
        for range in &round.written {
            for start in range.clone().step_by(CHUNK) {
                let got = read(&[start..range.end.min(start + CHUNK as u64)], &mut buffer);
                let addresses = got.into_iter().flat_map(|range| range.step_by(4096));
                for (address, page) in addresses.zip(buffer.chunks_exact(4096)) {
                    self.pages.insert(address, blake3::hash(page));
                }
            }
        }
    }

    /// Compares with the memory of a stopped process, looked at by other means: `/proc/PID/maps`, `pagemap` and `mem`.
    /// Returns how many pages were compared.
    pub fn compare(&self, pid: i32) -> usize {
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}")).unwrap();
        let (pagemap, mem) = (open("pagemap"), open("mem"));
        let zero = blake3::hash(&[0; 4096]);
        let mut compared = 0;
        let mut wrong = Vec::new();
        for range in private(pid) {
            let mut entries = vec![0; usize::try_from((range.end - range.start) / PAGE * 8).unwrap()];
            pagemap.read_exact_at(&mut entries, range.start / PAGE * 8).unwrap();
            for (address, entry) in range.step_by(4096).zip(entries.chunks_exact(8)) {
                let there = u64::from_ne_bytes(entry.try_into().unwrap()) >> 62 != 0;
                let mut page = [0; 4096];
                if there && mem.read_exact_at(&mut page, address).is_err() {
                    // A guard page.
                    continue;
                }
                compared += usize::from(there);
                if self.pages.get(&address).unwrap_or(&zero) != &blake3::hash(&page) {
                    wrong.push(format!("{address:x} there: {there}, told: {}", self.pages.contains_key(&address)));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {compared} pages of process {pid} differ: {wrong:#?}", wrong.len());
        compared
    }
}

/// Private anonymous mappings.
fn private(pid: i32) -> Vec<Range<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let private = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-')?;
        let named = fields
            .get(5)
            .is_some_and(|name| *name != "[heap]" && !name.starts_with("[stack") && !name.starts_with("[anon"));
        let range = u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap();
        (fields[1].ends_with('p') && fields[4] == "0" && !named).then_some(range)
    };
    maps.lines().filter_map(private).collect()
}
