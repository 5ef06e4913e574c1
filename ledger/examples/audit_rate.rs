//! How many signatures a second an audit verifies, beside what this machine's processor verifies in one thread of nothing
//! else: `cargo run -p godwit-ledger --example audit_rate [SIGNATURES]`.
//!
//! Both are given by the clock and by processor time, which on a busy machine tells more.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};
use godwit_ledger::audit::{Auditor, Report};
use godwit_ledger::block::{Block, Certificate, Committed, precommit_bytes};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{Record, VerifiedRecord, record_id};
use godwit_ledger::rules::build;
use godwit_ledger::state::State;
use godwit_protocol::bid::{Decline, Reason};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Needs, Profile};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::offer::{DEFAULT_WINDOW, Offer, Why};
use godwit_protocol::register::Register;
use godwit_protocol::{
    Address, Bytes, ContainerId, Epoch, ImageId, Message, MilliCpu, Millis, OfferId, Signature, Signed, SiteId, Time,
    encode,
};

/// Containers that are offered, declined by all, and offered again.
const CONTAINERS: u8 = 25;

/// Of four validators, what a certificate holds at least.
const VOTES: usize = 3;

fn main() {
    let wanted = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let raw = raw_rate();
    println!("verify_strict in one thread, nothing else: {raw}");
    for records in [100, 10, 1] {
        let mut ledger = Ledger::new();
        let blocks = ledger.fill(wanted, records);
        let stopwatch = Stopwatch::start();
        let report = audit(&ledger.genesis, &blocks);
        let (rate, speed) = (stopwatch.rate(report.signatures), stopwatch.rate(report.height.0));
        println!(
            "audit on {cores} cores, {records} records a block: {} signatures, {rate}; {} blocks/s",
            report.signatures, speed.by_clock
        );
    }
}

/// Since when, by the clock and by this process' processor time in ms.
struct Stopwatch {
    begun: Instant,
    busy: u64,
}

/// So many in a second.
struct Rate {
    by_clock: u64,
    by_processor: u64,
}

impl Stopwatch {
    fn start() -> Self {
        Self { begun: Instant::now(), busy: busy_ms() }
    }

    fn rate(&self, count: u64) -> Rate {
        let took = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let busy = busy_ms().saturating_sub(self.busy);
        Rate { by_clock: count * 1000 / took.max(1), by_processor: count * 1000 / busy.max(1) }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s, {} per second of one processor", self.by_clock, self.by_processor)
    }
}

/// User and system time of all threads: hundredths of a second behind the program's name in brackets, see proc(5).
fn busy_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
}

/// The same signature again and again, over as many bytes as an offer has.
fn raw_rate() -> Rate {
    let key = key(0);
    let (public, bytes) = (key.verifying_key(), [7; 300]);
    let signature = key.sign(&bytes);
    let stopwatch = Stopwatch::start();
    let mut count = 0;
    while stopwatch.begun.elapsed().as_millis() < 2000 {
        assert!(black_box(&public).verify_strict(black_box(&bytes), black_box(&signature)).is_ok());
        count += 1;
    }
    stopwatch.rate(count)
}

fn audit(genesis: &Genesis, blocks: &[Vec<u8>]) -> Report {
    let auditor = Auditor::new(genesis).expect("a genesis");
    auditor.run(blocks.iter().cloned().map(Ok::<_, Infallible>), &mut |_| {}).expect("honest")
}

fn key(site: u8) -> SigningKey {
    SigningKey::from_bytes(&[site + 1; 32])
}

fn site(n: u8) -> SiteId {
    key(n).verifying_key().into()
}

/// A ledger of four validators in the making.
struct Ledger {
    genesis: Genesis,
    state: State,
    now: Time,
    sequences: [u64; 4],
    blocks: Vec<Vec<u8>>,
    signatures: usize,
}

impl Ledger {
    fn new() -> Self {
        let member = |n| Member {
            site: site(n),
            role: Role::Validator,
            name: Text::clipped(&format!("site-{n}")),
            addresses: List::default(),
        };
        let mut members: Vec<Member> = (0..4).map(member).collect();
        members.sort_by_key(|member| member.site);
        let genesis = Genesis {
            name: Text::clipped("rate"),
            founded: Time(1_000_000),
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: 200,
            members: List::first(members),
        };
        let state = State::genesis(&genesis);
        Self { genesis, state, now: Time(1_001_000), sequences: [0; 4], blocks: Vec::new(), signatures: 0 }
    }

    /// The encoded blocks of a ledger with so many signatures.
    fn fill(&mut self, signatures: usize, records: usize) -> Vec<Vec<u8>> {
        let registers: Vec<_> = (0..CONTAINERS).map(|n| self.sign(0, Message::Register(register(n)))).collect();
        self.commit(registers, records);
        while self.signatures < signatures {
            let offers: Vec<_> = (0..CONTAINERS).map(|n| self.sign(0, Message::Offer(offer(n)))).collect();
            let ids: Vec<OfferId> =
                offers.iter().map(|offer| record_id(&self.state.mesh(), offer).expect("small").into()).collect();
            let mut round = offers;
            for offer in ids {
                let decline = Decline { offer, attempt: 0, reason: Reason::Memory };
                round.extend((1..4).map(|by| self.sign(by, Message::Decline(decline.clone()))));
            }
            self.commit(round, records);
        }
        std::mem::take(&mut self.blocks)
    }

    fn sign(&mut self, by: u8, message: Message) -> VerifiedRecord {
        let sequence = &mut self.sequences[usize::from(by)];
        *sequence += 1;
        let record = Record { sequence: *sequence, expires: self.now.after(Millis(60_000)), message };
        Signed::sign(&self.state.mesh(), &key(by), record).expect("small")
    }

    fn commit(&mut self, records: Vec<VerifiedRecord>, a_block: usize) {
        for part in records.chunks(a_block) {
            self.now = self.now.after(Millis(10));
            let (block, applied, refused) = build(&self.state, site(0), self.now, part.to_vec());
            assert!(refused.is_empty(), "{refused:?}");
            self.signatures += part.len() + VOTES;
            let certificate = certify(&block);
            self.blocks.push(encode(&Committed { block, certificate }).expect("small"));
            self.state = applied.state;
        }
    }
}

fn certify(block: &Block) -> Certificate {
    let (height, hash) = (block.header.height, block.header.hash());
    let sign = |n: u8| {
        let bytes = precommit_bytes(&block.header.mesh, height, 0, hash, site(n));
        (site(n), Signature(key(n).sign(&bytes).to_bytes()))
    };
    Certificate { height, round: 0, block: hash, signatures: List::first((0..4).map(sign).take(VOTES)) }
}

fn register(n: u8) -> Register {
    Register {
        container: ContainerId([n; 16]),
        name: Text::clipped("counter"),
        image: Image { id: ImageId([9; 32]), reference: Text::clipped("counter:1") },
        profile: Profile {
            cpu: MilliCpu(500),
            memory: Bytes(64 << 20),
            gpu: 0,
            kind: Kind::Stateful,
            mode: Mode::StopAndCopy,
            max_delay_ms: Millis(1000),
        },
        address: Address([10, 77, 1, n].into()),
        clients: List::default(),
    }
}

fn offer(n: u8) -> Offer {
    Offer {
        container: ContainerId([n; 16]),
        epoch: Epoch(1),
        source_address: Address([192, 0, 2, 1].into()),
        size: Bytes(1 << 20),
        cpu: MilliCpu(500),
        gpu: 0,
        memory: Bytes(64 << 20),
        why: Why::Drain,
        needs: Needs {
            architecture: Text::clipped("x86_64"),
            cpu_features: List::default(),
            kernel: (5, 10),
            criu: 31_700,
            image: ImageId([9; 32]),
        },
        named: List::first((1..4).map(site)),
        window: DEFAULT_WINDOW,
    }
}
