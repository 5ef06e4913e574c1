//! Moves the writable layer of a container, or a volume, by content while the container runs. Only its last changes move
//! while the container stands still.
//!
//! ```text
//!  source                                                   target
//!    | scan while it runs                                      | open staging (what an earlier try left is read)
//!    |  <-------------------- greeting, tree I have --------   |
//!    |  -- greeting, round: what changed since that tree -->   |
//!    |  <------------------------------- chunks I lack -----   | lays out names and files below staging
//!    |  -- chunks ------------------------------------------>  | writes what has its hash
//!    |  <------------------------------------- staged ------   |
//!    |        ... until few bytes change from round to round   |
//!    | all tasks stopped: scan again                           |
//!    |  -- last round, as before --------------------------->  | as before; every byte must arrive
//!    |  <------------------------------------- staged ------   |
//!    |  (the root of the last tree, signed: the caller's)      | finish: renames all into place
//! ```
//!
//! A chunk that is read while tasks run is a hint. What counts is the last tree: its root is what the source signs, and
//! every byte at the target is checked against it. See [`Scanner`] for why the last scan misses no change.
//!
//! Kept: contents with their holes, owners, modes, modification times to the nanosecond, hard and symbolic links, devices,
//! FIFOs, extended attributes, an overlay's deleted files and replaced directories.
//!
//! Not kept: sockets and files that are open but have no name, which CRIU makes again; access times; file attributes of
//! `chattr`; space that was reserved and never written, which becomes a hole.
//!
//! Invariant: knows nothing of what carries its bytes, nor of keys.
//! Invariant: what comes from another site is bounded before it is believed; every path leads through directories only,
//! never through a symbolic link.

mod files;
mod path;
mod receiver;
mod scan;
mod sender;
mod stage;
mod tree;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use path::{LayerPath, NotInside};
pub use receiver::{Arrived, Receiver};
pub use scan::{Moment, Scanned, Scanner, scan};
pub use sender::{Sender, Sent};
pub use tree::{Attributes, CHUNK, Content, Device, Entry, Extent, Kind, Tree, Xattr};
pub use wire::SessionError;

/// What a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The upper directory of an overlay.
    Overlay,
    /// An ordinary tree, such as a volume's.
    Plain,
}

/// How much a tree may be, and when a file counts as quiet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names.
    pub entries: usize,
    /// Bytes of all files, their holes counted: a few bytes can claim a hole of any size.
    pub content: u64,
    /// Ranges of data of all files.
    pub extents: usize,
    /// How long a file must not have changed before it was read for that reading to count later, when the file still
    /// looks the same. See [`Scanner`].
    pub quiet: Duration,
}

impl Default for Limits {
    /// A million names take a few hundred MiB of memory and a minute to lay out; 256 GiB are what a tar archive of a layer may
    /// hold; two seconds are longer than one write to a disk that works.
    fn default() -> Self {
        Self { entries: 1_000_000, content: 256 << 30, extents: 4_000_000, quiet: Duration::from_secs(2) }
    }
}

/// Why a tree cannot be read or laid out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named by the messages
pub enum LayerError {
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} refers to a layer below by the overlay's {attribute}, which does not travel: mount without it", path.display())]
    Refers { path: PathBuf, attribute: &'static str },
    #[error("entry {} would leave the layer", .0.display())]
    Escapes(PathBuf),
    #[error("{}: with it the files hold more than {limit} bytes, holes counted", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("more than {0} names")]
    TooMany(usize),
    #[error("entry {}: {what}", path.display())]
    Malformed { path: PathBuf, what: &'static str },
    #[error("{} changed while everything should stand still: something outside of the container writes to it", .0.display())]
    Changed(PathBuf),
    #[error("{} and {} are not on one mount: what is staged could not be renamed into place", staging.display(), destination.display())]
    Apart { staging: PathBuf, destination: PathBuf },
    #[error("what is staged is not the layer that was signed")]
    NotTheSigned,
}

impl LayerError {
    pub(crate) fn io<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source: source.into() }
    }

    pub(crate) fn malformed(path: &LayerPath, what: &'static str) -> Self {
        Self::Malformed { path: path.as_path().to_owned(), what }
    }
}

/// Attributes that belong to an overlay and mean nothing, or something else, in another.
pub(crate) fn is_overlays(attribute: &[u8]) -> bool {
    attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
}

/// Marks an opaque directory.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
