//! What a site has, gossiped by the site itself.

use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::container::MAX_CPU_FEATURES;
use crate::id::SiteId;
use crate::signed::Signable;
use crate::units::{Address, Bytes, MilliCpu, PerMille, Time};
use crate::vote::Height;

/// A site's resources at one moment. Signed by the site; stale after 15 s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Rises with each gossip of the site, so that an older one cannot replace a newer one.
    pub sequence: u64,
    /// When it was measured, by the site's clock.
    pub at: Time,
    /// Where other sites route traffic for the site's containers.
    pub address: Address,
    /// The network the site belongs to, a label of its operator: sites with the same label are near each other.
    pub network: Text<64>,
    /// Processors: what there is, what is used.
    pub cpu: Share<MilliCpu>,
    /// Memory: what there is, what is used.
    pub memory: Share<Bytes>,
    /// GPUs: what there is, what is used.
    pub gpu: Share<u16>,
    /// What this site can restore.
    pub platform: Platform,
    /// False while its operator drains it.
    pub accepting: bool,
    /// The last block that the site has, which its host fills in: operators see by it who is behind.
    pub height: Height,
}

/// How much there is of something, how much is used and how much is promised to containers that are on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share<T> {
    /// All of it.
    pub total: T,
    /// Measured use.
    pub used: T,
    /// Promised to containers not yet here.
    pub reserved: T,
}

/// What decides whether a checkpoint can be restored here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As `uname -m` says it.
    pub architecture: Text<16>,
    /// Flags of `/proc/cpuinfo`, sorted.
    pub cpu_features: List<Text<24>, MAX_CPU_FEATURES>,
    /// Major and minor version of the kernel.
    pub kernel: (u16, u16),
    /// major * 10,000 + minor * 100 + patch of CRIU; 0 without it.
    pub criu: u32,
}

impl Signable for Capacity {
    const DOMAIN: &'static str = "godwit/capacity";
    type Author = SiteId;
}

impl Share<MilliCpu> {
    /// Used and promised, plus `more`, of all.
    #[must_use]
    pub fn load_with(&self, more: MilliCpu) -> PerMille {
        let busy = self.used.plus(self.reserved).plus(more);
        PerMille::of(u64::from(busy.0), u64::from(self.total.0))
    }
}

impl Share<Bytes> {
    /// Used and promised, plus `more`, of all.
    #[must_use]
    pub fn load_with(&self, more: Bytes) -> PerMille {
        PerMille::of(self.used.plus(self.reserved).plus(more).0, self.total.0)
    }
}

impl Share<u16> {
    /// What is neither used nor promised.
    #[must_use]
    pub fn free(&self) -> u16 {
        self.total.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}
