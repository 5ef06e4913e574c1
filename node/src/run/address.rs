//! A container's own address: the first free one of the mesh's range, from a place that its id draws.

use std::collections::BTreeSet;

use godwit_ledger::genesis::Genesis;
use godwit_protocol::{Address, ContainerId, Hash};

/// An address of the mesh's range that no live container has; none if all are taken. Two sites that choose at the same
/// moment rarely choose the same, because they begin at different places; if they do, the ledger refuses one of them.
#[must_use]
pub fn free(genesis: &Genesis, taken: &BTreeSet<Address>, container: &ContainerId) -> Option<Address> {
    let size = 1_u32 << (32 - u32::from(genesis.prefix));
    let drawn = Hash::of_parts("godwit/address", &[&container.0]).0;
    let start = u32::from_le_bytes([drawn[0], drawn[1], drawn[2], drawn[3]]) % size;
    (0..size)
        .map(|step| Address((genesis.network.0.to_bits() + (start + step) % size).into()))
        .find(|address| genesis.admits(*address) && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_protocol::Time;
    use godwit_protocol::bounded::{List, Text};

    fn genesis(prefix: u8) -> Genesis {
        Genesis {
            name: Text::default(),
            founded: Time(0),
            network: Address([10, 50, 0, 0].into()),
            prefix,
            clock_bound_ms: 500,
            members: List::default(),
        }
    }

    #[test]
    fn all_addresses_of_the_range_are_given_once_and_then_none() {
        let genesis = genesis(29);
        let mut taken = BTreeSet::new();
        while let Some(address) = free(&genesis, &taken, &ContainerId([3; 16])) {
            assert!(genesis.admits(address));
            assert!(taken.insert(address), "{address} was given twice");
        }
        assert_eq!(taken.len(), (2..=254).filter(|last| genesis.admits(Address([10, 50, 0, *last].into()))).count());
    }
}
