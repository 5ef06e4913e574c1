//! A tree into an archive.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::{Form, LayerError, MAX_CONTENT, MTIME, OPAQUE, WHITEOUT, XATTR, is_overlays};

/// Packs everything below `root`, and `root`'s own attributes, in the order of names. Nothing may change meanwhile.
///
/// # Errors
/// [`LayerError`] names the file that cannot be read or must not travel.
pub fn pack(root: &Path, archive: &mut impl Write, form: Form) -> Result<(), LayerError> {
    let mut packer = Packer { root, archive: Builder::new(archive), form, linked: HashMap::new(), room: MAX_CONTENT };
    packer.archive.sparse(true);
    packer.archive.follow_symlinks(false);
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        if packer.entry(&path)? {
            open.extend(packer.children(&path)?);
        }
    }
    packer.archive.into_inner().and_then(|archive| archive.flush()).map_err(LayerError::Archive)
}

struct Packer<'a, W: Write> {
    root: &'a Path,
    archive: Builder<W>,
    form: Form,
    /// Files with several names: where the first one is in the archive.
    linked: HashMap<(u64, u64), PathBuf>,
    /// What further files may hold.
    room: u64,
}

impl<W: Write> Packer<'_, W> {
    /// Packs one entry, a path relative to the root; whether it has children.
    fn entry(&mut self, path: &Path) -> Result<bool, LayerError> {
        let full = self.root.join(path);
        let meta = fs::symlink_metadata(&full).map_err(LayerError::io("read", &full))?;
        let name = named(path);
        let kind = meta.file_type();
        if self.form == Form::Overlay {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(WHITEOUT.as_bytes())) {
                return Err(LayerError::Reserved(full));
            }
            if kind.is_char_device() && meta.rdev() == 0 {
                self.mark(&sibling(&name, WHITEOUT))?;
                return Ok(false);
            }
        }
        if kind.is_socket() {
            tracing::debug!(path = %full.display(), "layer.socket_skipped");
            return Ok(false);
        }
        if !meta.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&(meta.dev(), meta.ino())) {
                let mut header = header(&meta, EntryType::Link);
                let first = first.clone();
                self.archive.append_link(&mut header, &name, first).map_err(LayerError::Archive)?;
                return Ok(false);
            }
            self.linked.insert((meta.dev(), meta.ino()), name.clone());
        }
        let opaque = self.extensions(&full, &meta)?;
        if kind.is_file() {
            self.room = self.room.checked_sub(meta.len()).ok_or_else(|| LayerError::TooLarge(full.clone()))?;
            let mut file = File::open(&full).map_err(LayerError::io("open", &full))?;
            self.archive.append_file(&name, &mut file).map_err(LayerError::io("pack", &full))?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&full).map_err(LayerError::io("read", &full))?;
            let mut header = header(&meta, EntryType::Symlink);
            self.archive.append_link(&mut header, &name, target).map_err(LayerError::io("pack", &full))?;
        } else {
            let mut header = match kind {
                kind if kind.is_dir() => header(&meta, EntryType::Directory),
                kind if kind.is_fifo() => header(&meta, EntryType::Fifo),
                kind if kind.is_block_device() => device(&meta, EntryType::Block, &full)?,
                _ => device(&meta, EntryType::Char, &full)?,
            };
            self.archive.append_data(&mut header, &name, io::empty()).map_err(LayerError::Archive)?;
        }
        if opaque {
            self.mark(&name.join(OPAQUE))?;
        }
        Ok(kind.is_dir())
    }

    /// What a tar header has no room for, ahead of the entry; whether the entry is an opaque directory.
    fn extensions(&mut self, full: &Path, meta: &Metadata) -> Result<bool, LayerError> {
        let mut opaque = false;
        let mut extensions = vec![(MTIME.to_owned(), meta.mtime_nsec().to_string())];
        for attribute in attributes(full)? {
            let read = || xattr::get(full, &attribute).map_err(LayerError::io("read an attribute of", full));
            if self.form == Form::Overlay && is_overlays(&attribute) {
                match attribute.to_str().and_then(|name| name.rsplit('.').next()) {
                    Some("opaque") => opaque = read()?.is_some_and(|value| value == b"y"),
                    Some("redirect") => return Err(refers(full, "redirect_dir")),
                    Some("metacopy") => return Err(refers(full, "metacopy")),
                    _ => {}
                }
                continue;
            }
            let name = attribute.to_str().filter(|name| !name.contains(['=', '\n']));
            let name = name.ok_or_else(|| LayerError::Attribute(full.to_owned()))?;
            if let Some(value) = read()? {
                extensions.push((format!("{XATTR}{name}"), value.iter().map(|byte| format!("{byte:02x}")).collect()));
            }
        }
        let extensions = extensions.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        self.archive.append_pax_extensions(extensions).map_err(LayerError::Archive)?;
        Ok(opaque)
    }

    /// An empty file whose name is the message.
    fn mark(&mut self, name: &Path) -> Result<(), LayerError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.archive.append_data(&mut header, name, io::empty()).map_err(LayerError::Archive)
    }

    /// Last name first: they are taken from the end.
    fn children(&self, path: &Path) -> Result<Vec<PathBuf>, LayerError> {
        let full = self.root.join(path);
        let list = || -> io::Result<Vec<PathBuf>> {
            fs::read_dir(&full)?.map(|entry| Ok(path.join(entry?.file_name()))).collect()
        };
        let mut children = list().map_err(LayerError::io("list", &full))?;
        children.sort_unstable_by(|a, b| b.cmp(a));
        Ok(children)
    }
}

/// `./path`, so that the root has a name too.
fn named(path: &Path) -> PathBuf {
    Path::new(".").join(path)
}

fn sibling(name: &Path, prefix: &str) -> PathBuf {
    let mut marked = OsString::from(prefix);
    marked.push(name.file_name().unwrap_or(OsStr::new("")));
    name.with_file_name(marked)
}

fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

fn device(meta: &Metadata, kind: EntryType, full: &Path) -> Result<Header, LayerError> {
    use nix::sys::stat::{major, minor};
    let mut header = header(meta, kind);
    let number = |part: u64| u32::try_from(part).map_err(|_| io::Error::other("a device number beyond 32 bits"));
    let set = |header: &mut Header| {
        header.set_device_major(number(major(meta.rdev()))?)?;
        header.set_device_minor(number(minor(meta.rdev()))?)
    };
    set(&mut header).map_err(LayerError::io("pack", full))?;
    Ok(header)
}

/// In the order of names; none on a file system that has none.
fn attributes(full: &Path) -> Result<Vec<OsString>, LayerError> {
    match xattr::list(full) {
        Ok(list) => {
            let mut names: Vec<OsString> = list.collect();
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) => Err(LayerError::io("list the attributes of", full)(error)),
    }
}

fn refers(path: &Path, attribute: &'static str) -> LayerError {
    LayerError::Refers { path: path.to_owned(), attribute }
}
