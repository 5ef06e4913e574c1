//! `Done`: the container runs at its new owner, with what the handoff measured.

use serde::{Deserialize, Serialize};

use crate::id::{Hash, OfferId};
use crate::units::{Bytes, Millis};

/// Closes an offer: the source may delete its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The offer.
    pub offer: OfferId,
    /// Where the time went.
    pub spans: Spans,
    /// What travelled.
    pub bytes: Bytes,
    /// Root of the pages that came after the switch; [`Hash::ZERO`] if none did.
    pub late_root: Hash,
}

/// Where a handoff's time went. All but `prepare_ms` is standstill, in parts that follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// Award to `Ready`: while the container runs.
    pub prepare_ms: Millis,
    /// From stopping the container to `Yield`, as the source said in it.
    pub freeze_ms: Millis,
    /// From the arrival of `Yield` until the checkpoint was here and verified.
    pub fetch_ms: Millis,
    /// Until the receipt was committed.
    pub commit_ms: Millis,
    /// Until the container ran.
    pub resume_ms: Millis,
}
