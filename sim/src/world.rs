//! The world: a virtual clock, a queue of what happens next, and everything the sites cannot do for themselves.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::VerifiedRecord;
use godwit_ledger::replica::{self, TimerToken};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::Capacity;
use godwit_protocol::container::{Image, Kind, Mode, Profile};
use godwit_protocol::effect::Effect;
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::register::Register;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::site::{self, Wish};
use godwit_protocol::word::Word;
use godwit_protocol::{Address, Bytes, ContainerId, Dbm, Event, ImageId, MeshId, Millis, Signed, Time, Verified};

use crate::check::{Checker, Violation};
use crate::engine::{Asked, Copy};
use crate::host::{CONTAINER_CPU, CONTAINER_MEMORY, Host};
use crate::links::Links;
use crate::plan::{Dice, Faults, Plan};
use crate::witness::Witness;

mod engines;
mod ledger;
mod network;

/// When the virtual clock starts.
const FOUNDED: Time = Time(1_000_000_000);

/// How far clocks may be apart.
const CLOCK_BOUND: Millis = Millis(200);

/// How often a container is registered again while the ledger does not show it.
const REGISTER_AGAIN: Millis = Millis(5_000);

/// What happens at a time. Sites are named by their place.
#[derive(Clone, Debug)]
enum Happening {
    Tick(usize),
    Measure(usize),
    Hear(usize, Verified<Capacity>),
    Told(usize, usize, Word),
    Reported(usize, Verified<Report>),
    /// A replica's message, from and to, as it is on the wire.
    Ledger(usize, usize, Arc<[u8]>),
    Gossiped(usize, Box<VerifiedRecord>),
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
    /// Once a second: what operators, clients and fate do.
    Fate,
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
    /// Messages between replicas.
    pub messages: u64,
    /// What replicas held against others, all of them honest: late words and clocks that are off.
    pub suspicions: u64,
    /// Hash over every event, in hexadecimal.
    pub hash: String,
}

/// A mesh under a virtual clock.
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
    links: Links,
    witness: Witness,
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
            clock_bound_ms: CLOCK_BOUND.0,
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
            links: Links::default(),
            witness: Witness::new(&genesis),
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
        self.checker.settled(self.now, &self.hosts, &self.witness)?;
        self.summary.blocks = self.witness.height().0;
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
            self.put(Millis(10), Happening::Register(at, Box::new(register)));
        }
        self.put(Millis(1_000), Happening::Fate);
    }

    /// Everything that went wrong is made whole, and nobody wants anything any more.
    fn calm(&mut self) {
        self.faults = Faults { skew: self.faults.skew, ..Faults::NONE };
        self.links.open_all();
        for at in 0..self.hosts.len() {
            self.notice_all(at);
            self.put(Millis(1), Happening::Start(at));
            self.put(Millis(2), Happening::Wished(at, Wish::Drain(false)));
            self.put(Millis(2), Happening::Press(at, Bytes(100 << 20)));
        }
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
            Happening::Hear(at, capacity) => self.brain(at, site::Input::Capacity(capacity)),
            Happening::Told(from, at, word) => self.told(from, at, word),
            Happening::Reported(at, report) => self.brain(at, site::Input::Report(report)),
            Happening::Ledger(from, at, bytes) => self.heard(from, at, &bytes),
            Happening::Gossiped(at, record) => self.replica(at, replica::Input::Record(*record)),
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
            Happening::Fate => {
                self.fate();
                Ok(())
            }
        }
    }

    // Sites.

    fn start(&mut self, at: usize) -> Result<(), Violation> {
        if self.hosts[at].is_up() {
            return Ok(());
        }
        let state = self.witness.state_at(self.hosts[at].disk.height).clone();
        let effects = self.hosts[at].start(self.now, &state).map_err(|bad| Violation(format!("site {at}: {bad}")))?;
        if self.hosts[at].life == 1 {
            // Its timers run for as long as the world does.
            let phase = self.dice.below(250);
            self.put(Millis(phase), Happening::Tick(at));
            self.put(Millis(phase), Happening::Measure(at));
        }
        let mut queue = VecDeque::from([Step::Replica(replica::Input::Start)]);
        self.obey(at, effects, &mut queue)?;
        self.drain(at, queue)?;
        // Whoever took the life before for alive gets another connection.
        let id = self.hosts[at].id;
        for other in self.others(at) {
            if self.links.learn(other, at, false) {
                self.replica(other, replica::Input::Disconnected(id))?;
            }
        }
        self.notice_all(at);
        Ok(())
    }

    fn crash(&mut self, at: usize) {
        self.summary.crashes += 1;
        let unsynced = self.hosts[at].disk.unsynced.len() as u64;
        let kept = usize::try_from(self.dice.below(unsynced + 1)).expect("small");
        self.hosts[at].die(kept);
        self.links.forget(at);
        for other in self.others(at) {
            self.notice_later(other, at);
        }
        let life = self.hosts[at].life;
        self.say(|| format!("         site {at} dies, life {life}"));
        let is_long = self.dice.chance(2_000);
        let away = self.dice.span(if is_long { 5_000..60_000 } else { 100..3_000 });
        self.put(away, Happening::Start(at));
    }

    fn brain(&mut self, at: usize, input: site::Input) -> Result<(), Violation> {
        self.drain(at, VecDeque::from([Step::Brain(input)]))
    }

    fn replica(&mut self, at: usize, input: replica::Input) -> Result<(), Violation> {
        self.drain(at, VecDeque::from([Step::Replica(input)]))
    }

    /// Goes on until the site has nothing more to do, or dies.
    fn drain(&mut self, at: usize, mut queue: VecDeque<Step>) -> Result<(), Violation> {
        while let Some(step) = queue.pop_front() {
            let clock = self.hosts[at].clock(self.now);
            let Some(process) = &mut self.hosts[at].process else { return Ok(()) };
            match step {
                Step::Brain(input) => {
                    let effects = process.brain.step(clock, input);
                    self.obey(at, effects, &mut queue)?;
                    Checker::reserved(self.now, &self.hosts[at])?;
                }
                Step::Replica(input) => {
                    let effects = process.replica.step(clock, input);
                    self.perform(at, effects, &mut queue)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the process dies before it performs its next effect.
    fn dies(&mut self, at: usize) -> bool {
        let dies = self.faults.crash > 0 && self.dice.chance(self.faults.crash);
        if dies {
            self.crash(at);
        }
        dies
    }

    /// Does what the brain wants, in order.
    fn obey(&mut self, at: usize, effects: Vec<Effect>, queue: &mut VecDeque<Step>) -> Result<(), Violation> {
        for effect in effects {
            if self.dies(at) {
                break;
            }
            self.say(|| format!("         site {at}: {effect:?}"));
            match effect {
                Effect::Journal(promise) => self.hosts[at].disk.journal.push(promise),
                Effect::Append(message) => self.append(at, message, queue)?,
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
                    for to in self.others(at) {
                        self.deliver(at, to, |_| Happening::Hear(to, signed.clone()));
                    }
                }
                Effect::Tell(_) => {}
            }
        }
        Ok(())
    }

    fn told(&mut self, from: usize, at: usize, word: Word) -> Result<(), Violation> {
        match word {
            Word::Yield(signed) => match signed.verify(&self.mesh) {
                Ok(yielded) => self.brain(at, site::Input::Yielded(yielded)),
                Err(forged) => Err(Violation(format!("a yield of site {from}: {forged}"))),
            },
            Word::Report(signed) => match signed.verify(&self.mesh) {
                Ok(report) => self.brain(at, site::Input::Report(report)),
                Err(forged) => Err(Violation(format!("a report told by site {from}: {forged}"))),
            },
            Word::Preparing { offer, attempt } => {
                let from = self.hosts[from].id;
                self.brain(at, site::Input::Preparing { from, offer, attempt })
            }
            Word::ImageWanted { .. } => Ok(()),
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

    // Fate.

    fn fate(&mut self) {
        if self.now.since(FOUNDED) >= self.plan.active {
            return;
        }
        self.put(Millis(1_000), Happening::Fate);
        let at = usize::try_from(self.dice.below(self.hosts.len() as u64)).expect("an index");
        if self.dice.chance(1_000) {
            let container = container(usize::try_from(self.dice.below(self.clients.len() as u64)).expect("an index"));
            let owner = self.witness.state().container(&container).map(|known| known.owner);
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
            let (others, until) = (self.others(at), self.dice.span(500..40_000));
            self.part(&[at], &others, until);
        }
        if self.dice.chance(self.faults.split) {
            let side: Vec<usize> = (0..self.hosts.len()).filter(|_| self.dice.chance(5_000)).collect();
            let others: Vec<usize> = (0..self.hosts.len()).filter(|at| !side.contains(at)).collect();
            let until = self.dice.span(1_000..40_000);
            self.part(&side, &others, until);
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
        let since = self.now.since(FOUNDED).0;
        let _ = match happening {
            Happening::Ledger(from, to, bytes) => {
                self.hasher.update(bytes);
                write!(self.line, "{since} Ledger({from}, {to}, {} bytes)", bytes.len())
            }
            _ => write!(self.line, "{since} {happening:?}"),
        };
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
