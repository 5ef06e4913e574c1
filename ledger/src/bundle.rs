//! A proof that fits into one small file: one record, with all that shows to somebody who has no copy of the ledger and
//! asks no site that the mesh agreed on it.
//!
//! ```text
//!  magic (8) │ version (1) │ canonical bytes of: genesis, lineage, header, certificate, inclusion, record
//! ```
//!
//! `docs/proof-format.md` describes it byte by byte, `tests/golden/` has examples: it is meant to be verified by others'
//! programs too. What whoever verifies it trusts is said at [`crate::lineage`]; the mesh's id is what has to be compared.

use godwit_protocol::{Hash, Malformed, MeshId, Message, RecordId, SiteId, Time, decode, encode};
use serde::{Deserialize, Serialize};

use crate::attested::{Attested, BadAttested};
use crate::block::Height;
use crate::genesis::Genesis;
use crate::lineage::{BadLineage, Lineage};

/// With what a proof begins.
pub const MAGIC: [u8; 8] = *b"GDWPROOF";

/// The format's version, the byte behind [`MAGIC`].
pub const VERSION: u8 = 1;

/// The largest proof: what the codec takes, and its head.
pub const MAX_BUNDLE: usize = MAGIC.len() + 1 + godwit_protocol::codec::LIMIT;

/// A record with everything that it takes to verify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The mesh's founding document; its hash is the mesh's id.
    pub genesis: Genesis,
    /// How the validators of the record's height follow from it.
    pub lineage: Lineage,
    /// The record, and that they agreed on it.
    pub attested: Attested,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    /// It is something else.
    #[error("this is no proof: it does not begin with `GDWPROOF`")]
    Magic,
    /// It was written by another program than this one.
    #[error("it has version {0} of the format; this is version {VERSION}")]
    Version(u8),
    /// It is cut off, or was changed.
    #[error("it is damaged")]
    Malformed(#[from] Malformed),
    /// The validators of its height do not follow from its genesis.
    #[error("its validators do not follow from its genesis")]
    Lineage(#[from] BadLineage),
    /// The mesh did not agree on the record.
    #[error(transparent)]
    Record(#[from] BadAttested),
}

/// What a proof proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proved {
    /// The mesh: everything below holds in this one, and it is what has to be compared.
    pub mesh: MeshId,
    /// The record.
    pub record: RecordId,
    /// Who said it.
    pub author: SiteId,
    /// The height of its block.
    pub height: Height,
    /// The block's time.
    pub time: Time,
    /// Its place in the block, from 0.
    pub index: u32,
    /// The block's records.
    pub count: u32,
    /// The hash of the block's header: a checkpoint.
    pub block: Hash,
    /// Validators that signed the block.
    pub signers: Vec<SiteId>,
    /// How many validators there were.
    pub validators: usize,
    /// How often they had changed.
    pub changes: usize,
    /// What was said.
    pub message: Message,
}

impl Bundle {
    /// As a file.
    ///
    /// # Errors
    /// [`Malformed`] if the validators have changed too often for one proof.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Malformed> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend(encode(self)?);
        Ok(bytes)
    }

    /// From a file; nothing in it is believed.
    ///
    /// # Errors
    /// [`BadBundle`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBundle> {
        let (version, body) = bytes.strip_prefix(&MAGIC).and_then(<[u8]>::split_first).ok_or(BadBundle::Magic)?;
        if *version == VERSION { Ok(decode(body)?) } else { Err(BadBundle::Version(*version)) }
    }

    /// What it proves of the mesh that it names.
    ///
    /// # Errors
    /// [`BadBundle`] says what is wrong with it.
    pub fn check(&self) -> Result<Proved, BadBundle> {
        let validators = self.lineage.follow(&self.genesis)?;
        let (id, record) = self.attested.check(&validators)?;
        let Attested { inclusion, header, certificate, .. } = &self.attested;
        Ok(Proved {
            mesh: validators.mesh(),
            record: id,
            author: record.author,
            height: header.height,
            time: header.time,
            index: inclusion.index,
            count: inclusion.count,
            block: header.hash(),
            signers: certificate.signatures.iter().map(|(site, _)| *site).collect(),
            validators: validators.sites().len(),
            changes: self.lineage.links.len(),
            message: record.into_signed().body.message,
        })
    }
}

#[cfg(test)]
mod tests;
