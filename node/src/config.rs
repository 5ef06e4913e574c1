//! Configuration: a TOML file, `GODWIT_*` variables and flags, in rising order of weight, become one validated
//! [`Config`]. A key has one name everywhere: `gossip_ms`, `GODWIT_GOSSIP_MS`, `--set gossip_ms=5000`.
//!
//! Invariant: whatever is wrong stops the program at start and is named with its place, its key and what to do.

mod keys;
mod layers;
mod parse;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_protocol::bounded::Text;
use godwit_protocol::handoff::Patience;
use godwit_protocol::policy::Limits;
use godwit_protocol::{Address, Dbm, Millis, PerMille};
use libp2p::Multiaddr;

pub use keys::{KEYS, example};
pub use layers::{BadConfig, Setting, Source};

use layers::Layers;

/// Where the configuration is looked for unless `--config` names another file.
pub const DEFAULT_FILE: &str = "/etc/godwit/godwit.toml";

/// What a site is told by its operator, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where ledger, journal and chunks are kept.
    pub data_dir: PathBuf,
    /// Where sockets and state of containers that move are kept: in memory.
    pub run_dir: PathBuf,
    /// The mesh's genesis.
    pub genesis: PathBuf,
    /// The site's secret key.
    pub key: PathBuf,
    /// Where other sites reach this one, and how it finds them.
    pub net: Net,
    /// The local API.
    pub api: Api,
    /// When containers leave and may come.
    pub limits: Limits,
    /// How long this site waits for the other side of a handoff, by its own clock.
    pub patience: Patience,
    /// How long bidding on this site's offers lasts at most.
    pub offer_window: Millis,
    /// How many of the newest blocks are kept; none: all.
    pub retain: Option<u64>,
    /// The container engine's socket.
    pub docker: PathBuf,
    /// What it writes of itself.
    pub log: Log,
    /// Things that look wrong and are not: unknown `GODWIT_*` variables.
    pub warnings: Vec<String>,
}

/// The mesh's network.
#[derive(Clone, Debug)]
pub struct Net {
    /// Multiaddresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Multiaddresses of other sites to try first.
    pub peers: Vec<Multiaddr>,
    /// Look for sites on the local network.
    pub mdns: bool,
    /// Where other sites route traffic for this site's containers.
    pub address: Address,
    /// The operator's name for the network: sites of the same name are near each other.
    pub network: Text<64>,
    /// How often capacity is gossiped at least.
    pub gossip: Duration,
}

/// Where the API listens.
#[derive(Clone, Debug)]
pub struct Api {
    /// The UNIX socket.
    pub socket: PathBuf,
    /// Loopback, with the file that holds the token.
    pub loopback: Option<(SocketAddr, PathBuf)>,
}

/// What the site writes of itself, to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// As text or as JSON.
    pub format: LogFormat,
    /// What is written, as `tracing`'s filter directives.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Config {
    /// Reads the file (or the default one, if there is one), the environment and the flags.
    ///
    /// # Errors
    /// [`BadConfig`] names the place, the key and what to do.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Setting],
    ) -> Result<Self, BadConfig> {
        let layers = Layers::collect(file, environment, flags)?;
        Self::check(&layers)
    }

    fn check(layers: &Layers) -> Result<Self, BadConfig> {
        Ok(Self {
            data_dir: layers.get("data_dir", parse::path)?,
            run_dir: layers.get("run_dir", parse::socket_folder)?,
            genesis: layers.get("genesis", parse::path)?,
            key: layers.get("key", parse::path)?,
            net: Net::check(layers)?,
            api: Api::check(layers)?,
            limits: limits(layers)?,
            patience: patience(layers)?,
            offer_window: Millis(layers.get("offer_window_ms", parse::whole(50, 60_000))?),
            retain: layers.get("retain", parse::retain)?,
            docker: layers.get("docker", parse::unix_socket)?,
            log: Log {
                format: layers.get("log_format", parse::log_format)?,
                filter: layers.get("log", parse::log_filter)?,
            },
            warnings: layers.warnings.clone(),
        })
    }
}

impl Net {
    fn check(layers: &Layers) -> Result<Self, BadConfig> {
        Ok(Self {
            listen: layers.get("listen", parse::listen)?,
            peers: layers.get("peers", parse::peers)?,
            mdns: layers.get("mdns", parse::switch)?,
            address: match layers.get("address", parse::address)? {
                Some(address) => Address(address),
                None => Address(guess_address().ok_or(BadConfig::NoAddress)?),
            },
            network: layers.get("network", parse::label)?,
            gossip: Duration::from_millis(layers.get("gossip_ms", parse::whole(100, 10_000))?),
        })
    }
}

impl Api {
    fn check(layers: &Layers) -> Result<Self, BadConfig> {
        let listen = layers.get("api_listen", parse::loopback)?;
        let token = layers.get("api_token_file", parse::optional_path)?;
        let loopback = match (listen, token) {
            (Some(listen), Some(token)) => Some((listen, token)),
            (None, _) => None,
            (Some(_), None) => {
                return Err(
                    layers.refuse("api_listen", "`api_token_file` to be set too: every local user reaches loopback")
                );
            }
        };
        Ok(Self { socket: layers.get("api_socket", parse::path)?, loopback })
    }
}

fn limits(layers: &Layers) -> Result<Limits, BadConfig> {
    let limits = Limits {
        cpu: PerMille(layers.get("cpu_threshold", parse::whole(1, 1000))?),
        memory: PerMille(layers.get("memory_threshold", parse::whole(1, 1000))?),
        hysteresis: PerMille(layers.get("hysteresis", parse::whole(0, 999))?),
        patience: Millis(layers.get("overload_ms", parse::whole(0, 3_600_000))?),
        dwell: Millis(layers.get("dwell_ms", parse::whole(0, 86_400_000))?),
        retry: Millis(layers.get("retry_ms", parse::whole(0, 86_400_000))?),
        signal: Dbm(layers.get("client_threshold_dbm", parse::whole(-140, 0))?),
        margin: Dbm(layers.get("client_margin_db", parse::whole(0, 60))?),
    };
    if limits.hysteresis >= limits.cpu.min(limits.memory) {
        let expected = "less than `cpu_threshold` and `memory_threshold`, or the site is never relieved";
        return Err(layers.refuse("hysteresis", expected));
    }
    Ok(limits)
}

fn patience(layers: &Layers) -> Result<Patience, BadConfig> {
    Ok(Patience {
        ready: Millis(layers.get("ready_timeout_ms", parse::whole(100, 3_600_000))?),
        prepare: Millis(layers.get("prepare_timeout_ms", parse::whole(1_000, 86_400_000))?),
        fresh: Millis(layers.get("ready_fresh_ms", parse::whole(100, 60_000))?),
        receipt: Millis(layers.get("receipt_timeout_ms", parse::whole(100, 3_600_000))?),
        bytes_per_ms: layers.get("slowest_link_mbit", parse::whole(1_u64, 100_000))? * BYTES_PER_MS_IN_MBIT,
        yield_: Millis(layers.get("yield_timeout_ms", parse::whole(100, 3_600_000))?),
        again: Millis(layers.get("again_ms", parse::whole(100, 600_000))?),
    })
}

/// 1 Mbit/s is 125,000 bytes a second.
const BYTES_PER_MS_IN_MBIT: u64 = 125;

/// The address of the interface that the default route leaves by. Nothing is sent: connecting a UDP socket only picks
/// its source address, here towards one of the addresses that RFC 5737 reserves for documentation.
#[must_use]
pub fn guess_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) if !address.ip().is_unspecified() => Some(*address.ip()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
