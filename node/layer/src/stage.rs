//! A tree that is made to be like another one, next to the place where it will be needed.
//!
//! Below the staging directory lie `tree`, which holds names and files as they will be, and `trash`, which holds files that
//! left the tree: a file that was only renamed is taken from there, and one that was copied is copied here too.
//!
//! Invariant: what is recorded of a file's content is what lies on the disk. A chunk is recorded as unknown before it is written
//! over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_protocol::Hash;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::files::{self, Node};
use crate::path::LayerPath;
use crate::scan::scan;
use crate::tree::{Attributes, CELL, CHUNK, Content, Entry, Extent, Kind, Tree, merge};
use crate::{Form, LayerError, Limits, OPAQUE, is_overlays};

/// A chunk whose content is not known: no content has this hash.
const UNKNOWN: Hash = Hash::ZERO;

pub struct Stage {
    shown: PathBuf,
    form: Form,
    limits: Limits,
    tree: OwnedFd,
    trash: OwnedFd,
    /// What lies in the tree.
    have: BTreeMap<LayerPath, Arc<Entry>>,
    /// What still needs its attributes, whatever is recorded.
    unset: BTreeSet<LayerPath>,
    /// Directories in which names came or went, and whose time moved by that.
    touched: BTreeSet<LayerPath>,
    /// Files whose content was written and may wait for its way to the disk.
    unwritten: BTreeSet<LayerPath>,
    /// The next name in the trash.
    serial: u64,
    /// The directory and the file that were used last.
    folder: Option<(LayerPath, Arc<OwnedFd>)>,
    file: Option<(LayerPath, Arc<File>)>,
}

/// A chunk that is nowhere in the tree.
#[derive(Debug)]
pub struct Lack {
    pub hash: Hash,
    /// Where it belongs; never empty.
    pub spots: Vec<Spot>,
}

/// A chunk of a file.
#[derive(Clone, Debug)]
pub struct Spot {
    pub path: LayerPath,
    pub cell: u64,
    /// Its index among the file's chunks with data.
    at: usize,
}

/// What must be done to the names of a tree.
#[derive(Default)]
struct Plan {
    gone: BTreeSet<LayerPath>,
    new: BTreeMap<LayerPath, Arc<Entry>>,
    changed: Vec<Arc<Entry>>,
}

/// Finds chunks that lie in the tree already.
struct Finder {
    /// The tree as it was.
    had: Vec<Arc<Entry>>,
    index: Option<HashMap<Hash, (usize, u64)>>,
    /// Files that lie elsewhere by now.
    moved: HashMap<LayerPath, Moved>,
    /// Files in the trash, by a part of their content.
    donors: HashMap<(u64, Option<Hash>), Vec<Arc<Entry>>>,
    open: Option<(usize, File)>,
    buffer: Vec<u8>,
}

#[derive(Clone)]
enum Moved {
    Trash(String),
    Tree(LayerPath),
}

impl Stage {
    /// In a directory that is made if need be, and is for nobody else. What an earlier stage left in it is read.
    pub fn open(staging: &Path, form: Form, limits: Limits) -> Result<Self, LayerError> {
        let make = |path: &Path| {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(LayerError::io("make", path))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(path, flags, Mode::empty()).map_err(LayerError::io("open", path))
        };
        make(staging)?;
        let mut stage = Self {
            shown: staging.join("tree"),
            form,
            limits,
            tree: make(&staging.join("tree"))?,
            trash: make(&staging.join("trash"))?,
            have: BTreeMap::new(),
            unset: BTreeSet::new(),
            touched: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            serial: 0,
            folder: None,
            file: None,
        };
        stage.empty_trash()?;
        stage.look_again()?;
        Ok(stage)
    }

    /// Reads what lies in the tree.
    pub fn look_again(&mut self) -> Result<(), LayerError> {
        let entries = scan(&self.shown, self.form, &self.limits)?.entries;
        self.have = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        self.unset.clear();
        self.touched.clear();
        (self.folder, self.file) = (None, None);
        Ok(())
    }

    /// What lies in the tree, as recorded.
    pub fn has(&self) -> Tree {
        Tree { entries: self.have.values().cloned().collect() }
    }

    /// Lays out all names of `target`, which was checked, and all of its content that lies somewhere in the tree; says what does not.
    pub fn lay(&mut self, target: &Tree) -> Result<Vec<Lack>, LayerError> {
        let had: Vec<_> = self.have.values().cloned().collect();
        let plan = Plan::from(&had, target);
        let mut finder = Finder::new(had);
        for path in plan.gone.iter().rev() {
            self.remove(path, &mut finder)?;
        }
        let mut lacks = Lacks::default();
        // New files first: what they have of a file that is about to change must be copied before.
        let (mut files, mut changed) = (Vec::new(), Vec::new());
        for entry in plan.new.values() {
            self.make(entry, &mut finder)?;
            files.extend(entry.kind.content().map(|content| (entry, content)));
        }
        for entry in &plan.changed {
            self.record_attributes(entry);
            changed.extend(entry.kind.content().map(|content| (entry, content)));
        }
        for (entry, content) in files.into_iter().chain(changed) {
            for (spot, hash) in self.reshape(&entry.path, content)? {
                match self.copy(&mut finder, &spot, hash)? {
                    true => {}
                    false => lacks.add(hash, spot),
                }
            }
        }
        Ok(lacks.list)
    }

    /// How many bytes of data a chunk has.
    pub fn data(&self, spot: &Spot) -> usize {
        let length: u64 = self.content(&spot.path).map_or(0, |c| c.parts(spot.cell).map(|part| part.length).sum());
        usize::try_from(length).unwrap_or(usize::MAX)
    }

    /// Writes the data of a chunk, and says whether it was what was lacked. If not, and `as_it_is`, the chunk is recorded as
    /// what it is: it may be what the next round wants.
    pub fn fill(&mut self, lack: &Lack, data: &[u8], as_it_is: bool) -> Result<bool, LayerError> {
        let first = &lack.spots[0];
        let Some(content) = self.content(&first.path) else { return Ok(false) };
        let mut bytes = vec![0; content.cell_length(first.cell)];
        let mut rest = data;
        for part in content.parts(first.cell) {
            let (from, to) = files::within(first.cell, part, bytes.len());
            let Some((piece, more)) = rest.split_at_checked(to - from) else { return Ok(false) };
            bytes[from..to].copy_from_slice(piece);
            rest = more;
        }
        let hash = files::hash(&bytes);
        if hash == lack.hash {
            lack.spots.iter().try_for_each(|spot| self.write(spot, &bytes, hash))?;
        } else if as_it_is {
            self.write(first, &bytes, hash)?;
        }
        Ok(hash == lack.hash)
    }

    /// Gives everything that changed its attributes, and says how many chunks are not those of `target`.
    pub fn settle(&mut self, target: &Tree) -> Result<u64, LayerError> {
        (self.folder, self.file) = (None, None);
        for path in mem::take(&mut self.unset) {
            let Some(entry) = target.at(&path) else { continue };
            let folder = self.folder(&path)?;
            let is_root = path.is_root();
            let name = if is_root { OsStr::new(".") } else { path.name() };
            set_attributes(&folder, name, &entry.kind, &entry.attributes, self.form, false)
                .map_err(self.io("set the attributes of", &path))?;
        }
        // Names that came and went moved the time of their directory.
        for path in mem::take(&mut self.touched) {
            let Some(entry) = target.at(&path) else { continue };
            let folder = files::open_folder(&self.tree, &path).map_err(self.io("open", &path))?;
            rustix::fs::futimens(&folder, &times(&entry.attributes)).map_err(self.io("set the time of", &path))?;
        }
        let mut lacking = 0;
        merge(self.have.values(), &target.entries, |pair| {
            lacking += match pair {
                (Some(have), Some(entry)) if Arc::ptr_eq(have, entry) || have == entry => 0,
                (Some(have), Some(entry)) => {
                    let (have, entry) = (have.kind.content(), entry.kind.content());
                    let (have, entry) = (have.map_or(&[][..], |c| &c.chunks), entry.map_or(&[][..], |c| &c.chunks));
                    have.iter().zip(entry).filter(|(have, wanted)| have != wanted).count().max(1) as u64
                }
                _ => 1,
            };
        });
        Ok(lacking)
    }

    /// Brings what was written to the disk: names and attributes that are changed later must not wait for it in the file
    /// system's journal.
    pub fn write_back(&mut self) -> Result<(), LayerError> {
        let paths = mem::take(&mut self.unwritten);
        let open = |path: &LayerPath| files::open_regular(&self.tree, path).ok();
        paths.iter().filter_map(open).for_each(|file| files::start_write_back(&file));
        for path in &paths {
            if let Some(file) = open(path) {
                files::write_back(&file).map_err(self.io("write back", path))?;
            }
        }
        Ok(())
    }

    /// Removes files that left the tree.
    pub fn empty_trash(&mut self) -> Result<(), LayerError> {
        for name in names(&self.trash).map_err(LayerError::io("list", &self.shown))? {
            let removed = rustix::fs::unlinkat(&self.trash, &*name, AtFlags::empty());
            let removed = match removed {
                // A directory that `deliver` found in its way.
                Err(Errno::ISDIR) => std::fs::remove_dir_all(files::by_proc(&self.trash, &name)),
                other => other.map_err(Into::into),
            };
            removed.map_err(LayerError::io("remove", Path::new(&name)))?;
        }
        Ok(())
    }

    /// Renames everything into `destination`, whose own content goes to the trash, and gives it the root's attributes.
    pub fn deliver(&mut self, destination: &OwnedFd, shown: &Path, root: &Entry) -> Result<(), LayerError> {
        (self.folder, self.file) = (None, None);
        for name in names(destination).map_err(LayerError::io("list", shown))? {
            let to = self.next_in_trash();
            rustix::fs::renameat(destination, &*name, &self.trash, &to)
                .map_err(LayerError::io("move away", &shown.join(&name)))?;
        }
        for name in names(&self.tree).map_err(LayerError::io("list", &self.shown))? {
            rustix::fs::renameat(&self.tree, &*name, destination, &*name)
                .map_err(LayerError::io("move into place", &shown.join(&name)))?;
        }
        set_attributes(destination, OsStr::new("."), &root.kind, &root.attributes, self.form, true)
            .map_err(LayerError::io("set the attributes of", shown))
    }

    fn remove(&mut self, path: &LayerPath, finder: &mut Finder) -> Result<(), LayerError> {
        let Some(entry) = self.have.get(path).cloned() else { return Ok(()) };
        let folder = self.folder(path)?;
        match &entry.kind {
            Kind::Directory { .. } => rustix::fs::unlinkat(&*folder, path.name(), AtFlags::REMOVEDIR),
            Kind::File(_) => {
                let trashed = self.next_in_trash();
                rustix::fs::renameat(&*folder, path.name(), &self.trash, &trashed)
                    .inspect(|()| finder.trashed(&entry, trashed))
            }
            _ => rustix::fs::unlinkat(&*folder, path.name(), AtFlags::empty()),
        }
        .map_err(self.io("remove", path))?;
        self.have.remove(path);
        self.unset.remove(path);
        self.touched.remove(path);
        self.touched.insert(path.parent());
        if self.folder.as_ref().is_some_and(|(open, _)| open == path) {
            self.folder = None;
        }
        if self.file.as_ref().is_some_and(|(open, _)| open == path) {
            self.file = None;
        }
        Ok(())
    }

    /// Makes a name. A file is empty at first, or one from the trash that has the same content.
    fn make(&mut self, entry: &Arc<Entry>, finder: &mut Finder) -> Result<(), LayerError> {
        let (path, folder) = (&entry.path, self.folder(&entry.path)?);
        let (folder, name) = (&*folder, path.name());
        let node = |kind, device| rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device);
        let mut kind = entry.kind.clone();
        match &entry.kind {
            Kind::Directory { .. } => rustix::fs::mkdirat(folder, name, Mode::RWXU),
            Kind::File(content) => match finder.donor(content, path) {
                Some(trashed) => rustix::fs::renameat(&self.trash, trashed, folder, name),
                None => {
                    kind = Kind::File(Content::default());
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
                }
            },
            Kind::Symlink(target) => rustix::fs::symlinkat(OsStr::from_bytes(target), folder, name),
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Char(device) => node(FileType::CharacterDevice, rustix::fs::makedev(device.major, device.minor)),
            Kind::Block(device) => node(FileType::BlockDevice, rustix::fs::makedev(device.major, device.minor)),
            Kind::Whiteout => rustix::fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0),
            Kind::Link(first) => rustix::fs::linkat(&self.tree, first.as_path(), folder, name, AtFlags::empty()),
        }
        .map_err(self.io("make", path))?;
        self.touched.insert(path.parent());
        if entry.kind.has_attributes() {
            self.unset.insert(path.clone());
        }
        let made = Entry { path: path.clone(), kind, attributes: entry.attributes.clone() };
        self.have.insert(path.clone(), Arc::new(made));
        Ok(())
    }

    /// Records everything of a changed entry but its content.
    fn record_attributes(&mut self, entry: &Arc<Entry>) {
        let Some(have) = self.have.get_mut(&entry.path) else { return };
        let kind = match &have.kind {
            Kind::File(content) => Kind::File(content.clone()),
            _ => entry.kind.clone(),
        };
        *have = Arc::new(Entry { path: entry.path.clone(), kind, attributes: entry.attributes.clone() });
        self.unset.insert(entry.path.clone());
    }

    /// Gives a file the length and holes that it should have, and says which chunks it lacks.
    fn reshape(&mut self, path: &LayerPath, wanted: &Content) -> Result<Vec<(Spot, Hash)>, LayerError> {
        let Some(old) = self.content(path).filter(|old| *old != wanted).cloned() else { return Ok(Vec::new()) };
        let known: HashMap<u64, Hash> = old.cells().zip(old.chunks.iter().copied()).collect();
        let (mut chunks, mut lacks) = (Vec::with_capacity(wanted.chunks.len()), Vec::new());
        for (at, (cell, &hash)) in wanted.cells().zip(&wanted.chunks).enumerate() {
            let is_there = known.get(&cell) == Some(&hash) && old.parts(cell).eq(wanted.parts(cell));
            chunks.push(if is_there { hash } else { UNKNOWN });
            if !is_there {
                lacks.push((Spot { path: path.clone(), cell, at }, hash));
            }
        }
        let file = self.file(path)?;
        self.set_content(path, Content { size: wanted.size, extents: wanted.extents.clone(), chunks });
        // Writing takes capabilities away, and moves the time.
        self.unset.insert(path.clone());
        self.unwritten.insert(path.clone());
        let shape = || -> Result<(), Errno> {
            if old.size != wanted.size {
                rustix::fs::ftruncate(&*file, wanted.size)?;
            }
            if !old.extents.is_empty() && old.extents != wanted.extents {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                for hole in holes(wanted) {
                    rustix::fs::fallocate(&*file, punch, hole.offset, hole.length)?;
                }
            }
            Ok(())
        };
        shape().map_err(self.io("reshape", path))?;
        Ok(lacks)
    }

    /// Writes a chunk that lies somewhere in the tree, and says whether there was one.
    fn copy(&mut self, finder: &mut Finder, spot: &Spot, hash: Hash) -> Result<bool, LayerError> {
        if !finder.read(hash, &self.tree, &self.trash) {
            return Ok(false);
        }
        let bytes = mem::take(&mut finder.buffer);
        let length = self.content(&spot.path).map_or(0, |content| content.cell_length(spot.cell));
        let fits = bytes.len() == length;
        if fits {
            self.write(spot, &bytes, hash)?;
        }
        finder.buffer = bytes;
        Ok(fits)
    }

    fn write(&mut self, spot: &Spot, bytes: &[u8], hash: Hash) -> Result<(), LayerError> {
        let file = self.file(&spot.path)?;
        let Some(content) = self.content(&spot.path) else { return Ok(()) };
        for part in content.parts(spot.cell) {
            let (from, to) = files::within(spot.cell, part, bytes.len());
            file.write_all_at(&bytes[from..to], part.offset).map_err(self.io("write", &spot.path))?;
        }
        if let Some(Kind::File(content)) = self.have.get_mut(&spot.path).map(|have| &mut Arc::make_mut(have).kind) {
            content.chunks[spot.at] = hash;
        }
        Ok(())
    }

    fn content(&self, path: &LayerPath) -> Option<&Content> {
        self.have.get(path)?.kind.content()
    }

    fn set_content(&mut self, path: &LayerPath, content: Content) {
        if let Some(have) = self.have.get_mut(path) {
            Arc::make_mut(have).kind = Kind::File(content);
        }
    }

    /// The directory in which a name lies.
    fn folder(&mut self, path: &LayerPath) -> Result<Arc<OwnedFd>, LayerError> {
        match &self.folder {
            Some((open, fd)) if path.is_in(open) => Ok(fd.clone()),
            _ => {
                let parent = path.parent();
                let fd = Arc::new(files::open_folder(&self.tree, &parent).map_err(self.io("open", &parent))?);
                self.folder = Some((parent, fd.clone()));
                Ok(fd)
            }
        }
    }

    fn file(&mut self, path: &LayerPath) -> Result<Arc<File>, LayerError> {
        match &self.file {
            Some((open, file)) if open == path => Ok(file.clone()),
            _ => {
                let file = files::open_beneath(&self.tree, path.as_path(), OFlags::RDWR);
                let file = Arc::new(File::from(file.map_err(self.io("open", path))?));
                self.file = Some((path.clone(), file.clone()));
                Ok(file)
            }
        }
    }

    fn next_in_trash(&mut self) -> String {
        self.serial += 1;
        self.serial.to_string()
    }

    fn io<E: Into<io::Error>>(&self, what: &'static str, path: &LayerPath) -> impl FnOnce(E) -> LayerError + use<E> {
        LayerError::io(what, &self.shown.join(path.as_path()))
    }
}

impl Plan {
    fn from(had: &[Arc<Entry>], target: &Tree) -> Self {
        let mut plan = Self::default();
        let mut changed = Vec::new();
        // Content that is left, and content that is needed.
        let (mut left, mut needed) = (HashSet::new(), HashSet::new());
        merge(had, &target.entries, |pair| match pair {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => {}
            (old, new) => {
                let is_same = old.and_then(|old| old.kind.content()) == new.and_then(|new| new.kind.content());
                if !is_same {
                    left.extend(old.and_then(|old| whole_file(old)));
                    needed.extend(new.and_then(|new| whole_file(new)));
                }
                match (old, new) {
                    (Some(old), Some(new)) if can_become(&old.kind, &new.kind) => changed.push((old, new)),
                    _ => plan.replace(old, new),
                }
            }
        });
        for (old, new) in changed {
            // A file that took another's place, or left its own to a new one, was renamed: no byte of it need be copied.
            let is_same = old.kind.content() == new.kind.content();
            let was_renamed = whole_file(old).is_some_and(|old| needed.contains(old))
                || whole_file(new).is_some_and(|new| left.contains(new));
            if was_renamed && !is_same {
                plan.replace(Some(old), Some(new));
            } else {
                plan.changed.push(new.clone());
            }
        }
        // A link to what is made anew is made anew, too.
        for entry in had {
            if let Kind::Link(first) = &entry.kind
                && plan.gone.contains(first)
                && plan.gone.insert(entry.path.clone())
            {
                plan.new.extend(target.at(&entry.path).map(|new| (new.path.clone(), new.clone())));
            }
        }
        plan
    }

    fn replace(&mut self, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        self.gone.extend(old.map(|old| old.path.clone()));
        self.new.extend(new.map(|new| (new.path.clone(), new.clone())));
    }
}

/// The content of a file, if there is any.
fn whole_file(entry: &Entry) -> Option<&Content> {
    entry.kind.content().filter(|content| !content.chunks.is_empty())
}

/// Whether one can be made of the other in place.
fn can_become(old: &Kind, new: &Kind) -> bool {
    match (old, new) {
        (Kind::File(_), Kind::File(_)) | (Kind::Directory { .. }, Kind::Directory { .. }) => true,
        _ => old == new,
    }
}

/// The same chunk is lacked once, wherever it belongs.
#[derive(Default)]
struct Lacks {
    list: Vec<Lack>,
    index: HashMap<Hash, usize>,
}

impl Lacks {
    fn add(&mut self, hash: Hash, spot: Spot) {
        let index = *self.index.entry(hash).or_insert(self.list.len());
        match self.list.get_mut(index) {
            Some(lack) => lack.spots.push(spot),
            None => self.list.push(Lack { hash, spots: vec![spot] }),
        }
    }
}

impl Finder {
    fn new(had: Vec<Arc<Entry>>) -> Self {
        let (moved, donors) = (HashMap::new(), HashMap::new());
        Self { had, index: None, moved, donors, open: None, buffer: Vec::new() }
    }

    fn trashed(&mut self, entry: &Arc<Entry>, name: String) {
        if let Some(content) = entry.kind.content() {
            self.donors.entry(key(content)).or_default().push(entry.clone());
        }
        self.moved.insert(entry.path.clone(), Moved::Trash(name));
    }

    /// The name in the trash of a file with this content, which is about to be moved to `path`.
    fn donor(&mut self, content: &Content, path: &LayerPath) -> Option<String> {
        let donors = self.donors.get_mut(&key(content))?;
        let index = donors.iter().position(|donor| donor.kind.content() == Some(content))?;
        let donor = donors.swap_remove(index);
        match self.moved.insert(donor.path.clone(), Moved::Tree(path.clone())) {
            Some(Moved::Trash(name)) => Some(name),
            _ => None,
        }
    }

    /// Reads a chunk into the buffer; whether there is one and it is what it should be.
    fn read(&mut self, hash: Hash, tree: &OwnedFd, trash: &OwnedFd) -> bool {
        let had = &self.had;
        let index = self.index.get_or_insert_with(|| {
            let files = had.iter().enumerate().filter_map(|(at, entry)| Some((at, entry.kind.content()?)));
            files.flat_map(|(at, c)| c.cells().zip(&c.chunks).map(move |(cell, &hash)| (hash, (at, cell)))).collect()
        });
        let Some(&(at, cell)) = index.get(&hash) else { return false };
        let Some(content) = had[at].kind.content() else { return false };
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            let path = &had[at].path;
            let opened = match self.moved.get(path) {
                Some(Moved::Trash(name)) => files::open_beneath(trash, Path::new(name), OFlags::RDONLY).map(File::from),
                Some(Moved::Tree(path)) => files::open_regular(tree, path),
                None => files::open_regular(tree, path),
            };
            let Ok(opened) = opened else { return false };
            self.open = Some((at, opened));
        }
        let Some((_, file)) = &self.open else { return false };
        self.buffer.resize(CELL, 0);
        // The file may have been written over by now: then the chunk is fetched.
        let length = files::read_cell(file, content, cell, &mut self.buffer).map_or(0, <[u8]>::len);
        self.buffer.truncate(length);
        files::hash(&self.buffer) == hash
    }
}

fn key(content: &Content) -> (u64, Option<Hash>) {
    (content.size, content.chunks.first().copied())
}

fn holes(content: &Content) -> Vec<Extent> {
    let mut holes = Vec::with_capacity(content.extents.len() + 1);
    let mut at = 0;
    // The last one goes on beyond the end: else the block that holds the end would stay.
    let end = Extent { offset: content.size, length: 0 };
    for extent in content.extents.iter().chain([&end]) {
        if extent.offset > at {
            holes.push(Extent { offset: at, length: extent.offset - at });
        }
        at = extent.end();
    }
    if let Some(last) = holes.last_mut().filter(|last| last.end() == content.size) {
        last.length += CHUNK;
    }
    holes
}

/// Owner first: changing it clears set-user-id bits and capabilities. `is_mounted`: an overlay's own marks are left alone.
fn set_attributes(
    folder: &OwnedFd,
    name: &OsStr,
    kind: &Kind,
    attributes: &Attributes,
    form: Form,
    is_mounted: bool,
) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !matches!(kind, Kind::Symlink(_)) {
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(attributes.mode.into()), AtFlags::empty())?;
    }
    let path = files::by_proc(folder, name);
    let is_opaque = matches!(kind, Kind::Directory { opaque: true });
    for old in Node::Name(&path).xattr_names()? {
        let stays = attributes.xattrs.iter().any(|xattr| xattr.name == old)
            || (is_opaque && old == OPAQUE.as_bytes())
            || (is_mounted && form == Form::Overlay && is_overlays(&old))
            // Policy gives it to every file, and takes it from none.
            || old == b"security.selinux";
        if !stays {
            rustix::fs::lremovexattr(&path, OsStr::from_bytes(&old))?;
        }
    }
    for xattr in &attributes.xattrs {
        let name = OsStr::from_bytes(&xattr.name);
        rustix::fs::lsetxattr(&path, name, &xattr.value, rustix::fs::XattrFlags::empty())?;
    }
    if is_opaque {
        rustix::fs::lsetxattr(&path, OPAQUE, b"y", rustix::fs::XattrFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(folder, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(attributes: &Attributes) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: attributes.mtime, tv_nsec: attributes.mtime_ns.into() },
    }
}

fn names(folder: &OwnedFd) -> io::Result<Vec<std::ffi::OsString>> {
    std::fs::read_dir(files::by_proc(folder, OsStr::new(".")))?.map(|entry| Ok(entry?.file_name())).collect()
}
