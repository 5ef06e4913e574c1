//! A mesh of nodes: founded, started, agreeing; and the questions that concern all of its sites.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::events::Events;
use crate::genesis::{self, Settings};
use crate::inspect;
use crate::lab::Lab;
use crate::node::Node;
use crate::view::{Container, Offer, Offered, Status};
use crate::wait::{LONG, until};
use crate::workload::{self, IMAGE, Workload};

/// Nodes that know each other.
pub struct Mesh {
    /// In the order of their founding.
    pub nodes: Vec<Node>,
}

/// A workload to deploy.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its name.
    pub name: &'static str,
    /// What it holds, in MiB.
    pub memory_mb: u64,
    /// What it writes of that each second, in MiB.
    pub dirty_mb_s: u64,
    /// More options of `godwit deploy`.
    pub options: Vec<String>,
}

impl Load {
    /// A workload that holds this much memory.
    #[must_use]
    pub fn new(name: &'static str, memory_mb: u64) -> Self {
        Self { name, memory_mb, dirty_mb_s: 0, options: Vec::new() }
    }

    /// With another option of `godwit deploy`.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.options.extend([option.to_owned(), value.to_owned()]);
        self
    }
}

impl Mesh {
    /// A mesh of all sites of a new lab of `sites` sites: up, founded, running and agreeing.
    ///
    /// # Errors
    /// Whatever fails first.
    pub fn in_lab(sites: usize, options: &[&str], settings: &Settings) -> Result<Self> {
        let lab = Lab::up(sites, options)?;
        let nodes = (1..=sites).map(|number| Node::in_lab(&lab.site(number))).collect();
        Self::found(nodes, settings)
    }

    /// Founds the mesh of these nodes, starts them and waits until they agree.
    ///
    /// # Errors
    /// Whatever fails first.
    pub fn found(nodes: Vec<Node>, settings: &Settings) -> Result<Self> {
        genesis::found(&nodes, settings)?;
        let mesh = Self { nodes };
        for node in &mesh.nodes {
            node.start()?;
        }
        mesh.until("all sites see each other and agree", LONG, |mesh| mesh.agree(&mesh.nodes))?;
        Ok(mesh)
    }

    /// A node, by its number from 1.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    /// The nodes without this one.
    #[must_use]
    pub fn others(&self, than: &Node) -> Vec<Node> {
        self.nodes.iter().filter(|node| node.name != than.name).cloned().collect()
    }

    /// Whether these nodes are connected to each other and hold the same state at the same height.
    ///
    /// # Errors
    /// What they do not agree in.
    pub fn agree(&self, nodes: &[Node]) -> Result<Status> {
        let all = nodes.iter().map(Node::status).collect::<Result<Vec<_>>>()?;
        let first = all.first().context("no nodes")?.clone();
        for status in &all {
            ensure!(
                (status.height, &status.state_root) == (first.height, &first.state_root),
                "{} is at {} with {}, {} at {} with {}",
                first.name,
                first.height,
                first.state_root,
                status.name,
                status.height,
                status.state_root
            );
            ensure!(status.peers as usize >= nodes.len() - 1, "{} sees {} peers", status.name, status.peers);
        }
        Ok(first)
    }

    /// Waits for a condition of the mesh; if it does not come true, the error shows what the sites last logged.
    ///
    /// # Errors
    /// When it has not come true after `limit`.
    pub fn until<T>(&self, what: &str, limit: Duration, mut poll: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        until(what, limit, || poll(self)).with_context(|| self.explain())
    }

    /// The end of every log and the timelines of the latest offers.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = String::from("what the sites say:\n");
        for node in &self.nodes {
            text += &node.tail();
            if let Err(error) = node.is_alive() {
                text += &format!("{error:#}\n");
            }
        }
        let latest = self.nodes.iter().find_map(|node| node.offers().ok().map(|offers| (node, offers)));
        for (node, offer) in latest.iter().flat_map(|(node, offers)| offers.iter().take(2).map(move |o| (node, o))) {
            text += &node.show(&["timeline", &offer.offer]).unwrap_or_else(|error| format!("{error:#}\n"));
        }
        text
    }

    /// Makes the workload's image known to the engine of `node` and deploys it there; answers once it does.
    ///
    /// # Errors
    /// When it is not deployed, or does not answer.
    pub fn deploy(&self, node: &Node, gateway: &Node, load: &Load) -> Result<(Container, Workload)> {
        workload::load_image(node.site())?;
        let memory = load.memory_mb.to_string();
        // Room for the program, its stacks and its file besides what it holds on purpose.
        let limit = format!("{}m", load.memory_mb + 32);
        let mut arguments = vec!["deploy", IMAGE, "--name", load.name, "--cpus", "0.2", "--memory", &limit];
        arguments.extend(load.options.iter().map(String::as_str));
        let dirty = load.dirty_mb_s.to_string();
        arguments.extend(["--", "--memory-mb", &memory, "--dirty-mb-per-s", &dirty]);
        node.say(&arguments).with_context(|| self.explain())?;
        let container = self.until("the deployed container is in the ledger", LONG, |_| node.container(load.name))?;
        let workload = Workload::at(gateway.site(), &container.address)?;
        self.until("the workload answers", LONG, |_| workload.count())?;
        Ok((container, workload))
    }

    /// Asks for a move as an operator; the offer, once it is in the ledger.
    ///
    /// # Errors
    /// When there is no offer.
    pub fn offer(&self, from: &Node, container: &str, prefer: Option<&str>) -> Result<Offer> {
        let mut arguments = vec!["migrate", container];
        arguments.extend(prefer.iter().flat_map(|site| ["--prefer", site]));
        // Not while an earlier handoff of it is being closed.
        let offered: Offered = self.until("the container can be offered", LONG, |_| from.ask(&arguments))?;
        self.until("the offer is in the ledger", LONG, |_| from.offer(&offered.offer))
    }

    /// As [`Mesh::offer`], to the end of the handoff.
    ///
    /// # Errors
    /// When there is no offer, or it does not end.
    pub fn migrate(&self, from: &Node, container: &str, prefer: Option<&str>) -> Result<Offer> {
        let offer = self.offer(from, container, prefer)?;
        self.ended(from, &offer.offer)
    }

    /// Waits until an offer has ended, one way or the other.
    ///
    /// # Errors
    /// When it has not.
    pub fn ended(&self, node: &Node, offer: &str) -> Result<Offer> {
        self.until("the offer ends", LONG, |_| {
            let offer = node.offer(offer)?;
            ensure!(offer.is_over(), "{offer:?}");
            Ok(offer)
        })
    }

    /// Waits for the first offer of this container that `node` knows of, and its end.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn handed_over(&self, node: &Node, container: &str) -> Result<Offer> {
        let offer = self.until("an offer of the container", LONG, |_| {
            node.offers()?.into_iter().find(|offer| offer.container == container).context("no offer")
        })?;
        self.ended(node, &offer.offer)
    }

    /// What must hold whenever all is quiet: the sites agree, exactly one copy runs, at the site that the ledger names,
    /// and nothing is left behind anywhere.
    ///
    /// # Errors
    /// What does not hold.
    pub fn one_copy(&self, container: &str) -> Result<Container> {
        self.until("one copy runs where the ledger says, and nothing else is left", LONG, |mesh| {
            mesh.agree(&mesh.nodes)?;
            let views = mesh.nodes.iter().map(|node| node.container(container)).collect::<Result<Vec<_>>>()?;
            let first = views[0].clone();
            ensure!(views.iter().all(|view| view.owner == first.owner && view.offer.is_none()), "owners: {views:?}");
            inspect::quiet(&mesh.nodes, &first.owner_name)?;
            Ok(first)
        })
    }

    /// What happens at a node from now on.
    ///
    /// # Errors
    /// When it cannot be followed.
    pub fn events(&self, node: &Node) -> Result<Events> {
        Events::follow(node)
    }
}
