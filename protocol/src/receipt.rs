//! `Ready` and `Receipt`: the target's two words in a handoff.

use serde::{Deserialize, Serialize};

use crate::id::OfferId;
use crate::signed::Signed;
use crate::yield_::Yield;

/// The winner has prepared all that can be prepared: the source may freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The offer.
    pub offer: OfferId,
    /// The current attempt.
    pub attempt: u32,
}

/// The winner has all it needs: from this record's commit on it owns the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The offer.
    pub offer: OfferId,
    /// The current attempt.
    pub attempt: u32,
    /// The source's consent.
    pub yielded: Signed<Yield>,
}
