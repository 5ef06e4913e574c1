//! Where a command takes the ledger from: a copy on disk, or a live site.

use godwit_ledger::block::Height;
use godwit_ledger::store::Archive;
use tokio::sync::mpsc;

use super::args::SourceArgs;
use super::client::{ApiClient, ApiError};
use super::failure::Failure;
use super::seam;
use crate::api::raw;
use crate::api::routes::BLOCKS_MAX;

/// Answers of a live site that wait to be looked at, of 4 MB at most: the next one travels meanwhile.
const PAGES_MAX: usize = 2;

/// Why a block cannot be had.
pub type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// A ledger's blocks.
pub enum Source {
    /// On disk.
    Kept(Archive),
    /// From a site, as they arrive.
    Live(mpsc::Receiver<Result<Vec<Vec<u8>>, ApiError>>),
}

impl Source {
    /// Opens what the arguments name; from a live site, blocks are asked for from a height on.
    pub fn open(
        args: &SourceArgs,
        from: u64,
        api: impl FnOnce() -> Result<ApiClient, Failure>,
    ) -> Result<Self, Failure> {
        match &args.dir {
            Some(dir) => seam::archive(dir).map(Self::Kept),
            None => Ok(Self::Live(pages(api()?, from))),
        }
    }

    /// That a copy on disk begins with block 1: what it does not hold cannot be verified.
    pub fn check_whole(&self) -> Result<(), Failure> {
        let Self::Kept(archive) = self else { return Ok(()) };
        let base =
            archive.base().map_err(|error| Failure::Part { what: "read", source: error.into(), remedy: None })?;
        if base <= Height(1) {
            return Ok(());
        }
        Err(Failure::Input {
            what: "the copy".to_owned(),
            reason: format!("it begins at block {base}: it keeps no older ones, or began with a fetched state"),
            remedy: "audit the copy of a site with `retain = \"all\"`, or one made by `godwit follow`".to_owned(),
        })
    }

    /// Hands the bytes of the blocks from a height on to `look`, in order. It blocks the thread.
    pub fn blocks<T>(
        self,
        from: u64,
        look: impl FnOnce(&mut dyn Iterator<Item = Result<Vec<u8>, Unreadable>>) -> T,
    ) -> T {
        match self {
            Self::Kept(archive) => look(&mut archive.raw(Height(from)).map(|block| block.map_err(Into::into))),
            Self::Live(mut pages) => {
                let pages = std::iter::from_fn(move || pages.blocking_recv());
                look(&mut pages.flat_map(|page| match page {
                    Ok(blocks) => blocks.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error.into())],
                }))
            }
        }
    }
}

/// Asks a site for all its blocks from a height on.
fn pages(api: ApiClient, from: u64) -> mpsc::Receiver<Result<Vec<Vec<u8>>, ApiError>> {
    let (pages, read) = mpsc::channel(PAGES_MAX);
    tokio::spawn(async move {
        let mut next = from.max(1);
        loop {
            let page = page(&api, next).await;
            let more = page.as_ref().map_or(0, Vec::len) as u64;
            // The end of the chain is no page; a failure is the last one.
            if page.as_ref().is_ok_and(Vec::is_empty) || pages.send(page).await.is_err() || more == 0 {
                return;
            }
            next += more;
        }
    });
    read
}

async fn page(api: &ApiClient, from: u64) -> Result<Vec<Vec<u8>>, ApiError> {
    let query = [("from", from.to_string()), ("most", BLOCKS_MAX.to_string())];
    let body = api.bytes(&["v1", "blocks", "raw"], &query).await?;
    raw::split(&body).ok_or_else(|| ApiError::Stream { what: "blocks", reason: "they break off".to_owned() })
}
