//! What `docs/auditing.md` tells to type can be typed, in its order, and does not fail.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use godwit_tests::genesis::Settings;
use godwit_tests::wait::LONG;
use godwit_tests::{Mesh, Node, artifacts};

/// The sites of the guide's mesh.
const SITES: [&str; 4] = ["porto", "faro", "lagos", "sines"];

/// Commands and where they are typed.
struct Block {
    line: usize,
    place: String,
    script: String,
}

/// The fenced blocks of the language `sh`; what stands behind it is the place.
fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(guide.lines());
    while let Some((line, text)) = lines.next() {
        let Some(place) = text.strip_prefix("```sh") else { continue };
        let script: Vec<&str> = lines.by_ref().map(|(_, text)| text).take_while(|text| *text != "```").collect();
        blocks.push(Block { line, place: place.trim().to_owned(), script: script.join("\n") });
    }
    blocks
}

/// The shell at a place of the guide: all share one folder, as if files were carried along.
fn shell(work: &Path, auditor: &Node, mesh: &Mesh, block: &Block) -> Result<Command> {
    let node = if block.place == auditor.name { auditor } else { mesh.named(&block.place)? };
    // A command that fails ends the block, also one in the middle of a pipe.
    let lines: Vec<_> = block.script.lines().map(must_fail).collect();
    let script = format!("set -euo pipefail\n{}", lines.join("\n"));
    let binary = artifacts::godwit()?;
    let folder = binary.parent().context("the binary lies in no folder")?.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(work);
    command.env("PATH", format!("{folder}:{path}"));
    command.env("GODWIT_CONFIG", node.config()).env("GODWIT_API", node.socket());
    // The auditor's machine is this one: it must be in nobody's way.
    command.env("GODWIT_LISTEN", "/ip4/127.0.0.1/tcp/0").env("GODWIT_MDNS", "false");
    Ok(command)
}

/// `set -e` passes over a command behind `!`, whatever becomes of it.
fn must_fail(line: &str) -> String {
    match line.strip_prefix("! ") {
        Some(command) => format!("if {command}; then echo 'it should have failed' >&2; exit 1; fi"),
        None => line.to_owned(),
    }
}

#[test]
fn the_guide_to_auditing_works() -> Result<()> {
    let file = artifacts::root().join("docs/auditing.md");
    let guide = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let blocks = blocks(&guide);
    ensure!(blocks.len() > 10, "only {} blocks of commands", blocks.len());

    let folder = artifacts::scratch("guide")?;
    let nodes = SITES.iter().map(|name| Node::here(name, &folder.join(name))).collect::<Result<_>>()?;
    let mesh = Mesh::found(nodes, &Settings::for_tests())?;
    // The auditor has the genesis from elsewhere. Its shell works in its own folder.
    let work = folder.join("auditor");
    let auditor = Node::here("auditor", &work)?;
    auditor.put(&auditor.genesis(), std::fs::read(mesh.node(1).genesis()).context("read the genesis")?.as_slice())?;

    for block in &blocks {
        ensure!(!block.place.is_empty(), "line {}: it does not say where it is typed", block.line);
        let mut shell = shell(&work, &auditor, &mesh, block)?;
        let said = artifacts::run(&mut shell)
            .with_context(|| format!("{}:{}, at {}", file.display(), block.line, block.place))
            .with_context(|| mesh.explain())?;
        println!("--- line {}, at {}\n{said}", block.line, block.place);
    }
    mesh.until("all sites agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
    for node in &mesh.nodes {
        node.stop()?;
    }
    Ok(())
}
