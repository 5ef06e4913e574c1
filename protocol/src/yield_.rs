//! `Yield`: the source lets go of the container; sent to the target, never to the ledger by itself.

use serde::{Deserialize, Serialize};

use crate::id::{Hash, OfferId, SiteId};
use crate::signed::Signable;
use crate::units::{Epoch, Millis};

/// The frozen container, named by the root of its manifest, may be taken over by the target in this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// The offer.
    pub offer: OfferId,
    /// The attempt it is for: a `Yield` of an earlier one is worth nothing.
    pub attempt: u32,
    /// Who may take it.
    pub target: SiteId,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// From stopping the container until its memory was captured, as the source measured it.
    pub freeze_ms: Millis,
    /// From then until all that is below the root was there, as the source measured it.
    pub collect_ms: Millis,
    /// Root of the manifest of all that must arrive before the container may run.
    pub root: Hash,
}

impl Signable for Yield {
    const DOMAIN: &'static str = "godwit/yield";
    type Author = SiteId;
}
