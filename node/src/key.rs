//! Secret keys in files: one line of 64 hexadecimal digits, the ed25519 seed, readable for the owner only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use godwit_protocol::Hash;

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// It cannot be read.
    #[error("read the key {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("write the key {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could read it.
    #[error("the key {path} can be read by others (mode {mode:03o})")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("{0} is no key: a key file is one line of 64 hexadecimal digits")]
    Content(PathBuf),
}

impl BadKey {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "`godwit init` makes a site's key, `godwit client init` a client's".to_owned()
            }
            Self::Read { .. } => "run as the user that owns the key".to_owned(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "it exists and is never overwritten: a site without its key is another site. Move it away if you mean it"
                    .to_owned()
            }
            Self::Write { .. } => "make its folder writable, or name another with `--key`".to_owned(),
            Self::Open { path, .. } => format!("`chmod 600 {}`, and ask yourself who has read it", path.display()),
            Self::Content(_) => "restore the file from a copy, or make a new key under another name".to_owned(),
        }
    }
}

/// Reads a secret key.
///
/// # Errors
/// [`BadKey`] if it cannot be read, others can read it, or it is no key.
pub fn read(path: &Path) -> Result<SigningKey, BadKey> {
    let unreadable = |source| BadKey::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BadKey::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    // A byte more than a key has shows that it is none.
    file.take(67).read_to_string(&mut text).map_err(unreadable)?;
    let seed: Hash = text.trim().parse().map_err(|_| BadKey::Content(path.to_owned()))?;
    Ok(SigningKey::from_bytes(&seed.0))
}

/// Makes a secret key from the operating system's random source and writes it to a new file of mode 600.
///
/// # Errors
/// [`BadKey::Write`] if the file exists or cannot be written.
pub fn write_new(path: &Path) -> Result<SigningKey, BadKey> {
    let failed = |source| BadKey::Write { path: path.to_owned(), source };
    let key = SigningKey::from_bytes(&random_seed());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{}", Hash(key.to_bytes())).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key)
}

/// Where a key waits that is to take this one's place.
#[must_use]
pub fn next_of(path: &Path) -> PathBuf {
    beside(path, ".next")
}

/// Where the key is kept whose place this one took.
#[must_use]
pub fn old_of(path: &Path) -> PathBuf {
    beside(path, ".old")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Puts the key that waits in this one's place, which is kept. At no moment is there no key in the place.
///
/// # Errors
/// [`BadKey`] if none waits, or the files cannot be changed.
pub fn succeed(path: &Path) -> Result<SigningKey, BadKey> {
    let (next, old) = (next_of(path), old_of(path));
    let key = read(&next)?;
    let failed = |source| BadKey::Write { path: path.to_owned(), source };
    match std::fs::remove_file(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::hard_link(path, &old).and_then(|()| std::fs::rename(&next, path)).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(key)
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    seed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_written_once_for_its_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/site.key");
        let key = write_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), key);
        let again = write_new(&path).unwrap_err();
        assert!(again.remedy().contains("never overwritten"), "{again}");
        assert_eq!(read(&path).unwrap(), key);
    }

    #[test]
    fn a_key_that_waits_takes_the_place_of_the_old_one_which_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        let mut before = write_new(&path).unwrap();
        assert!(succeed(&path).unwrap_err().to_string().contains("site.key.next"));
        for _ in 0..2 {
            let next = write_new(&next_of(&path)).unwrap();
            assert_eq!(succeed(&path).unwrap(), next);
            assert_eq!((read(&path).unwrap(), read(&old_of(&path)).unwrap()), (next.clone(), before));
            assert!(!next_of(&path).exists());
            before = next;
        }
    }

    #[test]
    fn a_file_that_is_no_key_or_that_others_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        assert!(matches!(read(&path), Err(BadKey::Read { .. })));
        for content in ["", "00", &"zz".repeat(32), &"00".repeat(33), &format!("{0}\n{0}\n", "00".repeat(32))] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(read(&path), Err(BadKey::Content(_))), "{content}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(BadKey::Open { mode: 0o640, .. })));
    }
}
