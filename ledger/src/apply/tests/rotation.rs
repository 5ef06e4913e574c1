//! `Membership` that gives a member another key.

use godwit_protocol::membership::{Change, Role, Rotation};
use godwit_protocol::{Epoch, Event, MeshId, Message, Signed, SiteId};

use super::refuses;
use crate::block::Height;
use crate::refusal::Refusal;
use crate::state::Phase;
use crate::testing::{Mesh, abort, bid, container, key, member, offer, register, site};

fn rotate(mesh: &Mesh, epoch: u64, old: u8, new: u8) -> Message {
    let change = mesh.rotation(old, new);
    mesh.membership(epoch, change, &[0, 1, 2])
}

#[test]
fn a_new_key_signs_for_itself_and_was_nobodys_before() {
    let mut mesh = Mesh::new();
    mesh.say(4, Message::Register(register(4)));
    let gone = mesh.membership(0, Change::Remove(site(4)), &[0, 1, 2]);
    mesh.say(0, gone);
    let signed = |mesh: &Mesh, of: MeshId, old: u8| {
        let rotation = Signed::sign(&of, &key(9), Rotation { old: site(old) }).expect("small").into_signed();
        mesh.membership(1, Change::Rotate(rotation), &[0, 1, 2])
    };
    let elsewhere = signed(&mesh, MeshId([7; 32]), 3);
    let Change::Rotate(mut lent) = mesh.rotation(3, 9) else { panic!("a rotation") };
    lent.author = site(8);
    let lent = mesh.membership(1, Change::Rotate(lent), &[0, 1, 2]);
    let Change::Rotate(mut weak) = mesh.rotation(3, 9) else { panic!("a rotation") };
    weak.author = SiteId([0; 32]);
    let weak = mesh.membership(1, Change::Rotate(weak), &[0, 1, 2]);
    let few = {
        let change = mesh.rotation(3, 9);
        mesh.membership(1, change, &[0, 1])
    };
    let cases = vec![
        (0, elsewhere, Refusal::RotationForged),
        (0, lent, Refusal::RotationForged),
        (0, weak, Refusal::NotAKey(SiteId([0; 32]))),
        (0, signed(&mesh, mesh.state.mesh(), 8), Refusal::UnknownMember(site(8))),
        (0, rotate(&mesh, 1, 3, 2), Refusal::KeyUsed(site(2))),
        (0, rotate(&mesh, 1, 3, 4), Refusal::KeyUsed(site(4))),
        (0, rotate(&mesh, 0, 3, 9), Refusal::WrongMembership { current: 1, got: 0 }),
        (0, few, Refusal::TooFewApprovals { votes: 2, of: 4 }),
    ];
    refuses(&mut mesh, cases);
    let change = rotate(&mesh, 1, 3, 9);
    mesh.say(0, change);
}

#[test]
fn vote_containers_and_sequence_go_over_to_the_new_key() {
    let mut mesh = Mesh::new();
    mesh.say(3, Message::Register(register(1)));
    let used = mesh.state.next_sequence(&site(3));
    let change = rotate(&mesh, 0, 3, 9);
    let record = mesh.sign(0, change);
    let events = mesh.commit(vec![record]);
    assert!(matches!(events.as_slice(), [Event::MembershipChanged { change: Change::Rotate(_) }]));
    let state = &mesh.state;
    assert_eq!(state.member(&site(3)), None);
    let renamed = state.member(&site(9)).expect("a member");
    assert_eq!((renamed.role, renamed.name.as_str()), (Role::Validator, "site-3"));
    assert!(state.validators().contains(&site(9)) && !state.validators().contains(&site(3)));
    assert_eq!(state.seat(&site(9)).map(|seat| seat.since), Some(Height(3)));
    let held = state.container(&container(1)).expect("registered");
    assert_eq!((held.owner, held.epoch), (site(9), Epoch(2)), "an epoch has one owner");
    assert_eq!(state.next_sequence(&site(9)), used);
    mesh.signers = vec![0, 1, 9];
    refuses(&mut mesh, vec![(3, Message::Offer(offer(1, 2, &[])), Refusal::NotAMember(site(3)))]);
    mesh.say(9, Message::Offer(offer(1, 2, &[0, 1, 2])));
    // And the key that was given up says nothing any more, even if it is admitted again.
    let back = mesh.membership(1, Change::Put(member(3, Role::Member)), &[0, 1, 9]);
    mesh.say(0, back);
    let replayed = mesh.sign_as(3, used - 1, mesh.now, Message::Register(register(7)));
    assert_eq!(
        mesh.refusal_of(replayed),
        Refusal::Expired { expires: mesh.now, at: godwit_protocol::Time(mesh.now.0 + 10) }
    );
    let expires = godwit_protocol::Time(mesh.now.0 + 60_000);
    let replayed = mesh.sign_as(3, used - 1, expires, Message::Register(register(7)));
    assert_eq!(mesh.refusal_of(replayed), Refusal::SequenceUsed { sequence: used - 1 });
}

#[test]
fn a_party_of_an_open_offer_keeps_its_key_until_it_has_ended() {
    let mut mesh = Mesh::new();
    let id = mesh.awarded(1); // site 0's; 1 wins, then 2, then 3
    let party = |n| Refusal::PartyOf { site: site(n), offer: id };
    let cases = vec![(0, rotate(&mesh, 0, 0, 9), party(0)), (0, rotate(&mesh, 0, 1, 9), party(1))];
    refuses(&mut mesh, cases);
    assert!(party(0).may_pass_later());
    // A runner-up may go: it is passed over.
    let change = rotate(&mesh, 0, 2, 8);
    mesh.say(0, change);
    mesh.signers = vec![0, 1, 3];
    let declined = mesh.sign(1, crate::testing::decline(id, 1));
    assert!(
        matches!(mesh.commit(vec![declined]).as_slice(), [Event::Passed { attempt: 3, winner, .. }] if *winner == site(3))
    );
    mesh.say(0, abort(id, 3, godwit_protocol::abort::Then::End));
    let change = mesh.rotation(0, 9);
    let change = mesh.membership(1, change, &[0, 1, 3]);
    mesh.say(1, change);
    assert_eq!(mesh.state.container(&container(1)).expect("registered").owner, site(9));
}

#[test]
fn who_rotates_in_a_block_wins_nothing_in_it() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, bid(id, 10));
    mesh.say(2, bid(id, 20));
    let change = rotate(&mesh, 0, 1, 9);
    let records = vec![mesh.sign(0, change), mesh.sign(3, bid(id, 500))];
    mesh.commit(records);
    let open = mesh.state.offer(&id).expect("open");
    assert_eq!((open.phase, open.winner()), (Phase::Awarded, Some(site(2))), "the best bid was by a key that is gone");
}

#[test]
fn a_suspended_member_does_not_escape_by_a_new_key() {
    let mut mesh = Mesh::new();
    let evidence = mesh.accuse(3, 1);
    mesh.say(0, evidence);
    let change = rotate(&mesh, 1, 3, 9);
    refuses(&mut mesh, vec![(0, change, Refusal::Suspended(site(3)))]);
}
