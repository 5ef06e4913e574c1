//! The awarded target is cut off from everybody, before and after the source's `Yield`.

use anyhow::{Context, Result, ensure};
use godwit_tests::events::Moment;
use godwit_tests::genesis::Settings;
use godwit_tests::mesh::Load;
use godwit_tests::view::Offer;
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Workload};

#[test]
fn a_target_cut_off_before_the_yield_loses_the_container_to_the_runner_up() -> Result<()> {
    check(Moment::Committed("awarded"))
}

#[test]
fn a_target_cut_off_after_the_yield_loses_the_container_to_the_runner_up() -> Result<()> {
    check(Moment::Step("yield"))
}

fn check(moment: Moment) -> Result<()> {
    let settings = Settings::for_tests()
        .with("ready_timeout_ms", 4000)
        .with("receipt_timeout_ms", 4000)
        .with("yield_timeout_ms", 8000)
        .with("again_ms", 1000);
    // A thin link and a large writable layer: the target is cut off while it pulls the frozen state.
    let mesh = Mesh::in_lab(4, &["--rate", "200mbit"], &settings)?;
    let (_, workload) = mesh.deploy(mesh.node(1), mesh.node(4), &Load::new("islander", 16))?;
    workload.acknowledge(1)?;
    mesh.node(1).site().shell(
        "root=$(docker inspect -f '{{.GraphDriver.Data.MergedDir}}' $(docker ps -q))
         dd if=/dev/urandom of=$root/ballast bs=1M count=96 status=none",
    )?;
    let before = workload.remember()?;

    let offer = cut_off_the_target_at(&mesh, moment)?;
    ensure!(offer.state == "done", "no other site took over: {offer:?}\n{}", mesh.explain());
    ensure!(offer.winner_name.as_deref() != Some("s2"), "the site that is cut off won: {offer:?}");
    serves(&mesh, &workload)?;
    workload.check(&before)?;

    mesh.node(1).site().lab().heal()?;
    let owner = mesh.one_copy("islander")?;
    ensure!(Some(owner.owner_name) == offer.winner_name, "{offer:?}");
    workload.check(&before)
}

fn cut_off_the_target_at(mesh: &Mesh, moment: Moment) -> Result<Offer> {
    let (source, target) = (mesh.node(1), mesh.node(2));
    let events = mesh.events(source)?;
    let offer = mesh.offer(source, "islander", Some("s2"))?;
    events.until(moment, LONG).with_context(|| mesh.explain())?;
    target.site().lab().cut_off(target.site())?;
    mesh.ended(source, &offer.offer)
}

fn serves(mesh: &Mesh, workload: &Workload) -> Result<()> {
    mesh.until("the workload answers", LONG, |_| workload.count()).map(drop)
}
