//! Committed blocks, what they lead to, and where each record lies.
//!
//! A block and all that follows from it are one atomic, synced write. The whole state is written now and then ([`Pace`]);
//! opening replays the blocks since, and compares the result with what the last commit led to.
//!
//! A store may begin above height 1: after a state that was fetched ([`Disk::adopt`]), or when old blocks are deleted
//! ([`Disk::prune`]). What showed that the validators changed is kept for ever: it is what others verify snapshots by.

mod fetched;
mod prune;
mod snapshots;

pub use prune::MIN_RETAINED;
pub use snapshots::OFFERED_EVERY;

mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use godwit_protocol::bounded::List;
use godwit_protocol::{Event, Hash, Malformed, MeshId, RecordId, encode};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch,
    WriteOptions,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::attested::Attested;
use crate::block::{Committed, Height};
use crate::bundle::Bundle;
use crate::genesis::Genesis;
use crate::lineage::{self, Lineage};
use crate::replica::{Commit, LedgerMessage, MAX_BLOCKS};
use crate::rules::{self, BadBlock};
use crate::state::{BadSnapshot, State};
use tables::Tables;

/// Blocks between two snapshots of a small state, while it decides. While it catches up there are [`OFFERED_EVERY`].
pub const SNAPSHOT_EVERY: u64 = 64;

/// A large state is written once the blocks since the last time are half as large as it was: so writing it costs twice what
/// writing the blocks does, however large it is, and replaying them no more than what led to half of it.
const SNAPSHOT_SHARE: usize = 2;

/// The encoded blocks of one answer: leaves room for the message around them within the codec's limit.
const MAX_SERVED: usize = crate::block::MAX_BLOCK;

const BLOCKS: &str = "blocks";
const RECORDS: &str = "records";
const EVENTS: &str = "events";
const META: &str = "meta";
/// The blocks that changed the validators, as links of the lineage: few, and needed when the blocks are gone.
const LINKS: &str = "links";

/// Snapshots that are offered: by height what describes one, by height and place its chunks.
const SNAPSHOTS: &str = "snapshots";
/// Chunks of a snapshot that is being fetched, by place.
const FETCHED: &str = "fetched";

const COLUMNS: [&str; 7] = [BLOCKS, RECORDS, EVENTS, META, LINKS, SNAPSHOTS, FETCHED];

const MESH: &[u8] = b"mesh";
const TIP: &[u8] = b"tip";
const SNAPSHOT: &[u8] = b"snapshot";
const BASE: &[u8] = b"base";
const FETCHING: &[u8] = b"fetching";

/// Why the store cannot do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the ledger in {path} is in use by another process")]
    Locked {
        /// Which folder.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: rocksdb::Error,
    },
    /// The database says no.
    #[error("{what} the ledger in {path}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Which folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: rocksdb::Error,
    },
    /// It is the ledger of another mesh.
    #[error("{path} holds the ledger of mesh {found}, not of {want}")]
    OtherMesh {
        /// Which folder.
        path: PathBuf,
        /// This genesis'.
        want: MeshId,
        /// The ledger's.
        found: MeshId,
    },
    /// Its content is not what was written.
    #[error(
        "the ledger in {path} is damaged ({what}), so this site must not vote; `godwit rebuild` moves it aside and lets \
         this site fetch it again"
    )]
    Damaged {
        /// Which folder.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Option<Box<Damage>>,
    },
    /// The caller's blocks are not in order: a fault of the program.
    #[error("block {got} does not follow block {last}")]
    Order {
        /// What is stored.
        last: Height,
        /// What was to be.
        got: Height,
    },
}

impl StoreError {
    /// Whether what was stored is lost for good: no restart mends it.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Database { source, .. } => source.kind() == rocksdb::ErrorKind::Corruption,
            Self::Locked { .. } | Self::OtherMesh { .. } | Self::Order { .. } => false,
        }
    }
}

/// What is wrong with a part of a store.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Not a value of its type.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not a state.
    #[error(transparent)]
    Snapshot(#[from] BadSnapshot),
    /// Not a block of this chain.
    #[error(transparent)]
    Block(#[from] BadBlock),
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The block's height.
    pub height: Height,
    /// Its place in the block.
    pub index: u32,
}

/// The ledger's memory.
pub trait Store {
    /// The last committed block.
    fn height(&self) -> Height;

    /// The first block that is kept; the one after the last if none is.
    fn base(&self) -> Height {
        Height(1)
    }

    /// Makes a block the last one: atomic, and on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; the store is then as before.
    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError>;

    /// A committed block.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    fn block(&self, height: Height) -> Result<Option<Committed>, StoreError>;

    /// Where a record was committed.
    ///
    /// # Errors
    /// [`StoreError`] if that cannot be read.
    fn locate(&self, record: &RecordId) -> Result<Option<Place>, StoreError>;

    /// The changes of the validators below a height.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    fn lineage(&self, below: Height) -> Result<Lineage, StoreError>;

    /// What to answer to a site that asks for blocks: at least one if there is one, and no more than a message holds.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    fn serve(&self, from: Height, most: u16) -> Result<List<Committed, MAX_BLOCKS>, StoreError> {
        let (mut blocks, mut size, mut height) = (Vec::new(), 0, from.max(Height(1)));
        while blocks.len() < usize::from(most).min(MAX_BLOCKS) {
            let Some(block) = self.block(height)? else { break };
            size += encode(&block).map_or(usize::MAX, |bytes| bytes.len());
            if size > MAX_SERVED && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
            height = height.next();
        }
        Ok(List::first(blocks))
    }

    /// As [`Store::serve`], as a message; says so if the blocks are not kept.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    fn answer(&self, from: Height, most: u16) -> Result<LedgerMessage, StoreError> {
        let base = self.base();
        if from.max(Height(1)) < base {
            return Ok(LedgerMessage::Pruned { base });
        }
        self.serve(from, most).map(LedgerMessage::Blocks)
    }

    /// All blocks from a height on that are kept, for audits and logs.
    fn blocks(&self, from: Height) -> Blocks<'_, Self>
    where
        Self: Sized,
    {
        Blocks { store: self, next: from.max(self.base()) }
    }
}

/// Blocks of a store in order.
#[derive(Debug)]
pub struct Blocks<'a, S> {
    store: &'a S,
    next: Height,
}

impl<S: Store> Iterator for Blocks<'_, S> {
    type Item = Result<Committed, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.store.height() {
            return None;
        }
        let block = self.store.block(self.next).transpose();
        self.next = self.next.next();
        block
    }
}

/// What the last commit led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tip {
    height: Height,
    block: Hash,
    root: Hash,
}

/// When the whole state is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pace {
    /// Bytes of the last snapshot.
    snapshot: usize,
    /// Bytes of the blocks since.
    since: usize,
}

impl Pace {
    /// Whether the state after a block of this height is written. Every [`OFFERED_EVERY`]th is, whatever its size: pruning
    /// counts on it.
    const fn is_due(self, height: Height, decides: bool) -> bool {
        let large = decides && self.since.saturating_mul(SNAPSHOT_SHARE) >= self.snapshot;
        height.0.is_multiple_of(OFFERED_EVERY) || (large && height.0.is_multiple_of(SNAPSHOT_EVERY))
    }
}

/// A store in RocksDB.
pub struct Disk {
    db: DB,
    path: PathBuf,
    tip: Tip,
    base: Height,
    pace: Pace,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("height", &self.tip.height).finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the ledger in a folder, or founds it there, and gives the state after its last block.
    ///
    /// # Errors
    /// [`StoreError`] says what is wrong, and what to do.
    pub fn open(path: &Path, genesis: &Genesis) -> Result<(Self, State), StoreError> {
        let db = open(path)?;
        let founding = State::genesis(genesis);
        let tip = tip_of(&founding);
        let mut store = Self { db, path: path.to_owned(), tip, base: Height(1), pace: Pace::default() };
        match store.read::<MeshId>(META, MESH, "its mesh")? {
            None => {
                store.found(founding.mesh())?;
                return Ok((store, founding));
            }
            Some(found) if found != founding.mesh() => {
                return Err(StoreError::OtherMesh { path: path.to_owned(), want: founding.mesh(), found });
            }
            Some(_) => {}
        }
        let Some(tip) = store.read::<Tip>(META, TIP, "its last height")? else { return Ok((store, founding)) };
        store.tip = tip;
        store.base = store.read(META, BASE, "its first height")?.unwrap_or(Height(1));
        let (state, pace) = store.restore(genesis, founding)?;
        store.pace = pace;
        Ok((store, state))
    }

    /// What a block changed; nothing for a height that is not there.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn events(&self, height: Height) -> Result<Vec<Event>, StoreError> {
        let events = self.read(EVENTS, &height.0.to_be_bytes(), &format!("the events of block {height}"))?;
        Ok(events.unwrap_or_default())
    }

    /// The canonical bytes of committed blocks from a height on: at least one if there is one, `most` at most, and no more
    /// bytes than a message holds.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn raw(&self, from: Height, most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut size = 0;
        let blocks = self.tables().raw(from).take(most).take_while(|block| {
            let first = size == 0;
            size += block.as_ref().map_or(0, Vec::len);
            first || size <= MAX_SERVED
        });
        blocks.collect()
    }

    /// Committed records whose ids begin so, at most so many.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn find(&self, beginning: &str, most: usize) -> Result<Vec<RecordId>, StoreError> {
        self.tables().find(beginning, most)
    }

    /// The proof of a committed record; none if it is not committed.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn prove(&self, genesis: &Genesis, record: &RecordId) -> Result<Option<Bundle>, StoreError> {
        self.tables().prove(genesis, record)
    }

    fn found(&self, mesh: MeshId) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.column(META), MESH, canonical(&mesh));
        self.write("found", batch)
    }

    /// The state after the last block: from the last snapshot and the blocks since.
    fn restore(&self, genesis: &Genesis, founding: State) -> Result<(State, Pace), StoreError> {
        let snapshot = self.db.get_cf(self.column(META), SNAPSHOT).map_err(|source| self.failed("read", source))?;
        let mut pace = Pace { snapshot: snapshot.as_ref().map_or(0, Vec::len), since: 0 };
        let mut state = match snapshot {
            Some(bytes) => State::decode(genesis, &bytes)
                .map_err(|bad| self.damaged("the snapshot of its state", Some(bad.into())))?,
            None => founding,
        };
        while state.height() < self.tip.height {
            let height = state.height().next();
            let what = || format!("block {height}");
            let committed = self.block(height)?.ok_or_else(|| self.damaged(&format!("{} is missing", what()), None))?;
            let mesh = state.mesh();
            let judge = |state: &State| {
                let verified = rules::verify_records(&mesh, &committed.block)?;
                rules::validate(state, &committed.block, &verified)
            };
            state = judge(&state).map_err(|bad| self.damaged(&what(), Some(bad.into())))?.state;
            pace.since += canonical(&committed).len();
        }
        if tip_of(&state) == self.tip {
            Ok((state, pace))
        } else {
            Err(self.damaged("its blocks do not lead to the state it recorded", None))
        }
    }

    fn tables(&self) -> Tables<'_> {
        Tables { db: &self.db, path: &self.path }
    }

    fn column(&self, name: &str) -> &ColumnFamily {
        self.tables().column(name)
    }

    fn read<T: Serialize + DeserializeOwned>(
        &self,
        column: &str,
        key: &[u8],
        what: &str,
    ) -> Result<Option<T>, StoreError> {
        self.tables().read(column, key, what)
    }

    fn write(&self, what: &'static str, batch: WriteBatch) -> Result<(), StoreError> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch, &synced).map_err(|source| self.failed(what, source))
    }

    /// Atomic, but on disk only after a later [`Disk::write`] or [`Disk::sync`].
    fn write_lazily(&self, what: &'static str, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write(batch).map_err(|source| self.failed(what, source))
    }

    /// As [`Store::commit`], but on disk only after the next one, or [`Disk::sync`]. For blocks that others decided long
    /// ago: when they are lost, they are fetched again.
    ///
    /// # Errors
    /// [`StoreError`]; the store is then as before.
    pub fn follow(&mut self, commit: &Commit) -> Result<(), StoreError> {
        // Encoding a large state for every few blocks would take longer than all the rest.
        let (batch, pace) = self.batch(commit, false)?;
        self.write_lazily("commit a block to", batch)?;
        (self.tip, self.pace) = (tip_of(&commit.state), pace);
        Ok(())
    }

    /// Brings what was followed to disk.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush_wal(true).map_err(|source| self.failed("sync", source))
    }

    /// A block and all that follows from it, with the state when it is due, and what that makes of the pace.
    fn batch(&self, commit: &Commit, decides: bool) -> Result<(WriteBatch, Pace), StoreError> {
        let Commit { committed, state, events, records } = commit;
        let height = committed.block.header.height;
        if height != self.tip.height.next() {
            return Err(StoreError::Order { last: self.tip.height, got: height });
        }
        let mut batch = WriteBatch::default();
        let block = canonical(committed);
        let mut pace = Pace { since: self.pace.since.saturating_add(block.len()), ..self.pace };
        batch.put_cf(self.column(BLOCKS), height.0.to_be_bytes(), block);
        batch.put_cf(self.column(EVENTS), height.0.to_be_bytes(), canonical(events));
        for (id, place) in placed(height, records) {
            batch.put_cf(self.column(RECORDS), id.0, canonical(&place));
        }
        if let Some(link) = lineage::link(committed, state.validators_hash()) {
            batch.put_cf(self.column(LINKS), height.0.to_be_bytes(), canonical(&link));
        }
        if pace.is_due(height, decides) {
            let snapshot = state.encode();
            pace = Pace { snapshot: snapshot.len(), since: 0 };
            batch.put_cf(self.column(META), SNAPSHOT, snapshot);
        }
        self.put_offered(&mut batch, committed, state);
        batch.put_cf(self.column(META), TIP, canonical(&tip_of(state)));
        Ok((batch, pace))
    }

    fn failed(&self, what: &'static str, source: rocksdb::Error) -> StoreError {
        self.tables().failed(what, source)
    }

    fn damaged(&self, what: &str, source: Option<Damage>) -> StoreError {
        self.tables().damaged(what, source)
    }
}

impl Store for Disk {
    fn height(&self) -> Height {
        self.tip.height
    }

    fn base(&self) -> Height {
        self.base
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let (batch, pace) = self.batch(commit, true)?;
        self.write("commit a block to", batch)?;
        (self.tip, self.pace) = (tip_of(&commit.state), pace);
        Ok(())
    }

    fn block(&self, height: Height) -> Result<Option<Committed>, StoreError> {
        if height > self.tip.height {
            return Ok(None);
        }
        self.read(BLOCKS, &height.0.to_be_bytes(), &format!("block {height}"))
    }

    fn locate(&self, record: &RecordId) -> Result<Option<Place>, StoreError> {
        self.tables().locate(record)
    }

    fn lineage(&self, below: Height) -> Result<Lineage, StoreError> {
        self.tables().lineage(below)
    }
}

/// A copy of a ledger, open for reading only: of another site, or of one that is running.
pub struct Archive {
    db: DB,
    path: PathBuf,
}

impl Archive {
    /// Opens the ledger in a folder as it is now; nothing in it is believed.
    ///
    /// # Errors
    /// [`StoreError::Database`] if there is none, or none that can be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        DB::open_cf_for_read_only(&Options::default(), path, COLUMNS, false)
            .map(|db| Self { db, path: path.to_owned() })
            .map_err(|source| StoreError::Database { what: "open", path: path.to_owned(), source })
    }

    /// The bytes of its blocks in the order of their heights from one on, as far as there are any.
    pub fn raw(&self, from: Height) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> {
        self.tables().raw(from)
    }

    /// Records whose ids begin so, at most so many.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub fn find(&self, beginning: &str, most: usize) -> Result<Vec<RecordId>, StoreError> {
        self.tables().find(beginning, most)
    }

    /// What it holds as the proof of a record; none if it does not hold the record.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn prove(&self, genesis: &Genesis, record: &RecordId) -> Result<Option<Bundle>, StoreError> {
        self.tables().prove(genesis, record)
    }

    /// The first block that this copy keeps: 1 unless older ones were pruned, or it began with a state that was fetched.
    ///
    /// # Errors
    /// [`StoreError`] if that cannot be read.
    pub fn base(&self) -> Result<Height, StoreError> {
        Ok(self.tables().read(META, BASE, "its first height")?.unwrap_or(Height(1)))
    }

    fn tables(&self) -> Tables<'_> {
        Tables { db: &self.db, path: &self.path }
    }
}

/// A store in memory, for tests and simulations.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    chain: Vec<Committed>,
    places: BTreeMap<RecordId, Place>,
    links: Vec<Attested>,
}

impl Store for Memory {
    fn height(&self) -> Height {
        Height(self.chain.len() as u64)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let got = commit.committed.block.header.height;
        if got != self.height().next() {
            return Err(StoreError::Order { last: self.height(), got });
        }
        self.places.extend(placed(got, &commit.records));
        self.links.extend(lineage::link(&commit.committed, commit.state.validators_hash()));
        self.chain.push(commit.committed.clone());
        Ok(())
    }

    fn block(&self, height: Height) -> Result<Option<Committed>, StoreError> {
        let index = height.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        Ok(index.and_then(|index| self.chain.get(index)).cloned())
    }

    fn locate(&self, record: &RecordId) -> Result<Option<Place>, StoreError> {
        Ok(self.places.get(record).copied())
    }

    fn lineage(&self, below: Height) -> Result<Lineage, StoreError> {
        let links = self.links.iter().filter(|link| link.header.height < below).cloned();
        Ok(Lineage { links: List::first(links) })
    }
}

fn tip_of(state: &State) -> Tip {
    Tip { height: state.height(), block: state.tip(), root: state.root() }
}

/// Where the records of a block lie.
fn placed(height: Height, records: &[RecordId]) -> impl Iterator<Item = (RecordId, Place)> + '_ {
    (0_u32..).zip(records).map(move |(index, id)| (*id, Place { height, index }))
}

fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    encode(value).expect("what is stored was decoded, or is small: it is within the codec's limit")
}

/// Sized for a site with little memory: what is written is read rarely.
fn open(path: &Path) -> Result<DB, StoreError> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(4 * 1024 * 1024));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_write_buffer_size(4 * 1024 * 1024);
    options.set_max_open_files(64);
    options.set_keep_log_file_num(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&blocks);
    let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    DB::open_cf_descriptors(&options, path, columns).map_err(|source| {
        let path = path.to_owned();
        if source.to_string().contains("lock") {
            StoreError::Locked { path, source }
        } else {
            StoreError::Database { what: "open", path, source }
        }
    })
}

#[cfg(test)]
mod tests;
