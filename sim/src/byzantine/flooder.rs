//! Writes records as fast as it can: bids on offers that nobody made, which wait for their offer until they expire.

use godwit_protocol::bid::Bid;
use godwit_protocol::{Message, Millis, OfferId, PerMille};

use super::{Byzantine, Deed, Scene, sent};

/// Once: more than an author may have waiting.
const BURST: usize = 1_300;

/// Every second after it.
const STEADY: usize = 10;

#[derive(Debug, Default)]
pub(super) struct Flooder {
    began: bool,
}

impl Byzantine for Flooder {
    fn act(&mut self, scene: &mut Scene<'_>) -> Vec<Deed> {
        let many = if std::mem::replace(&mut self.began, true) { STEADY } else { BURST };
        let mut deeds = Vec::with_capacity(many);
        for n in 0..many {
            let offer = OfferId(scene.dice.bytes());
            let bid = Bid { offer, same_network: true, load: PerMille(0), downtime_ms: Millis(0) };
            let record = scene.record(Message::Bid(bid));
            // Now and then past its own replica, which has quotas too.
            deeds.push(if n % 8 == 0 { Deed::SayAll(sent([record])) } else { Deed::Submit(Box::new(record)) });
        }
        deeds
    }
}
