//! The target's side: fills the missing pages of restored tasks, those first that threads wait for.
//!
//! One thread does all filling. It takes from four places, in this order: events of the tasks (through the guard), pages from
//! the source, what could not be filled before, pages from the local store; and keeps as much asked for as the link carries.
//!
//! Invariant: between asking the guard for events and having acted on them, no page is filled.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, socket};

use super::PAGE;
use super::connection::Connect;
use super::guard::kill_task;
use super::image::{ImageError, lazy_runs};
use super::link::{Breaker, Heard, Inbox, inbox};
use super::notes::{Note, VERSION, receive, send};
use super::pace::{PUSH, Pace};
use super::space::{Fault, Space};
use super::store::Store;
use super::uffd::{Filled, Uffd};
use super::wire::{Batch, Content, Request, WireError};

/// Pages from the store that are filled before events are looked at again: 50 us.
const STORED_AT_ONCE: u64 = 64;
/// Batches from the source that wait for the service: 17 MiB at most.
const HEARD_MAX: usize = 64;
/// After a run could not be filled: CRIU has not registered it yet, or an event is under way.
const AGAIN: Duration = Duration::from_micros(300);
/// After the tasks' cgroup had no memory.
const NO_MEMORY: Duration = Duration::from_millis(10);
/// Longest wait: deadlines are checked this often.
const TICK_MS: u16 = 50;

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
    /// Restored tasks that were zombies.
    pub zombies: u64,
    /// CRIU has handed over all tasks.
    pub restored: bool,
    /// No page is missing, and the tasks run on by themselves.
    pub finished: bool,
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

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    tasks: Mutex<Vec<OwnedFd>>,
    stopped: std::sync::atomic::AtomicBool,
}

impl Service {
    /// Attaches to the guard and serves until no page is missing. When another service served before, goes on where it ended.
    ///
    /// # Errors
    /// When the guard is not there in time, or is of another version.
    pub fn start(options: Options) -> Result<Self, ServiceError> {
        let socket = Arc::new(attach(&options.guard, options.attach)?);
        let system = |what| move |source| ServiceError::System { what, source };
        let (outbox, inbox) = inbox(HEARD_MAX).map_err(system("make an eventfd"))?;
        let (shared, breaker, (tell, events)) = (Arc::new(Shared::default()), Breaker::default(), channel());
        let link = breaker.clone();
        let spawn = std::thread::Builder::new();
        let failed = |_| ServiceError::System { what: "start a thread", source: Errno::EAGAIN };
        spawn
            .name("pages-link".into())
            .spawn(move || super::link::run(options.connect, &outbox, &link))
            .map_err(failed)?;
        let work = Work {
            images: options.images,
            store: options.store,
            stale: options.stale,
            silence: options.silence,
            socket: socket.clone(),
            shared: shared.clone(),
            breaker: breaker.clone(),
            inbox,
            tell,
            spaces: BTreeMap::new(),
            early: VecDeque::new(),
            later: Vec::new(),
            requests: None,
            pace: Pace::new(),
            heard: Instant::now(),
            silent: false,
            progress: Progress::default(),
        };
        let thread = std::thread::Builder::new().name("pages".into()).spawn(move || work.run()).map_err(failed)?;
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
        let _ = send(&*self.socket, &[Note::Abandon], &[]);
        self.stop();
    }

    fn join(&mut self) -> Result<(), ServiceError> {
        let ended = self.thread.take().map(JoinHandle::join);
        // A panic in our own code: the guard does the rest.
        ended.unwrap_or(Ok(Ok(()))).unwrap_or(Err(ServiceError::Stopped))
    }

    fn stop(&mut self) {
        self.shared.stopped.store(true, std::sync::atomic::Ordering::Release);
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects to the guard, which may still be starting.
fn attach(path: &Path, patience: Duration) -> Result<OwnedFd, ServiceError> {
    let started = Instant::now();
    let failed = |source| ServiceError::Attach { path: path.to_owned(), source };
    loop {
        match greet_guard(path) {
            Ok(socket) => break Ok(socket),
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

fn greet_guard(path: &Path) -> Result<OwnedFd, Met> {
    let open = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let first = receive(&socket, MsgFlags::empty())?;
        Ok((socket, first))
    };
    let (socket, (notes, _)) = open().map_err(Met::Nobody)?;
    match notes.first() {
        Some(Note::Hello(VERSION)) => Ok(socket),
        Some(Note::Hello(version)) => Err(Met::Version(*version)),
        _ => Err(Met::Nobody(Errno::ECONNRESET)),
    }
}

/// An address space that is served.
struct Served {
    pid: i32,
    uffd: Uffd,
    space: Space,
    /// Since when threads wait, by the page's current address.
    waiting: BTreeMap<u64, Instant>,
}

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Store,
    Fault,
    Push,
}

/// Pages that could not be filled yet.
struct Later {
    id: u64,
    image: u64,
    pages: u64,
    /// `None`: zeros.
    content: Option<Vec<u8>>,
    origin: Origin,
    due: Instant,
}

/// What filling a run came to.
enum Try {
    Done,
    After(Duration),
}

/// The thread's own.
struct Work {
    images: PathBuf,
    store: Box<dyn Store>,
    stale: Duration,
    silence: Duration,
    socket: Arc<OwnedFd>,
    shared: Arc<Shared>,
    breaker: Breaker,
    inbox: Inbox<Heard>,
    tell: Sender<Event>,
    spaces: BTreeMap<u64, Served>,
    /// Packets of the guard that came while the answer to a read was awaited.
    early: VecDeque<(Vec<Note>, Vec<OwnedFd>)>,
    later: Vec<Later>,
    requests: Option<Sender<Request>>,
    pace: Pace,
    heard: Instant,
    silent: bool,
    progress: Progress,
}

impl Work {
    fn run(mut self) -> Result<(), ServiceError> {
        let served = self.serve();
        if let Err(ServiceError::GuardDied) = served {
            self.kill_tasks();
        }
        self.publish();
        if let Err(error) = &served {
            tracing::warn!(error = error as &dyn std::error::Error, "the page service ends with pages missing");
            self.breaker.stop();
        }
        served
    }

    fn serve(&mut self) -> Result<(), ServiceError> {
        let mut idle = false;
        loop {
            self.await_work(idle)?;
            if self.shared.stopped.load(std::sync::atomic::Ordering::Acquire) {
                return Err(ServiceError::Stopped);
            }
            let heard = self.hear()?;
            let tried = self.try_again()?;
            self.ask_ahead();
            let stored = self.fill_from_store()?;
            self.publish();
            if self.complete() {
                return self.finish();
            }
            self.check_source();
            idle = !(heard || tried || stored);
        }
    }

    /// Looks for events, waiting for them when there was nothing else to do.
    fn await_work(&mut self, idle: bool) -> Result<(), ServiceError> {
        let soon = self.later.iter().map(|later| later.due).min();
        let timeout = match soon {
            _ if !idle => PollTimeout::ZERO,
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now()).as_millis().min(TICK_MS.into()) + 1;
                PollTimeout::from(wait as u16)
            }
            None => PollTimeout::from(TICK_MS),
        };
        let fds = [self.socket.as_fd(), self.inbox.bell()];
        let spaces = self.spaces.values().map(|served| served.uffd.as_fd());
        let mut polled: Vec<_> = fds.into_iter().chain(spaces).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(ServiceError::System { what: "wait for events", source }),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let eventful: Vec<u64> =
            self.spaces.keys().zip(&ready[2..]).filter(|(_, ready)| **ready).map(|(id, _)| *id).collect();
        if ready[1] {
            self.inbox.answer_bell();
        }
        if ready[0] {
            self.hear_guard()?;
        }
        eventful.into_iter().try_for_each(|id| self.read_events(id))
    }

    fn hear_guard(&mut self) -> Result<(), ServiceError> {
        loop {
            match self.packet(MsgFlags::MSG_DONTWAIT)? {
                Some((notes, descriptors)) => self.act(notes, descriptors)?,
                None => return Ok(()),
            }
        }
    }

    fn packet(&mut self, flags: MsgFlags) -> Result<Option<(Vec<Note>, Vec<OwnedFd>)>, ServiceError> {
        match receive(&*self.socket, flags) {
            Ok((notes, _)) if notes.is_empty() => Err(ServiceError::GuardDied),
            Ok(packet) => Ok(Some(packet)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(_) => Err(ServiceError::GuardDied),
        }
    }

    /// Has the guard take the events of a space, and acts on them.
    fn read_events(&mut self, id: u64) -> Result<(), ServiceError> {
        send(&*self.socket, &[Note::Read { id }], &[]).map_err(|_| ServiceError::GuardDied)?;
        loop {
            let Some((notes, descriptors)) = self.packet(MsgFlags::empty())? else { continue };
            let answer = matches!(notes.first(), Some(Note::Events { .. }));
            if answer {
                self.act(notes, descriptors)?;
                break;
            }
            self.early.push_back((notes, descriptors));
        }
        while let Some((notes, descriptors)) = self.early.pop_front() {
            self.act(notes, descriptors)?;
        }
        Ok(())
    }

    fn act(&mut self, notes: Vec<Note>, descriptors: Vec<OwnedFd>) -> Result<(), ServiceError> {
        let mut descriptors = descriptors.into_iter();
        for note in notes {
            match note {
                Note::Space { id, pid, parent } => {
                    let fd = descriptors.next().ok_or(ServiceError::GuardDied)?;
                    self.take_space(id, pid, parent, fd)?;
                }
                Note::Fault { id, address } => self.fault(id, address)?,
                Note::Remap { id, from, to, bytes } => {
                    let moved = from..from.saturating_add(bytes);
                    self.change(id, moved, |space| space.remap(from, to, bytes));
                }
                Note::Remove { id, range } | Note::Unmap { id, range } => {
                    self.change(id, range.clone(), |space| space.remove(range));
                }
                Note::Finished { zombies } => {
                    (self.progress.restored, self.progress.zombies) = (true, zombies);
                    // What CRIU had not registered yet is now.
                    self.later.iter_mut().for_each(|later| later.due = Instant::now());
                }
                Note::Broken => return Err(ServiceError::RestoreBroke),
                _ => {}
            }
        }
        Ok(())
    }

    fn take_space(&mut self, id: u64, pid: i32, parent: Option<u64>, fd: OwnedFd) -> Result<(), ServiceError> {
        let parent = parent.and_then(|parent| self.spaces.get(&parent));
        let space = match parent {
            Some(parent) => parent.space.fork(),
            None => Space::new(&lazy_runs(&self.images, pid)?, &self.store.ranges(pid)),
        };
        self.progress.lazy += space.missing();
        let system = |what| move |source| ServiceError::System { what, source };
        let uffd = Uffd::new(fd).map_err(system("prepare a userfaultfd"))?;
        // Threads that waited under a service before us fault again.
        uffd.wake_all().map_err(system("wake waiting threads"))?;
        self.spaces.insert(id, Served { pid, uffd, space, waiting: BTreeMap::new() });
        Ok(())
    }

    /// Changes a space; who waits for a page of `range` looks again.
    fn change(&mut self, id: u64, range: Range<u64>, change: impl FnOnce(&mut Space)) {
        let Some(served) = self.spaces.get_mut(&id) else { return };
        change(&mut served.space);
        if !range.is_empty() {
            served.waiting.retain(|address, _| !range.contains(address));
            // A range that cannot be woken has nobody who waits.
            let _ = served.uffd.wake(range);
        }
    }

    fn fault(&mut self, id: u64, address: u64) -> Result<(), ServiceError> {
        let Some(served) = self.spaces.get_mut(&id) else { return Ok(()) };
        let pid = served.pid;
        let fault = served.space.fault(address);
        if !matches!(fault, Fault::Wake | Fault::Zero) {
            served.waiting.entry(address).or_insert_with(Instant::now);
        }
        match fault {
            Fault::Zero => self.fill_zero(id, address),
            Fault::Wake => {
                self.change(id, address..address + PAGE, |_| ());
                Ok(())
            }
            Fault::Wait => Ok(()),
            Fault::Store(image) => self.fill_stored(id, image, 1),
            Fault::Ask(address) => {
                self.ask(Request::Fault { pid, address });
                Ok(())
            }
            Fault::Hurry(address) => {
                self.ask(Request::Hurry { pid, address });
                Ok(())
            }
        }
    }

    /// Without a connection nothing is asked: when there is one, all threads that wait are woken, and fault again.
    fn ask(&mut self, request: Request) {
        if let Some(requests) = &self.requests {
            // When the link has just ended, it says so next.
            let _ = requests.send(request);
        }
    }

    /// A page that the process never had.
    fn fill_zero(&mut self, id: u64, address: u64) -> Result<(), ServiceError> {
        let Some(served) = self.spaces.get_mut(&id) else { return Ok(()) };
        match served.uffd.zero(address, PAGE) {
            Ok(Filled::Bytes(_)) => {}
            Ok(Filled::Dead) => drop(self.spaces.remove(&id)),
            // The thread looks again, and faults again if it must.
            Ok(_) => self.change(id, address..address + PAGE, |_| ()),
            Err(source) => return Err(ServiceError::Fill { pid: served.pid, address, source }),
        }
        Ok(())
    }

    /// Takes what the link brought: one batch, so that events come first again.
    fn hear(&mut self) -> Result<bool, ServiceError> {
        let Some(heard) = self.inbox.take() else { return Ok(false) };
        if !matches!(heard, Heard::Lost(_)) {
            self.heard = Instant::now();
            if std::mem::take(&mut self.silent) {
                let _ = self.tell.send(Event::SourceBack);
            }
        }
        match heard {
            Heard::Connected(requests) => {
                self.requests = Some(requests);
                for served in self.spaces.values_mut() {
                    // Faults before there was a connection were not asked for either.
                    served.space.reconnected();
                    let woken = served.uffd.wake_all();
                    woken.map_err(|source| ServiceError::System { what: "wake waiting threads", source })?;
                }
            }
            Heard::Batch(batch) => self.take_batch(&batch)?,
            Heard::Lost(error) => {
                if self.requests.take().is_some() || !matches!(error, WireError::Lost(_)) {
                    let _ = self.tell.send(Event::ConnectionLost(error));
                }
                self.pace = Pace::new();
            }
        }
        Ok(true)
    }

    fn take_batch(&mut self, batch: &Batch) -> Result<(), ServiceError> {
        self.progress.wire_bytes += batch.wire_bytes;
        let now = Instant::now();
        for entry in &batch.entries {
            let (pid, image, pages) = (entry.pid, entry.address, u64::from(entry.pages));
            let pushed = self.pace.arrived(pid, image, pages, now);
            let origin = if pushed > 0 && pages > 1 { Origin::Push } else { self.origin(pid, image, pushed) };
            let content = match &entry.content {
                Content::Bytes(range) => Some(&batch.bytes[range.clone()]),
                Content::Zero => None,
                Content::Unreadable => {
                    return Err(ServiceError::Lost { pid, address: image, pages: entry.pages });
                }
            };
            let wanting: Vec<u64> =
                self.spaces.iter().filter(|(_, served)| served.pid == pid).map(|(id, _)| *id).collect();
            for id in wanting {
                self.fill(id, image, pages, content, origin)?;
            }
        }
        Ok(())
    }

    /// A single page may be a hurried one: a thread waits for it then.
    fn origin(&self, pid: i32, image: u64, pushed: u64) -> Origin {
        let mut spaces = self.spaces.values().filter(|served| served.pid == pid);
        let awaited = spaces
            .any(|served| served.space.locate(image, 1).iter().any(|run| served.waiting.contains_key(&run.current)));
        if awaited || pushed == 0 { Origin::Fault } else { Origin::Push }
    }

    fn try_again(&mut self) -> Result<bool, ServiceError> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|later: &Later| later.due <= now);
        self.later = later;
        let due: Vec<Later> = due;
        for Later { id, image, pages, content, origin, .. } in &due {
            match origin {
                Origin::Store => self.fill_stored(*id, *image, *pages)?,
                _ => self.fill(*id, *image, *pages, content.as_deref(), *origin)?,
            }
        }
        Ok(!due.is_empty())
    }

    /// Fills pages that came from the source. What cannot be filled now is kept.
    fn fill(
        &mut self,
        id: u64,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<(), ServiceError> {
        if let Try::After(wait) = self.put(id, image, pages, content, origin)? {
            let (content, due) = (content.map(<[u8]>::to_vec), Instant::now() + wait);
            self.later.push(Later { id, image, pages, content, origin, due });
        }
        Ok(())
    }

    fn fill_stored(&mut self, id: u64, image: u64, pages: u64) -> Result<(), ServiceError> {
        let Some(served) = self.spaces.get_mut(&id) else { return Ok(()) };
        let mut content = vec![0; usize::try_from(pages * PAGE).unwrap_or(0)];
        if let Err(error) = self.store.read(served.pid, image, &mut content) {
            tracing::warn!(%error, pid = served.pid, "a page of the local store cannot be used: the source is asked");
            served.space.not_stored(image, pages);
            // Who waits for it faults again, and the source is asked then.
            for run in served.space.locate(image, pages) {
                let _ = served.uffd.wake(run.current..run.current + run.pages * PAGE);
            }
            return Ok(());
        }
        if let Try::After(wait) = self.put(id, image, pages, Some(&content), Origin::Store)? {
            let due = Instant::now() + wait;
            self.later.push(Later { id, image, pages, content: None, origin: Origin::Store, due });
        }
        Ok(())
    }

    /// Fills those of the pages that are still missing, wherever they lie now.
    fn put(
        &mut self,
        id: u64,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<Try, ServiceError> {
        // An event that is under way has usually been sent when it has been read; a second one may follow.
        for _ in 0..3 {
            match self.put_once(id, image, pages, content, origin)? {
                Filled::Again => self.read_events(id)?,
                Filled::NoMemory => return Ok(Try::After(NO_MEMORY)),
                Filled::NotMapped => return Ok(Try::After(AGAIN)),
                Filled::Bytes(_) | Filled::There | Filled::Dead => return Ok(Try::Done),
            }
        }
        Ok(Try::After(AGAIN))
    }

    fn put_once(
        &mut self,
        id: u64,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<Filled, ServiceError> {
        let Some(served) = self.spaces.get_mut(&id) else { return Ok(Filled::Dead) };
        for run in served.space.locate(image, pages) {
            let (mut done, mut width) = (0, run.pages);
            while done < run.pages {
                width = width.min(run.pages - done);
                let current = run.current + done * PAGE;
                let from = run.image + done * PAGE;
                let offset = usize::try_from(from - image).unwrap_or(usize::MAX);
                let length = usize::try_from(width * PAGE).unwrap_or(usize::MAX);
                let filled = match content {
                    Some(content) => served.uffd.copy(current, &content[offset..offset + length]),
                    None => served.uffd.zero(current, width * PAGE),
                };
                let filled =
                    filled.map_err(|source| ServiceError::Fill { pid: served.pid, address: current, source })?;
                match filled {
                    Filled::Bytes(0) => return Ok(Filled::Again),
                    Filled::Bytes(bytes) => {
                        self.progress.count(origin, bytes / PAGE);
                        served.arrived(from, current, bytes / PAGE, &mut self.progress);
                        done += bytes / PAGE;
                    }
                    Filled::There => {
                        self.progress.there += 1;
                        served.arrived(from, current, 1, &mut self.progress);
                        let _ = served.uffd.wake(current..current + PAGE);
                        done += 1;
                    }
                    // The process split the mapping, by mprotect for example: the kernel fills within one only.
                    Filled::NotMapped if width > 1 => width = width.div_ceil(2),
                    // All events before this are acted on, so that the page lies in a mapping that is watched no more.
                    Filled::NotMapped if self.progress.restored => {
                        served.space.remove(current..current + PAGE);
                        let _ = served.uffd.wake(current..current + PAGE);
                        done += 1;
                    }
                    Filled::Dead => {
                        self.spaces.remove(&id);
                        return Ok(Filled::Dead);
                    }
                    other => return Ok(other),
                }
            }
        }
        Ok(Filled::Bytes(0))
    }

    /// Asks for pages that nobody waits for yet, as many as the link carries. Not before restore has ended: until then, what
    /// comes might have no mapping yet.
    fn ask_ahead(&mut self) {
        if self.requests.is_none() || !self.progress.restored {
            return;
        }
        let ids: Vec<u64> = self.spaces.keys().copied().collect();
        for id in ids {
            while self.pace.allows()
                && let Some(served) = self.spaces.get_mut(&id)
                && let Some(run) = served.space.next_push(PUSH)
            {
                let pid = served.pid;
                self.pace.asked(pid, run.image, run.pages, Instant::now());
                // A push is small.
                self.ask(Request::Push { pid, address: run.image, pages: run.pages as u32 });
            }
        }
    }

    fn fill_from_store(&mut self) -> Result<bool, ServiceError> {
        // What could not be filled is tried again first: it is the same pages.
        if self.later.iter().any(|later| later.origin == Origin::Store) {
            return Ok(false);
        }
        let next = self
            .spaces
            .iter_mut()
            .find_map(|(id, served)| served.space.next_stored(STORED_AT_ONCE).map(|run| (*id, run)));
        match next {
            Some((id, run)) => self.fill_stored(id, run.image, run.pages).map(|()| true),
            None => Ok(false),
        }
    }

    fn publish(&mut self) {
        self.progress.missing = self.spaces.values().map(|served| served.space.missing()).sum();
        lock(&self.shared.progress).clone_from(&self.progress);
    }

    fn complete(&self) -> bool {
        self.progress.restored && self.progress.missing == 0 && self.early.is_empty()
    }

    /// No page is missing, and none will be: children that are forked from now on have them all.
    fn finish(&mut self) -> Result<(), ServiceError> {
        self.ask(Request::Done);
        self.breaker.retire();
        send(&*self.socket, &[Note::Done], &[]).map_err(|_| ServiceError::GuardDied)?;
        self.spaces.clear();
        self.progress.finished = true;
        Ok(())
    }

    fn check_source(&mut self) {
        let quiet = self.heard.elapsed();
        if quiet > self.stale && self.requests.is_some() {
            self.breaker.cut();
        }
        if quiet > self.silence && !self.silent && self.progress.missing > 0 {
            self.silent = true;
            let _ = self.tell.send(Event::SourceSilent);
        }
    }

    /// The guard may have read what we shall never hear: no page can be filled any more without risk. Our descriptors stay open
    /// until the tasks are dead.
    fn kill_tasks(&mut self) {
        for task in lock(&self.shared.tasks).iter() {
            if let Err(errno) = kill_task(task.as_fd()) {
                tracing::error!(%errno, "a task with missing pages cannot be killed");
            }
        }
        while self.spaces.values().any(|served| served.uffd.lives()) {
            std::thread::sleep(Duration::from_millis(TICK_MS.into()));
        }
    }
}

impl Served {
    /// Pages are there now: whoever waited for them runs.
    fn arrived(&mut self, image: u64, current: u64, pages: u64, progress: &mut Progress) {
        self.space.present(image, pages);
        let mut waited: Vec<u64> = self.waiting.range(current..current + pages * PAGE).map(|(at, _)| *at).collect();
        for address in waited.drain(..) {
            if let Some(since) = self.waiting.remove(&address) {
                let stalled = since.elapsed();
                progress.stalls += 1;
                progress.stalled += stalled;
                progress.longest_stall = progress.longest_stall.max(stalled);
            }
        }
    }
}

impl Progress {
    fn count(&mut self, origin: Origin, pages: u64) {
        match origin {
            Origin::Store => self.by_store += pages,
            Origin::Fault => self.by_fault += pages,
            Origin::Push => self.by_push += pages,
        }
    }
}
