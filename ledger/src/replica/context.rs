//! The types by which Malachite's core knows our words: sites, heights, header hashes, votes, validators.
//!
//! They are newtypes because the core's traits cannot be given to another crate's types.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use godwit_protocol::{Hash, Signature, SiteId};
use malachitebft_core_types as core;
use malachitebft_core_types::{NilOrVal, Round, SignedExtension, VoteType, VotingPower};

use crate::block::Height;

/// The kinds of words that our consensus is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ctx;

/// A validator, by its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Voter(pub SiteId);

/// A height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Level(pub Height);

/// What is decided: the hash of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Value(pub Hash);

/// A signature with the order that the core asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sig(pub [u8; 64]);

/// Blocks travel whole, beside their proposal: there are no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part;

/// A prevote or precommit as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ballot {
    pub height: Level,
    pub round: Round,
    pub value: NilOrVal<Value>,
    pub kind: VoteType,
    pub by: Voter,
}

/// A proposal as the core sees it; `polka` is the round of the polka that a re-proposal rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Motion {
    pub height: Level,
    pub round: Round,
    pub value: Value,
    pub polka: Round,
    pub by: Voter,
}

/// Those who decide one height, and who of them proposes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committee {
    seats: Arc<[Voter]>,
    /// Those who propose, in turn.
    turns: Arc<[Voter]>,
    /// Index of round 0's proposer.
    first: usize,
}

impl Committee {
    /// # Panics
    /// If there is nobody: the rules never leave a mesh without a validator.
    pub fn new(validators: &[SiteId], turns: &[SiteId], first: usize) -> Self {
        assert!(first < turns.len(), "a committee has members, and its first proposer is one of them");
        let voters = |sites: &[SiteId]| sites.iter().map(|site| Voter(*site)).collect();
        Self { seats: voters(validators), turns: voters(turns), first }
    }

    /// Who proposes in a round: the first proposer, then the others in turn.
    pub fn proposer(&self, round: u32) -> SiteId {
        let turn = usize::try_from(round).unwrap_or(0) % self.turns.len();
        self.turns[(self.first + turn) % self.turns.len()].0
    }

    pub fn contains(&self, site: &SiteId) -> bool {
        self.seat(site).is_some()
    }

    /// The site's place among the validators.
    pub fn seat(&self, site: &SiteId) -> Option<usize> {
        self.seats.iter().position(|seat| seat.0 == *site)
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

impl From<Signature> for Sig {
    fn from(signature: Signature) -> Self {
        Self(signature.0)
    }
}

impl From<Sig> for Signature {
    fn from(sig: Sig) -> Self {
        Self(sig.0)
    }
}

impl core::Address for Voter {}

impl core::Height for Level {
    const ZERO: Self = Self(Height(0));
    const INITIAL: Self = Self(Height(1));

    fn increment_by(&self, n: u64) -> Self {
        Self(Height(self.0.0.saturating_add(n)))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.0.checked_sub(n).map(|height| Self(Height(height)))
    }

    fn as_u64(&self) -> u64 {
        self.0.0
    }
}

impl core::Value for Value {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

impl core::ProposalPart<Ctx> for Part {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl core::Vote<Ctx> for Ballot {
    fn height(&self) -> Level {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Value> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Value> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Voter {
        &self.by
    }

    // Votes carry no extensions.
    fn extension(&self) -> Option<&SignedExtension<Ctx>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ctx>> {
        None
    }

    fn extend(self, _: SignedExtension<Ctx>) -> Self {
        self
    }
}

impl core::Proposal<Ctx> for Motion {
    fn height(&self) -> Level {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.polka
    }

    fn validator_address(&self) -> &Voter {
        &self.by
    }
}

impl core::Validator<Ctx> for Voter {
    fn address(&self) -> &Voter {
        self
    }

    // A site's id is its key.
    fn public_key(&self) -> &Voter {
        self
    }

    fn voting_power(&self) -> VotingPower {
        1
    }
}

impl core::ValidatorSet<Ctx> for Committee {
    fn count(&self) -> usize {
        self.seats.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.seats.len() as VotingPower
    }

    fn get_by_address(&self, address: &Voter) -> Option<&Voter> {
        self.seats.iter().find(|seat| *seat == address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Voter> {
        self.seats.get(index)
    }
}

impl core::SigningScheme for Ctx {
    type DecodingError = std::array::TryFromSliceError;
    type Signature = Sig;
    type PublicKey = Voter;
    type PrivateKey = SigningKey;

    fn decode_signature(bytes: &[u8]) -> Result<Sig, Self::DecodingError> {
        bytes.try_into().map(Sig)
    }

    fn encode_signature(signature: &Sig) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<Voter, Self::DecodingError> {
        bytes.try_into().map(|key| Voter(SiteId(key)))
    }

    fn encode_public_key(key: &Voter) -> Vec<u8> {
        key.0.0.to_vec()
    }
}

impl PartialEq for Ctx {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ctx {}

impl core::Context for Ctx {
    type Address = Voter;
    type Height = Level;
    type ProposalPart = Part;
    type Proposal = Motion;
    type Validator = Voter;
    type ValidatorSet = Committee;
    type Timeouts = core::LinearTimeouts;
    type Value = Value;
    type Vote = Ballot;
    type Extension = ();
    type SigningScheme = Self;

    fn select_proposer<'a>(&self, committee: &'a Committee, _: Level, round: Round) -> &'a Voter {
        let proposer = Voter(committee.proposer(round.as_u32().unwrap_or(0)));
        committee.seats.iter().find(|seat| **seat == proposer).expect("the proposer has a seat")
    }

    fn new_proposal(&self, height: Level, round: Round, value: Value, polka: Round, by: Voter) -> Motion {
        Motion { height, round, value, polka, by }
    }

    fn new_prevote(&self, height: Level, round: Round, value: NilOrVal<Value>, by: Voter) -> Ballot {
        Ballot { height, round, value, kind: VoteType::Prevote, by }
    }

    fn new_precommit(&self, height: Level, round: Round, value: NilOrVal<Value>, by: Voter) -> Ballot {
        Ballot { height, round, value, kind: VoteType::Precommit, by }
    }
}
