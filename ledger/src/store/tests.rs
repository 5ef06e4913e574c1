//! What stores promise.

use super::*;
use crate::audit::audit;
use crate::record::record_id;
use crate::replica::Adopted;
use crate::testing::{Mesh, member, register, site};
use godwit_protocol::bounded::Text;
use godwit_protocol::membership::{Change, Member, Role};
use godwit_protocol::{Message, Time, decode};

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
    store.commit(&Commit { committed, state: mesh.state.clone(), events, records: vec![id] }).expect("commits");
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
    let again =
        Commit { committed: mesh.chain[50].clone(), state: mesh.state.clone(), events: vec![], records: vec![] };
    assert!(matches!(store.commit(&again), Err(StoreError::Order { .. })));
}

#[test]
fn memory_and_disk_keep_the_same_promises() {
    check(&mut Memory::default());
    let folder = tempfile::tempdir().expect("a folder");
    check(&mut Disk::open(folder.path(), &Mesh::new().genesis).expect("founds").0);
}

#[test]
fn a_state_is_written_at_the_pace_of_the_blocks_and_at_the_latest_when_pruning_counts_on_it() {
    let pace = Pace { snapshot: 1000, since: 499 };
    assert!(!pace.is_due(Height(SNAPSHOT_EVERY), true));
    assert!(pace.is_due(Height(OFFERED_EVERY), true) && pace.is_due(Height(OFFERED_EVERY), false));
    let grown = Pace { since: 500, ..pace };
    assert!(grown.is_due(Height(SNAPSHOT_EVERY * 3), true));
    assert!(!grown.is_due(Height(SNAPSHOT_EVERY * 3), false), "not while it catches up");
    assert!(!grown.is_due(Height(SNAPSHOT_EVERY * 3 + 1), true));
    assert!(Pace::default().is_due(Height(SNAPSHOT_EVERY), true), "a first one");
}

#[test]
fn the_pace_of_snapshots_goes_on_when_a_store_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mesh = Mesh::new();
    let (mut store, _) = Disk::open(folder.path(), &mesh.genesis).expect("founds");
    fill(&mut store, &mut mesh, u8::try_from(SNAPSHOT_EVERY).expect("few"));
    assert_eq!((store.pace.snapshot, store.pace.since), (mesh.state.encode().len(), 0));
    fill(&mut store, &mut mesh, 5);
    let pace = store.pace;
    let blocks = mesh.chain[usize::try_from(SNAPSHOT_EVERY).expect("few")..].iter();
    assert_eq!(pace.since, blocks.map(|block| canonical(block).len()).sum::<usize>());
    drop(store);
    assert_eq!(Disk::open(folder.path(), &mesh.genesis).expect("opens").0.pace, pace);
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

/// Commits blocks of one record each, an observer's new name, without waiting for the disk: some thousand of them. The
/// mesh cannot commit by itself after that.
fn fill_fast(store: &mut Disk, mesh: &mut Mesh, count: u64) {
    for _ in 0..count {
        let name = Text::clipped(&format!("observer-{}", mesh.state.height()));
        let change = Change::Put(Member { name, ..member(5, Role::Observer) });
        let message = mesh.membership(mesh.state.membership_epoch(), change, &[0, 1, 2, 4]);
        let record = mesh.sign(0, message);
        mesh.now = Time(mesh.now.0 + 10);
        let (block, applied, refused) = rules::build(&mesh.state, site(0), mesh.now, [record]);
        assert_eq!(refused, []);
        let committed = Committed { certificate: mesh.certify(&block, &mesh.signers), block };
        mesh.chain.push(committed.clone());
        mesh.state = applied.state.clone();
        store.follow(&Commit::new(committed, applied)).expect("follows");
    }
    store.sync().expect("syncs");
}

/// Site 4 becomes the fifth validator.
fn promote(store: &mut Disk, mesh: &mut Mesh) {
    let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
    let record = mesh.sign(0, change);
    let records = vec![mesh.id(&record)];
    let events = mesh.commit(vec![record]);
    mesh.signers = vec![0, 1, 2, 4];
    let committed = mesh.chain.last().expect("a block").clone();
    store.commit(&Commit { committed, state: mesh.state.clone(), events, records }).expect("commits");
}

fn opened(folder: &Path, mesh: &Mesh) -> (Disk, State) {
    Disk::open(folder, &mesh.genesis).expect("opens")
}

#[test]
fn a_snapshot_is_offered_chunk_by_chunk_and_a_store_that_adopts_it_begins_there() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut mesh = Mesh::new();
    let (mut store, founding) = opened(here.path(), &mesh);
    promote(&mut store, &mut mesh);
    fill_fast(&mut store, &mut mesh, 10);
    assert_eq!(store.offer(Height(0)).expect("reads"), None, "too early");
    fill_fast(&mut store, &mut mesh, OFFERED_EVERY - 11);
    let state = mesh.state.clone();
    fill_fast(&mut store, &mut mesh, 7);

    let offer = store.offer(Height(0)).expect("reads").expect("an offer");
    assert_eq!((offer.header.height, offer.lineage.links.len()), (Height(OFFERED_EVERY), 1));
    assert_eq!(offer.check(&founding), Ok(()));
    let later = store.offer(Height(1)).expect("reads").expect("an offer");
    assert_eq!(later.lineage.links.len(), 0, "the asker knows the change");
    assert_eq!(store.offer(Height(OFFERED_EVERY)).expect("reads"), None);
    let count = u32::try_from(offer.chunks.len()).expect("few");
    let chunk = |index| store.chunk(offer.header.height, index).expect("reads");
    let chunks: Vec<Vec<u8>> = (0..count).map(|index| chunk(index).expect("a chunk")).collect();
    assert_eq!((chunk(count), store.chunk(Height(5), 0).expect("reads")), (None, None));

    let (mut adopting, _) = opened(there.path(), &mesh);
    adopting.keep_offer(&offer).expect("keeps");
    adopting.keep_chunk(1, &chunks[1]).expect("keeps");
    let kept = adopting.fetched().expect("reads").expect("a download");
    assert_eq!((&kept.offer, kept.chunks), (&offer, BTreeMap::from([(1, chunks[1].clone())])));
    let adopted = Adopted { offer: offer.clone(), chunks, state: state.clone() };
    adopting.adopt(&adopted).expect("adopts");
    assert!(adopting.fetched().expect("reads").is_none());
    assert_eq!((adopting.height(), adopting.base()), (Height(OFFERED_EVERY), Height(OFFERED_EVERY + 1)));
    assert_eq!(adopting.answer(Height(5), 64).expect("reads"), LedgerMessage::Pruned { base: adopting.base() });
    assert_eq!(adopting.offer(Height(0)).expect("reads"), Some(offer), "it offers what it was offered");
    for committed in &mesh.chain[usize::try_from(OFFERED_EVERY).expect("small")..] {
        let verified = rules::verify_records(&mesh.state.mesh(), &committed.block).expect("verifies");
        let before = adopting.restore(&mesh.genesis, State::genesis(&mesh.genesis)).expect("leads there").0;
        let applied = rules::validate(&before, &committed.block, &verified).expect("valid");
        adopting.commit(&Commit::new(committed.clone(), applied)).expect("commits");
    }
    drop(adopting);
    let (adopting, state) = opened(there.path(), &mesh);
    assert_eq!((state.root(), state.tip()), (mesh.state.root(), mesh.state.tip()));
    assert_eq!(adopting.blocks(Height(1)).count(), 7);
    let places = |store: &Disk, height: u64| {
        let at = usize::try_from(height - 1).expect("small");
        let id = record_id(&mesh.state.mesh(), &mesh.chain[at].block.records[0]).expect("small");
        store.locate(&id).expect("reads").map(|place| place.height.0)
    };
    let first = OFFERED_EVERY + 1;
    assert_eq!((places(&adopting, first), places(&adopting, 3)), (Some(first), None));
    drop(adopting);
    assert_eq!(Archive::open(there.path()).expect("opens").base().expect("reads"), Height(first));
}

#[test]
fn old_blocks_are_deleted_in_steps_and_never_those_that_are_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mesh = Mesh::new();
    let (mut store, _) = opened(folder.path(), &mesh);
    promote(&mut store, &mut mesh);
    fill_fast(&mut store, &mut mesh, MIN_RETAINED + 39);
    let mesh_id = mesh.state.mesh();
    let record = |height: usize| record_id(&mesh_id, &mesh.chain[height - 1].block.records[0]).expect("small");
    store.prune(mesh_id, u64::MAX).expect("prunes");
    assert_eq!(store.base(), Height(1));
    // Fewer than a site must keep are asked for.
    store.prune(mesh_id, 1).expect("prunes");
    assert_eq!(store.base(), Height(17));
    assert_eq!(store.block(Height(16)).expect("reads"), None);
    assert_eq!(store.events(Height(16)).expect("reads"), []);
    assert_eq!(store.locate(&record(16)).expect("reads"), None);
    assert_eq!(store.locate(&record(17)).expect("reads").map(|place| place.height), Some(Height(17)));
    for _ in 0..10 {
        store.prune(mesh_id, 1).expect("prunes");
    }
    assert_eq!(store.base(), Height(41));
    assert_eq!(store.answer(Height(40), 1).expect("reads"), LedgerMessage::Pruned { base: Height(41) });
    assert!(matches!(store.answer(Height(41), 1).expect("reads"), LedgerMessage::Blocks(blocks) if blocks.len() == 1));
    drop(store);
    let (store, state) = opened(folder.path(), &mesh);
    assert_eq!((state.root(), store.base()), (mesh.state.root(), Height(41)));
}
