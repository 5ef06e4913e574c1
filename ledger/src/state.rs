//! The replicated state: members, containers with their owners and epochs, open offers.
//!
//! Invariant: two states with the same root behave the same. What is not under the root (indexes) is derived from what is.
//! Invariant: a [`State`] is always sealed: its root is that of its content.

mod auction;
mod author;
mod recovery;
mod roll;
mod seat;
mod snapshot;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

use godwit_protocol::membership::{Member, Role};
use godwit_protocol::{Address, ContainerId, Hash, MeshId, Millis, OfferId, SiteId, Time, encode};

use crate::apply::Work;
use crate::block::{Header, Height};
use crate::genesis::Genesis;
use crate::record::{MAX_RECORD, VerifiedRecord, measure};
use crate::refusal::Refusal;

pub use auction::{Auction, Container, Phase};
pub use author::Author;
pub use seat::Seat;
pub use snapshot::BadSnapshot;
pub(crate) use table::Table;

/// All that the ledger has led to. A clone costs some microseconds: it shares what neither side changes.
#[derive(Clone, Debug)]
pub struct State {
    genesis: Arc<Genesis>,
    mesh: MeshId,
    /// Of the last applied block.
    header: Option<Arc<Header>>,
    tip: Hash,
    root: Hash,
    pub(crate) membership_epoch: u64,
    pub(crate) members: Table<SiteId, Member>,
    pub(crate) authors: Table<SiteId, Author>,
    pub(crate) containers: Table<ContainerId, Container>,
    /// Ids that were used and must not be again.
    pub(crate) retired: Table<ContainerId, ()>,
    pub(crate) auctions: Table<OfferId, Auction>,
    /// Of validators, and of members that were validators lately.
    pub(crate) seats: Table<SiteId, Seat>,
    /// Index: whose address it is.
    pub(crate) addresses: Table<Address, ContainerId>,
    /// Index: when bidding ends.
    pub(crate) closing: Arc<BTreeSet<(Time, OfferId)>>,
    validators: Arc<[SiteId]>,
    validators_hash: Hash,
}

impl State {
    /// The state before the first block. The genesis is one that [`Genesis::check`] accepts.
    #[must_use]
    pub fn genesis(genesis: &Genesis) -> Self {
        let mut members = Table::new();
        for member in genesis.members.iter() {
            members.insert(member.site, member.clone());
        }
        let mut state = Self {
            mesh: genesis.mesh(),
            genesis: Arc::new(genesis.clone()),
            header: None,
            tip: Hash::ZERO,
            root: Hash::ZERO,
            membership_epoch: 0,
            members,
            authors: Table::new(),
            containers: Table::new(),
            retired: Table::new(),
            auctions: Table::new(),
            seats: Table::new(),
            addresses: Table::new(),
            closing: Arc::default(),
            validators: Arc::default(),
            validators_hash: Hash::ZERO,
        };
        state.elect();
        state.assign_seats(Height(0));
        state.seal();
        state.tip = state.root;
        state
    }

    /// The mesh.
    #[must_use]
    pub const fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// The document that founded it.
    #[must_use]
    pub fn founding(&self) -> &Genesis {
        &self.genesis
    }

    /// Of the last applied block; 0 before the first.
    #[must_use]
    pub fn height(&self) -> Height {
        self.header.as_ref().map_or(Height(0), |header| header.height)
    }

    /// Of the last applied block; before the first when the mesh was founded.
    #[must_use]
    pub fn time(&self) -> Time {
        self.header.as_ref().map_or(self.genesis.founded, |header| header.time)
    }

    /// The header of the last applied block.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_deref()
    }

    /// The hash of the last header; before the first block the genesis' state root.
    #[must_use]
    pub const fn tip(&self) -> Hash {
        self.tip
    }

    /// The Merkle root of all content.
    #[must_use]
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// Who decides the next height, sorted.
    #[must_use]
    pub fn validators(&self) -> &[SiteId] {
        &self.validators
    }

    /// What the next header carries for them.
    #[must_use]
    pub const fn validators_hash(&self) -> Hash {
        self.validators_hash
    }

    /// The number of changes to the membership so far: what the next [`Proposal`] must carry.
    ///
    /// [`Proposal`]: godwit_protocol::membership::Proposal
    #[must_use]
    pub const fn membership_epoch(&self) -> u64 {
        self.membership_epoch
    }

    /// All members, sorted by key.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|(_, member)| member)
    }

    /// A member.
    #[must_use]
    pub fn member(&self, site: &SiteId) -> Option<&Member> {
        self.members.get(site)
    }

    /// Whether a site may offer and bid.
    #[must_use]
    pub fn is_eligible(&self, site: &SiteId) -> bool {
        self.member(site).is_some_and(|member| member.role != Role::Observer) && !self.is_suspended(site)
    }

    /// All live containers, sorted by id.
    pub fn containers(&self) -> impl Iterator<Item = (&ContainerId, &Container)> {
        self.containers.iter()
    }

    /// A live container.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.get(id)
    }

    /// The live container that has an address.
    #[must_use]
    pub fn container_at(&self, address: &Address) -> Option<ContainerId> {
        self.addresses.get(address).copied()
    }

    /// All offers that have not ended, sorted by id.
    pub fn offers(&self) -> impl Iterator<Item = (&OfferId, &Auction)> {
        self.auctions.iter()
    }

    /// An offer that has not ended.
    #[must_use]
    pub fn offer(&self, id: &OfferId) -> Option<&Auction> {
        self.auctions.get(id)
    }

    /// A sequence number that the site may use: one above the highest that was committed.
    #[must_use]
    pub fn next_sequence(&self, site: &SiteId) -> u64 {
        self.authors.get(site).map_or(1, Author::next)
    }

    /// The shortest time for bidding that an offer may ask for.
    #[must_use]
    pub fn min_window(&self) -> Millis {
        self.genesis.min_window()
    }

    /// The earliest time at which a block without records is valid, because it ends an auction's bidding.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.closing.first().map(|(closes, _)| *closes)
    }

    /// Whether a record would be accepted if it were the first of a block with this time.
    ///
    /// # Errors
    /// The [`Refusal`]; [`Refusal::may_pass_later`] says whether keeping the record is worth while.
    pub fn check(&self, record: &VerifiedRecord, at: Time) -> Result<(), Refusal> {
        let (_, size) = measure(&self.mesh, record).map_err(|_| Refusal::TooLarge { size: usize::MAX })?;
        self.check_of_size(record, size, at)
    }

    /// As [`State::check`], of a record whose size is known.
    pub(crate) fn check_of_size(&self, record: &VerifiedRecord, size: usize, at: Time) -> Result<(), Refusal> {
        if size > MAX_RECORD {
            return Err(Refusal::TooLarge { size });
        }
        self.judge_at(at).check(record)
    }

    /// Begins a block of no records with this time, or just after the last block's: to judge records by.
    pub(crate) fn judge_at(&self, at: Time) -> Work {
        Work::begin(self, at.max(Time(self.time().0.saturating_add(1))))
    }

    /// Brings the root up to date.
    pub(crate) fn seal(&mut self) {
        self.members.seal();
        self.authors.seal();
        self.containers.seal();
        self.retired.seal();
        self.auctions.seal();
        self.seats.seal();
        let facts = encode(&(self.mesh, self.membership_epoch)).expect("a few bytes");
        self.root = Hash::of_parts(
            "godwit/state",
            &[
                &facts,
                &self.members.root().0,
                &self.authors.root().0,
                &self.containers.root().0,
                &self.retired.root().0,
                &self.auctions.root().0,
                &self.seats.root().0,
            ],
        );
    }

    /// Makes a block's header the last one.
    pub(crate) fn advance(&mut self, header: &Header) {
        self.tip = header.hash();
        self.header = Some(Arc::new(header.clone()));
    }
}
