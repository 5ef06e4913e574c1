//! From the award to the end of the handoff: `Ready`, `Receipt`, `Abort`, `Done`, `Reclaim`.

use godwit_protocol::abort::{Abort, Reclaim, ReclaimApproval, Then};
use godwit_protocol::done::Done;
use godwit_protocol::event::EndReason;
use godwit_protocol::planted::{self, Bug};
use godwit_protocol::receipt::{Ready, Receipt};
use godwit_protocol::{Epoch, Event, OfferId, Signed, SiteId};

use super::Work;
use crate::refusal::Refusal;
use crate::state::{Auction, Container, Phase};

impl Work {
    pub(super) fn check_ready(&self, author: &SiteId, ready: &Ready) -> Result<(), Refusal> {
        let auction = self.check_winner(author, &ready.offer, ready.attempt)?;
        if auction.phase == Phase::Ready { Err(Refusal::AlreadyReady) } else { Ok(()) }
    }

    pub(super) fn ready(&mut self, ready: &Ready) {
        self.change_auction(&ready.offer).phase = Phase::Ready;
        self.events.push(Event::Readied { offer: ready.offer, attempt: ready.attempt });
    }

    pub(super) fn check_receipt(&self, author: &SiteId, receipt: &Receipt) -> Result<(), Refusal> {
        let (offer, attempt) = (receipt.offer, receipt.attempt);
        let auction = match self.check_winner(author, &offer, attempt) {
            Err(Refusal::AlreadyReceived) if planted::is(Bug::ReceiptTwice) => self.auction(&offer)?,
            Err(Refusal::WrongAttempt { current, got }) if planted::is(Bug::StaleYield) && got < current => {
                self.auction(&offer)?
            }
            checked => checked?,
        };
        let current = self.offered(auction).epoch;
        let yielded = &receipt.yielded;
        let checks = [
            (yielded.author == auction.source, Refusal::YieldNotBySource(yielded.author)),
            (yielded.body.offer == offer, Refusal::YieldOffer),
            (yielded.body.attempt == attempt, Refusal::YieldAttempt(yielded.body.attempt)),
            (yielded.body.target == *author, Refusal::YieldTarget(yielded.body.target)),
            (yielded.body.epoch == current || planted::is(Bug::ReceiptTwice), Refusal::YieldEpoch(yielded.body.epoch)),
        ];
        if let Some((_, refusal)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(refusal);
        }
        yielded.clone().verify(&self.state.mesh()).map(|_| ()).map_err(|_| Refusal::YieldForged)
    }

    pub(super) fn receipt(&mut self, author: SiteId, receipt: &Receipt) {
        let (offer, attempt) = (receipt.offer, receipt.attempt);
        let auction = self.change_auction(&offer);
        auction.phase = Phase::Received;
        let container = auction.body.container;
        let epoch = self.give(&container, author);
        self.events.push(Event::Received { offer, attempt, container, owner: author, epoch });
    }

    pub(super) fn check_abort(&self, author: &SiteId, abort: &Abort) -> Result<(), Refusal> {
        let auction = self.auction(&abort.offer)?;
        let is_source = auction.source == *author;
        if !is_source && auction.winner() != Some(*author) {
            return Err(Refusal::NotAParty);
        }
        if auction.attempt != abort.attempt {
            return Err(Refusal::WrongAttempt { current: auction.attempt, got: abort.attempt });
        }
        match (auction.phase, abort.then) {
            (Phase::Received, _) if is_source => Err(Refusal::AlreadyReceived),
            (Phase::Received, _) => Ok(()),
            _ if !is_source => Err(Refusal::WinnerDeclines),
            (Phase::Bidding, Then::Next) => Err(Refusal::NotAwarded),
            _ => Ok(()),
        }
    }

    pub(super) fn abort(&mut self, abort: &Abort) {
        match (self.auction(&abort.offer).expect("was checked").phase, abort.then) {
            (Phase::Received, _) => self.take_back(&abort.offer, false),
            (_, Then::Next) => self.pass(abort.offer, abort.reason.clone()),
            (_, Then::End) => self.end(abort.offer, EndReason::Aborted(abort.reason.clone())),
        }
    }

    pub(super) fn check_done(&self, author: &SiteId, done: &Done) -> Result<(), Refusal> {
        let auction = self.auction(&done.offer)?;
        if auction.phase != Phase::Received {
            return Err(Refusal::NotReceived);
        }
        if auction.winner() == Some(*author) { Ok(()) } else { Err(Refusal::NotTheWinner) }
    }

    pub(super) fn done(&mut self, done: &Done) {
        let auction = self.clear(&done.offer);
        let container = self.state.containers.modify(&auction.body.container);
        container.expect("a container with an open offer stays").last_done = Some(done.offer);
        self.events.push(Event::Closed { offer: done.offer, done: *done });
    }

    pub(super) fn check_reclaim(&self, author: &SiteId, reclaim: &Reclaim) -> Result<(), Refusal> {
        let auction = self.auction(&reclaim.offer)?;
        if auction.source != *author {
            return Err(Refusal::NotTheSource);
        }
        if auction.phase != Phase::Received {
            return Err(Refusal::NotReceived);
        }
        let consent = ReclaimApproval { offer: reclaim.offer, epoch: self.offered(auction).epoch };
        self.check_approvals(&reclaim.approvals, |approval: &Signed<ReclaimApproval>| approval.body == consent)
    }

    pub(super) fn reclaim(&mut self, reclaim: &Reclaim) {
        self.take_back(&reclaim.offer, true);
    }

    /// The container that is on offer.
    fn offered(&self, auction: &Auction) -> &Container {
        self.state.container(&auction.body.container).expect("a container with an open offer stays")
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
