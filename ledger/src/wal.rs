//! The write-ahead log of a replica: one file of frames.
//!
//! A crash may leave an incomplete frame at the end: nothing that follows from it was said, so it is cut off. A frame that
//! is damaged while whole ones lie behind it is no crash but a fault of the disk, and what was said may be lost with it:
//! that is an error.
//!
//! Frame: mark (4 bytes), length of the entry (4, little endian), CRC-32 of length and entry (4), entry.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use godwit_protocol::codec;

const MARK: [u8; 4] = *b"gwal";
const HEAD: usize = 12;

/// An entry holds at most a block.
const MAX_ENTRY: usize = codec::LIMIT;

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
    #[error("an entry of {0} bytes; the most is {MAX_ENTRY}")]
    TooLong(usize),
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
        let mut entries = Vec::new();
        let mut at = 0;
        while let Some((entry, end)) = frame(&bytes, at) {
            entries.push(entry.to_vec());
            at = end;
        }
        if (at + 1..bytes.len()).any(|later| frame(&bytes, later).is_some()) {
            return Err(WalError::Corrupt { path: path.to_owned(), at: at as u64 });
        }
        let torn = (bytes.len() - at) as u64;
        if torn > 0 {
            file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(failed("cut the torn end off"))?;
        }
        Ok(Opened { wal: Self { file, path: path.to_owned(), failed: false }, entries, torn })
    }

    /// Appends an entry. It is on disk only after [`Wal::sync`].
    ///
    /// # Errors
    /// [`WalError`]; after one the log takes nothing more.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), WalError> {
        if entry.len() > MAX_ENTRY {
            return Err(WalError::TooLong(entry.len()));
        }
        let length = u32::try_from(entry.len()).map_err(|_| WalError::TooLong(entry.len()))?.to_le_bytes();
        let mut frame = Vec::with_capacity(HEAD + entry.len());
        frame.extend_from_slice(&MARK);
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&checksum(length, entry).to_le_bytes());
        frame.extend_from_slice(entry);
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

fn checksum(length: [u8; 4], entry: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(entry);
    crc.finalize()
}

/// The whole frame that begins at `at`, if one does: its entry and where the frame ends.
fn frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.get(at..)?.split_at_checked(HEAD)?;
    let field = |range: std::ops::Range<usize>| -> [u8; 4] { head[range].try_into().expect("four bytes") };
    let (mark, length, crc) = (field(0..4), field(4..8), field(8..12));
    let size = usize::try_from(u32::from_le_bytes(length)).ok()?;
    if mark != MARK || size > MAX_ENTRY {
        return None;
    }
    let entry = rest.get(..size)?;
    (checksum(length, entry) == u32::from_le_bytes(crc)).then_some((entry, at + HEAD + size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        bytes[HEAD + 10 + HEAD + 3] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        assert!(matches!(Wal::open(&path), Err(WalError::Corrupt { at: 22, .. })));
        assert_eq!(std::fs::read(&path).expect("reads"), bytes, "the evidence is left alone");
    }

    proptest! {
        #[test]
        fn a_crash_in_the_last_append_loses_that_entry_and_no_other(
            sizes in prop::collection::vec(0_usize..300, 1..6),
            cut in any::<prop::sample::Index>(),
            zeros in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("wal");
            let entries: Vec<Vec<u8>> = (0_u8..).zip(&sizes).map(|(n, size)| vec![n; *size]).collect();
            write(&path, &entries);
            let mut bytes = std::fs::read(&path).expect("reads");
            let last = HEAD + sizes[sizes.len() - 1];
            let (whole, kept) = (bytes.len() - last, cut.index(last));
            bytes.truncate(whole + kept);
            // Some file systems lengthen a file before they write to it.
            bytes.resize(whole + kept + if zeros { last - kept } else { 0 }, 0);
            let intact = zeros && sizes[sizes.len() - 1] > 0 && sizes.len() == 1 && kept >= HEAD;
            std::fs::write(&path, &bytes).expect("writes");
            let opened = Wal::open(&path).expect("opens");
            // Entry 0 consists of zeros: filling it up with zeros restores it.
            let expected = if intact { &entries[..] } else { &entries[..entries.len() - 1] };
            prop_assert_eq!(&opened.entries, expected);
            let mut wal = opened.wal;
            wal.append(&[42]).expect("appends");
            drop(wal);
            let opened = Wal::open(&path).expect("opens");
            prop_assert_eq!(opened.entries.last(), Some(&vec![42]));
            prop_assert_eq!(opened.torn, 0);
        }
    }
}
