//! Pages that are here before the process is: what pre-copy brought.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{PAGE, PAGE_BYTES};

/// Pages of frozen tasks that the target has already, by the task's pid in the images and the address that they had.
///
/// It must have only pages whose content is what they had when the task was frozen.
pub trait Store: Send {
    /// Address ranges of the task's pages that it has: aligned to pages.
    fn ranges(&self, pid: i32) -> Vec<Range<u64>>;

    /// Fills `into`, a whole number of pages inside one of its ranges, with the pages from `address` on.
    ///
    /// # Errors
    /// When a page cannot be had after all, or is damaged: it is asked from the source then.
    fn read(&self, pid: i32, address: u64, into: &mut [u8]) -> io::Result<()>;

    /// Whether these pages, inside one of its ranges, are known to hold zeros: they take no memory then.
    fn zeros(&self, _pid: i32, _address: u64, _pages: u64) -> bool {
        false
    }
}

/// Pages by content, in memory: equal pages take place once.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    pages: BTreeMap<(i32, u64), blake3::Hash>,
    contents: HashMap<blake3::Hash, Arc<[u8; PAGE_BYTES]>>,
}

impl MemoryStore {
    /// Keeps a page of a task, in place of an earlier content of it.
    pub fn insert(&mut self, pid: i32, address: u64, content: &[u8; PAGE_BYTES]) {
        let hash = blake3::hash(content);
        self.contents.entry(hash).or_insert_with(|| Arc::new(*content));
        self.pages.insert((pid, address), hash);
    }

    /// Forgets a page: its task has written it since.
    pub fn remove(&mut self, pid: i32, address: u64) {
        self.pages.remove(&(pid, address));
    }
}

impl Store for MemoryStore {
    fn ranges(&self, pid: i32) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for &(_, address) in self.pages.range((pid, 0)..=(pid, u64::MAX)).map(|(page, _)| page) {
            match ranges.last_mut() {
                Some(range) if range.end == address => range.end += PAGE,
                _ => ranges.push(address..address + PAGE),
            }
        }
        ranges
    }

    fn read(&self, pid: i32, address: u64, into: &mut [u8]) -> io::Result<()> {
        for (index, page) in into.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
            let at = (pid, address + index as u64 * PAGE);
            let content = self.pages.get(&at).and_then(|hash| self.contents.get(hash));
            *page = **content.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow_one_another_are_one_range_of_their_task() {
        let mut store = MemoryStore::default();
        for (pid, page) in [(1, 5_u8), (1, 6), (1, 9), (2, 7)] {
            store.insert(pid, u64::from(page) * PAGE, &[page; PAGE_BYTES]);
        }
        store.remove(1, 9 * PAGE);
        assert_eq!(store.ranges(1), vec![5 * PAGE..7 * PAGE]);
        let mut both = vec![0; 2 * PAGE_BYTES];
        store.read(1, 5 * PAGE, &mut both).unwrap();
        assert_eq!((both[0], both[2 * PAGE_BYTES - 1]), (5, 6));
        assert!(store.read(1, 9 * PAGE, &mut [0; PAGE_BYTES]).is_err());
    }
}
