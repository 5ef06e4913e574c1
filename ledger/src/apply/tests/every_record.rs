//! What holds for every record, whatever it says.

use godwit_protocol::membership::{Change, Role};
use godwit_protocol::{Event, Message, Time};

use super::refuses;
use crate::record::{MAX_LIFETIME_MS, SEQUENCE_WINDOW};
use crate::refusal::Refusal;
use crate::rules::build;
use crate::testing::{Mesh, bid, key, member, ready, register, site};

#[test]
fn only_members_and_validators_write() {
    let mut mesh = Mesh::new();
    mesh.say(4, Message::Register(register(1)));
    refuses(
        &mut mesh,
        vec![
            (5, Message::Register(register(2)), Refusal::Observer(site(5))),
            (9, Message::Register(register(2)), Refusal::NotAMember(site(9))),
        ],
    );
}

#[test]
fn a_record_lives_until_its_expiry_and_is_not_given_too_long_a_life() {
    let mesh = Mesh::new();
    let at = Time(mesh.now.0 + 10); // the time at which refusals are tried
    let with_expiry = |expires| mesh.sign_as(0, 1, Time(expires), Message::Register(register(1)));
    let (expires, late) = (Time(at.0 - 1), Time(at.0 + MAX_LIFETIME_MS + 1));
    assert_eq!(mesh.refusal_of(with_expiry(expires.0)), Refusal::Expired { expires, at });
    assert_eq!(mesh.refusal_of(with_expiry(late.0)), Refusal::LifetimeTooLong { expires: late, at });
    for expires in [at.0, at.0 + MAX_LIFETIME_MS] {
        let record = with_expiry(expires);
        assert_eq!(mesh.state.check(&record, at), Ok(()));
    }
}

#[test]
fn a_sequence_number_serves_once() {
    let mut mesh = Mesh::new();
    let expires = Time(mesh.now.0 + 60_000);
    let first = mesh.sign_as(0, 7, expires, Message::Register(register(1)));
    assert_eq!(mesh.state.next_sequence(&site(0)), 1);
    mesh.commit(vec![first.clone()]);
    assert_eq!(mesh.state.next_sequence(&site(0)), 8);
    assert_eq!(mesh.refusal_of(first), Refusal::SequenceUsed { sequence: 7 });
    let other = mesh.sign_as(0, 7, expires, Message::Register(register(2)));
    assert_eq!(mesh.refusal_of(other), Refusal::SequenceUsed { sequence: 7 });
    let far = mesh.sign_as(0, 8 + SEQUENCE_WINDOW, expires, Message::Register(register(2)));
    assert_eq!(mesh.refusal_of(far), Refusal::SequenceAhead { sequence: 8 + SEQUENCE_WINDOW, top: 7 });
    let gap = mesh.sign_as(0, 7 + SEQUENCE_WINDOW, expires, Message::Register(register(2)));
    let within = mesh.sign_as(0, 8, expires, Message::Register(register(3)));
    mesh.commit(vec![gap, within]);
    let old = mesh.sign_as(0, 6, expires, Message::Register(register(4)));
    assert_eq!(mesh.refusal_of(old), Refusal::SequenceOld { sequence: 6, top: 7 + SEQUENCE_WINDOW });
    let others = mesh.sign_as(1, 8, expires, Message::Register(register(4)));
    mesh.commit(vec![others]);
}

#[test]
fn a_refused_record_does_not_use_up_its_number() {
    let mut mesh = Mesh::new();
    let expires = Time(mesh.now.0 + 60_000);
    mesh.say(0, Message::Register(register(1)));
    let refused = mesh.sign_as(1, 50, expires, Message::Register(register(1)));
    mesh.refusal_of(refused);
    let retried = mesh.sign_as(1, 50, expires, Message::Register(register(2)));
    mesh.commit(vec![retried]);
}

#[test]
fn of_one_record_twice_in_a_block_the_second_is_left_out() {
    let mut mesh = Mesh::new();
    let record = mesh.sign(0, Message::Register(register(1)));
    let sequence = record.body.sequence;
    let (block, _, refused) = build(&mesh.state, site(0), mesh.now, vec![record.clone(), record.clone()]);
    assert_eq!(block.records.len(), 1);
    assert_eq!(refused, vec![(mesh.id(&record), Refusal::SequenceUsed { sequence })]);
}

#[test]
fn parties_of_an_open_handoff_keep_their_rights_in_it_and_nothing_else() {
    let mut mesh = Mesh::new();
    let offer = mesh.awarded(1); // 1 wins, then 2, then 3
    for (epoch, gone, approvers) in [(0, 1, [0, 2, 3]), (1, 2, [0, 2, 3])] {
        let change = mesh.membership(epoch, Change::Remove(site(gone)), &approvers);
        mesh.say(0, change);
    }
    // The winner left the mesh and may finish; the runner-up is no party; the winner may begin nothing new.
    mesh.say(1, ready(offer, 1));
    refuses(
        &mut mesh,
        vec![
            (1, Message::Register(register(2)), Refusal::NotAMember(site(1))),
            (2, ready(offer, 1), Refusal::NotAMember(site(2))),
            (1, bid(offer, 1), Refusal::BiddingOver),
        ],
    );
    let receipt = mesh.receipt(offer, 1, 1);
    mesh.say(1, receipt);
    mesh.say(1, crate::testing::done(offer));
    refuses(&mut mesh, vec![(1, crate::testing::done(offer), Refusal::NotAMember(site(1)))]);
}

#[test]
fn who_left_the_mesh_is_passed_over_by_the_award_and_by_the_attempts_after_it() {
    let mut mesh = Mesh::with(&[(4, Role::Member), (6, Role::Member), (7, Role::Member)]);
    mesh.say(0, Message::Register(register(1)));
    let offer = mesh.say(0, Message::Offer(crate::testing::offer(1, 1, &[])));
    for (by, load) in [(6, 100), (1, 200), (4, 300), (2, 400)] {
        mesh.say(by, bid(offer, load));
    }
    let change = mesh.membership(0, Change::Remove(site(6)), &[0, 1, 2]);
    mesh.say(0, change);
    let events = mesh.commit_due();
    let [Event::Awarded { award, .. }] = events.as_slice() else { panic!("the award: {events:?}") };
    assert_eq!(award.ranking.iter().map(|ranked| ranked.site).collect::<Vec<_>>(), [site(1), site(4), site(2)]);
    let change = mesh.membership(1, Change::Put(member(4, Role::Observer)), &[0, 1, 2]);
    mesh.say(0, change);
    let decline = mesh.sign(1, crate::testing::decline(offer, 1));
    let events = mesh.commit(vec![decline]);
    assert!(
        matches!(events.as_slice(), [Event::Passed { attempt: 3, winner, .. }] if *winner == site(2)),
        "the observer is passed over: {events:?}"
    );
    assert_eq!(mesh.state.offer(&offer).expect("open").winner(), Some(site(2)));
}

#[test]
fn a_removed_author_that_comes_back_cannot_be_replayed() {
    let mut mesh = Mesh::new();
    let record = mesh.sign(4, Message::Register(register(1)));
    let sequence = record.body.sequence;
    mesh.commit(vec![record.clone()]);
    let change = mesh.membership(0, Change::Remove(site(4)), &[0, 1, 2]);
    mesh.say(0, change);
    let change = mesh.membership(1, Change::Put(member(4, Role::Member)), &[0, 1, 2]);
    mesh.say(0, change);
    assert_eq!(mesh.refusal_of(record), Refusal::SequenceUsed { sequence });
    assert_eq!(key(4).verifying_key().to_bytes(), site(4).0);
}
