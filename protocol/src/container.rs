//! What a container is and what it needs.

use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::id::ImageId;
use crate::units::{Bytes, MilliCpu, Millis};

/// Whether a container has state that must move with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing of it needs to survive: it is stopped here and started there.
    Stateless,
    /// Memory and writable layer move.
    Stateful,
}

/// How state moves. This version moves by [`Mode::Restart`] and [`Mode::StopAndCopy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Stopped at the source, started anew at the target.
    Restart,
    /// Frozen, copied whole, resumed.
    StopAndCopy,
    /// Memory is copied while it runs, the rest while it is frozen.
    PreCopy,
    /// It resumes at once and its memory follows.
    PostCopy,
    /// As pre-copy, and what changed last follows as in post-copy.
    Hybrid,
}

/// What a container takes and tolerates; fixed when it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Profile {
    /// Processor time it may use.
    pub cpu: MilliCpu,
    /// Memory it may use.
    pub memory: Bytes,
    /// GPUs it needs.
    pub gpu: u16,
    /// Whether its state moves.
    pub kind: Kind,
    /// How its state moves.
    pub mode: Mode,
    /// The longest delay its users tolerate; of the containers on a full site the most tolerant leaves first.
    pub max_delay_ms: Millis,
}

/// An image, by content and by the name it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of its configuration.
    pub id: ImageId,
    /// The reference it was deployed by, for people.
    pub reference: Text<255>,
}

/// What a site must have for a checkpoint to be restored on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Needs {
    /// The machine architecture, as `uname -m` says it.
    pub architecture: Text<16>,
    /// CPU features (flags of `/proc/cpuinfo`) that the container may have come to rely on.
    pub cpu_features: List<Text<24>, MAX_CPU_FEATURES>,
    /// Lowest kernel as (major, minor).
    pub kernel: (u16, u16),
    /// Lowest CRIU version as major * 10,000 + minor * 100 + patch; 0 if no checkpoint is restored.
    pub criu: u32,
    /// The image.
    pub image: ImageId,
}

/// Linux names some 250 x86 flags today.
pub const MAX_CPU_FEATURES: usize = 512;
