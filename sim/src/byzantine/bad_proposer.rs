//! Proposes blocks that break the rules: a state root that is none, a time before its parent's, a record twice, a record
//! whose precondition is missed.

use godwit_ledger::replica::LedgerMessage;
use godwit_protocol::bounded::List;
use godwit_protocol::register::Retire;
use godwit_protocol::{ContainerId, Message, SiteId, Time};

use super::{Byzantine, Scene, stray};

#[derive(Debug)]
pub(super) struct BadProposer;

impl Byzantine for BadProposer {
    fn say(&mut self, scene: &mut Scene<'_>, _: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        let LedgerMessage::Proposal(proposed) = message else { return vec![message] };
        if !scene.is_own(&proposed) || scene.dice.chance(3_000) {
            return vec![LedgerMessage::Proposal(proposed)];
        }
        let (proposal, mut block) = (proposed.proposal.body, proposed.block);
        match scene.dice.below(4) {
            0 => block.header.state = stray(scene.dice),
            1 => block.header.time = Time(scene.state.time().0.saturating_sub(1)),
            2 => {
                let records = block.records.clone().into_inner();
                block.records = List::first([&records[..], &records[..]].concat());
            }
            _ => {
                let mut records = block.records.clone().into_inner();
                let retire = Message::Retire(Retire { container: ContainerId(scene.dice.bytes()) });
                records.push(scene.record(retire).into_signed());
                block.records = List::first(records);
            }
        }
        vec![scene.propose(&proposal, block)]
    }
}
