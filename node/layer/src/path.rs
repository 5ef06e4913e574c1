//! A path inside a layer.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Linux's limits, the end's NUL not counted: a longer path cannot be named by any call.
const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;

/// A path relative to the root of its layer, of plain names only; empty for the root itself.
///
/// Invariant: no `.`, no `..`, no empty name, no leading `/`, no NUL. It is ordered by its bytes, so that a directory
/// comes before what it holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(try_from = "Vec<u8>")]
pub struct LayerPath(Vec<u8>);

/// Bytes that are no [`LayerPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a relative path of plain names")]
pub struct NotInside;

impl TryFrom<Vec<u8>> for LayerPath {
    type Error = NotInside;

    fn try_from(bytes: Vec<u8>) -> Result<Self, NotInside> {
        let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX;
        let is_sound = bytes.len() <= PATH_MAX && !bytes.contains(&0) && bytes.split(|&byte| byte == b'/').all(is_name);
        if bytes.is_empty() || is_sound { Ok(Self(bytes)) } else { Err(NotInside) }
    }
}

impl LayerPath {
    /// The root.
    pub const ROOT: Self = Self(Vec::new());

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path; the root is `.`, so that it can be opened.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.is_root() { b"." } else { &self.0 }))
    }

    /// Its last name; the root's is empty.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.split().1)
    }

    /// The directory it lies in; the root's is the root.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.split().0.to_vec())
    }

    /// Whether it lies in this directory.
    #[must_use]
    pub fn is_in(&self, folder: &Self) -> bool {
        self.split().0 == folder.0
    }

    /// `name` in this directory.
    ///
    /// # Errors
    /// [`NotInside`] if that is too long, or no name.
    pub fn join(&self, name: &[u8]) -> Result<Self, NotInside> {
        if name.contains(&b'/') {
            return Err(NotInside);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if name.is_empty() || bytes.len() > PATH_MAX { Err(NotInside) } else { Ok(Self(bytes)) }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_outside_is_none() {
        let long = "n".repeat(256);
        let deep = "nn/".repeat(1400);
        for bytes in ["/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "../a", "a\0b", &long, &deep] {
            assert_eq!(LayerPath::try_from(bytes.as_bytes().to_vec()), Err(NotInside), "{bytes:?}");
        }
    }

    #[test]
    fn a_directory_comes_before_what_it_holds() {
        let path = |text: &str| LayerPath::try_from(text.as_bytes().to_vec()).unwrap();
        let mut paths = [path("a/b"), path("a.b"), path("a"), path("")];
        paths.sort();
        assert_eq!(paths, [path(""), path("a"), path("a.b"), path("a/b")]);
        assert!(path("a/b").is_in(&path("a")) && path("a").is_in(&LayerPath::ROOT) && !path("a/b/c").is_in(&path("a")));
        assert_eq!(path("a/b").parent(), path("a"));
        assert_eq!(LayerPath::ROOT.join(b"a").and_then(|a| a.join(b"b")), Ok(path("a/b")));
    }
}
