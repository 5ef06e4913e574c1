//! The write-ahead log of a replica: one file of [`frames`].
//!
//! What was cut off by a crash is cut off here too: nothing that follows from it was said.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::frames::{self, Framing, HEADER, Kind, TooLong, Unreadable};

/// The first bytes of a log; the last one is the format's version.
pub const KIND: Kind = *b"GODWITW2";

/// The log, open for appending.
#[derive(Debug)]
pub struct Wal {
    file: File,
    path: PathBuf,
    framing: Framing,
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
        "the write-ahead log {path} is damaged at byte {at}: the disk lost what this validator may have said, so it must \
         not vote; `godwit rebuild` moves the ledger aside and lets this site fetch it again"
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where the damaged frame begins.
        at: u64,
    },
    /// It is not there, although this site has a ledger.
    #[error(
        "the write-ahead log {0} is missing beside a ledger: what this validator may have said is lost with it, so it \
         must not vote; put it back, or `godwit rebuild` moves the ledger aside and lets this site fetch it again"
    )]
    Lost(PathBuf),
    /// The file is something else, or of another version.
    #[error(
        "{0} is not a write-ahead log of this version, so this site must not vote; put the right file back, or \
         `godwit rebuild` moves the ledger aside and lets this site fetch it again"
    )]
    NotALog(PathBuf),
    /// Longer than any entry.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// An earlier error leaves unknown what is on disk.
    #[error("the write-ahead log {0} failed before and must be opened again")]
    Failed(PathBuf),
}

impl WalError {
    /// Whether what the log held is lost for good: no restart mends it.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Lost(_) | Self::NotALog(_))
    }
}

impl Wal {
    /// Makes an empty log, unless there is one.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn found(path: &Path) -> Result<(), WalError> {
        if path.exists() {
            return Ok(());
        }
        let framing = Framing::new(KIND, rand::random());
        match replace(path, &framing.header()) {
            Ok(_) => Ok(()),
            Err(Unreplaced { source, .. }) => Err(WalError::Io { what: "make", path: path.to_owned(), source }),
        }
    }

    /// Opens the log and reads it.
    ///
    /// # Errors
    /// [`WalError`] if there is none, or it cannot be read, or is damaged before its end.
    pub fn open(path: &Path) -> Result<Opened, WalError> {
        let failed = |what| move |source| WalError::Io { what, path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => WalError::Lost(path.to_owned()),
            _ => failed("open")(source),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let frames = frames::read(KIND, &bytes).map_err(|unreadable| match unreadable {
            Unreadable::Kind => WalError::NotALog(path.to_owned()),
            Unreadable::Damaged(at) => WalError::Corrupt { path: path.to_owned(), at: at as u64 },
        })?;
        let torn = (bytes.len() - frames.end) as u64;
        if torn > 0 {
            let cut = file.set_len(frames.end as u64).and_then(|()| file.sync_all());
            cut.map_err(failed("cut the torn end off"))?;
        }
        let entries = frames.entries.into_iter().map(|entry| bytes[entry].to_vec()).collect();
        Ok(Opened { wal: Self { file, path: path.to_owned(), framing: frames.framing, failed: false }, entries, torn })
    }

    /// Appends an entry. It is on disk only after [`Wal::sync`].
    ///
    /// # Errors
    /// [`WalError`]; after one the log takes nothing more.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), WalError> {
        let frame = self.framing.frame(entry)?;
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
        self.attempt("empty", |file| file.set_len(HEADER as u64))
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

/// A file was not replaced, or perhaps not for good.
#[derive(Debug, thiserror::Error)]
#[error("replace a file")]
pub struct Unreplaced {
    /// The new file is in place, but a crash may bring the old one back.
    pub uncertain: bool,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Puts a whole file in place: written beside, synced, renamed, the folder synced. After a crash there is either the old
/// file or the new one.
///
/// # Errors
/// [`Unreplaced`] says whether the old file is still in place.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<File, Unreplaced> {
    let beside = path.with_extension("new");
    let before = |source| Unreplaced { uncertain: false, source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&beside).map_err(before)?;
    file.write_all(bytes).map_err(before)?;
    file.sync_all().map_err(before)?;
    std::fs::rename(&beside, path).map_err(before)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| Unreplaced { uncertain: true, source })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, entries: &[Vec<u8>]) {
        Wal::found(path).expect("makes it");
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
        let second = HEADER + (bytes.len() - HEADER) / 3;
        bytes[second + 3] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        let refused = Wal::open(&path).expect_err("damaged");
        assert!(refused.is_loss() && matches!(refused, WalError::Corrupt { at, .. } if at == second as u64));
        assert_eq!(std::fs::read(&path).expect("reads"), bytes, "the evidence is left alone");
    }

    #[test]
    fn a_torn_end_is_cut_off_and_appending_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wal");
        write(&path, &[vec![1; 10], vec![2; 10]]);
        let whole = std::fs::read(&path).expect("reads");
        let second = HEADER + (whole.len() - HEADER) / 2;
        for cut in second..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            let opened = Wal::open(&path).expect("opens");
            assert_eq!((opened.entries, opened.torn), (vec![vec![1; 10]], (cut - second) as u64));
            let mut wal = opened.wal;
            wal.append(&[42]).expect("appends");
            drop(wal);
            let opened = Wal::open(&path).expect("opens");
            assert_eq!((opened.entries, opened.torn), (vec![vec![1; 10], vec![42]], 0));
        }
    }

    #[test]
    fn a_log_that_is_missing_or_something_else_is_no_empty_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wal");
        assert!(matches!(Wal::open(&path), Err(WalError::Lost(_))));
        std::fs::write(&path, []).expect("writes");
        assert!(matches!(Wal::open(&path), Err(WalError::NotALog(_))));
        // As the versions before wrote it.
        std::fs::write(&path, b"gwal\0\0\0\0\0\0\0\0").expect("writes");
        Wal::found(&path).expect("leaves it alone");
        assert!(matches!(Wal::open(&path), Err(WalError::NotALog(_))));
    }

    #[test]
    fn two_logs_share_no_salt() {
        let folder = tempfile::tempdir().expect("a folder");
        let header = |name: &str| {
            let path = folder.path().join(name);
            Wal::found(&path).expect("makes it");
            std::fs::read(&path).expect("reads")
        };
        assert_ne!(header("one"), header("other"));
    }
}
