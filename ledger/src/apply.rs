//! What a block does to the state: first what is due at its time, then its records, then the membership.
//!
//! Each kind of record has two functions: one that checks every precondition and changes nothing, and one that changes and
//! cannot fail. So a refused record leaves no trace. Proposer, validator and mempool run the same code.

mod bidding;
mod containers;
mod evidence;
mod handoff;
mod membership;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use godwit_protocol::bid::Reason;
use godwit_protocol::event::EndReason;
use godwit_protocol::evidence::Sentence;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Event, Hash, Message, Millis, OfferId, RecordId, SiteId, Time};

use crate::block::Height;
use crate::record::{MAX_LIFETIME_MS, VerifiedRecord};
use crate::refusal::Refusal;
use crate::state::{Auction, Author, Phase, State};

pub(crate) use evidence::{EVIDENCE_WINDOW, sentence};

/// A state on its way through one block.
pub(crate) struct Work {
    state: State,
    /// The block's time.
    at: Time,
    /// What this block decided about the membership, in force after it.
    turn: Option<Turn>,
    events: Vec<Event>,
}

/// What becomes of the membership after a block. One block brings one: approvals are of a change of one membership.
#[derive(Debug)]
enum Turn {
    Change(Change),
    Punishment { site: SiteId, height: Height, sentence: Sentence },
}

impl Work {
    /// Begins a block with this time: ends the bidding that is due.
    pub(crate) fn begin(state: &State, at: Time) -> Self {
        let mut work = Self { state: state.clone(), at, turn: None, events: Vec::new() };
        while let Some((_, offer)) = work.state.closing.first().copied().filter(|(closes, _)| *closes <= at) {
            work.close(offer);
        }
        work
    }

    /// Applies one record, or refuses it without effect.
    pub(crate) fn record(&mut self, record: &VerifiedRecord, id: &RecordId) -> Result<(), Refusal> {
        self.check(record)?;
        let (author, body) = (record.author, &record.body);
        match &body.message {
            Message::Register(register) => self.register(author, register),
            Message::Retire(retire) => self.retire(author, retire),
            Message::Offer(offer) => self.offer(author, OfferId::from(*id), offer),
            Message::Bid(bid) => self.bid(author, bid),
            Message::Decline(decline) => self.decline(author, decline),
            Message::Ready(ready) => self.ready(ready),
            Message::Receipt(receipt) => self.receipt(author, receipt),
            Message::Abort(abort) => self.abort(abort),
            Message::Done(done) => self.done(done),
            Message::Reclaim(reclaim) => self.reclaim(reclaim),
            Message::Membership(membership) => self.membership(membership),
            Message::Evidence(evidence) => self.evidence(evidence),
        }
        self.author(author).mark(body.sequence);
        Ok(())
    }

    /// Every precondition of a record. Without effect, so that the mempool can judge many by one and the same state.
    pub(crate) fn check(&self, record: &VerifiedRecord) -> Result<(), Refusal> {
        let (author, body) = (record.author, &record.body);
        self.check_lifetime(body.expires)?;
        self.check_author(&author, &body.message)?;
        match self.state.authors.get(&author) {
            Some(known) => known.check(body.sequence)?,
            None => Author::default().check(body.sequence)?,
        }
        match &body.message {
            Message::Register(register) => self.check_register(register),
            Message::Retire(retire) => self.check_retire(&author, retire),
            Message::Offer(offer) => self.check_offer(&author, offer),
            Message::Bid(bid) => self.check_bid(&author, bid),
            Message::Decline(decline) => self.check_decline(&author, decline),
            Message::Ready(ready) => self.check_ready(&author, ready),
            Message::Receipt(receipt) => self.check_receipt(&author, receipt),
            Message::Abort(abort) => self.check_abort(&author, abort),
            Message::Done(done) => self.check_done(&author, done),
            Message::Reclaim(reclaim) => self.check_reclaim(&author, reclaim),
            Message::Membership(membership) => self.check_membership(&author, membership),
            Message::Evidence(evidence) => self.check_evidence(evidence),
        }
    }

    /// Ends the block: the membership changes, the root is brought up to date.
    pub(crate) fn finish(mut self) -> (State, Vec<Event>) {
        match self.turn.take() {
            None => {}
            Some(Turn::Change(change)) => self.change(change),
            Some(Turn::Punishment { site, height, sentence }) => {
                self.events.push(Event::Punished { site, height, sentence });
                match sentence {
                    Sentence::Removed => self.change(Change::Remove(site)),
                    Sentence::Suspended => self.state.suspend(&site),
                }
            }
        }
        self.state.seal();
        (self.state, self.events)
    }

    fn change(&mut self, change: Change) {
        self.events.push(Event::MembershipChanged { change: change.clone() });
        self.state.change(change);
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
        let suspended = self.state.is_suspended(author);
        if matches!(role, Some(Role::Validator | Role::Member)) && !suspended {
            return Ok(());
        }
        let open = message.offer().and_then(|offer| self.state.offer(&offer));
        match role {
            _ if open.is_some_and(|auction| auction.is_party(author)) => Ok(()),
            Some(_) if suspended => Err(Refusal::Suspended(*author)),
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
            .find(|(_, winner)| self.may_win(winner));
        match next {
            Some((attempt, winner)) => {
                let auction = self.change_auction(&offer);
                (auction.attempt, auction.phase) = (attempt, Phase::Awarded);
                self.events.push(Event::Passed { offer, attempt, winner, reason });
            }
            None => self.end(offer, EndReason::NoneLeft(reason)),
        }
    }

    /// Whether a container may be awarded to a site: it takes part, and this block does not take its key away, under which
    /// nobody could finish the handoff.
    fn may_win(&self, site: &SiteId) -> bool {
        let rotates = matches!(&self.turn, Some(Turn::Change(Change::Rotate(rotation))) if rotation.body.old == *site);
        self.state.is_eligible(site) && !rotates
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
