//! What a committed block changed: what the ledger's `apply` tells a site's brain, the API and the log.

use serde::{Deserialize, Serialize};

use crate::award::Award;
use crate::bid::{Bid, Reason};
use crate::done::Done;
use crate::evidence::Sentence;
use crate::id::{ContainerId, OfferId, SiteId};
use crate::membership::Change;
use crate::offer::Offer;
use crate::register::Register;
use crate::units::{Epoch, Time};
use crate::vote::Height;

/// One effect of a block, in the order in which they took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A container entered the mesh.
    Registered {
        /// At epoch 1.
        owner: SiteId,
        /// The container.
        register: Register,
    },
    /// A container left the mesh.
    Retired {
        /// Its last owner.
        owner: SiteId,
        /// The container.
        container: ContainerId,
    },
    /// Bidding began.
    Opened {
        /// The offer.
        offer: OfferId,
        /// Who offers.
        source: SiteId,
        /// What is offered.
        body: Offer,
        /// When bidding ends at the latest, by block time.
        closes: Time,
    },
    /// A bid was recorded.
    BidPlaced {
        /// Who bid.
        bidder: SiteId,
        /// The bid.
        bid: Bid,
    },
    /// A named site declined before the award.
    Declined {
        /// The offer.
        offer: OfferId,
        /// Who declined.
        site: SiteId,
        /// Why.
        reason: Reason,
    },
    /// Bidding ended with at least one bid; attempt 1 begins.
    Awarded {
        /// The offer.
        offer: OfferId,
        /// Winner and runners-up.
        award: Award,
    },
    /// An attempt ended without a receipt and the next runner-up is on.
    Passed {
        /// The offer.
        offer: OfferId,
        /// The attempt that begins.
        attempt: u32,
        /// Whose it is.
        winner: SiteId,
        /// Why the one before ended.
        reason: Reason,
    },
    /// The winner is ready: the source may freeze.
    Readied {
        /// The offer.
        offer: OfferId,
        /// The attempt.
        attempt: u32,
    },
    /// The winner owns the container.
    Received {
        /// The offer.
        offer: OfferId,
        /// The attempt.
        attempt: u32,
        /// The container.
        container: ContainerId,
        /// Its new owner.
        owner: SiteId,
        /// The new epoch.
        epoch: Epoch,
    },
    /// The handoff is complete.
    Closed {
        /// The offer.
        offer: OfferId,
        /// What it measured.
        done: Done,
    },
    /// The offer ended without a change of owner.
    Ended {
        /// The offer.
        offer: OfferId,
        /// Why.
        reason: EndReason,
    },
    /// The offer ended after its receipt: the container is its source's again.
    Returned {
        /// The offer.
        offer: OfferId,
        /// The container.
        container: ContainerId,
        /// The source, owner again.
        owner: SiteId,
        /// The new epoch.
        epoch: Epoch,
        /// True after a `Reclaim`: what the target did meanwhile may be lost.
        possible_loss: bool,
    },
    /// The membership changed, from the next height on.
    MembershipChanged {
        /// How.
        change: Change,
    },
    /// A validator was shown to have contradicted itself.
    Punished {
        /// Who.
        site: SiteId,
        /// Where it contradicted itself.
        height: Height,
        /// What becomes of it, from the next height on.
        sentence: Sentence,
    },
}

/// Why an offer ended with the container where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Bidding ended without a bid.
    NoBids,
    /// Winner and all runners-up gave up; the last one's reason.
    NoneLeft(Reason),
    /// The source ended it.
    Aborted(Reason),
}

impl Event {
    /// The offer it is about, if it is about one.
    #[must_use]
    pub fn offer(&self) -> Option<OfferId> {
        match self {
            Self::Registered { .. } | Self::Retired { .. } | Self::MembershipChanged { .. } | Self::Punished { .. } => {
                None
            }
            Self::BidPlaced { bid, .. } => Some(bid.offer),
            Self::Opened { offer, .. }
            | Self::Declined { offer, .. }
            | Self::Awarded { offer, .. }
            | Self::Passed { offer, .. }
            | Self::Readied { offer, .. }
            | Self::Received { offer, .. }
            | Self::Closed { offer, .. }
            | Self::Ended { offer, .. }
            | Self::Returned { offer, .. } => Some(*offer),
        }
    }
}
