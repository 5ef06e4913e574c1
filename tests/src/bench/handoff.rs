//! Handoffs of the test workload back and forth between two sites.

use anyhow::{Context, Result, ensure};
use godwit_tests::mesh::Load;
use godwit_tests::view::{Gaps, Seen, Timeline};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Workload, inspect};

use super::report::{Figures, Handoff};

/// Of each kind; a median of fewer says little.
pub const RUNS: usize = 5;

/// What is measured in one row.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    mb: u64,
    at_once: usize,
}

pub fn sizes(quick: bool) -> &'static [u64] {
    if quick { &[1, 64] } else { &[1, 64, 256] }
}

pub fn plan(quick: bool) -> Vec<Cell> {
    let alone = sizes(quick).iter().map(|mb| Cell { mb: *mb, at_once: 1 });
    let together = [2, 4].map(|at_once| Cell { mb: 64, at_once });
    alone.chain(together.into_iter().filter(|_| !quick)).collect()
}

pub fn measure(mesh: &Mesh, cell: &Cell) -> Result<Handoff> {
    eprintln!("bench: {} container(s) of {} MB, {RUNS} times", cell.at_once, cell.mb);
    let names: [&'static str; 4] = ["a", "b", "c", "d"];
    let names = &names[..cell.at_once];
    let workloads = names
        .iter()
        .map(|name| mesh.deploy(mesh.node(1), mesh.node(4), &Load::new(name, cell.mb)).map(|(_, workload)| workload))
        .collect::<Result<Vec<_>>>()?;
    let (mut downtime, mut stall, mut total, mut bytes) = (vec![], vec![], vec![], vec![]);
    for run in 0..RUNS {
        let (from, to) = if run % 2 == 0 { (1, 2) } else { (2, 1) };
        for seen in round(mesh, names, &workloads, from, to)? {
            downtime.push(seen.gaps.max_gap_ms);
            stall.push(seen.probe.max_stall_ms);
            total.push(seen.total_ms);
            bytes.push(seen.timeline.bytes.context("no count of bytes")?);
        }
    }
    remove(mesh, names)?;
    bytes.sort_unstable();
    Ok(Handoff {
        backend: "docker",
        mode: "stop-and-copy",
        mb: cell.mb,
        dirty_mb_s: 0,
        writable_mb: 0,
        link_mbit: 1000,
        at_once: cell.at_once,
        downtime_ms: Figures::of(downtime),
        stall_ms: Figures::of(stall),
        total_ms: Figures::of(total),
        bytes: bytes[bytes.len() / 2],
    })
}

/// What one handoff looked like from all sides.
struct Sight {
    gaps: Gaps,
    probe: Seen,
    timeline: Timeline,
    total_ms: f64,
}

fn round(mesh: &Mesh, names: &[&str], workloads: &[Workload], from: usize, to: usize) -> Result<Vec<Sight>> {
    let (source, target) = (mesh.node(from), mesh.node(to));
    let probes = workloads.iter().map(Workload::probe).collect::<Result<Vec<_>>>()?;
    workloads.iter().try_for_each(Workload::reset)?;
    let offers = names.iter().map(|name| mesh.offer(source, name, Some(&target.name))).collect::<Result<Vec<_>>>()?;
    for offer in &offers {
        let offer = mesh.ended(source, &offer.offer)?;
        ensure!(offer.winner_name.as_deref() == Some(&target.name) && offer.state == "done", "{offer:?}");
    }
    let mut seen = vec![];
    for ((workload, probe), offer) in workloads.iter().zip(probes).zip(&offers) {
        let gaps = mesh.until("the workload answers", LONG, |_| workload.gaps())?;
        let timeline = source.timeline(&offer.offer)?;
        let at = |name: &str| timeline.steps.iter().find(|step| step.name == name).map(|step| step.at_ms);
        let (start, end) = at("offer").zip(at("done")).context("a timeline without offer or done")?;
        // Below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let total_ms = end.saturating_sub(start) as f64;
        let probe = probe.finish()?;
        probe.is_whole()?;
        seen.push(Sight { gaps, probe, timeline, total_ms });
    }
    Ok(seen)
}

pub fn remove(mesh: &Mesh, names: &[&str]) -> Result<()> {
    for name in names {
        let owner = mesh.named(&mesh.node(4).container(name)?.owner_name)?;
        owner.say(&["rm", "--force", name])?;
    }
    mesh.until("nothing runs any more", LONG, |mesh| {
        for node in &mesh.nodes {
            ensure!(inspect::containers(node.site(), "running")?.is_empty(), "something runs at {}", node.name);
        }
        Ok(())
    })
}
