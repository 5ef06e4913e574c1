//! What blocks cost: to be caught up with, to be audited, to be kept.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use godwit::run::{LEDGER, WAL};
use godwit_ledger::audit::Auditor;
use godwit_ledger::block::Committed;
use godwit_ledger::store::Disk;
use godwit_ledger::wal::Wal;
use godwit_protocol::encode;
use godwit_tests::Node;
use godwit_tests::artifacts::run;
use godwit_tests::wait::{LONG, until};
use serde::Serialize;

use super::forge::Forge;
use super::founding::{self, Founded};

/// What a figure for blocks is given for.
const PER: f64 = 100_000.0;
/// Records of a block in the ledger that is audited.
const AUDITED: usize = 100;

/// A validator with an empty ledger and three that have all blocks, of one record each.
#[derive(Clone, Debug, Serialize)]
pub struct CatchUp {
    pub blocks: u64,
    pub blocks_per_s: f64,
    /// How many signatures were checked for that.
    pub signatures_per_s: f64,
}

/// What 100,000 blocks of one small record each take at a site that keeps all.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    pub disk_mb: f64,
    /// More than a site without any.
    pub memory_mb: f64,
}

/// An audit from genesis, on all processors.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub records_per_block: usize,
    pub signatures: u64,
    pub signatures_per_s: f64,
    pub blocks_per_s: f64,
}

pub fn measure(folder: &Path, blocks: u64) -> Result<(CatchUp, Kept)> {
    eprintln!("bench: catching up with {blocks} blocks");
    let Founded { nodes, genesis, .. } = founding::found(folder, 4)?;
    let empty = resident_without_blocks(&nodes)?;
    let mut forge = Forge::of(&genesis, nodes.iter().map(founding::key).collect::<Result<_>>()?);
    let (bytes, signatures) = forge_into(&nodes[1], &mut forge, blocks)?;
    for other in &nodes[2..] {
        let (from, to) = (founding::data(&nodes[1])?.join(LEDGER), founding::data(other)?);
        std::fs::remove_dir_all(to.join(LEDGER)).context("drop an empty ledger")?;
        run(std::process::Command::new("cp").arg("-r").arg(from).arg(&to))?;
    }
    nodes.iter().try_for_each(Node::start)?;
    let seconds = caught_up(&nodes[0], blocks)?;
    let full = founding::resident_mb(&nodes[1..])?;
    nodes.iter().try_for_each(Node::stop)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let (n, bytes, signatures) = (blocks as f64, bytes as f64, signatures as f64);
    let catch_up = CatchUp { blocks, blocks_per_s: n / seconds, signatures_per_s: signatures / seconds };
    let kept = Kept { disk_mb: bytes / n * PER / f64::from(1 << 20), memory_mb: (full - empty).max(0.0) / n * PER };
    Ok((catch_up, kept))
}

/// Their memory when they agree, and nothing has happened yet. Leaves empty ledgers behind.
fn resident_without_blocks(nodes: &[Node]) -> Result<f64> {
    let mesh = founding::start(nodes.to_vec())?;
    let resident = founding::resident_mb(&mesh.nodes)?;
    founding::stop(&mesh)?;
    Ok(resident)
}

/// Writes a forged ledger to where a node has its own; what it takes on disk, and how many signatures it holds.
fn forge_into(node: &Node, forge: &mut Forge, blocks: u64) -> Result<(u64, usize)> {
    let data = founding::data(node)?;
    let ledger = data.join(LEDGER);
    std::fs::remove_dir_all(&ledger).context("drop an empty ledger")?;
    Wal::found(&data.join(WAL))?;
    let (mut store, _) = Disk::open(&ledger, forge.genesis())?;
    let mut signatures = 0;
    for _ in 0..blocks {
        let commit = forge.commit(1)?;
        signatures += Forge::signatures(&commit.committed);
        store.follow(&commit)?;
    }
    store.sync()?;
    drop(store);
    Ok((founding::disk_bytes(&ledger)?, signatures))
}

/// How long it takes, from the first blocks on: starting and connecting are not what is measured.
fn caught_up(node: &Node, blocks: u64) -> Result<f64> {
    let height = || node.status().map(|status| status.height);
    let begun = until("the first blocks", LONG, || {
        let first = height()?;
        ensure!(first > 0, "none yet");
        Ok((Instant::now(), first))
    })?;
    // Some thousand blocks a second; ten times as long is a hang.
    let most = LONG + Duration::from_millis(blocks * 10);
    let end = until("all blocks", most, || {
        let now = height()?;
        ensure!(now >= blocks, "{now} of {blocks}");
        Ok(Instant::now())
    })?;
    let (start, first) = begun;
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let share = (blocks - first) as f64 / blocks as f64;
    ensure!(share > 0.1, "it had caught up before it could be looked at: take more blocks");
    Ok((end - start).as_secs_f64() / share)
}

/// Audits a forged ledger of about so many signatures.
pub fn audit(signatures: usize, records_per_block: usize) -> Result<Audit> {
    eprintln!("bench: an audit of {signatures} signatures, {records_per_block} records a block");
    let mut forge = Forge::new();
    let (mut blocks, mut count) = (Vec::new(), 0);
    while count < signatures {
        let committed: Committed = forge.commit(records_per_block)?.committed;
        count += Forge::signatures(&committed);
        blocks.push(Ok::<_, Infallible>(encode(&committed).context("encode a block")?));
    }
    let begun = Instant::now();
    let report = Auditor::new(forge.genesis())?.run(blocks, &mut |_| {})?;
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let (checked, height) = (report.signatures as f64, report.height.0 as f64);
    Ok(Audit {
        records_per_block,
        signatures: report.signatures,
        signatures_per_s: checked / seconds,
        blocks_per_s: height / seconds,
    })
}

/// With many records a block and with one.
pub fn audits(signatures: usize) -> Result<Vec<Audit>> {
    [AUDITED, 1].into_iter().map(|records| audit(signatures, records)).collect()
}
