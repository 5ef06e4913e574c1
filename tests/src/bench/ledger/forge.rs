//! A ledger made in one process with the keys of all its validators: as many blocks as are wanted, in seconds.
//!
//! Containers are offered, declined by all who were asked, and offered again: so the state stays small, and what grows is
//! the chain alone.

use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use godwit_ledger::block::{Block, Certificate, Committed, precommit_bytes};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::record::{Record, VerifiedRecord, record_id};
use godwit_ledger::replica::Commit;
use godwit_ledger::rules::build;
use godwit_ledger::state::State;
use godwit_protocol::bounded::{List, Text};
use godwit_protocol::membership::Role;
use godwit_protocol::signed::sign_bytes;
use godwit_protocol::{Message, Millis, OfferId, Signed, SiteId, Time};

use super::words::{self, NETWORK, PREFIX};

/// Containers in turn.
const CONTAINERS: u32 = 25;
/// Between two blocks.
const STEP: Millis = Millis(10);

pub struct Forge {
    state: State,
    keys: Vec<SigningKey>,
    now: Time,
    sequences: Vec<u64>,
    /// What waits for a block.
    waiting: Vec<VerifiedRecord>,
    registered: bool,
}

/// A founding document of validators with these keys.
pub fn genesis(keys: &[SigningKey]) -> Genesis {
    let member = |key: &SigningKey| words::member(key.verifying_key().into(), Role::Validator, "forged");
    let mut members: Vec<_> = keys.iter().map(member).collect();
    members.sort_by_key(|member| member.site);
    Genesis {
        name: Text::clipped("bench"),
        founded: Time(1_000_000),
        network: NETWORK,
        prefix: PREFIX,
        clock_bound_ms: 500,
        members: List::first(members),
    }
}

/// Keys that nobody keeps secret.
pub fn keys(count: u8) -> Vec<SigningKey> {
    (1..=count).map(|n| SigningKey::from_bytes(&[n; 32])).collect()
}

impl Forge {
    /// Of four validators.
    pub fn new() -> Self {
        let keys = keys(4);
        Self::of(&genesis(&keys), keys)
    }

    /// Of a mesh whose validators have these keys.
    pub fn of(genesis: &Genesis, keys: Vec<SigningKey>) -> Self {
        Self {
            state: State::genesis(genesis),
            now: genesis.founded.after(Millis(1000)),
            sequences: vec![0; keys.len()],
            keys,
            waiting: Vec::new(),
            registered: false,
        }
    }

    pub fn genesis(&self) -> &Genesis {
        self.state.founding()
    }

    #[cfg(test)]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Signatures that an audit of a block checks.
    pub fn signatures(block: &Committed) -> usize {
        block.block.records.len() + block.certificate.signatures.len()
    }

    /// The next block, of one record.
    #[cfg(test)]
    pub fn commit_one(&mut self) -> Commit {
        self.commit(1).expect("forged by the rules")
    }

    /// The next block, of at most so many records; fewer at the end of a turn.
    pub fn commit(&mut self, records: usize) -> Result<Commit> {
        if self.waiting.is_empty() {
            self.waiting = if self.registered { self.offers()? } else { self.registrations()? };
            self.registered = true;
        }
        let records: Vec<_> = self.waiting.drain(..records.min(self.waiting.len())).collect();
        self.now = self.now.after(STEP);
        let proposer = self.site(0);
        let (block, applied, refused) = build(&self.state, proposer, self.now, records);
        ensure!(refused.is_empty(), "a forged record is refused: {refused:?}");
        let certificate = self.certify(&block);
        self.state = applied.state.clone();
        Ok(Commit::new(Committed { block, certificate }, applied))
    }

    fn registrations(&mut self) -> Result<Vec<VerifiedRecord>> {
        (0..CONTAINERS).map(|n| self.sign(0, words::register(n))).collect()
    }

    /// Offers of all containers, and that all who are named decline.
    fn offers(&mut self) -> Result<Vec<VerifiedRecord>> {
        let named: Vec<SiteId> = (1..4).map(|n| self.site(n)).collect();
        let mut turn = (0..CONTAINERS).map(|n| self.sign(0, words::offer(n, &named))).collect::<Result<Vec<_>>>()?;
        let mesh = self.state.mesh();
        let ids = turn.iter().map(|offer| record_id(&mesh, offer).map(OfferId::from)).collect::<Result<Vec<_>, _>>()?;
        for offer in ids {
            for by in 1..4 {
                turn.push(self.sign(by, words::decline(offer))?);
            }
        }
        Ok(turn)
    }

    fn sign(&mut self, by: usize, message: Message) -> Result<VerifiedRecord> {
        self.sequences[by] += 1;
        let record = Record { sequence: self.sequences[by], expires: self.now.after(Millis(60_000)), message };
        Signed::sign(&self.state.mesh(), &self.keys[by], record).context("sign a record")
    }

    fn site(&self, n: usize) -> SiteId {
        self.keys[n].verifying_key().into()
    }

    /// By as many as it takes.
    fn certify(&self, block: &Block) -> Certificate {
        let (height, hash) = (block.header.height, block.header.hash());
        let enough = self.keys.len() * 2 / 3 + 1;
        let signatures = self.keys.iter().take(enough).map(|key| {
            let site = key.verifying_key().into();
            (site, sign_bytes(key, &precommit_bytes(&block.header.mesh, height, 0, hash, site)))
        });
        Certificate { height, round: 0, block: hash, signatures: List::first(signatures) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use godwit_ledger::audit::Auditor;
    use godwit_protocol::encode;

    #[test]
    fn what_is_forged_passes_an_audit_and_leaves_the_state_small() {
        let mut forge = Forge::new();
        let blocks: Vec<Committed> = (0..260).map(|_| forge.commit(7).expect("by the rules").committed).collect();
        let signatures: usize = blocks.iter().map(Forge::signatures).sum();
        let stored = blocks.iter().map(|block| Ok::<_, Infallible>(encode(block).expect("small")));
        let auditor = Auditor::new(forge.genesis()).expect("a genesis");
        let report = auditor.run(stored, &mut |_| {}).expect("an honest ledger");
        assert_eq!((report.height.0, report.signatures), (260, signatures as u64));
        assert!(forge.state().containers().count() == 25 && forge.state().offers().count() <= 25);
    }
}
