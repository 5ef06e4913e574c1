//! The ledger as one ordered sequence of blocks, built and judged by the rules that replicas use.
//!
//! What is absent here is agreement: one sequencer orders the records, and only delays, loss and the absence of a quorum
//! are modelled around it.

use std::collections::{BTreeMap, BTreeSet};

use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{VerifiedRecord, record_id};
use godwit_ledger::rules::{build, validate, verify_records};
use godwit_ledger::state::State;
use godwit_protocol::{Event, Hash, RecordId, SiteId, Time};

/// A block, as far as a site that follows needs it.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its time.
    pub time: Time,
    /// What it changed.
    pub events: Vec<Event>,
    /// What it holds.
    pub records: BTreeSet<RecordId>,
    /// The state after it.
    pub state: State,
}

/// The sequence of blocks and what waits for the next one.
#[derive(Debug)]
pub struct Chain {
    founding: State,
    blocks: Vec<Sealed>,
    pending: BTreeMap<(u64, RecordId), VerifiedRecord>,
    seen: BTreeSet<RecordId>,
    arrivals: u64,
    has_news: bool,
    proposer: SiteId,
}

impl Chain {
    /// Before the first block.
    ///
    /// # Panics
    /// If the genesis founds no mesh.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        genesis.check().expect("the simulated genesis is one that founds a mesh");
        let founding = State::genesis(genesis);
        let proposer = founding.validators()[0];
        Self {
            founding,
            blocks: vec![],
            pending: BTreeMap::new(),
            seen: BTreeSet::new(),
            arrivals: 0,
            has_news: false,
            proposer,
        }
    }

    /// The number of blocks.
    #[must_use]
    pub fn height(&self) -> usize {
        self.blocks.len()
    }

    /// The block at a height, counted from 1.
    #[must_use]
    pub fn block(&self, height: usize) -> &Sealed {
        &self.blocks[height - 1]
    }

    /// The state after the block at a height; 0 is before the first.
    #[must_use]
    pub fn state_at(&self, height: usize) -> &State {
        if height == 0 { &self.founding } else { &self.block(height).state }
    }

    /// The state after the last block.
    #[must_use]
    pub fn state(&self) -> &State {
        self.state_at(self.height())
    }

    /// Whether records arrived that no block could yet have taken.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// Takes a record that arrived; one that was taken before is no news.
    pub fn take(&mut self, record: VerifiedRecord) {
        let Ok(id) = record_id(&self.founding.mesh(), &record) else { return };
        if self.seen.insert(id) {
            self.arrivals += 1;
            self.has_news = true;
            self.pending.insert((self.arrivals, id), record);
        }
    }

    /// Makes the next block, if there is anything to put into one.
    ///
    /// # Panics
    /// If a block that [`build`] made is one that [`validate`] refuses: replicas would halt.
    pub fn seal(&mut self, now: Time) -> bool {
        let candidates = std::mem::take(&mut self.pending);
        let kept: Vec<_> = candidates.iter().map(|(key, record)| (*key, record.clone())).collect();
        let (block, applied, left_out) = build(self.state(), self.proposer, now, candidates.into_values());
        for (id, refusal) in left_out {
            let Some((key, record)) = kept.iter().find(|((_, kept), _)| *kept == id) else { continue };
            if refusal.may_pass_later() {
                self.pending.insert(*key, record.clone());
            }
        }
        let is_due = self.state().due().is_some_and(|due| due <= block.header.time);
        if block.records.is_empty() && !is_due {
            self.has_news = false;
            return false;
        }
        // What could not be taken may follow on what was.
        self.has_news = !self.pending.is_empty();
        let verified = verify_records(&self.founding.mesh(), &block).expect("records are signed by their authors");
        let judged = validate(self.state(), &block, &verified).expect("a block that was built is valid");
        assert_eq!(judged.state.root(), applied.state.root(), "proposer and validator disagree");
        let mesh = self.founding.mesh();
        let records = verified.iter().filter_map(|record| record_id(&mesh, record).ok()).collect();
        self.blocks.push(Sealed { time: block.header.time, events: applied.events, records, state: applied.state });
        true
    }

    /// The root of the state after the last block.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.state().root()
    }
}
