//! A mesh whose keys are known, with a short history: what comes from outside is read in its midst.

use std::sync::LazyLock;

use ed25519_dalek::SigningKey;
use godwit_ledger::block::{Block, Certificate, Committed, precommit_bytes};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{Record, VerifiedRecord};
use godwit_ledger::replica::{Config, Replica};
use godwit_ledger::rules;
use godwit_ledger::state::State;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Needs, Profile};
use godwit_protocol::membership::{Member, Role};
use godwit_protocol::offer::{DEFAULT_WINDOW, Offer, Why};
use godwit_protocol::register::Register;
use godwit_protocol::signed::sign_bytes;
use godwit_protocol::{
    Address, Bytes, ContainerId, Epoch, ImageId, Message, MilliCpu, Millis, RecordId, Signed, SiteId, Time,
};

/// Sites: four validators, a member, an observer.
pub const SITES: u8 = 6;

/// Who certifies blocks.
const SIGNERS: u8 = 3;

/// The mesh.
pub static MESH: LazyLock<Mesh> = LazyLock::new(Mesh::new);

/// Its founding document, its blocks, and the state after each.
pub struct Mesh {
    /// The founding document.
    pub genesis: Genesis,
    /// The blocks.
    pub chain: Vec<Committed>,
    /// The state after the last.
    pub state: State,
    /// The id of its one open offer's record.
    pub offer: RecordId,
}

/// The key of a site.
#[must_use]
pub fn key(site: u8) -> SigningKey {
    SigningKey::from_bytes(&[site + 1; 32])
}

/// A site.
#[must_use]
pub fn site(number: u8) -> SiteId {
    key(number).verifying_key().into()
}

/// Its container.
#[must_use]
pub fn register(number: u8) -> Register {
    Register {
        container: ContainerId([number; 16]),
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
        address: Address([10, 77, 1, number].into()),
        clients: List::first([key(100).verifying_key().into()]),
    }
}

/// An offer of its container.
#[must_use]
pub fn offer(number: u8) -> Offer {
    Offer {
        container: ContainerId([number; 16]),
        epoch: Epoch(1),
        source_address: Address([192, 0, 2, 1].into()),
        size: Bytes(1 << 20),
        cpu: MilliCpu(500),
        gpu: 0,
        memory: Bytes(64 << 20),
        why: Why::Drain,
        needs: Needs {
            architecture: Text::clipped("x86_64"),
            cpu_features: List::first([Text::clipped("avx2")]),
            kernel: (5, 10),
            criu: 31_700,
            image: ImageId([9; 32]),
        },
        named: List::first([site(1), site(2), site(3)]),
        window: DEFAULT_WINDOW,
    }
}

impl Mesh {
    fn new() -> Self {
        let role = |number: u8| match number {
            0..4 => Role::Validator,
            4 => Role::Member,
            _ => Role::Observer,
        };
        let member = |number: u8| Member {
            site: site(number),
            role: role(number),
            name: Text::clipped(&format!("site-{number}")),
            addresses: List::default(),
        };
        let mut members: Vec<Member> = (0..SITES).map(member).collect();
        members.sort_by_key(|member| member.site);
        let genesis = Genesis {
            name: Text::clipped("outside"),
            founded: Time(1_000_000),
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: 200,
            members: List::first(members),
        };
        genesis.check().expect("a valid genesis");
        let state = State::genesis(&genesis);
        let mut mesh = Self { genesis, chain: Vec::new(), state, offer: RecordId([0; 32]) };
        mesh.append(0, Message::Register(register(1)));
        mesh.append(1, Message::Register(register(2)));
        mesh.offer = mesh.append(0, Message::Offer(offer(1)));
        mesh
    }

    /// When the next block may be built.
    #[must_use]
    pub fn now(&self) -> Time {
        self.state.time().max(self.genesis.founded).after(Millis(10))
    }

    /// A message as a site's next record.
    ///
    /// # Panics
    /// When it is too large for a record.
    #[must_use]
    pub fn sign(&self, by: u8, message: Message) -> VerifiedRecord {
        let (sequence, expires) = (self.state.next_sequence(&site(by)), self.now().after(Millis(60_000)));
        Signed::sign(&self.genesis.mesh(), &key(by), Record { sequence, expires, message }).expect("small")
    }

    /// A validator's replica at the end of the history.
    ///
    /// # Panics
    /// Never: its log is empty.
    #[must_use]
    pub fn replica(&self, number: u8) -> Replica {
        Replica::new(Config::new(key(number)), self.state.clone(), &[]).expect("an empty log")
    }

    /// A block's certificate.
    ///
    /// # Panics
    /// Never: a few signatures are few.
    #[must_use]
    pub fn certify(&self, block: &Block) -> Certificate {
        let (height, hash) = (block.header.height, block.header.hash());
        let sign = |number: u8| {
            let bytes = precommit_bytes(&block.header.mesh, height, 0, hash, site(number));
            (site(number), sign_bytes(&key(number), &bytes))
        };
        Certificate { height, round: 0, block: hash, signatures: List::first((0..SIGNERS).map(sign)) }
    }

    fn append(&mut self, by: u8, message: Message) -> RecordId {
        let record = self.sign(by, message);
        let id = godwit_ledger::record::record_id(&self.genesis.mesh(), &record).expect("small");
        let (block, applied, refused) = rules::build(&self.state, site(0), self.now(), vec![record]);
        assert!(refused.is_empty(), "{refused:?}");
        self.chain.push(Committed { certificate: self.certify(&block), block });
        self.state = applied.state;
        id
    }
}
