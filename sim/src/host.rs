//! One site's host: what outlives its process (disk, engine) and what does not (brain, replica).

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use godwit_ledger::author::Author;
use godwit_ledger::replica::{self, BadWal, Replica, TimerToken};
use godwit_ledger::state::State;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::{Platform, Share};
use godwit_protocol::effect::Effect;
use godwit_protocol::handoff::{Patience, Promise};
use godwit_protocol::planted::{self, Bug};
use godwit_protocol::policy::Limits;
use godwit_protocol::site::{Config, Load, Site, Use};
use godwit_protocol::{Address, Bytes, ContainerId, MilliCpu, Millis, SiteId, Time};

use crate::byzantine::Byzantine;
use crate::disk::Disk;
use crate::engine::{Copy, Engine};

/// What every simulated site has.
pub const MEMORY: Bytes = Bytes(4096 << 20);
/// What every simulated site has.
pub const CPU: MilliCpu = MilliCpu(8_000);
/// What a simulated container takes.
pub const CONTAINER_MEMORY: Bytes = Bytes(400 << 20);
/// What a simulated container takes.
pub const CONTAINER_CPU: MilliCpu = MilliCpu(500);

/// What dies with the process.
pub struct Process {
    /// Decides.
    pub brain: Site,
    /// Agrees.
    pub replica: Replica,
    /// Writes its records.
    pub author: Author,
    /// The replica's timers that are set.
    pub timers: BTreeSet<TimerToken>,
}

/// A site and what is under it.
pub struct Host {
    /// Its identity.
    pub id: SiteId,
    /// Its key.
    pub key: SigningKey,
    /// The key that is to take its place, once the ledger says so.
    pub next_key: Option<SigningKey>,
    /// How far its clock is ahead; negative if behind.
    pub skew: i64,
    /// How far it has jumped, besides.
    pub jump: i64,
    /// None while it is dead.
    pub process: Option<Process>,
    /// Counts the process's lives.
    pub life: u32,
    /// Survives the process.
    pub disk: Disk,
    /// Survives the process.
    pub engine: Engine,
    /// Memory that other programs use.
    pub base: Bytes,
    /// How it lies, if it does.
    pub liar: Option<Box<dyn Byzantine>>,
    /// It lies, whether or not it is just at it.
    pub lies: bool,
    /// Nothing can be written.
    pub is_full: bool,
    /// It is gone for good, with all that was on it.
    pub is_lost: bool,
    /// Numbers what it forges.
    pub forged: u64,
    config: Config,
}

impl Host {
    /// A site that has not started, which gossips at this interval.
    #[must_use]
    pub fn new(index: usize, key: SigningKey, skew: i64, gossip: Millis) -> Self {
        let id: SiteId = key.verifying_key().into();
        let octet = u8::try_from(index % 250).expect("below 250") + 1;
        let config = Config {
            me: id,
            address: Address([192, 0, 2, octet].into()),
            network: Text::clipped(if index.is_multiple_of(2) { "even" } else { "odd" }),
            platform: Platform {
                architecture: Text::clipped("x86_64"),
                cpu_features: List::default(),
                kernel: (6, 1),
                criu: 31_700,
            },
            limits: Limits { dwell: Millis(5_000), retry: Millis(10_000), ..Limits::default() },
            patience: Patience { prepare: Millis(90_000), ..Patience::default() },
            window: Millis(1_000),
            gossip,
            stale: Millis(3 * gossip.0),
        };
        Self {
            id,
            key,
            next_key: None,
            skew,
            jump: 0,
            process: None,
            life: 0,
            disk: Disk::default(),
            engine: Engine::default(),
            base: Bytes(400 << 20),
            liar: None,
            lies: false,
            is_full: false,
            is_lost: false,
            forged: 0,
            config,
        }
    }

    /// What its clock says.
    #[must_use]
    pub fn clock(&self, now: Time) -> Time {
        Time(now.0.saturating_add_signed(self.skew + self.jump))
    }

    /// Starts the process from what survived, the state being that of the disk's height.
    ///
    /// # Errors
    /// [`BadWal`] if the replica refuses its own write-ahead log.
    pub fn start(&mut self, now: Time, state: &State) -> Result<(), BadWal> {
        let brain = Site::new(self.config.clone(), self.clock(now).0);
        let config = replica::Config { forgot: self.disk.forgot, ..replica::Config::new(self.key.clone()) };
        let replica = Replica::new(config, state.clone(), &self.disk.log)?;
        let author = Author::new(state, self.key.clone());
        self.life += 1;
        self.process = Some(Process { brain, replica, author, timers: BTreeSet::new() });
        Ok(())
    }

    /// The brain recovers, once its replica knows all that it can have acted on; gives what it wants done first.
    pub fn wake(&mut self, now: Time) -> Vec<Effect> {
        let may_wake = |process: &Process| !process.brain.is_awake() && process.replica.is_current();
        // Asked after every step of the replica: the journal is read only when the brain needs it.
        if !self.process.as_ref().is_some_and(may_wake) {
            return Vec::new();
        }
        let (clock, binding) = (self.clock(now), self.binding());
        let Some(Process { brain, replica, .. }) = &mut self.process else { return Vec::new() };
        let state = replica.state();
        brain.recover(clock, state.roles(), state.known(clock), state.open(), &binding)
    }

    /// Whether it does not vote yet, or would not: its ledger was lost.
    #[must_use]
    pub fn has_forgotten(&self, state: &State) -> bool {
        let bound = Millis(state.founding().clock_bound_ms);
        self.disk.forgot.is_some_and(|forgot| state.time() <= forgot.after(bound).after(bound))
    }

    /// Whether the ledger may know it by this identity: its own, or the one that it is to have.
    #[must_use]
    pub fn is_known_as(&self, site: SiteId) -> bool {
        self.id == site || self.next_id() == Some(site)
    }

    /// The identity that it is to have.
    #[must_use]
    pub fn next_id(&self) -> Option<SiteId> {
        self.next_key.as_ref().map(|key| key.verifying_key().into())
    }

    /// Whether a state knows it by its next key already.
    #[must_use]
    pub fn is_renewed_in(&self, state: &State) -> bool {
        self.next_id().is_some_and(|next| state.member(&next).is_some())
    }

    /// Goes on under its next key, if this state knows it by that; gives the identity that it had.
    pub fn rotate(&mut self, state: &State) -> Option<SiteId> {
        if !self.is_renewed_in(state) {
            return None;
        }
        let key = self.next_key.take()?;
        let old = std::mem::replace(&mut self.id, key.verifying_key().into());
        (self.key, self.config.me) = (key, self.id);
        Some(old)
    }

    /// Whether promises can be expected of it: it neither lies nor is gone.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.lies && !self.is_lost
    }

    /// Whether the process lives.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The process dies.
    pub fn die(&mut self, now: Time) {
        self.process = None;
        if planted::is(Bug::CrashThaws) {
            self.engine.thaw_all(now);
        }
        self.engine.orphan();
    }

    /// The promises of offers that are not closed: what a rewritten journal holds.
    #[must_use]
    pub fn binding(&self) -> Vec<Promise> {
        let mut last = BTreeMap::new();
        for promise in &self.disk.journal {
            last.insert(promise.offer(), matches!(promise, Promise::Closed { .. }));
        }
        self.disk.journal.iter().filter(|promise| !last[&promise.offer()]).cloned().collect()
    }

    /// What the monitor measures now.
    #[must_use]
    pub fn load(&self) -> Load {
        let running = |copy: &Copy| matches!(copy, Copy::Running { .. });
        let containers: BTreeMap<ContainerId, Use> = self
            .engine
            .copies
            .iter()
            .filter(|(_, copy)| running(copy))
            .map(|(id, _)| (*id, Use { cpu: CONTAINER_CPU, memory: CONTAINER_MEMORY, layer: Bytes(1 << 20) }))
            .collect();
        let many = containers.len() as u64;
        Load {
            cpu: Share {
                total: CPU,
                used: MilliCpu(u32::try_from(many).unwrap_or(u32::MAX).saturating_mul(CONTAINER_CPU.0)),
                reserved: MilliCpu(0),
            },
            memory: Share {
                total: MEMORY,
                used: self.base.plus(Bytes(CONTAINER_MEMORY.0.saturating_mul(many))),
                reserved: Bytes(0),
            },
            gpu: Share::default(),
            engine_absent: false,
            containers,
        }
    }

    /// What it keeps free for containers on their way.
    #[must_use]
    pub fn reserved(&self, now: Time) -> (Bytes, MilliCpu) {
        self.process
            .as_ref()
            .and_then(|process| process.brain.capacity(self.clock(now)))
            .map_or((Bytes(0), MilliCpu(0)), |capacity| (capacity.memory.reserved, capacity.cpu.reserved))
    }

    /// What its operator set.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}
