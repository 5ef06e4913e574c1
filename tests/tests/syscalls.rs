//! Persist, then speak: what `kill -9` alone cannot show, the order of system calls does.
//!
//! A validator runs under strace. Whatever it says in consensus is announced in its log, by one `write` to standard error,
//! right before it is handed to the network (`ledger.publish`). The check, over the whole trace: at every such `write` of a
//! vote or a proposal, everything that was written to the write-ahead log has been followed by a completed `fdatasync`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use godwit_tests::genesis::{self, Change, Settings};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node, artifacts};

/// Rounds of consensus to look at.
const CHANGES: usize = 5;

#[test]
fn nothing_is_published_before_the_write_ahead_log_is_on_disk() -> Result<()> {
    let folder = artifacts::scratch("syscalls")?;
    let trace = folder.join("trace");
    let mut nodes =
        (1..=4).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string()))).collect::<Result<Vec<_>>>()?;
    let calls = "trace=write,writev,pwrite64,pwritev,fdatasync,fsync";
    // As a grandchild: the daemon stays our child, and signals reach it.
    let strace = ["strace", "-D", "-f", "-y", "-s", "600", "-e", calls, "-o", &trace.display().to_string()];
    nodes[0].wrapper = strace.map(str::to_owned).to_vec();
    genesis::found(&nodes, &Settings::for_tests())?;
    let mesh = Mesh { nodes };
    mesh.nodes.iter().try_for_each(Node::start)?;
    mesh.until("all sites see each other and agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    for number in 0..CHANGES {
        Change::admit(&folder, &format!("guest-{number}"))?.commit(&mesh, &mesh.nodes)?;
    }
    mesh.node(1).stop()?;

    let trace = fs::read_to_string(&trace).with_context(|| format!("read {}", trace.display()))?;
    let seen = check(&trace)?;
    // Each height takes a prevote and a precommit of this validator.
    ensure!(seen.published >= 2 * CHANGES && seen.syncs >= CHANGES, "too little was seen to mean anything: {seen:?}");
    Ok(())
}

/// A walk over a trace, line by line: `PID call(FD</path>, "text"..., length) = result`. A call during which another
/// thread was seen is split into `<unfinished ...>` and `<... call resumed>`.
#[derive(Debug, Default)]
struct Seen<'a> {
    writes: usize,
    syncs: usize,
    published: usize,
    /// The latest write that no completed sync has followed.
    unsynced: Option<&'a str>,
    /// Threads whose sync of the log has begun.
    syncing: BTreeSet<&'a str>,
}

/// The first publication that came too early is an error.
fn check(trace: &str) -> Result<Seen<'_>> {
    let mut seen = Seen::default();
    for line in trace.lines() {
        if let Some((thread, call)) = line.split_once(' ') {
            seen.call(line, thread, call.trim_start())?;
        }
    }
    Ok(seen)
}

impl<'a> Seen<'a> {
    fn call(&mut self, line: &'a str, thread: &'a str, call: &str) -> Result<()> {
        let on_log = call.split_once('>').is_some_and(|(head, _)| head.contains("/wal"));
        let is_sync = call.starts_with("fdatasync(") || call.starts_with("fsync(");
        let is_write = call.starts_with("write") || call.starts_with("pwrite");
        if is_write && on_log {
            self.writes += 1;
            self.unsynced = Some(line);
        } else if is_sync && on_log && call.ends_with("<unfinished ...>") {
            self.syncing.insert(thread);
        } else if is_sync && on_log || call.contains("sync resumed>") && self.syncing.remove(thread) {
            ensure!(call.ends_with("= 0"), "a sync that fails must end the daemon: {line}");
            self.syncs += 1;
            self.unsynced = None;
        } else if call.starts_with("write(2<") && is_word(call) {
            if let Some(write) = self.unsynced {
                bail!("published before its log was synced:\n{write}\n{line}");
            }
            ensure!(self.writes > 0, "published without a word in the log: {line}");
            self.published += 1;
        }
        Ok(())
    }
}

fn is_word(call: &str) -> bool {
    call.contains("ledger.publish") && (call.contains("vote") || call.contains("proposal"))
}

#[test]
fn the_check_finds_what_it_is_for() {
    let write = r#"7 write(9</d/wal>, "\1\2", 2) = 2"#;
    let sync = "7 fdatasync(9</d/wal>) = 0";
    let (begun, ended) = ("7 fdatasync(9</d/wal> <unfinished ...>", "7 <... fdatasync resumed>) = 0");
    let publish = r#"7 write(2</d/run.log>, "DEBUG ledger.publish message=vote\n", 34) = 34"#;
    let other = "8 fdatasync(5</d/ledger/000004.log>) = 0";
    let others_end = "8 <... fdatasync resumed>) = 0";
    let check = |lines: &[&str]| check(&lines.join("\n")).map(|seen| seen.published);
    assert_eq!(check(&[write, other, sync, publish, write, begun, other, ended, publish]).unwrap(), 2);
    for early in [
        &[write, publish, sync][..],
        &[write, other, publish],
        &[write, begun, publish, ended],
        &[write, begun, others_end, publish],
        &[write, sync, publish, write, publish],
        &[publish, write, sync],
    ] {
        assert!(check(early).is_err(), "{early:?}");
    }
}
