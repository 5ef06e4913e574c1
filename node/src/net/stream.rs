//! Streams between admitted peers: opened with a greeting, framed, bounded.
//!
//! ```text
//! opener                                 acceptor
//!   |-- negotiates /godwit/MESH/WORD/1 ->|   another mesh: no such protocol
//!   |<- READY ---------------------------|   or the stream is closed: too many, not allowed
//!   |-- frames: u32 length, bytes ------>|
//! ```
//!
//! Without the greeting the first frames would be lost whenever the acceptor is busy with another new stream.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use godwit_protocol::{MeshId, SiteId};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams, OpenStreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::codec::LengthDelimitedCodec;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::Book;
use super::metrics::Metrics;
use super::refusal::Refusal;

/// A stream to an admitted peer, for tokio.
pub type PeerStream = Compat<Stream>;

/// What the acceptor says first.
const READY: u8 = 1;

/// A reachable peer answers within a round trip; beyond this the connection is dead.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// The protocols between sites, and between clients and sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Consensus and catch-up.
    Ledger,
    /// Direct words of a handoff.
    Word,
    /// A client's reports.
    Report,
    /// Images and checkpoints.
    Pull,
    /// Memory of frozen containers.
    Pages,
}

impl Protocol {
    /// Its name on the wire. It carries the mesh, so that sites of two meshes find nothing to talk about.
    ///
    /// # Panics
    /// Never: the name begins with a slash.
    #[must_use]
    pub fn name(self, mesh: &MeshId) -> StreamProtocol {
        let word = match self {
            Self::Ledger => "ledger",
            Self::Word => "word",
            Self::Report => "report",
            Self::Pull => "pull",
            Self::Pages => "pages",
        };
        StreamProtocol::try_from_owned(format!("/godwit/{mesh}/{word}/1")).expect("it begins with a slash")
    }

    /// Streams that one peer may have open here. One is in use; a second overlaps with it after a reconnection. Pulls
    /// take one a part, for two handoffs of three parts at once and their reconnections.
    const fn streams_max(self) -> usize {
        match self {
            Self::Ledger | Self::Word | Self::Report => 4,
            Self::Pull => 12,
            // One a handoff, and one more while a broken one is not given up yet.
            Self::Pages => 12,
        }
    }
}

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The site is not connected; it is dialled in the background.
    #[error("{0} is not connected")]
    NotConnected(SiteId),
    /// The peer does not speak the protocol in this mesh.
    #[error("{site} does not offer {protocol:?}")]
    Unsupported {
        /// The peer.
        site: SiteId,
        /// What was asked for.
        protocol: Protocol,
    },
    /// The peer closed the stream instead of greeting: too many streams, or not allowed.
    #[error("{site} does not accept a {protocol:?} stream")]
    Refused {
        /// The peer.
        site: SiteId,
        /// What was asked for.
        protocol: Protocol,
    },
    /// The connection failed.
    #[error("open a {protocol:?} stream to {site}")]
    Io {
        /// The peer.
        site: SiteId,
        /// What was asked for.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens a stream and waits for the greeting.
///
/// # Errors
/// [`OpenError`], at the latest after 5 s.
pub async fn open(
    control: &mut Control,
    mesh: &MeshId,
    site: SiteId,
    peer: PeerId,
    protocol: Protocol,
) -> Result<PeerStream, OpenError> {
    let failed = |source| OpenError::Io { site, protocol, source };
    let greeted = timeout(OPEN_DEADLINE, async {
        let stream = control.open_stream(peer, protocol.name(mesh)).await.map_err(|error| match error {
            OpenStreamError::UnsupportedProtocol(_) => OpenError::Unsupported { site, protocol },
            OpenStreamError::Io(source) => failed(source),
            other => failed(io::Error::other(other)),
        })?;
        let mut stream = stream.compat();
        match stream.read_u8().await {
            Ok(READY) => Ok(stream),
            Ok(other) => Err(failed(io::Error::other(format!("greeted by {other} instead of {READY}")))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(OpenError::Refused { site, protocol }),
            Err(error) => Err(failed(error)),
        }
    });
    greeted.await.unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))
}

/// The framing of all protocols: a big-endian u32 length, then that many bytes, at most `limit`.
#[must_use]
pub fn framing(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().max_frame_length(limit).new_codec()
}

/// What accepting needs to know.
#[derive(Clone)]
pub struct Acceptor {
    pub(super) book: Book,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
}

/// Counts a peer's open streams of one protocol.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<HashMap<PeerId, usize>>>);

struct Held(Counted, PeerId);

impl Counted {
    fn hold(&self, peer: PeerId, most: usize) -> Option<Held> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Held(self.clone(), peer))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

impl Acceptor {
    /// Serves every incoming stream of a protocol in a task of its own, until shutdown. `allow` says for whom.
    pub(super) fn serve<A, S, F>(
        &self,
        protocol: Protocol,
        mut incoming: IncomingStreams,
        allow: impl Fn(&Book, &PeerId) -> Option<A> + Send + 'static,
        serve: S,
    ) where
        A: Send + 'static,
        S: Fn(A, PeerStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let this = self.clone();
        let counted = Counted::default();
        self.tasks.spawn(async move {
            while let Some(Some((peer, stream))) = this.cancel.run_until_cancelled(incoming.next()).await {
                let Some(author) = allow(&this.book, &peer) else {
                    this.metrics.refuse(Refusal::Stranger);
                    continue;
                };
                let Some(held) = counted.hold(peer, protocol.streams_max()) else {
                    this.metrics.refuse(Refusal::TooManyStreams);
                    continue;
                };
                let (served, cancel) = (serve(author, stream.compat()), this.cancel.clone());
                this.tasks.spawn(async move {
                    let _held = held;
                    cancel.run_until_cancelled(served).await;
                });
            }
        });
    }
}

/// Greets the opener.
///
/// # Errors
/// The connection's.
pub async fn greet(stream: &mut PeerStream) -> io::Result<()> {
    stream.write_u8(READY).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use tokio_util::codec::{Decoder, Encoder};

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8),
            cuts in proptest::collection::vec(1_usize..64, 1..64),
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                framing(200).encode(Bytes::from(frame.clone()), &mut wire).unwrap();
            }
            let (mut codec, mut arrived, mut got) = (framing(200), BytesMut::new(), Vec::new());
            let mut cuts = cuts.iter().cycle();
            while !wire.is_empty() {
                let cut = (*cuts.next().unwrap()).min(wire.len());
                arrived.extend_from_slice(&wire.split_to(cut));
                while let Some(frame) = codec.decode(&mut arrived).unwrap() {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn a_length_above_the_limit_is_refused_before_its_bytes_arrive(length in 201_u32..) {
            let mut wire = BytesMut::from(&length.to_be_bytes()[..]);
            prop_assert!(framing(200).decode(&mut wire).is_err());
        }

        #[test]
        fn no_bytes_make_the_framing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (mut codec, mut wire) = (framing(32), BytesMut::from(&bytes[..]));
            while let Ok(Some(frame)) = codec.decode(&mut wire) {
                prop_assert!(frame.len() <= 32);
            }
        }
    }

    #[test]
    fn a_peer_holds_a_bounded_number_of_streams() {
        let (counted, peer) = (Counted::default(), PeerId::random());
        let held: Vec<_> = (0..4).map(|_| counted.hold(peer, 4).expect("below the bound")).collect();
        assert!(counted.hold(peer, 4).is_none());
        assert!(counted.hold(PeerId::random(), 4).is_some());
        drop(held);
        assert!(counted.hold(peer, 4).is_some());
    }
}
