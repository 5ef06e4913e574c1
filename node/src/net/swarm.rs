//! The task that owns the swarm: behaviours in, events out. It never waits for anybody: what the consumer is slow to
//! take waits in a bounded outbox, and while that is full the swarm rests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use godwit_protocol::SiteId;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::PublishError;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, gossipsub, identify, mdns, ping};
use rand::RngExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::admission::{Admission, Denied, MembersOnly};
use super::book::{Book, ClientChanges, MemberSet};
use super::gossip::{Heard, Kind, Topics, Verdict};
use super::metrics::Metrics;
use super::pace::Pace;
use super::redial::Redial;
use super::refusal::Refusal;
use super::{NetEvent, direct::Links};

/// Events waiting for the consumer: connections and refusals come in bursts of at most the number of peers.
const OUTBOX_MAX: usize = 1024;
/// The longest wait for connections to close at shutdown.
const CLOSING_MAX: Duration = Duration::from_millis(500);
/// The swarm sleeps so long when nobody is to be dialled; any command wakes it.
const NOTHING_DUE: Duration = Duration::from_secs(3600);
/// What identify tells us about a peer is compared, never shown; more than this is not kept.
const AGENT_MAX: usize = 128;

/// Everything a connection carries.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // In this order each one judges a new connection.
    limits: connection_limits::Behaviour,
    admission: Admission,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    reports: libp2p_stream::Behaviour,
    mesh: MembersOnly<MeshBehaviour>,
}

/// What only members get.
#[derive(NetworkBehaviour)]
pub(super) struct MeshBehaviour {
    identify: identify::Behaviour,
    gossip: gossipsub::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// The parts of a behaviour that differ from site to site.
pub(super) struct Parts {
    pub(super) book: Book,
    pub(super) metrics: Metrics,
    pub(super) identify: identify::Config,
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) mdns: Option<mdns::tokio::Behaviour>,
}

impl Behaviour {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            limits: connection_limits::Behaviour::new(limits()),
            admission: Admission::new(parts.book.clone(), parts.metrics),
            ping: ping::Behaviour::new(ping::Config::new()),
            mdns: parts.mdns.into(),
            reports: libp2p_stream::Behaviour::new(),
            mesh: MembersOnly::new(
                MeshBehaviour {
                    identify: identify::Behaviour::new(parts.identify),
                    gossip: parts.gossip,
                    streams: libp2p_stream::Behaviour::new(),
                },
                parts.book,
            ),
        }
    }

    pub(super) fn member_streams(&self) -> libp2p_stream::Control {
        self.mesh.inner.streams.new_control()
    }

    pub(super) fn client_streams(&self) -> libp2p_stream::Control {
        self.reports.new_control()
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        // Handshakes under way: who floods us with them delays others, but does not exhaust our memory.
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(128))
        // Both sides may dial at once, over QUIC and TCP.
        .with_max_established_per_peer(Some(4))
        // Some hundreds of members and as many clients.
        .with_max_established(Some(2048))
}

/// What the endpoint asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    Publish { kind: Kind, data: Vec<u8>, done: oneshot::Sender<Result<(), PublishError>> },
}

/// The channels between the task and the rest.
pub(super) struct Wires {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) members: watch::Receiver<MemberSet>,
    pub(super) clients: Arc<ClientChanges>,
    pub(super) listening: watch::Sender<Vec<Multiaddr>>,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) verdicts: mpsc::Receiver<Verdict>,
    pub(super) cancel: CancellationToken,
}

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Member(PeerId),
    /// A configured address whose peer is not known yet, by its index.
    Seed(usize),
}

/// A connected peer, from its first connection to its last.
#[derive(Default)]
struct Peer {
    /// Each connection with the incarnation that identified itself on it.
    connections: HashMap<ConnectionId, Option<String>>,
    /// The incarnation that was announced as connected.
    announced: Option<String>,
}

/// The task's state.
pub(super) struct Task {
    pub(super) own: PeerId,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) book: Book,
    pub(super) metrics: Metrics,
    pub(super) topics: Topics,
    /// The mesh, as identify says it.
    pub(super) protocol_version: String,
    pub(super) seeds: Vec<Multiaddr>,
    pub(super) links: Arc<Links>,
    pub(super) wires: Wires,
    pub(super) state: State,
}

/// What the task remembers.
#[derive(Default)]
pub(super) struct State {
    peers: HashMap<PeerId, Peer>,
    redial: Redial<Target>,
    dialling_seeds: HashMap<ConnectionId, usize>,
    outbox: VecDeque<NetEvent>,
    pace: Pace,
}

impl Task {
    /// Runs until cancelled, then closes all connections.
    pub(super) async fn run(mut self) {
        let seeds = 0..self.seeds.len();
        self.state.redial.want(|_| true, seeds.map(Target::Seed), Instant::now());
        self.members_changed();
        self.clients_changed();
        let (cancel, events) = (self.wires.cancel.clone(), self.wires.events.clone());
        loop {
            let wake = self.state.redial.next().unwrap_or_else(|| Instant::now() + NOTHING_DUE);
            let rest = self.state.outbox.len() >= OUTBOX_MAX;
            tokio::select! {
                () = cancel.cancelled() => break,
                permit = events.reserve(), if !self.state.outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.state.outbox.pop_front() { permit.send(event) },
                    Err(_) => break, // nobody listens any more
                },
                Some(command) = self.wires.commands.recv() => self.obey(command),
                Ok(()) = self.wires.members.changed() => self.members_changed(),
                () = self.wires.clients.arrived() => self.clients_changed(),
                Some(verdict) = self.wires.verdicts.recv() => self.judge(&verdict),
                () = tokio::time::sleep_until(wake.into()) => self.dial_due(),
                event = self.swarm.select_next_some(), if !rest => self.handle(event),
            }
        }
        self.close().await;
    }

    async fn close(mut self) {
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        // A peer that does not answer finds out by its own timeout.
        let _ = tokio::time::timeout(CLOSING_MAX, closed).await;
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Publish { kind, data, done } => {
                let gossip = &mut self.swarm.behaviour_mut().mesh.inner.gossip;
                let published = gossip.publish(self.topics.topic(kind).hash(), data).map(|_| ());
                // Whoever asked may have stopped waiting.
                let _ = done.send(published);
            }
        }
    }

    fn members_changed(&mut self) {
        let members = self.wires.members.borrow_and_update().clone();
        self.book.set_members(&members, &self.own);
        self.reviewed();
        let targets = self.book.members().into_iter().map(Target::Member);
        let book = &self.book;
        let wanted = |target: &Target| match target {
            Target::Member(peer) => book.member(peer).is_some(),
            Target::Seed(_) => true,
        };
        let now = Instant::now();
        self.state.redial.want(wanted, targets, now);
        for peer in self.swarm.connected_peers() {
            self.state.redial.established(&Target::Member(*peer));
        }
        // A seed may have been refused because its key was not a member's yet.
        for seed in 0..self.seeds.len() {
            self.state.redial.hurry(&Target::Seed(seed), now);
        }
        self.links.retain_members();
        self.state.pace.retain(|peer| self.book.member(peer).is_some());
    }

    fn clients_changed(&mut self) {
        let changes = self.wires.clients.take();
        self.book.change_clients(&changes);
        // Nobody who is admitted has a connection yet.
        if changes.values().any(|admitted| !admitted) {
            self.reviewed();
        }
    }

    fn reviewed(&mut self) {
        self.swarm.behaviour_mut().admission.review();
    }

    fn judge(&mut self, (id, from, acceptance): &Verdict) {
        let acceptance = match acceptance {
            gossipsub::MessageAcceptance::Accept => gossipsub::MessageAcceptance::Accept,
            gossipsub::MessageAcceptance::Reject => gossipsub::MessageAcceptance::Reject,
            gossipsub::MessageAcceptance::Ignore => gossipsub::MessageAcceptance::Ignore,
        };
        self.swarm.behaviour_mut().mesh.inner.gossip.report_message_validation_result(id, from, acceptance);
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for target in self.state.redial.take_due(now) {
            let options = match target {
                Target::Member(peer) if self.swarm.is_connected(&peer) => {
                    self.state.redial.established(&target);
                    continue;
                }
                Target::Member(peer) => {
                    DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build()
                }
                Target::Seed(seed) => {
                    let options = DialOpts::unknown_peer_id().address(self.seeds[seed].clone()).build();
                    self.state.dialling_seeds.insert(options.connection_id(), seed);
                    options
                }
            };
            let connection = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                debug!(?target, %error, "not dialled");
                self.state.dialling_seeds.remove(&connection);
                self.state.redial.failed(&target, now, jitter());
            }
        }
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Mesh(event)) => self.handle_mesh(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, _) in found {
                    self.state.redial.hurry(&Target::Member(peer), Instant::now());
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) })) => {
                debug!(net.peer = %peer, %error, "a connection does not answer");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if let Some(seed) = self.state.dialling_seeds.remove(&connection_id) {
                    // From now on the peer is dialled by name.
                    self.state.redial.forget(&Target::Seed(seed));
                    self.book.learn(peer_id, endpoint.get_remote_address().clone());
                }
                self.state.redial.established(&Target::Member(peer_id));
                self.state.peers.entry(peer_id).or_default().connections.insert(connection_id, None);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => self.closed(peer_id, connection_id),
            SwarmEvent::IncomingConnectionError { peer_id, error, .. } => {
                if let ListenError::Denied { cause } = &error {
                    self.denied(peer_id, cause);
                } else {
                    debug!(%error, "an incoming connection failed");
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                info!(net.address = %address, "listening");
                self.wires.listening.send_modify(|all| all.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.wires.listening.send_modify(|all| all.retain(|other| *other != address));
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                warn!(?addresses, %error, "a listener ended");
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "a listener failed"),
            _ => {}
        }
    }

    fn handle_mesh(&mut self, event: MeshBehaviourEvent) {
        match event {
            MeshBehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.identified(peer_id, connection_id, &info);
            }
            MeshBehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let Some(kind) = self.topics.kind(&message.topic) else { return };
                let heard = Heard { id: message_id.clone(), from: propagation_source, kind, data: message.data };
                let refusal = if !self.state.pace.admits(propagation_source, Instant::now()) {
                    Some(Refusal::Flood)
                } else if self.wires.heard.try_send(heard).is_err() {
                    Some(Refusal::Overload)
                } else {
                    None
                };
                if let Some(what) = refusal {
                    self.ignore(message_id, propagation_source, what);
                }
            }
            _ => {}
        }
    }

    /// Gossip that is not looked at is not passed on either. It is counted; to tell of each would flood whoever is told.
    fn ignore(&mut self, message: gossipsub::MessageId, from: PeerId, what: Refusal) {
        self.metrics.refuse(what);
        if self.state.outbox.is_empty() {
            self.refused(Some(from), what);
        }
        self.judge(&(message, from, gossipsub::MessageAcceptance::Ignore));
    }

    /// A peer is announced when it has said which mesh it is of. If it says that it is another incarnation than before,
    /// its process was restarted: connections of the old one are dead, whatever the transport believes.
    fn identified(&mut self, peer: PeerId, connection: ConnectionId, info: &identify::Info) {
        let Some(site) = self.book.member(&peer) else { return };
        if info.protocol_version != self.protocol_version {
            warn!(net.peer = %site, net.mesh = %info.protocol_version.escape_debug(), "a peer of another mesh");
            self.refused(Some(peer), Refusal::WrongMesh);
            self.metrics.refuse(Refusal::WrongMesh);
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let incarnation: String = info.agent_version.chars().take(AGENT_MAX).collect();
        let Some(state) = self.state.peers.get_mut(&peer) else { return };
        let Some(slot) = state.connections.get_mut(&connection) else { return };
        *slot = Some(incarnation.clone());
        if state.announced.as_ref() == Some(&incarnation) {
            return;
        }
        if let Some(old) = state.announced.replace(incarnation) {
            for (stale, _) in state.connections.iter().filter(|(_, of)| of.as_ref() == Some(&old)) {
                self.swarm.close_connection(*stale);
            }
            self.tell(NetEvent::Disconnected(site));
        } else {
            self.metrics.peers.inc();
        }
        self.state.redial.connected(&Target::Member(peer));
        self.book.set_connected(&peer, true);
        self.tell(NetEvent::Connected(site));
    }

    fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(state) = self.state.peers.get_mut(&peer) else { return };
        state.connections.remove(&connection);
        if !state.connections.is_empty() {
            return;
        }
        let announced = self.state.peers.remove(&peer).is_some_and(|state| state.announced.is_some());
        self.state.redial.failed(&Target::Member(peer), Instant::now(), jitter());
        if announced {
            self.metrics.peers.dec();
            self.book.set_connected(&peer, false);
            if let Ok(site) = super::identity::site_of(&peer) {
                self.tell(NetEvent::Disconnected(site));
            }
        }
    }

    fn dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        debug!(peer = ?peer, %error, "dial failed");
        if let DialError::Denied { cause } = error {
            self.denied(peer, cause);
        }
        let target = match (self.state.dialling_seeds.remove(&connection), peer) {
            (Some(seed), _) => Target::Seed(seed),
            (None, Some(peer)) if !self.swarm.is_connected(&peer) => Target::Member(peer),
            _ => return,
        };
        self.state.redial.failed(&target, Instant::now(), jitter());
    }

    fn denied(&mut self, peer: Option<PeerId>, cause: &libp2p::swarm::ConnectionDenied) {
        if let Some(Denied(what)) = cause.downcast_ref() {
            self.refused(peer, *what);
        } else if cause.downcast_ref::<connection_limits::Exceeded>().is_some() {
            self.metrics.refuse(Refusal::TooManyConnections);
            self.refused(peer, Refusal::TooManyConnections);
        }
    }

    /// Tells of a refusal that was counted where it happened.
    fn refused(&mut self, peer: Option<PeerId>, what: Refusal) {
        let peer: Option<SiteId> = peer.and_then(|peer| super::identity::site_of(&peer).ok());
        debug!(net.peer = ?peer, net.refusal = %what, "refused");
        self.tell(NetEvent::Refused { peer, what });
    }

    fn tell(&mut self, event: NetEvent) {
        self.state.outbox.push_back(event);
    }
}

fn jitter() -> u16 {
    rand::rng().random_range(0..=1000)
}
