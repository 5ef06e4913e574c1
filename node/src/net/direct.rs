//! Ledger messages and words: one long-lived outbound stream per peer and protocol, each with a bounded queue.
//!
//! Ledger messages are dropped, oldest first, when a peer does not keep up: consensus repeats what matters and a site
//! that fell behind catches up. Words are few and matter: their sender learns whether they went out.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use godwit_protocol::word::Word;
use godwit_protocol::{Malformed, MeshId, SiteId, codec, decode, encode};
use libp2p::PeerId;
use libp2p::bytes::Bytes;
use libp2p_stream::Control;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::NetEvent;
use super::book::Book;
use super::metrics::{Channel, Metrics};
use super::refusal::Refusal;
use super::stream::{self, OpenError, PeerStream, Protocol};

/// Ledger frames waiting for one peer: a height costs a validator some ten messages.
const LEDGER_FRAMES_MAX: usize = 1024;
/// And their bytes: four of the largest.
const LEDGER_BYTES_MAX: usize = 4 * codec::LIMIT;
/// Words waiting for one peer: a handful for each handoff under way.
const WORDS_MAX: usize = 64;
/// The largest word: a signed yield or report of a few hundred bytes, with room to grow.
const WORD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one peer's frames that were read and not yet handled: two of the largest.
const UNHANDLED_BYTES_MAX: usize = 2 * codec::LIMIT;
/// A peer that takes nothing for so long is as good as gone; its connection's own timeout is shorter.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// A frame from a peer. It counts against the peer's share of memory until it is dropped.
#[derive(Debug)]
pub struct Frame {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not a member, or this site itself.
    #[error("{0} is not another member of this mesh")]
    NotMember(SiteId),
    /// Above the protocol's limit.
    #[error("{bytes} bytes for {site}, more than {most}")]
    TooLarge {
        /// To whom.
        site: SiteId,
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The word has no canonical form.
    #[error("encode a word for {site}")]
    Encode {
        /// To whom.
        site: SiteId,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// The peer does not keep up.
    #[error("too many words wait for {0}")]
    Full(SiteId),
    /// No stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stream failed while writing.
    #[error("write to {site}")]
    Write {
        /// To whom.
        site: SiteId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network is shutting down.
    #[error("the network is shut down")]
    Closed,
}

/// All outbound links of a site, made when first used.
pub(super) struct Links {
    control: Control,
    mesh: MeshId,
    book: Book,
    metrics: Metrics,
    tasks: TaskTracker,
    /// Links start when somebody sends, and whoever sends need not be on the runtime.
    runtime: Handle,
    cancel: CancellationToken,
    links: Mutex<HashMap<SiteId, Link>>,
}

#[derive(Clone)]
struct Link {
    ledger: Arc<Queue>,
    words: mpsc::Sender<(Bytes, oneshot::Sender<Result<(), SendError>>)>,
    cancel: CancellationToken,
}

impl Links {
    pub(super) fn new(
        control: Control,
        mesh: MeshId,
        book: Book,
        metrics: Metrics,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { control, mesh, book, metrics, tasks, runtime: Handle::current(), cancel, links: Mutex::default() }
    }

    /// Puts a frame into the peer's queue.
    pub(super) fn send_ledger(&self, site: SiteId, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        if bytes.len() > codec::LIMIT {
            return Err(SendError::TooLarge { site, bytes: bytes.len(), most: codec::LIMIT });
        }
        let dropped = self.link(site)?.ledger.push(Bytes::from_owner(Arc::clone(bytes)));
        (0..dropped).for_each(|_| self.metrics.drop_frame(Channel::Ledger));
        Ok(())
    }

    /// Sends a word and says whether it went out.
    pub(super) async fn send_word(&self, site: SiteId, word: &Word) -> Result<(), SendError> {
        let bytes = encode(word).map_err(|source| SendError::Encode { site, source })?;
        if bytes.len() > WORD_BYTES_MAX {
            return Err(SendError::TooLarge { site, bytes: bytes.len(), most: WORD_BYTES_MAX });
        }
        let (done, sent) = oneshot::channel();
        self.link(site)?.words.try_send((bytes.into(), done)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full(site),
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })?;
        sent.await.unwrap_or(Err(SendError::Closed))
    }

    /// Ends the links of those who are no longer members.
    pub(super) fn retain_members(&self) {
        self.lock().retain(|site, link| {
            let keep = self.book.is_member(site);
            if !keep {
                link.cancel.cancel();
            }
            keep
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, site: SiteId) -> Result<Link, SendError> {
        if self.cancel.is_cancelled() {
            return Err(SendError::Closed);
        }
        let peer = super::identity::peer_of(&site).map_err(|_| SendError::NotMember(site))?;
        if self.book.member(&peer).is_none() {
            return Err(SendError::NotMember(site));
        }
        Ok(self.lock().entry(site).or_insert_with(|| self.start(site, peer)).clone())
    }

    fn start(&self, site: SiteId, peer: PeerId) -> Link {
        let cancel = self.cancel.child_token();
        let outbound = |protocol, limit| Outbound {
            control: self.control.clone(),
            mesh: self.mesh,
            book: self.book.clone(),
            site,
            peer,
            protocol,
            limit,
            stream: None,
        };
        let ledger = Arc::new(Queue::default());
        let pump = pump_ledger(outbound(Protocol::Ledger, codec::LIMIT), Arc::clone(&ledger), self.metrics.clone());
        let stop = cancel.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(pump).await }, &self.runtime);
        let (words, waiting) = mpsc::channel(WORDS_MAX);
        let pump = pump_words(outbound(Protocol::Word, WORD_BYTES_MAX), waiting, self.metrics.clone());
        let stop = cancel.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(pump).await }, &self.runtime);
        Link { ledger, words, cancel }
    }
}

async fn pump_ledger(mut outbound: Outbound, queue: Arc<Queue>, metrics: Metrics) {
    loop {
        let frame = tokio::select! {
            frame = queue.pop() => frame,
            () = outbound.closed() => continue,
        };
        let bytes = frame.len();
        match outbound.write(frame).await {
            Ok(()) => metrics.send(Channel::Ledger, bytes),
            Err(error) => {
                metrics.drop_frame(Channel::Ledger);
                debug!(net.peer = %outbound.site, %error, "a ledger message was not sent");
            }
        }
    }
}

async fn pump_words(
    mut outbound: Outbound,
    mut words: mpsc::Receiver<(Bytes, oneshot::Sender<Result<(), SendError>>)>,
    metrics: Metrics,
) {
    loop {
        let (word, done) = tokio::select! {
            next = words.recv() => match next { Some(next) => next, None => return },
            () = outbound.closed() => continue,
        };
        let bytes = word.len();
        let sent = outbound.write(word).await;
        match &sent {
            Ok(()) => metrics.send(Channel::Word, bytes),
            Err(_) => metrics.drop_frame(Channel::Word),
        }
        // Whoever asked may have stopped waiting.
        let _ = done.send(sent);
    }
}

/// Frames waiting for a peer; the oldest give way.
#[derive(Default)]
struct Queue {
    waiting: Mutex<(VecDeque<Bytes>, usize)>,
    arrived: Notify,
}

impl Queue {
    /// Adds a frame and says how many were dropped for it.
    fn push(&self, frame: Bytes) -> usize {
        let mut dropped = 0;
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let (frames, bytes) = &mut *waiting;
            *bytes += frame.len();
            frames.push_back(frame);
            while frames.len() > LEDGER_FRAMES_MAX || *bytes > LEDGER_BYTES_MAX {
                let Some(oldest) = frames.pop_front() else { break };
                *bytes -= oldest.len();
                dropped += 1;
            }
        }
        self.arrived.notify_one();
        dropped
    }

    async fn pop(&self) -> Bytes {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(frame) = waiting.0.pop_front() {
                    waiting.1 -= frame.len();
                    return frame;
                }
            }
            self.arrived.notified().await;
        }
    }
}

type Frames = FramedWrite<WriteHalf<PeerStream>, LengthDelimitedCodec>;

/// One stream to one peer, opened when there is something to say.
struct Outbound {
    control: Control,
    mesh: MeshId,
    book: Book,
    site: SiteId,
    peer: PeerId,
    protocol: Protocol,
    limit: usize,
    stream: Option<(ReadHalf<PeerStream>, Frames)>,
}

impl Outbound {
    /// Resolves when the peer has closed the stream, which is then forgotten: what is written next must not vanish.
    async fn closed(&mut self) {
        match &mut self.stream {
            Some((read, _)) => {
                let _ = read.read_u8().await; // the acceptor never speaks after its greeting
                self.stream = None;
            }
            None => std::future::pending().await,
        }
    }

    async fn write(&mut self, frame: Bytes) -> Result<(), SendError> {
        // A stream that was open may have died unnoticed; a fresh one has no such excuse.
        if self.stream.is_some() && self.write_open(frame.clone()).await.is_ok() {
            return Ok(());
        }
        if !self.book.is_connected(&self.peer) {
            return Err(OpenError::NotConnected(self.site).into());
        }
        let stream = stream::open(&mut self.control, &self.mesh, self.site, self.peer, self.protocol).await?;
        let (read, write) = tokio::io::split(stream);
        self.stream = Some((read, FramedWrite::new(write, stream::framing(self.limit))));
        let site = self.site;
        self.write_open(frame).await.map_err(|source| SendError::Write { site, source })
    }

    async fn write_open(&mut self, frame: Bytes) -> io::Result<()> {
        let Some((_, write)) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let result =
            timeout(WRITE_DEADLINE, write.send(frame)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if result.is_err() {
            self.stream = None;
        }
        result
    }
}

/// Reads a member's frames of one stream and hands them on.
pub(super) struct Inbound {
    pub(super) site: SiteId,
    pub(super) metrics: Metrics,
    pub(super) events: mpsc::Sender<NetEvent>,
}

impl Inbound {
    /// Ledger messages, unread: what they say is the replica's to judge.
    pub(super) async fn ledger(self, mut stream: PeerStream) {
        if stream::greet(&mut stream).await.is_err() {
            return;
        }
        let shares = Arc::new(Semaphore::new(UNHANDLED_BYTES_MAX));
        let mut frames = FramedRead::new(stream, stream::framing(codec::LIMIT));
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { return self.refuse(Refusal::BadFrame) };
            self.metrics.receive(Channel::Ledger, frame.len());
            let share = u32::try_from(frame.len()).expect("below the codec's limit");
            let Ok(share) = Arc::clone(&shares).acquire_many_owned(share).await else { return };
            let bytes = Frame { bytes: frame.freeze(), _share: share };
            if self.events.send(NetEvent::Ledger { from: self.site, bytes }).await.is_err() {
                return;
            }
        }
    }

    /// Words. Their signatures are the brain's to check, since what they must match is in its state.
    pub(super) async fn words(self, mut stream: PeerStream) {
        if stream::greet(&mut stream).await.is_err() {
            return;
        }
        let mut frames = FramedRead::new(stream, stream::framing(WORD_BYTES_MAX));
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { return self.refuse(Refusal::BadFrame) };
            self.metrics.receive(Channel::Word, frame.len());
            let Ok(word) = decode::<Word>(&frame) else { return self.refuse(Refusal::Malformed) };
            if self.events.send(NetEvent::Word { from: self.site, word }).await.is_err() {
                return;
            }
        }
    }

    fn refuse(&self, what: Refusal) {
        self.metrics.refuse(what);
        // The reader must not wait for the consumer to hear of it; the metric has it in any case.
        let _ = self.events.try_send(NetEvent::Refused { peer: Some(self.site), what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_ledger_frames_give_way() {
        let queue = Queue::default();
        for n in 0..LEDGER_FRAMES_MAX {
            assert_eq!(queue.push(Bytes::from(n.to_string())), 0);
        }
        assert_eq!(queue.push(Bytes::from_static(b"new")), 1);
        assert_eq!(&queue.pop().await[..], b"1");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_bytes_too() {
        let queue = Queue::default();
        let block = Bytes::from(vec![0; codec::LIMIT]);
        let dropped: usize = (0..6).map(|_| queue.push(block.clone())).sum();
        assert_eq!(dropped, 2);
    }
}
