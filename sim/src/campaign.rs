//! Many runs: on all cores, one seed after the other, with what they came to added up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::marks::Marks;
use crate::plan::{HANDOFFS, Plan};
use crate::world::{Summary, World};

/// What many runs came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// Runs without a violation.
    pub clean: u64,
    /// Those among them with at least [`HANDOFFS`] handoffs.
    pub full: u64,
    /// Containers handed over.
    pub received: u64,
    /// Events handled.
    pub events: u64,
    /// Deaths of processes.
    pub crashes: u64,
    /// Rare paths reached.
    pub marks: Marks,
    /// Runs that broke a promise: the plan as arguments, and what was broken.
    pub broken: Vec<(String, String)>,
}

/// When to end.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many runs.
    Runs(u64),
    /// When so much time has passed.
    Time(Duration),
}

/// One run; a panic in it is a broken promise too.
#[must_use]
pub fn run(plan: &Plan) -> Summary {
    catch_unwind(AssertUnwindSafe(|| World::new(plan.clone(), false).run())).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
        Summary { seed: plan.seed, violations: vec![format!("panic: {what}")], ..Summary::default() }
    })
}

/// Runs the plans of seeds from `first` on, on so many threads; `tell` hears of each run. Ends early after ten that broke a
/// promise.
pub fn campaign(
    first: u64,
    until: Until,
    threads: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    tell: impl Fn(&Total, u64) + Sync,
) -> (Total, u64) {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let began = Instant::now();
    let goes_on = |run: u64| match until {
        Until::Runs(runs) => run < runs,
        Until::Time(span) => began.elapsed() < span,
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !goes_on(number) || lock(&total).broken.len() >= 10 {
                        next.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    let plan = plan(first.wrapping_add(number));
                    let summary = run(&plan);
                    let mut total = lock(&total);
                    total.add(&plan, &summary);
                    tell(&total, number + 1);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    (total, first.wrapping_add(next.into_inner()))
}

fn lock(total: &Mutex<Total>) -> std::sync::MutexGuard<'_, Total> {
    total.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Total {
    fn add(&mut self, plan: &Plan, summary: &Summary) {
        match summary.violations.first() {
            Some(violation) => self.broken.push((plan.to_string(), violation.clone())),
            None => {
                self.clean += 1;
                self.full += u64::from(summary.received >= HANDOFFS);
            }
        }
        self.received += summary.received;
        self.events += summary.events;
        self.crashes += summary.crashes;
        self.marks.add(&summary.marks);
    }
}
