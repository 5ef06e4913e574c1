//! What is read of the ledger.

use godwit_ledger::block::Committed;
use godwit_ledger::bundle::Bundle;
use godwit_ledger::frames;
use godwit_ledger::record::{SignedRecord, record_id};
use godwit_ledger::replica::{Config, Effect, Input, LedgerMessage, Replica};
use godwit_ledger::rules;
use godwit_ledger::state::State;
use godwit_ledger::sync::snapshot::Offer;
use godwit_ledger::testing::{key, site};
use godwit_ledger::wal;
use godwit_protocol::{Message, Millis, Time};

use crate::canonical;
use crate::mesh::{MESH, SITES};

/// Timers of a replica that are let ring.
const RINGS: usize = 8;

/// A message of another replica: whatever a validator, a mere member and a stranger say, a validator goes on.
pub fn message(bytes: &[u8]) -> bool {
    let Some(message) = canonical::<LedgerMessage>(bytes) else { return false };
    let mut replica = MESH.replica(0);
    let mut now = MESH.now();
    let mut timers = Vec::new();
    let mut step = |now: Time, input: Input| {
        for effect in replica.step(now, input) {
            match effect {
                Effect::SetTimer { token, .. } => timers.push(token),
                Effect::Halt { why } => panic!("a message ends the replica: {why}"),
                _ => {}
            }
        }
        timers.pop()
    };
    step(now, Input::Start);
    let mut token = None;
    for from in [1, 4, 77].map(site) {
        step(now, Input::Connected(from));
        token = step(now, Input::Message { from, message: message.clone() }).or(token);
    }
    for _ in 0..RINGS {
        now = now.after(Millis(1_000));
        let Some(rings) = token else { break };
        token = step(now, Input::Timer(rings));
    }
    true
}

/// A record as it is gossiped.
pub fn record(bytes: &[u8]) -> bool {
    let Some(record) = canonical::<SignedRecord>(bytes) else { return false };
    let mesh = MESH.genesis().mesh();
    record_id(&mesh, &record).expect("what was decoded can be encoded");
    if let Ok(record) = record.verify(&mesh) {
        let _ = MESH.state().check(&record, MESH.now());
    }
    true
}

/// Anything that a member may sign, behind the number of the member: proposer and validators agree on it.
pub fn submission(bytes: &[u8]) -> bool {
    let Some((author, message)) = bytes.split_first() else { return false };
    let Some(message) = canonical::<Message>(message) else { return false };
    let record = MESH.sign(author % SITES, message);
    let _ = MESH.state().check(&record, MESH.now());
    let (block, applied, _) = rules::build(MESH.state(), site(0), MESH.now(), vec![record.clone()]);
    if !block.records.is_empty() {
        let verified = rules::verify_records(&MESH.genesis().mesh(), &block).expect("just signed");
        let judged = rules::validate(MESH.state(), &block, &verified).expect("what was built is valid");
        assert_eq!(judged.state.root(), applied.state.root(), "one block, one state");
        let snapshot = judged.state.encode();
        let read = State::decode(MESH.genesis(), &snapshot).expect("a state's own snapshot");
        assert_eq!(read.root(), judged.state.root());
    }
    MESH.replica(0).step(MESH.now(), Input::Submit(record));
    true
}

/// A block with its certificate.
pub fn block(bytes: &[u8]) -> bool {
    let Some(committed) = canonical::<Committed>(bytes) else { return false };
    let Committed { block, certificate } = &committed;
    if let Ok(verified) = rules::verify_records(&MESH.genesis().mesh(), block) {
        let _ = rules::validate(MESH.state(), block, &verified);
    }
    let _ = certificate.check(&block.header, MESH.state().validators());
    true
}

/// A state: taken only in the one form that it has.
pub fn snapshot(bytes: &[u8]) -> bool {
    let Ok(state) = State::decode(MESH.genesis(), bytes) else { return false };
    assert_eq!(state.encode(), bytes, "one state, one form");
    true
}

/// What is said of a state before it is fetched.
pub fn snapshot_offer(bytes: &[u8]) -> bool {
    let Some(offer) = canonical::<Offer>(bytes) else { return false };
    let _ = offer.check(&State::genesis(MESH.genesis()));
    let _ = offer.content();
    true
}

/// A proof that an auditor was sent.
pub fn proof(bytes: &[u8]) -> bool {
    let Ok(bundle) = Bundle::from_bytes(bytes) else { return false };
    assert_eq!(bundle.to_bytes().as_deref(), Ok(bytes), "one proof, one form");
    let _ = bundle.check();
    true
}

/// A write-ahead log of the next height: a replica goes on from it, or refuses it.
pub fn log(bytes: &[u8]) -> bool {
    let Ok(frames) = frames::read(wal::KIND, bytes) else { return false };
    let entries: Vec<Vec<u8>> = frames.entries.into_iter().map(|at| bytes[at].to_vec()).collect();
    let Ok(mut replica) = Replica::new(Config::new(key(0)), MESH.state().clone(), &entries) else { return false };
    replica.step(MESH.now(), Input::Start);
    true
}
