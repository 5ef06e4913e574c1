//! `Evidence`: a validator that contradicted itself is punished.
//!
//! Two votes of one kind, or two proposals, by one key in one round for different blocks: no fault of a network, a disk or
//! a clock makes a correct validator sign both, since it logs each before it says it. So the proof needs no judge, and
//! whoever is a member may append it.
//!
//! The culprit leaves the mesh from the next height on, unless that would leave fewer than four validators. A mesh of four
//! goes on as long as three of them vote, whichever: with the culprit's seat taken away, three would be left and all of them
//! needed, so that the loss of one more, by no fault of its own, would end all progress. The seat is no danger that was not
//! there before: as one of four it can neither fork the ledger nor stop it. So it keeps its vote and loses all the rest:
//! it proposes no blocks while another can, offers nothing, takes nothing, and appends nothing but what ends a handoff that it
//! is a party of. Its operators and the others are told, and decide: put another in its place, or put it back.
//!
//! Evidence is judged by what the state knows, the seats: who votes or voted lately, and since when. What happened before
//! a seat was given, or given back, is judged already, or was no vote. What lies further back than [`EVIDENCE_WINDOW`]
//! is left alone: by then blocks may be pruned, and nobody could look into what happened.

use godwit_protocol::SiteId;
use godwit_protocol::evidence::{Evidence, Sentence};

use super::{Turn, Work};
use crate::block::Height;
use crate::refusal::Refusal;
use crate::state::State;

/// How many heights back a contradiction may lie.
pub const EVIDENCE_WINDOW: u64 = 100_000;

/// The fewest validators of which one may fail: a culprit is removed where so many others remain.
const LEAST_VALIDATORS: usize = 4;

impl Work {
    pub(super) fn check_evidence(&self, evidence: &Evidence) -> Result<(), Refusal> {
        self.state.judge(evidence)?;
        if self.turn.is_some() {
            return Err(Refusal::MembershipPending);
        }
        evidence.verify(&self.state.mesh()).map_err(|_| Refusal::EvidenceForged)
    }

    pub(super) fn evidence(&mut self, evidence: &Evidence) {
        let sentence = self.state.judge(evidence).expect("was checked");
        self.turn = Some(Turn::Punishment { site: evidence.culprit(), height: evidence.height(), sentence });
    }
}

impl State {
    /// What evidence leads to, if its signatures hold.
    ///
    /// # Errors
    /// Why it leads to nothing.
    pub fn judge(&self, evidence: &Evidence) -> Result<Sentence, Refusal> {
        let (site, height, next) = (evidence.culprit(), evidence.height(), self.height().next());
        if !evidence.is_contradiction() {
            return Err(Refusal::NoContradiction);
        }
        if height > next {
            return Err(Refusal::EvidenceAhead { height, next });
        }
        let least = Height(next.0.saturating_sub(EVIDENCE_WINDOW));
        if height < least {
            return Err(Refusal::EvidenceOld { height, least });
        }
        if self.member(&site).is_none() {
            return Err(Refusal::UnknownMember(site));
        }
        let seat = self.seat(&site).filter(|seat| seat.covers(height)).ok_or(Refusal::NoVoteThen { site, height })?;
        if seat.suspended {
            return Err(Refusal::AlreadySuspended(site));
        }
        Ok(sentence(self.validators(), &site))
    }
}

/// What becomes of a culprit, by who decides the height at which the evidence is committed.
pub(crate) fn sentence(validators: &[SiteId], culprit: &SiteId) -> Sentence {
    let others = validators.iter().filter(|validator| *validator != culprit).count();
    let needed = validators.contains(culprit) && others < LEAST_VALIDATORS;
    if needed { Sentence::Suspended } else { Sentence::Removed }
}
