//! Runc's own record of a container, in which the restored init process takes the holder's place.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use procfs::process::Process;
use serde_json::{Value, json};

/// The record cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of the file.
    #[error("runc's record {0}")]
    File(PathBuf, #[source] io::Error),
    /// It is not what runc 1.1 to 1.3 write.
    #[error("runc's record {0} is not of a version that is known here: it has no {1}")]
    Unknown(PathBuf, &'static str),
    /// The process is gone.
    #[error("process {0}")]
    Process(i32, #[source] procfs::ProcError),
}

/// Makes `pid` the container's init process for runc, containerd and Docker.
///
/// # Errors
/// [`Error`]; the record is then as before.
pub fn adopt(root: &Path, container: &str, pid: i32) -> Result<(), Error> {
    let folder = root.join(container);
    let path = folder.join("state.json");
    let at = |error| Error::File(path.clone(), error);
    let text = fs::read(&path).map_err(at)?;
    let mut state: Value = serde_json::from_slice(&text).map_err(|error| at(error.into()))?;
    let process = Process::new(pid).and_then(|process| process.stat()).map_err(|error| Error::Process(pid, error))?;
    rewrite(&mut state, pid, process.starttime, descriptors(pid))
        .map_err(|field| Error::Unknown(path.clone(), field))?;
    let new = folder.join("state.json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(at)?;
    file.write_all(state.to_string().as_bytes()).and_then(|()| fs::rename(&new, &path)).map_err(at)?;
    // With it runc takes the container for one that is created and not started.
    match fs::remove_file(folder.join("exec.fifo")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::File(folder.join("exec.fifo"), error)),
        _ => Ok(()),
    }
}

/// What a process's first descriptors are: runc compares them at the next checkpoint.
fn descriptors(pid: i32) -> [String; 3] {
    let of = |n: i32| fs::read_link(format!("/proc/{pid}/fd/{n}"));
    [0, 1, 2].map(|n| of(n).map_or_else(|_| "/dev/null".into(), |path| path.to_string_lossy().into_owned()))
}

fn rewrite(state: &mut Value, pid: i32, started: u64, descriptors: [String; 3]) -> Result<(), &'static str> {
    let mut set = |field: &'static str, value: Value| match state.get_mut(field) {
        Some(known) => {
            *known = value;
            Ok(())
        }
        None => Err(field),
    };
    set("init_process_pid", json!(pid))?;
    set("init_process_start", json!(started))?;
    set("external_descriptors", json!(descriptors))?;
    let paths = state.get_mut("namespace_paths").and_then(Value::as_object_mut).ok_or("namespace_paths")?;
    for path in paths.values_mut() {
        // Paths of namespaces that are the container's own lead over its init process.
        let name = path.as_str().and_then(|path| path.strip_prefix("/proc/")?.split_once("/ns/")).map(|(_, name)| name);
        if let Some(name) = name.map(ToOwned::to_owned) {
            *path = json!(format!("/proc/{pid}/ns/{name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Value {
        json!({
            "id": "4711", "init_process_pid": 7, "init_process_start": 8, "rootless": false,
            "namespace_paths": { "NEWNET": "/proc/7/ns/net", "NEWUSER": "/var/run/ns/user" },
            "external_descriptors": ["/dev/null", "pipe:[1]", "pipe:[2]"],
        })
    }

    #[test]
    fn the_restored_process_takes_the_holders_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("4711");
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join("state.json"), state().to_string()).expect("written");
        fs::write(root.join("exec.fifo"), "").expect("written");
        let me = i32::try_from(std::process::id()).expect("a pid");
        for _ in 0..2 {
            adopt(folder.path(), "4711", me).expect("adopted, and again");
        }
        let now: Value = serde_json::from_slice(&fs::read(root.join("state.json")).expect("read")).expect("json");
        assert_eq!(now["init_process_pid"], me);
        assert!(now["init_process_start"].as_u64().is_some_and(|start| start > 8));
        assert_eq!(now["namespace_paths"]["NEWNET"], format!("/proc/{me}/ns/net"));
        assert_eq!(now["namespace_paths"]["NEWUSER"], "/var/run/ns/user", "it was given by path");
        assert_eq!((&now["id"], &now["rootless"]), (&json!("4711"), &json!(false)), "all else stays");
        assert!(!root.join("exec.fifo").exists());
    }

    #[test]
    fn a_record_of_another_version_is_left_alone() {
        for field in ["init_process_pid", "init_process_start", "namespace_paths", "external_descriptors"] {
            let mut state = state();
            state.as_object_mut().expect("a map").remove(field);
            assert_eq!(rewrite(&mut state, 1, 2, [const { String::new() }; 3]), Err(field));
        }
    }
}
