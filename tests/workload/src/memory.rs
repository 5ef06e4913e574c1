//! Memory that proves itself: what a page must hold follows from its index and from how often it was rewritten.
//!
//! The pages of a stripe are rewritten in turn, so one counter per stripe says which generation each page must have:
//! a page that a migration brought in an *older* version is as wrong as one full of zeros.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// The granule that CRIU and the kernel's dirty tracking see.
const PAGE_BYTES: u64 = 4096;
pub const PAGES_PER_MB: u64 = 1024 * 1024 / PAGE_BYTES;
const WORDS: usize = 512;

/// Pages under one lock: `verify` holds back the dirtying thread for about 0.1 ms at a time.
const CHUNK_PAGES: usize = 64;

/// How much lost time a dirtying thread makes up for, so that a restored copy does not begin with a burst.
const CATCH_UP_MAX: Duration = Duration::from_millis(10);

/// Page index, generation, then a xorshift sequence seeded by both: does not compress, and no two pages are alike.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u64; WORDS]);

/// A run of pages that one thread rewrites in turn.
struct Stripe {
    first_page: u64,
    pages: u64,
    chunks: Vec<Mutex<&'static mut [Page]>>,
    /// Pages rewritten since the start. Changes only under the lock of the chunk that holds the page in question.
    written: AtomicU64,
}

/// All memory the workload holds on purpose.
pub struct Memory {
    seed: u64,
    stripes: Vec<Stripe>,
}

/// What a walk over all memory found.
#[derive(Debug, PartialEq, Eq)]
pub struct Verification {
    pub pages: u64,
    pub wrong: u64,
    pub first_wrong: Option<u64>,
}

impl Memory {
    /// Allocates and fills `megabytes` (MiB), divided into one stripe for each of `threads`. It is never given back.
    ///
    /// # Errors
    /// When the kernel refuses the memory.
    pub fn new(megabytes: u64, threads: usize, seed: u64) -> anyhow::Result<Self> {
        ensure!(threads > 0, "memory needs at least one thread");
        let pages = usize::try_from(megabytes * PAGES_PER_MB)?;
        let mut all: Vec<Page> = Vec::new();
        all.try_reserve_exact(pages).with_context(|| format!("allocate {megabytes} MB"))?;
        all.extend((0u64..).take(pages).map(|index| Page::filled(seed, index, 0)));

        let mut rest = Vec::leak(all);
        let mut stripes = Vec::with_capacity(threads);
        let mut first_page = 0;
        for left in (1..=threads).rev() {
            let (mine, others) = rest.split_at_mut(rest.len() / left);
            rest = others;
            let pages = mine.len() as u64;
            let chunks = mine.chunks_mut(CHUNK_PAGES).map(Mutex::new).collect();
            stripes.push(Stripe { first_page, pages, chunks, written: AtomicU64::new(0) });
            first_page += pages;
        }
        Ok(Self { seed, stripes })
    }

    /// Pages rewritten since the start.
    pub fn written(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.written.load(Relaxed)).sum()
    }

    /// The highest generation any page has.
    pub fn generation(&self) -> u64 {
        let newest = |stripe: &Stripe| stripe.written.load(Relaxed).div_ceil(stripe.pages.max(1));
        self.stripes.iter().map(newest).max().unwrap_or(0)
    }

    /// Compares every page with what it must hold.
    pub fn verify(&self) -> Verification {
        let mut result = Verification { pages: 0, wrong: 0, first_wrong: None };
        for stripe in &self.stripes {
            let mut local = 0;
            for chunk in &stripe.chunks {
                for page in lock(chunk).iter() {
                    let index = stripe.first_page + local;
                    if !page.holds(self.seed, index, stripe.generation_of(local)) {
                        result.wrong += 1;
                        result.first_wrong.get_or_insert(index);
                    }
                    local += 1;
                }
            }
            result.pages += local;
        }
        result
    }

    /// Rewrites the pages of one stripe in turn, forever, at `pages_per_s`, or slower when the CPU cannot.
    /// Returns at once when there is nothing to do.
    pub fn dirty_forever(&self, stripe: usize, pages_per_s: u64) {
        if pages_per_s == 0 || self.stripes[stripe].pages == 0 {
            return;
        }
        let mut last = Instant::now();
        let mut owed_nanopages = 0;
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let now = Instant::now();
            let elapsed = (now - last).min(CATCH_UP_MAX);
            last = now;
            owed_nanopages += elapsed.as_nanos() * u128::from(pages_per_s);
            while owed_nanopages >= 1_000_000_000 {
                owed_nanopages -= 1_000_000_000;
                self.rewrite_next(stripe);
            }
        }
    }

    /// Gives the stripe's next page its next generation.
    fn rewrite_next(&self, stripe: usize) {
        let stripe = &self.stripes[stripe];
        // Only the stripe's own thread writes: the value cannot change between here and the lock.
        let written = stripe.written.load(Relaxed);
        let local = written % stripe.pages;
        let (chunk, place) = split(local);
        let mut pages = lock(&stripe.chunks[chunk]);
        pages[place].fill(self.seed, stripe.first_page + local, written / stripe.pages + 1);
        stripe.written.store(written + 1, Relaxed);
    }
}

impl Stripe {
    /// How often the page at `local` has been rewritten. Exact while its chunk is locked.
    fn generation_of(&self, local: u64) -> u64 {
        (self.written.load(Relaxed) + self.pages - 1 - local) / self.pages
    }
}

impl Page {
    fn filled(seed: u64, index: u64, generation: u64) -> Self {
        let mut page = Self([0; WORDS]);
        page.fill(seed, index, generation);
        page
    }

    fn fill(&mut self, seed: u64, index: u64, generation: u64) {
        for (word, expected) in self.0.iter_mut().zip(content(seed, index, generation)) {
            *word = expected;
        }
    }

    fn holds(&self, seed: u64, index: u64, generation: u64) -> bool {
        self.0.iter().copied().eq(content(seed, index, generation).take(WORDS))
    }
}

/// The words a page must hold.
fn content(seed: u64, index: u64, generation: u64) -> impl Iterator<Item = u64> {
    let mixed = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut state = mixed | 1; // xorshift never leaves zero
    let noise = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    [index, generation].into_iter().chain(noise)
}

/// Chunk, and place in it, of a stripe's page.
fn split(local: u64) -> (usize, usize) {
    let local = usize::try_from(local).expect("a page that exists has an address");
    (local / CHUNK_PAGES, local % CHUNK_PAGES)
}

fn lock<'a>(chunk: &'a Mutex<&'static mut [Page]>) -> MutexGuard<'a, &'static mut [Page]> {
    chunk.lock().expect("a panic ends the process")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_WRONG: Verification = Verification { pages: 512, wrong: 0, first_wrong: None };

    fn memory() -> Memory {
        Memory::new(2, 3, 42).unwrap()
    }

    /// Page `index` of all memory, as three stripes of 170, 171 and 171 pages hold it.
    fn change(memory: &Memory, index: u64, change: impl FnOnce(&mut Page)) {
        let stripe = memory.stripes.iter().rfind(|stripe| stripe.first_page <= index).unwrap();
        let (chunk, place) = split(index - stripe.first_page);
        change(&mut lock(&stripe.chunks[chunk])[place]);
    }

    #[test]
    fn fresh_and_rewritten_memory_is_right() {
        let memory = memory();
        assert_eq!(memory.verify(), NOTHING_WRONG);
        // More than one round, ending inside a chunk.
        (0..400).for_each(|_| memory.rewrite_next(1));
        (0..7).for_each(|_| memory.rewrite_next(2));
        assert_eq!(memory.verify(), NOTHING_WRONG);
        assert_eq!((memory.written(), memory.generation()), (407, 3));
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        for (index, word) in [(0, 0), (169, 1), (170, 511), (400, 2), (511, 300)] {
            let memory = memory();
            change(&memory, index, |page| page.0[word] ^= 1 << 63);
            assert_eq!(memory.verify(), Verification { pages: 512, wrong: 1, first_wrong: Some(index) });
        }
    }

    #[test]
    fn a_zero_page_a_stale_page_and_a_page_from_elsewhere_are_wrong() {
        let memory = memory();
        let stale = Page::filled(memory.seed, 0, 0);
        let elsewhere = Page::filled(memory.seed, 301, 0);
        memory.rewrite_next(0);
        assert_eq!(memory.verify(), NOTHING_WRONG);
        change(&memory, 0, |page| *page = stale);
        change(&memory, 200, |page| page.0.fill(0));
        change(&memory, 300, |page| *page = elsewhere);
        assert_eq!(memory.verify(), Verification { pages: 512, wrong: 3, first_wrong: Some(0) });
    }

    #[test]
    fn a_lost_rewrite_is_found_in_every_round() {
        let memory = memory();
        (0..171 + 5).for_each(|_| memory.rewrite_next(1));
        let page = 170 + 4;
        change(&memory, page, |p| p.fill(42, page, 1));
        assert_eq!(memory.verify(), Verification { pages: 512, wrong: 1, first_wrong: Some(page) });
    }

    #[test]
    fn two_instances_share_no_page() {
        let (mine, theirs) = (Page::filled(1, 7, 0), Page::filled(2, 7, 0));
        assert!(mine.0[2..].iter().all(|word| !theirs.0.contains(word)));
    }

    #[test]
    fn no_memory_is_right_too() {
        let memory = Memory::new(0, 2, 1).unwrap();
        assert_eq!(memory.verify(), Verification { pages: 0, wrong: 0, first_wrong: None });
        memory.dirty_forever(0, 1000);
        assert_eq!(memory.generation(), 0);
    }
}
