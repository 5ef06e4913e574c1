//! Who may connect, in which standing, and where members are reached: shared by the swarm's behaviours and the streams.
//!
//! Only the swarm's task changes it, so that one connection is judged by one state of the book.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use godwit_protocol::membership::Role;
use godwit_protocol::{ClientId, SiteId};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::Notify;
use tracing::warn;

use super::identity::{client_of, peer_of};

/// Addresses kept for a peer: the ledger's, at most 8, and as many that were configured.
const ADDRESSES_MAX: usize = 16;

/// What the ledger says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// What it may do.
    pub role: Role,
    /// Where it listens, as the ledger has it.
    pub addresses: Vec<Multiaddr>,
}

/// The members and where they are.
pub type MemberSet = BTreeMap<SiteId, MemberInfo>;

/// Changes of who may report, on their way to the swarm's task: of each client the last, so that there are never more than
/// the mesh has clients.
#[derive(Debug, Default)]
pub struct ClientChanges {
    /// Whether it may.
    waiting: Mutex<BTreeMap<ClientId, bool>>,
    arrived: Notify,
}

impl ClientChanges {
    /// Puts changes in.
    pub fn put(&self, clients: Vec<ClientId>, admitted: bool) {
        if clients.is_empty() {
            return;
        }
        self.lock().extend(clients.into_iter().map(|client| (client, admitted)));
        self.arrived.notify_one();
    }

    /// Waits until there are any.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes them all out.
    pub fn take(&self) -> BTreeMap<ClientId, bool> {
        std::mem::take(&mut self.lock())
    }

    // Its critical sections cannot panic half way.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClientId, bool>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In what capacity a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A site of the mesh.
    Member(SiteId),
    /// A vehicle or device: reports, nothing else.
    Client(ClientId),
}

/// The shared book; clones are the same book.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<RwLock<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    members: HashMap<PeerId, (SiteId, MemberInfo)>,
    clients: HashSet<ClientId>,
    configured: HashMap<PeerId, Vec<Multiaddr>>,
    connected: HashSet<PeerId>,
}

impl Book {
    // Its critical sections cannot panic half way, so a poisoned lock holds no broken state.
    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Pages> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the members; `own` is left out: nobody connects to itself.
    pub fn set_members(&self, members: &MemberSet, own: &PeerId) {
        let members = members
            .iter()
            .filter_map(|(site, info)| match peer_of(site) {
                Ok(peer) => Some((peer, (*site, info.clone()))),
                Err(error) => {
                    warn!(member = %site, %error, "a member has no usable key");
                    None
                }
            })
            .filter(|(peer, _)| peer != own)
            .collect();
        self.write().members = members;
    }

    /// Admits and dismisses clients.
    pub fn change_clients(&self, changes: &BTreeMap<ClientId, bool>) {
        let clients = &mut self.write().clients;
        for (client, admitted) in changes {
            if *admitted {
                clients.insert(*client);
            } else {
                clients.remove(client);
            }
        }
    }

    /// Adds an address that an operator configured or a dial proved.
    pub fn learn(&self, peer: PeerId, address: Multiaddr) {
        let mut pages = self.write();
        let known = pages.configured.entry(peer).or_default();
        if !known.contains(&address) && known.len() < ADDRESSES_MAX / 2 {
            known.push(address);
        }
    }

    /// The peer's standing; a key that is both is a member.
    #[must_use]
    pub fn standing(&self, peer: &PeerId) -> Option<Standing> {
        let pages = self.read();
        let member = pages.members.get(peer).map(|(site, _)| Standing::Member(*site));
        let client = || client_of(peer).ok().filter(|client| pages.clients.contains(client));
        member.or_else(|| client().map(Standing::Client))
    }

    /// The site, if the peer is a member.
    #[must_use]
    pub fn member(&self, peer: &PeerId) -> Option<SiteId> {
        self.read().members.get(peer).map(|(site, _)| *site)
    }

    /// Whether a site is a member other than this one.
    #[must_use]
    pub fn is_member(&self, site: &SiteId) -> bool {
        peer_of(site).is_ok_and(|peer| self.member(&peer).is_some())
    }

    /// All members but this site.
    #[must_use]
    pub fn members(&self) -> Vec<PeerId> {
        self.read().members.keys().copied().collect()
    }

    /// Where a member may be reached: the ledger's addresses, then configured ones.
    #[must_use]
    pub fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let pages = self.read();
        let Some((_, info)) = pages.members.get(peer) else { return Vec::new() };
        let mut addresses = info.addresses.clone();
        for address in pages.configured.get(peer).into_iter().flatten() {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }

    /// Notes that a member of this mesh is connected, or no longer.
    pub fn set_connected(&self, peer: &PeerId, connected: bool) {
        let mut pages = self.write();
        if connected {
            pages.connected.insert(*peer);
        } else {
            pages.connected.remove(peer);
        }
    }

    /// Whether a member is connected and known to be of this mesh.
    #[must_use]
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.read().connected.contains(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn site(seed: u8) -> SiteId {
        SigningKey::from_bytes(&[seed; 32]).verifying_key().into()
    }

    #[test]
    fn a_key_that_is_both_member_and_client_is_a_member() {
        let book = Book::default();
        let info = MemberInfo { role: Role::Member, addresses: Vec::new() };
        book.set_members(&MemberSet::from([(site(1), info)]), &peer_of(&site(9)).unwrap());
        let changes = ClientChanges::default();
        changes.put(vec![ClientId(site(1).0), ClientId(site(2).0), ClientId(site(4).0)], true);
        changes.put(vec![ClientId(site(4).0)], false);
        book.change_clients(&changes.take());
        assert_eq!(book.standing(&peer_of(&site(4)).unwrap()), None, "dismissed again");
        assert_eq!(book.standing(&peer_of(&site(1)).unwrap()), Some(Standing::Member(site(1))));
        assert_eq!(book.standing(&peer_of(&site(2)).unwrap()), Some(Standing::Client(ClientId(site(2).0))));
        assert_eq!(book.standing(&peer_of(&site(3)).unwrap()), None);
    }

    #[test]
    fn addresses_are_given_for_members_only_and_bounded() {
        let book = Book::default();
        let peer = peer_of(&site(1)).unwrap();
        for port in 1..=40_u16 {
            book.learn(peer, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        }
        assert!(book.addresses(&peer).is_empty());
        let info = MemberInfo { role: Role::Member, addresses: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()] };
        book.set_members(&MemberSet::from([(site(1), info)]), &peer_of(&site(9)).unwrap());
        assert_eq!(book.addresses(&peer).len(), 1 + ADDRESSES_MAX / 2);
    }
}
