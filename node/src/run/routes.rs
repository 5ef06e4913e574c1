//! Packets follow containers: each container's address is routed to the site that owns it.

use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_protocol::{Address, ContainerId, SiteId};
use tokio::sync::mpsc;
use tracing::warn;

use crate::runtime::{Runtime, Way};

/// Which way each container's packets go from here.
#[derive(Debug)]
pub struct Routes {
    me: SiteId,
    sites: BTreeMap<SiteId, Address>,
    containers: BTreeMap<ContainerId, (Address, SiteId)>,
    /// In order: the last word about an address is the one that holds.
    wishes: mpsc::UnboundedSender<(Address, Way)>,
}

impl Routes {
    /// Sets routes through the runtime, one after the other. The queue is unbounded: the ledger's events fill it, two a
    /// handoff.
    pub fn new(me: SiteId, runtime: Arc<dyn Runtime>) -> Self {
        let (wishes, mut queue) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((address, way)) = queue.recv().await {
                if let Err(error) = runtime.route(address, way).await {
                    warn!(%address, %error, "a route is not set");
                }
            }
        });
        Self { me, sites: BTreeMap::new(), containers: BTreeMap::new(), wishes }
    }

    /// Where a site is reached.
    pub fn site_at(&mut self, site: SiteId, address: Address) {
        if self.sites.insert(site, address) == Some(address) {
            return;
        }
        let there: Vec<ContainerId> =
            self.containers.iter().filter(|(_, (_, owner))| *owner == site).map(|(id, _)| *id).collect();
        for container in there {
            self.refresh(container);
        }
    }

    /// A container is at a site.
    pub fn container_at(&mut self, container: ContainerId, address: Address, owner: SiteId) {
        self.containers.insert(container, (address, owner));
        self.refresh(container);
    }

    /// A container has another owner. One that comes here stands still: whoever lets it go on lets its packets in.
    pub fn moved(&mut self, container: ContainerId, owner: SiteId) {
        if let Some(place) = self.containers.get_mut(&container) {
            place.1 = owner;
            if owner != self.me {
                self.refresh(container);
            }
        }
    }

    /// A container left the mesh.
    pub fn gone(&mut self, container: ContainerId) {
        if let Some((address, _)) = self.containers.remove(&container) {
            self.wish(address, Way::Here);
        }
    }

    /// Says again which way a container's packets go. Of a site that was never heard of none is known.
    fn refresh(&self, container: ContainerId) {
        let Some((address, owner)) = self.containers.get(&container) else { return };
        let way = if *owner == self.me { Some(Way::Here) } else { self.sites.get(owner).map(|site| Way::Via(site.0)) };
        if let Some(way) = way {
            self.wish(*address, way);
        }
    }

    fn wish(&self, address: Address, way: Way) {
        // The worker goes only when the site stops.
        if self.wishes.send((address, way)).is_err() {
            warn!(%address, "routes are no longer set");
        }
    }
}
