//! `Abort` and `Reclaim`: ways out of a handoff.

use serde::{Deserialize, Serialize};

use crate::bid::Reason;
use crate::bounded::List;
use crate::id::{OfferId, SiteId};
use crate::membership::MAX_VALIDATORS;
use crate::signed::{Signable, Signed};
use crate::units::Epoch;

/// Ends an attempt: by the source until a receipt, by the winner after its receipt if it never let the container run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The offer.
    pub offer: OfferId,
    /// The current attempt.
    pub attempt: u32,
    /// What follows. After a receipt the offer ends in any case.
    pub then: Then,
    /// Why.
    pub reason: Reason,
}

/// What follows an aborted attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The next runner-up.
    Next,
    /// Nobody: the offer ends.
    End,
}

/// An operator's decision, with more than two thirds of the validators, to take a container back from a target that fell
/// silent for good after its receipt. What clients saw from the target may be lost, and the ledger says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaim {
    /// The offer.
    pub offer: OfferId,
    /// The validators' consent.
    pub approvals: List<Signed<ReclaimApproval>, MAX_VALIDATORS>,
}

/// One validator's consent to a reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimApproval {
    /// The offer.
    pub offer: OfferId,
    /// The epoch at which the silent target owns the container.
    pub epoch: Epoch,
}

impl Signable for ReclaimApproval {
    const DOMAIN: &'static str = "godwit/reclaim";
    type Author = SiteId;
}
