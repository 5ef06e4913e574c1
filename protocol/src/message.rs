//! All that a member may say in the ledger.

use serde::{Deserialize, Serialize};

use crate::abort::{Abort, Reclaim};
use crate::bid::{Bid, Decline};
use crate::done::Done;
use crate::evidence::Evidence;
use crate::id::OfferId;
use crate::membership::Membership;
use crate::offer::Offer;
use crate::receipt::{Ready, Receipt};
use crate::register::{Register, Retire};

/// One word to the ledger, in the order of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each is documented at its type
pub enum Message {
    Register(Register),
    Retire(Retire),
    Offer(Offer),
    Bid(Bid),
    Decline(Decline),
    Ready(Ready),
    Receipt(Receipt),
    Abort(Abort),
    Done(Done),
    Reclaim(Reclaim),
    Membership(Membership),
    Evidence(Evidence),
}

impl Message {
    /// Its name, for people and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Retire(_) => "retire",
            Self::Offer(_) => "offer",
            Self::Bid(_) => "bid",
            Self::Decline(_) => "decline",
            Self::Ready(_) => "ready",
            Self::Receipt(_) => "receipt",
            Self::Abort(_) => "abort",
            Self::Done(_) => "done",
            Self::Reclaim(_) => "reclaim",
            Self::Membership(_) => "membership",
            Self::Evidence(_) => "evidence",
        }
    }

    /// The offer it is about, unless it is about none or makes one.
    #[must_use]
    pub fn offer(&self) -> Option<OfferId> {
        match self {
            Self::Bid(bid) => Some(bid.offer),
            Self::Decline(decline) => Some(decline.offer),
            Self::Ready(ready) => Some(ready.offer),
            Self::Receipt(receipt) => Some(receipt.offer),
            Self::Abort(abort) => Some(abort.offer),
            Self::Done(done) => Some(done.offer),
            Self::Reclaim(reclaim) => Some(reclaim.offer),
            Self::Register(_) | Self::Retire(_) | Self::Offer(_) | Self::Membership(_) | Self::Evidence(_) => None,
        }
    }
}
