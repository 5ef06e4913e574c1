//! Why a record is refused. A refused record has no effect, and a block that holds one is invalid.

use godwit_protocol::membership::MAX_VALIDATORS;
use godwit_protocol::offer::MAX_WINDOW;
use godwit_protocol::vote::Height;
use godwit_protocol::{Address, ClientId, ContainerId, Epoch, Millis, OfferId, SiteId, Time};

use crate::record::{MAX_LIFETIME_MS, MAX_RECORD, SEQUENCE_WINDOW};

/// The precondition that a record misses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Refusal {
    // What holds for every record.
    #[error("the record has {size} bytes; the most is {MAX_RECORD}")]
    TooLarge { size: usize },
    #[error("it expired at {expires}, it is {at}")]
    Expired { expires: Time, at: Time },
    #[error("it expires at {expires}, more than {MAX_LIFETIME_MS} ms after {at}")]
    LifetimeTooLong { expires: Time, at: Time },
    #[error("its author {0} is not a member")]
    NotAMember(SiteId),
    #[error("its author {0} is an observer")]
    Observer(SiteId),
    #[error("{0} contradicted itself and is suspended")]
    Suspended(SiteId),
    #[error("sequence {sequence} was used")]
    SequenceUsed { sequence: u64 },
    #[error("sequence {sequence} is more than {SEQUENCE_WINDOW} behind {top}")]
    SequenceOld { sequence: u64, top: u64 },
    #[error("sequence {sequence} is more than {SEQUENCE_WINDOW} ahead of {top}")]
    SequenceAhead { sequence: u64, top: u64 },
    #[error("the block is full")]
    BlockFull,

    // Register and retire.
    #[error("container {0} is or was registered")]
    ContainerKnown(ContainerId),
    #[error("container {0} is not registered")]
    UnknownContainer(ContainerId),
    #[error("container {0} was retired")]
    ContainerRetired(ContainerId),
    #[error("address {0} is not one that the mesh gives to containers")]
    AddressOutside(Address),
    #[error("address {address} belongs to container {container}")]
    AddressTaken { address: Address, container: ContainerId },
    #[error("client {0} occurs twice")]
    ClientTwice(ClientId),
    #[error("the mesh holds the most containers, {0}")]
    MeshFull(usize),
    #[error("the mesh has used up its {0} container ids")]
    IdsUsedUp(usize),
    #[error("its author does not own the container: {0} does")]
    NotTheOwner(SiteId),
    #[error("the container's offer {0} has not ended")]
    OfferOpen(OfferId),

    // Offer.
    #[error("its author owns the container at epoch {current}, not {got}")]
    WrongEpoch { current: Epoch, got: Epoch },
    #[error("its author has {0} open offers, the most there may be")]
    TooManyOffers(u32),
    #[error("it names {0} twice")]
    NamedTwice(SiteId),
    #[error("it names its own author")]
    NamedSource,
    #[error("it names {0}, which may not bid")]
    NamedNotEligible(SiteId),
    #[error("it names {got} sites; at least {least}, or none")]
    TooFewNamed { got: usize, least: usize },
    #[error("bidding for {got} is shorter than the {least} that this mesh's clocks allow")]
    WindowTooShort { got: Millis, least: Millis },
    #[error("bidding for {0} is longer than {MAX_WINDOW}")]
    WindowTooLong(Millis),
    #[error("the report is {0}'s, which is no client of the container")]
    NotItsClient(ClientId),
    #[error("the report's signature does not hold")]
    ReportForged,
    #[error("the report names {0} twice")]
    ReportTwice(SiteId),
    #[error("the report was made at {made}, more than 30 s before {at}")]
    ReportStale { made: Time, at: Time },
    #[error("the report was made at {made}, further ahead of {at} than clocks may differ")]
    ReportAhead { made: Time, at: Time },

    // Bid, decline and what follows.
    #[error("offer {0} is not open")]
    UnknownOffer(OfferId),
    #[error("its author made the offer")]
    OwnOffer,
    #[error("bidding has ended")]
    BiddingOver,
    #[error("bidding has not ended")]
    NotAwarded,
    #[error("its author has bid already")]
    AlreadyBid,
    #[error("its author has declined already")]
    AlreadyDeclined,
    #[error("the offer holds the most bids of sites that it does not name, {0}")]
    TooManyBids(usize),
    #[error("its author is not named by the offer")]
    NotNamed,
    #[error("attempt {got} is not the current one, {current}")]
    WrongAttempt { current: u32, got: u32 },
    #[error("its author is not the winner of this attempt")]
    NotTheWinner,
    #[error("its author is neither source nor winner")]
    NotAParty,
    #[error("the winner is ready already")]
    AlreadyReady,
    #[error("the winner's receipt is committed")]
    AlreadyReceived,
    #[error("the winner's receipt is not committed")]
    NotReceived,
    #[error("before its receipt a winner declines")]
    WinnerDeclines,
    #[error("the yield is not of this offer's source but of {0}")]
    YieldNotBySource(SiteId),
    #[error("the yield is for another offer")]
    YieldOffer,
    #[error("the yield is for attempt {0}")]
    YieldAttempt(u32),
    #[error("the yield is to {0}")]
    YieldTarget(SiteId),
    #[error("the yield is of epoch {0}")]
    YieldEpoch(Epoch),
    #[error("the yield's signature does not hold")]
    YieldForged,
    #[error("its author did not make the offer")]
    NotTheSource,

    // Approvals and membership.
    #[error("its author is not a validator")]
    NotAValidator,
    #[error("{0} approves but is not a validator")]
    ApproverNotAValidator(SiteId),
    #[error("{0} approves twice")]
    ApprovedTwice(SiteId),
    #[error("{0} approves something else")]
    ApprovedOther(SiteId),
    #[error("{0}'s approval has a signature that does not hold")]
    ApprovalForged(SiteId),
    #[error("{votes} of {of} validators approve; it takes more than two thirds")]
    TooFewApprovals { votes: usize, of: usize },
    #[error("the membership is at change {current}, not {got}")]
    WrongMembership { current: u64, got: u64 },
    #[error("another change of the membership is in the same block")]
    MembershipPending,
    #[error("it changes nothing")]
    NoChange,
    #[error("{0} is not a member")]
    UnknownMember(SiteId),
    #[error("{0} is not an ed25519 public key, or a weak one")]
    NotAKey(SiteId),
    #[error("it leaves {0} validators; there must be 1 to {MAX_VALIDATORS}")]
    Validators(usize),
    #[error("the mesh has the most members, {0}")]
    TooManyMembers(usize),
    #[error("key {0} is or was a member's")]
    KeyUsed(SiteId),
    #[error("the new key did not sign that it takes the old one's place in this mesh")]
    RotationForged,
    #[error("{site} is a party of offer {offer}, which only its present key can finish")]
    PartyOf { site: SiteId, offer: OfferId },

    // Evidence.
    #[error("the two words do not contradict each other")]
    NoContradiction,
    #[error("a signature of the evidence does not hold")]
    EvidenceForged,
    #[error("it is about height {height}, the next is {next}")]
    EvidenceAhead { height: Height, next: Height },
    #[error("it is about height {height}; nothing before {least} is judged any more")]
    EvidenceOld { height: Height, least: Height },
    #[error("{site} had no vote at height {height}, or what it did there was judged")]
    NoVoteThen { site: SiteId, height: Height },
    #[error("{0} is suspended already")]
    AlreadySuspended(SiteId),
}

impl Refusal {
    /// Whether what is missing may yet come, so that the record is worth keeping until it expires.
    #[must_use]
    pub fn may_pass_later(&self) -> bool {
        match self {
            Self::NotAMember(_)
            | Self::SequenceAhead { .. }
            | Self::BlockFull
            | Self::UnknownContainer(_)
            | Self::AddressTaken { .. }
            | Self::OfferOpen(_)
            | Self::TooManyOffers(_)
            | Self::ReportAhead { .. }
            | Self::UnknownOffer(_)
            | Self::NotAwarded
            | Self::NotReceived
            | Self::MembershipPending
            | Self::PartyOf { .. }
            | Self::EvidenceAhead { .. } => true,
            Self::WrongEpoch { current, got } => got > current,
            Self::WrongAttempt { current, got } => got > current,
            Self::WrongMembership { current, got } => got > current,
            _ => false,
        }
    }
}
