//! Committed blocks, what they lead to, and where each record lies.
//!
//! A block and all that follows from it are one atomic, synced write. The whole state is written every
//! [`SNAPSHOT_EVERY`] blocks; opening replays the blocks since, and compares the result with what the last commit led to.

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
use crate::record::record_id;
use crate::replica::{Commit, MAX_BLOCKS};
use crate::rules::{self, BadBlock};
use crate::state::{BadSnapshot, State};
use tables::Tables;

/// Blocks between two snapshots of the state: replaying so many takes less than a second.
pub const SNAPSHOT_EVERY: u64 = 64;

/// The encoded blocks of one answer: leaves room for the message around them within the codec's limit.
const MAX_SERVED: usize = crate::block::MAX_BLOCK;

const BLOCKS: &str = "blocks";
const RECORDS: &str = "records";
const EVENTS: &str = "events";
const META: &str = "meta";
/// The blocks that changed the validators, as links of the lineage: few, and needed when the blocks are gone.
const LINKS: &str = "links";

const COLUMNS: [&str; 5] = [BLOCKS, RECORDS, EVENTS, META, LINKS];

const MESH: &[u8] = b"mesh";
const TIP: &[u8] = b"tip";
const SNAPSHOT: &[u8] = b"snapshot";

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
        "the ledger in {path} is damaged ({what}): move the folder away and start again, and the ledger is fetched from \
         the other sites; a validator must join with a new key, since it may not remember what it said"
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

    /// All blocks from a height on, for audits and logs.
    fn blocks(&self, from: Height) -> Blocks<'_, Self>
    where
        Self: Sized,
    {
        Blocks { store: self, next: from.max(Height(1)) }
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

/// A store in RocksDB.
pub struct Disk {
    db: DB,
    path: PathBuf,
    tip: Tip,
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
        let tip = Tip { height: founding.height(), block: founding.tip(), root: founding.root() };
        let mut store = Self { db, path: path.to_owned(), tip };
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
        let state = store.restore(genesis, founding)?;
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
    fn restore(&self, genesis: &Genesis, founding: State) -> Result<State, StoreError> {
        let snapshot = self.db.get_cf(self.column(META), SNAPSHOT).map_err(|source| self.failed("read", source))?;
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
        }
        let reached = Tip { height: state.height(), block: state.tip(), root: state.root() };
        if reached == self.tip {
            Ok(state)
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

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let Commit { committed, state, events } = commit;
        let height = committed.block.header.height;
        if height != self.tip.height.next() {
            return Err(StoreError::Order { last: self.tip.height, got: height });
        }
        let tip = Tip { height, block: state.tip(), root: state.root() };
        let mut batch = WriteBatch::default();
        batch.put_cf(self.column(BLOCKS), height.0.to_be_bytes(), canonical(committed));
        batch.put_cf(self.column(EVENTS), height.0.to_be_bytes(), canonical(events));
        for (id, place) in places(state.mesh(), committed) {
            batch.put_cf(self.column(RECORDS), id.0, canonical(&place));
        }
        if let Some(link) = lineage::link(committed, state.validators_hash()) {
            batch.put_cf(self.column(LINKS), height.0.to_be_bytes(), canonical(&link));
        }
        if height.0 % SNAPSHOT_EVERY == 0 {
            batch.put_cf(self.column(META), SNAPSHOT, state.encode());
        }
        batch.put_cf(self.column(META), TIP, canonical(&tip));
        self.write("commit a block to", batch)?;
        self.tip = tip;
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
        self.places.extend(places(commit.state.mesh(), &commit.committed));
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

fn places(mesh: MeshId, committed: &Committed) -> impl Iterator<Item = (RecordId, Place)> + '_ {
    let height = committed.block.header.height;
    let placed = (0_u32..).zip(committed.block.records.iter());
    placed.filter_map(move |(index, record)| Some((record_id(&mesh, record).ok()?, Place { height, index })))
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
mod tests {
    use super::*;
    use crate::audit::audit;
    use crate::testing::{Mesh, member, register};
    use godwit_protocol::membership::{Change, Role};
    use godwit_protocol::{Message, decode};

    /// Commits so many blocks to a store, of one record each.
    fn fill(store: &mut impl Store, mesh: &mut Mesh, count: u8) {
        for _ in 0..count {
            let n = u8::try_from(mesh.chain.len()).expect("few") + 2;
            say(store, mesh, Message::Register(register(n)));
        }
    }

    /// Commits a block with this record of site 0; the record's id.
    fn say(store: &mut impl Store, mesh: &mut Mesh, message: Message) -> RecordId {
        let record = mesh.sign(0, message);
        let id = mesh.id(&record);
        let events = mesh.commit(vec![record]);
        let committed = mesh.chain.last().expect("a block").clone();
        store.commit(&Commit { committed, state: mesh.state.clone(), events }).expect("commits");
        id
    }

    /// What both kinds of stores promise.
    fn check(store: &mut impl Store) {
        let mut mesh = Mesh::new();
        fill(store, &mut mesh, 100);
        assert_eq!(store.height(), Height(100));
        assert_eq!(store.block(Height(100)).expect("reads"), mesh.chain.last().cloned());
        assert_eq!(store.block(Height(101)).expect("reads"), None);
        assert_eq!(store.block(Height(0)).expect("reads"), None);
        let id = record_id(&mesh.state.mesh(), &mesh.chain[41].block.records[0]).expect("small");
        assert_eq!(store.locate(&id).expect("reads"), Some(Place { height: Height(42), index: 0 }));
        assert_eq!(store.locate(&RecordId([1; 32])).expect("reads"), None);
        let served = store.serve(Height(98), 64).expect("reads");
        assert_eq!(served.iter().map(|c| c.block.header.height.0).collect::<Vec<_>>(), [98, 99, 100]);
        assert_eq!(store.serve(Height(1), u16::MAX).expect("reads").len(), MAX_BLOCKS);
        assert_eq!(store.serve(Height(u64::MAX), 1).expect("reads").len(), 0);
        let report = audit(&mesh.genesis, store.blocks(Height(1))).expect("an honest ledger");
        assert_eq!((report.height, report.root), (Height(100), mesh.state.root()));
        assert_eq!(store.lineage(Height(100)).expect("reads"), Lineage::default());
        let again = Commit { committed: mesh.chain[50].clone(), state: mesh.state.clone(), events: Vec::new() };
        assert!(matches!(store.commit(&again), Err(StoreError::Order { .. })));
    }

    #[test]
    fn memory_and_disk_keep_the_same_promises() {
        check(&mut Memory::default());
        let folder = tempfile::tempdir().expect("a folder");
        check(&mut Disk::open(folder.path(), &Mesh::new().genesis).expect("founds").0);
    }

    #[test]
    fn a_store_that_is_opened_again_leads_to_the_same_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mesh = Mesh::new();
        for count in [0, 3, 70] {
            let (mut store, state) = Disk::open(folder.path(), &mesh.genesis).expect("opens");
            assert_eq!((state.root(), state.tip()), (mesh.state.root(), mesh.state.tip()));
            fill(&mut store, &mut mesh, count);
        }
        let (store, state) = Disk::open(folder.path(), &mesh.genesis).expect("opens");
        assert_eq!((store.height(), state.root()), (Height(73), mesh.state.root()));
    }

    #[test]
    fn a_record_is_found_by_the_beginning_of_its_id_and_can_be_proved() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mesh = Mesh::new();
        let (mut store, _) = Disk::open(folder.path(), &mesh.genesis).expect("founds");
        fill(&mut store, &mut mesh, 3);
        let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
        let joined = say(&mut store, &mut mesh, change);
        mesh.signers = vec![0, 1, 2, 4];
        let last = say(&mut store, &mut mesh, Message::Register(register(99)));
        assert_eq!(store.lineage(Height(4)).expect("reads").links.len(), 0);
        assert_eq!(store.lineage(Height(5)).expect("reads").links.len(), 1);

        for id in [joined, last] {
            let text = id.to_string();
            for length in [16, 17, 64] {
                assert_eq!(store.find(&text[..length], 9).expect("reads"), [id]);
            }
            let bundle = store.prove(&mesh.genesis, &id).expect("reads").expect("is there");
            assert_eq!(bundle.check().expect("holds").record, id);
        }
        assert_eq!(store.find("", 9).expect("reads").len(), 5);
        assert_eq!(store.find("", 2).expect("reads").len(), 2);
        for text in ["x", "0x", &"0".repeat(65), &"f".repeat(64)] {
            assert_eq!(store.find(text, 9).expect("reads"), [], "{text}");
        }
        assert_eq!(store.prove(&mesh.genesis, &RecordId([1; 32])).expect("reads"), None);
        let raw: Vec<Committed> =
            store.raw(Height(2), 3).expect("reads").iter().map(|bytes| decode(bytes).expect("a block")).collect();
        assert_eq!(raw, mesh.chain[1..4]);
        drop(store);
        let archive = Archive::open(folder.path()).expect("opens");
        assert_eq!(archive.find(&last.to_string()[..16], 9).expect("reads"), [last]);
        let bundle = archive.prove(&mesh.genesis, &last).expect("reads").expect("is there");
        assert_eq!(bundle.check().expect("holds").changes, 1);
        assert_eq!(audit(&mesh.genesis, archive.raw(Height(0))).expect("honest").height, Height(5));
    }

    #[test]
    fn a_second_process_and_another_mesh_are_turned_away_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let mesh = Mesh::new();
        let first = Disk::open(folder.path(), &mesh.genesis).expect("founds");
        assert!(matches!(Disk::open(folder.path(), &mesh.genesis), Err(StoreError::Locked { .. })));
        drop(first);
        let mut other = mesh.genesis.clone();
        other.clock_bound_ms += 1;
        assert!(matches!(Disk::open(folder.path(), &other), Err(StoreError::OtherMesh { .. })));
    }

    #[test]
    fn a_block_that_was_changed_on_disk_is_found_when_the_store_is_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mesh = Mesh::new();
        let (mut store, _) = Disk::open(folder.path(), &mesh.genesis).expect("founds");
        fill(&mut store, &mut mesh, 3);
        let mut bent = mesh.chain[1].clone();
        bent.block.records = List::default();
        store.db.put_cf(store.column(BLOCKS), 2_u64.to_be_bytes(), canonical(&bent)).expect("puts");
        drop(store);
        let refused = Disk::open(folder.path(), &mesh.genesis).expect_err("damaged");
        assert!(matches!(&refused, StoreError::Damaged { what, .. } if what == "block 2"), "{refused}");
    }
}
