//! Fetching what others have: blocks from several sites at once, or a state and the blocks after it.

use godwit_protocol::{SiteId, Time};

use super::{Adopted, Effect, LedgerMessage, Offence, Replica};
use crate::block::{Committed, Height};
use crate::rules::{self, Applied};
use crate::state::State;
use crate::sync::Answer;
use crate::sync::snapshot::{Arrived, Offer, Offered, Whole};
use crate::sync::verify::{self, Checked};

impl Replica {
    /// When to ask next for what is missing.
    pub(super) fn next_ask(&mut self) -> Option<Time> {
        let (own, now) = (self.state.height(), self.host.now);
        if self.download.is_under_way() {
            return self.download.next_at();
        }
        if self.catch_up.is_cut_off(own) && !self.archives {
            return Some(self.download.again_at(now));
        }
        self.catch_up.next_at(own, now)
    }

    /// Asks for what is missing.
    pub(super) fn ask(&mut self) {
        let (own, now) = (self.state.height(), self.host.now);
        // An archive has to have every block; the others are back sooner with a state.
        if !self.archives && (self.catch_up.is_far_behind(own) || self.catch_up.is_cut_off(own)) {
            let further = self.catch_up.further(own, now);
            for to in self.download.search(&further, now) {
                self.send(to, LedgerMessage::SnapshotWanted { trusted: own });
            }
        }
        for (to, height, index) in self.download.ask(now) {
            self.send(to, LedgerMessage::ChunkWanted { height, index });
        }
        if self.download.is_under_way() {
            return;
        }
        for ask in self.catch_up.ask(own, now) {
            self.send(ask.site, LedgerMessage::Fetch { from: ask.from, most: ask.most });
        }
    }

    /// Blocks with their certificates: each is verified against the state before it, whoever sends it.
    pub(super) fn on_blocks(&mut self, from: SiteId, blocks: Vec<Committed>) {
        match self.catch_up.answered(&from, blocks) {
            Answer::Unasked(blocks) => return self.on_unasked(from, blocks),
            Answer::Taken | Answer::Nothing => {}
            Answer::Contrary { claim } => self.distrust(from, Offence::NoBlocks { claim }),
            Answer::Others => self.distrust(from, Offence::OtherBlocks),
        }
        self.follow_ready();
        self.ask();
    }

    /// Goes on by the batches that are here and come next; true if it came further. Those before them may have come in another
    /// way, even while these came.
    pub(super) fn follow_ready(&mut self) -> bool {
        let before = self.state.height();
        while let Some((site, blocks)) = self.catch_up.ready(self.state.height()) {
            if let Err(what) = self.apply_in_order(blocks) {
                self.distrust(site, what);
            }
        }
        let further = self.state.height() > before;
        if further {
            self.host.outbox.say(Effect::StoreSync);
            self.resume_words();
            self.report_back();
        }
        further
    }

    /// What was decided meanwhile was said while this site could make nothing of it: who is further says so again.
    fn report_back(&mut self) {
        if self.has_seat() && self.catch_up.reach() <= self.state.height() {
            let status = self.status();
            self.host.outbox.say(Effect::Broadcast(status));
        }
    }

    /// Follows a batch as far as it is good.
    fn apply_in_order(&mut self, mut blocks: Vec<Committed>) -> Result<(), Offence> {
        blocks.retain(|committed| committed.block.header.height > self.state.height());
        let deciders = self.state.validators().to_vec();
        for checked in verify::check(&self.state.mesh(), blocks, &deciders) {
            let Checked { committed, records, certificate } = checked;
            let header = &committed.block.header;
            let height = header.height;
            let bad = |source| Offence::BadCommitted { height, source };
            let applied = rules::validate(&self.state, &committed.block, &records.map_err(bad)?).map_err(bad)?;
            let certified = match self.state.validators() {
                same if same == deciders => certificate,
                changed => committed.certificate.check(header, changed),
            };
            certified.map_err(|source| Offence::BadCertificate { height, source })?;
            self.pass(committed, applied);
        }
        Ok(())
    }

    /// A block that was just decided, as validators send it to those who follow.
    fn on_unasked(&mut self, from: SiteId, blocks: Vec<Committed>) {
        for committed in blocks {
            let height = committed.block.header.height;
            if height > self.next() {
                self.catch_up.learn(from, height, self.host.now);
                return;
            }
            if height < self.next() {
                continue;
            }
            match self.verify_committed(&committed) {
                Ok(applied) => self.advance(committed, applied),
                Err(what) => return self.distrust(from, what),
            }
        }
    }

    fn verify_committed(&self, committed: &Committed) -> Result<Applied, Offence> {
        let header = &committed.block.header;
        let height = header.height;
        // The rules come first: they bind the header to this mesh and to its parent.
        let applied = self.apply(&committed.block).map_err(|source| Offence::BadCommitted { height, source })?;
        let validators = self.state.validators();
        committed.certificate.check(header, validators).map_err(|source| Offence::BadCertificate { height, source })?;
        Ok(applied)
    }

    /// A site does not keep what it was asked for.
    pub(super) fn on_pruned(&mut self, from: SiteId, base: Height) {
        if self.catch_up.pruned(&from, base) {
            if self.archives && self.catch_up.is_cut_off(self.state.height()) {
                tracing::warn!(
                    next = %self.next(), site = %from.short(), %base,
                    "no connected site keeps the next block; this site is to keep all (`retain`) and waits for one that has it"
                );
            }
        } else {
            self.distrust(from, Offence::OtherBlocks);
        }
        self.ask();
    }

    /// A site answers what snapshot it has.
    pub(super) fn on_snapshot(&mut self, from: SiteId, offer: Option<Box<Offer>>) {
        match self.download.offered(from, offer.map(|offer| *offer), &self.state, self.host.now) {
            Ok(Offered::Begun(offer)) => {
                tracing::info!(height = %offer.header.height, chunks = offer.chunks.len(), "a snapshot is fetched");
                self.host.outbox.say(Effect::KeepOffer(offer));
                let known: Vec<_> = self.download.known().map(|(index, bytes)| (index, bytes.clone())).collect();
                for (index, bytes) in known {
                    self.host.outbox.say(Effect::KeepChunk { index, bytes });
                }
            }
            Ok(Offered::Joined | Offered::Ignored) => {}
            Err(bad) => self.distrust(from, Offence::BadOffer(bad)),
        }
        self.adopt();
        self.ask();
    }

    /// A chunk of the snapshot that is being fetched.
    pub(super) fn on_chunk(&mut self, from: SiteId, height: Height, index: u32, bytes: Vec<u8>) {
        match self.download.arrived(&from, height, index, bytes) {
            Arrived::Here(bytes) => self.host.outbox.say(Effect::KeepChunk { index, bytes }),
            Arrived::Gone => {}
            Arrived::Unasked => return,
            Arrived::Rubbish => self.distrust(from, Offence::BadChunk),
        }
        self.adopt();
        self.ask();
    }

    /// Goes on from the state that was fetched, once all of it is here.
    fn adopt(&mut self) {
        let Some(Whole { offer, chunks, sources }) = self.download.whole() else { return };
        if offer.header.height <= self.state.height() {
            return self.host.outbox.say(Effect::DropDownload);
        }
        let state = State::from_chunks(self.state.founding(), &chunks);
        match state.ok().filter(|state| state.header() == Some(&offer.header)) {
            Some(state) => {
                self.take_over(Effect::Adopt(Box::new(Adopted { offer, chunks, state: state.clone() })), state);
                self.revalidate();
                self.resume_words();
                self.report_back();
            }
            None => {
                self.host.outbox.say(Effect::DropDownload);
                for site in sources {
                    self.distrust(site, Offence::BadSnapshot);
                }
            }
        }
    }

    /// A site serves rubbish: it is not asked for a while.
    fn distrust(&mut self, site: SiteId, what: Offence) {
        self.misbehaved(site, what);
        self.catch_up.blame(&site, self.host.now);
        self.download.forget(&site);
    }

    fn send(&mut self, to: SiteId, message: LedgerMessage) {
        self.host.outbox.say(Effect::Send { to, message });
    }
}
