//! Merkle trees over BLAKE3: the root of a block's records, proofs that a record is under it, the root of the state.
//!
//! The shape is RFC 6962's: the left subtree holds the largest power of two below the count. Leaves, nodes and tops are
//! hashed under different domains, and the count goes into the top, so that no tree is taken for another.

use godwit_protocol::bounded::List;
use godwit_protocol::{Hash, RecordId};
use serde::{Deserialize, Serialize};

use crate::block::MAX_RECORDS;

/// The longest path: a tree of [`MAX_RECORDS`] leaves has this many levels.
pub const MAX_PATH: usize = MAX_RECORDS.ilog2() as usize;

fn leaf(hash: &[u8; 32]) -> Hash {
    Hash::of_parts("godwit/leaf", &[hash])
}

fn node(left: Hash, right: Hash) -> Hash {
    Hash::of_parts("godwit/node", &[&left.0, &right.0])
}

/// Where RFC 6962 splits `count` > 1 leaves.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn subtree(leaves: &[[u8; 32]]) -> Hash {
    match leaves {
        [] => Hash::ZERO,
        [only] => leaf(only),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(subtree(left), subtree(right))
        }
    }
}

fn top(count: u64, tree: Hash) -> Hash {
    Hash::of_parts("godwit/tree", &[&count.to_le_bytes(), &tree.0])
}

/// The root of a tree of 32-byte values; [`Hash::ZERO`] for none.
#[must_use]
pub fn root(leaves: &[[u8; 32]]) -> Hash {
    if leaves.is_empty() { Hash::ZERO } else { top(leaves.len() as u64, subtree(leaves)) }
}

/// The root of a block's records, as its header carries it.
#[must_use]
pub fn records_root(ids: &[RecordId]) -> Hash {
    let leaves: Vec<[u8; 32]> = ids.iter().map(|id| id.0).collect();
    root(&leaves)
}

/// Shows that a record is under a header's `records` root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// The record's place in the block.
    pub index: u32,
    /// The block's records.
    pub count: u32,
    /// The hashes beside the path, from the leaf up.
    pub path: List<Hash, MAX_PATH>,
}

/// Proves that the record at `index` is among `ids`; none if there is no such record, or more than a block holds.
#[must_use]
pub fn prove(ids: &[RecordId], index: usize) -> Option<Inclusion> {
    if index >= ids.len() {
        return None;
    }
    let leaves: Vec<[u8; 32]> = ids.iter().map(|id| id.0).collect();
    let mut path = Vec::new();
    let (mut within, mut at) = (leaves.as_slice(), index);
    while within.len() > 1 {
        let (left, right) = within.split_at(split(within.len()));
        if at < left.len() {
            path.push(subtree(right));
            within = left;
        } else {
            path.push(subtree(left));
            at -= left.len();
            within = right;
        }
    }
    path.reverse();
    let (index, count) = (u32::try_from(index).ok()?, u32::try_from(ids.len()).ok()?);
    Some(Inclusion { index, count, path: List::new(path).ok()? })
}

/// Whether the proof puts the record under this root.
#[must_use]
pub fn verify(root: Hash, id: &RecordId, proof: &Inclusion) -> bool {
    if proof.index >= proof.count {
        return false;
    }
    // The turns from the top down: true where the path goes right.
    let (mut at, mut count) = (proof.index as usize, proof.count as usize);
    let mut turns = Vec::new();
    while count > 1 {
        let left = split(count);
        turns.push(at >= left);
        (at, count) = if at < left { (at, left) } else { (at - left, count - left) };
    }
    if turns.len() != proof.path.len() {
        return false;
    }
    let tree = proof
        .path
        .iter()
        .zip(turns.iter().rev())
        .fold(leaf(&id.0), |hash, (beside, right)| if *right { node(*beside, hash) } else { node(hash, *beside) });
    top(u64::from(proof.count), tree) == root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(count: usize) -> Vec<RecordId> {
        (0..count).map(|n| RecordId(Hash::of(&n.to_le_bytes()).0)).collect()
    }

    #[test]
    fn the_root_of_nothing_is_zero_and_a_full_block_can_be_proved() {
        assert_eq!(records_root(&[]), Hash::ZERO);
        let all = ids(MAX_RECORDS);
        let proof = prove(&all, MAX_RECORDS - 1).expect("inside");
        assert!(verify(records_root(&all), &all[MAX_RECORDS - 1], &proof));
        assert_eq!(prove(&all, MAX_RECORDS), None);
    }

    proptest! {
        #[test]
        fn every_record_of_a_block_can_be_proved(count in 1_usize..200, pick in any::<prop::sample::Index>()) {
            let all = ids(count);
            let index = pick.index(count);
            let proof = prove(&all, index).expect("inside");
            prop_assert!(verify(records_root(&all), &all[index], &proof));
        }

        #[test]
        fn a_proof_serves_for_nothing_else(
            count in 1_usize..100,
            pick in any::<prop::sample::Index>(),
            level in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let all = ids(count);
            let (index, root) = (pick.index(count), records_root(&all));
            let proof = prove(&all, index).expect("inside");
            let stranger = RecordId([0xff; 32]);
            prop_assert!(!verify(root, &stranger, &proof));
            for other in (0..count).filter(|other| *other != index) {
                prop_assert!(!verify(root, &all[other], &proof));
                let moved = Inclusion { index: u32::try_from(other).expect("small"), ..proof.clone() };
                prop_assert!(!verify(root, &all[index], &moved));
            }
            for count in (0..2 * proof.count).filter(|wrong| *wrong != proof.count) {
                let resized = Inclusion { count, ..proof.clone() };
                prop_assert!(!verify(root, &all[index], &resized));
            }
            if !proof.path.is_empty() {
                let mut path = proof.path.clone().into_inner();
                let at = level.index(path.len());
                path[at].0[7] ^= 1 << bit;
                let bent = Inclusion { path: List::first(path), ..proof };
                prop_assert!(!verify(root, &all[index], &bent));
            }
        }

        #[test]
        fn other_records_or_another_order_have_another_root(count in 2_usize..100, pick in any::<prop::sample::Index>()) {
            let all = ids(count);
            let at = pick.index(count - 1);
            let mut swapped = all.clone();
            swapped.swap(at, at + 1);
            prop_assert_ne!(records_root(&all), records_root(&swapped));
            prop_assert_ne!(records_root(&all), records_root(&all[..at]));
        }
    }
}
