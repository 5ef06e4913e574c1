//! What is on a site's machine, whatever Godwit says about it.

use anyhow::{Context, Result, ensure};

use crate::lab::Site;
use crate::node::Node;

/// Whether exactly one container runs in all these sites, at `owner`, and no site holds a paused or frozen container, a
/// stopped task, a mount or a checkpoint of one that has gone.
///
/// # Errors
/// What is not so.
pub fn quiet(nodes: &[Node], owner: &str) -> Result<()> {
    for node in nodes {
        let site = node.site();
        let running = containers(site, "running")?;
        let expected = usize::from(node.name == owner);
        ensure!(running.len() == expected, "{owner} owns the container; at {} run {running:?}", node.name);
        for state in ["paused", "restarting", "removing"] {
            let found = containers(site, state)?;
            ensure!(found.is_empty(), "{state} at {}: {found:?}", node.name);
        }
        for (what, script) in LEFTOVERS {
            let found = site.shell(script)?;
            ensure!(found.trim().is_empty(), "{what} at {}: {found}", node.name);
        }
        let mounts: usize = site.shell(ROOTS)?.trim().parse().context("count of mounts")?;
        ensure!(mounts == expected, "{mounts} containers' roots are mounted at {}, {expected} run there", node.name);
    }
    Ok(())
}

/// The engine's containers in this state.
///
/// # Errors
/// When the engine does not answer.
pub fn containers(site: &Site, state: &str) -> Result<Vec<String>> {
    let filter = format!("status={state}");
    let listed =
        crate::artifacts::run(site.command("docker").args(["ps", "-a", "--no-trunc", "-q", "--filter", &filter]))?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

/// Each prints what must not be there.
const LEFTOVERS: [(&str, &str); 6] = [
    ("stopped tasks", "ps -eo stat=,pid=,comm= | grep '^[Tt]' || true"),
    (
        "frozen cgroups",
        "find /sys/fs/cgroup -name freezer.state -exec grep -l FROZEN {} + 2>/dev/null || true
         find /sys/fs/cgroup -name cgroup.freeze -exec grep -l 1 {} + 2>/dev/null || true",
    ),
    ("checkpoints", "find /var/lib/docker/containers -mindepth 3 -path '*/checkpoints/*' 2>/dev/null | head -n 5"),
    ("mounts of godwit", "awk '$2 ~ \"^/(var/lib|run)/godwit/\" { print $2 }' /proc/mounts"),
    ("holders and guards", "ps -eo args= | grep -E '^/proc/self/exe (hold-dump|guard-pages)' || true"),
    ("folders of handoffs", "find /run/godwit/containers /run/godwit/handoffs -mindepth 1 2>/dev/null | head -n 5"),
];

const ROOTS: &str = "awk '$3 == \"overlay\" && $2 ~ \"^/var/lib/docker/overlay2/\"' /proc/mounts | wc -l";
