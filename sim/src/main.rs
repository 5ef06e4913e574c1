//! Replays a seed of the simulator, or looks for one that breaks a promise.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use godwit_protocol::Millis;
use godwit_sim::{Faults, Plan, World};

/// Runs a mesh under a virtual clock, with faults drawn from a seed.
#[derive(Debug, Parser)]
#[command(name = "godwit-sim", version)]
struct Arguments {
    /// The seed, or the first of several.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, one after the other.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Number of sites.
    #[arg(long, default_value_t = 5)]
    sites: usize,
    /// Number of containers.
    #[arg(long, default_value_t = 4)]
    containers: usize,
    /// Which faults: a mixture drawn from the seed, none, or all of them.
    #[arg(long, value_enum, default_value_t = Kind::Drawn)]
    faults: Kind,
    /// For how many seconds faults, operators and clients are at it.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Write every event of the last run to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Print each run as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Drawn,
    None,
    All,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut broken = 0_u64;
    for seed in (0..arguments.runs).map(|more| arguments.seed.wrapping_add(more)) {
        broken += u64::from(!run(&arguments, seed)?);
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether every promise held.
fn run(arguments: &Arguments, seed: u64) -> anyhow::Result<bool> {
    let faults = match arguments.faults {
        Kind::Drawn => Faults::drawn(seed),
        Kind::None => Faults::NONE,
        Kind::All => Faults::ALL,
    };
    let plan = Plan {
        sites: arguments.sites,
        containers: arguments.containers,
        active: Millis(arguments.seconds * 1_000),
        ..Plan::new(seed, faults)
    };
    let mut world = World::new(plan, arguments.trace.is_some());
    let result = world.run();
    if let Some(path) = &arguments.trace {
        std::fs::write(path, world.trace().join("\n"))
            .with_context(|| format!("write the trace {}", path.display()))?;
    }
    match &result {
        Ok(summary) if arguments.json => println!("{}", serde_json::to_string(summary)?),
        Ok(summary) => println!("{summary:?}"),
        Err(violation) => eprintln!("seed {seed}: {}", violation.0),
    }
    Ok(result.is_ok())
}
