//! `Manifest`: everything that travels for a container, by content.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::codec::{Malformed, encode};
use crate::id::Hash;
use crate::units::Bytes;

/// The size of all chunks but a file's last: large enough that hashing and framing cost little, small enough that one
/// corrupt or lost chunk is cheap to fetch again.
pub const CHUNK: u32 = 256 * 1024;

/// At this many files of [`MAX_CHUNKS`] chunks a manifest still fits the codec's limit.
pub const MAX_FILES: usize = 4096;

/// 24 GiB in chunks of 256 KiB.
pub const MAX_CHUNKS: usize = 98_304;

/// Files and their chunks, named by BLAKE3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In the order in which they should travel.
    pub files: List<File, MAX_FILES>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative, `/`-separated, without `.`, `..` or empty parts: see [`Manifest::check`].
    pub path: Text<255>,
    /// Its length.
    pub size: Bytes,
    /// The hashes of its chunks of [`CHUNK`] bytes, the last one shorter.
    pub chunks: List<Hash, MAX_CHUNKS>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// A path that would leave the folder, or is no path.
    #[error("file {0}: not a relative path inside the folder")]
    Path(usize),
    /// Two files of one name.
    #[error("file {0}: its path occurs twice")]
    Twice(usize),
    /// Chunks that do not add up to the size.
    #[error("file {0}: {1} chunks do not make its size")]
    Chunks(usize, usize),
}

impl Manifest {
    /// What a `Yield` names: the BLAKE3 hash of the canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`] if the manifest is too large.
    pub fn root(&self) -> Result<Hash, Malformed> {
        Ok(Hash::of_parts("godwit/manifest", &[&encode(self)?]))
    }

    /// The sum of the files' sizes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.files.iter().fold(Bytes(0), |sum, file| sum.plus(file.size))
    }

    /// Whether it can be laid out in a folder without touching anything outside.
    ///
    /// # Errors
    /// [`BadManifest`] names the first file that is wrong.
    pub fn check(&self) -> Result<(), BadManifest> {
        let mut seen: Vec<&str> = Vec::with_capacity(self.files.len());
        for (index, file) in self.files.iter().enumerate() {
            let path = file.path.as_str();
            if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
                return Err(BadManifest::Path(index));
            }
            if file.size.0.div_ceil(u64::from(CHUNK)) != file.chunks.len() as u64 {
                return Err(BadManifest::Chunks(index, file.chunks.len()));
            }
            seen.push(path);
        }
        let mut order: Vec<usize> = (0..seen.len()).collect();
        order.sort_unstable_by_key(|&index| seen[index]);
        match order.windows(2).find(|pair| seen[pair[0]] == seen[pair[1]]) {
            Some(pair) => Err(BadManifest::Twice(pair[1].max(pair[0]))),
            None => Ok(()),
        }
    }
}
