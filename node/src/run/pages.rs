//! Memory of containers that move, between two sites: streams from the target to the source, and at either end a Unix socket to
//! whoever reads or fills memory.
//!
//! ```text
//! target                                                     source
//! page service ─► socket ─► Bridge ══ offer, which, bytes ══► serve ─► socket ─► processes
//! ```
//!
//! A stream begins with the offer that it is about and [which](Which) pages; what follows is of those who read and fill
//! memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_protocol::{ContainerId, OfferId, SiteId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::chunks::{self, Part, PartKey};
use crate::net::{Endpoint, PeerStream, Protocol, Refusal, Refusals, greet};
use crate::runtime::Runtime;

/// On the way between socket and stream: a batch of pages and more.
const BUFFER: usize = 256 * 1024;

/// Whoever opens a stream says at once what it is about.
const OPENING: Duration = Duration::from_secs(5);

/// Pages of which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// While the container runs at the source.
    Ahead,
    /// When it is frozen there.
    Late,
}

impl Which {
    const fn byte(self) -> u8 {
        match self {
            Self::Ahead => 1,
            Self::Late => 2,
        }
    }

    /// Whoever may pull this may have the pages.
    fn of(byte: u8) -> Option<(Self, Part)> {
        match byte {
            1 => Some((Self::Ahead, Part::Spec)),
            2 => Some((Self::Late, Part::Checkpoint)),
            _ => None,
        }
    }
}

/// Which containers move.
#[derive(Clone, Default)]
pub struct Leaving(Arc<Mutex<BTreeMap<OfferId, ContainerId>>>);

impl Leaving {
    /// From now on the offer's target may have its memory.
    pub fn insert(&self, offer: OfferId, container: ContainerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(offer, container);
    }

    /// Not any more. Streams that are open end with the processes.
    pub fn remove(&self, offer: OfferId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&offer);
    }

    fn get(&self, offer: OfferId) -> Option<ContainerId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&offer).copied()
    }
}

/// Serves the memory of containers, each to the site that takes it over. To be called once for an endpoint.
pub fn serve(net: &Endpoint, parts: &chunks::Server, leaving: &Leaving, runtime: &Arc<dyn Runtime>) {
    let (parts, leaving, runtime, refusals) = (parts.clone(), leaving.clone(), Arc::clone(runtime), net.refusals());
    net.serve(Protocol::Pages, move |site, stream| {
        let (parts, leaving, runtime, refusals) =
            (parts.clone(), leaving.clone(), Arc::clone(&runtime), refusals.clone());
        async move {
            if let Err(error) = serve_one(site, stream, &parts, &leaving, runtime.as_ref(), &refusals).await {
                debug!(%site, %error, "pages.stream_ended");
            }
        }
    });
}

async fn serve_one(
    site: SiteId,
    mut stream: PeerStream,
    parts: &chunks::Server,
    leaving: &Leaving,
    runtime: &dyn Runtime,
    refusals: &Refusals,
) -> io::Result<()> {
    greet(&mut stream).await?;
    let mut offer = [0; 32];
    timeout(OPENING, stream.read_exact(&mut offer)).await??;
    let which = timeout(OPENING, stream.read_u8()).await??;
    let offer = OfferId(offer);
    let Some((which, part)) = Which::of(which) else {
        refusals.refuse(site, Refusal::Malformed);
        return Ok(());
    };
    let allowed = parts.offers(&PartKey { offer, part }, site);
    let Some(container) = leaving.get(offer).filter(|_| allowed) else {
        refusals.refuse(site, Refusal::NotOffered);
        return Ok(());
    };
    let memory = match which {
        Which::Ahead => runtime.ahead(container).await,
        Which::Late => runtime.pages(container).await,
    };
    let memory = memory.map_err(io::Error::other)?;
    memory.set_nonblocking(true)?;
    join(UnixStream::from_std(memory)?, stream).await
}

/// A Unix socket that leads to the source of one handoff; gone when dropped.
#[derive(Debug)]
pub struct Bridge {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Bridge {
    /// Listens at `path` for whoever wants these pages.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(net: &Endpoint, offer: OfferId, source: SiteId, which: Which, path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let net = net.clone();
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => drop(tokio::spawn(cross(net.clone(), offer, source, which, socket))),
                    Err(error) => {
                        warn!(%error, "pages for a container that arrives cannot be asked for");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(Self { path: path.to_owned(), task })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
        // Another may have been made in its place already, or the folder be gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn cross(net: Endpoint, offer: OfferId, source: SiteId, which: Which, socket: UnixStream) {
    let crossed = async {
        let mut stream = net.open(source, Protocol::Pages).await.map_err(io::Error::other)?;
        stream.write_all(&offer.0).await?;
        stream.write_u8(which.byte()).await?;
        join(socket, stream).await
    };
    if let Err(error) = crossed.await {
        debug!(%source, %error, "pages.stream_ended");
    }
}

async fn join(mut socket: UnixStream, mut stream: PeerStream) -> io::Result<()> {
    copy_bidirectional_with_sizes(&mut socket, &mut stream, BUFFER, BUFFER).await.map(drop)
}
