//! Following: who is how far, and what others are told and served.

use godwit_protocol::SiteId;
use godwit_protocol::bounded::List;

use super::context::Committee;
use super::message::MAX_BLOCKS;
use super::{Effect, LedgerMessage, Replica};
use crate::block::{Committed, Height};
use crate::sync::serve::Wanted;

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
        self.download.forget(&site);
        self.serving.forget(&site, self.host.now);
    }

    /// How far this replica is.
    pub(super) fn status(&self) -> LedgerMessage {
        LedgerMessage::Status { height: self.state.height(), tip: self.state.tip() }
    }

    pub(super) fn on_status(&mut self, from: SiteId, height: Height) {
        self.catch_up.learn(from, height, self.host.now);
        // What it was told when it was connected may be lost: after a restart of its process the streams to the life before
        // swallow words for a while. Its own words come by new ones, and where nothing is decided nobody says more.
        if height < self.state.height() {
            let message = self.status();
            self.host.outbox.say(Effect::Send { to: from, message });
        }
    }

    pub(super) fn on_reach(&mut self, site: SiteId, height: Height) {
        if height > self.state.height() && self.connected.contains(&site) {
            self.catch_up.suspect(site, height, self.host.now);
        }
    }

    pub(super) fn on_fetch(&mut self, from: SiteId, first: Height, most: u16) {
        let most = most.min(u16::try_from(MAX_BLOCKS).unwrap_or(u16::MAX));
        self.on_wanted(from, Wanted::Blocks { from: first, most });
    }

    /// Somebody asks for something: it waits for its turn, which may be now.
    pub(super) fn on_wanted(&mut self, from: SiteId, wanted: Wanted) {
        self.serving.want(from, wanted, self.host.now);
        self.serve();
    }

    /// Serves whoever's turn it is.
    pub(super) fn serve(&mut self) {
        while let Some((to, wanted)) = self.serving.due(self.host.now) {
            self.host.outbox.say(match wanted {
                Wanted::Blocks { from, most } => Effect::ServeBlocks { to, from, most },
                Wanted::Snapshot { trusted } => Effect::ServeSnapshot { to, trusted },
                Wanted::Chunk { height, index } => Effect::ServeChunk { to, height, index },
            });
        }
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
