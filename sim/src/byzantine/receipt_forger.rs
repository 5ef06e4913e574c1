//! Takes containers over that were never yielded to it: receipts with a yield that it signed itself, in its own name or in
//! the source's.

use godwit_ledger::state::Phase;
use godwit_protocol::effect::Effect;
use godwit_protocol::receipt::Receipt;
use godwit_protocol::yield_::Yield;
use godwit_protocol::{Message, Millis, PerMille, Signed};

use super::{Byzantine, Deed, Scene, sent, stray};

#[derive(Debug)]
pub(super) struct ReceiptForger;

impl Byzantine for ReceiptForger {
    fn obey(&mut self, _: &mut Scene<'_>, effect: Effect) -> Vec<Effect> {
        let Effect::Append(Message::Bid(mut bid)) = effect else { return vec![effect] };
        bid.load = PerMille(0);
        vec![Effect::Append(Message::Bid(bid))]
    }

    fn act(&mut self, scene: &mut Scene<'_>) -> Vec<Deed> {
        let open = scene.state.offers().filter(|(_, auction)| {
            matches!(auction.phase, Phase::Awarded | Phase::Ready) && auction.winner() == Some(scene.me)
        });
        let open: Vec<_> =
            open.map(|(id, auction)| (*id, auction.source, auction.attempt, auction.body.epoch)).collect();
        let mut deeds = Vec::new();
        for (offer, source, attempt, epoch) in open {
            let root = stray(scene.dice);
            let body =
                Yield { offer, attempt, target: scene.me, epoch, root, freeze_ms: Millis(1), collect_ms: Millis(0) };
            let mut yielded = Signed::sign(&scene.mesh, scene.key, body).expect("a yield is small").into_signed();
            if scene.dice.chance(7_000) {
                yielded.author = source;
            }
            let record = scene.record(Message::Receipt(Receipt { offer, attempt, yielded }));
            deeds.push(Deed::SayAll(sent([record])));
        }
        deeds
    }
}
