//! What block time does.

use godwit_protocol::event::EndReason;
use godwit_protocol::{Event, Message, Time};

use super::refuses;
use crate::refusal::Refusal;
use crate::rules::{BadBlock, build};
use crate::testing::{Mesh, bid, offer, register, site};

#[test]
fn an_empty_block_is_valid_only_when_it_ends_some_bidding() {
    let mut mesh = Mesh::new();
    let (empty, _, _) = build(&mesh.state, site(0), mesh.now, Vec::new());
    assert_eq!(mesh.judge(&empty).err(), Some(BadBlock::Empty));
    mesh.offered(1);
    let due = mesh.state.due().expect("bidding");
    let (early, _, _) = build(&mesh.state, site(0), Time(due.0 - 1), Vec::new());
    assert_eq!(mesh.judge(&early).err(), Some(BadBlock::Empty));
    let events = mesh.commit_due();
    assert!(matches!(events.as_slice(), [Event::Ended { reason: EndReason::NoBids, .. }]), "{events:?}");
    assert_eq!(mesh.state.due(), None);
}

#[test]
fn a_bid_in_the_block_that_ends_the_bidding_is_late() {
    let mut mesh = Mesh::new();
    let id = mesh.offered(1);
    mesh.say(1, bid(id, 500));
    mesh.now = Time(mesh.state.due().expect("bidding").0 - 11);
    mesh.say(2, bid(id, 400)); // the block before it is due
    refuses(&mut mesh, vec![(3, bid(id, 1), Refusal::BiddingOver)]);
    let late = mesh.sign(3, Message::Register(register(3)));
    let events = mesh.commit(vec![late]);
    let [Event::Awarded { award, .. }, Event::Registered { .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(award.winner(1), Some(site(2)), "what is due comes before the block's records");
}

#[test]
fn what_is_due_at_once_ends_in_the_order_of_time() {
    let mut mesh = Mesh::new();
    let ids = [1, 2, 3].map(|n| mesh.offered(n));
    mesh.now = Time(mesh.state.due().expect("bidding").0 + 10_000);
    let record = mesh.sign(0, Message::Register(register(9)));
    let events = mesh.commit(vec![record]);
    let ended: Vec<_> = events.iter().filter_map(Event::offer).collect();
    assert_eq!(ended, ids);
}

#[test]
fn offer_and_bids_land_in_one_block_whatever_their_order() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let offers = mesh.sign(0, Message::Offer(offer(1, 1, &[1, 2, 3])));
    let id = mesh.id(&offers).into();
    let mut records: Vec<_> = (1..=3).map(|by| mesh.sign(by, bid(id, u16::from(by)))).collect();
    records.push(offers);
    let events = mesh.commit(records);
    assert!(matches!(events.first(), Some(Event::Opened { .. })));
    assert!(matches!(events.last(), Some(Event::Awarded { award, .. }) if award.winner(1) == Some(site(1))));
}
