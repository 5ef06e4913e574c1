//! `godwit follow`: keeps a verified copy of the ledger, as a member without a vote, an engine or an API.
//!
//! Every block is verified like on any other site before it is stored: by the certificate of its height's validators, the
//! rules, and the state that it leads to.
//! Invariant: it says nothing that others count: no vote, no record, no capacity.

use anyhow::{Context, ensure};
use godwit_ledger::replica::{Input, LedgerMessage};
use godwit_protocol::{Hash, SiteId, Time};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info, warn};

use super::history::History;
use super::host::now;
use super::ledger::{Ledger, Left};
use crate::config::Config;
use crate::genesis;
use crate::net::{Endpoint, NetConfig, NetEvent};

/// How far a follower is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// The last block that it has.
    pub height: u64,
    /// That block's time.
    pub time: Time,
    /// Its header's hash.
    pub tip: Hash,
    /// Members that are connected.
    pub peers: usize,
}

struct Follower {
    me: SiteId,
    ledger: Ledger,
    net: Endpoint,
    epoch: u64,
}

/// Follows until it is told to stop, or has the block of height `until`. Tells `told` whenever it is further.
///
/// # Errors
/// What keeps it from starting, what it must not go on after, and that its key has a vote.
pub async fn follow(
    config: Config,
    until: Option<u64>,
    told: &mut (dyn FnMut(&Followed) + Send),
) -> anyhow::Result<Followed> {
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let founding = genesis::read(&config.genesis)?;
    let (ledger, key) = Ledger::open(&config, &founding)?;
    let (net, mut heard) = Endpoint::start(NetConfig {
        key: key.clone(),
        mesh: founding.mesh(),
        listen: config.net.listen,
        peers: config.net.peers,
        mdns: config.net.mdns,
    })?;
    let epoch = ledger.state().membership_epoch();
    let mut follower = Follower { me: SiteId::from(key.verifying_key()), ledger, net, epoch };
    follower.check_voteless()?;
    if follower.ledger.state().member(&follower.me).is_none() {
        warn!(site = %follower.me, "this site is no member of mesh {} (yet): it waits to be admitted", founding.name);
    }
    follower.admit();
    follower.step(Input::Start)?;

    let mut last = follower.progress();
    told(&last);
    while until.is_none_or(|until| last.height < until) {
        let input = tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            Some(event) = heard.recv() => heed(event),
            Some(timer) = std::future::poll_fn(|context| follower.ledger.poll_timer(context)) => Some(Input::Timer(timer)),
        };
        if let Some(input) = input {
            // Disk writes are part of a step and block this thread; the others go on.
            tokio::task::block_in_place(|| follower.step(input))?;
        }
        let progress = follower.progress();
        if progress != last {
            told(&progress);
            last = progress;
        }
    }
    info!(height = last.height, "stopping");
    follower.net.shutdown().await;
    Ok(last)
}

/// What concerns a replica without a vote.
fn heed(event: NetEvent) -> Option<Input> {
    match event {
        NetEvent::Connected(site) => Some(Input::Connected(site)),
        NetEvent::Disconnected(site) => Some(Input::Disconnected(site)),
        NetEvent::Ledger { from, bytes } => match LedgerMessage::decode(&bytes) {
            Ok(message) => Some(Input::Message { from, message }),
            Err(error) => {
                debug!(from = %from.short(), %error, "a malformed ledger message");
                None
            }
        },
        NetEvent::Record(_)
        | NetEvent::Capacity(_)
        | NetEvent::Word { .. }
        | NetEvent::Report(_)
        | NetEvent::Refused { .. } => None,
    }
}

impl Follower {
    fn step(&mut self, input: Input) -> anyhow::Result<()> {
        for effect in self.ledger.step(now(), input) {
            if let Some(Left::Committed(_) | Left::Adopted) = self.ledger.perform(&self.net, effect)? {
                let state = self.ledger.state();
                debug!(height = %state.height(), "followed");
                let epoch = state.membership_epoch();
                // Before whatever else the replica wanted: it may have been given a vote.
                self.check_voteless()?;
                if std::mem::replace(&mut self.epoch, epoch) != epoch {
                    self.admit();
                }
            }
        }
        Ok(())
    }

    fn check_voteless(&self) -> anyhow::Result<()> {
        let votes = self.ledger.state().validators().contains(&self.me);
        ensure!(!votes, "this site is a validator of the mesh: it must vote, by `godwit run`");
        Ok(())
    }

    fn admit(&self) {
        self.ledger.admit(&self.net, &mut History::default());
    }

    fn progress(&self) -> Followed {
        let state = self.ledger.state();
        let peers = state.members().filter(|member| self.net.is_connected(&member.site)).count();
        Followed { height: state.height().0, time: state.time(), tip: state.tip(), peers }
    }
}
