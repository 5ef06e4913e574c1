//! Deliberate bugs, of which one at a time can be planted, to prove that the simulator's checkers see it.
//!
//! Invariant: without the feature `planted`, which a release build of the node refuses, [`is`] is false at compile time.

/// A bug that must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A vote leaves before the write-ahead log is synced.
    SpeakBeforeSync,
    /// The ledger accepts a second receipt of an attempt.
    ReceiptTwice,
    /// One signature too few makes a certificate.
    QuorumOffByOne,
    /// Whoever bids first wins.
    AwardByArrival,
    /// The source lets its copy run before the ledger has ended the attempt.
    ResumeWithoutAbort,
    /// When a site's process dies, its frozen copies run again.
    CrashThaws,
    /// A receipt of an earlier attempt, with that attempt's yield, is accepted.
    StaleYield,
    /// The proposer's clock is judged on re-proposals too.
    ClockOfReproposals,
    /// A site whose ledger was lost acts on what little it knows of it.
    ActOnLostLedger,
    /// The target says `Done` as soon as the container runs, whatever it lacks.
    DoneBeforeFilled,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::SpeakBeforeSync,
        Self::ReceiptTwice,
        Self::QuorumOffByOne,
        Self::AwardByArrival,
        Self::ResumeWithoutAbort,
        Self::CrashThaws,
        Self::StaleYield,
        Self::ClockOfReproposals,
        Self::ActOnLostLedger,
        Self::DoneBeforeFilled,
    ];
}

#[cfg(feature = "planted")]
mod switch {
    use core::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// 0, or one more than the bug's number: one for the process, as the code that asks has no place to keep it.
    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a bug in this process instead of the one before, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8 + 1), Ordering::SeqCst);
    }

    /// Whether this bug is planted.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8 + 1
    }
}

#[cfg(feature = "planted")]
pub use switch::{is, plant};

/// Whether this bug is planted: none is.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}
