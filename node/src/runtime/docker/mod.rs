//! Docker Engine, through its HTTP API.
//!
//! Containers are known by labels: [`LABEL_MESH`], [`LABEL_CONTAINER`], and [`LABEL_SPEC`], which holds all that a container
//! was created from. The engine's own database is thus the only place where it says what runs here.
//!
//! Some of what moves has no API: the writable layer and the logs of a container are read and written in the engine's data
//! directory, and `POST /containers/{id}/start` takes a checkpoint only from there. So godwit must see that directory under
//! the engine's own path, as root. Processes are captured without the engine, and restored by our OCI runtime, which the
//! engine must know.

mod create;
mod enter;
mod frozen;
mod image;
mod inspect;
mod leave;
mod usage;

use std::collections::HashMap;
use std::fs::{self, File};
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::query_parameters::{
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptions, StopContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use godwit_protocol::{Address, Bytes, ContainerId, ImageId, MeshId};

pub use self::create::RUNTIME;
use self::enter::Entrance;
use self::inspect::Container;
use self::leave::Ahead;
use super::network::{Range, Routes, Way};
use super::place::Place;
use super::{
    Answer, Cause, Check, Deploy, Deployed, Description, Error, Filled, Found, Frozen, LogLine, LogStream, Logs,
    Resumed, Runtime, Spec, State, Usage, doctor,
};

/// The mesh that a container belongs to.
pub const LABEL_MESH: &str = "io.godwit.mesh";
/// The container's id in the mesh.
pub const LABEL_CONTAINER: &str = "io.godwit.container";
/// The container's specification, as JSON.
pub const LABEL_SPEC: &str = "io.godwit.spec";

/// What the engine knows by heart: longer and it hangs.
const QUICK: Duration = Duration::from_secs(20);
/// Creating a container or asking it to end, on a busy machine with a slow disk.
const SLOW: Duration = Duration::from_secs(120);
/// An image of 10 GB over a link of 50 Mbit/s takes half an hour.
const TRANSFER: Duration = Duration::from_secs(3600);
/// Capturing or restoring 16 GB at 30 MB/s, the slowest disk worth an edge site.
const MOVE: Duration = Duration::from_secs(600);
/// How long a container may take to end when it is asked to, in seconds.
const GRACE_S: i32 = 10;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine's socket.
    pub socket: PathBuf,
    /// A folder on disk for what must be known after a restart of the machine.
    pub state: PathBuf,
    /// A folder in memory for what moves, with a short path: there are sockets in it.
    pub run: PathBuf,
    /// The CRIU program.
    pub criu: PathBuf,
    /// Which mesh's containers these are.
    pub mesh: MeshId,
    /// The mesh's container addresses.
    pub range: Range,
}

/// The backend.
pub struct DockerRuntime {
    docker: Docker,
    config: Config,
    routes: Routes,
    /// The engine's data directory.
    root: PathBuf,
    /// Containers that wait in our OCI runtime.
    entrances: Mutex<HashMap<ContainerId, Arc<Entrance>>>,
    /// Containers whose memory is sent ahead, or was.
    departures: Mutex<HashMap<ContainerId, Ahead>>,
    /// Processor time of each container at the last question.
    before: Mutex<HashMap<ContainerId, (Instant, Duration)>>,
}

impl std::fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerRuntime").field("config", &self.config).finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Finds the engine, and makes the mesh's network on it and in this machine's firewall.
    ///
    /// # Errors
    /// [`Cause::Unreachable`] without an engine; [`Cause::Network`] if the network cannot be made.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        within("connect to the engine", None, SLOW, async {
            let unreachable = |error| Cause::Unreachable(config.socket.clone(), error);
            let socket = config.socket.to_string_lossy().into_owned();
            let docker = Docker::connect_with_unix(&socket, TRANSFER.as_secs(), API_DEFAULT_VERSION)
                .map_err(unreachable)?
                .negotiate_version()
                .await
                .map_err(unreachable)?;
            fs::create_dir_all(&config.state).map_err(Cause::io("make", &config.state))?;
            let root = docker.info().await?.docker_root_dir.unwrap_or_else(|| "/var/lib/docker".into()).into();
            let routes = Routes::open(config.range)?;
            let (entrances, departures, before) = (Mutex::default(), Mutex::default(), Mutex::default());
            let runtime = Self { docker, config, routes, root, entrances, departures, before };
            runtime.ensure_network().await?;
            Ok(runtime)
        })
        .await
    }

    /// Ways that this site set before, for whoever starts it again.
    ///
    /// # Errors
    /// [`Cause::Network`].
    pub async fn ways(&self) -> Result<Vec<(Address, Way)>, Error> {
        within("list routes", None, QUICK, self.routes.all()).await
    }

    fn place(&self, container: ContainerId) -> Place {
        Place::of(&self.config.run, container)
    }

    fn entrances(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Entrance>>> {
        self.entrances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn departures(&self) -> MutexGuard<'_, HashMap<ContainerId, Ahead>> {
        self.departures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says on disk that a container may run elsewhere.
    fn frozen_flag(&self, container: ContainerId) -> PathBuf {
        self.config.state.join("frozen").join(container.to_string())
    }

    /// Whether a container was frozen and has not run here since.
    fn is_frozen(&self, container: ContainerId) -> bool {
        self.frozen_flag(container).exists()
    }

    fn set_frozen(&self, container: ContainerId, frozen: bool) -> Result<(), Cause> {
        let flag = self.frozen_flag(container);
        let folder = flag.parent().unwrap_or(&self.config.state);
        let set = || match frozen {
            true => {
                fs::create_dir_all(folder)?;
                File::create(&flag)?.sync_all()?;
                File::open(folder)?.sync_all()
            }
            false => match fs::remove_file(&flag) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        set().map_err(Cause::io("mark", &flag))
    }

    fn labels(&self, container: Option<ContainerId>) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{LABEL_MESH}={}", self.config.mesh)];
        labels.extend(container.map(|container| format!("{LABEL_CONTAINER}={container}")));
        HashMap::from([("label".into(), labels)])
    }

    async fn list_found(&self) -> Result<Vec<Found>, Cause> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.labels(None)).build();
        let mut found = Vec::new();
        for summary in self.docker.list_containers(Some(options)).await? {
            let Some(id) = summary.id else { continue };
            let container = summary.labels.as_ref().and_then(|labels| labels.get(LABEL_CONTAINER)?.parse().ok());
            let entering = container.and_then(|container| Container::entering(&self.place(container)));
            let inspected = match entering {
                Some(entering) => Ok(entering),
                None => self.inspect_id(&id).await,
            };
            match inspected {
                Ok(container) => match container.spec() {
                    Ok(spec) => found.push(Found { engine_id: id, spec, state: container.state }),
                    Err(error) => tracing::warn!(engine_id = id, %error, "docker.foreign_label"),
                },
                Err(Cause::Absent) => {} // removed meanwhile
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn stop_found(&self, container: ContainerId) -> Result<(), Cause> {
        let found = self.expect(container).await?;
        if self.is_frozen(container) {
            return Err(Cause::Frozen);
        }
        if found.state == State::Running {
            let options = StopContainerOptionsBuilder::new().t(GRACE_S).build();
            self.docker.stop_container(&found.id, Some(options)).await?;
        }
        Ok(())
    }

    /// Removes whatever is there of it, with its volumes.
    async fn remove_found(&self, container: ContainerId) -> Result<(), Cause> {
        if let Some(found) = self.find(container).await? {
            let options = RemoveContainerOptions { v: true, force: true, link: false };
            match self.docker.remove_container(&found.id, Some(options)).await.map_err(Cause::from) {
                Ok(()) | Err(Cause::Absent) => {}
                Err(error) => return Err(error),
            }
        }
        self.set_frozen(container, false)
    }

    async fn log_stream(&self, container: ContainerId, logs: Logs) -> Result<LogStream, Cause> {
        let found = self.expect(container).await?;
        let tail = logs.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).follow(logs.follow).tail(&tail).build();
        let lines = self.docker.logs(&found.id, Some(options)).map_ok(|output| {
            let stderr = matches!(output, bollard::container::LogOutput::StdErr { .. });
            LogLine { stderr, bytes: output.into_bytes().to_vec() }
        });
        let failed =
            move |error| Error { operation: "read the logs of", container: Some(container), cause: Cause::from(error) };
        Ok(lines.map_err(failed).boxed())
    }
}

/// An operation with a deadline and a name.
async fn within<T>(
    operation: &'static str,
    container: Option<ContainerId>,
    deadline: Duration,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Error> {
    let result = tokio::time::timeout(deadline, work).await.unwrap_or(Err(Cause::Deadline(deadline)));
    result.map_err(|cause| Error { operation, container, cause })
}

/// Files are read and written on threads of their own.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Cause> + Send + 'static) -> Result<T, Cause> {
    tokio::task::spawn_blocking(work).await?
}

/// What a tree takes on disk; what cannot be read counts nothing, as this is an estimate of a tree in use.
fn tree_size(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut open = vec![root.to_owned()];
    let mut sum = 0;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => sum += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    sum
}

/// As JSON, for a later life of this process or another site.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Cause> {
    let written = serde_json::to_vec(value).map_err(std::io::Error::from).and_then(|json| fs::write(path, json));
    written.map_err(Cause::io("write", path))
}

fn free_bytes(path: &Path) -> Result<u64, Cause> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|e| Cause::io("measure", path)(e.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

impl Runtime for DockerRuntime {
    fn deploy(&self, deploy: Deploy) -> Answer<'_, Deployed> {
        let container = deploy.container;
        Box::pin(within("deploy", Some(container), TRANSFER, self.deploy_new(deploy)))
    }

    fn list(&self) -> Answer<'_, Vec<Found>> {
        Box::pin(within("list containers", None, QUICK, self.list_found()))
    }

    fn state(&self, container: ContainerId) -> Answer<'_, State> {
        let state = async move { Ok(self.find(container).await?.map_or(State::Absent, |found| found.state)) };
        Box::pin(within("inspect", Some(container), QUICK, state))
    }

    fn start(&self, container: ContainerId) -> Answer<'_, ()> {
        Box::pin(within("start", Some(container), SLOW, self.start_anew(container)))
    }

    fn stop(&self, container: ContainerId) -> Answer<'_, ()> {
        Box::pin(within("stop", Some(container), SLOW, self.stop_found(container)))
    }

    fn remove(&self, container: ContainerId) -> Answer<'_, ()> {
        let remove = async move {
            let spec = self.find(container).await?.and_then(|found| found.spec().ok());
            if self.is_frozen(container) {
                return Err(Cause::Frozen);
            }
            self.remove_found(container).await?;
            match spec {
                // Its address is free for another.
                Some(spec) => self.routes.set(spec.deploy.address, Way::Here).await,
                None => Ok(()),
            }
        };
        Box::pin(within("remove", Some(container), SLOW, remove))
    }

    fn logs(&self, container: ContainerId, logs: Logs) -> Answer<'_, LogStream> {
        Box::pin(within("read the logs of", Some(container), QUICK, self.log_stream(container, logs)))
    }

    fn usage(&self) -> Answer<'_, Vec<Usage>> {
        Box::pin(within("measure containers", None, QUICK, self.usage_of_all()))
    }

    fn describe(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Description> {
        Box::pin(within("describe", Some(container), SLOW, self.describe_into(container, dir)))
    }

    fn image_present(&self, image: ImageId) -> Answer<'_, bool> {
        Box::pin(within("look for an image", None, QUICK, self.has_image(image)))
    }

    fn save_image(&self, image: ImageId, dir: PathBuf) -> Answer<'_, Bytes> {
        Box::pin(within("save an image", None, TRANSFER, self.save_image_into(image, dir)))
    }

    fn load_image(&self, image: ImageId, dir: PathBuf) -> Answer<'_, ()> {
        Box::pin(within("load an image", None, TRANSFER, self.load_image_from(image, dir)))
    }

    fn prepare(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Spec> {
        Box::pin(within("prepare", Some(container), SLOW, self.prepare_from(container, dir)))
    }

    fn freeze(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Frozen> {
        Box::pin(within("freeze", Some(container), MOVE, self.freeze_into(container, dir)))
    }

    fn ahead(&self, container: ContainerId) -> Answer<'_, UnixStream> {
        Box::pin(within("send the memory of", Some(container), QUICK, self.ahead_of(container)))
    }

    fn receive(&self, container: ContainerId, source: PathBuf) -> Answer<'_, ()> {
        Box::pin(within("receive the memory of", Some(container), TRANSFER, self.receive_from(container, source)))
    }

    fn pages(&self, container: ContainerId) -> Answer<'_, UnixStream> {
        Box::pin(within("serve the memory of", Some(container), QUICK, self.pages_of(container)))
    }

    fn restore(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, ()> {
        Box::pin(within("restore", Some(container), MOVE, self.restore_from(container, dir, pages)))
    }

    fn resume(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, Resumed> {
        Box::pin(within("resume", Some(container), MOVE, self.resume_from(container, dir, pages)))
    }

    fn fill(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, Filled> {
        Box::pin(within("fill", Some(container), TRANSFER, self.fill_from(container, dir, pages)))
    }

    fn thaw(&self, container: ContainerId) -> Answer<'_, Resumed> {
        Box::pin(within("thaw", Some(container), MOVE, self.thaw_from(container)))
    }

    fn discard(&self, container: ContainerId) -> Answer<'_, ()> {
        Box::pin(within("discard", Some(container), SLOW, self.discard_entered(container)))
    }

    fn release(&self, container: ContainerId) -> Answer<'_, ()> {
        Box::pin(within("release", Some(container), SLOW, self.release_ended(container)))
    }

    fn route(&self, address: Address, way: Way) -> Answer<'_, ()> {
        Box::pin(within("route", None, QUICK, self.routes.set(address, way)))
    }

    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(doctor::checks(&self.config.socket, &self.config.criu, &self.config.state))
    }
}
