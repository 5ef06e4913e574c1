//! Every reason for which a container moves, with real engines, from the offer to `Done`.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use godwit_tests::artifacts::run;
use godwit_tests::genesis::Settings;
use godwit_tests::mesh::Load;
use godwit_tests::wait::LONG;
use godwit_tests::workload;
use godwit_tests::{Mesh, Node, Site, inspect};

/// A site's memory where it matters. Its engine and its daemon take some 250 MiB; red is above a half.
const SITE: [&str; 2] = ["--memory", "2g"];

/// Takes a site far above its threshold, and the sum of both far below its limit.
const BALLAST_MB: u32 = 1100;

#[test]
fn a_site_short_of_memory_hands_a_container_over_with_all_its_state() -> Result<()> {
    let mesh = Mesh::in_lab(4, &SITE, &Settings::for_tests().with("memory_threshold", 500))?;
    let (source, gateway) = (mesh.node(1), mesh.node(4));
    let (container, workload) = mesh.deploy(source, gateway, &Load::new("counter", 64))?;
    workload.acknowledge(17)?;
    let probe = workload.probe()?;
    let before = workload.remember()?;

    let ballast = Ballast::drop_on(source.site())?;
    let offer = mesh.handed_over(source, &container.container)?;
    ensure!(offer.state == "done" && offer.why == "overload", "{offer:?}\n{}", mesh.explain());
    ensure!(offer.bids.len() >= 2, "fewer than two sites bid: {offer:?}");

    let now = mesh.one_copy("counter")?;
    ensure!(Some(&now.owner_name) == offer.winner_name.as_ref() && now.owner_name != "s1", "{now:?}, {offer:?}");
    ensure!(now.epoch == container.epoch + 1, "{container:?}, then {now:?}");
    workload.check(&before).with_context(|| mesh.explain())?;
    probe.finish()?.is_whole()?;
    drop(ballast);

    the_ledger_tells_all_of_it(&mesh, source, &offer.offer)
}

/// The steps of a handoff in the ledger, in their order.
const STEPS: [&str; 6] = ["offer", "bid", "award", "ready", "receipt", "done"];

fn the_ledger_tells_all_of_it(mesh: &Mesh, source: &Node, offer: &str) -> Result<()> {
    let timeline = source.timeline(offer)?;
    let names: Vec<&str> = timeline.steps.iter().map(|step| step.name.as_str()).collect();
    let mut rest = names.iter();
    ensure!(STEPS.iter().all(|step| rest.any(|name| name == step)), "{STEPS:?} in this order are not in {names:?}");
    ensure!(names.contains(&"yield"), "the source's own `yield` is not in {names:?}");
    ensure!(timeline.downtime_ms.is_some() && timeline.bytes.is_some_and(|bytes| bytes > 64 << 20), "{timeline:?}");

    let chains = mesh.nodes.iter().map(Node::blocks).collect::<Result<Vec<_>>>()?;
    let roots = |chain: &[godwit_tests::view::Block]| -> Vec<(u64, String, String)> {
        chain.iter().map(|block| (block.height, block.hash.clone(), block.state_root.clone())).collect()
    };
    ensure!(chains.iter().all(|chain| roots(chain) == roots(&chains[0])), "the chains differ: {chains:#?}");
    let kinds: Vec<&str> =
        chains[0].iter().flat_map(|block| &block.records).map(|record| record.kind.as_str()).collect();
    // An award is derived and a yield travels in the receipt: neither is a record.
    for kind in ["register", "offer", "bid", "ready", "receipt", "done"] {
        ensure!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    for node in &mesh.nodes {
        let verdict = node.show(&["audit", &node.data()])?;
        ensure!(verdict.contains("OK"), "{}: {verdict}", node.name);
    }
    Ok(())
}

#[test]
fn a_container_follows_its_client_to_the_site_with_the_best_signal() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (source, gateway) = (mesh.node(1), mesh.node(4));
    let client = Client::new(&mesh)?;
    let load = Load::new("assistant", 16).with("--client", &client.id);
    let (container, workload) = mesh.deploy(source, gateway, &load)?;
    let before = workload.remember()?;

    client.report(&["s1=-60", "s2=-80", "s3=-100"])?;
    let offer = mesh.until("the container is offered for its client's sake", LONG, |_| {
        client.report(&["s1=-110", "s2=-85", "s3=-61", "s4=-90"])?;
        source.offers()?.into_iter().find(|offer| offer.container == container.container).context("no offer")
    })?;
    let offer = mesh.ended(source, &offer.offer)?;
    ensure!(offer.state == "done" && offer.why == "mobility", "{offer:?}\n{}", mesh.explain());
    ensure!(offer.bids.len() >= 2 && offer.winner_name.as_deref() == Some("s3"), "{offer:?}");
    ensure!(mesh.one_copy("assistant")?.owner_name == "s3", "it is not where its client is");
    workload.check(&before)
}

#[test]
fn a_stateless_container_starts_anew_at_a_site_that_lacked_its_image() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (source, gateway) = (mesh.node(1), mesh.node(4));
    let mut load = Load::new("front", 4);
    load.options.push("--stateless".to_owned());
    let (container, workload) = mesh.deploy(source, gateway, &load)?;
    let before = workload.count()?;
    for other in mesh.others(source) {
        let images = other.site().shell("docker images -q")?;
        ensure!(images.trim().is_empty(), "{} has {images} already", other.name);
    }

    let offer = mesh.migrate(source, "front", None)?;
    ensure!(offer.state == "done", "{offer:?}\n{}", mesh.explain());
    let now = mesh.one_copy("front")?;
    ensure!(now.owner_name != "s1" && now.epoch == container.epoch + 1, "{now:?}");
    let after = mesh.until("the workload answers", LONG, |_| workload.count())?;
    ensure!(after.instance != before.instance, "it was to be a new instance: {before:?}, then {after:?}");
    // By its content: what it is called is the source's affair.
    let ids = "docker images -a -q --no-trunc";
    let (there, here) = (mesh.named(&now.owner_name)?.site().shell(ids)?, source.site().shell(ids)?);
    ensure!(there == here && !here.trim().is_empty(), "image {here} became {there}");
    Ok(())
}

#[test]
fn an_operator_moves_a_container_back_and_forth_and_a_preference_weighs() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let gateway = mesh.node(4);
    let (_, workload) = mesh.deploy(mesh.node(1), gateway, &Load::new("nomad", 16))?;
    workload.acknowledge(1)?;
    let probe = workload.probe()?;
    let before = workload.remember()?;
    // There, on, and back to sites that have held it before.
    for (from, to) in [("s1", "s3"), ("s3", "s2"), ("s2", "s1"), ("s1", "s3")] {
        let offer = mesh.migrate(mesh.named(from)?, "nomad", Some(to))?;
        ensure!(offer.state == "done" && offer.winner_name.as_deref() == Some(to), "{offer:?}\n{}", mesh.explain());
        ensure!(mesh.one_copy("nomad")?.owner_name == to, "it is not at {to}");
        workload.check(&before)?;
        // It has said that once, at its first site; what is logged goes with it.
        let logged = mesh.named(to)?.site().shell("docker logs $(docker ps -q) 2>&1")?;
        ensure!(logged.matches("instance").count() == 1, "{logged}");
    }
    probe.finish()?.is_whole()
}

#[test]
fn a_drained_site_is_empty_and_takes_nothing_until_that_ends() -> Result<()> {
    let mesh = Mesh::in_lab(4, &[], &Settings::for_tests())?;
    let (drained, gateway) = (mesh.node(1), mesh.node(4));
    let (container, workload) = mesh.deploy(drained, gateway, &Load::new("guest", 8))?;
    let before = workload.remember()?;

    drained.say(&["drain"])?;
    let offer = mesh.handed_over(drained, &container.container)?;
    ensure!(offer.state == "done" && offer.why == "drain", "{offer:?}\n{}", mesh.explain());
    let host = mesh.named(&mesh.one_copy("guest")?.owner_name)?;
    workload.check(&before)?;
    ensure!(inspect::containers(drained.site(), "running")?.is_empty(), "the drained site runs something");

    mesh.until("the others know that it takes nothing", LONG, |_| takes(host, "s1", false))?;
    let offer = mesh.migrate(host, "guest", Some("s1"))?;
    ensure!(offer.bids.iter().all(|bid| bid.name != "s1"), "a drained site bids: {offer:?}");
    let host = mesh.named(&mesh.one_copy("guest")?.owner_name)?;

    drained.say(&["drain", "--off"])?;
    mesh.until("the others know that it takes containers again", LONG, |_| takes(host, "s1", true))?;
    let offer = mesh.migrate(host, "guest", Some("s1"))?;
    ensure!(offer.winner_name.as_deref() == Some("s1"), "{offer:?}");
    mesh.one_copy("guest")?;
    workload.check(&before)
}

fn takes(observer: &Node, name: &str, accepting: bool) -> Result<()> {
    let sites = observer.sites()?;
    let capacity = sites.iter().find(|site| site.name == name).and_then(|site| site.capacity.as_ref());
    ensure!(capacity.is_some_and(|capacity| !capacity.stale && capacity.accepting == accepting), "{sites:?}");
    Ok(())
}

/// Memory that a site uses for something else.
struct Ballast(Child);

impl Ballast {
    fn drop_on(site: &Site) -> Result<Self> {
        let (_, program) = workload::build()?;
        site.put(&std::fs::read(&program).context("read the workload")?, "/tmp/ballast")?;
        site.shell("chmod +x /tmp/ballast")?;
        let mut command = site.command("/tmp/ballast");
        command.args(["--memory-mb", &BALLAST_MB.to_string(), "--port", "9000", "--file", "/tmp/ballast.journal"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("start {command:?}"))
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A vehicle on the network between the sites.
struct Client<'a> {
    mesh: &'a Mesh,
    key: String,
    genesis: String,
    id: String,
}

impl<'a> Client<'a> {
    fn new(mesh: &'a Mesh) -> Result<Self> {
        let lab = mesh.node(1).site().lab();
        let file = |name: &str| lab.logs().join(name).display().to_string();
        let (key, genesis) = (file("client.key"), file("genesis.toml"));
        std::fs::write(&genesis, mesh.node(1).site().shell("cat /etc/godwit/genesis.toml")?)
            .context("copy the genesis")?;
        let said = run(lab.backbone(godwit_tests::artifacts::godwit()?).args(["client", "init", "--key", &key]))?;
        let id = said.split_whitespace().find(|word| word.len() == 64).with_context(|| format!("no id in {said}"))?;
        Ok(Self { mesh, key, genesis, id: id.to_owned() })
    }

    fn report(&self, signals: &[&str]) -> Result<()> {
        let mut command = self.mesh.node(1).site().lab().backbone(godwit_tests::artifacts::godwit()?);
        command.args(["client", "report", "--key", &self.key, "--genesis", &self.genesis]);
        command.args(signals.iter().flat_map(|signal| ["--signal", signal]));
        run(&mut command).map(drop)
    }
}
