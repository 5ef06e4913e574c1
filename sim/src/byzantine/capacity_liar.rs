//! Says that it has everything or nothing, and bids as if it were idle.

use godwit_protocol::capacity::Share;
use godwit_protocol::effect::Effect;
use godwit_protocol::{Bytes, Message, MilliCpu, PerMille};

use super::{Byzantine, Scene};

#[derive(Debug)]
pub(super) struct CapacityLiar;

impl Byzantine for CapacityLiar {
    fn obey(&mut self, scene: &mut Scene<'_>, effect: Effect) -> Vec<Effect> {
        vec![match effect {
            Effect::Gossip(mut capacity) => {
                let used = if scene.dice.chance(7_000) { 0 } else { u32::MAX };
                capacity.cpu = Share { total: MilliCpu(u32::MAX), used: MilliCpu(used), reserved: MilliCpu(0) };
                let memory = u64::from(used) << 32;
                capacity.memory = Share { total: Bytes(u64::MAX), used: Bytes(memory), reserved: Bytes(0) };
                capacity.accepting = true;
                Effect::Gossip(capacity)
            }
            Effect::Append(Message::Bid(mut bid)) => {
                (bid.load, bid.same_network) = (PerMille(0), true);
                Effect::Append(Message::Bid(bid))
            }
            honest => honest,
        }]
    }
}
