//! What replicas say to each other over authenticated direct streams.
//!
//! Everything is bounded by its types and by the codec; signatures are checked before anything is believed.

use godwit_protocol::bounded::List;
use godwit_protocol::membership::MAX_VALIDATORS;
pub use godwit_protocol::vote::Proposal;
use godwit_protocol::{Hash, Malformed, Signature, Signed, SiteId};
use malachitebft_core_types as core;
use malachitebft_core_types::{NilOrVal, Round, VoteType};
use serde::{Deserialize, Serialize};

use super::context::{Ballot, Ctx, Level, Motion, Sig, Value, Voter};
use crate::block::{Block, Committed, Height, Vote, VoteKind};
use crate::record::SignedRecord;
use crate::sync::snapshot::{MAX_CHUNK, Offer};

/// Blocks in one answer: fewer if they would exceed the codec's limit.
pub const MAX_BLOCKS: usize = 64;

/// Records in one message: at 64 KiB each they still fit the codec's limit.
pub const MAX_RECORDS_SENT: usize = 64;

/// One message between two replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerMessage {
    /// A prevote or precommit.
    Vote {
        /// The vote; its author is its validator.
        vote: SignedVote,
        /// Whether the sender itself has something to decide. A hint, not signed: where nobody has, rounds stop.
        eager: bool,
    },
    /// A block to vote on. Boxed: blocks are large.
    Proposal(Box<Proposed>),
    /// More than two thirds of the prevotes for one block in a round.
    Polka(Polka),
    /// Why its sender entered a round.
    Rounds(Rounds),
    /// How far the sender is.
    Status {
        /// Its last committed block.
        height: Height,
        /// That block's hash.
        tip: Hash,
    },
    /// Asks for committed blocks.
    Fetch {
        /// The first wanted.
        from: Height,
        /// How many at most; at most [`MAX_BLOCKS`] are sent.
        most: u16,
    },
    /// Committed blocks in order; the answer to `Fetch`, and what followers are sent unasked.
    Blocks(List<Committed, MAX_BLOCKS>),
    /// Records that wait for a block, sent to the validators when gossip alone did not get them committed.
    Records(List<SignedRecord, MAX_RECORDS_SENT>),
    /// The answer to `Fetch` for blocks that its sender does not keep.
    Pruned {
        /// The first block that it keeps.
        base: Height,
    },
    /// Asks for a snapshot of the state.
    SnapshotWanted {
        /// The asker's height: it trusts the validators of the next.
        trusted: Height,
    },
    /// The newest snapshot that its sender has; none if it has none beyond the asker's height. Boxed: it may be large.
    Snapshot(Option<Box<Offer>>),
    /// Asks for a chunk of a snapshot.
    ChunkWanted {
        /// The snapshot's height.
        height: Height,
        /// The chunk's place.
        index: u32,
    },
    /// A chunk of a snapshot.
    Chunk {
        /// The snapshot's height.
        height: Height,
        /// The chunk's place.
        index: u32,
        /// Its content; empty if its sender has it no more.
        bytes: List<u8, MAX_CHUNK>,
    },
}

/// A vote with its signature.
pub type SignedVote = Signed<Vote>;

/// A proposal with its block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// What is signed.
    pub proposal: Signed<Proposal>,
    /// The block whose hash it names.
    pub block: Block,
}

/// A polka certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polka {
    /// The height.
    pub height: Height,
    /// The round of the prevotes.
    pub round: u32,
    /// What they are for.
    pub block: Hash,
    /// Who prevoted.
    pub signatures: List<(SiteId, Signature), MAX_VALIDATORS>,
}

/// A round certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounds {
    /// The height.
    pub height: Height,
    /// The round of the votes.
    pub round: u32,
    /// True: more than a third voted in a later round, which is entered. False: more than two thirds precommitted
    /// anything in this round, and the next is entered.
    pub skip: bool,
    /// The votes, one a validator.
    pub votes: List<SignedVote, MAX_VALIDATORS>,
}

impl LedgerMessage {
    /// The message whose canonical bytes these are. Here, since what is generic is compiled where it is called: the development
    /// profile optimizes this crate more than those that talk.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        godwit_protocol::decode(bytes)
    }

    /// Its canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it is too large for the codec.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        godwit_protocol::encode(self)
    }

    /// Its name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vote { .. } => "vote",
            Self::Proposal(_) => "proposal",
            Self::Polka(_) => "polka",
            Self::Rounds(_) => "rounds",
            Self::Status { .. } => "status",
            Self::Fetch { .. } => "fetch",
            Self::Blocks(_) => "blocks",
            Self::Records(_) => "records",
            Self::Pruned { .. } => "pruned",
            Self::SnapshotWanted { .. } => "snapshot-wanted",
            Self::Snapshot(_) => "snapshot",
            Self::ChunkWanted { .. } => "chunk-wanted",
            Self::Chunk { .. } => "chunk",
        }
    }
}

/// The core's form of a round number.
pub(crate) fn round_of(round: Option<u32>) -> Round {
    round.map_or(Round::Nil, Round::new)
}

/// A round in which somebody voted or proposed.
///
/// # Panics
/// If it is no round: the core votes in rounds only.
pub(crate) fn number_of(round: Round) -> u32 {
    round.as_u32().expect("the core votes, proposes and certifies in rounds from 0 on")
}

impl From<&Ballot> for Vote {
    fn from(ballot: &Ballot) -> Self {
        Self {
            kind: match ballot.kind {
                VoteType::Prevote => VoteKind::Prevote,
                VoteType::Precommit => VoteKind::Precommit,
            },
            height: ballot.height.0,
            round: number_of(ballot.round),
            block: match ballot.value {
                NilOrVal::Nil => None,
                NilOrVal::Val(value) => Some(value.0),
            },
            validator: ballot.by.0,
        }
    }
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Self {
        Self {
            height: Level(vote.height),
            round: Round::new(vote.round),
            value: vote.block.map_or(NilOrVal::Nil, |block| NilOrVal::Val(Value(block))),
            kind: match vote.kind {
                VoteKind::Prevote => VoteType::Prevote,
                VoteKind::Precommit => VoteType::Precommit,
            },
            by: Voter(vote.validator),
        }
    }
}

impl From<&Motion> for Proposal {
    fn from(motion: &Motion) -> Self {
        Self {
            height: motion.height.0,
            round: number_of(motion.round),
            block: motion.value.0,
            polka: motion.polka.as_u32(),
            proposer: motion.by.0,
        }
    }
}

impl From<&Proposal> for Motion {
    fn from(proposal: &Proposal) -> Self {
        Self {
            height: Level(proposal.height),
            round: Round::new(proposal.round),
            value: Value(proposal.block),
            polka: round_of(proposal.polka),
            by: Voter(proposal.proposer),
        }
    }
}

pub(crate) fn vote_out(vote: &core::SignedVote<Ctx>) -> SignedVote {
    SignedVote { body: (&vote.message).into(), author: vote.message.by.0, signature: vote.signature.into() }
}

pub(crate) fn vote_in(vote: &SignedVote) -> core::SignedVote<Ctx> {
    core::SignedVote::new((&vote.body).into(), vote.signature.into())
}

pub(crate) fn proposal_out(proposal: &core::SignedProposal<Ctx>) -> Signed<Proposal> {
    Signed { body: (&proposal.message).into(), author: proposal.message.by.0, signature: proposal.signature.into() }
}

pub(crate) fn proposal_in(proposal: &Signed<Proposal>) -> core::SignedProposal<Ctx> {
    core::SignedProposal::new((&proposal.body).into(), proposal.signature.into())
}

impl From<&core::PolkaCertificate<Ctx>> for Polka {
    fn from(polka: &core::PolkaCertificate<Ctx>) -> Self {
        Self {
            height: polka.height.0,
            round: number_of(polka.round),
            block: polka.value_id.0,
            signatures: List::first(polka.polka_signatures.iter().map(|s| (s.address.0, s.signature.into()))),
        }
    }
}

impl From<&Polka> for core::PolkaCertificate<Ctx> {
    fn from(polka: &Polka) -> Self {
        let signature =
            |(site, signature): &(SiteId, Signature)| core::PolkaSignature::new(Voter(*site), Sig::from(*signature));
        Self {
            height: Level(polka.height),
            round: Round::new(polka.round),
            value_id: Value(polka.block),
            polka_signatures: polka.signatures.iter().map(signature).collect(),
        }
    }
}

impl From<&core::RoundCertificate<Ctx>> for Rounds {
    fn from(rounds: &core::RoundCertificate<Ctx>) -> Self {
        Self {
            height: rounds.height.0,
            round: number_of(rounds.round),
            skip: rounds.cert_type == core::RoundCertificateType::Skip,
            votes: List::first(rounds.votes(&Ctx).map(|vote| vote_out(&vote))),
        }
    }
}

impl From<&Rounds> for core::RoundCertificate<Ctx> {
    fn from(rounds: &Rounds) -> Self {
        let kind = if rounds.skip { core::RoundCertificateType::Skip } else { core::RoundCertificateType::Precommit };
        let votes = rounds.votes.iter().map(vote_in).collect();
        Self::new_from_votes(Level(rounds.height), Round::new(rounds.round), kind, votes)
    }
}
