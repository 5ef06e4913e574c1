//! `Evidence`: what proves a contradiction, and what becomes of who is convicted.

use godwit_protocol::evidence::{Evidence, Sentence};
use godwit_protocol::membership::{Change, Role};
use godwit_protocol::vote::{Height, Proposal, Vote, VoteKind};
use godwit_protocol::{Event, Hash, Message, Signed};

use super::refuses;
use crate::apply::EVIDENCE_WINDOW;
use crate::refusal::Refusal;
use crate::rules::build;
use crate::testing::{Mesh, bid, done, key, member, offer, ready, register, site};

fn votes(one: Signed<Vote>, other: Signed<Vote>) -> Message {
    Message::Evidence(Evidence::Votes(one, other))
}

fn bent(mesh: &Mesh, by: u8, bend: impl FnOnce(&mut Vote)) -> Signed<Vote> {
    let mut vote = mesh.vote(by, 1, Some(2)).body;
    bend(&mut vote);
    Signed::sign(&mesh.state.mesh(), &key(by), vote).expect("small").into_signed()
}

fn proposal(mesh: &Mesh, by: u8, block: u8, polka: Option<u32>) -> Signed<Proposal> {
    let (height, block) = (Height(1), Hash([block; 32]));
    let body = Proposal { height, round: 3, block, polka, proposer: site(by) };
    Signed::sign(&mesh.state.mesh(), &key(by), body).expect("small").into_signed()
}

/// Five validators, of which one can be removed, and one more that is about to be.
fn five() -> Mesh {
    Mesh::with(&[(4, Role::Validator), (5, Role::Observer), (6, Role::Member)])
}

#[test]
fn evidence_is_two_signed_words_of_one_validator_that_exclude_each_other() {
    let mut mesh = Mesh::new();
    let one = mesh.vote(3, 1, Some(1));
    let no = Refusal::NoContradiction;
    let mut cases: Vec<(u8, Message, Refusal)> = vec![
        (0, votes(one.clone(), one.clone()), no.clone()),
        (0, votes(one.clone(), mesh.vote(2, 1, Some(2))), no.clone()),
        (0, votes(one.clone(), bent(&mesh, 3, |vote| vote.round = 1)), no.clone()),
        (0, votes(one.clone(), bent(&mesh, 3, |vote| vote.kind = VoteKind::Prevote)), no.clone()),
        (0, votes(one.clone(), bent(&mesh, 3, |vote| vote.height = Height(2))), no.clone()),
        (0, votes(one.clone(), bent(&mesh, 3, |vote| vote.validator = site(2))), no.clone()),
    ];
    // A re-proposal of the same block on another polka is no second block.
    let again = Evidence::Proposals(proposal(&mesh, 3, 1, None), proposal(&mesh, 3, 1, Some(0)));
    cases.push((0, Message::Evidence(again), no));
    let mut forged = mesh.vote(3, 1, Some(2));
    forged.signature.0[5] ^= 1;
    cases.push((0, votes(one.clone(), forged.clone()), Refusal::EvidenceForged));
    cases.push((0, votes(forged, one), Refusal::EvidenceForged));
    let elsewhere = Mesh::with(&[]).evidence(3, 1);
    cases.push((0, Message::Evidence(elsewhere), Refusal::EvidenceForged));
    refuses(&mut mesh, cases);
    let two = Evidence::Proposals(proposal(&mesh, 3, 1, None), proposal(&mesh, 3, 2, Some(0)));
    mesh.say(4, Message::Evidence(two));
    assert!(mesh.state.is_suspended(&site(3)));
}

#[test]
fn any_member_may_append_it_and_nobody_else() {
    let mut mesh = five();
    let evidence = mesh.accuse(3, 1);
    refuses(
        &mut mesh,
        vec![(5, evidence.clone(), Refusal::Observer(site(5))), (9, evidence.clone(), Refusal::NotAMember(site(9)))],
    );
    mesh.say(6, evidence);
}

#[test]
fn only_who_could_vote_is_judged_and_not_for_what_is_ahead_or_far_back() {
    let mut mesh = five();
    let ahead = Refusal::EvidenceAhead { height: Height(2), next: Height(1) };
    let none = |by: u8, height: u64| Refusal::NoVoteThen { site: site(by), height: Height(height) };
    let cases = vec![
        (0, mesh.accuse(3, 2), ahead.clone()),
        (0, mesh.accuse(6, 1), none(6, 1)),
        (0, mesh.accuse(3, 0), none(3, 0)),
        (0, mesh.accuse(9, 1), Refusal::UnknownMember(site(9))),
    ];
    refuses(&mut mesh, cases);
    assert!(ahead.may_pass_later());
    // 6 votes from height 2 on, until 3.
    for (epoch, role) in [(0, Role::Validator), (1, Role::Member)] {
        let change = mesh.membership(epoch, Change::Put(member(6, role)), &[0, 1, 2, 3, 4]);
        mesh.say(0, change);
        mesh.say(0, Message::Register(register(u8::try_from(epoch).expect("small") + 1)));
    }
    let cases = vec![(0, mesh.accuse(6, 1), none(6, 1)), (0, mesh.accuse(6, 4), none(6, 4))];
    refuses(&mut mesh, cases);
    let header =
        crate::block::Header { height: Height(EVIDENCE_WINDOW + 3), ..mesh.state.header().expect("one").clone() };
    let mut late = mesh.state.clone();
    late.advance(&header);
    let old = Refusal::EvidenceOld { height: Height(3), least: Height(4) };
    assert_eq!(late.judge(&mesh.evidence(3, 3)), Err(old));
    assert_eq!(late.judge(&mesh.evidence(3, 4)), Ok(Sentence::Removed));
    let evidence = mesh.accuse(6, 3);
    mesh.say(1, evidence);
    assert_eq!(mesh.state.member(&site(6)), None, "a former validator has left");
}

#[test]
fn where_four_others_are_left_the_culprit_leaves_at_the_next_height() {
    let mut mesh = five();
    let before = mesh.state.validators_hash();
    let record = mesh.accuse(3, 1);
    let record = mesh.sign(0, record);
    let events = mesh.commit(vec![record]);
    let expected = [
        Event::Punished { site: site(3), height: Height(1), sentence: Sentence::Removed },
        Event::MembershipChanged { change: Change::Remove(site(3)) },
    ];
    assert_eq!(events, expected);
    assert_eq!(mesh.chain.last().expect("a block").block.header.validators, before);
    assert_eq!((mesh.state.validators().len(), mesh.state.membership_epoch()), (4, 1));
    let again = mesh.accuse(3, 1);
    refuses(
        &mut mesh,
        vec![
            (0, again, Refusal::UnknownMember(site(3))),
            (3, Message::Register(register(1)), Refusal::NotAMember(site(3))),
        ],
    );
    // Admitted again, it starts anew: what was before is judged.
    let change = mesh.membership(1, Change::Put(member(3, Role::Validator)), &[0, 1, 2]);
    mesh.say(0, change);
    let (past, none) = (mesh.accuse(3, 1), Refusal::NoVoteThen { site: site(3), height: Height(1) });
    refuses(&mut mesh, vec![(0, past, none)]);
}

#[test]
fn one_of_four_keeps_its_vote_and_loses_the_rest_until_it_is_put_back() {
    let mut mesh = Mesh::new();
    mesh.say(3, Message::Register(register(3)));
    let record = mesh.accuse(3, 1);
    let record = mesh.sign(4, record);
    let events = mesh.commit(vec![record]);
    let expected = [Event::Punished { site: site(3), height: Height(1), sentence: Sentence::Suspended }];
    assert_eq!(events, expected);
    assert!(mesh.state.validators().contains(&site(3)) && !mesh.state.is_eligible(&site(3)));
    assert_eq!(mesh.state.roles()[&site(3)], Role::Observer);
    mesh.say(0, Message::Register(register(1)));
    let again = mesh.accuse(3, 2);
    let cases = vec![
        (3, Message::Register(register(2)), Refusal::Suspended(site(3))),
        (3, Message::Offer(offer(3, 1, &[])), Refusal::Suspended(site(3))),
        (0, Message::Offer(offer(1, 1, &[1, 2, 3])), Refusal::NamedNotEligible(site(3))),
        (0, again, Refusal::AlreadySuspended(site(3))),
    ];
    refuses(&mut mesh, cases);
    let open = mesh.say(0, Message::Offer(offer(1, 1, &[1, 2, 4])));
    refuses(&mut mesh, vec![(3, bid(open, 1), Refusal::Suspended(site(3)))]);
    // Its vote still counts, in blocks as in approvals.
    mesh.signers = vec![0, 1, 3];
    mesh.say(1, bid(open, 5));
    let change = mesh.membership(1, Change::Put(member(3, Role::Validator)), &[0, 1, 3]);
    mesh.say(0, change);
    assert!(mesh.state.is_eligible(&site(3)));
    let (height, past) = (Height(2), mesh.accuse(3, 2));
    refuses(&mut mesh, vec![(0, past, Refusal::NoVoteThen { site: site(3), height })]);
    mesh.say(3, bid(open, 1));
}

#[test]
fn who_is_suspended_finishes_a_handoff_that_it_is_a_party_of() {
    let mut mesh = Mesh::new();
    let open = mesh.awarded(1); // 1 wins, then 2, then 3
    for culprit in [1, 2] {
        let evidence = mesh.accuse(culprit, 1);
        mesh.say(0, evidence);
    }
    mesh.say(1, ready(open, 1));
    refuses(&mut mesh, vec![(2, ready(open, 1), Refusal::Suspended(site(2)))]);
    let receipt = mesh.receipt(open, 1, 1);
    mesh.say(1, receipt);
    mesh.say(1, done(open));
    refuses(&mut mesh, vec![(1, Message::Offer(offer(1, 2, &[])), Refusal::Suspended(site(1)))]);
}

#[test]
fn a_block_brings_one_punishment_or_change_and_the_rest_waits() {
    let mut mesh = Mesh::with(&[(4, Role::Validator), (6, Role::Validator), (7, Role::Validator)]);
    let (first, second) = (mesh.accuse(3, 1), mesh.accuse(4, 1));
    let change = mesh.membership(0, Change::Put(member(8, Role::Member)), &[0, 1, 2, 3, 4]);
    let records = vec![mesh.sign(0, first), mesh.sign(0, second.clone()), mesh.sign(1, change)];
    let (block, applied, refused) = build(&mesh.state, site(0), mesh.now, records);
    assert_eq!(block.records.len(), 1);
    assert!(refused.iter().all(|(_, refusal)| *refusal == Refusal::MembershipPending && refusal.may_pass_later()));
    assert_eq!(applied.state.validators().len(), 6);
    mesh.say(0, second);
    assert_eq!(mesh.state.validators().len(), 6);
}
