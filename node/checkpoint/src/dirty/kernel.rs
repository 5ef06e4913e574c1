//! The two kernel interfaces that tell written pages: userfaultfd's asynchronous write protection (ioctl_userfaultfd(2),
//! Linux 6.7) and `PAGEMAP_SCAN` (kernel documentation, `admin-guide/mm/pagemap.rst`, Linux 6.7).

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::target::Target;
use super::{Error, PAGE, Refusal};

/// Regions taken from the kernel by one call: 96 KiB of them.
const REGIONS: usize = 4096;

mod abi {
    //! `linux/userfaultfd.h` and `linux/fs.h`.

    #[repr(C)]
    pub struct Api {
        pub api: u64,
        pub features: u64,
        pub ioctls: u64,
    }

    #[repr(C)]
    pub struct Register {
        pub start: u64,
        pub length: u64,
        pub mode: u64,
        pub ioctls: u64,
    }

    #[repr(C)]
    pub struct WriteProtect {
        pub start: u64,
        pub length: u64,
        pub mode: u64,
    }

    pub const UFFD_API: u64 = 0xAA;
    pub const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
    pub const FEATURE_WP_ASYNC: u64 = 1 << 15;
    pub const REGISTER_MODE_WP: u64 = 1 << 1;

    nix::ioctl_readwrite!(api, 0xAA, 0x3F, Api);
    nix::ioctl_readwrite!(register, 0xAA, 0x00, Register);
    nix::ioctl_readwrite!(write_protect, 0xAA, 0x06, WriteProtect);

    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub struct Region {
        pub start: u64,
        pub end: u64,
        pub categories: u64,
    }

    #[derive(Default)]
    #[repr(C)]
    pub struct Scan {
        pub size: u64,
        pub flags: u64,
        pub start: u64,
        pub end: u64,
        pub walk_end: u64,
        pub vec: u64,
        pub vec_len: u64,
        pub max_pages: u64,
        pub category_inverted: u64,
        pub category_mask: u64,
        pub category_anyof_mask: u64,
        pub return_mask: u64,
    }

    pub const SCAN_WP_MATCHING: u64 = 1 << 0;
    pub const SCAN_CHECK_WPASYNC: u64 = 1 << 1;
    pub const WRITTEN: u64 = 1 << 1;
    pub const PRESENT: u64 = 1 << 3;
    pub const SWAPPED: u64 = 1 << 4;
    pub const ZERO_PAGE: u64 = 1 << 5;

    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);
}

/// A userfaultfd of a process, set up to protect asynchronously: a write to a protected page is let through by the kernel,
/// which keeps that it happened. Dropped, it takes all protection away.
#[derive(Debug)]
pub(super) struct Protector(OwnedFd);

impl Protector {
    pub fn new(uffd: OwnedFd) -> Result<Self, Refusal> {
        let features = abi::FEATURE_WP_ASYNC | abi::FEATURE_WP_UNPOPULATED;
        let mut api = abi::Api { api: abi::UFFD_API, features, ioctls: 0 };
        // SAFETY: the structure is the one that this request reads and writes, alive during the call.
        unsafe { abi::api(uffd.as_raw_fd(), &raw mut api) }.map_err(Refusal::NoAsyncProtection)?;
        Ok(Self(uffd))
    }

    /// Takes a mapping in. `EBUSY`: it belongs to another userfaultfd; `ESRCH`: the descriptor's memory is gone, the process
    /// runs another program.
    pub fn register(&self, range: &Range<u64>) -> Result<(), Errno> {
        let length = range.end - range.start;
        let mut register = abi::Register { start: range.start, length, mode: abi::REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: as above; the addresses in it are the other process's and mean nothing here.
        match unsafe { abi::register(self.0.as_raw_fd(), &raw mut register) } {
            // Also what this request says, unlike others, when the memory is gone.
            Err(Errno::ENOMEM) => self.unprotect(range).and(Err(Errno::ENOMEM)),
            result => result.map(drop),
        }
    }

    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes the protection away. Visits each page, some 100 ns each.
    pub fn unprotect(&self, range: &Range<u64>) -> Result<(), Errno> {
        let mut request = abi::WriteProtect { start: range.start, length: range.end - range.start, mode: 0 };
        // SAFETY: as above.
        unsafe { abi::write_protect(self.0.as_raw_fd(), &raw mut request) }.map(drop)
    }
}

/// What a scan does besides looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Protect what was written, in the same step as it is reported: no write falls between.
    Rearm,
    /// Only look at mappings that are registered.
    Look,
    /// Only look, at any mapping; what is written is known of registered ones alone.
    LookAnywhere,
}

/// Pages of one mapping: those with content, and of these the ones written since they were last protected. Pages not there
/// and those that show the kernel's page of zeros have no content. Both lists ascend.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    pub populated: Vec<Range<u64>>,
    pub written: Vec<Range<u64>>,
}

/// `/proc/PID/pagemap` of the memory that the process has now.
pub(super) struct Scanner {
    pagemap: File,
    regions: Vec<abi::Region>,
}

impl Scanner {
    pub fn open(target: &Target) -> Result<Self, Error> {
        let pagemap = target.open_file("pagemap", OFlag::O_RDONLY);
        Ok(Self::over(pagemap.map_err(|errno| Error::os("open of the pagemap of", target.pid, errno))?))
    }

    fn over(pagemap: File) -> Self {
        Self { pagemap, regions: vec![abi::Region::default(); REGIONS] }
    }

    /// Appends the pages of `range`, which is to lie within one mapping. `EPERM`: it is not registered; what was appended
    /// before is then of no use, and pages of it may be protected already.
    pub fn scan(&mut self, range: &Range<u64>, how: Scan, pages: &mut Pages) -> Result<(), Errno> {
        let flags = match how {
            Scan::Rearm => abi::SCAN_WP_MATCHING | abi::SCAN_CHECK_WPASYNC,
            Scan::Look => abi::SCAN_CHECK_WPASYNC,
            Scan::LookAnywhere => 0,
        };
        let mut start = range.start;
        while start < range.end {
            let mut scan = abi::Scan {
                size: size_of::<abi::Scan>() as u64,
                flags,
                start,
                end: range.end,
                vec: self.regions.as_mut_ptr().addr() as u64,
                vec_len: self.regions.len() as u64,
                // Only pages that are there: protecting others would leave markers, which CRIU counts as pages.
                category_anyof_mask: abi::PRESENT | abi::SWAPPED,
                return_mask: abi::WRITTEN | abi::ZERO_PAGE,
                ..abi::Scan::default()
            };
            // SAFETY: the structure is the one that this request reads and writes; the kernel writes at most `vec_len`
            // regions to `vec`, which has room for them and is borrowed exclusively.
            let found = unsafe { abi::pagemap_scan(self.pagemap.as_raw_fd(), &raw mut scan) }?;
            let found = &self.regions[..usize::try_from(found).expect("a count")];
            for region in found {
                if region.categories & abi::ZERO_PAGE != 0 {
                    continue;
                }
                super::ranges::push(&mut pages.populated, region.start..region.end);
                if region.categories & abi::WRITTEN != 0 {
                    super::ranges::push(&mut pages.written, region.start..region.end);
                }
            }
            // `walk_end` counts only if room ran out, and even then may lie before what was told (seen in Linux 6.18, which
            // leaves it where its own small buffer was emptied last).
            let told = found.last().map_or(range.start, |region| region.end);
            start = if found.len() < REGIONS { range.end } else { scan.walk_end.max(told) };
        }
        Ok(())
    }
}

/// Whether this kernel can do both, tried on this process.
pub(super) fn probe() -> Result<(), Refusal> {
    const UFFD_USER_MODE_ONLY: i32 = 1;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: the call takes no pointers; a descriptor it returns is new and owned by nobody else.
    let uffd = unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_userfaultfd, flags)).map_err(|errno| match errno {
            Errno::ENOSYS => Refusal::NoUserfaultfd,
            errno => Refusal::Userfaultfd(errno),
        })?;
        OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor is an int"))
    };
    Protector::new(uffd)?;
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(|error| Refusal::NoPagemapScan(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    Scanner::over(pagemap)
        .scan(&(PAGE..2 * PAGE), Scan::LookAnywhere, &mut Pages::default())
        .map_err(Refusal::NoPagemapScan)
}
