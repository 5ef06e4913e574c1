//! From the award to the end of the handoff: `Ready`, `Receipt`, `Abort`, `Done`, `Reclaim`.

use godwit_protocol::abort::{Abort, Reclaim, ReclaimApproval, Then};
use godwit_protocol::done::Done;
use godwit_protocol::event::EndReason;
use godwit_protocol::planted::{self, Bug};
use godwit_protocol::receipt::{Ready, Receipt};
use godwit_protocol::{Epoch, Event, OfferId, Signed, SiteId};

use super::Work;
use crate::refusal::Refusal;
use crate::state::{Auction, Phase};

impl Work {
    pub(super) fn ready(&mut self, author: SiteId, ready: &Ready) -> Result<(), Refusal> {
        let auction = self.check_winner(&author, &ready.offer, ready.attempt)?;
        if auction.phase == Phase::Ready {
            return Err(Refusal::AlreadyReady);
        }
        self.change_auction(&ready.offer).phase = Phase::Ready;
        self.events.push(Event::Readied { offer: ready.offer, attempt: ready.attempt });
        Ok(())
    }

    pub(super) fn receipt(&mut self, author: SiteId, receipt: &Receipt) -> Result<(), Refusal> {
        let (offer, attempt) = (receipt.offer, receipt.attempt);
        let auction = match self.check_winner(&author, &offer, attempt) {
            Err(Refusal::AlreadyReceived) if planted::is(Bug::ReceiptTwice) => self.auction(&offer)?,
            Err(Refusal::WrongAttempt { current, got }) if planted::is(Bug::StaleYield) && got < current => {
                self.auction(&offer)?
            }
            checked => checked?,
        };
        let (source, container) = (auction.source, auction.body.container);
        let current = self.state.container(&container).expect("a container with an open offer stays").epoch;
        let yielded = &receipt.yielded;
        let checks = [
            (yielded.author == source, Refusal::YieldNotBySource(yielded.author)),
            (yielded.body.offer == offer, Refusal::YieldOffer),
            (yielded.body.attempt == attempt, Refusal::YieldAttempt(yielded.body.attempt)),
            (yielded.body.target == author, Refusal::YieldTarget(yielded.body.target)),
            (yielded.body.epoch == current || planted::is(Bug::ReceiptTwice), Refusal::YieldEpoch(yielded.body.epoch)),
        ];
        if let Some((_, refusal)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(refusal);
        }
        yielded.clone().verify(&self.state.mesh()).map_err(|_| Refusal::YieldForged)?;
        self.change_auction(&offer).phase = Phase::Received;
        let epoch = self.give(&container, author);
        self.events.push(Event::Received { offer, attempt, container, owner: author, epoch });
        Ok(())
    }

    pub(super) fn abort(&mut self, author: SiteId, abort: &Abort) -> Result<(), Refusal> {
        let auction = self.auction(&abort.offer)?;
        let is_source = auction.source == author;
        if !is_source && auction.winner() != Some(author) {
            return Err(Refusal::NotAParty);
        }
        if auction.attempt != abort.attempt {
            return Err(Refusal::WrongAttempt { current: auction.attempt, got: abort.attempt });
        }
        match (auction.phase, abort.then) {
            (Phase::Received, _) if is_source => return Err(Refusal::AlreadyReceived),
            (Phase::Received, _) => self.take_back(&abort.offer, false),
            _ if !is_source => return Err(Refusal::WinnerDeclines),
            (Phase::Bidding, Then::Next) => return Err(Refusal::NotAwarded),
            (_, Then::Next) => self.pass(abort.offer, abort.reason.clone()),
            (_, Then::End) => self.end(abort.offer, EndReason::Aborted(abort.reason.clone())),
        }
        Ok(())
    }

    pub(super) fn done(&mut self, author: SiteId, done: &Done) -> Result<(), Refusal> {
        let auction = self.auction(&done.offer)?;
        if auction.phase != Phase::Received {
            return Err(Refusal::NotReceived);
        }
        if auction.winner() != Some(author) {
            return Err(Refusal::NotTheWinner);
        }
        let auction = self.clear(&done.offer);
        let container = self.state.containers.modify(&auction.body.container);
        container.expect("a container with an open offer stays").last_done = Some(done.offer);
        self.events.push(Event::Closed { offer: done.offer, done: *done });
        Ok(())
    }

    pub(super) fn reclaim(&mut self, author: SiteId, reclaim: &Reclaim) -> Result<(), Refusal> {
        let auction = self.auction(&reclaim.offer)?;
        if auction.source != author {
            return Err(Refusal::NotTheSource);
        }
        if auction.phase != Phase::Received {
            return Err(Refusal::NotReceived);
        }
        let container = self.state.container(&auction.body.container).expect("a container with an open offer stays");
        let consent = ReclaimApproval { offer: reclaim.offer, epoch: container.epoch };
        self.check_approvals(&reclaim.approvals, |approval: &Signed<ReclaimApproval>| approval.body == consent)?;
        self.take_back(&reclaim.offer, true);
        Ok(())
    }

    /// The attempt is the current one, its receipt is not committed, and it is the author's.
    pub(super) fn check_winner(&self, author: &SiteId, offer: &OfferId, attempt: u32) -> Result<&Auction, Refusal> {
        let auction = self.auction(offer)?;
        if auction.phase == Phase::Bidding {
            return Err(Refusal::NotAwarded);
        }
        if auction.attempt != attempt {
            return Err(Refusal::WrongAttempt { current: auction.attempt, got: attempt });
        }
        if auction.winner() != Some(*author) {
            return Err(Refusal::NotTheWinner);
        }
        if auction.phase == Phase::Received { Err(Refusal::AlreadyReceived) } else { Ok(auction) }
    }

    /// The offer ends after its receipt: the source owns the container again.
    fn take_back(&mut self, offer: &OfferId, possible_loss: bool) {
        let auction = self.clear(offer);
        let (container, owner) = (auction.body.container, auction.source);
        let epoch = self.give(&container, owner);
        self.events.push(Event::Returned { offer: *offer, container, owner, epoch, possible_loss });
    }

    /// Makes a site the owner; gives the new epoch.
    fn give(&mut self, container: &godwit_protocol::ContainerId, owner: SiteId) -> Epoch {
        let container = self.state.containers.modify(container).expect("a container with an open offer stays");
        (container.owner, container.epoch) = (owner, container.epoch.next());
        container.epoch
    }
}
