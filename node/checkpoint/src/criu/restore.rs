//! A restore that is held when all is restored and no instruction was run.

use std::path::PathBuf;
use std::time::Instant;

use super::Error;
use super::conversation::Answer;
use super::rpc::{Kind, Request};
use super::tree::Tree;
use super::worker::{Folders, Worker};

const ACTION: &str = "restore";
const LOG: &str = "restore.log";

/// What is restored, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The folder with the images.
    pub images: PathBuf,
    /// A folder for the log, `restore.log`, and for the socket on which pages are asked for, `lazy-pages.socket`.
    pub work: PathBuf,
    /// The root file system, itself a mount; `None` for tasks that were dumped in the mount namespace that CRIU is in.
    pub root: Option<PathBuf>,
    /// Of a lazy dump: a page service listens on `lazy-pages.socket`, and serves until the tasks have all their pages.
    pub lazy: bool,
    /// What the external resources of the dump are here: `mnt[KEY]:PATH`, as `criu restore --external` takes it.
    pub external: Vec<String>,
}

/// A restore that is complete but for the first instruction. Dropping it cancels.
#[derive(Debug)]
pub struct HeldRestore {
    worker: Worker,
    tree: Tree,
    root: u32,
    released: bool,
}

impl Worker {
    /// Restores, and holds the tasks before their first instruction. Packets are [kept away](super) until the release.
    ///
    /// The tasks will be children of whoever takes CRIU's orphans: the nearest subreaper above this process, or init. A task
    /// that asked to die with its parent (`PR_SET_PDEATHSIG`) does so when CRIU, its parent at first, ends after the release.
    ///
    /// # Errors
    /// [`Error::Refused`] by CRIU, [`Error::Late`] at the deadline, and what else breaks. Nothing is left.
    pub fn restore(mut self, restore: &Restore, deadline: Instant) -> Result<HeldRestore, Error> {
        let folders = Folders::open(&restore.images, &restore.work)?;
        let root = restore.root.as_ref().map(|path| match path.to_str() {
            Some(path) => Ok(path.to_owned()),
            None => Err(Error::Name { path: path.clone() }),
        });
        let mut opts = folders.options(LOG, restore.lazy, &restore.external);
        opts.root = root.transpose()?;
        opts.inherit_fd = self.inherited();
        self.explain_by(restore.work.join(LOG));
        self.send(ACTION, &Request { kind: Kind::Restore.into(), opts: Some(opts), notify_success: None })?;
        let root = self.run_to(ACTION, "post-restore", deadline)?;
        let root = root.and_then(|pid| u32::try_from(pid).ok());
        let Some(root) = root else { return Err(Error::Garbled { what: "post-restore without a pid".into() }) };
        let tree = Tree::of(root)?;
        Ok(HeldRestore { worker: self, tree, root, released: false })
    }
}

impl HeldRestore {
    /// The restored tasks, which stand.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Lets the tasks run, and gives the process id of their root. Whoever calls this has made sure that no other copy does.
    ///
    /// # Errors
    /// [`Error::Refused`]: CRIU has failed in its last steps and killed the tasks. After any other error they may run, and so
    /// they are not killed: CRIU, if it lives, goes on. [`Tree::root`] of [`tree`](Self::tree), taken before, tells how it
    /// ends.
    pub fn release(mut self, deadline: Instant) -> Result<u32, Error> {
        const ACTION: &str = "let the restored tasks run";
        self.worker.spare();
        self.released = true;
        self.worker.acknowledge(ACTION, true)?;
        loop {
            match self.worker.answer(ACTION, deadline)? {
                Answer::Notified { .. } => self.worker.acknowledge(ACTION, true)?,
                Answer::Done(response) if response.success => break,
                Answer::Done(response) => return Err(self.worker.refused(ACTION, &response)),
            }
        }
        self.worker.wait(deadline);
        Ok(self.root)
    }

    /// Undoes everything: the tasks are killed before their first instruction, and are gone when this returns.
    ///
    /// # Errors
    /// [`Error::Alive`]: killed, they cannot run, but something still holds them in the kernel.
    pub fn cancel(mut self, deadline: Instant) -> Result<(), Error> {
        self.undo();
        self.tree.wait(deadline)
    }

    fn undo(&mut self) {
        self.worker.end();
        self.tree.kill();
        self.released = true;
    }
}

impl Drop for HeldRestore {
    fn drop(&mut self) {
        if !self.released {
            self.undo();
        }
    }
}
