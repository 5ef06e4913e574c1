//! What a site's brain asks of its host, which alone touches the world.

use serde::{Deserialize, Serialize};

use crate::bid::Reason;
use crate::capacity::Capacity;
use crate::handoff::{Action, Promise, Task};
use crate::id::{OfferId, SiteId};
use crate::message::Message;
use crate::word::Word;
use crate::yield_::Yield;

/// One wish; the order of a list of them is the order in which they must be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Sync to disk before anything that follows.
    Journal(Promise),
    /// Say it in the ledger.
    Append(Message),
    /// Sign and send to a peer.
    Yield {
        /// The target.
        to: SiteId,
        /// To be signed.
        body: Yield,
    },
    /// Send to a peer.
    Say {
        /// To whom.
        to: SiteId,
        /// What.
        word: Word,
    },
    /// Have it done.
    Do(Task),
    /// Sign and gossip.
    Gossip(Capacity),
    /// An operator should know.
    Tell(Notice),
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// About which handoff.
    pub offer: OfferId,
    /// What.
    pub what: What,
}

/// The matter of a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A step of the handoff was taken here.
    Step(Step),
    /// An action failed.
    Failed(Action, Reason),
    /// Frozen with a `Yield` out and no decision by the ledger: there may be no quorum.
    Undecided,
    /// The copy may or may not have run: it stays ours, and an operator must look.
    Unclear(Reason),
}

/// The steps that only one side sees; the others are in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // they name themselves
pub enum Step {
    Serving,
    Prepared,
    Freezing,
    Frozen,
    Yielded,
    YieldReceived,
    Fetched,
    Restored,
    Resuming,
    Resumed,
    Filled,
    Thawing,
    Thawed,
    Discarded,
    Released,
}
