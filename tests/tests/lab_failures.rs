//! What cannot be done on one of the sites: the container stays, running, or goes to a site that can.

use anyhow::{Context, Result, ensure};
use godwit_tests::Mesh;
use godwit_tests::genesis::Settings;
use godwit_tests::mesh::Load;
use godwit_tests::wait::LONG;

#[test]
fn a_site_without_an_engine_takes_nothing_and_the_others_do() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (source, broken, gateway) = (mesh.node(1), mesh.node(2), mesh.node(4));
    let (_, workload) = mesh.deploy(source, gateway, &Load::new("careful", 8))?;
    let before = workload.remember()?;

    broken.site().shell("kill -KILL $(cat /run/docker.pid)")?;
    let offer = mesh.migrate(source, "careful", Some("s2"))?;
    ensure!(offer.state == "done" && offer.winner_name.as_deref() != Some("s2"), "{offer:?}\n{}", mesh.explain());
    workload.check(&before)?;

    mesh.node(1).site().lab().power_on(broken.site())?;
    mesh.one_copy("careful")?;
    workload.check(&before)
}

#[test]
fn a_container_that_criu_refuses_stays_where_it_is_and_runs() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (source, gateway) = (mesh.node(1), mesh.node(4));
    let (_, workload) = mesh.deploy(source, gateway, &Load::new("watched", 8))?;
    workload.acknowledge(5)?;
    let before = workload.remember()?;

    // A process has one tracer. While that is strace, it cannot be CRIU.
    source.site().shell(
        "pid=$(docker inspect -f '{{.State.Pid}}' $(docker ps -q))
         setsid strace -f -p $pid -o /dev/null </dev/null >/dev/null 2>&1 & echo $! >/run/strace.pid
         for try in $(seq 200); do grep -q '^TracerPid:.[1-9]' /proc/$pid/status && exit 0; sleep 0.05; done; exit 1",
    )?;
    let offer = mesh.migrate(source, "watched", None)?;
    ensure!(offer.state == "ended", "CRIU was to refuse: {offer:?}\n{}", mesh.explain());
    let why = offer.ended.clone().unwrap_or_default().to_lowercase();
    ensure!(
        why.contains("criu") || why.contains("seize") || why.contains("ptrace"),
        "the reason says nothing: {offer:?}"
    );
    let owner = mesh.until("it is free again", LONG, |_| {
        let view = source.container("watched")?;
        ensure!(view.offer.is_none() && view.state == "running", "{view:?}");
        Ok(view.owner_name)
    })?;
    ensure!(owner == "s1", "it went to {owner}");
    workload.check(&before)?;

    source.site().shell("kill $(cat /run/strace.pid)")?;
    let offer = mesh.migrate(source, "watched", None)?;
    ensure!(offer.state == "done", "nothing hinders it any more: {offer:?}\n{}", mesh.explain());
    mesh.one_copy("watched")?;
    workload.check(&before)
}

#[test]
fn a_target_whose_disk_is_full_passes_the_container_on() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (source, full, gateway) = (mesh.node(1), mesh.node(2), mesh.node(4));
    let (_, workload) = mesh.deploy(source, gateway, &Load::new("heavy", 64))?;
    let before = workload.remember()?;

    // Where the frozen state arrives there is room for a part of it.
    full.site()
        .shell("mkdir -p /run/godwit/handoffs && mount -t tmpfs -o size=48k,mode=700 full /run/godwit/handoffs")?;
    let offer = mesh.migrate(source, "heavy", Some("s2")).context("prefer the full site")?;
    ensure!(offer.state == "done" && offer.winner_name.as_deref() != Some("s2"), "{offer:?}\n{}", mesh.explain());
    workload.check(&before)?;
    full.site().shell("umount /run/godwit/handoffs")?;
    mesh.one_copy("heavy")?;
    workload.check(&before)
}
