//! The source's side: reads the memory of frozen tasks and answers a target's requests, faults before pushes.
//!
//! Non-goals: it does not freeze the tasks, nor does it end them; whoever holds them frozen calls [`Server::serve`] and acts
//! on how it ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{BufReader, IoSliceMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::connection::Connection;
use super::wire::{Batcher, Request, WireError, greet, greeted};
use super::{PAGE, bytes};

/// Pages of a push that are sent before faults are looked at again: 1 ms at 1 Gbit/s.
const PORTION: u64 = 32;
/// A thread waits for one page at a time, and a process has at most 32,768 threads by default.
const FAULTS_MAX: usize = 1 << 16;
/// Pushes that wait. A target has far fewer under way, see `pace`.
const PUSHES_MAX: usize = 4096;
/// How often an idle source shows that it lives.
const IDLE: Duration = Duration::from_millis(500);

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// The target has all pages.
    Done,
    /// The connection was lost: the target will connect again.
    Lost,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The target breaks the protocol.
    #[error("serve pages to the target")]
    Wire(#[from] WireError),
    /// A frozen task's memory cannot be read.
    #[error("read {pages} pages at {address:#x} of the frozen task {pid}; has it been killed?")]
    Memory {
        /// The task, as this site counts.
        pid: i32,
        /// Where the pages begin.
        address: u64,
        /// How many they are.
        pages: u64,
        /// What the system said.
        #[source]
        source: Errno,
    },
}

/// Serves the memory of one container's frozen tasks.
#[derive(Debug, Clone)]
pub struct Server {
    tasks: HashMap<i32, Pid>,
}

impl Server {
    /// `tasks` maps each task's pid in CRIU's images to its pid here.
    pub fn new(tasks: impl IntoIterator<Item = (i32, Pid)>) -> Self {
        Self { tasks: tasks.into_iter().collect() }
    }

    /// Answers one target until it has all pages or the connection ends.
    ///
    /// # Errors
    /// When the target breaks the protocol, or the tasks' memory cannot be read any more; the target is told of the latter.
    pub fn serve(&self, mut connection: Connection) -> Result<Ending, ServeError> {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let mut requests = BufReader::new(connection.read);
            let put = &queue;
            let reader = scope.spawn(move || {
                let ended = self.listen(&mut requests, put);
                put.end();
                ended
            });
            let answered = self.answer(&mut connection.write, &queue);
            (connection.close)();
            let heard = reader.join().unwrap_or(Ok(Ending::Lost));
            match answered {
                Err(ServeError::Wire(WireError::Lost(_))) | Ok(()) => heard.map_err(ServeError::Wire),
                Err(error) => Err(error),
            }
        })
    }

    fn listen(&self, requests: &mut impl std::io::Read, queue: &Queue) -> Result<Ending, WireError> {
        let lost = |error| match error {
            WireError::Lost(_) => Ok(Ending::Lost),
            error => Err(error),
        };
        if let Err(error) = greeted(requests) {
            return lost(error);
        }
        loop {
            match Request::read(requests) {
                Ok(Request::Done) => return Ok(Ending::Done),
                Ok(request) => queue.put(request)?,
                Err(error) => return lost(error),
            }
        }
    }

    fn answer(&self, write: &mut impl std::io::Write, queue: &Queue) -> Result<(), ServeError> {
        greet(write).map_err(WireError::Lost)?;
        let mut batcher = Batcher::new().map_err(WireError::Lost)?;
        let mut content = vec![0; bytes(PORTION)];
        while let Some(run) = queue.next() {
            let read = match run {
                Some(run) => self.add(run, &mut content, &mut batcher),
                None => Ok(()),
            };
            let sent = batcher.finish(|batch| write.write_all(batch).and_then(|()| write.flush()));
            sent.map_err(WireError::Lost)?;
            read?;
        }
        Ok(())
    }

    fn add(&self, run: Run, content: &mut [u8], batcher: &mut Batcher) -> Result<(), ServeError> {
        let Some(pid) = self.tasks.get(&run.pid) else {
            return Err(ServeError::Wire(WireError::Broken("a request for pages of an unknown task")));
        };
        let content = &mut content[..bytes(run.pages)];
        read_memory(*pid, run.address, content).map_err(|source| {
            batcher.unreadable(run.pid, run.address, run.pages);
            ServeError::Memory { pid: pid.as_raw(), address: run.address, pages: run.pages, source }
        })?;
        batcher.pages(run.pid, run.address, content);
        Ok(())
    }
}

fn read_memory(pid: Pid, address: u64, into: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < into.len() {
        let rest = &mut into[done..];
        let base = usize::try_from(address).map_err(|_| Errno::EFAULT)? + done;
        let remote = RemoteIoVec { base, len: rest.len() };
        match process_vm_readv(pid, &mut [IoSliceMut::new(rest)], &[remote])? {
            0 => return Err(Errno::EFAULT),
            read => done += read,
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    pid: i32,
    address: u64,
    pages: u64,
}

/// What is asked for, and not answered yet.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    faults: VecDeque<(i32, u64)>,
    pushes: VecDeque<Run>,
    /// Pages of `pushes` that were sent before their turn.
    hurried: HashSet<(i32, u64)>,
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change of it is complete in itself.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, request: Request) -> Result<(), WireError> {
        self.lock().put(request)?;
        self.filled.notify_one();
        Ok(())
    }

    fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_one();
    }

    /// What to send next: a run, or `Some(None)` a sign of life. `None` when the target asks no more.
    fn next(&self) -> Option<Option<Run>> {
        let mut waiting = self.lock();
        loop {
            if waiting.ended {
                return None;
            }
            if let Some(run) = waiting.next() {
                return Some(Some(run));
            }
            let (again, idle) = self.filled.wait_timeout(waiting, IDLE).unwrap_or_else(PoisonError::into_inner);
            waiting = again;
            if idle.timed_out() {
                return Some(waiting.next());
            }
        }
    }
}

impl Waiting {
    fn put(&mut self, request: Request) -> Result<(), WireError> {
        match request {
            Request::Fault { pid, address } => self.faults.push_back((pid, address)),
            Request::Hurry { pid, address } => {
                let asked =
                    |run: &Run| run.pid == pid && (run.address..run.address + run.pages * PAGE).contains(&address);
                if self.pushes.iter().any(asked) && self.hurried.insert((pid, address)) {
                    self.faults.push_back((pid, address));
                }
            }
            Request::Push { pid, address, pages } => {
                self.pushes.push_back(Run { pid, address, pages });
            }
            Request::Done => {}
        }
        if self.faults.len() > FAULTS_MAX || self.pushes.len() > PUSHES_MAX {
            return Err(WireError::Broken("more requests than a target may have under way"));
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Run> {
        if let Some((pid, address)) = self.faults.pop_front() {
            return Some(Run { pid, address, pages: 1 });
        }
        loop {
            let mut run = self.pushes.pop_front()?;
            while run.pages > 0 && self.hurried.remove(&(run.pid, run.address)) {
                run = Run { address: run.address + PAGE, pages: run.pages - 1, ..run };
            }
            let ahead = |index: &u64| self.hurried.contains(&(run.pid, run.address + index * PAGE));
            let pages = (0..run.pages.min(PORTION)).take_while(|index| !ahead(index)).count() as u64;
            if pages == 0 {
                continue;
            }
            if pages < run.pages {
                let rest = Run { address: run.address + pages * PAGE, pages: run.pages - pages, ..run };
                self.pushes.push_front(rest);
            }
            return Some(Run { pages, ..run });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(waiting: &mut Waiting) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| waiting.next()).map(|run| (run.address / PAGE, run.pages)).collect()
    }

    #[test]
    fn faults_are_answered_between_the_portions_of_a_push() {
        let mut waiting = Waiting::default();
        waiting.put(Request::Push { pid: 1, address: PAGE, pages: 80 }).unwrap();
        assert_eq!(waiting.next().map(|run| run.pages), Some(PORTION));
        waiting.put(Request::Fault { pid: 1, address: 500 * PAGE }).unwrap();
        assert_eq!(drain(&mut waiting), [(500, 1), (33, 32), (65, 16)]);
    }

    #[test]
    fn a_hurried_page_is_sent_once_and_first() {
        let mut waiting = Waiting::default();
        waiting.put(Request::Push { pid: 1, address: PAGE, pages: 10 }).unwrap();
        waiting.put(Request::Hurry { pid: 1, address: 5 * PAGE }).unwrap();
        waiting.put(Request::Hurry { pid: 1, address: 5 * PAGE }).unwrap();
        assert_eq!(drain(&mut waiting), [(5, 1), (1, 4), (6, 5)]);
        waiting.put(Request::Hurry { pid: 1, address: 6 * PAGE }).unwrap();
        assert_eq!(drain(&mut waiting), [], "it was sent already");
    }

    #[test]
    fn a_target_cannot_ask_without_end() {
        let mut waiting = Waiting::default();
        let ask = |index: u64| Request::Fault { pid: 1, address: index * PAGE };
        assert!((0..=FAULTS_MAX as u64).any(|index| waiting.put(ask(index)).is_err()));
    }
}
