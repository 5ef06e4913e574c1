//! Hosts the replica: its write-ahead log, its store, its timers.

use std::collections::BTreeMap;
use std::path::Path;
use std::task;
use std::time::Duration;

use anyhow::Context;
use ed25519_dalek::SigningKey;
use futures::ready;
use godwit_ledger::block::{Committed, Height};
use godwit_ledger::bundle::Bundle;
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::SignedRecord;
use godwit_ledger::replica::{self, Adopted, Commit, Effect, Input, LedgerMessage, NotAppended, Replica, TimerToken};
use godwit_ledger::state::State;
use godwit_ledger::store::{Disk, Store, StoreError};
use godwit_ledger::wal::{Wal, WalError};
use godwit_protocol::bounded::List;
use godwit_protocol::evidence::Evidence;
use godwit_protocol::membership::Role;
use godwit_protocol::register::Register;
use godwit_protocol::{ContainerId, Malformed, Millis, RecordId, Signed, SiteId, Time};
use tokio_util::time::DelayQueue;
use tracing::{debug, error, info, warn};

use super::clients::Clients;
use super::history::History;
use super::host::{Fatal, Host};
use crate::api::fault::chain;
use crate::api::site::FOUND_MAX;
use crate::config::Config;
use crate::net::{Endpoint, MemberInfo, MemberSet};
use crate::{key, rebuild};

/// How many blocks are read again at the start for what the history remembers: its offers' and more.
const PAST_MAX: u64 = 10_000;

/// How long a site may still connect under a key that it has given up: until it has heard so itself, even if it was down for
/// a restart of its machine.
const FAREWELL: Millis = Millis(600_000);
/// Told to the operator of a site that does not vote.
pub const ABSTAINS: &str = "this site follows the ledger and does not vote: its ledger was rebuilt, and it may have voted on \
     the height that is being decided. It votes again by itself after the next block that is built and committed without it";

/// Told to the operator of a site that takes no part in handoffs.
pub const UNAWARE: &str = "this site's ledger was rebuilt: containers run on here, and it takes no part in handoffs before it \
     has followed the ledger to where the others are";

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

/// What a replica wants of its host.
pub enum Left {
    /// A block was decided, and is stored.
    Committed(Box<Commit>),
    /// A state that was fetched has taken the place of all blocks up to it.
    Adopted,
    /// A record of this site will not be committed.
    Refused { id: RecordId, why: NotAppended },
    /// A record of this site is to be gossiped.
    Gossip(Box<SignedRecord>),
    /// A site did what a correct one does not: what, for metrics.
    Misbehaved(&'static str),
    /// A validator contradicted itself.
    Accuse(Box<Evidence>),
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
    clients: Clients,
}

impl Ledger {
    /// Opens what a data folder holds, or founds the ledger there; with the key that the ledger knows the site by.
    pub fn open(config: &Config, founding: &Genesis) -> anyhow::Result<(Self, SigningKey)> {
        let data = &config.data_dir;
        std::fs::create_dir_all(data).with_context(|| format!("make the data folder {}", data.display()))?;
        let (ledger, wal) = (data.join(super::LEDGER), data.join(super::WAL));
        // The log is made before the ledger: a ledger without one has lost it.
        if !ledger.exists() {
            Wal::found(&wal)?;
        }
        let (store, state) = Disk::open(&ledger, founding)?;
        let key = current_key(&config.key, &state)?;
        let log = Wal::open(&wal)?;
        if log.torn > 0 {
            info!(bytes = log.torn, "cut off what a crash left incomplete at the end of the write-ahead log");
        }
        let archives = config.retain.is_none();
        let kept = if archives { None } else { store.fetched()? };
        let trusts = replica::Config { key: key.clone(), forgot: rebuild::forgot(data)?, archives, kept };
        let replica = Replica::new(trusts, state, &log.entries)?;
        if replica.abstains() {
            warn!("{ABSTAINS}");
        }
        let (timers, given_up, clients) = (DelayQueue::new(), BTreeMap::new(), Clients::default());
        Ok((Self { replica, wal: log.wal, store, retain: config.retain, timers, given_up, clients }, key))
    }

    /// Whether all that this site can have acted on is known here.
    pub fn is_current(&self) -> bool {
        self.replica.is_current()
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

    pub fn raw(&self, from: Height, most: u16) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.raw(from, most.into())
    }

    pub fn find(&self, beginning: &str) -> Result<Vec<RecordId>, StoreError> {
        self.store.find(beginning, FOUND_MAX)
    }

    pub fn prove(&self, record: &RecordId) -> Result<Option<Bundle>, StoreError> {
        self.store.prove(self.state().founding(), record)
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

    /// Lets the clients of all live containers report.
    pub fn admit_clients(&mut self, net: &Endpoint) {
        for (container, known) in self.replica.state().containers() {
            net.admit_clients(self.clients.came(*container, &known.register.clients));
        }
    }

    /// Lets the clients of a container that was registered report.
    pub fn container_came(&mut self, net: &Endpoint, register: &Register) {
        net.admit_clients(self.clients.came(register.container, &register.clients));
    }

    /// Lets the clients of a container that was retired report no more, unless another one names them.
    pub fn container_went(&mut self, net: &Endpoint, container: &ContainerId) {
        net.dismiss_clients(self.clients.went(container));
    }
}

impl Ledger {
    /// Does what the replica wants, as far as log, store, timers and network go; what is left is its host's.
    pub fn perform(&mut self, net: &Endpoint, effect: Effect) -> Result<Option<Left>, Error> {
        match effect {
            Effect::WalAppend(entry) => self.wal.append(&entry)?,
            Effect::WalSync => self.wal.sync()?,
            Effect::Send { to, message } => post(net, &[to], &message)?,
            Effect::Announce { to, message } => post(net, &to, &message)?,
            Effect::Broadcast(message) => {
                let validators = self.state().validators().iter().copied();
                let others: Vec<SiteId> = validators.filter(|site| *site != net.site()).collect();
                post(net, &others, &message)?;
            }
            Effect::SetTimer { token, after } => {
                self.timers.insert(token, Duration::from_millis(after.0));
            }
            Effect::CancelTimers => self.timers.clear(),
            Effect::Commit(commit) => {
                self.commit(&commit)?;
                return Ok(Some(Left::Committed(commit)));
            }
            Effect::Follow(commit) => {
                self.follow(&commit)?;
                return Ok(Some(Left::Committed(commit)));
            }
            Effect::StoreSync => self.sync()?,
            Effect::Adopt(adopted) => {
                self.adopt(&adopted)?;
                return Ok(Some(Left::Adopted));
            }
            Effect::KeepOffer(offer) => self.store.keep_offer(&offer)?,
            Effect::KeepChunk { index, bytes } => self.store.keep_chunk(index, &bytes)?,
            Effect::DropDownload => self.store.drop_download()?,
            Effect::ServeBlocks { to, from, most } => post(net, &[to], &self.store.answer(from, most)?)?,
            Effect::ServeSnapshot { to, trusted } => {
                let offer = self.store.offer(trusted)?;
                post(net, &[to], &LedgerMessage::Snapshot(offer.map(Box::new)))?;
            }
            Effect::ServeChunk { to, height, index } => {
                let bytes = List::first(self.store.chunk(height, index)?.unwrap_or_default());
                post(net, &[to], &LedgerMessage::Chunk { height, index, bytes })?;
            }
            Effect::Refused { id, why } => return Ok(Some(Left::Refused { id, why })),
            Effect::Gossip(record) => return Ok(Some(Left::Gossip(Box::new(record)))),
            Effect::Misbehaved { site, what } => {
                warn!(site = %site.short(), what = chain(&what), "misbehaviour");
                return Ok(Some(Left::Misbehaved(what.name())));
            }
            Effect::Accuse(evidence) => return Ok(Some(Left::Accuse(evidence))),
            Effect::Halt { why } => {
                error!(%why, "the ledger stops");
                return Err(Error::Halted(why));
            }
        }
        Ok(None)
    }
}

/// The site's key, or the one that waits beside it if the ledger has put that in its place.
fn current_key(path: &Path, state: &State) -> anyhow::Result<SigningKey> {
    let is_member = |key: &SigningKey| state.member(&key.verifying_key().into()).is_some();
    let (key, next) = (key::read(path)?, key::next_of(path));
    if is_member(&key) || !next.exists() || !is_member(&key::read(&next)?) {
        return Ok(key);
    }
    info!(key = %path.display(), "the new key takes the place of the old one, which is kept beside it");
    Ok(key::succeed(path)?)
}

fn post(net: &Endpoint, to: &[SiteId], message: &LedgerMessage) -> Result<(), Error> {
    let bytes = message.encode()?.into();
    // Before it is handed over: a trace of system calls shows by this line that what it rests on was synced.
    debug!(message = message.name(), sites = to.len(), "ledger.publish");
    for site in to {
        if let Err(error) = net.send_ledger(*site, &bytes) {
            debug!(to = %site.short(), message = message.name(), %error, "not sent");
        }
    }
    Ok(())
}

impl Host {
    /// Does what the replica wants, in order.
    pub(super) fn perform(&mut self, effect: Effect) -> Result<(), Fatal> {
        match self.ledger.perform(&self.net, effect)? {
            None => {}
            Some(Left::Committed(commit)) => {
                let header = &commit.committed.block.header;
                debug!(height = %header.height, records = commit.records.len(), "committed");
                self.committed(header.height.0, header.time, &commit.records, commit.events);
            }
            Some(Left::Adopted) => self.renewed = true,
            Some(Left::Refused { id, why }) => {
                debug!(record = %id.short(), %why, "not appended");
                self.refused(&id, chain(&why));
            }
            Some(Left::Gossip(record)) => {
                // Our own signature is verified once more, which costs less than a second path for trust.
                let mesh = self.ledger.state().mesh();
                let Ok(record) = Signed::verify(*record, &mesh) else { return Ok(()) };
                let net = self.net.clone();
                tokio::spawn(async move {
                    if let Err(error) = net.publish_record(&record).await {
                        debug!(%error, "a record is not heard");
                    }
                });
            }
            Some(Left::Misbehaved(what)) => self.metrics.misbehave(what),
            Some(Left::Accuse(evidence)) => self.accuse(*evidence)?,
        }
        Ok(())
    }
}
