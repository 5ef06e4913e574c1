//! The journal: what this site has promised in handoffs that are still open, on disk before anybody hears of it.
//!
//! One file that is only appended to, of [`frames`] with the canonical bytes of an entry each. What a crash in
//! the middle of [`Journal::append`] left is cut off when the file is opened. Anything else that does not add up is damage
//! to a promise that others may rely on, and is refused: a site that forgot a `Yield` would run a second copy of the
//! container.
//!
//! Invariant: when [`Journal::append`] or [`Journal::rewrite`] has returned, the entries survive a crash of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use godwit_ledger::frames::{self, Framing, Kind, TooLong, Unreadable};
use godwit_ledger::wal::{Unreplaced, replace};
use godwit_protocol::{Malformed, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first bytes of a journal; the last one is the format's version.
pub const KIND: Kind = *b"GODWITJ4";

/// A journal holds a few entries per open handoff, and is rewritten without those of a closed one. A file beyond this is
/// not one we wrote.
pub const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Why a journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named by the messages
pub enum Error {
    /// The operating system refused.
    #[error("{operation} the journal {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// The file is something else, or of another version.
    #[error("{path} is not a journal of this version; move it away only if no handoff of this site is open")]
    NotAJournal { path: PathBuf },
    /// An entry that was once complete is damaged.
    #[error(
        "the journal {path} is damaged at byte {offset}, with whole entries behind it: its promises cannot be trusted; \
         restore the file, or end this site's open handoffs by hand before moving it away"
    )]
    Damaged { path: PathBuf, offset: u64 },
    /// An entry's bytes are intact but are no entry.
    #[error("the journal {path} holds an unknown entry at byte {offset}; was it written by another version?")]
    Unknown { path: PathBuf, offset: u64, source: Malformed },
    /// The entry itself cannot be written.
    #[error("an entry for the journal {path}")]
    Entry { path: PathBuf, source: Malformed },
    /// An earlier write failed in a way that leaves the file's content unknown.
    #[error("the journal {path} failed before and takes nothing more until the site restarts")]
    Failed { path: PathBuf },
}

/// An open journal of entries `T`.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    file: File,
    framing: Framing,
    /// Everything below is complete frames on disk.
    length: u64,
    failed: bool,
    entries: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Opens the journal, or begins an empty one, and returns its entries in the order in which they were written.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Unknown`] and [`Error::NotAJournal`] for a file that must not be used;
    /// [`Error::Io`] if it cannot be read, or its torn end not be cut.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Vec<T>), Error> {
        let path = path.into();
        let failed = |operation| move |path: &Path, source| Error::Io { operation, path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("open")(&path, e))?;
        let size = file.metadata().map_err(|e| failed("read")(&path, e))?.len();
        if size > MAX_FILE {
            return Err(Error::NotAJournal { path });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| failed("read")(&path, e))?;

        if frames::is_unbegun(KIND, &bytes) {
            let journal = Self::begin(path)?;
            return Ok((journal, Vec::new()));
        }
        let (entries, framing, length) = read_frames(&path, &bytes)?;
        if length < size {
            tracing::warn!(path = %path.display(), cut = size - length, "journal.torn_end");
            file.set_len(length).and_then(|()| file.sync_all()).map_err(|e| failed("cut the torn end of")(&path, e))?;
        }
        file.seek(SeekFrom::Start(length)).map_err(|e| failed("read")(&path, e))?;
        Ok((Self { path, file, framing, length, failed: false, entries: PhantomData }, entries))
    }

    /// Writes one entry and returns when it is on disk.
    ///
    /// # Errors
    /// [`Error::Entry`] and [`Error::Io`]: the entry is not in the journal; after an `Io` that leaves the content unknown,
    /// [`Error::Failed`] from then on.
    pub fn append(&mut self, entry: &T) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed { path: self.path.clone() });
        }
        let frame = frame(&self.framing, entry).map_err(|source| Error::Entry { path: self.path.clone(), source })?;
        if let Err(source) = self.file.write_all(&frame) {
            // Part of the frame may be there: the next one must not follow it.
            let end = self.length;
            self.failed = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end))).is_err();
            return Err(self.io("append to", source));
        }
        if let Err(source) = self.file.sync_data() {
            // What is on disk after a failed sync is unknown, and a second sync would not tell.
            self.failed = true;
            return Err(self.io("sync", source));
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Replaces all entries at once: after a crash there are either all the old ones or all the new ones.
    ///
    /// # Errors
    /// [`Error::Entry`] and [`Error::Io`]: the old entries stay; [`Error::Failed`] from then on if that is uncertain.
    pub fn rewrite(&mut self, entries: &[T]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed { path: self.path.clone() });
        }
        let framing = fresh();
        let mut bytes = framing.header();
        for entry in entries {
            bytes.extend(frame(&framing, entry).map_err(|source| Error::Entry { path: self.path.clone(), source })?);
        }
        let next = replace(&self.path, &bytes).map_err(|Unreplaced { uncertain, source }| {
            // What we would append to might vanish.
            self.failed = uncertain;
            self.io("rewrite", source)
        })?;
        (self.file, self.framing) = (next, framing);
        self.length = bytes.len() as u64;
        Ok(())
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn begin(path: PathBuf) -> Result<Self, Error> {
        let framing = fresh();
        let header = framing.header();
        match replace(&path, &header) {
            Ok(file) => {
                Ok(Self { path, file, framing, length: header.len() as u64, failed: false, entries: PhantomData })
            }
            Err(Unreplaced { source, .. }) => Err(Error::Io { operation: "begin", path, source }),
        }
    }

    fn io(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Io { operation, path: self.path.clone(), source }
    }
}

fn fresh() -> Framing {
    Framing::new(KIND, rand::random())
}

fn frame<T: Serialize>(framing: &Framing, entry: &T) -> Result<Vec<u8>, Malformed> {
    framing.frame(&encode(entry)?).map_err(|TooLong(length)| Malformed::TooLong(length))
}

/// The entries, what to frame more of them with, and where the last whole frame ends.
fn read_frames<T: Serialize + DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Vec<T>, Framing, u64), Error> {
    let frames = frames::read(KIND, bytes).map_err(|unreadable| match unreadable {
        Unreadable::Kind => Error::NotAJournal { path: path.to_owned() },
        Unreadable::Damaged(at) => Error::Damaged { path: path.to_owned(), offset: at as u64 },
    })?;
    let unknown = |at| move |source| Error::Unknown { path: path.to_owned(), offset: at as u64, source };
    let decoded = frames.entries.into_iter().map(|at| decode(&bytes[at.clone()]).map_err(unknown(at.start)));
    Ok((decoded.collect::<Result<_, _>>()?, frames.framing, frames.end as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_ledger::frames::HEADER;
    use std::fs;

    type Entry = (u64, String);

    fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
        range.map(|n| (n, format!("promise {n}"))).collect()
    }

    fn filled(range: std::ops::Range<u64>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        entries(range).iter().for_each(|entry| journal.append(entry).unwrap());
        (folder, path)
    }

    fn framed(entry: &Entry) -> usize {
        frame(&fresh(), entry).unwrap().len()
    }

    fn read(path: &Path) -> Result<Vec<Entry>, Error> {
        Journal::open(path).map(|(_, entries)| entries)
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let (_folder, path) = filled(0..5);
        assert_eq!(read(&path).unwrap(), entries(0..5));
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_every_complete_entry_and_goes_on() {
        let (_folder, path) = filled(0..3);
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..=3).map(|n| HEADER + entries(0..n).iter().map(framed).sum::<usize>()).collect();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let complete = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1) as u64;
            let (mut journal, found) = Journal::<Entry>::open(&path).unwrap();
            assert_eq!(found, entries(0..complete), "cut at {cut}");
            journal.append(&(9, "after".into())).unwrap();
            drop(journal);
            assert_eq!(read(&path).unwrap().last().unwrap().0, 9, "cut at {cut}");
        }
    }

    #[test]
    fn an_end_of_zeros_is_cut() {
        let (_folder, path) = filled(0..2);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([0; 100]);
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), entries(0..2));
    }

    #[test]
    fn any_flipped_bit_before_the_last_entry_is_refused() {
        let (_folder, path) = filled(0..3);
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - framed(&entries(2..3)[0]);
        for at in 0..last {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let error = read(&path).unwrap_err();
            let expected = match error {
                Error::NotAJournal { .. } => at < KIND.len(),
                Error::Damaged { offset, .. } => at >= KIND.len() && offset <= at as u64,
                _ => false,
            };
            assert!(expected, "byte {at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "a refused journal is left as it is");
        }
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "something else entirely").unwrap();
        assert!(matches!(read(&path), Err(Error::NotAJournal { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else entirely");
    }

    #[test]
    fn an_entry_of_another_type_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::<u8>::open(&path).unwrap();
        journal.append(&7).unwrap();
        assert!(matches!(read(&path), Err(Error::Unknown { offset: 40, .. })));
    }

    #[test]
    fn rewriting_replaces_everything_and_appending_goes_on() {
        let (_folder, path) = filled(0..5);
        let (mut journal, mut kept) = Journal::<Entry>::open(&path).unwrap();
        kept.retain(|(n, _)| *n > 2);
        journal.rewrite(&kept).unwrap();
        journal.append(&(5, "promise 5".into())).unwrap();
        assert_eq!(read(&path).unwrap(), entries(3..6));
    }

    #[test]
    fn a_rewrite_that_fails_keeps_the_old_entries() {
        let (folder, path) = filled(0..2);
        let (mut journal, _) = Journal::<Entry>::open(&path).unwrap();
        fs::create_dir(folder.path().join("journal.new")).unwrap();
        assert!(matches!(journal.rewrite(&[]), Err(Error::Io { operation: "rewrite", .. })));
        journal.append(&(2, "promise 2".into())).unwrap();
        assert_eq!(read(&path).unwrap(), entries(0..3));
    }
}
