//! The ledger as members see it: real validators on loopback, every vote and block on disk before it is answered.
//!
//! Beside each figure stands what limits it, measured in the same run: the replicas alone ([`core`]), disk, loopback and
//! signatures ([`limits`]).

mod absence;
mod auction;
mod core;
mod forge;
mod founding;
mod limits;
mod load;
mod report;
mod words;
mod writer;

use std::path::Path;

use anyhow::{Context, Result};
use godwit_tests::artifacts;

pub use report::Ledger;

use founding::Founded;
use load::Load;
use report::{Loaded, Usage};
use std::time::Duration;
use writer::Writer;

/// Committees that are measured: the smallest that bears a fault, the next, and one in the middle of what is allowed.
const COMMITTEES: [usize; 3] = [4, 7, 16];

/// Records under way: from one at a time to more than the validators keep up with.
const IN_FLIGHT: [usize; 4] = [1, 16, 256, 2048];

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Amount {
    span: Duration,
    /// Of one load: four of them stay below the containers that a mesh may have.
    records: usize,
    auctions: usize,
    alone: usize,
    blocks: u64,
    signatures: usize,
}

const FULL: Amount = Amount {
    span: Duration::from_secs(5),
    records: 16_000,
    auctions: 100,
    alone: 8_000,
    blocks: 20_000,
    signatures: 100_000,
};

const QUICK: Amount = Amount {
    span: Duration::from_secs(2),
    records: 16_000,
    auctions: 10,
    alone: 2_000,
    blocks: 4_000,
    signatures: 20_000,
};

/// Measures all of it, with progress on standard error.
pub fn measure(quick: bool) -> Result<Ledger> {
    let amount = if quick { QUICK } else { FULL };
    let folder = artifacts::scratch("bench-ledger")?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let limits = limits::measure(&folder)?;
    eprintln!("bench: {}", limits.line());
    let mut ledger = Ledger::new(limits);
    for validators in COMMITTEES {
        eprintln!("bench: {validators} replicas alone");
        let core = core::measure(validators, amount.alone)?;
        eprintln!("bench: {:.0} us a record and replica", core.us_per_record_and_replica);
        ledger.core.push(core);
    }
    for validators in COMMITTEES {
        let folder = folder.join(format!("loads-{validators}"));
        runtime.block_on(loads(&folder, validators, amount, &mut ledger))?;
        let folder = folder.with_file_name(format!("auctions-{validators}"));
        runtime.block_on(auctions(&folder, validators, amount, &mut ledger))?;
    }
    let (catch_up, kept) = absence::measure(&folder.join("absence"), amount.blocks)?;
    (ledger.catch_up, ledger.per_100k_blocks) = (Some(catch_up), Some(kept));
    ledger.audit = absence::audits(amount.signatures)?;
    // Kept when something failed.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(ledger)
}

/// One load after the other on one mesh.
async fn loads(folder: &Path, validators: usize, amount: Amount, ledger: &mut Ledger) -> Result<()> {
    let Founded { nodes, genesis, writers } = founding::found(folder, validators)?;
    let mesh = founding::start(nodes)?;
    let mut writer = Writer::connect(&genesis, writers).await?;
    let mut first = 0;
    for in_flight in IN_FLIGHT {
        eprintln!("bench: {validators} validators, {in_flight} records under way");
        let load = Load { in_flight, span: amount.span, most: amount.records };
        let mut usages = Vec::new();
        let outcome = load::run(&mut writer, load, first, || Usage::read(&mesh.nodes).map(|usage| usages.push(usage)));
        let outcome = outcome.await.with_context(|| mesh.explain())?;
        first += u32::try_from(amount.records)?;
        let loaded = Loaded::of(validators, in_flight, &outcome, &usages)?;
        eprintln!("bench: {}", loaded.line());
        ledger.loads.push(loaded);
    }
    writer.close().await;
    founding::stop(&mesh)
}

/// On a mesh of its own, whose state is small.
async fn auctions(folder: &Path, validators: usize, amount: Amount, ledger: &mut Ledger) -> Result<()> {
    eprintln!("bench: {validators} validators, {} auctions", amount.auctions);
    let Founded { nodes, genesis, writers } = founding::found(folder, validators)?;
    let mesh = founding::start(nodes)?;
    let mut writer = Writer::connect(&genesis, writers).await?;
    let auctions = auction::measure(&mut writer, &genesis, amount.auctions).await.with_context(|| mesh.explain())?;
    eprintln!("bench: offer to award {:.1} ms (99 %: {:.1})", auctions.award_ms.p50, auctions.award_ms.p99);
    ledger.auctions.push(auctions);
    writer.close().await;
    founding::stop(&mesh)
}
