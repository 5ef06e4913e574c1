//! A process and all its descendants, while they stand still.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use procfs::process::Process;
use procfs::{ProcError, ProcResult};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::conversation::readable;
use super::worker::pidfd;
use super::{Error, tcp};

/// More processes are no container of ours; each costs a descriptor.
const TASKS_MAX: usize = 4096;

/// A process tree, each process named for good by a descriptor: what is signalled is never a stranger with the same number.
///
/// The list is complete only if the processes stand still, as those of a held dump or restore do.
#[derive(Debug)]
pub struct Tree {
    root: u32,
    /// Parents before their children; the root first.
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    pid: u32,
    process: OwnedFd,
}

impl Tree {
    /// The process and all its descendants.
    ///
    /// # Errors
    /// [`Error::Tree`]: there is no such process, or more than 4096.
    pub fn of(root: u32) -> Result<Self, Error> {
        let process = pidfd(root).map_err(|error| problem(root, error))?;
        let mut tree = Self { root, tasks: vec![Task { pid: root, process }] };
        tree.collect()?;
        Ok(tree)
    }

    /// As [`of`](Self::of), for a process that an earlier life of ours has met: [`started`](Self::started) tells it from a
    /// stranger that was given the same number since.
    ///
    /// # Errors
    /// [`Error::Tree`]: that process is gone.
    pub fn again(root: u32, started: u64) -> Result<Self, Error> {
        let tree = Self::of(root)?;
        // Asked after its descriptor was opened: if the answer is of the same process, so is the descriptor.
        if tree.started()? == started { Ok(tree) } else { Err(problem(root, "it is another process by now")) }
    }

    /// When the root was started, in clock ticks since the machine was (`starttime` in proc_pid_stat(5)).
    ///
    /// # Errors
    /// [`Error::Tree`]: it is gone.
    pub fn started(&self) -> Result<u64, Error> {
        let stat = number(self.root).and_then(|pid| Process::new(pid)?.stat());
        stat.map(|stat| stat.starttime).map_err(|error| problem(self.root, error))
    }

    /// The descendants alone.
    pub(super) fn below(root: u32) -> Result<Self, Error> {
        let mut tree = Self { root, tasks: Vec::new() };
        tree.children_of(root)?;
        tree.collect()?;
        Ok(tree)
    }

    fn collect(&mut self) -> Result<(), Error> {
        let mut next = 0;
        while let Some(task) = self.tasks.get(next) {
            self.children_of(task.pid)?;
            next += 1;
        }
        Ok(())
    }

    fn children_of(&mut self, pid: u32) -> Result<(), Error> {
        // One that has ended meanwhile has no children.
        let Ok(threads) = number(pid).and_then(|pid| Process::new(pid)?.tasks()) else { return Ok(()) };
        for child in threads.flatten().filter_map(|thread| thread.children().ok()).flatten() {
            if self.tasks.len() == TASKS_MAX {
                return Err(problem(self.root, format!("there are more than {TASKS_MAX}")));
            }
            match pidfd(child) {
                Ok(process) => self.tasks.push(Task { pid: child, process }),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(problem(self.root, error)),
            }
        }
        Ok(())
    }

    /// The process ids, as this process sees them; the root first.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.tasks.iter().map(|task| task.pid)
    }

    /// A descriptor of the root's process, which names it for good.
    ///
    /// # Errors
    /// That there is no descriptor left.
    pub fn root(&self) -> Result<OwnedFd, Error> {
        let root = self.tasks.first().ok_or_else(|| problem(self.root, "there is none"))?;
        root.process.try_clone().map_err(Error::system("copy a pidfd"))
    }

    /// As [`pids`](Self::pids), each after the process id that CRIU's images have for it: the one in the pid namespace of the
    /// tree's root.
    ///
    /// # Errors
    /// [`Error::Tree`]: a process is gone, which none is while it is held.
    pub fn image_pids(&self) -> Result<Vec<(u32, u32)>, Error> {
        let named = self.pids().map(|pid| Ok((inner_pid(pid).map_err(|reason| problem(self.root, reason))?, pid)));
        named.collect()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.tasks.iter().map(|task| (task.pid, task.process.as_fd()))
    }

    /// Sends SIGSTOP: tasks that stand under a tracer will not run an instruction when it lets them go or dies, for a task
    /// looks for signals before it goes back to its program (`get_signal` in Linux' `kernel/signal.c`).
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Takes SIGSTOP back, be it pending or in effect. A program that handles SIGCONT sees one.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Resumes what stands stopped without a tracer, after whoever held it has died, with its connections mended: CRIU may
    /// have left them in repair mode.
    ///
    /// # Errors
    /// That a connection could not be mended; the tasks run even then.
    pub fn recover(&self) -> Result<(), Error> {
        let mended = tcp::mend(self);
        self.resume();
        mended
    }

    /// Sends SIGKILL, to the root first: if that is the first process of a pid namespace, the rest goes with it.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits until all are gone.
    ///
    /// # Errors
    /// [`Error::Alive`] at the deadline.
    pub fn wait(&self, deadline: Instant) -> Result<(), Error> {
        let alive = |task: &&Task| !readable(&task.process, Some(deadline)).unwrap_or(false);
        let pids: Vec<i32> = self.tasks.iter().filter(alive).filter_map(|task| i32::try_from(task.pid).ok()).collect();
        if pids.is_empty() { Ok(()) } else { Err(Error::Alive { pids }) }
    }

    fn signal(&self, signal: Signal) {
        for task in &self.tasks {
            match pidfd_send_signal(&task.process, signal) {
                // Gone already.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => tracing::error!(task.pid, ?signal, %error, "a signal could not be sent"),
            }
        }
    }
}

/// The innermost of the process ids that a process has in its nested namespaces (`NSpid` in proc_pid_status(5)).
pub(crate) fn inner_pid(pid: u32) -> ProcResult<u32> {
    let status = Process::new(number(pid)?)?.status()?;
    let inner = status.nspid.as_ref().and_then(|pids| pids.last());
    Ok(inner.and_then(|inner| u32::try_from(*inner).ok()).unwrap_or(pid))
}

fn number(pid: u32) -> ProcResult<i32> {
    i32::try_from(pid).map_err(|error| ProcError::Other(error.to_string()))
}

fn problem(root: u32, reason: impl ToString) -> Error {
    Error::Tree { pid: i32::try_from(root).unwrap_or(0), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tree_has_all_descendants_and_dies_whole() {
        let mut root = Command::new("sh").args(["-c", "sh -c 'sleep 60 & wait' & sleep 60"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let tree = loop {
            let tree = Tree::of(root.id()).unwrap();
            if tree.pids().count() == 4 {
                break tree;
            }
            assert!(Instant::now() < deadline, "{:?}", tree.pids().collect::<Vec<_>>());
            std::thread::yield_now();
        };
        assert_eq!(tree.pids().next(), Some(root.id()));
        assert!(tree.image_pids().unwrap().iter().all(|(image, pid)| image == pid), "no namespace of its own");
        assert!(matches!(tree.wait(Instant::now()), Err(Error::Alive { pids }) if pids.len() == 4));
        let started = tree.started().unwrap();
        assert!(Tree::again(root.id(), started).is_ok());
        assert!(matches!(Tree::again(root.id(), started + 1), Err(Error::Tree { .. })));
        tree.kill();
        tree.wait(deadline).unwrap();
        root.wait().unwrap();
        assert!(matches!(Tree::of(root.id()), Err(Error::Tree { .. })));
    }
}
