//! One site's replica of the ledger: hosts Malachite's consensus core and follows what was decided.
//!
//! Invariant: knows nothing of sockets, disks, clocks, threads or chance. [`Replica::step`] takes the time and one input
//! and gives the effects, in the order in which they must be performed: what is written ahead comes before the
//! [`Effect::WalSync`] that comes before what was signed.
//!
//! A validator that lost its write-ahead log may contradict what it said before the loss: it is started with
//! [`Config::forgot`], follows without a word, and votes again once no height is left on which it may have voted.
//!
//! Non-goals: blocks are not split: one travels whole, beside its proposal.
//!
//! The core has gotchas; each is dealt with where its number is named:
//!  1. its proposal-only mode takes every value for valid: blocks are fed with our own verdict (`judge`);
//!  2. it goes on rebroadcasting after a decision: all timers are cancelled (`advance`), and who votes on a decided height
//!     is told how far we are (`on_past`);
//!  3. words of the next height are kept while this one is decided (`on_future`);
//!  4. the order of recovery (`recover`); values are built after it (`propose`);
//!  5. its target time reads a clock: it gets none (`begin`);
//!  6. a bad certificate of its own making would be fatal: whatever comes from outside is verified first (`vet`);
//!  7. certificates are not canonical: a block's identity is its header's hash, and no hash covers a certificate;
//!  8. a certificate covers height, round and value only: the value is the hash of a header that holds all the rest.

mod consensus;
mod context;
mod entry;
mod fetch;
mod follow;
mod host;
mod mempool;
mod message;
mod outbox;
mod past;
mod proposer;
mod records;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use godwit_protocol::evidence::Evidence;
use godwit_protocol::planted::{self, Bug};
use godwit_protocol::{Event, Forged, Malformed, Millis, RecordId, SiteId, Time};
use malachitebft_core_consensus::{Params, State as Core};
use malachitebft_core_types::{Timeout, ValuePayload};

use crate::block::{BadCertificate, Committed, Height};
use crate::record::{SignedRecord, VerifiedRecord};
use crate::refusal::Refusal;
use crate::rules::{Applied, BadBlock};
use crate::state::State;
use crate::sync::CatchUp;
use crate::sync::serve::{Serving, Wanted};
use crate::sync::snapshot::{BadOffer, Download, Kept, Offer};
use context::{Committee, Ctx, Level, Voter};
use entry::Entry;
use host::Host;
use mempool::Mempool;
use past::Past;
use timers::{Purpose, Standing};

pub use entry::BadWal;
#[cfg(any(test, feature = "harness"))]
pub(crate) use entry::is_logged;
pub use mempool::Full;
pub use message::{LedgerMessage, MAX_BLOCKS, MAX_RECORDS_SENT, Polka, Proposal, Proposed, Rounds, SignedVote};

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first input: replays what was written ahead before the last stop.
    Start,
    /// A record of this site. It is kept, and sent again, until it is committed, refused or expired.
    Submit(VerifiedRecord),
    /// A record that was gossiped.
    Record(VerifiedRecord),
    /// A message over an authenticated stream.
    Message {
        /// Who is at the stream's other end.
        from: SiteId,
        /// What it says.
        message: LedgerMessage,
    },
    /// A timer fired.
    Timer(TimerToken),
    /// A member is connected.
    Connected(SiteId),
    /// And no longer.
    Disconnected(SiteId),
    /// Time has passed.
    Tick,
    /// A member said beside its messages, for example in its gossip, how far it is. A hint: its words over a stream may be
    /// lost when the stream breaks, and where nothing is decided none follow.
    Reach {
        /// Who.
        site: SiteId,
        /// Its last committed block.
        height: Height,
    },
    /// Records that were sent directly, as a host with threads to spare has verified them: what is built from them is built
    /// once they are all here.
    Records(Vec<VerifiedRecord>),
}

/// What a replica wants done, in order.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a step has a handful of effects, each consumed at once
pub enum Effect {
    /// Append to the write-ahead log.
    WalAppend(Vec<u8>),
    /// Bring what was appended to disk before anything that follows.
    WalSync,
    /// Send to one site, if it is connected.
    Send {
        /// To whom.
        to: SiteId,
        /// What.
        message: LedgerMessage,
    },
    /// Send to all connected validators but this site.
    Broadcast(LedgerMessage),
    /// Send to these connected sites.
    Announce {
        /// To whom.
        to: Vec<SiteId>,
        /// What.
        message: LedgerMessage,
    },
    /// Give the token back after this time.
    SetTimer {
        /// The token; each is used once.
        token: TimerToken,
        /// How long from now.
        after: Millis,
    },
    /// No timer that was set before this is needed any more.
    CancelTimers,
    /// A block was decided: store it and the state in one atomic synced write, then empty the write-ahead log.
    Commit(Box<Commit>),
    /// Read committed blocks and send them as [`LedgerMessage::Blocks`], an empty list if there are none; below the first
    /// block that is kept, [`LedgerMessage::Pruned`].
    ServeBlocks {
        /// To whom.
        to: SiteId,
        /// The first.
        from: Height,
        /// How many at most.
        most: u16,
    },
    /// A record of this site will not be committed.
    Refused {
        /// Which.
        id: RecordId,
        /// Why.
        why: NotAppended,
    },
    /// Gossip a record of this site.
    Gossip(SignedRecord),
    /// A site did what a correct one does not.
    Misbehaved {
        /// Who.
        site: SiteId,
        /// What.
        what: Offence,
    },
    /// Stop this replica and tell the operator: to go on could contradict what it said before.
    Halt {
        /// Why.
        why: String,
    },
    /// A validator contradicted itself: say so in the ledger.
    Accuse(Box<Evidence>),
    /// As `Commit`, for one of many blocks that were decided long ago: it need not be on disk before what follows.
    Follow(Box<Commit>),
    /// Bring what was followed to disk before anything that follows.
    StoreSync,
    /// Send the newest snapshot beyond a height as [`LedgerMessage::Snapshot`], with the changes of the validators since.
    ServeSnapshot {
        /// To whom.
        to: SiteId,
        /// Its height.
        trusted: Height,
    },
    /// Send a chunk of a snapshot as [`LedgerMessage::Chunk`].
    ServeChunk {
        /// To whom.
        to: SiteId,
        /// The snapshot's height.
        height: Height,
        /// The chunk's place.
        index: u32,
    },
    /// A snapshot is being fetched: keep this instead of what is left of an earlier one. Need not be synced.
    KeepOffer(Box<Offer>),
    /// Keep a chunk of it. Need not be synced.
    KeepChunk {
        /// Its place.
        index: u32,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Nothing of it is of use.
    DropDownload,
    /// The state of a snapshot takes the place of all blocks up to its height: store it in one atomic synced write, then
    /// empty the write-ahead log. Who follows the ledger by its events has missed some, and must begin anew.
    Adopt(Box<Adopted>),
}

/// A state that was fetched.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What shows that it is the mesh's.
    pub offer: Offer,
    /// Its canonical chunks.
    pub chunks: Vec<Vec<u8>>,
    /// The state.
    pub state: State,
}

/// A decided block and where it leads.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The block with its certificate.
    pub committed: Committed,
    /// The state after it.
    pub state: State,
    /// What it changed.
    pub events: Vec<Event>,
    /// The ids of its records, in their order.
    pub records: Vec<RecordId>,
}

impl Commit {
    /// A decided block and what applying it led to.
    #[must_use]
    pub fn new(committed: Committed, applied: Applied) -> Self {
        let Applied { state, events, records } = applied;
        Self { committed, state, events, records }
    }
}

/// Names a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerToken(pub u64);

/// Why a record of this site will not be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAppended {
    /// The ledger does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many wait.
    #[error(transparent)]
    Full(#[from] Full),
    /// It has no canonical form.
    #[error("the record has no canonical form")]
    Malformed(#[from] Malformed),
}

/// What a correct site does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Offence {
    #[error("a vote whose signature does not hold")]
    ForgedVote,
    #[error("a proposal whose signature does not hold")]
    ForgedProposal,
    #[error("a proposal by {0}, who is not the round's proposer")]
    NotTheProposer(SiteId),
    #[error("a vote or proposal by {0}, who is not a validator of the height")]
    NotAValidator(SiteId),
    #[error("a proposal whose block is another than the one it names")]
    OtherBlock,
    #[error("a proposal that passes off another's block as new")]
    OthersBlock,
    #[error("a certificate of prevotes that proves nothing: {0}")]
    BadPolka(String),
    #[error("a certificate of a round that proves nothing: {0}")]
    BadRounds(String),
    #[error("a round beyond any that is reached")]
    AbsurdRound,
    #[error("a proposal that breaks the rules")]
    BadBlock(#[source] BadBlock),
    #[error("a proposal of time {got} at {now}, further apart than clocks may be")]
    Clock { got: Time, now: Time },
    #[error("a block of height {height} whose certificate proves nothing")]
    BadCertificate {
        height: Height,
        #[source]
        source: BadCertificate,
    },
    #[error("a certified block of height {height} that breaks the rules")]
    BadCommitted {
        height: Height,
        #[source]
        source: BadBlock,
    },
    #[error("a record whose signature does not hold")]
    ForgedRecord(#[source] Forged),
    #[error("two different votes or proposals for one round of height {0}")]
    Equivocation(Height),
    #[error("no blocks, although it says that it has them up to {claim}")]
    NoBlocks { claim: Height },
    #[error("other blocks than it was asked for")]
    OtherBlocks,
    #[error("a snapshot that proves nothing")]
    BadOffer(#[source] BadOffer),
    #[error("a snapshot whose content is not the state that its header names")]
    BadSnapshot,
    #[error("a chunk of a snapshot that has another hash")]
    BadChunk,
}

impl Offence {
    /// Its name, for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ForgedVote => "forged-vote",
            Self::ForgedProposal => "forged-proposal",
            Self::NotTheProposer(_) => "not-the-proposer",
            Self::NotAValidator(_) => "not-a-validator",
            Self::OtherBlock => "other-block",
            Self::OthersBlock => "others-block",
            Self::BadPolka(_) => "bad-polka",
            Self::BadRounds(_) => "bad-rounds",
            Self::AbsurdRound => "absurd-round",
            Self::BadBlock(_) => "bad-block",
            Self::Clock { .. } => "clock",
            Self::BadCertificate { .. } => "bad-certificate",
            Self::BadCommitted { .. } => "bad-committed",
            Self::ForgedRecord(_) => "forged-record",
            Self::Equivocation(_) => "equivocation",
            Self::NoBlocks { .. } => "no-blocks",
            Self::OtherBlocks => "other-blocks",
            Self::BadOffer(_) => "bad-offer",
            Self::BadSnapshot => "bad-snapshot",
            Self::BadChunk => "bad-chunk",
        }
    }
}

/// What a replica is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The site's key.
    pub key: SigningKey,
    /// When this site lost what it had said, by its clock: it does not vote before it has followed a block that was built
    /// later, since on that block's height and those before it may have voted.
    pub forgot: Option<Time>,
    /// Whether this site keeps all blocks, and therefore fetches all.
    pub archives: bool,
    /// What is on disk of a snapshot that was being fetched.
    pub kept: Option<Kept>,
}

impl Config {
    /// Of a site that has forgotten nothing and keeps everything.
    #[must_use]
    pub const fn new(key: SigningKey) -> Self {
        Self { key, forgot: None, archives: true, kept: None }
    }
}

/// One site's replica.
pub struct Replica {
    core: Core<Ctx>,
    host: Host,
    state: State,
    committee: Committee,
    mempool: Mempool,
    catch_up: CatchUp,
    download: Download,
    serving: Serving,
    forgot: Option<Time>,
    archives: bool,
    connected: BTreeSet<SiteId>,
    /// Words of the next height, by who sent them.
    ahead: BTreeMap<SiteId, Vec<LedgerMessage>>,
    /// Words of the last decided heights.
    past: Past,
    /// Entries that wait for their replay.
    log: Vec<Entry>,
    /// The core is at work on the next height.
    running: bool,
    /// A height that was decided by a block that is not at hand: it comes from a peer, and is not voted on again.
    barred: Option<Height>,
    /// The round in which a peer last said that it has something to decide.
    stirred: Option<u32>,
    /// Timeouts that fired while nobody had anything to decide.
    paused: Vec<Timeout>,
    /// When own records are sent again.
    resend: Option<Time>,
    halted: bool,
}

impl Replica {
    /// A replica at the height of its state, with the entries of its write-ahead log. Its first input is
    /// [`Input::Start`].
    ///
    /// # Errors
    /// [`BadWal`] if the log is not one that this replica may go on from.
    pub fn new(config: Config, state: State, log: &[Vec<u8>]) -> Result<Self, BadWal> {
        let log = Entry::decode_all(log, state.height())?;
        let host = Host::new(state.mesh(), config.key);
        let committee = proposer::committee(&state);
        let params = Params {
            address: Voter(host.me),
            threshold_params: malachitebft_core_consensus::ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts, // gotcha 1
            enabled: true,
        };
        // The core's own queue for later heights stays empty: `ahead` bounds it by sender.
        let core = Core::new(Ctx, Level(state.height().next()), committee.clone(), params, 1, 1);
        let download = config.kept.map(Download::resume).unwrap_or_default();
        let mut replica = Self {
            core,
            host,
            state,
            committee,
            mempool: Mempool::default(),
            catch_up: CatchUp::default(),
            download,
            serving: Serving::default(),
            forgot: config.forgot,
            archives: config.archives,
            connected: BTreeSet::new(),
            ahead: BTreeMap::new(),
            past: Past::default(),
            log,
            running: false,
            barred: None,
            stirred: None,
            paused: Vec::new(),
            resend: None,
            halted: false,
        };
        replica.core.params.enabled = !replica.abstains();
        Ok(replica)
    }

    /// Whether this site, though a validator, does not vote: on the height being decided, or an earlier one that it does not
    /// know yet, it may have voted and does not remember.
    ///
    /// A block is built at its proposer's time, and a correct validator lets that be ahead of its own clock by the mesh's
    /// bound at most, as its clock may be of ours. So if a block's time is further than twice the bound behind the loss,
    /// it was not decided before the loss; its height is then the highest that this site can have voted on.
    #[must_use]
    pub fn abstains(&self) -> bool {
        self.has_seat() && !self.is_past_the_loss()
    }

    /// Whether all that this site can have acted on is known here: unless its ledger was lost, always. Where nothing is
    /// decided, no block comes that was built later than that; then others that are more than two thirds of the validators
    /// must have said that they are no further. Of what this site acted on as many have signed, so one that is asked and is
    /// correct has it: this site itself may be among the signers, and does not remember.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let no_further =
            |site: &&SiteId| **site != self.host.me && self.catch_up.is_no_further(site, self.state.height());
        let validators = self.state.validators();
        self.is_past_the_loss()
            || planted::is(Bug::ActOnLostLedger)
            || validators.iter().filter(no_further).count() * 3 > validators.len() * 2
    }

    fn is_past_the_loss(&self) -> bool {
        let bound = Millis(self.state.founding().clock_bound_ms);
        self.forgot.is_none_or(|forgot| self.state.time() > forgot.after(bound).after(bound))
    }

    /// The state after the last committed block.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// This site.
    #[must_use]
    pub const fn site(&self) -> SiteId {
        self.host.me
    }

    /// Takes one input at `now`, by the site's clock; gives what is to be done, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        if self.halted {
            return Vec::new();
        }
        self.host.now = now;
        self.expire();
        self.host.eager = self.has_reason();
        match input {
            Input::Start => self.recover(),
            Input::Submit(record) => self.submit(record),
            Input::Record(record) => self.offer(record),
            Input::Message { from, message } => self.on_message(from, message),
            Input::Timer(token) => self.on_timer(token),
            Input::Connected(site) => self.on_connected(site),
            Input::Disconnected(site) => self.on_disconnected(site),
            Input::Tick => {}
            Input::Reach { site, height } => self.on_reach(site, height),
            Input::Records(records) => records.into_iter().for_each(|record| self.offer(record)),
        }
        self.settle();
        self.stand_timers();
        self.host.outbox.take()
    }

    fn on_message(&mut self, from: SiteId, message: LedgerMessage) {
        match message {
            LedgerMessage::Status { height, .. } => self.on_status(from, height),
            LedgerMessage::Fetch { from: first, most } => self.on_fetch(from, first, most),
            LedgerMessage::Blocks(blocks) => self.on_blocks(from, blocks.into_inner()),
            LedgerMessage::Records(records) => self.on_records(from, records.into_inner()),
            LedgerMessage::Pruned { base } => self.on_pruned(from, base),
            LedgerMessage::SnapshotWanted { trusted } => self.on_wanted(from, Wanted::Snapshot { trusted }),
            LedgerMessage::Snapshot(offer) => self.on_snapshot(from, offer),
            LedgerMessage::ChunkWanted { height, index } => self.on_wanted(from, Wanted::Chunk { height, index }),
            LedgerMessage::Chunk { height, index, bytes } => self.on_chunk(from, height, index, bytes.into_inner()),
            LedgerMessage::Vote { .. }
            | LedgerMessage::Proposal(_)
            | LedgerMessage::Polka(_)
            | LedgerMessage::Rounds(_) => self.on_consensus(from, message),
        }
    }

    fn on_timer(&mut self, token: TimerToken) {
        match self.host.timers.fired(token) {
            Some(Purpose::Core(timeout)) => self.on_timeout(timeout),
            Some(Purpose::Own(Standing::Records)) => self.resend_records(),
            Some(Purpose::Own(Standing::CatchUp)) => self.ask(),
            Some(Purpose::Own(Standing::Serve)) => self.serve(),
            // What is due is seen when the step settles.
            Some(Purpose::Own(Standing::Due)) | None => {}
        }
    }

    /// Commits, proposes and begins heights as long as there is reason to.
    fn settle(&mut self) {
        while !self.halted && (self.commit() || self.follow_ready() || self.propose() || self.begin_with_reason()) {}
        self.spread_records();
    }

    /// Sets those of the replica's own timers that are needed. An idle replica has none.
    fn stand_timers(&mut self) {
        let now = self.host.now;
        let due = self.next_due().map(|at| (Standing::Due, at));
        let records = self.next_resend().map(|at| (Standing::Records, at));
        let catch_up = self.next_ask().map(|at| (Standing::CatchUp, at));
        let serve = self.serving.next_at().map(|at| (Standing::Serve, at));
        for (timer, at) in [due, records, catch_up, serve].into_iter().flatten() {
            if let Some(set) = self.host.timers.stand(timer, at, now) {
                self.host.outbox.say(set);
            }
        }
    }

    fn misbehaved(&mut self, site: SiteId, what: Offence) {
        self.host.outbox.say(Effect::Misbehaved { site, what });
    }

    fn next(&self) -> Height {
        self.state.height().next()
    }

    /// Whether this site is one of those who decide the next height.
    fn has_seat(&self) -> bool {
        self.committee.contains(&self.host.me)
    }

    /// Whether it votes on the next height.
    fn votes(&self) -> bool {
        self.has_seat() && !self.abstains()
    }
}
