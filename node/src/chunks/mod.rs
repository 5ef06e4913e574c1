//! Content-addressed transfer of folders between two sites: images, checkpoints, specifications.
//!
//! ```text
//! target (pull)                            source (server)
//!   |-- Open(offer, part) --------------->|   only the site that the part is published for
//!   |<- manifest -------------------------|   checked, and against the root that a Yield names
//!   |-- Chunk(file, index), 32 at once -->|
//!   |<- bytes, in order ------------------|   each verified by BLAKE3 before it is written
//! ```
//!
//! A pull writes into a folder of its own, `NAME.part`, which takes its final name once everything is there and synced:
//! a folder with its final name is complete. After a broken connection or a restart only what is missing travels.
//!
//! Invariant: memory is bounded on both sides by the chunks in flight: 8 MiB a pull, 2 MiB a served stream.
//! Non-goals: empty folders, links, owners and permissions do not travel; who needs them packs them into a file.
//! Several streams a part are possible, since requests name their chunks, but not used yet.

mod folder;
mod manifest;
mod pull;
mod server;
mod stage;
#[cfg(test)]
mod tests;
pub mod wire;

use godwit_protocol::OfferId;
use serde::{Deserialize, Serialize};

pub use self::manifest::{ManifestError, manifest_of};
pub use self::pull::{Progress, Pull, PullError, Pulled};
pub use self::server::{PublishError, Server};
pub use self::wire::Refused;

/// What of a handoff travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// How the container is to be created.
    Spec,
    /// Its image.
    Image,
    /// Its state.
    Checkpoint,
}

/// Names one part of one handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartKey {
    /// The handoff.
    pub offer: OfferId,
    /// The part.
    pub part: Part,
}
