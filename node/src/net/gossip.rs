//! Gossip: records and capacities flood the mesh; a site passes on only what it has verified itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_ledger::record::{MAX_RECORD, SignedRecord, VerifiedRecord};
use godwit_protocol::capacity::Capacity;
use godwit_protocol::{Hash, MeshId, Signed, SiteId, Verified, decode};
use libp2p::PeerId;
use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::NetEvent;
use super::book::Book;
use super::metrics::{Channel, Metrics};
use super::refusal::Refusal;

/// The largest capacity: 256 CPU features of 24 bytes and a few hundred bytes more.
const CAPACITY_BYTES_MAX: usize = 16 * 1024;
/// Messages waiting to be verified: at 50 µs each they delay the last by some 30 ms; more arrive when a peer floods.
const WAITING_MAX: usize = 512;
/// Messages verified in one go, to spare thread switches.
const BATCH: usize = 32;
/// Within this time gossip that was seen is not passed on again. Messages are announced again for 5 heartbeats of 1 s;
/// whoever repeats a record must wait for longer than this.
const SEEN: Duration = Duration::from_secs(15);

/// What is gossiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records on their way to the validators.
    Record,
    /// What sites have.
    Capacity,
}

impl Kind {
    const fn limit(self) -> usize {
        match self {
            Self::Record => MAX_RECORD,
            Self::Capacity => CAPACITY_BYTES_MAX,
        }
    }

    pub(super) const fn channel(self) -> Channel {
        match self {
            Self::Record => Channel::Record,
            Self::Capacity => Channel::Capacity,
        }
    }
}

/// The topics of one mesh.
#[derive(Clone, Debug)]
pub struct Topics {
    records: IdentTopic,
    capacity: IdentTopic,
}

impl Topics {
    /// Those of a mesh.
    #[must_use]
    pub fn of(mesh: &MeshId) -> Self {
        Self {
            records: IdentTopic::new(format!("godwit/{mesh}/records/1")),
            capacity: IdentTopic::new(format!("godwit/{mesh}/capacity/1")),
        }
    }

    /// The topic of a kind.
    #[must_use]
    pub const fn topic(&self, kind: Kind) -> &IdentTopic {
        match kind {
            Kind::Record => &self.records,
            Kind::Capacity => &self.capacity,
        }
    }

    /// The kind of a topic.
    #[must_use]
    pub fn kind(&self, topic: &TopicHash) -> Option<Kind> {
        [Kind::Record, Kind::Capacity].into_iter().find(|kind| self.topic(*kind).hash() == *topic)
    }
}

/// Why gossip could not be set up; none of it depends on what an operator configures.
#[derive(Debug, thiserror::Error)]
#[error("set up gossip: {0}")]
pub struct SetupError(String);

/// The gossip behaviour, subscribed to the mesh's topics.
///
/// # Errors
/// [`SetupError`] if the library refuses our parameters.
pub fn behaviour(topics: &Topics) -> Result<gossipsub::Behaviour, SetupError> {
    let failed = |what: &dyn std::fmt::Display| SetupError(what.to_string());
    let config = ConfigBuilder::default()
        // Messages carry their author's signature inside; who forwards them does not matter.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| {
            MessageId::from(Hash::of_parts("godwit/gossip", &[message.topic.as_str().as_bytes(), &message.data]).0)
        })
        // The envelope around a record.
        .max_transmit_size(MAX_RECORD + 1024)
        .duplicate_cache_time(SEEN)
        .build()
        .map_err(|error| failed(&error))?;
    let mut gossip =
        gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).map_err(|error| failed(&error))?;
    gossip.with_peer_score(scores(topics), PeerScoreThresholds::default()).map_err(|error| failed(&error))?;
    for kind in [Kind::Record, Kind::Capacity] {
        gossip.subscribe(topics.topic(kind)).map_err(|error| failed(&error))?;
    }
    Ok(gossip)
}

/// Only what is proved against a peer counts: invalid messages, squared, forgotten by a tenth each second. Silence,
/// slowness or a shared address cost nothing: members are known, few, and may sit behind one router.
fn scores(topics: &Topics) -> PeerScoreParams {
    let topic = TopicScoreParams {
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -1.0,
        invalid_message_deliveries_decay: 0.9,
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: [Kind::Record, Kind::Capacity].map(|kind| (topics.topic(kind).hash(), topic.clone())).into(),
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_threshold: 6.0,
        ..PeerScoreParams::default()
    }
}

/// A message that waits for its verdict.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) id: MessageId,
    pub(super) from: PeerId,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// What the gossip behaviour is told.
pub(super) type Verdict = (MessageId, PeerId, MessageAcceptance);

/// A word that passed.
enum Passed {
    Record(Box<VerifiedRecord>),
    Capacity(Box<Verified<Capacity>>),
}

/// Verifies gossip off the swarm's task, on as many threads as there are processors.
#[derive(Clone)]
pub(super) struct Verifier {
    pub(super) mesh: MeshId,
    pub(super) book: Book,
    pub(super) metrics: Metrics,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) verdicts: mpsc::Sender<Verdict>,
    /// The last sequence of each member's capacity.
    pub(super) capacities: Arc<Mutex<HashMap<SiteId, u64>>>,
}

impl Verifier {
    /// Starts the workers and returns where messages are put in.
    pub(super) fn start(self, tasks: &TaskTracker, cancel: &CancellationToken) -> mpsc::Sender<Heard> {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            let (this, waiting, cancel) = (self.clone(), Arc::clone(&waiting), cancel.clone());
            tasks.spawn(async move { cancel.run_until_cancelled(this.work(waiting)).await });
        }
        sender
    }

    async fn work(self, waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Heard>>>) {
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            if waiting.lock().await.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let this = self.clone();
            let judged = tokio::task::spawn_blocking(move || {
                batch.into_iter().map(|heard| (this.judge(&heard), heard.id, heard.from)).collect::<Vec<_>>()
            });
            let Ok(judged) = judged.await else { return };
            for (result, id, from) in judged {
                let acceptance = match &result {
                    Ok(_) => MessageAcceptance::Accept,
                    Err(what) => acceptance(*what),
                };
                if self.verdicts.send((id, from, acceptance)).await.is_err() || !self.report(result, &from).await {
                    return;
                }
            }
        }
    }

    /// Hands on what passed. Waits for the consumer: then messages wait here, and beyond the bound they are refused.
    async fn report(&self, result: Result<Passed, Refusal>, from: &PeerId) -> bool {
        let event = match result {
            Ok(Passed::Record(record)) => NetEvent::Record(record),
            Ok(Passed::Capacity(capacity)) => NetEvent::Capacity(capacity),
            Err(what) => {
                self.metrics.refuse(what);
                debug!(net.peer = %from, net.refusal = %what, "gossip refused");
                NetEvent::Refused { peer: self.book.member(from), what }
            }
        };
        self.events.send(event).await.is_ok()
    }

    fn judge(&self, heard: &Heard) -> Result<Passed, Refusal> {
        self.metrics.receive(heard.kind.channel(), heard.data.len());
        if heard.data.len() > heard.kind.limit() {
            return Err(Refusal::Oversized);
        }
        match heard.kind {
            Kind::Record => {
                let record: SignedRecord = decode(&heard.data).map_err(|_| Refusal::Malformed)?;
                self.member(&record.author)?;
                record.verify(&self.mesh).map(|record| Passed::Record(Box::new(record))).map_err(|_| Refusal::Forged)
            }
            Kind::Capacity => {
                let capacity: Signed<Capacity> = decode(&heard.data).map_err(|_| Refusal::Malformed)?;
                self.member(&capacity.author)?;
                let capacity = capacity.verify(&self.mesh).map_err(|_| Refusal::Forged)?;
                self.newer(&capacity)?;
                Ok(Passed::Capacity(Box::new(capacity)))
            }
        }
    }

    fn member(&self, author: &SiteId) -> Result<(), Refusal> {
        if self.book.is_member(author) { Ok(()) } else { Err(Refusal::NotMember) }
    }

    fn newer(&self, capacity: &Verified<Capacity>) -> Result<(), Refusal> {
        let mut last = self.capacities.lock().unwrap_or_else(PoisonError::into_inner);
        match last.insert(capacity.author, capacity.body.sequence) {
            Some(sequence) if sequence >= capacity.body.sequence => {
                last.insert(capacity.author, sequence);
                Err(Refusal::Replayed)
            }
            _ => Ok(()),
        }
    }
}

/// What an honest peer may forward does not count against it: it may know a member that we do not know yet, or an older
/// capacity may have overtaken a newer one.
const fn acceptance(what: Refusal) -> MessageAcceptance {
    match what {
        Refusal::NotMember | Refusal::Replayed | Refusal::Overload | Refusal::Flood => MessageAcceptance::Ignore,
        _ => MessageAcceptance::Reject,
    }
}
