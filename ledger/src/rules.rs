//! How blocks are built and judged.
//!
//! Within a block what is due at its time comes first, then its offers, then all other records: so that a bid can follow
//! its offer into one block, and a late bid loses. A block that holds a record which misses its precondition is invalid as
//! a whole: its proposer should have left it out.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use godwit_protocol::bounded::List;
use godwit_protocol::signed::Keys;
use godwit_protocol::{Event, Forged, Hash, Malformed, MeshId, Message, RecordId, SiteId, Time, encode};

use crate::apply::Work;
use crate::block::{Block, Header, Height, MAX_BLOCK, MAX_RECORDS, RULES};
use crate::proof::records_root;
use crate::record::{MAX_RECORD, Measured, SignedRecord, VerifiedRecord};
use crate::refusal::Refusal;
use crate::state::State;

/// More than a header and the length of the list take, encoded.
const HEADER_ROOM: usize = 512;

/// With fewer records a thread costs more than it saves: a signature takes some 40 µs to verify.
const RECORDS_A_THREAD: usize = 16;

/// What a block led to.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The state after it.
    pub state: State,
    /// What changed, in order.
    pub events: Vec<Event>,
    /// The ids of the block's records.
    pub records: Vec<RecordId>,
}

/// Why a block is not the next one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum BadBlock {
    #[error("it follows version {0} of the rules; this is version {RULES}")]
    Rules(u16),
    #[error("it belongs to mesh {0}")]
    Mesh(MeshId),
    #[error("it has height {got}, the next is {want}")]
    Height { want: Height, got: Height },
    #[error("its parent is {got}, the last block is {want}")]
    Parent { want: Hash, got: Hash },
    #[error("its time {got} is not after its parent's, {parent}")]
    Time { parent: Time, got: Time },
    #[error("it names validators {got}, those of its height are {want}")]
    Validators { want: Hash, got: Hash },
    #[error("its proposer {0} is not a validator of its height")]
    Proposer(SiteId),
    #[error("it has {0} bytes; the most is {MAX_BLOCK}")]
    TooLarge(usize),
    #[error("record {index} has no canonical form")]
    Malformed {
        index: usize,
        #[source]
        source: Malformed,
    },
    #[error("record {index} is forged")]
    Forged {
        index: usize,
        #[source]
        source: Forged,
    },
    #[error("record {0} is not the one whose signature was verified")]
    Unverified(usize),
    #[error("record {0} is an offer behind a record that is none")]
    Order(usize),
    #[error("record {0} occurs twice")]
    Twice(RecordId),
    #[error("its header's root of records is {want}, theirs is {got}")]
    Records { want: Hash, got: Hash },
    #[error("it holds no record and ends no bidding")]
    Empty,
    #[error("record {index} ({id}) is refused")]
    Refused {
        index: usize,
        id: RecordId,
        #[source]
        source: Refusal,
    },
    #[error("its header's state root is {want}, applying it leads to {got}")]
    State { want: Hash, got: Hash },
}

/// Builds the next block: takes those candidates whose preconditions hold, in their order but offers first, within the
/// limits of a block; says why it left out the others. The block's time is `time`, or just after the last block's.
///
/// If it took none, the block is valid only if its time ends some bidding: see [`State::due`].
///
/// # Panics
/// Never: the limits kept here are those of the types.
pub fn build(
    state: &State,
    proposer: SiteId,
    time: Time,
    candidates: impl IntoIterator<Item = VerifiedRecord>,
) -> (Block, Applied, Vec<(RecordId, Refusal)>) {
    let (mesh, candidates) = (state.mesh(), candidates.into_iter().collect::<Vec<_>>());
    // A record without canonical form has no id to report it by, and no signature could have been verified over it.
    let measured = candidates.iter().filter_map(|record| Measured::of(&mesh, record).ok());
    build_of(state, proposer, time, measured)
}

/// As [`build`], of candidates that were measured before.
pub(crate) fn build_of<'a>(
    state: &State,
    proposer: SiteId,
    time: Time,
    candidates: impl Iterator<Item = Measured<'a>>,
) -> (Block, Applied, Vec<(RecordId, Refusal)>) {
    let mesh = state.mesh();
    let time = time.max(Time(state.time().0.saturating_add(1)));
    let mut work = Work::begin(state, time);
    let (offers, others): (Vec<_>, Vec<_>) = candidates.partition(|candidate| is_offer(candidate.record));
    let (mut records, mut ids, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    let mut room = MAX_BLOCK - HEADER_ROOM;
    for Measured { record, id, size } in offers.into_iter().chain(others) {
        let taken = if size > MAX_RECORD {
            Err(Refusal::TooLarge { size })
        } else if size > room || records.len() == MAX_RECORDS {
            Err(Refusal::BlockFull)
        } else {
            work.record(record, &id)
        };
        match taken {
            Ok(()) => {
                room -= size;
                records.push(record.clone().into_signed());
                ids.push(id);
            }
            Err(refusal) => left_out.push((id, refusal)),
        }
    }
    let (mut after, events) = work.finish();
    let header = Header {
        rules: RULES,
        mesh,
        height: state.height().next(),
        parent: state.tip(),
        time,
        proposer,
        validators: state.validators_hash(),
        records: records_root(&ids),
        state: after.root(),
    };
    after.advance(&header);
    let records = List::new(records).expect("no more than a block holds were taken");
    (Block { header, records }, Applied { state: after, events, records: ids }, left_out)
}

/// Verifies the signatures of a block's records, on all cores.
///
/// # Errors
/// [`BadBlock::Forged`] names the first record whose signature does not hold.
pub fn verify_records(mesh: &MeshId, block: &Block) -> Result<Vec<VerifiedRecord>, BadBlock> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = block.records.len().div_ceil(cores).max(RECORDS_A_THREAD);
    if block.records.len() <= share {
        return verify_some(mesh, 0, &block.records, &mut Keys::default());
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = block
            .records
            .chunks(share)
            .enumerate()
            .map(|(part, records)| scope.spawn(move || verify_some(mesh, part * share, records, &mut Keys::default())))
            .collect();
        let mut all = Vec::with_capacity(block.records.len());
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

/// Verifies records of a block, of which the first has its place at `offset`, on this thread.
pub(crate) fn verify_some(
    mesh: &MeshId,
    offset: usize,
    records: &[SignedRecord],
    keys: &mut Keys,
) -> Result<Vec<VerifiedRecord>, BadBlock> {
    let verified = records.iter().cloned().enumerate().map(|(index, record)| {
        record.verify_with(mesh, keys).map_err(|source| BadBlock::Forged { index: offset + index, source })
    });
    verified.collect()
}

/// Judges a block by the state before it, with its records as [`verify_records`] gave them. The proposer's clock is not
/// judged here: that belongs to a block's first proposal alone.
///
/// # Errors
/// [`BadBlock`] names the first rule it breaks.
pub fn validate(state: &State, block: &Block, verified: &[VerifiedRecord]) -> Result<Applied, BadBlock> {
    check_header(state, &block.header)?;
    let measured = verified.iter().enumerate().map(|(index, record)| {
        Measured::of(&state.mesh(), record).map_err(|source| BadBlock::Malformed { index, source })
    });
    validate_records(state, block, &measured.collect::<Result<Vec<_>, _>>()?)
}

/// As [`validate`], with records that were measured before.
pub(crate) fn validate_of(state: &State, block: &Block, verified: &[Measured<'_>]) -> Result<Applied, BadBlock> {
    check_header(state, &block.header)?;
    validate_records(state, block, verified)
}

fn validate_records(state: &State, block: &Block, verified: &[Measured<'_>]) -> Result<Applied, BadBlock> {
    let ids = check_records(block, verified)?;
    if ids.is_empty() && state.due().is_none_or(|due| block.header.time < due) {
        return Err(BadBlock::Empty);
    }
    let mut work = Work::begin(state, block.header.time);
    for (index, Measured { record, id, .. }) in verified.iter().enumerate() {
        work.record(record, id).map_err(|source| BadBlock::Refused { index, id: *id, source })?;
    }
    let (mut after, events) = work.finish();
    if block.header.state != after.root() {
        return Err(BadBlock::State { want: block.header.state, got: after.root() });
    }
    after.advance(&block.header);
    Ok(Applied { state: after, events, records: ids })
}

fn is_offer(record: &SignedRecord) -> bool {
    matches!(record.body.message, Message::Offer(_))
}

fn check_header(state: &State, header: &Header) -> Result<(), BadBlock> {
    if header.rules != RULES {
        return Err(BadBlock::Rules(header.rules));
    }
    if header.mesh != state.mesh() {
        return Err(BadBlock::Mesh(header.mesh));
    }
    if header.height != state.height().next() {
        return Err(BadBlock::Height { want: state.height().next(), got: header.height });
    }
    if header.parent != state.tip() {
        return Err(BadBlock::Parent { want: state.tip(), got: header.parent });
    }
    if header.time <= state.time() {
        return Err(BadBlock::Time { parent: state.time(), got: header.time });
    }
    if header.validators != state.validators_hash() {
        return Err(BadBlock::Validators { want: state.validators_hash(), got: header.validators });
    }
    if !state.validators().contains(&header.proposer) {
        return Err(BadBlock::Proposer(header.proposer));
    }
    Ok(())
}

/// The records' ids, if the records are those verified, in order, unique, within limits and under the header's root.
fn check_records(block: &Block, verified: &[Measured<'_>]) -> Result<Vec<RecordId>, BadBlock> {
    let records = &block.records;
    let differs = |index: &usize| verified.get(*index).is_none_or(|verified| **verified.record != records[*index]);
    if let Some(index) = (0..records.len()).find(differs) {
        return Err(BadBlock::Unverified(index));
    }
    if verified.len() > records.len() {
        return Err(BadBlock::Unverified(records.len()));
    }
    if let Some(index) = verified.iter().position(|record| record.size > MAX_RECORD) {
        let Measured { id, size, .. } = verified[index];
        return Err(BadBlock::Refused { index, id, source: Refusal::TooLarge { size } });
    }
    let size = size_of(&block.header, verified.iter().map(|record| record.size));
    if size > MAX_BLOCK {
        return Err(BadBlock::TooLarge(size));
    }
    let first_other = records.iter().position(|record| !is_offer(record)).unwrap_or(records.len());
    if let Some(index) = records[first_other..].iter().position(is_offer) {
        return Err(BadBlock::Order(first_other + index));
    }
    let ids: Vec<RecordId> = verified.iter().map(|record| record.id).collect();
    let mut seen = BTreeSet::new();
    if let Some(id) = ids.iter().find(|id| !seen.insert(**id)) {
        return Err(BadBlock::Twice(*id));
    }
    let got = records_root(&ids);
    if block.header.records == got { Ok(ids) } else { Err(BadBlock::Records { want: block.header.records, got }) }
}

/// The encoded size of a block with records of these sizes.
fn size_of(header: &Header, records: impl ExactSizeIterator<Item = usize>) -> usize {
    // The encoding of a list is its length and then its items; what is encoded alone begins with the version.
    let frame = |part: Result<Vec<u8>, Malformed>| part.map_or(usize::MAX, |bytes| bytes.len());
    let (header, length) = (frame(encode(header)), frame(encode(&records.len())) - 1);
    records.fold(header.saturating_add(length), |sum, size| sum.saturating_add(size - 1))
}

#[cfg(test)]
mod tests;
