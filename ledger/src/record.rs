//! What a member appends: a message with what protects it from being replayed.

use godwit_protocol::{Hash, Malformed, MeshId, Message, RecordId, Signable, Signed, SiteId, Time, Verified, encode};
use serde::{Deserialize, Serialize};

/// How far an author's sequence may run ahead of what was committed; the state keeps a bitmap of this many.
pub const SEQUENCE_WINDOW: u64 = 1024;

/// The longest time before its expiry at which a record is accepted: 10 minutes, in ms.
pub const MAX_LIFETIME_MS: u64 = 600_000;

/// The largest record in bytes: an offer with 16 named sites and a report of 16 signals has some 3 KB, a membership
/// change with 31 approvals some 30 KB.
pub const MAX_RECORD: usize = 64 * 1024;

/// A message and its place among its author's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Unique among the author's records; gaps are allowed, within [`SEQUENCE_WINDOW`].
    pub sequence: u64,
    /// By block time; after it the record is refused, so that nothing waits for ever.
    pub expires: Time,
    /// What is said.
    pub message: Message,
}

impl Signable for Record {
    const DOMAIN: &'static str = "godwit/record";
    type Author = SiteId;
}

/// A record as it travels and lies in a block.
pub type SignedRecord = Signed<Record>;
/// A record whose signature holds.
pub type VerifiedRecord = Verified<Record>;

/// A record with what [`measure`] gave for it, so that nobody encodes and hashes it again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured<'a> {
    pub record: &'a VerifiedRecord,
    pub id: RecordId,
    pub size: usize,
}

impl<'a> Measured<'a> {
    pub fn of(mesh: &MeshId, record: &'a VerifiedRecord) -> Result<Self, Malformed> {
        measure(mesh, record).map(|(id, size)| Self { record, id, size })
    }
}

/// The record's id and its size in bytes, from encoding it once.
///
/// # Errors
/// [`Malformed`] if the record is too large for the codec.
pub fn measure(mesh: &MeshId, record: &SignedRecord) -> Result<(RecordId, usize), Malformed> {
    let body = encode(&record.body)?;
    let id = RecordId(Hash::of_parts("godwit/record-id", &[&mesh.0, &record.author.0, &body]).0);
    // Behind the body lie author and signature, both of fixed length.
    Ok((id, body.len() + record.author.0.len() + record.signature.0.len()))
}

/// The record's identity: author and body in this mesh, without the signature, which is not unique.
///
/// # Errors
/// [`Malformed`] if the record is too large.
pub fn record_id(mesh: &MeshId, record: &SignedRecord) -> Result<RecordId, Malformed> {
    measure(mesh, record).map(|(id, _)| id)
}
