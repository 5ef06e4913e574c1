//! What a run is made of: everything that is drawn comes from its seed.

use std::ops::Range;

use godwit_protocol::Millis;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Draws everything.
    pub seed: u64,
    /// How many sites.
    pub sites: usize,
    /// How many containers.
    pub containers: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// How long operators, clients and faults are at it.
    pub active: Millis,
    /// How long all is quiet and whole afterwards; by then everything must have settled.
    pub settle: Millis,
}

/// Chances in ten thousand, each for one occasion of its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A site's process dies before it performs an effect.
    pub crash: u32,
    /// A direct word, a record or a replica's message is lost.
    pub loss: u32,
    /// It arrives twice.
    pub twice: u32,
    /// It takes seconds.
    pub late: u32,
    /// A task fails.
    pub task: u32,
    /// A task takes ten times as long.
    pub slow: u32,
    /// Each second: a site is cut off, in both directions or in one.
    pub cut: u32,
    /// Each second: the sites are parted into two sides, of which perhaps neither has a quorum.
    pub split: u32,
    /// How far clocks are off, in ms either way.
    pub skew: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { crash: 0, loss: 0, twice: 0, late: 0, task: 0, slow: 0, cut: 0, split: 0, skew: 0 };

    /// Everything goes wrong now and then.
    pub const ALL: Self =
        Self { crash: 15, loss: 300, twice: 300, late: 300, task: 800, slow: 500, cut: 300, split: 60, skew: 90 };

    /// A mixture of its own for each seed, so that each kind of fault also occurs alone and at its worst.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xfa17);
        let mut some = |most: u32| if dice.chance(5_000) { dice.rate(most) } else { 0 };
        Self {
            crash: some(60),
            loss: some(1_500),
            twice: some(1_500),
            late: some(1_500),
            task: some(3_000),
            slow: some(3_000),
            cut: some(800),
            split: some(300),
            skew: u64::from(some(100)),
        }
    }
}

impl Plan {
    /// Of a seed, with all else at its usual.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, sites: 5, containers: 4, faults, active: Millis(120_000), settle: Millis(400_000) }
    }
}

/// The one source of chance.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// True this often in ten thousand.
    pub fn chance(&mut self, of_ten_thousand: u32) -> bool {
        of_ten_thousand > 0 && self.0.random_range(0..10_000) < of_ten_thousand
    }

    /// From 0 to below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound.max(1))
    }

    /// From 0 to below `bound`.
    fn rate(&mut self, bound: u32) -> u32 {
        self.0.random_range(0..bound.max(1))
    }

    /// A span of time within a range of ms.
    pub fn span(&mut self, range: Range<u64>) -> Millis {
        Millis(self.0.random_range(range))
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("an index")]
    }
}
