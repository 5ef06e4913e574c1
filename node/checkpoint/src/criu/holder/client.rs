//! The side that uses a holder.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket};

use super::super::conversation::{hear, say};
use super::super::{Criu, Dump, Error};
use super::wire::{self, Ask, Call, DumpCall, Phase, Reply};

/// Beyond a deadline, for the holder to end a CRIU that hangs.
const GRACE: Duration = Duration::from_secs(5);

/// While a holder starts, its socket is looked for this often.
const RETRY: Duration = Duration::from_micros(200);

/// What a holder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing yet.
    Idle,
    /// The tasks stand.
    Held {
        /// They, the root of the tree first.
        pids: Vec<u32>,
        /// False: CRIU has died, and the tasks are kept by their stop signals.
        criu_lives: bool,
    },
    /// A commit has killed them, and they hang in the kernel: commit again.
    Killed {
        /// They.
        pids: Vec<u32>,
    },
    /// They are gone.
    Committed,
    /// They run.
    Aborted,
}

/// The connection to a holder. Dropping it changes nothing at the holder. After [`Error::HolderSilent`] it is of no use:
/// [connect](Self::connect) again.
#[derive(Debug)]
pub struct Holder {
    socket: OwnedFd,
    path: PathBuf,
    /// Of a holder that this process has started: to be waited for when it ends.
    child: Option<Child>,
}

impl Holder {
    /// Starts a holder by `command`, which is to call [`run`](super::run) with the same path, and has it start CRIU.
    /// Its output goes where the command says; it lives longer than this process, so not into a pipe that ends with it.
    ///
    /// # Errors
    /// That the command cannot be started or does not listen in time, that CRIU cannot be started, or that another holder
    /// listens there.
    pub fn start(mut command: Command, socket: &Path, criu: &Criu, deadline: Instant) -> Result<Self, Error> {
        if Self::connect(socket).is_ok() {
            return Err(Error::Listen { socket: socket.into(), source: io::ErrorKind::AddrInUse.into() });
        }
        // A process group of its own: what a terminal sends to ours does not reach it.
        command.process_group(0).stdin(Stdio::null());
        let program = PathBuf::from(command.get_program());
        let mut child = command.spawn().map_err(|source| Error::Start { program, source })?;
        let prepared = wire::Program::try_from(criu).and_then(|program| {
            let mut holder = Self::connect_by(socket, deadline)?;
            holder.ask(Ask::Prepare(program), deadline)?;
            Ok(holder)
        });
        match prepared {
            Ok(holder) => Ok(Self { child: Some(child), ..holder }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Connects to a holder that an earlier life of this process has started.
    ///
    /// # Errors
    /// [`Error::HolderSilent`]: it is gone.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let connected = UnixAddr::new(path).and_then(|address| {
            let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
            connect(socket.as_raw_fd(), &address)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Ok(Self { socket, path: path.into(), child: None }),
            Err(errno) => Err(Error::HolderSilent { socket: path.into(), source: errno.into() }),
        }
    }

    fn connect_by(path: &Path, deadline: Instant) -> Result<Self, Error> {
        let starting = |error: &io::Error| {
            [Errno::ENOENT, Errno::ECONNREFUSED].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
        };
        loop {
            match Self::connect(path) {
                Err(Error::HolderSilent { source, .. }) if starting(&source) && Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                other => return other,
            }
        }
    }

    /// Dumps, and holds the dump. The process ids, the root first.
    ///
    /// # Errors
    /// As [`Worker::dump`](super::super::Worker::dump), in words; the source runs on.
    pub fn dump(&mut self, dump: &Dump, deadline: Instant) -> Result<Vec<u32>, Error> {
        self.ask(Ask::Dump(DumpCall::try_from(dump)?), deadline).map(|reply| reply.pids)
    }

    /// What it holds.
    ///
    /// # Errors
    /// [`Error::HolderSilent`].
    pub fn status(&mut self, deadline: Instant) -> Result<Status, Error> {
        let reply = self.ask(Ask::Status(()), deadline)?;
        Ok(match reply.phase() {
            Phase::Idle => Status::Idle,
            Phase::Held => Status::Held { pids: reply.pids, criu_lives: reply.criu_lives },
            Phase::Killed => Status::Killed { pids: reply.pids },
            Phase::Committed => Status::Committed,
            Phase::Aborted => Status::Aborted,
        })
    }

    /// Has the tasks killed; they are gone when this returns. Right to ask again.
    ///
    /// # Errors
    /// As [`Held::commit`](super::super::Held::commit), in words.
    pub fn commit(&mut self, deadline: Instant) -> Result<(), Error> {
        self.ask(Ask::Commit(()), deadline).map(drop)
    }

    /// Lets the tasks run. Right to ask again.
    ///
    /// # Errors
    /// As [`Held::abort`](super::super::Held::abort), in words: the tasks run then too, unless they were killed before.
    pub fn abort(&mut self, deadline: Instant) -> Result<(), Error> {
        self.ask(Ask::Abort(()), deadline).map(drop)
    }

    /// Ends the holder, when nothing is held any more.
    ///
    /// # Errors
    /// That a dump is held: it stays so.
    pub fn quit(mut self, deadline: Instant) -> Result<(), Error> {
        self.ask(Ask::Quit(()), deadline)?;
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask, deadline: Instant) -> Result<Reply, Error> {
        let within = deadline.saturating_duration_since(Instant::now()).as_millis();
        let call = Call { within_ms: u64::try_from(within).unwrap_or(u64::MAX), ask: Some(ask) };
        let heard = say(self.socket.as_fd(), &call)
            .and_then(|()| hear::<Reply>(self.socket.as_fd(), Some(deadline + GRACE)))
            .and_then(|reply| reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        match heard {
            Ok(reply) if reply.failure.is_empty() => Ok(reply),
            Ok(reply) => Err(Error::Holder { reason: reply.failure }),
            Err(source) => {
                // An answer that comes too late must not be taken for the next one's.
                let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
                Err(Error::HolderSilent { socket: self.path.clone(), source })
            }
        }
    }
}
