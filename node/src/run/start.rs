//! Starts a site: opens what is on disk, recovers both machines, then opens the doors.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use godwit_ledger::author::Author;
use godwit_ledger::replica;
use godwit_protocol::handoff::Promise;
use godwit_protocol::site::{Config as Brain, Load, Site};
use godwit_protocol::{Millis, SiteId};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::asks::Desk;
use super::history::History;
use super::host::{Host, Sources, Step, now};
use super::ledger::Ledger;
use super::load;
use super::metrics::Metrics;
use super::routes::Routes;
use super::tasks::{Places, Tasks};
use crate::config::Config;
use crate::journal::Journal;
use crate::net::{Endpoint, NetConfig};
use crate::runtime::docker;
use crate::runtime::late::Late;
use crate::runtime::{Range, Runtime};
use crate::{api, chunks, genesis, monitor};

/// Gossip of a peer is believed for three of its intervals.
const STALE_INTERVALS: u32 = 3;

/// Found in the search path.
const CRIU: &str = "criu";

/// Everything up to the first event.
pub(super) async fn start(config: Config) -> anyhow::Result<(Host, Sources)> {
    let config = Arc::new(config);
    let founding = genesis::read(&config.genesis)?;
    let mesh = founding.mesh();
    let (mut ledger, key) = Ledger::open(&config, &founding)?;
    let me = SiteId::from(key.verifying_key());
    let (journal, promises) = Journal::<Promise>::open(config.data_dir.join("journal"))?;
    if ledger.state().member(&me).is_none() {
        warn!(site = %me, "this site is no member of mesh {} (yet): it waits to be admitted", founding.name);
    }

    let runtime: Arc<dyn Runtime> = Arc::new(Late::new(docker::Config {
        socket: config.docker.clone(),
        state: config.data_dir.join("engine"),
        run: config.run_dir.clone(),
        criu: CRIU.into(),
        mesh,
        range: Range { network: founding.network.0, prefix: founding.prefix },
    }));
    let measured = monitor::watch(monitor::Scope::Auto).await.context("watch this site's load")?;
    let platform = monitor::platform(Path::new(CRIU)).await;

    let (net, heard) = Endpoint::start(NetConfig {
        key: key.clone(),
        mesh,
        listen: config.net.listen.clone(),
        peers: config.net.peers.clone(),
        mdns: config.net.mdns,
    })?;
    let server = chunks::Server::start(&net);

    let begun = now();
    let gossip = Millis(u64::try_from(config.net.gossip.as_millis()).unwrap_or(u64::MAX));
    let brain = Brain {
        me,
        address: config.net.address,
        network: config.net.network.clone(),
        platform,
        limits: config.limits.clone(),
        patience: config.patience,
        window: config.offer_window,
        gossip,
        stale: Millis(gossip.0.saturating_mul(STALE_INTERVALS.into())),
    };
    let site = Site::new(brain, begun.0);

    let mut history = History::default();
    ledger.tell_past(&mut history)?;
    ledger.admit(&net, &mut history);
    ledger.admit_clients(&net);
    let mut routes = Routes::new(me, Arc::clone(&runtime));
    for (id, known) in ledger.state().containers() {
        routes.container_at(*id, known.register.address, known.owner);
    }

    let (finished, finished_tasks) = mpsc::unbounded_channel();
    let (advances, advancing) = mpsc::unbounded_channel();
    let (orders, ordered) = mpsc::unbounded_channel();
    let (verified, records) = mpsc::unbounded_channel();
    let places = Places { disk: config.data_dir.join("handoffs"), memory: config.run_dir.join("handoffs") };
    let tasks = Tasks::new(Arc::clone(&runtime), server, net.clone(), places, finished, advances);
    let author = Author::new(ledger.state(), key.clone());
    let (handle, end) = api::site::channel();
    let loopback = config.api.loopback.as_ref().map(|(address, token)| (*address, token.as_path()));
    let listeners = api::Listeners::bind(&config.api.socket, loopback).await?;
    let mut registry = Registry::default();
    net.metrics().register(&mut registry);
    let counted = Metrics::default();
    counted.register(&mut registry);
    let stopping = CancellationToken::new();
    let desk = api::routes::Api { site: handle, metrics: Arc::new(registry), stopping: stopping.clone() };
    let api = tokio::spawn(listeners.serve(desk));

    let mut host = Host {
        me,
        key,
        started: begun,
        site,
        ledger,
        author,
        journal,
        promises,
        net,
        tasks,
        routes,
        history,
        metrics: counted,
        notices: end.notices,
        stopping,
        api,
        load: Load::default(),
        asks: Desk { runtime: Arc::clone(&runtime), orders, config },
        waiting: BTreeMap::new(),
        queue: VecDeque::from([Step::Replica(replica::Input::Start)]),
        renewed: false,
        verified,
    };
    host.wake()?;
    host.drain()?;
    if !host.site.is_awake() {
        warn!("{}", super::ledger::UNAWARE);
    }
    host.measure();
    info!(mesh = %mesh, height = %host.ledger.state().height(), open = host.promises.len(), "recovered");
    let loads = load::watch(measured, runtime);
    let sources = Sources {
        net: heard,
        asks: end.asks,
        finished: finished_tasks,
        advances: advancing,
        loads,
        orders: ordered,
        verified: records,
    };
    Ok((host, sources))
}
