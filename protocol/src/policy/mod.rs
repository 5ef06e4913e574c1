//! When a container leaves and who can take it: one file per policy, each a pure function of what is known.

pub mod fits;
pub mod mobility;
pub mod overload;

pub use fits::fits;

use serde::{Deserialize, Serialize};

use crate::units::{Dbm, Millis, PerMille};

/// An operator's limits, in force on this site alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor use above which containers leave, and which a container that comes must not lead to.
    pub cpu: PerMille,
    /// The same for memory.
    pub memory: PerMille,
    /// How far below its limit use must fall for the site to count as relieved.
    pub hysteresis: PerMille,
    /// How long a limit must be passed before containers leave.
    pub patience: Millis,
    /// How long a container stays at least, so that containers do not bounce between full sites.
    pub dwell: Millis,
    /// How long after a fruitless offer a container is not offered again.
    pub retry: Millis,
    /// The signal below which a client's container may leave.
    pub signal: Dbm,
    /// By how much another site's signal must be better.
    pub margin: Dbm,
}

impl Default for Limits {
    /// 50 % as in the thesis; -95 dBm and 6 dB as cellular networks commonly set their handover event A3.
    fn default() -> Self {
        Self {
            cpu: PerMille(500),
            memory: PerMille(500),
            hysteresis: PerMille(50),
            patience: Millis(3_000),
            dwell: Millis(30_000),
            retry: Millis(30_000),
            signal: Dbm(-95),
            margin: Dbm(6),
        }
    }
}
