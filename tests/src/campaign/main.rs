//! The kill -9 campaign, as `tests/campaign.sh` runs it: four validators on loopback under a steady load of records, killed
//! at random moments, one or several or all of them, and started again.
//!
//! After each round: the sites agree, no two of them hold different blocks at a height, every record that was acknowledged
//! as committed is in the ledger, and nobody has seen a validator contradict itself. At the end each ledger is audited.

mod chance;
mod check;
mod load;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use godwit_tests::genesis::Settings;
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node, artifacts};
use serde::Serialize;

use chance::Chance;
use check::Ledger;
use load::Load;

const USAGE: &str = "tests/campaign.sh [--rounds N] [--seed N] [--json FILE]";

/// One of them may be dead and the others go on.
const VALIDATORS: usize = 4;

/// From the beginning of the load to the first death, at most: some hundred votes.
const BEFORE: Duration = Duration::from_millis(1500);

/// Between two deaths of a round, at most.
const BETWEEN: Duration = Duration::from_millis(300);

/// How long the dead stay dead, at most.
const AWAY: Duration = Duration::from_millis(2000);

/// What to do.
#[derive(Debug)]
struct Plan {
    rounds: u32,
    seed: u64,
    json: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    seed: u64,
    rounds: u32,
    kills: u32,
    /// Rounds in which all validators were dead at once.
    all_dead: u32,
    /// Records that were acknowledged as committed.
    records: usize,
    height: u64,
    seconds: u64,
    equivocations: u64,
    ok: bool,
}

fn main() -> Result<()> {
    let plan = parse(std::env::args().skip(1))?;
    let folder = artifacts::scratch("campaign")?;
    let mut outcome = Outcome { seed: plan.seed, ..Outcome::default() };
    let run = run(&plan, &folder, &mut outcome);
    outcome.ok = run.is_ok();
    if let Some(file) = &plan.json {
        let json = serde_json::to_string_pretty(&outcome).context("write the outcome")?;
        fs::write(file, json + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    run.with_context(|| {
        format!("round {} of seed {}; its logs are in {}", outcome.rounds, plan.seed, folder.display())
    })?;
    let _ = fs::remove_dir_all(&folder);
    println!(
        "campaign: OK, seed {}, {} rounds, {} kills ({} times all at once), {} records committed, height {}, {} s",
        outcome.seed, outcome.rounds, outcome.kills, outcome.all_dead, outcome.records, outcome.height, outcome.seconds
    );
    Ok(())
}

fn run(plan: &Plan, folder: &Path, outcome: &mut Outcome) -> Result<()> {
    let began = Instant::now();
    let mut chance = Chance::new(plan.seed);
    let nodes = (1..=VALIDATORS).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string())));
    let mesh = Mesh::found(nodes.collect::<Result<_>>()?, &Settings::for_tests())?;
    let mut load = Load::new(folder)?;
    let mut ledger = Ledger::default();
    while outcome.rounds < plan.rounds {
        outcome.rounds += 1;
        let working = load.begin(&mesh.nodes);
        let victims = chance.some_of(VALIDATORS);
        thread::sleep(chance.below(BEFORE));
        for (place, victim) in victims.iter().enumerate() {
            if place > 0 {
                thread::sleep(chance.below(BETWEEN));
            }
            mesh.nodes[*victim].kill()?;
            outcome.kills += 1;
        }
        outcome.all_dead += u32::from(victims.len() == VALIDATORS);
        thread::sleep(chance.below(AWAY));
        for victim in chance.shuffled(victims.clone()) {
            mesh.nodes[victim].start()?;
            thread::sleep(chance.below(BETWEEN));
        }
        let acknowledged = working.end()?;
        let agreed = mesh.until("all sites agree again", LONG, |mesh| mesh.agree(&mesh.nodes))?;
        ledger.read(&mesh.nodes, agreed.height)?;
        ledger.holds(&acknowledged)?;
        outcome.equivocations += check::equivocations(&mesh.nodes)?;
        ensure!(outcome.equivocations == 0, "a validator contradicted itself\n{}", mesh.explain());
        outcome.records += acknowledged.len();
        outcome.height = agreed.height;
        outcome.seconds = began.elapsed().as_secs();
        println!(
            "round {}: killed {}, {} records committed, height {}",
            outcome.rounds,
            victims.iter().map(|victim| mesh.nodes[*victim].name.as_str()).collect::<Vec<_>>().join(" "),
            acknowledged.len(),
            agreed.height
        );
    }
    ensure!(outcome.records > 0, "no record was committed: the campaign shows nothing");
    for node in &mesh.nodes {
        node.stop()?;
        check::audit(node)?;
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan { rounds: 10, seed: 1, json: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} lacks its value\n{USAGE}"));
        match argument.as_str() {
            "--rounds" => plan.rounds = value()?.parse().context("--rounds takes a number")?,
            "--seed" => plan.seed = value()?.parse().context("--seed takes a number")?,
            "--json" => plan.json = Some(value()?.into()),
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    Ok(plan)
}
