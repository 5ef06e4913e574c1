//! Where the built programs are, and where a run leaves its logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// The root of the source tree.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// The folder that cargo builds into: a test runs from `TARGET/PROFILE/deps`.
///
/// # Errors
/// When the running program was moved elsewhere.
pub fn target() -> Result<PathBuf> {
    Ok(profile()?.parent().context("no folder above the profile's")?.to_owned())
}

/// The `godwit` binary of the same profile, unless `GODWIT_BIN` names another, as it does for the lab.
///
/// # Errors
/// When it was not built.
pub fn godwit() -> Result<PathBuf> {
    let binary = match std::env::var_os("GODWIT_BIN") {
        Some(named) => named.into(),
        None => profile()?.join("godwit"),
    };
    if !binary.exists() {
        bail!("{} is missing: cargo build --workspace", binary.display());
    }
    Ok(binary)
}

fn profile() -> Result<PathBuf> {
    let me = std::env::current_exe().context("own path")?;
    let deps = me.ancestors().find(|folder| folder.ends_with("deps") || folder.ends_with("examples"));
    let profile = deps.unwrap_or(&me).parent().context("the test does not run from cargo's target folder")?;
    Ok(profile.to_owned())
}

/// A folder for this run's logs, kept when the test fails.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let folder = target()?.join("e2e").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or fails: then with what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// When it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("start {command:?}"))
}
