//! This site's own records: their sequence, their lifetime, and what became of them.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use godwit_protocol::{Malformed, MeshId, Message, Millis, RecordId, Signed, Time};

use crate::record::{Record, VerifiedRecord, record_id};
use crate::state::State;

/// How long a record may wait for a block: longer than a few rounds of consensus without quorum, shorter than an operator's
/// patience. What is still wanted is said again in a new record.
const LIFETIME: Millis = Millis(30_000);

/// Sequences left out at a restart: records of the life before may still be on their way, and one sequence serves one
/// record. Far fewer than these are ever under way.
const SKIPPED: u64 = 64;

/// Writes this site's records.
#[derive(Debug)]
pub struct Author {
    mesh: MeshId,
    key: SigningKey,
    next: u64,
    /// Said and neither committed nor refused.
    pending: BTreeMap<RecordId, Pending>,
}

/// A record under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it says.
    pub message: Message,
    /// After which it cannot be committed any more.
    pub expires: Time,
}

impl Author {
    /// Goes on from a state, whatever an earlier life wrote beyond it.
    #[must_use]
    pub fn new(state: &State, key: SigningKey) -> Self {
        let next = state.next_sequence(&key.verifying_key().into()) + SKIPPED;
        Self { mesh: state.mesh(), key, next, pending: BTreeMap::new() }
    }

    /// Signs a message as this site's next record.
    ///
    /// # Errors
    /// [`Malformed`] if it is too large.
    pub fn write(&mut self, now: Time, message: Message) -> Result<(RecordId, VerifiedRecord), Malformed> {
        let expires = now.after(LIFETIME);
        let record = Record { sequence: self.next, expires, message: message.clone() };
        let record = Signed::sign(&self.mesh, &self.key, record)?;
        let id = record_id(&self.mesh, &record)?;
        self.next += 1;
        self.pending.insert(id, Pending { message, expires });
        Ok((id, record))
    }

    /// A record was committed or refused: what it said, if it was ours.
    pub fn settle(&mut self, id: &RecordId) -> Option<Message> {
        self.pending.remove(id).map(|pending| pending.message)
    }

    /// Takes out what can no longer be committed. A block's time may lag behind `now` by the clocks' bound.
    pub fn expire(&mut self, now: Time, bound: Millis) -> Vec<(RecordId, Message)> {
        let over = |pending: &Pending| pending.expires.after(bound) < now;
        let ids: Vec<RecordId> = self.pending.iter().filter(|(_, p)| over(p)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.settle(&id).map(|message| (id, message))).collect()
    }

    /// Keeps the sequence ahead of what the ledger has seen, for example from an earlier life of this site.
    pub fn seen(&mut self, next: u64) {
        self.next = self.next.max(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_protocol::OfferId;
    use godwit_protocol::receipt::Ready;

    fn author() -> Author {
        Author { mesh: MeshId([1; 32]), key: SigningKey::from_bytes(&[2; 32]), next: 5, pending: BTreeMap::new() }
    }

    fn ready() -> Message {
        Message::Ready(Ready { offer: OfferId([1; 32]), attempt: 1 })
    }

    #[test]
    fn no_two_records_share_a_sequence_even_if_they_say_the_same() {
        let mut author = author();
        let (first, a) = author.write(Time(0), ready()).unwrap();
        author.seen(9);
        let (second, b) = author.write(Time(0), ready()).unwrap();
        assert_ne!(first, second);
        assert_eq!((a.body.sequence, b.body.sequence), (5, 9));
    }

    #[test]
    fn a_record_is_settled_once_or_expires() {
        let mut author = author();
        let (id, _) = author.write(Time(0), ready()).unwrap();
        let (late, _) = author.write(Time(1), ready()).unwrap();
        assert_eq!(author.settle(&id), Some(ready()));
        assert_eq!(author.settle(&id), None);
        assert!(author.expire(LIFETIME_END, Millis(10)).is_empty());
        assert_eq!(author.expire(Time(LIFETIME_END.0 + 100), Millis(10)), [(late, ready())]);
    }

    const LIFETIME_END: Time = Time(LIFETIME.0);
}
