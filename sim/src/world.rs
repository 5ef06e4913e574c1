//! The world: a virtual clock, a queue of what happens next, and everything the sites cannot do for themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use godwit_ledger::record::VerifiedRecord;
use godwit_ledger::replica::{self, LedgerMessage, TimerToken};
use godwit_protocol::capacity::Capacity;
use godwit_protocol::membership::Change;
use godwit_protocol::register::Register;
use godwit_protocol::report::Report;
use godwit_protocol::site::{self, Wish};
use godwit_protocol::word::Word;
use godwit_protocol::{Bytes, ContainerId, Event, Hash, MeshId, Millis, OfferId, SiteId, Time, Verified};

use crate::check::{Checker, Violation};
use crate::host::Host;
use crate::links::Links;
use crate::marks::{Mark, Marks};
use crate::plan::{Dice, Faults, PATIENCE, Plan};
use crate::witness::Witness;

mod engines;
mod fate;
mod found;
mod ledger;
mod liars;
mod marking;
mod network;
mod operators;
mod process;

/// When the virtual clock starts.
const FOUNDED: Time = Time(1_000_000_000);

/// How far clocks may be apart.
const CLOCK_BOUND: Millis = Millis(200);

/// How often a container is registered again while the ledger does not show it.
const REGISTER_AGAIN: Millis = Millis(5_000);

/// By how much a run is prolonged that has not come far enough.
const LONGER: Millis = Millis(20_000);

/// After what it is first looked whether all has settled: everything that was to come has come.
const AT_LEAST: Millis = Millis(260_000);

/// How often it is looked again.
const LOOK: Millis = Millis(20_000);

/// What happens at a time. Sites are named by their place.
#[derive(Clone, Debug)]
enum Happening {
    Tick(usize),
    Measure(usize),
    Hear(usize, Arc<Verified<Capacity>>),
    Told(usize, usize, Word),
    Reported(usize, Box<Verified<Report>>),
    /// A replica's message, from and to.
    Ledger(usize, usize, Arc<Sent>),
    Gossiped(usize, Arc<VerifiedRecord>),
    Timer(usize, u32, TimerToken),
    /// A site looks whether it is connected to another.
    Notice(usize, usize),
    Register(usize, Box<Register>),
    Ends(usize, ContainerId),
    Start(usize),
    Wished(usize, Wish),
    Press(usize, Bytes),
    /// A link in one direction.
    Block(usize, usize, bool),
    /// A disk fills up, or has room again.
    Fill(usize, bool),
    /// An operator takes a container back.
    Reclaim(OfferId),
    /// Operators change the membership until it is so.
    Reform(Box<Change>),
    /// A site that lies does so.
    Lie(usize),
    /// Records whose commit shows that the mesh is alive.
    Probe(usize, bool),
    /// Once a second: what operators, clients and fate do.
    Fate,
    /// A site's clock is off by so many ms.
    Clock(usize, i64),
    /// A site's ledger is lost.
    Rebuild(usize),
}

/// A replica's message as it came off the wire, once for all who hear it.
#[derive(Clone, Debug)]
struct Sent {
    message: LedgerMessage,
    /// Its size.
    bytes: usize,
    /// Of its bytes.
    hash: Hash,
}

/// What one process does next.
enum Step {
    Brain(site::Input),
    Replica(replica::Input),
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Hash over every event, in hexadecimal.
    pub trace_hash: String,
    /// Events handled.
    pub events: u64,
    /// Broken promises: none, or the first.
    pub violations: Vec<String>,
    /// Rare paths reached.
    pub marks: Marks,
    /// Blocks made.
    pub blocks: u64,
    /// Offers opened.
    pub offers: u64,
    /// Containers handed over.
    pub received: u64,
    /// Handoffs complete.
    pub closed: u64,
    /// Attempts passed on.
    pub passed: u64,
    /// Offers ended without a change.
    pub ended: u64,
    /// Containers returned after their receipt.
    pub returned: u64,
    /// Deaths of a process.
    pub crashes: u64,
    /// Tasks that failed.
    pub failures: u64,
    /// Messages between replicas.
    pub messages: u64,
    /// From when a source makes an offer to when it sees it awarded.
    pub award_ms: Spread,
    /// What replicas held against others that are honest: late words and clocks that are off.
    pub suspicions: u64,
}

/// How long something took, each time that it was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Spread {
    /// How many times.
    pub count: usize,
    /// In ms.
    pub median: u64,
    /// The 99th percentile, in ms.
    pub p99: u64,
}

impl Spread {
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        Self { count: times.len(), median: at(50), p99: at(99) }
    }
}

/// A mesh under a virtual clock.
pub struct World {
    plan: Plan,
    faults: Faults,
    dice: Dice,
    now: Time,
    /// When operators, clients and faults stop.
    until: Time,
    /// What happens at one time happens in the order in which it was put here.
    queue: BTreeMap<Time, VecDeque<Happening>>,
    mesh: MeshId,
    /// Where a site is, by any identity that it has had.
    places: BTreeMap<SiteId, usize>,
    /// In the order of their first ids.
    hosts: Vec<Host>,
    clients: Vec<SigningKey>,
    reports: u64,
    links: Links,
    /// Changes that enough validators have approved of, by the epoch that they approve of it in.
    approved: Vec<(u64, Change)>,
    /// When open offers were made.
    offered: BTreeMap<OfferId, Time>,
    /// How long it took until their sources saw them awarded, in ms.
    awarded: Vec<u64>,
    witness: Witness,
    checker: Checker,
    hasher: blake3::Hasher,
    trace: Option<Vec<String>>,
    summary: Summary,
}

impl World {
    /// Runs to the end of the plan, or to the first broken promise, which the summary then names.
    pub fn run(&mut self) -> Summary {
        let broken = self.go().err();
        self.summary.violations.extend(broken.map(|violation| violation.0));
        self.summary.blocks = self.witness.height().0;
        self.summary.award_ms = Spread::of(std::mem::take(&mut self.awarded));
        self.summary.trace_hash = self.hasher.finalize().to_hex().to_string();
        self.summary.clone()
    }

    fn go(&mut self) -> Result<(), Violation> {
        let last = FOUNDED.after(Millis(self.plan.active.0 * PATIENCE));
        while self.now < self.until {
            self.run_until(self.until)?;
            if self.summary.received < self.plan.handoffs && self.until < last {
                self.until = self.until.after(LONGER).min(last);
                self.faults.ease();
                self.put(Millis(0), Happening::Fate);
            }
        }
        let end = self.now.after(self.plan.settle);
        self.calm();
        self.run_until(self.now.after(AT_LEAST.min(self.plan.settle)))?;
        // The promise is that all has settled by the end; when that is seen earlier, the rest would show nothing more.
        while self.now < end && self.settled().is_err() {
            self.run_until(self.now.after(LOOK).min(end))?;
        }
        self.settled()
    }

    fn settled(&self) -> Result<(), Violation> {
        self.checker.settled(self.now, &self.hosts, &self.witness)
    }

    /// Every event so far, if they were to be kept.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    fn run_until(&mut self, end: Time) -> Result<(), Violation> {
        while let Some(mut entry) = self.queue.first_entry() {
            let at = *entry.key();
            if at > end {
                break;
            }
            let Some(happening) = entry.get_mut().pop_front() else {
                entry.remove();
                continue;
            };
            self.now = at;
            self.note(&happening);
            self.summary.events += 1;
            self.happen(happening)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Tick(at) => {
                self.put(Millis(250), Happening::Tick(at));
                self.expire(at)?;
                self.brain(at, site::Input::Tick)
            }
            Happening::Measure(at) => {
                self.put(Millis(1_000), Happening::Measure(at));
                let load = self.hosts[at].load();
                self.brain(at, site::Input::Load(load))
            }
            Happening::Hear(at, capacity) => {
                self.brain(at, site::Input::Capacity((*capacity).clone()))?;
                self.replica(at, replica::Input::Reach { site: capacity.author, height: capacity.body.height })
            }
            Happening::Told(from, at, word) => self.told(from, at, word),
            Happening::Reported(at, report) => self.brain(at, site::Input::Report(*report)),
            Happening::Ledger(from, at, sent) => self.heard(from, at, sent),
            Happening::Gossiped(at, record) => self.gossiped(at, (*record).clone()),
            Happening::Timer(at, life, token) => self.rang(at, life, token),
            Happening::Notice(at, other) => self.notice(at, other),
            Happening::Register(at, register) => self.register(at, register),
            Happening::Ends(at, container) => self.ends(at, container),
            Happening::Start(at) => self.start(at),
            Happening::Wished(at, wish) => self.brain(at, site::Input::Operator(wish)),
            Happening::Press(at, base) => {
                self.hosts[at].base = base;
                Ok(())
            }
            Happening::Block(from, to, blocked) => {
                self.links.block(from, to, blocked);
                self.notice_later(from, to);
                self.notice_later(to, from);
                Ok(())
            }
            Happening::Fill(at, full) => {
                self.hosts[at].is_full = full;
                Ok(())
            }
            Happening::Clock(at, off) => {
                self.hosts[at].jump = off;
                Ok(())
            }
            Happening::Rebuild(at) => self.rebuild(at),
            Happening::Reclaim(offer) => self.reclaim(offer),
            Happening::Reform(change) => self.reform(change),
            Happening::Lie(at) => self.lie(at),
            Happening::Probe(at, retire) => self.probe(at, retire),
            Happening::Fate => {
                self.fate();
                Ok(())
            }
        }
    }

    fn others(&self, than: usize) -> Vec<usize> {
        (0..self.hosts.len()).filter(|at| *at != than).collect()
    }

    fn count(&mut self, event: &Event) {
        let summary = &mut self.summary;
        match event {
            Event::Opened { .. } => summary.offers += 1,
            Event::Received { .. } => summary.received += 1,
            Event::Closed { .. } => summary.closed += 1,
            Event::Passed { .. } => summary.passed += 1,
            Event::Ended { .. } => summary.ended += 1,
            Event::Returned { .. } => summary.returned += 1,
            _ => {}
        }
    }

    fn mark(&mut self, mark: Mark) {
        self.summary.marks.hit(mark);
    }

    // The queue and its record.

    fn put(&mut self, delay: Millis, happening: Happening) {
        self.queue.entry(self.now.after(delay)).or_default().push_back(happening);
    }

    fn note(&mut self, happening: &Happening) {
        let since = self.now.since(FOUNDED).0;
        self.hasher.update(&since.to_le_bytes());
        happening.hash(&mut self.hasher);
        if let Some(trace) = &mut self.trace {
            trace.push(match happening {
                Happening::Ledger(from, to, sent) => format!("{since} Ledger({from}, {to}, {} bytes)", sent.bytes),
                _ => format!("{since} {happening:?}"),
            });
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }
}

impl Happening {
    /// What tells it from any other that could have taken its place.
    fn hash(&self, hasher: &mut blake3::Hasher) {
        let mut put = |kind: u8, places: &[usize], content: &[u8]| {
            hasher.update(&[kind]);
            for place in places {
                hasher.update(&(*place as u64).to_le_bytes());
            }
            hasher.update(content);
        };
        match self {
            Self::Tick(at) => put(0, &[*at], &[]),
            Self::Measure(at) => put(1, &[*at], &[]),
            Self::Hear(at, capacity) => put(2, &[*at], &capacity.signature.0),
            Self::Told(from, at, word) => put(3, &[*from, *at], format!("{word:?}").as_bytes()),
            Self::Reported(at, report) => put(4, &[*at], &report.signature.0),
            Self::Ledger(from, at, sent) => put(5, &[*from, *at], &sent.hash.0),
            Self::Gossiped(at, record) => put(6, &[*at], &record.signature.0),
            Self::Timer(at, life, token) => {
                put(7, &[*at], &[&life.to_le_bytes()[..], &token.0.to_le_bytes()].concat());
            }
            Self::Notice(at, other) => put(8, &[*at, *other], &[]),
            Self::Register(at, register) => put(9, &[*at], &register.container.0),
            Self::Ends(at, container) => put(10, &[*at], &container.0),
            Self::Start(at) => put(11, &[*at], &[]),
            Self::Wished(at, wish) => put(12, &[*at], format!("{wish:?}").as_bytes()),
            Self::Press(at, base) => put(13, &[*at], &base.0.to_le_bytes()),
            Self::Block(from, to, blocked) => put(14, &[*from, *to], &[u8::from(*blocked)]),
            Self::Fill(at, full) => put(15, &[*at], &[u8::from(*full)]),
            Self::Reclaim(offer) => put(16, &[], &offer.0),
            Self::Reform(change) => put(17, &[], format!("{change:?}").as_bytes()),
            Self::Lie(at) => put(18, &[*at], &[]),
            Self::Probe(at, retire) => put(19, &[*at], &[u8::from(*retire)]),
            Self::Fate => put(20, &[], &[]),
            Self::Clock(at, off) => put(21, &[*at], &off.to_le_bytes()),
            Self::Rebuild(at) => put(22, &[*at], &[]),
        }
    }
}

fn container(index: usize) -> ContainerId {
    let mut id = [0xc0; 16];
    id[8..].copy_from_slice(&(index as u64).to_be_bytes());
    ContainerId(id)
}
