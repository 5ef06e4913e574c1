//! What a site's brain needs to know of the ledger after a restart.

use std::collections::BTreeMap;

use godwit_protocol::handoff::{Open, Stage};
use godwit_protocol::site::Known;
use godwit_protocol::{ContainerId, Time};

use super::{Phase, State};

impl State {
    /// All containers. `since` is when their owners are taken to have them from: the ledger keeps no time of it.
    #[must_use]
    pub fn known(&self, since: Time) -> BTreeMap<ContainerId, Known> {
        let known = self.containers().map(|(id, container)| {
            let known = Known {
                register: container.register.clone(),
                owner: container.owner,
                epoch: container.epoch,
                open: container.open,
                since,
                asked: None,
                tried: None,
            };
            (*id, known)
        });
        known.collect()
    }

    /// All open offers.
    #[must_use]
    pub fn open(&self) -> Vec<Open> {
        let open = self.offers().map(|(id, auction)| Open {
            id: *id,
            source: auction.source,
            body: auction.body.clone(),
            award: auction.award.clone(),
            bidders: auction.bids.iter().map(|(bidder, _)| *bidder).collect(),
            attempt: auction.attempt,
            stage: match auction.phase {
                Phase::Bidding => Stage::Bidding,
                Phase::Awarded => Stage::Awarded,
                Phase::Ready => Stage::Ready,
                Phase::Received => Stage::Received,
            },
        });
        open.collect()
    }
}
