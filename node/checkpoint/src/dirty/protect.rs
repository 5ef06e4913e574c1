//! Tracking by write protection: [`Method::WriteProtect`](super::Method).

use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::books::Books;
use super::inject::{self, Injected};
use super::kernel::{Pages, Protector, Scan, Scanner};
use super::mappings::{self, Kind, Mapping};
use super::target::Target;
use super::{Error, Phase, Refusal, Round, ranges};

/// One process whose private memory is write-protected. Invariant: a page is protected only if it is reported in the same
/// round, so that whatever fails, a page is reported once more rather than not at all.
#[derive(Debug)]
pub(super) struct WriteProtect {
    target: Arc<Target>,
    protector: Protector,
    /// What was taken in and is still mapped, as of the last round.
    registered: Vec<Range<u64>>,
    books: Books,
    pub stopped: Duration,
}

/// How one mapping fared.
enum Outcome {
    Scanned(Pages),
    /// Not to be protected, or gone or replaced since it was listed.
    Refused,
}

impl WriteProtect {
    pub fn attach(target: &Arc<Target>, others: &[RawFd], patience: Duration) -> Result<Self, Error> {
        let refused = |refusal| Error::Refused { pid: target.pid, refusal };
        if mappings::read(target)?.pinned {
            return Err(refused(Refusal::Pinned));
        }
        let Injected { uffd, stopped } = inject::userfaultfd(target, others, patience)?;
        let protector = Protector::new(uffd).map_err(refused)?;
        Ok(Self { target: Arc::clone(target), protector, registered: Vec::new(), books: Books::default(), stopped })
    }

    pub fn descriptor(&self) -> RawFd {
        self.protector.descriptor()
    }

    pub fn round(&mut self, phase: Phase) -> Result<Round, Error> {
        let mut mappings = mappings::read(&self.target)?;
        match phase {
            Phase::Running if mappings.pinned => Err(Error::Refused { pid: self.target.pid, refusal: Refusal::Pinned }),
            Phase::Running => {
                let pages = self.rearm(&mut mappings.list)?;
                Ok(self.books.settle(mappings.list, pages))
            }
            Phase::Stopped => {
                let known = if mappings.pinned { &[][..] } else { &self.registered };
                let pages = look(&self.target, &mappings.list, known)?;
                Ok(self.books.settle(mappings.list, pages))
            }
        }
    }

    fn rearm(&mut self, list: &mut [Mapping]) -> Result<Pages, Error> {
        let mut scanner = Scanner::open(&self.target)?;
        let mut pages = Pages::default();
        // Pages protected before an error are reported by nobody: then nothing is known any more.
        let before = std::mem::take(&mut self.registered);
        let mut registered = Vec::new();
        let (mut scanned, mut refused) = (0_usize, 0_usize);
        for mapping in list.iter_mut().filter(|mapping| mapping.kind == Kind::Private) {
            let known = overlaps(&before, &mapping.range);
            match self.rearm_mapping(&mut scanner, &mapping.range, known)? {
                Outcome::Scanned(found) => {
                    found.populated.into_iter().for_each(|range| ranges::push(&mut pages.populated, range));
                    found.written.into_iter().for_each(|range| ranges::push(&mut pages.written, range));
                    ranges::push(&mut registered, mapping.range.clone());
                    scanned += 1;
                }
                Outcome::Refused => {
                    mapping.kind = Kind::Unprotectable;
                    refused += 1;
                }
            }
        }
        self.registered = registered;
        // A process has a stack at least. If nothing it has can be protected any more, this is another program's memory,
        // while the one we knew lives on in another process (vfork).
        if scanned == 0 && refused > 0 { Err(self.lost()) } else { Ok(pages) }
    }

    /// `known`: part of it was taken in before. It may have grown since, which the books see, or be another mapping.
    fn rearm_mapping(&self, scanner: &mut Scanner, range: &Range<u64>, known: bool) -> Result<Outcome, Error> {
        if known && let Some(pages) = self.scan(scanner, range)? {
            return Ok(Outcome::Scanned(pages));
        }
        match self.protector.register(range) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Err(self.lost()),
            Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOENT | Errno::EPERM) => return Ok(Outcome::Refused),
            Err(errno) => return Err(self.failed("UFFDIO_REGISTER of", errno)),
        }
        let Some(mut pages) = self.scan(scanner, range)? else { return Ok(Outcome::Refused) };
        if pages.written != pages.populated {
            // Some pages were protected already. If not by us but carried along by mremap (before Linux 6.14), they may be
            // writable all the same: they are protected anew.
            match self.protector.unprotect(range) {
                Ok(()) => {}
                Err(Errno::ESRCH) => return Err(self.lost()),
                Err(Errno::ENOENT) => return Ok(Outcome::Refused),
                Err(errno) => return Err(self.failed("UFFDIO_WRITEPROTECT of", errno)),
            }
            let Some(again) = self.scan(scanner, range)? else { return Ok(Outcome::Refused) };
            pages = again;
        }
        // Nothing is known of it: all that it holds counts as written.
        Ok(Outcome::Scanned(Pages { written: pages.populated.clone(), populated: pages.populated }))
    }

    /// None: it is not, or not as a whole, a mapping that was taken in.
    fn scan(&self, scanner: &mut Scanner, range: &Range<u64>) -> Result<Option<Pages>, Error> {
        let mut pages = Pages::default();
        match scanner.scan(range, Scan::Rearm, &mut pages) {
            Ok(()) => Ok(Some(pages)),
            Err(Errno::EPERM) => Ok(None),
            Err(errno) => Err(self.failed("PAGEMAP_SCAN of", errno)),
        }
    }

    fn failed(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, self.target.pid, errno)
    }

    /// The descriptor's memory is not the process's.
    fn lost(&self) -> Error {
        let pid = self.target.pid;
        if self.target.is_gone() { Error::Gone { pid } } else { Error::Replaced { pid } }
    }
}

/// Looks without protecting, at a process that does not run. What is not `known` counts as written.
pub(super) fn look(target: &Target, list: &[Mapping], known: &[Range<u64>]) -> Result<Pages, Error> {
    let failed = |errno| Error::os("PAGEMAP_SCAN of", target.pid, errno);
    let mut scanner = Scanner::open(target)?;
    let mut pages = Pages::default();
    for range in mappings::tracked(list) {
        let mut found = Pages::default();
        let looked =
            if overlaps(known, &range) { scanner.scan(&range, Scan::Look, &mut found) } else { Err(Errno::EPERM) };
        match looked {
            Ok(()) => {}
            Err(Errno::EPERM) => {
                found = Pages::default();
                scanner.scan(&range, Scan::LookAnywhere, &mut found).map_err(failed)?;
                found.written.clone_from(&found.populated);
            }
            Err(errno) => return Err(failed(errno)),
        }
        found.populated.into_iter().for_each(|range| ranges::push(&mut pages.populated, range));
        found.written.into_iter().for_each(|range| ranges::push(&mut pages.written, range));
    }
    Ok(pages)
}

fn overlaps(list: &[Range<u64>], range: &Range<u64>) -> bool {
    let at = list.partition_point(|known| known.end <= range.start);
    list.get(at).is_some_and(|known| known.start < range.end)
}
