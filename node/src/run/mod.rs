//! `godwit run`: the one loop in which everything that happens to a site becomes a step of its brain or its replica, and
//! their effects become deeds.
//!
//! ```text
//!  network ─┐                                   ┌─► journal, write-ahead log, store (synced before what follows)
//!  API      ├─► event ─► site.step / replica.step ─► network, tasks (engine, transfer), routes
//!  tasks    │                                   └─► history, notices
//!  monitor, timers
//! ```
//!
//! Invariant: effects are performed in their order, and what must be on disk is, before the next one is performed.

mod address;
mod asks;
mod clients;
pub mod follow;
mod history;
mod host;
mod ledger;
mod load;
mod metrics;
mod pages;
mod routes;
mod start;
mod tasks;

use std::time::Duration;

use anyhow::Context;
use godwit_ledger::replica::BadWal;
use godwit_ledger::store::StoreError;
use godwit_ledger::wal::WalError;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::config::Config;
pub use host::now;

use host::Event;

pub(crate) use history::{History, summary};

/// The ledger's place in the data folder.
pub const LEDGER: &str = "ledger";

/// The write-ahead log's place in the data folder.
pub const WAL: &str = "wal";

/// In the data folder while the site is drained: an operator's wish outlives a restart.
const DRAINED: &str = "drained";

/// How often the brain is asked what time it is. A tenth of its shortest patience.
const TICK: Duration = Duration::from_millis(200);

/// Runs the site until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, and whatever it must not go on after: a journal or ledger that cannot be written.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let (mut host, mut sources) = start::start(config).await?;
    let mut interrupted = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    info!(site = %host.me(), "running");
    loop {
        let event = tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            _ = ticks.tick() => Event::Tick,
            Some(event) = sources.net.recv() => Event::Net(event),
            Some(ask) = sources.asks.recv() => Event::Ask(ask),
            Some(finished) = sources.finished.recv() => Event::Finished(finished),
            Some(load) = sources.loads.recv() => Event::Load(load),
            Some(advance) = sources.advances.recv() => Event::Advance(advance),
            Some(order) = sources.orders.recv() => Event::Order(order),
            Some(records) = sources.verified.recv() => Event::Verified(records),
            Some(timer) = std::future::poll_fn(|context| host.poll_timer(context)) => Event::Timer(timer),
        };
        // Disk writes are part of a step and block this thread; the others go on.
        tokio::task::block_in_place(|| host.handle(event))?;
        if host.renewed {
            break;
        }
    }
    let renewed = host.renewed;
    info!("stopping; containers go on running");
    host.stop().await;
    if renewed { start_anew() } else { Ok(()) }
}

/// Whether the ledger or its write-ahead log is lost, so that starting again is of no use.
#[must_use]
pub fn is_loss(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<WalError>().is_some_and(WalError::is_loss)
            || cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_loss)
            || cause.downcast_ref::<BadWal>().is_some()
    })
}

/// Becomes a new process of the same program, with the same process id: nothing is left over of the life before, which had
/// the old key, or missed what led to a state that was fetched.
fn start_anew() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    let failed = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    Err(failed).context("start anew; start this site again")
}
