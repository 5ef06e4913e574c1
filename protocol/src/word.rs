//! What two sites say to each other directly during a handoff, over an authenticated connection.

use serde::{Deserialize, Serialize};

use crate::id::OfferId;
use crate::report::Report;
use crate::signed::Signed;
use crate::yield_::Yield;

/// One direct word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Source to target: frozen, and yours once your receipt is committed. Repeated until the ledger shows the receipt.
    Yield(Signed<Yield>),
    /// A client's report that reached a site which does not own its containers.
    Report(Signed<Report>),
    /// Target to source: I won, and lack the container's image.
    ImageWanted {
        /// The offer.
        offer: OfferId,
    },
    /// Target to source: preparing; the source need not give up on it yet.
    Preparing {
        /// The offer.
        offer: OfferId,
        /// The attempt.
        attempt: u32,
    },
}
