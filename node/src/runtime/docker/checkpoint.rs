//! Out of one engine and into another: freeze, resume, and thaw when it came to nothing.
//!
//! The engine's own checkpoint calls do the work, and their limits shape this file:
//! - It copies a checkpoint several times on its way in and out, at 20 ms per MB. So CRIU's options name a folder of ours
//!   for the images; what the engine takes for the checkpoint is a small file of the OCI runtime's.
//! - A checkpoint is written where we say, but read only from `containers/ID/checkpoints/` in the engine's data directory.
//!   For the time of a start that directory is a link to ours.
//! - On start the engine stores the checkpoint under its digest, and fails if it already has that: always, at times,
//!   on the engine that made the checkpoint. A fresh nonce gives it another digest; the OCI runtime ignores it.
//! - The engine's client library knows no `checkpoint` parameter for a start: it is added on the way.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::CreateCheckpointOptions;
use bollard::query_parameters::{StartContainerOptions, StopContainerOptionsBuilder};
use godwit_protocol::container::Kind;
use godwit_protocol::{Address, Bytes, ContainerId, Millis};
use hyper::http::Uri;
use hyper::http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use super::inspect::Container;
use super::{DockerRuntime, GRACE_S, free_bytes, on_thread};
use crate::runtime::layer::{self, Form};
use crate::runtime::{Cause, Frozen, Resumed, Spec, State, Way, criu};

/// The checkpoint's name, for the engine, and its folder in ours.
const CHECKPOINT: &str = "checkpoint";
/// The OCI runtime's file in the checkpoint: the engine puts it there when CRIU is done.
const DESCRIPTORS: &str = "descriptors.json";
/// CRIU's images.
const IMAGES: &str = "images";
const LAYER: &str = "layer.tar";
const LOGS: &str = "log";
/// Written before the container is stopped: which run of it was stopped.
const BEGUN: &str = "freezing.json";
/// Written last: all the rest is there.
const COMPLETE: &str = "frozen.json";
/// In the checkpoint's folder.
const NONCE: &str = "godwit-nonce";

/// What a checkpoint needs beside the memory: the layer and the logs mostly.
const SPACE_BESIDE: u64 = 64 << 20;

/// A checkpoint has some thirty files, and each sync alone waits for the disk.
const SYNC_THREADS: usize = 8;

/// For how long a checkpoint that is written without us may grow or fail to start: a minute.
const UNFINISHED_ATTEMPTS: u32 = 60;
const UNFINISHED_PAUSE: Duration = Duration::from_secs(1);

/// How often the engine is asked whether it has finished.
const POLL: Duration = Duration::from_millis(20);

/// What a freeze leaves behind for later calls, here and at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    container: ContainerId,
    /// In the source engine's words: another run has another start.
    started_at: String,
    /// Where its volumes are mounted: `volume-N.tar` is the Nth's content.
    volumes: Vec<String>,
    /// How it went, once it is done.
    frozen: Option<Frozen>,
}

impl DockerRuntime {
    pub(super) async fn freeze_into(&self, container: ContainerId, dir: PathBuf) -> Result<Frozen, Cause> {
        let found = self.expect(container).await?;
        let spec = found.spec()?;
        if found.state != State::Running {
            // Asked once more for what is done already, for example after a restart of godwit.
            let done = Mark::read(&dir, COMPLETE, container).ok().filter(|mark| mark.started_at == found.started_at);
            return done.and_then(|mark| mark.frozen).ok_or(Cause::NotRunning);
        }
        let stateful = spec.deploy.kind == Kind::Stateful;
        if stateful {
            found.upper()?;
            let memory = self.memory_of(&found.id).await?;
            check_space(&dir, memory)?;
        }
        let volumes = found.volumes.iter().map(|(at, _)| at.clone()).collect();
        let mark = Mark { container, started_at: found.started_at.clone(), volumes, frozen: None };
        let begun = mark.clone();
        let folder = dir.clone();
        on_thread(move || begin(&folder, &begun)).await?;
        if stateful {
            let images = dir.join(IMAGES);
            fs::create_dir(&images).map_err(Cause::io("make", &images))?;
            self.point_criu(container, &images, criu::Log::Dump)?;
        }

        let started = Instant::now();
        self.criu_files(container).set_frozen(true).map_err(Cause::io("mark as frozen in", &self.config.state))?;
        self.hold(spec.deploy.address).await?;
        if stateful {
            self.capture(&found, &spec, &dir).await?;
        } else {
            let options = StopContainerOptionsBuilder::new().t(GRACE_S).build();
            self.docker.stop_container(&found.id, Some(options)).await?;
        }
        let stop_ms = millis(started);
        match self.collect(&found, stateful, &dir, mark, stop_ms).await {
            Ok(frozen) => Ok(frozen),
            Err(cause) => {
                tracing::warn!(%container, %cause, "docker.freeze_undone");
                match self.thaw_from(container, dir).await {
                    Ok(_) => Err(cause),
                    Err(lost) => Err(Cause::StateLost { reason: format!("{cause}; and then: {lost}") }),
                }
            }
        }
    }

    /// Stops the container with its memory in the folder; if that fails it runs on, reachable.
    async fn capture(&self, found: &Container, spec: &Spec, dir: &Path) -> Result<(), Cause> {
        let files = self.criu_files(spec.deploy.container);
        let checkpoint_dir = Some(dir.to_string_lossy().into_owned());
        let options = CreateCheckpointOptions { checkpoint_id: CHECKPOINT.into(), checkpoint_dir, exit: true };
        let Err(error) = self.docker.create_checkpoint(&found.id, options).await else {
            return self.await_stopped(&found.id).await;
        };
        let reason = files.reason(criu::Log::Dump);
        match self.inspect_id(&found.id).await?.state {
            State::Running => {
                self.runs_here(spec).await?;
                Err(reason.map_or_else(|| Cause::from(error), |reason| Cause::Criu { reason }))
            }
            _ => {
                // Nothing is left to go on from: it may be started from its beginning.
                files.set_frozen(false).map_err(Cause::io("unmark as frozen in", &self.config.state))?;
                Err(Cause::StateLost { reason: reason.unwrap_or_else(|| error.to_string()) })
            }
        }
    }

    /// The engine learns of the end a moment after CRIU has brought it about.
    async fn await_stopped(&self, id: &str) -> Result<(), Cause> {
        while self.inspect_id(id).await?.state == State::Running {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Everything but the memory into the folder, and all of it on disk.
    async fn collect(
        &self,
        found: &Container,
        stateful: bool,
        dir: &Path,
        mut mark: Mark,
        stop_ms: Millis,
    ) -> Result<Frozen, Cause> {
        let started = Instant::now();
        let (found, dir, log) = (found.clone(), dir.to_owned(), found.log(&self.root));
        if stateful {
            let folder = dir.clone();
            let synced = on_thread(move || {
                sync_files(&folder.join(IMAGES))?;
                sync_files(&folder.join(CHECKPOINT))
            });
            let folder = dir.clone();
            let packed = on_thread(move || {
                pack(found.upper()?, &folder.join(LAYER), Form::Overlay)?;
                for (index, (_, volume)) in found.volumes.iter().enumerate() {
                    pack(volume, &folder.join(volume_file(index)), Form::Plain)?;
                }
                take_logs(&log, &folder.join(LOGS))
            });
            tokio::try_join!(synced, packed)?;
        }
        on_thread(move || {
            let mut bytes = Bytes(0);
            for part in [IMAGES, CHECKPOINT, LAYER, LOGS] {
                bytes = bytes.plus(size_of(&dir.join(part))?);
            }
            for index in 0..mark.volumes.len() {
                bytes = bytes.plus(size_of(&dir.join(volume_file(index)))?);
            }
            let frozen = Frozen { stop_ms, copy_ms: millis(started), bytes };
            mark.frozen = Some(frozen);
            mark.write(&dir, COMPLETE)?;
            Ok(frozen)
        })
        .await
    }

    pub(super) async fn resume_from(&self, container: ContainerId, dir: PathBuf) -> Result<Resumed, Cause> {
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
        let started = Instant::now();
        self.hold(spec.deploy.address).await?;
        if spec.deploy.kind == Kind::Stateful {
            let mark = Mark::read(&dir, COMPLETE, container)?;
            let (folder, into, log) = (dir.clone(), found.clone(), found.log(&self.root));
            let laid = move || {
                lay(&folder, &into, &mark.volumes)?;
                put_logs(&folder.join(LOGS), &log)
            };
            on_thread(laid).await?;
        }
        let copy_ms = millis(started);
        self.go_on(&found, &spec, &dir).await?;
        Ok(Resumed { copy_ms, start_ms: Millis(millis(started).0.saturating_sub(copy_ms.0)) })
    }

    pub(super) async fn thaw_from(&self, container: ContainerId, dir: PathBuf) -> Result<Resumed, Cause> {
        let found = self.settled(container, &dir).await?;
        let spec = found.spec()?;
        let mark = Mark::read(&dir, BEGUN, container);
        match found.state {
            State::Running => {
                self.runs_here(&spec).await?;
                return Ok(Resumed::default());
            }
            State::Ended { code } if mark.as_ref().is_ok_and(|mark| mark.started_at != found.started_at) => {
                return Err(Cause::AlreadyRan { code });
            }
            State::Ended { .. } => {}
            State::Prepared | State::Absent => return Err(Cause::NotRunning),
        }
        let mark = mark?;
        let started = Instant::now();
        // It may have been another's meanwhile, and its packets sent there.
        self.hold(spec.deploy.address).await?;
        if !dir.join(COMPLETE).exists() {
            self.go_on_unfinished(&found, &spec, &dir).await?;
            return Ok(Resumed { copy_ms: Millis(0), start_ms: millis(started) });
        }
        let Err(first) = self.go_on(&found, &spec, &dir).await else {
            return Ok(Resumed { copy_ms: Millis(0), start_ms: millis(started) });
        };
        if spec.deploy.kind == Kind::Stateless {
            return Err(first);
        }
        // A restore that fails late has consumed files that stand for deleted ones; in the archive they still are.
        tracing::warn!(%container, cause = %first, "docker.thaw_again");
        let (folder, into) = (dir.clone(), found.clone());
        on_thread(move || lay(&folder, &into, &mark.volumes)).await?;
        let copy_ms = millis(started);
        self.go_on(&found, &spec, &dir).await?;
        Ok(Resumed { copy_ms, start_ms: Millis(millis(started).0.saturating_sub(copy_ms.0)) })
    }

    /// After a freeze whose caller died: the engine may still be writing the checkpoint, and nothing says when it is done.
    /// A start from half a checkpoint fails and changes nothing.
    async fn go_on_unfinished(&self, found: &Container, spec: &Spec, dir: &Path) -> Result<(), Cause> {
        let images = dir.join(IMAGES);
        let mut before = None;
        let mut result = Err(Cause::Incomplete(dir.to_owned()));
        for attempt in 0..UNFINISHED_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(UNFINISHED_PAUSE).await;
            }
            let size = size_of(&images)?;
            if before.replace(size) != Some(size) && spec.deploy.kind == Kind::Stateful {
                continue;
            }
            result = self.go_on(found, spec, dir).await;
            match &result {
                Ok(()) => break,
                Err(cause) => tracing::warn!(container = %spec.deploy.container, %cause, "docker.thaw_again"),
            }
        }
        result
    }

    /// The container once no capture of it is under way: the engine goes on with one whose caller died.
    async fn settled(&self, container: ContainerId, dir: &Path) -> Result<Container, Cause> {
        let checkpoint = dir.join(CHECKPOINT);
        loop {
            let found = self.expect(container).await?;
            // The engine makes the folder first, fills it when the container has ended, and removes it on failure.
            let under_way = checkpoint.exists() && !checkpoint.join(DESCRIPTORS).exists();
            if found.state != State::Running || !under_way {
                return Ok(found);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts a container from the folder's state and lets packets reach it.
    async fn go_on(&self, found: &Container, spec: &Spec, dir: &Path) -> Result<(), Cause> {
        if spec.deploy.kind == Kind::Stateful {
            self.restore(found, spec.deploy.container, dir).await?;
        } else {
            self.docker.start_container(&found.id, None::<StartContainerOptions>).await?;
        }
        self.runs_here(spec).await
    }

    /// Packets reach it again, and it is frozen no more.
    pub(super) async fn runs_here(&self, spec: &Spec) -> Result<(), Cause> {
        self.routes.set(spec.deploy.address, Way::Here).await?;
        let files = self.criu_files(spec.deploy.container);
        files.set_frozen(false).map_err(Cause::io("unmark as frozen in", &self.config.state))
    }

    async fn restore(&self, found: &Container, container: ContainerId, dir: &Path) -> Result<(), Cause> {
        let (checkpoint, images) = (dir.join(CHECKPOINT), dir.join(IMAGES));
        if !(checkpoint.join(DESCRIPTORS).exists() && images.join("inventory.img").exists()) {
            return Err(Cause::Incomplete(dir.to_owned()));
        }
        let files = self.point_criu(container, &images, criu::Log::Restore)?;
        let _link = CheckpointLink::make(&found.folder(&self.root), dir)?;
        let engine = starting_from_checkpoint(&self.docker);
        let mut result = Ok(());
        for _ in 0..2 {
            let nonce = checkpoint.join(NONCE);
            fs::write(&nonce, rand::random::<u128>().to_string()).map_err(Cause::io("write", &nonce))?;
            result = engine.start_container(&found.id, None::<StartContainerOptions>).await;
            // The digest's owner in the engine's store may be dying at this moment.
            if !result.as_ref().is_err_and(|error| error.to_string().contains("already exists")) {
                break;
            }
        }
        let Err(error) = result else { return Ok(()) };
        if self.inspect_id(&found.id).await?.state == State::Running {
            return Ok(());
        }
        Err(files.reason(criu::Log::Restore).map_or_else(|| Cause::from(error), |reason| Cause::Criu { reason }))
    }

    /// Names the folder of images for CRIU's next run, and forgets what the last one of its kind said.
    fn point_criu(&self, container: ContainerId, images: &Path, log: criu::Log) -> Result<criu::Files, Cause> {
        let files = self.criu_files(container);
        // CRIU ignores an absent file, and would then refuse or reset live connections.
        files.write(images).map_err(Cause::io("write CRIU's options to", &files.config))?;
        files.clear(log);
        Ok(files)
    }

    async fn hold(&self, address: Address) -> Result<(), Cause> {
        self.routes.set(address, Way::Nowhere).await
    }
}

impl Mark {
    fn write(&self, dir: &Path, name: &str) -> Result<(), Cause> {
        let (path, beside) = (dir.join(name), dir.join(format!("{name}.new")));
        let json = serde_json::to_vec(self).map_err(|e| Cause::io("write", &path)(e.into()))?;
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(Cause::io("write", &path))
    }

    fn read(dir: &Path, name: &str, container: ContainerId) -> Result<Self, Cause> {
        let json = fs::read(dir.join(name)).map_err(|_| Cause::Incomplete(dir.to_owned()))?;
        let mark: Option<Self> = serde_json::from_slice(&json).ok();
        mark.filter(|mark| mark.container == container).ok_or_else(|| Cause::Incomplete(dir.to_owned()))
    }
}

/// The engine's folder of a container's checkpoints, replaced by ours until dropped.
struct CheckpointLink {
    link: PathBuf,
    own: PathBuf,
}

impl CheckpointLink {
    fn make(container: &Path, dir: &Path) -> Result<Self, Cause> {
        let this = Self { link: container.join("checkpoints"), own: container.join("checkpoints.own") };
        let make = || {
            let dir = fs::canonicalize(dir)?;
            match fs::symlink_metadata(&this.link) {
                // Left by a crash: ours, or the engine's own is beside it.
                Ok(meta) if meta.is_symlink() => fs::remove_file(&this.link)?,
                Ok(_) => fs::rename(&this.link, &this.own)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            symlink(dir, &this.link)
        };
        make().map_err(Cause::io("link", &this.link))?;
        Ok(this)
    }
}

impl Drop for CheckpointLink {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.link);
        if fs::rename(&self.own, &self.link).is_err() {
            let _ = fs::DirBuilder::new().mode(0o700).create(&self.link);
        }
    }
}

/// A client whose starts are starts from our checkpoint.
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

/// The folder without what an earlier attempt left, and the mark that this one has begun.
fn begin(dir: &Path, mark: &Mark) -> Result<(), Cause> {
    fs::create_dir_all(dir).map_err(Cause::io("make", dir))?;
    let volumes = (0..mark.volumes.len()).map(volume_file);
    for name in [COMPLETE.to_owned(), LAYER.to_owned()].into_iter().chain(volumes) {
        remove_if_there(fs::remove_file(dir.join(name))).map_err(Cause::io("clear", dir))?;
    }
    for name in [CHECKPOINT, IMAGES, LOGS] {
        remove_if_there(fs::remove_dir_all(dir.join(name))).map_err(Cause::io("clear", dir))?;
    }
    mark.write(dir, BEGUN)
}

/// The layer and the logs are packed when CRIU has ended the container: a full disk then would cost the move.
fn check_space(dir: &Path, memory: Bytes) -> Result<(), Cause> {
    fs::create_dir_all(dir).map_err(Cause::io("make", dir))?;
    let needed = memory.0.saturating_add(SPACE_BESIDE);
    let free = free_bytes(dir)?;
    if free < needed {
        return Err(Cause::DiskFull { path: dir.to_owned(), needed, free });
    }
    Ok(())
}

fn remove_if_there(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn pack(tree: &Path, archive: &Path, form: Form) -> Result<(), Cause> {
    let file = File::create(archive).map_err(Cause::io("make", archive))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    layer::pack(tree, &mut writer, form)?;
    let file = writer.into_inner().map_err(|e| Cause::io("write", archive)(e.into_error()))?;
    file.sync_data().map_err(Cause::io("sync", archive))
}

fn unpack(archive: &Path, tree: &Path, form: Form) -> Result<(), Cause> {
    let file = File::open(archive).map_err(Cause::io("open", archive))?;
    layer::clear(tree)?;
    Ok(layer::unpack(BufReader::with_capacity(1 << 20, file), tree, form)?)
}

/// The folder's layer and volumes into a container that does not run.
fn lay(dir: &Path, container: &Container, volumes: &[String]) -> Result<(), Cause> {
    unpack(&dir.join(LAYER), container.upper()?, Form::Overlay)?;
    for (index, mounted) in volumes.iter().enumerate() {
        let volume = container.volumes.iter().find(|(at, _)| at == mounted);
        let (_, path) = volume.ok_or_else(|| Cause::Unsupported(format!("the image here has no volume {mounted}")))?;
        unpack(&dir.join(volume_file(index)), path, Form::Plain)?;
    }
    Ok(())
}

fn volume_file(index: usize) -> String {
    format!("volume-{index}.tar")
}

/// The log and the one before it, without copying where the file system allows.
fn take_logs(log: &Path, into: &Path) -> Result<(), Cause> {
    fs::create_dir_all(into).map_err(Cause::io("make", into))?;
    for (file, name) in [(log.to_owned(), "0"), (older(log), "1")] {
        if file.exists() {
            link_or_copy(&file, &into.join(name)).map_err(Cause::io("keep", &file))?;
        }
    }
    sync_files(into)
}

fn put_logs(from: &Path, log: &Path) -> Result<(), Cause> {
    for (name, file) in [("0", log.to_owned()), ("1", older(log))] {
        if from.join(name).is_file() {
            link_or_copy(&from.join(name), &file).map_err(Cause::io("write", &file))?;
        }
    }
    Ok(())
}

/// The engine appends to its name when it begins a new one.
fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    remove_if_there(fs::remove_file(to))?;
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// A flat folder's files, and itself, onto the disk. Several at a time: a file system commits what waits together.
fn sync_files(dir: &Path) -> Result<(), Cause> {
    let sync = || {
        let files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
        std::thread::scope(|scope| {
            let part = |files: &[PathBuf]| files.iter().try_for_each(|file| File::open(file)?.sync_data());
            let parts = files.chunks(files.len().div_ceil(SYNC_THREADS).max(1));
            let threads: Vec<_> = parts.map(|files| scope.spawn(move || part(files))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread that syncs ended early")))
            })
        })?;
        File::open(dir)?.sync_all()
    };
    sync().map_err(Cause::io("sync", dir))
}

/// Of a file or a flat folder; zero if it is absent.
fn size_of(path: &Path) -> Result<Bytes, Cause> {
    let size = || match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            fs::read_dir(path)?.map(|entry| entry?.metadata().map(|meta| meta.len())).sum::<std::io::Result<u64>>()
        }
        Ok(meta) => Ok(meta.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    };
    size().map(Bytes).map_err(Cause::io("measure", path))
}

fn millis(since: Instant) -> Millis {
    Millis(since.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark { container: ContainerId([1; 16]), started_at: "now".into(), volumes: vec!["/data".into()], frozen: None }
    }

    #[test]
    fn a_mark_is_read_back_for_its_own_container_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Mark::read(dir.path(), COMPLETE, mark().container), Err(Cause::Incomplete(_))));
        mark().write(dir.path(), COMPLETE).unwrap();
        assert_eq!(Mark::read(dir.path(), COMPLETE, mark().container).unwrap(), mark());
        assert!(matches!(Mark::read(dir.path(), COMPLETE, ContainerId([2; 16])), Err(Cause::Incomplete(_))));
    }

    #[test]
    fn a_new_attempt_begins_without_what_the_last_one_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("spec.json"), "kept").unwrap();
        for name in [CHECKPOINT, IMAGES, LOGS] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("old"), "").unwrap();
        }
        fs::write(dir.path().join(LAYER), "old").unwrap();
        fs::write(dir.path().join("volume-0.tar"), "old").unwrap();
        mark().write(dir.path(), COMPLETE).unwrap();
        begin(dir.path(), &mark()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [BEGUN, "spec.json"]);
    }

    #[test]
    fn the_engines_folder_of_checkpoints_comes_back() {
        let (container, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engines = container.path().join("checkpoints");
        fs::create_dir(&engines).unwrap();
        fs::write(engines.join("users"), "").unwrap();
        fs::create_dir(ours.path().join(CHECKPOINT)).unwrap();
        for _ in 0..2 {
            let link = CheckpointLink::make(container.path(), ours.path()).unwrap();
            assert!(engines.join(CHECKPOINT).is_dir());
            drop(link);
            assert!(engines.join("users").exists() && ours.path().join(CHECKPOINT).exists());
        }
        // As a crash leaves it.
        std::mem::forget(CheckpointLink::make(container.path(), ours.path()).unwrap());
        drop(CheckpointLink::make(container.path(), ours.path()).unwrap());
        assert!(engines.join("users").exists() && !engines.is_symlink());
    }

    #[test]
    fn logs_travel_with_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let (log, arrived) = (dir.path().join("a-json.log"), dir.path().join("b-json.log"));
        fs::write(&log, "new").unwrap();
        fs::write(older(&log), "old").unwrap();
        fs::write(&arrived, "replaced").unwrap();
        take_logs(&log, &dir.path().join(LOGS)).unwrap();
        put_logs(&dir.path().join(LOGS), &arrived).unwrap();
        assert_eq!(fs::read_to_string(&arrived).unwrap(), "new");
        assert_eq!(fs::read_to_string(dir.path().join("b-json.log.1")).unwrap(), "old");
    }
}
