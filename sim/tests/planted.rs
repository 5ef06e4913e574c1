//! Deliberate bugs, of which each must be caught: what a checker does not see in code that is wrong, it does not prove of
//! code that is right.
//!
//! `cargo test --workspace --features godwit-sim/planted --test planted -- --nocapture` prints after how many seeds.

use godwit_protocol::planted::{Bug, plant};
use godwit_sim::campaign::run;
use godwit_sim::shrink::shrink;
use godwit_sim::{Faults, Plan};

/// Seeds after which a bug counts as not caught.
const PATIENCE: u64 = 2_000;

/// One test, since a bug is planted in the whole process.
#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        plant(Some(bug));
        let caught = (0..PATIENCE).find_map(|seed| {
            let plan =
                Plan { faults: if seed % 2 == 0 { Faults::ALL } else { Faults::drawn(seed) }, ..Plan::drawn(seed) };
            let summary = run(&plan);
            summary.violations.first().map(|violation| (seed + 1, plan.clone(), violation.clone()))
        });
        match caught {
            Some((seeds, _, violation)) => println!("{bug:?}: caught after {seeds} seeds: {violation}"),
            None => missed.push(bug),
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not caught in {PATIENCE} seeds: {missed:?}");
}

#[test]
fn a_failing_run_is_made_smaller() {
    // The other test plants its own: this one needs a process of its own, as `cargo nextest` gives it.
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    plant(Some(Bug::CrashThaws));
    let mut plans = (0..PATIENCE).map(|seed| Plan { sites: 7, containers: 6, ..Plan::new(seed, Faults::ALL) });
    let plan = plans.find(|plan| !run(plan).violations.is_empty()).expect("the bug is caught");
    let (smaller, violation) = shrink(&plan, |_, _| ()).expect("the bug is caught");
    assert!(violation.contains("two copies"), "{violation}");
    assert!(smaller.sites < plan.sites && smaller.active < plan.active, "{smaller}");
    assert!(run(&smaller).violations.contains(&violation), "the smaller plan fails in the same way again: {smaller}");
}
