//! Meshes on loopback for the load: `godwit run` processes, and members that are keys alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use godwit_ledger::genesis::Genesis;
use godwit_protocol::membership::Role;
use godwit_tests::genesis::{self, Settings};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node};

use super::words::{self, RANGE};

/// Members that write. A mesh lets one author have so much waiting that one alone would not fill its blocks.
const WRITERS: u8 = 8;

/// User and system time so far, in ms.
const TICK_MS: u64 = 10;

/// A mesh, its founding document, and the writers' keys.
pub struct Founded {
    pub nodes: Vec<Node>,
    pub genesis: Genesis,
    pub writers: Vec<SigningKey>,
}

/// Founds a mesh of so many validators and does not start it.
pub fn found(folder: &Path, validators: usize) -> Result<Founded> {
    let node = |n: usize| Node::here(&format!("n{n}"), &folder.join(n.to_string()));
    let nodes = (1..=validators).map(node).collect::<Result<Vec<_>>>()?;
    let writers: Vec<SigningKey> = (1..=WRITERS).map(|n| SigningKey::from_bytes(&[100 + n; 32])).collect();
    let line = |key: &SigningKey| {
        let member = words::member(key.verifying_key().into(), Role::Member, "writer");
        serde_json::to_string(&member).context("write a member's line")
    };
    let guests = writers.iter().map(line).collect::<Result<Vec<_>>>()?;
    genesis::found_with(&nodes, &guests, &["--network", RANGE], &Settings::for_bench())?;
    let genesis = godwit::genesis::read(Path::new(&nodes[0].genesis())).context("read the genesis")?;
    Ok(Founded { nodes, genesis, writers })
}

/// Starts all nodes and waits until they agree.
pub fn start(nodes: Vec<Node>) -> Result<Mesh> {
    let mesh = Mesh { nodes };
    mesh.nodes.iter().try_for_each(Node::start)?;
    mesh.until("all validators see each other and agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    Ok(mesh)
}

/// The process of a node on this machine.
fn process(node: &Node) -> Result<PathBuf> {
    let pid = std::fs::read_to_string(node.path("/run/godwit.pid")).context("read a pid")?;
    Ok(Path::new("/proc").join(pid.trim()))
}

/// Processor time of all nodes, in ms.
pub fn busy_ms(nodes: &[Node]) -> Result<u64> {
    nodes.iter().map(|node| busy(&process(node)?)).sum()
}

/// Processor time of this process, in ms.
pub fn own_busy_ms() -> Result<u64> {
    busy(Path::new("/proc/self"))
}

fn busy(process: &Path) -> Result<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).context("read a process' statistics")?;
    busy_of(&stat).with_context(|| format!("no processor time in {stat}"))
}

/// User and system time of all threads, hundredths of a second behind the program's name in brackets: proc(5).
fn busy_of(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) * TICK_MS)
}

/// Resident memory of the largest of the nodes, in MiB.
pub fn resident_mb(nodes: &[Node]) -> Result<f64> {
    let mut largest = 0.0_f64;
    for node in nodes {
        let status = std::fs::read_to_string(process(node)?.join("status")).context("read a process' status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
        let kb: f64 = line.trim().trim_end_matches("kB").trim().parse().context("resident memory")?;
        largest = largest.max(kb / 1024.0);
    }
    Ok(largest)
}

/// Payload that the nodes have sent to others so far, in bytes: what `godwit_net_sent_bytes` counts.
pub fn sent_bytes(nodes: &[Node]) -> Result<u64> {
    nodes.iter().map(|node| Ok(sent_of(&node.get("/metrics")?))).sum()
}

fn sent_of(metrics: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with("godwit_net_sent_bytes_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// What the files in a folder hold, in bytes. Not the space that they occupy: a database reserves some in advance.
pub fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.context("read a folder")?;
        let kind = entry.metadata();
        // A database deletes files while it is looked at.
        let Ok(metadata) = kind else { continue };
        sum += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

/// Ends the nodes one after the other.
pub fn stop(mesh: &Mesh) -> Result<()> {
    mesh.nodes.iter().try_for_each(Node::stop)
}

/// The node's own key.
pub fn key(node: &Node) -> Result<SigningKey> {
    godwit::key::read(Path::new(&node.path("site.key"))).context("read a site's key")
}

/// Where a node keeps its ledger.
pub fn data(node: &Node) -> Result<PathBuf> {
    let data = PathBuf::from(node.data());
    ensure!(data.is_absolute(), "{} is not absolute", data.display());
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a) (b) S 1 2 3 4 5 6 7 8 9 10 123 45 0 0 20 0 4 0 1 2 3";
        assert_eq!(busy_of(stat), Some(1680));
        assert_eq!(busy_of("7 (a"), None);
    }

    #[test]
    fn what_was_sent_is_summed_over_the_channels() {
        let metrics = "# HELP x\ngodwit_net_sent_bytes_total{channel=\"Ledger\"} 40\n\
             godwit_net_sent_bytes_total{channel=\"Record\"} 2\ngodwit_net_received_bytes_total{channel=\"Ledger\"} 9\n";
        assert_eq!(sent_of(metrics), 42);
    }
}
