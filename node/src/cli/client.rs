//! The API's client: over the site's UNIX socket, or over loopback HTTP with a token.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use crate::api::fault::Fault;
use crate::api::site::Notice;
use crate::config::Config;

/// Where a site's API listens unless it is configured otherwise.
const DEFAULT_SOCKET: &str = "/run/godwit/api.sock";

/// A site that is alive accepts at once.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// A line of a stream is one event or one log line.
const LINE_MAX: usize = 4 * 1024 * 1024;

/// Where an API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A UNIX socket.
    Socket(PathBuf),
    /// Loopback HTTP.
    Http(Url),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers there.
    #[error("cannot reach the site at {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: reqwest::Error,
        /// The socket's own error, which the layers above wrap out of sight.
        io: Option<std::io::ErrorKind>,
    },
    /// The site refused it.
    #[error("{0}")]
    Refused(Fault),
    /// The answer broke off or makes no sense.
    #[error("read the site's answer to {what}")]
    Answer {
        /// To which request.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A line of a stream makes no sense.
    #[error("the site's {what} are not understood: {reason}")]
    Stream {
        /// Of which stream.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl ApiError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Unreachable { io: Some(std::io::ErrorKind::PermissionDenied), .. } => {
                Some("only the socket's owner may use it: try as that user, with sudo for root".to_owned())
            }
            Self::Unreachable { endpoint: Endpoint::Socket(_), .. } => {
                Some("is `godwit run` running? `--api` or GODWIT_API names another socket".to_owned())
            }
            Self::Unreachable { .. } => {
                Some("is `godwit run` running, with `api_listen` set to this address?".to_owned())
            }
            Self::Refused(fault) => fault.remedy.clone(),
            Self::Answer { .. } | Self::Stream { .. } => {
                Some("look at the site's log; do `godwit --version` and the site's version agree?".to_owned())
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") {
            return text.parse().map(Self::Http).map_err(|error| format!("not a URL: {error}"));
        }
        if text.contains("://") && !text.starts_with("unix://") {
            return Err("expected the path of a socket or http://127.0.0.1:PORT".to_owned());
        }
        Ok(Self::Socket(text.trim_start_matches("unix://").into()))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Http(url) => write!(f, "{url}"),
        }
    }
}

/// A site's API.
pub struct ApiClient {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<String>,
}

impl ApiClient {
    /// Connects to nothing yet. Without an endpoint it takes the configured socket.
    pub fn new(endpoint: Option<Endpoint>, config: Option<&Path>, token: Option<&Path>) -> Result<Self, Failure> {
        let endpoint = endpoint.unwrap_or_else(|| Endpoint::Socket(configured_socket(config)));
        let token = match token {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Failure::file("read the token file", path))?;
                Some(text.trim().to_owned())
            }
            None => std::env::var("GODWIT_API_TOKEN").ok(),
        };
        let builder = reqwest::Client::builder().connect_timeout(CONNECT_WAIT).no_proxy();
        let builder = match &endpoint {
            Endpoint::Socket(path) => builder.unix_socket(path.as_path()),
            Endpoint::Http(_) => builder,
        };
        let http = builder.build().map_err(|source| Failure::Part {
            what: "set up the HTTP client",
            source: source.into(),
            remedy: None,
        })?;
        Ok(Self { http, endpoint, token })
    }

    /// Asks for what is at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> Result<T, ApiError> {
        let response = self.send(Method::GET, path, query, None::<&()>).await?;
        read(response, path).await
    }

    /// Asks for bytes that are at a path.
    pub async fn bytes(&self, path: &[&str], query: &[(&str, String)]) -> Result<Vec<u8>, ApiError> {
        let response = self.send(Method::GET, path, query, None::<&()>).await?;
        let bytes = response.bytes().await.map_err(|source| ApiError::Answer { what: path.join("/"), source })?;
        Ok(bytes.into())
    }

    /// Sends a body and reads the answer.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &[&str], body: &B) -> Result<T, ApiError> {
        let response = self.send(Method::POST, path, &[], Some(body)).await?;
        read(response, path).await
    }

    /// A request whose answer is empty.
    pub async fn act(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> Result<(), ApiError> {
        self.send(method, path, query, None::<&()>).await.map(drop)
    }

    /// What happens at the site, from the moment this returns.
    pub async fn notices(&self) -> Result<impl Stream<Item = Result<Notice, ApiError>> + Unpin + use<>, ApiError> {
        let response = self.send(Method::GET, &["v1", "events"], &[], None::<&()>).await?;
        let data = |line: Result<String, ApiError>| async move {
            match line {
                // An event is the line `event: KIND` and the line `data: JSON`; comments keep the stream alive.
                Ok(line) => line.strip_prefix("data:").map(|json| parse_line("events", json)),
                Err(error) => Some(Err(error)),
            }
        };
        Ok(Box::pin(lines(response, "events").filter_map(data)))
    }

    /// JSON lines at a path.
    pub async fn json_lines<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        what: &'static str,
    ) -> Result<impl Stream<Item = Result<T, ApiError>> + Unpin + use<T>, ApiError> {
        let response = self.send(Method::GET, path, query, None::<&()>).await?;
        Ok(Box::pin(lines(response, what).map(move |line| parse_line(what, &line?))))
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&B>,
    ) -> Result<Response, ApiError> {
        let mut request = self.http.request(method, self.url(path)).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|source| ApiError::Unreachable {
            endpoint: self.endpoint.clone(),
            io: io_kind(&source),
            source,
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let what = format!("{path:?} (status {status})");
        let fault = response.json().await.map_err(|source| ApiError::Answer { what, source })?;
        Err(ApiError::Refused(fault))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = match &self.endpoint {
            Endpoint::Socket(_) => Url::parse("http://localhost/").expect("a constant"),
            Endpoint::Http(url) => url.clone(),
        };
        // Each segment is escaped: a container may be named `a/b`.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(path);
        }
        url
    }
}

fn configured_socket(config: Option<&Path>) -> PathBuf {
    Config::load(config, std::env::vars(), &[]).map_or_else(|_| DEFAULT_SOCKET.into(), |config| config.api.socket)
}

fn io_kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    None
}

async fn read<T: DeserializeOwned>(response: Response, path: &[&str]) -> Result<T, ApiError> {
    response.json().await.map_err(|source| ApiError::Answer { what: path.join("/"), source })
}

fn parse_line<T: DeserializeOwned>(what: &'static str, json: &str) -> Result<T, ApiError> {
    serde_json::from_str(json).map_err(|error| ApiError::Stream { what, reason: error.to_string() })
}

/// The body's lines, each without its end.
fn lines(response: Response, what: &'static str) -> impl Stream<Item = Result<String, ApiError>> {
    let bytes = response.bytes_stream().map_err(std::io::Error::other);
    let reader = tokio_util::io::StreamReader::new(bytes);
    let lines =
        tokio_util::codec::FramedRead::new(reader, tokio_util::codec::LinesCodec::new_with_max_length(LINE_MAX));
    lines.map_err(move |error| ApiError::Stream { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_or_a_loopback_url() {
        assert_eq!("/run/a.sock".parse(), Ok(Endpoint::Socket("/run/a.sock".into())));
        assert_eq!("unix:///run/a.sock".parse(), Ok(Endpoint::Socket("/run/a.sock".into())));
        assert!(matches!("http://127.0.0.1:4180".parse(), Ok(Endpoint::Http(_))));
        assert!("https://example.org".parse::<Endpoint>().is_err());
        assert!("http://".parse::<Endpoint>().is_err());
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        let client = ApiClient::new(Some("http://127.0.0.1:4180".parse().unwrap()), None, None).unwrap();
        let url = client.url(&["v1", "containers", "a/b?c#d"]);
        assert_eq!(url.as_str(), "http://127.0.0.1:4180/v1/containers/a%2Fb%3Fc%23d");
    }
}
