//! What the consensus core asks of its host: signing, verifying, writing ahead, publishing, timers.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use godwit_protocol::bounded::List;
use godwit_protocol::evidence::Evidence;
use godwit_protocol::signed::{sign_bytes, signing_bytes, verify_bytes};
use godwit_protocol::{Hash, MeshId, Signable, Signature, SiteId, Time};
use malachitebft_core_consensus::{
    ConsensusMsg, Effect as Ask, LivenessMsg, MisbehaviorEvidence, Resumable, Resume, SignedConsensusMsg,
};
use malachitebft_core_types::{
    CertificateError, CommitCertificate, NilOrVal, RoundCertificate, RoundCertificateType, SignedMessage,
    SignedProposal, SignedVote, ThresholdParam, VoteType,
};

use super::context::{Ballot, Committee, Ctx, Motion, Sig, Voter};
use super::entry::Entry;
use super::message::{LedgerMessage, Proposal, Proposed, Rounds, number_of, proposal_out, vote_out};
use super::outbox::Outbox;
use super::proposer::Pace;
use super::timers::Timers;
use super::{Effect, Offence};
use crate::block::{Block, Certificate, Height, Vote};
use crate::rules::Applied;

/// Verified signatures that are remembered; a height of 31 validators has 62 a round.
const MAX_VERIFIED: usize = 8192;

/// A block that was proposed at this height.
#[derive(Debug)]
pub(super) struct Held {
    pub block: Block,
    /// Where it leads; none if it breaks the rules.
    pub applied: Option<Applied>,
    /// The verdict that the core was told.
    pub told: Option<bool>,
    /// The last round in which it was proposed.
    pub round: u32,
}

/// Everything of a replica that the core's effects touch.
#[derive(Debug)]
pub(super) struct Host {
    pub mesh: MeshId,
    pub me: SiteId,
    key: SigningKey,
    pub now: Time,
    /// The height being decided.
    pub height: Height,
    pub outbox: Outbox,
    pub timers: Timers,
    pub pace: Pace,
    pub held: BTreeMap<Hash, Held>,
    /// Blocks that are in the log.
    pub logged: BTreeSet<Hash>,
    /// While the log is replayed: hashes of what it holds, which is not appended again.
    pub replaying: Option<BTreeSet<Hash>>,
    /// The core wants a value for this round, and there was none yet.
    pub wanted: Option<u32>,
    /// The core entered a round beyond the first.
    pub delayed: bool,
    /// What was decided, until it is committed.
    pub decided: Option<CommitCertificate<Ctx>>,
    /// Whether this replica has something to decide: goes out with its votes.
    pub eager: bool,
    /// Whose contradictions were told since the membership changed last: once is enough.
    pub accused: BTreeSet<SiteId>,
    round_began: Time,
    verified: BTreeSet<Hash>,
}

impl Host {
    pub fn new(mesh: MeshId, key: SigningKey) -> Self {
        Self {
            mesh,
            me: key.verifying_key().into(),
            key,
            now: Time(0),
            height: Height(0),
            outbox: Outbox::default(),
            timers: Timers::default(),
            pace: Pace::new(),
            held: BTreeMap::new(),
            logged: BTreeSet::new(),
            replaying: None,
            wanted: None,
            delayed: false,
            decided: None,
            eager: false,
            accused: BTreeSet::new(),
            round_began: Time(0),
            verified: BTreeSet::new(),
        }
    }

    /// Forgets the height that is over. Blocks and votes of later heights are not kept here.
    pub fn reset(&mut self) {
        self.timers.clear();
        self.held.clear();
        self.logged.clear();
        self.verified.clear();
        self.wanted = None;
        self.delayed = false;
        self.decided = None;
    }

    /// Does what the core asks for.
    pub fn perform(&mut self, ask: Ask<Ctx>) -> Resume<Ctx> {
        match ask {
            Ask::CancelAllTimeouts(r) => {
                self.timers.cancel_core();
                r.resume_with(())
            }
            Ask::CancelTimeout(timeout, r) => {
                self.timers.cancel(timeout);
                r.resume_with(())
            }
            Ask::ScheduleTimeout(timeout, r) => {
                let set = self.timers.schedule(timeout, self.pace.span(timeout));
                self.outbox.say(set);
                r.resume_with(())
            }
            Ask::StartRound(_, round, _, _, r) => {
                self.round_began = self.now;
                self.wanted = None;
                self.delayed |= number_of(round) > 0;
                r.resume_with(())
            }
            Ask::PublishConsensusMsg(SignedConsensusMsg::Vote(vote), r) => {
                self.publish_vote(&vote);
                r.resume_with(())
            }
            Ask::PublishConsensusMsg(SignedConsensusMsg::Proposal(proposal), r) => {
                self.publish_proposal(&proposal);
                r.resume_with(())
            }
            Ask::PublishLivenessMsg(LivenessMsg::Vote(vote), r) => {
                self.publish_vote(&vote);
                r.resume_with(())
            }
            Ask::PublishLivenessMsg(LivenessMsg::PolkaCertificate(polka), r) => {
                self.outbox.say_signed(Effect::Broadcast(LedgerMessage::Polka((&polka).into())));
                r.resume_with(())
            }
            Ask::PublishLivenessMsg(LivenessMsg::SkipRoundCertificate(rounds), r) => {
                self.publish_rounds(&rounds);
                r.resume_with(())
            }
            Ask::RepublishVote(vote, r) => {
                self.publish_vote(&vote);
                r.resume_with(())
            }
            Ask::RepublishRoundCertificate(rounds, r) => {
                self.publish_rounds(&rounds);
                r.resume_with(())
            }
            // Gotcha 4: answered after the step, and not before a replay has ended.
            Ask::GetValue(_, round, _, r) => {
                self.wanted = Some(number_of(round));
                r.resume_with(())
            }
            // The proposal that is published right after it carries the block.
            Ask::RestreamProposal(.., r) => r.resume_with(()),
            Ask::SignVote(vote, r) => r.resume_with(SignedMessage::new(vote, self.sign(&Vote::from(&vote)))),
            Ask::SignProposal(motion, r) => {
                r.resume_with(SignedMessage::new(motion, self.sign(&Proposal::from(&motion))))
            }
            Ask::VerifySignature(message, voter, r) => r.resume_with(match &message.message {
                ConsensusMsg::Vote(vote) => self.verify_vote(vote, &voter, message.signature),
                ConsensusMsg::Proposal(motion) => self.verify_proposal(motion, &voter, message.signature),
            }),
            Ask::VerifyCommitCertificate(certificate, committee, thresholds, r) => {
                let votes = certificate.commit_signatures.iter().map(|signature| {
                    let ballot = Ballot {
                        height: certificate.height,
                        round: certificate.round,
                        value: NilOrVal::Val(certificate.value_id),
                        kind: VoteType::Precommit,
                        by: signature.address,
                    };
                    SignedVote::new(ballot, signature.signature)
                });
                r.resume_with(self.check_votes(votes, &committee, thresholds.quorum))
            }
            Ask::VerifyPolkaCertificate(polka, committee, thresholds, r) => {
                r.resume_with(self.check_votes(polka.votes(&Ctx), &committee, thresholds.quorum))
            }
            Ask::VerifyRoundCertificate(rounds, committee, thresholds, r) => {
                let (honest, quorum) = (thresholds.honest, thresholds.quorum);
                r.resume_with(self.check_rounds(&rounds, &committee, honest, quorum))
            }
            Ask::WalAppend(height, input, r) => {
                self.write_ahead(height.0, &input);
                r.resume_with(())
            }
            Ask::Finalize(certificate, _, evidence, r) => {
                self.report(&evidence);
                self.pace.observe(self.now.since(self.round_began));
                self.decided = Some(certificate);
                r.resume_with(())
            }
            // `Finalize` follows at once, since no height has a target time (gotcha 5).
            Ask::Decide(_, _, r) => r.resume_with(()),
            // Synced blocks are verified and applied without the core; votes carry no extensions.
            Ask::VerifyExtendedCommitCertificate(.., r) => {
                r.resume_with(Err(CertificateError::VerificationError(None)))
            }
            Ask::CertVerifiedSyncValue(.., r) => r.resume_with(()),
            Ask::CertRejectedSyncValue(.., r) => r.resume_with(()),
            Ask::ExtendVote(.., r) => r.resume_with(None),
            Ask::VerifyVoteExtension(.., r) => r.resume_with(Ok(())),
        }
    }

    /// Whether the signature is the site's over the word.
    pub fn verify<T: Signable>(&mut self, word: &T, site: &SiteId, signature: &Signature) -> bool {
        let Ok(bytes) = signing_bytes(&self.mesh, word) else { return false };
        let key = Hash::of_parts("verified", &[&site.0, &bytes, &signature.0]);
        if self.verified.contains(&key) {
            return true;
        }
        let holds = verify_bytes(&site.0, &bytes, signature);
        if holds {
            self.remember(key);
        }
        holds
    }

    #[allow(clippy::result_large_err)] // the core's own error type
    /// Whether these votes are of distinct members, properly signed and enough.
    pub fn check_votes(
        &mut self,
        votes: impl Iterator<Item = SignedVote<Ctx>>,
        committee: &Committee,
        threshold: ThresholdParam,
    ) -> Result<(), CertificateError<Ctx>> {
        let mut voted = BTreeSet::new();
        for vote in votes {
            let by = vote.message.by;
            if !committee.contains(&by.0) {
                return Err(CertificateError::UnknownValidator(by));
            }
            if !voted.insert(by) {
                return Err(CertificateError::DuplicateVote(by));
            }
            if !self.verify_vote(&vote.message, &by, vote.signature) {
                return Err(CertificateError::VerificationError(None));
            }
        }
        let (signed, total) = (voted.len() as u64, committee.len() as u64);
        if threshold.is_met(signed, total) {
            Ok(())
        } else {
            Err(CertificateError::NotEnoughVotingPower { signed, total, expected: threshold.min_expected(total) })
        }
    }

    #[allow(clippy::result_large_err)] // the core's own error type
    pub fn check_rounds(
        &mut self,
        rounds: &RoundCertificate<Ctx>,
        committee: &Committee,
        honest: ThresholdParam,
        quorum: ThresholdParam,
    ) -> Result<(), CertificateError<Ctx>> {
        let skip = rounds.cert_type == RoundCertificateType::Skip;
        if let Some(prevote) = rounds.votes(&Ctx).find(|vote| !skip && vote.message.kind == VoteType::Prevote) {
            return Err(CertificateError::InvalidVoteType(prevote.message.by));
        }
        self.check_votes(rounds.votes(&Ctx), committee, if skip { honest } else { quorum })
    }

    fn verify_vote(&mut self, ballot: &Ballot, by: &Voter, signature: Sig) -> bool {
        ballot.by == *by && self.verify(&Vote::from(ballot), &by.0, &signature.into())
    }

    fn verify_proposal(&mut self, motion: &Motion, by: &Voter, signature: Sig) -> bool {
        motion.by == *by && self.verify(&Proposal::from(motion), &by.0, &signature.into())
    }

    fn sign<T: Signable>(&mut self, word: &T) -> Sig {
        let bytes = signing_bytes(&self.mesh, word).expect("votes and proposals have some hundred bytes");
        let signature = sign_bytes(&self.key, &bytes).0;
        self.remember(Hash::of_parts("verified", &[&self.me.0, &bytes, &signature]));
        Sig(signature)
    }

    fn remember(&mut self, key: Hash) {
        if self.verified.len() >= MAX_VERIFIED {
            self.verified.clear();
        }
        self.verified.insert(key);
    }

    fn publish_vote(&mut self, vote: &SignedVote<Ctx>) {
        let message = LedgerMessage::Vote { vote: vote_out(vote), eager: self.eager };
        self.outbox.say_signed(Effect::Broadcast(message));
    }

    fn publish_proposal(&mut self, proposal: &SignedProposal<Ctx>) {
        // Held blocks are dropped only rounds after anybody could re-propose them.
        let Some(held) = self.held.get(&proposal.message.value.0) else {
            tracing::warn!(height = %self.height, "the block of a proposal is no longer held; it is not published");
            return;
        };
        let proposed = Proposed { proposal: proposal_out(proposal), block: held.block.clone() };
        self.outbox.say_signed(Effect::Broadcast(LedgerMessage::Proposal(Box::new(proposed))));
    }

    fn publish_rounds(&mut self, rounds: &RoundCertificate<Ctx>) {
        self.outbox.say_signed(Effect::Broadcast(LedgerMessage::Rounds(Rounds::from(rounds))));
    }

    fn write_ahead(&mut self, height: Height, input: &malachitebft_core_consensus::Input<Ctx>) {
        let (held, logged) = (&self.held, &mut self.logged);
        let entry = Entry::of(height, input, |hash| {
            let block = held.get(&hash)?.block.clone();
            logged.insert(hash).then_some(block)
        });
        let Some(bytes) = entry.map(|entry| entry.encode()) else { return };
        if self.replaying.as_ref().is_some_and(|replayed| replayed.contains(&Hash::of(&bytes))) {
            return;
        }
        self.outbox.append(bytes);
    }

    /// What the core noticed while it decided a height. It also holds two proposals of one block against their author, which
    /// contradict nothing.
    fn report(&mut self, noticed: &MisbehaviorEvidence<Ctx>) {
        let votes = noticed.votes.iter().flat_map(|(_, pairs)| pairs);
        let votes = votes.map(|(one, other)| Evidence::Votes(vote_out(one), vote_out(other)));
        let proposals = noticed.proposals.iter().flat_map(|(_, pairs)| pairs);
        let proposals = proposals.map(|(one, other)| Evidence::Proposals(proposal_out(one), proposal_out(other)));
        for evidence in votes.chain(proposals).filter(Evidence::is_contradiction) {
            self.accuse(evidence);
        }
    }

    /// Has a contradiction said in the ledger.
    pub fn accuse(&mut self, evidence: Evidence) {
        let (site, height) = (evidence.culprit(), evidence.height());
        if site != self.me && self.accused.insert(site) {
            self.outbox.say(Effect::Misbehaved { site, what: Offence::Equivocation(height) });
            self.outbox.say(Effect::Accuse(Box::new(evidence)));
        }
    }
}

/// The certificate as blocks carry it, its signatures sorted by site.
pub(super) fn certificate(decided: &CommitCertificate<Ctx>) -> Certificate {
    let mut signatures: Vec<(SiteId, Signature)> =
        decided.commit_signatures.iter().map(|s| (s.address.0, s.signature.into())).collect();
    signatures.sort_by_key(|(site, _)| *site);
    Certificate {
        height: decided.height.0,
        round: number_of(decided.round),
        block: decided.value_id.0,
        signatures: List::first(signatures),
    }
}
