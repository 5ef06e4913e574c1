//! A mesh under a virtual clock: the same [`godwit_protocol::site::Site`] and the same [`godwit_ledger::replica::Replica`]
//! as in production, on disks, engines and a network that fail as a seed has drawn, beside sites that lie.
//!
//! A run is decided by its [`Plan`] alone: the same plan gives the same events in the same order, which a running hash
//! over them proves. After each event a checker looks whether a promise was broken; when the faults are over and time has
//! passed, whether everything has settled. [`marks`] count the rare paths that runs have reached.

pub mod byzantine;
pub mod campaign;
pub mod check;
pub mod disk;
pub mod engine;
pub mod host;
pub mod links;
pub mod marks;
pub mod plan;
pub mod shrink;
pub mod witness;
pub mod world;

pub use check::Violation;
pub use plan::{Faults, Plan};
pub use world::{Summary, World};
