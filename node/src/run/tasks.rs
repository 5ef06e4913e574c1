//! Does what a site's brain asks for: serving, preparing, freezing, pulling, resuming.
//!
//! Tasks of one container run one after the other, in the order in which they were asked for; those of different
//! containers side by side. Every task may be asked for again, after a restart, and then finishes what was begun.
//!
//! A handoff has two folders on either side, `handoffs/OFFER/` on disk, with `spec/` (what the container is made from) and
//! `image/` (its image, if the target lacks it), and one of the same name in memory, with `frozen/` (its state). Its memory
//! has no folder: see [`pages`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_protocol::bid::Reason;
use godwit_protocol::bounded::Text;
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::word::Word;
use godwit_protocol::{Bytes, ContainerId, Hash, ImageId, Millis, OfferId, SiteId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pages::{self, Which};
use crate::api::fault::chain;
use crate::chunks::{self, ManifestError, Part, PartKey, Progress, PublishError, Pull, PullError};
use crate::net::Endpoint;
use crate::runtime::{Cause, Runtime, State};

/// How long a part is asked for that its source has not yet published: the engine takes minutes to write an image of some
/// gigabytes.
const PUBLICATION: Duration = Duration::from_secs(600);

/// How often the source is told again that the target lacks the image: words may be lost.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// How often a resume is asked for again whose outcome is unknown, before an operator is called.
const RESUME_TRIES: u32 = 10;

/// Endings of sockets that lead to a source.
const LATE: &str = "late";
const AHEAD: &str = "ahead";

/// A task that ended.
#[derive(Debug)]
pub struct Finished {
    /// The task.
    pub task: Task,
    /// How it ended.
    pub outcome: Outcome,
}

/// Long work that advances.
#[derive(Clone, Debug)]
pub struct Advance {
    /// In which handoff.
    pub offer: OfferId,
    /// What is being pulled.
    pub part: Part,
    /// How far.
    pub progress: Progress,
}

/// All containers' workers.
pub struct Tasks {
    context: Arc<Context>,
    workers: BTreeMap<ContainerId, mpsc::UnboundedSender<Job>>,
}

struct Context {
    runtime: Arc<dyn Runtime>,
    server: chunks::Server,
    net: Endpoint,
    places: Places,
    leaving: pages::Leaving,
    /// Ways to the sources of containers that arrive.
    bridges: Mutex<BTreeMap<OfferId, pages::Bridge>>,
    finished: mpsc::UnboundedSender<Finished>,
    advances: mpsc::UnboundedSender<Advance>,
    /// Ends the pulls of a handoff that is to be discarded: its source may never again have what they wait for.
    ends: Mutex<BTreeMap<OfferId, CancellationToken>>,
}

/// Where handoffs have their folders.
#[derive(Clone, Debug)]
pub struct Places {
    /// On disk.
    pub disk: PathBuf,
    /// In memory, with a short path: there are sockets in it.
    pub memory: PathBuf,
}

impl Places {
    /// An offer's whole name is too long for a socket.
    fn socket(&self, offer: OfferId, which: Which) -> PathBuf {
        let mut name = offer.to_string();
        name.truncate(32);
        self.memory.join(format!("{name}.{}", if which == Which::Late { LATE } else { AHEAD }))
    }

    /// Sockets that an earlier life has left lead nowhere.
    fn clear_sockets(&self) {
        for entry in std::fs::read_dir(&self.memory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == LATE || ending == AHEAD) {
                // If it stays, it is replaced when it is needed.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

#[derive(Debug)]
enum Job {
    /// With the image that the ledger knows the container by.
    Do(Task, ImageId),
    /// The target lacks the image.
    Image { offer: OfferId, image: ImageId, target: SiteId },
    /// The handoff is over: its folder goes.
    Clean(OfferId),
}

impl Tasks {
    /// Works in `places` and reports to the channels. They are unbounded because each task reports once, and the brain
    /// asks for a few tasks a handoff.
    #[must_use]
    pub fn new(
        runtime: Arc<dyn Runtime>,
        server: chunks::Server,
        net: Endpoint,
        places: Places,
        finished: mpsc::UnboundedSender<Finished>,
        advances: mpsc::UnboundedSender<Advance>,
    ) -> Self {
        places.clear_sockets();
        let leaving = pages::Leaving::default();
        pages::serve(&net, &server, &leaving, &runtime);
        let (bridges, ends) = (Mutex::default(), Mutex::default());
        let context = Context { runtime, server, net, places, leaving, bridges, finished, advances, ends };
        let context = Arc::new(context);
        Self { context, workers: BTreeMap::new() }
    }

    /// Queues a task of a container that the ledger knows by this image.
    pub fn start(&mut self, task: Task, image: ImageId) {
        if task.action == Action::Discard {
            self.context.ends().entry(task.offer).or_default().cancel();
        }
        self.queue(task.container, Job::Do(task, image));
    }

    /// Lets the target pull the image.
    pub fn serve_image(&mut self, container: ContainerId, offer: OfferId, image: ImageId, target: SiteId) {
        self.queue(container, Job::Image { offer, image, target });
    }

    /// Removes what a handoff has left on disk, after its last task.
    pub fn clean(&mut self, container: ContainerId, offer: OfferId) {
        self.queue(container, Job::Clean(offer));
    }

    fn queue(&mut self, container: ContainerId, job: Job) {
        let context = &self.context;
        let worker = self.workers.entry(container).or_insert_with(|| {
            let (jobs, queue) = mpsc::unbounded_channel();
            tokio::spawn(work(Arc::clone(context), queue));
            jobs
        });
        if worker.send(job).is_err() {
            // Only a panic ends a worker before its queue does.
            warn!(%container, "the container's worker is gone; its tasks wait for a restart of the site");
        }
    }
}

async fn work(context: Arc<Context>, mut queue: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = queue.recv().await {
        match job {
            Job::Do(task, image) => {
                info!(offer = %task.offer.short(), container = %task.container.short(), action = ?task.action, "begin");
                let outcome = context.perform(&task, image).await;
                info!(offer = %task.offer.short(), container = %task.container.short(), ?outcome, "end");
                drop(context.finished.send(Finished { task, outcome }));
            }
            Job::Image { offer, image, target } => {
                if let Err(failure) = context.publish_image(offer, image, target).await {
                    warn!(offer = %offer.short(), %failure, "the image cannot be served");
                }
            }
            Job::Clean(offer) => context.clean(offer).await,
        }
    }
}

/// What goes wrong with a task, for the other sites and for people.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Engine(#[from] crate::runtime::Error),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Hash(#[from] ManifestError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the source's specification names another image than the ledger")]
    OtherImage,
    #[error("the attempt has ended meanwhile")]
    Ended,
    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl From<Failure> for Reason {
    fn from(failure: Failure) -> Self {
        let text = Text::clipped(&chain(&failure));
        match failure {
            Failure::Engine(error) if matches!(error.cause, Cause::ImageAbsent(_) | Cause::WrongImage { .. }) => {
                Self::Image(text)
            }
            _ => Self::Failed(text),
        }
    }
}

impl Context {
    async fn perform(&self, task: &Task, image: ImageId) -> Outcome {
        let (offer, container) = (task.offer, task.container);
        let result = match task.action {
            Action::Serve { target } => self.serve(offer, container, target).await,
            Action::Prepare { source } => self.prepare(offer, container, image, source).await,
            Action::Freeze { target } => self.freeze(offer, container, target).await,
            Action::Fetch { source, root } => self.fetch(offer, source, root).await,
            Action::Restore => self.restore(offer, container).await,
            Action::Fill { source } => self.fill(offer, container, source).await,
            Action::Resume => return self.resume(offer, container).await,
            Action::Discard => self.discard(offer, container).await,
            Action::Thaw => self.thaw(offer, container).await,
            Action::Release => self.release(offer, container).await,
        };
        result.unwrap_or_else(|failure| Outcome::Failed(failure.into()))
    }

    // H4, source
    async fn serve(&self, offer: OfferId, container: ContainerId, target: SiteId) -> Result<Outcome, Failure> {
        let spec = self.disk(offer, "spec");
        make(&spec).await?;
        self.runtime.describe(container, spec.clone()).await?;
        self.leaving.insert(offer, container);
        self.publish(offer, Part::Spec, spec, target).await?;
        Ok(Outcome::Serving)
    }

    async fn publish_image(&self, offer: OfferId, image: ImageId, target: SiteId) -> Result<(), Failure> {
        if self.server.offers(&PartKey { offer, part: Part::Image }, target) {
            return Ok(()); // said again meanwhile
        }
        let dir = self.disk(offer, "image");
        make(&dir).await?;
        self.runtime.save_image(image, dir.clone()).await?;
        self.publish(offer, Part::Image, dir, target).await?;
        Ok(())
    }

    // H4, target
    async fn prepare(
        &self,
        offer: OfferId,
        container: ContainerId,
        image: ImageId,
        source: SiteId,
    ) -> Result<Outcome, Failure> {
        let (dir, archive) = (self.disk(offer, "spec"), self.disk(offer, "image"));
        self.pull(self.part(offer, Part::Spec, source, &dir)).await?;
        if !self.runtime.image_present(image).await? {
            tokio::select! {
                pulled = self.pull(self.part(offer, Part::Image, source, &archive)) => pulled?,
                never = self.want_image(offer, source) => never,
            };
            self.runtime.load_image(image, archive.clone()).await?;
            remove(&archive).await?;
        }
        let spec = self.runtime.prepare(container, dir).await?;
        if spec.image.id != image {
            self.runtime.discard(container).await?;
            return Err(Failure::OtherImage);
        }
        let ahead = self.places.socket(offer, Which::Ahead);
        let bridge = pages::Bridge::open(&self.net, offer, source, Which::Ahead, &ahead);
        let bridge = bridge.map_err(|source| Failure::Io { what: "listen at", path: ahead.clone(), source })?;
        if let Err(error) = self.unless_ended(offer, self.runtime.receive(container, ahead)).await? {
            info!(offer = %offer.short(), error = chain(&error), "memory does not come ahead");
        }
        // What has come through it goes on.
        drop(bridge);
        Ok(Outcome::Prepared)
    }

    // H5
    async fn freeze(&self, offer: OfferId, container: ContainerId, target: SiteId) -> Result<Outcome, Failure> {
        let dir = self.memory(offer);
        make(&dir).await?;
        // Written last: after a restart the state is already here, and is served again.
        let (freeze, copy) = if dir.join("frozen.json").exists() {
            (Millis(0), Millis(0))
        } else {
            let frozen = self.runtime.freeze(container, dir.clone()).await?;
            (frozen.stop_ms, frozen.copy_ms)
        };
        let hashing = Instant::now();
        self.leaving.insert(offer, container);
        let (root, bytes) = self.publish(offer, Part::Checkpoint, dir, target).await?;
        let collect = copy.plus(Millis(hashing.elapsed().as_millis().try_into().unwrap_or(u64::MAX)));
        Ok(Outcome::Frozen { root, bytes, freeze, collect })
    }

    // H6
    async fn fetch(&self, offer: OfferId, source: SiteId, root: Hash) -> Result<Outcome, Failure> {
        let dir = self.memory(offer);
        self.bridge(offer, source)?;
        let bytes = self.pull(self.part(offer, Part::Checkpoint, source, &dir).expect_root(root)).await?;
        Ok(Outcome::Fetched { bytes: Bytes(bytes) })
    }

    // H6, while the receipt is before the ledger
    async fn restore(&self, offer: OfferId, container: ContainerId) -> Result<Outcome, Failure> {
        self.runtime.restore(container, self.memory(offer), self.socket(offer)).await?;
        Ok(Outcome::Restored)
    }

    // H7
    async fn resume(&self, offer: OfferId, container: ContainerId) -> Outcome {
        let (dir, socket) = (self.memory(offer), self.socket(offer));
        for _ in 0..RESUME_TRIES {
            let error = match self.runtime.resume(container, dir.clone(), socket.clone()).await {
                Ok(_) => return Outcome::Resumed,
                Err(error) => error,
            };
            match error.cause {
                // It ran here and has ended by itself since: it is ours, and there is nothing to give back.
                Cause::AlreadyRan { .. } => return Outcome::Resumed,
                // The engine may have begun. Asked again, it finds out.
                Cause::Deadline(_) | Cause::Unreachable(..) => {
                    warn!(offer = %offer.short(), %error, "resume: unclear, asking again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                _ => {
                    let reason = Reason::from(Failure::from(error));
                    // Only what never ran may be given back.
                    return match self.runtime.state(container).await {
                        Ok(State::Prepared | State::Absent) => Outcome::Failed(reason),
                        Ok(State::Running) => Outcome::Resumed,
                        Ok(State::Ended { .. }) | Err(_) => {
                            self.judge_failed_resume(container, dir, socket, reason).await
                        }
                    };
                }
            }
        }
        Outcome::Unclear(Reason::Failed(Text::clipped("the engine does not say whether the container was resumed")))
    }

    /// The engine counts a failed restore as a container that ended; only the runtime knows whether it ever ran.
    async fn judge_failed_resume(
        &self,
        container: ContainerId,
        dir: PathBuf,
        socket: PathBuf,
        reason: Reason,
    ) -> Outcome {
        match self.runtime.resume(container, dir, socket).await {
            Ok(_) => Outcome::Resumed,
            Err(error) if matches!(error.cause, Cause::AlreadyRan { .. }) => Outcome::Resumed,
            Err(error) if matches!(error.cause, Cause::Criu { .. } | Cause::Engine(_)) => Outcome::Failed(reason),
            Err(_) => Outcome::Unclear(reason),
        }
    }

    // H7, until nothing is lacking
    async fn fill(&self, offer: OfferId, container: ContainerId, source: SiteId) -> Result<Outcome, Failure> {
        self.bridge(offer, source)?;
        let fill = self.runtime.fill(container, self.memory(offer), self.socket(offer));
        let filled = self.unless_ended(offer, fill).await??;
        lock(&self.bridges).remove(&offer);
        Ok(Outcome::Filled { bytes: filled.bytes, late_root: Hash::ZERO })
    }

    async fn discard(&self, offer: OfferId, container: ContainerId) -> Result<Outcome, Failure> {
        // The next attempt's pulls, if there is one, begin anew.
        self.ends().remove(&offer);
        lock(&self.bridges).remove(&offer);
        self.runtime.discard(container).await?;
        remove(&self.memory(offer)).await?;
        Ok(Outcome::Settled)
    }

    async fn thaw(&self, offer: OfferId, container: ContainerId) -> Result<Outcome, Failure> {
        self.leaving.remove(offer);
        self.server.withdraw(&PartKey { offer, part: Part::Checkpoint });
        let dir = self.memory(offer);
        match self.runtime.thaw(container).await {
            Ok(_) => {}
            Err(error) if matches!(error.cause, Cause::AlreadyRan { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // What was frozen is stale from the first instruction on.
        remove(&dir).await?;
        Ok(Outcome::Settled)
    }

    // H8
    async fn release(&self, offer: OfferId, container: ContainerId) -> Result<Outcome, Failure> {
        self.withdraw(offer);
        self.runtime.release(container).await?;
        Ok(Outcome::Settled)
    }

    async fn clean(&self, offer: OfferId) {
        self.ends().remove(&offer);
        self.withdraw(offer);
        lock(&self.bridges).remove(&offer);
        for folder in [&self.places.disk, &self.places.memory] {
            if let Err(failure) = remove(&folder.join(offer.to_string())).await {
                warn!(offer = %offer.short(), failure = chain(&failure), "the handoff's folder stays");
            }
        }
    }

    fn withdraw(&self, offer: OfferId) {
        self.leaving.remove(offer);
        for part in [Part::Spec, Part::Image, Part::Checkpoint] {
            self.server.withdraw(&PartKey { offer, part });
        }
    }

    async fn publish(
        &self,
        offer: OfferId,
        part: Part,
        dir: PathBuf,
        target: SiteId,
    ) -> Result<(Hash, Bytes), Failure> {
        let manifest = chunks::manifest_of(&dir).await?;
        let bytes = manifest.bytes();
        let root = self.server.publish(PartKey { offer, part }, &dir, manifest, target)?;
        Ok((root, bytes))
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<OfferId, CancellationToken>> {
        lock(&self.ends)
    }

    /// From here on the socket leads to the source.
    fn bridge(&self, offer: OfferId, source: SiteId) -> Result<(), Failure> {
        let mut bridges = lock(&self.bridges);
        if let Entry::Vacant(vacant) = bridges.entry(offer) {
            let path = self.socket(offer);
            let opened = pages::Bridge::open(&self.net, offer, source, Which::Late, &path);
            vacant.insert(opened.map_err(|source| Failure::Io { what: "listen at", path, source })?);
        }
        Ok(())
    }

    fn part(&self, offer: OfferId, part: Part, source: SiteId, into: &Path) -> Pull {
        Pull::new(&self.net, source, PartKey { offer, part }, into).publication(PUBLICATION)
    }

    /// Pulls a part, unless the attempt ends before it is here; the bytes that travelled.
    async fn pull(&self, pull: Pull) -> Result<u64, Failure> {
        let PartKey { offer, part } = pull.key();
        // The pull makes the folder itself, when it is complete.
        for folder in [&self.places.disk, &self.places.memory] {
            make(&folder.join(offer.to_string())).await?;
        }
        let advance = |progress| drop(self.advances.send(Advance { offer, part, progress }));
        Ok(self.unless_ended(offer, pull.run(advance)).await??.transferred)
    }

    /// What comes of work, unless the handoff is to be discarded before it is done.
    async fn unless_ended<T>(&self, offer: OfferId, work: impl Future<Output = T>) -> Result<T, Failure> {
        let end = self.ends().entry(offer).or_default().clone();
        end.run_until_cancelled(work).await.ok_or(Failure::Ended)
    }

    /// Asks for the image, again and again.
    async fn want_image(&self, offer: OfferId, source: SiteId) -> ! {
        loop {
            if let Err(failure) = self.net.send_word(source, &Word::ImageWanted { offer }).await {
                warn!(offer = %offer.short(), %failure, "cannot ask for the image");
            }
            tokio::time::sleep(SAY_AGAIN).await;
        }
    }

    fn disk(&self, offer: OfferId, name: &str) -> PathBuf {
        self.places.disk.join(offer.to_string()).join(name)
    }

    /// The frozen state.
    fn memory(&self, offer: OfferId) -> PathBuf {
        self.places.memory.join(offer.to_string()).join("frozen")
    }

    /// Leads to the source of memory that is still missing.
    fn socket(&self, offer: OfferId) -> PathBuf {
        self.places.socket(offer, Which::Late)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn make(path: &Path) -> Result<(), Failure> {
    let made = tokio::fs::create_dir_all(path).await;
    made.map_err(|source| Failure::Io { what: "make the folder", path: path.to_owned(), source })
}

async fn remove(path: &Path) -> Result<(), Failure> {
    match tokio::fs::remove_dir_all(path).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::Io { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
