//! `Offer`: the owner of a container asks for another site to take it.

use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::container::Needs;
use crate::id::{ContainerId, SiteId};
use crate::report::Report;
use crate::signed::Signed;
use crate::units::{Address, Bytes, Epoch, MilliCpu, Millis, PerMille};

/// At most this many sites are named by an offer.
pub const MAX_NAMED: usize = 16;

/// Unless none is eligible, an offer names at least this many, or all that there are.
pub const MIN_NAMED: usize = 3;

/// The default time for bidding, ended early when all named sites have answered.
pub const DEFAULT_WINDOW: Millis = Millis(1000);

/// The longest time for bidding that is accepted.
pub const MAX_WINDOW: Millis = Millis(60_000);

/// A container is to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which.
    pub container: ContainerId,
    /// At which its source owns it.
    pub epoch: Epoch,
    /// The source's address, for information: peers authenticate each other by key.
    pub source_address: Address,
    /// What is expected to travel: memory and writable layer.
    pub size: Bytes,
    /// Processor time it takes.
    pub cpu: MilliCpu,
    /// GPUs it takes.
    pub gpu: u16,
    /// Memory it takes.
    pub memory: Bytes,
    /// Why it is to move.
    pub why: Why,
    /// What its next site must have.
    pub needs: Needs,
    /// The sites that the source believes able: when all have answered, bidding ends.
    pub named: List<SiteId, MAX_NAMED>,
    /// How long bidding lasts at most, by block time.
    pub window: Millis,
}

/// The reason of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The site runs short of resources.
    Overload {
        /// Its processor use.
        cpu: PerMille,
        /// Its memory use.
        memory: PerMille,
    },
    /// A client moves out of range; its own report is the evidence, and scores read signals from it alone.
    Mobility {
        /// Signed by a client of the container.
        report: Signed<Report>,
    },
    /// An operator empties the site.
    Drain,
    /// An operator asks for this container to go.
    Manual {
        /// A wish that weighs in the score; nobody is appointed.
        prefer: Option<SiteId>,
    },
}
