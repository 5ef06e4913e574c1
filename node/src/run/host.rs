//! The host of a site's brain and replica: feeds them what happens, and does what they ask.

use std::collections::{BTreeMap, VecDeque};
use std::task;

use ed25519_dalek::SigningKey;
use godwit_ledger::author::Author;
use godwit_ledger::record::{SignedRecord, VerifiedRecord, record_id};
use godwit_ledger::replica::{self, LedgerMessage};
use godwit_protocol::capacity::Capacity;
use godwit_protocol::effect::{Effect, Notice as Told, What};
use godwit_protocol::evidence::{Evidence, Sentence};
use godwit_protocol::handoff::Promise;
use godwit_protocol::membership::Change as Membership;
use godwit_protocol::signed::Keys;
use godwit_protocol::site::{self, Load, Site};
use godwit_protocol::word::Word;
use godwit_protocol::{
    ContainerId, Event as Change, ImageId, Malformed, Message, Millis, OfferId, RecordId, Signed, SiteId, Time,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::history::{History, say};
use super::ledger::Ledger;
use super::metrics::Metrics;
use super::routes::Routes;
use super::tasks::{Advance, Finished, Tasks};
use crate::api::site::{Ask, Notice, Reply};
use crate::api::view::ContainerView;
use crate::journal::{self, Journal};
use crate::net::{Endpoint, Frame, NetEvent, Refusal};
use crate::runtime::State;

/// Everything of a running site.
pub struct Host {
    pub(super) me: SiteId,
    pub(super) key: SigningKey,
    pub(super) started: Time,
    pub(super) site: Site,
    pub(super) ledger: Ledger,
    pub(super) author: Author,
    pub(super) journal: Journal<Promise>,
    /// The journal's content, without what is over.
    pub(super) promises: Vec<Promise>,
    pub(super) net: Endpoint,
    pub(super) tasks: Tasks,
    pub(super) routes: Routes,
    pub(super) history: History,
    pub(super) metrics: Metrics,
    pub(super) notices: broadcast::Sender<Notice>,
    pub(super) load: Load,
    pub(super) asks: super::asks::Desk,
    /// Who waits for the fate of a record of ours.
    pub(super) waiting: BTreeMap<RecordId, oneshot::Sender<Fate>>,
    pub(super) queue: VecDeque<Step>,
    /// The site has another key from now on, and must start anew with it.
    pub(super) renewed: bool,
    /// Where records go once they are verified.
    pub(super) verified: mpsc::UnboundedSender<Vec<VerifiedRecord>>,
    /// Ends the API and its streams.
    pub(super) stopping: CancellationToken,
    pub(super) api: JoinHandle<()>,
}

/// Where events come from.
pub struct Sources {
    pub(super) net: mpsc::Receiver<NetEvent>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) finished: mpsc::UnboundedReceiver<Finished>,
    pub(super) advances: mpsc::UnboundedReceiver<Advance>,
    pub(super) loads: mpsc::Receiver<Load>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) verified: mpsc::UnboundedReceiver<Vec<VerifiedRecord>>,
}

/// Something happened.
pub enum Event {
    /// Time passed.
    Tick,
    /// From the network.
    Net(NetEvent),
    /// From the API.
    Ask(Ask),
    /// A task ended.
    Finished(Finished),
    /// A transfer advances.
    Advance(Advance),
    /// A measurement.
    Load(Load),
    /// From a task of the site's own.
    Order(Order),
    /// A timer of the replica.
    Timer(replica::TimerToken),
    /// Records that were sent directly, and whose signatures hold.
    Verified(Vec<VerifiedRecord>),
}

/// What a long-running request needs from the loop.
pub enum Order {
    /// Say this in the ledger, and tell what became of it.
    Append(Box<Message>, oneshot::Sender<Fate>),
    /// Answer with all containers, given what the engine has.
    List(BTreeMap<ContainerId, State>, Reply<Vec<ContainerView>>),
    /// Answer with a container that was just deployed.
    Show(ContainerId, Reply<ContainerView>),
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in a block.
    Committed,
    /// It had no effect.
    Refused(String),
    /// It was not committed in time.
    Expired,
}

/// One input for one of the two machines.
pub(super) enum Step {
    Brain(site::Input),
    Replica(replica::Input),
}

/// Why a site must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A promise that cannot be kept must not be made.
    #[error("a promise cannot be written down")]
    Journal(#[from] journal::Error),
    /// A vote that may be forgotten must not be cast.
    #[error(transparent)]
    Ledger(#[from] super::ledger::Error),
    /// Our own words fit their limits.
    #[error("this site's own word is malformed")]
    Malformed(#[from] Malformed),
}

/// The time, by this host's clock.
pub fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Host {
    pub fn me(&self) -> SiteId {
        self.me
    }

    pub fn poll_timer(&mut self, context: &mut task::Context<'_>) -> task::Poll<Option<replica::TimerToken>> {
        self.ledger.poll_timer(context)
    }

    /// Ends connections and tasks; what was begun with the engine goes on there, and is found again.
    pub async fn stop(self) {
        self.stopping.cancel();
        drop(self.api.await);
        self.net.shutdown().await;
    }

    /// One event, with everything that follows from it.
    pub fn handle(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Tick => self.ticked()?,
            Event::Net(event) => self.heard(event),
            Event::Ask(ask) => self.asked(ask)?,
            Event::Finished(Finished { task, outcome }) => {
                self.brain(site::Input::Outcome { offer: task.offer, action: task.action, outcome });
            }
            Event::Advance(advance) => {
                drop(self.notices.send(Notice::Progress {
                    subject: advance.offer.to_string(),
                    task: format!("pull {:?}", advance.part).to_lowercase(),
                    done: advance.progress.done,
                    total: advance.progress.total,
                }));
            }
            Event::Load(load) => {
                self.load = load.clone();
                self.brain(site::Input::Load(load));
            }
            Event::Order(Order::Append(message, fate)) => {
                let id = self.append(*message)?;
                self.waiting.insert(id, fate);
            }
            Event::Order(Order::List(found, reply)) => reply.send(Ok(self.list(&found))),
            Event::Order(Order::Show(container, reply)) => reply.send(self.show(&container)),
            Event::Timer(token) => self.queue.push_back(Step::Replica(replica::Input::Timer(token))),
            Event::Verified(records) => self.queue.push_back(Step::Replica(replica::Input::Records(records))),
        }
        self.drain()
    }

    pub(super) fn brain(&mut self, input: site::Input) {
        self.queue.push_back(Step::Brain(input));
    }

    /// Steps until nothing follows any more.
    pub(super) fn drain(&mut self) -> Result<(), Fatal> {
        while let Some(step) = self.queue.pop_front().filter(|_| !self.renewed) {
            match step {
                Step::Brain(input) => {
                    let effects = self.site.step(now(), input);
                    self.obey(effects)?;
                }
                Step::Replica(input) => {
                    let effects = self.ledger.step(now(), input);
                    for effect in effects {
                        self.perform(effect)?;
                    }
                    self.wake()?;
                }
            }
        }
        Ok(())
    }

    /// The brain goes on from the ledger and its promises, as soon as all that these rest on is known here.
    pub(super) fn wake(&mut self) -> Result<(), Fatal> {
        if self.site.is_awake() || self.renewed || !self.ledger.is_current() {
            return Ok(());
        }
        let (state, now) = (self.ledger.state(), now());
        let (roles, containers, open) = (state.roles(), state.known(now), state.open());
        let effects = self.site.recover(now, roles, containers, open, &self.promises);
        self.obey(effects)?;
        if self.asks.config.data_dir.join(super::DRAINED).exists() {
            info!("this site is still being drained; `godwit drain --off` ends it");
            self.brain(site::Input::Operator(site::Wish::Drain(true)));
        }
        Ok(())
    }

    fn ticked(&mut self) -> Result<(), Fatal> {
        let bound = Millis(self.ledger.state().founding().clock_bound_ms);
        for (id, message) in self.author.expire(now(), bound) {
            self.settle(&id, Fate::Expired);
            // A contradiction stays one, however long the mesh could not decide.
            if let Message::Evidence(evidence) = &message {
                self.accuse(evidence.clone())?;
            }
            self.brain(site::Input::Refused(message));
        }
        if self.ledger.has_ended(now()) {
            self.ledger.admit(&self.net, &mut self.history);
        }
        self.brain(site::Input::Tick);
        Ok(())
    }

    fn heard(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected(site) => self.queue.push_back(Step::Replica(replica::Input::Connected(site))),
            NetEvent::Disconnected(site) => self.queue.push_back(Step::Replica(replica::Input::Disconnected(site))),
            NetEvent::Ledger { from, bytes } => match LedgerMessage::decode(&bytes) {
                Ok(LedgerMessage::Records(records)) => self.verify(from, bytes, records.into_inner()),
                Ok(message) => self.queue.push_back(Step::Replica(replica::Input::Message { from, message })),
                Err(error) => {
                    debug!(from = %from.short(), %error, "a malformed ledger message");
                    self.net.metrics().refuse(Refusal::Malformed);
                }
            },
            NetEvent::Record(record) => {
                self.overhear(&record);
                self.queue.push_back(Step::Replica(replica::Input::Record(*record)));
            }
            NetEvent::Capacity(capacity) => {
                let (site, address, height) = (capacity.author, capacity.body.address, capacity.body.height);
                self.brain(site::Input::Capacity(*capacity));
                self.routes.site_at(site, address);
                self.queue.push_back(Step::Replica(replica::Input::Reach { site, height }));
            }
            NetEvent::Word { from, word } => self.told(from, word),
            NetEvent::Report(report) => self.brain(site::Input::Report(*report)),
            NetEvent::Refused { peer, what } => debug!(peer = ?peer.map(|peer| peer.short()), %what, "refused"),
        }
    }

    /// Verifies records that were sent directly, away from the loop. Their frame counts against the sender's share of memory
    /// until that is done, which bounds how many wait.
    fn verify(&self, from: SiteId, frame: Frame, mut records: Vec<SignedRecord>) {
        records.retain(|record| !self.ledger.knows(record));
        if records.is_empty() || !self.ledger.state().validators().contains(&self.me) {
            return;
        }
        let (mesh, verified, metrics) = (self.ledger.state().mesh(), self.verified.clone(), self.net.metrics().clone());
        tokio::task::spawn_blocking(move || {
            let (mut keys, mut good) = (Keys::default(), Vec::with_capacity(records.len()));
            for record in records {
                match record.verify_with(&mesh, &mut keys) {
                    Ok(record) => good.push(record),
                    Err(error) => {
                        warn!(from = %from.short(), %error, "a record is refused");
                        metrics.refuse(Refusal::Forged);
                        break;
                    }
                }
            }
            if !good.is_empty() {
                // The loop goes only when the site stops.
                drop(verified.send(good));
            }
            drop(frame);
        });
    }

    /// An offer on its way into the ledger is answered at once, if the ledger would take it.
    fn overhear(&mut self, record: &VerifiedRecord) {
        let Message::Offer(body) = &record.body.message else { return };
        let state = self.ledger.state();
        if let (Ok(()), Some(id)) = (state.check(record, now()), self.id_of(record)) {
            let (source, expires) = (record.author, record.body.expires);
            self.brain(site::Input::Heard { offer: id.into(), source, body: body.clone(), expires });
        }
    }

    fn told(&mut self, from: SiteId, word: Word) {
        let mesh = self.ledger.state().mesh();
        match word {
            Word::Yield(yielded) => match yielded.verify(&mesh) {
                Ok(yielded) => self.brain(site::Input::Yielded(yielded)),
                Err(error) => {
                    warn!(from = %from.short(), %error, "a yield is refused");
                    self.net.metrics().refuse(Refusal::Forged);
                }
            },
            Word::Report(report) => match report.verify(&mesh) {
                Ok(report) => self.brain(site::Input::Report(report)),
                Err(error) => {
                    warn!(from = %from.short(), %error, "a report is refused");
                    self.net.metrics().refuse(Refusal::Forged);
                }
            },
            Word::Preparing { offer, attempt } => self.brain(site::Input::Preparing { from, offer, attempt }),
            Word::ImageWanted { offer } => {
                let state = self.ledger.state();
                let Some(auction) = state.offer(&offer) else { return };
                let image = state.container(&auction.body.container).map(|container| container.register.image.id);
                match image {
                    Some(image) if auction.source == self.me && auction.winner() == Some(from) => {
                        self.tasks.serve_image(auction.body.container, offer, image, from);
                    }
                    _ => debug!(from = %from.short(), offer = %offer.short(), "not to be served"),
                }
            }
        }
    }

    /// Does what the brain asks, in order; the offers that were made.
    pub(super) fn obey(&mut self, effects: Vec<Effect>) -> Result<Vec<OfferId>, Fatal> {
        let mut offers = Vec::new();
        for effect in effects {
            match effect {
                Effect::Journal(promise) => self.promise(promise)?,
                Effect::Append(message) => {
                    let is_offer = matches!(message, Message::Offer(_));
                    let id = self.append(message)?;
                    if is_offer {
                        offers.push(id.into());
                    }
                }
                Effect::Yield { to, body } => {
                    let signed = Signed::sign(&self.ledger.state().mesh(), &self.key, body)?;
                    self.send(to, Word::Yield(signed.into_signed()));
                }
                Effect::Say { to, word } => self.send(to, word),
                Effect::Do(task) => {
                    // A container that has left the mesh is only ever dropped, which needs no image.
                    let known = self.ledger.state().container(&task.container);
                    let image = known.map_or(ImageId([0; 32]), |known| known.register.image.id);
                    self.tasks.start(task, image);
                }
                Effect::Gossip(capacity) => {
                    let capacity = Capacity { height: self.ledger.state().height(), ..capacity };
                    let capacity = Signed::sign(&self.ledger.state().mesh(), &self.key, capacity)?;
                    let net = self.net.clone();
                    tokio::spawn(async move {
                        if let Err(error) = net.publish_capacity(&capacity).await {
                            debug!(%error, "capacity is not heard");
                        }
                    });
                }
                Effect::Tell(told) => self.tell(&told),
            }
        }
        Ok(offers)
    }

    fn promise(&mut self, promise: Promise) -> Result<(), Fatal> {
        let Promise::Closed { offer } = promise else {
            self.journal.append(&promise)?;
            self.promises.push(promise);
            return Ok(());
        };
        let promised = self.promises.iter().find_map(|promise| match promise {
            Promise::Bid { offer: of, container } | Promise::Freeze { offer: of, container, .. } if *of == offer => {
                Some(*container)
            }
            _ => None,
        });
        // Rewritten without the offer: the journal holds only what still binds.
        self.promises.retain(|promise| promise.offer() != offer);
        self.journal.rewrite(&self.promises)?;
        if let Some(container) = promised.or_else(|| self.history.container_of(&offer)) {
            self.tasks.clean(container, offer);
        }
        Ok(())
    }

    /// Says something in the ledger.
    pub(super) fn append(&mut self, message: Message) -> Result<RecordId, Fatal> {
        debug!(message = message.name(), "append");
        let (id, record) = self.author.write(now(), message)?;
        self.queue.push_back(Step::Replica(replica::Input::Submit(record)));
        Ok(id)
    }

    /// Says in the ledger that a validator contradicted itself, unless that is settled.
    pub(super) fn accuse(&mut self, evidence: Evidence) -> Result<(), Fatal> {
        if self.ledger.state().judge(&evidence).is_ok() {
            self.append(Message::Evidence(evidence))?;
        }
        Ok(())
    }

    fn send(&self, to: SiteId, word: Word) {
        let net = self.net.clone();
        tokio::spawn(async move {
            // What matters is repeated by the brain.
            if let Err(error) = net.send_word(to, &word).await {
                debug!(to = %to.short(), %error, "a word did not go out");
            }
        });
    }

    fn tell(&mut self, told: &Told) {
        if let Some(step) = self.history.local(now(), self.me, told.offer, &told.what) {
            drop(self.notices.send(Notice::Step { offer: told.offer, step }));
        }
        let alert = match &told.what {
            What::Step(_) => return,
            What::Failed(action, reason) => {
                warn!(offer = %told.offer.short(), ?action, reason = say(reason), "a step of a handoff failed");
                return;
            }
            What::Undecided => (
                format!("handoff {}: the ledger does not decide", told.offer.short()),
                "look whether more than two thirds of the validators are up and connected: godwit sites",
            ),
            What::Unclear(reason) => (
                format!("handoff {}: nobody knows whether the copy here ran: {}", told.offer.short(), say(reason)),
                "look at the engine (docker ps -a); if it runs here, all is well once the engine answers again",
            ),
        };
        self.alert(alert.0, alert.1.to_owned());
    }

    /// Tells the operator.
    fn alert(&self, problem: String, remedy: String) {
        warn!("{problem}");
        drop(self.notices.send(Notice::Alert { problem, remedy: Some(remedy) }));
    }

    /// A committed block: its records are settled, and what it changed is told to everybody in order.
    pub(super) fn committed(&mut self, height: u64, time: Time, ids: &[RecordId], changes: Vec<Change>) {
        self.author.seen(self.ledger.state().next_sequence(&self.me));
        for id in ids {
            self.author.settle(id);
            self.settle(id, Fate::Committed);
        }
        self.measure();
        for event in changes {
            self.history.committed(time, &event);
            self.metrics.committed(&event);
            self.follow(&event);
            drop(self.notices.send(Notice::Committed { height, time, event: Box::new(event.clone()) }));
            // While this site does not know the ledger it acts on none of what was long ago.
            if self.site.is_awake() {
                self.brain(site::Input::Ledger { time, event });
            }
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self) {
        let state = self.ledger.state();
        let owned = state.containers().filter(|(_, known)| known.owner == self.me).count();
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.height.set(i64::try_from(state.height().0).unwrap_or(i64::MAX));
        self.metrics.open_offers.set(gauge(state.offers().count()));
        self.metrics.containers.set(gauge(owned));
    }

    /// A record of ours had no effect.
    pub(super) fn refused(&mut self, id: &RecordId, why: String) {
        self.settle(id, Fate::Refused(why));
        if let Some(message) = self.author.settle(id) {
            self.metrics.refuse(message.name());
            self.brain(site::Input::Refused(message));
        }
    }

    fn settle(&mut self, id: &RecordId, fate: Fate) {
        if let Some(waiting) = self.waiting.remove(id) {
            drop(waiting.send(fate));
        }
    }

    /// Routes, admission and names follow the ledger.
    fn follow(&mut self, event: &Change) {
        match event {
            Change::Registered { owner, register } => {
                self.routes.container_at(register.container, register.address, *owner);
                self.ledger.container_came(&self.net, register);
            }
            Change::Received { container, owner, .. } | Change::Returned { container, owner, .. } => {
                self.routes.moved(*container, *owner);
            }
            Change::Retired { container, .. } => {
                self.routes.gone(*container);
                self.ledger.container_went(&self.net, container);
            }
            Change::MembershipChanged { change } => {
                if let Membership::Rotate(rotation) = change {
                    self.rotated(rotation.body.old, rotation.author);
                }
                self.ledger.admit(&self.net, &mut self.history);
            }
            Change::Punished { site, height, sentence } => {
                let name = self.history.site(site);
                let problem = format!("{name} contradicted itself at height {height}");
                match sentence {
                    Sentence::Removed => self.alert(
                        format!("{problem}: it is removed from the mesh"),
                        "its operator should find out why; `godwit member admit` takes it back".to_owned(),
                    ),
                    Sentence::Suspended => {
                        self.alert(format!("{problem}: it is suspended, and only votes"), suspended_remedy(&name));
                    }
                }
            }
            _ => {}
        }
    }

    /// A member goes on under another key, with its containers.
    fn rotated(&mut self, old: SiteId, new: SiteId) {
        self.ledger.give_up(now(), old);
        let owned = self.ledger.state().containers().filter(|(_, known)| known.owner == new);
        for container in owned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.routes.moved(container, new);
        }
        if old == self.me {
            info!(site = %new, "this site's key has changed: it starts anew with the new one");
            self.renewed = true;
        }
    }

    /// The record's id; a record that the replica hands out has one.
    pub(super) fn id_of(&self, record: &SignedRecord) -> Option<RecordId> {
        record_id(&self.ledger.state().mesh(), record).ok()
    }

    /// Whether this site holds a container by the ledger.
    pub(super) fn owns(&self, container: &ContainerId) -> bool {
        self.ledger.state().container(container).is_some_and(|known| known.owner == self.me)
    }
}

/// What operators do about a member that is suspended.
pub(super) fn suspended_remedy(name: &str) -> String {
    format!("decide with the other operators: `godwit member remove {name}`, or `godwit member readmit {name}`")
}
