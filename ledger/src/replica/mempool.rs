//! Records that wait for a block.
//!
//! Bounded by count and bytes, with a quota for every author, so that no member can crowd out the others.

use std::collections::{BTreeMap, BTreeSet};

use godwit_protocol::{RecordId, SiteId, Time};

use crate::record::VerifiedRecord;
use crate::refusal::Refusal;
use crate::state::State;

/// Two full blocks.
const MAX_PENDING: usize = 8192;

/// Eight full blocks of the largest records.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Of one author: as many as its sequence window.
const MAX_OF_AUTHOR: usize = 1024;

/// Of one author, in bytes: 16 of the largest records.
const MAX_BYTES_OF_AUTHOR: usize = 1024 * 1024;

/// Why a record that breaks no rule still is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many records wait for a block")]
pub struct Full;

/// The waiting records in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    arrivals: u64,
    waiting: BTreeMap<u64, Waiting>,
    by_id: BTreeMap<RecordId, u64>,
    by_expiry: BTreeSet<(Time, u64)>,
    by_author: BTreeMap<SiteId, Share>,
    bytes: usize,
    ready: usize,
    own: BTreeSet<u64>,
}

#[derive(Debug)]
struct Waiting {
    id: RecordId,
    record: VerifiedRecord,
    size: usize,
    /// Its preconditions hold, as far as is known: it is worth a block.
    ready: bool,
}

#[derive(Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

impl Mempool {
    pub fn contains(&self, id: &RecordId) -> bool {
        self.by_id.contains_key(id)
    }

    /// Whether there is something to propose.
    pub fn has_ready(&self) -> bool {
        self.ready > 0
    }

    /// Keeps a record that is not there yet. `own` records, submitted at this site, are re-sent and reported on.
    pub fn insert(
        &mut self,
        id: RecordId,
        record: VerifiedRecord,
        size: usize,
        ready: bool,
        own: bool,
    ) -> Result<(), Full> {
        let share = self.by_author.entry(record.author).or_default();
        let crowded = share.count >= MAX_OF_AUTHOR || share.bytes + size > MAX_BYTES_OF_AUTHOR;
        if crowded || self.waiting.len() >= MAX_PENDING || self.bytes + size > MAX_BYTES {
            return Err(Full);
        }
        share.count += 1;
        share.bytes += size;
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.bytes += size;
        self.ready += usize::from(ready);
        self.by_id.insert(id, arrival);
        self.by_expiry.insert((record.body.expires, arrival));
        self.waiting.insert(arrival, Waiting { id, record, size, ready });
        if own {
            self.own.insert(arrival);
        }
        Ok(())
    }

    /// Marks a record that is there already as submitted at this site.
    pub fn adopt(&mut self, id: &RecordId) {
        if let Some(arrival) = self.by_id.get(id) {
            self.own.insert(*arrival);
        }
    }

    /// Drops a record; tells whether it was an own one.
    pub fn remove(&mut self, id: &RecordId) -> bool {
        let Some(arrival) = self.by_id.remove(id) else { return false };
        let Some(gone) = self.waiting.remove(&arrival) else { return false };
        let author = gone.record.author;
        self.by_expiry.remove(&(gone.record.body.expires, arrival));
        self.bytes -= gone.size;
        self.ready -= usize::from(gone.ready);
        if let Some(share) = self.by_author.get_mut(&author) {
            share.count -= 1;
            share.bytes -= gone.size;
            if share.count == 0 {
                self.by_author.remove(&author);
            }
        }
        self.own.remove(&arrival)
    }

    /// All records in order, for a block: also those that are not ready, since what they wait for may be in the block.
    pub fn candidates(&self) -> impl Iterator<Item = VerifiedRecord> + '_ {
        self.waiting.values().map(|waiting| waiting.record.clone())
    }

    /// The verified form of a record, if this very one, signature included, waits here: spares verifying it again.
    pub fn verified(&self, id: &RecordId) -> Option<&VerifiedRecord> {
        self.by_id.get(id).and_then(|arrival| self.waiting.get(arrival)).map(|waiting| &waiting.record)
    }

    /// The first of the own records.
    pub fn own(&self) -> impl Iterator<Item = &VerifiedRecord> {
        self.own.iter().filter_map(|arrival| self.waiting.get(arrival)).map(|waiting| &waiting.record)
    }

    /// The first records that are ready, whoever wrote them.
    pub fn ready(&self) -> impl Iterator<Item = &VerifiedRecord> {
        self.waiting.values().filter(|waiting| waiting.ready).map(|waiting| &waiting.record)
    }

    /// The earliest time after which a record is worth nothing.
    pub fn next_expiry(&self) -> Option<Time> {
        self.by_expiry.first().map(|(expires, _)| *expires)
    }

    /// Drops what expired before `now`; gives the own ones.
    pub fn expire(&mut self, now: Time) -> Vec<(RecordId, Refusal)> {
        let mut own = Vec::new();
        while let Some((expires, arrival)) = self.by_expiry.first().copied().filter(|(expires, _)| *expires < now) {
            let Some(id) = self.waiting.get(&arrival).map(|waiting| waiting.id) else {
                self.by_expiry.remove(&(expires, arrival));
                continue;
            };
            if self.remove(&id) {
                own.push((id, Refusal::Expired { expires, at: now }));
            }
        }
        own
    }

    /// Judges all records by a new state: keeps those that may yet pass; gives the own ones that may not.
    pub fn revalidate(&mut self, state: &State, at: Time) -> Vec<(RecordId, Refusal)> {
        let mut hopeless = Vec::new();
        let mut ready = 0;
        for waiting in self.waiting.values_mut() {
            waiting.ready = match state.check(&waiting.record, &waiting.id, at) {
                Ok(()) => true,
                Err(refusal) => {
                    if !refusal.may_pass_later() {
                        hopeless.push((waiting.id, refusal));
                    }
                    false
                }
            };
            ready += usize::from(waiting.ready);
        }
        self.ready = ready;
        hopeless.retain(|(id, _)| self.remove(id));
        hopeless
    }

    /// What a builder left out: drops what cannot pass any more, and does not count the rest as ready before the next
    /// block; gives the own ones that were dropped.
    pub fn left_out(&mut self, refused: Vec<(RecordId, Refusal)>) -> Vec<(RecordId, Refusal)> {
        let mut own = Vec::new();
        for (id, refusal) in refused {
            let Some(waiting) = self.by_id.get(&id).and_then(|arrival| self.waiting.get_mut(arrival)) else { continue };
            if std::mem::take(&mut waiting.ready) {
                self.ready -= 1;
            }
            if !refusal.may_pass_later() && self.remove(&id) {
                own.push((id, refusal));
            }
        }
        own
    }
}
