//! userfaultfd, the calls of it that a page service needs (kernel: `Documentation/admin-guide/mm/userfaultfd.rst`,
//! `include/uapi/linux/userfaultfd.h`; man 2 ioctl_userfaultfd).

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{PAGE, PAGE_BYTES};

/// Bytes of one message that a userfaultfd gives.
const MESSAGE: usize = 32;
/// Messages that one read takes: a fork carries a descriptor, and a socket passes at most 253 at once (man 7 unix).
pub(super) const MESSAGES_MAX: usize = 64;

mod ioctl {
    use super::{Copied, Span, Zeroed};

    nix::ioctl_readwrite!(copy, 0xaa, 0x03, Copied);
    nix::ioctl_readwrite!(zeropage, 0xaa, 0x04, Zeroed);
    nix::ioctl_read!(wake, 0xaa, 0x02, Span);
}

/// `struct uffdio_range`.
#[repr(C)]
pub struct Span {
    start: u64,
    len: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
pub struct Copied {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
pub struct Zeroed {
    range: Span,
    mode: u64,
    zeropage: i64,
}

/// What happened to an address space.
#[derive(Debug)]
pub(super) enum Event {
    /// A thread waits for the page at this address.
    Fault(u64),
    /// The process forked: the child's address space has this descriptor.
    Fork(OwnedFd),
    /// A mapping moved.
    Remap { from: u64, to: u64, bytes: u64 },
    /// Pages were given up: they read as zeros from now on.
    Remove(Range<u64>),
    /// A mapping ended.
    Unmap(Range<u64>),
}

/// How filling a run of pages went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// This many bytes from the start are there now, and whoever waited for them runs.
    Bytes(u64),
    /// The first page was there before; whoever waits for it was woken.
    There,
    /// An event is under way in the process: read it, then try again.
    Again,
    /// No mapping that this descriptor watches holds the whole run.
    NotMapped,
    /// The process has no more memory (its cgroup's limit): try again later.
    NoMemory,
    /// The address space has ended.
    Dead,
}

/// One address space whose missing pages we fill.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        // A blocking userfaultfd cannot be polled.
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Fills the pages from `address` on with `content`, a whole number of pages.
    pub fn copy(&self, address: u64, content: &[u8]) -> Result<Filled, Errno> {
        debug_assert!((content.len() as u64).is_multiple_of(PAGE) && !content.is_empty());
        let mut call =
            Copied { dst: address, src: content.as_ptr() as u64, len: content.len() as u64, mode: 0, copy: 0 };
        // SAFETY: the kernel reads `len` bytes from `src`, which is `content`, borrowed during the call, and writes to
        // `call` alone in this process; what it writes to the other process is that one's missing pages.
        let done = unsafe { ioctl::copy(self.0.as_raw_fd(), &raw mut call) };
        outcome(done, call.copy)
    }

    /// Fills `bytes` from `address` on with zero pages.
    pub fn zero(&self, address: u64, bytes: u64) -> Result<Filled, Errno> {
        let mut call = Zeroed { range: Span { start: address, len: bytes }, mode: 0, zeropage: 0 };
        // SAFETY: the kernel writes to `call` alone in this process.
        let done = unsafe { ioctl::zeropage(self.0.as_raw_fd(), &raw mut call) };
        outcome(done, call.zeropage)
    }

    /// Has all threads that wait for a page in `range` look again.
    pub fn wake(&self, range: Range<u64>) -> Result<(), Errno> {
        let mut span = Span { start: range.start, len: range.end - range.start };
        // SAFETY: the kernel only reads `span`.
        unsafe { ioctl::wake(self.0.as_raw_fd(), &raw mut span) }.map(drop)
    }

    /// Has all threads that wait for any page look again.
    pub fn wake_all(&self) -> Result<(), Errno> {
        // From the lowest address that may be mapped to the end of a four-level page table; the ioctl refuses more.
        self.wake(0x1_0000..0x7fff_ffff_f000)
    }

    /// Whether the address space still lives.
    pub fn lives(&self) -> bool {
        // Below what any linker uses: nothing is registered there, so that a living one answers "not mapped".
        !matches!(self.copy(0x1_0000, &[0; PAGE_BYTES]), Ok(Filled::Dead))
    }

    /// Takes what happened since the last call, at most [`MESSAGES_MAX`].
    pub fn read(&self) -> Result<Vec<Event>, Errno> {
        let mut messages = [0; MESSAGE * MESSAGES_MAX];
        match nix::unistd::read(&self.0, &mut messages) {
            Ok(bytes) => Ok(messages[..bytes].as_chunks().0.iter().filter_map(event).collect()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn outcome(done: Result<i32, Errno>, filled: i64) -> Result<Filled, Errno> {
    // A call that stops half-way fails, but says how far it came.
    if let Ok(bytes @ 1..) = u64::try_from(filled) {
        return Ok(Filled::Bytes(bytes));
    }
    match done {
        Ok(_) => Ok(Filled::Bytes(0)),
        Err(Errno::EEXIST) => Ok(Filled::There),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Filled::Again),
        Err(Errno::ENOENT) => Ok(Filled::NotMapped),
        Err(Errno::ENOMEM) => Ok(Filled::NoMemory),
        // ENOSPC until Linux 4.13.
        Err(Errno::ESRCH | Errno::ENOSPC) => Ok(Filled::Dead),
        Err(errno) => Err(errno),
    }
}

/// `struct uffd_msg`: an event number, seven reserved bytes, up to three words.
fn event(message: &[u8; MESSAGE]) -> Option<Event> {
    let word = |index: usize| message.as_chunks().0.get(index + 1).copied().map_or(0, u64::from_ne_bytes);
    Some(match message[0] {
        0x12 => Event::Fault(word(1) & !(PAGE - 1)),
        0x13 => {
            let [a, b, c, d, ..] = word(0).to_ne_bytes();
            // SAFETY: the kernel made this descriptor in this process when the message was read, for its reader alone.
            Event::Fork(unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes([a, b, c, d])) })
        }
        0x14 => Event::Remap { from: word(0), to: word(1), bytes: word(2) },
        0x15 => Event::Remove(word(0)..word(1)),
        0x16 => Event::Unmap(word(0)..word(1)),
        _ => return None,
    })
}
