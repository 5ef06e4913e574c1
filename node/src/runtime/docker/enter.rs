//! Into this engine: a container is prepared and started from a checkpoint that is still to come; our OCI runtime waits in
//! the engine's call until its images are here.
//!
//! Meanwhile the engine has the container locked and answers no question about it. What there is to know is written down
//! beside the container's sockets, [`Entering`], and taken from there instead.
//!
//! - The engine reads a checkpoint from its own data directory alone, and stores it under its digest: a file with a fresh
//!   nonce is one that it has never seen.
//! - Its client library knows no `checkpoint` parameter for a start: it is added on the way.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::StartContainerOptions;
use godwit_checkpoint::pages::Connection;
use godwit_checkpoint::precopy;
use godwit_protocol::ContainerId;
use godwit_protocol::container::Kind;
use hyper::http::Uri;
use hyper::http::uri::PathAndQuery;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::frozen::{self, IMAGES, Mark};
use super::inspect::Container;
use super::leave::millis;
use super::{DockerRuntime, Spec, on_thread, write_json};
use crate::runtime::arrive::{Arrival, News};
use crate::runtime::place::Place;
use crate::runtime::{Cause, Filled, Resumed, State};

/// For how long memory is received ahead at most: 16 GB at 1 Gbit/s, several times.
const PRECOPY: Duration = Duration::from_secs(600);

/// What was sent last is on its way while the container is captured: a few milliseconds. It waits no longer for it.
const LAST_PAGES: Duration = Duration::from_millis(50);

/// The checkpoint that is still to come, for the engine.
const CHECKPOINT: &str = "godwit";
const NONCE: &str = "nonce";

/// The container's streams at the source, in the folder that it is prepared from.
const STDIO: &str = "stdio.json";

/// A container that the engine is being asked to start.
pub(super) struct Entrance {
    engine_id: String,
    arrival: Arrival,
    /// What has come of its memory while it runs at the source.
    ahead: std::sync::Mutex<Option<precopy::Receiver>>,
    /// How many bytes travelled for that.
    ahead_bytes: AtomicU64,
    /// The engine's answer; none after a restart of godwit, when another has asked.
    started: Mutex<Option<JoinHandle<Result<(), bollard::errors::Error>>>>,
}

impl Entrance {
    fn new(engine_id: String, arrival: Arrival) -> Arc<Self> {
        let (ahead, ahead_bytes) = (std::sync::Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { engine_id, arrival, ahead, ahead_bytes, started: Mutex::default() })
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Option<precopy::Receiver>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container {
    const ENTERING: &str = "entering.json";

    /// What was known of a container before the engine locked it.
    pub(super) fn entering(place: &Place) -> Option<Self> {
        serde_json::from_slice(&fs::read(place.root().join(Self::ENTERING)).ok()?).ok()
    }

    fn enters(&self, place: &Place) -> Result<(), Cause> {
        write_json(&place.root().join(Self::ENTERING), self)
    }

    /// The engine answers again.
    fn entered(place: &Place) {
        let _ = fs::remove_file(place.root().join(Self::ENTERING));
    }
}

/// Writes what a target must know of the streams of a container that runs here.
pub(super) fn write_stdio(dir: &Path, stdio: &[String; 3]) -> Result<(), Cause> {
    write_json(&dir.join(STDIO), stdio)
}

impl DockerRuntime {
    pub(super) async fn prepare_from(&self, container: ContainerId, dir: PathBuf) -> Result<Spec, Cause> {
        let spec = Spec::read(&dir, container)?;
        let is_new = match self.find(container).await? {
            None => true,
            Some(Container { state: State::Running, .. }) => return Err(Cause::StillRunning),
            Some(Container { state: State::Ended { code }, .. }) => return Err(Cause::AlreadyRan { code }),
            Some(found) if found.spec().is_ok_and(|before| before == spec) => false,
            Some(_) => return Err(Cause::Occupied),
        };
        if spec.deploy.kind == Kind::Stateful && !self.knows_runtime().await? {
            let why = "this engine was not told of godwit's OCI runtime: godwit doctor --fix registers it";
            return Err(Cause::Unsupported(why.into()));
        }
        if is_new {
            if !self.has_image(spec.image.id).await? {
                return Err(Cause::ImageAbsent(spec.image.id.to_string()));
            }
            self.create(&spec).await?;
        }
        if spec.deploy.kind == Kind::Stateful {
            let path = dir.join(STDIO);
            let stdio = fs::read(&path).map_err(Cause::io("read", &path))?;
            let stdio = serde_json::from_slice(&stdio).map_err(|e| Cause::io("read", &path)(e.into()))?;
            self.enter(container, &stdio).await?;
        }
        Ok(spec)
    }

    /// Has the engine start a container that was created, as far as it goes without images.
    async fn enter(&self, container: ContainerId, stdio: &[String; 3]) -> Result<Arc<Entrance>, Cause> {
        let stdio = stdio.clone();
        if let Some(entrance) = self.entrance(container).await? {
            let waits = Arc::clone(&entrance);
            on_thread(move || waits.arrival.expect(&stdio)).await?;
            return Ok(entrance);
        }
        let found = self.expect(container).await?;
        let place = self.place(container);
        let checkpoint = self.checkpoint(&found.id);
        let (at, known, log) = (place.clone(), found.clone(), found.log(&self.root));
        let arrival = on_thread(move || {
            let arrival = Arrival::open(at.clone())?;
            // It never ran: what it has logged is from a restore that failed.
            let _ = fs::remove_file(&log);
            fs::create_dir_all(&checkpoint).map_err(Cause::io("make", &checkpoint))?;
            let nonce = checkpoint.join(NONCE);
            fs::write(&nonce, rand::random::<u128>().to_string()).map_err(Cause::io("write", &nonce))?;
            known.enters(&at)?;
            Ok(arrival)
        })
        .await?;
        let (engine, id) = (starting_from_checkpoint(&self.docker), found.id.clone());
        let mut starting =
            tokio::spawn(async move { engine.start_container(&id, None::<StartContainerOptions>).await });
        let entrance = Entrance::new(found.id, arrival);
        let waits = Arc::clone(&entrance);
        let prepared = tokio::select! {
            biased;
            refused = &mut starting => match refused? {
                Ok(()) => Err(Cause::Runtime { reason: "the engine started it without asking for images".into() }),
                Err(error) => Err(error.into()),
            },
            prepared = on_thread(move || waits.arrival.expect(&stdio)) => prepared,
        };
        if let Err(cause) = prepared {
            self.remove_checkpoint(&entrance.engine_id);
            Container::entered(&place);
            return Err(cause);
        }
        *entrance.started.lock().await = Some(starting);
        self.entrances().insert(container, Arc::clone(&entrance));
        Ok(entrance)
    }

    /// The container that waits in our OCI runtime, if it does; also since an earlier life of godwit.
    async fn entrance(&self, container: ContainerId) -> Result<Option<Arc<Entrance>>, Cause> {
        if let Some(entrance) = self.entrances().get(&container) {
            return Ok(Some(Arc::clone(entrance)));
        }
        let place = self.place(container);
        let Some(entering) = Container::entering(&place) else { return Ok(None) };
        let at = place.clone();
        let (arrival, awaited) = on_thread(move || {
            let arrival = Arrival::open(at)?;
            let awaited = arrival.is_awaited();
            Ok((arrival, awaited))
        })
        .await?;
        if !awaited {
            self.remove_checkpoint(&entering.id);
            Container::entered(&place);
            return Ok(None);
        }
        let entrance = Entrance::new(entering.id, arrival);
        self.entrances().insert(container, Arc::clone(&entrance));
        Ok(Some(entrance))
    }

    /// Receives memory of the container that still runs at the source, until that says that waiting longer would gain nothing.
    pub(super) async fn receive_from(&self, container: ContainerId, source: PathBuf) -> Result<(), Cause> {
        // A stateless container does not wait.
        let Some(entrance) = self.entrance(container).await? else { return Ok(()) };
        let most = self.expect(container).await?.spec()?.deploy.memory.0;
        on_thread(move || {
            let limits = precopy::Limits { bytes: most, patience: LAST_PAGES };
            let stream = UnixStream::connect(&source).map_err(Cause::io("connect to", &source))?;
            let connection = Connection::unix(stream).map_err(Cause::io("share", &source))?;
            let receiver = precopy::Receiver::start(connection, limits)?;
            let settled = receiver.wait(PRECOPY);
            if settled? {
                *entrance.ahead() = Some(receiver);
            }
            Ok(())
        })
        .await
    }

    /// Restores what was prepared, and holds it.
    pub(super) async fn restore_from(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Result<(), Cause> {
        self.entrance(container).await?;
        let found = self.expect(container).await?;
        if found.state != State::Prepared || found.spec()?.deploy.kind == Kind::Stateless {
            return Ok(());
        }
        self.restored(&found, container, dir, pages).await.map(drop)
    }

    async fn restored(
        &self,
        found: &Container,
        container: ContainerId,
        dir: PathBuf,
        pages: PathBuf,
    ) -> Result<Arc<Entrance>, Cause> {
        let mark = Mark::read(&dir, container)?;
        let stdio = mark.stdio.clone().ok_or_else(|| Cause::Incomplete(dir.clone()))?;
        let entrance = self.enter(container, &stdio).await?;
        let (restores, known) = (Arc::clone(&entrance), found.clone());
        let restored = on_thread(move || {
            if let Some(output) = restores.arrival.output()? {
                frozen::lay(&dir, &mark, &known, output)?;
            }
            let ahead = restores.ahead().take();
            let travelled = ahead.as_ref().map_or(0, |ahead| ahead.progress().0);
            restores.ahead_bytes.fetch_add(travelled, Ordering::Relaxed);
            restores.arrival.restore(&dir.join(IMAGES), &pages, frozen::keep_ahead(&dir, ahead))
        })
        .await;
        match restored {
            Ok(()) => Ok(entrance),
            Err(cause) => {
                self.leave_entrance(container, &entrance).await;
                Err(cause)
            }
        }
    }

    pub(super) async fn resume_from(
        &self,
        container: ContainerId,
        dir: PathBuf,
        pages: PathBuf,
    ) -> Result<Resumed, Cause> {
        // What an earlier life has let run is the engine's by now.
        self.entrance(container).await?;
        let found = self.expect(container).await?;
        let spec = found.spec()?;
        match found.state {
            State::Running => {
                self.runs_here(&spec).await?;
                return Ok(Resumed::default());
            }
            State::Ended { code } => return Err(Cause::AlreadyRan { code }),
            State::Prepared | State::Absent => {}
        }
        let started = std::time::Instant::now();
        if spec.deploy.kind == Kind::Stateless {
            self.docker.start_container(&found.id, None::<StartContainerOptions>).await?;
            self.runs_here(&spec).await?;
            return Ok(Resumed { start_ms: millis(started), ..Resumed::default() });
        }
        self.hold(spec.deploy.address).await?;
        let entrance = self.restored(&found, container, dir, pages).await?;
        let copy_ms = millis(started);
        let releases = Arc::clone(&entrance);
        if let Err(cause) = on_thread(move || releases.arrival.release()).await {
            self.leave_entrance(container, &entrance).await;
            return Err(cause);
        }
        self.runs_here(&spec).await?;
        // From here on the engine knows it as its own and answers, as soon as the runtime has told it.
        Container::entered(&self.place(container));
        let start_ms = godwit_protocol::Millis(millis(started).0.saturating_sub(copy_ms.0));
        Ok(Resumed { copy_ms, start_ms })
    }

    /// Until the container that runs here lacks nothing.
    pub(super) async fn fill_from(
        &self,
        container: ContainerId,
        dir: PathBuf,
        pages: PathBuf,
    ) -> Result<Filled, Cause> {
        let found = self.expect(container).await?;
        if found.spec()?.deploy.kind == Kind::Stateless {
            return Ok(Filled::default());
        }
        let place = self.place(container);
        let known = self.entrances().get(&container).cloned();
        let (docker, handle) = (self.docker.clone(), tokio::runtime::Handle::current());
        let (at, id) = (place.clone(), found.id.clone());
        let filled = on_thread(move || {
            let entrance = match known {
                Some(entrance) => entrance,
                None => Entrance::new(id.clone(), Arrival::open(at)?),
            };
            let silent = |news| handle.block_on(stand(&docker, &id, news));
            let filled = entrance.arrival.fill(&dir.join(IMAGES), &pages, silent)?;
            Ok(filled.wire_bytes + entrance.ahead_bytes.load(Ordering::Relaxed))
        })
        .await;
        let filled = match filled {
            Ok(bytes) => bytes,
            // It has ended by itself, or its missing pages were lost with its source: then it was ended.
            Err(cause) => match self.inspect_id(&found.id).await?.state {
                State::Running => return Err(cause),
                state => {
                    tracing::warn!(%container, ?state, %cause, "docker.ended_before_it_was_whole");
                    0
                }
            },
        };
        let entrance = self.entrances().remove(&container);
        if let Some(entrance) = entrance {
            self.engine_answered(container, &entrance).await;
        }
        self.remove_checkpoint(&found.id);
        place.clear();
        Ok(Filled { bytes: godwit_protocol::Bytes(filled) })
    }

    pub(super) async fn discard_entered(&self, container: ContainerId) -> Result<(), Cause> {
        let place = self.place(container);
        let waits = self.entrance(container).await?;
        if let Some(entrance) = waits {
            let cancels = Arc::clone(&entrance);
            on_thread(move || {
                cancels.arrival.cancel();
                Ok(())
            })
            .await?;
            self.leave_entrance(container, &entrance).await;
        }
        match self.find(container).await?.map(|found| found.state) {
            Some(State::Running) => return Err(Cause::StillRunning),
            Some(State::Ended { code }) => return Err(Cause::AlreadyRan { code }),
            _ => self.remove_found(container).await?,
        }
        place.clear();
        Ok(())
    }

    /// The runtime has ended: the engine may be asked about the container again.
    async fn leave_entrance(&self, container: ContainerId, entrance: &Arc<Entrance>) {
        self.entrances().remove(&container);
        let ends = Arc::clone(entrance);
        if let Err(cause) = on_thread(move || {
            ends.arrival.give_up();
            Ok(())
        })
        .await
        {
            tracing::warn!(%container, %cause, "docker.guard_stays");
        }
        self.engine_answered(container, entrance).await;
        self.remove_checkpoint(&entrance.engine_id);
        Container::entered(&self.place(container));
    }

    fn checkpoint(&self, engine_id: &str) -> PathBuf {
        self.root.join("containers").join(engine_id).join("checkpoints").join(CHECKPOINT)
    }

    /// The engine has read it, or never will.
    fn remove_checkpoint(&self, engine_id: &str) {
        let checkpoint = self.checkpoint(engine_id);
        match fs::remove_dir_all(&checkpoint) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %checkpoint.display(), %error, "a checkpoint's folder stays");
            }
            _ => {}
        }
    }

    async fn engine_answered(&self, container: ContainerId, entrance: &Entrance) {
        let Some(started) = entrance.started.lock().await.take() else { return };
        match started.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%container, %error, "docker.start_refused"),
            Err(error) => tracing::warn!(%container, %error, "docker.start_lost"),
        }
    }
}

/// Half a state serves nobody: without its source the container stands, and the engine says so.
async fn stand(docker: &Docker, id: &str, news: News) {
    let done = match news {
        News::SourceSilent => docker.pause_container(id).await,
        News::SourceBack => docker.unpause_container(id).await,
    };
    match done {
        Ok(()) => tracing::warn!(container = id, ?news, "docker.pages"),
        Err(error) => tracing::warn!(container = id, ?news, %error, "docker.pages"),
    }
}

/// A client whose starts are starts from a checkpoint.
fn starting_from_checkpoint(docker: &Docker) -> Docker {
    docker.clone().with_request_modifier(|mut request| {
        if request.uri().path().ends_with("/start") {
            let query = format!("{}?checkpoint={CHECKPOINT}", request.uri().path());
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = PathAndQuery::try_from(query).ok();
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        request
    })
}
