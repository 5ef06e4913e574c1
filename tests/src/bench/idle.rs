//! What a site costs while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use godwit_tests::wait::{LONG, until};
use godwit_tests::{Mesh, Node};

use super::report::Idle;

/// Ticks of the clock that procfs counts processor time in: fixed at 100 a second for user space on Linux.
const TICKS_PER_S: f64 = 100.0;

pub fn measure(mesh: &Mesh, quick: bool) -> Result<Idle> {
    let span = Duration::from_secs(if quick { 10 } else { 60 });
    eprintln!("bench: idle sites, {} s", span.as_secs());
    let start = Instant::now();
    let before = mesh.nodes.iter().map(ticks).collect::<Result<Vec<_>>>()?;
    until("idleness", span + LONG, || (start.elapsed() >= span).then_some(()).context("not yet"))?;
    let after = mesh.nodes.iter().map(ticks).collect::<Result<Vec<_>>>()?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = after.iter().zip(&before).map(|(after, before)| (after - before) / TICKS_PER_S / seconds * 100.0);
    let rss = mesh.nodes.iter().map(rss_mb).collect::<Result<Vec<_>>>()?;
    Ok(Idle { rss_mb: rss.into_iter().fold(0.0, f64::max), cpu_percent: cpu.fold(0.0, f64::max) })
}

/// User and system time so far.
fn ticks(node: &Node) -> Result<f64> {
    number(node, "sed 's/.*) //' /proc/$pid/stat | awk '{ print $12 + $13 }'")
}

fn rss_mb(node: &Node) -> Result<f64> {
    number(node, "awk '/^VmRSS/ { print $2 / 1024 }' /proc/$pid/status")
}

fn number(node: &Node, script: &str) -> Result<f64> {
    let said = node.site().shell(&format!("pid=$(cat /run/godwit.pid); {script}"))?;
    said.trim().parse().with_context(|| format!("{script}: {said}"))
}
