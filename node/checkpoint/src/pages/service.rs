//! The target's side: fills the missing pages of restored tasks, those first that threads wait for.
//!
//! This is what the caller sees of it; the thread that works is in `work`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, socket};

use super::connection::Connect;
use super::image::ImageError;
use super::link::{Breaker, inbox};
use super::notes::{Note, VERSION, receive, send};
use super::store::Store;
use super::wire::WireError;
use super::work::{State, Work};

/// Batches from the source that wait for the service: 17 MiB at most.
const HEARD_MAX: usize = 64;

/// What a service needs.
pub struct Options {
    /// The directory of the images that the tasks are restored from.
    pub images: PathBuf,
    /// The guard's control socket.
    pub guard: PathBuf,
    /// How long to wait for the guard's socket to be there.
    pub attach: Duration,
    /// Pages that are here already.
    pub store: Box<dyn Store>,
    /// Makes a connection to the source. It must end in bounded time.
    pub connect: Connect,
    /// A connection over which nothing came for so long is made anew; a living source sends something twice a second.
    pub stale: Duration,
    /// The source counts as silent when nothing came for so long, over any connection.
    pub silence: Duration,
}

/// How far a service is. Pages are of 4,096 bytes; forked children count their own.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Pages that were not there when the tasks arrived.
    pub lazy: u64,
    /// Pages still missing, in all tasks.
    pub missing: u64,
    /// Pages filled from the local store.
    pub by_store: u64,
    /// Pages filled because a thread waited, from the source.
    pub by_fault: u64,
    /// Pages filled ahead of need, from the source.
    pub by_push: u64,
    /// Pages that were there already when they were to be filled.
    pub there: u64,
    /// Bytes received from the source, as they came over the wire.
    pub wire_bytes: u64,
    /// Threads' waits that ended: for how many pages, how long in all, and the longest.
    pub stalls: u64,
    /// See `stalls`.
    pub stalled: Duration,
    /// See `stalls`.
    pub longest_stall: Duration,
    /// Times that a task forked, or moved, unmapped or gave up memory while pages were missing.
    pub changes: u64,
    /// Restored tasks that were zombies.
    pub zombies: u64,
    /// CRIU has handed over all tasks.
    pub restored: bool,
    /// No page is missing, and the tasks run on by themselves.
    pub finished: bool,
}

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Store,
    Fault,
    Push,
}

impl Progress {
    pub(super) fn count(&mut self, origin: Origin, pages: u64) {
        match origin {
            Origin::Store => self.by_store += pages,
            Origin::Fault => self.by_fault += pages,
            Origin::Push => self.by_push += pages,
        }
    }

    pub(super) fn waited(&mut self, stalled: Duration) {
        self.stalls += 1;
        self.stalled += stalled;
        self.longest_stall = self.longest_stall.max(stalled);
    }
}

/// What the caller should know at once.
#[derive(Debug)]
pub enum Event {
    /// Nothing came from the source for `Options::silence` while pages are missing: freeze the tasks until it is back.
    SourceSilent,
    /// The source is back after a silence.
    SourceBack,
    /// A connection ended; another is made.
    ConnectionLost(WireError),
}

/// Why a service ended with pages missing. The guard still holds the tasks: a new service may go on, or they are killed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The guard does not answer.
    #[error("attach to the guard at {path}; does its process run?")]
    Attach {
        /// Its control socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Errno,
    },
    /// The guard is of another version.
    #[error(
        "the guard speaks version {0}, this service {VERSION}: let the service of its own version end this handoff"
    )]
    Version(u64),
    /// The guard has died: the tasks were killed, since what happened to them since is not known.
    #[error("the guard has died: the tasks that lack pages were killed")]
    GuardDied,
    /// Restore ended or was too slow before it handed over all tasks.
    #[error("restore ended before it had handed over all tasks: CRIU's log says why")]
    RestoreBroke,
    /// The images cannot be used.
    #[error("find out which pages are missing")]
    Image(#[from] ImageError),
    /// The source does not have a page any more.
    #[error("the source has lost {pages} pages at {address:#x} of the task {pid}: the frozen task there has died")]
    Lost {
        /// The task's pid in the images.
        pid: i32,
        /// Where the pages begin.
        address: u64,
        /// How many they are.
        pages: u32,
    },
    /// The kernel refuses to fill a page.
    #[error("fill the page at {address:#x} of the task {pid}")]
    Fill {
        /// The task's pid in the images.
        pid: i32,
        /// Where the page lies now.
        address: u64,
        /// What the system said.
        #[source]
        source: Errno,
    },
    /// A call that does not fail otherwise.
    #[error("{what}")]
    System {
        /// The operation.
        what: &'static str,
        /// What the system said.
        #[source]
        source: Errno,
    },
    /// The caller stopped the service.
    #[error("the page service was stopped while pages were missing")]
    Stopped,
}

/// A running service.
pub struct Service {
    shared: Arc<Shared>,
    socket: Arc<OwnedFd>,
    breaker: Breaker,
    events: Receiver<Event>,
    thread: Option<JoinHandle<Result<(), ServiceError>>>,
}

/// What the caller and the thread both look at.
#[derive(Default)]
pub(super) struct Shared {
    progress: Mutex<Progress>,
    tasks: Mutex<Vec<OwnedFd>>,
    stopped: AtomicBool,
}

impl Shared {
    pub fn publish(&self, progress: &Progress) {
        lock(&self.progress).clone_from(progress);
    }

    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The pidfds of the tasks to kill when pages are missing for good.
    pub fn tasks(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        lock(&self.tasks)
    }
}

impl Service {
    /// Attaches to the guard and serves until no page is missing. When another service served before, goes on where it ended.
    ///
    /// # Errors
    /// When the guard is not there in time, or is of another version.
    pub fn start(options: Options) -> Result<Self, ServiceError> {
        let (socket, history) = attach(&options.guard, options.attach)?;
        let socket = Arc::new(socket);
        let made = inbox(HEARD_MAX);
        let (outbox, inbox) = made.map_err(|source| ServiceError::System { what: "make an eventfd", source })?;
        let (shared, breaker, (tell, events)) = (Arc::new(Shared::default()), Breaker::default(), channel());
        let link = breaker.clone();
        let connect = options.connect;
        spawn("pages-link", move || super::link::run(connect, &outbox, &link))?;
        let work = Work {
            images: options.images,
            store: options.store,
            stored: Vec::new(),
            stale: options.stale,
            silence: options.silence,
            socket: socket.clone(),
            shared: shared.clone(),
            breaker: breaker.clone(),
            inbox,
            tell,
            state: State::new(history),
        };
        let thread = spawn("pages", move || work.run())?;
        Ok(Self { shared, socket, breaker, events, thread: Some(thread) })
    }

    /// Names a task that is killed, with all that die with it, when pages are missing for good. Name the first process of the
    /// restored pid namespace, as soon as it is there: without it the guard can only keep threads waiting.
    ///
    /// # Errors
    /// When the guard cannot be told.
    pub fn protect(&self, pidfd: OwnedFd) -> Result<(), ServiceError> {
        send(&*self.socket, &[Note::Protect], &[pidfd.as_fd()]).map_err(|_| ServiceError::GuardDied)?;
        lock(&self.shared.tasks).push(pidfd);
        Ok(())
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        lock(&self.shared.progress).clone()
    }

    /// The next event, if one comes within `wait`.
    pub fn event(&self, wait: Duration) -> Option<Event> {
        self.events.recv_timeout(wait).ok()
    }

    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until no page is missing. The caller bounds the wait by [`Service::ended`], or ends it by [`Service::abandon`].
    ///
    /// # Errors
    /// Why pages are missing still.
    pub fn wait(mut self) -> Result<Progress, ServiceError> {
        self.join()?;
        Ok(self.progress())
    }

    /// Gives the tasks up: the guard kills them.
    pub fn abandon(mut self) {
        // First, so that the guard's hanging up is not taken for its death.
        self.shared.stopped.store(true, Ordering::Release);
        let _ = send(&*self.socket, &[Note::Abandon], &[]);
        self.stop();
    }

    fn join(&mut self) -> Result<(), ServiceError> {
        let ended = self.thread.take().map(JoinHandle::join);
        // A panic in our own code: the guard does the rest.
        ended.unwrap_or(Ok(Ok(()))).unwrap_or(Err(ServiceError::Stopped))
    }

    fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        let _ = self.join();
        self.breaker.stop();
    }
}

impl Drop for Service {
    /// Stops it. The guard waits for another service then.
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ServiceError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| ServiceError::System {
        what: "start a thread",
        source: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
    })
}

/// Connects to the guard, which may still be starting.
fn attach(path: &Path, patience: Duration) -> Result<(OwnedFd, u64), ServiceError> {
    let started = Instant::now();
    let failed = |source| ServiceError::Attach { path: path.to_owned(), source };
    loop {
        match greet_guard(path) {
            Ok(met) => break Ok(met),
            // A guard that still notices the end of the service before us closes the connection at once.
            Err(Met::Nobody(_)) if started.elapsed() < patience => std::thread::sleep(Duration::from_millis(1)),
            Err(Met::Nobody(errno)) => break Err(failed(errno)),
            Err(Met::Version(version)) => break Err(ServiceError::Version(version)),
        }
    }
}

enum Met {
    Nobody(Errno),
    Version(u64),
}

/// Ends a guard whose tasks have no service and are given up, or that never had any; nothing to do if it is gone.
pub fn dismiss(guard: &Path) {
    if let Ok((socket, _)) = greet_guard(guard) {
        // It may end at this moment.
        let _ = send(&socket, &[Note::Abandon], &[]);
    }
}

/// The socket, and how many notes of the history follow.
fn greet_guard(path: &Path) -> Result<(OwnedFd, u64), Met> {
    let open = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let first = receive(&socket, MsgFlags::empty())?;
        Ok((socket, first))
    };
    let (socket, (notes, _)) = open().map_err(Met::Nobody)?;
    match notes.first() {
        Some(Note::Hello { version: VERSION, history }) => Ok((socket, *history)),
        Some(Note::Hello { version, .. }) => Err(Met::Version(*version)),
        _ => Err(Met::Nobody(Errno::ECONNRESET)),
    }
}
