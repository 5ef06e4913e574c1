//! Following: who is how far, and what others are told and served.

use godwit_protocol::SiteId;
use godwit_protocol::bounded::List;

use super::message::MAX_BLOCKS;
use super::{Commit, Effect, LedgerMessage, Replica};
use crate::block::Height;
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

    /// What followers are told of a new block, before it is committed here. One validator sends each of them the block, another
    /// one each time; as many others as may be faulty say how far they are, so that a follower can fetch what one did not send,
    /// and a thousand followers are not told everything by everybody.
    pub(super) fn announcement(&self, commit: &Commit) -> Vec<Effect> {
        let Commit { committed, state, .. } = commit;
        let decided_by = &self.committee;
        let Some(seat) = decided_by.seat(&self.host.me) else { return Vec::new() };
        let (n, height) = (decided_by.len(), committed.block.header.height);
        let place = |follower: &SiteId| place(follower, height, seat, n);
        // Who has become a validator by this very block did not take part in deciding it.
        let followers = self.connected.iter().filter(|site| !decided_by.contains(site)).copied();
        let (served, others): (Vec<_>, Vec<_>) = followers.partition(|site| place(site) == 0);
        let told: Vec<_> = others.into_iter().filter(|site| place(site) <= tolerated(n)).collect();
        let mut news = Vec::new();
        if !served.is_empty() {
            let message = LedgerMessage::Blocks(List::first([committed.clone()]));
            news.push(Effect::Announce { to: served, message });
        }
        if !told.is_empty() {
            let message = LedgerMessage::Status { height: state.height(), tip: state.tip() };
            news.push(Effect::Announce { to: told, message });
        }
        news
    }
}

/// How many validators come before one, counted from the one that sends a block to a follower: each knows it by the
/// follower's id, whichever of the followers it is connected to.
fn place(follower: &SiteId, height: Height, seat: usize, validators: usize) -> usize {
    let spread = u64::from(u16::from_be_bytes([follower.0[0], follower.0[1]]));
    let first = spread.wrapping_add(height.0) % validators as u64;
    (seat + validators - usize::try_from(first).unwrap_or(0)) % validators
}

/// How many of so many validators may be faulty.
const fn tolerated(validators: usize) -> usize {
    validators.saturating_sub(1) / 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn of_any_block_every_follower_gets_one_copy_and_hears_from_an_honest_validator(
            id: [u8; 32], height in 0_u64..1_000, validators in 1_usize..32,
        ) {
            let places = |height| -> Vec<usize> {
                (0..validators).map(|seat| place(&SiteId(id), Height(height), seat, validators)).collect()
            };
            let told = places(height).into_iter().filter(|place| *place <= tolerated(validators)).count();
            prop_assert_eq!(places(height).into_iter().filter(|place| *place == 0).count(), 1);
            prop_assert_eq!(told, tolerated(validators) + 1);
            prop_assert!(validators == 1 || places(height) != places(height + 1), "they take turns");
        }
    }
}
