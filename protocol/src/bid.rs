//! `Bid` and `Decline`: the answers to an offer.

use serde::{Deserialize, Serialize};

use crate::bounded::Text;
use crate::id::OfferId;
use crate::units::{Millis, PerMille};

/// A site that has judged itself able wants the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// The offer.
    pub offer: OfferId,
    /// Whether the bidder is on the source's network.
    pub same_network: bool,
    /// How loaded the bidder would be with the container: the larger of processor and memory.
    pub load: PerMille,
    /// How long the container will stand still, as the bidder predicts.
    pub downtime_ms: Millis,
}

/// A named site, or a winner that has signed no receipt, will not take the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// The offer.
    pub offer: OfferId,
    /// 0 before the award; after it the attempt that the winner gives up.
    pub attempt: u32,
    /// Why.
    pub reason: Reason,
}

/// Why a site does not take a container, or gives it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It would pass its own threshold and have to offer the container again.
    Cpu,
    /// As for the processor.
    Memory,
    /// Not enough GPUs.
    Gpu,
    /// Its operator drains it.
    Draining,
    /// Another machine architecture.
    Architecture,
    /// A CPU feature is missing.
    CpuFeature(Text<24>),
    /// The kernel is too old.
    Kernel,
    /// CRIU is missing or too old.
    Criu,
    /// The image cannot be had.
    Image(Text<200>),
    /// Preparing, fetching or restoring failed.
    Failed(Text<200>),
    /// The other side kept silent.
    Silent,
    /// An operator said so.
    Operator,
}
