//! `godwit audit` accepts an honest ledger and names the first bad block of any other.
//!
//! The ledger is made by four real validators; the copies are tampered with below `godwit`, in the database, by whoever
//! has the disk. That is the one place where the tests look inside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use godwit_ledger::block::{Certificate, Committed};
use godwit_protocol::bounded::List;
use godwit_protocol::{Time, decode, encode};
use godwit_tests::genesis::{Change, Settings};
use godwit_tests::{Mesh, Node, artifacts};
use rocksdb::{DB, Options};

/// The block that is tampered with, and how many there are at least: it is neither the first nor the last.
const VICTIM: u64 = 3;
const BLOCKS: u64 = 5;

/// What is done to the block's stored bytes; none: it is dropped.
type Tamper = fn(Vec<u8>) -> Result<Option<Vec<u8>>>;

const TAMPERS: [(&str, Tamper); 5] = [
    ("a flipped byte in its records", |mut bytes| {
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        Ok(Some(bytes))
    }),
    ("a flipped byte in its certificate", |mut bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        Ok(Some(bytes))
    }),
    ("dropped", |_| Ok(None)),
    ("a forged record", |bytes| {
        change(&bytes, |committed| {
            let mut records: Vec<_> = committed.block.records.iter().cloned().collect();
            records[0].body.expires = Time(records[0].body.expires.0 + 1);
            committed.block.records = List::first(records);
        })
    }),
    ("a certificate of too few validators", |bytes| {
        change(&bytes, |committed| {
            let Certificate { height, round, block, ref signatures } = committed.certificate;
            let signatures = List::first(signatures.iter().take(2).copied());
            committed.certificate = Certificate { height, round, block, signatures };
        })
    }),
];

fn change(bytes: &[u8], change: impl FnOnce(&mut Committed)) -> Result<Option<Vec<u8>>> {
    let mut committed: Committed = decode(bytes).context("decode the stored block")?;
    change(&mut committed);
    encode(&committed).context("encode the block").map(Some)
}

#[test]
fn an_honest_ledger_passes_and_the_first_bad_block_of_any_other_is_named() -> Result<()> {
    let folder = artifacts::scratch("audit")?;
    let node = ledger(&folder)?;
    let verdict = audit(&node, Path::new(&node.data()))?;
    ensure!(verdict.ok && verdict.said.contains("audit: OK"), "an honest ledger: {}", verdict.said);

    for (number, (what, tamper)) in TAMPERS.into_iter().enumerate() {
        let copy = folder.join(format!("copy-{number}"));
        artifacts::run(std::process::Command::new("cp").arg("-a").arg(node.data()).arg(&copy))?;
        rewrite(&copy.join("ledger"), tamper)?;
        let verdict = audit(&node, &copy)?;
        ensure!(!verdict.ok && !verdict.said.contains("audit: OK"), "{what}: it passes\n{}", verdict.said);
        ensure!(
            verdict.said.contains(&format!("block {VICTIM}")),
            "{what}: block {VICTIM} is not named\n{}",
            verdict.said
        );
    }
    Ok(())
}

#[test]
fn the_ledger_of_another_mesh_is_refused() -> Result<()> {
    let folder = artifacts::scratch("audit-other")?;
    let node = ledger(&folder)?;
    let other = ledger(&folder.join("other"))?;
    let said = artifacts::output(node.godwit()?.args([
        "--config",
        &node.config(),
        "audit",
        "--genesis",
        &other.genesis(),
        &node.data(),
    ]))?;
    ensure!(!said.status.success(), "another mesh's genesis was taken: {said:?}");
    Ok(())
}

/// The ledger of a validator that has stopped, with some blocks in it.
fn ledger(folder: &Path) -> Result<Node> {
    let nodes = (1..=4).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string()))).collect::<Result<_>>()?;
    let mesh = Mesh::found(nodes, &Settings::for_tests())?;
    while mesh.agree(&mesh.nodes)?.height < BLOCKS {
        let height = mesh.node(1).status()?.height;
        Change::admit(folder, &format!("guest-{height}"))?.commit(&mesh, &mesh.nodes)?;
        mesh.until("all have the block", godwit_tests::wait::LONG, |mesh| {
            let agreed = mesh.agree(&mesh.nodes)?;
            ensure!(agreed.height > height, "{agreed:?}");
            Ok(())
        })?;
    }
    for node in &mesh.nodes {
        node.stop()?;
    }
    Ok(mesh.node(1).clone())
}

struct Verdict {
    ok: bool,
    said: String,
}

fn audit(node: &Node, data: &Path) -> Result<Verdict> {
    let output = artifacts::output(node.godwit()?.args(["--config", &node.config(), "audit"]).arg(data))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok(Verdict { ok: output.status.success(), said })
}

fn rewrite(ledger: &PathBuf, tamper: Tamper) -> Result<()> {
    let options = Options::default();
    let columns = DB::list_cf(&options, ledger).context("list the columns")?;
    let db = DB::open_cf(&options, ledger, columns).with_context(|| format!("open {}", ledger.display()))?;
    let blocks = db.cf_handle("blocks").context("no column of blocks")?;
    let key = VICTIM.to_be_bytes();
    let bytes = db.get_cf(blocks, key).context("read")?.with_context(|| format!("no block {VICTIM}"))?;
    match tamper(bytes)? {
        Some(bytes) => db.put_cf(blocks, key, bytes),
        None => db.delete_cf(blocks, key),
    }
    .context("write")
}
