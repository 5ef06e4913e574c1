//! What the tests read of the JSON that `godwit --json` prints and the workload answers. Unknown fields are nobody's
//! concern here; a missing one is a failure.

use serde::Deserialize;

/// `godwit status`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // as the API documents them
pub struct Status {
    pub site: String,
    pub name: String,
    pub height: u64,
    pub state_root: String,
    pub peers: u32,
    pub members: u32,
    pub validators: u32,
    pub containers: u32,
    pub open_offers: u32,
    pub draining: bool,
}

/// `godwit member list`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Members {
    pub epoch: u64,
    pub approvals_needed: usize,
    pub members: Vec<MemberLine>,
}

/// A member.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct MemberLine {
    pub site: String,
    pub role: String,
    pub name: String,
    pub addresses: Vec<String>,
}

/// `godwit sites`, a line.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct SiteLine {
    pub site: String,
    pub name: String,
    pub local: bool,
    pub connected: bool,
    pub containers: u32,
    pub capacity: Option<Capacity>,
}

/// A site's gossip.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Capacity {
    pub stale: bool,
    pub accepting: bool,
    pub memory_bytes: Share,
}

/// Of one resource.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Share {
    pub total: u64,
    pub used: u64,
}

/// `godwit ps`, a line.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Container {
    pub container: String,
    pub name: String,
    pub owner: String,
    pub owner_name: String,
    pub local: bool,
    pub epoch: u64,
    pub state: String,
    pub address: String,
    pub offer: Option<String>,
}

/// `godwit offers`, a line.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Offer {
    pub offer: String,
    pub container: String,
    pub source_name: String,
    pub why: String,
    pub state: String,
    pub attempt: u32,
    pub winner_name: Option<String>,
    pub bids: Vec<Bid>,
    pub declines: Vec<Decline>,
    pub ended: Option<String>,
}

impl Offer {
    /// Whether nothing follows any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "ended")
    }
}

/// A bid on an offer.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Bid {
    pub name: String,
    pub score: i64,
}

/// A refusal to bid.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Decline {
    pub name: String,
    pub reason: serde_json::Value,
}

/// `godwit timeline`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Timeline {
    pub offer: String,
    pub source_name: String,
    pub target_name: Option<String>,
    pub state: String,
    pub steps: Vec<Step>,
    pub downtime_ms: Option<std::collections::BTreeMap<String, u64>>,
    pub bytes: Option<u64>,
}

/// One step of a handoff.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Step {
    pub name: String,
    pub at_ms: u64,
    pub site: String,
    pub detail: String,
}

/// `godwit log`, a block.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Block {
    pub height: u64,
    pub hash: String,
    pub state_root: String,
    pub signers: u32,
    pub records: Vec<Record>,
}

/// A record in a block.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Record {
    pub record: String,
    pub author_name: String,
    pub kind: String,
    pub summary: String,
}

/// `migrate`'s answer.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Offered {
    pub offer: String,
}

/// The workload's own account of itself.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Count {
    pub instance: String,
    pub ticks: u64,
    pub acknowledged: u64,
}

/// Its walk over its memory.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Verified {
    pub pages: u64,
    pub wrong_pages: u64,
}

/// Its reading of its file.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Journal {
    pub unbroken: bool,
    pub starts: u64,
    pub acknowledged_match: bool,
    pub same_file: bool,
}

/// The gaps it lived through.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Gaps {
    pub max_gap_ms: f64,
}

/// What a client saw over one kept TCP connection.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Seen {
    pub lines: u64,
    pub max_stall_ms: f64,
    pub pings: u64,
    pub answers: u64,
    pub unbroken: bool,
    pub flaw: Option<String>,
    pub connection_broken: bool,
    pub broken_by: Option<String>,
    pub silent_ms: f64,
}
