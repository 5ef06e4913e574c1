//! What validators sign in agreeing on a height: votes and proposals.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Hash, SiteId};
use crate::signed::Signable;

/// A position in the chain; the first block has height 1, genesis is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Height(pub u64);

impl Height {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One vote. The signed bytes are [`signing_bytes`](crate::signed::signing_bytes) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Which of the two votes of a round.
    pub kind: VoteKind,
    /// The height.
    pub height: Height,
    /// The round.
    pub round: u32,
    /// Hash of the header voted for; none for `nil`.
    pub block: Option<Hash>,
    /// Who votes.
    pub validator: SiteId,
}

/// The two votes of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoteKind {
    /// The first.
    Prevote,
    /// The second: more than two thirds of them decide.
    Precommit,
}

impl Signable for Vote {
    const DOMAIN: &'static str = "godwit/vote";
    type Author = SiteId;
}

/// What a proposer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The height.
    pub height: Height,
    /// The round.
    pub round: u32,
    /// Hash of the proposed header.
    pub block: Hash,
    /// The earlier round whose polka a re-proposal rests on.
    pub polka: Option<u32>,
    /// Who proposes.
    pub proposer: SiteId,
}

impl Signable for Proposal {
    const DOMAIN: &'static str = "godwit/proposal";
    type Author = SiteId;
}
