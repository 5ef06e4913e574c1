//! Blocks: what validators agree on, one header hash at a time.

use godwit_protocol::bounded::List;
use godwit_protocol::membership::MAX_VALIDATORS;
use godwit_protocol::{Hash, MeshId, SiteId, Time, encode};
use serde::{Deserialize, Serialize};

use crate::record::SignedRecord;

/// Records in one block: at 1 KB each they make 4 MiB, the codec's limit.
pub const MAX_RECORDS: usize = 4096;

/// The encoded size that a proposer does not exceed.
pub const MAX_BLOCK: usize = 4 * 1024 * 1024;

/// Version of the rules by which blocks are applied.
pub const RULES: u16 = 1;

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

impl std::fmt::Display for Height {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What validators sign: its hash is the value that consensus decides on. A certificate covers height, round and this
/// hash only, so everything that matters is in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the rules.
    pub rules: u16,
    /// The mesh.
    pub mesh: MeshId,
    /// Its height.
    pub height: Height,
    /// Hash of the header before; the genesis' state root at height 1.
    pub parent: Hash,
    /// The proposer's clock, later than the parent's.
    pub time: Time,
    /// Who built the block.
    pub proposer: SiteId,
    /// Hash of the validators that decide this height.
    pub validators: Hash,
    /// Merkle root of the records' ids.
    pub records: Hash,
    /// Root of the state after this block.
    pub state: Hash,
}

impl Header {
    /// The value that consensus decides on.
    ///
    /// # Panics
    /// Never: a header is a few hundred bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let bytes = encode(self).expect("a header is far below the codec's limit");
        Hash::of_parts("godwit/header", &[&bytes])
    }
}

/// A header and its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// What is signed.
    pub header: Header,
    /// What it holds, in order.
    pub records: List<SignedRecord, MAX_RECORDS>,
}

/// More than two thirds of the validators' precommits for a block. Not canonical: two sites may hold different signers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The height decided.
    pub height: Height,
    /// The round in which it was decided.
    pub round: u32,
    /// Hash of the header.
    pub block: Hash,
    /// Who precommitted, and the signatures.
    pub signatures: List<(SiteId, godwit_protocol::Signature), MAX_VALIDATORS>,
}

/// A block that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The block.
    pub block: Block,
    /// Its certificate.
    pub certificate: Certificate,
}
