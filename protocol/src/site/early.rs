//! Answering offers that are on their way into the ledger, so that an offer and its bids can land in one block.
//!
//! Such an offer may never be committed: its answer is then worth nothing, and what was reserved for it is free again, at the
//! latest when the offer has expired. If it is committed, the answer that was given stands, and no other is.

use alloc::vec;
use alloc::vec::Vec;

use super::Site;
use super::market::LOST;
use crate::effect::Effect;
use crate::handoff::{Open, Promise, Stage};
use crate::id::{OfferId, SiteId};
use crate::offer::Offer;
use crate::units::Time;

/// Offers that are answered early at a time; the others are answered when they are committed. A site that drains offers 64.
const MAX_EARLY: usize = 128;

/// An offer that was answered before it was committed.
#[derive(Clone, Debug)]
pub(super) struct Early {
    pub(super) open: Open,
    /// By this site's clock; after it the offer will not be committed any more.
    until: Time,
    /// Otherwise it was declined.
    bid: bool,
}

impl Site {
    /// H2, ahead of H1: answers an offer that the ledger would accept.
    pub(super) fn heard_offer(
        &mut self,
        now: Time,
        offer: OfferId,
        source: SiteId,
        body: Offer,
        expires: Time,
    ) -> Vec<Effect> {
        let known = self.offers.contains_key(&offer) || self.early.contains_key(&offer);
        let theirs = self
            .containers
            .get(&body.container)
            .is_some_and(|known| known.owner == source && known.epoch == body.epoch && known.open.is_none());
        // What is busy now may be settled by the time of the commit: then is early enough to decline.
        if known
            || !theirs
            || source == self.config.me
            || self.is_busy(&body.container)
            || self.early.len() >= MAX_EARLY
        {
            return vec![];
        }
        let open = Open { id: offer, source, body, award: None, bidders: vec![], attempt: 0, stage: Stage::Bidding };
        if !self.is_asked(&open) {
            return vec![];
        }
        let effects = self.respond(now, &open);
        if !effects.is_empty() {
            let bid = self.targets.contains_key(&offer);
            self.early.insert(offer, Early { open, until: expires.min(now.after(LOST)), bid });
        }
        effects
    }

    /// Whether the answer that was given to an offer still stands.
    pub(super) fn has_answered(&self, early: &Early, offer: &OfferId) -> bool {
        !early.bid || self.targets.contains_key(offer)
    }

    /// Drops what was reserved for offers that were not committed in time.
    pub(super) fn lapse(&mut self, now: Time) -> Vec<Effect> {
        let over: Vec<OfferId> = self.early.iter().filter(|(_, early)| early.until < now).map(|(id, _)| *id).collect();
        over.iter().flat_map(|offer| self.give_up(offer)).collect()
    }

    /// Of two offers for one container only one can be committed.
    pub(super) fn give_up_rivals(&mut self, open: &Open) -> Vec<Effect> {
        let is_rival =
            |(id, early): &(&OfferId, &Early)| **id != open.id && early.open.body.container == open.body.container;
        let rivals: Vec<OfferId> = self.early.iter().filter(is_rival).map(|(id, _)| *id).collect();
        rivals.iter().flat_map(|offer| self.give_up(offer)).collect()
    }

    /// A bid of ours will not be committed: the reservation goes.
    pub(super) fn give_up(&mut self, offer: &OfferId) -> Vec<Effect> {
        self.early.remove(offer);
        match self.targets.remove(offer) {
            Some(_) => vec![Effect::Journal(Promise::Closed { offer: *offer })],
            None => vec![],
        }
    }
}
