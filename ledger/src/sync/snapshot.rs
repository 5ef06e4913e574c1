//! Snapshots: the state after a certified block, fetched in chunks from several sites.
//!
//! ```text
//!   lagging site                              others
//!     |-- SnapshotWanted { trusted } ----------->|
//!     |<- Snapshot(Offer) -----------------------|   header, certificate, changes of the validators, hashes of the chunks
//!     |-- ChunkWanted { height, index } -------->|   one at a time of each who offers the same
//!     |<- Chunk { height, index, bytes } --------|   judged by its hash, kept on disk
//!     adopts the state if its root is the header's
//! ```
//!
//! The header is trusted because validators signed it to whom the site's own state leads; the hashes of the chunks are not
//! signed, but all chunks together must be the canonical form of the state that the header names. Chunks stay on disk until
//! then, so that a download goes on after a restart, and with another site's help.
//!
//! Invariant: pure, as all of [`crate::sync`].

use std::collections::{BTreeMap, BTreeSet};

use godwit_protocol::bounded::List;
use godwit_protocol::{Hash, SiteId, Time, codec};
use serde::{Deserialize, Serialize};

use super::ANSWER;
use crate::block::{Certificate, Header, Height};
use crate::lineage::{BadLink, Lineage, Undecided, Validators};
use crate::state::State;

/// Chunks of one snapshot: 8 GiB of state. Their hashes take 1 MiB of a message.
pub const MAX_CHUNKS: usize = 32_768;

/// The largest chunk: what a message carries, with room for what is around it.
pub const MAX_CHUNK: usize = codec::LIMIT - 1024;

/// Sites that are asked for a snapshot at once: enough that one which lies, or is slow, does not matter.
const MAX_SOURCES: usize = 4;

/// How long to do without when nobody has a snapshot.
const RETRY: godwit_protocol::Millis = godwit_protocol::Millis(30_000);

/// What a site needs to know to fetch a snapshot, and to believe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Of the block after which the state is.
    pub header: Header,
    /// That the block was decided.
    pub certificate: Certificate,
    /// Every change of the validators from the height that the asker trusts to the block.
    pub lineage: Lineage,
    /// The hash of each chunk, as [`chunk_hash`] has it.
    pub chunks: List<Hash, MAX_CHUNKS>,
}

/// Why a snapshot is not worth fetching.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOffer {
    /// There is no state without a chunk.
    #[error("it has no chunks")]
    Empty,
    /// It leads back.
    #[error("it is of height {0}, which is not beyond this site's")]
    Behind(Height),
    /// A change of the validators was not decided.
    #[error("a change of the validators at height {height}")]
    Link {
        /// Where it is said to be.
        height: Height,
        /// What is wrong with it.
        #[source]
        source: BadLink,
    },
    /// The validators did not decide its block.
    #[error("its block proves nothing")]
    Undecided(#[from] Undecided),
}

/// A download as it is on disk.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What is being fetched.
    pub offer: Offer,
    /// What is here of it, by place.
    pub chunks: BTreeMap<u32, Vec<u8>>,
}

/// The hash of a chunk.
#[must_use]
pub fn chunk_hash(chunk: &[u8]) -> Hash {
    Hash::of_parts("godwit/chunk", &[chunk])
}

impl Offer {
    /// Whether the block that it names was decided by validators to whom a state leads.
    ///
    /// # Errors
    /// [`BadOffer`] says what is wrong.
    pub fn check(&self, state: &State) -> Result<(), BadOffer> {
        if self.chunks.is_empty() {
            return Err(BadOffer::Empty);
        }
        if self.header.height <= state.height() {
            return Err(BadOffer::Behind(self.header.height));
        }
        let mut validators = Validators::of(state);
        for link in self.lineage.links.iter() {
            let height = link.header.height;
            validators = validators.follow(link).map_err(|source| BadOffer::Link { height, source })?;
        }
        Ok(validators.check(&self.header, &self.certificate)?)
    }

    /// What is offered, whoever offers it and however it is certified.
    #[must_use]
    pub fn content(&self) -> Hash {
        let hashes: Vec<&[u8]> = self.chunks.iter().map(|hash| hash.0.as_slice()).collect();
        let header = self.header.hash();
        Hash::of_parts("godwit/snapshot", &[&[header.0.as_slice()], &hashes[..]].concat())
    }
}

/// What came of an offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// A download begins: this is what to keep on disk.
    Begun(Box<Offer>),
    /// Its site helps with the download that is under way.
    Joined,
    /// It is not needed.
    Ignored,
}

/// What came of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It is one of those that are fetched.
    Here(Vec<u8>),
    /// The site has it no more.
    Gone,
    /// Nobody asked for it.
    Unasked,
    /// Its hash is another.
    Rubbish,
}

/// A snapshot whose chunks are all here.
#[derive(Debug)]
pub(crate) struct Whole {
    pub offer: Offer,
    pub chunks: Vec<Vec<u8>>,
    /// Who vouched for the hashes.
    pub sources: Vec<SiteId>,
}

/// The search for a snapshot, and its download.
#[derive(Debug, Default)]
pub(crate) struct Download {
    /// Who was asked for an offer, and until when it is awaited.
    asked: BTreeMap<SiteId, Time>,
    loading: Option<Loading>,
    /// Nobody had one: blocks are fetched until then.
    without: Time,
}

#[derive(Debug)]
struct Loading {
    offer: Offer,
    content: Hash,
    chunks: BTreeMap<u32, Vec<u8>>,
    /// Those who offer it, and what each is asked for at present.
    sources: BTreeMap<SiteId, Option<(u32, Time)>>,
    /// Those who have offered it so far.
    vouched: BTreeSet<SiteId>,
}

impl Loading {
    fn new(offer: Offer, chunks: BTreeMap<u32, Vec<u8>>) -> Self {
        let content = offer.content();
        Self { offer, content, chunks, sources: BTreeMap::new(), vouched: BTreeSet::new() }
    }

    fn is_awaited(&self, index: u32) -> bool {
        self.sources.values().flatten().any(|(asked, _)| *asked == index)
    }

    fn missing(&self) -> Option<u32> {
        let all = 0..u32::try_from(self.offer.chunks.len()).unwrap_or(u32::MAX);
        all.into_iter().find(|index| !self.chunks.contains_key(index) && !self.is_awaited(*index))
    }
}

impl Download {
    /// Goes on with what is on disk. Chunks that are not what they should be are fetched again.
    pub fn resume(kept: Kept) -> Self {
        let Kept { offer, mut chunks } = kept;
        chunks.retain(|index, chunk| {
            let want = usize::try_from(*index).ok().and_then(|index| offer.chunks.get(index));
            want == Some(&chunk_hash(chunk))
        });
        Self { loading: Some(Loading::new(offer, chunks)), ..Self::default() }
    }

    /// Whether a snapshot is on its way, or may be.
    pub fn is_under_way(&self) -> bool {
        !self.asked.is_empty() || self.loading.as_ref().is_some_and(|loading| !loading.sources.is_empty())
    }

    /// When to search again.
    pub fn again_at(&self, now: Time) -> Time {
        self.without.max(now)
    }

    /// Whom to ask for an offer now, of those who are further.
    pub fn search(&mut self, further: &[SiteId], now: Time) -> Vec<SiteId> {
        if self.is_under_way() || self.without > now {
            return Vec::new();
        }
        if further.is_empty() {
            self.give_up(now);
        }
        let asked: Vec<SiteId> = further.iter().copied().take(MAX_SOURCES).collect();
        self.asked.extend(asked.iter().map(|site| (*site, now.after(ANSWER))));
        asked
    }

    /// A site answers what it has.
    ///
    /// # Errors
    /// [`BadOffer`] if its offer proves nothing.
    pub fn offered(
        &mut self,
        site: SiteId,
        offer: Option<Offer>,
        state: &State,
        now: Time,
    ) -> Result<Offered, BadOffer> {
        if self.asked.remove(&site).is_none() {
            return Ok(Offered::Ignored);
        }
        let Some(offer) = offer else {
            self.give_up(now);
            return Ok(Offered::Ignored);
        };
        if let Err(bad) = offer.check(state) {
            self.give_up(now);
            return Err(bad);
        }
        let content = offer.content();
        let begun = match &mut self.loading {
            Some(loading) if loading.content == content => {
                loading.sources.insert(site, None);
                loading.vouched.insert(site);
                return Ok(Offered::Joined);
            }
            Some(loading) if !loading.sources.is_empty() => return Ok(Offered::Ignored),
            // What is here of an older one may be part of this, too.
            other => {
                let before = other.take().map(|loading| loading.chunks).unwrap_or_default();
                let by_hash: BTreeMap<Hash, Vec<u8>> =
                    before.into_values().map(|chunk| (chunk_hash(&chunk), chunk)).collect();
                let known = (0_u32..).zip(offer.chunks.iter());
                let chunks = known.filter_map(|(index, hash)| Some((index, by_hash.get(hash)?.clone()))).collect();
                other.insert(Loading::new(offer.clone(), chunks))
            }
        };
        begun.sources.insert(site, None);
        begun.vouched.insert(site);
        Ok(Offered::Begun(Box::new(offer)))
    }

    /// What is here already of the download that was just begun.
    pub fn known(&self) -> impl Iterator<Item = (u32, &Vec<u8>)> {
        self.loading.iter().flat_map(|loading| loading.chunks.iter().map(|(index, chunk)| (*index, chunk)))
    }

    /// Which chunks to ask of whom now.
    pub fn ask(&mut self, now: Time) -> Vec<(SiteId, Height, u32)> {
        self.lapse(now);
        let Some(loading) = &mut self.loading else { return Vec::new() };
        let free: Vec<SiteId> =
            loading.sources.iter().filter(|(_, asked)| asked.is_none()).map(|(site, _)| *site).collect();
        let mut asks = Vec::new();
        for site in free {
            let Some(index) = loading.missing() else { break };
            loading.sources.insert(site, Some((index, now.after(ANSWER))));
            asks.push((site, loading.offer.header.height, index));
        }
        asks
    }

    /// A chunk came, or none if it is empty.
    pub fn arrived(&mut self, site: &SiteId, height: Height, index: u32, chunk: Vec<u8>) -> Arrived {
        let Some(loading) = self.loading.as_mut().filter(|loading| loading.offer.header.height == height) else {
            return Arrived::Unasked;
        };
        let Some(asked) = loading.sources.get_mut(site) else { return Arrived::Unasked };
        if asked.take_if(|(asked, _)| *asked == index).is_none() {
            return Arrived::Unasked;
        }
        if chunk.is_empty() {
            loading.sources.remove(site);
            return Arrived::Gone;
        }
        let want = usize::try_from(index).ok().and_then(|index| loading.offer.chunks.get(index));
        if want != Some(&chunk_hash(&chunk)) {
            loading.sources.remove(site);
            return Arrived::Rubbish;
        }
        loading.chunks.insert(index, chunk.clone());
        Arrived::Here(chunk)
    }

    /// The whole snapshot, once it is here.
    pub fn whole(&mut self) -> Option<Whole> {
        let loading = self.loading.take_if(|loading| loading.chunks.len() == loading.offer.chunks.len())?;
        self.asked.clear();
        let (chunks, sources) = (loading.chunks.into_values().collect(), loading.vouched.into_iter().collect());
        Some(Whole { offer: loading.offer, chunks, sources })
    }

    /// A site is gone, or not to be believed.
    pub fn forget(&mut self, site: &SiteId) {
        self.asked.remove(site);
        if let Some(loading) = &mut self.loading {
            loading.sources.remove(site);
        }
    }

    /// When to look again.
    pub fn next_at(&self) -> Option<Time> {
        let chunks = self.loading.iter().flat_map(|loading| loading.sources.values().flatten().map(|(_, until)| until));
        self.asked.values().chain(chunks).min().copied()
    }

    /// Who did not answer in time is no source any more.
    fn lapse(&mut self, now: Time) {
        let before = self.asked.len();
        self.asked.retain(|_, until| *until > now);
        if self.asked.len() < before {
            self.give_up(now);
        }
        if let Some(loading) = &mut self.loading {
            loading.sources.retain(|_, asked| asked.is_none_or(|(_, until)| until > now));
        }
    }

    /// Does without a snapshot for a while, if nobody is left who may have one.
    fn give_up(&mut self, now: Time) {
        if !self.is_under_way() {
            self.without = now.after(RETRY);
        }
    }
}

#[cfg(test)]
mod tests;
