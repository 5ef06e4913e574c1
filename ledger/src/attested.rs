//! One record with all that shows that the mesh agreed on it, to whoever knows the validators of its height.

use godwit_protocol::{Forged, RecordId};
use serde::{Deserialize, Serialize};

use crate::block::{Certificate, Committed, Header};
use crate::lineage::{Undecided, Validators};
use crate::proof::{self, Inclusion};
use crate::record::{SignedRecord, VerifiedRecord, record_id};

/// A record, its place in a block, and the block's header with what its validators signed. The other records stay away.
///
/// The record comes last: author and signature are its last 96 bytes, so that a program which knows none of the messages
/// still finds what is hashed and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The block's header.
    pub header: Header,
    /// That the block was decided.
    pub certificate: Certificate,
    /// That the record is in the block.
    pub inclusion: Inclusion,
    /// The record.
    pub record: SignedRecord,
}

/// Why it shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAttested {
    /// The block was not decided by these validators.
    #[error("its block proves nothing")]
    Undecided(#[source] Undecided),
    /// The record is not its author's.
    #[error("its record is forged")]
    Forged(#[source] Forged),
    /// The record is not in the block.
    #[error("its record is not under the header's root")]
    NotIncluded,
}

impl Attested {
    /// The record at `index` of a block; none if there is no such record.
    #[must_use]
    pub fn of(Committed { block, certificate }: &Committed, index: usize) -> Option<Self> {
        let record = block.records.get(index)?.clone();
        let ids: Option<Vec<_>> =
            block.records.iter().map(|record| record_id(&block.header.mesh, record).ok()).collect();
        let inclusion = proof::prove(&ids?, index)?;
        Some(Self { header: block.header.clone(), certificate: certificate.clone(), inclusion, record })
    }

    /// The record and its id, if these validators decided a block with it.
    ///
    /// # Errors
    /// [`BadAttested`] says what is wrong.
    pub fn check(&self, validators: &Validators) -> Result<(RecordId, VerifiedRecord), BadAttested> {
        validators.check(&self.header, &self.certificate).map_err(BadAttested::Undecided)?;
        let mesh = self.header.mesh;
        // The header's root covers author and content; the signature has to hold by itself.
        let record = self.record.clone().verify(&mesh).map_err(BadAttested::Forged)?;
        let id = record_id(&mesh, &record).map_err(|_| BadAttested::NotIncluded)?;
        if proof::verify(self.header.records, &id, &self.inclusion) {
            Ok((id, record))
        } else {
            Err(BadAttested::NotIncluded)
        }
    }
}

#[cfg(test)]
mod tests {
    use godwit_protocol::{decode, encode};

    use super::*;
    use crate::testing::{Mesh, done};

    #[test]
    fn one_record_can_be_shown_with_its_block_kept_back() {
        let mut mesh = Mesh::new();
        let id = mesh.received(1);
        mesh.say(1, done(id));
        let validators = Validators::founding(&mesh.genesis).expect("a genesis");
        let shown = Attested::of(&mesh.chain[0], 0).expect("a record");
        assert_eq!(Attested::of(&mesh.chain[0], 1), None);
        let (id, record) = shown.check(&validators).expect("it holds");
        assert_eq!((id, record.into_signed()), (mesh.id_of(&shown.record), shown.record.clone()));
        let read: Attested = decode(&encode(&shown).expect("small")).expect("canonical");
        assert_eq!(read, shown);

        let other = Attested::of(&mesh.chain[1], 0).expect("a record");
        let swapped = Attested { record: other.record, ..shown.clone() };
        assert_eq!(swapped.check(&validators), Err(BadAttested::NotIncluded));
        let uncertified = Attested { header: other.header, ..shown.clone() };
        assert!(matches!(uncertified.check(&validators), Err(BadAttested::Undecided(Undecided::Certificate(_)))));
        let mut forged = shown;
        forged.record.signature.0[1] ^= 1;
        assert!(matches!(forged.check(&validators), Err(BadAttested::Forged(_))));
    }
}
