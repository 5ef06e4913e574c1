//! What became of the mesh's offers, for people: lists of offers and the timeline of each handoff.
//!
//! Invariant: nothing here is decided upon; it is only told.

use std::collections::{BTreeMap, VecDeque};

use godwit_protocol::auction;
use godwit_protocol::award::Award;
use godwit_protocol::bid::{Bid, Reason};
use godwit_protocol::done::Done;
use godwit_protocol::effect::{Step, What};
use godwit_protocol::event::EndReason;
use godwit_protocol::membership::Change;
use godwit_protocol::offer::{Offer, Why};
use godwit_protocol::{ContainerId, Event, Message, Millis, OfferId, SiteId, Time};

use crate::api::view::{BidView, DeclineView, OfferState, OfferView, StepView, TimelineView};

/// Offers remembered, the oldest forgotten first: some 8 KB each.
const OFFERS_MAX: usize = 512;

/// Steps remembered of one offer; a handoff has some twenty.
const STEPS_MAX: usize = 256;

/// All that is remembered.
#[derive(Debug, Default)]
pub struct History {
    offers: BTreeMap<OfferId, Entry>,
    order: VecDeque<OfferId>,
    /// Names of the members, past ones too.
    sites: BTreeMap<SiteId, String>,
    /// Names of the containers, past ones too while an offer of theirs is remembered.
    containers: BTreeMap<ContainerId, String>,
}

#[derive(Debug)]
struct Entry {
    source: SiteId,
    body: Offer,
    opened: Time,
    closes: Time,
    bids: Vec<(SiteId, Bid)>,
    declines: Vec<(SiteId, Reason)>,
    award: Option<Award>,
    attempt: u32,
    state: OfferState,
    ended: Option<String>,
    done: Option<Done>,
    steps: Vec<Moment>,
}

/// A step without what only its neighbours tell.
#[derive(Clone, Debug)]
struct Moment {
    name: &'static str,
    at: Time,
    site: SiteId,
    detail: String,
}

impl History {
    /// Remembers what a member is called.
    pub fn name_site(&mut self, site: SiteId, name: &str) {
        self.sites.insert(site, name.to_owned());
    }

    /// What a member is called, or the beginning of its id.
    #[must_use]
    pub fn site(&self, site: &SiteId) -> String {
        self.sites.get(site).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| site.short())
    }

    /// Remembers what a container is called.
    pub fn name_container(&mut self, container: ContainerId, name: &str) {
        self.containers.insert(container, name.to_owned());
    }

    /// What a container is called, or the beginning of its id.
    #[must_use]
    pub fn container(&self, container: &ContainerId) -> String {
        self.containers.get(container).cloned().unwrap_or_else(|| container.short())
    }

    /// An event of a block with this time. `author` is whose record caused it, where one did.
    pub fn committed(&mut self, time: Time, event: &Event) {
        match event {
            Event::Registered { register, .. } => self.name_container(register.container, register.name.as_str()),
            Event::Opened { offer, source, body, closes } => self.open(time, *offer, *source, body, *closes),
            Event::BidPlaced { bidder, bid } => self.at(bid.offer, |entry| {
                entry.bids.push((*bidder, *bid));
                let score = auction::score(&entry.body, bidder, bid);
                entry.push(
                    "bid",
                    time,
                    *bidder,
                    format!("score {score}, load {}, {} predicted", bid.load, bid.downtime_ms),
                );
            }),
            Event::Declined { offer, site, reason } => self.at(*offer, |entry| {
                entry.declines.push((*site, reason.clone()));
                entry.push("decline", time, *site, say(reason));
            }),
            Event::Awarded { offer, award } => self.at(*offer, |entry| {
                entry.award = Some(award.clone());
                entry.attempt = 1;
                entry.state = OfferState::Awarded;
                let winner = award.winner(1).unwrap_or(entry.source);
                entry.push("award", time, winner, format!("{} bids, derived by every replica", award.ranking.len()));
            }),
            Event::Passed { offer, attempt, winner, reason } => self.at(*offer, |entry| {
                entry.attempt = *attempt;
                entry.state = OfferState::Awarded;
                entry.push("next", time, *winner, format!("attempt {attempt}: {}", say(reason)));
            }),
            Event::Readied { offer, attempt } => self.at(*offer, |entry| {
                entry.state = OfferState::Ready;
                entry.push("ready", time, entry.winner(*attempt), format!("attempt {attempt}"));
            }),
            Event::Received { offer, owner, epoch, .. } => self.at(*offer, |entry| {
                entry.state = OfferState::Received;
                entry.push("receipt", time, *owner, format!("owner from epoch {epoch} on"));
            }),
            Event::Closed { offer, done } => self.at(*offer, |entry| {
                entry.state = OfferState::Done;
                entry.done = Some(*done);
                let (restore, fill) = (done.spans.restore_ms, done.spans.fill_ms);
                let detail = format!("{} travelled, restored in {restore}, filled in {fill}", done.bytes);
                entry.push("done", time, entry.winner(entry.attempt), detail);
            }),
            Event::Ended { offer, reason } => self.at(*offer, |entry| {
                let why = match reason {
                    EndReason::NoBids => "nobody bid".to_owned(),
                    EndReason::NoneLeft(last) => format!("no bidder is left: {}", say(last)),
                    EndReason::Aborted(reason) => format!("the source ended it: {}", say(reason)),
                };
                entry.end(time, why);
            }),
            Event::Returned { offer, possible_loss, .. } => self.at(*offer, |entry| {
                let loss = if *possible_loss { "reclaimed, possible loss" } else { "the target never let it run" };
                entry.end(time, format!("back at its source: {loss}"));
            }),
            Event::Retired { .. } | Event::MembershipChanged { .. } | Event::Punished { .. } => {}
        }
    }

    /// A step that only this site sees; what is to be told of it.
    pub fn local(&mut self, now: Time, me: SiteId, offer: OfferId, what: &What) -> Option<StepView> {
        let (name, detail) = match what {
            What::Step(step) => (step_name(*step), String::new()),
            What::Failed(action, reason) => ("failed", format!("{action:?}: {}", say(reason))),
            What::Undecided => ("undecided", "the ledger has not decided yet; is there a quorum?".to_owned()),
            What::Unclear(reason) => ("unclear", format!("the copy may have run: {}", say(reason))),
        };
        let site = self.site(&me);
        let entry = self.offers.get_mut(&offer)?;
        let before = entry.steps.last().map_or(now, |step| step.at);
        entry.push(name, now, me, detail.clone());
        let since_previous_ms = now.since(before);
        Some(StepView { name: name.to_owned(), at_ms: now, site, detail, since_previous_ms })
    }

    /// Whose offer it is.
    #[must_use]
    pub fn container_of(&self, offer: &OfferId) -> Option<ContainerId> {
        self.offers.get(offer).map(|entry| entry.body.container)
    }

    /// All that are remembered, newest first.
    #[must_use]
    pub fn offers(&self) -> Vec<OfferView> {
        self.order.iter().rev().filter_map(|id| Some(self.view(id, self.offers.get(id)?))).collect()
    }

    /// One handoff.
    #[must_use]
    pub fn timeline(&self, offer: &OfferId) -> Option<TimelineView> {
        let entry = self.offers.get(offer)?;
        let mut moments = entry.steps.clone();
        // Stable: what happened in the same millisecond stays in the order in which it was seen.
        moments.sort_by_key(|moment| moment.at);
        let mut before = entry.opened;
        let steps = moments
            .into_iter()
            .map(|moment| {
                let since_previous_ms = moment.at.since(before);
                before = moment.at;
                StepView {
                    name: moment.name.to_owned(),
                    at_ms: moment.at,
                    site: self.site(&moment.site),
                    detail: moment.detail,
                    since_previous_ms,
                }
            })
            .collect();
        let named = |(name, span): (&str, Millis)| (name.to_owned(), span.0);
        let downtime_ms = entry.done.map(|done| done.spans.still().map(named).into());
        Some(TimelineView {
            offer: *offer,
            container: entry.body.container,
            container_name: self.container(&entry.body.container),
            source_name: self.site(&entry.source),
            target_name: entry.award.as_ref().and_then(|award| award.winner(entry.attempt)).map(|s| self.site(&s)),
            state: entry.state,
            steps,
            downtime_ms,
            bytes: entry.done.map(|done| done.bytes),
        })
    }

    fn view(&self, offer: &OfferId, entry: &Entry) -> OfferView {
        let mut bids: Vec<BidView> = entry
            .bids
            .iter()
            .map(|(site, bid)| BidView {
                site: *site,
                name: self.site(site),
                score: auction::score(&entry.body, site, bid),
                load_per_mille: bid.load,
                same_network: bid.same_network,
                predicted_downtime_ms: bid.downtime_ms,
            })
            .collect();
        // As the award ranks them; before it, in the order in which they came.
        if let Some(award) = &entry.award {
            bids.sort_by_key(|bid| award.ranking.iter().position(|ranked| ranked.site == bid.site));
        }
        let winner = entry.award.as_ref().and_then(|award| award.winner(entry.attempt));
        OfferView {
            offer: *offer,
            container: entry.body.container,
            container_name: self.container(&entry.body.container),
            source: entry.source,
            source_name: self.site(&entry.source),
            why: why(&entry.body.why).to_owned(),
            state: entry.state,
            attempt: entry.attempt,
            winner,
            winner_name: winner.map(|site| self.site(&site)),
            bids,
            declines: entry
                .declines
                .iter()
                .map(|(site, reason)| DeclineView { site: *site, name: self.site(site), reason: reason.clone() })
                .collect(),
            opened: entry.opened,
            closes: entry.closes,
            ended: entry.ended.clone(),
        }
    }

    fn open(&mut self, time: Time, offer: OfferId, source: SiteId, body: &Offer, closes: Time) {
        let mut entry = Entry {
            source,
            body: body.clone(),
            opened: time,
            closes,
            bids: Vec::new(),
            declines: Vec::new(),
            award: None,
            attempt: 0,
            state: OfferState::Bidding,
            ended: None,
            done: None,
            steps: Vec::new(),
        };
        entry.push(
            "offer",
            time,
            source,
            format!("{}, {} to move, {} sites named", why(&body.why), body.size, body.named.len()),
        );
        self.offers.insert(offer, entry);
        self.order.push_back(offer);
        if self.order.len() > OFFERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.offers.remove(&oldest);
        }
    }

    fn at(&mut self, offer: OfferId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.offers.get_mut(&offer) {
            change(entry);
        }
    }
}

impl Entry {
    fn push(&mut self, name: &'static str, at: Time, site: SiteId, detail: String) {
        if self.steps.len() < STEPS_MAX {
            self.steps.push(Moment { name, at, site, detail });
        }
    }

    fn end(&mut self, time: Time, why: String) {
        self.state = OfferState::Ended;
        self.push("ended", time, self.source, why.clone());
        self.ended = Some(why);
    }

    fn winner(&self, attempt: u32) -> SiteId {
        self.award.as_ref().and_then(|award| award.winner(attempt)).unwrap_or(self.source)
    }
}

/// A message in one line, for people.
#[must_use]
pub fn summary(message: &Message, names: &History) -> String {
    let about = |offer: &OfferId| format!("offer {}", offer.short());
    match message {
        Message::Register(register) => {
            format!("{} ({}), {}", register.name, register.container.short(), register.image.reference)
        }
        Message::Retire(retire) => names.container(&retire.container),
        Message::Offer(offer) => format!("{}: {}, {}", names.container(&offer.container), why(&offer.why), offer.size),
        Message::Bid(bid) => format!("{}, load {}, {} predicted", about(&bid.offer), bid.load, bid.downtime_ms),
        Message::Decline(decline) => format!("{}: {}", about(&decline.offer), say(&decline.reason)),
        Message::Ready(ready) => format!("{}, attempt {}", about(&ready.offer), ready.attempt),
        Message::Receipt(receipt) => {
            format!(
                "{}, attempt {}, state {}",
                about(&receipt.offer),
                receipt.attempt,
                receipt.yielded.body.root.short()
            )
        }
        Message::Abort(abort) => format!("{}, attempt {}: {}", about(&abort.offer), abort.attempt, say(&abort.reason)),
        Message::Done(done) => {
            let still = done.spans.standstill();
            format!("{}, {} travelled, stood still for {still}", about(&done.offer), done.bytes)
        }
        Message::Reclaim(reclaim) => about(&reclaim.offer),
        Message::Membership(membership) => match &membership.proposal.change {
            Change::Put(member) => format!("{} is {:?}", member.name, member.role).to_lowercase(),
            Change::Remove(site) => format!("{} leaves", names.site(site)),
            Change::Rotate(rotation) => {
                format!("{} is {} from now on", names.site(&rotation.body.old), rotation.author.short())
            }
        },
        Message::Evidence(evidence) => {
            format!("{} contradicted itself at height {}", names.site(&evidence.culprit()), evidence.height())
        }
    }
}

/// The reason of an offer in a word.
#[must_use]
pub fn why(why: &Why) -> &'static str {
    match why {
        Why::Overload { .. } => "overload",
        Why::Mobility { .. } => "mobility",
        Why::Drain => "drain",
        Why::Manual { .. } => "manual",
    }
}

/// A reason for people.
#[must_use]
pub fn say(reason: &Reason) -> String {
    match reason {
        Reason::Cpu => "it would pass its processor threshold".to_owned(),
        Reason::Memory => "it would pass its memory threshold".to_owned(),
        Reason::Gpu => "not enough GPUs".to_owned(),
        Reason::Draining => "it is being drained".to_owned(),
        Reason::Architecture => "another machine architecture".to_owned(),
        Reason::CpuFeature(name) => format!("its processor lacks {name}"),
        Reason::Kernel => "its kernel is too old".to_owned(),
        Reason::Criu => "its CRIU is missing or too old".to_owned(),
        Reason::Image(cause) => format!("the image cannot be had: {cause}"),
        Reason::Failed(cause) => cause.to_string(),
        Reason::Silent => "no word in time".to_owned(),
        Reason::Operator => "an operator said so".to_owned(),
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Serving => "serving",
        Step::Prepared => "prepared",
        Step::Freezing => "freezing",
        Step::Frozen => "frozen",
        Step::Yielded => "yield",
        Step::YieldReceived => "yield received",
        Step::Fetched => "fetched",
        Step::Restored => "restored",
        Step::Resuming => "resuming",
        Step::Resumed => "resumed",
        Step::Filled => "filled",
        Step::Thawing => "thawing",
        Step::Thawed => "thawed",
        Step::Discarded => "discarded",
        Step::Released => "released",
    }
}
