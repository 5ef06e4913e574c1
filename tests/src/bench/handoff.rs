//! Handoffs of the test workload back and forth between two sites.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use godwit_tests::mesh::Load;
use godwit_tests::view::{Gaps, Seen, Timeline};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Workload, inspect};

use super::report::{Figures, Handoff};

/// Of each kind; a median of fewer says little.
pub const RUNS: usize = 10;

/// What is measured in one row.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    mb: u64,
    dirty_mb_s: u64,
    at_once: usize,
}

pub fn sizes(quick: bool) -> &'static [u64] {
    if quick { &[1, 256] } else { &[1, 64, 256, 1024] }
}

/// The seeds' method takes 40 s for a gigabyte, and is measured where it ends in time.
pub fn peers_sizes(quick: bool) -> &'static [u64] {
    if quick { &[1] } else { &[1, 64, 256] }
}

pub fn plan(quick: bool) -> Vec<Cell> {
    let idle = sizes(quick).iter().map(|mb| Cell { mb: *mb, dirty_mb_s: 0, at_once: 1 });
    let writing = [10, 100].map(|dirty_mb_s| Cell { mb: 256, dirty_mb_s, at_once: 1 });
    let together = [2, 4].map(|at_once| Cell { mb: 64, dirty_mb_s: 0, at_once });
    idle.chain(writing.into_iter().chain(together).filter(|_| !quick)).collect()
}

pub fn measure(mesh: &Mesh, cell: &Cell) -> Result<Handoff> {
    let Cell { mb, dirty_mb_s, at_once } = cell;
    eprintln!("bench: {at_once} container(s) of {mb} MB, writing {dirty_mb_s} MB/s, {RUNS} times");
    let names: [&'static str; 4] = ["a", "b", "c", "d"];
    let names = &names[..cell.at_once];
    let workloads = names
        .iter()
        .map(|name| {
            let load = Load { dirty_mb_s: cell.dirty_mb_s, ..Load::new(name, cell.mb) };
            mesh.deploy(mesh.node(1), mesh.node(4), &load).map(|(_, workload)| workload)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut spans: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut downtime, mut stall, mut total, mut bytes) = (vec![], vec![], vec![], vec![]);
    for run in 0..RUNS {
        let (from, to) = if run % 2 == 0 { (1, 2) } else { (2, 1) };
        for seen in round(mesh, names, &workloads, from, to)? {
            downtime.push(seen.gaps.max_gap_ms);
            stall.push(seen.probe.max_stall_ms);
            total.push(seen.total_ms);
            for (name, ms) in seen.timeline.downtime_ms.iter().flatten() {
                // Below 2^53.
                #[allow(clippy::cast_precision_loss)]
                spans.entry(name.clone()).or_default().push(*ms as f64);
            }
            bytes.push(seen.timeline.bytes.context("no count of bytes")?);
        }
    }
    remove(mesh, names)?;
    bytes.sort_unstable();
    Ok(Handoff {
        backend: "docker",
        mode: "hybrid",
        mb: cell.mb,
        dirty_mb_s: cell.dirty_mb_s,
        writable_mb: 0,
        link_mbit: 1000,
        at_once: cell.at_once,
        downtime_ms: Figures::of(downtime),
        stall_ms: Figures::of(stall),
        total_ms: Figures::of(total),
        bytes: bytes[bytes.len() / 2],
        spans_ms: spans.into_iter().map(|(name, of)| (name, Figures::of(of).p50)).collect(),
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
        // Until then the source would decline to take it back.
        let timeline = mesh.until("the source has let it go", LONG, |_| {
            let timeline = source.timeline(&offer.offer)?;
            ensure!(timeline.steps.iter().any(|step| step.name == "released"), "{timeline:?}");
            Ok(timeline)
        })?;
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
