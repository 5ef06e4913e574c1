//! A dump that is held when its images are complete and its tasks stand.

use std::path::PathBuf;
use std::time::Instant;

use super::conversation::Answer;
use super::rpc::{Kind, Request};
use super::tree::Tree;
use super::worker::{Folders, Worker};
use super::{Error, tcp};

const ACTION: &str = "dump";
const LOG: &str = "dump.log";

/// What is dumped, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// The root of the process tree.
    pub pid: u32,
    /// An empty folder for the images; on tmpfs, for they are written while the tasks stand.
    pub images: PathBuf,
    /// A folder for the log, `dump.log`.
    pub work: PathBuf,
    /// Private anonymous memory stays out of the images: whoever restores reads it from the standing tasks.
    pub lazy: bool,
    /// What is not dumped, for it will be there: `mnt[PATH]:KEY`, `net[INODE]:KEY`, as `criu dump --external` takes it.
    pub external: Vec<String>,
    /// Deleted files that are still open travel in the images up to this many bytes each; a larger one fails the dump.
    pub ghost_limit: u32,
}

/// A dump whose images are complete and whose tasks stand, their memory readable from outside. Dropping it aborts.
#[derive(Debug)]
pub struct Held {
    worker: Worker,
    tree: Tree,
    pinned: bool,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Killed,
    LetGo,
}

impl Worker {
    /// Dumps, and holds the dump. Packets are [kept away](super) from the tasks already.
    ///
    /// # Errors
    /// [`Error::Refused`] by CRIU, [`Error::Late`] at the deadline, and what else breaks. The source runs on, and so do
    /// its connections.
    pub fn dump(mut self, dump: &Dump, deadline: Instant) -> Result<Held, Error> {
        match self.dump_and_hold(dump, deadline) {
            Ok(tree) => Ok(Held { worker: self, tree, pinned: false, fate: Fate::Open }),
            Err(error) => {
                self.end();
                if self.was_killed() {
                    mend(dump.pid);
                }
                Err(error)
            }
        }
    }

    fn dump_and_hold(&mut self, dump: &Dump, deadline: Instant) -> Result<Tree, Error> {
        let folders = Folders::open(&dump.images, &dump.work)?;
        let mut opts = folders.options(LOG, dump.lazy, &dump.external);
        opts.pid = Some(i32::try_from(dump.pid).map_err(|error| Error::Tree { pid: 0, reason: error.to_string() })?);
        opts.leave_stopped = Some(true);
        opts.tcp_skip_in_flight = Some(true);
        opts.ghost_limit = Some(dump.ghost_limit);
        opts.timeout = Some(seconds_until(deadline));
        self.explain_by(dump.work.join(LOG));
        self.send(ACTION, &Request { kind: Kind::Dump.into(), opts: Some(opts), notify_success: None })?;
        self.run_to(ACTION, "post-dump", deadline)?;
        Tree::of(dump.pid)
    }
}

impl Held {
    /// The tasks, which stand.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Sees to it that the tasks stand even when CRIU dies, or when this process does and CRIU lets them go. A task that had
    /// been stopped by a signal before the dump runs after an abort.
    pub fn pin(&mut self) {
        self.tree.stop();
        self.pinned = true;
    }

    /// Whether CRIU still lives. Without it only [pinned](Self::pin) tasks stand.
    #[must_use]
    pub fn criu_lives(&self) -> bool {
        self.worker.lives()
    }

    /// The container goes on elsewhere: kills the tasks and CRIU, and waits until all are gone. Connections are in repair
    /// mode and end without a packet.
    ///
    /// # Errors
    /// [`Error::Alive`]: killed, they cannot run again, but something still holds them in the kernel.
    pub fn commit(mut self, deadline: Instant) -> Result<(), Error> {
        self.kill(deadline)
    }

    /// As [`commit`](Self::commit), to be asked again after [`Error::Alive`].
    pub(super) fn kill(&mut self, deadline: Instant) -> Result<(), Error> {
        self.fate = Fate::Killed;
        self.tree.kill();
        self.worker.kill();
        self.tree.wait(deadline)
    }

    /// Whether it is too late to abort.
    pub(super) fn killed(&self) -> bool {
        self.fate == Fate::Killed
    }

    /// The container goes on here: memory and connections are as they were. Images already written stay where they are and
    /// are worth nothing.
    ///
    /// # Errors
    /// The tasks run in any case; the error says what may be lost, such as a connection that could not be mended, or that
    /// CRIU had to be killed.
    pub fn abort(mut self, deadline: Instant) -> Result<(), Error> {
        let undone = self.undo(deadline);
        if undone.is_err() {
            self.worker.end();
        }
        let mended = self.let_go();
        undone.and(mended)
    }

    /// CRIU reports failure for what we failed: that is success here. A lazy dump opens a port for its pages all the same,
    /// and asks by `status-ready` whether to wait for a connection.
    fn undo(&mut self, deadline: Instant) -> Result<(), Error> {
        const ACTION: &str = "undo the dump";
        self.worker.acknowledge(ACTION, false)?;
        loop {
            match self.worker.answer(ACTION, deadline)? {
                Answer::Notified { script, .. } => self.worker.acknowledge(ACTION, script != "status-ready")?,
                Answer::Done(_) if self.worker.wait(deadline) => return Ok(()),
                Answer::Done(response) => return Err(self.worker.refused(ACTION, &response)),
            }
        }
    }

    /// After CRIU's end: if that was not in order, connections are left in repair mode.
    fn let_go(&mut self) -> Result<(), Error> {
        self.fate = Fate::LetGo;
        let mended = if self.worker.was_killed() { tcp::mend(&self.tree) } else { Ok(()) };
        if std::mem::take(&mut self.pinned) {
            self.tree.resume();
        }
        mended
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.fate == Fate::Open {
            self.worker.end();
            if let Err(error) = self.let_go() {
                tracing::error!(%error, "a dump was dropped, and the source is not quite as it was");
            }
        }
    }
}

/// The tasks run already, for nobody holds them; their connections wait for this.
fn mend(pid: u32) {
    match Tree::of(pid).and_then(|tree| tcp::mend(&tree)) {
        Ok(()) => tracing::warn!(pid, "CRIU had to be killed in the middle of a dump; connections were mended"),
        Err(error) => {
            tracing::error!(pid, %error, "CRIU had to be killed in the middle of a dump; connections may be broken")
        }
    }
}

/// CRIU counts seconds, and takes 0 for no limit.
fn seconds_until(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_secs().saturating_add(1)).unwrap_or(u32::MAX)
}
