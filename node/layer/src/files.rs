//! Files and their attributes below a directory, in calls that no symbolic link can lead elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use godwit_protocol::Hash;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxFlags, openat2, seek, statx};
use rustix::io::Errno;

use crate::path::LayerPath;
use crate::tree::{CHUNK, Content, Extent, Xattr};

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// What an attribute's value, or the list of their names, may take: Linux's own limit.
const XATTR_MAX: usize = 65_536;

/// Opens what lies at a path below a directory, through directories only.
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), BENEATH)
}

/// A directory to work in.
pub fn open_folder(root: impl AsFd, path: &LayerPath) -> Result<OwnedFd, Errno> {
    open_beneath(root, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a regular file to read; nothing else is ever opened, as opening a device or a FIFO is an act of its own.
pub fn open_regular(root: impl AsFd, path: &LayerPath) -> Result<File, Errno> {
    let found = open_beneath(root, path.as_path(), OFlags::PATH)?;
    let meta = stat_fd(&found)?;
    if !is(&meta, rustix::fs::FileType::RegularFile) {
        return Err(Errno::NXIO);
    }
    let by_fd = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Reading must not look like use. Only the owner and root may ask for that.
    let open = |flags| rustix::fs::open(&by_fd, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let opened =
        open(OFlags::NOATIME).or_else(|error| if error == Errno::PERM { open(OFlags::empty()) } else { Err(error) });
    opened.map(File::from)
}

pub fn stat_at(folder: impl AsFd, name: &OsStr) -> Result<Statx, Errno> {
    statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

pub fn stat_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

pub fn is(meta: &Statx, kind: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(meta.stx_mode.into()) == kind
}

/// A path by which the calls for extended attributes, which know no directory descriptors, reach a name: through the
/// descriptor's entry in `/proc`, without following what the name itself may be.
pub fn by_proc(folder: &impl AsRawFd, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.push(name);
    path
}

/// Whose attributes: a name's, which is not followed, or an open file's.
#[derive(Clone, Copy)]
pub enum Node<'a> {
    Name(&'a Path),
    Open(&'a File),
}

impl Node<'_> {
    fn list(self, list: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Name(path) => rustix::fs::llistxattr(path, list),
            Self::Open(file) => rustix::fs::flistxattr(file, list),
        }
    }

    fn get(self, name: &OsStr, value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Name(path) => rustix::fs::lgetxattr(path, name, value),
            Self::Open(file) => rustix::fs::fgetxattr(file, name, value),
        }
    }

    /// The names of the extended attributes, in order; none on a file system that has none.
    pub fn xattr_names(self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut few = [0; 1024];
        let mut many = Vec::new();
        let list = match self.list(&mut few) {
            Ok(length) => &few[..length],
            Err(Errno::RANGE) => {
                many.resize(XATTR_MAX, 0);
                let length = self.list(&mut many)?;
                &many[..length]
            }
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// An attribute's value; none if it went meanwhile.
    pub fn xattr(self, name: Vec<u8>) -> Result<Option<Xattr>, Errno> {
        let mut value = vec![0; 256];
        loop {
            match self.get(OsStr::from_bytes(&name), &mut value) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(Xattr { name, value }));
                }
                Err(Errno::RANGE) if value.len() < XATTR_MAX => value.resize(XATTR_MAX, 0),
                Err(Errno::NODATA) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where a file of this size has data; `None` if there are more ranges than `max`.
///
/// On ext4, btrfs and f2fs this waits for a write that is under way: they seek under the lock that writes hold. (XFS reads
/// under it.)
pub fn extents(file: &File, size: u64, max: usize) -> Result<Option<Vec<Extent>>, Errno> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match seek(file, SeekFrom::Data(at)) {
            Ok(offset) => offset.min(size),
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        if offset == size {
            break;
        }
        if extents.len() == max {
            return Ok(None);
        }
        // At the end of the file there is a hole by definition. It may have been cut meanwhile.
        at =
            seek(file, SeekFrom::Hole(offset)).or_else(|e| if e == Errno::NXIO { Ok(size) } else { Err(e) })?.min(size);
        let length = at.saturating_sub(offset);
        match extents.last_mut() {
            Some(last) if last.end() >= offset => last.length += length,
            _ if length == 0 => break,
            _ => extents.push(Extent { offset, length }),
        }
    }
    Ok(Some(extents))
}

/// Reads a chunk into a buffer of [`CHUNK`] bytes, its holes as zeros, and says what it is; what the file lacks by now
/// reads as zeros too.
pub fn read_cell<'a>(file: &File, content: &Content, cell: u64, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let length = content.cell_length(cell);
    let buffer = &mut buffer[..length];
    let mut done = 0;
    for part in content.parts(cell) {
        let (from, to) = within(cell, part, length);
        buffer[done..from].fill(0);
        let read = read_up_to(file, &mut buffer[from..to], part.offset)?;
        buffer[from + read..to].fill(0);
        done = to;
    }
    buffer[done..].fill(0);
    Ok(buffer)
}

/// Where a part of a chunk lies in the chunk's bytes.
pub fn within(cell: u64, part: Extent, length: usize) -> (usize, usize) {
    let from = usize::try_from(part.offset - cell * CHUNK).unwrap_or(length).min(length);
    let to = usize::try_from(part.end() - cell * CHUNK).unwrap_or(length).min(length);
    (from, to)
}

/// The hash of a chunk's bytes.
pub fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes back all dirty pages of a file and waits. Whoever has one of them mapped faults at the next write to it, and that
/// fault changes the file's times.
#[allow(unsafe_code)] // no crate wraps the call; `fdatasync` would also write a journal and empty the disk's cache
pub fn write_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes a descriptor, which lives as long as `file`, and integers.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts writing back, without waiting.
#[allow(unsafe_code)] // as above
pub fn start_write_back(file: &File) {
    // SAFETY: takes a descriptor, which lives as long as `file`, and integers. What it cannot do, `write_back` reports.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
