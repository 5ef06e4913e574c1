//! Sites that lie: one behaviour a file. Each is an honest site's brain and replica whose words are bent on their way out,
//! so that it stays in step with the mesh and does harm where it counts.
//!
//! A behaviour knows its own key only: what it cannot sign, it can only forge.

mod bad_proposer;
mod capacity_liar;
mod corrupt_server;
mod double_yielder;
mod equivocating_proposer;
mod equivocating_voter;
mod false_history;
mod flooder;
mod idle_bidder;
mod receipt_forger;
mod replayer;
mod vote_withholder;

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use godwit_ledger::block::Block;
use godwit_ledger::record::{Record, VerifiedRecord};
use godwit_ledger::replica::{LedgerMessage, Proposal, Proposed};
use godwit_ledger::state::State;
use godwit_protocol::bounded::List;
use godwit_protocol::effect::Effect;
use godwit_protocol::{Hash, MeshId, Message, Millis, Signed, SiteId, Time};

use crate::plan::Dice;

/// What a lying site knows and has.
pub struct Scene<'a> {
    /// Its key.
    pub key: &'a SigningKey,
    /// Itself.
    pub me: SiteId,
    /// The mesh.
    pub mesh: MeshId,
    /// Its clock.
    pub now: Time,
    /// The state after its last block.
    pub state: &'a State,
    /// Its source of chance.
    pub dice: &'a mut Dice,
    /// Numbers its forged records.
    pub sequence: &'a mut u64,
}

/// What a lying site does of its own accord.
pub enum Deed {
    /// Says to all.
    SayAll(LedgerMessage),
    /// Has its own replica submit it.
    Submit(Box<VerifiedRecord>),
}

/// How a site lies. What is not overridden it does honestly.
pub trait Byzantine: fmt::Debug + Send {
    /// What one site gets to hear instead of a message of the replica.
    fn say(&mut self, _: &mut Scene<'_>, _to: SiteId, message: LedgerMessage) -> Vec<LedgerMessage> {
        vec![message]
    }

    /// What it does instead of one effect of the brain.
    fn obey(&mut self, _: &mut Scene<'_>, effect: Effect) -> Vec<Effect> {
        vec![effect]
    }

    /// What its replica hears.
    fn hear(&mut self, _: &LedgerMessage) {}

    /// What it does once a second.
    fn act(&mut self, _: &mut Scene<'_>) -> Vec<Deed> {
        Vec::new()
    }

    /// Whether what it serves of a frozen container is other than what it yielded.
    fn spoils(&self) -> bool {
        false
    }
}

/// Names a behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented at its module
pub enum Behaviour {
    BadProposer,
    CapacityLiar,
    CorruptServer,
    DoubleYielder,
    EquivocatingProposer,
    EquivocatingVoter,
    FalseHistory,
    Flooder,
    IdleBidder,
    ReceiptForger,
    Replayer,
    VoteWithholder,
}

impl Behaviour {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::BadProposer,
        Self::CapacityLiar,
        Self::CorruptServer,
        Self::DoubleYielder,
        Self::EquivocatingProposer,
        Self::EquivocatingVoter,
        Self::FalseHistory,
        Self::Flooder,
        Self::IdleBidder,
        Self::ReceiptForger,
        Self::Replayer,
        Self::VoteWithholder,
    ];

    /// As the command line knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadProposer => "bad-proposer",
            Self::CapacityLiar => "capacity-liar",
            Self::CorruptServer => "corrupt-server",
            Self::DoubleYielder => "double-yielder",
            Self::EquivocatingProposer => "equivocating-proposer",
            Self::EquivocatingVoter => "equivocating-voter",
            Self::FalseHistory => "false-history",
            Self::Flooder => "flooder",
            Self::IdleBidder => "idle-bidder",
            Self::ReceiptForger => "receipt-forger",
            Self::Replayer => "replayer",
            Self::VoteWithholder => "vote-withholder",
        }
    }

    /// A site that behaves so.
    #[must_use]
    pub fn liar(self) -> Box<dyn Byzantine> {
        match self {
            Self::BadProposer => Box::new(bad_proposer::BadProposer),
            Self::CapacityLiar => Box::new(capacity_liar::CapacityLiar),
            Self::CorruptServer => Box::new(corrupt_server::CorruptServer),
            Self::DoubleYielder => Box::new(double_yielder::DoubleYielder),
            Self::EquivocatingProposer => Box::new(equivocating_proposer::EquivocatingProposer),
            Self::EquivocatingVoter => Box::new(equivocating_voter::EquivocatingVoter::default()),
            Self::FalseHistory => Box::new(false_history::FalseHistory),
            Self::Flooder => Box::new(flooder::Flooder::default()),
            Self::IdleBidder => Box::new(idle_bidder::IdleBidder::default()),
            Self::ReceiptForger => Box::new(receipt_forger::ReceiptForger),
            Self::Replayer => Box::new(replayer::Replayer::default()),
            Self::VoteWithholder => Box::new(vote_withholder::VoteWithholder),
        }
    }
}

impl FromStr for Behaviour {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|behaviour| behaviour.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|behaviour| behaviour.name()).collect();
            format!("`{name}` is none of {}", names.join(", "))
        })
    }
}

impl Scene<'_> {
    /// Half of the mesh, always the same one: it hears one thing, the other half another.
    fn is_in_one_half(&self, site: &SiteId) -> bool {
        (site.0[0] ^ self.me.0[0]) & 1 == 0
    }

    /// A record of its own, properly signed.
    fn record(&mut self, message: Message) -> VerifiedRecord {
        // Beside the numbers that its replica uses.
        *self.sequence += 1;
        let sequence = self.state.next_sequence(&self.me) + 300 + *self.sequence % 600;
        let record = Record { sequence, expires: self.now.after(Millis(20_000)), message };
        Signed::sign(&self.mesh, self.key, record).expect("a record is small")
    }

    /// A proposal of this block, properly signed.
    fn propose(&self, like: &Proposal, block: Block) -> LedgerMessage {
        let body = Proposal { block: block.header.hash(), proposer: self.me, ..*like };
        let proposal = Signed::sign(&self.mesh, self.key, body).expect("a proposal is small").into_signed();
        LedgerMessage::Proposal(Box::new(Proposed { proposal, block }))
    }

    /// Whether the block is its own new one, which it may bend without anybody having seen it.
    fn is_own(&self, proposed: &Proposed) -> bool {
        proposed.proposal.author == self.me
            && proposed.proposal.body.polka.is_none()
            && proposed.block.header.proposer == self.me
            && proposed.block.header.height == self.state.height().next()
    }
}

/// Records on their way past gossip.
fn sent(records: impl IntoIterator<Item = VerifiedRecord>) -> LedgerMessage {
    LedgerMessage::Records(List::first(records.into_iter().map(VerifiedRecord::into_signed)))
}

/// A hash that is nobody's.
fn stray(dice: &mut Dice) -> Hash {
    Hash(dice.bytes())
}
