//! Replays a seed of the simulator, looks for one that breaks a promise, and makes it smaller.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use godwit_protocol::Millis;
use godwit_sim::byzantine::Behaviour;
use godwit_sim::campaign::{Total, Until, campaign};
use godwit_sim::plan::HANDOFFS;
use godwit_sim::shrink::shrink;
use godwit_sim::{Faults, Plan, World};

/// A rare path that is reached less often is named in the report.
const RARELY: u64 = 100;

/// Runs a mesh under a virtual clock, with faults and lies drawn from a seed.
#[derive(Debug, Parser)]
#[command(
    name = "godwit-sim",
    version,
    after_help = "\
Examples:
  godwit-sim --seed 7                                   one run, as the seed draws it
  godwit-sim --seed 7 --trace run.txt                   with every event
  godwit-sim --seed 1 --runs 1000                       a thousand, on all cores
  godwit-sim --seed 1 --minutes 60                      as many as fit
  godwit-sim --seed 9 --sites 4 --validators 4 --faults crash=40,loss=300 --liars flooder@0
  godwit-sim --sites 4 --validators 4 --faults none --liars none --delay 20   what a far mesh does
  godwit-sim --seed 9 --shrink                          the smallest plan that fails like it

Exit code 1 if a promise was broken; the plan is then printed as arguments to run it again."
)]
struct Arguments {
    /// The seed, or the first of several
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run
    #[arg(long, conflicts_with = "minutes")]
    runs: Option<u64>,
    /// Run seeds for so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Runs at once [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// Number of sites [default: drawn, 4 to 7]
    #[arg(long, value_parser = clap::value_parser!(u16).range(4..=2000))]
    sites: Option<u16>,
    /// How many of them are validators at first [default: drawn]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=31))]
    validators: Option<u16>,
    /// Number of containers [default: drawn, 3 to 6]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    containers: Option<u16>,
    /// Which faults: drawn, none, all, or a list with chances in ten thousand: crash=15,loss=300
    #[arg(long, default_value = "drawn", value_parser = Choice::<Faults>::from_str)]
    faults: Choice<Faults>,
    /// How many ms everything is on its way, one way, where nothing goes wrong [default: drawn for each, 1 to 19]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    delay: Option<u16>,
    /// Which sites lie: drawn, none, or a list: flooder@0,idle-bidder@5
    #[arg(long, default_value = "drawn", value_parser = Choice::<Liars>::from_str)]
    liars: Choice<Liars>,
    /// For how many seconds faults, operators and clients are at it
    #[arg(long, conflicts_with = "hours")]
    seconds: Option<u64>,
    /// The same in hours
    #[arg(long)]
    hours: Option<u64>,
    /// Go on for up to twelve times as long until so many containers were handed over [default: 5; 0 with --seconds or --hours]
    #[arg(long)]
    handoffs: Option<u64>,
    /// Write every event of a single run to this file
    #[arg(long, conflicts_with_all = ["runs", "minutes"])]
    trace: Option<PathBuf>,
    /// Make the run of the seed smaller, if it fails
    #[arg(long, conflicts_with_all = ["runs", "minutes", "trace"])]
    shrink: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Plant a deliberate bug that must be caught, by its number from 0
    #[cfg(feature = "planted")]
    #[arg(long)]
    plant: Option<usize>,
}

/// Drawn from the seed, or given.
#[derive(Clone, Debug)]
enum Choice<T> {
    Drawn,
    All,
    Given(T),
}

#[derive(Clone, Debug)]
struct Liars(Vec<(usize, Behaviour)>);

impl<T: FromStr<Err = String>> FromStr for Choice<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "drawn" => Ok(Self::Drawn),
            "all" => Ok(Self::All),
            given => given.parse().map(Self::Given),
        }
    }
}

impl FromStr for Liars {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let liar = |part: &str| {
            let (name, site) = part.split_once('@').ok_or_else(|| format!("`{part}` is not BEHAVIOUR@SITE"))?;
            let site = site.parse().map_err(|_| format!("`{site}` is not a site's number from 0"))?;
            Ok((site, name.parse()?))
        };
        text.split(',').filter(|part| !part.is_empty() && *part != "none").map(liar).collect::<Result<_, _>>().map(Self)
    }
}

impl Arguments {
    fn plan(&self, seed: u64) -> Plan {
        let drawn = Plan::drawn(seed);
        let sites = self.sites.map_or(drawn.sites, usize::from);
        let validators = self.validators.map_or(drawn.validators, usize::from).min(sites);
        let given = |of: usize| drawn.liars.iter().copied().filter(|(site, _)| *site < of).collect();
        let span = self.hours.map(|hours| hours * 3_600).or(self.seconds);
        Plan {
            seed,
            sites,
            validators,
            containers: self.containers.map_or(drawn.containers, usize::from),
            faults: match self.faults {
                Choice::Drawn => drawn.faults,
                Choice::All => Faults::ALL,
                Choice::Given(faults) => faults,
            },
            delay: self.delay.map(|ms| Millis(ms.into())),
            liars: match &self.liars {
                // Those that were drawn fit the validators that were drawn.
                Choice::Drawn if self.sites.is_some() || self.validators.is_some() => Vec::new(),
                Choice::Drawn | Choice::All => given(sites),
                Choice::Given(liars) => liars.0.clone(),
            },
            active: span.map_or(drawn.active, |seconds| Millis(seconds * 1_000)),
            handoffs: self.handoffs.unwrap_or(if span.is_some() { 0 } else { drawn.handoffs }),
            settle: drawn.settle,
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    #[cfg(feature = "planted")]
    godwit_protocol::planted::plant(
        arguments.plant.and_then(|number| godwit_protocol::planted::Bug::ALL.get(number).copied()),
    );
    let whole = match (arguments.runs, arguments.minutes) {
        (None, None) if arguments.shrink => smallest(&arguments),
        (None, None) => one(&arguments)?,
        (Some(runs), _) => many(&arguments, Until::Runs(runs))?,
        (None, Some(minutes)) => many(&arguments, Until::Time(Duration::from_secs(minutes * 60)))?,
    };
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether every promise held.
fn one(arguments: &Arguments) -> anyhow::Result<bool> {
    let plan = arguments.plan(arguments.seed);
    let mut world = World::new(plan.clone(), arguments.trace.is_some());
    let summary = world.run();
    if let Some(path) = &arguments.trace {
        std::fs::write(path, world.trace().join("\n"))
            .with_context(|| format!("write the trace {}", path.display()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary:#?}");
    }
    for violation in &summary.violations {
        eprintln!("broken: {violation}\nreplay: godwit-sim {plan}");
    }
    Ok(summary.violations.is_empty())
}

fn many(arguments: &Arguments, until: Until) -> anyhow::Result<bool> {
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let began = Instant::now();
    let told = std::sync::Mutex::new((began, 0));
    let tell = |total: &Total, run: u64| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, broken) = &mut *told;
        // What is broken is said at once: it may take hours until the end.
        for (plan, violation) in total.broken.iter().skip(*broken) {
            eprintln!("broken: {violation}\nreplay: godwit-sim {plan}");
        }
        *broken = total.broken.len();
        if last.elapsed() >= Duration::from_secs(10) {
            *last = Instant::now();
            let rate = (total.clean * 1_000).checked_div(began.elapsed().as_millis().try_into().unwrap_or(1));
            eprintln!(
                "{run} runs, {} clean, {} with {HANDOFFS} handoffs or more, {} broken; {} a second",
                total.clean,
                total.full,
                total.broken.len(),
                rate.unwrap_or(0)
            );
        }
    };
    let (total, next) = campaign(arguments.seed, until, threads, |seed| arguments.plan(seed), tell);
    if arguments.json {
        println!("{}", serde_json::json!({ "first": arguments.seed, "next": next, "total": total }));
    } else {
        print_total(&total, next, began.elapsed());
    }
    Ok(total.broken.is_empty())
}

fn print_total(total: &Total, next: u64, took: Duration) {
    println!(
        "{} clean runs, {} of them with {HANDOFFS} handoffs or more; {} handoffs, {} deaths, {} events in {} s",
        total.clean,
        total.full,
        total.received,
        total.crashes,
        total.events,
        took.as_secs()
    );
    for mark in godwit_sim::marks::Mark::ALL {
        println!("  {:<32} {}", mark.name(), total.marks.count(*mark));
    }
    for (name, count) in total.marks.below(RARELY) {
        println!("rarely reached: {name} ({count} times)");
    }
    println!("next: --seed {next}");
}

/// Whether there was nothing to make smaller.
fn smallest(arguments: &Arguments) -> bool {
    let plan = arguments.plan(arguments.seed);
    let found = shrink(&plan, |plan, violation| eprintln!("smaller: {violation}\n         godwit-sim {plan}"));
    match found {
        Some((plan, violation)) => {
            println!("broken: {violation}\nreplay: godwit-sim {plan}");
            false
        }
        None => {
            println!("no promise is broken by {plan}");
            true
        }
    }
}
