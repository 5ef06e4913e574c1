//! Fixed seeds, replayed on every run of the tests; `godwit-sim --seed N --trace FILE` shows how one went.

use godwit_sim::byzantine::Behaviour;
use godwit_sim::campaign::{Total, Until, campaign};
use godwit_sim::marks::Mark;
use godwit_sim::{Faults, Plan, Summary, World};

fn run(plan: Plan) -> Summary {
    World::new(plan, false).run()
}

/// Runs seeds on all cores; all of them must be clean.
fn all(first: u64, runs: u64, plan: impl Fn(u64) -> Plan + Sync) -> Total {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (total, _) = campaign(first, Until::Runs(runs), threads, plan, |_, _| ());
    let broken: Vec<String> =
        total.broken.iter().map(|(plan, violation)| format!("{violation}\n  replay: godwit-sim {plan}")).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    total
}

#[test]
fn without_faults_every_award_is_handed_over() {
    for seed in 0..10 {
        let summary = run(Plan::new(seed, Faults::NONE));
        assert_eq!(summary.violations, Vec::<String>::new());
        assert!(summary.received > 0, "{summary:?}");
        assert_eq!(summary.received, summary.closed, "{summary:?}");
        assert_eq!((summary.passed, summary.returned), (0, 0), "{summary:?}");
    }
}

#[test]
fn promises_hold_whatever_goes_wrong() {
    let mut total = all(0, 60, Plan::drawn);
    let stormy = all(1_000, 30, |seed| Plan { faults: Faults::ALL, ..Plan::drawn(seed) });
    total.marks.add(&stormy.marks);
    // The seeds must reach the rare paths too, or they prove nothing about them.
    let common = [
        Mark::TargetDiesBeforeYield,
        Mark::TargetDiesAfterYield,
        Mark::RestoreFails,
        Mark::RestoreFailsBeforeCommit,
        Mark::TargetDiesDuringFill,
        Mark::SourceDiesDuringFill,
        Mark::Undecided,
        Mark::RunnerUp,
        Mark::RestartInHandoff,
        Mark::DiskFull,
        Mark::HostLost,
        Mark::Reproposal,
        Mark::WalReplay,
        Mark::MempoolFull,
    ];
    for mark in common {
        assert!(total.marks.count(mark) > 0, "{} was never reached", mark.name());
    }
    assert!(total.received + stormy.received > 300, "{total:?}");
}

#[test]
fn nobody_who_lies_makes_an_honest_site_break_a_promise() {
    for behaviour in Behaviour::ALL {
        // As a validator, as a member, and as both at once with faults besides.
        let as_validator = |seed| Plan { liars: vec![(0, *behaviour)], ..Plan::new(seed, Faults::NONE) };
        let as_member = |seed| Plan { liars: vec![(4, *behaviour)], ..Plan::new(seed, Faults::NONE) };
        let stormy =
            |seed| Plan { liars: vec![(1, *behaviour), (4, *behaviour)], ..Plan::new(seed, Faults::drawn(seed)) };
        let total = all(0, 2, as_validator);
        all(10, 1, as_member);
        all(20, 2, stormy);
        let noticed = match behaviour {
            Behaviour::BadProposer => Some(Mark::BadProposal),
            Behaviour::EquivocatingVoter => Some(Mark::Equivocation),
            Behaviour::Flooder => Some(Mark::MempoolFull),
            Behaviour::Replayer => Some(Mark::Forgery),
            _ => None,
        };
        if let Some(mark) = noticed {
            assert!(total.marks.count(mark) > 0, "{} was not noticed", behaviour.name());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let plan = |seed| Plan { faults: Faults::ALL, ..Plan::drawn(seed) };
    let (once, again) = (run(plan(7)), run(plan(7)));
    assert_eq!(once, again);
    assert_ne!(once.trace_hash, run(plan(8)).trace_hash);
}
