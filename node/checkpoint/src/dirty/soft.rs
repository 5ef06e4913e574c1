//! Tracking by the soft-dirty bit: [`Method::SoftDirty`](super::Method), for kernels built with `CONFIG_MEM_SOFT_DIRTY`
//! (kernel documentation, `admin-guide/mm/soft-dirty.rst`).
//!
//! The bits cannot be read and cleared in one step: all threads are stopped meanwhile, for some 10 ms per GiB.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::books::Books;
use super::kernel::Pages;
use super::target::Target;
use super::{Error, PAGE, Phase, Refusal, Round, inject, mappings, pagemap};

/// One process whose soft-dirty bits are read and cleared. Nobody else may clear them meanwhile.
#[derive(Debug)]
pub(super) struct SoftDirty {
    target: Arc<Target>,
    patience: Duration,
    books: Books,
}

impl SoftDirty {
    pub fn attach(target: &Arc<Target>, patience: Duration) -> Result<Self, Error> {
        probe().map_err(|refusal| Error::Refused { pid: target.pid, refusal })?;
        if mappings::read(target)?.pinned {
            return Err(Error::Refused { pid: target.pid, refusal: Refusal::Pinned });
        }
        Ok(Self { target: Arc::clone(target), patience, books: Books::default() })
    }

    pub fn round(&mut self, phase: Phase) -> Result<Round, Error> {
        let target = Arc::clone(&self.target);
        let look = move |clear: bool| {
            let found = mappings::read(&target)?;
            if found.pinned {
                return Err(Error::Refused { pid: target.pid, refusal: Refusal::Pinned });
            }
            let pages = pagemap::read(&target, mappings::tracked(&found.list))?;
            if clear {
                clear_bits(&target)?;
            }
            Ok((found.list, pages))
        };
        let (list, pages) = match phase {
            Phase::Running => inject::while_stopped(&self.target, self.patience, move || look(true))?,
            Phase::Stopped => look(false)?,
        };
        Ok(self.books.settle(list, pages))
    }
}

fn clear_bits(target: &Target) -> Result<(), Error> {
    let failed = |error| Error::io("write of /proc/PID/clear_refs of", target.pid, error);
    let mut file = target.open_file("clear_refs", OFlag::O_WRONLY).map_err(|errno| failed(errno.into()))?;
    file.write_all(b"4").map_err(failed)
}

/// Whether this kernel keeps the bits: without them the page just written looks clean.
pub(super) fn probe() -> Result<(), Refusal> {
    let none = |_| Refusal::NoSoftDirty;
    let page = usize::try_from(PAGE).expect("small");
    let mut memory = vec![0_u8; 2 * page];
    let at = memory.as_ptr().addr().next_multiple_of(page);
    let within = at - memory.as_ptr().addr();
    // Not to be optimized away: it is the write that is looked for.
    std::hint::black_box(&mut memory)[within] = 1;
    let target = Target::open(i32::try_from(std::process::id()).expect("a process number")).map_err(none)?;
    let range = at as u64..at as u64 + PAGE;
    let pages = pagemap::read(&target, std::iter::once(range.clone())).map_err(none)?;
    drop(memory);
    if pages == (Pages { populated: vec![range.clone()], written: vec![range] }) {
        Ok(())
    } else {
        Err(Refusal::NoSoftDirty)
    }
}
