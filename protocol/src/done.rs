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

/// Where a handoff's time went: before the standstill, in it, in parts that follow each other, and beside or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// Award to `Ready`: while the container runs.
    pub prepare_ms: Millis,
    /// Standstill: from stopping the container until its memory was captured, as the source said in its `Yield`.
    pub freeze_ms: Millis,
    /// Standstill: until layer, volumes and logs were there too and the root was known, as the source said in its `Yield`.
    pub collect_ms: Millis,
    /// Standstill: from the arrival of `Yield` until the checkpoint was here and verified.
    pub send_ms: Millis,
    /// Standstill: until the receipt was committed.
    pub commit_ms: Millis,
    /// Standstill: until the container ran.
    pub switch_ms: Millis,
    /// From the receipt, as it was said, until the container was restored: beside the commit, and the switch if it is later.
    pub restore_ms: Millis,
    /// From when the container ran until it lacked nothing.
    pub fill_ms: Millis,
}

impl Spans {
    /// The parts of the standstill by their names, in their order.
    #[must_use]
    pub const fn still(&self) -> [(&'static str, Millis); 5] {
        [
            ("freeze", self.freeze_ms),
            ("collect", self.collect_ms),
            ("send", self.send_ms),
            ("commit", self.commit_ms),
            ("switch", self.switch_ms),
        ]
    }

    /// How long the container stood still.
    #[must_use]
    pub fn standstill(&self) -> Millis {
        self.still().into_iter().fold(Millis(0), |sum, (_, part)| sum.plus(part))
    }
}
