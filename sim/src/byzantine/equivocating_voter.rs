//! Votes for a block before one half of the mesh and for nothing, or for another block, before the other half; now and then
//! says both to all.

use godwit_ledger::block::Vote;
use godwit_ledger::replica::LedgerMessage;
use godwit_protocol::{Hash, Signed, SiteId};

use super::{Byzantine, Scene};

#[derive(Debug, Default)]
pub(super) struct EquivocatingVoter {
    /// The last block that it heard proposed.
    heard: Option<Hash>,
}

impl Byzantine for EquivocatingVoter {
    fn say(&mut self, scene: &mut Scene<'_>, to: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        let LedgerMessage::Vote { vote, eager } = message else { return vec![message] };
        let both = scene.dice.chance(2_000);
        if vote.author != scene.me || (!both && scene.is_in_one_half(&to)) {
            return vec![LedgerMessage::Vote { vote, eager }];
        }
        let other = match vote.body.block {
            Some(_) => None,
            None => self.heard,
        };
        let body = Vote { block: other, ..vote.body };
        let bent = Signed::sign(&scene.mesh, scene.key, body).expect("a vote is small").into_signed();
        let bent = LedgerMessage::Vote { vote: bent, eager };
        if both { vec![LedgerMessage::Vote { vote, eager }, bent] } else { vec![bent] }
    }

    fn hear(&mut self, message: &LedgerMessage) {
        if let LedgerMessage::Proposal(proposed) = message {
            self.heard = Some(proposed.proposal.body.block);
        }
    }
}
