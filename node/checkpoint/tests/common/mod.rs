//! A lab of one machine: the test program runs itself again as the first process of a world in which CRIU works.
//!
//! CRIU must be at the real root of its mount namespace, and a test's processes, mounts and network must not outlive it. So the
//! program starts [`in_lab`] with arguments of its own choice, and finds itself in new namespaces with the lab's base system as
//! its root. When it ends, all of that is gone.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod container;

use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = include_str!("lab.sh");

/// Whether this is a lab.
pub fn inside() -> bool {
    std::env::var_os("GODWIT_INSIDE_LAB").is_some()
}

/// Runs this program in a lab with these arguments; what it says, or what went wrong with it, when it fails.
///
/// # Errors
/// That there is no base system or no right to make namespaces, or what the program said before it failed.
pub fn in_lab(arguments: &[&str]) -> Result<String, String> {
    let base = base()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut lab = Command::new("unshare");
    lab.args([
        "--mount",
        "--net",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--",
        "bash",
        "-c",
        SCRIPT,
        "lab",
    ]);
    lab.args([&base, scratch.path(), &program]).args(arguments);
    let output = lab.env("RUST_BACKTRACE", "0").output().map_err(|error| format!("unshare (util-linux): {error}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{}\n{said}", output.status)) }
}

/// The newest base system: `GODWIT_LAB_DIR`, as for `deploy/lab/lab`, holds one per recipe.
fn base() -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("must run as root: namespaces, mounts, CRIU".into());
    }
    let dir = std::env::var_os("GODWIT_LAB_DIR").unwrap_or_else(|| "/var/lib/godwit-lab".into());
    let bases = Path::new(&dir).join("base");
    let recipe = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let found = std::fs::read_dir(&bases).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = found.filter(|path| path.join("usr/sbin/criu").exists()).max_by_key(|path| recipe(path));
    newest.ok_or_else(|| format!("no base system with CRIU in {}: run deploy/lab/lab base", bases.display()))
}
