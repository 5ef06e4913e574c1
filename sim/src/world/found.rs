//! What a run begins and ends with: a mesh before its first block, and the calm after the faults.

use ed25519_dalek::SigningKey;
use godwit_ledger::genesis::{Genesis, MAX_FOUNDERS};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Profile};
use godwit_protocol::membership::{Change, Member, Role};
use godwit_protocol::register::Register;
use godwit_protocol::site::Wish;
use godwit_protocol::{Address, Bytes, ContainerId, ImageId, Millis};

use super::{CLOCK_BOUND, FOUNDED, Happening, Summary, World, container};
use crate::check::{Checker, Violation};
use crate::engine::Copy;
use crate::host::{CONTAINER_CPU, CONTAINER_MEMORY, Host};
use crate::links::Links;
use crate::plan::{Dice, Faults, Plan};
use crate::witness::Witness;

/// Every so many containers one is stateless.
const STATELESS: usize = 4;

/// A block takes some hundred ms: how far admissions are apart.
const ADMISSION: Millis = Millis(200);

impl World {
    /// A mesh before its first block.
    ///
    /// # Panics
    /// If there are more sites or containers than addresses.
    #[must_use]
    pub fn new(plan: Plan, with_trace: bool) -> Self {
        let mut dice = Dice::new(plan.seed);
        let skew = u64::from(plan.faults.skew);
        // In a large mesh gossip of everybody to everybody would be most of the work.
        let gossip = Millis((plan.sites as u64 * 100).max(5_000));
        let mut hosts: Vec<Host> = (0..plan.sites)
            .map(|index| {
                let off = i64::try_from(dice.below(2 * skew + 1)).expect("small") - i64::try_from(skew).expect("small");
                Host::new(index, key(b"site", index), off, gossip)
            })
            .collect();
        hosts.sort_by_key(|host| host.id);
        for (site, behaviour) in &plan.liars {
            if let Some(host) = hosts.get_mut(*site) {
                (host.liar, host.lies) = (Some(behaviour.liar()), true);
            }
        }
        let genesis = Genesis {
            name: Text::clipped("simulated"),
            founded: FOUNDED,
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: CLOCK_BOUND.0,
            members: List::first(hosts.iter().enumerate().map(|(at, host)| member(host, at < plan.validators))),
        };
        let mut world = Self {
            faults: plan.faults,
            dice,
            now: FOUNDED,
            until: FOUNDED.after(plan.active),
            queue: std::collections::BTreeMap::new(),
            mesh: genesis.mesh(),
            places: hosts.iter().enumerate().map(|(at, host)| (host.id, at)).collect(),
            clients: (0..plan.containers).map(|index| key(b"client", index)).collect(),
            reports: 0,
            links: Links::new(hosts.len()),
            hosts,
            approved: Vec::new(),
            offered: std::collections::BTreeMap::new(),
            awarded: Vec::new(),
            witness: Witness::new(&genesis),
            checker: Checker::default(),
            hasher: blake3::Hasher::new(),
            trace: with_trace.then(Vec::new),
            summary: Summary { seed: plan.seed, ..Summary::default() },
            plan,
        };
        world.links.thin_out(world.faults.thin, &mut world.dice);
        world.found();
        world
    }

    fn found(&mut self) {
        for at in 0..self.hosts.len() {
            self.put(Millis(at as u64), Happening::Start(at));
            if self.hosts[at].lies {
                self.put(Millis(1_000), Happening::Lie(at));
            }
            // A genesis has room for so many; the others are admitted, one by one: an approval serves for one membership.
            if self.witness.state().member(&self.hosts[at].id).is_none() {
                let change = Change::Put(member(&self.hosts[at], false));
                let turn = ADMISSION.0 * (at - MAX_FOUNDERS) as u64;
                self.put(Millis(2_000 + turn), Happening::Reform(Box::new(change)));
            }
        }
        for index in 0..self.plan.containers {
            let at = index % self.hosts.len();
            let id = container(index);
            let late = index % 2 == 1;
            let kind = if index % STATELESS == STATELESS - 1 { Kind::Stateless } else { Kind::Stateful };
            let octets = u16::try_from(index + 2).expect("few containers").to_be_bytes();
            let address = Address([10, 77, octets[0], octets[1]].into());
            let mut register = register(id, kind, late, address, Millis(100 * index as u64));
            register.clients = List::first([self.clients[index].verifying_key().into()]);
            self.hosts[at].engine.copies.insert(id, Copy::Running { count: 0, since: FOUNDED, lacks: None });
            self.put(Millis(10), Happening::Register(at, Box::new(register)));
        }
        self.put(Millis(1_000), Happening::Fate);
    }

    /// Everything that went wrong is made whole, and nobody wants anything any more. Who lies goes on lying.
    pub(super) fn calm(&mut self) {
        self.faults = Faults { skew: self.faults.skew, ..Faults::NONE };
        self.links.open_all();
        for at in 0..self.hosts.len() {
            self.notice_all(at);
            self.put(Millis(0), Happening::Fill(at, false));
            self.put(Millis(0), Happening::Clock(at, 0));
            self.put(Millis(1), Happening::Start(at));
            self.put(Millis(2), Happening::Wished(at, Wish::Drain(false)));
            self.put(Millis(2), Happening::Press(at, Bytes(100 << 20)));
            self.put(Millis(100_000), Happening::Probe(at, false));
            self.put(Millis(200_000), Happening::Probe(at, true));
        }
        // An operator looks after what a site that lies or is lost has taken over and does not give back.
        for wait in [150_000, 250_000] {
            self.put(Millis(wait), Happening::Fate);
        }
    }

    /// A record is submitted of which the end must hear.
    pub(super) fn probe(&mut self, at: usize, retire: bool) -> Result<(), Violation> {
        let host = &self.hosts[at];
        let may_write = self.witness.state().is_eligible(&host.id);
        let mut id = [0xbe; 16];
        id[8..].copy_from_slice(&(at as u64).to_be_bytes());
        let id = ContainerId(id);
        if !host.is_sound() || !may_write {
            return Ok(());
        }
        let octets = u16::try_from(0xf000 + at % 0x0f00).expect("below the end of the range").to_be_bytes();
        let address = Address([10, 77, octets[0], octets[1]].into());
        if !retire {
            let register = register(id, Kind::Stateless, false, address, Millis(0));
            return self.write(at, godwit_protocol::Message::Register(register));
        }
        self.checker.probe(id);
        self.write(at, godwit_protocol::Message::Retire(godwit_protocol::register::Retire { container: id }))
    }
}

pub(super) fn member(host: &Host, votes: bool) -> Member {
    let role = if votes { Role::Validator } else { Role::Member };
    Member { site: host.id, role, name: Text::default(), addresses: List::default() }
}

fn register(container: ContainerId, kind: Kind, late: bool, address: Address, max_delay_ms: Millis) -> Register {
    let mode = match kind {
        Kind::Stateless => Mode::Restart,
        Kind::Stateful if late => Mode::PostCopy,
        Kind::Stateful => Mode::StopAndCopy,
    };
    let (cpu, memory) = (CONTAINER_CPU, CONTAINER_MEMORY);
    Register {
        container,
        name: Text::clipped("counter"),
        image: Image { id: ImageId([9; 32]), reference: Text::clipped("counter:1") },
        profile: Profile { cpu, memory, gpu: 0, kind, mode, max_delay_ms },
        address,
        clients: List::default(),
    }
}

fn key(kind: &[u8], index: usize) -> SigningKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind).update(&(index as u64).to_le_bytes());
    SigningKey::from_bytes(hasher.finalize().as_bytes())
}
