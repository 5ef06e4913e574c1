//! `Membership`.

use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, MAX_VALIDATORS, Member, Membership, Role};
use godwit_protocol::{Event, Message, SiteId};

use super::refuses;
use crate::apply::membership::MAX_MEMBERS;
use crate::block::validators_hash;
use crate::refusal::Refusal;
use crate::rules::build;
use crate::testing::{Mesh, member, register, site};

fn put(n: u8, role: Role) -> Change {
    Change::Put(member(n, role))
}

#[test]
fn a_change_takes_a_validator_and_two_thirds_of_them_on_this_very_change() {
    let mut mesh = Mesh::new();
    let change = || put(6, Role::Member);
    let swapped = |signed: Message, change: Change| {
        let Message::Membership(mut membership) = signed else { panic!("a membership") };
        membership.proposal.change = change;
        Message::Membership(membership)
    };
    let Message::Membership(mut forged) = mesh.membership(0, change(), &[0, 1, 2]) else { panic!("a membership") };
    let mut bent = forged.approvals.clone().into_inner();
    bent[2].signature.0[40] ^= 1;
    forged.approvals = List::first(bent);
    let weak = {
        let mut nobody = member(6, Role::Member);
        nobody.site = SiteId([0; 32]);
        nobody
    };
    let cases = vec![
        (4, mesh.membership(0, change(), &[0, 1, 2]), Refusal::NotAValidator),
        (0, mesh.membership(1, change(), &[0, 1, 2]), Refusal::WrongMembership { current: 0, got: 1 }),
        (0, mesh.membership(0, change(), &[0, 1]), Refusal::TooFewApprovals { votes: 2, of: 4 }),
        (0, mesh.membership(0, change(), &[]), Refusal::TooFewApprovals { votes: 0, of: 4 }),
        (0, mesh.membership(0, change(), &[0, 1, 1]), Refusal::ApprovedTwice(site(1))),
        (0, mesh.membership(0, change(), &[0, 1, 4]), Refusal::ApproverNotAValidator(site(4))),
        (0, mesh.membership(0, change(), &[0, 1, 9]), Refusal::ApproverNotAValidator(site(9))),
        (
            0,
            swapped(mesh.membership(0, change(), &[0, 1, 2]), put(7, Role::Validator)),
            Refusal::ApprovedOther(site(0)),
        ),
        (0, Message::Membership(forged), Refusal::ApprovalForged(site(2))),
        (0, mesh.membership(0, put(4, Role::Member), &[0, 1, 2]), Refusal::NoChange),
        (0, mesh.membership(0, Change::Put(weak), &[0, 1, 2]), Refusal::NotAKey(SiteId([0; 32]))),
        (0, mesh.membership(0, Change::Remove(site(9)), &[0, 1, 2]), Refusal::UnknownMember(site(9))),
    ];
    refuses(&mut mesh, cases);
    let message = mesh.membership(0, change(), &[0, 1, 2]);
    mesh.say(0, message);
    assert_eq!(mesh.state.member(&site(6)), Some(&member(6, Role::Member)));
    // The approvals of a change serve for no second one.
    let again = mesh.membership(0, Change::Remove(site(6)), &[0, 1, 2]);
    refuses(&mut mesh, vec![(0, again, Refusal::WrongMembership { current: 1, got: 0 })]);
}

#[test]
fn a_change_acts_from_the_next_height() {
    let mut mesh = Mesh::new();
    let before = mesh.state.validators_hash();
    let message = mesh.membership(0, put(4, Role::Validator), &[0, 1, 2]);
    let gone = mesh.membership(0, Change::Remove(site(3)), &[0, 1, 2]);
    let records = vec![
        mesh.sign(0, message),
        mesh.sign(1, gone),
        mesh.sign(9, Message::Register(register(1))), // would need to be a member already
    ];
    let (block, applied, refused) = build(&mesh.state, site(0), mesh.now, records);
    assert_eq!(block.header.validators, before);
    let refusals: Vec<Refusal> = refused.into_iter().map(|(_, refusal)| refusal).collect();
    assert_eq!(refusals, vec![Refusal::MembershipPending, Refusal::NotAMember(site(9))]);
    let mut five: Vec<SiteId> = (0..5).map(site).collect();
    five.sort();
    assert_eq!(applied.state.validators(), five);
    assert_eq!(applied.state.validators_hash(), validators_hash(&five));
    assert!(matches!(applied.events.as_slice(), [Event::MembershipChanged { .. }]));
}

#[test]
fn a_member_that_joins_writes_from_the_next_block_on() {
    let mut mesh = Mesh::new();
    let early = mesh.sign(6, Message::Register(register(1)));
    let joins = mesh.membership(0, put(6, Role::Member), &[1, 2, 3]);
    let joins = mesh.sign(2, joins);
    let (block, _, refused) = build(&mesh.state, site(0), mesh.now, vec![joins.clone(), early.clone()]);
    assert_eq!((block.records.len(), refused.len()), (1, 1));
    assert!(refused[0].1.may_pass_later());
    mesh.commit(vec![joins]);
    mesh.commit(vec![early]);
}

#[test]
fn there_is_always_a_validator_and_never_too_many() {
    let mut mesh = Mesh::new();
    let mut epoch = 0;
    for gone in [3, 2, 1] {
        let approvers: Vec<u8> = (0..=gone).collect();
        let change = mesh.membership(epoch, put(gone, Role::Member), &approvers);
        mesh.say(0, change);
        epoch += 1;
    }
    let cases = vec![
        (0, mesh.membership(epoch, put(0, Role::Member), &[0]), Refusal::Validators(0)),
        (0, mesh.membership(epoch, Change::Remove(site(0)), &[0]), Refusal::Validators(0)),
    ];
    refuses(&mut mesh, cases);
    let most = u8::try_from(MAX_VALIDATORS).expect("small");
    let (mut validators, mut next) = (vec![0_u8], 10);
    while validators.len() < MAX_VALIDATORS {
        let change = mesh.membership(epoch, put(next, Role::Validator), &validators);
        mesh.say(0, change);
        validators.push(next);
        (epoch, next) = (epoch + 1, next + 1);
    }
    let too_many = mesh.membership(epoch, put(next, Role::Validator), &validators);
    refuses(&mut mesh, vec![(0, too_many, Refusal::Validators(usize::from(most) + 1))]);
}

#[test]
fn a_known_member_gets_new_addresses() {
    let mut mesh = Mesh::new();
    let moved = Member {
        addresses: List::first([godwit_protocol::bounded::Text::clipped("/ip4/192.0.2.7/udp/4001/quic-v1")]),
        ..member(4, Role::Member)
    };
    let change = mesh.membership(0, Change::Put(moved.clone()), &[0, 1, 3]);
    assert!(matches!(&change, Message::Membership(Membership { approvals, .. }) if approvals.len() == 3));
    mesh.say(3, change);
    assert_eq!(mesh.state.member(&site(4)), Some(&moved));
    assert_eq!(mesh.state.membership_epoch(), 1);
}

#[test]
fn a_mesh_has_a_bounded_number_of_members() {
    let mut mesh = Mesh::new();
    let mut n = 0_u32;
    while mesh.state.members.len() < MAX_MEMBERS {
        let mut filler = member(6, Role::Member);
        filler.site = SiteId([0xaa; 32]);
        filler.site.0[..4].copy_from_slice(&n.to_le_bytes());
        mesh.state.members.insert(filler.site, filler);
        n += 1;
    }
    mesh.state.seal();
    let (one_more, known) = (put(6, Role::Member), put(4, Role::Observer));
    let message = mesh.membership(0, one_more, &[0, 1, 2]);
    refuses(&mut mesh, vec![(0, message, Refusal::TooManyMembers(MAX_MEMBERS))]);
    let message = mesh.membership(0, known, &[0, 1, 2]);
    let record = mesh.sign(0, message);
    assert_eq!(mesh.state.check(&record, mesh.now), Ok(()));
}
