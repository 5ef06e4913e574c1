//! What the command line calls in the rest of the program.
//!
//! The types are the contract; each function hands over to the module that does the work.

use std::path::Path;

use godwit_ledger::audit::Report;
use godwit_ledger::block::Committed;
use godwit_ledger::genesis::Genesis;
use godwit_ledger::store::Archive;
use serde::Serialize;

use super::failure::Failure;
use crate::api::fault::chain;
use crate::config::Config;
use crate::runtime;

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

impl Check {
    /// A check that passes or fails; its remedy is kept only if it fails.
    pub fn new(name: impl Into<String>, passes: bool, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let verdict = if passes { Verdict::Pass } else { Verdict::Fail };
        Self { name: name.into(), verdict, found: found.into(), remedy: (!passes).then(|| remedy.into()) }
    }
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
#[derive(Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Audited {
    /// Every block verifies.
    Ok(Report),
    /// A block does not.
    Bad {
        /// The height that was due; 0 for the genesis.
        height: u64,
        /// What is wrong there, with all its causes.
        reason: String,
    },
}

/// Verifies blocks from height 1 on; tells `progress` each height as it is reached.
pub fn judge<E>(
    genesis: &Genesis,
    blocks: impl IntoIterator<Item = Result<Committed, E>>,
    progress: &mut dyn FnMut(u64),
) -> Audited
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let told = blocks.into_iter().inspect(|block| {
        if let Ok(committed) = block {
            progress(committed.block.header.height.0);
        }
    });
    match godwit_ledger::audit::audit(genesis, told) {
        Ok(report) => Audited::Ok(report),
        Err(finding) => Audited::Bad { height: finding.height.0, reason: chain(&finding.fault) },
    }
}

/// Runs the site until it is told to stop by a signal.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run(config: Config) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::Part {
        what: "run the site",
        remedy: crate::run::is_loss(&error).then(|| {
            "`godwit rebuild` moves the damaged ledger aside and lets this site fetch it again from the others"
                .to_owned()
        }),
        source: error.into(),
    };
    crate::run::run(config).await.map_err(failed)
}

/// Checks of the container engine, CRIU and the kernel.
pub async fn engine_checks(config: &Config) -> Vec<Check> {
    let found = runtime::doctor::checks(&config.docker, Path::new("criu"), &config.data_dir).await;
    found.into_iter().map(|check| Check::new(check.name, check.ok, check.found, check.remedy)).collect()
}

/// Verifies a data folder's ledger by [`judge`].
///
/// # Errors
/// If the folder cannot be opened. A bad block is a finding, not an error.
pub fn audit(dir: &Path, genesis: &Genesis, progress: &mut dyn FnMut(u64)) -> Result<Audited, Failure> {
    // The data folder of a site, or the ledger in it by itself.
    let ledger = Some(dir.join(crate::run::LEDGER)).filter(|ledger| ledger.is_dir()).unwrap_or_else(|| dir.to_owned());
    let archive = Archive::open(&ledger).map_err(|error| Failure::Part {
        what: "open the ledger",
        source: error.into(),
        remedy: Some("name a site's data folder, or a copy of its folder `ledger`".to_owned()),
    })?;
    Ok(judge(genesis, archive.blocks(), progress))
}
