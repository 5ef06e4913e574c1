//! Makes a failing run smaller: fewer sites, liars, containers, faults and seconds, as long as a promise is still broken.
//!
//! A plan draws everything from its seed, so a smaller plan is another run: each is tried with some seeds.

use godwit_protocol::Millis;

use crate::campaign::run;
use crate::plan::{FEWEST, Plan};

/// Seeds that each smaller plan is tried with.
const SEEDS: u64 = 6;

/// The shortest run, in ms.
const SHORTEST: u64 = 10_000;

/// The smallest plan that was found to break a promise, and which; none if `plan` breaks none. `tell` hears of each step.
pub fn shrink(plan: &Plan, mut tell: impl FnMut(&Plan, &str)) -> Option<(Plan, String)> {
    let mut smallest = (plan.clone(), run(plan).violations.first()?.clone());
    while let Some(smaller) = smaller(&smallest.0).iter().find_map(broken) {
        tell(&smaller.0, &smaller.1);
        smallest = smaller;
    }
    Some(smallest)
}

/// The plan with one of some seeds, if it breaks a promise.
fn broken(plan: &Plan) -> Option<(Plan, String)> {
    (0..SEEDS).find_map(|more| {
        let plan = Plan { seed: plan.seed.wrapping_add(more), ..plan.clone() };
        let violation = run(&plan).violations.first()?.clone();
        Some((plan, violation))
    })
}

/// Plans that are smaller in one respect, those that save most first.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    if plan.handoffs > 0 {
        plans.push(Plan { handoffs: 0, ..plan.clone() });
    }
    if plan.active.0 > SHORTEST {
        plans.push(Plan { active: Millis((plan.active.0 / 2).max(SHORTEST)), ..plan.clone() });
    }
    if plan.sites > FEWEST {
        let sites = plan.sites - 1;
        let liars = plan.liars.iter().copied().filter(|(site, _)| *site < sites).collect();
        plans.push(Plan { sites, validators: plan.validators.min(sites), liars, ..plan.clone() });
    }
    if plan.validators > FEWEST {
        plans.push(Plan { validators: plan.validators - 1, ..plan.clone() });
    }
    if plan.containers > 1 {
        plans.push(Plan { containers: plan.containers - 1, ..plan.clone() });
    }
    for at in 0..plan.liars.len() {
        let mut honest = plan.clone();
        honest.liars.remove(at);
        plans.push(honest);
    }
    let mut faults = plan.faults;
    for at in (0..faults.named().len()).filter(|at| *plan.faults.clone().named()[*at].1 > 0) {
        let mut calmer = plan.clone();
        *calmer.faults.named()[at].1 = 0;
        plans.push(calmer);
    }
    // Fewer validators may leave too many of them lying.
    let bears = |plan: &Plan| {
        let lying = plan.liars.iter().filter(|(site, _)| *site < plan.validators).count();
        lying <= crate::plan::tolerated(plan.validators)
    };
    plans.retain(bears);
    plans
}
