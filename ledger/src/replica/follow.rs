//! Following: committed blocks from and to other sites.

use godwit_protocol::SiteId;
use godwit_protocol::bounded::List;

use super::context::Committee;
use super::message::MAX_BLOCKS;
use super::{Effect, LedgerMessage, Offence, Replica};
use crate::block::{Committed, Height};
use crate::rules::Applied;

impl Replica {
    pub(super) fn on_connected(&mut self, site: SiteId) {
        self.connected.insert(site);
        let message = self.status();
        self.host.outbox.say(Effect::Send { to: site, message });
        if self.committee.contains(&site) {
            if let Some(message) = self.own_records() {
                self.host.outbox.say(Effect::Send { to: site, message });
            }
            self.repeat_votes();
        }
    }

    pub(super) fn on_disconnected(&mut self, site: SiteId) {
        self.connected.remove(&site);
        self.ahead.remove(&site);
        self.catch_up.forget(&site);
    }

    /// How far this replica is.
    pub(super) fn status(&self) -> LedgerMessage {
        LedgerMessage::Status { height: self.state.height(), tip: self.state.tip() }
    }

    pub(super) fn on_status(&mut self, from: SiteId, height: Height) {
        self.catch_up.learn(from, height, self.host.now);
    }

    pub(super) fn on_fetch(&mut self, from: SiteId, first: Height, most: u16) {
        let most = most.min(u16::try_from(MAX_BLOCKS).unwrap_or(u16::MAX));
        self.host.outbox.say(Effect::ServeBlocks { to: from, from: first, most });
    }

    /// Asks for what is missing.
    pub(super) fn ask(&mut self) {
        let most = u16::try_from(MAX_BLOCKS).unwrap_or(u16::MAX);
        if let Some(site) = self.catch_up.ask(self.state.height(), self.host.now) {
            let message = LedgerMessage::Fetch { from: self.next(), most };
            self.host.outbox.say(Effect::Send { to: site, message });
        }
    }

    /// Blocks with their certificates: each is verified against the state before it, whoever sends it.
    pub(super) fn on_blocks(&mut self, from: SiteId, blocks: Vec<Committed>) {
        let before = self.state.height();
        for committed in blocks {
            let height = committed.block.header.height;
            if height > self.next() {
                self.catch_up.learn(from, height, self.host.now);
                break;
            }
            if height < self.next() {
                continue;
            }
            match self.verify_committed(&committed) {
                Ok(applied) => self.advance(committed, applied),
                Err(what) => {
                    self.misbehaved(from, what);
                    self.catch_up.forget(&from);
                    return;
                }
            }
        }
        if self.catch_up.answered(&from, self.state.height() > before) {
            self.ask();
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

    /// Tells followers of a new block. One validator sends each of them the block, another one each time; the others say
    /// how far they are, so that a follower can fetch what one did not send.
    pub(super) fn announce(&mut self, committed: Committed, decided_by: &Committee) {
        let Some(seat) = decided_by.seat(&self.host.me) else { return };
        let height = usize::try_from(committed.block.header.height.0 % decided_by.len() as u64).unwrap_or(0);
        // Who has become a validator by this very block did not take part in deciding it.
        let followers = self.connected.iter().filter(|site| !decided_by.contains(site)).enumerate();
        let mine = |place: usize| (place + height) % decided_by.len() == seat;
        let (served, told): (Vec<_>, Vec<_>) = followers.partition(|(place, _)| mine(*place));
        let sites = |list: Vec<(usize, &SiteId)>| -> Vec<SiteId> { list.into_iter().map(|(_, site)| *site).collect() };
        let (served, told) = (sites(served), sites(told));
        if !served.is_empty() {
            let message = LedgerMessage::Blocks(List::first([committed]));
            self.host.outbox.say(Effect::Announce { to: served, message });
        }
        if !told.is_empty() {
            let message = self.status();
            self.host.outbox.say(Effect::Announce { to: told, message });
        }
    }
}
