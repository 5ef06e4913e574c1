//! What the state keeps of a vote: since when a member has it, until when it had it, and whether it was abused.

use serde::{Deserialize, Serialize};

use crate::block::Height;

/// A member's vote, or the one that it had last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The first height that it decides. A seat that operators give back begins anew: what was before is judged.
    pub since: Height,
    /// The last one, if the member votes no longer.
    pub until: Option<Height>,
    /// Its member contradicted itself where its vote could not be done without.
    pub suspended: bool,
}

impl Seat {
    /// A vote from this height on.
    #[must_use]
    pub const fn from(since: Height) -> Self {
        Self { since, until: None, suspended: false }
    }

    /// Whether its member could vote at a height.
    #[must_use]
    pub fn covers(&self, height: Height) -> bool {
        self.since <= height && self.until.is_none_or(|until| height <= until)
    }
}
