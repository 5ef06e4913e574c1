//! The source's side of a transfer: serves published parts to the one site that each is for.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{SinkExt, StreamExt};
use godwit_protocol::manifest::{BadManifest, CHUNK, Manifest};
use godwit_protocol::{Hash, Malformed, SiteId, decode, encode};
use libp2p::bytes::Bytes;
use tokio_util::codec::{FramedRead, FramedWrite};
use tracing::{debug, warn};

use crate::net::metrics::Channel;
use crate::net::{Endpoint, PeerStream, Protocol, Refusal, Refusals, framing, greet};

use super::folder::Folder;
use super::wire::{ANSWER_MAX, Answer, Place, REQUEST_MAX, Refused, Request, chunk_frame};
use super::{Part, PartKey};

/// Chunks that are read ahead for one stream: enough to keep a disk and a link busy at once.
const READ_AHEAD: usize = 8;

/// Why a part is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The manifest would be refused by whoever pulls it.
    #[error("the manifest of {0:?} is not valid")]
    Bad(Part, #[source] BadManifest),
    /// The manifest is too large.
    #[error("encode the manifest of {0:?}")]
    Encode(Part, #[source] Malformed),
    /// The folder is not there.
    #[error("open {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A part as it is served.
#[derive(Debug)]
struct Offered {
    allowed: SiteId,
    folder: Folder,
    manifest: Manifest,
    encoded: Bytes,
}

/// Serves parts to other sites. Clones are the same server.
#[derive(Clone, Default)]
pub struct Server {
    parts: Arc<Mutex<HashMap<PartKey, Arc<Offered>>>>,
}

impl Server {
    /// Begins to serve. To be called once for an endpoint.
    #[must_use]
    pub fn start(endpoint: &Endpoint) -> Self {
        let server = Self::default();
        let (this, refusals) = (server.clone(), endpoint.refusals());
        endpoint.serve(Protocol::Pull, move |site, stream| this.clone().serve(site, stream, refusals.clone()));
        server
    }

    /// Offers a folder to one site, in place of what was offered under the same key. Returns the manifest's root.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(&self, key: PartKey, dir: &Path, manifest: Manifest, allowed: SiteId) -> Result<Hash, PublishError> {
        manifest.check().map_err(|source| PublishError::Bad(key.part, source))?;
        let root = manifest.root().map_err(|source| PublishError::Encode(key.part, source))?;
        let encoded = encode(&manifest).map_err(|source| PublishError::Encode(key.part, source))?.into();
        let folder = Folder::open(dir).map_err(|source| PublishError::Folder { path: dir.to_owned(), source })?;
        self.lock().insert(key, Arc::new(Offered { allowed, folder, manifest, encoded }));
        Ok(root)
    }

    /// Whether the site may pull this part.
    #[must_use]
    pub fn offers(&self, key: &PartKey, site: SiteId) -> bool {
        self.offered(key, site).is_ok()
    }

    /// Offers it no longer; pulls under way are refused their next chunk.
    pub fn withdraw(&self, key: &PartKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PartKey, Arc<Offered>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self, key: &PartKey, site: SiteId) -> Result<Arc<Offered>, Refused> {
        let offered = self.lock().get(key).map(Arc::clone);
        offered.filter(|offered| offered.allowed == site).ok_or(Refused::NotOffered)
    }

    async fn serve(self, site: SiteId, mut stream: PeerStream, refusals: Refusals) {
        if greet(&mut stream).await.is_err() {
            return;
        }
        let (read, write) = tokio::io::split(stream);
        let mut requests = FramedRead::new(read, framing(REQUEST_MAX));
        let mut answers = FramedWrite::new(write, framing(ANSWER_MAX));
        let opened = match requests.next().await {
            Some(Ok(frame)) => self.open(&frame, site),
            Some(Err(_)) => Err(Refused::Nonsense),
            None => return,
        };
        let (key, offered) = match opened {
            Ok(opened) => opened,
            Err(refused) => {
                refusals.refuse(site, refusal(refused));
                // The peer may be gone; then there is nobody to tell.
                let _ = answers.send(Answer::Refused(refused).encode()).await;
                return;
            }
        };
        if answers.send(Answer::Manifest(offered.encoded.clone()).encode()).await.is_err() {
            return;
        }
        let mut reads = requests.map(|frame| self.answer(key, site, &offered, frame)).buffered(READ_AHEAD);
        while let Some(answer) = reads.next().await {
            let (frame, last) = match answer {
                Ok(frame) => (frame, false),
                Err(refused) => {
                    refusals.refuse(site, refusal(refused));
                    (Answer::Refused(refused).encode(), true)
                }
            };
            let bytes = frame.len();
            if answers.send(frame).await.is_err() || last {
                return;
            }
            refusals.metrics().send(Channel::Pull, bytes);
        }
    }

    fn open(&self, frame: &[u8], site: SiteId) -> Result<(PartKey, Arc<Offered>), Refused> {
        match decode(frame) {
            Ok(Request::Open(key)) => Ok((key, self.offered(&key, site)?)),
            Ok(Request::Chunk(_)) | Err(_) => Err(Refused::Nonsense),
        }
    }

    /// Reads one chunk, in a thread that may wait for the disk.
    async fn answer(
        &self,
        key: PartKey,
        site: SiteId,
        offered: &Arc<Offered>,
        frame: io::Result<libp2p::bytes::BytesMut>,
    ) -> Result<Bytes, Refused> {
        let request = frame.ok().and_then(|frame| decode(&frame).ok());
        let Some(Request::Chunk(place)) = request else { return Err(Refused::Nonsense) };
        // Withdrawn, or replaced by another attempt's?
        if !Arc::ptr_eq(&self.offered(&key, site)?, offered) {
            return Err(Refused::NotOffered);
        }
        let offered = Arc::clone(offered);
        tokio::task::spawn_blocking(move || offered.read(place)).await.map_err(|_| Refused::Unreadable)?
    }
}

impl Offered {
    fn read(&self, place: Place) -> Result<Bytes, Refused> {
        let (file, chunk) = (place.file as usize, place.chunk as usize);
        let entry = self.manifest.files.get(file).ok_or(Refused::NoSuchChunk)?;
        if chunk >= entry.chunks.len() {
            return Err(Refused::NoSuchChunk);
        }
        let offset = u64::from(place.chunk) * u64::from(CHUNK);
        let length = usize::try_from((entry.size.0 - offset).min(u64::from(CHUNK))).expect("a chunk's size");
        let mut frame = chunk_frame(place, length);
        let header = frame.len();
        frame.resize(header + length, 0);
        let read = self.folder.read(entry.path.as_str());
        match read.and_then(|file| file.read_exact_at(&mut frame[header..], offset)) {
            Ok(()) => Ok(frame.freeze()),
            Err(error) => {
                let folder = self.folder.path().display();
                warn!(chunks.folder = %folder, chunks.file = %entry.path, %error, "a published chunk cannot be read");
                Err(Refused::Unreadable)
            }
        }
    }
}

fn refusal(refused: Refused) -> Refusal {
    debug!(%refused, "a pull was refused");
    match refused {
        Refused::NotOffered | Refused::NoSuchChunk | Refused::Unreadable => Refusal::NotOffered,
        Refused::Nonsense => Refusal::Malformed,
    }
}
