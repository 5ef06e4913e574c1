//! A process looked at from outside: its files in `/proc` and its pidfd, both bound to this process and to no later one of
//! the same number.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::Error;

/// More than the largest text that is read of `/proc` in one piece: `smaps` has about 700 bytes for each of the at most
/// 65,530 mappings of a default `vm.max_map_count`.
const TEXT_MAX: u64 = 256 << 20;

/// Threads of one process: the kernel's default limit of process numbers.
const THREADS_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Target {
    pub pid: i32,
    dir: OwnedFd,
    pidfd: OwnedFd,
}

impl Target {
    pub fn open(pid: i32) -> Result<Self, Error> {
        // SAFETY: the call takes no pointers; a descriptor it returns is new and owned by nobody else.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            let fd = Errno::result(fd).map_err(|errno| Error::os("pidfd_open", pid, errno))?;
            OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor is an int"))
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(format!("/proc/{pid}").as_str(), flags, Mode::empty())
            .map_err(|errno| Error::os("open of /proc/PID", pid, errno))?;
        let target = Self { pid, dir, pidfd };
        // The number may have been given to another process between the two calls.
        if target.is_gone() { Err(Error::Gone { pid }) } else { Ok(target) }
    }

    /// Whether the process has ended: then its pidfd is readable.
    pub fn is_gone(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid structure, as the count says; with a timeout of zero the call does not block.
        unsafe { libc::poll(&raw mut poll, 1, 0) != 0 }
    }

    pub fn open_file(&self, path: &str, flags: OFlag) -> Result<File, Errno> {
        openat(&self.dir, path, flags | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
    }

    pub fn read_text(&self, path: &str) -> Result<Vec<u8>, Error> {
        let read = || -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            self.open_file(path, OFlag::O_RDONLY)?.take(TEXT_MAX).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error| Error::io("read of a file in /proc/PID", self.pid, error))?;
        if text.len() as u64 == TEXT_MAX {
            return Err(Error::Malformed { pid: self.pid, what: "a file in /proc/PID is larger than 256 MiB" });
        }
        Ok(text)
    }

    /// The threads' numbers, ascending.
    pub fn threads(&self) -> Result<Vec<i32>, Error> {
        let failed = |error| Error::io("list of /proc/PID/task", self.pid, error);
        let path = format!("/proc/self/fd/{}/task", self.dir.as_raw_fd());
        let mut threads = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)?.take(THREADS_MAX) {
            threads.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        }
        threads.sort_unstable();
        Ok(threads)
    }

    /// The processes that this one's threads have started and that live. A thread that ends meanwhile has none.
    pub fn children(&self) -> Result<Vec<i32>, Error> {
        let mut children = Vec::new();
        for thread in self.threads()? {
            match self.read_text(&format!("task/{thread}/children")) {
                Ok(text) => children.extend(
                    text.split(u8::is_ascii_whitespace)
                        .filter_map(|word| str::from_utf8(word).ok()?.parse::<i32>().ok()),
                ),
                Err(Error::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(children)
    }

    /// A line of the `status` of one thread, after its name: `thread_status(tid, "Seccomp:")`.
    pub fn thread_status(&self, thread: i32, key: &str) -> Result<Option<String>, Error> {
        Ok(status_line(&self.read_text(&format!("task/{thread}/status"))?, key))
    }

    /// A copy of one of the process's descriptors.
    pub fn take_descriptor(&self, descriptor: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: the call takes no pointers; a descriptor it returns is new and owned by nobody else.
        unsafe {
            let fd = Errno::result(libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), descriptor, 0))?;
            Ok(OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor is an int")))
        }
    }

    /// The descriptors whose link in `/proc` says `kind`.
    pub fn descriptors(&self, kind: &str) -> Result<Vec<RawFd>, Error> {
        let failed = |error| Error::io("list of /proc/PID/fd", self.pid, error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}/fd", self.dir.as_raw_fd())).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == kind) {
                found.extend(entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
            }
        }
        Ok(found)
    }

    /// Whether a descriptor of the process and one of ours are the same open file.
    pub fn shares_file(&self, theirs: RawFd, ours: RawFd) -> bool {
        // `KCMP_FILE` of kcmp(2).
        const KCMP_FILE: i32 = 0;
        // SAFETY: the call takes no pointers.
        unsafe { libc::syscall(libc::SYS_kcmp, self.pid, std::process::id(), KCMP_FILE, theirs, ours) == 0 }
    }

    /// Whether both processes use the same memory, as after `vfork`.
    pub fn shares_memory_with(&self, other: &Self) -> bool {
        // `KCMP_VM` of kcmp(2).
        const KCMP_VM: i32 = 1;
        // SAFETY: the call takes no pointers.
        unsafe { libc::syscall(libc::SYS_kcmp, self.pid, other.pid, KCMP_VM, 0, 0) == 0 }
    }
}

/// The rest of the line that begins with `key`. The name of a process is any bytes, hence no text as a whole.
pub(super) fn status_line(status: &[u8], key: &str) -> Option<String> {
    let rest = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes()))?;
    Some(String::from_utf8_lossy(rest).trim().to_owned())
}
