//! What a run is made of: everything that is drawn comes from its seed.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use godwit_protocol::Millis;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::byzantine::Behaviour;

/// The smallest mesh that tolerates a fault.
pub const FEWEST: usize = 4;

/// A run is prolonged to this many times its length, its faults abating, until enough containers were handed over: under the
/// worst faults few are.
pub const PATIENCE: u64 = 12;

/// Handoffs of a run as its seed draws it.
pub const HANDOFFS: u64 = 5;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Draws everything.
    pub seed: u64,
    /// How many sites.
    pub sites: usize,
    /// How many of them are validators at first.
    pub validators: usize,
    /// How many containers.
    pub containers: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// How long everything is on its way, where nothing goes wrong; else some ms, drawn for each.
    pub delay: Option<Millis>,
    /// Which sites lie, and how.
    pub liars: Vec<(usize, Behaviour)>,
    /// How long operators, clients and faults are at it.
    pub active: Millis,
    /// They go on until so many containers were handed over, but no longer than [`PATIENCE`] times as long.
    pub handoffs: u64,
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
    /// A task takes thirty times as long.
    pub slow: u32,
    /// Each second: a site is cut off, in both directions or in one.
    pub cut: u32,
    /// Each second: the sites are parted into two sides, of which perhaps neither has a quorum.
    pub split: u32,
    /// Each second: a site's disk is full for a while.
    pub full: u32,
    /// Each second: a site's host is lost for good, if the mesh can bear it.
    pub lose: u32,
    /// Each second: the validators change.
    pub change: u32,
    /// How far clocks are off, in ms either way.
    pub skew: u32,
    /// A crash comes in the middle of a write: the write-ahead log ends at any byte.
    pub torn: u32,
    /// A link, in one direction, carries little: what is sent waits for what was sent before.
    pub thin: u32,
    /// Each second: a site's clock jumps by seconds, and is set right after a while.
    pub jump: u32,
    /// Each second: a site's operator gives it another key.
    pub rotate: u32,
    /// Each second: a site's ledger is damaged, and its operator has it fetched anew.
    pub rebuild: u32,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        crash: 0,
        loss: 0,
        twice: 0,
        late: 0,
        task: 0,
        slow: 0,
        cut: 0,
        split: 0,
        full: 0,
        lose: 0,
        change: 0,
        skew: 0,
        torn: 0,
        thin: 0,
        jump: 0,
        rotate: 0,
        rebuild: 0,
    };

    /// Everything goes wrong now and then.
    pub const ALL: Self = Self {
        crash: 15,
        loss: 300,
        twice: 300,
        late: 300,
        task: 800,
        slow: 500,
        cut: 300,
        split: 60,
        full: 100,
        lose: 40,
        change: 200,
        skew: 90,
        torn: 5_000,
        thin: 1_000,
        jump: 100,
        rotate: 100,
        rebuild: 60,
    };

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
            full: some(400),
            lose: some(200),
            change: some(800),
            skew: some(100),
            torn: some(10_000),
            thin: some(5_000),
            jump: some(300),
            rotate: some(300),
            rebuild: some(200),
        }
    }

    /// The storm abates a little.
    pub fn ease(&mut self) {
        for (_, chance) in self.named() {
            *chance = *chance * 9 / 10;
        }
    }

    /// Each by the name that the command line knows it by.
    pub fn named(&mut self) -> [(&'static str, &mut u32); 17] {
        [
            ("crash", &mut self.crash),
            ("loss", &mut self.loss),
            ("twice", &mut self.twice),
            ("late", &mut self.late),
            ("task", &mut self.task),
            ("slow", &mut self.slow),
            ("cut", &mut self.cut),
            ("split", &mut self.split),
            ("full", &mut self.full),
            ("lose", &mut self.lose),
            ("change", &mut self.change),
            ("skew", &mut self.skew),
            ("torn", &mut self.torn),
            ("thin", &mut self.thin),
            ("jump", &mut self.jump),
            ("rotate", &mut self.rotate),
            ("rebuild", &mut self.rebuild),
        ]
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults = *self;
        let set: Vec<String> = faults
            .named()
            .into_iter()
            .filter(|(_, chance)| **chance > 0)
            .map(|(name, chance)| format!("{name}={chance}"))
            .collect();
        f.write_str(if set.is_empty() { "none".to_owned() } else { set.join(",") }.as_str())
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::NONE;
        for part in text.split(',').filter(|part| !part.is_empty() && *part != "none") {
            let bad = || format!("`{part}` is not one of crash, loss, ... with its chance in ten thousand: crash=15");
            let (name, chance) = part.split_once('=').ok_or_else(bad)?;
            let chance = chance.parse().ok().filter(|chance| *chance <= 10_000).ok_or_else(bad)?;
            let field = faults.named().into_iter().find(|(known, _)| *known == name);
            *field.ok_or_else(bad)?.1 = chance;
        }
        Ok(faults)
    }
}

impl Plan {
    /// Of a seed, with all else at its usual and nobody lying.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            sites: 5,
            validators: 4,
            containers: 4,
            faults,
            delay: None,
            liars: Vec::new(),
            active: Millis(120_000),
            handoffs: 0,
            settle: Millis(400_000),
        }
    }

    /// Everything as the seed draws it: 4 to 7 sites, of which some may lie.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x9_1a45);
        let sites = FEWEST + dice.index(4);
        let validators = FEWEST + dice.index(sites - FEWEST + 1);
        let containers = 3 + dice.index(4);
        let plan = Self {
            sites,
            validators,
            containers,
            active: Millis(60_000),
            handoffs: HANDOFFS,
            ..Self::new(seed, Faults::drawn(seed))
        };
        if dice.chance(5_000) { plan.with_liars(&mut dice) } else { plan }
    }

    /// Fewer than a third of the validators lie, and any number of the others.
    #[must_use]
    fn with_liars(mut self, dice: &mut Dice) -> Self {
        let most = tolerated(self.validators);
        let mut validators = 0;
        for site in 0..self.sites {
            let votes = site < self.validators;
            if dice.chance(5_000) && (!votes || validators < most) {
                validators += usize::from(votes);
                self.liars.push((site, *dice.pick(Behaviour::ALL)));
            }
        }
        self
    }
}

/// How many of so many validators may be faulty.
#[must_use]
pub const fn tolerated(validators: usize) -> usize {
    validators.saturating_sub(1) / 3
}

/// As arguments of `godwit-sim`, to be run again.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let liars: Vec<String> = self.liars.iter().map(|(site, lie)| format!("{}@{site}", lie.name())).collect();
        let liars = if liars.is_empty() { "none".to_owned() } else { liars.join(",") };
        write!(
            f,
            "--seed {} --sites {} --validators {} --containers {} --seconds {} --handoffs {} --faults {} --liars {liars}{}",
            self.seed,
            self.sites,
            self.validators,
            self.containers,
            self.active.0 / 1_000,
            self.handoffs,
            self.faults,
            self.delay.map_or_else(String::new, |delay| format!(" --delay {}", delay.0)),
        )
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

    /// From 0 to below `bound`; 0 for a bound of 0.
    pub fn index(&mut self, bound: usize) -> usize {
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
        &of[self.index(of.len())]
    }

    /// Bytes that nobody can guess.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_printed() {
        for faults in [Faults::NONE, Faults::ALL, Faults::drawn(7), Faults::drawn(8)] {
            assert_eq!(faults.to_string().parse(), Ok(faults));
        }
        for bad in ["crash", "crash=x", "crash=10001", "cash=5"] {
            assert!(bad.parse::<Faults>().is_err_and(|why| why.contains(bad)), "{bad}");
        }
    }

    #[test]
    fn never_a_third_of_the_validators_lie() {
        for seed in 0..500 {
            let plan = Plan::drawn(seed);
            let liars = plan.liars.iter().filter(|(site, _)| *site < plan.validators).count();
            assert!(liars * 3 < plan.validators && plan.validators <= plan.sites, "{plan}");
        }
    }
}
