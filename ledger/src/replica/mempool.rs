//! Records that wait for a block.
//!
//! Fair to authors: a block takes the first record of each, then the second of each, and so on, so that whoever says much
//! waits behind himself and not before others. Bounded by count and bytes, for all and for every author; when all is full,
//! whoever has least gets in at the expense of whoever has most. A member that floods the mesh slows down itself.

use std::collections::{BTreeMap, BTreeSet};

use godwit_protocol::{MeshId, RecordId, SiteId, Time};

use crate::record::{Measured, SignedRecord, VerifiedRecord, record_id};
use crate::refusal::Refusal;
use crate::state::State;

/// How many records wait, and how large they are together.
#[derive(Clone, Copy, Debug)]
struct Limits {
    records: usize,
    bytes: usize,
    /// Of one author.
    records_of_author: usize,
    /// Of one author.
    bytes_of_author: usize,
}

/// Two full blocks, or eight of the largest records. Of one author as many as its sequence window, or 16 of the largest.
const LIMITS: Limits =
    Limits { records: 8192, bytes: 32 * 1024 * 1024, records_of_author: 1024, bytes_of_author: 1024 * 1024 };

/// Why a record that breaks no rule still is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many records wait for a block")]
pub struct Full;

/// The waiting records in the order of their arrival.
#[derive(Debug)]
pub(crate) struct Mempool {
    limits: Limits,
    arrivals: u64,
    waiting: BTreeMap<u64, Waiting>,
    by_id: BTreeMap<RecordId, u64>,
    by_expiry: BTreeSet<(Time, u64)>,
    by_author: BTreeMap<SiteId, Share>,
    bytes: usize,
    ready: usize,
    own: BTreeSet<u64>,
    /// Own records that others' had to make room for, until they are told of.
    driven_out: Vec<RecordId>,
}

#[derive(Debug)]
struct Waiting {
    id: RecordId,
    record: VerifiedRecord,
    size: usize,
    /// Its preconditions hold, as far as is known: it is worth a block.
    ready: bool,
}

impl Waiting {
    fn measured(&self) -> Measured<'_> {
        Measured { record: &self.record, id: self.id, size: self.size }
    }
}

/// What one author has here.
#[derive(Debug, Default)]
struct Share {
    arrivals: BTreeSet<u64>,
    /// By sequence the last that came with it: finds a record that waits here without its id, which is dear to compute.
    numbers: BTreeMap<u64, u64>,
    bytes: usize,
}

impl Default for Mempool {
    fn default() -> Self {
        Self::within(LIMITS)
    }
}

impl Mempool {
    const fn within(limits: Limits) -> Self {
        Self {
            limits,
            arrivals: 0,
            waiting: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            by_author: BTreeMap::new(),
            bytes: 0,
            ready: 0,
            own: BTreeSet::new(),
            driven_out: Vec::new(),
        }
    }

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
        let author = record.author;
        let (records, bytes) = self.share_of(&author);
        if records >= self.limits.records_of_author || bytes + size > self.limits.bytes_of_author {
            return Err(Full);
        }
        self.make_room(&author, size)?;
        self.arrivals += 1;
        let arrival = self.arrivals;
        let share = self.by_author.entry(author).or_default();
        share.arrivals.insert(arrival);
        share.numbers.insert(record.body.sequence, arrival);
        share.bytes += size;
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

    /// The own records that had to go since this was asked last.
    pub fn driven_out(&mut self) -> Vec<RecordId> {
        std::mem::take(&mut self.driven_out)
    }

    fn share_of(&self, author: &SiteId) -> (usize, usize) {
        self.by_author.get(author).map_or((0, 0), |share| (share.arrivals.len(), share.bytes))
    }

    /// Drops the last records of whoever has most, as long as the author has less than that even with the new one: so two
    /// authors never take turns in driving each other out.
    fn make_room(&mut self, author: &SiteId, size: usize) -> Result<(), Full> {
        loop {
            let too_many = self.waiting.len() >= self.limits.records;
            if !too_many && self.bytes + size <= self.limits.bytes {
                return Ok(());
            }
            let weight = |share: &Share| if too_many { share.arrivals.len() } else { share.bytes };
            let (records, bytes) = self.share_of(author);
            let mine = if too_many { records + 1 } else { bytes + size };
            let most = self.by_author.values().max_by_key(|share| weight(share)).filter(|share| weight(share) > mine);
            let last = most.and_then(|share| share.arrivals.last()).and_then(|arrival| self.waiting.get(arrival));
            let id = last.ok_or(Full)?.id;
            if self.remove(&id) {
                self.driven_out.push(id);
            }
        }
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
            share.arrivals.remove(&arrival);
            let sequence = gone.record.body.sequence;
            if share.numbers.get(&sequence) == Some(&arrival) {
                share.numbers.remove(&sequence);
            }
            share.bytes -= gone.size;
            if share.arrivals.is_empty() {
                self.by_author.remove(&author);
            }
        }
        self.own.remove(&arrival)
    }

    /// All records in the order in which they are due, for a block: also those that are not ready, since what they wait for
    /// may be in the block. The authors take turns, each with its records as they came; in each turn who came first is first.
    pub fn candidates(&self) -> impl Iterator<Item = Measured<'_>> {
        self.in_turns().into_iter().filter_map(|arrival| self.waiting.get(&arrival)).map(Waiting::measured)
    }

    fn in_turns(&self) -> Vec<u64> {
        let turns = self.by_author.values().flat_map(|share| share.arrivals.iter().copied().enumerate());
        let mut turns: Vec<(usize, u64)> = turns.collect();
        turns.sort_unstable();
        turns.into_iter().map(|(_, arrival)| arrival).collect()
    }

    /// The verified form of a record, if this very one, signature included, waits here: spares verifying and measuring it
    /// again.
    pub fn verified(&self, mesh: &MeshId, record: &SignedRecord) -> Option<Measured<'_>> {
        let this = |waiting: &&Waiting| *waiting.record == *record;
        let numbered = self.of_number(record).filter(this);
        // Its author gave its number to another record, too.
        let by_id = || self.by_id.get(&record_id(mesh, record).ok()?).and_then(|arrival| self.waiting.get(arrival));
        numbered.or_else(|| by_id().filter(this)).map(Waiting::measured)
    }

    /// Whether a record waits here, under whatever signature. May overlook one whose author gave its number to another, too.
    pub fn knows(&self, record: &SignedRecord) -> bool {
        self.of_number(record).is_some_and(|waiting| waiting.record.body == record.body)
    }

    /// The last record that came under this one's author and number.
    fn of_number(&self, record: &SignedRecord) -> Option<&Waiting> {
        let share = self.by_author.get(&record.author)?;
        share.numbers.get(&record.body.sequence).and_then(|arrival| self.waiting.get(arrival))
    }

    /// The first of the own records.
    pub fn own(&self) -> impl Iterator<Item = &VerifiedRecord> {
        self.own.iter().filter_map(|arrival| self.waiting.get(arrival)).map(|waiting| &waiting.record)
    }

    /// The records that are ready, in the order in which they are due.
    pub fn ready(&self) -> impl Iterator<Item = &VerifiedRecord> {
        let waiting = self.in_turns().into_iter().filter_map(|arrival| self.waiting.get(&arrival));
        waiting.filter(|waiting| waiting.ready).map(|waiting| &waiting.record)
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
        let judge = state.judge_at(at);
        for waiting in self.waiting.values_mut() {
            waiting.ready = match judge.check(&waiting.record) {
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

#[cfg(test)]
mod tests;
