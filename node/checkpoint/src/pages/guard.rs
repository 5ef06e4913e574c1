//! The guard: a small process that holds the userfaultfds of restored tasks, so that no thread ever reads zeros where a page is
//! missing.
//!
//! When the last descriptor of a userfaultfd is closed, the kernel fills missing pages with zeros, and the process goes on with
//! them. A page service that dies would do that. So the guard receives the descriptors from CRIU, passes duplicates to the
//! service, and keeps its own. When the service dies, a new one attaches and goes on; when none comes in time, the guard kills
//! the tasks and closes the descriptors when they are dead.
//!
//! Events (man 2 userfaultfd) are read by the guard alone, when the service asks: reading one lets the process go on, and an
//! event that died with its reader would be a moved mapping, or a child's descriptor, that nobody knows. The service asks and
//! waits, and fills no page meanwhile, so that it never fills a place that has just been given up. The guard keeps a log of all
//! but faults, which a new service replays; threads that wait are woken then, and fault again.
//!
//! Handshake with CRIU (CRIU 4.2, `criu/uffd.c`): it connects to `lazy-pages.socket` in restore's work directory and sends for
//! each task its pid in the images (i32), then one byte that carries the userfaultfd; for a zombie the negative pid alone; at
//! the end 0x52535446, and closes. It expects no answer.
//!
//! Invariant: no network, no images, no page content here: what can fail for those reasons is the service's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, socket,
};

use super::notes::{Note, VERSION, receive, receive_raw, send};
use super::uffd::{Event, Uffd};

/// "ReSTore Finished" (CRIU, `LAZY_PAGES_RESTORE_FINISHED`).
const FINISHED: i32 = 0x5253_5446;
/// Tasks and their forks that lack pages; each costs a descriptor in two processes.
const SPACES_MAX: usize = 4096;
/// Events that a new service can replay, 40 bytes each. Beyond, the tasks die with the service.
const LOG_MAX: usize = 1 << 20;
/// How often the guard looks at its deadlines, and whether tasks that were killed are dead.
const TICK_MS: u16 = 20;

/// What a guard needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where CRIU connects: `lazy-pages.socket` in restore's work directory.
    pub criu: PathBuf,
    /// Where services connect.
    pub control: PathBuf,
    /// How long restore may take until it has handed over everything, from the guard's start on.
    pub restore: Duration,
    /// How long tasks with missing pages may be without a service until they are killed.
    pub patience: Duration,
}

/// How the guard's work ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// No page is missing: the tasks run on by themselves.
    Complete,
    /// The tasks are dead, killed by the guard or by CRIU when restore failed; none of them read a zero.
    Dead,
    /// Restore's time passed without any task.
    NothingCame,
}

/// Why a guard cannot work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// One of its sockets cannot be made.
    #[error("listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Waiting failed.
    #[error("wait for events")]
    Wait(#[source] Errno),
}

/// Makes the process hard to end by accident: what stops the site, a terminal or a full machine should not stop its guards.
/// Call it first in a guard's process; not for a thread.
///
/// # Errors
/// When a signal cannot be ignored.
pub fn harden() -> Result<(), Errno> {
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    // Fails in a process group's leader, which has left its terminal's session or never had one.
    let _ = nix::unistd::setsid();
    // Each task and each child that is forked meanwhile costs a descriptor.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    // Needs CAP_SYS_RESOURCE: without it, the guard is as likely to be chosen as any process of its size, which is small.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    Ok(())
}

/// Guards the tasks of one restore until no page is missing or they are dead.
///
/// # Errors
/// When its sockets cannot be made, or waiting fails before any task was handed over.
pub fn run(config: &Config) -> Result<Ending, GuardError> {
    let mut guard = Guard::new(config)?;
    let ending = loop {
        if let Some(ending) = guard.turn()? {
            break ending;
        }
    };
    for path in [&config.criu, &config.control] {
        let _ = fs::remove_file(path);
    }
    Ok(ending)
}

struct Guard<'a> {
    config: &'a Config,
    started: Instant,
    control: OwnedFd,
    criu: Criu,
    service: Option<OwnedFd>,
    /// Since when no service is attached.
    alone: Instant,
    /// By id; `None` when they have ended or lack nothing any more.
    spaces: Vec<Option<Uffd>>,
    pids: Vec<i32>,
    log: Vec<Note>,
    tasks: Vec<OwnedFd>,
    zombies: u64,
    killing: bool,
}

/// How far CRIU has come.
enum Criu {
    Awaited(OwnedFd),
    Connected(Intake),
    Finished,
    Broken,
}

/// CRIU's connection.
struct Intake {
    socket: OwnedFd,
    word: [u8; 4],
    filled: usize,
    /// The task whose descriptor comes next.
    pid: Option<i32>,
}

enum Handed {
    Space(i32, OwnedFd),
    Zombie,
    Finished,
    /// Nothing more for now.
    Nothing,
}

impl<'a> Guard<'a> {
    fn new(config: &'a Config) -> Result<Self, GuardError> {
        let at = |path: &Path, kind| {
            bound(path, kind).map_err(|source| GuardError::Listen { path: path.to_owned(), source })
        };
        let now = Instant::now();
        Ok(Self {
            config,
            started: now,
            control: at(&config.control, SockType::SeqPacket)?,
            criu: Criu::Awaited(at(&config.criu, SockType::Stream)?),
            service: None,
            alone: now,
            spaces: Vec::new(),
            pids: Vec::new(),
            log: Vec::new(),
            tasks: Vec::new(),
            zombies: 0,
            killing: false,
        })
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) -> Result<Option<Ending>, GuardError> {
        let ready = self.wait()?;
        if ready.control {
            self.attach();
        }
        if ready.criu {
            self.take_from_criu();
        }
        if ready.service
            && let Some(ending) = self.hear_service()
        {
            return Ok(Some(ending));
        }
        Ok(self.check_deadlines())
    }

    fn wait(&self) -> Result<Ready, GuardError> {
        let criu = match &self.criu {
            Criu::Awaited(listener) => Some(listener.as_fd()),
            Criu::Connected(intake) => Some(intake.socket.as_fd()),
            Criu::Finished | Criu::Broken => None,
        };
        let mut polled = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        polled.extend(criu.into_iter().chain(self.service.as_ref().map(AsFd::as_fd)).map(readable));
        let settled = matches!(self.criu, Criu::Finished) && self.service.is_some() && !self.killing;
        let timeout = if settled { PollTimeout::NONE } else { PollTimeout::from(TICK_MS) };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(GuardError::Wait(errno)),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        Ok(Ready {
            control: ready[0],
            criu: criu.is_some() && ready[1],
            service: self.service.is_some() && ready[ready.len() - 1],
        })
    }

    /// A service connects: it hears all that happened so far.
    fn attach(&mut self) {
        let Some(service) = accepted(&self.control, SockFlag::empty()) else { return };
        if self.service.is_some() || self.killing || self.log.len() > LOG_MAX {
            // One at a time: two services would fill what the other one has just seen given up.
            tracing::warn!("a second page service was refused");
            return;
        }
        self.service = Some(service);
        self.tell(&[Note::Hello { version: VERSION, history: self.log.len() as u64 }], &[]);
        for note in self.log.clone() {
            match note {
                Note::Space { id, pid, parent } => match self.space(id).map(|space| space.as_fd().try_clone_to_owned())
                {
                    Some(Ok(copy)) => self.tell(&[note], &[copy.as_fd()]),
                    Some(Err(_)) => return self.detach(),
                    None => self.tell(&[Note::Ghost { id, pid, parent }], &[]),
                },
                _ => self.tell(&[note], &[]),
            }
        }
        match self.criu {
            Criu::Finished => self.tell(&[Note::Finished { zombies: self.zombies }], &[]),
            Criu::Broken => self.tell(&[Note::Broken], &[]),
            Criu::Awaited(_) | Criu::Connected(_) => {}
        }
    }

    fn space(&self, id: u64) -> Option<&Uffd> {
        usize::try_from(id).ok().and_then(|id| self.spaces.get(id)?.as_ref())
    }

    fn tell(&mut self, notes: &[Note], descriptors: &[BorrowedFd<'_>]) {
        if let Some(service) = &self.service
            && let Err(errno) = send(service, notes, descriptors)
        {
            tracing::warn!(%errno, "the page service cannot be told");
            self.detach();
        }
    }

    fn detach(&mut self) {
        self.service = None;
        self.alone = Instant::now();
    }

    fn take_from_criu(&mut self) {
        if let Criu::Awaited(listener) = &self.criu
            && let Some(socket) = accepted(listener, SockFlag::SOCK_NONBLOCK)
        {
            self.criu = Criu::Connected(Intake { socket, word: [0; 4], filled: 0, pid: None });
        }
        loop {
            let Criu::Connected(intake) = &mut self.criu else { return };
            match intake.next() {
                Ok(Handed::Nothing) => return,
                Ok(Handed::Zombie) => self.zombies += 1,
                Ok(Handed::Space(pid, fd)) => match Uffd::new(fd) {
                    Ok(uffd) if self.spaces.iter().flatten().count() < SPACES_MAX => self.hold(uffd, pid),
                    _ => return self.restore_broke(),
                },
                Ok(Handed::Finished) => {
                    self.criu = Criu::Finished;
                    self.tell(&[Note::Finished { zombies: self.zombies }], &[]);
                }
                Err(error) => {
                    tracing::warn!(%error, "restore ended before it handed over all tasks");
                    return self.restore_broke();
                }
            }
        }
    }

    fn restore_broke(&mut self) {
        self.criu = Criu::Broken;
        self.tell(&[Note::Broken], &[]);
    }

    fn hold(&mut self, uffd: Uffd, pid: i32) {
        let note = self.keep(uffd, pid, None);
        let copy = self.spaces.last().and_then(Option::as_ref).map(|space| space.as_fd().try_clone_to_owned());
        match copy {
            Some(Ok(copy)) => self.tell(&[note], &[copy.as_fd()]),
            _ => self.detach(),
        }
    }

    fn keep(&mut self, uffd: Uffd, pid: i32, parent: Option<u64>) -> Note {
        let note = Note::Space { id: self.spaces.len() as u64, pid, parent };
        self.spaces.push(Some(uffd));
        self.pids.push(pid);
        self.log.push(note.clone());
        note
    }

    fn hear_service(&mut self) -> Option<Ending> {
        let heard = receive(self.service.as_ref()?, MsgFlags::MSG_DONTWAIT);
        let (notes, mut descriptors) = match heard {
            Ok((notes, descriptors)) if !notes.is_empty() => (notes, descriptors),
            Err(Errno::EAGAIN) => return None,
            _ => {
                self.detach();
                return None;
            }
        };
        for note in notes {
            match note {
                Note::Read { id } => self.read(id),
                Note::Protect => self.tasks.extend(descriptors.pop()),
                Note::Gone { id } => {
                    if let Some(space) = usize::try_from(id).ok().and_then(|id| self.spaces.get_mut(id)) {
                        *space = None;
                    }
                }
                Note::Done => return Some(Ending::Complete),
                Note::Abandon => self.kill(),
                _ => self.detach(),
            }
        }
        None
    }

    /// Takes the events of a space and passes them on. From here on, they are in the log.
    fn read(&mut self, id: u64) {
        let Some(events) = self.space(id).map(Uffd::read) else { return self.detach() };
        let pid = usize::try_from(id).ok().and_then(|id| self.pids.get(id)).copied().unwrap_or_default();
        // A space whose process has ended gives an error: nothing happens there any more.
        let events = events.unwrap_or_default();
        let first = self.spaces.len();
        let mut notes = vec![Note::Events { id, count: events.len() as u64 }];
        for event in events {
            let note = match event {
                Event::Fault(address) => {
                    notes.push(Note::Fault { id, address });
                    continue;
                }
                Event::Fork(fd) => match Uffd::new(fd) {
                    Ok(uffd) => {
                        notes.push(self.keep(uffd, pid, Some(id)));
                        continue;
                    }
                    Err(errno) => {
                        tracing::error!(%errno, "a child's userfaultfd cannot be used: its process tree is killed");
                        return self.kill();
                    }
                },
                Event::Remap { from, to, bytes } => Note::Remap { id, from, to, bytes },
                Event::Remove(range) => Note::Remove { id, range },
                Event::Unmap(range) => Note::Unmap { id, range },
            };
            self.log.push(note.clone());
            notes.push(note);
        }
        let copies: Result<Vec<OwnedFd>, _> =
            self.spaces[first..].iter().flatten().map(|space| space.as_fd().try_clone_to_owned()).collect();
        match copies {
            Ok(copies) => self.tell(&notes, &copies.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
            Err(_) => self.detach(),
        }
    }

    fn check_deadlines(&mut self) -> Option<Ending> {
        if matches!(self.criu, Criu::Awaited(_) | Criu::Connected(_)) && self.started.elapsed() > self.config.restore {
            tracing::warn!("restore did not hand over all tasks in time");
            self.restore_broke();
        }
        let late = self.service.is_none() && (self.alone.elapsed() > self.config.patience || self.log.len() > LOG_MAX);
        let over = matches!(self.criu, Criu::Finished | Criu::Broken);
        if late && over && !self.killing {
            self.kill();
        }
        // Tasks that CRIU has not finished cannot run: it holds them, and ends them when its restore fails.
        let gone = late && over || self.killing;
        if !gone || self.spaces.iter().flatten().any(Uffd::lives) {
            return None;
        }
        Some(if self.spaces.is_empty() { Ending::NothingCame } else { Ending::Dead })
    }

    /// Kills all tasks. Their descriptors stay until they are dead: a thread that waits for a page dies in its wait.
    fn kill(&mut self) {
        self.killing = true;
        if self.tasks.is_empty() && !self.spaces.is_empty() {
            tracing::error!(
                "pages are missing for good, and no task was named to be killed: they wait until they are killed"
            );
        }
        for task in &self.tasks {
            if let Err(errno) = kill_task(task.as_fd()) {
                tracing::warn!(%errno, "a task with missing pages cannot be killed");
            }
        }
        self.detach();
    }
}

struct Ready {
    control: bool,
    criu: bool,
    service: bool,
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

impl Intake {
    fn next(&mut self) -> io::Result<Handed> {
        if let Some(pid) = self.pid {
            let (mut byte, mut control) = ([0], cmsg_space!([RawFd; 1]));
            let received = receive_raw(&self.socket, &mut byte, &mut control, MsgFlags::empty());
            return match received {
                Ok((1, true, descriptors)) => {
                    self.pid = None;
                    let fd = descriptors.into_iter().next();
                    fd.map(|fd| Handed::Space(pid, fd)).ok_or_else(|| wrong("a task without its userfaultfd"))
                }
                Err(Errno::EAGAIN) => Ok(Handed::Nothing),
                Ok(_) => Err(wrong("the end instead of a userfaultfd")),
                Err(errno) => Err(errno.into()),
            };
        }
        match nix::unistd::read(&self.socket, &mut self.word[self.filled..]) {
            Ok(0) => return Err(wrong("the end before restore had finished")),
            Ok(bytes) => self.filled += bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Handed::Nothing),
            Err(errno) => return Err(errno.into()),
        }
        if self.filled < self.word.len() {
            return Ok(Handed::Nothing);
        }
        self.filled = 0;
        match i32::from_ne_bytes(self.word) {
            FINISHED => return Ok(Handed::Finished),
            i32::MIN..0 => return Ok(Handed::Zombie),
            0 => return Err(wrong("a task without a pid")),
            pid => self.pid = Some(pid),
        }
        self.next()
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("CRIU's connection gave {what}"))
}

/// A listening socket for root alone. A socket that an earlier guard left there is replaced.
fn bound(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&listener, Backlog::new(4)?)?;
    Ok(listener)
}

/// The next connection, unless its other side is not root's.
fn accepted(listener: &OwnedFd, flags: SockFlag) -> Option<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), flags | SockFlag::SOCK_CLOEXEC).ok()?;
    // SAFETY: accept4 has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    match getsockopt(&socket, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 => Some(socket),
        peer => {
            tracing::warn!(?peer, "a connection that is not root's was refused");
            None
        }
    }
}

/// Kills the process of a pidfd (man 2 pidfd_send_signal). One that is dead already is no error.
pub(super) fn kill_task(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Errno::from_raw(errno.raw_os_error())),
    }
}
