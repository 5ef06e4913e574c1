//! Coverage marks: the rare paths that a run has reached. A path that no run reaches is a path that nobody has checked.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident = $name:literal,)*) => {
        /// A rare path.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($(#[$doc])* $mark,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mark),*];

            /// As reports name it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mark => $name,)*
                }
            }
        }
    };
}

marks! {
    // The failure table.
    /// The winner's process dies before the source has yielded.
    TargetDiesBeforeYield = "target-dies-before-yield",
    /// The winner's process dies after the yield, before its receipt.
    TargetDiesAfterYield = "target-dies-after-yield",
    /// The winner's process dies after its receipt.
    TargetDiesAfterReceipt = "target-dies-after-receipt",
    /// The source's abort came too late.
    ReceiptBeatsAbort = "receipt-beats-abort",
    /// The winner's receipt came too late.
    AbortBeatsReceipt = "abort-beats-receipt",
    /// The copy could not be resumed after its receipt.
    RestoreFails = "restore-fails-after-receipt",
    /// The copy could not be restored while its receipt was before the ledger.
    RestoreFailsBeforeCommit = "restore-fails-before-commit",
    /// The source's process dies while the target lacks pages.
    SourceDiesDuringFill = "source-dies-during-fill",
    /// The target's process dies while it lacks pages.
    TargetDiesDuringFill = "target-dies-during-fill",
    /// The source's host is lost while the target lacks pages.
    SourceLostDuringFill = "source-lost-during-fill",
    /// A target that had journaled its resume came back and carried on.
    ResumeBinds = "resume-journaled-first",
    /// A target that had journaled its abort came back and aborted.
    AbortBinds = "abort-journaled-first",
    /// Nothing is decided for a container that was yielded.
    Undecided = "no-quorum-after-yield",
    /// The source's process dies between freeze and yield.
    SourceDiesBeforeYield = "source-dies-before-yield",
    /// The source's process dies after its yield, when all state is at the target.
    SourceDiesAfterYield = "source-dies-after-yield",
    /// Bytes that are not those of the yielded root.
    WrongBytes = "wrong-bytes",
    /// An attempt passes to the runner-up because something failed.
    RunnerUp = "runner-up-after-failure",
    /// A process came back with promises that bind it.
    RestartInHandoff = "restart-in-handoff",
    /// An operator took a container back from a site that is lost.
    Reclaimed = "reclaim",
    /// A yield of an attempt that is over arrived.
    StaleYield = "stale-yield",
    /// A disk was full.
    DiskFull = "disk-full",
    /// A host was lost for good.
    HostLost = "host-lost",

    // The ledger.
    /// A block was proposed again, seconds after it was built.
    Reproposal = "re-proposal-of-old-block",
    /// A validator replayed its log in the middle of a height.
    WalReplay = "wal-replay-mid-height",
    /// The membership changed while bids were taken.
    MembershipInAuction = "membership-change-in-auction",
    /// A site went on under another key.
    Rotated = "key-rotated",
    /// A crash tore a write to the log.
    TornWrite = "torn-write",
    /// A site lost its ledger while promises bound it.
    Rebuilt = "rebuilt-in-handoff",
    /// A record found no room.
    MempoolFull = "mempool-full",

    // Byzantine sites, noticed.
    /// Two words for one round.
    Equivocation = "equivocation-noticed",
    /// A signature that does not hold, or of another mesh.
    Forgery = "forgery-refused",
    /// Served blocks that prove nothing.
    FalseHistory = "false-history-refused",
    /// A proposed block that breaks the rules.
    BadProposal = "bad-proposal-refused",
}

/// How often each was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    /// It was reached.
    pub fn hit(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// How often it was reached.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or_default()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(*mark).or_default() += count;
        }
    }

    /// Those reached less often.
    #[must_use]
    pub fn below(&self, least: u64) -> Vec<(&'static str, u64)> {
        let counts = Mark::ALL.iter().map(|mark| (mark.name(), self.count(*mark)));
        counts.filter(|(_, count)| *count < least).collect()
    }
}

impl Serialize for Marks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Mark::ALL.iter().map(|mark| (mark.name(), self.count(*mark))))
    }
}
