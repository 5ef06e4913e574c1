//! Blocks that are not the next one, and the limits of those that are.

use godwit_protocol::Message;
use godwit_protocol::bounded::Text;
use godwit_protocol::container::{MAX_CPU_FEATURES, Needs};
use godwit_protocol::membership::{Change, Member, Role};
use godwit_protocol::offer::{MAX_WINDOW, Offer};
use godwit_protocol::register::Register;
use godwit_protocol::{Address, ContainerId};

use super::*;
use crate::record::{MAX_RECORD, Record, measure};
use crate::testing::{Mesh, container, key, member, offer, register, site};
use godwit_protocol::Signed;

/// A mesh and its next block: an offer and two registrations.
fn next_block() -> (Mesh, Block) {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let records = vec![
        mesh.sign(0, Message::Register(register(2))),
        mesh.sign(0, Message::Register(register(3))),
        mesh.sign(0, Message::Offer(offer(1, 1, &[1, 2, 3]))),
    ];
    let now = Time(mesh.now.0 + 10);
    let (block, _, refused) = build(&mesh.state, site(2), now, records);
    assert_eq!(refused, Vec::new());
    (mesh, block)
}

fn seal(mesh: &Mesh, block: &mut Block, records: Vec<SignedRecord>) {
    let ids: Vec<RecordId> =
        records.iter().map(|record| measure(&mesh.state.mesh(), record).expect("small").0).collect();
    block.header.records = records_root(&ids);
    block.records = List::first(records);
}

#[test]
fn every_departure_of_a_block_from_the_next_one_is_named() {
    let (mesh, good) = next_block();
    assert!(mesh.judge(&good).is_ok());
    let (tip, time) = (mesh.state.tip(), mesh.state.time());
    let bend = |bend: &dyn Fn(&mut Block)| {
        let mut bent = good.clone();
        bend(&mut bent);
        mesh.judge(&bent).expect_err("a bent block")
    };
    let other = Hash([9; 32]);
    assert_eq!(bend(&|block| block.header.rules = 2), BadBlock::Rules(2));
    assert_eq!(bend(&|block| block.header.mesh = MeshId([1; 32])), BadBlock::Mesh(MeshId([1; 32])));
    for got in [0, 1, 3] {
        let named = BadBlock::Height { want: Height(2), got: Height(got) };
        assert_eq!(bend(&|block| block.header.height = Height(got)), named);
    }
    assert_eq!(bend(&|block| block.header.parent = other), BadBlock::Parent { want: tip, got: other });
    for got in [time, Time(time.0 - 1), Time(0)] {
        assert_eq!(bend(&|block| block.header.time = got), BadBlock::Time { parent: time, got });
    }
    let named = BadBlock::Validators { want: mesh.state.validators_hash(), got: other };
    assert_eq!(bend(&|block| block.header.validators = other), named);
    assert_eq!(bend(&|block| block.header.proposer = site(4)), BadBlock::Proposer(site(4)));
    let named = BadBlock::Records { want: other, got: good.header.records };
    assert_eq!(bend(&|block| block.header.records = other), named);
    let named = BadBlock::State { want: other, got: good.header.state };
    assert_eq!(bend(&|block| block.header.state = other), named);
    let forged = bend(&|block| {
        let mut records = block.records.clone().into_inner();
        records[1].signature.0[3] ^= 1;
        block.records = List::first(records);
    });
    assert!(matches!(forged, BadBlock::Forged { index: 1, source: Forged::NoMatch(..) }), "{forged:?}");
}

#[test]
fn offers_come_first_and_no_record_twice() {
    let (mesh, good) = next_block();
    let [offer, first, second] = good.records.clone().into_inner().try_into().expect("three records");
    let judged = |records: Vec<SignedRecord>| {
        let mut bent = good.clone();
        seal(&mesh, &mut bent, records);
        mesh.judge(&bent).expect_err("a bent block")
    };
    let (late, id) = (vec![first.clone(), offer.clone(), second], mesh.state.mesh());
    assert_eq!(judged(late), BadBlock::Order(1));
    let id = measure(&id, &first).expect("small").0;
    assert_eq!(judged(vec![offer, first.clone(), first]), BadBlock::Twice(id));
}

#[test]
fn only_the_records_that_were_verified_count() {
    let (mesh, good) = next_block();
    let verified = verify_records(&mesh.state.mesh(), &good).expect("its signatures hold");
    assert!(validate(&mesh.state, &good, &verified).is_ok());
    let judged = |verified: &[VerifiedRecord]| validate(&mesh.state, &good, verified).err();
    assert_eq!(judged(&verified[..2]), Some(BadBlock::Unverified(2)));
    let swapped = [verified[0].clone(), verified[2].clone(), verified[1].clone()];
    assert_eq!(judged(&swapped), Some(BadBlock::Unverified(1)));
    let more = [verified.as_slice(), &verified[..1]].concat();
    assert_eq!(judged(&more), Some(BadBlock::Unverified(3)));
}

#[test]
fn of_many_records_the_first_forged_one_is_named_whatever_thread_finds_it() {
    let (mesh, mut block) = next_block();
    let records: Vec<SignedRecord> = (0..200_u8)
        .map(|n| mesh.sign_as(1, u64::from(n), mesh.now, Message::Register(register(n))).into_signed())
        .collect();
    seal(&mesh, &mut block, records.clone());
    let verified = verify_records(&mesh.state.mesh(), &block).expect("all hold");
    assert!(verified.iter().map(|record| &**record).eq(&records), "in their order");
    for bad in [vec![0], vec![199], vec![120, 30, 150]] {
        let mut forged = records.clone();
        for index in &bad {
            forged[*index].body.sequence += 1000;
        }
        seal(&mesh, &mut block, forged);
        let first = *bad.iter().min().expect("some");
        let found = verify_records(&mesh.state.mesh(), &block).expect_err("forged");
        assert!(matches!(found, BadBlock::Forged { index, .. } if index == first), "{found:?}");
    }
}

#[test]
fn a_proposer_whose_clock_is_behind_still_moves_time_on() {
    let mut mesh = Mesh::new();
    let record = mesh.sign(0, Message::Register(register(1)));
    let (block, _, _) = build(&mesh.state, site(0), Time(0), vec![record]);
    assert_eq!(block.header.time, Time(mesh.state.time().0 + 1));
    assert!(mesh.judge(&block).is_ok());
}

#[test]
fn a_record_larger_than_its_limit_is_refused() {
    let mut mesh = Mesh::new();
    let fat = Member {
        addresses: List::first((0..8).map(|_| Text::clipped(&"/dns4/a.example".repeat(17)))),
        ..member(6, Role::Member)
    };
    let approvers: Vec<u8> = (0..31).collect();
    let message = mesh.membership(0, Change::Put(fat), &approvers);
    let record = mesh.sign(0, message);
    let (_, size) = measure(&mesh.state.mesh(), &record).expect("within the codec's limit");
    assert!(size > MAX_RECORD);
    assert_eq!(size, encode(&record).expect("within the codec's limit").len());
    assert_eq!(mesh.refusal_of(record), Refusal::TooLarge { size });
}

/// A registration of the `n`th of many containers, by one of many sites.
fn many(mesh: &Mesh, by: u8, n: u16, sequence: u64) -> VerifiedRecord {
    let [high, low] = n.to_be_bytes();
    let mut id = ContainerId([0xab; 16]);
    (id.0[0], id.0[1]) = (low, high);
    let register = Register { container: id, address: Address([10, 77, high + 1, low].into()), ..register(1) };
    let record = Record { sequence, expires: Time(mesh.now.0 + 60_000), message: Message::Register(register) };
    Signed::sign(&mesh.state.mesh(), &key(by), record).expect("small")
}

#[test]
fn a_block_holds_no_more_records_than_its_limit() {
    let mesh = Mesh::new();
    let count = u16::try_from(MAX_RECORDS).expect("small") + 5;
    let records: Vec<_> =
        (0..count).map(|n| many(&mesh, u8::try_from(n % 5).expect("small"), n, u64::from(n / 5) + 1)).collect();
    let (block, _, refused) = build(&mesh.state, site(0), mesh.now, records);
    assert_eq!((block.records.len(), refused.len()), (MAX_RECORDS, 5));
    assert!(refused.iter().all(|(_, refusal)| *refusal == Refusal::BlockFull && refusal.may_pass_later()));
    assert!(mesh.judge(&block).is_ok());
}

#[test]
fn the_size_of_a_block_is_known_from_those_of_its_records() {
    let mesh = Mesh::new();
    for count in [0, 1, 250, 251, 300] {
        let records: Vec<_> = (1..=count).map(|n| many(&mesh, 0, n, u64::from(n))).collect();
        let (block, ..) = build(&mesh.state, site(0), mesh.now, records);
        let sizes: Vec<usize> =
            block.records.iter().map(|record| measure(&mesh.state.mesh(), record).expect("small").1).collect();
        assert_eq!(block.records.len(), usize::from(count));
        assert_eq!(size_of(&block.header, sizes.into_iter()), encode(&block).expect("small").len(), "{count}");
    }
}

#[test]
fn a_block_holds_no_more_bytes_than_its_limit() {
    let others: Vec<(u8, Role)> = (4..9).map(|n| (n, Role::Member)).collect();
    let mut mesh = Mesh::with(&others);
    let registers: Vec<_> =
        (0..9_u8).flat_map(|by| (0..50_u8).map(move |n| (by, n))).map(|(by, n)| own(&mesh, by, n)).collect();
    mesh.commit(registers);
    let offers: Vec<_> =
        (0..9_u8).flat_map(|by| (0..50_u8).map(move |n| (by, n))).map(|(by, n)| fat_offer(&mesh, by, n)).collect();
    let (mut block, _, refused) = build(&mesh.state, site(0), mesh.now, offers.clone());
    assert!(!refused.is_empty() && refused.iter().all(|(_, refusal)| *refusal == Refusal::BlockFull));
    let (size, one) = (encode(&block).expect("fits").len(), encode(&offers[0]).expect("fits").len());
    assert!(size <= MAX_BLOCK && size + one + HEADER_ROOM > MAX_BLOCK, "{size}: full, and not more");
    assert!(mesh.judge(&block).is_ok());
    let taken = block.records.len();
    seal(&mesh, &mut block, offers.into_iter().take(taken + 1).map(VerifiedRecord::into_signed).collect());
    assert!(matches!(mesh.judge(&block), Err(BadBlock::TooLarge(size)) if size > MAX_BLOCK));
}

fn owned_id(by: u8, n: u8) -> ContainerId {
    let mut id = container(n);
    id.0[15] = by + 100;
    id
}

fn own(mesh: &Mesh, by: u8, n: u8) -> VerifiedRecord {
    let address = Address([10, 77, by + 1, n + 1].into());
    let register = Register { container: owned_id(by, n), address, ..register(1) };
    mesh.sign_as(by, u64::from(n) + 1, Time(mesh.now.0 + 60_000), Message::Register(register))
}

fn fat_offer(mesh: &Mesh, by: u8, n: u8) -> VerifiedRecord {
    let lean = offer(1, 1, &[]);
    let features = (0..MAX_CPU_FEATURES).map(|n| Text::clipped(&format!("{n:0>24}")));
    let needs = Needs { cpu_features: List::first(features), ..lean.needs.clone() };
    let fat = Offer { container: owned_id(by, n), needs, window: MAX_WINDOW, ..lean };
    mesh.sign_as(by, u64::from(n) + 100, Time(mesh.now.0 + 60_000), Message::Offer(fat))
}
