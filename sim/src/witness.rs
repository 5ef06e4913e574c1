//! What an observer of all disks knows: the one sequence of blocks that the sites agree on.

use std::collections::BTreeSet;

use godwit_ledger::block::{Certificate, Committed, Header, Height, precommit_bytes};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::lineage::{self, Lineage};
use godwit_ledger::replica::Commit;
use godwit_ledger::state::State;
use godwit_ledger::sync::snapshot::{Offer, chunk_hash};
use godwit_protocol::bounded::List;
use godwit_protocol::signed::verify_bytes;
use godwit_protocol::{Hash, SiteId};

use crate::check::Violation;

/// A block and what it led to.
#[derive(Debug)]
struct Sealed {
    committed: Committed,
    state: State,
}

/// The sequence of blocks that some site has committed.
#[derive(Debug)]
pub struct Witness {
    founding: State,
    blocks: Vec<Sealed>,
    /// Signatures that hold, by a hash of what they are over: most sites hold the same ones.
    verified: BTreeSet<Hash>,
}

impl Witness {
    /// Before the first block.
    ///
    /// # Panics
    /// If the genesis founds no mesh.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        genesis.check().expect("the simulated genesis is one that founds a mesh");
        Self { founding: State::genesis(genesis), blocks: vec![], verified: BTreeSet::new() }
    }

    /// The height of the last block.
    #[must_use]
    pub fn height(&self) -> Height {
        Height(self.blocks.len() as u64)
    }

    /// The state after the last block.
    #[must_use]
    pub fn state(&self) -> &State {
        self.state_at(self.height())
    }

    /// The state after a block that some site has committed.
    #[must_use]
    pub fn state_at(&self, height: Height) -> &State {
        index(height).map_or(&self.founding, |at| &self.blocks[at].state)
    }

    /// Committed blocks, at most up to `tip`.
    pub fn blocks(&self, from: Height, tip: Height) -> impl Iterator<Item = Committed> + '_ {
        let range = index(from).unwrap_or(0)..index(tip).map_or(0, |at| at + 1);
        self.blocks.get(range).unwrap_or_default().iter().map(|sealed| sealed.committed.clone())
    }

    /// The state at a site's height as it offers it to another, which trusts the validators after a lower height.
    #[must_use]
    pub fn offer(&self, trusted: Height, height: Height) -> Option<Offer> {
        let committed =
            index(height).filter(|_| height > trusted).and_then(|at| self.blocks.get(at))?.committed.clone();
        let before = trusted.0..height.0.saturating_sub(1);
        let links = before
            .filter_map(|at| self.blocks.get(usize::try_from(at).ok()?))
            .filter_map(|sealed| lineage::link(&sealed.committed, sealed.state.validators_hash()));
        let lineage = Lineage { links: List::first(links) };
        let chunks = List::first(self.state_at(height).chunks().iter().map(|chunk| chunk_hash(chunk)));
        Some(Offer { header: committed.block.header, certificate: committed.certificate, lineage, chunks })
    }

    /// A chunk of that state.
    #[must_use]
    pub fn chunk(&self, height: Height, place: u32) -> Option<Vec<u8>> {
        index(height).filter(|at| *at < self.blocks.len())?;
        let place = usize::try_from(place).ok()?;
        self.state_at(height).chunks().into_iter().nth(place)
    }

    /// A site commits a block; true if it is the first to do so.
    ///
    /// # Errors
    /// Another block or another state than a site committed before at that height; a certificate that proves nothing.
    pub fn commit(&mut self, site: SiteId, commit: &Commit) -> Result<bool, Violation> {
        let (committed, height) = (&commit.committed, commit.committed.certificate.height);
        let before = height.0.checked_sub(1).filter(|before| *before <= self.height().0);
        let Some(validators) = before.map(|before| self.state_at(Height(before)).validators().to_vec()) else {
            return Err(Violation(format!("{site:?} commits a block at height {height} that nobody could yet decide")));
        };
        let same = index(height).and_then(|at| self.blocks.get(at)).is_some_and(|known| {
            known.committed.certificate == committed.certificate
                && known.committed.block.header == committed.block.header
        });
        // In a large mesh most sites commit a block by the very certificate that the first did.
        if !same && !self.proves(&committed.certificate, &committed.block.header, &validators) {
            return Err(Violation(format!("{site:?} commits a block at height {height} by a bad certificate")));
        }
        let Some(known) = index(height).and_then(|at| self.blocks.get(at)) else {
            self.blocks.push(Sealed { committed: committed.clone(), state: commit.state.clone() });
            return Ok(true);
        };
        if known.committed.block.header.hash() != committed.block.header.hash() {
            return Err(Violation(format!("two blocks are certified at height {height}: {site:?} has the second")));
        }
        if known.state.root() != commit.state.root() {
            return Err(Violation(format!(
                "{site:?} has another state after block {height} than the first to commit it"
            )));
        }
        Ok(false)
    }

    /// Whether more than two thirds signed this header: by an arithmetic of its own, so that a fault in the ledger's is seen.
    fn proves(&mut self, certificate: &Certificate, header: &Header, validators: &[SiteId]) -> bool {
        let block = header.hash();
        let mut signers = BTreeSet::new();
        for (site, signature) in certificate.signatures.iter() {
            let bytes = precommit_bytes(&header.mesh, header.height, certificate.round, block, *site);
            let name = Hash::of_parts("signature", &[&bytes, &signature.0]);
            if !self.verified.contains(&name) {
                if !verify_bytes(&site.0, &bytes, signature) {
                    return false;
                }
                self.verified.insert(name);
            }
            if validators.contains(site) {
                signers.insert(*site);
            }
        }
        certificate.block == block && signers.len() > validators.len() * 2 / 3
    }
}

/// Where the block of a height is; none before the first.
fn index(height: Height) -> Option<usize> {
    usize::try_from(height.0).ok()?.checked_sub(1)
}
