//! A mesh for tests: members with keys, and the messages of a handoff with every precondition met.

use ed25519_dalek::SigningKey;
use godwit_protocol::abort::{Abort, Reclaim, ReclaimApproval, Then};
use godwit_protocol::bid::{Bid, Decline, Reason};
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::container::{Image, Kind, Mode, Needs, Profile};
use godwit_protocol::done::{Done, Spans};
use godwit_protocol::evidence::Evidence;
use godwit_protocol::membership::{Change, Member, Membership, Proposal, Role, Rotation};
use godwit_protocol::offer::{DEFAULT_WINDOW, Offer, Why};
use godwit_protocol::receipt::{Ready, Receipt};
use godwit_protocol::register::Register;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::signed::sign_bytes;
use godwit_protocol::vote::{Height, Vote, VoteKind};
use godwit_protocol::yield_::Yield;
use godwit_protocol::{
    Address, Bytes, ContainerId, Dbm, Epoch, Event, Hash, ImageId, Message, MilliCpu, Millis, OfferId, PerMille,
    RecordId, Signed, SiteId, Time,
};

use crate::block::{Block, Certificate, Committed, precommit_bytes};
use crate::genesis::Genesis;
use crate::proof::records_root;
use crate::record::{Record, SignedRecord, VerifiedRecord, record_id};
use crate::refusal::Refusal;
use crate::rules::{Applied, BadBlock, build, validate, verify_records};
use crate::state::State;

/// When test meshes are founded.
pub const FOUNDED: Time = Time(1_000_000);

/// The mesh's clock bound.
pub const CLOCK_BOUND: u64 = 200;

/// A mesh whose sites are numbered from 0. Sites 0 to 3 are validators.
pub struct Mesh {
    pub genesis: Genesis,
    pub state: State,
    /// The last block's time or later: the next block's.
    pub now: Time,
    pub chain: Vec<Committed>,
    /// The state as read back from its snapshot: it must judge every block as the state does.
    twin: State,
    /// Who builds blocks.
    pub proposer: u8,
    /// Who certifies blocks.
    pub signers: Vec<u8>,
    sequence: u64,
}

pub fn key(site: u8) -> SigningKey {
    SigningKey::from_bytes(&[site + 1; 32])
}

pub fn site(n: u8) -> SiteId {
    key(n).verifying_key().into()
}

pub fn client_key(client: u8) -> SigningKey {
    SigningKey::from_bytes(&[200 + client; 32])
}

pub fn member(n: u8, role: Role) -> Member {
    Member { site: site(n), role, name: Text::clipped(&format!("site-{n}")), addresses: List::default() }
}

pub fn container(n: u8) -> ContainerId {
    ContainerId([n; 16])
}

pub fn register(n: u8) -> Register {
    Register {
        container: container(n),
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
        clients: List::first([client_key(0).verifying_key().into(), client_key(1).verifying_key().into()]),
    }
}

pub fn offer(n: u8, epoch: u64, named: &[u8]) -> Offer {
    Offer {
        container: container(n),
        epoch: Epoch(epoch),
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
        named: List::new(named.iter().map(|n| site(*n)).collect()).expect("few"),
        window: DEFAULT_WINDOW,
    }
}

pub fn bid(offer: OfferId, load: u16) -> Message {
    Message::Bid(Bid { offer, same_network: false, load: PerMille(load), downtime_ms: Millis(50) })
}

pub fn decline(offer: OfferId, attempt: u32) -> Message {
    Message::Decline(Decline { offer, attempt, reason: Reason::Memory })
}

pub fn ready(offer: OfferId, attempt: u32) -> Message {
    Message::Ready(Ready { offer, attempt })
}

pub fn abort(offer: OfferId, attempt: u32, then: Then) -> Message {
    Message::Abort(Abort { offer, attempt, then, reason: Reason::Silent })
}

pub fn done(offer: OfferId) -> Message {
    Message::Done(Done { offer, spans: Spans::default(), bytes: Bytes(1), late_root: Hash::ZERO })
}

impl Mesh {
    /// Four validators, a member (4), an observer (5).
    pub fn new() -> Self {
        Self::with(&[(4, Role::Member), (5, Role::Observer)])
    }

    /// Four validators and these.
    pub fn with(others: &[(u8, Role)]) -> Self {
        let validators = (0..4).map(|n| (n, Role::Validator));
        let mut members: Vec<Member> =
            validators.chain(others.iter().copied()).map(|(n, role)| member(n, role)).collect();
        members.sort_by_key(|member| member.site);
        let genesis = Genesis {
            name: Text::clipped("test"),
            founded: FOUNDED,
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: CLOCK_BOUND,
            members: List::new(members).expect("few"),
        };
        genesis.check().expect("a valid genesis");
        let (state, twin) = (State::genesis(&genesis), State::genesis(&genesis));
        Self {
            genesis,
            state,
            twin,
            now: Time(FOUNDED.0 + 1000),
            chain: Vec::new(),
            proposer: 0,
            signers: vec![0, 1, 2],
            sequence: 0,
        }
    }

    /// Signs a message as the site's next record.
    pub fn sign(&mut self, by: u8, message: Message) -> VerifiedRecord {
        self.sequence += 1;
        // One counter for all keeps every author's numbers unique; tests have far fewer records than the window.
        self.sign_as(by, self.sequence, self.now.after(Millis(60_000)), message)
    }

    pub fn sign_as(&self, by: u8, sequence: u64, expires: Time, message: Message) -> VerifiedRecord {
        Signed::sign(&self.state.mesh(), &key(by), Record { sequence, expires, message }).expect("small")
    }

    pub fn id(&self, record: &VerifiedRecord) -> RecordId {
        self.id_of(record)
    }

    pub fn id_of(&self, record: &SignedRecord) -> RecordId {
        record_id(&self.state.mesh(), record).expect("small")
    }

    /// Commits records that must all be accepted, 10 ms after the block before.
    pub fn commit(&mut self, records: Vec<VerifiedRecord>) -> Vec<Event> {
        self.now = self.now.after(Millis(10));
        let (block, applied, refused) = build(&self.state, site(0), self.now, records);
        assert_eq!(refused, Vec::new(), "no record is refused");
        self.append(block, applied)
    }

    /// Commits an empty block when it is due.
    pub fn commit_due(&mut self) -> Vec<Event> {
        self.now = self.state.due().expect("something is due");
        let (block, applied, _) = build(&self.state, site(0), self.now, Vec::new());
        self.append(block, applied)
    }

    /// Commits those of the records that hold, if there are any or a block is due; gives the refusals of the others.
    pub fn commit_what_holds(
        &mut self,
        at: Time,
        records: Vec<VerifiedRecord>,
    ) -> (Vec<Event>, Vec<(RecordId, Refusal)>) {
        self.now = at;
        let (block, applied, refused) = build(&self.state, site(self.proposer), at, records);
        if block.records.is_empty() && self.state.due().is_none_or(|due| at < due) {
            return (Vec::new(), refused);
        }
        (self.append(block, applied), refused)
    }

    fn append(&mut self, block: Block, applied: Applied) -> Vec<Event> {
        let verified = verify_records(&self.state.mesh(), &block).expect("its signatures hold");
        for judge in [&self.state, &self.twin] {
            let judged = validate(judge, &block, &verified).expect("what build makes is valid");
            assert_eq!(judged.events, applied.events, "builder and validator agree");
            assert_eq!((judged.state.root(), judged.state.tip()), (applied.state.root(), applied.state.tip()));
        }
        let snapshot = applied.state.encode();
        // Its root is computed from scratch and compared with the header's.
        self.twin = State::decode(&self.genesis, &snapshot).expect("a snapshot is read back");
        assert_eq!(self.twin.encode(), snapshot);
        let certificate = self.certify(&block, &self.signers);
        self.chain.push(Committed { block, certificate });
        self.state = applied.state;
        applied.events
    }

    pub fn judge(&self, block: &Block) -> Result<Applied, BadBlock> {
        validate(&self.state, block, &verify_records(&self.state.mesh(), block)?)
    }

    pub fn certify(&self, block: &Block, signers: &[u8]) -> Certificate {
        let (height, hash) = (block.header.height, block.header.hash());
        let sign = |n: &u8| {
            let bytes = precommit_bytes(&block.header.mesh, height, 0, hash, site(*n));
            (site(*n), sign_bytes(&key(*n), &bytes))
        };
        let signatures = List::new(signers.iter().map(sign).collect()).expect("few");
        Certificate { height, round: 0, block: hash, signatures }
    }

    /// Commits one message; gives the record's id as an offer's.
    pub fn say(&mut self, by: u8, message: Message) -> OfferId {
        let record = self.sign(by, message);
        let id = self.id(&record);
        self.commit(vec![record]);
        id.into()
    }

    /// The refusal of a message, on which mempool, proposer and validator must agree.
    pub fn refusal(&mut self, by: u8, message: Message) -> Refusal {
        let record = self.sign(by, message);
        self.refusal_of(record)
    }

    pub fn refusal_of(&self, record: VerifiedRecord) -> Refusal {
        let (at, id) = (self.now.after(Millis(10)), self.id(&record));
        let refusal = self.state.check(&record, at).expect_err("the mempool refuses it");
        let (empty, _, _) = build(&self.state, site(0), at, Vec::new());
        let (block, _, refused) = build(&self.state, site(0), at, vec![record.clone()]);
        assert_eq!(refused, vec![(id, refusal.clone())], "the proposer leaves it out");
        assert_eq!(block, empty, "a refused record leaves no trace");
        let mut forced = block;
        forced.records = List::first([record.into_signed()]);
        forced.header.records = records_root(&[id]);
        let judged = self.judge(&forced).expect_err("a block that holds it is invalid");
        assert_eq!(judged, BadBlock::Refused { index: 0, id, source: refusal.clone() });
        refusal
    }

    /// Container `n` of site 0, on offer to sites 1, 2 and 3.
    pub fn offered(&mut self, n: u8) -> OfferId {
        self.say(0, Message::Register(register(n)));
        self.say(0, Message::Offer(offer(n, 1, &[1, 2, 3])))
    }

    /// As [`Mesh::offered`], with bids: 1 wins, then 2, then 3.
    pub fn awarded(&mut self, n: u8) -> OfferId {
        let offer = self.offered(n);
        for by in 1..=3 {
            self.say(by, bid(offer, u16::from(by) * 100));
        }
        offer
    }

    /// As [`Mesh::awarded`], with the receipt of 1.
    pub fn received(&mut self, n: u8) -> OfferId {
        let offer = self.awarded(n);
        self.say(1, ready(offer, 1));
        let receipt = self.receipt(offer, 1, 1);
        self.say(1, receipt);
        offer
    }

    /// The receipt of a site for site 0's offer at its first epoch.
    pub fn receipt(&self, offer: OfferId, attempt: u32, target: u8) -> Message {
        let root = Hash::of(b"manifest");
        let yielded = Yield {
            offer,
            attempt,
            target: site(target),
            epoch: Epoch(1),
            root,
            freeze_ms: Millis(7),
            collect_ms: Millis(5),
        };
        self.receipt_of(0, offer, attempt, yielded)
    }

    pub fn receipt_of(&self, source: u8, offer: OfferId, attempt: u32, yielded: Yield) -> Message {
        let yielded = Signed::sign(&self.state.mesh(), &key(source), yielded).expect("small").into_signed();
        Message::Receipt(Receipt { offer, attempt, yielded })
    }

    pub fn report(&self, client: u8, at: Time, signals: &[(u8, i16)]) -> Signed<Report> {
        let signals = signals.iter().map(|(n, dbm)| Signal { site: site(*n), dbm: Dbm(*dbm) });
        let report = Report { sequence: 1, at, signals: List::first(signals) };
        Signed::sign(&self.state.mesh(), &client_key(client), report).expect("small").into_signed()
    }

    pub fn reclaim(&self, offer: OfferId, epoch: u64, approvers: &[u8]) -> Message {
        let consent = ReclaimApproval { offer, epoch: Epoch(epoch) };
        let approve = |n: &u8| Signed::sign(&self.state.mesh(), &key(*n), consent).expect("small").into_signed();
        Message::Reclaim(Reclaim { offer, approvals: List::first(approvers.iter().map(approve)) })
    }

    pub fn membership(&self, epoch: u64, change: Change, approvers: &[u8]) -> Message {
        let proposal = Proposal { epoch, change };
        let approve =
            |n: &u8| Signed::sign(&self.state.mesh(), &key(*n), proposal.clone()).expect("small").into_signed();
        let approvals = List::first(approvers.iter().map(approve));
        Message::Membership(Membership { proposal, approvals })
    }

    /// A site goes on under the key of another number.
    pub fn rotation(&self, old: u8, new: u8) -> Change {
        let rotation = Rotation { old: site(old) };
        Change::Rotate(Signed::sign(&self.state.mesh(), &key(new), rotation).expect("small").into_signed())
    }

    /// A precommit of round 0.
    pub fn vote(&self, by: u8, height: u64, block: Option<u8>) -> Signed<Vote> {
        let block = block.map(|n| Hash([n; 32]));
        let (kind, height) = (VoteKind::Precommit, Height(height));
        let vote = Vote { kind, height, round: 0, block, validator: site(by) };
        Signed::sign(&self.state.mesh(), &key(by), vote).expect("small").into_signed()
    }

    /// That a site voted for a block and for none.
    pub fn evidence(&self, culprit: u8, height: u64) -> Evidence {
        Evidence::Votes(self.vote(culprit, height, Some(1)), self.vote(culprit, height, None))
    }

    pub fn accuse(&self, culprit: u8, height: u64) -> Message {
        Message::Evidence(self.evidence(culprit, height))
    }

    pub fn mobility(&self, n: u8, report: Signed<Report>) -> Message {
        Message::Offer(Offer { why: Why::Mobility { report }, ..offer(n, 1, &[1, 2, 3]) })
    }
}
