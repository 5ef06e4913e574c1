//! Decides when pre-copy has done what it can. Pure: no clock, no process.
//!
//! A round is worth its traffic if the next one will be smaller. It will not be if the process writes about as fast as the
//! link carries; nor, whatever the rate says, if the last one was not: a process that keeps writing the same working set
//! writes few pages for each second of a long round, and all of them again in a short one.

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What is left may take this long to send, in milliseconds: less is not worth a round.
    pub budget_ms: u64,
    /// Rounds at most, the first copy of everything included; at least one is made.
    pub rounds: u32,
    /// By how many thousandths a round has to be smaller than the one before.
    pub gain_per_mille: u32,
}

impl Default for Limits {
    /// 5 ms of sending, a fraction of what stopping the process costs anyway; 8 rounds, after which a process that still
    /// gets 30 % smaller each time has less than a tenth left.
    fn default() -> Self {
        Self { budget_ms: 5, rounds: 8, gain_per_mille: 300 }
    }
}

/// One round, measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Bytes found written.
    pub written: u64,
    /// Microseconds since the round before; in the first round without meaning.
    pub elapsed_us: u64,
    /// What the link carries, in bytes per second.
    pub link: u64,
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Send what was found, then look again.
    Again,
    /// Stop the process: what is left is sent within the budget.
    Fits,
    /// Stop: the process writes about as fast as the link carries, or faster.
    TooFast,
    /// Stop: this round was hardly smaller than the one before.
    NoGain,
    /// Stop: enough rounds were made.
    Enough,
}

/// The rounds of one pre-copy.
#[derive(Clone, Debug)]
pub struct Rounds {
    limits: Limits,
    made: u32,
    before: Option<u64>,
}

impl Rounds {
    /// No round is made yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, made: 0, before: None }
    }

    /// What to do after the round that was just measured.
    pub fn next(&mut self, sample: Sample) -> Verdict {
        let Limits { budget_ms, rounds, gain_per_mille } = self.limits;
        let kept = u128::from(1000_u32.saturating_sub(gain_per_mille));
        let written = u128::from(sample.written);
        let link = u128::from(sample.link);
        self.made = self.made.saturating_add(1);
        let before = self.before.replace(sample.written).map(u128::from);

        if written * 1000 <= link * u128::from(budget_ms) {
            return Verdict::Fits;
        }
        if self.made >= rounds {
            return Verdict::Enough;
        }
        match before {
            // written / elapsed >= link * kept, in bytes per second
            Some(_) if written * 1_000_000 * 1000 >= link * kept * u128::from(sample.elapsed_us) => Verdict::TooFast,
            Some(before) if written * 1000 > before * kept => Verdict::NoGain,
            _ => Verdict::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;
    const GIGABIT: u64 = 119 * MB;

    /// A process that writes `rate` bytes per second into a working set, over a link; what the rounds were.
    fn pre_copy(memory: u64, working_set: u64, rate: u64, link: u64) -> (Vec<u64>, Verdict) {
        let mut rounds = Rounds::new(Limits::default());
        let mut sizes = Vec::new();
        let mut sample = Sample { written: memory, elapsed_us: 0, link };
        loop {
            sizes.push(sample.written);
            match rounds.next(sample) {
                Verdict::Again => {}
                verdict => return (sizes, verdict),
            }
            let elapsed_us = sample.written * 1_000_000 / link;
            sample = Sample { written: (rate * elapsed_us / 1_000_000).min(working_set), elapsed_us, link };
        }
    }

    #[test]
    fn pre_copy_ends_where_another_round_gains_nothing() {
        for (memory, working_set, rate, rounds, verdict) in [
            // Idle: nothing is left after the first copy.
            (256 * MB, 0, 0, 2, Verdict::Fits),
            // A page each millisecond: 256 MB, 8.8 MB, 0.3 MB.
            (256 * MB, 256 * MB, 4 * MB, 3, Verdict::Fits),
            // Half the link: each round halves.
            (256 * MB, 256 * MB, GIGABIT / 2, 8, Verdict::Enough),
            // As fast as the link: no second copy.
            (256 * MB, 256 * MB, GIGABIT, 2, Verdict::TooFast),
            // A small working set written over and over: the rate looks small in the long first round only.
            (256 * MB, 25 * MB, 1000 * MB, 3, Verdict::TooFast),
            (1000 * MB, 40 * MB, 60 * MB, 8, Verdict::Enough),
            // So small that it fits the budget at once.
            (MB / 2, 0, 0, 1, Verdict::Fits),
        ] {
            let (sizes, reason) = pre_copy(memory, working_set, rate, GIGABIT);
            assert_eq!((sizes.len(), reason), (rounds, verdict), "{memory} {working_set} {rate}: {sizes:?}");
        }
    }

    #[test]
    fn a_round_that_is_not_smaller_ends_pre_copy_even_if_the_rate_looks_low() {
        let mut rounds = Rounds::new(Limits::default());
        let slow = |written| Sample { written, elapsed_us: 60_000_000, link: GIGABIT };
        assert_eq!(rounds.next(slow(100 * MB)), Verdict::Again);
        assert_eq!(rounds.next(slow(60 * MB)), Verdict::Again);
        assert_eq!(rounds.next(slow(50 * MB)), Verdict::NoGain);
    }

    proptest! {
        #[test]
        fn pre_copy_ends_and_says_fits_exactly_when_it_does(
            samples in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..40),
            budget_ms in 0..1_000_000_u64, most in 0..30_u32, gain_per_mille in 0..2000_u32,
        ) {
            let mut rounds = Rounds::new(Limits { budget_ms, rounds: most, gain_per_mille });
            for (made, (written, elapsed_us, link)) in samples.into_iter().enumerate() {
                let verdict = rounds.next(Sample { written, elapsed_us, link });
                let fits = u128::from(written) * 1000 <= u128::from(link) * u128::from(budget_ms);
                prop_assert_eq!(verdict == Verdict::Fits, fits);
                if verdict != Verdict::Again {
                    return Ok(());
                }
                prop_assert!(made + 1 < most as usize, "no more rounds than allowed");
            }
        }

        #[test]
        fn what_is_sent_is_bounded_by_the_gain(memory in MB..10_000 * MB, set in 0..10_000 * MB, rate in 0..1000 * MB) {
            let (sizes, _) = pre_copy(memory, set, rate, GIGABIT);
            // All rounds but the last are sent while the process runs, each at most 70 % of the one before.
            let sent: u64 = sizes[..sizes.len() - 1].iter().sum();
            prop_assert!(sent <= memory * 10 / 3 + 1);
        }

        #[test]
        fn a_faster_link_fits_no_less(written in any::<u64>(), link in 0..u64::MAX / 2, more in 0..u64::MAX / 2) {
            let verdict = |link| Rounds::new(Limits::default()).next(Sample { written, elapsed_us: 1, link });
            prop_assert!(verdict(link) != Verdict::Fits || verdict(link + more) == Verdict::Fits);
        }
    }
}
