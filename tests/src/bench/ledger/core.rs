//! The replicas alone: all validators in one thread, a message goes from one to the other as it is, nothing is written.
//!
//! What they take is what any mesh of these validators takes at least, wherever it runs.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, ensure};
use ed25519_dalek::SigningKey;
use godwit_ledger::record::{Record, SignedRecord};
use godwit_ledger::replica::{Config, Effect, Input, LedgerMessage, MAX_RECORDS_SENT, Replica};
use godwit_ledger::state::State;
use godwit_protocol::bounded::List;
use godwit_protocol::{Millis, Signed, SiteId, Time};
use serde::Serialize;

use super::{forge, words};

/// Records that come to all replicas before these say anything to each other.
const AT_ONCE: usize = 512;

/// What the replicas alone manage.
#[derive(Clone, Debug, Serialize)]
pub struct Core {
    pub validators: usize,
    /// All replicas in one thread.
    pub records_per_s: f64,
    /// What a record takes at one replica: its signature, its place in a block, what the block changes.
    pub us_per_record_and_replica: f64,
    pub records_per_block: f64,
}

struct Bench {
    replicas: Vec<(SiteId, Replica)>,
    words: VecDeque<(SiteId, SiteId, LedgerMessage)>,
    now: Time,
    /// By all replicas together.
    committed: usize,
}

/// Commits so many records.
pub fn measure(validators: usize, records: usize) -> Result<Core> {
    let keys = forge::keys(u8::try_from(validators)?);
    let genesis = forge::genesis(&keys);
    let state = State::genesis(&genesis);
    let mut bench =
        Bench { replicas: Vec::new(), words: VecDeque::new(), now: genesis.founded.after(Millis(1000)), committed: 0 };
    for key in &keys {
        let replica = Replica::new(Config::new(key.clone()), state.clone(), &[])?;
        bench.replicas.push((key.verifying_key().into(), replica));
    }
    let signed = sign(&state, &keys[0], bench.now, records)?;
    let begun = Instant::now();
    (0..validators).for_each(|place| bench.step(place, Input::Start));
    signed.chunks(AT_ONCE).for_each(|some| bench.commit(some));
    let seconds = begun.elapsed().as_secs_f64();
    let author = SiteId::from(keys[0].verifying_key());
    let all = bench.replicas.iter().all(|(_, replica)| replica.state().next_sequence(&author) > records as u64);
    ensure!(all, "the replicas alone did not commit everything");
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let (n, replicas, blocks) = (records as f64, validators as f64, (bench.committed / validators) as f64);
    Ok(Core {
        validators,
        records_per_s: n / seconds,
        us_per_record_and_replica: seconds * 1e6 / n / replicas,
        records_per_block: n / blocks,
    })
}

fn sign(state: &State, key: &SigningKey, now: Time, count: usize) -> Result<Vec<SignedRecord>> {
    let mesh = state.mesh();
    let record = |n: u32| {
        let record =
            Record { sequence: u64::from(n) + 1, expires: now.after(Millis(500_000)), message: words::register(n) };
        Ok(Signed::sign(&mesh, key, record)?.into_signed())
    };
    (0..u32::try_from(count)?).map(record).collect()
}

impl Bench {
    fn commit(&mut self, records: &[SignedRecord]) {
        let from = self.replicas[0].0;
        self.now = self.now.after(Millis(10));
        for place in 0..self.replicas.len() {
            for some in records.chunks(MAX_RECORDS_SENT) {
                let message = LedgerMessage::Records(List::first(some.iter().cloned()));
                self.step(place, Input::Message { from, message });
            }
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.words.pop_front() {
            let place = self.replicas.iter().position(|(site, _)| *site == to);
            if let Some(place) = place {
                self.step(place, Input::Message { from, message });
            }
        }
    }

    fn step(&mut self, place: usize, input: Input) {
        let (me, replica) = &mut self.replicas[place];
        let me = *me;
        let effects = replica.step(self.now, input);
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.words.push_back((me, to, message)),
                Effect::Broadcast(message) => {
                    let others = self.replicas.iter().map(|(site, _)| *site).filter(|site| *site != me);
                    self.words.extend(others.map(|to| (me, to, message.clone())));
                }
                Effect::Commit(_) => self.committed += 1,
                // Timers are of use only when something is lost, and nothing is.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replicas_alone_commit_all_that_they_are_told() {
        // Above a tenure of 64 blocks and above what one author may have waiting.
        let core = measure(4, 1_200).expect("all is committed");
        assert!(core.records_per_block >= 1.0 && core.records_per_s > 0.0, "{core:?}");
    }
}
