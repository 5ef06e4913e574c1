//! What a replica writes ahead: every word that its later votes follow from, so that after a crash it says the same.

use godwit_protocol::{Hash, Malformed, Signed, SiteId, decode, encode};
use malachitebft_core_consensus::{Input, ProposedValue};
use malachitebft_core_types::{Round, Timeout, TimeoutKind, Validity, ValueOrigin};
use serde::{Deserialize, Serialize};

use super::context::{Ctx, Level, Value, Voter};
use super::message::{Polka, Proposal, SignedVote, number_of, proposal_in, proposal_out, round_of, vote_in, vote_out};
use crate::block::{Block, Height};

/// One entry of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    Vote(SignedVote),
    Proposal(Signed<Proposal>),
    Value(Judged),
    Polka(Polka),
    Timeout { height: Height, kind: Step, round: u32 },
}

/// A proposed block and the verdict on it, which must be the same on replay: the clock it rested on has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub height: Height,
    pub round: u32,
    pub polka: Option<u32>,
    pub proposer: SiteId,
    pub hash: Hash,
    pub valid: bool,
    /// With the first entry of a hash only.
    pub block: Option<Box<Block>>,
}

/// What a timeout ended the wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Propose,
    Prevote,
    Precommit,
}

/// Why a write-ahead log cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWal {
    /// Its framing held, its content does not: written by another version, or by another program.
    #[error("entry {index} of the write-ahead log is not one of this version's")]
    Malformed {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// The store is older than the log, for example after a restore from a backup: voting again on heights that this
    /// validator has voted on would be equivocation.
    #[error(
        "entry {index} of the write-ahead log is of height {found}, but the store ends at {stored}: blocks are missing"
    )]
    StoreBehind {
        /// Counted from 0.
        index: usize,
        /// The entry's height.
        found: Height,
        /// The store's.
        stored: Height,
    },
}

impl Entry {
    pub fn encode(&self) -> Vec<u8> {
        encode(self).expect("a block within the codec's limit leaves room for an entry's few other fields")
    }

    /// Decodes a log's entries for the height after `stored`; leaves out those of decided heights, which a crash between
    /// commit and truncation leaves behind.
    pub fn decode_all(log: &[Vec<u8>], stored: Height) -> Result<Vec<Self>, BadWal> {
        let mut entries = Vec::new();
        for (index, bytes) in log.iter().enumerate() {
            let entry: Self = decode(bytes).map_err(|source| BadWal::Malformed { index, source })?;
            let found = entry.height();
            if found > stored.next() {
                return Err(BadWal::StoreBehind { index, found, stored });
            }
            if found == stored.next() {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    pub fn height(&self) -> Height {
        match self {
            Self::Vote(vote) => vote.body.height,
            Self::Proposal(proposal) => proposal.body.height,
            Self::Value(judged) => judged.height,
            Self::Polka(polka) => polka.height,
            Self::Timeout { height, .. } => *height,
        }
    }

    /// The entry for what the core wants written; none for what it would rebuild by itself.
    pub fn of(height: Height, input: &Input<Ctx>, block: impl FnOnce(Hash) -> Option<Block>) -> Option<Self> {
        Some(match input {
            Input::Vote(vote) => Self::Vote(vote_out(vote)),
            Input::Proposal(proposal) => Self::Proposal(proposal_out(proposal)),
            Input::ProposedValue(value, _) => Self::Value(Judged {
                height: value.height.0,
                round: number_of(value.round),
                polka: value.valid_round.as_u32(),
                proposer: value.proposer.0,
                hash: value.value.0,
                valid: value.validity.is_valid(),
                block: block(value.value.0).map(Box::new),
            }),
            Input::PolkaCertificate(polka) => Self::Polka(polka.into()),
            Input::TimeoutElapsed(timeout) => {
                let kind = match timeout.kind {
                    TimeoutKind::Propose => Step::Propose,
                    TimeoutKind::Prevote => Step::Prevote,
                    TimeoutKind::Precommit => Step::Precommit,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
                };
                Self::Timeout { height, kind, round: number_of(timeout.round) }
            }
            Input::StartHeight(..) | Input::RoundCertificate(_) | Input::Propose(_) | Input::SyncValueResponse(_) => {
                return None;
            }
        })
    }

    /// What the core is fed on replay.
    pub fn input(&self) -> Input<Ctx> {
        match self {
            Self::Vote(vote) => Input::Vote(vote_in(vote)),
            Self::Proposal(proposal) => Input::Proposal(proposal_in(proposal)),
            Self::Value(judged) => {
                let value = ProposedValue {
                    height: Level(judged.height),
                    round: Round::new(judged.round),
                    valid_round: round_of(judged.polka),
                    proposer: Voter(judged.proposer),
                    value: Value(judged.hash),
                    validity: Validity::from_bool(judged.valid),
                };
                Input::ProposedValue(value, ValueOrigin::Consensus)
            }
            Self::Polka(polka) => Input::PolkaCertificate(polka.into()),
            Self::Timeout { kind, round, .. } => {
                let kind = match kind {
                    Step::Propose => TimeoutKind::Propose,
                    Step::Prevote => TimeoutKind::Prevote,
                    Step::Precommit => TimeoutKind::Precommit,
                };
                Input::TimeoutElapsed(Timeout::new(Round::new(*round), kind))
            }
        }
    }
}

/// Whether a log's entry is this vote or proposal: for the harness, which checks that what is said was written.
#[cfg(any(test, feature = "harness"))]
pub(crate) fn is_logged(entry: &[u8], message: &super::LedgerMessage) -> bool {
    match (decode::<Entry>(entry), message) {
        (Ok(Entry::Vote(logged)), super::LedgerMessage::Vote { vote, .. }) => logged == *vote,
        (Ok(Entry::Proposal(logged)), super::LedgerMessage::Proposal(proposed)) => logged == proposed.proposal,
        _ => false,
    }
}
