//! `Register` and `Retire`.

use godwit_protocol::bounded::List;
use godwit_protocol::register::{Register, Retire};
use godwit_protocol::{Address, ContainerId, Event, Message};

use super::refuses;
use crate::apply::containers::{MAX_CONTAINER_IDS, MAX_CONTAINERS};
use crate::refusal::Refusal;
use crate::testing::{Mesh, container, done, offer, register, site};

fn retire(n: u8) -> Message {
    Message::Retire(Retire { container: container(n) })
}

fn at(address: [u8; 4]) -> Message {
    Message::Register(Register { address: Address(address.into()), ..register(2) })
}

#[test]
fn a_container_is_registered_once_with_an_address_of_its_own() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let client = register(1).clients[0];
    let outside = |address: [u8; 4]| Refusal::AddressOutside(Address(address.into()));
    let taken = Refusal::AddressTaken { address: register(1).address, container: container(1) };
    refuses(
        &mut mesh,
        vec![
            (0, Message::Register(register(1)), Refusal::ContainerKnown(container(1))),
            (1, Message::Register(register(1)), Refusal::ContainerKnown(container(1))),
            (1, at([10, 77, 1, 1]), taken),
            (1, at([10, 77, 0, 0]), outside([10, 77, 0, 0])),
            (1, at([10, 77, 0, 1]), outside([10, 77, 0, 1])),
            (1, at([10, 77, 255, 255]), outside([10, 77, 255, 255])),
            (1, at([10, 78, 0, 5]), outside([10, 78, 0, 5])),
            (1, at([10, 76, 255, 255]), outside([10, 76, 255, 255])),
            (
                1,
                Message::Register(Register { clients: List::first([client, client]), ..register(2) }),
                Refusal::ClientTwice(client),
            ),
        ],
    );
    assert_eq!(mesh.state.container_at(&register(1).address), Some(container(1)));
}

#[test]
fn two_containers_of_one_block_cannot_have_one_address() {
    let mut mesh = Mesh::new();
    let second = Register { container: container(2), ..register(1) };
    let records = vec![mesh.sign(0, Message::Register(register(1))), mesh.sign(1, Message::Register(second))];
    let (block, _, refused) = crate::rules::build(&mesh.state, site(0), mesh.now, records);
    assert_eq!(block.records.len(), 1);
    let taken = Refusal::AddressTaken { address: register(1).address, container: container(1) };
    assert_eq!(refused.into_iter().map(|(_, refusal)| refusal).collect::<Vec<_>>(), vec![taken]);
}

#[test]
fn the_owner_retires_a_container_whose_id_is_never_used_again() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    refuses(
        &mut mesh,
        vec![(1, retire(1), Refusal::NotTheOwner(site(0))), (0, retire(2), Refusal::UnknownContainer(container(2)))],
    );
    let record = mesh.sign(0, retire(1));
    let events = mesh.commit(vec![record]);
    assert_eq!(events, vec![Event::Retired { owner: site(0), container: container(1) }]);
    refuses(
        &mut mesh,
        vec![
            (0, Message::Register(register(1)), Refusal::ContainerKnown(container(1))),
            (0, retire(1), Refusal::ContainerRetired(container(1))),
            (0, Message::Offer(offer(1, 1, &[])), Refusal::ContainerRetired(container(1))),
        ],
    );
    mesh.say(3, Message::Register(Register { container: ContainerId([77; 16]), ..register(1) }));
}

#[test]
fn a_container_with_an_open_offer_is_not_retired() {
    let mut mesh = Mesh::new();
    let id = mesh.received(1);
    refuses(&mut mesh, vec![(1, retire(1), Refusal::OfferOpen(id)), (0, retire(1), Refusal::NotTheOwner(site(1)))]);
    mesh.say(1, done(id));
    mesh.say(1, retire(1));
    assert_eq!(mesh.state.container(&container(1)), None);
}

#[test]
fn a_mesh_holds_a_bounded_number_of_containers() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    let held = mesh.state.container(&container(1)).expect("registered").clone();
    for n in 1..u32::try_from(MAX_CONTAINERS).expect("small") {
        mesh.state.containers.insert(numbered(n), held.clone());
    }
    mesh.state.seal();
    refuses(&mut mesh, vec![(0, Message::Register(register(2)), Refusal::MeshFull(MAX_CONTAINERS))]);
    mesh.state.containers.remove(&numbered(1));
    mesh.state.seal();
    let record = mesh.sign(0, Message::Register(register(2)));
    assert_eq!(mesh.state.check(&record, mesh.now), Ok(()));
}

#[test]
fn ids_that_were_used_are_remembered_up_to_a_bound() {
    let mut mesh = Mesh::new();
    mesh.say(0, Message::Register(register(1)));
    for n in 1..u32::try_from(MAX_CONTAINER_IDS).expect("small") {
        mesh.state.retired.insert(numbered(n), ());
    }
    mesh.state.seal();
    refuses(&mut mesh, vec![(0, Message::Register(register(2)), Refusal::IdsUsedUp(MAX_CONTAINER_IDS))]);
    mesh.state.retired.remove(&numbered(1));
    mesh.state.seal();
    let record = mesh.sign(0, Message::Register(register(2)));
    assert_eq!(mesh.state.check(&record, mesh.now), Ok(()));
}

fn numbered(n: u32) -> ContainerId {
    let mut id = ContainerId([0xaa; 16]);
    id.0[..4].copy_from_slice(&n.to_le_bytes());
    id
}
