//! The manifest of a folder: its files, named by what they hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use godwit_protocol::bounded::{List, Text, TooLong};
use godwit_protocol::manifest::{BadManifest, CHUNK, File as Entry, MAX_FILES, Manifest};
use godwit_protocol::{Bytes, Hash, Malformed};

use super::folder::Folder;

/// Why a folder has no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link, a device, a pipe or a socket.
    #[error("{0} is neither a regular file nor a folder")]
    NotRegular(PathBuf),
    /// A name that is not UTF-8, has control characters or is too long.
    #[error("{0:?} is not a name that can travel")]
    Name(PathBuf),
    /// It changed while it was read.
    #[error("{0} changed while it was read")]
    Changed(PathBuf),
    /// More files than a manifest holds.
    #[error("{path}: too many files")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// How many.
        #[source]
        source: TooLong,
    },
    /// A file of more chunks than a manifest holds.
    #[error("{path} is too large")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many chunks.
        #[source]
        source: TooLong,
    },
    /// All files together are too large.
    #[error("all files together are too large for a manifest")]
    Encode(#[from] Malformed),
    /// Our own walk made a manifest that we would refuse.
    #[error("the manifest is not valid")]
    Bad(#[from] BadManifest),
    /// The task was ended.
    #[error("hashing was interrupted")]
    Interrupted,
}

/// Hashes a folder, on as many threads as there are processors and with one chunk of memory each. Files come in the
/// order of their paths.
///
/// # Errors
/// [`ManifestError`] names what cannot travel.
pub async fn manifest_of(dir: &Path) -> Result<Manifest, ManifestError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || hash_folder(&dir)).await.map_err(|_| ManifestError::Interrupted)?
}

/// A file that was found, and where its first chunk stands among all chunks.
struct Found {
    name: Text<255>,
    path: PathBuf,
    size: u64,
    first: usize,
}

impl Found {
    fn chunks(&self) -> usize {
        usize::try_from(self.size.div_ceil(u64::from(CHUNK))).unwrap_or(usize::MAX)
    }
}

fn hash_folder(dir: &Path) -> Result<Manifest, ManifestError> {
    let folder = Folder::open(dir).map_err(|source| ManifestError::Read { path: dir.to_owned(), source })?;
    let mut found = Vec::new();
    walk(dir, "", &mut found)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let mut count = 0_usize;
    for file in &mut found {
        file.first = count;
        count = count.saturating_add(file.chunks());
    }
    let hashes = hash_chunks(&folder, &found, count)?;
    let files = found.iter().map(|file| {
        let chunks = List::new(hashes[file.first..file.first + file.chunks()].to_vec());
        let chunks = chunks.map_err(|source| ManifestError::TooLarge { path: file.path.clone(), source })?;
        Ok(Entry { path: file.name.clone(), size: Bytes(file.size), chunks })
    });
    let files = files.collect::<Result<Vec<_>, ManifestError>>()?;
    let files = List::new(files).map_err(|source| ManifestError::TooManyFiles { path: dir.to_owned(), source })?;
    let manifest = Manifest { files };
    manifest.check()?;
    manifest.root()?;
    Ok(manifest)
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<Found>) -> Result<(), ManifestError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManifestError::Read { path, source }
    };
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed(&path))?;
        let name = entry.file_name().into_string().map_err(|_| ManifestError::Name(path.clone()))?;
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if kind.is_dir() {
            walk(&path, &name, found)?;
        } else if kind.is_file() {
            let text = Text::new(&name).ok().filter(|text: &Text<255>| text.as_str() == name);
            let name = text.ok_or_else(|| ManifestError::Name(path.clone()))?;
            let size = entry.metadata().map_err(failed(&path))?.len();
            // The manifest would refuse it at the end; a folder of millions of files is refused before it is hashed.
            if found.len() > MAX_FILES {
                let source = TooLong { got: found.len(), most: MAX_FILES };
                return Err(ManifestError::TooManyFiles { path: dir.to_owned(), source });
            }
            found.push(Found { name, path, size, first: 0 });
        } else {
            return Err(ManifestError::NotRegular(path));
        }
    }
    Ok(())
}

/// Each thread takes the next chunk that nobody has taken.
fn hash_chunks(folder: &Folder, found: &[Found], count: usize) -> Result<Vec<Hash>, ManifestError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Hash)>, ManifestError> {
        let (mut hashed, mut buffer) = (Vec::new(), vec![0; CHUNK as usize]);
        let mut open: Option<(usize, File)> = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(hashed);
            }
            // The last file that begins at or before the chunk; empty files share their place with the next one.
            let which = found.partition_point(|file| file.first <= index) - 1;
            let file = &found[which];
            if open.as_ref().is_none_or(|(held, _)| *held != which) {
                let opened = folder.read(file.name.as_str());
                open = Some((which, opened.map_err(|source| ManifestError::Read { path: file.path.clone(), source })?));
            }
            let Some((_, handle)) = &open else { return Err(ManifestError::Interrupted) };
            hashed.push((index, hash_chunk(handle, file, index - file.first, &mut buffer)?));
        }
    };
    let mut hashes = vec![Hash::ZERO; count];
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(Err(ManifestError::Interrupted))).collect()
    });
    for result in results {
        for (index, hash) in result? {
            hashes[index] = hash;
        }
    }
    Ok(hashes)
}

fn hash_chunk(handle: &File, file: &Found, chunk: usize, buffer: &mut [u8]) -> Result<Hash, ManifestError> {
    let offset = chunk as u64 * u64::from(CHUNK);
    let length = usize::try_from((file.size - offset).min(u64::from(CHUNK))).expect("a chunk's size");
    let buffer = &mut buffer[..length];
    handle.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => ManifestError::Changed(file.path.clone()),
        _ => ManifestError::Read { path: file.path.clone(), source },
    })?;
    Ok(Hash::of(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manifest_names_every_file_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..=250).cycle().take(CHUNK as usize * 2 + 5).collect();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/large"), &large).unwrap();
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        std::fs::write(dir.path().join("small"), b"small").unwrap();
        let manifest = manifest_of(dir.path()).await.unwrap();
        let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["empty", "small", "sub/large"]);
        assert!(manifest.files[0].chunks.is_empty());
        assert_eq!(manifest.files[1].chunks[..], [Hash::of(b"small")]);
        let expected: Vec<_> = large.chunks(CHUNK as usize).map(Hash::of).collect();
        assert_eq!(manifest.files[2].chunks[..], expected[..]);
        assert_eq!(manifest.bytes(), Bytes(large.len() as u64 + 5));
    }

    #[tokio::test]
    async fn what_cannot_travel_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let refused = manifest_of(dir.path()).await.unwrap_err();
        assert!(matches!(&refused, ManifestError::NotRegular(path) if path.ends_with("link")), "{refused}");
        std::fs::remove_file(dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("bell\u{7}"), b"").unwrap();
        assert!(matches!(manifest_of(dir.path()).await, Err(ManifestError::Name(_))));
        let nothing = manifest_of(&dir.path().join("nothing")).await.unwrap_err();
        assert!(matches!(nothing, ManifestError::Read { .. }), "{nothing}");
    }
}
