//! The replicated permissioned ledger: what may be appended, what it does, and how replicas agree on it.
//!
//! Invariant: what a block does to the state depends on nothing but the two, so every replica that applies the same
//! blocks holds the same state.
//! Invariant: only `wal` and `store` do IO; `replica` is driven through `step`.

pub mod attested;
pub mod audit;
pub mod author;
pub mod block;
pub mod bundle;
pub mod frames;
pub mod genesis;
#[cfg(any(test, feature = "harness"))]
pub mod harness;
pub mod lineage;
pub mod proof;
pub mod record;
pub mod refusal;
pub mod replica;
pub mod rules;
pub mod state;
pub mod store;
pub mod sync;
pub mod wal;

mod apply;
/// A mesh for tests, this crate's and others': names say what there is.
#[cfg(any(test, feature = "harness"))]
#[allow(missing_docs, clippy::new_without_default)]
pub mod testing;
