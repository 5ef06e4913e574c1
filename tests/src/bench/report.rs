//! The figures, as JSON for machines and as tables for people. Keys are added, never renamed.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::ledger::Ledger;

/// All of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub date: String,
    /// How Godwit was built: `dev` or `release`.
    pub profile: &'static str,
    pub offer_to_award_ms: Option<Figures>,
    pub handoff: Vec<Handoff>,
    pub peers: Vec<Peer>,
    pub idle: Option<Idle>,
    /// On loopback.
    pub ledger: Option<Ledger>,
}

/// Handoffs of one kind.
#[derive(Debug, Serialize)]
pub struct Handoff {
    pub backend: &'static str,
    pub mode: &'static str,
    pub mb: u64,
    pub dirty_mb_s: u64,
    pub writable_mb: u64,
    pub link_mbit: u64,
    /// Containers that moved at the same time.
    pub at_once: usize,
    pub downtime_ms: Figures,
    pub stall_ms: Figures,
    pub total_ms: Figures,
    /// Of one container, the median.
    pub bytes: u64,
    /// The standstill's parts as the mesh measured them, medians.
    pub spans_ms: BTreeMap<String, f64>,
}

/// Another way to do it, on the same workload.
#[derive(Debug, Serialize)]
pub struct Peer {
    pub method: &'static str,
    pub mb: u64,
    pub downtime_ms: Figures,
}

/// `godwit run` while nothing happens: the hungriest of the sites.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub rss_mb: f64,
    pub cpu_percent: f64,
}

/// In the order in which they follow each other.
fn spans(of: &BTreeMap<String, f64>) -> String {
    let named = ["freeze", "collect", "send", "commit", "switch"].iter();
    let texts = named.filter_map(|name| Some(format!("{name} {}", ms(*of.get(*name)?))));
    texts.collect::<Vec<_>>().join(", ")
}

/// Median, 99th percentile (with fewer than a hundred: the largest) and count.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    pub p50: f64,
    pub p99: f64,
    pub n: usize,
}

impl Figures {
    /// Of at least one measurement.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let at = |percent: usize| values[(n * percent).div_ceil(100).clamp(1, n) - 1];
        Self { p50: at(50), p99: at(99), n }
    }
}

impl Report {
    pub fn of_this_machine() -> Self {
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kb = memory.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0);
        let machine = format!(
            "{} x {}, {} GiB, Linux {}",
            run("nproc", &[]),
            model.unwrap_or("unknown processor"),
            kb >> 20,
            run("uname", &["-r"])
        );
        Self {
            machine,
            date: run("date", &["-u", "+%F"]),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            offer_to_award_ms: None,
            handoff: Vec::new(),
            peers: Vec::new(),
            idle: None,
            ledger: None,
        }
    }

    pub fn tables(&self) -> String {
        let mut text = format!("{}, {}, {} build\n", self.machine, self.date, self.profile);
        if let Some(ledger) = &self.ledger {
            text += &ledger.tables();
        }
        // Writing to a string does not fail.
        if let Some(award) = self.offer_to_award_ms {
            let _ = writeln!(
                text,
                "\noffer to award: {} ms, 99th percentile {} ms (n = {})",
                ms(award.p50),
                ms(award.p99),
                award.n
            );
        }
        if let Some(idle) = &self.idle {
            let _ = writeln!(text, "idle site: {:.1} MB resident, {:.2} % of a core", idle.rss_mb, idle.cpu_percent);
        }
        if !self.handoff.is_empty() {
            let _ = writeln!(
                text,
                "\n| handoff | MB | writing, MB/s | at once | downtime, ms | stall, ms | total, ms | bytes | of the downtime, ms | n |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
            );
        }
        for cell in &self.handoff {
            let _ = writeln!(
                text,
                "| {} {} | {} | {} | {} | {} ({}) | {} ({}) | {} ({}) | {} | {} | {} |",
                cell.backend,
                cell.mode,
                cell.mb,
                cell.dirty_mb_s,
                cell.at_once,
                ms(cell.downtime_ms.p50),
                ms(cell.downtime_ms.p99),
                ms(cell.stall_ms.p50),
                ms(cell.stall_ms.p99),
                ms(cell.total_ms.p50),
                ms(cell.total_ms.p99),
                cell.bytes,
                spans(&cell.spans_ms),
                cell.downtime_ms.n
            );
        }
        if !self.peers.is_empty() {
            let _ = writeln!(text, "\n| other method | MB | downtime, ms | n |\n| --- | --- | --- | --- |");
        }
        for peer in &self.peers {
            let (p50, p99) = (ms(peer.downtime_ms.p50), ms(peer.downtime_ms.p99));
            let _ = writeln!(text, "| {} | {} | {p50} ({p99}) | {} |", peer.method, peer.mb, peer.downtime_ms.n);
        }
        text + "\nMedians, in brackets the 99th percentile.\n"
    }
}

fn ms(value: f64) -> String {
    format!("{value:.0}")
}
