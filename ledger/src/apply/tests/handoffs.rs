//! Whole handoffs, from the offer to their end.

use godwit_protocol::{Epoch, Event, Message, SiteId};

use crate::state::Phase;
use crate::testing::{Mesh, bid, container, done, offer, ready, register, site};

fn owner(mesh: &Mesh) -> (SiteId, Epoch) {
    let container = mesh.state.container(&container(1)).expect("registered");
    (container.owner, container.epoch)
}

#[test]
fn a_container_moves_from_offer_to_done() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    assert_eq!(owner(&mesh), (site(0), Epoch(1)));
    let id = mesh.say(0, Message::Offer(offer(1, 1, &[1, 2, 3])));
    mesh.say(1, bid(id, 300));
    mesh.say(2, bid(id, 100));
    assert_eq!(mesh.state.offer(&id).expect("open").phase, Phase::Bidding);
    let last = mesh.sign(3, bid(id, 200));
    let events = mesh.commit(vec![last]);
    let [Event::BidPlaced { .. }, Event::Awarded { offer, award }] = events.as_slice() else {
        panic!("a bid and the award: {events:?}");
    };
    assert_eq!(*offer, id);
    assert_eq!(award.ranking.iter().map(|ranked| ranked.site).collect::<Vec<_>>(), [site(2), site(3), site(1)]);
    assert_eq!(mesh.state.due(), None, "an award ends the bidding");
    mesh.say(2, ready(id, 1));
    assert_eq!(mesh.state.offer(&id).expect("open").phase, Phase::Ready);
    let receipt = mesh.receipt(id, 1, 2);
    mesh.say(2, receipt);
    assert_eq!(owner(&mesh), (site(2), Epoch(2)));
    let finished = mesh.sign(2, done(id));
    assert!(matches!(mesh.commit(vec![finished]).as_slice(), [Event::Closed { offer, .. }] if *offer == id));
    let moved = mesh.state.container(&container(1)).expect("registered");
    assert_eq!((moved.open, moved.last_done), (None, Some(id)));
    assert_eq!(mesh.state.offer(&id), None, "what has ended leaves the state");
    let next = mesh.say(2, Message::Offer(crate::testing::offer(1, 2, &[0, 1, 3])));
    assert_eq!(mesh.state.offer(&next).expect("open").source, site(2));
}
