//! A mesh under a virtual clock: the same [`godwit_protocol::site::Site`] as in production, and the same rules of the
//! ledger, with engines and a network that fail as a seed has drawn.
//!
//! A run is decided by its [`Plan`] alone: the same plan gives the same events in the same order, which a running hash
//! over them proves. After each event a checker looks whether a promise was broken; when the faults are over and time has
//! passed, whether everything has settled.
//!
//! Absent: agreement. One sequencer orders the records by the ledger's own rules; it may stand still as if there were no
//! quorum, and sites follow its blocks late.

pub mod chain;
pub mod check;
pub mod engine;
pub mod host;
pub mod plan;
pub mod world;

pub use check::Violation;
pub use plan::{Faults, Plan};
pub use world::{Summary, World};
