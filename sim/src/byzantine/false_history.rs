//! Says that it is further than anybody, and serves blocks that were never decided: with a certificate of too few, of
//! another block, or of itself alone; out of order, or none at all.

use godwit_ledger::block::{Committed, precommit_bytes};
use godwit_ledger::replica::LedgerMessage;
use godwit_protocol::SiteId;
use godwit_protocol::bounded::List;
use godwit_protocol::signed::sign_bytes;

use super::{Byzantine, Scene, stray};

#[derive(Debug)]
pub(super) struct FalseHistory;

impl Byzantine for FalseHistory {
    fn say(&mut self, scene: &mut Scene<'_>, _: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        vec![match message {
            LedgerMessage::Status { mut height, tip } => {
                height.0 += scene.dice.below(1_000);
                LedgerMessage::Status { height, tip }
            }
            LedgerMessage::Blocks(blocks) => {
                let mut blocks = blocks.into_inner();
                match scene.dice.below(6) {
                    0 => blocks.clear(),
                    1 => blocks.reverse(),
                    2 => drop((!blocks.is_empty()).then(|| blocks.remove(0))),
                    lie => blocks.iter_mut().for_each(|committed| bend(scene, lie, committed)),
                }
                LedgerMessage::Blocks(List::first(blocks))
            }
            honest => honest,
        }]
    }
}

fn bend(scene: &mut Scene<'_>, lie: u64, committed: &mut Committed) {
    let Committed { block, certificate } = committed;
    match lie {
        // A real one, short of one signature that it needs.
        3 => {
            let validators = scene.state.validators().len();
            let signatures = certificate.signatures.clone().into_inner();
            certificate.signatures = List::first(signatures.into_iter().take(validators * 2 / 3));
        }
        4 => block.header.time.0 += 1,
        _ => {
            block.header.state = stray(scene.dice);
            certificate.block = block.header.hash();
            let bytes =
                precommit_bytes(&scene.mesh, certificate.height, certificate.round, certificate.block, scene.me);
            certificate.signatures = List::first([(scene.me, sign_bytes(scene.key, &bytes))]);
        }
    }
}
