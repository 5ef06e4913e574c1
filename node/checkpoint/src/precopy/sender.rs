//! The source's side: a thread that looks and sends, one that hears what was received, and the caller, who ends it.
//!
//! All that they share is under one lock, which is held while a round is made and while a frame is, never while one is written
//! to the connection: that may wait, and [`Sender::finish`] must not.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Error;
use super::copies::{Copies, Queue};
use super::outcome::Final;
use super::thrift::Thrift;
use super::wire::{Encoder, greet, greeted, received};
use crate::criu::inner_pid;
use crate::dirty::ranges::{bytes as bytes_of, push};
use crate::dirty::{self, Phase, Rounds, Sample, Tree, TreeRound, Verdict};
use crate::pages::{Close, Connection, PAGE, WireError, bytes};

/// Bytes that are sent and not received yet, at most: 10 Gbit/s over 7 ms, and what lies in sockets counts.
const WINDOW: u64 = 8 << 20;
/// Pages that are read for one frame, at most: those that are zero or known already take hardly any room in it.
const FRAME_READS: u64 = 1024;
/// Pages read at a time.
const READ_PAGES: u64 = 64;
/// A shorter copy says more of the delay than of the link.
const MEASURABLE: u64 = 1 << 20;
/// While it keeps up: of the time, one part in so many goes to looking, and of what the link carries to sending.
const LOOKING: u32 = 50;
const SENDING: u64 = 4;

/// How to copy ahead.
#[derive(Debug, Clone)]
pub struct Options {
    /// When rounds end.
    pub limits: dirty::Limits,
    /// How long a thread of a process is waited for to stop, once, when the process is first looked at.
    pub patience: Duration,
    /// Between two looks, once rounds have ended. Longer for a tree that takes long to look at.
    pub interval: Duration,
    /// Bytes of memory that are sent once rounds have ended, at most.
    pub extra_bytes: u64,
}

impl Default for Options {
    /// Looks ten times a second when rounds have ended, and sends 1 GiB at most then.
    fn default() -> Self {
        Self {
            limits: dirty::Limits::default(),
            patience: Duration::from_millis(100),
            interval: Duration::from_millis(100),
            extra_bytes: 1 << 30,
        }
    }
}

/// How far a pre-copy is, at its source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Looks at the tree so far.
    pub rounds: u32,
    /// Bytes of memory that were sent, those sent again included.
    pub copied: u64,
    /// Bytes of frames that were sent, and that the target has received.
    pub wire_bytes: u64,
    /// See `wire_bytes`.
    pub received: u64,
    /// Bytes of memory that the target lacks as far as is known, that is as of the last look.
    pub remaining: u64,
    /// Bytes for each second that the tree wrote between the last two looks; a page that is written often counts once.
    pub dirty_rate: u64,
    /// Bytes of memory for each second that arrived at the target; 0 before that is known.
    pub link: u64,
    /// Why rounds ended. From then on the target is only kept up to date.
    pub verdict: Option<Verdict>,
    /// The pre-copy has failed: [`Sender::finish`] says how.
    pub failed: bool,
}

impl Progress {
    /// Whether waiting longer would gain nothing: time to freeze.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        self.verdict.is_some()
    }
}

/// Copies the memory of a running process tree. Dropped, it ends at once, the connection is closed, and the processes are as
/// they were.
pub struct Sender(Running);

/// What is still on its way after [`Sender::finish`]. Dropped, it closes the connection: what did not arrive is lost then.
pub struct Tail(Running);

impl Sender {
    /// Begins to copy the tree of `root`. Needs what [`dirty::Tracker::attach`] needs.
    ///
    /// # Errors
    /// [`Error::Start`]. All else shows in [`Sender::progress`] and is told by [`Sender::finish`].
    pub fn start(root: i32, connection: Connection, options: Options) -> Result<Self, Error> {
        let state = State {
            tree: Some(Tree::new(root, options.patience).without_hashes()),
            copies: Copies::default(),
            queue: Queue::new(),
            void: Queue::new(),
            encoder: Encoder::new().map_err(Error::Start)?,
            stage: Stage::Running,
            greeted: false,
            last: None,
            failure: None,
            progress: Progress::default(),
        };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), close: connection.close };
        let mut running = Running { shared: Arc::new(shared), threads: Vec::new() };
        let (mut read, write) = (connection.read, connection.write);
        let shared = running.shared.clone();
        running.spawn("precopy-hear", move || shared.hear(&mut read))?;
        let shared = running.shared.clone();
        let work = Work {
            shared,
            write,
            options,
            thrift: Thrift::default(),
            frame: Vec::new(),
            buffer: vec![0; bytes(READ_PAGES)],
            looked: Instant::now(),
        };
        running.spawn("precopy-send", move || work.run())?;
        Ok(Self(running))
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.shared.lock().progress.clone()
    }

    /// Waits until it has converged or failed, at most so long.
    pub fn wait(&self, limit: Duration) -> Progress {
        let settled = |state: &State| state.progress.is_converged() || state.progress.failed;
        self.0.shared.wait(limit, settled).progress.clone()
    }

    /// To be called right before the tree is frozen: from then on no process of it is touched, since only one tracer can hold
    /// a thread and CRIU would find it taken. Returns when a round that is under way has ended, in milliseconds. Nothing more
    /// is sent.
    pub fn pause(&self) {
        let mut state = self.0.shared.lock();
        if state.stage == Stage::Running {
            state.stage = Stage::Paused;
            self.0.shared.changed.notify_all();
        }
    }

    /// Tells which pages that were sent are what the tasks have. To be called while all threads of the tree are stopped, by
    /// whomever. Does not wait for the connection.
    ///
    /// # Errors
    /// Why the pre-copy has failed before or fails now; the target has no pages then.
    pub fn finish(self) -> Result<(Final, Tail), Error> {
        self.pause();
        let told = self.0.shared.lock().finish();
        self.0.shared.changed.notify_all();
        Ok((told?, Tail(self.0)))
    }
}

impl Tail {
    /// Waits until the target has received everything, at most so long. Says whether it has.
    ///
    /// # Errors
    /// Why it never will.
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        let mut state = self.0.shared.wait(limit, |state| state.has_arrived() || state.progress.failed);
        match state.failure.take() {
            Some(error) if !state.has_arrived() => Err(error),
            _ => Ok(state.has_arrived()),
        }
    }
}

struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.map_err(Error::Start)?);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().stage = Stage::Ended;
        self.shared.changed.notify_all();
        (self.shared.close)();
        for thread in self.threads.drain(..) {
            // One that panicked has told so.
            let _ = thread.join();
        }
    }
}

/// Ascending: there is no way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    /// The tree is about to be frozen.
    Paused,
    Finished,
    Ended,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    close: Close,
}

struct State {
    /// None once it is not looked at any more.
    tree: Option<Tree>,
    copies: Copies,
    queue: Queue,
    void: Queue,
    encoder: Encoder,
    stage: Stage,
    greeted: bool,
    /// The frame that ends it, until it is sent.
    last: Option<Vec<u8>>,
    failure: Option<Error>,
    progress: Progress,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something holds, at most so long.
    fn wait(&self, limit: Duration, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |state| !holds(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until something holds, or the stage is no longer `Running`, or it has failed.
    fn wait_running(&self, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waits = |state: &mut State| state.runs() && !holds(state);
        self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        let mut state = self.lock();
        if state.stage < Stage::Ended && !state.progress.failed {
            tracing::info!(error = &error as &dyn std::error::Error, "a pre-copy has failed");
            state.progress.failed = true;
            state.failure = Some(error);
        }
        drop(state);
        self.changed.notify_all();
        (self.close)();
    }

    /// Hears what the target received, until the connection ends.
    fn hear(&self, read: &mut impl Read) {
        if let Err(error) = self.listen(read) {
            self.fail(Error::Wire(error));
        }
    }

    fn listen(&self, read: &mut impl Read) -> Result<(), WireError> {
        greeted(read)?;
        self.lock().greeted = true;
        self.changed.notify_all();
        loop {
            let received = match received(read) {
                Ok(received) => received,
                Err(_) if self.lock().has_arrived() => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let progress = &mut self.lock().progress;
            if received < progress.received || received > progress.wire_bytes {
                return Err(WireError::Broken("it received what was not sent"));
            }
            progress.received = received;
            self.changed.notify_all();
        }
    }
}

impl State {
    fn runs(&self) -> bool {
        self.stage == Stage::Running && !self.progress.failed
    }

    fn has_arrived(&self) -> bool {
        self.stage >= Stage::Finished && self.progress.received == self.progress.wire_bytes
    }

    fn look(&mut self, phase: Phase) -> Result<TreeRound, Error> {
        let tree = self.tree.as_mut().ok_or(Error::Ended)?;
        let round = tree.round(phase)?;
        let image = |pid| inner_pid(u32::try_from(pid).ok()?).ok().and_then(|image| i32::try_from(image).ok());
        let void = self.copies.follow(&round, image);
        self.void.extend(void);
        self.progress.rounds += 1;
        self.progress.remaining = self.copies.lacking();
        Ok(round)
    }

    fn finish(&mut self) -> Result<Final, Error> {
        if self.progress.failed {
            return Err(self.failure.take().unwrap_or(Error::Ended));
        }
        let round = self.look(Phase::Stopped)?;
        let valid = std::mem::take(&mut self.copies).valid(&round);
        self.encoder.end();
        let mut frame = Vec::new();
        self.encoder.finish(&mut frame, false).map_err(WireError::Lost)?;
        self.progress.wire_bytes += frame.len() as u64;
        self.last = Some(frame);
        self.stage = Stage::Finished;
        Ok(Final::new(self.encoder.transcript(), valid))
    }

    /// Adds what waits to the frame, until it is full.
    fn fill(&mut self, buffer: &mut [u8]) {
        while let Some((pid, range)) = self.void.front_mut() {
            let pages = self.encoder.void(*pid, range);
            range.start += pages * PAGE;
            if range.is_empty() {
                self.void.pop_front();
            } else if pages == 0 {
                return;
            }
        }
        let mut reads = FRAME_READS;
        while let Some(room) = Some(self.encoder.room().min(READ_PAGES).min(reads)).filter(|room| *room > 0) {
            let Some((pid, wanted)) = next(&mut self.queue, room) else { return };
            let bytes = bytes_of(&wanted);
            reads -= bytes / PAGE;
            self.progress.remaining = self.progress.remaining.saturating_sub(bytes);
            self.add(pid, &wanted, buffer);
        }
    }

    /// Reads pages and adds them to the frame. Those that cannot be read are not sent.
    fn add(&mut self, pid: i32, wanted: &[std::ops::Range<u64>], buffer: &mut [u8]) {
        let (Some(image), Some(tree)) = (self.copies.image(pid), &mut self.tree) else { return };
        let read = match tree.read(pid, wanted, buffer) {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, pid, "memory was not copied ahead");
                return;
            }
        };
        let mut rest = &*buffer;
        for range in &read {
            let (content, after) = rest.split_at(bytes((range.end - range.start) / PAGE));
            self.encoder.pages(image, range.start, content);
            rest = after;
        }
        self.progress.copied += bytes_of(&read);
        self.copies.sent(pid, read);
    }
}

/// Takes the next pages of one task.
fn next(queue: &mut Queue, most: u64) -> Option<(i32, Vec<std::ops::Range<u64>>)> {
    let (pid, mut room, mut taken) = (queue.front()?.0, most * PAGE, Vec::new());
    while let Some((_, range)) = queue.front_mut().filter(|(next, _)| *next == pid && room > 0) {
        let end = range.end.min(range.start + room);
        room -= end - range.start;
        push(&mut taken, range.start..end);
        range.start = end;
        if range.is_empty() {
            queue.pop_front();
        }
    }
    Some((pid, taken))
}

/// The thread that looks and sends.
struct Work {
    shared: Arc<Shared>,
    write: Box<dyn Write + Send>,
    options: Options,
    thrift: Thrift,
    frame: Vec<u8>,
    buffer: Vec<u8>,
    looked: Instant,
}

impl Work {
    fn run(mut self) {
        if let Err(error) = self.copy().and_then(|()| self.end()) {
            self.shared.fail(error);
        }
        // Takes the protection away, which takes a while: not under the lock.
        let tree = self.shared.lock().tree.take();
        drop(tree);
    }

    fn copy(&mut self) -> Result<(), Error> {
        greet(&mut self.write).map_err(WireError::Lost)?;
        drop(self.shared.wait_running(|state| state.greeted));
        self.rounds()?;
        self.keep_up()
    }

    /// Copies everything, then what was written meanwhile, as long as that gets less.
    fn rounds(&mut self) -> Result<(), Error> {
        let mut rounds = Rounds::new(self.options.limits);
        while let Some(sample) = self.look()? {
            match rounds.next(sample) {
                Verdict::Again => self.send(true, u64::MAX)?,
                verdict => {
                    let mut state = self.shared.lock();
                    state.progress.verdict = Some(verdict);
                    if state.runs() {
                        state.encoder.settled();
                    }
                    drop(state);
                    self.shared.changed.notify_all();
                    // Nothing is queued now: it goes alone.
                    return self.send_frame().map(drop);
                }
            }
        }
        Ok(())
    }

    /// Sends what was written and has been left alone for a whole interval. What is written in every interval is as good as not
    /// sent, so that it waits for the end, however the rate is.
    fn keep_up(&mut self) -> Result<(), Error> {
        let (mut extra, mut pause) = (self.options.extra_bytes, self.options.interval);
        loop {
            let state = self.shared.wait(pause, |state| !state.runs());
            if !state.runs() {
                return Ok(());
            }
            drop(state);
            let begun = Instant::now();
            let Some(sample) = self.look()? else { return Ok(()) };
            pause = self.options.interval.max(begun.elapsed() * LOOKING);
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let share = (sample.link / SENDING).saturating_mul(millis) / 1000;
            let before = self.copied();
            self.send(false, share.min(extra) / PAGE * PAGE)?;
            extra = extra.saturating_sub(self.copied() - before);
        }
    }

    fn copied(&self) -> u64 {
        self.shared.lock().progress.copied
    }

    /// A round of the running tree; none any more when it is about to be frozen.
    fn look(&mut self) -> Result<Option<Sample>, Error> {
        let mut state = self.shared.lock();
        if !state.runs() {
            return Ok(None);
        }
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let written = state.look(Phase::Running)?.written_bytes();
        if state.progress.rounds > 1 {
            state.progress.dirty_rate = written.saturating_mul(1_000_000) / elapsed_us;
        }
        Ok(Some(Sample { written, elapsed_us, link: state.progress.link }))
    }

    /// Sends what is to be sent, and waits until it is received.
    fn send(&mut self, all: bool, most: u64) -> Result<(), Error> {
        let begun = Instant::now();
        let mut state = self.shared.lock();
        state.queue = state.copies.take(all, most);
        let copied = state.progress.copied;
        drop(state);
        while self.send_frame()? {}
        let mut state = self.shared.wait_running(|state| state.progress.received == state.progress.wire_bytes);
        let state = &mut *state;
        state.copies.put_back(&mut state.queue);
        state.progress.remaining = state.copies.lacking();
        let copied = state.progress.copied - copied;
        if state.runs() && copied > 0 && (copied >= MEASURABLE || state.progress.link == 0) {
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
            state.progress.link = copied.saturating_mul(1_000_000) / took;
        }
        Ok(())
    }

    /// Sends one frame, if there is anything to send.
    fn send_frame(&mut self) -> Result<bool, Error> {
        let begun = Instant::now();
        let room = |state: &State| state.progress.received + WINDOW >= state.progress.wire_bytes;
        let mut state = self.shared.wait_running(room);
        let waited = begun.elapsed();
        if !state.runs() {
            return Ok(false);
        }
        state.fill(&mut self.buffer);
        if state.encoder.is_empty() {
            return Ok(!state.queue.is_empty());
        }
        let begun = Instant::now();
        let tried = state.encoder.finish(&mut self.frame, self.thrift.pays()).map_err(WireError::Lost)?;
        if let Some(plain) = tried {
            self.thrift.packed(plain, self.frame.len() as u64, begun.elapsed());
        }
        state.progress.wire_bytes += self.frame.len() as u64;
        drop(state);
        let begun = Instant::now();
        self.write.write_all(&self.frame).and_then(|()| self.write.flush()).map_err(WireError::Lost)?;
        self.thrift.wrote(self.frame.len() as u64, waited + begun.elapsed());
        Ok(true)
    }

    /// Waits for the end, and sends it.
    fn end(&mut self) -> Result<(), Error> {
        let over = |state: &State| state.stage >= Stage::Finished || state.progress.failed;
        let state = self.shared.lock();
        let mut state =
            self.shared.changed.wait_while(state, |state| !over(state)).unwrap_or_else(PoisonError::into_inner);
        let Some(last) = state.last.take() else { return Ok(()) };
        drop(state);
        self.write.write_all(&last).and_then(|()| self.write.flush()).map_err(WireError::Lost)?;
        Ok(())
    }
}
