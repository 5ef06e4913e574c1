//! Pages at the target: each content once, in slots of large pieces of memory.
//!
//! A page of zeros takes no slot, pages that repeat others share theirs. A slot is never written while a page has it, so that
//! sharing is simple.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::known::Place;
use super::outcome::Valid;
use crate::dirty::ranges::{intersect, push};
use crate::pages::{PAGE, PAGE_BYTES, Store};

/// Slots of one piece of memory: 64 MiB, which the kernel gives page by page as it is written.
const PIECE: usize = 16384;
/// Pages of one block of the table.
const BLOCK: usize = 64;
/// What a block costs, with its share of the tree it is in.
const BLOCK_BYTES: u64 = 512;

/// What a page is.
type Slot = u32;
const ABSENT: Slot = 0;
const ZERO: Slot = 1;
/// Slots are counted from here.
const FIRST: Slot = 2;

/// The pages of a container's tasks. After [`super::Receiver::finish`] it is a [`Store`] of those that are what the frozen
/// tasks have.
#[derive(Debug, Default)]
pub struct Arena {
    most: u64,
    tasks: BTreeMap<i32, BTreeMap<u64, Box<[Slot; BLOCK]>>>,
    blocks: u64,
    pieces: Vec<Vec<u8>>,
    /// How many pages have each slot.
    users: Vec<u32>,
    free: Vec<Slot>,
}

impl Arena {
    /// An arena that takes at most so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { most, ..Self::default() }
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn held(&self) -> u64 {
        (self.users.len() - self.free.len()) as u64 * PAGE + self.blocks * BLOCK_BYTES
    }

    /// Keeps a page. Without room for it, it is not there.
    pub(super) fn put(&mut self, place: Place, content: &[u8; PAGE_BYTES]) {
        self.set(place, ABSENT);
        if let Some(slot) = self.take_slot() {
            let (piece, at) = position(slot);
            self.pieces[piece][at..at + PAGE_BYTES].copy_from_slice(content);
            self.set(place, slot);
            self.release_unused(slot);
        }
    }

    pub(super) fn put_zeros(&mut self, place: Place) {
        self.set(place, ZERO);
    }

    /// The page has what another one has, or neither is there.
    pub(super) fn repeat(&mut self, place: Place, other: Place) {
        self.set(place, self.slot(other));
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.set(place, ABSENT);
    }

    /// Keeps only what is valid.
    pub(super) fn keep(&mut self, valid: &Valid) {
        let all: Vec<i32> = self.tasks.keys().copied().collect();
        for pid in all {
            let keep = valid.get(&pid).map_or(&[][..], Vec::as_slice);
            let lost = crate::dirty::ranges::subtract(&self.ranges(pid), keep);
            for address in lost.into_iter().flat_map(|range| range.step_by(PAGE_BYTES)) {
                self.remove((pid, address));
            }
        }
        debug_assert!(self.tasks.keys().all(|pid| {
            let kept = self.ranges(*pid);
            intersect(&kept, valid.get(pid).map_or(&[][..], Vec::as_slice)) == kept
        }));
    }

    fn slot(&self, (pid, address): Place) -> Slot {
        let (block, index) = entry(address);
        self.tasks.get(&pid).and_then(|blocks| blocks.get(&block)).map_or(ABSENT, |block| block[index])
    }

    fn set(&mut self, (pid, address): Place, slot: Slot) {
        let (number, index) = entry(address);
        let room = self.held() + BLOCK_BYTES <= self.most;
        let blocks = self.tasks.get_mut(&pid);
        let block = match blocks.and_then(|blocks| blocks.get_mut(&number)) {
            Some(block) => block,
            None if slot == ABSENT || !room => return,
            None => {
                self.blocks += 1;
                let blocks = self.tasks.entry(pid).or_default();
                blocks.entry(number).or_insert_with(|| Box::new([ABSENT; BLOCK]))
            }
        };
        let before = std::mem::replace(&mut block[index], slot);
        if let Some(users) = used(slot).and_then(|slot| self.users.get_mut(slot)) {
            *users += 1;
        }
        if let Some(users) = used(before).and_then(|slot| self.users.get_mut(slot)) {
            *users -= 1;
            self.release_unused(before);
        }
    }

    /// A slot that nothing has; it is to be used at once.
    fn take_slot(&mut self) -> Option<Slot> {
        if self.held() + PAGE > self.most {
            return None;
        }
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = Slot::try_from(self.users.len()).ok()?.checked_add(FIRST)?;
        if self.users.len() == self.pieces.len() * PIECE {
            self.pieces.push(vec![0; PIECE * PAGE_BYTES]);
        }
        self.users.push(0);
        Some(slot)
    }

    fn release_unused(&mut self, slot: Slot) {
        if used(slot).and_then(|slot| self.users.get(slot)) == Some(&0) {
            self.free.push(slot);
        }
    }

    fn page(&self, place: Place) -> Option<&[u8; PAGE_BYTES]> {
        match self.slot(place) {
            ABSENT => None,
            ZERO => Some(&[0; PAGE_BYTES]),
            slot => {
                let (piece, at) = position(slot);
                self.pieces.get(piece)?.get(at..)?.first_chunk()
            }
        }
    }
}

impl Store for Arena {
    fn ranges(&self, pid: i32) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for (number, block) in self.tasks.get(&pid).into_iter().flatten() {
            for (index, _) in block.iter().enumerate().filter(|(_, slot)| **slot != ABSENT) {
                let address = (number * BLOCK as u64 + index as u64) * PAGE;
                push(&mut ranges, address..address + PAGE);
            }
        }
        ranges
    }

    fn read(&self, pid: i32, address: u64, into: &mut [u8]) -> io::Result<()> {
        for (index, page) in into.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
            let place = (pid, address + index as u64 * PAGE);
            *page = *self.page(place).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(())
    }

    fn zeros(&self, pid: i32, address: u64, pages: u64) -> bool {
        (0..pages).all(|index| self.slot((pid, address + index * PAGE)) == ZERO)
    }
}

/// A page's block, and its place in there.
fn entry(address: u64) -> (u64, usize) {
    let page = address / PAGE;
    (page / BLOCK as u64, usize::try_from(page % BLOCK as u64).unwrap_or_default())
}

/// The index of a slot that holds a page.
fn used(slot: Slot) -> Option<usize> {
    slot.checked_sub(FIRST).map(|slot| slot as usize)
}

fn position(slot: Slot) -> (usize, usize) {
    let slot = used(slot).unwrap_or_default();
    (slot / PIECE, slot % PIECE * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(Place, u8),
        Zeros(Place),
        Repeat(Place, Place),
        Remove(Place),
    }

    fn place() -> impl Strategy<Value = Place> {
        (1..3, 0..100_u64).prop_map(|(pid, page)| (pid, page * PAGE))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (place(), any::<u8>()).prop_map(|(place, value)| Step::Put(place, value)),
            place().prop_map(Step::Zeros),
            (place(), place()).prop_map(|(place, other)| Step::Repeat(place, other)),
            place().prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn pages_are_what_was_put_there_last(steps in prop::collection::vec(step(), 0..300)) {
            let (mut arena, mut model) = (Arena::new(u64::MAX), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(place, value) => {
                        arena.put(place, &[value; PAGE_BYTES]);
                        model.insert(place, value);
                    }
                    Step::Zeros(place) => {
                        arena.put_zeros(place);
                        model.insert(place, 0);
                    }
                    Step::Repeat(place, other) => {
                        arena.repeat(place, other);
                        match model.get(&other).copied() {
                            Some(value) => model.insert(place, value),
                            None => model.remove(&place),
                        };
                    }
                    Step::Remove(place) => {
                        arena.remove(place);
                        model.remove(&place);
                    }
                }
            }
            for pid in 1..3 {
                let pages: Vec<_> = arena.ranges(pid).into_iter().flat_map(|range| range.step_by(PAGE_BYTES)).collect();
                prop_assert!(pages.iter().copied().eq(model.keys().filter(|place| place.0 == pid).map(|place| place.1)));
            }
            for ((pid, address), value) in &model {
                let mut page = [1; PAGE_BYTES];
                arena.read(*pid, *address, &mut page).unwrap();
                prop_assert_eq!(page, [*value; PAGE_BYTES]);
            }
            let blocks = arena.tasks.values().flat_map(BTreeMap::values);
            let slots: BTreeSet<_> = blocks.flat_map(|block| block.iter()).filter_map(|slot| used(*slot)).collect();
            prop_assert_eq!(slots.len(), arena.users.len() - arena.free.len());
        }
    }

    #[test]
    fn no_more_is_held_than_allowed() {
        let most = 10 * PAGE + 2 * BLOCK_BYTES;
        let mut arena = Arena::new(most);
        for page in 0..1000 {
            arena.put((1, page * PAGE), &[3; PAGE_BYTES]);
            arena.put_zeros((2, page * 100 * PAGE));
            assert!(arena.held() <= most);
        }
        assert!(arena.ranges(1).len() == 1 && arena.ranges(2).len() < 10);
        arena.put((1, 0), &[4; PAGE_BYTES]);
        assert!(!arena.ranges(1).is_empty(), "a page that is replaced gives its room");
    }

    #[test]
    fn what_is_not_valid_is_not_kept() {
        let mut arena = Arena::new(u64::MAX);
        (0..100).for_each(|page| arena.put((1, page * PAGE), &[3; PAGE_BYTES]));
        arena.put((2, 0), &[3; PAGE_BYTES]);
        arena.keep(&Valid::from([(1, vec![5 * PAGE..7 * PAGE, 99 * PAGE..200 * PAGE])]));
        assert_eq!(arena.ranges(1), [5 * PAGE..7 * PAGE, 99 * PAGE..100 * PAGE]);
        assert_eq!((arena.ranges(2), arena.users.len() - arena.free.len()), (vec![], 3));
    }
}
