//! The write-ahead log of a replica: one file of [`frames`].
//!
//! What was cut off by a crash is cut off here too: nothing that follows from it was said.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::frames::{self, Damaged, TooLong};

/// The log, open for appending.
#[derive(Debug)]
pub struct Wal {
    file: File,
    path: PathBuf,
    /// A failed write or sync may have left anything on disk: nothing more is promised on it.
    failed: bool,
}

/// A log as it was found.
#[derive(Debug)]
pub struct Opened {
    /// To append to.
    pub wal: Wal,
    /// Its entries, oldest first.
    pub entries: Vec<Vec<u8>>,
    /// Bytes of an incomplete last frame that were cut off.
    pub torn: u64,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system says no.
    #[error("{what} the write-ahead log {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Damaged before its end.
    #[error(
        "the write-ahead log {path} is damaged at byte {at}, with whole entries behind it: the disk lost what this \
         validator may have said; have its key removed from the mesh and join with a new one"
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where the damaged frame begins.
        at: u64,
    },
    /// Longer than any entry.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// An earlier error leaves unknown what is on disk.
    #[error("the write-ahead log {0} failed before and must be opened again")]
    Failed(PathBuf),
}

impl Wal {
    /// Opens the log, or makes an empty one, and reads it.
    ///
    /// # Errors
    /// [`WalError`] if it cannot be read, or is damaged before its end.
    pub fn open(path: &Path) -> Result<Opened, WalError> {
        let failed = |what| move |source| WalError::Io { what, path: path.to_owned(), source };
        let is_new = !path.exists();
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed("open"))?;
        if is_new {
            // Its name must survive a crash as well as its content.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let corrupt = |Damaged(at)| WalError::Corrupt { path: path.to_owned(), at: at as u64 };
        let frames = frames::read(&bytes, 0).map_err(corrupt)?;
        let torn = (bytes.len() - frames.end) as u64;
        if torn > 0 {
            let cut = file.set_len(frames.end as u64).and_then(|()| file.sync_all());
            cut.map_err(failed("cut the torn end off"))?;
        }
        let entries = frames.entries.into_iter().map(|entry| bytes[entry].to_vec()).collect();
        Ok(Opened { wal: Self { file, path: path.to_owned(), failed: false }, entries, torn })
    }

    /// Appends an entry. It is on disk only after [`Wal::sync`].
    ///
    /// # Errors
    /// [`WalError`]; after one the log takes nothing more.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), WalError> {
        let frame = frames::frame(entry)?;
        self.attempt("append to", |file| file.write_all(&frame))
    }

    /// Brings all that was appended to disk.
    ///
    /// # Errors
    /// [`WalError`]; after one the log takes nothing more, since the system may have dropped what it could not write.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.attempt("sync", |file| file.sync_data())
    }

    /// Empties the log, when the height it was about is committed. Not synced: entries of a committed height do no harm.
    ///
    /// # Errors
    /// [`WalError`]; after one the log takes nothing more.
    pub fn reset(&mut self) -> Result<(), WalError> {
        self.attempt("empty", |file| file.set_len(0))
    }

    fn attempt(&mut self, what: &'static str, act: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::Failed(self.path.clone()));
        }
        act(&mut self.file).map_err(|source| {
            self.failed = true;
            WalError::Io { what, path: self.path.clone(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, entries: &[Vec<u8>]) {
        let mut wal = Wal::open(path).expect("opens").wal;
        entries.iter().for_each(|entry| wal.append(entry).expect("appends"));
        wal.sync().expect("syncs");
    }

    #[test]
    fn what_was_appended_is_read_back_until_it_is_reset() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wal");
        let entries = vec![vec![1, 2, 3], Vec::new(), vec![0; 100_000]];
        write(&path, &entries);
        let opened = Wal::open(&path).expect("opens");
        assert_eq!((opened.entries, opened.torn), (entries, 0));
        let mut wal = opened.wal;
        wal.reset().expect("resets");
        wal.append(&[9]).expect("appends");
        assert_eq!(Wal::open(&path).expect("opens").entries, vec![vec![9]]);
    }

    #[test]
    fn damage_before_the_end_is_an_error_that_says_where() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wal");
        write(&path, &[vec![1; 10], vec![2; 10], vec![3; 10]]);
        let mut bytes = std::fs::read(&path).expect("reads");
        let frame = bytes.len() / 3;
        bytes[frame + 3] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        assert!(matches!(Wal::open(&path), Err(WalError::Corrupt { at, .. }) if at == frame as u64));
        assert_eq!(std::fs::read(&path).expect("reads"), bytes, "the evidence is left alone");
    }

    #[test]
    fn a_torn_end_is_cut_off_and_appending_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wal");
        write(&path, &[vec![1; 10], vec![2; 10]]);
        let whole = std::fs::read(&path).expect("reads");
        for cut in whole.len() / 2..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            let opened = Wal::open(&path).expect("opens");
            assert_eq!((opened.entries, opened.torn), (vec![vec![1; 10]], (cut - whole.len() / 2) as u64));
            let mut wal = opened.wal;
            wal.append(&[42]).expect("appends");
            drop(wal);
            let opened = Wal::open(&path).expect("opens");
            assert_eq!((opened.entries, opened.torn), (vec![vec![1; 10], vec![42]], 0));
        }
    }
}
