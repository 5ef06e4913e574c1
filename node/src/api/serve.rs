//! Listening: on a UNIX socket of mode 0600, and on loopback behind a token if configured.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::routes::{Api, router};
use super::token::{BadToken, Token, require};

/// Connections at a time on each listener: an operator's shells, a dashboard, a scraper, with room.
const CONNECTIONS_MAX: usize = 128;

/// How long a client may take to send a request's head.
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// How long open requests may go on after the site was told to stop.
const DRAIN_WAIT: Duration = Duration::from_secs(3);

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket's folder.
    #[error("create the folder of the API socket {path}")]
    Folder {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another site uses the socket.
    #[error("another godwit answers at {0}: stop it, or set another `api_socket`")]
    InUse(PathBuf),
    /// Something else is in the socket's place.
    #[error("{0} exists and is no socket: remove it, or set another `api_socket`")]
    NoSocket(PathBuf),
    /// The socket itself.
    #[error("listen on the API socket {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An address that other machines can reach.
    #[error("the API does not listen on {0}: `api_listen` must be a loopback address such as 127.0.0.1:4180")]
    NotLoopback(SocketAddr),
    /// The token for loopback.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// The loopback listener.
    #[error("listen for the API on {address}")]
    Loopback {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Bound listeners, so that a site knows before it starts that its API will answer.
#[derive(Debug)]
pub struct Listeners {
    socket: UnixListener,
    path: PathBuf,
    loopback: Option<(TcpListener, TokenBox)>,
}

struct TokenBox(Token);

impl std::fmt::Debug for TokenBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Listeners {
    /// Binds the UNIX socket, and loopback with its token file if given.
    ///
    /// # Errors
    /// [`ServeError`] says what cannot be bound and what to do.
    pub async fn bind(path: &Path, loopback: Option<(SocketAddr, &Path)>) -> Result<Self, ServeError> {
        let loopback = match loopback {
            Some((address, token)) => Some(bind_loopback(address, token).await?),
            None => None,
        };
        Ok(Self { socket: bind_socket(path).await?, path: path.to_owned(), loopback })
    }

    /// Where it listens on loopback.
    #[must_use]
    pub fn loopback_address(&self) -> Option<SocketAddr> {
        self.loopback.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Answers requests until `api.stopping` is cancelled.
    pub async fn serve(self, api: Api) {
        let stopping = api.stopping.clone();
        let open = router(api);
        let loopback = self.loopback.map(|(listener, TokenBox(token))| {
            let guarded = open.clone().layer(axum::middleware::from_fn_with_state(token, require));
            accept(listener, guarded, stopping.clone())
        });
        let loopback = futures::future::OptionFuture::from(loopback);
        tokio::join!(accept(self.socket, open, stopping.clone()), loopback);
        drop(std::fs::remove_file(&self.path));
    }
}

async fn bind_loopback(address: SocketAddr, token: &Path) -> Result<(TcpListener, TokenBox), ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let token = Token::read(token)?;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Loopback { address, source })?;
    Ok((listener, TokenBox(token)))
}

/// Binds beside the final path and renames, so that nobody can connect before the mode is 0600 and a stale socket of a
/// killed site is replaced.
async fn bind_socket(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| ServeError::Folder { path: path.to_owned(), source })?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(ServeError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(ServeError::InUse(path.to_owned())),
        _ => {}
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    drop(std::fs::remove_file(&beside));
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    Ok(listener)
}

/// Serves what the listener accepts until told to stop, then lets open requests end.
async fn accept<L: Listener>(mut listener: L, router: Router, stopping: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = GracefulShutdown::new();
    loop {
        // A slot first: connections beyond the bound wait in the kernel's backlog.
        let slot = tokio::select! {
            () = stopping.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        // Axum's listener logs what goes wrong and tries again.
        let (stream, _) = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "api.connection ended");
            }
            drop(slot);
        });
    }
    drop(tokio::time::timeout(DRAIN_WAIT, open.shutdown()).await);
}
