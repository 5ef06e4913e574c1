//! Which clients the live containers name: one may be named by several, and may report as long as one of them lives.

use std::collections::{BTreeMap, HashMap};

use godwit_protocol::{ClientId, ContainerId};

/// What containers name, so that a container that comes or goes costs what it names, not what all of them name.
#[derive(Debug, Default)]
pub struct Clients {
    /// Of the containers that name any.
    named: BTreeMap<ContainerId, Vec<ClientId>>,
    /// How many containers name a client.
    count: HashMap<ClientId, usize>,
}

impl Clients {
    /// A container came; gives the clients that nobody named before.
    pub fn came(&mut self, container: ContainerId, clients: &[ClientId]) -> Vec<ClientId> {
        if clients.is_empty() {
            return Vec::new();
        }
        self.named.insert(container, clients.to_vec());
        let count = &mut self.count;
        let mut first = |client: &&ClientId| {
            let known = count.entry(**client).or_default();
            *known += 1;
            *known == 1
        };
        clients.iter().filter(|client| first(client)).copied().collect()
    }

    /// A container is gone; gives the clients that nobody names any more.
    pub fn went(&mut self, container: &ContainerId) -> Vec<ClientId> {
        let mut named = self.named.remove(container).unwrap_or_default();
        named.retain(|client| {
            let left = self.count.get_mut(client).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                self.count.remove(client);
            }
            left == 0
        });
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn who_is_admitted_is_who_a_live_container_names(
            steps in prop::collection::vec((0_u8..8, prop::option::of(prop::collection::btree_set(0_u8..6, 0..4))), 0..60),
        ) {
            let (mut clients, mut admitted, mut live) = (Clients::default(), BTreeSet::new(), BTreeMap::new());
            for (container, named) in steps {
                let id = ContainerId([container; 16]);
                match named {
                    Some(named) if !live.contains_key(&id) => {
                        let named: Vec<ClientId> = named.into_iter().map(|n| ClientId([n; 32])).collect();
                        for client in clients.came(id, &named) {
                            prop_assert!(admitted.insert(client), "admitted once");
                        }
                        live.insert(id, named);
                    }
                    Some(_) => {}
                    None => {
                        for client in clients.went(&id) {
                            prop_assert!(admitted.remove(&client), "dismissed once");
                        }
                        live.remove(&id);
                    }
                }
                let expected: BTreeSet<ClientId> = live.values().flatten().copied().collect();
                prop_assert_eq!(&admitted, &expected);
            }
            prop_assert_eq!(clients.count.len(), admitted.len(), "nothing is left behind");
        }
    }
}
