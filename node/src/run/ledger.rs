//! Hosts the replica: its write-ahead log, its store, its timers.

use std::collections::BTreeMap;
use std::task;
use std::time::Duration;

use futures::ready;
use godwit_ledger::block::{Committed, Height};
use godwit_ledger::record::SignedRecord;
use godwit_ledger::replica::{Adopted, Commit, Effect, Input, LedgerMessage, Replica, TimerToken};
use godwit_ledger::state::State;
use godwit_ledger::store::{Disk, Store, StoreError};
use godwit_ledger::wal::{Wal, WalError};
use godwit_protocol::membership::Role;
use godwit_protocol::{Malformed, Millis, Signed, SiteId, Time, encode};
use tokio_util::time::DelayQueue;
use tracing::{debug, error, warn};

use godwit_protocol::bounded::List;

use super::history::History;
use super::host::{Fatal, Host};
use crate::api::fault::chain;
use crate::net::{ClientSet, Endpoint, MemberInfo, MemberSet};

/// How many blocks are read again at the start for what the history remembers: its offers' and more.
const PAST_MAX: u64 = 10_000;

/// How long a site may still connect under a key that it has given up: until it has heard so itself, even if it was down for
/// a restart of its machine.
const FAREWELL: Millis = Millis(600_000);
/// Told to the operator of a site that does not vote.
pub const ABSTAINS: &str = "this site follows the ledger and does not vote: its ledger was rebuilt, and it may have voted on \
     the height that is being decided. It votes again by itself after the next block that is built and committed without it";

/// Why the replica must not go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Error {
    #[error("the ledger's write-ahead log")]
    Wal(#[from] WalError),
    #[error("the ledger's store")]
    Store(#[from] StoreError),
    #[error("the ledger stops: {0}")]
    Halted(String),
    #[error("encode a ledger message")]
    Encode(#[from] Malformed),
}

/// The replica with what it writes to.
pub struct Ledger {
    replica: Replica,
    wal: Wal,
    store: Disk,
    /// How many blocks to keep; none: all.
    retain: Option<u64>,
    timers: DelayQueue<TimerToken>,
    /// Keys that were given up lately, and until when they may connect.
    given_up: BTreeMap<SiteId, Time>,
}

impl Ledger {
    pub fn new(replica: Replica, wal: Wal, store: Disk, retain: Option<u64>) -> Self {
        Self { replica, wal, store, retain, timers: DelayQueue::new(), given_up: BTreeMap::new() }
    }

    /// Whether this site does not vote because it may have forgotten what it said.
    pub fn abstains(&self) -> bool {
        self.replica.abstains()
    }

    /// The first block that is kept here.
    pub fn base(&self) -> Height {
        self.store.base()
    }

    /// Stores a block that was decided; the write-ahead log is of no use then.
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.store.commit(commit)?;
        self.wal.reset()?;
        self.prune()
    }

    /// Stores one of many blocks that were decided long ago.
    fn follow(&mut self, commit: &Commit) -> Result<(), Error> {
        self.store.follow(commit)?;
        self.prune()
    }

    fn prune(&mut self) -> Result<(), Error> {
        let Some(retain) = self.retain else { return Ok(()) };
        Ok(self.store.prune(self.replica.state().mesh(), retain)?)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.store.sync()?;
        Ok(self.wal.reset()?)
    }

    fn adopt(&mut self, adopted: &Adopted) -> Result<(), Error> {
        self.store.adopt(adopted)?;
        Ok(self.wal.reset()?)
    }

    pub fn state(&self) -> &State {
        self.replica.state()
    }

    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.replica.step(now, input)
    }

    /// Whether a record waits for a block here.
    pub fn knows(&self, record: &SignedRecord) -> bool {
        self.replica.knows(record)
    }

    pub fn poll_timer(&mut self, context: &mut task::Context<'_>) -> task::Poll<Option<TimerToken>> {
        task::Poll::Ready(
            ready!(self.timers.poll_expired(context)).map(tokio_util::time::delay_queue::Expired::into_inner),
        )
    }

    pub fn blocks(&self, from: Height, most: u16) -> Result<Vec<Committed>, StoreError> {
        self.store.blocks(from).take(usize::from(most)).collect()
    }

    /// Tells what has happened so far, as far as it is remembered.
    pub fn tell_past(&self, history: &mut History) -> Result<(), StoreError> {
        let tip = self.state().height().0;
        for height in tip.saturating_sub(PAST_MAX) + 1..=tip {
            let Some(committed) = self.store.block(Height(height))? else { continue };
            for event in self.store.events(Height(height))? {
                history.committed(committed.block.header.time, &event);
            }
        }
        for (id, known) in self.state().containers() {
            history.name_container(*id, known.register.name.as_str());
        }
        Ok(())
    }

    /// Lets the ledger's members connect, and remembers their names.
    pub fn admit(&self, net: &Endpoint, history: &mut History) {
        let mut members = MemberSet::new();
        for member in self.state().members() {
            history.name_site(member.site, member.name.as_str());
            let addresses = member.addresses.iter().filter_map(|text| match text.as_str().parse() {
                Ok(address) => Some(address),
                Err(error) => {
                    warn!(member = %member.name, address = %text, %error, "a member's address is none");
                    None
                }
            });
            members.insert(member.site, MemberInfo { role: member.role, addresses: addresses.collect() });
        }
        for old in self.given_up.keys() {
            members.entry(*old).or_insert(MemberInfo { role: Role::Observer, addresses: Vec::new() });
        }
        net.admit(members);
    }

    /// A site has given a key up. It may follow under it until it knows so.
    pub fn give_up(&mut self, now: Time, key: SiteId) {
        self.given_up.insert(key, now.after(FAREWELL));
    }

    /// Whether the time of a key that was given up is over, so that others are admitted than before.
    pub fn has_ended(&mut self, now: Time) -> bool {
        let before = self.given_up.len();
        self.given_up.retain(|_, until| now < *until);
        self.given_up.len() < before
    }

    /// Lets the clients of live containers report.
    pub fn admit_clients(&self, net: &Endpoint) {
        let clients: ClientSet =
            self.state().containers().flat_map(|(_, known)| known.register.clients.iter().copied()).collect();
        net.admit_clients(clients);
    }
}

impl Host {
    /// Does what the replica wants, in order.
    pub(super) fn perform(&mut self, effect: Effect) -> Result<(), Fatal> {
        let failed = |error: Error| Fatal::Ledger(error);
        match effect {
            Effect::WalAppend(entry) => self.ledger.wal.append(&entry).map_err(|error| failed(error.into()))?,
            Effect::WalSync => self.ledger.wal.sync().map_err(|error| failed(error.into()))?,
            Effect::Send { to, message } => self.post(&[to], &message)?,
            Effect::Announce { to, message } => self.post(&to, &message)?,
            Effect::Broadcast(message) => {
                let others: Vec<SiteId> =
                    self.ledger.state().validators().iter().copied().filter(|site| *site != self.me).collect();
                self.post(&others, &message)?;
            }
            Effect::SetTimer { token, after } => {
                self.ledger.timers.insert(token, Duration::from_millis(after.0));
            }
            Effect::CancelTimers => self.ledger.timers.clear(),
            Effect::Commit(commit) => {
                self.ledger.commit(&commit).map_err(failed)?;
                self.stored(*commit);
            }
            Effect::Follow(commit) => {
                self.ledger.follow(&commit).map_err(failed)?;
                self.stored(*commit);
            }
            Effect::StoreSync => self.ledger.sync().map_err(failed)?,
            Effect::Adopt(adopted) => {
                self.ledger.adopt(&adopted).map_err(failed)?;
                self.renewed = true;
            }
            Effect::KeepOffer(offer) => self.ledger.store.keep_offer(&offer).map_err(|error| failed(error.into()))?,
            Effect::KeepChunk { index, bytes } => {
                self.ledger.store.keep_chunk(index, &bytes).map_err(|error| failed(error.into()))?;
            }
            Effect::DropDownload => self.ledger.store.drop_download().map_err(|error| failed(error.into()))?,
            Effect::ServeBlocks { to, from, most } => {
                let answer = self.ledger.store.answer(from, most).map_err(|error| failed(error.into()))?;
                self.post(&[to], &answer)?;
            }
            Effect::ServeSnapshot { to, trusted } => {
                let offer = self.ledger.store.offer(trusted).map_err(|error| failed(error.into()))?;
                self.post(&[to], &LedgerMessage::Snapshot(offer.map(Box::new)))?;
            }
            Effect::ServeChunk { to, height, index } => {
                let chunk = self.ledger.store.chunk(height, index).map_err(|error| failed(error.into()))?;
                let bytes = List::first(chunk.unwrap_or_default());
                self.post(&[to], &LedgerMessage::Chunk { height, index, bytes })?;
            }
            Effect::Refused { id, why } => {
                debug!(record = %id.short(), %why, "not appended");
                self.refused(&id, chain(&why));
            }
            Effect::Gossip(record) => {
                // Our own signature is verified once more, which costs less than a second path for trust.
                let mesh = self.ledger.state().mesh();
                let Ok(record) = Signed::verify(record, &mesh) else { return Ok(()) };
                let net = self.net.clone();
                tokio::spawn(async move {
                    if let Err(error) = net.publish_record(&record).await {
                        debug!(%error, "a record is not heard");
                    }
                });
            }
            Effect::Misbehaved { site, what } => {
                self.metrics.misbehave(what.name());
                warn!(site = %site.short(), what = chain(&what), "misbehaviour");
            }
            Effect::Accuse(evidence) => self.accuse(*evidence)?,
            Effect::Halt { why } => {
                error!(%why, "the ledger stops");
                return Err(failed(Error::Halted(why)));
            }
        }
        Ok(())
    }

    /// What follows from a block once it is stored.
    fn stored(&mut self, commit: Commit) {
        let block = &commit.committed.block;
        let ids: Vec<_> = block.records.iter().filter_map(|record| self.id_of(record)).collect();
        debug!(height = %block.header.height, records = ids.len(), "committed");
        self.committed(block.header.height.0, block.header.time, &ids, commit.events);
    }

    fn post(&self, to: &[SiteId], message: &LedgerMessage) -> Result<(), Fatal> {
        let bytes = encode(message).map_err(|error| Fatal::Ledger(error.into()))?.into();
        // Before it is handed over: a trace of system calls shows by this line that what it rests on was synced.
        debug!(message = message.name(), sites = to.len(), "ledger.publish");
        for site in to {
            if let Err(error) = self.net.send_ledger(*site, &bytes) {
                debug!(to = %site.short(), message = message.name(), %error, "not sent");
            }
        }
        Ok(())
    }
}
