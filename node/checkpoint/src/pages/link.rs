//! The target's connection to the source: two threads that connect, send what the service asks, read what the source answers,
//! and connect again when the connection is lost.

use std::io::BufReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::connection::{Close, Connect, Connection};
use super::wire::{Batch, Request, Unbatcher, WireError, greet, greeted};

/// Between two attempts to connect: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What comes from the link.
pub(super) enum Heard {
    /// Requests go here now.
    Connected(Sender<Request>),
    Batch(Batch),
    Lost(WireError),
}

/// The inbox of the service's thread, which waits in `poll`.
pub(super) struct Inbox<T> {
    items: Receiver<T>,
    bell: Arc<EventFd>,
}

/// Puts into an inbox.
pub(super) struct Outbox<T> {
    items: SyncSender<T>,
    bell: Arc<EventFd>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), bell: self.bell.clone() }
    }
}

/// An inbox that holds `bound` items: whoever puts more waits.
pub(super) fn inbox<T>(bound: usize) -> nix::Result<(Outbox<T>, Inbox<T>)> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(bound);
    let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    Ok((Outbox { items: sender, bell: bell.clone() }, Inbox { items: receiver, bell }))
}

impl<T> Outbox<T> {
    /// False when nobody will take it.
    pub fn put(&self, item: T) -> bool {
        let put = self.items.send(item).is_ok();
        // Fails only when the bell has rung as often as it can count.
        let _ = self.bell.write(1);
        put
    }
}

impl<T> Inbox<T> {
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell. What is put from now on rings again, so take everything afterwards.
    pub fn answer_bell(&self) {
        let _ = self.bell.read();
    }

    pub fn take(&self) -> Option<T> {
        self.items.try_recv().ok()
    }
}

/// Ends the connection that is open now, if one is.
#[derive(Clone, Default)]
pub(super) struct Breaker {
    close: Arc<Mutex<Option<Close>>>,
    stopped: Arc<AtomicBool>,
}

impl Breaker {
    fn set(&self, close: Option<Close>) {
        *self.close.lock().unwrap_or_else(PoisonError::into_inner) = close;
    }

    /// The link connects again.
    pub fn cut(&self) {
        if let Some(close) = &*self.close.lock().unwrap_or_else(PoisonError::into_inner) {
            close();
        }
    }

    /// The link ends.
    pub fn stop(&self) {
        self.retire();
        self.cut();
    }

    /// The link ends with the connection that is open now.
    pub fn retire(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Connects again and again until it is stopped. Runs in a thread of its own.
pub(super) fn run(mut connect: Connect, outbox: &Outbox<Heard>, breaker: &Breaker) {
    let mut retry = RETRY_MIN;
    while !breaker.stopped() {
        let listened_to = match connect() {
            Ok(connection) => carry(connection, outbox, breaker, &mut retry),
            Err(error) => outbox.put(Heard::Lost(WireError::Lost(error))),
        };
        breaker.set(None);
        if !listened_to {
            return;
        }
        std::thread::sleep(retry);
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Carries requests and answers until the connection ends. False when nobody listens any more.
fn carry(connection: Connection, outbox: &Outbox<Heard>, breaker: &Breaker, retry: &mut Duration) -> bool {
    let (requests, to_send) = channel();
    let (mut read, mut write) = (BufReader::new(connection.read), connection.write);
    breaker.set(Some(connection.close));
    if breaker.stopped() {
        return false;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // When sending fails, the reader hears of it as well.
            let _ = send(&mut write, to_send);
            breaker.cut();
        });
        let mut put = |heard| {
            if let Heard::Batch(_) = heard {
                *retry = RETRY_MIN;
            }
            outbox.put(heard)
        };
        let error = receive(&mut read, requests, &mut put);
        breaker.cut();
        // Only then does the service let go of the sender that the other thread waits for.
        error.is_some_and(|error| put(Heard::Lost(error)))
    })
}

/// Sends what is in the queue in one go, until its other end is dropped.
fn send(write: &mut impl std::io::Write, requests: Receiver<Request>) -> std::io::Result<()> {
    greet(write)?;
    let mut bytes = Vec::new();
    while let Ok(first) = requests.recv() {
        bytes.clear();
        first.encode(&mut bytes);
        requests.try_iter().for_each(|request| request.encode(&mut bytes));
        write.write_all(&bytes)?;
        write.flush()?;
    }
    Ok(())
}

/// Reads until the connection ends: why it did, or `None` when nobody listens any more.
fn receive(
    read: &mut impl std::io::Read,
    requests: Sender<Request>,
    put: &mut impl FnMut(Heard) -> bool,
) -> Option<WireError> {
    if let Err(error) = greeted(read) {
        return Some(error);
    }
    if !put(Heard::Connected(requests)) {
        return None;
    }
    let mut batches = Unbatcher::new();
    loop {
        match batches.read(read) {
            Ok(batch) => {
                if !put(Heard::Batch(batch)) {
                    return None;
                }
            }
            Err(error) => return Some(error),
        }
    }
}
