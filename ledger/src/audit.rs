//! Verification of a copy of the ledger from genesis, trusting nobody: what `godwit audit` does, offline.
//!
//! Each block must follow the one before, carry a certificate of the validators of its height, hold only records whose
//! signatures and preconditions hold, and lead to the state its header names. The membership follows from the blocks
//! themselves, so the genesis alone has to be trusted.

use std::collections::BTreeMap;
use std::error::Error;

use godwit_protocol::{Hash, MeshId, Time};
use serde::Serialize;

use crate::block::{BadCertificate, Committed, Height};
use crate::genesis::{BadGenesis, Genesis};
use crate::rules::{BadBlock, validate, verify_records};
use crate::state::State;

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
}

/// Verifies blocks from height 1 on. An empty ledger is honest.
///
/// # Errors
/// The first [`Finding`], with the height at which it lies.
pub fn audit<E>(genesis: &Genesis, blocks: impl IntoIterator<Item = Result<Committed, E>>) -> Result<Report, Finding>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    genesis.check().map_err(|bad| Finding { height: Height(0), fault: Fault::Genesis(bad) })?;
    let mut state = State::genesis(genesis);
    let mut records = BTreeMap::new();
    for committed in blocks {
        let height = state.height().next();
        let judged = committed.map_err(|unreadable| Fault::Unreadable(unreadable.into())).and_then(|committed| {
            let after = follow(&state, &committed)?;
            Ok((committed, after))
        });
        let (committed, after) = judged.map_err(|fault| Finding { height, fault })?;
        for record in committed.block.records.iter() {
            *records.entry(record.body.message.name()).or_default() += 1;
        }
        state = after;
    }
    Ok(Report {
        mesh: state.mesh(),
        height: state.height(),
        time: state.time(),
        tip: state.tip(),
        root: state.root(),
        records,
        members: state.members().count(),
        containers: state.containers().count(),
        open_offers: state.offers().count(),
    })
}

/// The state after a block that was decided.
fn follow(state: &State, Committed { block, certificate }: &Committed) -> Result<State, Fault> {
    if block.header.height != state.height().next() {
        return Err(Fault::Missing(block.header.height));
    }
    if block.header.mesh != state.mesh() {
        return Err(Fault::Block(BadBlock::Mesh(block.header.mesh)));
    }
    certificate.check(&block.header, state.validators()).map_err(Fault::Certificate)?;
    let verified = verify_records(&state.mesh(), block).map_err(Fault::Block)?;
    Ok(validate(state, block, &verified).map_err(Fault::Block)?.state)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use godwit_protocol::bounded::List;
    use godwit_protocol::membership::{Change, Role};
    use godwit_protocol::{Malformed, Message, decode, encode};

    use super::*;
    use crate::block::Certificate;
    use crate::proof::records_root;
    use crate::record::{SignedRecord, record_id};
    use crate::refusal::Refusal;
    use crate::testing::{Mesh, container, done, member, offer, register, site};

    /// A handoff, a change of the validators, and blocks that the new ones decide.
    fn honest() -> Mesh {
        let mut mesh = Mesh::new();
        let id = mesh.received(1);
        mesh.say(1, done(id));
        let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
        mesh.say(0, change);
        let change = mesh.membership(1, Change::Remove(site(3)), &[0, 1, 2, 4]);
        mesh.signers = vec![0, 1, 2, 4];
        mesh.say(0, change);
        mesh.signers = vec![0, 1, 4];
        mesh.say(0, Message::Register(register(2)));
        mesh.say(0, Message::Offer(offer(2, 1, &[])));
        mesh.commit_due();
        mesh
    }

    fn audited(mesh: &Mesh, chain: Vec<Committed>) -> Result<Report, Finding> {
        audit(&mesh.genesis, chain.into_iter().map(Ok::<_, Infallible>))
    }

    fn finding(mesh: &Mesh, chain: Vec<Committed>) -> (u64, Fault) {
        let Finding { height, fault } = audited(mesh, chain).expect_err("a finding");
        (height.0, fault)
    }

    #[test]
    fn an_honest_ledger_is_accepted() {
        let mesh = honest();
        let report = audited(&mesh, mesh.chain.clone()).expect("honest");
        assert_eq!(report.height, Height(mesh.chain.len() as u64));
        assert_eq!((report.root, report.tip), (mesh.state.root(), mesh.state.tip()));
        assert_eq!((report.records["receipt"], report.records["bid"], report.records["membership"]), (1, 3, 2));
        assert_eq!((report.containers, report.open_offers, report.members), (2, 0, 5));
        assert_eq!(audited(&mesh, Vec::new()).expect("an empty ledger is honest").height, Height(0));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_named_with_its_height() {
        let mesh = honest();
        let at = 1; // of the offer
        let bytes = encode(&mesh.chain[at]).expect("small");
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            let read = mesh.chain.iter().enumerate().map(|(index, committed)| -> Result<Committed, Malformed> {
                decode(if index == at { &flipped } else { return Ok(committed.clone()) })
            });
            let finding = audit(&mesh.genesis, read).expect_err("one bit is enough");
            assert_eq!(finding.height, Height(at as u64 + 1), "byte {place}: {finding:?}");
        }
    }

    #[test]
    fn a_dropped_block_is_named_with_its_height() {
        let mesh = honest();
        for dropped in 0..mesh.chain.len() - 1 {
            let mut chain = mesh.chain.clone();
            chain.remove(dropped);
            let height = dropped as u64 + 1;
            assert!(
                matches!(finding(&mesh, chain), (at, Fault::Missing(got)) if at == height && got.0 == height + 1),
                "block {height}"
            );
        }
    }

    #[test]
    fn a_forged_record_is_named_with_its_height() {
        let mesh = honest();
        // With a certificate as if two thirds of the validators had signed such a block.
        let forge = |bend: fn(&mut SignedRecord)| {
            let mut chain = mesh.chain.clone();
            let block = &mut chain[0].block;
            let mut records = block.records.clone().into_inner();
            bend(&mut records[0]);
            let id = record_id(&block.header.mesh, &records[0]).expect("small");
            block.header.records = records_root(&[id]);
            block.records = List::first(records);
            chain[0].certificate = mesh.certify(&chain[0].block, &[0, 1, 2]);
            finding(&mesh, chain)
        };
        let other_body = forge(|record| record.body.message = Message::Register(register(9)));
        assert!(matches!(other_body, (1, Fault::Block(BadBlock::Forged { index: 0, .. }))), "{other_body:?}");
        let other_author = forge(|record| record.author = site(2));
        assert!(matches!(other_author, (1, Fault::Block(BadBlock::Forged { index: 0, .. }))), "{other_author:?}");
        let other_signature = forge(|record| record.signature.0[0] ^= 1);
        assert!(matches!(other_signature, (1, Fault::Block(BadBlock::Forged { .. }))), "{other_signature:?}");
    }

    #[test]
    fn a_record_that_should_have_been_refused_is_named_with_its_height() {
        let mut mesh = honest();
        let record = mesh.sign(0, Message::Register(register(1)));
        let (mut block, _, _) = crate::rules::build(&mesh.state, site(0), mesh.now, Vec::new());
        block.header.time = Time(mesh.now.0 + 1);
        block.header.records = records_root(&[mesh.id(&record)]);
        block.records = List::first([record.into_signed()]);
        let certificate = mesh.certify(&block, &[0, 1, 2, 4]);
        let mut chain = mesh.chain.clone();
        let height = chain.len() as u64 + 1;
        let found = finding(&mesh, {
            chain.push(Committed { block, certificate });
            chain
        });
        let Fault::Block(BadBlock::Refused { source, .. }) = &found.1 else { panic!("{found:?}") };
        assert_eq!((found.0, source), (height, &Refusal::ContainerKnown(container(1))));
    }

    #[test]
    fn a_certificate_of_too_few_or_wrong_validators_is_named_with_its_height() {
        let mesh = honest();
        let signed_by = |at: usize, signers: &[u8]| {
            let mut chain = mesh.chain.clone();
            chain[at].certificate = mesh.certify(&chain[at].block, signers);
            let Err(Finding { height, fault }) = audited(&mesh, chain) else { return None };
            let Fault::Certificate(bad) = fault else { panic!("{fault:?}") };
            Some((height.0, bad))
        };
        assert_eq!(signed_by(3, &[0, 2]), Some((4, BadCertificate::TooFew { votes: 2, of: 4 })));
        assert_eq!(signed_by(3, &[0, 2, 2]), Some((4, BadCertificate::Twice(site(2)))));
        assert_eq!(signed_by(3, &[0, 1, 4]), Some((4, BadCertificate::NotAValidator(site(4)))));
        assert_eq!(signed_by(3, &[3, 0, 1, 2]), None);
        // Who was removed has no vote any more, who joined has one.
        let last = mesh.chain.len() - 1;
        let height = mesh.chain.len() as u64;
        assert_eq!(signed_by(last, &[0, 1, 2, 3]), Some((height, BadCertificate::NotAValidator(site(3)))));
        assert_eq!(signed_by(last, &[1, 2, 4]), None);
    }

    #[test]
    fn a_certificate_of_another_round_block_or_height_is_named() {
        let mesh = honest();
        let with = |bend: &dyn Fn(&mut Vec<Committed>)| {
            let mut chain = mesh.chain.clone();
            bend(&mut chain);
            finding(&mesh, chain)
        };
        let round = with(&|chain| chain[2].certificate.round = 1);
        assert!(matches!(round, (3, Fault::Certificate(BadCertificate::Forged(_)))), "{round:?}");
        let height = with(&|chain| chain[2].certificate.height = Height(4));
        assert!(matches!(height, (3, Fault::Certificate(BadCertificate::Height { .. }))), "{height:?}");
        let other =
            with(&|chain| chain[2].certificate = Certificate { height: Height(3), ..chain[1].certificate.clone() });
        assert!(matches!(other, (3, Fault::Certificate(BadCertificate::Block { .. }))), "{other:?}");
    }

    #[test]
    fn another_genesis_is_another_ledger() {
        let mut mesh = honest();
        let chain = mesh.chain.clone();
        mesh.genesis.clock_bound_ms += 1;
        let found = finding(&mesh, chain.clone());
        assert!(matches!(found, (1, Fault::Block(BadBlock::Mesh(_)))), "{found:?}");
        mesh.genesis.prefix = 31;
        assert!(matches!(finding(&mesh, chain), (0, Fault::Genesis(BadGenesis::Range(..)))));
    }
}
