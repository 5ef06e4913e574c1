//! Benchmarks, as `tests/bench.sh` runs them: in the lab (real sites, real engines, links of 1 Gbit/s), and of the ledger
//! alone on loopback.
//!
//! Downtime is what the application itself counts as its largest gap, stall what a client of a kept TCP connection sees.
//! Nothing here asserts a time.

mod award;
mod handoff;
mod idle;
mod ledger;
mod peers;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use godwit_tests::Mesh;
use godwit_tests::genesis::Settings;

use report::Report;

/// Of another method, which takes seconds.
const PEER_RUNS: usize = 5;

const USAGE: &str = "tests/bench.sh [handoff|ledger] [--quick] [--no-lab] [--json FILE]";

/// What to measure.
#[derive(Debug, Default)]
struct Plan {
    handoff: bool,
    ledger: bool,
    quick: bool,
    no_lab: bool,
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let plan = parse(std::env::args().skip(1))?;
    let mut report = Report::of_this_machine();
    if plan.ledger {
        report.ledger = Some(ledger::measure(plan.quick)?);
    }
    if !plan.no_lab {
        in_lab(&plan, &mut report)?;
    }
    print!("{}", report.tables());
    if let Some(file) = plan.json {
        let json = serde_json::to_string_pretty(&report).context("write the report")?;
        std::fs::write(&file, json + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn in_lab(plan: &Plan, report: &mut Report) -> Result<()> {
    let mesh = Mesh::in_lab(4, &["--rate", "1gbit"], &Settings::for_bench())?;
    report.idle = Some(idle::measure(&mesh, plan.quick)?);
    if plan.ledger {
        report.offer_to_award_ms = Some(award::offer_to_award(&mesh, if plan.quick { 5 } else { 25 })?);
    }
    if plan.handoff {
        for cell in handoff::plan(plan.quick) {
            report.handoff.push(handoff::measure(&mesh, &cell)?);
        }
        for mb in handoff::peers_sizes(plan.quick) {
            report.peers.push(peers::measure(&mesh, *mb, PEER_RUNS)?);
        }
    }
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "handoff" => plan.handoff = true,
            "ledger" => plan.ledger = true,
            "--quick" => plan.quick = true,
            "--no-lab" => plan.no_lab = true,
            "--json" => plan.json = Some(arguments.next().context("--json lacks its file")?.into()),
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    if !plan.handoff && !plan.ledger {
        (plan.handoff, plan.ledger) = (true, true);
    }
    Ok(plan)
}
