//! Fixed seeds, replayed on every run of the tests; `godwit-sim --seed N --trace FILE` shows how one went.

use godwit_sim::{Faults, Plan, Summary, World};

fn run(seed: u64, faults: Faults) -> Summary {
    match World::new(Plan::new(seed, faults), false).run() {
        Ok(summary) => summary,
        Err(violation) => panic!("seed {seed}: {}; replay: godwit-sim --seed {seed} --trace FILE", violation.0),
    }
}

/// Runs seeds on all cores.
fn all(seeds: std::ops::Range<u64>, faults: fn(u64) -> Faults) -> Vec<Summary> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|core| {
                let mine = seeds.clone().skip(core).step_by(cores);
                scope.spawn(move || mine.map(|seed| run(seed, faults(seed))).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

#[test]
fn without_faults_every_award_is_handed_over() {
    for summary in all(0..10, |_| Faults::NONE) {
        assert!(summary.received > 0, "{summary:?}");
        assert_eq!(summary.received, summary.closed, "{summary:?}");
        assert_eq!((summary.passed, summary.returned), (0, 0), "{summary:?}");
    }
}

#[test]
fn promises_hold_whatever_goes_wrong() {
    let runs = all(0..100, Faults::drawn);
    let runs: Vec<_> = runs.into_iter().chain(all(100..200, |_| Faults::ALL)).collect();
    // The seeds must reach the rare ends too, or they prove nothing about them.
    let sum = |of: fn(&Summary) -> u64| runs.iter().map(of).sum::<u64>();
    assert!(sum(|run| run.crashes) > 100, "crashes");
    assert!(sum(|run| run.passed) > 100, "attempts passed on");
    assert!(sum(|run| run.returned) > 20, "containers returned");
    assert!(sum(|run| run.closed) > 500, "handoffs complete");
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let (once, again) = (run(7, Faults::ALL), run(7, Faults::ALL));
    assert_eq!(once, again);
    assert_ne!(once.hash, run(8, Faults::ALL).hash);
}
