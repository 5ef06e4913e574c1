//! Reads the memory of a running process, by process_vm_readv(2).

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::{Error, PAGE, ranges};

/// `IOV_MAX` of the kernel.
const RANGES_PER_CALL: usize = 1024;

/// Below the 2 GiB at which the kernel cuts a read short.
const BYTES_PER_CALL: usize = 256 << 20;

/// Of pages that process_vm_readv may not read.
const FORCED_PER_CALL: u64 = 1 << 20;

/// Reads whole pages of process `pid` to the beginning of `buffer`, one after the other, and returns which were read.
/// Pages that are not mapped any more, or that nobody may read (guard pages), are left out.
///
/// # Errors
/// [`Error::Gone`] if the process has ended, [`Error::Os`] if it may not be read.
///
/// # Panics
/// If the ranges are not ascending whole pages, or hold more than `buffer` does.
pub fn read_pages(pid: i32, wanted: &[Range<u64>], buffer: &mut [u8]) -> Result<Vec<Range<u64>>, Error> {
    assert!(wanted.iter().all(|range| range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE)));
    assert!(ranges::bytes(wanted) <= buffer.len() as u64, "the buffer has room for what is asked for");
    let mut pages = Reading { pid, queue: Vec::new(), read: Vec::new(), mem: None };
    pages.queue.extend(wanted.iter().rev().filter(|range| !range.is_empty()).cloned());
    let mut rest = buffer;
    while !pages.queue.is_empty() {
        let (got, complete) = pages.plain(rest)?;
        rest = &mut rest[got..];
        if !complete && !pages.queue.is_empty() {
            let got = pages.forced(rest)?;
            rest = &mut rest[got..];
        }
    }
    Ok(pages.read)
}

struct Reading {
    pid: i32,
    /// What is still to be read, the next last.
    queue: Vec<Range<u64>>,
    read: Vec<Range<u64>>,
    /// `/proc/PID/mem`, once it is needed.
    mem: Option<File>,
}

impl Reading {
    /// Reads what process_vm_readv reads: how many bytes, and whether nothing stopped it.
    fn plain(&mut self, buffer: &mut [u8]) -> Result<(usize, bool), Error> {
        let room = buffer.len().min(BYTES_PER_CALL);
        let batch: Vec<_> = self.queue.iter().rev().take(RANGES_PER_CALL).map(remote).collect();
        let wanted = batch.iter().map(|part| part.len).sum::<usize>().min(room);
        let mut local = [IoSliceMut::new(&mut buffer[..room])];
        let got = match process_vm_readv(Pid::from_raw(self.pid), &mut local, &batch) {
            Ok(bytes) => whole_pages(bytes),
            Err(Errno::EFAULT) => 0,
            Err(Errno::ESRCH) => return Err(Error::Gone { pid: self.pid }),
            Err(errno) => return Err(Error::os("process_vm_readv of", self.pid, errno)),
        };
        self.advance(got);
        Ok((got, got == wanted))
    }

    /// Reads on from a page at which process_vm_readv stopped, by `/proc/PID/mem`, which minds no protection (`PROT_NONE`).
    /// A page that cannot be read so either is left out.
    fn forced(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let next = self.queue.last().expect("there is something left to read");
        let (start, length) = (next.start, (next.end - next.start).min(FORCED_PER_CALL));
        let length = usize::try_from(length).expect("at most 1 MiB");
        let failed = |error| Error::io("open of /proc/PID/mem of", self.pid, error);
        let mem = match &mut self.mem {
            Some(mem) => mem,
            none => none.insert(File::open(format!("/proc/{}/mem", self.pid)).map_err(failed)?),
        };
        let got = match mem.read_at(&mut buffer[..length], start) {
            Ok(bytes) => whole_pages(bytes),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
            Err(error) => return Err(Error::io("read of /proc/PID/mem of", self.pid, error)),
        };
        if got > 0 {
            self.advance(got);
        } else if let Some(range) = self.queue.pop()
            && range.start + PAGE < range.end
        {
            self.queue.push(range.start + PAGE..range.end);
        }
        Ok(got)
    }

    fn advance(&mut self, bytes: usize) {
        let mut left = bytes as u64;
        while left > 0 {
            let range = self.queue.pop().expect("no more is read than was asked for");
            let end = range.end.min(range.start + left);
            left -= end - range.start;
            ranges::push(&mut self.read, range.start..end);
            if end < range.end {
                self.queue.push(end..range.end);
            }
        }
    }
}

/// Less than a page at the end of a partial read belongs to a page that vanished in between.
fn whole_pages(bytes: usize) -> usize {
    bytes - bytes % usize::try_from(PAGE).expect("small")
}

fn remote(range: &Range<u64>) -> RemoteIoVec {
    let address = |value| usize::try_from(value).expect("an address of this machine");
    RemoteIoVec { base: address(range.start), len: address(range.end - range.start) }
}
