//! Everything of Godwit that reads bytes from outside, each as one function of bytes, and what all of them promise of any
//! bytes: they take them or refuse them, never panic, and what they take has one form only.
//!
//! `tests/fuzz.sh` looks for bytes that break a promise; those found are kept in `corpus/` and read by the tests ever after.

pub mod mesh;

mod ledger;
mod samples;
mod site;

use godwit_protocol::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads bytes; whether it takes them.
///
/// # Panics
/// When a promise is broken.
pub type Decoder = fn(&[u8]) -> bool;

/// Something that reads bytes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of the fuzz target, and of its folder in `corpus/`.
    pub name: &'static str,
    /// It.
    pub decoder: Decoder,
    /// Bytes that it takes.
    pub samples: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    // From other sites.
    Target { name: "message", decoder: ledger::message, samples: samples::messages },
    Target { name: "record", decoder: ledger::record, samples: samples::records },
    Target { name: "submission", decoder: ledger::submission, samples: samples::submissions },
    Target { name: "block", decoder: ledger::block, samples: samples::blocks },
    Target { name: "snapshot", decoder: ledger::snapshot, samples: samples::snapshots },
    Target { name: "snapshot_offer", decoder: ledger::snapshot_offer, samples: samples::snapshot_offers },
    Target { name: "gossip", decoder: site::gossip, samples: samples::gossip },
    Target { name: "word", decoder: site::word, samples: samples::words },
    Target { name: "transfer", decoder: site::transfer, samples: samples::transfers },
    Target { name: "layer", decoder: site::layer, samples: samples::layers },
    // From files and operators.
    Target { name: "proof", decoder: ledger::proof, samples: samples::proofs },
    Target { name: "log", decoder: ledger::log, samples: samples::logs },
    Target { name: "genesis", decoder: site::genesis, samples: samples::geneses },
    Target { name: "request", decoder: site::request, samples: samples::requests },
];

/// The target of this name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn target(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).expect("a target's name")
}

/// A value from its canonical bytes, which have to be those that it has.
fn canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = decode(bytes).ok()?;
    assert_eq!(encode(&value).as_deref(), Ok(bytes), "one value, one form");
    Some(value)
}
