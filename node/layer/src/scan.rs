//! A directory into a tree, quickly when little changed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use godwit_protocol::Hash;
use rustix::fs::{FileType, OFlags, RawDir, Statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::files::{self, Node, is};
use crate::path::LayerPath;
use crate::tree::{Attributes, CELL, Content, Device, Entry, Kind, Tree};
use crate::{Form, LayerError, Limits, is_overlays};

/// Threads that read. BLAKE3 keeps up with memory on a few; the rest are for who lives here.
const READERS_MAX: usize = 4;
/// Chunks that one thread reads at a time: large files are shared out in pieces of 4 MiB.
const SLICE: usize = 16;
/// Room for a few hundred names.
const NAMES: usize = 32 * 1024;

/// File systems that change a file's times at the first write to a mapped page after it was written back. tmpfs does not:
/// it never writes back.
const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683e;
const F2FS: i64 = 0xf2f5_2010;

/// Whether anything may write while a tree is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Tasks run: what changes under the scan is a hint, what vanishes is left out.
    Running,
    /// All tasks are stopped: what changes is an error.
    Stopped,
}

/// Scans a directory again and again. Only what changed since is read again.
///
/// # Why the last scan misses no change
///
/// What was read before is taken for granted if the file still has its device, inode, size, mode, mtime and ctime. The kernel
/// changes the ctime at every change of content or attributes, and no call can set it. But it does so at the *beginning* of a
/// change, so that three gaps must be closed when a file is read while tasks run:
///
/// - **Mapped pages.** A write through a shared mapping changes the times at the page's first fault only; later writes to the
///   page change nothing until it is written back. So a file is written back first, which protects its pages again, then
///   its times are taken, then it is read: whatever is written after that faults, and the ctime moves. Overlays map the file of
///   the upper directory itself, so that this holds below them too. It holds on ext4, XFS, btrfs and f2fs; on others (tmpfs)
///   content is read at every scan.
/// - **Calls under way.** A `write` changes the times, then copies. Finding holes (ext4, btrfs, f2fs) or reading (XFS) takes
///   the lock that writes hold, and happens after the times were taken: a call that began before has ended.
/// - **Ticks.** Two changes within one tick of the coarse clock have one ctime (since Linux 6.13 not even these, once
///   someone looked); page faults and direct asynchronous writes under way hold no lock. So a reading counts later only
///   if the ctime was older than [`Limits::quiet`] when the scan began.
///
/// When all tasks are stopped, no call is under way and no mapping is written: then equal times mean equal content. What
/// remains is the real-time clock set back to the very nanosecond of an earlier change, and a direct write or page fault
/// that takes longer than `quiet`.
///
/// # What it costs in the frozen time
///
/// One `statx` a name, about 3 µs with all that follows, and reading every changed file to its end, at about 3 GB/s a core from
/// the page cache: a gigabyte that changed takes 160 ms on two cores. The kernel does not say which pages of a file changed:
/// fanotify reports no ranges, `cachestat` forgets pages at their writeback, and extents stay where they are (but for copies that
/// share them, which ext4 has not).
pub struct Scanner {
    root: OwnedFd,
    shown: PathBuf,
    form: Form,
    limits: Limits,
    /// The file system on which equal times mean equal content.
    told: Option<u64>,
    known: HashMap<Id, Known>,
}

/// What a scan found, and what it cost.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The tree.
    pub tree: Tree,
    /// Files whose content was read.
    pub files_read: u64,
    /// Bytes that were read. What a scan in the frozen time will cost is about what the scan before read.
    pub bytes_read: u64,
}

/// Device and inode.
type Id = (u64, u64);

/// What tells that a file is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    mode: u16,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

struct Known {
    looks: Looks,
    entry: Arc<Entry>,
}

struct Found {
    path: LayerPath,
    id: Id,
    looks: Looks,
    is_shared: bool,
    what: What,
}

impl Found {
    fn is_folder(&self) -> bool {
        FileType::from_raw_mode(self.looks.mode.into()) == FileType::Directory
    }
}

enum What {
    /// As it was at an earlier scan.
    Known(Arc<Entry>),
    /// No file, and looked at; whether that counts later.
    Fresh(Box<(Kind, Attributes)>, bool),
    /// A file to be read.
    Unread,
    Whiteout,
}

/// A file that is ready to be read.
struct Prepared {
    index: usize,
    id: Id,
    looks: Looks,
    attributes: Attributes,
    content: Content,
    cells: Vec<u64>,
    is_steady: bool,
}

/// Scans a directory that stands still, once.
///
/// # Errors
/// As [`Scanner::scan`].
pub fn scan(root: &Path, form: Form, limits: &Limits) -> Result<Tree, LayerError> {
    Ok(Scanner::open(root, form, *limits)?.scan(Moment::Stopped)?.tree)
}

impl Scanner {
    /// For a directory.
    ///
    /// # Errors
    /// [`LayerError::Io`] if it cannot be opened.
    pub fn open(root: &Path, form: Form, limits: Limits) -> Result<Self, LayerError> {
        let open = || -> Result<_, Errno> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(root, flags, rustix::fs::Mode::empty())?;
            let tells = [EXT4, XFS, BTRFS, F2FS].contains(&rustix::fs::fstatfs(&fd)?.f_type);
            let device = id(&files::stat_fd(&fd)?).0;
            Ok((fd, tells.then_some(device)))
        };
        let (fd, told) = open().map_err(LayerError::io("open", root))?;
        Ok(Self { root: fd, shown: root.to_owned(), form, limits, told, known: HashMap::new() })
    }

    /// The tree as it is.
    ///
    /// # Errors
    /// [`LayerError`] names the file that cannot be read or must not travel, and, when all should stand still, the one that
    /// changes.
    pub fn scan(&mut self, moment: Moment) -> Result<Scanned, LayerError> {
        let began = clock_gettime(ClockId::RealtimeCoarse);
        let before = Duration::new(u64::try_from(began.tv_sec).unwrap_or(0), nanoseconds(began.tv_nsec));
        let round = Round { scanner: self, moment, before: before.saturating_sub(self.limits.quiet) };
        let mut found = round.walk()?;
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let (firsts, unread) = round.sort_out(&found);
        let read = round.read(&found, &unread)?;
        let (files_read, bytes_read) = read.iter().flatten().fold((0, 0), |(files, bytes), file| {
            (files + 1, bytes + file.content.extents.iter().map(|extent| extent.length).sum::<u64>())
        });
        let (entries, known) = assemble(found, &firsts, read);
        self.known = known;
        let tree = Tree { entries };
        tree.check(self.form, &self.limits)?;
        Ok(Scanned { tree, files_read, bytes_read })
    }

    /// The data of a file's chunk, without its holes. What is read while tasks run may be anything.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&self, path: &LayerPath, content: &Content, cell: u64) -> Result<Vec<u8>, LayerError> {
        let read = || -> std::io::Result<Vec<u8>> {
            let file = files::open_regular(&self.root, path)?;
            let mut data = Vec::with_capacity(content.cell_length(cell));
            for part in content.parts(cell) {
                let from = data.len();
                data.resize(from + usize::try_from(part.length).unwrap_or(0), 0);
                files::read_up_to(&file, &mut data[from..], part.offset)?;
            }
            Ok(data)
        };
        read().map_err(LayerError::io("read", &self.shown.join(path.as_path())))
    }
}

/// One scan.
struct Round<'a> {
    scanner: &'a Scanner,
    moment: Moment,
    /// What changed before, counts.
    before: Duration,
}

impl Round<'_> {
    /// Looks at every name, the directories of one depth together.
    fn walk(&self) -> Result<Vec<Found>, LayerError> {
        let mut found = Vec::with_capacity(self.scanner.known.len() + 1);
        let root = files::stat_fd(&self.scanner.root).map_err(self.io("read", &LayerPath::ROOT))?;
        found.extend(self.look(&self.scanner.root, OsStr::new("."), LayerPath::ROOT, &root)?);
        let mut folders = vec![LayerPath::ROOT];
        while !folders.is_empty() {
            // However many names there are, no more than the limit are held.
            let room = AtomicUsize::new(self.scanner.limits.entries.saturating_sub(found.len()));
            let lists = parallel(&folders, |buffer, folder| self.list(folder, buffer, &room));
            folders.clear();
            for list in lists {
                let list = list?;
                folders.extend(list.iter().filter(|one| one.is_folder()).map(|one| one.path.clone()));
                found.extend(list);
            }
        }
        Ok(found)
    }

    /// Looks at the names in a directory, in the directory's own order, which is that of the disk.
    fn list(&self, path: &LayerPath, buffer: &mut Vec<u8>, room: &AtomicUsize) -> Result<Vec<Found>, LayerError> {
        let mut found = Vec::new();
        let folder = files::open_folder(&self.scanner.root, path);
        let Some(folder) = self.unless_gone("list", path, folder)? else { return Ok(found) };
        buffer.reserve(NAMES);
        let mut names = RawDir::new(&folder, buffer.spare_capacity_mut());
        while let Some(name) = names.next() {
            let Some(name) = self.unless_gone("list", path, name)? else { break };
            let name = name.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let child = path.join(name).map_err(|_| LayerError::malformed(path, "a path that is too long"))?;
            let meta = files::stat_at(&folder, OsStr::from_bytes(name));
            let Some(meta) = self.unless_gone("read", &child, meta)? else { continue };
            found.extend(self.look(&folder, OsStr::from_bytes(name), child, &meta)?);
            let took = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1));
            took.map_err(|_| LayerError::TooMany(self.scanner.limits.entries))?;
        }
        Ok(found)
    }

    /// What a name is, but for the content of files that are not known; nothing for a socket.
    fn look(&self, folder: &OwnedFd, name: &OsStr, path: LayerPath, meta: &Statx) -> Result<Option<Found>, LayerError> {
        let (id, looks) = (id(meta), looks(meta));
        let is_whiteout = is(meta, FileType::CharacterDevice) && (meta.stx_rdev_major, meta.stx_rdev_minor) == (0, 0);
        let what = if is(meta, FileType::Socket) {
            tracing::debug!(path = ?path, "layer.socket_skipped");
            return Ok(None);
        } else if self.scanner.form == Form::Overlay && is_whiteout {
            What::Whiteout
        } else if let Some(known) = self.scanner.known.get(&id).filter(|known| known.looks == looks) {
            What::Known(known.entry.clone())
        } else if is(meta, FileType::RegularFile) {
            What::Unread
        } else {
            match self.describe(folder, name, &path, meta)? {
                Some(what) => what,
                None => return Ok(None),
            }
        };
        let is_shared = meta.stx_nlink > 1 && !is(meta, FileType::Directory);
        Ok(Some(Found { path, id, looks, is_shared, what }))
    }

    fn describe(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &LayerPath,
        meta: &Statx,
    ) -> Result<Option<What>, LayerError> {
        let device = Device { major: meta.stx_rdev_major, minor: meta.stx_rdev_minor };
        let mut kind = match FileType::from_raw_mode(meta.stx_mode.into()) {
            FileType::Symlink => {
                // What became something else meanwhile is as good as gone.
                let target = rustix::fs::readlinkat(folder, name, Vec::new());
                let target = target.map_err(|error| if error == Errno::INVAL { Errno::NOENT } else { error });
                let Some(target) = self.unless_gone("read", path, target)? else { return Ok(None) };
                Kind::Symlink(target.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::Char(device),
            FileType::BlockDevice => Kind::Block(device),
            _ => Kind::Directory { opaque: false },
        };
        let by_proc = files::by_proc(folder, name);
        let Some((attributes, opaque)) = self.attributes(path, Node::Name(&by_proc), meta)? else { return Ok(None) };
        if let Kind::Directory { opaque: is_opaque } = &mut kind {
            *is_opaque = opaque;
        }
        let again = self.unless_gone("read", path, files::stat_at(folder, name))?;
        let is_same = again.is_some_and(|again| (id(&again), looks(&again)) == (id(meta), looks(meta)));
        if !is_same && self.moment == Moment::Stopped {
            return Err(LayerError::Changed(self.full(path)));
        }
        let counts = is_same && self.is_quiet(&looks(meta));
        Ok(Some(What::Fresh(Box::new((kind, attributes)), counts)))
    }

    /// A file's attributes, and whether an overlay marks it as opaque.
    fn attributes(
        &self,
        path: &LayerPath,
        node: Node<'_>,
        meta: &Statx,
    ) -> Result<Option<(Attributes, bool)>, LayerError> {
        let (mut opaque, mut xattrs) = (false, Vec::new());
        let Some(names) = self.unless_gone("list the attributes of", path, node.xattr_names())? else {
            return Ok(None);
        };
        for name in names {
            let read = |name| node.xattr(name).map_err(self.io("read an attribute of", path));
            if self.scanner.form == Form::Overlay && is_overlays(&name) {
                match name.rsplit(|&byte| byte == b'.').next() {
                    Some(b"opaque") => opaque = read(name)?.is_some_and(|xattr| xattr.value == b"y"),
                    Some(b"redirect") => return Err(self.refers(path, "redirect_dir")),
                    Some(b"metacopy") => return Err(self.refers(path, "metacopy")),
                    _ => {}
                }
                continue;
            }
            xattrs.extend(read(name)?);
        }
        let attributes = Attributes {
            mode: meta.stx_mode & 0o7777,
            uid: meta.stx_uid,
            gid: meta.stx_gid,
            mtime: meta.stx_mtime.tv_sec,
            mtime_ns: meta.stx_mtime.tv_nsec,
            xattrs,
        };
        Ok(Some((attributes, opaque)))
    }

    /// For every name the first one of the same file, if that is another; and which files are to be read.
    fn sort_out(&self, found: &[Found]) -> (Vec<Option<usize>>, Vec<usize>) {
        let mut shared = HashMap::new();
        let (mut firsts, mut unread) = (Vec::with_capacity(found.len()), Vec::new());
        for (index, one) in found.iter().enumerate() {
            let is_shared = one.is_shared && !matches!(one.what, What::Whiteout);
            let first = is_shared.then(|| *shared.entry(one.id).or_insert(index)).filter(|&first| first != index);
            firsts.push(first);
            if first.is_none() && matches!(one.what, What::Unread) {
                unread.push(index);
            }
        }
        (firsts, unread)
    }

    /// Reads files, large ones by several threads; what went meanwhile is left out.
    fn read(&self, found: &[Found], unread: &[usize]) -> Result<Vec<Option<Prepared>>, LayerError> {
        let root = &self.scanner.root;
        if self.moment == Moment::Running {
            // All of them first, so that the disk has a queue to work on.
            parallel(unread, |_, &index| {
                files::open_regular(root, &found[index].path).map(|file| files::start_write_back(&file)).ok()
            });
        }
        let prepared = parallel(unread, |_, &index| self.prepare(index, &found[index].path));
        let mut prepared = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let slices: Vec<(usize, Range<usize>)> = prepared
            .iter()
            .enumerate()
            .filter_map(|(at, file)| file.as_ref().map(|file| (at, file.cells.len())))
            .flat_map(|(at, cells)| {
                (0..cells.max(1)).step_by(SLICE).map(move |from| (at, from..cells.min(from + SLICE)))
            })
            .collect();
        let hashed = parallel(&slices, |buffer, (at, range)| {
            let file = prepared[*at].as_ref().expect("only what was prepared is sliced");
            self.hash(&found[file.index].path, file, range.clone(), buffer)
        });
        for ((at, range), hashed) in slices.into_iter().zip(hashed) {
            let Some(file) = &mut prepared[at] else { continue };
            match hashed? {
                Some((hashes, is_steady)) => {
                    file.content.chunks[range].copy_from_slice(&hashes);
                    file.is_steady &= is_steady;
                }
                None => prepared[at] = None,
            }
        }
        Ok(prepared)
    }

    /// Everything of a file but its hashes. The order is what [`Scanner`] promises.
    fn prepare(&self, index: usize, path: &LayerPath) -> Result<Option<Prepared>, LayerError> {
        let file = files::open_regular(&self.scanner.root, path);
        let Some(file) = self.unless_gone("open", path, file)? else { return Ok(None) };
        if self.moment == Moment::Running {
            files::write_back(&file).map_err(self.io("write back", path))?;
        }
        let meta = files::stat_fd(&file).map_err(self.io("read", path))?;
        let size = meta.stx_size;
        if size > self.scanner.limits.content {
            return Err(LayerError::TooLarge { path: self.full(path), limit: self.scanner.limits.content });
        }
        let extents = files::extents(&file, size, self.scanner.limits.extents);
        let extents = extents.map_err(self.io("find the holes of", path))?;
        let extents =
            extents.ok_or_else(|| LayerError::malformed(path, "with it the files have more holes than the limit"))?;
        let Some((attributes, _)) = self.attributes(path, Node::Open(&file), &meta)? else { return Ok(None) };
        let mut content = Content { size, extents, chunks: Vec::new() };
        let cells: Vec<u64> = content.cells().collect();
        content.chunks = vec![Hash::ZERO; cells.len()];
        let (id, looks) = (id(&meta), looks(&meta));
        let counts = self.moment == Moment::Running && self.scanner.told == Some(id.0) && self.is_quiet(&looks);
        Ok(Some(Prepared { index, id, looks, attributes, content, cells, is_steady: counts }))
    }

    /// Some of a file's hashes, and whether it stayed as it was.
    fn hash(
        &self,
        path: &LayerPath,
        file: &Prepared,
        range: Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<(Vec<Hash>, bool)>, LayerError> {
        let opened = files::open_regular(&self.scanner.root, path);
        let Some(opened) = self.unless_gone("open", path, opened)? else { return Ok(None) };
        buffer.resize(CELL, 0);
        let mut hashes = Vec::with_capacity(range.len());
        for &cell in &file.cells[range] {
            let bytes = files::read_cell(&opened, &file.content, cell, buffer).map_err(self.io("read", path))?;
            hashes.push(files::hash(bytes));
        }
        let meta = files::stat_fd(&opened).map_err(self.io("read", path))?;
        let is_steady = (id(&meta), looks(&meta)) == (file.id, file.looks);
        if !is_steady && self.moment == Moment::Stopped {
            return Err(LayerError::Changed(self.full(path)));
        }
        Ok(Some((hashes, is_steady)))
    }

    fn is_quiet(&self, looks: &Looks) -> bool {
        u64::try_from(looks.ctime.0).is_ok_and(|seconds| Duration::new(seconds, looks.ctime.1) < self.before)
    }

    /// Nothing for a name that went, or became something else, while tasks run.
    fn unless_gone<T>(
        &self,
        what: &'static str,
        path: &LayerPath,
        result: Result<T, Errno>,
    ) -> Result<Option<T>, LayerError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE)
                if self.moment == Moment::Running && !path.is_root() =>
            {
                Ok(None)
            }
            Err(error) => Err(self.io(what, path)(error)),
        }
    }

    fn io<E: Into<std::io::Error>>(
        &self,
        what: &'static str,
        path: &LayerPath,
    ) -> impl FnOnce(E) -> LayerError + use<E> {
        LayerError::io(what, &self.full(path))
    }

    fn refers(&self, path: &LayerPath, attribute: &'static str) -> LayerError {
        LayerError::Refers { path: self.full(path), attribute }
    }

    fn full(&self, path: &LayerPath) -> PathBuf {
        self.scanner.shown.join(path.as_path())
    }
}

/// The tree of what was found and read, and what counts at the next scan.
fn assemble(
    found: Vec<Found>,
    firsts: &[Option<usize>],
    read: Vec<Option<Prepared>>,
) -> (Vec<Arc<Entry>>, HashMap<Id, Known>) {
    let mut read: HashMap<usize, Prepared> = read.into_iter().flatten().map(|file| (file.index, file)).collect();
    let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(found.len());
    let mut known = HashMap::with_capacity(found.len());
    // Where each name's entry is among those that are kept.
    let mut kept: Vec<Option<usize>> = Vec::with_capacity(found.len());
    for (index, one) in found.into_iter().enumerate() {
        let bare = |kind| Arc::new(Entry { path: one.path.clone(), kind, attributes: Attributes::default() });
        let mut remember = |id, looks, counts, entry: Arc<Entry>| {
            if counts {
                known.insert(id, Known { looks, entry: entry.clone() });
            }
            entry
        };
        let entry = match (firsts[index], one.what) {
            (Some(first), _) => kept[first].map(|first| bare(Kind::Link(entries[first].path.clone()))),
            (None, What::Whiteout) => Some(bare(Kind::Whiteout)),
            (None, What::Known(entry)) if entry.path == one.path => Some(remember(one.id, one.looks, true, entry)),
            (None, What::Known(entry)) => {
                let entry = Arc::new(Entry { path: one.path, ..(*entry).clone() });
                Some(remember(one.id, one.looks, true, entry))
            }
            (None, What::Fresh(fresh, counts)) => {
                let (kind, attributes) = *fresh;
                let entry = Arc::new(Entry { path: one.path, kind, attributes });
                Some(remember(one.id, one.looks, counts, entry))
            }
            (None, What::Unread) => read.remove(&index).map(|file| {
                let kind = Kind::File(file.content);
                let entry = Arc::new(Entry { path: one.path, kind, attributes: file.attributes });
                remember(file.id, file.looks, file.is_steady, entry)
            }),
        };
        kept.push(entry.is_some().then_some(entries.len()));
        entries.extend(entry);
    }
    (entries, known)
}

fn id(meta: &Statx) -> Id {
    (u64::from(meta.stx_dev_major) << 32 | u64::from(meta.stx_dev_minor), meta.stx_ino)
}

fn looks(meta: &Statx) -> Looks {
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    Looks { mode: meta.stx_mode, size: meta.stx_size, mtime: time(&meta.stx_mtime), ctime: time(&meta.stx_ctime) }
}

fn nanoseconds(nanoseconds: i64) -> u32 {
    u32::try_from(nanoseconds).unwrap_or(0)
}

/// Does the same for every item, by a few threads, each with a buffer of its own. The results are in the order of the items.
fn parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&mut Vec<u8>, &T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(READERS_MAX)).min(items.len());
    if threads <= 1 {
        let mut buffer = Vec::new();
        return items.iter().map(|item| work(&mut buffer, item)).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let (mut buffer, mut done) = (Vec::new(), Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(&mut buffer, item)));
        }
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
