//! What the other tests stand on: sites with engines that run the workload, and a lab that goes with its user.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use godwit_tests::artifacts::run;
use godwit_tests::wait::{LONG, until};
use godwit_tests::{Lab, lab, workload};

#[test]
fn a_site_runs_the_workload_in_an_engine_of_its_own() -> Result<()> {
    let lab = Lab::up(2, &[])?;
    workload::load_image(&lab.site(1))?;
    lab.site(1).shell("docker run -d --name probe godwit-workload:latest --memory-mb 2")?;
    until("the workload's first line", LONG, || {
        let said = lab.site(1).shell("docker logs probe")?;
        ensure!(said.contains("instance"), "it says {said:?}");
        Ok(())
    })?;
    let elsewhere = lab.site(2).shell("docker ps -aq; docker images -q")?;
    ensure!(elsewhere.trim().is_empty(), "the other site has {elsewhere}");
    Ok(())
}

/// Run by the test below in a process of its own: brings a lab up and dies without a word.
#[test]
#[ignore = "a part of the next test"]
fn dies_with_a_lab() -> Result<()> {
    let lab = Lab::up(1, &["--no-engine"])?;
    println!("up: {}", lab.name());
    std::process::abort();
}

#[test]
fn a_lab_goes_down_when_the_process_that_uses_it_is_killed() -> Result<()> {
    let me = std::env::current_exe().context("own path")?;
    let said = Command::new(me).args(["--exact", "dies_with_a_lab", "--ignored", "--nocapture"]).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let name = said.lines().find_map(|line| line.split("up: ").nth(1)).with_context(|| format!("it said {said}"))?;
    until("the lab to go", LONG, || {
        let status = run(Command::new(lab::program()).arg("status").env("GODWIT_LAB_NAME", name.trim()))?;
        ensure!(status.contains("down"), "{status}");
        Ok(())
    })
}
