//! What the command line calls in the rest of the program.
//!
//! The types are the contract; each function hands over to the module that does the work.

use std::path::Path;

use godwit_ledger::genesis::Genesis;
use godwit_protocol::report::Report;
use godwit_protocol::{Hash, MeshId, Signed};
use libp2p::Multiaddr;
use serde::Serialize;

use super::failure::Failure;
use crate::config::Config;

/// The outcome of one check of `godwit doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, for example `criu version`.
    pub name: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, worse than it could.
    Warn,
    /// The site cannot do its work.
    Fail,
}

/// What `godwit audit` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// The mesh.
    pub mesh: MeshId,
    /// The last height that verifies.
    pub height: u64,
    /// The state root after it.
    pub state_root: Hash,
    /// Records up to it.
    pub records: u64,
    /// The first bad block and what is wrong with it.
    pub bad: Option<BadBlock>,
}

/// A block that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadBlock {
    /// Its height.
    pub height: u64,
    /// What is wrong.
    pub reason: String,
}

/// Runs the site until it is told to stop by a signal.
///
/// # Errors
/// What kept it from starting, or ended it.
#[allow(clippy::unused_async)] // the site's loop is async
pub async fn run(config: Config) -> Result<(), Failure> {
    let _ = config;
    Err(absent("run the site"))
}

/// Checks the machine for `godwit doctor`, in the order in which they should be read.
///
/// # Errors
/// Only if checking itself is impossible; what it finds is in the checks.
#[allow(clippy::unused_async)] // checks talk to the engine
pub async fn checks(config: &Config) -> Result<Vec<Check>, Failure> {
    let _ = config;
    Err(absent("check this machine"))
}

/// Verifies a data folder's ledger; calls `progress(height, tip)` now and then.
///
/// # Errors
/// If the folder cannot be read. A bad block is a finding, not an error.
pub fn audit(dir: &Path, genesis: &Genesis, progress: &mut dyn FnMut(u64, u64)) -> Result<Audited, Failure> {
    let _ = (dir, genesis, progress);
    Err(absent("verify the ledger"))
}

/// A client's connection to one site of the mesh.
#[derive(Debug)]
pub struct Uplink {}

impl Uplink {
    /// Connects to the first of the sites that answers.
    ///
    /// # Errors
    /// If none does.
    #[allow(clippy::unused_async)] // connecting is async
    pub async fn connect(key: &ed25519_dalek::SigningKey, sites: &[Multiaddr]) -> Result<Self, Failure> {
        let _ = (key, sites);
        Err(absent("connect to a site"))
    }

    /// Sends a report and waits until the site has taken it; connects again, to another site if need be.
    ///
    /// # Errors
    /// The site's refusal, or that none answers.
    #[allow(clippy::unused_async)] // sending is async
    pub async fn report(&mut self, report: &Signed<Report>) -> Result<(), Failure> {
        let _ = report;
        Err(absent("report"))
    }
}

fn absent(what: &'static str) -> Failure {
    Failure::Part { what, source: "this build does not contain that part yet".into(), remedy: None }
}
