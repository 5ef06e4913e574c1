//! Tells Docker of our OCI runtime, in its configuration file, and has it read that again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Cause;
use super::docker::RUNTIME;

/// Docker's configuration, where its packages look for it.
pub const DAEMON_FILE: &str = "/etc/docker/daemon.json";

/// Where a running daemon says which process it is.
const PID_FILES: [&str; 2] = ["/run/docker.pid", "/var/run/docker.pid"];

/// The program's name.
pub const PROGRAM: &str = "godwit-runtime";

/// Our OCI runtime: beside this program, as both are installed, or in the search path.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(PROGRAM)));
    found.into_iter().find(|program| program.is_file())
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// All of it was there.
    Already,
    /// The daemon has read the change.
    Reloaded,
    /// What was changed takes effect when the daemon is restarted: its experimental mode, or all of it if none runs.
    AtRestart,
}

/// Writes into Docker's configuration what moving containers takes, keeps all else that is there, and tells the daemon.
///
/// # Errors
/// [`Cause::Io`]; [`Cause::Unsupported`] if the file is not what Docker reads. It is unchanged then.
pub fn register(daemon: &Path, program: &Path) -> Result<Registered, Cause> {
    let before = match fs::read(daemon) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| {
            Cause::Unsupported(format!("{} is not valid: {error}; correct it first", daemon.display()))
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(Cause::io("read", daemon)(error)),
    };
    let after = with(&before, program)
        .ok_or_else(|| Cause::Unsupported(format!("{} is not a map with a map of runtimes", daemon.display())))?;
    if after == before {
        return Ok(Registered::Already);
    }
    write(daemon, &after).map_err(Cause::io("write", daemon))?;
    let reloaded = reload();
    Ok(if reloaded && after["experimental"] == before["experimental"] {
        Registered::Reloaded
    } else {
        Registered::AtRestart
    })
}

/// The same configuration, with our runtime and in experimental mode.
fn with(before: &Value, program: &Path) -> Option<Value> {
    let mut after = before.clone();
    let map = after.as_object_mut()?;
    map.insert("experimental".into(), json!(true));
    let runtimes = map.entry("runtimes").or_insert_with(|| json!({})).as_object_mut()?;
    runtimes.insert(RUNTIME.into(), json!({ "path": program }));
    Some(after)
}

fn write(daemon: &Path, content: &Value) -> std::io::Result<()> {
    if let Some(folder) = daemon.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = daemon.with_extension("json.godwit");
    let mut file = File::create(&beside)?;
    file.write_all(serde_json::to_string_pretty(content)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    if let Ok(known) = fs::metadata(daemon) {
        fs::set_permissions(&beside, known.permissions())?;
    }
    fs::rename(&beside, daemon)
}

/// Whether there is a daemon, which reads its configuration again.
fn reload() -> bool {
    let pid = PID_FILES.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGHUP).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "/opt/godwit-runtime";

    #[test]
    fn what_an_operator_has_configured_stays() {
        let before = json!({
            "data-root": "/srv/docker",
            "runtimes": { "kata": { "path": "/usr/bin/kata" }, "godwit": { "path": "/old" } },
        });
        let after = with(&before, Path::new(OURS)).unwrap();
        let expected = json!({
            "data-root": "/srv/docker",
            "experimental": true,
            "runtimes": { "kata": { "path": "/usr/bin/kata" }, "godwit": { "path": OURS } },
        });
        assert_eq!(after, expected);
        assert_eq!(with(&after, Path::new(OURS)), Some(after.clone()), "once is enough");
    }

    #[test]
    fn a_file_that_docker_would_not_read_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = folder.path().join("daemon.json");
        for text in ["{", "[]", r#"{"runtimes": 7}"#] {
            fs::write(&daemon, text).unwrap();
            assert!(matches!(register(&daemon, Path::new(OURS)), Err(Cause::Unsupported(_))));
            assert_eq!(fs::read_to_string(&daemon).unwrap(), text);
        }
    }
}
