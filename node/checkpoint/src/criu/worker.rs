//! One process `criu swrk`, from its start to its end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use super::conversation::{Answer, hear, pair, readable, say};
use super::rpc::{CGROUPS_IGNORE, InheritFd, Kind, NETWORK_LOCK_SKIP, Options, Request, Response};
use super::tree::Tree;
use super::{Error, log};

/// Without its socket, CRIU notices at its next notification and then ends in order. A healthy one needs some tens of
/// milliseconds for that; what takes longer is killed, which breaks the connections of a dumped process.
const GRACE: Duration = Duration::from_secs(2);

/// How long a killed process may take to be gone: longer means that it hangs in the kernel.
const KILLED: Duration = Duration::from_secs(2);

/// Errors only: a log of everything costs milliseconds.
const LOG_LEVEL: i32 = 1;

/// A descriptor that stands for an external resource of the restored tasks, such as a network namespace or a pipe.
#[derive(Debug)]
pub struct Inherit {
    /// Its name in the images, such as `pipe:[4711]`, or the one given to it when it was dumped.
    pub key: String,
    /// What it is here.
    pub fd: OwnedFd,
}

/// A CRIU that waits for its one request. Dropping it ends it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// `None` once it was hung up.
    socket: Option<OwnedFd>,
    process: OwnedFd,
    inherit: Vec<Inherit>,
    log: PathBuf,
    /// Once CRIU's end was waited for.
    over: Option<ExitStatus>,
    spared: bool,
}

/// What one request needs from the file system: CRIU opens both through `/proc`, before it does anything else.
#[derive(Debug)]
pub(super) struct Folders {
    images: File,
    work: File,
}

impl Folders {
    pub(super) fn open(images: &Path, work: &Path) -> Result<Self, Error> {
        let open = |folder: &Path| {
            let file = File::open(folder).and_then(|file| match file.metadata()?.is_dir() {
                true => Ok(file),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            file.map_err(|source| Error::Folder { folder: folder.into(), source })
        };
        Ok(Self { images: open(images)?, work: open(work)? })
    }

    /// The options that a dump and its restore share.
    pub(super) fn options(&self, log_file: &str, lazy: bool, external: &[String]) -> Options {
        Options {
            images_dir_fd: self.images.as_raw_fd(),
            work_dir_fd: Some(self.work.as_raw_fd()),
            log_file: Some(log_file.into()),
            log_level: Some(LOG_LEVEL),
            notify_scripts: Some(true),
            lazy_pages: Some(lazy),
            tcp_established: Some(true),
            link_remap: Some(true),
            file_locks: Some(true),
            ext_unix_sk: Some(true),
            external: external.to_vec(),
            manage_cgroups_mode: Some(CGROUPS_IGNORE),
            network_lock: Some(NETWORK_LOCK_SKIP),
            ..Options::default()
        }
    }
}

impl Worker {
    pub(super) fn start(program: &Path, network: Option<&Path>, inherit: Vec<Inherit>) -> Result<Self, Error> {
        let network = network.map(File::open).transpose().map_err(Error::system("open CRIU's network namespace"))?;
        let (ours, theirs) = pair().map_err(Error::system("make a socket for CRIU"))?;
        let mut command = Command::new(program);
        command.arg("swrk").arg(theirs.as_raw_fd().to_string()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut kept: Vec<RawFd> = inherit.iter().map(|inherit| inherit.fd.as_raw_fd()).collect();
        kept.push(theirs.as_raw_fd());
        // SAFETY: between fork and exec the closure makes system calls only, and neither allocates nor locks.
        unsafe {
            command.pre_exec(move || {
                network.as_ref().map_or(Ok(()), |namespace| enter(namespace.as_raw_fd()))?;
                kept.iter().try_for_each(|fd| keep_over_exec(*fd))
            })
        };
        let mut child = command.spawn().map_err(|source| Error::Start { program: program.into(), source })?;
        match pidfd(child.id()) {
            Ok(process) => {
                Ok(Self { child, socket: Some(ours), process, inherit, log: PathBuf::new(), over: None, spared: false })
            }
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::System { action: "open a pidfd of CRIU", source })
            }
        }
    }

    /// CRIU's process. What is restored inherits its cgroups.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As CRIU names them: it has them under the same numbers.
    pub(super) fn inherited(&self) -> Vec<InheritFd> {
        self.inherit.iter().map(|it| InheritFd { key: it.key.clone(), fd: it.fd.as_raw_fd() }).collect()
    }

    /// From now on a failure is explained by this log. An earlier one of the same name is forgotten.
    pub(super) fn explain_by(&mut self, log: PathBuf) {
        let _ = std::fs::remove_file(&log);
        self.log = log;
    }

    pub(super) fn send(&mut self, action: &'static str, request: &Request) -> Result<(), Error> {
        let sent = match &self.socket {
            Some(socket) => say(socket.as_fd(), request),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
                Error::Gone { action, reason: log::reason(&self.log, None) }
            }
            _ => Error::System { action: "send a request to CRIU", source: error },
        })
    }

    /// Lets CRIU go on, or tells it to undo everything.
    pub(super) fn acknowledge(&mut self, action: &'static str, success: bool) -> Result<(), Error> {
        self.send(action, &Request { kind: Kind::Notify.into(), opts: None, notify_success: Some(success) })
    }

    /// What CRIU says next.
    pub(super) fn answer(&mut self, action: &'static str, deadline: Instant) -> Result<Answer, Error> {
        let Some(socket) = &self.socket else {
            return Err(Error::Gone { action, reason: log::reason(&self.log, None) });
        };
        match hear::<Response>(socket.as_fd(), Some(deadline)) {
            Ok(Some(response)) => Answer::try_from(response).map_err(|what| Error::Garbled { what }),
            Ok(None) => Err(Error::Gone { action, reason: log::reason(&self.log, None) }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(Error::Late { action, reason: log::reason(&self.log, None) })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Error::Garbled { what: error.to_string() }),
            Err(source) => Err(Error::System { action: "hear CRIU's answer", source }),
        }
    }

    /// Answers success until CRIU has come to `point`. Its pid there, if it names one.
    pub(super) fn run_to(
        &mut self,
        action: &'static str,
        point: &str,
        deadline: Instant,
    ) -> Result<Option<i32>, Error> {
        loop {
            match self.answer(action, deadline)? {
                Answer::Notified { script, pid } if script == point => return Ok(pid),
                Answer::Notified { .. } => self.acknowledge(action, true)?,
                Answer::Done(response) => return Err(self.refused(action, &response)),
            }
        }
    }

    /// Why CRIU failed, by its log and its answer.
    pub(super) fn refused(&self, action: &'static str, response: &Response) -> Error {
        Error::Refused { action, reason: log::reason(&self.log, response.cr_errmsg.as_deref()) }
    }

    /// Whether CRIU still lives.
    pub(super) fn lives(&self) -> bool {
        self.over.is_none() && !readable(&self.process, Some(Instant::now())).unwrap_or(false)
    }

    /// Whether CRIU was killed, by us or by anyone, or has crashed: then it has tidied up nothing.
    pub(super) fn was_killed(&self) -> bool {
        self.over.is_some_and(|status| status.signal().is_some())
    }

    /// Waits until CRIU has ended by itself; false at the deadline.
    pub(super) fn wait(&mut self, deadline: Instant) -> bool {
        if self.over.is_none() && readable(&self.process, Some(deadline)).unwrap_or(false) {
            self.over = self.child.wait().ok();
        }
        self.over.is_some()
    }

    /// From now on CRIU is not killed: the tasks that it has restored run, or are about to, and are its children still.
    pub(super) fn spare(&mut self) {
        self.spared = true;
    }

    /// Has CRIU undo what it did, by hanging up; kills it with its helpers if it does not.
    pub(super) fn end(&mut self) {
        self.hang_up();
        match self.wait(Instant::now() + GRACE) {
            true => {}
            false if self.spared => tracing::error!(criu.pid = self.child.id(), "CRIU does not end after a restore"),
            false => self.kill(),
        }
    }

    /// Kills CRIU and what descends from it: helpers of a dump, unfinished tasks of a restore.
    pub(super) fn kill(&mut self) {
        if self.over.is_some() {
            return;
        }
        let below = Tree::below(self.child.id());
        let _ = self.child.kill();
        if let Ok(below) = below {
            below.kill();
        }
        if !self.wait(Instant::now() + KILLED) {
            tracing::error!(criu.pid = self.child.id(), "CRIU was killed and does not end: it hangs in the kernel");
        }
    }

    fn hang_up(&mut self) {
        if let Some(socket) = self.socket.take() {
            // Shut down, since a copy of it may live in a child that someone has just forked.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// A descriptor that names a process for good, whoever is given its number later.
pub(super) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

fn enter(network: RawFd) -> io::Result<()> {
    // SAFETY: setns changes the namespace of the calling thread and touches no memory.
    match unsafe { libc::setns(network, libc::CLONE_NEWNET) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn keep_over_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor and touches no memory.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
