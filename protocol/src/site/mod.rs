//! One site's brain: what it knows, what it wants, and its part in every open handoff.
//!
//! Invariant: driven only through [`Site::step`]; the node and the simulator are two callers of the same code.
//! Invariant: it decides and never performs; what is to be done goes out as [`Effect`]s, in order.

mod early;
mod knowledge;
mod market;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use early::Early;
pub use knowledge::Known;
use knowledge::Peer;

use crate::bounded::Text;
use crate::capacity::{Capacity, Platform, Share};
use crate::effect::Effect;
use crate::event::Event;
use crate::handoff::{self, Action, Open, Outcome, Patience, Promise, Source, Target};
use crate::id::{ClientId, ContainerId, OfferId, SiteId};
use crate::membership::Role;
use crate::message::Message;
use crate::offer::Offer;
use crate::policy::Limits;
use crate::policy::overload::Gauge;
use crate::report::Report;
use crate::signed::Verified;
use crate::units::{Address, Bytes, Epoch, MilliCpu, Millis, Time};
use crate::yield_::Yield;

/// The brain of one site.
#[derive(Clone, Debug)]
pub struct Site {
    config: Config,
    members: BTreeMap<SiteId, Role>,
    containers: BTreeMap<ContainerId, Known>,
    offers: BTreeMap<OfferId, Open>,
    peers: BTreeMap<SiteId, Peer>,
    reports: BTreeMap<ClientId, Verified<Report>>,
    sources: BTreeMap<OfferId, Source>,
    targets: BTreeMap<OfferId, Target>,
    /// Offers that this site answered before they were committed.
    early: BTreeMap<OfferId, Early>,
    /// Offers that name others, and when this site bids unasked if too few have by then.
    unasked: BTreeMap<OfferId, Time>,
    load: Option<Load>,
    gauge: Gauge,
    draining: bool,
    gossip: Gossip,
    /// What the ledger says is known here.
    awake: bool,
}

/// What an operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This site.
    pub me: SiteId,
    /// Where other sites route traffic for this one's containers.
    pub address: Address,
    /// Sites with the same label are near each other.
    pub network: Text<64>,
    /// What this site can restore.
    pub platform: Platform,
    /// When containers leave and may come.
    pub limits: Limits,
    /// When silence ends an attempt.
    pub patience: Patience,
    /// How long bidding lasts at most.
    pub window: Millis,
    /// How often capacity is gossiped without a change.
    pub gossip: Millis,
    /// After which a peer's gossip says nothing any more.
    pub stale: Millis,
}

/// A measurement of this site and its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Processors.
    pub cpu: Share<MilliCpu>,
    /// Memory.
    pub memory: Share<Bytes>,
    /// GPUs.
    pub gpu: Share<u16>,
    /// The container engine does not answer: this site takes nothing.
    pub engine_absent: bool,
    /// What each container here uses.
    pub containers: BTreeMap<ContainerId, Use>,
}

/// What one container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Processors.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: Bytes,
    /// Its writable layer.
    pub layer: Bytes,
}

/// What happens to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed; wanted a few times a second.
    Tick,
    /// The monitor measured.
    Load(Load),
    /// A peer gossiped.
    Capacity(Verified<Capacity>),
    /// A client reported.
    Report(Verified<Report>),
    /// A committed block did this.
    Ledger {
        /// The block's time.
        time: Time,
        /// One of its events, in order.
        event: Event,
    },
    /// A record of ours was refused or expired.
    Refused(Message),
    /// A task ended.
    Outcome {
        /// Of which handoff.
        offer: OfferId,
        /// Which action.
        action: Action,
        /// How.
        outcome: Outcome,
    },
    /// A source yields to us.
    Yielded(Verified<Yield>),
    /// A target is still preparing.
    Preparing {
        /// Who says so.
        from: SiteId,
        /// In which handoff.
        offer: OfferId,
        /// In which attempt.
        attempt: u32,
    },
    /// An operator asks.
    Operator(Wish),
    /// Another site's offer was gossiped that the ledger would accept now and has not committed yet.
    Heard {
        /// Its id.
        offer: OfferId,
        /// Who offers.
        source: SiteId,
        /// What is offered.
        body: Offer,
        /// After which it cannot be committed any more.
        expires: Time,
    },
}

/// What an operator asks of a site. Nobody appoints the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Let this container go.
    Migrate {
        /// Which.
        container: ContainerId,
        /// A wish that weighs in the score.
        prefer: Option<SiteId>,
    },
    /// Let all go and take none; or stop doing so.
    Drain(bool),
}

/// What is remembered of the own gossip.
#[derive(Clone, Debug, Default)]
struct Gossip {
    sequence: u64,
    last: Option<(Time, Capacity)>,
}

impl Site {
    /// A site that knows nothing, and does nothing before [`Site::recover`]. `gossiped` is the sequence from which its gossip
    /// goes on: the start time in ms keeps it rising over restarts.
    #[must_use]
    pub fn new(config: Config, gossiped: u64) -> Self {
        Self {
            config,
            members: BTreeMap::new(),
            containers: BTreeMap::new(),
            offers: BTreeMap::new(),
            peers: BTreeMap::new(),
            reports: BTreeMap::new(),
            sources: BTreeMap::new(),
            targets: BTreeMap::new(),
            early: BTreeMap::new(),
            unasked: BTreeMap::new(),
            load: None,
            gauge: Gauge::default(),
            draining: false,
            gossip: Gossip { sequence: gossiped, last: None },
            awake: false,
        }
    }

    /// Goes on after a restart: from the ledger's members, containers and open offers, and from what this site promised.
    ///
    /// The ledger must be as new as the promises: an offer that it does not show has ended, and what was promised in it is
    /// undone. After its ledger was lost a site follows it again before this, without acting on what was long ago.
    pub fn recover(
        &mut self,
        now: Time,
        members: BTreeMap<SiteId, Role>,
        containers: BTreeMap<ContainerId, Known>,
        offers: Vec<Open>,
        promises: &[Promise],
    ) -> Vec<Effect> {
        (self.members, self.containers, self.awake) = (members, containers, true);
        let mut effects = vec![];
        for open in offers {
            let mut ours: Vec<Promise> =
                promises.iter().filter(|promise| promise.offer() == open.id).cloned().collect();
            let closed = matches!(ours.last(), Some(Promise::Closed { .. }));
            if closed {
                ours.clear();
            }
            if open.source == self.config.me && !closed {
                let (source, wanted) = Source::recover(now, &open, &ours, self.config.patience);
                self.sources.insert(open.id, source);
                effects.extend(wanted);
            } else if open.source != self.config.me && (open.bidders.contains(&self.config.me) || !ours.is_empty()) {
                // A bid that was promised may yet be committed; one that was given up may have been, nevertheless.
                let (target, wanted) = Target::recover(now, self.config.me, &open, &ours, self.config.patience);
                self.targets.insert(open.id, target);
                effects.extend(wanted);
            }
            self.offers.insert(open.id, open);
        }
        effects.extend(self.settle(now, promises));
        effects
    }

    /// Settles what was promised in offers that the ledger has ended meanwhile.
    fn settle(&mut self, now: Time, promises: &[Promise]) -> Vec<Effect> {
        let mut effects = vec![];
        let last = |offer| promises.iter().rev().find(|promise| promise.offer() == offer);
        let closed = |offer| matches!(last(offer), Some(Promise::Closed { .. }));
        let binds = |promise: &&Promise| !self.offers.contains_key(&promise.offer()) && !closed(promise.offer());
        let ended: Vec<Promise> = promises.iter().filter(binds).cloned().collect();
        for promise in &ended {
            match promise {
                Promise::Freeze { offer, container, .. } if !self.sources.contains_key(offer) => {
                    let (source, wanted) =
                        Source::settle(now, *offer, *container, self.owns(container), self.config.patience);
                    self.sources.insert(*offer, source);
                    effects.extend(wanted);
                }
                Promise::Bid { offer, container } if !self.owns(container) => {
                    let (target, wanted) =
                        Target::settle(now, self.config.me, *offer, *container, self.config.patience);
                    self.targets.insert(*offer, target);
                    effects.extend(wanted);
                }
                // It is here, and `Done` was said when it ran.
                Promise::Bid { offer, .. } => effects.push(Effect::Journal(Promise::Closed { offer: *offer })),
                _ => {}
            }
        }
        effects
    }

    fn owns(&self, container: &ContainerId) -> bool {
        self.containers.get(container).is_some_and(|known| known.owner == self.config.me)
    }

    /// What follows from an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        match input {
            Input::Load(load) if !self.awake => {
                self.set_load(load);
                vec![]
            }
            _ if !self.awake => vec![],
            Input::Tick => self.tick(now),
            Input::Load(load) => self.measured(now, load),
            Input::Capacity(capacity) => {
                self.learn(now, &capacity);
                vec![]
            }
            Input::Report(report) => self.reported(now, report),
            Input::Ledger { time, event } => self.committed(now, time, event),
            Input::Refused(message) => self.refused(now, &message),
            Input::Outcome { offer, action, outcome } => {
                self.handoff(now, offer, handoff::Input::Outcome(action, outcome))
            }
            Input::Yielded(yielded) => {
                self.handoff(now, yielded.body.offer, handoff::Input::Yielded(yielded.into_signed()))
            }
            Input::Preparing { from, offer, attempt } => {
                let winner = self.offers.get(&offer).and_then(|open| open.award.as_ref()?.winner(attempt));
                if winner == Some(from) { self.handoff(now, offer, handoff::Input::Preparing(attempt)) } else { vec![] }
            }
            Input::Operator(wish) => self.wished(now, wish),
            Input::Heard { offer, source, body, expires } => self.heard_offer(now, offer, source, body, expires),
        }
    }

    /// Whether it has recovered.
    #[must_use]
    pub const fn is_awake(&self) -> bool {
        self.awake
    }

    /// What this site has now; nothing before the first measurement.
    #[must_use]
    pub fn capacity(&self, now: Time) -> Option<Capacity> {
        self.capacity_without(now, None)
    }

    /// The members this site has fresh gossip of.
    pub fn heard(&self, now: Time) -> impl Iterator<Item = (&SiteId, &Capacity)> {
        let stale = self.config.stale;
        self.peers
            .iter()
            .filter(move |(_, peer)| now.since(peer.seen) <= stale)
            .map(|(site, peer)| (site, &peer.capacity))
    }

    /// Whether an operator has drained this site.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether this site could offer the container now: it is ours and not on its way.
    #[must_use]
    pub fn may_offer(&self, now: Time, container: &ContainerId) -> bool {
        self.containers.get(container).is_some_and(|known| self.is_free(now, known))
    }

    /// Whether a container of ours stands still in a handoff.
    #[must_use]
    pub fn is_frozen(&self, container: &ContainerId) -> bool {
        self.sources.values().any(|source| source.container() == *container && source.is_frozen())
    }

    fn tick(&mut self, now: Time) -> Vec<Effect> {
        let offers: Vec<OfferId> = self.sources.keys().chain(self.targets.keys()).copied().collect();
        let mut effects: Vec<Effect> =
            offers.into_iter().flat_map(|offer| self.handoff(now, offer, handoff::Input::Tick)).collect();
        effects.extend(self.lapse(now));
        effects.extend(self.help_out(now));
        effects.extend(self.empty(now));
        effects.extend(self.gossip(now));
        effects
    }

    /// One input to this site's side of a handoff; a site is never both sides of one.
    fn handoff(&mut self, now: Time, offer: OfferId, input: handoff::Input) -> Vec<Effect> {
        if let Some(source) = self.sources.get_mut(&offer) {
            let effects = source.step(now, input);
            if source.is_over() {
                self.sources.remove(&offer);
            }
            return effects;
        }
        let verdict = self.offers.get(&offer).map(|open| self.judge(now, open));
        let Some(target) = self.targets.get_mut(&offer) else { return vec![] };
        let mut effects = target.step(now, input, || verdict.unwrap_or(Ok(())));
        if target.is_over() {
            self.targets.remove(&offer);
            // What an earlier life left is gone; the bid of that life was committed meanwhile.
            if self.has_bid(&offer) {
                effects.extend(self.stand_by(now, &offer));
            }
        }
        effects
    }

    fn committed(&mut self, now: Time, time: Time, event: Event) -> Vec<Effect> {
        self.note(now, &event);
        let mut effects = match &event {
            Event::Opened { offer, source, body, .. } if *source == self.config.me => {
                let source = Source::open(now, *offer, body.container, body.epoch, self.config.patience);
                self.sources.insert(*offer, source);
                vec![]
            }
            Event::Opened { offer, .. } => self.answer(now, offer),
            Event::BidPlaced { bidder, bid } if *bidder == self.config.me => self.stand_by(now, &bid.offer),
            _ => vec![],
        };
        if let Some(offer) = event.offer() {
            if matches!(event, Event::Closed { .. } | Event::Ended { .. } | Event::Returned { .. }) {
                self.offers.remove(&offer);
                self.unasked.remove(&offer);
            }
            effects.extend(self.handoff(now, offer, handoff::Input::Ledger(time, event)));
        }
        effects
    }

    fn epoch_of(&self, container: &ContainerId) -> Option<Epoch> {
        self.containers.get(container).map(|known| known.epoch)
    }
}
