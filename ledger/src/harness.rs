//! Replicas under a virtual clock: a small network whose delays, losses and crashes are drawn from a seed.
//!
//! It checks at every step what must hold always: nobody contradicts what it signed, what is signed is on disk before it
//! leaves, and all sites commit the same blocks. A failing run is repeated by its seed.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use godwit_protocol::bounded::List;
use godwit_protocol::evidence::Evidence;
use godwit_protocol::{Event, Hash, Millis, SiteId, Time, decode, encode};

use crate::block::{Committed, Height, VoteKind};
use crate::genesis::Genesis;
use crate::record::VerifiedRecord;
use crate::replica::{Config, Effect, Input, LedgerMessage, NotAppended, Offence, Replica, TimerToken};
use crate::state::State;

/// A generator whose whole sequence follows from its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True so many times in a thousand.
    pub fn per_mille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The shortest delay.
    pub delay: Millis,
    /// Up to so much more, each message by itself: they overtake each other.
    pub jitter: Millis,
    /// Messages lost in a thousand.
    pub lost: u64,
    /// Messages that come twice in a thousand.
    pub doubled: u64,
    /// Steps in a thousand that a crash interrupts, somewhere between two effects.
    pub crashes: u64,
    /// How far clocks are off, at most, in either direction.
    pub skew: Millis,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Self =
        Self { delay: Millis(2), jitter: Millis(0), lost: 0, doubled: 0, crashes: 0, skew: Millis(0) };
    /// Much goes wrong.
    pub const FOUL: Self =
        Self { delay: Millis(1), jitter: Millis(30), lost: 50, doubled: 50, crashes: 0, skew: Millis(40) };
}

/// What survives a crash of one site.
struct Disk {
    state: State,
    chain: Vec<Committed>,
    log: Vec<Vec<u8>>,
    unsynced: Vec<Vec<u8>>,
}

/// One site.
pub struct Site {
    key: SigningKey,
    id: SiteId,
    disk: Disk,
    replica: Option<Replica>,
    /// When it lost its disk, by its clock.
    forgot: Option<Time>,
    timers: BTreeSet<TimerToken>,
    skew: i64,
    /// What its replica reported.
    pub events: Vec<Event>,
    /// Own records that were not appended.
    pub refused: Vec<NotAppended>,
    /// What it saw others do wrong.
    pub offences: Vec<(SiteId, Offence)>,
    /// What it would say in the ledger about others.
    pub accusations: Vec<Evidence>,
}

enum Happening {
    Message { to: usize, from: usize, bytes: Vec<u8> },
    Gossip { to: usize, record: Box<VerifiedRecord> },
    Timer { site: usize, token: TimerToken },
    Restart { site: usize },
}

/// The network.
pub struct Network {
    /// The sites, in the order of the keys that were given.
    pub sites: Vec<Site>,
    weather: Weather,
    chance: Chance,
    now: Time,
    sequence: u64,
    agenda: BTreeMap<(Time, u64), Happening>,
    cut: BTreeSet<usize>,
    signed: BTreeMap<(SiteId, Height, u32, u8), Option<Hash>>,
    decided: BTreeMap<Height, Hash>,
    /// A running hash over all that happened: equal for equal seeds.
    pub trace: Hash,
    /// Messages sent so far.
    pub messages: u64,
    /// How many crashes there were.
    pub crashes: u64,
}

impl Network {
    /// Sites with these keys, all connected, started.
    #[must_use]
    pub fn new(genesis: &Genesis, keys: Vec<SigningKey>, weather: Weather, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let state = State::genesis(genesis);
        let mut site = |key: SigningKey| {
            let off = i64::try_from(chance.below(2 * weather.skew.0 + 1)).expect("small");
            Site {
                id: key.verifying_key().into(),
                key,
                disk: Disk { state: state.clone(), chain: Vec::new(), log: Vec::new(), unsynced: Vec::new() },
                replica: None,
                forgot: None,
                timers: BTreeSet::new(),
                skew: off - i64::try_from(weather.skew.0).expect("small"),
                events: Vec::new(),
                refused: Vec::new(),
                offences: Vec::new(),
                accusations: Vec::new(),
            }
        };
        let sites: Vec<Site> = keys.into_iter().map(&mut site).collect();
        let mut network = Self {
            sites,
            weather,
            chance,
            now: genesis.founded.after(Millis(1000)),
            sequence: 0,
            agenda: BTreeMap::new(),
            cut: BTreeSet::new(),
            signed: BTreeMap::new(),
            decided: BTreeMap::new(),
            trace: Hash::ZERO,
            messages: 0,
            crashes: 0,
        };
        (0..network.sites.len()).for_each(|site| network.start(site));
        network
    }

    /// The true time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// How far a site is.
    #[must_use]
    pub fn height(&self, site: usize) -> Height {
        self.sites[site].disk.state.height()
    }

    /// The state on a site's disk.
    #[must_use]
    pub fn state(&self, site: usize) -> &State {
        &self.sites[site].disk.state
    }

    /// The blocks on a site's disk.
    #[must_use]
    pub fn chain(&self, site: usize) -> &[Committed] {
        &self.sites[site].disk.chain
    }

    /// Whether nothing is under way and nobody waits for a timer: nothing will ever happen again by itself.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.agenda.values().all(|happening| match happening {
            Happening::Timer { site, token } => !self.sites[*site].timers.contains(token),
            _ => false,
        })
    }

    /// Submits a record at a site.
    pub fn submit(&mut self, site: usize, record: VerifiedRecord) {
        self.input(site, Input::Submit(record));
    }

    /// Gives a site's replica any input, for example a forged message.
    pub fn input(&mut self, site: usize, input: Input) {
        let clock = self.clock(site);
        let Some(replica) = &mut self.sites[site].replica else { return };
        let effects = replica.step(clock, input);
        let crash = self.weather.crashes > 0 && self.chance.per_mille(self.weather.crashes);
        let until = if crash { self.chance.below(effects.len() as u64 + 1) } else { u64::MAX };
        for (index, effect) in (0_u64..).zip(effects) {
            if index >= until {
                break;
            }
            self.perform(site, effect);
        }
        if crash {
            self.crash(site);
            let back = self.now.after(Millis(self.chance.below(300)));
            self.at(back, Happening::Restart { site });
        }
    }

    /// Kills a site: what it had not synced may be lost.
    pub fn crash(&mut self, site: usize) {
        self.crashes += 1;
        let kept = self.chance.below(self.sites[site].disk.unsynced.len() as u64 + 1);
        let dead = &mut self.sites[site];
        dead.replica = None;
        dead.timers.clear();
        let survives: Vec<_> = dead.disk.unsynced.drain(..).take(usize::try_from(kept).expect("small")).collect();
        dead.disk.log.extend(survives);
        for other in self.others(site) {
            let id = self.sites[site].id;
            self.input(other, Input::Disconnected(id));
        }
    }

    /// Starts a site from its disk, and connects it.
    pub fn start(&mut self, site: usize) {
        if self.sites[site].replica.is_some() {
            return;
        }
        let one = &mut self.sites[site];
        let config = Config { forgot: one.forgot, ..Config::new(one.key.clone()) };
        let replica = Replica::new(config, one.disk.state.clone(), &one.disk.log).expect("its own log");
        one.replica = Some(replica);
        self.input(site, Input::Start);
        for other in self.others(site) {
            self.connect(site, other);
        }
    }

    /// Kills a site that then loses all that is on its disk; whether it is told so when it starts.
    pub fn lose_disk(&mut self, site: usize, told: bool) {
        self.crash(site);
        let clock = self.clock(site);
        let one = &mut self.sites[site];
        let state = State::genesis(one.disk.state.founding());
        one.disk = Disk { state, chain: Vec::new(), log: Vec::new(), unsynced: Vec::new() };
        one.forgot = told.then_some(clock);
    }

    /// Whether a site has said a vote or a proposal on a height, in any of its lives.
    #[must_use]
    pub fn has_signed(&self, site: usize, height: Height) -> bool {
        let id = self.sites[site].id;
        self.signed.keys().any(|(author, at, ..)| *author == id && *at == height)
    }

    fn clock(&self, site: usize) -> Time {
        Time(self.now.0.saturating_add_signed(self.sites[site].skew))
    }

    /// Cuts a site off: its messages and those to it are lost.
    pub fn cut(&mut self, site: usize) {
        self.cut.insert(site);
        let id = self.sites[site].id;
        for other in self.others(site) {
            let them = self.sites[other].id;
            self.input(other, Input::Disconnected(id));
            self.input(site, Input::Disconnected(them));
        }
    }

    /// Connects a site again.
    pub fn heal(&mut self, site: usize) {
        self.cut.remove(&site);
        for other in self.others(site) {
            self.connect(site, other);
        }
    }

    /// No more losses, doublings and crashes from now on.
    pub fn clear_up(&mut self) {
        self.weather = Weather { lost: 0, doubled: 0, crashes: 0, ..self.weather };
    }

    /// Runs until the condition holds. False if `span` passed first, or nothing is left to happen.
    pub fn run_until(&mut self, span: Millis, condition: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.after(span);
        while !condition(self) {
            match self.agenda.first_key_value() {
                Some(((at, _), _)) if *at <= end => self.happen(),
                _ => {
                    self.now = end;
                    return condition(self);
                }
            }
        }
        true
    }

    /// Runs for a time.
    pub fn run(&mut self, span: Millis) {
        self.run_until(span, |_| false);
    }

    fn happen(&mut self) {
        let Some(((at, _), happening)) = self.agenda.pop_first() else { return };
        self.now = self.now.max(at);
        match happening {
            Happening::Message { to, from, bytes } => {
                if !self.is_connected(from, to) {
                    return;
                }
                let from = self.sites[from].id;
                let message: LedgerMessage = decode(&bytes).expect("what a replica sends can be decoded");
                self.note(&bytes);
                self.input(to, Input::Message { from, message });
            }
            Happening::Gossip { to, record } => {
                if !self.cut.contains(&to) {
                    self.input(to, Input::Record(*record));
                }
            }
            Happening::Timer { site, token } => {
                if self.sites[site].timers.remove(&token) {
                    self.note(&token.0.to_le_bytes());
                    self.input(site, Input::Timer(token));
                }
            }
            Happening::Restart { site } => self.start(site),
        }
    }

    fn perform(&mut self, site: usize, effect: Effect) {
        match effect {
            Effect::WalAppend(entry) => self.sites[site].disk.unsynced.push(entry),
            Effect::WalSync => {
                let disk = &mut self.sites[site].disk;
                disk.log.append(&mut disk.unsynced);
            }
            Effect::Send { to, message } => self.send(site, &[to], &message),
            Effect::Announce { to, message } => self.send(site, &to, &message),
            Effect::Broadcast(message) => {
                let validators = self.sites[site].disk.state.validators().to_vec();
                self.send(site, &validators, &message);
            }
            Effect::SetTimer { token, after } => {
                self.sites[site].timers.insert(token);
                self.at(self.now.after(after), Happening::Timer { site, token });
            }
            Effect::CancelTimers => self.sites[site].timers.clear(),
            Effect::Commit(commit) | Effect::Follow(commit) => {
                let (height, hash) = (commit.committed.certificate.height, commit.committed.block.header.hash());
                let first = *self.decided.entry(height).or_insert(hash);
                assert_eq!(first, hash, "all sites commit the same block at height {height}");
                let disk = &mut self.sites[site].disk;
                assert_eq!(height, disk.state.height().next(), "no height is left out or repeated");
                disk.state = commit.state;
                disk.chain.push(commit.committed);
                disk.log.clear();
                disk.unsynced.clear();
                self.sites[site].events.extend(commit.events);
            }
            Effect::ServeBlocks { to, from, most } => {
                let chain = &self.sites[site].disk.chain;
                let skip = usize::try_from(from.0.saturating_sub(1)).expect("small");
                let blocks = List::first(chain.iter().skip(skip).take(usize::from(most)).cloned());
                self.send(site, &[to], &LedgerMessage::Blocks(blocks));
            }
            Effect::Refused { why, .. } => self.sites[site].refused.push(why),
            Effect::Gossip(record) => {
                let mesh = self.sites[site].disk.state.mesh();
                let record = record.verify(&mesh).expect("a replica gossips what it verified");
                for to in self.others(site) {
                    if self.is_connected(site, to) && !self.chance.per_mille(self.weather.lost) {
                        let at = self.arrival();
                        self.at(at, Happening::Gossip { to, record: Box::new(record.clone()) });
                    }
                }
            }
            Effect::Misbehaved { site: other, what } => self.sites[site].offences.push((other, what)),
            Effect::Accuse(evidence) => self.sites[site].accusations.push(*evidence),
            Effect::Halt { why } => panic!("site {site} halted: {why}"),
            Effect::StoreSync => {}
            // All keep all blocks here, and ask for nothing else.
            Effect::ServeSnapshot { .. }
            | Effect::ServeChunk { .. }
            | Effect::KeepOffer(_)
            | Effect::KeepChunk { .. }
            | Effect::DropDownload
            | Effect::Adopt(_) => panic!("site {site}: {effect:?} where every site keeps all blocks"),
        }
    }

    fn send(&mut self, from: usize, to: &[SiteId], message: &LedgerMessage) {
        self.check_signed(from, message);
        let bytes = encode(message).expect("what a replica sends is within the codec's limit");
        for to in self.others(from).into_iter().filter(|other| to.contains(&self.sites[*other].id)).collect::<Vec<_>>()
        {
            self.messages += 1;
            if !self.is_connected(from, to) || self.chance.per_mille(self.weather.lost) {
                continue;
            }
            for _ in 0..=u8::from(self.chance.per_mille(self.weather.doubled)) {
                let at = self.arrival();
                self.at(at, Happening::Message { to, from, bytes: bytes.clone() });
            }
        }
    }

    /// Nothing signed leaves before it is on disk, and nobody signs two things for one round.
    fn check_signed(&mut self, from: usize, message: &LedgerMessage) {
        let (author, height, round, kind, block) = match message {
            LedgerMessage::Vote { vote, .. } => {
                let kind = match vote.body.kind {
                    VoteKind::Prevote => 1,
                    VoteKind::Precommit => 2,
                };
                (vote.author, vote.body.height, vote.body.round, kind, vote.body.block)
            }
            LedgerMessage::Proposal(proposed) => {
                let body = &proposed.proposal.body;
                (proposed.proposal.author, body.height, body.round, 0, Some(body.block))
            }
            _ => return,
        };
        let site = &self.sites[from];
        if author != site.id {
            return;
        }
        assert!(site.disk.unsynced.is_empty(), "site {from} says what it signed before its log is synced");
        let logged = self.sites[from].disk.log.iter().any(|entry| crate::replica::is_logged(entry, message));
        assert!(logged || height <= site.disk.state.height(), "site {from} says what it signed and did not log");
        let before = *self.signed.entry((author, height, round, kind)).or_insert(block);
        assert_eq!(before, block, "site {from} contradicts itself at height {height}, round {round}");
    }

    fn is_connected(&self, one: usize, other: usize) -> bool {
        let up = |site: usize| self.sites[site].replica.is_some() && !self.cut.contains(&site);
        up(one) && up(other)
    }

    fn connect(&mut self, one: usize, other: usize) {
        if self.is_connected(one, other) {
            let (a, b) = (self.sites[one].id, self.sites[other].id);
            self.input(one, Input::Connected(b));
            self.input(other, Input::Connected(a));
        }
    }

    fn others(&self, site: usize) -> Vec<usize> {
        (0..self.sites.len()).filter(|other| *other != site).collect()
    }

    fn arrival(&mut self) -> Time {
        let jitter = self.chance.below(self.weather.jitter.0 + 1);
        self.now.after(self.weather.delay).after(Millis(jitter))
    }

    fn at(&mut self, at: Time, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), happening);
    }

    fn note(&mut self, bytes: &[u8]) {
        self.trace = Hash::of_parts("trace", &[&self.trace.0, &self.now.0.to_le_bytes(), bytes]);
    }
}
