use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, Role};
use proptest::prelude::*;

use super::*;
use crate::lineage::link;
use crate::testing::{Mesh, done, member, register, site};

/// A mesh whose validators change by an admission, a new key and a punishment, and at last a block of five records.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    let change = mesh.membership(0, Change::Put(member(4, Role::Validator)), &[0, 1, 2]);
    mesh.say(0, change);
    mesh.signers = vec![0, 1, 2, 4];
    let change = mesh.membership(1, mesh.rotation(4, 7), &[0, 1, 2, 3]);
    mesh.say(1, change);
    mesh.signers = vec![0, 1, 2, 7];
    let offer = mesh.received(1);
    let accused = mesh.accuse(3, 5);
    mesh.say(0, accused);
    mesh.signers = vec![0, 1, 7];
    mesh.say(2, Message::Register(register(9)));
    let last = mesh.sign(1, done(offer));
    let others: Vec<_> = (2..6).map(|n| mesh.sign(n % 3, Message::Register(register(n)))).collect();
    mesh.commit([vec![last], others].concat());
    mesh
}

fn prove(mesh: &Mesh, height: usize, index: usize) -> Bundle {
    let after =
        |at: usize| mesh.chain.get(at + 1).map_or(mesh.state.validators_hash(), |next| next.block.header.validators);
    let links = mesh.chain[..height - 1].iter().enumerate().filter_map(|(at, committed)| link(committed, after(at)));
    Bundle {
        genesis: mesh.genesis.clone(),
        lineage: Lineage { links: List::first(links) },
        attested: Attested::of(&mesh.chain[height - 1], index).expect("a record"),
    }
}

/// As `godwit verify` judges a file.
fn verdict(bytes: &[u8]) -> String {
    let judged = Bundle::from_bytes(bytes).and_then(|bundle| bundle.check());
    match judged {
        Ok(proved) => format!("ok mesh {} record {} height {}", proved.mesh, proved.record, proved.height),
        Err(bad) => {
            let (mut told, mut cause) = (bad.to_string(), bad.source());
            while let Some(inner) = cause {
                told = format!("{told}: {inner}");
                cause = inner.source();
            }
            told
        }
    }
}

#[test]
fn every_record_of_a_ledger_can_be_proved_in_a_few_kilobytes() {
    let mesh = mesh();
    for committed in &mesh.chain {
        let height = usize::try_from(committed.block.header.height.0).expect("few");
        for (index, record) in committed.block.records.iter().enumerate() {
            let bytes = prove(&mesh, height, index).to_bytes().expect("small");
            assert!(bytes.len() < 8 * 1024, "{} bytes", bytes.len());
            let proved = Bundle::from_bytes(&bytes).expect("reads").check().expect("holds");
            assert_eq!((proved.record, proved.author), (mesh.id_of(record), record.author));
            assert_eq!((proved.mesh, proved.height), (mesh.state.mesh(), committed.block.header.height));
            assert_eq!((proved.time, proved.message), (committed.block.header.time, record.body.message.clone()));
        }
    }
    let last = prove(&mesh, mesh.chain.len(), 2).check().expect("holds");
    assert_eq!((last.changes, last.validators, last.signers.len()), (3, 4, 3));
    assert_eq!((last.index, last.count), (2, 5));
}

#[test]
fn another_genesis_makes_it_another_meshs_and_then_nothing_holds() {
    let mut bundle = prove(&mesh(), 3, 0);
    bundle.genesis.clock_bound_ms += 1;
    assert!(matches!(bundle.check(), Err(BadBundle::Lineage(_))));
}

/// Made once: its mesh takes a while.
static PROOF: LazyLock<Vec<u8>> = LazyLock::new(|| prove(&mesh(), 12, 1).to_bytes().expect("small"));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// One flipped bit: it is refused, and no decoder panics. There is no bit that means nothing.
    #[test]
    fn a_flipped_bit_is_found(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = PROOF.clone();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(Bundle::from_bytes(&bytes).and_then(|bundle| bundle.check()).is_err());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let framed = [&MAGIC[..], &[VERSION], &bytes].concat();
        drop((Bundle::from_bytes(&bytes), Bundle::from_bytes(&framed)));
    }
}

/// The proofs in `tests/golden/`, by name: a good one, and what can be wrong with it.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let mesh = mesh();
    let good = || prove(&mesh, mesh.chain.len(), 2);
    let bent = |bend: &dyn Fn(&mut Bundle)| {
        let mut bundle = good();
        bend(&mut bundle);
        bundle.to_bytes().expect("small")
    };
    let valid = good().to_bytes().expect("small");
    let with = |at: usize, byte: u8| {
        let mut bytes = valid.clone();
        bytes[at] = byte;
        bytes
    };
    let clipped = |links: &Lineage, skip: usize| Lineage { links: List::first(links.links.iter().skip(skip).cloned()) };
    vec![
        ("first-block.proof", prove(&mesh, 1, 0).to_bytes().expect("small")),
        ("bad-magic.proof", with(0, b'g')),
        ("bad-version.proof", with(8, 2)),
        ("truncated.proof", valid[..valid.len() - 1].to_vec()),
        ("trailing.proof", [&valid[..], &[0]].concat()),
        ("other-genesis.proof", bent(&|bundle| bundle.genesis.prefix = 17)),
        ("no-mesh.proof", bent(&|bundle| bundle.genesis.members = List::default())),
        ("skipped-change.proof", bent(&|bundle| bundle.lineage = clipped(&bundle.lineage, 1))),
        (
            "missing-change.proof",
            bent(&|bundle| {
                bundle.lineage = Lineage { links: List::first(bundle.lineage.links.iter().take(1).cloned()) };
            }),
        ),
        (
            "idle-change.proof",
            bent(&|bundle| {
                let links =
                    bundle.lineage.links.iter().cloned().chain([Attested::of(&mesh.chain[10], 0).expect("a record")]);
                bundle.lineage = Lineage { links: List::first(links) };
            }),
        ),
        (
            "too-few-signers.proof",
            bent(&|bundle| {
                let signatures = bundle.attested.certificate.signatures.iter().take(2).copied();
                bundle.attested.certificate.signatures = List::first(signatures);
            }),
        ),
        (
            "signed-twice.proof",
            bent(&|bundle| {
                let signatures = bundle.attested.certificate.signatures.to_vec();
                bundle.attested.certificate.signatures = List::first([signatures[0], signatures[1], signatures[0]]);
            }),
        ),
        (
            "former-validator.proof",
            bent(&|bundle| {
                let block = &mesh.chain.last().expect("a block").block;
                bundle.attested.certificate = mesh.certify(block, &[0, 1, 3]);
            }),
        ),
        (
            "forged-signature.proof",
            bent(&|bundle| {
                let mut signatures = bundle.attested.certificate.signatures.to_vec();
                signatures[1].1.0[40] ^= 1;
                bundle.attested.certificate.signatures = List::first(signatures);
            }),
        ),
        ("other-header.proof", bent(&|bundle| bundle.attested.header.time.0 += 1)),
        ("other-author.proof", bent(&|bundle| bundle.attested.record.author = site(2))),
        (
            "other-record.proof",
            bent(&|bundle| {
                bundle.attested.record = mesh.chain[3].block.records[0].clone();
            }),
        ),
        ("other-place.proof", bent(&|bundle| bundle.attested.inclusion.index = 3)),
        ("valid.proof", valid.clone()),
    ]
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(file)
}

/// Third parties verify by these files: what is made today must be what was published, and be judged alike. After a
/// deliberate change of the format, under a new version, run this test with `GODWIT_WRITE_GOLDEN=1`.
#[test]
fn the_format_is_the_published_one() {
    let made = vectors();
    let index: String = made.iter().map(|(name, bytes)| format!("{name}\t{}\n", verdict(bytes))).collect();
    if std::env::var_os("GODWIT_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(golden("")).expect("a folder");
        for (name, bytes) in &made {
            fs::write(golden(name), bytes).expect("writes");
        }
        fs::write(golden("proofs.txt"), &index).expect("writes");
    }
    let published = fs::read_to_string(golden("proofs.txt")).expect("the index of the published proofs");
    assert_eq!(index, published);
    for (name, bytes) in made {
        let published = fs::read(golden(name)).expect("a published proof");
        assert!(bytes == published, "{name} is not made as it was published");
    }
}
