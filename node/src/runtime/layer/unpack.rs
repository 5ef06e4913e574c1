//! An archive into a tree.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, Entry, EntryType};

use super::{Form, LayerError, MAX_CONTENT, MTIME, OPAQUE, WHITEOUT, XATTR, is_overlays};

/// A file is written in pieces of this size, and a piece of zeros becomes a hole.
const PIECE: usize = 64 * 1024;

/// Removes everything below `root`, following no link.
///
/// # Errors
/// [`LayerError::Io`] names what cannot be removed.
pub fn clear(root: &Path) -> Result<(), LayerError> {
    for entry in fs::read_dir(root).map_err(LayerError::io("list", root))? {
        let path = entry.map_err(LayerError::io("list", root))?.path();
        remove(&path).map_err(LayerError::io("remove", &path))?;
    }
    Ok(())
}

/// Unpacks an archive of [`pack`](super::pack()) below `root`, which exists. Entries replace what is there.
///
/// # Errors
/// [`LayerError`] names the entry that is malformed, would leave the root, or cannot be made.
pub fn unpack(archive: impl Read, root: &Path, form: Form) -> Result<(), LayerError> {
    let mut unpacker = Unpacker { root, form, checked: PathBuf::new(), folders: Vec::new(), room: MAX_CONTENT };
    for entry in Archive::new(archive).entries().map_err(LayerError::Archive)? {
        unpacker.entry(&mut entry.map_err(LayerError::Archive)?)?;
    }
    // Making an entry in a directory touches its time: theirs come last, inner ones first.
    for (path, time) in unpacker.folders.iter().rev() {
        set_time(path, time).map_err(LayerError::io("set the time of", path))?;
    }
    Ok(())
}

struct Unpacker<'a> {
    root: &'a Path,
    form: Form,
    /// The directory, relative to the root, that was last seen to be reached through directories only.
    checked: PathBuf,
    folders: Vec<(PathBuf, TimeSpec)>,
    /// What further files may hold.
    room: u64,
}

/// What an entry's header and extensions say.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    time: TimeSpec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), LayerError> {
        let stated = entry.path().map_err(LayerError::Archive)?.into_owned();
        let path = relative(&stated)?;
        self.check_parents(&path)?;
        let full = self.root.join(&path);
        if self.form != Form::Plain
            && let Some(marked) = path.file_name().and_then(|name| name.as_bytes().strip_prefix(WHITEOUT.as_bytes()))
        {
            return whiteout(&full, OsStr::from_bytes(marked), self.form);
        }
        self.room = self.room.checked_sub(entry.size()).ok_or_else(|| LayerError::TooLarge(stated.clone()))?;
        let attributes = attributes(entry, &stated)?;
        let kind = entry.header().entry_type();
        if kind == EntryType::Link {
            return self.hard_link(entry, &stated, &full);
        }
        self.make(entry, kind, &stated, &full)?;
        set_attributes(&full, kind, &attributes, self.form).map_err(LayerError::io("set the attributes of", &full))?;
        if kind == EntryType::Directory {
            self.folders.push((full, attributes.time));
        }
        Ok(())
    }

    fn make<R: Read>(
        &self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        stated: &Path,
        full: &Path,
    ) -> Result<(), LayerError> {
        let is_folder = fs::symlink_metadata(full).is_ok_and(|meta| meta.is_dir());
        if kind == EntryType::Directory && is_folder {
            return Ok(());
        }
        if full == self.root {
            return Err(malformed(stated, "the root is a directory"));
        }
        // A mounted overlay shows what the layers below have in its place.
        let replace = if self.form == Form::Mounted { remove } else { replace };
        replace(full).map_err(LayerError::io("replace", full))?;
        let made = match kind {
            EntryType::Directory => fs::create_dir(full),
            EntryType::Regular | EntryType::GNUSparse => write_file(entry, full),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| malformed(stated, "a link without a target"))?;
                symlink(OsStr::from_bytes(&target), full)
            }
            EntryType::Fifo => node(full, SFlag::S_IFIFO, 0),
            EntryType::Char => node(full, SFlag::S_IFCHR, number(entry, stated)?),
            EntryType::Block => node(full, SFlag::S_IFBLK, number(entry, stated)?),
            _ => return Err(malformed(stated, "a kind of entry that layers do not have")),
        };
        made.map_err(LayerError::io("make", full))
    }

    fn hard_link<R: Read>(&mut self, entry: &Entry<'_, R>, stated: &Path, full: &Path) -> Result<(), LayerError> {
        let target = entry.link_name_bytes().ok_or_else(|| malformed(stated, "a link without a target"))?;
        let target = relative(Path::new(OsStr::from_bytes(&target)))?;
        self.check_parents(&target)?;
        let replace = if self.form == Form::Mounted { remove } else { replace };
        replace(full).map_err(LayerError::io("replace", full))?;
        fs::hard_link(self.root.join(target), full).map_err(LayerError::io("link", full))
    }

    /// The way to an entry leads through directories only; missing ones are made, as the archive will say more of them.
    fn check_parents(&mut self, path: &Path) -> Result<(), LayerError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent == self.checked {
            return Ok(());
        }
        let mut way = self.root.to_owned();
        for part in parent.components() {
            way.push(part);
            match fs::symlink_metadata(&way) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(LayerError::Escapes(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&way).map_err(LayerError::io("make", &way))?;
                }
                Err(error) => return Err(LayerError::io("read", &way)(error)),
            }
        }
        parent.clone_into(&mut self.checked);
        Ok(())
    }
}

/// Without `.`, and refused with anything but names.
fn relative(stated: &Path) -> Result<PathBuf, LayerError> {
    let mut path = PathBuf::new();
    for part in stated.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => return Err(LayerError::Escapes(stated.to_owned())),
        }
    }
    Ok(path)
}

fn whiteout(full: &Path, marked: &OsStr, form: Form) -> Result<(), LayerError> {
    let folder = full.parent().unwrap_or(full);
    if full.file_name() == Some(OsStr::new(OPAQUE)) {
        if form == Form::Mounted {
            return clear(folder);
        }
        return xattr::set(folder, "trusted.overlay.opaque", b"y").map_err(LayerError::io("mark", folder));
    }
    if marked.is_empty() || marked == "." || marked == ".." || marked.as_bytes().starts_with(WHITEOUT.as_bytes()) {
        return Err(malformed(full, "a mark for no name"));
    }
    let path = folder.join(marked);
    if form == Form::Mounted {
        return remove(&path).map_err(LayerError::io("remove", &path));
    }
    replace(&path).and_then(|()| node(&path, SFlag::S_IFCHR, 0)).map_err(LayerError::io("make", &path))
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, stated: &Path) -> Result<Attributes, LayerError> {
    let (mut nanoseconds, mut xattrs) = (0, Vec::new());
    if let Some(extensions) = entry.pax_extensions().map_err(LayerError::Archive)? {
        for extension in extensions {
            let extension = extension.map_err(LayerError::Archive)?;
            let key = extension.key_bytes();
            if key == MTIME.as_bytes() {
                let parsed = extension.value().ok().and_then(|value| value.parse::<u32>().ok());
                nanoseconds = parsed.filter(|&n| n < 1_000_000_000).ok_or_else(|| malformed(stated, "its time"))?;
            } else if let Some(name) = key.strip_prefix(XATTR.as_bytes()) {
                let value = unhex(extension.value_bytes()).ok_or_else(|| malformed(stated, "an attribute"))?;
                xattrs.push((OsString::from_vec(name.to_vec()), value));
            }
        }
    }
    let header = entry.header();
    let read = || -> io::Result<Attributes> {
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner beyond 32 bits"));
        let seconds = i64::try_from(header.mtime()?).map_err(|_| io::Error::other("a time beyond 63 bits"))?;
        let time = TimeSpec::new(seconds, i64::from(nanoseconds));
        Ok(Attributes { uid: id(header.uid()?)?, gid: id(header.gid()?)?, mode: header.mode()?, time, xattrs })
    };
    read().map_err(LayerError::Archive)
}

/// Owner first: changing it clears set-user-id bits and capabilities.
fn set_attributes(full: &Path, kind: EntryType, attributes: &Attributes, form: Form) -> io::Result<()> {
    lchown(full, Some(attributes.uid), Some(attributes.gid))?;
    if kind != EntryType::Symlink {
        fs::set_permissions(full, Permissions::from_mode(attributes.mode & 0o7777))?;
    }
    for (name, value) in &attributes.xattrs {
        if form != Form::Plain && is_overlays(name) {
            continue;
        }
        xattr::set(full, name, value)?;
    }
    if kind == EntryType::Directory { Ok(()) } else { set_time(full, &attributes.time) }
}

fn set_time(path: &Path, time: &TimeSpec) -> io::Result<()> {
    Ok(utimensat(AT_FDCWD, path, &TimeSpec::UTIME_OMIT, time, UtimensatFlags::NoFollowSymlink)?)
}

fn write_file<R: Read>(entry: &mut Entry<'_, R>, full: &Path) -> io::Result<()> {
    let size = entry.size();
    let mut file = File::create_new(full)?;
    let mut piece = vec![0; PIECE];
    let mut written = 0;
    loop {
        let mut filled = 0;
        while filled < PIECE {
            match entry.read(&mut piece[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        if filled == 0 {
            break;
        }
        if piece[..filled].iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(filled).unwrap_or(i64::MAX)))?;
        } else {
            file.write_all(&piece[..filled])?;
        }
        written += filled as u64;
    }
    if written != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.set_len(size)
}

fn node(path: &Path, kind: SFlag, number: u64) -> io::Result<()> {
    Ok(mknod(path, kind, Mode::empty(), number)?)
}

fn number<R: Read>(entry: &Entry<'_, R>, stated: &Path) -> Result<u64, LayerError> {
    let header = entry.header();
    let parts = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
    let (Some(major), Some(minor)) = parts else {
        return Err(malformed(stated, "a device without a number"));
    };
    Ok(makedev(major.into(), minor.into()))
}

/// Makes way for an entry. A directory stays: the way to other entries may lead through it.
fn replace(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() % 2 == 0 && !text.contains('+'))?;
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn malformed(path: &Path, what: &'static str) -> LayerError {
    LayerError::Malformed { path: path.to_owned(), what }
}
