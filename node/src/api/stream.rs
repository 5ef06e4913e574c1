//! What the API streams: notices as server-sent events, log lines as JSON lines.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_util::sync::CancellationToken;

use super::site::Notice;
use super::view::LogLine;

/// A comment this often keeps proxies from closing an idle stream, and finds readers that went away.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Notices from now on, until the reader goes or the site stops. A comment comes first: whoever reads it misses nothing
/// that follows.
pub fn events(notices: broadcast::Receiver<Notice>, stopping: CancellationToken) -> Response {
    let notices = BroadcastStream::new(notices)
        .map(|notice| notice.unwrap_or_else(|BroadcastStreamRecvError::Lagged(notices)| Notice::Missed { notices }));
    let begun = stream::once(async { Ok(Event::default().comment("listening")) });
    Sse::new(begun.chain(notices.map(event)).take_until(stopping.cancelled_owned()))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

#[allow(clippy::needless_pass_by_value)] // the shape that `map` wants
fn event(notice: Notice) -> Result<Event, axum::Error> {
    Event::default().event(notice.kind()).json_data(&notice)
}

/// Log lines, one JSON object a line, until the container's output ends, the reader goes or the site stops.
pub fn log_lines(lines: mpsc::Receiver<LogLine>, stopping: CancellationToken) -> Response {
    let bytes = json_lines(ReceiverStream::new(lines)).take_until(stopping.cancelled_owned());
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response()
}

fn json_lines(lines: impl Stream<Item = LogLine>) -> impl Stream<Item = Result<String, Infallible>> {
    lines.map(|line| {
        // Two strings always serialize.
        let mut json = serde_json::to_string(&line).unwrap_or_default();
        json.push('\n');
        Ok(json)
    })
}
