//! A site as a seller and a buyer: which containers it offers and why, and how it answers the offers of others.

use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Known, Load, Site, Wish};
use crate::auction::score;
use crate::bid::{Bid, Decline, Reason};
use crate::bounded::{List, Text};
use crate::container::{Kind, Needs};
use crate::effect::Effect;
use crate::handoff::{Open, Promise, Stage, Target};
use crate::id::{ContainerId, OfferId, SiteId};
use crate::membership::Role;
use crate::message::Message;
use crate::offer::{MAX_NAMED, MIN_NAMED, Offer, Why};
use crate::policy::{fits, mobility, overload};
use crate::report::Report;
use crate::signed::Verified;
use crate::units::{Bytes, MilliCpu, Millis, Time};
use crate::word::Word;

/// Longer than any record lives: an offer that was not committed by then never will be.
pub(super) const LOST: Millis = Millis(60_000);

/// What a bidder predicts for a stateless container: engines take about this long to stop one and start another.
const RESTART_MS: u64 = 1_000;

/// What a bidder predicts for a container with its state: to capture, commit and restore it, its memory apart, takes about
/// this long.
const STANDSTILL_MS: u64 = 80;

/// What a bidder predicts: bytes per ms over a link of 1 Gbit/s.
const LINK_BYTES_PER_MS: u64 = 110_000;

/// Memory travels while the container runs; what else there is, while it stands still.
fn predicted_downtime(offer: &Offer) -> Millis {
    match offer.needs.criu {
        0 => Millis(RESTART_MS),
        _ => Millis(STANDSTILL_MS + offer.size.0.saturating_sub(offer.memory.0) / LINK_BYTES_PER_MS),
    }
}

impl Site {
    /// *Insufficient resources.*
    pub(super) fn measured(&mut self, now: Time, load: Load) -> Vec<Effect> {
        let (cpu, memory) = (load.cpu, load.memory);
        self.set_load(load);
        if !self.gauge.measure(now, &cpu, &memory, &self.config.limits) {
            return vec![];
        }
        // What is leaving already counts as gone.
        let (mut cpu, mut memory) = (cpu, memory);
        for (id, usage) in self.load.iter().flat_map(|load| &load.containers) {
            if self.is_leaving(now, id) {
                cpu.used = cpu.used.minus(usage.cpu);
                memory.used = memory.used.minus(usage.memory);
            }
        }
        let why = Why::Overload { cpu: cpu.load_with(MilliCpu(0)), memory: memory.load_with(Bytes(0)) };
        let candidates = self.may_leave(now).into_iter().filter_map(|id| self.candidate(&id)).collect();
        overload::choose(&cpu, &memory, candidates, &self.config.limits)
            .into_iter()
            .filter_map(|container| self.offer(now, container, why.clone()))
            .collect()
    }

    /// *Client mobility.* A report is also told to the owners of the client's containers elsewhere.
    pub(super) fn reported(&mut self, now: Time, report: Verified<Report>) -> Vec<Effect> {
        let client = report.author;
        let newer = self.reports.get(&client).is_none_or(|known| report.body.sequence > known.body.sequence);
        let theirs: Vec<(ContainerId, SiteId)> = self
            .containers
            .iter()
            .filter(|(_, known)| known.register.clients.contains(&client))
            .map(|(id, known)| (*id, known.owner))
            .collect();
        if !newer || theirs.is_empty() {
            return vec![];
        }
        self.reports.insert(client, report.clone());
        let mut owners: Vec<SiteId> = theirs.iter().map(|(_, owner)| *owner).filter(|o| *o != self.config.me).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut effects: Vec<Effect> =
            owners.into_iter().map(|to| Effect::Say { to, word: Word::Report(report.clone().into_signed()) }).collect();
        let leaves = mobility::leaves(now, &self.config.me, &report.body, &self.config.limits, |site| {
            self.members.get(site).is_some_and(|role| *role != Role::Observer)
        });
        if leaves {
            let movable = self.may_leave(now);
            let why = Why::Mobility { report: report.into_signed() };
            let ours = theirs.into_iter().map(|(id, _)| id).filter(|id| movable.contains(id));
            effects.extend(ours.collect::<Vec<_>>().into_iter().filter_map(|id| self.offer(now, id, why.clone())));
        }
        effects
    }

    /// *Manual* and *drain*.
    pub(super) fn wished(&mut self, now: Time, wish: Wish) -> Vec<Effect> {
        match wish {
            Wish::Drain(on) => {
                self.draining = on;
                let mut effects = self.empty(now);
                effects.extend(self.gossip(now));
                effects
            }
            Wish::Migrate { container, prefer } => {
                // An operator is not made to wait for dwell or retry.
                if self.may_offer(now, &container) {
                    self.offer(now, container, Why::Manual { prefer }).into_iter().collect()
                } else {
                    vec![]
                }
            }
        }
    }

    /// While draining: whatever is here and not on its way is offered.
    pub(super) fn empty(&mut self, now: Time) -> Vec<Effect> {
        if !self.draining {
            return vec![];
        }
        let ours: Vec<ContainerId> = self.ours(now, Millis(0)).collect();
        ours.into_iter().filter_map(|id| self.offer(now, id, Why::Drain)).collect()
    }

    /// H2: judges itself and answers an offer that was just committed, unless it did when it heard of it.
    pub(super) fn answer(&mut self, now: Time, offer: &OfferId) -> Vec<Effect> {
        let Some(open) = self.offers.get(offer).cloned() else { return vec![] };
        let mut effects = self.give_up_rivals(&open);
        let early = self.early.remove(offer);
        if early.is_some_and(|early| self.has_answered(&early, offer)) {
            return effects;
        }
        if self.is_asked(&open) {
            effects.extend(self.respond(now, &open));
        } else {
            self.unasked.insert(*offer, now.after(Millis(open.body.window.0 / 2)));
        }
        effects
    }

    /// Whether an offer waits for this site's answer. If all bid on everything, a mesh of a thousand members would say a
    /// thousand records about each offer, of which its source has picked the best beforehand.
    pub(super) fn is_asked(&self, open: &Open) -> bool {
        open.body.named.is_empty() || open.body.named.contains(&self.config.me)
    }

    /// Bids on offers that name others, half the window before they fail for want of bids.
    pub(super) fn help_out(&mut self, now: Time) -> Vec<Effect> {
        let due: Vec<OfferId> = self.unasked.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        let mut effects = vec![];
        for offer in due {
            self.unasked.remove(&offer);
            let open = self.offers.get(&offer).filter(|open| open.stage == Stage::Bidding);
            if let Some(open) = open.filter(|open| open.bidders.len() < MIN_NAMED).cloned() {
                effects.extend(self.respond(now, &open));
            }
        }
        effects
    }

    /// Bids, or declines if it is named.
    pub(super) fn respond(&mut self, now: Time, open: &Open) -> Vec<Effect> {
        if !self.takes_part() {
            return vec![];
        }
        // Tasks of two handoffs must not meet in one engine, nor their promises in one journal.
        let verdict = if self.is_busy(&open.body.container) {
            Err(Reason::Failed(Text::clipped("an earlier handoff of the container is not settled here")))
        } else {
            self.judge(now, open)
        };
        if let Err(reason) = verdict {
            return self.decline_if_named(open.body.named.contains(&self.config.me), open.id, reason);
        }
        let Some(capacity) = self.capacity(now) else { return vec![] };
        let near = self.peers.get(&open.source).is_some_and(|peer| peer.capacity.network == self.config.network);
        let load = capacity.memory.load_with(open.body.memory).max(capacity.cpu.load_with(open.body.cpu));
        let bid = Bid { offer: open.id, same_network: near, load, downtime_ms: predicted_downtime(&open.body) };
        self.targets.insert(open.id, Target::bid(now, self.config.me, open, self.config.patience));
        let promise = Promise::Bid { offer: open.id, container: open.body.container };
        vec![Effect::Journal(promise), Effect::Append(Message::Bid(bid))]
    }

    /// Whether this site may offer and bid.
    pub(super) fn takes_part(&self) -> bool {
        self.members.get(&self.config.me).is_some_and(|role| *role != Role::Observer)
    }

    fn decline_if_named(&self, named: bool, offer: OfferId, reason: Reason) -> Vec<Effect> {
        // Nobody waits for the answer of a site that was not named.
        if named { vec![Effect::Append(Message::Decline(Decline { offer, attempt: 0, reason }))] } else { vec![] }
    }

    /// A bid of ours is in the ledger that this site had given up: whoever wins answers for it.
    pub(super) fn stand_by(&mut self, now: Time, offer: &OfferId) -> Vec<Effect> {
        let Some(open) = self.offers.get(offer).filter(|_| !self.targets.contains_key(offer)) else { return vec![] };
        let (target, effects) = Target::recover(now, self.config.me, open, &[], self.config.patience);
        self.targets.insert(*offer, target);
        effects
    }

    /// A record of ours had no effect: what depended on it is undone.
    pub(super) fn refused(&mut self, now: Time, message: &Message) -> Vec<Effect> {
        match message {
            Message::Offer(offer) => {
                self.known(offer.container, |known| (known.asked, known.tried) = (None, Some(now)));
                vec![]
            }
            // Too late for the auction, or its offer was never committed: the reservation goes.
            Message::Bid(bid) if !self.has_bid(&bid.offer) => self.give_up(&bid.offer),
            Message::Decline(decline) => {
                self.early.remove(&decline.offer);
                vec![]
            }
            _ => vec![],
        }
    }

    /// Whether a bid of ours is in the ledger.
    pub(super) fn has_bid(&self, offer: &OfferId) -> bool {
        self.offers.get(offer).is_some_and(|open| open.bidders.contains(&self.config.me))
    }

    /// Whether this site is at a handoff of the container.
    pub(super) fn is_busy(&self, container: &ContainerId) -> bool {
        self.sources.values().any(|source| source.container() == *container)
            || self.targets.values().any(|target| target.container() == *container)
    }

    /// An offer for a container of ours.
    fn offer(&mut self, now: Time, container: ContainerId, why: Why) -> Option<Effect> {
        let epoch = self.epoch_of(&container)?;
        let usage = self.load.as_ref().and_then(|load| load.containers.get(&container)).copied().unwrap_or_default();
        let known = self.containers.get_mut(&container)?;
        known.asked = Some(now);
        let profile = known.register.profile;
        let stateful = profile.kind == Kind::Stateful;
        let platform = &self.config.platform;
        let needs = Needs {
            architecture: platform.architecture.clone(),
            cpu_features: if stateful { platform.cpu_features.clone() } else { List::default() },
            kernel: if stateful { platform.kernel } else { (0, 0) },
            criu: if stateful { platform.criu } else { 0 },
            image: known.register.image.id,
        };
        let mut offer = Offer {
            container,
            epoch,
            source_address: self.config.address,
            size: if stateful { usage.memory.plus(usage.layer) } else { Bytes(0) },
            cpu: profile.cpu,
            gpu: profile.gpu,
            memory: profile.memory,
            why,
            needs,
            named: List::default(),
            window: self.config.window,
        };
        offer.named = self.named(now, &offer);
        Some(Effect::Append(Message::Offer(offer)))
    }

    /// The sites that gossip says are able, filled up with others that are there to answer; none at all if there are too
    /// few for the ledger. The best by score come first: bidding ends when all that are named have answered, so whoever
    /// should win must be among them.
    fn named(&self, now: Time, offer: &Offer) -> List<SiteId, MAX_NAMED> {
        let eligible =
            self.members.iter().filter(|(site, role)| **role != Role::Observer && **site != self.config.me).count();
        let mut heard: Vec<(bool, Reverse<i64>, SiteId)> = self
            .heard(now)
            .filter(|(site, _)| self.members.get(*site).is_some_and(|role| *role != Role::Observer))
            .map(|(site, has)| {
                let unable = fits(offer, has, &self.config.limits).is_err();
                let load = has.memory.load_with(offer.memory).max(has.cpu.load_with(offer.cpu));
                let same_network = has.network == self.config.network;
                // Its bid, as this site expects it.
                let bid = Bid { offer: OfferId([0; 32]), same_network, load, downtime_ms: Millis(0) };
                (unable, Reverse(score(offer, site, &bid)), *site)
            })
            .collect();
        heard.sort_unstable();
        let able = heard.iter().filter(|(unable, ..)| !unable).count();
        let least = MIN_NAMED.min(eligible);
        if heard.len() < least {
            return List::default();
        }
        List::first(heard.into_iter().map(|(.., site)| site).take(able.max(least)))
    }

    /// The containers that a policy may offer: ours, not on their way, here for long enough, not just tried in vain.
    fn may_leave(&self, now: Time) -> Vec<ContainerId> {
        self.ours(now, self.config.limits.dwell).collect()
    }

    fn ours(&self, now: Time, dwell: Millis) -> impl Iterator<Item = ContainerId> {
        let retry = self.config.limits.retry;
        self.containers.iter().filter_map(move |(id, known)| {
            let rested = known.tried.is_none_or(|tried| now.since(tried) > retry);
            let settled = now.since(known.since) >= dwell;
            (rested && settled && self.is_free(now, known)).then_some(*id)
        })
    }

    /// Ours and not on its way.
    pub(super) fn is_free(&self, now: Time, known: &Known) -> bool {
        self.takes_part()
            && known.owner == self.config.me
            && known.open.is_none()
            && !is_asked(now, known)
            && !self.is_busy(&known.register.container)
    }

    /// Whether a container of ours is on offer, or about to be.
    fn is_leaving(&self, now: Time, container: &ContainerId) -> bool {
        self.containers
            .get(container)
            .is_some_and(|known| known.owner == self.config.me && (known.open.is_some() || is_asked(now, known)))
    }

    fn candidate(&self, container: &ContainerId) -> Option<overload::Candidate> {
        let known = self.containers.get(container)?;
        let usage = self.load.as_ref()?.containers.get(container)?;
        Some(overload::Candidate {
            container: *container,
            cpu: usage.cpu,
            memory: usage.memory,
            max_delay: known.register.profile.max_delay_ms,
            size: usage.memory.plus(usage.layer),
        })
    }
}

fn is_asked(now: Time, known: &Known) -> bool {
    known.asked.is_some_and(|asked| now.since(asked) <= LOST)
}
