//! What tests of the network share: endpoints over loopback.

#![allow(missing_docs)]

use std::future::Future;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use godwit_protocol::membership::Role;
use godwit_protocol::{MeshId, SiteId};
use libp2p::Multiaddr;
use tokio::sync::mpsc;

use super::{Endpoint, MemberInfo, MemberSet, NetConfig, NetEvent, Refusal};

pub const MESH: MeshId = MeshId([3; 32]);
pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn site(seed: u8) -> SiteId {
    key(seed).verifying_key().into()
}

/// Far beyond what anything here takes; only a hang reaches it.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it hangs")
}

pub struct Site {
    pub net: Endpoint,
    pub events: mpsc::Receiver<NetEvent>,
    pub address: Multiaddr,
}

impl Site {
    pub async fn start(seed: u8, mesh: MeshId, listen: &str) -> Self {
        let config =
            NetConfig { key: key(seed), mesh, listen: vec![listen.parse().unwrap()], peers: Vec::new(), mdns: false };
        let (net, events) = Endpoint::start(config).unwrap();
        let mut listening = net.listening();
        let address = soon(listening.wait_for(|all| !all.is_empty())).await.unwrap()[0].clone();
        Self { net, events, address }
    }

    /// Waits for the first event of interest and drops those before it.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(NetEvent) -> Option<T>) -> T {
        soon(async {
            loop {
                let event = self.events.recv().await.expect("the network ended");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn connected(&mut self, to: SiteId) {
        self.until(|event| matches!(event, NetEvent::Connected(site) if site == to).then_some(())).await;
    }

    pub async fn refused(&mut self) -> (Option<SiteId>, Refusal) {
        self.until(|event| match event {
            NetEvent::Refused { peer, what } => Some((peer, what)),
            _ => None,
        })
        .await
    }

    pub fn as_member(&self) -> (SiteId, MemberInfo) {
        (self.net.site(), MemberInfo { role: Role::Validator, addresses: vec![self.address.clone()] })
    }
}

pub fn admit_each_other(sites: &[&Site]) {
    let members: MemberSet = sites.iter().map(|site| site.as_member()).collect();
    for site in sites {
        site.net.admit(members.clone());
    }
}

pub async fn pair(listen: &str) -> (Site, Site) {
    let (mut a, mut b) = (Site::start(1, MESH, listen).await, Site::start(2, MESH, listen).await);
    admit_each_other(&[&a, &b]);
    a.connected(site(2)).await;
    b.connected(site(1)).await;
    (a, b)
}
