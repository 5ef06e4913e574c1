//! Where a pull writes: `NAME.part` beside the folder to be, which takes its name when it is complete and synced.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use godwit_protocol::Hash;
use godwit_protocol::manifest::{CHUNK, Manifest};
use libp2p::bytes::Bytes;

use super::folder::{Folder, allocate};
use super::wire::Place;

/// Files kept open for writing: a checkpoint has a few large files, and opening is cheap.
const OPEN_MAX: usize = 64;

/// Why the stage failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The disk is full, or a quota is.
    #[error("no space left for {path}")]
    DiskFull {
        /// What was written.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// Anything else that the file system says.
    #[error("{what} {path}")]
    Io {
        /// What was done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those of the hash.
    #[error("the chunk is not what its hash names")]
    Corrupt,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StageError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StageError::DiskFull { path, source },
        _ => StageError::Io { what, path, source },
    }
}

/// A distinct chunk and all places that hold it: it travels once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its hash.
    pub hash: Hash,
    /// Its places, all of the same length.
    pub places: Vec<Place>,
}

/// The folder being filled.
#[derive(Debug)]
pub struct Stage {
    into: PathBuf,
    path: PathBuf,
    folder: Folder,
    manifest: Manifest,
    open: std::sync::Mutex<HashMap<u32, std::sync::Arc<File>>>,
}

impl Stage {
    /// Makes or reopens the stage of a folder, removes what the manifest does not know, reserves room, and says which
    /// pieces are missing. What is there is believed by its hash only.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn prepare(into: &Path, manifest: Manifest) -> Result<(Self, Vec<Piece>), StageError> {
        let path = stage_of(into);
        if into.exists() {
            // Complete, if it is still what it was: verified like any other beginning.
            if path.exists() {
                std::fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
            std::fs::rename(into, &path).map_err(failed("rename", into))?;
        }
        std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
        let known: HashSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        remove_unknown(&path, "", &known)?;
        let folder = Folder::open(&path).map_err(failed("open", &path))?;
        let stage = Self { into: into.to_owned(), path, folder, manifest, open: std::sync::Mutex::default() };
        let missing = stage.missing()?;
        Ok((stage, missing))
    }

    /// The manifest being laid out.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn missing(&self) -> Result<Vec<Piece>, StageError> {
        let zeros = vec![0; CHUNK as usize];
        let mut buffer = vec![0; CHUNK as usize];
        let (mut pieces, mut known) = (Vec::<Piece>::new(), HashMap::<Hash, usize>::new());
        for (index, entry) in (0_u32..).zip(self.manifest.files.iter()) {
            let path = self.path.join(entry.path.as_str());
            let (file, existed) = self.folder.write(entry.path.as_str()).map_err(failed("create", &path))?;
            let held = if existed { file.metadata().map_err(failed("read", &path))?.len() } else { 0 };
            if held != entry.size.0 {
                allocate(&file, entry.size.0).map_err(failed("reserve room for", &path))?;
            }
            for (chunk, hash) in (0_u32..).zip(entry.chunks.iter()) {
                let place = Place { file: index, chunk };
                let (offset, length) = self.extent(place);
                // What was not there before is zeros now.
                let bytes = if offset >= held {
                    &zeros[..length]
                } else {
                    file.read_exact_at(&mut buffer[..length], offset).map_err(failed("read", &path))?;
                    &buffer[..length]
                };
                if Hash::of(bytes) == *hash {
                    continue;
                }
                let piece = *known.entry(*hash).or_insert_with(|| {
                    pieces.push(Piece { hash: *hash, places: Vec::new() });
                    pieces.len() - 1
                });
                pieces[piece].places.push(place);
            }
        }
        Ok(pieces)
    }

    /// Offset and length of a place of the manifest.
    #[must_use]
    pub fn extent(&self, place: Place) -> (u64, usize) {
        let size = self.manifest.files[place.file as usize].size.0;
        let offset = u64::from(place.chunk) * u64::from(CHUNK);
        (offset, usize::try_from((size - offset).min(u64::from(CHUNK))).expect("a chunk's size"))
    }

    /// Verifies a piece and writes it to all its places.
    ///
    /// # Errors
    /// [`StageError::Corrupt`] before anything is written; else the file system's.
    pub fn write(&self, piece: &Piece, bytes: &Bytes) -> Result<(), StageError> {
        if Hash::of(bytes) != piece.hash {
            return Err(StageError::Corrupt);
        }
        for place in &piece.places {
            let (offset, length) = self.extent(*place);
            let path = self.path.join(self.manifest.files[place.file as usize].path.as_str());
            // One hash with two lengths: a manifest that cannot be met.
            if bytes.len() != length {
                return Err(StageError::Corrupt);
            }
            let file = self.file(place.file).map_err(failed("open", &path))?;
            file.write_all_at(bytes, offset).map_err(failed("write", &path))?;
        }
        Ok(())
    }

    fn file(&self, index: u32) -> io::Result<std::sync::Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = open.get(&index) {
            return Ok(file.clone());
        }
        if open.len() >= OPEN_MAX {
            open.clear(); // whoever writes holds his own
        }
        let (file, _) = self.folder.write(self.manifest.files[index as usize].path.as_str())?;
        let file = std::sync::Arc::new(file);
        open.insert(index, file.clone());
        Ok(file)
    }

    /// Makes everything durable, then gives the folder its name.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(&self) -> Result<(), StageError> {
        let mut folders = HashSet::from([self.path.clone()]);
        for entry in self.manifest.files.iter() {
            let path = self.path.join(entry.path.as_str());
            let file = self.folder.read(entry.path.as_str()).map_err(failed("open", &path))?;
            file.sync_all().map_err(failed("sync", &path))?;
            folders.extend(path.ancestors().skip(1).take_while(|at| *at != self.path).map(Path::to_owned));
        }
        for folder in &folders {
            sync_folder(folder)?;
        }
        std::fs::rename(&self.path, &self.into).map_err(failed("rename", &self.path))?;
        self.into.parent().map_or(Ok(()), sync_folder)
    }
}

fn stage_of(into: &Path) -> PathBuf {
    let mut name = into.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    into.with_file_name(name)
}

fn sync_folder(path: &Path) -> Result<(), StageError> {
    // A relative name without a parent is in the current folder.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Folder::open(path).and_then(|folder| folder.sync()).map_err(failed("sync", path))
}

/// Removes what another manifest left: nothing may arrive in the folder that the root does not name.
fn remove_unknown(dir: &Path, prefix: &str, known: &HashSet<&str>) -> Result<(), StageError> {
    for entry in std::fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = match name.to_str() {
            Some(name) if prefix.is_empty() => name.to_owned(),
            Some(name) => format!("{prefix}/{name}"),
            None => String::new(), // known to no manifest
        };
        let kind = entry.file_type().map_err(failed("read", &path))?;
        let leads_to_known = || known.iter().any(|path| path.strip_prefix(&name).is_some_and(|p| p.starts_with('/')));
        if kind.is_dir() && leads_to_known() {
            remove_unknown(&path, &name, known)?;
        } else if kind.is_dir() {
            std::fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        } else if !kind.is_file() || !known.contains(name.as_str()) {
            std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_protocol::bounded::{List, Text};
    use godwit_protocol::manifest::File as Entry;

    fn manifest(files: &[(&str, &[u8])]) -> Manifest {
        let files = files.iter().map(|(path, bytes)| Entry {
            path: Text::new(path).unwrap(),
            size: godwit_protocol::Bytes(bytes.len() as u64),
            chunks: List::new(bytes.chunks(CHUNK as usize).map(Hash::of).collect()).unwrap(),
        });
        Manifest { files: List::new(files.collect()).unwrap() }
    }

    #[test]
    fn equal_chunks_travel_once_and_zeros_never() {
        let dir = tempfile::tempdir().unwrap();
        let zeros = vec![0; CHUNK as usize + 9];
        let sevens = vec![7; CHUNK as usize * 2];
        let wanted = manifest(&[("zeros", &zeros), ("a/sevens", &sevens), ("b", &sevens[..CHUNK as usize])]);
        let (stage, missing) = Stage::prepare(&dir.path().join("it"), wanted).unwrap();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].places.len(), 3);
        stage.write(&missing[0], &Bytes::from(vec![7; CHUNK as usize])).unwrap();
        stage.finish().unwrap();
        assert_eq!(std::fs::read(dir.path().join("it/zeros")).unwrap(), zeros);
        assert_eq!(std::fs::read(dir.path().join("it/a/sevens")).unwrap(), sevens);
        assert!(!dir.path().join("it.part").exists());
    }

    #[test]
    fn a_stage_keeps_only_what_its_manifest_names_and_verifies_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("it");
        let part = dir.path().join("it.part");
        std::fs::create_dir_all(part.join("old/deep")).unwrap();
        std::fs::create_dir_all(part.join("kept")).unwrap();
        std::fs::write(part.join("old/deep/file"), b"x").unwrap();
        std::fs::write(part.join("kept/right"), b"right").unwrap();
        std::fs::write(part.join("kept/wrong"), b"WRONG").unwrap();
        std::fs::write(part.join("stray"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", part.join("kept/link")).unwrap();
        let wanted = manifest(&[("kept/right", b"right"), ("kept/wrong", b"wrong"), ("kept/link", b"link")]);
        let (stage, missing) = Stage::prepare(&into, wanted).unwrap();
        let hashes: Vec<_> = missing.iter().map(|piece| piece.hash).collect();
        assert_eq!(hashes, [Hash::of(b"wrong"), Hash::of(b"link")]);
        assert!(!part.join("old").exists() && !part.join("stray").exists());
        assert!(matches!(stage.write(&missing[0], &Bytes::from_static(b"WRONG")), Err(StageError::Corrupt)));
        stage.write(&missing[0], &Bytes::from_static(b"wrong")).unwrap();
        stage.write(&missing[1], &Bytes::from_static(b"link")).unwrap();
        stage.finish().unwrap();
        assert_eq!(std::fs::read(into.join("kept/link")).unwrap(), b"link");
        assert_ne!(std::fs::read("/etc/passwd").unwrap(), b"link");

        let again = manifest(&[("kept/right", b"right"), ("kept/wrong", b"wrong")]);
        let (stage, missing) = Stage::prepare(&into, again).unwrap();
        assert!(missing.is_empty());
        stage.finish().unwrap();
        assert!(!into.join("kept/link").exists());
    }

    #[test]
    fn a_full_disk_has_its_own_name() {
        for (errno, full) in [(nix::libc::ENOSPC, true), (nix::libc::EDQUOT, true), (nix::libc::EACCES, false)] {
            let error = failed("write", Path::new("x"))(io::Error::from_raw_os_error(errno));
            assert_eq!(matches!(error, StageError::DiskFull { .. }), full, "{error}");
        }
    }
}
