//! Verification of a copy of the ledger from genesis, trusting nobody: what `godwit audit` does, offline.
//!
//! Each block must follow the one before, carry a certificate of the validators of its height, hold only records whose
//! signatures and preconditions hold, and lead to the state its header names. The membership follows from the blocks
//! themselves, so the genesis alone has to be trusted.
//!
//! ```text
//!  blocks ─► batches ─► workers: decode, verify all signatures ─► in order: certificate, rules, state
//! ```
//!
//! With a [`Checkpoint`] the hash of one block is trusted as well. The chain of hashes binds all that came before it, so
//! the certificates up to there are not verified; records are, since no hash covers their signatures.

mod pipeline;

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

use godwit_protocol::{Hash, MeshId, Time};
use serde::Serialize;

use crate::block::{BadCertificate, Committed, Height};
use crate::genesis::{BadGenesis, Genesis};
use crate::rules::{BadBlock, validate};
use crate::state::State;
use pipeline::{Judged, Pipeline};

/// An honest ledger, in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The mesh.
    pub mesh: MeshId,
    /// The last block's height, which is also their number.
    pub height: Height,
    /// The last block's time.
    pub time: Time,
    /// The hash of the last header.
    pub tip: Hash,
    /// The state root after the last block.
    pub root: Hash,
    /// How many records there are of each kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Members after the last block.
    pub members: usize,
    /// Containers after the last block.
    pub containers: usize,
    /// Offers that have not ended.
    pub open_offers: usize,
    /// Signatures of records and certificates that were verified; those inside of records (yields, approvals, reports) are
    /// verified too, and not counted.
    pub signatures: u64,
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last block that is good.
    pub height: Height,
    /// As in the [`Report`].
    pub signatures: u64,
}

/// A block that is trusted by its hash: an earlier audit printed it, or somebody who made one tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// Its height.
    pub height: Height,
    /// The hash of its header.
    pub hash: Hash,
}

/// The text is no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HEIGHT:HASH, such as 4711:0f3c..., with 64 hexadecimal digits")]
pub struct NoCheckpoint;

impl FromStr for Checkpoint {
    type Err = NoCheckpoint;

    fn from_str(text: &str) -> Result<Self, NoCheckpoint> {
        let (height, hash) = text.split_once(':').ok_or(NoCheckpoint)?;
        let height = height.parse().ok().filter(|height| *height > 0).ok_or(NoCheckpoint)?;
        Ok(Self { height: Height(height), hash: hash.parse().map_err(|_| NoCheckpoint)? })
    }
}

/// The first block that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("block {height}")]
pub struct Finding {
    /// The height that was due; 0 for the genesis.
    pub height: Height,
    /// What is wrong there.
    #[source]
    pub fault: Fault,
}

/// What is wrong with a block.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The genesis founds no mesh.
    #[error("the genesis founds no mesh")]
    Genesis(#[source] BadGenesis),
    /// The copy cannot be read here.
    #[error("it cannot be read")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
    /// Another block lies here: one before it was dropped or put in.
    #[error("a block of height {0} lies in its place")]
    Missing(Height),
    /// Its validators did not decide on it.
    #[error("its certificate proves nothing")]
    Certificate(#[source] BadCertificate),
    /// It breaks the rules.
    #[error("it breaks the rules")]
    Block(#[source] BadBlock),
    /// It is not the one that is trusted: it, or one before it, was exchanged.
    #[error("its hash is {0}, not the trusted one")]
    Checkpoint(Hash),
    /// The trusted block is not there.
    #[error("it is trusted, but the ledger ends before it")]
    Ends,
}

/// A block as it comes: what decodes it is the audit, on all cores.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Its canonical bytes.
    Bytes(Vec<u8>),
    /// The block.
    Block(Box<Committed>),
}

impl From<Vec<u8>> for Stored {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Committed> for Stored {
    fn from(committed: Committed) -> Self {
        Self::Block(Box::new(committed))
    }
}

/// Verifies blocks from height 1 on. An empty ledger is honest.
///
/// # Errors
/// The first [`Finding`], with the height at which it lies.
pub fn audit<B, E>(genesis: &Genesis, blocks: impl IntoIterator<Item = Result<B, E>>) -> Result<Report, Finding>
where
    B: Into<Stored>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Auditor::new(genesis)?.run(blocks, &mut |_| {})
}

/// Somebody who verifies a ledger, with what it trusts.
#[derive(Clone, Debug)]
pub struct Auditor {
    state: State,
    checkpoint: Option<Checkpoint>,
    records: BTreeMap<&'static str, u64>,
    signatures: u64,
}

impl Auditor {
    /// Trusts a genesis.
    ///
    /// # Errors
    /// A [`Finding`] at height 0 if it founds no mesh.
    pub fn new(genesis: &Genesis) -> Result<Self, Finding> {
        genesis.check().map_err(|bad| Finding { height: Height(0), fault: Fault::Genesis(bad) })?;
        Ok(Self::since(State::genesis(genesis)))
    }

    /// Trusts a state: the blocks begin behind it.
    #[must_use]
    pub fn since(state: State) -> Self {
        Self { state, checkpoint: None, records: BTreeMap::new(), signatures: 0 }
    }

    /// Trusts a block's hash as well.
    #[must_use]
    pub fn trusting(self, checkpoint: Option<Checkpoint>) -> Self {
        Self { checkpoint, ..self }
    }

    /// Verifies blocks, on all cores, and tells how far it is.
    ///
    /// # Errors
    /// The first [`Finding`], with the height at which it lies.
    pub fn run<B, E>(
        mut self,
        blocks: impl IntoIterator<Item = Result<B, E>>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, Finding>
    where
        B: Into<Stored>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let blocks = blocks.into_iter().map(|block| match block {
            Ok(block) => Ok(block.into()),
            Err(unreadable) => Err(Fault::Unreadable(unreadable.into())),
        });
        let pipeline = Pipeline { mesh: self.state.mesh(), trusted: self.trusted() };
        pipeline.run(blocks, |batch| -> Result<(), Finding> {
            for judged in batch {
                let height = self.state.height().next();
                judged.and_then(|judged| self.take(&judged)).map_err(|fault| Finding { height, fault })?;
            }
            progress(Progress { height: self.state.height(), signatures: self.signatures });
            Ok(())
        })?;
        match self.checkpoint {
            Some(Checkpoint { height, .. }) if height > self.state.height() => {
                Err(Finding { height, fault: Fault::Ends })
            }
            _ => Ok(self.report()),
        }
    }

    /// Up to this height certificates are not looked at.
    fn trusted(&self) -> Height {
        self.checkpoint.map_or(Height(0), |checkpoint| checkpoint.height)
    }

    /// The next block, whose signatures have been judged.
    fn take(&mut self, Judged { committed, records, votes }: &Judged) -> Result<(), Fault> {
        let Committed { block, certificate } = committed;
        let (state, header) = (&self.state, &block.header);
        if header.height != state.height().next() {
            return Err(Fault::Missing(header.height));
        }
        if header.mesh != state.mesh() {
            return Err(Fault::Block(BadBlock::Mesh(header.mesh)));
        }
        if header.height > self.trusted() {
            let holds = |index: usize| votes.get(index).is_some_and(|holds| *holds);
            certificate.check_by(header, state.validators(), holds).map_err(Fault::Certificate)?;
        }
        let records = records.as_ref().map_err(|bad| Fault::Block(bad.clone()))?;
        let after = validate(state, block, records).map_err(Fault::Block)?.state;
        if self.checkpoint.is_some_and(|trusted| trusted.height == header.height && trusted.hash != after.tip()) {
            return Err(Fault::Checkpoint(after.tip()));
        }
        self.state = after;
        self.signatures += (records.len() + votes.len()) as u64;
        for record in records {
            *self.records.entry(record.body.message.name()).or_default() += 1;
        }
        Ok(())
    }

    fn report(self) -> Report {
        let state = self.state;
        Report {
            mesh: state.mesh(),
            height: state.height(),
            time: state.time(),
            tip: state.tip(),
            root: state.root(),
            records: self.records,
            members: state.members().count(),
            containers: state.containers().count(),
            open_offers: state.offers().count(),
            signatures: self.signatures,
        }
    }
}

#[cfg(test)]
mod tests;
