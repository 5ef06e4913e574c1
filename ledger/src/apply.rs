//! What a block does to the state: first what is due at its time, then its records, then the membership.
//!
//! Each record's function first checks every precondition and only then changes anything, so that a refused record leaves
//! no trace. Proposer, validator and mempool run the same code.

mod bidding;
mod containers;
mod handoff;
mod membership;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use godwit_protocol::bid::Reason;
use godwit_protocol::event::EndReason;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Event, Hash, Message, Millis, OfferId, RecordId, SiteId, Time};

use crate::record::{MAX_LIFETIME_MS, VerifiedRecord};
use crate::refusal::Refusal;
use crate::state::{Auction, Author, Phase, State};

/// A state on its way through one block.
pub(crate) struct Work {
    state: State,
    /// The block's time.
    at: Time,
    /// The change of the membership that this block decided, in force after it.
    change: Option<Change>,
    events: Vec<Event>,
}

impl Work {
    /// Begins a block with this time: ends the bidding that is due.
    pub(crate) fn begin(state: &State, at: Time) -> Self {
        let mut work = Self { state: state.clone(), at, change: None, events: Vec::new() };
        while let Some((_, offer)) = work.state.closing.first().copied().filter(|(closes, _)| *closes <= at) {
            work.close(offer);
        }
        work
    }

    /// Applies one record, or refuses it without effect.
    pub(crate) fn record(&mut self, record: &VerifiedRecord, id: &RecordId) -> Result<(), Refusal> {
        let (author, body) = (record.author, &record.body);
        self.check_lifetime(body.expires)?;
        self.check_author(&author, &body.message)?;
        match self.state.authors.get(&author) {
            Some(known) => known.check(body.sequence)?,
            None => Author::default().check(body.sequence)?,
        }
        match &body.message {
            Message::Register(register) => self.register(author, register),
            Message::Retire(retire) => self.retire(author, retire),
            Message::Offer(offer) => self.offer(author, OfferId::from(*id), offer),
            Message::Bid(bid) => self.bid(author, bid),
            Message::Decline(decline) => self.decline(author, decline),
            Message::Ready(ready) => self.ready(author, ready),
            Message::Receipt(receipt) => self.receipt(author, receipt),
            Message::Abort(abort) => self.abort(author, abort),
            Message::Done(done) => self.done(author, done),
            Message::Reclaim(reclaim) => self.reclaim(author, reclaim),
            Message::Membership(membership) => self.membership(author, membership),
        }?;
        self.author(author).mark(body.sequence);
        Ok(())
    }

    /// Ends the block: the membership changes, the root is brought up to date.
    pub(crate) fn finish(mut self) -> (State, Vec<Event>) {
        if let Some(change) = self.change.take() {
            self.state.change(change);
        }
        self.state.seal();
        (self.state, self.events)
    }

    fn check_lifetime(&self, expires: Time) -> Result<(), Refusal> {
        if expires < self.at {
            return Err(Refusal::Expired { expires, at: self.at });
        }
        if expires.since(self.at) > Millis(MAX_LIFETIME_MS) {
            return Err(Refusal::LifetimeTooLong { expires, at: self.at });
        }
        Ok(())
    }

    /// Members write, and parties of an open handoff until it ends, whatever has become of their membership.
    fn check_author(&self, author: &SiteId, message: &Message) -> Result<(), Refusal> {
        let role = self.state.member(author).map(|member| member.role);
        if matches!(role, Some(Role::Validator | Role::Member)) {
            return Ok(());
        }
        let open = message.offer().and_then(|offer| self.state.offer(&offer));
        match role {
            _ if open.is_some_and(|auction| auction.is_party(author)) => Ok(()),
            Some(_) => Err(Refusal::Observer(*author)),
            None => Err(Refusal::NotAMember(*author)),
        }
    }

    /// What the state keeps of an author, from its first record on.
    fn author(&mut self, site: SiteId) -> &mut Author {
        if !self.state.authors.contains(&site) {
            self.state.authors.insert(site, Author::default());
        }
        self.state.authors.modify(&site).expect("was just put there")
    }

    fn auction(&self, offer: &OfferId) -> Result<&Auction, Refusal> {
        self.state.auctions.get(offer).ok_or(Refusal::UnknownOffer(*offer))
    }

    fn change_auction(&mut self, offer: &OfferId) -> &mut Auction {
        self.state.auctions.modify(offer).expect("the offer was looked up before")
    }

    /// The parent block's hash, which nobody can choose: it breaks ties.
    fn parent(&self) -> Hash {
        self.state.tip()
    }

    fn stop_bidding(&mut self, offer: &OfferId) {
        let closes = self.state.auctions.get(offer).expect("the offer was looked up before").closes;
        Arc::make_mut(&mut self.state.closing).remove(&(closes, *offer));
    }

    /// The next runner-up that is still eligible takes over, or the offer ends.
    fn pass(&mut self, offer: OfferId, reason: Reason) {
        let auction = self.state.auctions.get(&offer).expect("the offer was looked up before");
        let award = auction.award.as_ref().expect("it has been awarded");
        let next = (auction.attempt.saturating_add(1)..)
            .map_while(|attempt| award.winner(attempt).map(|winner| (attempt, winner)))
            .find(|(_, winner)| self.state.is_eligible(winner));
        match next {
            Some((attempt, winner)) => {
                let auction = self.change_auction(&offer);
                (auction.attempt, auction.phase) = (attempt, Phase::Awarded);
                self.events.push(Event::Passed { offer, attempt, winner, reason });
            }
            None => self.end(offer, EndReason::NoneLeft(reason)),
        }
    }

    /// The offer ends with the container where it is.
    fn end(&mut self, offer: OfferId, reason: EndReason) {
        self.clear(&offer);
        self.events.push(Event::Ended { offer, reason });
    }

    /// Takes an offer out of the state; gives what it was.
    fn clear(&mut self, offer: &OfferId) -> Auction {
        let auction = self.state.auctions.get(offer).expect("the offer was looked up before").clone();
        if auction.phase == Phase::Bidding {
            self.stop_bidding(offer);
        }
        self.state.auctions.remove(offer);
        let container = self.state.containers.modify(&auction.body.container);
        container.expect("a container with an open offer stays").open = None;
        let author = self.author(auction.source);
        author.open_offers = author.open_offers.saturating_sub(1);
        auction
    }
}
