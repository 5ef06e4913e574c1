//! What a site knows: the ledger's containers and offers, its peers' gossip, its own load.

use alloc::vec;
use alloc::vec::Vec;

use super::{Gossip, Load, Site};
use crate::bid::Reason;
use crate::capacity::{Capacity, Share};
use crate::effect::Effect;
use crate::event::Event;
use crate::evidence::Sentence;
use crate::handoff::{Open, Stage};
use crate::id::{ContainerId, OfferId, SiteId};
use crate::membership::{Change, Role};
use crate::policy::fits;
use crate::register::Register;
use crate::signed::Verified;
use crate::units::{Epoch, Time};
use crate::vote::Height;

/// A container, as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it is.
    pub register: Register,
    /// Whose it is.
    pub owner: SiteId,
    /// At which epoch.
    pub epoch: Epoch,
    /// The offer that is open for it.
    pub open: Option<OfferId>,
    /// Since when its owner has it, by this site's clock.
    pub since: Time,
    /// When this site said an offer of it that is not yet committed.
    pub asked: Option<Time>,
    /// When this site last offered it in vain.
    pub tried: Option<Time>,
}

/// A peer's last gossip.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) capacity: Capacity,
    /// By this site's clock: a peer's own clock must not make it look fresh.
    pub(super) seen: Time,
}

impl Site {
    /// A peer's gossip, unless it is no member's or older than what is known.
    pub(super) fn learn(&mut self, now: Time, capacity: &Verified<Capacity>) {
        let (site, body) = (capacity.author, &capacity.body);
        let newer = self.peers.get(&site).is_none_or(|peer| body.sequence > peer.capacity.sequence);
        if newer && site != self.config.me && self.members.contains_key(&site) {
            self.peers.insert(site, Peer { capacity: body.clone(), seen: now });
        }
    }

    /// What this site has, without what it has reserved for one offer.
    pub(super) fn capacity_without(&self, now: Time, offer: Option<&OfferId>) -> Option<Capacity> {
        let load = self.load.as_ref()?;
        let mut capacity = Capacity {
            sequence: self.gossip.sequence,
            at: now,
            address: self.config.address,
            network: self.config.network.clone(),
            cpu: load.cpu,
            memory: load.memory,
            gpu: load.gpu,
            platform: self.config.platform.clone(),
            accepting: !self.draining && !load.engine_absent,
            height: Height(0),
        };
        let reserving = self.targets.iter().filter(|(id, target)| Some(*id) != offer && target.is_reserving());
        let open = |id| self.offers.get(id).or_else(|| self.early.get(id).map(|early| &early.open));
        for body in reserving.filter_map(|(id, _)| open(id)).map(|open| &open.body) {
            capacity.cpu.reserved = capacity.cpu.reserved.plus(body.cpu);
            capacity.memory.reserved = capacity.memory.reserved.plus(body.memory);
            capacity.gpu.reserved = capacity.gpu.reserved.saturating_add(body.gpu);
        }
        Some(capacity)
    }

    /// Whether this site can take what is offered.
    pub(super) fn judge(&self, now: Time, open: &Open) -> Result<(), Reason> {
        // Before the first measurement it cannot vouch for itself.
        let capacity = self.capacity_without(now, Some(&open.id)).ok_or(Reason::Memory)?;
        fits(&open.body, &capacity, &self.config.limits)
    }

    /// Capacity goes out at intervals and when it changed by enough to matter to a bidder.
    pub(super) fn gossip(&mut self, now: Time) -> Vec<Effect> {
        let Some(capacity) = self.capacity(now) else { return vec![] };
        let due = match &self.gossip.last {
            None => true,
            Some((at, last)) => now.since(*at) >= self.config.gossip || differs(last, &capacity),
        };
        if !due {
            return vec![];
        }
        let capacity = Capacity { sequence: self.gossip.sequence + 1, ..capacity };
        self.gossip = Gossip { sequence: capacity.sequence, last: Some((now, capacity.clone())) };
        vec![Effect::Gossip(capacity)]
    }

    pub(super) fn set_load(&mut self, load: Load) {
        self.load = Some(load);
    }

    /// Follows the ledger.
    pub(super) fn note(&mut self, now: Time, event: &Event) {
        match event {
            Event::Registered { owner, register } => {
                let known = Known {
                    register: register.clone(),
                    owner: *owner,
                    epoch: Epoch(1),
                    open: None,
                    since: now,
                    asked: None,
                    tried: None,
                };
                self.containers.insert(register.container, known);
            }
            Event::Retired { container, .. } => {
                self.containers.remove(container);
            }
            Event::Opened { offer, source, body, .. } => {
                let open = Open {
                    id: *offer,
                    source: *source,
                    body: body.clone(),
                    award: None,
                    bidders: vec![],
                    attempt: 0,
                    stage: Stage::Bidding,
                };
                self.offers.insert(*offer, open);
                self.known(body.container, |known| (known.open, known.asked) = (Some(*offer), None));
            }
            Event::BidPlaced { bidder, bid } => self.open(bid.offer, |open| open.bidders.push(*bidder)),
            Event::Awarded { offer, award } => self.open(*offer, |open| {
                (open.award, open.attempt, open.stage) = (Some(award.clone()), 1, Stage::Awarded);
            }),
            Event::Passed { offer, attempt, .. } => self.open(*offer, |open| {
                (open.attempt, open.stage) = (*attempt, Stage::Awarded);
            }),
            Event::Readied { offer, .. } => self.open(*offer, |open| open.stage = Stage::Ready),
            Event::Received { offer, container, owner, epoch, .. } => {
                self.open(*offer, |open| open.stage = Stage::Received);
                self.known(*container, |known| (known.owner, known.epoch, known.since) = (*owner, *epoch, now));
            }
            Event::Returned { container, owner, epoch, .. } => self.known(*container, |known| {
                (known.owner, known.epoch, known.open, known.tried) = (*owner, *epoch, None, Some(now));
            }),
            Event::Closed { offer, .. } => self.release(*offer, None),
            Event::Ended { offer, .. } => self.release(*offer, Some(now)),
            Event::MembershipChanged { change: Change::Put(member) } => {
                self.members.insert(member.site, member.role);
            }
            Event::MembershipChanged { change: Change::Remove(site) } => {
                self.members.remove(site);
                self.peers.remove(site);
            }
            Event::MembershipChanged { change: Change::Rotate(rotation) } => {
                self.rotated(&rotation.body.old, rotation.author);
            }
            // It neither offers nor takes anything, until it is put back.
            Event::Punished { site, sentence: Sentence::Suspended, .. } => {
                if let Some(role) = self.members.get_mut(site) {
                    *role = Role::Observer;
                }
            }
            // That it leaves is told by itself.
            Event::Punished { sentence: Sentence::Removed, .. } | Event::Declined { .. } => {}
        }
    }

    /// A member goes on under another key, with its containers. If it is this site, its host starts it anew with that key.
    fn rotated(&mut self, old: &SiteId, new: SiteId) {
        if let Some(role) = self.members.remove(old) {
            self.members.insert(new, role);
        }
        self.peers.remove(old);
        for known in self.containers.values_mut().filter(|known| known.owner == *old) {
            (known.owner, known.epoch) = (new, known.epoch.next());
        }
    }

    fn release(&mut self, offer: OfferId, tried: Option<Time>) {
        let Some(container) = self.offers.get(&offer).map(|open| open.body.container) else { return };
        self.known(container, |known| (known.open, known.tried) = (None, tried));
    }

    pub(super) fn known(&mut self, container: ContainerId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.containers.get_mut(&container) {
            change(known);
        }
    }

    fn open(&mut self, offer: OfferId, change: impl FnOnce(&mut Open)) {
        if let Some(open) = self.offers.get_mut(&offer) {
            change(open);
        }
    }
}

/// Whether a bidder would judge differently: promises or willingness changed, or use by more than 5 % of all.
fn differs(old: &Capacity, new: &Capacity) -> bool {
    const STEP: u16 = 50;
    fn far(old: u16, new: u16) -> bool {
        old.abs_diff(new) > STEP
    }
    fn promises<T: PartialEq>(old: &Share<T>, new: &Share<T>) -> bool {
        old.reserved != new.reserved || old.total != new.total
    }
    old.accepting != new.accepting
        || promises(&old.cpu, &new.cpu)
        || promises(&old.memory, &new.memory)
        || old.gpu != new.gpu
        || far(old.cpu.load_with(Default::default()).0, new.cpu.load_with(Default::default()).0)
        || far(old.memory.load_with(Default::default()).0, new.memory.load_with(Default::default()).0)
}
