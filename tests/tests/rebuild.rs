//! A validator whose ledger or write-ahead log is damaged does not start, says what is wrong, and is rebuilt from the
//! others; it votes again once it cannot contradict itself any more.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use godwit_tests::genesis::{Change, Settings};
use godwit_tests::wait::{LONG, until};
use godwit_tests::{Mesh, Node, artifacts};

/// What happens to a data folder.
type Damage = fn(&Path) -> Result<()>;

fn mesh(folder: &Path) -> Result<Mesh> {
    let nodes = (1..=4).map(|n| Node::here(&format!("n{n}"), &folder.join(n.to_string()))).collect::<Result<_>>()?;
    Mesh::found(nodes, &Settings::for_tests())
}

/// What `godwit rebuild` says, and whether it did it.
fn rebuild(node: &Node, arguments: &[&str]) -> Result<(bool, String)> {
    let output = artifacts::output(node.godwit()?.args(["--config", &node.config(), "rebuild"]).args(arguments))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Starts a site that must not start; what it says.
fn refused(node: &Node) -> Result<String> {
    let said = until("the site to give up", LONG, || {
        if let Err(error) = node.is_alive() {
            return Ok(format!("{error:#}"));
        }
        anyhow::bail!("it runs")
    })?;
    let _ = node.kill();
    Ok(said)
}

fn votes_again(mesh: &Mesh, folder: &Path, node: &Node) -> Result<()> {
    let status = mesh.until("the site has fetched the ledger", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    ensure!(node.abstains()?, "it votes at once: {status:?}");
    // Blocks that are built within the clocks' bound after the loss do not count.
    let mut said = 0;
    mesh.until("it votes again", LONG, |mesh| {
        said += 1;
        let name = format!("{}-{said}-{}", node.name, status.height);
        Change::admit(folder, &name)?.commit(mesh, &mesh.others(node))?;
        mesh.until("all have it", LONG, |mesh| mesh.agree(&mesh.nodes))?;
        ensure!(!node.abstains()?, "it does not vote");
        Ok(())
    })
}

#[test]
fn a_validator_without_its_log_or_with_a_damaged_ledger_is_rebuilt_from_the_others() -> Result<()> {
    let folder = artifacts::scratch("rebuild")?;
    let mesh = mesh(&folder)?;
    Change::admit(&folder, "guest")?.commit(&mesh, &mesh.nodes)?;
    mesh.until("all agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    let node = mesh.node(2);
    let (done, said) = rebuild(node, &["--yes"])?;
    ensure!(!done && said.contains("in use") && said.contains("stop the site"), "while it runs: {said}");

    let damages: [(&str, Damage); 2] = [
        ("the write-ahead log", |data| fs::remove_file(data.join("wal")).context("remove the log")),
        ("the ledger", |data| fs::write(data.join("ledger/CURRENT"), "garbage").context("damage the ledger")),
    ];
    for (what, damage) in damages {
        node.kill()?;
        damage(Path::new(&node.data()))?;
        node.start()?;
        let said = refused(node)?;
        ensure!(said.contains("godwit rebuild"), "{what}: {said}");

        let (done, said) = rebuild(node, &[])?;
        ensure!(!done && said.contains("--yes"), "nobody confirmed it: {said}");
        let (done, said) = rebuild(node, &["--yes", "--json"])?;
        ensure!(done, "{what}: {said}");
        let told: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let aside = told["aside"].as_str().context("no folder")?;
        ensure!(Path::new(aside).join("ledger").is_dir(), "the damaged ledger is kept: {said}");
        node.start()?;
        votes_again(&mesh, &folder, node)?;
    }
    Ok(())
}
