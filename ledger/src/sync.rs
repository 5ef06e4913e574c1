//! Catching up: whom to ask for what is missing, and when; and how much to serve to whom.
//!
//! ```text
//!  claims ─► gap ─┬─► up to 2,000 blocks: batches from several sites at once (`CatchUp`), verified and applied in order
//!                 └─► more: the state after a certified block, in chunks (`snapshot::Download`), then blocks
//! ```
//!
//! Pure. What sites claim is only a hint: what they send is verified, whoever serves rubbish is not asked for a while, and
//! a claim that leads to nothing is dropped.

pub(crate) mod serve;
pub mod snapshot;
pub(crate) mod verify;

use std::collections::{BTreeMap, VecDeque};

use godwit_protocol::{Millis, SiteId, Time};

use crate::block::{Committed, Height};
use crate::replica::MAX_BLOCKS;

/// How long a block that others have may still be on its way before it is asked for.
const PATIENCE: Millis = Millis(50);

/// How long to wait for an answer before another site is asked: a batch of 4 MiB over an uplink of 16 Mbit/s takes 2 s.
pub(crate) const ANSWER: Millis = Millis(4000);

/// Batches that are under way or wait for those before them: 24 MiB at most, a third of what a site may use.
const MAX_BATCHES: usize = 6;

/// How long a site that did not answer is left alone; doubled each time.
const QUIET: Millis = Millis(2000);

/// How long a site that served rubbish is not asked; doubled each time.
const SHUN: Millis = Millis(60_000);

/// Doublings of both: a site may be mended, so none is given up for more than an hour.
const MAX_DOUBLINGS: u32 = 6;

/// Earlier questions to a site that are remembered: more than are asked of it while an answer is on its way.
const EARLIER: usize = 32;

/// Above so many missing blocks a snapshot is fetched instead, by a site that need not keep them all. Blocks come at some
/// thousand a second; a snapshot costs a few round trips however long a site was away.
pub const SNAPSHOT_GAP: u64 = 2_000;

/// What is known of others' progress, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    peers: BTreeMap<SiteId, Peer>,
    /// How far the furthest of them is: looked at with every input, and a mesh may have thousands of members.
    reach: Height,
    /// Some site has said that it does not keep all blocks.
    prunes: bool,
    /// By the first height of each.
    batches: BTreeMap<Height, Batch>,
    /// When a gap was first seen that somebody could be asked to close.
    since: Option<Time>,
    asked: u64,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// It has said that it is so far.
    claim: Height,
    /// It has said how far it is since it was connected.
    said: bool,
    /// Others' words imply that it may be.
    hint: Height,
    /// The first block that it keeps.
    base: Height,
    /// Not asked before this.
    resting: Time,
    silences: u32,
    offences: u32,
    /// The last request's number: sites are asked in turn.
    turn: u64,
    /// What it was asked for, the first and last height of each question: an answer may come after the next question.
    earlier: VecDeque<(Height, Height)>,
}

#[derive(Debug)]
enum Batch {
    Asked { site: SiteId, last: Height, until: Time },
    Here { site: SiteId, blocks: Vec<Committed> },
}

/// What to ask of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub site: SiteId,
    pub from: Height,
    pub most: u16,
}

/// What an answer is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To no question: a new block, or too late.
    Unasked(Vec<Committed>),
    /// Blocks that were asked for; they may have to wait.
    Taken,
    /// Nothing, though the site had not claimed to have it.
    Nothing,
    /// Nothing, contrary to what the site has said.
    Contrary { claim: Height },
    /// Other blocks than were asked for.
    Others,
}

impl Peer {
    fn reach(&self) -> Height {
        self.claim.max(self.hint)
    }

    /// Whether blocks from one height to another answer something that it was asked.
    fn was_asked(&self, first: Height, last: Height) -> bool {
        self.earlier.iter().any(|(from, until)| *from == first && last <= *until)
    }

    fn remember(&mut self, question: (Height, Height)) {
        if self.earlier.len() >= EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.push_back(question);
    }

    fn serves(&self, height: Height) -> bool {
        self.base <= height && height <= self.reach()
    }
}

impl CatchUp {
    /// A site is this far, as it says.
    pub fn learn(&mut self, site: SiteId, height: Height, now: Time) {
        let peer = self.peers.entry(site).or_default();
        (peer.claim, peer.said) = (height.max(peer.claim), true);
        self.reach = height.max(self.reach);
        self.since.get_or_insert(now);
    }

    /// A site may be this far, as others' words imply.
    pub fn suspect(&mut self, site: SiteId, height: Height, now: Time) {
        let peer = self.peers.entry(site).or_default();
        peer.hint = height.max(peer.hint);
        self.reach = height.max(self.reach);
        self.since.get_or_insert(now);
    }

    /// A site keeps nothing below this height. True if that contradicts nothing.
    pub fn pruned(&mut self, site: &SiteId, base: Height) -> bool {
        let asked = self.take_asked(site);
        if let Some(peer) = self.peers.get_mut(site) {
            peer.base = base;
        }
        self.prunes = true;
        asked.is_none_or(|(from, _)| from < base)
    }

    /// A site is gone. What it did wrong is remembered: it may come back at once.
    pub fn forget(&mut self, site: &SiteId) {
        self.take_asked(site);
        if let Some(peer) = self.peers.get_mut(site) {
            let reached = peer.reach();
            (peer.claim, peer.hint, peer.base, peer.said) = Default::default();
            if peer.offences == 0 {
                *peer = Peer { earlier: std::mem::take(&mut peer.earlier), ..Peer::default() };
            }
            self.fell_from(reached);
        }
    }

    /// A site served rubbish: nothing of it is used, and it is not asked for a while.
    pub fn blame(&mut self, site: &SiteId, now: Time) {
        self.batches.retain(|_, batch| batch.site() != *site);
        let peer = self.peers.entry(*site).or_default();
        let reached = peer.reach();
        (peer.claim, peer.hint, peer.said) = Default::default();
        peer.resting = now.after(doubled(SHUN, peer.offences));
        peer.offences = peer.offences.saturating_add(1);
        self.fell_from(reached);
    }

    /// How far others are, at most.
    pub const fn reach(&self) -> Height {
        self.reach
    }

    /// Whether a site has said how far it is, and is no further.
    pub fn is_no_further(&self, site: &SiteId, own: Height) -> bool {
        self.peers.get(site).is_some_and(|peer| peer.said && peer.reach() <= own)
    }

    /// Some site is not as far as was believed.
    fn fell_from(&mut self, reached: Height) {
        if reached >= self.reach {
            self.reach = self.peers.values().map(Peer::reach).max().unwrap_or_default();
        }
    }

    /// Those who are further and may be asked, best first.
    pub fn further(&self, own: Height, now: Time) -> Vec<SiteId> {
        let mut further: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.reach() > own && peer.resting <= now).collect();
        further.sort_by_key(|(_, peer)| (peer.offences, peer.turn));
        further.into_iter().map(|(site, _)| *site).collect()
    }

    /// Whether more is missing than is fetched block by block.
    pub fn is_far_behind(&self, own: Height) -> bool {
        self.reach().0.saturating_sub(own.0) > SNAPSHOT_GAP
    }

    /// Whether others are further and none of them keeps the next block.
    pub fn is_cut_off(&self, own: Height) -> bool {
        if self.reach <= own || !self.prunes {
            return false;
        }
        let mut further = self.peers.values().filter(|peer| peer.reach() > own).peekable();
        further.peek().is_some() && further.all(|peer| peer.base > own.next())
    }

    /// When to ask next; none if nobody is known to be further.
    pub fn next_at(&mut self, own: Height, now: Time) -> Option<Time> {
        if self.reach() <= own {
            self.batches.clear();
            self.since = None;
            return None;
        }
        let answers = self.batches.values().filter_map(|batch| match batch {
            Batch::Asked { until, .. } => Some(*until),
            Batch::Here { .. } => None,
        });
        let awaited = answers.min();
        let gap = self.gap(own);
        let free = gap.filter(|(from, _)| self.able(*from, now).next().is_some());
        let ask = match (gap, free) {
            (Some(_), Some(_)) => Some(self.since.get_or_insert(now).after(PATIENCE)),
            // Those who could be asked are left alone until then.
            (Some((from, _)), None) => {
                let resting = self.peers.values().filter(|peer| peer.serves(from) && peer.resting > now);
                resting.map(|peer| peer.resting).min()
            }
            (None, _) => None,
        };
        [awaited, ask].into_iter().flatten().min()
    }

    /// Whom to ask now for what.
    pub fn ask(&mut self, own: Height, now: Time) -> Vec<Ask> {
        self.lapse(now);
        let mut asks = Vec::new();
        while let Some((from, last)) = self.gap(own) {
            let Some(site) = self.whom(from, now) else { break };
            self.asked += 1;
            let Some(peer) = self.peers.get_mut(&site) else { break };
            peer.turn = self.asked;
            let last = last.min(peer.reach());
            peer.remember((from, last));
            self.batches.insert(from, Batch::Asked { site, last, until: now.after(ANSWER) });
            let most = u16::try_from(last.0 - from.0 + 1).unwrap_or(u16::MAX);
            asks.push(Ask { site, from, most });
        }
        self.since = None;
        asks
    }

    /// Blocks came from a site.
    pub fn answered(&mut self, site: &SiteId, blocks: Vec<Committed>) -> Answer {
        let ends = blocks.first().map(height_of).zip(blocks.last().map(height_of));
        let Some((from, last)) = self.asked_of(site) else { return Answer::Unasked(blocks) };
        if ends.is_some_and(|(first, until)| first != from || until > last) {
            // A new block that crossed our question, or the answer to an earlier one, unless it pretends to be this one's.
            let late =
                ends.zip(self.peers.get(site)).is_some_and(|((first, until), peer)| peer.was_asked(first, until));
            return if late || blocks.len() == 1 { Answer::Unasked(blocks) } else { self.other_blocks(site) };
        }
        let Some(peer) = self.peers.get_mut(site) else { return Answer::Unasked(blocks) };
        if blocks.is_empty() {
            self.batches.remove(&from);
            let (reached, claim) = (peer.reach(), peer.claim);
            // Whether it has said so or not: there is nothing to be had there.
            (peer.claim, peer.hint) = (Height(from.0.saturating_sub(1)).min(claim), Height(0));
            self.fell_from(reached);
            return if claim >= from { Answer::Contrary { claim } } else { Answer::Nothing };
        }
        let in_order = blocks.iter().zip(from.0..=last.0).all(|(block, height)| height_of(block).0 == height);
        if !in_order {
            return self.other_blocks(site);
        }
        peer.silences = 0;
        self.batches.insert(from, Batch::Here { site: *site, blocks });
        Answer::Taken
    }

    /// The blocks that come next, if they are here, and who sent them.
    pub fn ready(&mut self, own: Height) -> Option<(SiteId, Vec<Committed>)> {
        // What came in another way is not waited for.
        while self.batches.first_key_value().is_some_and(|(_, batch)| batch.last() <= own) {
            self.batches.pop_first();
        }
        let (from, batch) = self.batches.first_key_value()?;
        if *from > own.next() || !matches!(batch, Batch::Here { .. }) {
            return None;
        }
        match self.batches.pop_first()? {
            (_, Batch::Here { site, blocks }) => Some((site, blocks)),
            (_, Batch::Asked { .. }) => None,
        }
    }

    /// The first blocks that nobody was asked for, as far as they are for one batch.
    fn gap(&self, own: Height) -> Option<(Height, Height)> {
        if self.batches.len() >= MAX_BATCHES {
            return None;
        }
        let mut from = own.next();
        for (first, batch) in &self.batches {
            if *first > from {
                break;
            }
            from = from.max(batch.last().next());
        }
        let reach = self.reach();
        let taken = self.batches.range(from..).next().map_or(reach, |(first, _)| Height(first.0 - 1));
        let last = Height(from.0.saturating_add(MAX_BLOCKS as u64 - 1)).min(reach).min(taken);
        (from <= last).then_some((from, last))
    }

    /// Who has a block and is free.
    fn able(&self, height: Height, now: Time) -> impl Iterator<Item = (&SiteId, &Peer)> {
        let is_free = |site: &SiteId| self.asked_of(site).is_none();
        self.peers.iter().filter(move |(site, peer)| peer.serves(height) && peer.resting <= now && is_free(site))
    }

    /// Who has a block and is free: the best of them, in turn.
    fn whom(&self, height: Height, now: Time) -> Option<SiteId> {
        self.able(height, now).min_by_key(|(_, peer)| (peer.offences, peer.silences, peer.turn)).map(|(site, _)| *site)
    }

    /// Who did not answer in time is left alone for a while.
    fn lapse(&mut self, now: Time) {
        let is_over = |batch: &Batch| matches!(batch, Batch::Asked { until, .. } if *until <= now);
        for batch in self.batches.values().filter(|batch| is_over(batch)) {
            if let Some(peer) = self.peers.get_mut(&batch.site()) {
                peer.resting = now.after(doubled(QUIET, peer.silences));
                peer.silences = peer.silences.saturating_add(1);
            }
        }
        self.batches.retain(|_, batch| !is_over(batch));
    }

    fn other_blocks(&mut self, site: &SiteId) -> Answer {
        self.take_asked(site);
        Answer::Others
    }

    /// What a site is being asked for: the first and last height.
    fn asked_of(&self, site: &SiteId) -> Option<(Height, Height)> {
        self.batches.iter().find_map(|(from, batch)| match batch {
            Batch::Asked { site: asked, last, .. } if asked == site => Some((*from, *last)),
            _ => None,
        })
    }

    fn take_asked(&mut self, site: &SiteId) -> Option<(Height, Height)> {
        let asked = self.asked_of(site)?;
        self.batches.remove(&asked.0);
        Some(asked)
    }
}

impl Batch {
    fn site(&self) -> SiteId {
        match self {
            Self::Asked { site, .. } | Self::Here { site, .. } => *site,
        }
    }

    fn last(&self) -> Height {
        match self {
            Self::Asked { last, .. } => *last,
            Self::Here { blocks, .. } => blocks.last().map(height_of).unwrap_or_default(),
        }
    }
}

fn height_of(committed: &Committed) -> Height {
    committed.block.header.height
}

fn doubled(span: Millis, times: u32) -> Millis {
    Millis(span.0 << times.min(MAX_DOUBLINGS))
}

#[cfg(test)]
mod tests;
