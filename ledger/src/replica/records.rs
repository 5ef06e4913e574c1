//! Records on their way into a block.

use godwit_protocol::bounded::List;
use godwit_protocol::signed::Keys;
use godwit_protocol::{Millis, RecordId, SiteId, Time};

use super::mempool::Full;
use super::message::MAX_RECORDS_SENT;
use super::{Effect, LedgerMessage, NotAppended, Offence, Replica};
use crate::record::{SignedRecord, VerifiedRecord, measure};
use crate::refusal::Refusal;

/// How long after gossiping an own record it is sent to all validators directly: some commits later on any network.
const RESEND: Millis = Millis(1000);

impl Replica {
    /// A record of this site: kept until it is committed, refused or expired.
    pub(super) fn submit(&mut self, record: VerifiedRecord) {
        let signed = record.clone().into_signed();
        if self.take(record, true) {
            self.resend.get_or_insert(self.host.now.after(RESEND));
            // Gossip takes its time to find a site that has just come back; bidding does not wait for it.
            let to = self.committee.proposer(self.core.round().as_u32().unwrap_or(0));
            if to != self.host.me {
                let message = LedgerMessage::Records(List::first([signed.clone()]));
                self.host.outbox.say(Effect::Send { to, message });
            }
            self.host.outbox.say(Effect::Gossip(signed));
        }
    }

    /// A record of another site. Who does not propose has no use for it.
    pub(super) fn offer(&mut self, record: VerifiedRecord) {
        if self.votes() {
            self.take(record, false);
        }
    }

    /// Records that were sent directly. They are few in a message, and most are known. A host with threads to spare verifies
    /// those that are not, and gives them as [`Input::Records`](super::Input::Records) instead.
    pub(super) fn on_records(&mut self, from: SiteId, records: Vec<SignedRecord>) {
        if !self.votes() {
            return;
        }
        let (mesh, mut keys) = (self.state.mesh(), Keys::default());
        for record in records {
            if self.knows(&record) {
                continue;
            }
            match record.verify_with(&mesh, &mut keys) {
                Ok(record) => {
                    self.take(record, false);
                }
                Err(forged) => return self.misbehaved(from, Offence::ForgedRecord(forged)),
            }
        }
    }

    /// Whether a record waits here already: what is known need not be verified again. May overlook one whose author gave its
    /// number to another, too, which costs a verification.
    #[must_use]
    pub fn knows(&self, record: &SignedRecord) -> bool {
        self.mempool.knows(record)
    }

    /// Keeps a record if it may ever be committed.
    fn take(&mut self, record: VerifiedRecord, own: bool) -> bool {
        let (id, size) = match measure(&self.state.mesh(), &record) {
            Ok(measured) => measured,
            Err(malformed) => {
                tracing::warn!(%malformed, "a record has no canonical form");
                return false;
            }
        };
        if self.mempool.contains(&id) {
            if own {
                self.mempool.adopt(&id);
            }
            return own;
        }
        let ready = match self.state.check_of_size(&record, size, self.host.now) {
            Ok(()) => true,
            Err(refusal) if refusal.may_pass_later() => false,
            Err(refusal) => {
                if own {
                    self.refuse(vec![(id, refusal)]);
                }
                return false;
            }
        };
        let kept = self.mempool.insert(id, record, size, ready, own);
        for id in self.mempool.driven_out() {
            self.host.outbox.say(Effect::Refused { id, why: NotAppended::Full(Full) });
        }
        match kept {
            Ok(()) => {
                if ready {
                    self.resume();
                }
                true
            }
            Err(full) => {
                if own {
                    self.host.outbox.say(Effect::Refused { id, why: NotAppended::Full(full) });
                }
                false
            }
        }
    }

    /// Drops what has expired.
    pub(super) fn expire(&mut self) {
        let expired = self.mempool.expire(self.host.now);
        self.refuse(expired);
    }

    pub(super) fn refuse(&mut self, refused: Vec<(RecordId, Refusal)>) {
        for (id, refusal) in refused {
            self.host.outbox.say(Effect::Refused { id, why: NotAppended::Refused(refusal) });
        }
    }

    /// Gossip may lose a record: all validators get it directly.
    pub(super) fn resend_records(&mut self) {
        if let Some(message) = self.own_records() {
            self.resend = Some(self.host.now.after(RESEND));
            self.host.outbox.say(Effect::Broadcast(message));
        }
    }

    /// When to look after the own records again: none if there are none.
    pub(super) fn next_resend(&mut self) -> Option<Time> {
        if self.mempool.own().next().is_none() {
            self.resend = None;
            return None;
        }
        let resend = *self.resend.get_or_insert(self.host.now.after(RESEND));
        let expiry = self.mempool.next_expiry().map(|expires| expires.after(Millis(1)));
        Some(expiry.map_or(resend, |expiry| expiry.min(resend)))
    }

    /// The first own records, as a message.
    pub(super) fn own_records(&self) -> Option<LedgerMessage> {
        message_of(self.mempool.own())
    }

    /// After a round that decided nothing, the next proposers get what there is to decide.
    pub(super) fn spread_records(&mut self) {
        if std::mem::take(&mut self.host.delayed)
            && let Some(message) = message_of(self.mempool.ready())
        {
            self.host.outbox.say(Effect::Broadcast(message));
        }
    }
}

fn message_of<'a>(records: impl Iterator<Item = &'a VerifiedRecord>) -> Option<LedgerMessage> {
    let records: Vec<SignedRecord> =
        records.take(MAX_RECORDS_SENT).map(|record| record.clone().into_signed()).collect();
    if records.is_empty() { None } else { Some(LedgerMessage::Records(List::first(records))) }
}
