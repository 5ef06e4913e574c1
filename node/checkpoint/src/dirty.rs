//! Which pages of a running process were written, found from outside by userfaultfd write protection.
//!
//! The process runs on, except for 0.1 ms at the beginning. Each [round](Tracker::round) tells what has to be copied again;
//! when little enough is left ([`Rounds`]), the process is stopped by other means (CRIU), and a last round tells the rest.
//!
//! ```text
//! attach            a thread of the process makes a userfaultfd and gives it to us (`inject`)
//! round: Running    mappings are listed, new ones registered; PAGEMAP_SCAN reports written pages and protects them again
//! read              pages are copied; what is written from now on is in the next round
//! ...
//! round: Stopped    nothing is protected or injected any more, only told
//! drop              the userfaultfd is closed, the process is as it was
//! ```
//!
//! Invariant: memory that was reported and copied in every round equals the process's memory after the last one; when in
//! doubt a page is reported again. What is not tracked is named in [`Round::left`], for the final copy (CRIU's images).
//!
//! Limits: devices that write to pages behind the page tables (pinned for RDMA or io_uring) are not seen, hence such a
//! process is refused ([`Refusal::Pinned`]) and compared by content; a read with `O_DIRECT` that is under way when its
//! target is protected escapes notice. A transparent huge page is split when it is first written. A thread's first write to
//! a protected page costs it a minor fault.

#![cfg_attr(test, expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant"))]

mod arch;
mod books;
mod hashes;
mod inject;
mod kernel;
mod mappings;
mod pagemap;
mod protect;
pub(crate) mod ranges;
mod reader;
mod rounds;
mod soft;
mod target;
mod tree;

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use hashes::Hashes;
use protect::WriteProtect;
use soft::SoftDirty;
use target::Target;

pub use mappings::{Kind, Mapping};
pub use reader::read_pages;
pub use rounds::{Limits, Rounds, Sample, Verdict};
pub use tree::{Tree, TreeRound};

/// Bytes of a page, on all processors that are supported.
pub const PAGE: u64 = 4096;

/// How the written pages of a process are found; the first that works is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// userfaultfd write protection and `PAGEMAP_SCAN`: Linux 6.7, stops one thread for 0.1 ms, once.
    WriteProtect,
    /// Soft-dirty bits: kernels with `CONFIG_MEM_SOFT_DIRTY`, stops the process in each round.
    SoftDirty,
    /// All memory is read and compared by hash in each round.
    Hashes,
}

/// What [`Method::choose`] found.
#[derive(Debug)]
pub struct Choice {
    /// The best that works.
    pub method: Method,
    /// Better ones, and why they do not.
    pub refused: Vec<(Method, Refusal)>,
}

impl Method {
    /// The best method that this kernel has. A single process may still refuse it: see [`Tracker::attach`].
    #[must_use]
    pub fn choose() -> Choice {
        let mut refused = Vec::new();
        for (method, probe) in [(Self::WriteProtect, kernel::probe as fn() -> _), (Self::SoftDirty, soft::probe)] {
            match probe() {
                Ok(()) => return Choice { method, refused },
                Err(refusal) => refused.push((method, refusal)),
            }
        }
        Choice { method: Self::Hashes, refused }
    }
}

/// Whether the process runs during a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It runs, and another round will follow.
    Running,
    /// All its threads are stopped, by whomever: nothing is touched, and the round is complete. If the process goes on
    /// nevertheless, rounds may too.
    Stopped,
}

/// What happened to a process's tracked memory since the round before. Ranges are whole pages, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Written: to be copied. In the first round all that has content.
    pub written: Vec<Range<u64>>,
    /// Reported before and without content now (`madvise`): read as zeros.
    pub zeroed: Vec<Range<u64>>,
    /// Tracked from this round on; its content is in `written`.
    pub appeared: Vec<Range<u64>>,
    /// Not tracked any more: unmapped, or now in `left`.
    pub gone: Vec<Range<u64>>,
    /// Mappings that are left to the final copy.
    pub left: Vec<Mapping>,
}

impl Round {
    /// How many bytes are to be copied.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        ranges::bytes(&self.written)
    }
}

/// Tracks the memory of one process.
#[derive(Debug)]
pub struct Tracker {
    target: Arc<Target>,
    backend: Backend,
    refused: Vec<(Method, Refusal)>,
}

#[derive(Debug)]
enum Backend {
    WriteProtect(WriteProtect),
    SoftDirty(SoftDirty),
    Hashes(Hashes),
}

impl Tracker {
    /// Begins to track a process, by the best method that works for it. `patience` bounds how long a thread of it is waited
    /// for to stop. Needs `CAP_SYS_PTRACE` and, for a process with a seccomp filter, `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// [`Error::Gone`], and [`Error::Unresponsive`] if no thread could be stopped: worth another try. A [`Refusal`] is no
    /// error here: it is in [`Tracker::refused`], and the next method is taken.
    pub fn attach(pid: i32, patience: Duration) -> Result<Self, Error> {
        Self::attach_relative(pid, &[], patience, Method::Hashes)
    }

    /// Of a process that may have inherited one of the userfaultfds `others`, by a fork in the moment when its parent had it.
    /// `worst` is the last method that is tried.
    fn attach_relative(pid: i32, others: &[RawFd], patience: Duration, worst: Method) -> Result<Self, Error> {
        let mut refused = Vec::new();
        for method in [Method::WriteProtect, Method::SoftDirty, Method::Hashes] {
            match Self::begin(method, pid, others, patience) {
                Ok(tracker) => return Ok(Self { refused, ..tracker }),
                Err(Error::Refused { refusal, .. }) if method != worst => refused.push((method, refusal)),
                Err(error) => return Err(error),
            }
        }
        unreachable!("hashes are never refused")
    }

    /// Begins to track a process by one method.
    ///
    /// # Errors
    /// As [`Tracker::attach`], and [`Error::Refused`] with the reason why it cannot be that method.
    pub fn attach_by(method: Method, pid: i32, patience: Duration) -> Result<Self, Error> {
        Self::begin(method, pid, &[], patience)
    }

    fn begin(method: Method, pid: i32, others: &[RawFd], patience: Duration) -> Result<Self, Error> {
        let target = Arc::new(Target::open(pid)?);
        let backend = match method {
            Method::WriteProtect => Backend::WriteProtect(WriteProtect::attach(&target, others, patience)?),
            Method::SoftDirty => Backend::SoftDirty(SoftDirty::attach(&target, patience)?),
            Method::Hashes => Backend::Hashes(Hashes::attach(&target)),
        };
        Ok(Self { target, backend, refused: Vec::new() })
    }

    /// The userfaultfd, if it is tracked by one.
    fn descriptor(&self) -> Option<RawFd> {
        match &self.backend {
            Backend::WriteProtect(tracker) => Some(tracker.descriptor()),
            Backend::SoftDirty(_) | Backend::Hashes(_) => None,
        }
    }

    /// The tracked process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.target.pid
    }

    /// How it is tracked.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.backend {
            Backend::WriteProtect(_) => Method::WriteProtect,
            Backend::SoftDirty(_) => Method::SoftDirty,
            Backend::Hashes(_) => Method::Hashes,
        }
    }

    /// Better methods, and why the process is not tracked by them.
    #[must_use]
    pub fn refused(&self) -> &[(Method, Refusal)] {
        &self.refused
    }

    /// How long a thread of the process stood when tracking began.
    #[must_use]
    pub fn stopped(&self) -> Duration {
        match &self.backend {
            Backend::WriteProtect(tracker) => tracker.stopped,
            Backend::SoftDirty(_) | Backend::Hashes(_) => Duration::ZERO,
        }
    }

    /// What was written since the round before. Copy it before the next round, by [`Tracker::read`].
    ///
    /// # Errors
    /// [`Error::Gone`] if the process has ended; [`Error::Replaced`] if it runs another program, [`Error::Refused`] if the
    /// method is right for it no longer: attach anew. After any error, the next round reports everything again.
    pub fn round(&mut self, phase: Phase) -> Result<Round, Error> {
        match &mut self.backend {
            Backend::WriteProtect(tracker) => tracker.round(phase),
            Backend::SoftDirty(tracker) => tracker.round(phase),
            Backend::Hashes(tracker) => tracker.round(),
        }
    }

    /// [`read_pages`] of this process. [`Method::Hashes`] compares with what was read here, and by no other way.
    ///
    /// # Errors
    /// As [`read_pages`].
    ///
    /// # Panics
    /// As [`read_pages`].
    pub fn read(&mut self, wanted: &[Range<u64>], buffer: &mut [u8]) -> Result<Vec<Range<u64>>, Error> {
        match &mut self.backend {
            Backend::Hashes(tracker) => tracker.read(wanted, buffer),
            Backend::WriteProtect(_) | Backend::SoftDirty(_) => read_pages(self.target.pid, wanted, buffer),
        }
    }
}

/// All tracked memory of a process that is stopped and was not tracked before.
fn everything(pid: i32) -> Result<Round, Error> {
    let target = Target::open(pid)?;
    let mappings = mappings::read(&target)?;
    let pages = match protect::look(&target, &mappings.list, &[]) {
        Ok(pages) => pages,
        // No `PAGEMAP_SCAN` here.
        Err(Error::Os { .. }) => pagemap::read(&target, mappings::tracked(&mappings.list))?,
        Err(error) => return Err(error),
    };
    Ok(books::Books::default().settle(mappings.list, pages))
}

/// Why a process cannot be tracked by a method. Permanent: take the next one.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Registers cannot be borrowed on this processor yet.
    #[error("registers are not borrowed on {0} yet")]
    Architecture(&'static str),
    /// Registers of a 32-bit program are not borrowed.
    #[error("it runs a 32-bit program")]
    Program32,
    /// Only one tracer can hold a thread.
    #[error("process {0} traces it already (a debugger or strace)")]
    Traced(i32),
    /// The kernel forbids to trace it.
    #[error("it may not be traced: CAP_SYS_PTRACE is needed, and no security module in the way")]
    Ptrace(#[source] Errno),
    /// Its filter may forbid userfaultfd or kill it for the call, and cannot be suspended.
    #[error(
        "it has a seccomp filter that cannot be suspended: CAP_SYS_ADMIN, CONFIG_CHECKPOINT_RESTORE and a tracer without a \
         filter of its own are needed"
    )]
    Seccomp(#[source] Errno),
    /// The thread that was borrowed has a table of descriptors of its own.
    #[error("its threads do not share their descriptors")]
    OwnDescriptors,
    /// Not even the vdso has one.
    #[error("no instruction that enters the kernel was found in its code")]
    NoInstruction,
    /// The kernel lacks the call.
    #[error("this kernel has no userfaultfd (CONFIG_USERFAULTFD)")]
    NoUserfaultfd,
    /// The kernel or a security module refuses the call, or descriptors are used up.
    #[error("userfaultfd is refused to it")]
    Userfaultfd(#[source] Errno),
    /// Before Linux 6.7.
    #[error("this kernel has no asynchronous write protection (Linux 6.7)")]
    NoAsyncProtection(#[source] Errno),
    /// Before Linux 6.7.
    #[error("this kernel has no PAGEMAP_SCAN (Linux 6.7)")]
    NoPagemapScan(#[source] Errno),
    /// Or the bit is not kept.
    #[error("this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)")]
    NoSoftDirty,
    /// Writes to pinned pages are seen by no page table.
    #[error("it has pinned pages (io_uring buffers or RDMA), which are written behind its page tables")]
    Pinned,
}

/// What stopped tracking.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has ended, or is about to.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// It called `execve`: its memory is new.
    #[error("process {pid} runs another program now: attach to it again")]
    Replaced {
        /// The process.
        pid: i32,
    },
    /// This method does not do.
    #[error("process {pid} cannot be tracked so: {refusal}")]
    Refused {
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// Its threads wait for disks, or are frozen.
    #[error("no thread of process {pid} stopped within {} ms: it may be frozen or wait for a disk; try again", patience.as_millis())]
    Unresponsive {
        /// The process.
        pid: i32,
        /// How long was waited.
        patience: Duration,
    },
    /// The thread is inside a restartable sequence (rseq) whenever it is looked at.
    #[error("a thread of process {pid} is inside a restartable sequence: try again")]
    InSequence {
        /// The process.
        pid: i32,
    },
    /// The borrowed registers caused a fault; they were given back.
    #[error("a system call on behalf of process {pid} caused signal {signal}")]
    Faulted {
        /// The process.
        pid: i32,
        /// Number of the signal.
        signal: i32,
    },
    /// The kernel refused an operation.
    #[error("{operation} process {pid}")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// On which process.
        pid: i32,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `/proc` is not as documented.
    #[error("/proc of process {pid}: {what}")]
    Malformed {
        /// The process.
        pid: i32,
        /// What is wrong.
        what: &'static str,
    },
}

impl Error {
    fn os(operation: &'static str, pid: i32, errno: Errno) -> Self {
        Self::io(operation, pid, errno.into())
    }

    /// A process that ended looks different from call to call.
    fn io(operation: &'static str, pid: i32, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT | libc::ECHILD) => Self::Gone { pid },
            _ => Self::Os { operation, pid, source },
        }
    }
}
