//! Founding a mesh with `godwit init` and `godwit genesis create`, as operators do.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::artifacts::run;
use crate::mesh::Mesh;
use crate::node::{Node, Place};
use crate::view::Members;
use crate::wait::LONG;

/// What differs from the default in a test's mesh.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// What else runs on the machine says nothing about a site: nothing moves but by the test's wish, and that at once.
    #[must_use]
    pub fn for_tests() -> Self {
        Self::default()
            .with("cpu_threshold", 1000)
            .with("memory_threshold", 1000)
            .with("overload_ms", 500)
            .with("dwell_ms", 1000)
            .with("retry_ms", 2000)
            .with("gossip_ms", 1000)
            .with("log", "info,arc_malachitebft_core_consensus=warn,godwit=debug")
    }

    /// As delivered, but for the limits: what moves is moved by hand, and may move on at once.
    #[must_use]
    pub fn for_bench() -> Self {
        Self::default()
            .with("cpu_threshold", 1000)
            .with("memory_threshold", 1000)
            .with("dwell_ms", 0)
            .with("retry_ms", 0)
    }

    /// With another setting, as `godwit config --example` names it.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.0.retain(|(known, _)| known != key);
        self.0.push((key.to_owned(), value.to_string()));
        self
    }

    /// As flags of `godwit run`.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        self.0.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect()
    }
}

/// Keys and configuration on each site, one genesis from their member lines, a copy of it on each.
///
/// # Errors
/// When a site refuses.
pub fn found(nodes: &[Node], settings: &Settings) -> Result<()> {
    found_with(nodes, &[], &[], settings)
}

/// As [`found`], with the lines of more members that are no nodes, and more options of `godwit genesis create`.
///
/// # Errors
/// When a site refuses.
pub fn found_with(nodes: &[Node], guests: &[String], options: &[&str], settings: &Settings) -> Result<()> {
    let members = nodes.iter().map(init).collect::<Result<Vec<_>>>()?;
    let first = nodes.first().context("no nodes")?;
    let mut create = first.godwit()?;
    create.args(["genesis", "create", "--name", "test"]).args(options).args(&members).args(guests);
    let genesis = run(&mut create)?;
    ensure!(genesis.contains("members"), "godwit genesis create printed {genesis}");
    for node in nodes {
        node.put(&node.genesis(), genesis.as_bytes())?;
        node.run_with(settings.flags());
    }
    Ok(())
}

/// Keys and configuration for one more site of a mesh that was founded; its member line.
///
/// # Errors
/// When the site refuses.
pub fn join(mesh: &Mesh, node: &Node, role: &str, settings: &Settings) -> Result<String> {
    let line = init_as(node, Some(role))?;
    let founding = mesh.node(1).genesis();
    let genesis = std::fs::read(&founding).with_context(|| format!("read {founding}"))?;
    node.put(&node.genesis(), &genesis)?;
    node.run_with(settings.flags());
    Ok(line)
}

fn init(node: &Node) -> Result<String> {
    init_as(node, None)
}

/// Makes the site's key and configuration; its member line.
fn init_as(node: &Node, role: Option<&str>) -> Result<String> {
    let mut command = node.godwit()?;
    command.args(["--config", &node.config(), "init", "--name", &node.name]);
    command.args(role.iter().flat_map(|role| ["--role", role]));
    match node.place() {
        Place::Lab(site) => {
            command.args(["--address", &site.address(), "--network", "lab"]);
        }
        Place::Here(_) => {
            let port = free_port()?;
            command.args(["--address", "127.0.0.1", "--network", "loopback"]);
            command.args(["--listen", &format!("/ip4/127.0.0.1/udp/{port}/quic-v1")]);
            command.args(["--listen", &format!("/ip4/127.0.0.1/tcp/{port}")]);
            command.args(["--key", &node.path("site.key"), "--data-dir", &node.data(), "--genesis", &node.genesis()]);
            node.run_with(vec![
                "--set".to_owned(),
                format!("api_socket={}", node.socket()),
                "--set".to_owned(),
                // No engine: whatever runs on this machine is not ours.
                format!("docker=unix://{}", node.path("no-engine.sock")),
                "--set".to_owned(),
                "mdns=false".to_owned(),
            ]);
        }
    }
    run(&mut command).map(|line| line.trim().to_owned())
}

/// A port that is free for UDP and TCP now.
fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let udp = UdpSocket::bind(("127.0.0.1", 0)).context("bind a UDP port")?;
        let port = udp.local_addr().context("own address")?.port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free for both UDP and TCP")
}

/// A change of the membership: the record that a mesh without containers has to decide about.
#[derive(Clone, Debug)]
pub struct Change {
    /// What `godwit member` is told.
    verb: Vec<String>,
    /// The proposal with its approvals, as the last of the operators printed it.
    petition: String,
}

impl Change {
    /// By what is said behind `godwit member`.
    #[must_use]
    pub fn of(verb: &[&str]) -> Self {
        Self { verb: verb.iter().map(ToString::to_string).collect(), petition: String::new() }
    }

    /// Admits a new observer of this name.
    ///
    /// # Errors
    /// When its key cannot be made.
    pub fn admit(folder: &Path, name: &str) -> Result<Self> {
        let node = Node::here(name, &folder.join(name))?;
        let mut command = node.godwit()?;
        command.args([
            "--config",
            &node.config(),
            "init",
            "--name",
            name,
            "--role",
            "observer",
            "--address",
            "127.0.0.1",
        ]);
        Ok(Self::of(&["admit", run(&mut command)?.trim()]))
    }

    /// Who or what it is about: of an admission the member's line, as `godwit init` printed it.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.verb.last().map_or("", String::as_str)
    }

    /// Proposed by the first of these validators, and approved by as many as it takes.
    ///
    /// # Errors
    /// When one refuses.
    pub fn approved(mut self, validators: &[Node]) -> Result<Self> {
        let first = validators.first().context("no validators")?;
        let verb: Vec<&str> = ["member"].into_iter().chain(self.verb.iter().map(String::as_str)).collect();
        self.petition = first.say(&verb)?;
        let members: Members = first.ask(&["member", "list"])?;
        for node in validators.iter().take(members.approvals_needed) {
            let file = self.carry_to(node)?;
            self.petition = node.say(&["member", "approve", &file])?;
        }
        Ok(self)
    }

    /// Says it in the ledger, whoever is there to decide.
    ///
    /// # Errors
    /// When the site refuses it.
    pub fn submit(&self, node: &Node) -> Result<()> {
        let file = self.carry_to(node)?;
        node.say(&["member", "submit", "--force", &file]).map(drop)
    }

    fn carry_to(&self, node: &Node) -> Result<String> {
        let file = node.path("petition.json");
        node.put(&file, self.petition.as_bytes())?;
        Ok(file)
    }

    /// All of that, until `nodes` have it in their ledger.
    ///
    /// # Errors
    /// When it is refused or does not come into force.
    pub fn commit(self, mesh: &Mesh, nodes: &[Node]) -> Result<()> {
        let first = nodes.first().context("no nodes")?;
        let before = first.ask::<Members>(&["member", "list"])?.epoch;
        self.approved(nodes)?.submit(first)?;
        mesh.until("the change is in force", LONG, |_| {
            for node in nodes {
                let members: Members = node.ask(&["member", "list"])?;
                ensure!(members.epoch > before, "{} is at epoch {}", node.name, members.epoch);
            }
            Ok(())
        })
    }
}
