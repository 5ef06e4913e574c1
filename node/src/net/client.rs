//! A vehicle's side of the network: a connection with its own key that carries reports and nothing else.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::StreamExt;
use godwit_protocol::report::Report;
use godwit_protocol::{MeshId, Signed, SiteId};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::identity::{NoIdentity, keypair, site_of};
use super::report::{Answer, ReportError, ReportStream};
use super::stream::{self, OpenError, Protocol};
use super::{BuildError, build};

/// A site that is up answers a handshake in a few round trips.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why a client is not connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The transport could not be set up.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No site's address was given.
    #[error("no address of a site was given")]
    NoAddress,
    /// The last of the addresses could not be reached.
    #[error("dial {address}")]
    Dial {
        /// Where.
        address: Multiaddr,
        /// Why.
        #[source]
        source: DialError,
    },
    /// Nobody answered in time.
    #[error("{0} did not answer in time")]
    Silent(Multiaddr),
    /// The peer is no site.
    #[error(transparent)]
    NotASite(#[from] NoIdentity),
    /// The site does not take reports of this key: no container of the mesh names it, or it is of another mesh.
    #[error("{site} takes no reports of this key in this mesh")]
    NotAdmitted {
        /// The site.
        site: SiteId,
        /// How it was refused.
        #[source]
        source: OpenError,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A client that is connected to a site.
pub struct Client {
    key: SigningKey,
    mesh: MeshId,
    site: SiteId,
    reports: ReportStream,
    driver: JoinHandle<()>,
}

impl Client {
    /// Connects to the first of the addresses that answers and opens the report stream.
    ///
    /// # Errors
    /// [`ConnectError`], the last address's.
    pub async fn connect(key: SigningKey, mesh: MeshId, addresses: &[Multiaddr]) -> Result<Self, ConnectError> {
        let behaviour =
            Behaviour { ping: ping::Behaviour::new(ping::Config::new()), streams: libp2p_stream::Behaviour::new() };
        let mut swarm = build(&keypair(&key), behaviour)?;
        let peer = dial_first(&mut swarm, addresses).await?;
        let site = site_of(&peer)?;
        let mut control = swarm.behaviour().streams.new_control();
        let driver = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        let opened = stream::open(&mut control, &mesh, site, peer, Protocol::Report).await;
        let reports = opened.map(ReportStream::new).map_err(|source| {
            driver.abort();
            ConnectError::NotAdmitted { site, source }
        })?;
        Ok(Self { key, mesh, site, reports, driver })
    }

    /// The site it is connected to.
    #[must_use]
    pub const fn site(&self) -> SiteId {
        self.site
    }

    /// Signs a report, sends it and waits for the answer.
    ///
    /// # Errors
    /// [`ReportError`]; a refusal is an answer, not an error.
    pub async fn report(&mut self, report: Report) -> Result<Answer, ReportError> {
        let signed = Signed::sign(&self.mesh, &self.key, report)?;
        self.send(&signed.into_signed()).await
    }

    /// Sends what is signed already.
    ///
    /// # Errors
    /// As for [`Client::report`].
    pub async fn send(&mut self, report: &Signed<Report>) -> Result<Answer, ReportError> {
        self.reports.send(report).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn dial_first(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<PeerId, ConnectError> {
    let mut last = ConnectError::NoAddress;
    for address in addresses {
        let options = DialOpts::unknown_peer_id().address(address.clone()).build();
        let connection = options.connection_id();
        let dialled = match swarm.dial(options) {
            Ok(()) => timeout(CONNECT_DEADLINE, established(swarm, connection)).await,
            Err(source) => Ok(Err(source)),
        };
        last = match dialled {
            Ok(Ok(peer)) => return Ok(peer),
            Ok(Err(source)) => ConnectError::Dial { address: address.clone(), source },
            Err(_) => ConnectError::Silent(address.clone()),
        };
    }
    Err(last)
}

async fn established(swarm: &mut Swarm<Behaviour>, connection: ConnectionId) -> Result<PeerId, DialError> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } if connection_id == connection => {
                return Ok(peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } if connection_id == connection => {
                return Err(error);
            }
            _ => {}
        }
    }
}
