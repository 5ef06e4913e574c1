use std::convert::Infallible;

use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Malformed, Message, decode, encode};

use super::*;
use crate::block::Certificate;
use crate::proof::records_root;
use crate::record::{SignedRecord, record_id};
use crate::refusal::Refusal;
use crate::testing::{Mesh, container, done, member, offer, register, site};

/// A handoff, a change of the validators, and blocks that the new ones decide.
fn honest() -> Mesh {
    let mut mesh = Mesh::new();
    let id = mesh.received(1);
    mesh.say(1, done(id));
    let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
    mesh.say(0, change);
    let change = mesh.membership(1, Change::Remove(site(3)), &[0, 1, 2, 4]);
    mesh.signers = vec![0, 1, 2, 4];
    mesh.say(0, change);
    mesh.signers = vec![0, 1, 4];
    mesh.say(0, Message::Register(register(2)));
    mesh.say(0, Message::Offer(offer(2, 1, &[])));
    mesh.commit_due();
    mesh
}

fn audited(mesh: &Mesh, chain: Vec<Committed>) -> Result<Report, Finding> {
    audit(&mesh.genesis, chain.into_iter().map(Ok::<_, Infallible>))
}

fn finding(mesh: &Mesh, chain: Vec<Committed>) -> (u64, Fault) {
    let Finding { height, fault } = audited(mesh, chain).expect_err("a finding");
    (height.0, fault)
}

#[test]
fn an_honest_ledger_is_accepted() {
    let mesh = honest();
    let report = audited(&mesh, mesh.chain.clone()).expect("honest");
    assert_eq!(report.height, Height(mesh.chain.len() as u64));
    assert_eq!((report.root, report.tip), (mesh.state.root(), mesh.state.tip()));
    assert_eq!((report.records["receipt"], report.records["bid"], report.records["membership"]), (1, 3, 2));
    assert_eq!((report.containers, report.open_offers, report.members), (2, 0, 5));
    assert_eq!(audited(&mesh, Vec::new()).expect("an empty ledger is honest").height, Height(0));
}

#[test]
fn a_flipped_bit_anywhere_is_named_with_its_height() {
    let mesh = honest();
    let at = 1; // of the offer
    let bytes = encode(&mesh.chain[at]).expect("small");
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        let read = mesh.chain.iter().enumerate().map(|(index, committed)| -> Result<Committed, Malformed> {
            decode(if index == at { &flipped } else { return Ok(committed.clone()) })
        });
        let finding = audit(&mesh.genesis, read).expect_err("one bit is enough");
        assert_eq!(finding.height, Height(at as u64 + 1), "byte {place}: {finding:?}");
    }
}

#[test]
fn a_dropped_block_is_named_with_its_height() {
    let mesh = honest();
    for dropped in 0..mesh.chain.len() - 1 {
        let mut chain = mesh.chain.clone();
        chain.remove(dropped);
        let height = dropped as u64 + 1;
        assert!(
            matches!(finding(&mesh, chain), (at, Fault::Missing(got)) if at == height && got.0 == height + 1),
            "block {height}"
        );
    }
}

#[test]
fn a_forged_record_is_named_with_its_height() {
    let mesh = honest();
    // With a certificate as if two thirds of the validators had signed such a block.
    let forge = |bend: fn(&mut SignedRecord)| {
        let mut chain = mesh.chain.clone();
        let block = &mut chain[0].block;
        let mut records = block.records.clone().into_inner();
        bend(&mut records[0]);
        let id = record_id(&block.header.mesh, &records[0]).expect("small");
        block.header.records = records_root(&[id]);
        block.records = List::first(records);
        chain[0].certificate = mesh.certify(&chain[0].block, &[0, 1, 2]);
        finding(&mesh, chain)
    };
    let other_body = forge(|record| record.body.message = Message::Register(register(9)));
    assert!(matches!(other_body, (1, Fault::Block(BadBlock::Forged { index: 0, .. }))), "{other_body:?}");
    let other_author = forge(|record| record.author = site(2));
    assert!(matches!(other_author, (1, Fault::Block(BadBlock::Forged { index: 0, .. }))), "{other_author:?}");
    let other_signature = forge(|record| record.signature.0[0] ^= 1);
    assert!(matches!(other_signature, (1, Fault::Block(BadBlock::Forged { .. }))), "{other_signature:?}");
}

#[test]
fn a_record_that_should_have_been_refused_is_named_with_its_height() {
    let mut mesh = honest();
    let record = mesh.sign(0, Message::Register(register(1)));
    let (mut block, _, _) = crate::rules::build(&mesh.state, site(0), mesh.now, Vec::new());
    block.header.time = Time(mesh.now.0 + 1);
    block.header.records = records_root(&[mesh.id(&record)]);
    block.records = List::first([record.into_signed()]);
    let certificate = mesh.certify(&block, &[0, 1, 2, 4]);
    let mut chain = mesh.chain.clone();
    let height = chain.len() as u64 + 1;
    let found = finding(&mesh, {
        chain.push(Committed { block, certificate });
        chain
    });
    let Fault::Block(BadBlock::Refused { source, .. }) = &found.1 else { panic!("{found:?}") };
    assert_eq!((found.0, source), (height, &Refusal::ContainerKnown(container(1))));
}

#[test]
fn a_certificate_of_too_few_or_wrong_validators_is_named_with_its_height() {
    let mesh = honest();
    let signed_by = |at: usize, signers: &[u8]| {
        let mut chain = mesh.chain.clone();
        chain[at].certificate = mesh.certify(&chain[at].block, signers);
        let Err(Finding { height, fault }) = audited(&mesh, chain) else { return None };
        let Fault::Certificate(bad) = fault else { panic!("{fault:?}") };
        Some((height.0, bad))
    };
    assert_eq!(signed_by(3, &[0, 2]), Some((4, BadCertificate::TooFew { votes: 2, of: 4 })));
    assert_eq!(signed_by(3, &[0, 2, 2]), Some((4, BadCertificate::Twice(site(2)))));
    assert_eq!(signed_by(3, &[0, 1, 4]), Some((4, BadCertificate::NotAValidator(site(4)))));
    assert_eq!(signed_by(3, &[3, 0, 1, 2]), None);
    // Who was removed has no vote any more, who joined has one.
    let last = mesh.chain.len() - 1;
    let height = mesh.chain.len() as u64;
    assert_eq!(signed_by(last, &[0, 1, 2, 3]), Some((height, BadCertificate::NotAValidator(site(3)))));
    assert_eq!(signed_by(last, &[1, 2, 4]), None);
}

#[test]
fn a_certificate_of_another_round_block_or_height_is_named() {
    let mesh = honest();
    let with = |bend: &dyn Fn(&mut Vec<Committed>)| {
        let mut chain = mesh.chain.clone();
        bend(&mut chain);
        finding(&mesh, chain)
    };
    let round = with(&|chain| chain[2].certificate.round = 1);
    assert!(matches!(round, (3, Fault::Certificate(BadCertificate::Forged(_)))), "{round:?}");
    let height = with(&|chain| chain[2].certificate.height = Height(4));
    assert!(matches!(height, (3, Fault::Certificate(BadCertificate::Height { .. }))), "{height:?}");
    let other = with(&|chain| chain[2].certificate = Certificate { height: Height(3), ..chain[1].certificate.clone() });
    assert!(matches!(other, (3, Fault::Certificate(BadCertificate::Block { .. }))), "{other:?}");
}

#[test]
fn another_genesis_is_another_ledger() {
    let mut mesh = honest();
    let chain = mesh.chain.clone();
    mesh.genesis.clock_bound_ms += 1;
    let found = finding(&mesh, chain.clone());
    assert!(matches!(found, (1, Fault::Block(BadBlock::Mesh(_)))), "{found:?}");
    mesh.genesis.prefix = 31;
    assert!(matches!(finding(&mesh, chain), (0, Fault::Genesis(BadGenesis::Range(..)))));
}

#[test]
fn all_signatures_are_counted_and_progress_ends_at_the_tip() {
    let mesh = honest();
    let mut last = Progress::default();
    let bytes = mesh.chain.iter().map(|committed| Ok::<_, Infallible>(encode(committed).expect("small")));
    let report = Auditor::new(&mesh.genesis).expect("a genesis").run(bytes, &mut |at| last = at).expect("honest");
    let votes: usize = mesh.chain.iter().map(|committed| committed.certificate.signatures.len()).sum();
    let records: usize = mesh.chain.iter().map(|committed| committed.block.records.len()).sum();
    assert_eq!(report.signatures, (votes + records) as u64);
    assert_eq!(last, Progress { height: report.height, signatures: report.signatures });
    assert_eq!(report, audited(&mesh, mesh.chain.clone()).expect("honest"), "bytes or blocks");
}

#[test]
fn more_blocks_than_the_pipeline_holds_are_judged_in_their_order() {
    let mut mesh = Mesh::new();
    for n in 0..200 {
        mesh.say(n % 4, Message::Register(register(n + 2)));
    }
    assert_eq!(audited(&mesh, mesh.chain.clone()).expect("honest").height, Height(200));
    for at in [0, 63, 64, 130, 199] {
        let mut chain = mesh.chain.clone();
        for later in &mut chain[at..] {
            later.certificate.signatures = List::default();
        }
        assert_eq!(finding(&mesh, chain).0, at as u64 + 1);
    }
}

/// A checkpoint at a block of the honest ledger, and that ledger with a certificate removed at another.
fn trusting(height: u64, bare: usize, hash: Option<Hash>) -> Result<Report, Finding> {
    let mesh = honest();
    let mut chain = mesh.chain.clone();
    chain[bare - 1].certificate.signatures = List::default();
    let trusted = usize::try_from(height).ok().and_then(|height| mesh.chain.get(height - 1));
    let hash = hash.or_else(|| Some(trusted?.block.header.hash())).unwrap_or(Hash::ZERO);
    let auditor = Auditor::new(&mesh.genesis).expect("a genesis");
    let auditor = auditor.trusting(Some(Checkpoint { height: Height(height), hash }));
    auditor.run(chain.into_iter().map(Ok::<_, Infallible>), &mut |_| {})
}

#[test]
fn up_to_a_trusted_block_its_hash_stands_for_the_certificates() {
    assert!(trusting(4, 3, None).is_ok());
    assert!(trusting(4, 4, None).is_ok());
    let found = trusting(4, 5, None).expect_err("no certificate behind it");
    assert!(matches!(found, Finding { height: Height(5), fault: Fault::Certificate(_) }), "{found:?}");
    let found = trusting(4, 3, Some(Hash([7; 32]))).expect_err("another block is trusted");
    assert!(matches!(found, Finding { height: Height(4), fault: Fault::Checkpoint(_) }), "{found:?}");
    let found = trusting(1000, 3, None).expect_err("nothing shows that it leads to what is trusted");
    assert!(matches!(found, Finding { height: Height(1000), fault: Fault::Ends }), "{found:?}");
}

#[test]
fn records_are_verified_before_a_trusted_block_too() {
    let mesh = honest();
    let mut chain = mesh.chain.clone();
    let mut records = chain[0].block.records.clone().into_inner();
    records[0].signature.0[0] ^= 1;
    chain[0].block.records = List::first(records);
    let checkpoint = Checkpoint { height: Height(3), hash: mesh.chain[2].block.header.hash() };
    let auditor = Auditor::new(&mesh.genesis).expect("a genesis").trusting(Some(checkpoint));
    let found = auditor.run(chain.into_iter().map(Ok::<_, Infallible>), &mut |_| {}).expect_err("forged");
    assert!(matches!(found.fault, Fault::Block(BadBlock::Forged { index: 0, .. })), "{found:?}");
}

#[test]
fn a_checkpoint_is_read_as_it_is_written() {
    let hash = Hash([0xab; 32]);
    assert_eq!(format!("17:{hash}").parse(), Ok(Checkpoint { height: Height(17), hash }));
    for text in ["", "17", ":", "17:ab", &format!("0:{hash}"), &format!("-1:{hash}"), &format!("x:{hash}")] {
        assert_eq!(text.parse::<Checkpoint>(), Err(NoCheckpoint), "{text}");
    }
}
