//! Reports of clients: the one protocol that a vehicle's key opens, and the vehicle's side of it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use godwit_protocol::report::Report;
use godwit_protocol::{ClientId, Malformed, MeshId, Signed, Verified, decode, encode};
use libp2p::bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::NetEvent;
use super::metrics::{Channel, Metrics};
use super::refusal::Refusal;
use super::stream::{self, PeerStream};

/// The largest report: 16 signals of 34 bytes and a signature.
const REPORT_BYTES_MAX: usize = 4 * 1024;
/// Vehicles report once a second or so; what is faster than this would only displace other clients' reports.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// What a site answers to a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Taken into account.
    Accepted,
    /// Refused: the same client may try again with a better one.
    Refused(Why),
}

/// Why a report was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Not a report.
    #[error("the bytes are not a report")]
    Malformed,
    /// The signature does not hold in this mesh.
    #[error("the signature does not hold in this mesh")]
    Forged,
    /// About another client than the one that is connected.
    #[error("it is about another client than the one that is connected")]
    NotItsOwn,
    /// The sequence does not rise.
    #[error("its sequence is not above the last one's")]
    Replayed,
    /// Too fast after the last one.
    #[error("it follows the last one too fast")]
    TooOften,
}

impl From<Why> for Refusal {
    fn from(why: Why) -> Self {
        match why {
            Why::Malformed => Self::Malformed,
            Why::Forged => Self::Forged,
            Why::NotItsOwn => Self::NotItsOwn,
            Why::Replayed => Self::Replayed,
            Why::TooOften => Self::TooOften,
        }
    }
}

/// The site's side.
#[derive(Clone)]
pub(super) struct Reports {
    pub(super) mesh: MeshId,
    pub(super) metrics: Metrics,
    pub(super) events: mpsc::Sender<NetEvent>,
    /// Of each admitted client the last sequence, and when it came.
    pub(super) last: Arc<Mutex<HashMap<ClientId, (u64, Instant)>>>,
}

impl Reports {
    /// Serves one client until it leaves.
    pub(super) async fn serve(self, client: ClientId, mut stream: PeerStream) {
        if stream::greet(&mut stream).await.is_err() {
            return;
        }
        let mut frames = Framed::new(stream, stream::framing(REPORT_BYTES_MAX));
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { return self.metrics.refuse(Refusal::BadFrame) };
            self.metrics.receive(Channel::Report, frame.len());
            let answer = match self.judge(client, &frame).await {
                Ok(report) => {
                    if self.events.send(NetEvent::Report(Box::new(report))).await.is_err() {
                        return;
                    }
                    Answer::Accepted
                }
                Err(why) => {
                    self.metrics.refuse(why.into());
                    Answer::Refused(why)
                }
            };
            let answer = encode(&answer).expect("an answer is a few bytes");
            if frames.send(Bytes::from(answer)).await.is_err() {
                return;
            }
        }
    }

    async fn judge(&self, client: ClientId, bytes: &[u8]) -> Result<Verified<Report>, Why> {
        let report: Signed<Report> = decode(bytes).map_err(|_| Why::Malformed)?;
        if report.author != client {
            return Err(Why::NotItsOwn);
        }
        let sequence = report.body.sequence;
        self.newer(client, sequence)?;
        let mesh = self.mesh;
        // 50 µs, but a thousand clients must not hold up the network's own tasks.
        let verified = tokio::task::spawn_blocking(move || report.verify(&mesh)).await;
        let verified = verified.map_err(|_| Why::Forged)?.map_err(|_| Why::Forged)?;
        // Only a signed sequence counts, so that nobody else can use up a client's numbers.
        self.lock().insert(client, (sequence, Instant::now()));
        Ok(verified)
    }

    fn newer(&self, client: ClientId, sequence: u64) -> Result<(), Why> {
        match self.lock().get(&client) {
            Some((last, _)) if *last >= sequence => Err(Why::Replayed),
            Some((_, at)) if at.elapsed() < INTERVAL_MIN => Err(Why::TooOften),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ClientId, (u64, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a report did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It has no canonical form.
    #[error("encode the report")]
    Encode(#[from] Malformed),
    /// The connection failed.
    #[error("send the report")]
    Io(#[from] io::Error),
    /// The site closed the stream: this key may not report, or no longer.
    #[error("the site closed the stream")]
    Closed,
    /// The answer is none.
    #[error("the site's answer is not understood")]
    BadAnswer(#[source] Malformed),
}

/// A client's open stream to a site.
pub struct ReportStream {
    frames: Framed<PeerStream, LengthDelimitedCodec>,
}

impl ReportStream {
    /// Over a stream that was greeted.
    #[must_use]
    pub(super) fn new(stream: PeerStream) -> Self {
        Self { frames: Framed::new(stream, stream::framing(REPORT_BYTES_MAX)) }
    }

    /// Sends a report and waits for the answer.
    ///
    /// # Errors
    /// [`ReportError`]; a refusal is an answer, not an error.
    pub async fn send(&mut self, report: &Signed<Report>) -> Result<Answer, ReportError> {
        self.send_bytes(encode(report)?).await
    }

    pub(super) async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<Answer, ReportError> {
        self.frames.send(Bytes::from(bytes)).await?;
        let answer = self.frames.next().await.ok_or(ReportError::Closed)??;
        decode(&answer).map_err(ReportError::BadAnswer)
    }
}
