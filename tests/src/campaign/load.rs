//! A steady load of records: one observer is given another name again and again, each time approved by three validators.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use godwit_tests::Node;
use godwit_tests::genesis::Change;
use serde_json::{Value, json};

/// After a try that failed, since a site is dead or there is no quorum.
const PAUSE: Duration = Duration::from_millis(50);

/// Approvals that a change needs at 4 validators.
const APPROVALS: usize = 3;

/// What is said, and how often so far.
pub struct Load {
    member: Value,
    said: u64,
}

/// The load of one round.
pub struct Working<'a> {
    load: &'a mut Load,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Vec<String>)>,
}

impl Load {
    /// # Errors
    /// When the observer's key cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let member = serde_json::from_str(Change::admit(folder, "guest")?.subject()).context("a member line")?;
        Ok(Self { member, said: 0 })
    }

    /// Says one record after the other until it is ended.
    pub fn begin(&mut self, nodes: &[Node]) -> Working<'_> {
        let stop = Arc::new(AtomicBool::new(false));
        let (nodes, member, first, stopped) = (nodes.to_vec(), self.member.clone(), self.said, Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (mut said, mut acknowledged) = (first, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                said += 1;
                match say(&nodes, &member, said) {
                    Ok(record) => acknowledged.push(record),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
            (said, acknowledged)
        });
        Working { load: self, stop, thread }
    }
}

impl Working<'_> {
    /// The records that were acknowledged as committed.
    ///
    /// # Errors
    /// When the load ended by itself.
    pub fn end(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let (said, acknowledged) = self.thread.join().map_err(|_| anyhow!("the load panicked"))?;
        self.load.said = said;
        Ok(acknowledged)
    }
}

/// One record, from its approvals to its commit.
fn say(nodes: &[Node], member: &Value, number: u64) -> Result<String> {
    // Each site in turn is the one that says it.
    let first = usize::try_from(number).unwrap_or(0) % nodes.len();
    let nodes = || nodes.iter().cycle().skip(first).take(nodes.len());
    let members = nodes().find_map(|node| node.get("/v1/members").ok()).context("nobody answers")?;
    let members: Value = serde_json::from_str(&members).context("the members")?;
    let mut member = member.clone();
    member["name"] = json!(format!("guest-{number}"));
    let proposal = json!({ "epoch": members["epoch"], "change": { "put": member } });
    let body = proposal.to_string();
    let approvals: Vec<Value> =
        nodes().filter_map(|node| node.post("/v1/approvals", &body).ok()).take(APPROVALS).collect();
    ensure!(approvals.len() == APPROVALS, "too few validators are up");
    let change = json!({ "proposal": proposal, "approvals": approvals }).to_string();
    let node = nodes().find(|node| node.is_alive().is_ok()).context("nobody is alive")?;
    let appended = node.post("/v1/members", &change)?;
    appended["record"].as_str().map(str::to_owned).with_context(|| format!("no record in {appended}"))
}
