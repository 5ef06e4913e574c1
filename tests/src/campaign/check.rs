//! What must hold after every round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use godwit_tests::view::Block;
use godwit_tests::{Node, artifacts};

/// Blocks asked for at once: what the API gives.
const AT_ONCE: u64 = 256;

/// What the sites hold, as far as it was read.
#[derive(Default)]
pub struct Ledger {
    hashes: BTreeMap<u64, String>,
    records: BTreeSet<String>,
}

impl Ledger {
    /// Reads what is new up to a height at every site: the same blocks, or it is an error.
    ///
    /// # Errors
    /// A fork, or a site that does not answer.
    pub fn read(&mut self, nodes: &[Node], height: u64) -> Result<()> {
        let from = self.hashes.last_key_value().map_or(1, |(last, _)| last + 1);
        for node in nodes {
            let mut next = from;
            while next <= height {
                let text = node.get(&format!("/v1/blocks?from={next}&most={AT_ONCE}"))?;
                let blocks: Vec<Block> = serde_json::from_str(&text).context("read blocks")?;
                let last = blocks.last().with_context(|| format!("{} has no block {next}", node.name))?.height;
                for block in blocks {
                    let known = self.hashes.entry(block.height).or_insert_with(|| block.hash.clone());
                    ensure!(*known == block.hash, "a fork: {} holds another block {}", node.name, block.height);
                    self.records.extend(block.records.into_iter().map(|record| record.record));
                }
                next = last + 1;
            }
        }
        Ok(())
    }

    /// Whether every record that was acknowledged is there.
    ///
    /// # Errors
    /// The first that is lost.
    pub fn holds(&self, acknowledged: &[String]) -> Result<()> {
        for record in acknowledged {
            ensure!(self.records.contains(record), "record {record} was acknowledged as committed and is lost");
        }
        Ok(())
    }
}

/// How often the sites have seen a validator contradict itself since each was started.
///
/// # Errors
/// When a site does not answer.
pub fn equivocations(nodes: &[Node]) -> Result<u64> {
    let mut seen = 0;
    for node in nodes {
        let metrics = node.get("/metrics")?;
        ensure!(metrics.contains("godwit_misbehaviour"), "{} does not count misbehaviour", node.name);
        let lines = metrics.lines().filter(|line| line.contains("misbehaviour_total{kind=\"equivocation\"}"));
        for line in lines {
            seen += line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).context("a count")?;
        }
        // Counters begin anew with each process; the log goes on.
        seen += node.logged("two different votes or proposals")?;
    }
    Ok(seen)
}

/// Whether a site's ledger verifies from genesis.
///
/// # Errors
/// What the audit finds.
pub fn audit(node: &Node) -> Result<()> {
    let mut command = node.godwit()?;
    command.args(["--config", &node.config(), "audit"]).arg(Path::new(&node.data()));
    let said = artifacts::run(&mut command)?;
    ensure!(said.contains("audit: OK"), "{}: {said}", node.name);
    Ok(())
}
