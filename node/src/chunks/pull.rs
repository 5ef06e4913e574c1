//! The target's side of a transfer.
//!
//! A pull is a row of sessions, one a connection. A session opens a stream, asks for the manifest and fetches what is
//! missing; when it breaks, the next one continues, until nothing has arrived for as long as the puller is patient.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use godwit_protocol::manifest::{BadManifest, Manifest};
use godwit_protocol::{Hash, Malformed, SiteId, decode, encode};
use libp2p::bytes::Bytes;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tracing::debug;

use crate::net::metrics::Channel;
use crate::net::{Endpoint, OpenError, PeerStream, Protocol, Refusal, framing};

use super::PartKey;
use super::stage::{Piece, Stage, StageError};
use super::wire::{ANSWER_MAX, Answer, BadAnswer, Place, REQUEST_MAX, Refused, Request};

/// Chunks in flight, from the request until they are written: 8 MiB, a round trip of 60 ms at 1 Gbit/s.
const WINDOW: usize = 32;
/// When nothing arrives for so long although something was asked for, the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between sessions.
const PAUSE: Duration = Duration::from_millis(200);
/// How long to try without progress, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there and verified.
    pub done: u64,
    /// Bytes of the manifest.
    pub total: u64,
}

/// A pull that is complete.
#[derive(Debug)]
pub struct Pulled {
    /// What was laid out.
    pub manifest: Manifest,
    /// Its root.
    pub root: Hash,
    /// Bytes of chunks that travelled; what was there already, or occurs twice, does not count twice.
    pub transferred: u64,
    /// Sessions after the first.
    pub reconnections: u32,
}

/// Why a pull failed. What arrived stays in `NAME.part` for the next one.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source sent other bytes than the hash names, twice.
    #[error("{from} sends corrupt bytes for chunk {chunk} of {file}")]
    Corrupt {
        /// The source.
        from: SiteId,
        /// The file's path.
        file: String,
        /// The chunk's index.
        chunk: u32,
    },
    /// The manifest is not the one that was agreed on.
    #[error("{from} offers {got} instead of {expected}")]
    WrongRoot {
        /// The source.
        from: SiteId,
        /// As a `Yield` names it, or as an earlier session of this pull saw it.
        expected: Hash,
        /// What was offered.
        got: Hash,
    },
    /// The manifest cannot be laid out.
    #[error("the manifest of {from} is not valid")]
    BadManifest {
        /// The source.
        from: SiteId,
        /// Why.
        #[source]
        source: BadManifest,
    },
    /// The manifest is none.
    #[error("{from} sends no manifest")]
    NoManifest {
        /// The source.
        from: SiteId,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// The source refuses.
    #[error("{from} refuses")]
    Refused {
        /// The source.
        from: SiteId,
        /// Why.
        #[source]
        source: Refused,
    },
    /// The source does not follow the protocol.
    #[error("{from} does not follow the protocol")]
    Misbehaved {
        /// The source.
        from: SiteId,
        /// How.
        #[source]
        source: Option<BadAnswer>,
    },
    /// The disk is full.
    #[error("no space left for {path}")]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The folder cannot be filled.
    #[error("lay out the folder")]
    Stage(#[source] StageError),
    /// No stream to the source.
    #[error("reach the source")]
    Open(#[from] OpenError),
    /// The connection broke and did not come back.
    #[error("the connection to {from} broke")]
    Broken {
        /// The source.
        from: SiteId,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The task was ended.
    #[error("the pull was interrupted")]
    Interrupted,
}

impl From<StageError> for PullError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::DiskFull { path, source } => Self::DiskFull { path, source },
            other => Self::Stage(other),
        }
    }
}

/// What to pull from whom.
#[derive(Clone)]
pub struct Pull {
    endpoint: Endpoint,
    from: SiteId,
    key: PartKey,
    into: PathBuf,
    expected: Option<Hash>,
    patience: Duration,
    publication: Duration,
}

impl Pull {
    /// A part, from a site, into a folder that is complete once it exists.
    #[must_use]
    pub fn new(endpoint: &Endpoint, from: SiteId, key: PartKey, into: &Path) -> Self {
        let (endpoint, into) = (endpoint.clone(), into.to_owned());
        Self { endpoint, from, key, into, expected: None, patience: PATIENCE, publication: PATIENCE }
    }

    /// What it pulls.
    #[must_use]
    pub const fn key(&self) -> PartKey {
        self.key
    }

    /// Accept this manifest only.
    #[must_use]
    pub fn expect_root(mut self, root: Hash) -> Self {
        self.expected = Some(root);
        self
    }

    /// How long to go on without progress.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long to ask for what the source has not published: it may be busy making it.
    #[must_use]
    pub fn publication(mut self, within: Duration) -> Self {
        self.publication = within;
        self
    }

    /// For how long to go on in spite of an error; not at all if it will not pass.
    const fn patience_with(&self, error: &PullError) -> Duration {
        match error {
            PullError::Refused { source: Refused::NotOffered, .. } => self.publication,
            PullError::Open(_) | PullError::Broken { .. } | PullError::Interrupted => self.patience,
            _ => Duration::ZERO,
        }
    }

    /// Pulls. Dropping the future stops it; what arrived is used by the next pull into the same folder.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn run(self, progress: impl Fn(Progress) + Send + Sync) -> Result<Pulled, PullError> {
        let mut work = Work { pull: self, plan: None, transferred: 0, last_progress: Instant::now() };
        let mut reconnections = 0;
        loop {
            match work.session(&progress).await {
                Ok(()) => break,
                Err(error) if work.last_progress.elapsed() >= work.pull.patience_with(&error) => {
                    return Err(error);
                }
                Err(error) => debug!(pull.from = %work.pull.from, %error, "a pull is interrupted and goes on"),
            }
            reconnections += 1;
            tokio::time::sleep(PAUSE).await;
        }
        let Some(plan) = work.plan else { return Err(PullError::Interrupted) };
        let stage = Arc::clone(&plan.stage);
        blocking(move || stage.finish()).await?;
        let manifest = plan.stage.manifest().clone();
        Ok(Pulled { manifest, root: plan.root, transferred: work.transferred, reconnections })
    }
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(job).await.map_err(|_| PullError::Interrupted)?.map_err(Into::into)
}

/// A pull under way.
struct Work {
    pull: Pull,
    /// Made when the first manifest has arrived.
    plan: Option<Plan>,
    transferred: u64,
    last_progress: Instant,
}

struct Plan {
    stage: Arc<Stage>,
    root: Hash,
    pieces: Vec<Arc<Piece>>,
    todo: VecDeque<usize>,
    /// Pieces that arrived corrupt once.
    struck: HashSet<usize>,
    progress: Progress,
}

type Requests = FramedWrite<WriteHalf<PeerStream>, LengthDelimitedCodec>;
type Answers = FramedRead<ReadHalf<PeerStream>, LengthDelimitedCodec>;
type Written = (usize, Result<(), StageError>);

impl Work {
    /// One connection's worth of work; `Ok` when everything is there.
    async fn session(&mut self, progress: &(impl Fn(Progress) + Send + Sync)) -> Result<(), PullError> {
        let stream = self.pull.endpoint.open(self.pull.from, Protocol::Pull).await?;
        let (read, write) = tokio::io::split(stream);
        let mut requests = FramedWrite::new(write, framing(REQUEST_MAX));
        let mut answers = FramedRead::new(read, framing(ANSWER_MAX));
        self.request(&mut requests, Request::Open(self.pull.key)).await?;
        match self.answer(&mut answers).await? {
            Answer::Manifest(bytes) => self.plan(&bytes).await?,
            _ => return Err(self.misbehaved(None)),
        }
        progress(self.planned().progress);
        let mut flight = Flight::default();
        let fetched = self.fetch(&mut requests, &mut answers, &mut flight, progress).await;
        // What is being written counts, however the session ended; the rest is to be asked for again.
        while let Some(written) = flight.writing.join_next().await {
            self.written(written, progress)?;
        }
        self.planned().todo.extend(flight.asked.into_values());
        fetched
    }

    async fn fetch(
        &mut self,
        requests: &mut Requests,
        answers: &mut Answers,
        flight: &mut Flight,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(), PullError> {
        loop {
            while flight.len() < WINDOW
                && let Some(piece) = self.planned().todo.pop_front()
            {
                let place = self.planned().pieces[piece].places[0];
                flight.asked.insert(place, piece);
                self.request(requests, Request::Chunk(place)).await?;
            }
            if flight.len() == 0 {
                return Ok(());
            }
            tokio::select! {
                Some(written) = flight.writing.join_next() => self.written(written, progress)?,
                answer = self.answer(answers), if !flight.asked.is_empty() => match answer? {
                    Answer::Chunk(place, bytes) => {
                        let piece = flight.asked.remove(&place).ok_or_else(|| self.misbehaved(None))?;
                        self.arrived(piece, bytes, &mut flight.writing);
                    }
                    _ => return Err(self.misbehaved(None)),
                },
            }
        }
    }

    /// Verifies and writes in a thread that may wait for the disk.
    fn arrived(&mut self, piece: usize, bytes: Bytes, writing: &mut JoinSet<Written>) {
        self.transferred += bytes.len() as u64;
        self.pull.endpoint.metrics().receive(Channel::Pull, bytes.len());
        let plan = self.planned();
        let (stage, what) = (Arc::clone(&plan.stage), Arc::clone(&plan.pieces[piece]));
        writing.spawn_blocking(move || (piece, stage.write(&what, &bytes)));
    }

    fn written(
        &mut self,
        written: Result<Written, tokio::task::JoinError>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<(), PullError> {
        let (piece, result) = written.map_err(|_| PullError::Interrupted)?;
        match result {
            Ok(()) => {
                self.last_progress = Instant::now();
                let plan = self.planned();
                let piece = &plan.pieces[piece];
                plan.progress.done += piece.places.iter().map(|at| plan.stage.extent(*at).1 as u64).sum::<u64>();
                progress(plan.progress);
                Ok(())
            }
            Err(StageError::Corrupt) => self.corrupt(piece),
            Err(error) => Err(error.into()),
        }
    }

    /// The first time it may have been a fault; the second time it is the source's.
    fn corrupt(&mut self, piece: usize) -> Result<(), PullError> {
        let from = self.pull.from;
        self.pull.endpoint.refusals().refuse(from, Refusal::CorruptChunk);
        let plan = self.planned();
        if plan.struck.insert(piece) {
            plan.todo.push_front(piece);
            return Ok(());
        }
        let place = plan.pieces[piece].places[0];
        let file = plan.stage.manifest().files[place.file as usize].path.to_string();
        Err(PullError::Corrupt { from, file, chunk: place.chunk })
    }

    /// Checks the manifest and, the first time, looks at what is there already.
    async fn plan(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let from = self.pull.from;
        let refusals = self.pull.endpoint.refusals();
        let refuse = |error| {
            refusals.refuse(from, Refusal::BadManifest);
            error
        };
        let manifest: Manifest = decode(bytes).map_err(|source| refuse(PullError::NoManifest { from, source }))?;
        let got = manifest.root().map_err(|source| refuse(PullError::NoManifest { from, source }))?;
        if let Some(expected) = self.plan.as_ref().map(|plan| plan.root).or(self.pull.expected)
            && expected != got
        {
            return Err(refuse(PullError::WrongRoot { from, expected, got }));
        }
        manifest.check().map_err(|source| refuse(PullError::BadManifest { from, source }))?;
        if self.plan.is_some() {
            return Ok(());
        }
        let (into, total) = (self.pull.into.clone(), manifest.bytes().0);
        let (stage, missing) = blocking(move || Stage::prepare(&into, manifest)).await?;
        let lacking = |piece: &Piece| piece.places.iter().map(|at| stage.extent(*at).1 as u64).sum::<u64>();
        let done = total - missing.iter().map(lacking).sum::<u64>();
        self.plan = Some(Plan {
            root: got,
            todo: (0..missing.len()).collect(),
            pieces: missing.into_iter().map(Arc::new).collect(),
            struck: HashSet::new(),
            progress: Progress { done, total },
            stage: Arc::new(stage),
        });
        self.last_progress = Instant::now();
        Ok(())
    }

    fn planned(&mut self) -> &mut Plan {
        self.plan.as_mut().expect("a session fetches after it has planned")
    }

    async fn request(&self, requests: &mut Requests, request: Request) -> Result<(), PullError> {
        let frame = encode(&request).expect("a request is a few bytes");
        let sent = timeout(SILENCE_MAX, requests.send(Bytes::from(frame))).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|source| self.broken(source))
    }

    /// The next answer. Safe to be cancelled: what was read stays in the decoder.
    async fn answer(&self, answers: &mut Answers) -> Result<Answer, PullError> {
        let frame = match timeout(SILENCE_MAX, answers.next()).await {
            Ok(Some(frame)) => frame.map_err(|source| self.broken(source))?,
            Ok(None) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Err(_) => return Err(self.broken(io::ErrorKind::TimedOut.into())),
        };
        match Answer::decode(frame.freeze()) {
            Ok(Answer::Refused(source)) => Err(PullError::Refused { from: self.pull.from, source }),
            Ok(answer) => Ok(answer),
            Err(bad) => Err(self.misbehaved(Some(bad))),
        }
    }

    fn broken(&self, source: io::Error) -> PullError {
        PullError::Broken { from: self.pull.from, source }
    }

    fn misbehaved(&self, source: Option<BadAnswer>) -> PullError {
        self.pull.endpoint.refusals().refuse(self.pull.from, Refusal::Malformed);
        PullError::Misbehaved { from: self.pull.from, source }
    }
}

/// What was asked for and what is being written.
#[derive(Default)]
struct Flight {
    asked: HashMap<Place, usize>,
    writing: JoinSet<Written>,
}

impl Flight {
    fn len(&self) -> usize {
        self.asked.len() + self.writing.len()
    }
}
