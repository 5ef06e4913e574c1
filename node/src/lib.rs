//! Everything of a site that touches the world: network, container engine, disk, operator.
//!
//! Invariant: whoever performs never decides; decisions are `godwit_protocol::site`'s and `godwit_ledger::replica`'s.
//! Invariant: the CLI reaches a site only through [`api`].

pub mod api;
pub mod chunks;
pub mod cli;
pub mod config;
pub mod genesis;
pub mod journal;
pub mod key;
pub mod monitor;
pub mod net;
pub mod rebuild;
pub mod run;
pub mod runtime;

#[cfg(not(debug_assertions))]
const _: () = assert!(godwit_protocol::IS_SOUND, "a site must not be built with the simulator's features");
