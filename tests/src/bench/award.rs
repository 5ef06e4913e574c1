//! From an operator's wish to the award: an offer, the bids of three sites, two or more blocks.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use godwit_tests::Mesh;
use godwit_tests::events::Moment;
use godwit_tests::mesh::Load;
use godwit_tests::wait::LONG;

use super::handoff::remove;
use super::report::Figures;

/// The clock runs from the request at the site's API to the notice of the award there, in ms. A stateless container:
/// what comes after the award is short and not counted.
pub fn offer_to_award(mesh: &Mesh, runs: usize) -> Result<Figures> {
    eprintln!("bench: offer to award, {runs} times");
    let mut load = Load::new("ledger", 1);
    load.options.push("--stateless".to_owned());
    let (container, _) = mesh.deploy(mesh.node(1), mesh.node(4), &load)?;
    let mut measured = vec![];
    for _ in 0..runs {
        let view = mesh.one_copy("ledger")?;
        let owner = mesh.named(&view.owner_name)?;
        let events = mesh.events(owner)?;
        let start = Instant::now();
        let answer = owner.post(&format!("/v1/containers/{}/migrate", container.container), "{}")?;
        events.until(Moment::Committed("awarded"), LONG)?;
        measured.push(start.elapsed().as_secs_f64() * 1000.0);
        let offer = answer["offer"].as_str().with_context(|| format!("no offer: {answer}"))?;
        let offer = mesh.ended(mesh.node(4), offer)?;
        ensure!(offer.state == "done" && offer.bids.len() >= 2, "{offer:?}");
    }
    remove(mesh, &["ledger"])?;
    Ok(Figures::of(measured))
}
