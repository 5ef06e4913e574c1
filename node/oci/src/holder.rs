//! What runc makes before there is a process to run: its init process waits, and holds namespaces, cgroups and mounts.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arguments::Asked;

/// Runc does not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or its files are not.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// It refuses; it has written why into the engine's log.
    #[error("runc create: {0}")]
    Refused(std::process::ExitStatus),
    /// It does not say which process it is.
    #[error("runc left no process id in {0}")]
    NoPid(PathBuf),
}

/// A container that runc has created and not started, deleted again unless it is handed over.
#[derive(Debug)]
pub struct Holder {
    asked: Asked,
    /// Its init process.
    pub pid: i32,
    handed_over: bool,
}

impl Holder {
    /// Has runc create the container, with this process's standard streams.
    ///
    /// # Errors
    /// [`Error`].
    pub fn create(asked: &Asked) -> Result<Self, Error> {
        // The engine's file stays absent until there is the process that it waits for.
        let pid_file = asked.bundle.join("godwit-holder.pid");
        let status = Command::new("runc")
            .args(&asked.globals)
            .arg("create")
            .args(["--bundle".as_ref(), asked.bundle.as_os_str(), "--pid-file".as_ref(), pid_file.as_os_str()])
            .arg(&asked.id)
            .status()
            .map_err(|error| Error::Io("start runc", error))?;
        if !status.success() {
            return Err(Error::Refused(status));
        }
        let text = fs::read_to_string(&pid_file).map_err(|error| Error::Io("read runc's process id", error))?;
        let mut holder = Self { asked: asked.clone(), pid: 0, handed_over: false };
        holder.pid = text.trim().parse().ok().filter(|pid| *pid > 0).ok_or(Error::NoPid(pid_file))?;
        Ok(holder)
    }

    /// Ends the waiting process: another is the container's by now.
    pub fn hand_over(mut self) {
        self.handed_over = true;
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let delete = Command::new("runc")
            .args(&self.asked.globals)
            .args(["delete", "--force", &self.asked.id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // Nothing more can be done here; the engine removes what is left when it removes the container.
        drop(delete);
    }
}
