//! Proposes one block to one half of the mesh and another, just as valid, to the other half; now and then both to all.

use godwit_ledger::replica::LedgerMessage;
use godwit_ledger::rules;
use godwit_protocol::{SiteId, Time};

use super::{Byzantine, Scene};

#[derive(Debug)]
pub(super) struct EquivocatingProposer;

impl Byzantine for EquivocatingProposer {
    fn say(&mut self, scene: &mut Scene<'_>, to: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        let LedgerMessage::Proposal(proposed) = message else { return vec![message] };
        let both = scene.dice.chance(2_000);
        if !scene.is_own(&proposed) || (!both && scene.is_in_one_half(&to)) {
            return vec![LedgerMessage::Proposal(proposed)];
        }
        let Ok(records) = rules::verify_records(&scene.mesh, &proposed.block) else { return Vec::new() };
        let later = Time(proposed.block.header.time.0 + 1);
        let (block, ..) = rules::build(scene.state, scene.me, later, records);
        let other = scene.propose(&proposed.proposal.body, block);
        if both { vec![LedgerMessage::Proposal(proposed), other] } else { vec![other] }
    }
}
