//! Out of this engine: freeze, thaw when it came to nothing, release.
//!
//! The engine learns of none of it: to it a frozen container runs, until it is released and has ended by a signal. So what
//! is frozen is written down beside the container's sockets, [`Leaving`], and asked for before the engine is.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use godwit_checkpoint::criu::Dump;
use godwit_checkpoint::{precopy, unread};
use godwit_oci::external::Seen;
use godwit_protocol::container::Kind;
use godwit_protocol::{Address, ContainerId, Millis};
use oci_spec::runtime::Spec as Bundle;
use serde::{Deserialize, Serialize};

use super::frozen::{self, IMAGES, Mark};
use super::inspect::Container;
use super::{DockerRuntime, GRACE_S, free_bytes, on_thread, tree_size, write_json};
use crate::api::fault::chain;
use crate::runtime::depart::{self, Departure, Init};
use crate::runtime::place::Place;
use crate::runtime::{Cause, Frozen, Resumed, Spec, State, Way};

/// Where containerd keeps what a container is started from: the engine's own containerd, or the machine's.
const BUNDLES: [&str; 2] = [
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby",
    "/run/containerd/io.containerd.runtime.v2.task/moby",
];

/// A deleted file that is still open travels in the images up to this size.
const GHOST_MAX: u32 = 256 << 20;

/// What the images and logs of a container take beside its layer.
const SPACE_BESIDE: u64 = 64 << 20;

/// What a container has written to its output goes through the engine's pipes; that takes no time, or something is stuck.
const DRAINING: Duration = Duration::from_millis(200);
const DRAIN_LOOK: Duration = Duration::from_micros(300);

/// What has been sent of a container's memory.
pub(super) enum Ahead {
    /// It runs.
    Copying(precopy::Sender),
    /// It is frozen, and the last of what was sent is on its way.
    Told(#[expect(dead_code, reason = "kept open until the handoff ends")] precopy::Tail),
}

/// Written before a container is stopped; gone when it runs again or is no more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leaving {
    init: Init,
    /// In the engine's words: another run has another start.
    started_at: String,
}

impl Leaving {
    const FILE: &str = "leaving.json";

    pub fn read(place: &Place) -> Option<Self> {
        serde_json::from_slice(&fs::read(place.root().join(Self::FILE)).ok()?).ok()
    }

    fn write(&self, place: &Place) -> Result<(), Cause> {
        write_json(&place.root().join(Self::FILE), self)
    }
}

impl DockerRuntime {
    pub(super) async fn freeze_into(&self, container: ContainerId, dir: PathBuf) -> Result<Frozen, Cause> {
        let found = self.expect(container).await?;
        let spec = found.spec()?;
        if found.state != State::Running || Leaving::read(&self.place(container)).is_some() {
            // Asked once more for what is done already, for example after a restart of godwit.
            return Mark::read(&dir, container).map(|mark| mark.frozen).map_err(|_| Cause::NotRunning);
        }
        match spec.deploy.kind {
            Kind::Stateless => self.freeze_stateless(&found, &spec, dir).await,
            Kind::Stateful => self.freeze_stateful(found, &spec, dir).await,
        }
    }

    async fn freeze_stateless(&self, found: &Container, spec: &Spec, dir: PathBuf) -> Result<Frozen, Cause> {
        let (container, started) = (spec.deploy.container, Instant::now());
        self.set_frozen(container, true)?;
        self.hold(spec.deploy.address).await?;
        let options = StopContainerOptionsBuilder::new().t(GRACE_S).build();
        self.docker.stop_container(&found.id, Some(options)).await?;
        let frozen = Frozen { stop_ms: millis(started), copy_ms: Millis(0) };
        on_thread(move || {
            frozen::begin(&dir)?;
            Mark { container, volumes: Vec::new(), stdio: None, frozen }.write(&dir)
        })
        .await?;
        Ok(frozen)
    }

    async fn freeze_stateful(&self, found: Container, spec: &Spec, dir: PathBuf) -> Result<Frozen, Cause> {
        let container = spec.deploy.container;
        let place = self.place(container);
        // All of this while it runs.
        let (criu, folder, known) = (self.config.criu.clone(), dir.clone(), found.clone());
        let at = place.clone();
        let (departure, dump, init, stdio) = on_thread(move || {
            frozen::begin(&folder)?;
            check_space(&folder, &known)?;
            let init = Init::of(known.pid.ok_or(Cause::NotRunning)?)?;
            let stdio = depart::stdio(init).map_err(Cause::io("look at the streams of", at.root()))?;
            let departure = Departure::ready(&at, &criu, init)?;
            let dump = dump_of(&known, init, folder.join(IMAGES), at.work())?;
            Leaving { init, started_at: known.started_at }.write(&at)?;
            Ok((departure, dump, init, stdio))
        })
        .await?;

        let ahead = self.departures().remove(&container);
        let copying = on_thread(move || match ahead {
            Some(Ahead::Copying(sender)) => {
                sender.pause();
                Ok(Some(sender))
            }
            _ => Ok(None),
        })
        .await?;
        // A disk takes its time.
        self.set_frozen(container, true)?;
        let started = Instant::now();
        self.hold(spec.deploy.address).await?;
        let folder = dir.clone();
        let captured = on_thread(move || {
            departure.capture(&dump)?;
            copying.map_or(Ok(None), |sender| tell(sender, &folder))
        })
        .await;
        let stop_ms = millis(started);
        let collected = match captured {
            Ok(told) => {
                self.departures().extend(told.map(|tail| (container, Ahead::Told(tail))));
                let (folder, log) = (dir.clone(), found.log(&self.root));
                on_thread(move || {
                    let began = Instant::now();
                    drain(init, &log);
                    frozen::collect(&found, &log, &folder)?;
                    let frozen = Frozen { stop_ms, copy_ms: millis(began) };
                    let volumes = found.volumes.iter().map(|(at, _)| at.clone()).collect();
                    Mark { container, volumes, stdio: Some(stdio), frozen }.write(&folder)?;
                    Ok(frozen)
                })
                .await
            }
            Err(cause) => Err(cause),
        };
        match collected {
            Ok(frozen) => Ok(frozen),
            Err(cause) => {
                tracing::warn!(%container, %cause, "docker.freeze_undone");
                match self.thaw_from(container).await {
                    Ok(_) => Err(cause),
                    Err(lost) => Err(Cause::StateLost { reason: format!("{cause}; and then: {lost}") }),
                }
            }
        }
    }

    /// A stream on which the memory of a running container is sent ahead, in place of an earlier one.
    pub(super) async fn ahead_of(&self, container: ContainerId) -> Result<UnixStream, Cause> {
        let found = self.expect(container).await?;
        if self.is_frozen(container) {
            return Err(Cause::Frozen);
        }
        self.forget_ahead(container).await?;
        let pid = found.pid.ok_or(Cause::NotRunning)?;
        let (stream, sender) = on_thread(move || depart::ahead(Init::of(pid)?)).await?;
        self.departures().insert(container, Ahead::Copying(sender));
        Ok(stream)
    }

    /// Its end takes a while.
    async fn forget_ahead(&self, container: ContainerId) -> Result<(), Cause> {
        let ahead = self.departures().remove(&container);
        on_thread(move || {
            drop(ahead);
            Ok(())
        })
        .await
    }

    pub(super) async fn thaw_from(&self, container: ContainerId) -> Result<Resumed, Cause> {
        self.forget_ahead(container).await?;
        let found = self.expect(container).await?;
        let spec = found.spec()?;
        let place = self.place(container);
        let started = Instant::now();
        let leaving = Leaving::read(&place);
        let same_run = |leaving: &Leaving| leaving.started_at == found.started_at;
        match (found.state, leaving) {
            (State::Prepared | State::Absent, _) => return Err(Cause::NotRunning),
            // Held, or about to be; or it was let go already.
            (_, Some(leaving)) if same_run(&leaving) => {
                let at = place.clone();
                if let Err(cause) = on_thread(move || depart::let_go(&at, leaving.init)).await {
                    if matches!(cause, Cause::StateLost { .. }) {
                        // Nothing is left to go on from: it may be started from its beginning.
                        self.set_frozen(container, false)?;
                        place.clear();
                    }
                    return Err(cause);
                }
            }
            (State::Running, _) => {}
            (State::Ended { .. }, _) if spec.deploy.kind == Kind::Stateless && self.is_frozen(container) => {
                self.docker.start_container(&found.id, None::<StartContainerOptions>).await?;
            }
            (State::Ended { code }, _) => return Err(Cause::AlreadyRan { code }),
        }
        self.runs_here(&spec).await?;
        place.clear();
        Ok(Resumed { copy_ms: Millis(0), start_ms: millis(started) })
    }

    pub(super) async fn release_ended(&self, container: ContainerId) -> Result<(), Cause> {
        let place = self.place(container);
        if let Some(leaving) = Leaving::read(&place) {
            let at = place.clone();
            on_thread(move || depart::end(&at, leaving.init)).await?;
        } else if self.find(container).await?.is_some_and(|found| found.state == State::Running) {
            return Err(Cause::StillRunning);
        }
        self.forget_ahead(container).await?;
        self.remove_found(container).await?;
        place.clear();
        Ok(())
    }

    /// A stream on which the memory of a frozen container is served.
    pub(super) async fn pages_of(&self, container: ContainerId) -> Result<UnixStream, Cause> {
        let leaving = Leaving::read(&self.place(container)).ok_or(Cause::NotRunning)?;
        on_thread(move || depart::pages(leaving.init)).await
    }

    /// Packets reach it again, and it is frozen no more.
    pub(super) async fn runs_here(&self, spec: &Spec) -> Result<(), Cause> {
        self.routes.set(spec.deploy.address, Way::Here).await?;
        self.set_frozen(spec.deploy.container, false)
    }

    pub(super) async fn hold(&self, address: Address) -> Result<(), Cause> {
        self.routes.set(address, Way::Nowhere).await
    }
}

/// Says what of the pages that were sent the frozen container still has; without them the handoff goes on.
fn tell(sender: precopy::Sender, dir: &Path) -> Result<Option<precopy::Tail>, Cause> {
    let progress = sender.progress();
    match sender.finish() {
        Ok((told, tail)) => {
            let (copied, valid) = (progress.copied, told.bytes());
            tracing::info!(rounds = progress.rounds, copied, valid, "memory was sent ahead");
            frozen::tell_ahead(dir, &told)?;
            Ok(Some(tail))
        }
        Err(error) => {
            tracing::info!(error = chain(&error), "memory was not sent ahead");
            Ok(None)
        }
    }
}

/// What CRIU captures of a container, and what it leaves out.
fn dump_of(found: &Container, init: Init, images: PathBuf, work: PathBuf) -> Result<Dump, Cause> {
    let unseen = |error: &dyn std::error::Error| Cause::Unsupported(chain(error));
    let seen = Seen::by(i32::try_from(init.pid).map_err(|_| Cause::NotRunning)?).map_err(|error| unseen(&error))?;
    let bundle = BUNDLES.iter().map(|folder| Path::new(folder).join(&found.id).join("config.json"));
    let config = bundle.into_iter().find(|config| config.exists()).ok_or_else(|| {
        Cause::Unsupported(format!("containerd has its files elsewhere than in {} and {}", BUNDLES[0], BUNDLES[1]))
    })?;
    let bundle = Bundle::load(&config).map_err(|error| unseen(&error))?;
    let left_out = seen.left_out(&bundle).into_iter().map(|(path, key)| format!("mnt[{path}]:{key}"));
    let external = left_out.collect();
    Ok(Dump { pid: init.pid, images, work, lazy: true, external, ghost_limit: GHOST_MAX })
}

/// What it has written is in the engine's log, or as good as.
fn drain(init: Init, log: &Path) {
    let until = Instant::now() + DRAINING;
    let size = || fs::metadata(log).map_or(0, |meta| meta.len());
    let mut before = size();
    // One look at least: what has left the pipe is not in the log at once.
    let mut written = true;
    while Instant::now() < until {
        let waiting = [1, 2].iter().any(|stream| unread(init.pid, *stream).unwrap_or(0) > 0);
        let now = size();
        if !waiting && now == before && !written {
            return;
        }
        // Once more after the last change: the engine passes lines on one by one.
        written = waiting || now != before;
        before = now;
        std::thread::sleep(DRAIN_LOOK);
    }
}

/// Layer and logs are packed while the container stands: full memory then would cost the move.
fn check_space(dir: &Path, found: &Container) -> Result<(), Cause> {
    let trees = found.volumes.iter().map(|(_, path)| path).chain([found.upper()?]);
    let needed = trees.map(|tree| tree_size(tree)).sum::<u64>().saturating_add(SPACE_BESIDE);
    let free = free_bytes(dir)?;
    if free < needed {
        return Err(Cause::DiskFull { path: dir.to_owned(), needed, free });
    }
    Ok(())
}

pub(super) fn millis(since: Instant) -> Millis {
    Millis(since.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
}
