//! The replicated permissioned ledger: what may be appended, what it does, and how replicas agree on it.
//!
//! Invariant: [`state::State::apply`] depends on nothing but its arguments, so every replica that applies the same
//! blocks holds the same state.
//! Invariant: only `wal` and `store` do IO; `replica` is driven through `step`.

pub mod block;
pub mod genesis;
pub mod record;
