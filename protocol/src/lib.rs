//! The words that sites exchange and the decisions they take.
//!
//! Everything here is pure: no clock, no IO, no random source, no floating point. Time comes in as an argument and
//! what should happen goes out as values, so that the node and the simulator drive the very same code.
//!
//! Invariant: this crate is `no_std`; a socket, a file or `Instant::now()` does not compile in it.
//! Invariant: what is replicated is integers only, so that all replicas compute the same.

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bounded;
pub mod codec;
pub mod id;
pub mod planted;
pub mod signed;
pub mod units;

pub mod capacity;
pub mod container;
pub mod report;

pub mod abort;
pub mod award;
pub mod bid;
pub mod done;
pub mod event;
pub mod evidence;
pub mod manifest;
pub mod membership;
pub mod message;
pub mod offer;
pub mod receipt;
pub mod register;
pub mod vote;
pub mod yield_;

pub mod auction;
pub mod effect;
pub mod handoff;
pub mod policy;
pub mod site;
pub mod word;

pub use codec::{Malformed, decode, encode};
pub use event::Event;
pub use id::{ClientId, ContainerId, Hash, ImageId, MeshId, OfferId, RecordId, SiteId};
pub use message::Message;
pub use signed::{Forged, Signable, Signature, Signed, Verified};
pub use units::{Address, Bytes, Dbm, Epoch, MilliCpu, Millis, PerMille, Time};

/// Whether this build is one to rely on: no simulator's stand-in for signatures, no place for a planted bug.
pub const IS_SOUND: bool = cfg!(not(any(feature = "keyed-hash", feature = "planted")));
