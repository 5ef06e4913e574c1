//! What the command line calls in the rest of the program.
//!
//! The types are the contract; each function hands over to the module that does the work.

use std::path::Path;
use std::time::{Duration, Instant};

use godwit_ledger::audit::{Auditor, Checkpoint, Progress, Report, Stored};
use godwit_ledger::genesis::Genesis;
use godwit_ledger::store::Archive;
use godwit_protocol::Message;
use serde::Serialize;

use super::failure::Failure;
use crate::api::fault::chain;
use crate::config::Config;
use crate::run::History;
use crate::run::follow::Followed;
use crate::runtime::{self, register};

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
    Ok(Verified),
    /// A block does not.
    Bad {
        /// The height that was due; 0 for the genesis.
        height: u64,
        /// What is wrong there, with all its causes.
        reason: String,
    },
}

/// An honest ledger, and what it took to see that.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// The ledger in figures.
    #[serde(flatten)]
    pub report: Report,
    /// What was trusted besides the genesis.
    pub checkpoint: Option<Checkpoint>,
    /// How long it took.
    pub took_ms: u64,
    /// Signatures verified in a second.
    pub signatures_per_s: u64,
}

/// Verifies blocks from height 1 on; tells `progress` how far it is, and since when.
pub fn judge<B, E>(
    genesis: &Genesis,
    checkpoint: Option<Checkpoint>,
    blocks: impl IntoIterator<Item = Result<B, E>>,
    progress: &mut dyn FnMut(Progress, Duration),
) -> Audited
where
    B: Into<Stored>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let begun = Instant::now();
    let audited = Auditor::new(genesis)
        .and_then(|auditor| auditor.trusting(checkpoint).run(blocks, &mut |at| progress(at, begun.elapsed())));
    match audited {
        Ok(report) => {
            let took = begun.elapsed();
            let (took_ms, signatures_per_s) = (millis(took), per_second(report.signatures, took));
            Audited::Ok(Verified { report, checkpoint, took_ms, signatures_per_s })
        }
        Err(finding) => Audited::Bad { height: finding.height.0, reason: chain(&finding.fault) },
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// So many in a second.
pub fn per_second(count: u64, span: Duration) -> u64 {
    count.saturating_mul(1000) / millis(span).max(1)
}

/// Opens a site's data folder, a copy of it, or the ledger in it by itself. Nothing in it is believed.
///
/// # Errors
/// If there is no ledger.
pub fn archive(dir: &Path) -> Result<Archive, Failure> {
    let ledger = Some(dir.join(crate::run::LEDGER)).filter(|ledger| ledger.is_dir()).unwrap_or_else(|| dir.to_owned());
    Archive::open(&ledger).map_err(|error| Failure::Part {
        what: "open the ledger",
        source: error.into(),
        remedy: Some("name a site's data folder, or a copy of its folder `ledger`".to_owned()),
    })
}

/// One line about what a record says, with the names that a genesis gives.
pub fn summary(genesis: &Genesis, message: &Message) -> String {
    let mut names = History::default();
    for member in genesis.members.iter() {
        names.name_site(member.site, member.name.as_str());
    }
    crate::run::summary(message, &names)
}

/// Follows the ledger until it is told to stop by a signal, or has the block of this height.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn follow(
    config: Config,
    until: Option<u64>,
    told: &mut (dyn FnMut(&Followed) + Send),
) -> Result<Followed, Failure> {
    let failed = |error: anyhow::Error| Failure::Part { what: "follow the ledger", source: error.into(), remedy: None };
    crate::run::follow::follow(config, until, told).await.map_err(failed)
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

/// Tells Docker of our OCI runtime; what came of it, for people.
pub fn register_runtime() -> Result<&'static str, Failure> {
    let program = register::program().ok_or_else(|| Failure::Input {
        what: register::PROGRAM.to_owned(),
        reason: "it is neither beside godwit nor in the search path".to_owned(),
        remedy: "install target/release/godwit-runtime beside godwit".to_owned(),
    })?;
    let registered = register::register(Path::new(register::DAEMON_FILE), &program);
    let failed = |cause| Failure::Input {
        what: "tell Docker of godwit's runtime".to_owned(),
        reason: chain(&cause),
        remedy: format!("see that {} is valid and can be written: run as root", register::DAEMON_FILE),
    };
    Ok(match registered.map_err(failed)? {
        register::Registered::Already => "Docker's configuration has all that is needed",
        register::Registered::Reloaded => "Docker was told of godwit's runtime",
        register::Registered::AtRestart => "Docker's configuration was changed: systemctl restart docker",
    })
}
