//! Sees which rare paths a death, a return or a block takes.

use godwit_ledger::refusal::Refusal;
use godwit_ledger::replica::{Commit, NotAppended};
use godwit_ledger::state::Phase;
use godwit_protocol::bid::Reason;
use godwit_protocol::handoff::Promise;
use godwit_protocol::{Event, Message};

use super::World;
use crate::engine::Copy;
use crate::marks::Mark;

impl World {
    /// A process dies: which rows of the failure table begin here?
    pub(super) fn mark_death(&mut self, at: usize) {
        let me = self.hosts[at].id;
        let mut hit = Vec::new();
        for (id, auction) in self.witness.state().offers() {
            let source = self.place(&auction.source);
            let promised = |of: &dyn Fn(&Promise) -> bool| {
                source.is_some_and(|source| self.hosts[source].disk.journal.iter().any(of))
            };
            let yielded = promised(
                &|promise| matches!(promise, Promise::Yield(body) if body.offer == *id && body.attempt == auction.attempt),
            );
            let froze = promised(
                &|promise| matches!(promise, Promise::Freeze { offer, attempt, .. } if offer == id && *attempt == auction.attempt),
            );
            let winner = auction.winner();
            let place = winner.and_then(|winner| self.place(&winner));
            let copy = place.and_then(|winner| self.hosts[winner].engine.copies.get(&auction.body.container));
            let fetched = matches!(copy, Some(Copy::Fetched { .. }));
            if auction.phase == Phase::Received && copy.and_then(Copy::lacks).is_some() {
                hit.extend((winner == Some(me)).then_some(Mark::TargetDiesDuringFill));
                hit.extend((auction.source == me).then_some(Mark::SourceDiesDuringFill));
            }
            let before_receipt = matches!(auction.phase, Phase::Awarded | Phase::Ready);
            match (winner == Some(me), auction.source == me) {
                (true, _) if auction.phase == Phase::Received => hit.push(Mark::TargetDiesAfterReceipt),
                (true, _) if before_receipt && yielded => hit.push(Mark::TargetDiesAfterYield),
                (true, _) if before_receipt => hit.push(Mark::TargetDiesBeforeYield),
                (_, true) if before_receipt && yielded && fetched => hit.push(Mark::SourceDiesAfterYield),
                (_, true) if before_receipt && froze && !yielded => hit.push(Mark::SourceDiesBeforeYield),
                _ => {}
            }
        }
        hit.into_iter().for_each(|mark| self.mark(mark));
    }

    /// A process is about to start: what does it come back to?
    pub(super) fn mark_return(&mut self, at: usize) {
        let host = &self.hosts[at];
        if host.life == 0 {
            return;
        }
        let (me, state) = (host.id, self.witness.state_at(host.disk.height));
        let mut hit = Vec::new();
        if state.validators().contains(&me) && !host.disk.log.is_empty() {
            hit.push(Mark::WalReplay);
        }
        let binding = host.binding();
        if !binding.is_empty() {
            hit.push(Mark::RestartInHandoff);
        }
        for promise in &binding {
            let auction = self.witness.state().offer(&promise.offer());
            let mine = auction.is_some_and(|auction| auction.phase == Phase::Received && auction.winner() == Some(me));
            match promise {
                Promise::Resume { .. } if mine => hit.push(Mark::ResumeBinds),
                Promise::Abort { .. } if mine => hit.push(Mark::AbortBinds),
                _ => {}
            }
        }
        hit.into_iter().for_each(|mark| self.mark(mark));
    }

    /// A record of ours had no effect.
    pub(super) fn mark_refusal(&mut self, message: &Message, why: &NotAppended) {
        match (message, why) {
            (Message::Abort(_), NotAppended::Refused(Refusal::AlreadyReceived)) => self.mark(Mark::ReceiptBeatsAbort),
            (
                Message::Receipt(_),
                NotAppended::Refused(Refusal::WrongAttempt { .. } | Refusal::UnknownOffer(_) | Refusal::NotTheWinner),
            ) => self.mark(Mark::AbortBeatsReceipt),
            _ => {}
        }
    }

    /// A block is committed for the first time, on this state.
    pub(super) fn mark_commit(&mut self, commit: &Commit) {
        let bidding = commit.state.offers().any(|(_, auction)| auction.phase == Phase::Bidding);
        for event in &commit.events {
            match event {
                Event::Returned { possible_loss: true, .. } => self.mark(Mark::Reclaimed),
                Event::Passed { reason: Reason::Failed(_), .. } => self.mark(Mark::RunnerUp),
                Event::MembershipChanged { .. } if bidding => {
                    self.mark(Mark::MembershipInAuction);
                }
                _ => {}
            }
        }
    }
}
