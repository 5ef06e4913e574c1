//! `Register` and `Retire`.

use godwit_protocol::register::{Register, Retire};
use godwit_protocol::{ContainerId, Epoch, Event, SiteId};

use super::Work;
use crate::refusal::Refusal;
use crate::state::Container;

/// Live containers of a mesh: what a range of 16 bits addresses.
pub const MAX_CONTAINERS: usize = 65_536;

/// Ids of live and retired containers together: 16 MiB of ids that are never used again.
pub const MAX_CONTAINER_IDS: usize = 1 << 20;

impl Work {
    pub(super) fn check_register(&self, register: &Register) -> Result<(), Refusal> {
        let (id, address) = (register.container, register.address);
        if self.state.containers.contains(&id) || self.state.retired.contains(&id) {
            return Err(Refusal::ContainerKnown(id));
        }
        if !self.state.founding().admits(address) {
            return Err(Refusal::AddressOutside(address));
        }
        if let Some(container) = self.state.container_at(&address) {
            return Err(Refusal::AddressTaken { address, container });
        }
        if let Some(client) = twice(&register.clients) {
            return Err(Refusal::ClientTwice(client));
        }
        let (live, retired) = (self.state.containers.len(), self.state.retired.len());
        if live >= MAX_CONTAINERS {
            return Err(Refusal::MeshFull(MAX_CONTAINERS));
        }
        if live + retired >= MAX_CONTAINER_IDS {
            return Err(Refusal::IdsUsedUp(MAX_CONTAINER_IDS));
        }
        Ok(())
    }

    pub(super) fn register(&mut self, author: SiteId, register: &Register) {
        let (id, address) = (register.container, register.address);
        let container =
            Container { owner: author, epoch: Epoch(1), register: register.clone(), open: None, last_done: None };
        self.state.containers.insert(id, container);
        self.state.addresses.insert(address, id);
        self.events.push(Event::Registered { owner: author, register: register.clone() });
    }

    pub(super) fn check_retire(&self, author: &SiteId, retire: &Retire) -> Result<(), Refusal> {
        match self.owned(author, &retire.container)?.open {
            Some(offer) => Err(Refusal::OfferOpen(offer)),
            None => Ok(()),
        }
    }

    pub(super) fn retire(&mut self, author: SiteId, retire: &Retire) {
        let id = retire.container;
        let address = self.state.container(&id).expect("its owner was checked").register.address;
        self.state.containers.remove(&id);
        self.state.addresses.remove(&address);
        self.state.retired.insert(id, ());
        self.events.push(Event::Retired { owner: author, container: id });
    }

    /// The author's container.
    pub(super) fn owned(&self, author: &SiteId, id: &ContainerId) -> Result<&Container, Refusal> {
        if self.state.retired.contains(id) {
            return Err(Refusal::ContainerRetired(*id));
        }
        let container = self.state.container(id).ok_or(Refusal::UnknownContainer(*id))?;
        if container.owner == *author { Ok(container) } else { Err(Refusal::NotTheOwner(container.owner)) }
    }
}

/// The first element that occurs again, in a list short enough to be searched.
pub(super) fn twice<T: Copy + Eq>(items: &[T]) -> Option<T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| *item)
}
