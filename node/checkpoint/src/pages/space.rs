//! Which pages of one address space are missing, where they lie now, and which of them to ask for next.
//!
//! A page has two addresses: its *image* address, where it lay when the process was frozen and by which the source knows
//! it, and its *current* one, which changes when the process moves a mapping.
//!
//! Invariant: knows nothing of descriptors, sockets or clocks.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::PAGE;
use super::image::LazyRun;

/// Around a fault: programs read on more often than back.
const AHEAD: u64 = 64 * PAGE;
const BEHIND: u64 = 16 * PAGE;
/// Faults whose neighbourhood is still to be asked for. Older ones are forgotten: the walk by address finds those pages.
const HOT_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// At the source.
    Missing,
    /// In the local store.
    Stored,
    /// Asked for in a push.
    Pushed,
    /// Asked for by a fault.
    Faulted,
    /// In the process.
    Present,
}

/// What to do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No page of ours lies there: the process had none either, so it reads zeros.
    Zero,
    /// The page is there already.
    Wake,
    /// The local store has the page with this image address.
    Store(u64),
    /// Ask the source for the page with this image address.
    Ask(u64),
    /// It is asked for in a push: have it sent before its turn.
    Hurry(u64),
    /// It was asked for already.
    Wait,
}

/// A run of pages that follow one another in both addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub current: u64,
    pub image: u64,
    pub pages: u64,
}

#[derive(Debug, Clone)]
struct Segment {
    image: u64,
    pages: Vec<Page>,
}

impl Segment {
    fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }
}

/// The pages of one address space that were missing at first.
#[derive(Debug, Clone)]
pub(super) struct Space {
    /// By current address; they do not overlap.
    segments: BTreeMap<u64, Segment>,
    /// Image address of each segment, to its current one.
    current: BTreeMap<u64, u64>,
    missing: u64,
    hot: VecDeque<Range<u64>>,
    /// Where the walk by address goes on: for what is asked for, and for what the store has.
    push_from: u64,
    store_from: u64,
}

impl Space {
    /// `stored` are the image addresses of the pages that the local store has.
    pub fn new(runs: &[LazyRun], stored: &[Range<u64>]) -> Self {
        let mut space = Self {
            segments: BTreeMap::new(),
            current: BTreeMap::new(),
            missing: 0,
            hot: VecDeque::new(),
            push_from: 0,
            store_from: 0,
        };
        for run in runs {
            let pages = vec![Page::Missing; index(run.pages * PAGE)];
            space.insert(run.address, Segment { image: run.address, pages });
        }
        for range in stored {
            space.mark(range.clone(), |page| if page == Page::Missing { Page::Stored } else { page });
        }
        space
    }

    /// Pages that are not in the process yet.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// A thread waits for the page at the current address `address`.
    pub fn fault(&mut self, address: u64) -> Fault {
        let Some((image, page)) = self.page_mut(address) else { return Fault::Zero };
        let answer = match *page {
            Page::Missing => Fault::Ask(image),
            Page::Pushed => Fault::Hurry(image),
            Page::Stored => Fault::Store(image),
            Page::Faulted => return Fault::Wait,
            Page::Present => return Fault::Wake,
        };
        if matches!(answer, Fault::Ask(_) | Fault::Hurry(_)) {
            *page = Page::Faulted;
            self.hot.push_front(address.saturating_sub(BEHIND)..address);
            self.hot.push_front(address + PAGE..address + PAGE + AHEAD);
            self.hot.truncate(HOT_MAX);
        }
        answer
    }

    /// The next run to ask for, at most `most` pages: around the latest faults first, then by address.
    pub fn next_push(&mut self, most: u64) -> Option<Run> {
        while let Some(window) = self.hot.front().cloned() {
            match self.find(window, Page::Missing, most) {
                Some(run) => return Some(self.asked(run)),
                None => drop(self.hot.pop_front()),
            }
        }
        let run = self.walk(self.push_from, Page::Missing, most)?;
        self.push_from = run.current + run.pages * PAGE;
        Some(self.asked(run))
    }

    fn asked(&mut self, run: Run) -> Run {
        self.mark(run.image..run.image + run.pages * PAGE, |_| Page::Pushed);
        run
    }

    /// The next run that the store has, at most `most` pages. It is given again until it is present.
    pub fn next_stored(&mut self, most: u64) -> Option<Run> {
        let run = self.walk(self.store_from, Page::Stored, most)?;
        self.store_from = run.current;
        Some(run)
    }

    /// Where the pages of an image range lie now that are still missing, in runs.
    pub fn locate(&self, image: u64, pages: u64) -> Vec<Run> {
        let range = image..image + pages * PAGE;
        let mut runs: Vec<Run> = Vec::new();
        for (current, segment, part) in self.overlapping(range) {
            for position in index(part.start - segment.image)..index(part.end - segment.image) {
                if segment.pages[position] == Page::Present {
                    continue;
                }
                let offset = position as u64 * PAGE;
                match runs.last_mut() {
                    Some(run)
                        if run.current + run.pages * PAGE == current + offset
                            && run.image + run.pages * PAGE == segment.image + offset =>
                    {
                        run.pages += 1;
                    }
                    _ => runs.push(Run { current: current + offset, image: segment.image + offset, pages: 1 }),
                }
            }
        }
        runs
    }

    /// These pages, by image address, are in the process now.
    pub fn present(&mut self, image: u64, pages: u64) {
        self.mark(image..image + pages * PAGE, |_| Page::Present);
    }

    /// The store turned out not to have these pages: the source has.
    pub fn not_stored(&mut self, image: u64, pages: u64) {
        self.mark(image..image + pages * PAGE, |page| if page == Page::Stored { Page::Missing } else { page });
        self.push_from = 0;
    }

    /// There is a new connection, on which nothing was asked for yet.
    pub fn reconnected(&mut self) {
        let asked = |page| if matches!(page, Page::Pushed | Page::Faulted) { Page::Missing } else { page };
        self.mark(0..u64::MAX, asked);
        self.push_from = 0;
    }

    /// The address space of a child that was forked now. What is asked for serves both.
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// The process gave up the pages of a range, or unmapped it: what lies there from now on is not ours.
    pub fn remove(&mut self, range: Range<u64>) {
        self.take(range);
    }

    /// The process moved a mapping.
    pub fn remap(&mut self, from: u64, to: u64, bytes: u64) {
        let (Some(from_end), Some(to_end)) = (from.checked_add(bytes), to.checked_add(bytes)) else { return };
        let moved = self.take(from..from_end);
        // What was mapped there before has ended, whether or not we have heard of it.
        self.take(to..to_end);
        for (current, segment) in moved {
            self.insert(current - from + to, segment);
        }
        (self.push_from, self.store_from) = (0, 0);
    }

    fn insert(&mut self, current: u64, segment: Segment) {
        self.missing += segment.pages.iter().filter(|page| **page != Page::Present).count() as u64;
        self.current.insert(segment.image, current);
        self.segments.insert(current, segment);
    }

    /// Takes out what lies in `range`, cutting the segments at its ends.
    fn take(&mut self, range: Range<u64>) -> Vec<(u64, Segment)> {
        let first = self.segments.range(..=range.start).next_back().map_or(range.start, |(current, _)| *current);
        let touched: Vec<u64> = self
            .segments
            .range(first..range.end.max(first))
            .filter(|(current, segment)| **current + segment.bytes() > range.start)
            .map(|(current, _)| *current)
            .collect();
        let mut taken = Vec::new();
        for current in touched {
            let Some(mut segment) = self.segments.remove(&current) else { continue };
            self.current.remove(&segment.image);
            self.missing -= segment.pages.iter().filter(|page| **page != Page::Present).count() as u64;
            if let Some(after) = range.end.checked_sub(current).filter(|after| *after < segment.bytes()) {
                let pages = segment.pages.split_off(index(after));
                self.insert(range.end, Segment { image: segment.image + after, pages });
            }
            if let Some(before) = range.start.checked_sub(current).filter(|before| *before > 0) {
                let pages = segment.pages.split_off(index(before));
                let image = segment.image + before;
                self.insert(current, segment);
                taken.push((range.start, Segment { image, pages }));
            } else {
                taken.push((current, segment));
            }
        }
        taken
    }

    fn page_mut(&mut self, address: u64) -> Option<(u64, &mut Page)> {
        let (current, segment) = self.segments.range_mut(..=address).next_back()?;
        let offset = address - current;
        let image = segment.image + offset;
        segment.pages.get_mut(index(offset)).map(|page| (image, page))
    }

    /// The segments that hold pages of an image range, and the part of it that each holds.
    fn overlapping(&self, image: Range<u64>) -> impl Iterator<Item = (u64, &Segment, Range<u64>)> {
        let first = self.current.range(..=image.start).next_back().map_or(image.start, |(first, _)| *first);
        self.current.range(first..image.end.max(first)).filter_map(move |(_, current)| {
            let segment = self.segments.get(current)?;
            let part = image.start.max(segment.image)..image.end.min(segment.image + segment.bytes());
            (!part.is_empty()).then_some((*current, segment, part))
        })
    }

    fn mark(&mut self, image: Range<u64>, next: impl Fn(Page) -> Page) {
        let parts: Vec<_> = self.overlapping(image).map(|(current, _, part)| (current, part)).collect();
        for (current, part) in parts {
            let Some(segment) = self.segments.get_mut(&current) else { continue };
            for page in &mut segment.pages[index(part.start - segment.image)..index(part.end - segment.image)] {
                let then = next(*page);
                match (*page == Page::Present, then == Page::Present) {
                    (false, true) => self.missing -= 1,
                    // What is present stays so: a page that is missing again would be filled with what it was.
                    (true, _) => continue,
                    (false, false) => {}
                }
                *page = then;
            }
        }
    }

    /// The first run of pages in state `wanted` from `start` on, going round once.
    fn walk(&self, start: u64, wanted: Page, most: u64) -> Option<Run> {
        if self.missing == 0 {
            return None;
        }
        self.find(start..u64::MAX, wanted, most).or_else(|| self.find(0..start, wanted, most))
    }

    fn find(&self, window: Range<u64>, wanted: Page, most: u64) -> Option<Run> {
        let first = self.segments.range(..=window.start).next_back().map_or(window.start, |(current, _)| *current);
        self.segments.range(first..window.end.max(first)).find_map(|(current, segment)| {
            let from = index(window.start.saturating_sub(*current)).min(segment.pages.len());
            let to = index(window.end.saturating_sub(*current)).min(segment.pages.len());
            let start = from + segment.pages.get(from..to)?.iter().position(|page| *page == wanted)?;
            let limit = to.min(start.saturating_add(index(most.saturating_mul(PAGE))));
            let pages = segment.pages[start..limit].iter().take_while(|page| **page == wanted).count() as u64;
            let offset = start as u64 * PAGE;
            Some(Run { current: current + offset, image: segment.image + offset, pages })
        })
    }
}

/// A page's place in a segment. Segments hold what [`super::image`] lets through, far below what `usize` counts.
fn index(offset: u64) -> usize {
    usize::try_from(offset / PAGE).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn space(runs: &[(u64, u64)]) -> Space {
        let runs: Vec<_> = runs.iter().map(|&(page, pages)| LazyRun { address: page * PAGE, pages }).collect();
        Space::new(&runs, &[])
    }

    fn run(current: u64, image: u64, pages: u64) -> Run {
        Run { current: current * PAGE, image: image * PAGE, pages }
    }

    #[test]
    fn pushes_follow_the_latest_fault_then_the_addresses() {
        let mut space = space(&[(0x100, 0x200)]);
        assert_eq!(space.fault(0x200 * PAGE), Fault::Ask(0x200 * PAGE));
        assert_eq!(space.next_push(32), Some(run(0x201, 0x201, 32)));
        assert_eq!(space.next_push(64), Some(run(0x221, 0x221, 32)));
        assert_eq!(space.next_push(64), Some(run(0x1f0, 0x1f0, 16)));
        assert_eq!(space.next_push(64), Some(run(0x100, 0x100, 64)));
        assert_eq!(space.fault(0x100 * PAGE), Fault::Hurry(0x100 * PAGE));
        assert_eq!(space.fault(0x100 * PAGE), Fault::Wait);
    }

    #[test]
    fn a_moved_page_is_found_by_its_image_address() {
        let mut space = space(&[(0x100, 8)]);
        space.remap(0x102 * PAGE, 0x500 * PAGE, 4 * PAGE);
        assert_eq!(space.locate(0x100 * PAGE, 8), [run(0x100, 0x100, 2), run(0x500, 0x102, 4), run(0x106, 0x106, 2)]);
        assert_eq!(space.fault(0x102 * PAGE), Fault::Zero);
        assert_eq!(space.fault(0x503 * PAGE), Fault::Ask(0x105 * PAGE));
        space.present(0x105 * PAGE, 1);
        assert_eq!((space.fault(0x503 * PAGE), space.missing()), (Fault::Wake, 7));
    }

    #[test]
    fn what_was_asked_for_is_missing_again_when_the_connection_is_lost() {
        let mut space = space(&[(0x100, 4)]);
        space.fault(0x101 * PAGE);
        while space.next_push(8).is_some() {}
        space.reconnected();
        assert_eq!(space.fault(0x101 * PAGE), Fault::Ask(0x101 * PAGE));
        assert_eq!(space.next_push(8), Some(run(0x102, 0x102, 2)));
        assert_eq!(space.next_push(8), Some(run(0x100, 0x100, 1)));
    }

    #[test]
    fn pages_of_the_store_are_not_asked_for() {
        let runs = [LazyRun { address: 0x100 * PAGE, pages: 8 }];
        let mut space = Space::new(&runs, std::slice::from_ref(&(0x100 * PAGE..0x106 * PAGE)));
        assert_eq!(space.next_push(64), Some(run(0x106, 0x106, 2)));
        assert_eq!(space.next_stored(4), Some(run(0x100, 0x100, 4)));
        space.not_stored(0x100 * PAGE, 1);
        assert_eq!(space.next_stored(4), Some(run(0x101, 0x101, 4)));
        assert_eq!(space.next_push(64), Some(run(0x100, 0x100, 1)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Fault(u64),
        Push(u64),
        Present(u64, u64),
        Remove(u64, u64),
        Remap(u64, u64, u64),
        Reconnect,
        Fork,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let page = || 0_u64..64;
        let step = prop_oneof![
            page().prop_map(Step::Fault),
            (1_u64..20).prop_map(Step::Push),
            (page(), 1_u64..9).prop_map(|(a, n)| Step::Present(a, n)),
            (page(), 1_u64..9).prop_map(|(a, n)| Step::Remove(a, n)),
            (page(), 64_u64..128, 1_u64..9).prop_map(|(a, b, n)| Step::Remap(a, b, n)),
            Just(Step::Reconnect),
            Just(Step::Fork),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// The model is one entry a page: current address to image address, and whether it is present.
        #[test]
        fn every_page_is_where_a_page_by_page_model_has_it(steps in steps()) {
            let mut space = space(&[(2, 20), (22, 10), (40, 24)]);
            let mut model: BTreeMap<u64, (u64, bool)> =
                (2..32).chain(40..64).map(|page| (page, (page, false))).collect();
            for step in steps {
                match step {
                    Step::Fault(page) => {
                        let fault = space.fault(page * PAGE);
                        let expected = match model.get(&page) {
                            None => fault == Fault::Zero,
                            Some((_, true)) => fault == Fault::Wake,
                            Some((image, false)) => {
                                fault == Fault::Wait
                                    || fault == Fault::Ask(image * PAGE)
                                    || fault == Fault::Hurry(image * PAGE)
                            }
                        };
                        prop_assert!(expected);
                    }
                    Step::Push(most) => if let Some(run) = space.next_push(most) {
                        prop_assert!(run.pages <= most);
                        for page in 0..run.pages {
                            let expected = (run.image / PAGE + page, false);
                            prop_assert_eq!(model.get(&(run.current / PAGE + page)), Some(&expected));
                        }
                    },
                    Step::Present(image, pages) => {
                        space.present(image * PAGE, pages);
                        for (at, present) in model.values_mut() {
                            *present |= (image..image + pages).contains(at);
                        }
                    }
                    Step::Remove(page, pages) => {
                        space.remove(page * PAGE..(page + pages) * PAGE);
                        model.retain(|at, _| !(page..page + pages).contains(at));
                    }
                    Step::Remap(from, to, pages) => {
                        space.remap(from * PAGE, to * PAGE, pages * PAGE);
                        let moved: Vec<_> = (0..pages).map(|page| model.remove(&(from + page))).collect();
                        model.retain(|at, _| !(to..to + pages).contains(at));
                        for (page, content) in moved.into_iter().enumerate() {
                            content.and_then(|content| model.insert(to + page as u64, content));
                        }
                    }
                    Step::Reconnect => space.reconnected(),
                    Step::Fork => space = space.fork(),
                }
                let missing = model.values().filter(|(_, present)| !present).count() as u64;
                prop_assert_eq!(space.missing(), missing);
            }
            while space.next_push(7).is_some() {}
            for run in space.locate(0, 256) {
                for page in 0..run.pages {
                    let expected = (run.image / PAGE + page, false);
                    prop_assert_eq!(model.remove(&(run.current / PAGE + page)), Some(expected));
                }
            }
            prop_assert!(model.values().all(|(_, present)| *present));
        }
    }
}
