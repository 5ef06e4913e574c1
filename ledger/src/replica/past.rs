//! What was said about heights that are decided by now: a contradiction may come to light only after the decision.
//!
//! While a height is being decided the core compares what it hears. Afterwards a word of it is compared here with what its
//! author said before. Signatures of late words are checked only where they contradict: most late words are precommits
//! that came after the decision, and tell nothing new.

use std::collections::BTreeMap;

use godwit_protocol::evidence::Evidence;
use godwit_protocol::vote::{Height, Proposal, VoteKind};
use godwit_protocol::{Signed, SiteId};

use super::message::SignedVote;

/// How long words are kept, in heights: a contradiction that takes longer on its way is left to other replicas.
const HEIGHTS: u64 = 16;

/// Words of one kind that are kept: two votes of 31 validators in four rounds, of 16 heights.
const WORDS: usize = 31 * 2 * 4 * 16;

/// What a vote is about, but for the block.
type Place = (Height, SiteId, u32, VoteKind);

/// The words of the last heights, one of each place.
#[derive(Debug, Default)]
pub(super) struct Past {
    votes: BTreeMap<Place, SignedVote>,
    proposals: BTreeMap<(Height, SiteId, u32), Signed<Proposal>>,
}

impl Past {
    /// Forgets what lies further back than the heights before `decided`.
    pub fn forget(&mut self, decided: Height) {
        let least = Height(decided.0.saturating_sub(HEIGHTS));
        self.votes.retain(|(height, ..), _| *height > least);
        self.proposals.retain(|(height, ..), _| *height > least);
    }

    /// A vote of a decided height; what it proves, together with an earlier one.
    pub fn vote(&mut self, vote: &SignedVote) -> Option<Evidence> {
        let body = &vote.body;
        let place = (body.height, vote.author, body.round, body.kind);
        if let Some(before) = self.votes.get(&place) {
            let evidence = Evidence::Votes(before.clone(), vote.clone());
            return evidence.is_contradiction().then_some(evidence);
        }
        if self.votes.len() < WORDS {
            self.votes.insert(place, vote.clone());
        }
        None
    }

    /// A proposal of a decided height; what it proves, together with an earlier one.
    pub fn proposal(&mut self, proposal: &Signed<Proposal>) -> Option<Evidence> {
        let place = (proposal.body.height, proposal.author, proposal.body.round);
        if let Some(before) = self.proposals.get(&place) {
            let evidence = Evidence::Proposals(before.clone(), proposal.clone());
            return evidence.is_contradiction().then_some(evidence);
        }
        if self.proposals.len() < WORDS {
            self.proposals.insert(place, proposal.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use godwit_protocol::vote::Vote;
    use godwit_protocol::{Hash, MeshId};

    use super::*;
    use crate::testing::{key, site};

    fn vote(by: u8, height: u64, round: u32, block: Option<u8>) -> SignedVote {
        let block = block.map(|n| Hash([n; 32]));
        let vote = Vote { kind: VoteKind::Precommit, height: Height(height), round, block, validator: site(by) };
        Signed::sign(&MeshId([1; 32]), &key(by), vote).expect("small").into_signed()
    }

    #[test]
    fn only_words_for_different_blocks_in_one_place_contradict() {
        let mut past = Past::default();
        assert_eq!(past.vote(&vote(1, 5, 0, Some(1))), None);
        for other in [vote(1, 5, 0, Some(1)), vote(1, 5, 1, Some(2)), vote(1, 6, 0, Some(2)), vote(2, 5, 0, Some(2))] {
            assert_eq!(past.vote(&other), None);
        }
        let evidence = past.vote(&vote(1, 5, 0, None)).expect("a block, and none");
        assert_eq!((evidence.culprit(), evidence.height()), (site(1), Height(5)));
    }

    #[test]
    fn what_is_far_back_is_forgotten_and_what_is_kept_is_bounded() {
        let mut past = Past::default();
        past.vote(&vote(1, 5, 0, Some(1)));
        past.forget(Height(5 + HEIGHTS));
        assert_eq!(past.vote(&vote(1, 5, 0, Some(2))), None);
        for round in 0..u32::try_from(WORDS).expect("small") + 10 {
            past.votes.insert((Height(9), site(1), round, VoteKind::Prevote), vote(1, 9, 0, None));
        }
        let full = past.votes.len();
        past.vote(&vote(3, 10, 0, None));
        assert_eq!(past.votes.len(), full, "no more are kept");
    }
}
