//! The service's thread. It does all filling, and takes from four places, in this order: events of the tasks (through the
//! guard), pages from the source, what could not be filled before, pages from the local store; and keeps as much asked for as
//! the link carries.
//!
//! Invariant: between asking the guard for events and having acted on them, no page is filled.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use super::PAGE;
use super::fill::{Later, Served};
use super::guard::kill_task;
use super::image::lazy_runs;
use super::link::{Breaker, Heard, Inbox};
use super::notes::{Note, Packet, receive, send};
use super::pace::{PUSH, Pace};
use super::service::{Event, Origin, Progress, ServiceError, Shared};
use super::space::{Fault, Space};
use super::store::Store;
use super::uffd::Uffd;
use super::wire::{Batch, Content, Request, WireError};

/// Longest wait: deadlines are checked this often.
const TICK_MS: u16 = 50;

/// The thread's own.
pub(super) struct Work {
    pub images: PathBuf,
    pub store: Box<dyn Store>,
    /// What was read from it last.
    pub stored: Vec<u8>,
    pub stale: Duration,
    pub silence: Duration,
    pub socket: Arc<OwnedFd>,
    pub shared: Arc<Shared>,
    pub breaker: Breaker,
    pub inbox: Inbox<Heard>,
    pub tell: Sender<Event>,
    pub state: State,
}

/// What changes while it works.
pub(super) struct State {
    pub spaces: BTreeMap<u64, Served>,
    /// While the history is heard: spaces that are no more, from which others were forked.
    ghosts: BTreeMap<u64, Space>,
    /// Notes of the history that are still to come.
    history: u64,
    pub later: Vec<Later>,
    pub progress: Progress,
    /// Packets of the guard that came while the answer to a read was awaited.
    early: VecDeque<Packet>,
    /// Requests go here while there is a connection.
    requests: Option<Sender<Request>>,
    pace: Pace,
    heard: Instant,
    silent: bool,
}

impl State {
    pub fn new(history: u64) -> Self {
        Self {
            spaces: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            history,
            later: Vec::new(),
            progress: Progress::default(),
            early: VecDeque::new(),
            requests: None,
            pace: Pace::new(),
            heard: Instant::now(),
            silent: false,
        }
    }
}

impl Work {
    pub fn run(mut self) -> Result<(), ServiceError> {
        let served = self.serve();
        if let Err(ServiceError::GuardDied) = served
            && !self.shared.stopped()
        {
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
        // Nothing is filled before all is known that has happened.
        while self.state.history > 0 {
            if let Some((notes, descriptors)) = self.packet(MsgFlags::empty())? {
                self.state.history = self.state.history.saturating_sub(notes.len() as u64);
                self.act(notes, descriptors)?;
            }
        }
        self.state.ghosts.clear();
        let mut idle = false;
        loop {
            self.await_work(idle)?;
            if self.shared.stopped() {
                return Err(ServiceError::Stopped);
            }
            let heard = self.hear()?;
            let tried = self.try_again()?;
            self.ask_ahead();
            let stored = self.fill_from_store()?;
            self.let_go_of_the_complete()?;
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
        let soon = self.state.later.iter().map(|later| later.due).min();
        let timeout = match soon {
            _ if !idle => PollTimeout::ZERO,
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now()).as_millis();
                PollTimeout::from(u16::try_from(wait + 1).unwrap_or(TICK_MS).min(TICK_MS))
            }
            None => PollTimeout::from(TICK_MS),
        };
        let fds = [self.socket.as_fd(), self.inbox.bell()];
        let spaces = self.state.spaces.values().map(|served| served.uffd.as_fd());
        let mut polled: Vec<_> = fds.into_iter().chain(spaces).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(ServiceError::System { what: "wait for events", source }),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let eventful: Vec<u64> =
            self.state.spaces.keys().zip(&ready[2..]).filter(|(_, ready)| **ready).map(|(id, _)| *id).collect();
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

    fn packet(&mut self, flags: MsgFlags) -> Result<Option<Packet>, ServiceError> {
        match receive(&*self.socket, flags) {
            Ok((notes, _)) if notes.is_empty() => Err(ServiceError::GuardDied),
            Ok(packet) => Ok(Some(packet)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(_) => Err(ServiceError::GuardDied),
        }
    }

    /// Has the guard take the events of a space, and acts on them.
    pub(super) fn read_events(&mut self, id: u64) -> Result<(), ServiceError> {
        send(&*self.socket, &[Note::Read { id }], &[]).map_err(|_| ServiceError::GuardDied)?;
        loop {
            let Some((notes, descriptors)) = self.packet(MsgFlags::empty())? else { continue };
            let answer = matches!(notes.first(), Some(Note::Events { .. }));
            if answer {
                self.act(notes, descriptors)?;
                break;
            }
            self.state.early.push_back((notes, descriptors));
        }
        while let Some((notes, descriptors)) = self.state.early.pop_front() {
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
                Note::Ghost { id, pid, parent } => {
                    let space = self.first(pid, parent)?;
                    self.state.ghosts.insert(id, space);
                }
                Note::Fault { id, address } => self.fault(id, address)?,
                Note::Remap { id, from, to, bytes } => {
                    self.state.progress.changes += 1;
                    let moved = from..from.saturating_add(bytes);
                    self.change(id, moved, |space| space.remap(from, to, bytes));
                }
                Note::Remove { id, range } | Note::Unmap { id, range } => {
                    self.state.progress.changes += 1;
                    self.change(id, range.clone(), |space| space.remove(range));
                }
                Note::Finished { zombies } => {
                    (self.state.progress.restored, self.state.progress.zombies) = (true, zombies);
                    // What CRIU had not registered yet is now.
                    self.state.later.iter_mut().for_each(|later| later.due = Instant::now());
                }
                Note::Broken => return Err(ServiceError::RestoreBroke),
                _ => {}
            }
        }
        Ok(())
    }

    fn take_space(&mut self, id: u64, pid: i32, parent: Option<u64>, fd: OwnedFd) -> Result<(), ServiceError> {
        let space = self.first(pid, parent)?;
        self.state.progress.lazy += space.missing();
        self.state.progress.changes += u64::from(parent.is_some());
        let system = |what| move |source| ServiceError::System { what, source };
        let uffd = Uffd::new(fd).map_err(system("prepare a userfaultfd"))?;
        // Threads that waited under a service before us fault again.
        uffd.wake_all().map_err(system("wake waiting threads"))?;
        self.state.spaces.insert(id, Served { pid, uffd, space, waiting: BTreeMap::new() });
        Ok(())
    }

    /// What a space lacks at first: what its parent lacks, or what the images say.
    fn first(&self, pid: i32, parent: Option<u64>) -> Result<Space, ServiceError> {
        let Some(parent) = parent else {
            return Ok(Space::new(&lazy_runs(&self.images, pid)?, &self.store.ranges(pid)));
        };
        let lives = self.state.spaces.get(&parent).map(|served| &served.space);
        let space = lives.or_else(|| self.state.ghosts.get(&parent)).map(Space::fork);
        // A parent that is no more, and no ghost, would be one that forked after its end.
        space.ok_or(ServiceError::GuardDied)
    }

    /// A space has ended, or lacks nothing any more: both descriptors of it are closed.
    pub(super) fn let_go(&mut self, id: u64) -> Result<(), ServiceError> {
        self.state.spaces.remove(&id);
        send(&*self.socket, &[Note::Gone { id }], &[]).map_err(|_| ServiceError::GuardDied)
    }

    /// Closing descriptors early keeps a process that forks often from using them all up.
    fn let_go_of_the_complete(&mut self) -> Result<(), ServiceError> {
        if !self.state.progress.restored {
            return Ok(());
        }
        let complete = |(id, served): (&u64, &Served)| (served.space.missing() == 0).then_some(*id);
        let complete: Vec<u64> = self.state.spaces.iter().filter_map(complete).collect();
        complete.into_iter().try_for_each(|id| self.let_go(id))
    }

    /// Changes a space; who waits for a page of `range` looks again.
    pub(super) fn change(&mut self, id: u64, range: Range<u64>, change: impl FnOnce(&mut Space)) {
        if let Some(ghost) = self.state.ghosts.get_mut(&id) {
            return change(ghost);
        }
        let Some(served) = self.state.spaces.get_mut(&id) else { return };
        change(&mut served.space);
        if !range.is_empty() {
            served.waiting.retain(|address, _| !range.contains(address));
            // A range that cannot be woken has nobody who waits.
            let _ = served.uffd.wake(range);
        }
    }

    fn fault(&mut self, id: u64, address: u64) -> Result<(), ServiceError> {
        let Some(served) = self.state.spaces.get_mut(&id) else { return Ok(()) };
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
        if let Some(requests) = &self.state.requests {
            // When the link has just ended, it says so next.
            let _ = requests.send(request);
        }
    }

    /// Takes what the link brought: one batch, so that events come first again.
    fn hear(&mut self) -> Result<bool, ServiceError> {
        let Some(heard) = self.inbox.take() else { return Ok(false) };
        if !matches!(heard, Heard::Lost(_)) {
            self.state.heard = Instant::now();
            if std::mem::take(&mut self.state.silent) {
                let _ = self.tell.send(Event::SourceBack);
            }
        }
        match heard {
            Heard::Connected(requests) => {
                self.state.requests = Some(requests);
                for served in self.state.spaces.values_mut() {
                    // Faults before there was a connection were not asked for either.
                    served.space.reconnected();
                    let woken = served.uffd.wake_all();
                    woken.map_err(|source| ServiceError::System { what: "wake waiting threads", source })?;
                }
            }
            Heard::Batch(batch) => self.take_batch(&batch)?,
            Heard::Lost(error) => {
                if self.state.requests.take().is_some() || !matches!(error, WireError::Lost(_)) {
                    let _ = self.tell.send(Event::ConnectionLost(error));
                }
                self.state.pace = Pace::new();
            }
        }
        Ok(true)
    }

    fn take_batch(&mut self, batch: &Batch) -> Result<(), ServiceError> {
        self.state.progress.wire_bytes += batch.wire_bytes;
        let now = Instant::now();
        for entry in &batch.entries {
            let (pid, image, pages) = (entry.pid, entry.address, u64::from(entry.pages));
            let pushed = self.state.pace.arrived(pid, image, pages, now);
            let origin = if pushed > 0 && pages > 1 { Origin::Push } else { self.origin(pid, image, pushed) };
            let content = match &entry.content {
                Content::Bytes(range) => Some(&batch.bytes[range.clone()]),
                Content::Zero => None,
                Content::Unreadable => {
                    return Err(ServiceError::Lost { pid, address: image, pages: entry.pages });
                }
            };
            self.fill_all(0, pid, image, pages, content, origin)?;
        }
        Ok(())
    }

    /// A single page may be a hurried one: a thread waits for it then.
    fn origin(&self, pid: i32, image: u64, pushed: u64) -> Origin {
        let mut spaces = self.state.spaces.values().filter(|served| served.pid == pid);
        let awaited = spaces
            .any(|served| served.space.locate(image, 1).iter().any(|run| served.waiting.contains_key(&run.current)));
        if awaited || pushed == 0 { Origin::Fault } else { Origin::Push }
    }

    /// Asks for pages that nobody waits for yet, as many as the link carries. Not before restore has ended: until then, what
    /// comes might have no mapping yet.
    fn ask_ahead(&mut self) {
        if self.state.requests.is_none() || !self.state.progress.restored {
            return;
        }
        let ids: Vec<u64> = self.state.spaces.keys().copied().collect();
        for id in ids {
            while self.state.pace.allows()
                && let Some(served) = self.state.spaces.get_mut(&id)
                && let Some(run) = served.space.next_push(PUSH)
            {
                let pid = served.pid;
                self.state.pace.asked(pid, run.image, run.pages, Instant::now());
                self.ask(Request::Push { pid, address: run.image, pages: run.pages });
            }
        }
    }

    fn publish(&mut self) {
        self.state.progress.missing = self.state.spaces.values().map(|served| served.space.missing()).sum();
        self.shared.publish(&self.state.progress);
    }

    fn complete(&self) -> bool {
        self.state.progress.restored && self.state.progress.missing == 0 && self.state.early.is_empty()
    }

    /// No page is missing, and none will be: children that are forked from now on have them all.
    fn finish(&mut self) -> Result<(), ServiceError> {
        self.ask(Request::Done);
        self.breaker.retire();
        send(&*self.socket, &[Note::Done], &[]).map_err(|_| ServiceError::GuardDied)?;
        self.state.spaces.clear();
        self.state.progress.finished = true;
        Ok(())
    }

    fn check_source(&mut self) {
        let quiet = self.state.heard.elapsed();
        if quiet > self.stale && self.state.requests.is_some() {
            self.breaker.cut();
        }
        if quiet > self.silence && !self.state.silent && self.state.progress.missing > 0 {
            self.state.silent = true;
            let _ = self.tell.send(Event::SourceSilent);
        }
    }

    /// The guard may have read what we shall never hear: no page can be filled any more without risk. Our descriptors stay open
    /// until the tasks are dead.
    fn kill_tasks(&mut self) {
        for task in self.shared.tasks().iter() {
            if let Err(errno) = kill_task(task.as_fd()) {
                tracing::error!(%errno, "a task with missing pages cannot be killed");
            }
        }
        while self.state.spaces.values().any(|served| served.uffd.lives()) {
            std::thread::sleep(Duration::from_millis(TICK_MS.into()));
        }
    }
}
