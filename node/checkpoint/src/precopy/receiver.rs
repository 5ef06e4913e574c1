//! The target's side: a thread that keeps what the source sends.

use std::io::{BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Error;
use super::arena::Arena;
use super::known::Place;
use super::outcome::Final;
use super::wire::{Entry, Reader, greet, greeted};
use crate::pages::{Close, Connection, PAGE, PAGE_BYTES, WireError};

/// Some four of the kernel's reads for a frame of pages.
const BUFFER: usize = 64 << 10;

/// What a source may take here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory. Pages that do not fit are not kept: they are fetched from the source later.
    pub bytes: u64,
    /// How long [`Receiver::finish`] waits for what is still on its way.
    pub patience: Duration,
}

/// Receives the memory of a process tree that runs elsewhere. Dropped, it closes the connection.
pub struct Receiver {
    close: Arc<Close>,
    counts: Arc<Counts>,
    settled: mpsc::Receiver<()>,
    ended: mpsc::Receiver<Result<Received, WireError>>,
    thread: Option<JoinHandle<()>>,
    patience: Duration,
}

#[derive(Default)]
struct Counts {
    wire_bytes: AtomicU64,
    held: AtomicU64,
}

/// What came until the end.
struct Received {
    pages: Arena,
    transcript: blake3::Hash,
}

impl Receiver {
    /// Begins to receive.
    ///
    /// # Errors
    /// [`Error::Start`]. All else is told by [`Receiver::finish`].
    pub fn start(connection: Connection, limits: Limits) -> Result<Self, Error> {
        let (tell, ended) = mpsc::sync_channel(1);
        let (settle, settled) = mpsc::sync_channel(1);
        let (close, counts) = (Arc::new(connection.close), Arc::new(Counts::default()));
        let (shut, count) = (close.clone(), counts.clone());
        let (read, mut write) = (connection.read, connection.write);
        let work = move || {
            let received = receive(BufReader::with_capacity(BUFFER, read), &mut write, limits.bytes, &count, settle);
            // The source hears of a failure by the connection's end; when all has come, it ends by itself.
            if received.is_err() {
                shut();
            }
            let _ = tell.send(received);
        };
        let thread = std::thread::Builder::new().name("precopy-receive".to_owned()).spawn(work);
        let thread = Some(thread.map_err(Error::Start)?);
        Ok(Self { close, counts, settled, ended, thread, patience: limits.patience })
    }

    /// Bytes of frames received, and bytes of memory taken for the pages in them.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.counts.wire_bytes.load(Ordering::Relaxed), self.counts.held.load(Ordering::Relaxed))
    }

    /// Waits until the source has said that waiting longer would gain nothing, at most so long. Whether it has.
    ///
    /// # Errors
    /// [`Error::Ended`] if it ends without having said so: [`finish`](Self::finish) tells why.
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        match self.settled.recv_timeout(limit) {
            Ok(()) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Ended),
        }
    }

    /// Waits for what is still on its way and keeps the pages that are valid.
    ///
    /// # Errors
    /// [`Error::Wire`] if the connection broke, [`Error::Late`], and [`Error::Transcript`] if these are not the pages that the
    /// source vouches for. There are no pages then.
    pub fn finish(self, told: &Final) -> Result<Arena, Error> {
        let received = self.ended.recv_timeout(self.patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => Error::Late(self.patience),
            RecvTimeoutError::Disconnected => Error::Ended,
        })?;
        let Received { mut pages, transcript } = received?;
        if transcript != told.transcript {
            return Err(Error::Transcript);
        }
        pages.keep(&told.valid);
        Ok(pages)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        (self.close)();
        if let Some(thread) = self.thread.take() {
            // One that panicked has told so.
            let _ = thread.join();
        }
    }
}

fn receive(
    mut read: impl std::io::Read,
    write: &mut impl Write,
    most: u64,
    counts: &Counts,
    settle: mpsc::SyncSender<()>,
) -> Result<Received, WireError> {
    greet(write)?;
    greeted(&mut read)?;
    let (mut reader, mut pages) = (Reader::new(), Arena::new(most));
    while !reader.ended {
        reader.read(&mut read)?;
        reader.entries.iter().for_each(|entry| apply(entry, reader.body(), &mut pages));
        if reader.settled {
            // Once is enough.
            let _ = settle.try_send(());
        }
        counts.wire_bytes.store(reader.wire_bytes, Ordering::Relaxed);
        counts.held.store(pages.held(), Ordering::Relaxed);
        write.write_all(&reader.wire_bytes.to_le_bytes())?;
        write.flush()?;
    }
    Ok(Received { pages, transcript: reader.transcript() })
}

fn apply(entry: &Entry, body: &[u8], pages: &mut Arena) {
    let each = |(pid, address): Place, pages: u32| (0..u64::from(pages)).map(move |at| (pid, address + at * PAGE));
    match entry {
        Entry::Raw((pid, address), range) => {
            let contents = body[range.clone()].as_chunks::<PAGE_BYTES>().0;
            for (index, content) in contents.iter().enumerate() {
                pages.put((*pid, address + index as u64 * PAGE), content);
            }
        }
        Entry::Zero(place, count) => each(*place, *count).for_each(|place| pages.put_zeros(place)),
        Entry::Repeat(place, count, others) => {
            each(*place, *count).zip(each(*others, *count)).for_each(|(place, other)| pages.repeat(place, other));
        }
        Entry::Void(place, count) => each(*place, *count).for_each(|place| pages.remove(place)),
    }
}
