//! Has a thread of another process make a userfaultfd for us: stops it by ptrace, lends its registers to two system calls,
//! and gives everything back. The thread is stopped for about 0.1 ms.
//!
//! ```text
//! SEIZE, INTERRUPT        stopped, perhaps in the middle of a system call
//! userfaultfd             at a `syscall` instruction that the process has already (vdso): no byte of it is changed
//! pidfd_getfd             the descriptor is ours too
//! close                   and no longer its
//! INTERRUPT, CONT         a second stop of the first kind: here, and not after a call, the kernel restarts what the first
//!                         one interrupted, when the registers say so
//! registers, signal mask, DETACH
//! ```
//!
//! Invariant: the thread goes on as it was, whatever fails. All is done by a thread of our own made for it, since the end of
//! a tracer's thread releases what it traces, even what did not stop in time; and once registers are borrowed, that thread
//! waits as long as it takes to give them back, while its caller's patience may end.
//!
//! Limits: a call that no stop leaves alone (`epoll_wait` and others, signal(7)) returns `EINTR`, as after SIGSTOP and SIGCONT;
//! a thread in one is borrowed only if there is no other. If this process is killed in the 0.1 ms between, the thread is left with borrowed registers and will crash.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use libc::{c_int, c_long, c_uint, c_void};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::arch::{NOT_RESTARTED, Registers, SYSCALL};
use super::target::{Target, status_line};
use super::{Error, Refusal};

/// A thread in an uninterruptible sleep does not stop; then another one of the process may. More than a few such threads
/// are no accident.
const THREADS_TRIED: usize = 8;

/// A thread inside a restartable sequence is let go and tried again; sequences are a few instructions long.
const SEQUENCE_RETRIES: usize = 20;

/// How much code is searched for a `syscall` instruction when the vdso has none: the C library comes early.
const CODE_SEARCHED: u64 = 64 << 20;

/// What a descriptor's link in `/proc` says.
const USERFAULTFD: &str = "anon_inode:[userfaultfd]";

/// How long a thread is looked at without sleeping in between.
const YIELDING: Duration = Duration::from_micros(300);

pub(super) struct Injected {
    pub uffd: OwnedFd,
    /// How long the thread stood, from asking it to stop until it was let go.
    pub stopped: Duration,
}

/// Makes a userfaultfd in the target and takes it. Blocks for `patience` at most. `others` are descriptors of this process,
/// userfaultfds of the target's relatives: had one of them forked in the moment when it had it too, the target has inherited
/// it; then it is closed there.
pub(super) fn userfaultfd(target: &Arc<Target>, others: &[RawFd], patience: Duration) -> Result<Injected, Error> {
    let pid = target.pid;
    if SYSCALL.is_empty() {
        return Err(Error::Refused { pid, refusal: Refusal::Architecture(std::env::consts::ARCH) });
    }
    let tracer = tracer_of(target)?;
    if tracer != 0 {
        return Err(Error::Refused { pid, refusal: Refusal::Traced(tracer) });
    }
    let instruction = find_instruction(target)?;
    let inherited = if others.is_empty() { Vec::new() } else { inherited(target, others)? };
    let threads = threads_by_readiness(target)?;
    let slice = patience / u32::try_from(threads.len().max(1)).expect("few threads are tried");
    let mut retries = SEQUENCE_RETRIES;
    let mut threads = threads.into_iter().peekable();
    while let Some(&thread) = threads.peek() {
        match attempt(target, thread, instruction, inherited.clone(), slice) {
            Err(Error::Unresponsive { .. }) => drop(threads.next()),
            Err(Error::InSequence { .. }) if retries > 0 => retries -= 1,
            other => return other,
        }
    }
    if target.is_gone() { Err(Error::Gone { pid }) } else { Err(Error::Unresponsive { pid, patience }) }
}

/// The target's descriptors that are `others`, with those.
fn inherited(target: &Target, others: &[RawFd]) -> Result<Vec<(RawFd, RawFd)>, Error> {
    let mut pairs = Vec::new();
    for fd in target.descriptors(USERFAULTFD)? {
        pairs.extend(others.iter().filter(|&&other| target.shares_file(fd, other)).map(|&other| (fd, other)));
    }
    Ok(pairs)
}

fn tracer_of(target: &Target) -> Result<i32, Error> {
    let status = target.read_text("status")?;
    Ok(status_line(&status, "TracerPid:").and_then(|line| line.parse().ok()).unwrap_or(0))
}

/// Threads that can be stopped at once come first, then those whose call would be cut short; the main one before others, as
/// its table of descriptors is the one that the pidfd means.
fn threads_by_readiness(target: &Target) -> Result<Vec<i32>, Error> {
    let mut threads = Vec::new();
    for thread in target.threads()?.into_iter().take(THREADS_TRIED) {
        match target.thread_status(thread, "State:") {
            Ok(Some(state)) if !state.starts_with(['Z', 'X']) => {
                threads.push((state.starts_with('D'), is_cut_short(target, thread), thread));
            }
            Ok(_) | Err(Error::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    threads.sort_unstable();
    Ok(threads.into_iter().map(|(_, _, thread)| thread).collect())
}

/// `/proc/PID/task/TID/syscall` begins with the number of the call that the thread waits in.
fn is_cut_short(target: &Target, thread: i32) -> bool {
    let text = target.read_text(&format!("task/{thread}/syscall")).unwrap_or_default();
    let number = text.split(|&byte| byte == b' ').next().and_then(|number| str::from_utf8(number).ok()?.parse().ok());
    number.is_some_and(|number| NOT_RESTARTED.contains(&number))
}

/// One thread is tried, by a tracer thread of its own.
fn attempt(
    target: &Arc<Target>,
    thread: i32,
    instruction: u64,
    inherited: Vec<(RawFd, RawFd)>,
    patience: Duration,
) -> Result<Injected, Error> {
    let (send, receive) = sync_channel(1);
    let tracer = {
        let target = Arc::clone(target);
        move || {
            let result = trace(&target, thread, instruction, &inherited, patience);
            // Nobody listens any more if the caller's patience ended: the descriptor is closed then.
            drop(send.send(result));
        }
    };
    let spawned = std::thread::Builder::new().name("godwit-inject".into()).spawn(tracer);
    let handle = spawned.map_err(|error| Error::io("start of the tracer's thread for", target.pid, error))?;
    // The tracer keeps to `patience` by itself until it borrows registers; what follows takes microseconds unless the whole
    // process is frozen meanwhile.
    match receive.recv_timeout(patience * 2) {
        Ok(result) => {
            // A thread that did not stop is released only by the tracer's end, and must be before another one is tried.
            handle.join().expect("the tracer's thread does not panic");
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(Error::Unresponsive { pid: target.pid, patience }),
        Err(RecvTimeoutError::Disconnected) => panic!("the tracer's thread sends before it ends"),
    }
}

fn trace(
    target: &Target,
    thread: i32,
    instruction: u64,
    inherited: &[(RawFd, RawFd)],
    patience: Duration,
) -> Result<Injected, Error> {
    let mut seized = Seized::stop(target, thread, Instant::now() + patience)?;
    let begun = seized.since;
    seized.borrow(instruction)?;
    for &(fd, other) in inherited {
        // Looked at again now: the number may be another file's since.
        if target.shares_file(fd, other) {
            let closed = seized.call(libc::SYS_close, fd.unsigned_abs().into())?;
            tracing::debug!(pid = target.pid, fd, ?closed, "an inherited userfaultfd was closed");
        }
    }
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    let remote = seized.call(libc::SYS_userfaultfd, flags.unsigned_abs().into())?.map_err(|errno| match errno {
        Errno::ENOSYS => Refusal::NoUserfaultfd,
        errno => Refusal::Userfaultfd(errno),
    });
    let uffd = match remote {
        Ok(remote) => {
            let taken = target.take_descriptor(i32::try_from(remote).expect("a descriptor is an int"));
            let closed = seized.call(libc::SYS_close, remote.unsigned_abs())?;
            closed.map_err(|errno| Error::os("close of a userfaultfd in", target.pid, errno))?;
            taken
                .map_err(|errno| Error::os("pidfd_getfd of", target.pid, errno))
                .and_then(|fd| check_kind(fd, target.pid))
        }
        Err(refusal) => Err(Error::Refused { pid: target.pid, refusal }),
    };
    seized.give_back()?;
    seized.detach();
    Ok(Injected { uffd: uffd?, stopped: begun.elapsed() })
}

/// Stops all threads of the target while `look` is run.
pub(super) fn while_stopped<T, F>(target: &Arc<Target>, patience: Duration, look: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    let (pid, target) = (target.pid, Arc::clone(target));
    let spawned = std::thread::Builder::new().name("godwit-stop".into()).spawn(move || {
        let deadline = Instant::now() + patience;
        let mut stopped = BTreeMap::new();
        loop {
            // Threads that run may start others: until a whole list is stopped.
            let mut running = target.threads()?;
            running.retain(|thread| !stopped.contains_key(thread) && !has_ended(&target, *thread));
            if running.is_empty() {
                return look();
            }
            for thread in running {
                match Seized::stop(&target, thread, deadline) {
                    Ok(seized) => drop(stopped.insert(thread, seized)),
                    // It has ended, unless the process has.
                    Err(Error::Gone { .. }) if !target.is_gone() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    });
    let thread = spawned.map_err(|error| Error::io("start of the tracer's thread for", pid, error))?;
    thread.join().expect("the tracer's thread does not panic")
}

/// Ended threads are listed until they are waited for.
fn has_ended(target: &Target, thread: i32) -> bool {
    let state = target.thread_status(thread, "State:");
    !matches!(state, Ok(Some(state)) if !state.starts_with(['Z', 'X']))
}

/// A thread with a table of descriptors of its own means another file by the same number.
fn check_kind(fd: OwnedFd, pid: i32) -> Result<OwnedFd, Error> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match link {
        Ok(link) if link.as_os_str() == USERFAULTFD => Ok(fd),
        _ => Err(Error::Refused { pid, refusal: Refusal::OwnDescriptors }),
    }
}

/// `linux/userfaultfd.h`: faults of the kernel are not to be handled, which needs no privilege. Asynchronous write
/// protection is resolved by the kernel itself, its own faults as well.
const UFFD_USER_MODE_ONLY: c_int = 1;

/// ptrace(2): `linux/ptrace.h`.
const PTRACE_O_SUSPEND_SECCOMP: c_int = 1 << 21;
const PTRACE_EVENT_STOP: c_int = 128;
/// A stop at a system call, by `PTRACE_O_TRACESYSGOOD`.
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;
/// The kernel's `sigset_t`.
const SIGSET_BYTES: usize = 8;

/// Why a traced thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// As asked by `PTRACE_INTERRUPT`, or because the whole process is stopped by a signal.
    Asked,
    /// At the entry or the exit of a system call.
    Syscall,
    /// A signal is about to be delivered.
    Signal(c_int),
}

/// A traced thread; dropped, it goes on as it was.
struct Seized<'a> {
    target: &'a Target,
    thread: i32,
    since: Instant,
    instruction: u64,
    borrowed: Option<(Registers, u64)>,
    attached: bool,
}

impl<'a> Seized<'a> {
    fn stop(target: &'a Target, thread: i32, deadline: Instant) -> Result<Self, Error> {
        let mut seized =
            Self { target, thread, since: Instant::now(), instruction: 0, borrowed: None, attached: false };
        seized.seize()?;
        seized.since = Instant::now();
        seized.request(libc::PTRACE_INTERRUPT, 0, 0, "PTRACE_INTERRUPT of")?;
        loop {
            match seized.poll(libc::WNOHANG)? {
                Some(Stop::Asked) => return Ok(seized),
                // It was on its way before we asked: it is delivered, and the stop follows.
                Some(Stop::Signal(signal)) => seized.resume(libc::PTRACE_CONT, signal)?,
                Some(Stop::Syscall) => seized.resume(libc::PTRACE_CONT, 0)?,
                None if Instant::now() > deadline => {
                    let patience = deadline.saturating_duration_since(seized.since);
                    return Err(Error::Unresponsive { pid: target.pid, patience });
                }
                // A running thread stops within microseconds, less than the shortest sleep takes.
                None if seized.since.elapsed() < YIELDING => std::thread::yield_now(),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A seccomp filter may forbid userfaultfd, or kill the process for it: it is suspended, as CRIU does, or the call not
    /// made at all.
    fn seize(&mut self) -> Result<(), Error> {
        let pid = self.target.pid;
        let mode = self.target.thread_status(self.thread, "Seccomp:")?;
        let filtered = mode.is_some_and(|mode| mode != "0");
        let options = libc::PTRACE_O_TRACESYSGOOD | if filtered { PTRACE_O_SUSPEND_SECCOMP } else { 0 };
        let seize = |options: c_int| ptrace(libc::PTRACE_SEIZE, self.thread, 0, options.unsigned_abs() as usize);
        match seize(options) {
            Ok(_) => self.attached = true,
            Err(Errno::ESRCH) => return Err(Error::Unresponsive { pid, patience: Duration::ZERO }),
            Err(errno) if filtered && seize(libc::PTRACE_O_TRACESYSGOOD).is_ok() => {
                self.attached = true;
                return Err(Error::Refused { pid, refusal: Refusal::Seccomp(errno) });
            }
            Err(errno) => return Err(Error::Refused { pid, refusal: Refusal::Ptrace(errno) }),
        }
        Ok(())
    }

    /// Keeps what the thread has, and blocks its signals: what comes meanwhile stays pending.
    fn borrow(&mut self, instruction: u64) -> Result<(), Error> {
        let pid = self.target.pid;
        let regs = Registers::of(Pid::from_raw(self.thread)).map_err(|errno| self.lost("registers of", errno))?;
        regs.check().map_err(|refusal| Error::Refused { pid, refusal })?;
        if self.is_in_sequence(regs.instruction()) {
            return Err(Error::InSequence { pid });
        }
        // The program may have been replaced since the instruction was found.
        let mut code = [0; SYSCALL.len()];
        if read_exact(pid, instruction, &mut code).is_none() || code != SYSCALL {
            return Err(Error::Replaced { pid });
        }
        let mut mask = 0_u64;
        self.request(libc::PTRACE_GETSIGMASK, SIGSET_BYTES, (&raw mut mask).addr(), "PTRACE_GETSIGMASK of")?;
        self.instruction = instruction;
        self.borrowed = Some((regs, mask));
        self.set_mask(u64::MAX)
    }

    fn set_mask(&self, mask: u64) -> Result<(), Error> {
        self.request(libc::PTRACE_SETSIGMASK, SIGSET_BYTES, (&raw const mask).addr(), "PTRACE_SETSIGMASK of").map(drop)
    }

    /// Whether the thread is inside a restartable sequence (rseq(2)), which the kernel would forget when the thread is seen
    /// elsewhere.
    fn is_in_sequence(&self, instruction: u64) -> bool {
        // `struct ptrace_rseq_configuration`: pointer, size, signature, flags, padding.
        let mut configuration = [0_u64; 3];
        let at = (&raw mut configuration).addr();
        if ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, self.thread, size_of_val(&configuration), at).is_err() {
            return false;
        }
        let word = |at: u64| {
            let mut bytes = [0; 8];
            read_exact(self.target.pid, at, &mut bytes).map(|()| u64::from_ne_bytes(bytes))
        };
        // `struct rseq` has the sequence's address at 8; `struct rseq_cs` its start at 8 and its length at 16.
        let bounds = || {
            let sequence = word(configuration[0].checked_add(8)?)?;
            Some((word(sequence.checked_add(8)?)?, word(sequence.checked_add(16)?)?))
        };
        bounds().is_some_and(|(start, length)| instruction.wrapping_sub(start) < length)
    }

    /// Has the thread make one system call. Two results: whether it could be made, and what it returned.
    fn call(&mut self, number: c_long, argument: u64) -> Result<Result<i64, Errno>, Error> {
        let (regs, _) = self.borrowed.expect("registers are borrowed before they are used");
        let thread = Pid::from_raw(self.thread);
        let calling = regs.calling(self.instruction, number, argument);
        calling.give_to(thread).map_err(|errno| self.lost("registers of", errno))?;
        self.run_to(Stop::Syscall, libc::PTRACE_SYSCALL)?;
        self.run_to(Stop::Syscall, libc::PTRACE_SYSCALL)?;
        let after = Registers::of(thread).map_err(|errno| self.lost("registers of", errno))?;
        Ok(after.result())
    }

    /// Lets the thread run until it stops as wanted. Only SIGSTOP gets through the mask: it is handed on, and takes effect
    /// when the thread is let go.
    fn run_to(&self, wanted: Stop, how: c_uint) -> Result<(), Error> {
        let mut signal = 0;
        loop {
            self.resume(how, signal)?;
            signal = match self.poll(0)? {
                Some(stop) if stop == wanted => return Ok(()),
                Some(Stop::Signal(libc::SIGSTOP)) => libc::SIGSTOP,
                Some(Stop::Signal(signal)) => return Err(Error::Faulted { pid: self.target.pid, signal }),
                Some(Stop::Asked | Stop::Syscall) | None => 0,
            };
        }
    }

    /// Brings the thread to a stop of the first kind and gives everything back.
    fn give_back(&mut self) -> Result<(), Error> {
        let Some((regs, mask)) = self.borrowed else { return Ok(()) };
        self.request(libc::PTRACE_INTERRUPT, 0, 0, "PTRACE_INTERRUPT of")?;
        // A fault that the borrowed registers caused is ours: it is not delivered.
        loop {
            match self.run_to(Stop::Asked, libc::PTRACE_CONT) {
                Ok(()) => break,
                Err(Error::Faulted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        regs.give_to(Pid::from_raw(self.thread)).map_err(|errno| self.lost("registers of", errno))?;
        self.set_mask(mask)?;
        self.borrowed = None;
        Ok(())
    }

    fn detach(&mut self) {
        // A thread that did not stop cannot be detached: the end of this tracer's thread lets it go.
        if std::mem::take(&mut self.attached) {
            let detached = ptrace(libc::PTRACE_DETACH, self.thread, 0, 0);
            tracing::trace!(thread = self.thread, ?detached, "a thread goes on");
        }
    }

    fn resume(&self, how: c_uint, signal: c_int) -> Result<(), Error> {
        self.request(how, 0, signal.unsigned_abs() as usize, "resumption of").map(drop)
    }

    /// The thread's next stop; with `WNOHANG`, none if there is none yet.
    fn poll(&self, flags: c_int) -> Result<Option<Stop>, Error> {
        let wait = |flags: c_int| {
            // SAFETY: all zeros is a valid siginfo_t, and the kernel fills in no more than one.
            unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let id = self.thread.unsigned_abs();
                let waited = libc::waitid(libc::P_PID, id, &raw mut info, flags | libc::__WALL | libc::WSTOPPED);
                Errno::result(waited).map(|_| (info.si_code, info.si_pid(), info.si_status()))
            }
        };
        // The end of the process is another's to wait for: it is looked at and left there.
        let (code, pid, status) = loop {
            match wait(flags | libc::WEXITED | libc::WNOWAIT) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.lost("waitid of", errno)),
                Ok(info) => break info,
            }
        };
        if pid == 0 {
            return Ok(None);
        }
        if !matches!(code, libc::CLD_TRAPPED | libc::CLD_STOPPED) {
            return Err(Error::Gone { pid: self.target.pid });
        }
        wait(libc::WNOHANG).map_err(|errno| self.lost("waitid of", errno))?;
        Ok(Some(match status {
            _ if status >> 8 == PTRACE_EVENT_STOP => Stop::Asked,
            SYSCALL_STOP => Stop::Syscall,
            signal => Stop::Signal(signal),
        }))
    }

    fn request(&self, what: c_uint, address: usize, data: usize, operation: &'static str) -> Result<c_long, Error> {
        ptrace(what, self.thread, address, data).map_err(|errno| self.lost(operation, errno))
    }

    /// A stopped thread leaves its tracer in one way only: it is killed.
    fn lost(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, self.target.pid, errno)
    }
}

impl Drop for Seized<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::debug!(pid = self.target.pid, %error, "a thread's registers could not be given back");
        }
        self.detach();
    }
}

/// One request of ptrace(2). The addresses that some requests take are ours to get right.
fn ptrace(what: c_uint, thread: i32, address: usize, data: usize) -> Result<c_long, Errno> {
    // SAFETY: a request changes the memory of this process only where `address` or `data` is the address of a buffer;
    // each caller passes one of the size that the request documents, alive and exclusive during the call.
    Errno::result(unsafe { libc::ptrace(what, thread, address as *mut c_void, data as *mut c_void) })
}

fn read_exact(pid: i32, base: u64, buffer: &mut [u8]) -> Option<()> {
    let remote = RemoteIoVec { base: usize::try_from(base).ok()?, len: buffer.len() };
    let read = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(buffer)], &[remote]).ok()?;
    (read == remote.len).then_some(())
}

/// Where the process already has the instruction that enters the kernel: in the vdso, or in a library's code.
fn find_instruction(target: &Target) -> Result<u64, Error> {
    let maps = target.read_text("maps")?;
    if maps.is_empty() {
        return Err(Error::Gone { pid: target.pid });
    }
    let mut code: Vec<_> = maps.split(|&byte| byte == b'\n').filter_map(executable).collect();
    code.sort_by_key(|&(vdso, start, _)| (!vdso, start));
    let mut searched = 0;
    for (_, start, end) in code {
        let length = (end - start).min(CODE_SEARCHED - searched);
        let mut bytes = vec![0; usize::try_from(length).expect("at most 64 MiB")];
        if read_exact(target.pid, start, &mut bytes).is_some()
            && let Some(at) = bytes.windows(SYSCALL.len()).position(|window| window == SYSCALL)
        {
            return Ok(start + at as u64);
        }
        searched += length;
    }
    Err(Error::Refused { pid: target.pid, refusal: Refusal::NoInstruction })
}

/// A line of `maps` that is executable: whether it is the vdso, start and end.
fn executable(line: &[u8]) -> Option<(bool, u64, u64)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (start, end) = str::from_utf8(fields.next()?).ok()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let readable = fields.next()?.starts_with(b"r-x");
    (readable && start < end).then_some((line.ends_with(b"[vdso]"), start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_stand_while_it_is_looked_and_go_on_then() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let target = Arc::new(Target::open(i32::try_from(child.id()).unwrap()).unwrap());
        let state = |target: &Target| target.thread_status(target.pid, "State:").unwrap().unwrap();
        let look = {
            let target = Arc::clone(&target);
            move || Ok(state(&target))
        };
        assert_eq!(while_stopped(&target, Duration::from_secs(5), look).unwrap(), "t (tracing stop)");
        while state(&target).starts_with('t') {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = while_stopped(&target, Duration::from_secs(5), || Ok(()));
        assert!(matches!(gone, Err(Error::Gone { .. })), "{gone:?}");
    }
}
