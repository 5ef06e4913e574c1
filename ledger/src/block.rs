//! Blocks: what validators agree on, one header hash at a time.

use godwit_protocol::bounded::List;
use godwit_protocol::membership::MAX_VALIDATORS;
use godwit_protocol::planted::{self, Bug};
use godwit_protocol::signed::{signing_bytes, verify_bytes};
pub use godwit_protocol::vote::{Height, Vote, VoteKind};
use godwit_protocol::{Hash, MeshId, Signature, SiteId, Time, encode};
use serde::{Deserialize, Serialize};

use crate::record::SignedRecord;

/// Records in one block: at 1 KB each they make 4 MiB, the codec's limit.
pub const MAX_RECORDS: usize = 4096;

/// The encoded size that a proposer does not exceed.
pub const MAX_BLOCK: usize = 4 * 1024 * 1024;

/// Version of the rules by which blocks are applied.
pub const RULES: u16 = 1;

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
    pub signatures: List<(SiteId, Signature), MAX_VALIDATORS>,
}

/// A block that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The block.
    pub block: Block,
    /// Its certificate.
    pub certificate: Certificate,
}

/// The bytes that a validator signs to precommit a block: what a certificate's signatures are over.
///
/// # Panics
/// Never: a vote has some hundred bytes.
#[must_use]
pub fn precommit_bytes(mesh: &MeshId, height: Height, round: u32, block: Hash, validator: SiteId) -> Vec<u8> {
    let vote = Vote { kind: VoteKind::Precommit, height, round, block: Some(block), validator };
    signing_bytes(mesh, &vote).expect("a vote is far below the codec's limit")
}

/// Whether `votes` of `of` equal validators are more than two thirds.
#[must_use]
pub const fn is_quorum(votes: usize, of: usize) -> bool {
    votes * 3 > of * 2
}

/// The hash of a sorted validator set, as headers carry it.
#[must_use]
pub fn validators_hash(validators: &[SiteId]) -> Hash {
    let parts: Vec<&[u8]> = validators.iter().map(|site| site.0.as_slice()).collect();
    Hash::of_parts("godwit/validators", &parts)
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// It is for another height.
    #[error("it is for height {got}, the block has height {height}")]
    Height {
        /// The block's.
        height: Height,
        /// The certificate's.
        got: Height,
    },
    /// It is for another block.
    #[error("it is for block {got:?}, the header's hash is {block:?}")]
    Block {
        /// The header's hash.
        block: Hash,
        /// What the certificate names.
        got: Hash,
    },
    /// A signer who has no vote at this height.
    #[error("signer {0} is not a validator of this height")]
    NotAValidator(SiteId),
    /// A vote counts once.
    #[error("signer {0} occurs twice")]
    Twice(SiteId),
    /// The signature is not over this precommit.
    #[error("the signature is not {0}'s over this precommit")]
    Forged(SiteId),
    /// Not more than two thirds.
    #[error("{votes} of {of} validators signed; it takes more than two thirds")]
    TooFew {
        /// Valid signatures.
        votes: usize,
        /// Validators.
        of: usize,
    },
}

impl Certificate {
    /// Whether more than two thirds of `validators`, those of the header's height, precommitted this header. Every
    /// signature must hold, also those beyond the quorum.
    ///
    /// # Errors
    /// [`BadCertificate`] names what is wrong.
    pub fn check(&self, header: &Header, validators: &[SiteId]) -> Result<(), BadCertificate> {
        self.check_by(header, validators, |index| {
            let (site, bytes, signature) = self.vote(&header.mesh, index);
            verify_bytes(&site.0, &bytes, signature)
        })
    }

    /// As [`Certificate::check`], by what was found of each signature before the validators were known.
    pub(crate) fn check_by(
        &self,
        header: &Header,
        validators: &[SiteId],
        holds: impl Fn(usize) -> bool,
    ) -> Result<(), BadCertificate> {
        if self.height != header.height {
            return Err(BadCertificate::Height { height: header.height, got: self.height });
        }
        let block = header.hash();
        if self.block != block {
            return Err(BadCertificate::Block { block, got: self.block });
        }
        for (index, (site, _)) in self.signatures.iter().enumerate() {
            if !validators.contains(site) {
                return Err(BadCertificate::NotAValidator(*site));
            }
            if self.signatures[..index].iter().any(|(earlier, _)| earlier == site) {
                return Err(BadCertificate::Twice(*site));
            }
            if !holds(index) {
                return Err(BadCertificate::Forged(*site));
            }
        }
        let (votes, of) = (self.signatures.len(), validators.len());
        let enough = is_quorum(votes + usize::from(planted::is(Bug::QuorumOffByOne)), of);
        if enough { Ok(()) } else { Err(BadCertificate::TooFew { votes, of }) }
    }

    /// The signer at `index`, what it signed in this mesh, and its signature.
    pub(crate) fn vote(&self, mesh: &MeshId, index: usize) -> (&SiteId, Vec<u8>, &Signature) {
        let (site, signature) = &self.signatures[index];
        (site, precommit_bytes(mesh, self.height, self.round, self.block, *site), signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_two_thirds_is_a_quorum() {
        for (votes, of, enough) in
            [(0, 1, false), (1, 1, true), (2, 3, false), (3, 3, true), (2, 4, false), (3, 4, true)]
        {
            assert_eq!(is_quorum(votes, of), enough, "{votes} of {of}");
        }
        assert!(!is_quorum(20, 31) && is_quorum(21, 31));
    }

    #[test]
    fn a_precommit_is_no_other_vote() {
        let (mesh, other, site) = (MeshId([1; 32]), MeshId([2; 32]), SiteId([3; 32]));
        let block = Hash([4; 32]);
        let good = precommit_bytes(&mesh, Height(7), 2, block, site);
        let vote = Vote { kind: VoteKind::Precommit, height: Height(7), round: 2, block: Some(block), validator: site };
        assert_eq!(signing_bytes(&mesh, &vote).unwrap(), good);
        let differs = [
            precommit_bytes(&other, Height(7), 2, block, site),
            precommit_bytes(&mesh, Height(8), 2, block, site),
            precommit_bytes(&mesh, Height(7), 3, block, site),
            precommit_bytes(&mesh, Height(7), 2, Hash([5; 32]), site),
            precommit_bytes(&mesh, Height(7), 2, block, SiteId([5; 32])),
            signing_bytes(&mesh, &Vote { kind: VoteKind::Prevote, ..vote }).unwrap(),
            signing_bytes(&mesh, &Vote { block: None, ..vote }).unwrap(),
        ];
        assert!(differs.iter().all(|bytes| *bytes != good));
    }

    #[test]
    fn a_set_of_validators_has_one_hash() {
        let (a, b) = (SiteId([1; 32]), SiteId([2; 32]));
        assert_ne!(validators_hash(&[a, b]), validators_hash(&[a]));
        assert_ne!(validators_hash(&[a, b]), validators_hash(&[b, a]));
        assert_eq!(validators_hash(&[a, b]), validators_hash(&[a, b]));
    }
}
