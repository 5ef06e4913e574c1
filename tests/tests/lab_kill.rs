//! `kill -9` of any party at any step of a handoff: exactly one copy goes on, with its state, where the ledger says.

use anyhow::{Context, Result, ensure};
use godwit_tests::Mesh;
use godwit_tests::events::Moment;
use godwit_tests::genesis::Settings;
use godwit_tests::mesh::Load;
use godwit_tests::wait::LONG;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// The steps of a handoff: by which side's notices they are seen, and by which one.
const STEPS: [(&str, Side, Moment); 8] = [
    ("H2 bids", Side::Source, Moment::Committed("opened")),
    ("H3 award", Side::Source, Moment::Committed("awarded")),
    ("H4 prepared", Side::Target, Moment::Step("prepared")),
    ("H5 freezing", Side::Source, Moment::Step("freezing")),
    ("H5 yielded", Side::Source, Moment::Step("yield")),
    ("H6 fetched", Side::Target, Moment::Step("fetched")),
    ("H7 receipt committed", Side::Target, Moment::Committed("received")),
    ("H7 resuming", Side::Target, Moment::Step("resuming")),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Source,
    Target,
    Third,
}

#[test]
fn the_source_may_die_at_any_step() -> Result<()> {
    at_every_step(Victim::Source)
}

#[test]
fn the_target_may_die_at_any_step() -> Result<()> {
    at_every_step(Victim::Target)
}

#[test]
fn another_validator_may_die_at_any_step() -> Result<()> {
    at_every_step(Victim::Third)
}

fn at_every_step(victim: Victim) -> Result<()> {
    // Short patience: what is tested is what happens when it ends, not how long it is.
    let settings = Settings::for_tests()
        .with("ready_timeout_ms", 4000)
        .with("receipt_timeout_ms", 4000)
        .with("yield_timeout_ms", 8000)
        .with("again_ms", 1000);
    let mesh = Mesh::in_lab(4, &[], &settings)?;
    let (_, workload) = mesh.deploy(mesh.node(1), mesh.node(4), &Load::new("survivor", 16))?;
    workload.acknowledge(1)?;
    let before = workload.remember()?;
    // The fourth site is the clients' way in and the witness: it never bids, so that it is nobody's victim.
    mesh.node(4).say(&["drain"])?;
    for step in STEPS {
        let what = format!("{victim:?} killed at {}", step.0);
        eprintln!("{what}");
        kill_at(&mesh, victim, step).with_context(|| what.clone())?;
        let owner = mesh.one_copy("survivor").with_context(|| what.clone())?;
        workload
            .check(&before)
            .with_context(|| format!("{what}; it is at {}\n{}", owner.owner_name, mesh.explain()))?;
    }
    Ok(())
}

fn kill_at(mesh: &Mesh, victim: Victim, (_, side, moment): (&str, Side, Moment)) -> Result<()> {
    let observer = mesh.node(4);
    let source = mesh.named(&observer.container("survivor")?.owner_name)?;
    let mut others = mesh.nodes.iter().filter(|node| node.name != source.name && node.name != observer.name);
    let target = others.next().context("a target")?;
    let third = others.next().unwrap_or(target);
    let killed = match victim {
        Victim::Source => source,
        Victim::Target => target,
        Victim::Third => third,
    };

    let events = mesh.events(if side == Side::Source { source } else { target })?;
    let offer = mesh.offer(source, "survivor", Some(&target.name))?;
    events.until(moment, LONG).with_context(|| mesh.explain())?;
    killed.kill()?;

    // Three of four go on without the fourth, unless it is the one that the container is with.
    let waits_for_the_dead = mesh.until("the offer ends, or waits for the dead", LONG, |_| {
        let offer = observer.offer(&offer.offer)?;
        let holds_it = killed.name == source.name || (killed.name == target.name && offer.state == "received");
        ensure!(offer.is_over() || holds_it, "{offer:?}");
        Ok(!offer.is_over())
    })?;
    killed.start()?;
    if waits_for_the_dead {
        mesh.ended(observer, &offer.offer)?;
    }
    Ok(())
}
