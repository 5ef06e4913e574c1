//! Wins every auction it can and then does nothing: never prepares but says that it does, or is ready and never fetches, or
//! takes the container over and never lets it run.

use std::collections::BTreeMap;

use godwit_protocol::effect::Effect;
use godwit_protocol::handoff::Action;
use godwit_protocol::receipt::Ready;
use godwit_protocol::{Message, OfferId, PerMille};

use super::{Byzantine, Scene};

#[derive(Debug, Default)]
pub(super) struct IdleBidder {
    /// From which action on it does nothing, by offer.
    stops: BTreeMap<OfferId, u64>,
}

impl Byzantine for IdleBidder {
    fn obey(&mut self, scene: &mut Scene<'_>, effect: Effect) -> Vec<Effect> {
        match effect {
            Effect::Append(Message::Bid(mut bid)) => {
                (bid.load, bid.same_network) = (PerMille(0), true);
                vec![Effect::Append(Message::Bid(bid))]
            }
            Effect::Do(task) => {
                let stop = *self.stops.entry(task.offer).or_insert_with(|| scene.dice.below(4));
                let winner = scene.state.offer(&task.offer).filter(|auction| auction.winner() == Some(scene.me));
                match (task.action, winner) {
                    (Action::Prepare { .. }, Some(_)) if stop == 0 => Vec::new(),
                    (Action::Prepare { .. }, Some(auction)) if stop == 1 => {
                        let ready = Ready { offer: task.offer, attempt: auction.attempt };
                        vec![Effect::Append(Message::Ready(ready))]
                    }
                    (Action::Fetch { .. }, _) if stop == 2 => Vec::new(),
                    (Action::Resume, _) if stop == 3 => Vec::new(),
                    _ => vec![Effect::Do(task)],
                }
            }
            honest => vec![honest],
        }
    }
}
