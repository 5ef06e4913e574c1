//! What a layer consists of, without the content itself: its manifest.
//!
//! Content is named by BLAKE3 in chunks of a fixed size, at multiples of it. What containers change in large files they
//! change in place (databases) or at the end (logs), where cuts at fixed places lose nothing; cuts that follow the content
//! would find text that was shifted, at a third of the speed, and shifted files are small ones: a chunk or two.

use std::collections::HashSet;
use std::sync::Arc;

use godwit_protocol::Hash;
use serde::{Deserialize, Serialize};

use crate::path::LayerPath;
use crate::wire::at_most;
use crate::{Form, LayerError, Limits, is_overlays};

/// The size of all chunks but a file's last: the one that other parts of a checkpoint have, so that hashing and framing cost
/// little and a lost chunk is cheap to fetch again.
pub const CHUNK: u64 = godwit_protocol::manifest::CHUNK as u64;
/// The same, of memory.
pub(crate) const CELL: usize = godwit_protocol::manifest::CHUNK as usize;

/// Linux's limits for one attribute.
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65_536;
/// Attributes of one file. ext4 has room for a few dozen.
const XATTRS_MAX: usize = 1024;
/// Ranges of data of one file: 64 MiB in memory.
const EXTENTS_MAX: usize = 4 << 20;
/// Linux's limit for a link's target.
const TARGET_MAX: usize = 4095;
/// What fits the kernel's device numbers.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// Everything of a layer, the root first, in the order of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// One name in a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it lies.
    pub path: LayerPath,
    /// What it is.
    pub kind: Kind,
    /// Owner, mode, time and extended attributes: nothing for what has none of its own, see [`Kind::has_attributes`].
    pub attributes: Attributes,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory.
    Directory {
        /// In an overlay: hides what layers below have under its name.
        opaque: bool,
    },
    /// A regular file.
    File(Content),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A FIFO.
    Fifo,
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// In an overlay: the name is deleted.
    Whiteout,
    /// Another name of the entry at this path, which comes earlier.
    Link(LayerPath),
}

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // named by themselves
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// Its length in bytes.
    pub size: u64,
    /// Where it has data, in order, apart from each other; the rest are holes.
    #[serde(deserialize_with = "at_most::<_, _, EXTENTS_MAX>")]
    pub extents: Vec<Extent>,
    /// BLAKE3 of each chunk, holes read as zeros; chunks that are all hole are left out.
    pub chunks: Vec<Hash>,
}

/// A range with data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // named by themselves
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

impl Extent {
    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// What belongs to a file besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permissions and the set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was last modified: seconds since 1970 ...
    pub mtime: i64,
    /// ... and nanoseconds.
    pub mtime_ns: u32,
    /// Extended attributes, in the order of names. Not an overlay's own.
    #[serde(deserialize_with = "at_most::<_, _, XATTRS_MAX>")]
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // named by themselves
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

impl Kind {
    /// Whether owner, mode, times and extended attributes are its own. A link has those of what it stands for.
    #[must_use]
    pub fn has_attributes(&self) -> bool {
        !matches!(self, Self::Whiteout | Self::Link(_))
    }

    pub(crate) fn content(&self) -> Option<&Content> {
        if let Self::File(content) = self { Some(content) } else { None }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

impl Content {
    /// The indices of the chunks that hold data, in the order of [`Content::chunks`].
    pub(crate) fn cells(&self) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0;
        self.extents.iter().flat_map(move |extent| {
            let first = next.max(extent.offset / CHUNK);
            next = next.max(extent.end().div_ceil(CHUNK));
            first..next
        })
    }

    /// The bytes of a chunk, holes counted.
    pub(crate) fn cell_length(&self, cell: u64) -> usize {
        let length = self.size.saturating_sub(cell * CHUNK).min(CHUNK);
        usize::try_from(length).expect("a chunk is smaller than the address space")
    }

    /// Where a chunk has data.
    pub(crate) fn parts(&self, cell: u64) -> impl Iterator<Item = Extent> + '_ {
        let (start, end) = (cell * CHUNK, (cell * CHUNK).saturating_add(CHUNK));
        let first = self.extents.partition_point(|extent| extent.end() <= start);
        self.extents[first..].iter().take_while(move |extent| extent.offset < end).map(move |extent| {
            let offset = extent.offset.max(start);
            Extent { offset, length: extent.end().min(end) - offset }
        })
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut end = None;
        for extent in &self.extents {
            if extent.length == 0 || end.is_some_and(|end| extent.offset <= end) {
                return Err("ranges of data that overlap or touch");
            }
            end = Some(extent.offset.checked_add(extent.length).ok_or("a range of data beyond all files")?);
        }
        if self.extents.len() > EXTENTS_MAX {
            return Err("more holes than the limit");
        }
        if self.chunks.contains(&Hash::ZERO) {
            return Err("a chunk without a hash");
        }
        if end.is_some_and(|end| end > self.size) {
            return Err("data beyond its end");
        }
        // Counted by arithmetic: a range of 2^60 bytes is one of a few bytes here.
        let mut next = 0;
        let cells = self.extents.iter().fold(0, |sum: u64, extent| {
            let first = next.max(extent.offset / CHUNK);
            next = next.max(extent.end().div_ceil(CHUNK));
            sum + (next - first)
        });
        if cells == self.chunks.len() as u64 { Ok(()) } else { Err("chunks that do not make its content") }
    }
}

impl Attributes {
    fn check(&self, form: Form) -> Result<(), &'static str> {
        if self.mode > 0o7777 {
            return Err("its mode");
        }
        if self.mtime_ns >= 1_000_000_000 {
            return Err("its time");
        }
        let is_sound = |xattr: &Xattr| {
            !xattr.name.is_empty()
                && !xattr.name.contains(&0)
                && xattr.name.len() <= XATTR_NAME_MAX
                && xattr.value.len() <= XATTR_VALUE_MAX
        };
        let is_ordered = self.xattrs.windows(2).all(|pair| pair[0].name < pair[1].name);
        if !self.xattrs.iter().all(is_sound) || !is_ordered || self.xattrs.len() > XATTRS_MAX {
            return Err("an attribute");
        }
        if form == Form::Overlay && self.xattrs.iter().any(|xattr| is_overlays(&xattr.name)) {
            return Err("an attribute that belongs to an overlay");
        }
        Ok(())
    }
}

impl Entry {
    /// About the bytes it takes on the wire and in memory.
    pub(crate) fn weight(&self) -> usize {
        let xattrs: usize = self.attributes.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 48).sum();
        let content = self.kind.content().map_or(0, |content| content.chunks.len() * 32 + content.extents.len() * 16);
        self.path.weight() + xattrs + content
    }

    fn check(&self, form: Form) -> Result<(), &'static str> {
        self.attributes.check(form)?;
        if !self.kind.has_attributes() && self.attributes != Attributes::default() {
            return Err("attributes of its own");
        }
        match &self.kind {
            Kind::Directory { opaque: true } | Kind::Whiteout if form == Form::Plain => Err("a mark of overlays"),
            Kind::Symlink(target) if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
                Err("a link without a target")
            }
            Kind::Char(Device { major: 0, minor: 0 }) if form == Form::Overlay => Err("a device without a number"),
            Kind::Char(device) | Kind::Block(device) if device.major > MAJOR_MAX || device.minor > MINOR_MAX => {
                Err("a device without a number")
            }
            Kind::File(content) => content.check(),
            _ => Ok(()),
        }
    }
}

impl Tree {
    /// Its entries, the root first, in the order of paths.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter().map(AsRef::as_ref)
    }

    /// The bytes of all files' data, holes not counted.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.contents().flat_map(|content| &content.extents).map(|extent| extent.length).sum()
    }

    /// What the source signs: BLAKE3 of the canonical bytes, which are the number of entries and each entry in
    /// [bincode's standard form](https://docs.rs/bincode/2/bincode/config/fn.standard.html), behind a line that says what they are.
    #[must_use]
    pub fn root(&self) -> Hash {
        // The hash is fastest over many bytes at a time.
        const PIECE: usize = 64 * 1024;
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::with_capacity(2 * PIECE);
        bytes.extend_from_slice(b"godwit/layer/1\n");
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for entry in self.entries() {
            bincode::serde::encode_into_std_write(entry, &mut bytes, bincode::config::standard())
                .expect("memory takes all that an entry is made of");
            if bytes.len() >= PIECE {
                hasher.update(&bytes);
                bytes.clear();
            }
        }
        Hash(*hasher.update(&bytes).finalize().as_bytes())
    }

    /// Whether it can be laid out below a directory without touching anything outside, within the limits.
    ///
    /// # Errors
    /// [`LayerError`] names the first entry that is wrong.
    pub fn check(&self, form: Form, limits: &Limits) -> Result<(), LayerError> {
        if self.entries.len() > limits.entries {
            return Err(LayerError::TooMany(limits.entries));
        }
        if !self.entries.first().is_some_and(|root| root.path.is_root() && root.kind.is_directory()) {
            return Err(LayerError::malformed(&LayerPath::ROOT, "the root is a directory"));
        }
        let (mut folders, mut firsts) = (HashSet::new(), HashSet::new());
        let (mut room, mut extents) = (limits.content, limits.extents);
        let mut before: Option<&LayerPath> = None;
        for entry in self.entries() {
            let path = &entry.path;
            let wrong = |what| LayerError::malformed(path, what);
            entry.check(form).map_err(wrong)?;
            if before.is_some_and(|before| before >= path) {
                return Err(wrong("out of order"));
            }
            before = Some(path);
            if !path.is_root() && !folders.contains(path.split_parent()) {
                return Err(LayerError::Escapes(path.as_path().to_owned()));
            }
            match &entry.kind {
                Kind::Directory { .. } => {
                    folders.insert(path.bytes());
                }
                Kind::Link(first) if !firsts.contains(first) => return Err(wrong("a link to what is not there")),
                Kind::Link(_) | Kind::Whiteout => {}
                kind => {
                    firsts.insert(path);
                    let content = kind.content();
                    room = content.map_or(Some(room), |content| room.checked_sub(content.size)).ok_or_else(|| {
                        LayerError::TooLarge { path: path.as_path().to_owned(), limit: limits.content }
                    })?;
                    extents = extents
                        .checked_sub(content.map_or(0, |content| content.extents.len()))
                        .ok_or_else(|| wrong("with it the files have more holes than the limit"))?;
                }
            }
        }
        Ok(())
    }

    /// What makes this tree of another one: names that went, and entries that came or changed.
    #[must_use]
    pub(crate) fn since(&self, base: &Self) -> (Vec<LayerPath>, Vec<Arc<Entry>>) {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        merge(&base.entries, &self.entries, |pair| match pair {
            (Some(old), None) => gone.push(old.path.clone()),
            (Some(old), Some(entry)) if Arc::ptr_eq(old, entry) || old == entry => {}
            (_, Some(entry)) => new.push(entry.clone()),
            (None, None) => {}
        });
        (gone, new)
    }

    /// The entry at a path.
    pub(crate) fn at(&self, path: &LayerPath) -> Option<&Arc<Entry>> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|index| &self.entries[index])
    }

    fn contents(&self) -> impl Iterator<Item = &Content> {
        self.entries().filter_map(|entry| entry.kind.content())
    }
}

impl LayerPath {
    /// About the bytes that an entry with this path takes, without what is special to it.
    pub(crate) fn weight(&self) -> usize {
        self.bytes().len() + 200
    }

    fn split_parent(&self) -> &[u8] {
        let bytes = self.bytes();
        &bytes[..bytes.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
    }
}

/// Walks two lists of entries together, in the order of paths: what has one path comes as a pair.
pub(crate) fn merge<'a>(
    old: impl IntoIterator<Item = &'a Arc<Entry>>,
    new: impl IntoIterator<Item = &'a Arc<Entry>>,
    mut each: impl FnMut((Option<&'a Arc<Entry>>, Option<&'a Arc<Entry>>)),
) {
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.path.cmp(&new.path),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        each(match order {
            std::cmp::Ordering::Less => (old.next(), None),
            std::cmp::Ordering::Equal => (old.next(), new.next()),
            std::cmp::Ordering::Greater => (None, new.next()),
        });
    }
}
