//! One site's host: what outlives its process (journal, followed blocks, engine) and what does not (the brain).

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use godwit_ledger::record::VerifiedRecord;
use godwit_ledger::state::State;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::capacity::{Platform, Share};
use godwit_protocol::effect::Effect;
use godwit_protocol::handoff::{Patience, Promise};
use godwit_protocol::policy::Limits;
use godwit_protocol::site::{Config, Load, Site, Use};
use godwit_protocol::{Address, Bytes, ContainerId, MilliCpu, Millis, RecordId, SiteId, Time};

use crate::engine::{Copy, Engine};

/// What every simulated site has.
pub const MEMORY: Bytes = Bytes(4096 << 20);
/// What every simulated site has.
pub const CPU: MilliCpu = MilliCpu(8_000);
/// What a simulated container takes.
pub const CONTAINER_MEMORY: Bytes = Bytes(400 << 20);
/// What a simulated container takes.
pub const CONTAINER_CPU: MilliCpu = MilliCpu(500);

/// Sequence numbers left unused at a start: those of records that an earlier life said and nobody has yet seen.
const SKIPPED: u64 = 64;

/// A site and what is under it.
#[derive(Debug)]
pub struct Host {
    /// Its identity.
    pub id: SiteId,
    /// Its key.
    pub key: SigningKey,
    /// How far its clock is ahead; negative if behind.
    pub skew: i64,
    /// The brain; none while the process is dead.
    pub brain: Option<Site>,
    /// Counts the process's lives.
    pub life: u32,
    /// Survives the process.
    pub journal: Vec<Promise>,
    /// Blocks applied; survives the process.
    pub height: usize,
    /// Survives the process.
    pub engine: Engine,
    /// Records said, until committed, refused or expired; dies with the process.
    pub outbox: BTreeMap<RecordId, VerifiedRecord>,
    /// The last sequence number used in this life.
    pub sequence: u64,
    /// Memory that other programs use.
    pub base: Bytes,
    /// Whether nothing reaches it and nothing of it gets out.
    pub is_cut: bool,
    config: Config,
}

impl Host {
    /// A site that has not started.
    #[must_use]
    pub fn new(index: usize, key: SigningKey, skew: i64) -> Self {
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
            patience: Patience::default(),
            window: Millis(1_000),
            gossip: Millis(5_000),
            stale: Millis(15_000),
        };
        Self {
            id,
            key,
            skew,
            brain: None,
            life: 0,
            journal: vec![],
            height: 0,
            engine: Engine::default(),
            outbox: BTreeMap::new(),
            sequence: 0,
            base: Bytes(400 << 20),
            is_cut: false,
            config,
        }
    }

    /// What its clock says.
    #[must_use]
    pub fn clock(&self, now: Time) -> Time {
        Time(now.0.saturating_add_signed(self.skew))
    }

    /// Starts the process from what survived; gives what the brain wants done first.
    pub fn start(&mut self, now: Time, state: &State) -> Vec<Effect> {
        let clock = self.clock(now);
        let members = state.members().map(|member| (member.site, member.role)).collect();
        let mut brain = Site::new(self.config.clone(), members, clock.0);
        let effects = brain.recover(clock, state.known(clock), state.open(), &self.binding());
        self.life += 1;
        self.sequence = state.next_sequence(&self.id) + SKIPPED;
        self.brain = Some(brain);
        effects
    }

    /// The process dies.
    pub fn die(&mut self) {
        self.brain = None;
        self.outbox.clear();
        self.engine.orphan();
    }

    /// The promises of offers that are not closed: what a rewritten journal holds.
    #[must_use]
    pub fn binding(&self) -> Vec<Promise> {
        let mut last = BTreeMap::new();
        for promise in &self.journal {
            last.insert(promise.offer(), matches!(promise, Promise::Closed { .. }));
        }
        self.journal.iter().filter(|promise| !last[&promise.offer()]).cloned().collect()
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
        self.brain
            .as_ref()
            .and_then(|brain| brain.capacity(self.clock(now)))
            .map_or((Bytes(0), MilliCpu(0)), |capacity| (capacity.memory.reserved, capacity.cpu.reserved))
    }

    /// What its operator set.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}
