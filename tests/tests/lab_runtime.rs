//! Our OCI runtime under a real engine: what runs in one container goes on in another that was prepared before.

use std::fs;

use anyhow::{Context, Result, ensure};
use godwit_tests::wait::{LONG, until};
use godwit_tests::{Lab, Site, artifacts};

/// An image of the site's own shell, two containers of it, and a folder for their handoff.
const CONTAINERS: &str = r#"
tar -C / -c bin lib lib64 usr/bin/bash usr/bin/sleep usr/lib/x86_64-linux-gnu usr/lib64 | docker import - shell
mkdir -p /run/handoff
handoff='--runtime godwit --annotation org.godwit.handoff=/run/handoff'
count='i=0; while :; do i=$((i + 1)); echo "$i"; sleep 0.05; done'
docker run -d --name source $handoff shell /usr/bin/bash -c "$count"
docker create --name target $handoff shell /usr/bin/bash -c "$count"
"#;

/// The engine is told to start the target from a checkpoint that is not there yet.
const START: &str = r#"
checkpoint=/var/lib/docker/containers/$(docker inspect -f '{{.Id}}' target)/checkpoints/later
mkdir -p "$checkpoint"; date +%s%N >"$checkpoint/nonce"
rm -rf /run/handoff/*
setsid move target /run/handoff >/run/move.log 2>&1 </dev/null &
setsid sh -c 'docker start --checkpoint later target; echo "code $?"' >/run/start.log 2>&1 </dev/null &
"#;

const MOVE: &str = r#"
id=$(docker inspect -f '{{.Id}}' source)
move source "$(docker inspect -f '{{.State.Pid}}' source)" \
  "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/$id" /run/handoff
"#;

fn site(lab: &Lab) -> Result<Site> {
    let site = lab.site(1);
    let godwit = artifacts::godwit()?;
    let built = godwit.parent().context("a folder")?;
    let example = built.join("examples/move");
    let content =
        fs::read(&example).with_context(|| format!("{}: cargo build --workspace --all-targets", example.display()))?;
    site.put(&content, "/usr/local/bin/move")?;
    site.shell("chmod 755 /usr/local/bin/move")?;
    site.shell(CONTAINERS)?;
    until("the source to count", LONG, || {
        ensure!(numbers(&site, "source")?.len() > 3, "it does not yet");
        Ok(())
    })?;
    Ok(site)
}

fn numbers(site: &Site, container: &str) -> Result<Vec<u64>> {
    let said = site.shell(&format!("docker logs {container}"))?;
    said.lines().map(|line| line.parse().with_context(|| format!("{container} says {line}"))).collect()
}

fn states(site: &Site) -> Result<String> {
    site.shell("docker inspect -f '{{.State.Status}}' source target | tr '\n' ' '")
}

#[test]
fn what_an_engine_runs_goes_on_in_a_container_that_it_prepared_before() -> Result<()> {
    let lab = Lab::up(1, &[])?;
    let site = site(&lab)?;
    site.shell(START)?;
    site.shell(MOVE)?;
    until("the engine to see it", LONG, || {
        let said = site.shell("cat /run/move.log /run/start.log")?;
        ensure!(said.contains("code 0"), "{said}");
        ensure!(states(&site)?.trim() == "exited running", "{}", states(&site)?);
        Ok(())
    })?;
    let before = numbers(&site, "source")?;
    let after = until("the target to count", LONG, || {
        let numbers = numbers(&site, "target")?;
        ensure!(numbers.len() > 3, "{numbers:?}");
        Ok(numbers)
    })?;
    let all: Vec<u64> = before.iter().chain(&after).copied().collect();
    ensure!(all.iter().copied().eq(1..=all.len() as u64), "no line is missing or twice: {before:?} then {after:?}");

    // To the engine it is a container like any other.
    ensure!(site.shell("docker exec target /usr/bin/bash -c 'echo $PPID'")?.trim() == "0");
    ensure!(site.shell("docker top target")?.contains("bash"));
    site.shell("docker pause target && docker unpause target && docker update --memory 64m --memory-swap 64m target")?;
    site.shell("docker kill target && docker wait target")?;
    ensure!(states(&site)?.trim() == "exited exited", "{}", states(&site)?);
    site.shell("docker rm source target")?;
    ensure!(!site.shell("cat /proc/mounts")?.contains("/run/handoff"), "something is still mounted");
    Ok(())
}

#[test]
fn a_prepared_container_whose_site_goes_away_waits_and_one_that_is_called_off_leaves_nothing() -> Result<()> {
    let lab = Lab::up(1, &[])?;
    let site = site(&lab)?;
    site.shell(START)?;
    let prepared = |times: usize| {
        until("the container to be prepared", LONG, || {
            let said = site.shell("cat /run/move.log /run/start.log")?;
            ensure!(said.matches("Prepared").count() == times, "{said}");
            Ok(())
        })
    };
    prepared(1)?;
    site.shell("pkill -9 -x move; rm /run/handoff/runtime.sock")?;
    site.shell("setsid move cancel /run/handoff >>/run/move.log 2>&1 </dev/null &")?;
    prepared(2)?;
    until("the engine to give up", LONG, || {
        let said = site.shell("cat /run/start.log")?;
        ensure!(said.contains("called off by the site") && said.contains("code 1"), "{said}");
        Ok(())
    })?;
    ensure!(!site.shell("cat /proc/mounts")?.contains("/run/handoff"), "something is still mounted");
    ensure!(states(&site)?.trim() != "exited running", "{}", states(&site)?);
    let counts = numbers(&site, "source")?.len();
    until("the source to go on", LONG, || {
        ensure!(numbers(&site, "source")?.len() > counts, "it stands still");
        Ok(())
    })
}
