//! The mesh's network: connections between members and nobody else, over QUIC and TCP.
//!
//! ```text
//!              Endpoint (clones everywhere)                      NetEvent (one consumer)
//!   admit, publish, send_ledger, send_word, open, serve              ▲
//!        │                          │                                │
//!        ▼                          ▼                                │
//!   swarm task: dials,      links: one outbound stream      acceptors: one task a stream
//!   admits, gossips         per peer and protocol           verifier: signatures of gossip
//! ```
//!
//! Invariant: what arrives here is decoded by [`godwit_protocol::codec`] and, if it is gossip or a report, carries its
//! proof in its type (`Verified<..>`) before anybody else sees it.
//! Invariant: every queue has a bound; who overruns it loses his own messages, not others'.
//! Non-goal: routing through third parties. Members reach each other directly or not at all.

mod admission;
mod book;
pub mod client;
mod direct;
mod gossip;
pub mod identity;
pub mod metrics;
mod pace;
mod redial;
mod refusal;
pub mod report;
mod stream;
mod swarm;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use godwit_ledger::record::VerifiedRecord;
use godwit_protocol::capacity::Capacity;
use godwit_protocol::report::Report;
use godwit_protocol::word::Word;
use godwit_protocol::{ClientId, Malformed, MeshId, SiteId, Verified, encode};
use libp2p::gossipsub::PublishError as GossipError;
use libp2p::multiaddr::Protocol as AddressPart;
use libp2p::swarm as swarm_config;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, TransportError, identify, identity as keys, mdns, noise, tcp, yamux,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use self::book::{MemberInfo, MemberSet, Standing};
pub use self::direct::{Frame, SendError};
pub use self::refusal::Refusal;
pub use self::stream::{OpenError, PeerStream, Protocol, framing, greet};

use self::book::{Book, ClientChanges};
use self::direct::{Inbound, Links};
use self::gossip::{Kind, Topics, Verifier};
use self::metrics::Metrics;
use self::report::Reports;
use self::stream::Acceptor;
use self::swarm::{Behaviour, Command, Parts, State, Task, Wires};

/// Events waiting for the consumer; the bytes of ledger frames among them are bounded per peer.
const EVENTS_MAX: usize = 1024;
/// Publications waiting for the swarm's task, which takes microseconds for one.
const COMMANDS_MAX: usize = 256;
/// Connections are kept however idle they are: a member that is silent now may win a container next.
const IDLE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Without a sign of life for so long a QUIC connection is dead. A killed process says nothing over UDP.
const QUIC_IDLE_MAX_MS: u32 = 6_000;
/// Three signs of life fit into that.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How a site takes part.
#[derive(Clone)]
pub struct NetConfig {
    /// The site's key.
    pub key: SigningKey,
    /// The mesh.
    pub mesh: MeshId,
    /// Where to listen, for example `/ip4/0.0.0.0/udp/4600/quic-v1` and `/ip4/0.0.0.0/tcp/4600`.
    pub listen: Vec<Multiaddr>,
    /// Where other sites may be, with or without `/p2p/...`. They still have to be members.
    pub peers: Vec<Multiaddr>,
    /// Whether to look for members on the local network by mDNS.
    pub mdns: bool,
}

/// What the network tells.
#[derive(Debug)]
pub enum NetEvent {
    /// A member of this mesh is connected. After its restart: `Disconnected` and `Connected` again.
    Connected(SiteId),
    /// It no longer is.
    Disconnected(SiteId),
    /// Consensus or catch-up, not yet decoded.
    Ledger {
        /// Proved by the connection.
        from: SiteId,
        /// Drop it soon: it counts against the peer's share of memory.
        bytes: Frame,
    },
    /// A record was gossiped.
    Record(Box<VerifiedRecord>),
    /// A member's capacity was gossiped, newer than its last one.
    Capacity(Box<Verified<Capacity>>),
    /// A direct word. Signatures inside it are not verified yet.
    Word {
        /// Proved by the connection.
        from: SiteId,
        /// What it says.
        word: Word,
    },
    /// A connected client reported about itself.
    Report(Box<Verified<Report>>),
    /// Something was refused (and counted).
    Refused {
        /// Whose it was, if that is known.
        peer: Option<SiteId>,
        /// What.
        what: Refusal,
    },
}

/// Why a transport could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Noise refused the key.
    #[error("set up TCP")]
    Tcp(#[source] noise::Error),
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The transports.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Gossip.
    #[error(transparent)]
    Gossip(#[from] gossip::SetupError),
    /// mDNS cannot open its socket.
    #[error("start mDNS; switch it off if this network has no multicast")]
    Mdns(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: Multiaddr,
        /// Why.
        #[source]
        source: TransportError<io::Error>,
    },
}

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It has no canonical form.
    #[error("encode the gossip")]
    Encode(#[from] Malformed),
    /// Nobody is connected who listens.
    #[error("nobody is connected to hear it")]
    Alone,
    /// The library refused it.
    #[error("publish")]
    Gossip(#[source] GossipError),
    /// The network is shutting down.
    #[error("the network is shut down")]
    Closed,
}

/// Counts refusals and tells of them, without keeping the network alive.
#[derive(Clone)]
pub struct Refusals {
    metrics: Metrics,
    events: mpsc::Sender<NetEvent>,
}

impl Refusals {
    /// Counts and tells of something refused.
    pub fn refuse(&self, peer: SiteId, what: Refusal) {
        self.metrics.refuse(what);
        // If the consumer is behind, the metric still has it.
        let _ = self.events.try_send(NetEvent::Refused { peer: Some(peer), what });
    }

    /// What the network counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// A site's hold on the network. Clones are the same endpoint.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    site: SiteId,
    mesh: MeshId,
    book: Book,
    metrics: Metrics,
    links: Arc<Links>,
    members: watch::Sender<MemberSet>,
    clients: Arc<ClientChanges>,
    listening: watch::Receiver<Vec<Multiaddr>>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Sender<NetEvent>,
    control: libp2p_stream::Control,
    acceptor: Acceptor,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Endpoint {
    /// Listens, and connects to nobody before [`Endpoint::admit`].
    ///
    /// # Errors
    /// [`StartError`]: an address that cannot be listened on, a resolver or multicast that does not work.
    pub fn start(config: NetConfig) -> Result<(Self, mpsc::Receiver<NetEvent>), StartError> {
        let site = SiteId::from(config.key.verifying_key());
        let keys = identity::keypair(&config.key);
        let own = keys.public().to_peer_id();
        let (book, metrics, topics) = (Book::default(), Metrics::default(), Topics::of(&config.mesh));
        let protocol_version = format!("godwit/1/{}", config.mesh);
        let behaviour = Behaviour::new(Parts {
            book: book.clone(),
            metrics: metrics.clone(),
            identify: identify_config(&protocol_version, &keys),
            gossip: gossip::behaviour(&topics)?,
            mdns: config
                .mdns
                .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), own))
                .transpose()
                .map_err(StartError::Mdns)?,
        });
        let control = behaviour.member_streams();
        let client_control = behaviour.client_streams();
        let mut swarm = build(&keys, behaviour)?;
        for address in config.listen {
            swarm.listen_on(address.clone()).map_err(|source| StartError::Listen { address, source })?;
        }

        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let (events, consumer) = mpsc::channel(EVENTS_MAX);
        let (commands, obeyed) = mpsc::channel(COMMANDS_MAX);
        let (verdicts, judged) = mpsc::channel(COMMANDS_MAX);
        let (members, members_seen) = watch::channel(MemberSet::new());
        let clients = Arc::new(ClientChanges::default());
        let (listening, addresses) = watch::channel(Vec::new());
        let verifier = Verifier {
            mesh: config.mesh,
            book: book.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            verdicts,
            capacities: Arc::default(),
        };
        let links = Arc::new(Links::new(
            control.clone(),
            config.mesh,
            book.clone(),
            metrics.clone(),
            tasks.clone(),
            cancel.clone(),
        ));
        let seeds = known_seeds(&book, config.peers);
        let task = Task {
            own,
            swarm,
            book: book.clone(),
            metrics: metrics.clone(),
            topics,
            protocol_version,
            seeds,
            links: Arc::clone(&links),
            wires: Wires {
                commands: obeyed,
                members: members_seen,
                clients: Arc::clone(&clients),
                listening,
                events: events.clone(),
                heard: verifier.start(&tasks, &cancel),
                verdicts: judged,
                cancel: cancel.clone(),
            },
            state: State::default(),
        };
        tasks.spawn(task.run());
        let acceptor =
            Acceptor { book: book.clone(), metrics: metrics.clone(), tasks: tasks.clone(), cancel: cancel.clone() };
        let endpoint = Self(Arc::new(Inner {
            site,
            mesh: config.mesh,
            book,
            metrics,
            links,
            members,
            clients,
            listening: addresses,
            commands,
            events,
            control,
            acceptor,
            tasks,
            cancel,
        }));
        endpoint.accept_own(client_control);
        Ok((endpoint, consumer))
    }

    /// Accepts what this module itself consumes.
    fn accept_own(&self, mut client_control: libp2p_stream::Control) {
        let inner = &self.0;
        let inbound = {
            let (metrics, events) = (inner.metrics.clone(), inner.events.clone());
            move |site| Inbound { site, metrics: metrics.clone(), events: events.clone() }
        };
        let ledger = inbound.clone();
        self.serve(Protocol::Ledger, move |site, stream| ledger(site).ledger(stream));
        self.serve(Protocol::Word, move |site, stream| inbound(site).words(stream));
        let reports = Reports {
            mesh: inner.mesh,
            metrics: inner.metrics.clone(),
            events: inner.events.clone(),
            last: Arc::new(Mutex::new(HashMap::new())),
        };
        let incoming = client_control.accept(Protocol::Report.name(&inner.mesh)).expect("registered once");
        let client = |book: &Book, peer: &PeerId| match book.standing(peer) {
            Some(Standing::Client(client)) => Some(client),
            _ => None,
        };
        let serve = move |client, stream| reports.clone().serve(client, stream);
        inner.acceptor.serve(Protocol::Report, incoming, client, serve);
    }

    /// Serves members' streams of a protocol, each in a task of its own that ends with the network. The server
    /// [greets](greet) those it accepts.
    ///
    /// # Panics
    /// If the protocol is served already.
    pub fn serve<S, F>(&self, protocol: Protocol, serve: S)
    where
        S: Fn(SiteId, PeerStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = &self.0;
        let incoming = inner.control.clone().accept(protocol.name(&inner.mesh)).expect("each protocol has one server");
        inner.acceptor.serve(protocol, incoming, |book, peer| book.member(peer), serve);
    }

    /// Replaces the members. Others are disconnected, new ones are dialled.
    pub fn admit(&self, members: MemberSet) {
        self.0.members.send_replace(members);
    }

    /// Lets more clients report.
    pub fn admit_clients(&self, clients: Vec<ClientId>) {
        self.0.clients.put(clients, true);
    }

    /// These clients may report no more: they are disconnected.
    pub fn dismiss_clients(&self, clients: Vec<ClientId>) {
        self.0.clients.put(clients, false);
    }

    /// This site.
    #[must_use]
    pub fn site(&self) -> SiteId {
        self.0.site
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.0.mesh
    }

    /// What the network counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether a member is connected.
    #[must_use]
    pub fn is_connected(&self, site: &SiteId) -> bool {
        identity::peer_of(site).is_ok_and(|peer| self.0.book.is_connected(&peer))
    }

    /// The addresses on which it listens, as they become known.
    #[must_use]
    pub fn listening(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.0.listening.clone()
    }

    /// Puts a ledger message into a member's queue. It may be lost: the connection may be, or the queue may overflow.
    ///
    /// # Errors
    /// [`SendError::NotMember`], [`SendError::TooLarge`], [`SendError::Closed`].
    pub fn send_ledger(&self, to: SiteId, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        self.0.links.send_ledger(to, bytes)
    }

    /// Sends a word to a member. `Ok` says that it was handed to the connection, not that it was understood.
    ///
    /// # Errors
    /// [`SendError`] says why it did not go out.
    pub async fn send_word(&self, to: SiteId, word: &Word) -> Result<(), SendError> {
        self.0.links.send_word(to, word).await
    }

    /// Gossips a record. Within 15 s the same record is not gossiped again.
    ///
    /// # Errors
    /// [`PublishError::Alone`] if nobody is there to hear it; try again later.
    pub async fn publish_record(&self, record: &VerifiedRecord) -> Result<(), PublishError> {
        self.publish(Kind::Record, encode(record)?).await
    }

    /// Gossips this site's capacity.
    ///
    /// # Errors
    /// As for [`Endpoint::publish_record`].
    pub async fn publish_capacity(&self, capacity: &Verified<Capacity>) -> Result<(), PublishError> {
        self.publish(Kind::Capacity, encode(capacity)?).await
    }

    async fn publish(&self, kind: Kind, data: Vec<u8>) -> Result<(), PublishError> {
        let (done, published) = oneshot::channel();
        let (channel, bytes) = (kind.channel(), data.len());
        let command = Command::Publish { kind, data, done };
        self.0.commands.send(command).await.map_err(|_| PublishError::Closed)?;
        match published.await.map_err(|_| PublishError::Closed)? {
            Ok(()) => self.0.metrics.send(channel, bytes),
            // It is on its way already.
            Err(GossipError::Duplicate) => {}
            Err(GossipError::NoPeersSubscribedToTopic) => return Err(PublishError::Alone),
            Err(error) => return Err(PublishError::Gossip(error)),
        }
        Ok(())
    }

    /// Opens a stream to a connected member.
    ///
    /// # Errors
    /// [`OpenError`], at the latest after 5 s.
    pub async fn open(&self, site: SiteId, protocol: Protocol) -> Result<PeerStream, OpenError> {
        let peer = identity::peer_of(&site).map_err(|_| OpenError::NotConnected(site))?;
        if !self.0.book.is_connected(&peer) {
            return Err(OpenError::NotConnected(site));
        }
        stream::open(&mut self.0.control.clone(), &self.0.mesh, site, peer, protocol).await
    }

    /// Where those who use the streams count and tell what they refuse.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        Refusals { metrics: self.0.metrics.clone(), events: self.0.events.clone() }
    }

    /// Closes all connections and ends all tasks of the network.
    pub async fn shutdown(&self) {
        self.0.cancel.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// The protocol version carries the mesh; the agent version is drawn anew by each process, so that peers notice a
/// restart that the transport has not noticed yet.
fn identify_config(protocol_version: &str, keys: &keys::Keypair) -> identify::Config {
    let incarnation: u128 = rand::random();
    identify::Config::new(protocol_version.to_owned(), keys.public())
        .with_agent_version(format!("godwit/{} {incarnation:032x}", env!("CARGO_PKG_VERSION")))
        .with_cache_size(0)
}

/// Addresses that name their peer go into the book; the others have to be dialled to learn who is there.
fn known_seeds(book: &Book, peers: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut seeds = Vec::new();
    for mut address in peers {
        match address.pop() {
            Some(AddressPart::P2p(peer)) => book.learn(peer, address),
            Some(part) => seeds.push(address.with(part)),
            None => {}
        }
    }
    seeds
}

/// A swarm over TCP with noise and yamux, and over QUIC, with names resolved by DNS where the host has a resolver.
fn build<B: NetworkBehaviour>(keys: &keys::Keypair, behaviour: B) -> Result<Swarm<B>, BuildError> {
    let transport = || -> Result<_, BuildError> {
        let tcp = tcp::Config::default().nodelay(true);
        let builder = SwarmBuilder::with_existing_identity(keys.clone()).with_tokio();
        let builder = builder.with_tcp(tcp, noise::Config::new, yamux::Config::default).map_err(BuildError::Tcp)?;
        Ok(builder.with_quic_config(|mut quic| {
            quic.max_idle_timeout = QUIC_IDLE_MAX_MS;
            quic.keep_alive_interval = QUIC_KEEP_ALIVE;
            quic
        }))
    };
    let config = |config: swarm_config::Config| config.with_idle_connection_timeout(IDLE_MAX);
    Ok(match transport()?.with_dns() {
        Ok(builder) => {
            let Ok(builder) = builder.with_behaviour(|_| behaviour);
            builder.with_swarm_config(config).build()
        }
        Err(error) => {
            warn!(%error, "no DNS resolver: only numeric addresses can be dialled");
            let Ok(builder) = transport()?.with_behaviour(|_| behaviour);
            builder.with_swarm_config(config).build()
        }
    })
}
