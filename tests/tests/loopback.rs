//! A mesh of processes on this machine, without engines or privileges: the ledger goes on whoever is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use godwit_tests::genesis::{Change, Settings};
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node, artifacts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn mesh(folder: &Path, validators: usize) -> Result<Mesh> {
    let nodes =
        (1..=validators).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string()))).collect::<Result<_>>()?;
    Mesh::found(nodes, &Settings::for_tests())
}

#[test]
fn three_of_four_validators_go_on_and_the_fourth_catches_up_when_it_returns() -> Result<()> {
    let folder = artifacts::scratch("loopback")?;
    let mesh = mesh(&folder, 4)?;
    let mut members = 4;
    // Each in turn, so that the one that proposes is among them.
    for number in 1..=4 {
        let victim = mesh.node(number);
        victim.kill()?;
        let survivors = mesh.others(victim);
        let before = survivors[0].status()?.height;
        for round in 0..3 {
            Change::admit(&folder, &format!("guest-{number}-{round}"))?.commit(&mesh, &survivors)?;
            members += 1;
        }
        let agreed = mesh.until("the survivors agree", LONG, |mesh| mesh.agree(&survivors))?;
        ensure!(agreed.members == members && agreed.height >= before + 3, "{agreed:?}, from height {before}");

        victim.start()?;
        let agreed = mesh.until("the one that was killed has caught up", LONG, |mesh| mesh.agree(&mesh.nodes))?;
        ensure!(agreed.members == members, "{agreed:?}");
    }
    for node in &mesh.nodes {
        node.stop()?;
    }
    Ok(())
}

#[test]
fn two_of_four_validators_decide_nothing_until_a_third_returns() -> Result<()> {
    let folder = artifacts::scratch("no-quorum")?;
    let mesh = mesh(&folder, 4)?;
    let change = Change::admit(&folder, "guest")?.approved(&mesh.nodes)?;
    mesh.node(3).kill()?;
    mesh.node(4).kill()?;
    let before = mesh.agree(&mesh.nodes[..2])?;
    // The site answers once the record is in the ledger, and gives up after a while.
    let undecided = change.submit(mesh.node(1)).err().context("two of four decided")?;
    ensure!(format!("{undecided:#}").contains("no answer"), "{undecided:#}");
    ensure!(mesh.agree(&mesh.nodes[..2])?.height == before.height, "two of four made a block");
    mesh.node(3).start()?;
    let three = &mesh.nodes[..3];
    let after = mesh.until("three validators decide", LONG, |mesh| {
        let status = mesh.agree(three)?;
        ensure!(status.members == 5, "{status:?}");
        Ok(status)
    })?;
    ensure!(after.height > before.height, "{before:?}, then {after:?}");
    Ok(())
}

#[test]
fn all_validators_may_be_killed_at_once_and_go_on_where_they_stood() -> Result<()> {
    let folder = artifacts::scratch("all-killed")?;
    let mesh = mesh(&folder, 4)?;
    Change::admit(&folder, "before")?.commit(&mesh, &mesh.nodes)?;
    let before = mesh.until("all agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    for node in &mesh.nodes {
        node.kill()?;
    }
    for node in &mesh.nodes {
        node.start()?;
    }
    let after = mesh.until("all agree again", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    ensure!(after.height >= before.height && after.members == before.members, "{before:?}, then {after:?}");
    Change::admit(&folder, "after")?.commit(&mesh, &mesh.nodes)?;
    mesh.until("all agree on what came after", LONG, |mesh| {
        let status = mesh.agree(&mesh.nodes)?;
        ensure!(status.members == 6, "{status:?}");
        Ok(())
    })
}

#[test]
fn a_drain_outlives_a_restart_until_it_is_ended() -> Result<()> {
    let folder = artifacts::scratch("drain")?;
    let mesh = mesh(&folder, 1)?;
    let node = mesh.node(1);
    for (wish, draining) in [(&["drain"][..], true), (&["drain", "--off"][..], false)] {
        node.say(wish)?;
        node.kill()?;
        node.start()?;
        let status = mesh.until("the site answers again", LONG, |_| node.status())?;
        ensure!(status.draining == draining, "after {wish:?}: {status:?}");
    }
    Ok(())
}

#[test]
fn a_follower_has_no_vote_and_ends_when_it_is_told() -> Result<()> {
    let folder = artifacts::scratch("follow")?;
    let mesh = mesh(&folder, 1)?;
    let node = mesh.node(1);
    node.stop()?;
    let follow = ["--config", &node.config(), "follow", "--until", "1"];
    let refused = artifacts::output(node.godwit()?.args(follow))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("it must vote"), "{said}");

    // A site that is no member: it waits to be admitted.
    let guest = Node::here("guest", &folder.join("guest"))?;
    artifacts::run(guest.godwit()?.args(["--config", &guest.config(), "init", "--address", "127.0.0.1"]))?;
    guest.put(&guest.genesis(), &std::fs::read(node.genesis()).context("read the genesis")?)?;
    let listen = "/ip4/127.0.0.1/tcp/0";
    let mut follow = guest.godwit()?;
    follow.args(["--config", &guest.config(), "follow", "--set", "mdns=false", "--listen", listen]);
    let mut follow = follow.stderr(Stdio::piped()).spawn().context("start the follower")?;
    let mut log = BufReader::new(follow.stderr.take().context("its log")?).lines().map_while(std::io::Result::ok);
    let waits = log.any(|line| line.contains("it waits to be admitted"));
    ensure!(waits, "it does not say that it waits");
    kill(Pid::from_raw(i32::try_from(follow.id()).context("pid")?), Signal::SIGINT).context("SIGINT")?;
    ensure!(follow.wait().context("wait")?.success(), "it did not end well");
    Ok(())
}

#[test]
fn an_idle_mesh_makes_no_blocks() -> Result<()> {
    let folder = artifacts::scratch("idle")?;
    let mesh = mesh(&folder, 4)?;
    let before = mesh.agree(&mesh.nodes)?;
    // Meanwhile the sites gossip, some five rounds of it.
    mesh.until("five seconds of idleness", LONG, |mesh| {
        let status: serde_json::Value = mesh.node(1).ask(&["status"])?;
        status["uptime_ms"].as_u64().filter(|ms| *ms > 5000).context("younger than that")
    })?;
    let after = mesh.agree(&mesh.nodes)?;
    ensure!(after.height == before.height, "blocks were made without a record: {before:?}, then {after:?}");
    Ok(())
}

#[test]
fn a_wrong_configuration_stops_at_start_with_file_key_and_remedy() -> Result<()> {
    let folder = tempfile::tempdir().context("scratch folder")?;
    let node = Node::here("n1", &folder.path().join("1"))?;
    for (line, key) in
        [("gossip_ms = 5", "gossip_ms"), ("gosip_ms = 5000", "gosip_ms"), ("listen = [\"nowhere\"]", "listen")]
    {
        node.put(&node.config(), line.as_bytes())?;
        let refused = artifacts::output(node.godwit()?.args(["--config", &node.config(), "run"]))?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success(), "{line} was accepted");
        ensure!(said.contains(key) && said.contains("godwit.toml"), "{line}: {said}");
    }
    Ok(())
}

#[test]
fn the_example_configuration_is_what_the_program_prints() -> Result<()> {
    let printed = artifacts::run(std::process::Command::new(artifacts::godwit()?).args(["config", "--example"]))?;
    let file = artifacts::root().join("deploy/config/godwit.toml");
    let example = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    ensure!(printed == example, "write it anew: godwit config --example > deploy/config/godwit.toml");
    Ok(())
}
