//! Says again what others said, to whom it was not said, and says what was signed for another mesh.

use std::collections::VecDeque;

use godwit_ledger::block::{Vote, VoteKind};
use godwit_ledger::record::Record;
use godwit_ledger::replica::LedgerMessage;
use godwit_protocol::bounded::List;
use godwit_protocol::register::Retire;
use godwit_protocol::{ContainerId, MeshId, Message, Millis, Signed};

use super::{Byzantine, Deed, Scene};

/// Remembered messages: some heights' worth.
const KEPT: usize = 64;

/// Said again in a second.
const REPEATED: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Replayer {
    heard: VecDeque<LedgerMessage>,
}

impl Byzantine for Replayer {
    fn hear(&mut self, message: &LedgerMessage) {
        if self.heard.len() == KEPT {
            self.heard.pop_front();
        }
        self.heard.push_back(message.clone());
    }

    fn act(&mut self, scene: &mut Scene<'_>) -> Vec<Deed> {
        let mut deeds = Vec::new();
        for _ in 0..REPEATED.min(self.heard.len()) {
            let message = self.heard[scene.dice.index(self.heard.len())].clone();
            deeds.push(Deed::SayAll(message));
        }
        let elsewhere = MeshId(scene.dice.bytes());
        let message = Message::Retire(Retire { container: ContainerId(scene.dice.bytes()) });
        let record = Record { sequence: 1, expires: scene.now.after(Millis(10_000)), message };
        let record = Signed::sign(&elsewhere, scene.key, record).expect("small").into_signed();
        deeds.push(Deed::SayAll(LedgerMessage::Records(List::first([record]))));
        let height = scene.state.height().next();
        let vote = Vote { kind: VoteKind::Prevote, height, round: 0, block: None, validator: scene.me };
        let vote = Signed::sign(&elsewhere, scene.key, vote).expect("small").into_signed();
        deeds.push(Deed::SayAll(LedgerMessage::Vote { vote, eager: true }));
        deeds
    }
}
