//! The world: a virtual clock, a queue of what happens next, and everything the sites cannot do for themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ed25519_dalek::SigningKey;
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{Record, VerifiedRecord, record_id};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::Capacity;
use godwit_protocol::container::{Image, Kind, Mode, Profile};
use godwit_protocol::effect::Effect;
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::register::Register;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::site::{Input, Wish};
use godwit_protocol::word::Word;
use godwit_protocol::{
    Address, Bytes, ContainerId, Dbm, Event, ImageId, MeshId, Message, Millis, RecordId, Signed, SiteId, Time, Verified,
};

use crate::chain::Chain;
use crate::check::{Checker, Violation};
use crate::engine::{Asked, Circumstances, Copy};
use crate::host::{CONTAINER_CPU, CONTAINER_MEMORY, Host};
use crate::plan::{Dice, Faults, Plan};

/// When the virtual clock starts.
const FOUNDED: Time = Time(1_000_000_000);

/// How long a record is worth anything: below the time after which a site takes an offer of its own for lost.
const LIFETIME: Millis = Millis(30_000);

/// How often a site repeats what the ledger has not shown.
const REPEAT: Millis = Millis(1_000);

/// What happens at a time. Sites are named by their place.
#[derive(Clone, Debug)]
enum Happening {
    Tick(usize),
    Measure(usize),
    Hear(usize, Verified<Capacity>),
    Told(usize, usize, Word),
    Reported(usize, Verified<Report>),
    Record(VerifiedRecord),
    Seal,
    Blocks(usize, usize),
    Refused(usize, u32, Message),
    Ends(usize, ContainerId),
    Start(usize),
    Wished(usize, Wish),
    Press(usize, Bytes),
    Cut(usize),
    Mend(usize),
    Resume,
    /// Once a second: what operators, clients and fate do.
    Fate,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Events handled.
    pub events: u64,
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
    /// Hash over every event, in hexadecimal.
    pub hash: String,
}

/// A mesh under a virtual clock.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    faults: Faults,
    dice: Dice,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    queued: u64,
    mesh: MeshId,
    hosts: Vec<Host>,
    clients: Vec<SigningKey>,
    reports: u64,
    chain: Chain,
    /// When the next block is due.
    seal_at: Option<Time>,
    is_halted: bool,
    checker: Checker,
    hasher: blake3::Hasher,
    trace: Option<Vec<String>>,
    line: String,
    summary: Summary,
}

impl World {
    /// A mesh before its first block.
    ///
    /// # Panics
    /// If there are more sites or containers than addresses.
    #[must_use]
    pub fn new(plan: Plan, with_trace: bool) -> Self {
        let mut dice = Dice::new(plan.seed);
        let skew = plan.faults.skew;
        let mut hosts: Vec<Host> = (0..plan.sites)
            .map(|index| {
                let off = i64::try_from(dice.below(2 * skew + 1)).expect("small") - i64::try_from(skew).expect("small");
                Host::new(index, key(b"site", index), off)
            })
            .collect();
        hosts.sort_by_key(|host| host.id);
        let member = |host: &Host| Member {
            site: host.id,
            role: Role::Validator,
            name: Text::default(),
            addresses: List::default(),
        };
        let mut members: Vec<Member> = hosts.iter().map(member).collect();
        for member in members.iter_mut().skip(4) {
            member.role = Role::Member;
        }
        let genesis = Genesis {
            name: Text::clipped("simulated"),
            founded: FOUNDED,
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: 200,
            members: List::new(members).expect("few sites"),
        };
        let mut world = Self {
            plan,
            faults: plan.faults,
            dice,
            now: FOUNDED,
            queue: BTreeMap::new(),
            queued: 0,
            mesh: genesis.mesh(),
            hosts,
            clients: (0..plan.containers).map(|index| key(b"client", index)).collect(),
            reports: 0,
            chain: Chain::new(&genesis),
            seal_at: None,
            is_halted: false,
            checker: Checker::default(),
            hasher: blake3::Hasher::new(),
            trace: with_trace.then(Vec::new),
            line: String::new(),
            summary: Summary { seed: plan.seed, ..Summary::default() },
        };
        world.found();
        world
    }

    /// Runs to the end of the plan.
    ///
    /// # Errors
    /// The first broken promise; [`World::trace`] tells how it came about.
    pub fn run(&mut self) -> Result<Summary, Violation> {
        let calm = FOUNDED.after(self.plan.active);
        self.run_until(calm)?;
        self.calm();
        self.run_until(calm.after(self.plan.settle))?;
        self.checker.settled(self.now, &self.hosts, &self.chain)?;
        self.summary.blocks = self.chain.height() as u64;
        self.summary.hash = self.hasher.finalize().to_hex().to_string();
        Ok(self.summary.clone())
    }

    /// Every event so far, if they were to be kept.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    fn run_until(&mut self, end: Time) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let happening = entry.remove();
            self.now = at;
            self.note(&happening);
            self.summary.events += 1;
            self.happen(happening)?;
        }
        self.now = end;
        Ok(())
    }

    // What runs begin and end with.

    fn found(&mut self) {
        for at in 0..self.hosts.len() {
            self.put(Millis(at as u64), Happening::Start(at));
        }
        for index in 0..self.plan.containers {
            let at = index % self.hosts.len();
            let id = container(index);
            let octets = u16::try_from(index + 2).expect("few containers").to_be_bytes();
            let register = Register {
                container: id,
                name: Text::clipped("counter"),
                image: Image { id: ImageId([9; 32]), reference: Text::clipped("counter:1") },
                profile: Profile {
                    cpu: CONTAINER_CPU,
                    memory: CONTAINER_MEMORY,
                    gpu: 0,
                    kind: Kind::Stateful,
                    mode: Mode::StopAndCopy,
                    max_delay_ms: Millis(100 * index as u64),
                },
                address: Address([10, 77, octets[0], octets[1]].into()),
                clients: List::first([self.clients[index].verifying_key().into()]),
            };
            self.hosts[at].engine.copies.insert(id, Copy::Running { count: 0, since: FOUNDED });
            let record = Record {
                sequence: index as u64 + 1,
                expires: FOUNDED.after(LIFETIME),
                message: Message::Register(register),
            };
            let record = Signed::sign(&self.mesh, &self.hosts[at].key, record).expect("a record is small");
            self.put(Millis(10), Happening::Record(record));
        }
        self.put(Millis(1_000), Happening::Fate);
    }

    /// Everything that went wrong is made whole, and nobody wants anything any more.
    fn calm(&mut self) {
        self.faults = Faults { skew: self.faults.skew, ..Faults::NONE };
        self.put(Millis(0), Happening::Resume);
        for at in 0..self.hosts.len() {
            self.put(Millis(0), Happening::Mend(at));
            self.put(Millis(1), Happening::Start(at));
            self.put(Millis(2), Happening::Wished(at, Wish::Drain(false)));
            self.put(Millis(2), Happening::Press(at, Bytes(100 << 20)));
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Tick(at) => {
                self.put(Millis(250), Happening::Tick(at));
                self.repeat(at);
                self.step(at, Input::Tick)
            }
            Happening::Measure(at) => {
                self.put(Millis(1_000), Happening::Measure(at));
                let load = self.hosts[at].load();
                self.step(at, Input::Load(load))
            }
            Happening::Hear(at, capacity) => self.step(at, Input::Capacity(capacity)),
            Happening::Told(from, at, word) => self.told(from, at, word),
            Happening::Reported(at, report) => self.step(at, Input::Report(report)),
            Happening::Record(record) => {
                self.chain.take(record);
                self.plan_seal();
                Ok(())
            }
            Happening::Seal => self.seal(),
            Happening::Blocks(at, height) => self.follow(at, height),
            Happening::Refused(at, life, message) if self.hosts[at].life == life => {
                self.step(at, Input::Refused(message))
            }
            Happening::Refused(..) => Ok(()),
            Happening::Ends(at, container) => self.ends(at, container),
            Happening::Start(at) => self.start(at),
            Happening::Wished(at, wish) => self.step(at, Input::Operator(wish)),
            Happening::Press(at, base) => {
                self.hosts[at].base = base;
                Ok(())
            }
            Happening::Cut(at) => {
                self.hosts[at].is_cut = true;
                Ok(())
            }
            Happening::Mend(at) => {
                self.hosts[at].is_cut = false;
                self.put(Millis(5), Happening::Blocks(at, self.chain.height()));
                Ok(())
            }
            Happening::Resume => {
                self.is_halted = false;
                self.seal_at = None;
                self.plan_seal();
                Ok(())
            }
            Happening::Fate => {
                self.fate();
                Ok(())
            }
        }
    }

    // Sites.

    fn start(&mut self, at: usize) -> Result<(), Violation> {
        if self.hosts[at].brain.is_some() {
            return Ok(());
        }
        let state = self.chain.state_at(self.hosts[at].height).clone();
        let effects = self.hosts[at].start(self.now, &state);
        if self.hosts[at].life == 1 {
            // Its timers run for as long as the world does.
            let phase = self.dice.below(250);
            self.put(Millis(phase), Happening::Tick(at));
            self.put(Millis(phase), Happening::Measure(at));
        }
        self.put(Millis(5), Happening::Blocks(at, self.chain.height()));
        self.perform(at, effects);
        Ok(())
    }

    fn crash(&mut self, at: usize) {
        self.summary.crashes += 1;
        self.hosts[at].die();
        let life = self.hosts[at].life;
        self.say(|| format!("         site {at} dies, life {life}"));
        let is_long = self.dice.chance(2_000);
        let away = self.dice.span(if is_long { 5_000..60_000 } else { 100..3_000 });
        self.put(away, Happening::Start(at));
    }

    fn step(&mut self, at: usize, input: Input) -> Result<(), Violation> {
        let clock = self.hosts[at].clock(self.now);
        let Some(brain) = self.hosts[at].brain.as_mut() else { return Ok(()) };
        let effects = brain.step(clock, input);
        self.perform(at, effects);
        Checker::reserved(self.now, &self.hosts[at])
    }

    /// Performs effects in order; the process may die before any of them.
    fn perform(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            if self.faults.crash > 0 && self.dice.chance(self.faults.crash) {
                return self.crash(at);
            }
            self.say(|| format!("         site {at}: {effect:?}"));
            match effect {
                Effect::Journal(promise) => self.hosts[at].journal.push(promise),
                Effect::Append(message) => self.append(at, message),
                Effect::Yield { to, body } => {
                    let signed = Signed::sign(&self.mesh, &self.hosts[at].key, body).expect("a yield is small");
                    self.send(at, to, Word::Yield(signed.into_signed()));
                }
                Effect::Say { to, word } => self.send(at, to, word),
                Effect::Do(task) => {
                    let life = self.hosts[at].life;
                    if self.hosts[at].engine.ask(Asked { task: task.clone(), life }) {
                        self.begin(at, &task);
                    }
                }
                Effect::Gossip(capacity) => {
                    let signed = Signed::sign(&self.mesh, &self.hosts[at].key, capacity).expect("small");
                    for to in (0..self.hosts.len()).filter(|to| *to != at) {
                        self.deliver(at, to, |_| Happening::Hear(to, signed.clone()));
                    }
                }
                Effect::Tell(_) => {}
            }
        }
    }

    fn told(&mut self, from: usize, at: usize, word: Word) -> Result<(), Violation> {
        match word {
            Word::Yield(signed) => match signed.verify(&self.mesh) {
                Ok(yielded) => self.step(at, Input::Yielded(yielded)),
                Err(forged) => Err(Violation(format!("a yield of site {from}: {forged}"))),
            },
            Word::Report(signed) => match signed.verify(&self.mesh) {
                Ok(report) => self.step(at, Input::Report(report)),
                Err(forged) => Err(Violation(format!("a report told by site {from}: {forged}"))),
            },
            Word::Preparing { offer, attempt } => {
                let from = self.hosts[from].id;
                self.step(at, Input::Preparing { from, offer, attempt })
            }
            _ => Ok(()),
        }
    }

    // The network.

    fn send(&mut self, from: usize, to: SiteId, word: Word) {
        let Some(to) = self.hosts.iter().position(|host| host.id == to) else { return };
        self.deliver(from, to, |from| Happening::Told(from, to, word.clone()));
    }

    fn deliver(&mut self, from: usize, to: usize, make: impl Fn(usize) -> Happening) {
        for _ in 0..=u32::from(self.dice.chance(self.faults.twice)) {
            if self.dice.chance(self.faults.loss) || self.hosts[from].is_cut || self.hosts[to].is_cut {
                continue;
            }
            let delay = self.delay();
            self.put(delay, make(from));
        }
    }

    fn delay(&mut self) -> Millis {
        if self.dice.chance(self.faults.late) { self.dice.span(100..6_000) } else { self.dice.span(1..20) }
    }

    // The ledger.

    fn append(&mut self, at: usize, message: Message) {
        let host = &mut self.hosts[at];
        host.sequence += 1;
        let expires = host.clock(self.now).after(LIFETIME);
        let record = Record { sequence: host.sequence, expires, message };
        let record = Signed::sign(&self.mesh, &host.key, record).expect("a record is small");
        let id = record_id(&self.mesh, &record).expect("a record is small");
        host.outbox.insert(id, record.clone());
        self.submit(at, record);
    }

    fn submit(&mut self, at: usize, record: VerifiedRecord) {
        for _ in 0..=u32::from(self.dice.chance(self.faults.twice)) {
            if self.dice.chance(self.faults.loss) || self.hosts[at].is_cut {
                continue;
            }
            let delay = self.delay();
            self.put(delay, Happening::Record(record.clone()));
        }
    }

    /// What was said and not yet seen is said again; what can no longer take effect is given up.
    fn repeat(&mut self, at: usize) {
        if self.hosts[at].brain.is_none() {
            return;
        }
        self.give_up(at, &BTreeSet::new());
        if self.now.0 % REPEAT.0 < 250 {
            let again: Vec<_> = self.hosts[at].outbox.values().cloned().collect();
            for record in again {
                self.submit(at, record);
            }
        }
    }

    /// Drops what was committed; tells the brain of what the ledger will never take.
    fn give_up(&mut self, at: usize, committed: &BTreeSet<RecordId>) {
        let state = self.chain.state_at(self.hosts[at].height).clone();
        let clock = self.hosts[at].clock(self.now);
        let life = self.hosts[at].life;
        let mut refused = vec![];
        self.hosts[at].outbox.retain(|id, record| {
            if committed.contains(id) {
                return false;
            }
            match state.check(record, id, clock) {
                Err(refusal) if !refusal.may_pass_later() => {
                    refused.push((record.body.message.clone(), refusal));
                    false
                }
                _ => true,
            }
        });
        for (message, refusal) in refused {
            self.say(|| format!("         site {at}: {} refused: {refusal}", message.name()));
            self.put(Millis(0), Happening::Refused(at, life, message));
        }
    }

    /// A block follows soon on a record that waits, and on time for an auction that is due.
    fn plan_seal(&mut self) {
        let soon = self.chain.has_news().then(|| self.now.after(self.dice.span(3..30)));
        let due = self.chain.state().due().map(|due| due.max(self.now).after(Millis(1)));
        let Some(at) = soon.into_iter().chain(due).min() else { return };
        if !self.is_halted && self.seal_at.is_none_or(|planned| at < planned) {
            self.seal_at = Some(at);
            self.put(at.since(self.now), Happening::Seal);
        }
    }

    fn seal(&mut self) -> Result<(), Violation> {
        if self.seal_at != Some(self.now) {
            return Ok(());
        }
        self.seal_at = None;
        if !self.is_halted && self.chain.seal(self.now) {
            let height = self.chain.height();
            let block = self.chain.block(height).clone();
            for event in &block.events {
                self.say(|| format!("         block {height}: {event:?}"));
                self.count(event);
                self.checker.committed(event)?;
            }
            for at in 0..self.hosts.len() {
                if !self.hosts[at].is_cut {
                    let delay = self.delay();
                    self.put(delay, Happening::Blocks(at, height));
                }
            }
        }
        self.plan_seal();
        Ok(())
    }

    /// A site hears of blocks up to a height and applies those it lacks.
    fn follow(&mut self, at: usize, height: usize) -> Result<(), Violation> {
        while self.hosts[at].height < height && self.hosts[at].brain.is_some() && !self.hosts[at].is_cut {
            let next = self.hosts[at].height + 1;
            let block = self.chain.block(next).clone();
            // On disk before anything follows from it.
            self.hosts[at].height = next;
            let life = self.hosts[at].life;
            for event in block.events {
                if self.hosts[at].life != life || self.hosts[at].brain.is_none() {
                    return Ok(());
                }
                self.step(at, Input::Ledger { time: block.time, event })?;
            }
            self.give_up(at, &block.records);
        }
        Ok(())
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

    // Engines.

    fn begin(&mut self, at: usize, task: &Task) {
        let usual = match task.action {
            Action::Serve { .. } => 1..50,
            Action::Prepare { .. } => 50..900,
            Action::Freeze { .. } => 20..500,
            Action::Fetch { .. } => 20..1_500,
            Action::Resume | Action::Thaw => 20..400,
            Action::Discard | Action::Release => 5..100,
        };
        let span = self.dice.span(usual);
        let times = if self.dice.chance(self.faults.slow) { 30 } else { 1 };
        self.put(Millis(span.0 * times), Happening::Ends(at, task.container));
    }

    fn ends(&mut self, at: usize, container: ContainerId) -> Result<(), Violation> {
        let Some(asked) = self.hosts[at].engine.current(&container) else { return Ok(()) };
        let before = self.hosts[at].engine.copies.get(&container).copied();
        let fails = self.dice.chance(self.faults.task);
        let world = Circumstances { now: self.now, fails, source: self.source_copy(at, &asked.task) };
        let Some((asked, outcome, next)) = self.hosts[at].engine.finish(&container, world) else { return Ok(()) };
        let Task { offer, action, .. } = asked.task;
        self.say(|| format!("         site {at}: {action:?} of {container:?}: {outcome:?}"));
        self.summary.failures += u64::from(matches!(outcome, Outcome::Failed(_)));
        if let Some(next) = next {
            self.begin(at, &next.task);
        }
        self.checker.performed(self.now, &self.hosts, at, &asked.task, before, &self.chain)?;
        if asked.life == self.hosts[at].life {
            self.step(at, Input::Outcome { offer, action, outcome })?;
        }
        Ok(())
    }

    /// What the source has of a container, if it can be asked: its process serves what is pulled.
    fn source_copy(&self, at: usize, task: &Task) -> Option<Copy> {
        let (Action::Prepare { source } | Action::Fetch { source, .. }) = task.action else { return None };
        let source = self.hosts.iter().find(|host| host.id == source)?;
        let reachable = source.brain.is_some() && !source.is_cut && !self.hosts[at].is_cut;
        if reachable { source.engine.copies.get(&task.container).copied() } else { None }
    }

    // Fate.

    fn fate(&mut self) {
        if self.now.since(FOUNDED) >= self.plan.active {
            return;
        }
        self.put(Millis(1_000), Happening::Fate);
        let at = usize::try_from(self.dice.below(self.hosts.len() as u64)).expect("an index");
        if self.dice.chance(1_000) {
            let container = container(usize::try_from(self.dice.below(self.clients.len() as u64)).expect("an index"));
            let owner = self.chain.state().container(&container).map(|known| known.owner);
            let place = self.hosts.iter().position(|host| Some(host.id) == owner);
            let prefer = self.dice.chance(5_000).then_some(self.hosts[at].id);
            if let Some(place) = place {
                self.put(Millis(0), Happening::Wished(place, Wish::Migrate { container, prefer }));
            }
        }
        if self.dice.chance(200) {
            let until = self.dice.span(5_000..40_000);
            self.put(Millis(0), Happening::Wished(at, Wish::Drain(true)));
            self.put(until, Happening::Wished(at, Wish::Drain(false)));
        }
        if self.dice.chance(1_000) {
            let base = Bytes(self.dice.below(2_400) << 20);
            self.put(Millis(0), Happening::Press(at, base));
        }
        if self.dice.chance(1_000) {
            self.drive(at);
        }
        if self.dice.chance(self.faults.cut) {
            let until = self.dice.span(500..40_000);
            self.put(Millis(0), Happening::Cut(at));
            self.put(until, Happening::Mend(at));
        }
        if self.dice.chance(self.faults.halt) && !self.is_halted {
            self.is_halted = true;
            let until = self.dice.span(1_000..40_000);
            self.put(until, Happening::Resume);
        }
    }

    /// A client drives towards a site and says so to some site.
    fn drive(&mut self, towards: usize) {
        let which = usize::try_from(self.dice.below(self.clients.len() as u64)).expect("an index");
        self.reports += 1;
        let signals = self
            .hosts
            .iter()
            .enumerate()
            .map(|(at, host)| Signal { site: host.id, dbm: if at == towards { Dbm(-60) } else { Dbm(-100) } });
        let report = Report { sequence: self.reports, at: self.now, signals: List::first(signals) };
        let report = Signed::sign(&self.mesh, &self.clients[which], report).expect("a report is small");
        let to = usize::try_from(self.dice.below(self.hosts.len() as u64)).expect("an index");
        self.put(Millis(3), Happening::Reported(to, report));
    }

    // The queue and its record.

    fn put(&mut self, delay: Millis, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now.after(delay), self.queued), happening);
    }

    fn note(&mut self, happening: &Happening) {
        self.line.clear();
        let _ = write!(self.line, "{} {happening:?}", self.now.since(FOUNDED).0);
        self.hasher.update(self.line.as_bytes());
        if let Some(trace) = &mut self.trace {
            trace.push(self.line.clone());
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }
}

fn container(index: usize) -> ContainerId {
    let mut id = [0xc0; 16];
    id[8..].copy_from_slice(&(index as u64).to_be_bytes());
    ContainerId(id)
}

fn key(kind: &[u8], index: usize) -> SigningKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind).update(&(index as u64).to_le_bytes());
    SigningKey::from_bytes(hasher.finalize().as_bytes())
}
