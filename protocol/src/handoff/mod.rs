//! One handoff, as its two sides drive it.
//!
//! ```text
//!      source                       ledger                        target
//! H1   Offer ───────────────────►   open
//! H2                                bids      ◄──────────────────  Bid
//! H3                                Award (derived)
//! H4   serves spec and image ─────────────────────────────────►   prepares
//!                                   ready     ◄──────────────────  Ready
//! H5   freezes, journals and sends Yield ─────────────────────►   fetches, verifies
//! H6   keeps the frozen copy        owner     ◄──────────────────  Receipt; restores meanwhile, and holds
//! H7                                                              journals the resume, lets it run
//!      serves what is still lacking ──────────────────────────►   fills
//! H8   deletes its copy             closed    ◄──────────────────  Done
//! ```
//!
//! Invariant: the target's copy runs its first instruction only after the ledger made the target the owner.
//! Invariant: the source resumes only from a journal without `Yield`, or on a committed end of the attempt.
//! Invariant: the source keeps its copy until the target has said that it lacks nothing.
//! Invariant: what binds a side is a [`Promise`], and the promise is on disk before it is acted on.

pub mod source;
pub mod target;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::award::Award;
use crate::bid::Reason;
pub use crate::effect::{Effect, Notice, Step, What};
use crate::event::Event;
use crate::id::{ContainerId, Hash, OfferId, SiteId};
use crate::offer::Offer;
use crate::signed::Signed;
use crate::units::{Bytes, Millis, Time};
use crate::yield_::Yield;

pub use source::Source;
pub use target::Target;

/// What a site has promised in a handoff: journaled and synced before it is acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// Target: resources are reserved.
    Bid {
        /// The offer.
        offer: OfferId,
        /// The container: after a restart the ledger may have forgotten the offer.
        container: ContainerId,
    },
    /// Source: the container may stand still from here on.
    Freeze {
        /// The offer.
        offer: OfferId,
        /// The container: after a restart the ledger may have forgotten the offer.
        container: ContainerId,
        /// The attempt.
        attempt: u32,
    },
    /// Source: the container may be the target's. Persisted counts as sent.
    Yield(Yield),
    /// Target: all is here, and the ledger is asked to make it the owner.
    Receipt {
        /// The attempt.
        attempt: u32,
        /// Needed to say it again after a restart.
        yielded: Signed<Yield>,
    },
    /// Target: the container may run here from now on; no `Abort` of ours can follow, unless the engine proves that the
    /// copy never ran.
    Resume {
        /// The offer.
        offer: OfferId,
    },
    /// Target: the copy never ran and never will.
    Abort {
        /// The offer.
        offer: OfferId,
    },
    /// Nothing of the offer binds any more.
    Closed {
        /// The offer.
        offer: OfferId,
    },
}

impl Promise {
    /// The offer it is about.
    #[must_use]
    pub fn offer(&self) -> OfferId {
        match self {
            Self::Bid { offer, .. }
            | Self::Freeze { offer, .. }
            | Self::Resume { offer }
            | Self::Abort { offer }
            | Self::Closed { offer } => *offer,
            Self::Yield(body) => body.offer,
            Self::Receipt { yielded, .. } => yielded.body.offer,
        }
    }
}

/// What is to be done with a container; the host does it and answers with an [`Outcome`]. Tasks of one container are done
/// one after the other, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// In which handoff.
    pub offer: OfferId,
    /// Of which container.
    pub container: ContainerId,
    /// What.
    pub action: Action,
}

/// One action, in the order of the pipeline. Every action may be asked for again after a restart and must then finish
/// what was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Source: let the target pull what the container is made from, while it runs.
    Serve {
        /// Who may pull.
        target: SiteId,
    },
    /// Target: pull that and make everything ready that can be.
    Prepare {
        /// From whom.
        source: SiteId,
    },
    /// Source: stop the container with its state on disk, and let the target pull it.
    Freeze {
        /// Who may pull.
        target: SiteId,
    },
    /// Target: pull the frozen state and verify it against the root.
    Fetch {
        /// From whom.
        source: SiteId,
        /// Of the manifest.
        root: Hash,
    },
    /// Target: restore the fetched state and hold it before its first instruction, while the receipt is before the ledger.
    Restore,
    /// Target: let it run where it stood. Restores it first, if nothing is held.
    Resume,
    /// Target: pull, verified, what the container still lacks that runs here already. Nothing is lacking either if it has
    /// ended by itself meanwhile.
    Fill {
        /// From whom.
        source: SiteId,
    },
    /// Target: drop a copy that never ran.
    Discard,
    /// Source: make sure that the container runs here, from the frozen state if it was frozen.
    Thaw,
    /// Source: drop the copy that was handed over.
    Release,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// [`Action::Serve`] is set up.
    Serving,
    /// [`Action::Prepare`] is complete.
    Prepared,
    /// [`Action::Freeze`] is complete.
    Frozen {
        /// Root of the manifest of the frozen state.
        root: Hash,
        /// Its size.
        bytes: Bytes,
        /// From stopping it until its memory was captured; zero if this host no longer knows, after a restart.
        freeze: Millis,
        /// From then until layer, volumes and logs were there too and the root was known; zero likewise.
        collect: Millis,
    },
    /// [`Action::Fetch`] is complete and verified.
    Fetched {
        /// What travelled.
        bytes: Bytes,
    },
    /// [`Action::Restore`] is complete: one step before its first instruction.
    Restored,
    /// The container runs here.
    Resumed,
    /// [`Action::Fill`] is complete and verified.
    Filled {
        /// What travelled after the switch; zero if nothing was late.
        bytes: Bytes,
        /// Root of the pages that came late; [`Hash::ZERO`] if none did.
        late_root: Hash,
    },
    /// [`Action::Discard`], [`Action::Thaw`] or [`Action::Release`] is complete.
    Settled,
    /// The action failed. After [`Action::Freeze`] the container runs on or can be thawed; after [`Action::Restore`] and
    /// [`Action::Resume`] the engine has shown that the copy never ran.
    Failed(Reason),
    /// [`Action::Resume`] failed and nobody can tell whether the copy ran: it must not run anywhere else.
    Unclear(Reason),
}

/// What happens to one side of a handoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// A block with this time was committed and caused this.
    Ledger(Time, Event),
    /// A task ended.
    Outcome(Action, Outcome),
    /// The source yielded; the signature is checked.
    Yielded(Signed<Yield>),
    /// The target says that it is still preparing.
    Preparing(u32),
}

/// An open offer as the ledger knows it, to begin with after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The offer.
    pub id: OfferId,
    /// Who offers.
    pub source: SiteId,
    /// What is offered.
    pub body: Offer,
    /// Winner and runners-up, once bidding has ended.
    pub award: Option<Award>,
    /// Of the sites that answered, those that bid.
    pub bidders: Vec<SiteId>,
    /// From 1; 0 while bidding.
    pub attempt: u32,
    /// How far the attempt has come.
    pub stage: Stage,
}

/// How far an open offer has come in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Stage {
    Bidding,
    Awarded,
    Ready,
    Received,
}

/// How long a side waits, by its own clock, before it gives an attempt up. All but `prepare` are bounds on silence, not on
/// work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// Source: without a `Ready` or a word that it is being prepared.
    pub ready: Millis,
    /// Source: from the attempt's beginning to its `Ready`, whatever the winner says meanwhile: none keeps a container on
    /// offer for ever.
    pub prepare: Millis,
    /// Source: a `Ready` committed longer ago than this is stale, and does not lead to a freeze.
    pub fresh: Millis,
    /// Source: from `Yield` to the committed `Receipt`, for a checkpoint of no size.
    pub receipt: Millis,
    /// The slowest link, in bytes per ms, that the source waits for on top of `receipt`.
    pub bytes_per_ms: u64,
    /// Target: from its `Ready` to the `Yield`.
    pub yield_: Millis,
    /// Either: until what was said to the ledger is said again.
    pub again: Millis,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ready: Millis(30_000),
            // An image of 1 GB over the slowest link takes 8 minutes.
            prepare: Millis(1_200_000),
            fresh: Millis(2_000),
            receipt: Millis(15_000),
            bytes_per_ms: 2_000,
            yield_: Millis(120_000),
            again: Millis(5_000),
        }
    }
}
