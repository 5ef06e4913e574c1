//! An offer that has not ended, and a container.

use godwit_protocol::award::Award;
use godwit_protocol::bid::{Bid, Reason};
use godwit_protocol::offer::Offer;
use godwit_protocol::register::Register;
use godwit_protocol::{Epoch, OfferId, SiteId, Time};
use serde::{Deserialize, Serialize};

/// A container of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Whose it is: where it runs, or will as soon as an open handoff has resumed it.
    pub owner: SiteId,
    /// Rises by one whenever the owner changes.
    pub epoch: Epoch,
    /// What it is and needs.
    pub register: Register,
    /// The offer that has not ended, if there is one.
    pub open: Option<OfferId>,
    /// The last handoff that was completed by a `Done`.
    pub last_done: Option<OfferId>,
}

/// How far an offer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Bids are taken.
    Bidding,
    /// The winner of the current attempt prepares.
    Awarded,
    /// The winner is ready: the source may freeze.
    Ready,
    /// The winner owns the container and has yet to say that it runs.
    Received,
}

/// An offer that has not ended. Ended ones leave the state; their events are in the blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auction {
    /// Who offers.
    pub source: SiteId,
    /// What is offered.
    pub body: Offer,
    /// The time of the block that opened it.
    pub opened: Time,
    /// When bidding ends at the latest, by block time.
    pub closes: Time,
    /// The bids in the order of the ledger.
    pub bids: Vec<(SiteId, Bid)>,
    /// Who declined before the award.
    pub declines: Vec<(SiteId, Reason)>,
    /// Winner and runners-up, once bidding has ended.
    pub award: Option<Award>,
    /// The current attempt; 0 while bids are taken.
    pub attempt: u32,
    /// How far it has come.
    pub phase: Phase,
}

impl Auction {
    /// Who is to take the container, or took it, in the current attempt; none while bids are taken.
    #[must_use]
    pub fn winner(&self) -> Option<SiteId> {
        self.award.as_ref()?.winner(self.attempt)
    }

    /// Whether the site's rights in it outlive its membership: the source's and the current winner's do.
    #[must_use]
    pub fn is_party(&self, site: &SiteId) -> bool {
        self.source == *site || self.winner() == Some(*site)
    }

    /// Whether a site has bid or declined.
    #[must_use]
    pub fn has_answer(&self, site: &SiteId) -> bool {
        self.bids.iter().any(|(bidder, _)| bidder == site) || self.declines.iter().any(|(answerer, _)| answerer == site)
    }

    /// Whether all that were named have answered; never if nobody was.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        !self.body.named.is_empty() && self.body.named.iter().all(|site| self.has_answer(site))
    }
}
