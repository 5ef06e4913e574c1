//! Genesis: the document that founds a mesh. Its hash is the mesh's identity, so it never changes.

use godwit_protocol::bounded::{List, Text};
use godwit_protocol::membership::{MAX_VALIDATORS, Member, Role};
use godwit_protocol::offer::MAX_WINDOW;
use godwit_protocol::{Address, Hash, MeshId, Millis, SiteId, Time, encode};
use serde::{Deserialize, Serialize};

/// The most founding members; later ones come by membership records.
pub const MAX_FOUNDERS: usize = 256;

/// Four one-way delays of 25 ms, as between neighbouring sites: offer, bids and the block that holds them travel at
/// least so long.
const MIN_WINDOW: Millis = Millis(100);

/// What the founders agreed on, out of band.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// For people.
    pub name: Text<63>,
    /// When it was written: the first block is later.
    pub founded: Time,
    /// First address of the containers' range.
    pub network: Address,
    /// Length of the range's prefix, 8 to 30.
    pub prefix: u8,
    /// How far the validators' clocks may differ, in ms.
    pub clock_bound_ms: u64,
    /// The founding members, sorted by key.
    pub members: List<Member, MAX_FOUNDERS>,
}

/// Why a genesis founds no mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGenesis {
    /// Nobody to agree.
    #[error("it names {0} validators; there must be 1 to {MAX_VALIDATORS}")]
    Validators(usize),
    /// Sorted and unique, so that one membership has one hash.
    #[error("the members are not sorted by key, or one occurs twice")]
    Order,
    /// Not an IPv4 range of use.
    #[error("{0}/{1} is not a range of IPv4 addresses with a prefix of 8 to 30 bits")]
    Range(Address, u8),
    /// Nobody can sign for it.
    #[error("member {0} is not an ed25519 public key, or a weak one")]
    Key(SiteId),
    /// No time for bidding would be long enough and yet admitted.
    #[error("a clock bound of {0} ms leaves no time for bidding; the most is {most} ms", most = MAX_WINDOW.0 / 2)]
    ClockBound(u64),
}

impl Genesis {
    /// The identity of the mesh that this genesis founds.
    ///
    /// # Panics
    /// Never: the bounds of its fields keep it below the codec's limit.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        let bytes = encode(self).expect("a genesis is bounded below the codec's limit");
        MeshId(Hash::of_parts("godwit/genesis", &[&bytes]).0)
    }

    /// Whether it can found a mesh.
    ///
    /// # Errors
    /// [`BadGenesis`] says why not.
    pub fn check(&self) -> Result<(), BadGenesis> {
        let validators = self.members.iter().filter(|member| member.role == Role::Validator).count();
        if !(1..=MAX_VALIDATORS).contains(&validators) {
            return Err(BadGenesis::Validators(validators));
        }
        if self.members.windows(2).any(|pair| pair[0].site >= pair[1].site) {
            return Err(BadGenesis::Order);
        }
        let host_bits = 32_u32.saturating_sub(u32::from(self.prefix));
        if !(8..=30).contains(&self.prefix) || self.network.0.to_bits() & ((1 << host_bits) - 1) != 0 {
            return Err(BadGenesis::Range(self.network, self.prefix));
        }
        if let Some(member) = self.members.iter().find(|member| !is_key(&member.site)) {
            return Err(BadGenesis::Key(member.site));
        }
        if self.min_window() > MAX_WINDOW {
            return Err(BadGenesis::ClockBound(self.clock_bound_ms));
        }
        Ok(())
    }

    /// The shortest time for bidding that an offer may ask for: block times may differ by twice the clock bound from what
    /// the bidders' clocks say.
    #[must_use]
    pub fn min_window(&self) -> Millis {
        Millis(self.clock_bound_ms.saturating_mul(2)).max(MIN_WINDOW)
    }

    /// Whether a container may have this address: inside the range, neither its first, its last nor the gateway's
    /// (the first after the network's own).
    #[must_use]
    pub fn admits(&self, address: Address) -> bool {
        let (network, bits) = (self.network.0.to_bits(), address.0.to_bits());
        let size = 1_u32 << (32 - u32::from(self.prefix));
        bits.checked_sub(network).is_some_and(|offset| offset >= 2 && offset < size - 1)
    }
}

/// Whether somebody can hold the secret half of it, and only whoever made it.
#[must_use]
pub fn is_key(site: &SiteId) -> bool {
    ed25519_dalek::VerifyingKey::from_bytes(&site.0).is_ok_and(|key| !key.is_weak())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Mesh, member};

    #[test]
    fn a_genesis_that_founds_no_mesh_is_refused_by_name() {
        let good = Mesh::new().genesis;
        assert_eq!(good.check(), Ok(()));
        let with = |members: Vec<Member>| Genesis { members: List::first(members), ..good.clone() };
        let (mut turned, mut twice) = (good.members.to_vec(), good.members.to_vec());
        turned.swap(0, 1);
        twice.insert(0, twice[0].clone());
        let mut strange = good.members.to_vec();
        strange[0].site = SiteId([0; 32]);
        let address = |octets: [u8; 4]| Address(octets.into());
        let range = |octets, prefix| Genesis { network: address(octets), prefix, ..good.clone() };
        let crowd: Vec<Member> = {
            let mut crowd: Vec<Member> = (0..32).map(|n| member(n, Role::Validator)).collect();
            crowd.sort_by_key(|member| member.site);
            crowd
        };
        for (bad, why) in [
            (with(vec![]), BadGenesis::Validators(0)),
            (with(vec![member(0, Role::Member)]), BadGenesis::Validators(0)),
            (with(crowd), BadGenesis::Validators(32)),
            (with(turned), BadGenesis::Order),
            (with(twice.clone().into_iter().take(3).collect()), BadGenesis::Order),
            (with(strange), BadGenesis::Key(SiteId([0; 32]))),
            (range([10, 77, 0, 1], 16), BadGenesis::Range(address([10, 77, 0, 1]), 16)),
            (range([10, 0, 0, 0], 7), BadGenesis::Range(address([10, 0, 0, 0]), 7)),
            (range([10, 0, 0, 0], 31), BadGenesis::Range(address([10, 0, 0, 0]), 31)),
            (range([10, 0, 0, 0], 255), BadGenesis::Range(address([10, 0, 0, 0]), 255)),
            (Genesis { clock_bound_ms: 30_001, ..good.clone() }, BadGenesis::ClockBound(30_001)),
            (Genesis { clock_bound_ms: u64::MAX, ..good.clone() }, BadGenesis::ClockBound(u64::MAX)),
        ] {
            assert_eq!(bad.check(), Err(why));
        }
    }

    #[test]
    fn every_part_of_a_genesis_is_in_the_identity_of_its_mesh() {
        let good = Mesh::new().genesis;
        let mesh = good.mesh();
        assert_eq!(good.clone().mesh(), mesh);
        let renamed = Genesis { name: Text::clipped("other"), ..good.clone() };
        let looser = Genesis { clock_bound_ms: 201, ..good.clone() };
        let smaller = Genesis { members: List::first(good.members.iter().skip(1).cloned()), ..good.clone() };
        let later = Genesis { founded: Time(good.founded.0 + 1), ..good };
        for other in [renamed, looser, smaller, later] {
            assert_ne!(other.mesh(), mesh);
        }
    }
}
