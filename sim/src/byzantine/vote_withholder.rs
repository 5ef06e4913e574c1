//! Keeps its votes from half of the mesh, and most of its proposals from everybody.

use godwit_ledger::replica::LedgerMessage;
use godwit_protocol::SiteId;

use super::{Byzantine, Scene};

#[derive(Debug)]
pub(super) struct VoteWithholder;

impl Byzantine for VoteWithholder {
    fn say(&mut self, scene: &mut Scene<'_>, to: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        let keeps = match &message {
            LedgerMessage::Vote { .. } => scene.is_in_one_half(&to),
            LedgerMessage::Proposal(_) => scene.dice.chance(7_000),
            _ => false,
        };
        if keeps { Vec::new() } else { vec![message] }
    }
}
