//! A map whose clones share what they do not change and whose Merkle root costs what changed.
//!
//! Keys fall into fixed buckets. A bucket's hash covers its entries' hashes in key order, the table's root covers the
//! buckets. A bucket is copied when the first of its entries changes after a clone, never as a whole table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use godwit_protocol::{Address, ContainerId, Hash, OfferId, SiteId, encode};
use serde::Serialize;

use crate::proof;

/// Enough that a block touches few entries beside those it changes, few enough that the tree above them is cheap.
const BUCKETS: usize = 64;

/// What a table is keyed by.
pub trait Key: Copy + Ord + Serialize {
    /// The byte that picks the bucket.
    fn spread(&self) -> u8;
}

// Ids are keys or hashes: their first byte spreads well and keeps the tables in key order.
impl Key for SiteId {
    fn spread(&self) -> u8 {
        self.0[0]
    }
}

impl Key for ContainerId {
    fn spread(&self) -> u8 {
        self.0[0]
    }
}

impl Key for OfferId {
    fn spread(&self) -> u8 {
        self.0[0]
    }
}

// Addresses of one range differ in their last byte.
impl Key for Address {
    fn spread(&self) -> u8 {
        self.0.octets()[3].reverse_bits()
    }
}

#[derive(Clone, Debug)]
struct Leaf<V> {
    value: Arc<V>,
    /// None since the value changed.
    hash: Option<Hash>,
}

#[derive(Clone, Debug)]
struct Bucket<K, V> {
    leaves: BTreeMap<K, Leaf<V>>,
    hash: Hash,
}

/// The map.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    /// Shared as a whole, too: the mempool judges each record by a clone of the state.
    buckets: Arc<Vec<Arc<Bucket<K, V>>>>,
    dirty: BTreeSet<usize>,
    len: usize,
    root: Hash,
}

fn root_of<K, V>(buckets: &[Arc<Bucket<K, V>>]) -> Hash {
    let hashes: Vec<[u8; 32]> = buckets.iter().map(|bucket| bucket.hash.0).collect();
    proof::root(&hashes)
}

fn bucket_of<K: Key>(key: &K) -> usize {
    usize::from(key.spread()) * BUCKETS / 256
}

impl<K: Key, V: Clone + Serialize> Table<K, V> {
    pub fn new() -> Self {
        let empty = Arc::new(Bucket { leaves: BTreeMap::new(), hash: Hash::ZERO });
        let buckets = Arc::new(vec![empty; BUCKETS]);
        let root = root_of(&buckets);
        Self { buckets, dirty: BTreeSet::new(), len: 0, root }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.buckets[bucket_of(key)].leaves.get(key).map(|leaf| &*leaf.value)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// In key order, but for addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.buckets.iter().flat_map(|bucket| bucket.leaves.iter().map(|(key, leaf)| (key, &*leaf.value)))
    }

    /// Puts a value, in place of the one before.
    pub fn insert(&mut self, key: K, value: V) {
        let leaf = Leaf { value: Arc::new(value), hash: None };
        if self.touch(&key).leaves.insert(key, leaf).is_none() {
            self.len += 1;
        }
    }

    /// The value, to be changed.
    pub fn modify(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains(key) {
            return None;
        }
        let leaf = self.touch(key).leaves.get_mut(key)?;
        leaf.hash = None;
        Some(Arc::make_mut(&mut leaf.value))
    }

    pub fn remove(&mut self, key: &K) {
        if self.contains(key) {
            self.touch(key).leaves.remove(key);
            self.len -= 1;
        }
    }

    fn touch(&mut self, key: &K) -> &mut Bucket<K, V> {
        let index = bucket_of(key);
        self.dirty.insert(index);
        Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[index])
    }

    /// Brings the root up to date with what changed since the last time.
    pub fn seal(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let buckets = Arc::make_mut(&mut self.buckets);
        for index in std::mem::take(&mut self.dirty) {
            let bucket = Arc::make_mut(&mut buckets[index]);
            let hashes: Vec<[u8; 32]> = bucket.leaves.iter_mut().map(|(key, leaf)| leaf.hash(key).0).collect();
            let parts: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
            bucket.hash = if parts.is_empty() { Hash::ZERO } else { Hash::of_parts("godwit/bucket", &parts) };
        }
        self.root = root_of(&self.buckets);
    }

    /// As of the last [`Table::seal`].
    pub fn root(&self) -> Hash {
        debug_assert!(self.dirty.is_empty(), "the root of a table is read after it is sealed");
        self.root
    }
}

impl<V: Serialize> Leaf<V> {
    fn hash<K: Serialize>(&mut self, key: &K) -> Hash {
        *self.hash.get_or_insert_with(|| {
            let bytes = encode(&(key, &*self.value)).expect("entries of the state are bounded below the codec's limit");
            Hash::of_parts("godwit/entry", &[&bytes])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> ContainerId {
        ContainerId([n; 16])
    }

    fn fresh(entries: &BTreeMap<u8, u32>) -> Table<ContainerId, u32> {
        let mut table = Table::new();
        for (key, value) in entries {
            table.insert(id(*key), *value);
        }
        table.seal();
        table
    }

    proptest! {
        #[test]
        fn the_root_depends_on_the_entries_alone(
            steps in prop::collection::vec((any::<u8>(), prop::option::of(0_u32..4), any::<bool>()), 0..60),
        ) {
            let (mut table, mut model) = (Table::new(), BTreeMap::new());
            for (key, value, seal) in steps {
                let before = table.clone();
                match value {
                    Some(value) => {
                        match table.modify(&id(key)) {
                            Some(slot) => *slot = value,
                            None => table.insert(id(key), value),
                        }
                        model.insert(key, value);
                    }
                    None => {
                        table.remove(&id(key));
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(table.get(&id(key)), model.get(&key));
                drop(before);
                if seal {
                    table.seal();
                }
            }
            table.seal();
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.root(), fresh(&model).root());
            let entries: Vec<(u8, u32)> = table.iter().map(|(key, value)| (key.0[0], *value)).collect();
            prop_assert_eq!(entries, model.clone().into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_clone_keeps_what_it_held() {
        let before = fresh(&BTreeMap::from([(1, 10), (200, 20)]));
        let mut after = before.clone();
        *after.modify(&id(1)).expect("there") = 11;
        after.remove(&id(200));
        after.seal();
        assert_eq!((before.get(&id(1)), before.get(&id(200))), (Some(&10), Some(&20)));
        assert_eq!(before.root(), fresh(&BTreeMap::from([(1, 10), (200, 20)])).root());
        assert_ne!(before.root(), after.root());
    }
}
