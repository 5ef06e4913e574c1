//! CRIU: the options it needs to capture a container under live traffic, why it refused, and what it has captured.
//!
//! The engine starts CRIU through its OCI runtime and passes none of these options; the annotation [`ANNOTATION`] names a
//! file of them for one container. The file's `work-dir` also decides where CRIU leaves its logs, and its `images-dir` where
//! the images are.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use godwit_protocol::ContainerId;

/// runc reads the path of CRIU's configuration file here.
pub const ANNOTATION: &str = "org.criu.config";

/// The least version with which all of this works: older ones fail on kernels from 6.16 on.
pub const MIN_VERSION: u32 = 40_200;

/// Connections stay established; those not yet accepted are left to their client's retry; deleted and locked files and
/// sockets to the outside are captured. A deleted file that is still open travels in the images up to the limit. Tasks
/// that cannot be stopped within the timeout, in seconds, go on.
const OPTIONS: &str =
    "tcp-established\nskip-in-flight\nlink-remap\nfile-locks\next-unix-sk\nghost-limit 268435456\ntimeout 4\n";

/// A log of CRIU at its usual verbosity; more is not searched for the reason.
const LOG_MAX: u64 = 8 * 1024 * 1024;

/// As many lines of CRIU's log as say what failed; the rest are consequences.
const REASON_LINES: usize = 2;

/// Where one container's options and logs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    work: PathBuf,
    /// The file of options.
    pub config: PathBuf,
}

/// Which of CRIU's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Of capturing.
    Dump,
    /// Of restoring.
    Restore,
}

/// Whether CRIU can read a path in its file of options.
#[must_use]
pub fn readable(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains(char::is_whitespace))
}

impl Files {
    /// Below `state`, which holds one folder per container.
    #[must_use]
    pub fn of(state: &Path, container: ContainerId) -> Self {
        let work = state.join("criu").join(container.to_string());
        Self { config: work.join("criu.conf"), work }
    }

    /// Writes the options: `images` is the folder that CRIU writes its images to or reads them from, whatever the OCI runtime
    /// tells it.
    ///
    /// # Errors
    /// What the file system says, or that CRIU could not read the folder's name in a file.
    pub fn write(&self, images: &Path) -> std::io::Result<()> {
        let images = fs::canonicalize(images)?;
        if !readable(&images) {
            let why = format!("CRIU reads no path with spaces: {}", images.display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidFilename, why));
        }
        fs::create_dir_all(&self.work)?;
        let places = format!("work-dir {}\nimages-dir {}\n", self.work.display(), images.display());
        fs::write(&self.config, format!("{OPTIONS}{places}"))
    }

    /// Forgets an earlier log, so that its reason is not taken for a later one's.
    pub fn clear(&self, log: Log) {
        let _ = fs::remove_file(self.log(log));
    }

    /// Remembers that the container was stopped with its state, or that it runs again.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_frozen(&self, frozen: bool) -> std::io::Result<()> {
        let flag = self.work.join("frozen");
        if frozen {
            fs::create_dir_all(&self.work)?;
            File::create(&flag)?.sync_all()?;
            return File::open(&self.work)?.sync_all();
        }
        match fs::remove_file(flag) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the container was stopped with its state and has not run since.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.work.join("frozen").exists()
    }

    /// Removes all of it.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.work);
    }

    /// The first errors in a log; `None` if there is no log or nothing in it.
    #[must_use]
    pub fn reason(&self, log: Log) -> Option<String> {
        let mut file = File::open(self.log(log)).ok()?;
        let size = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LOG_MAX))).ok()?;
        let mut bytes = Vec::new();
        file.take(LOG_MAX).read_to_end(&mut bytes).ok()?;
        reason(&String::from_utf8_lossy(&bytes))
    }

    fn log(&self, log: Log) -> PathBuf {
        self.work.join(match log {
            Log::Dump => "dump.log",
            Log::Restore => "restore.log",
        })
    }
}

/// The first errors, without time stamps and places in CRIU's source.
fn reason(log: &str) -> Option<String> {
    let errors = log.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
    // Every container has the one about rlimit without CAP_SYS_RESOURCE; it is not why anything fails.
    let telling = |text: &&str| !text.is_empty() && !text.starts_with("rlimit: Can't setup");
    let mut texts: Vec<&str> = errors.map(|(_, text)| text.trim()).filter(telling).collect();
    texts.dedup();
    texts.truncate(REASON_LINES);
    (!texts.is_empty()).then(|| texts.join("; ").chars().filter(|c| !c.is_control()).take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_errors_of_the_log() {
        let log = "(00.000001) Version: 4.2\n(00.1) Error (criu/rlimit.c:1): rlimit: Can't setup RLIMIT_NOFILE for 7\n\
            (00.2) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.\n\
            (00.2) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.\n\
            (00.3) Error (criu/cr-dump.c:1): Dump files (pid: 7) failed with -1\n\
            (00.4) Error (criu/cr-dump.c:2): Dumping FAILED.\n";
        let expected =
            "inet: Connected TCP socket, consider using --tcp-established option.; Dump files (pid: 7) failed with -1";
        assert_eq!(reason(log).as_deref(), Some(expected));
        assert_eq!(reason("(00.1) all is well\n"), None);
    }

    #[test]
    fn a_container_is_frozen_until_it_runs_or_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::of(state.path(), ContainerId([1; 16]));
        assert!(!files.is_frozen());
        files.set_frozen(false).unwrap();
        files.set_frozen(true).unwrap();
        assert!(Files::of(state.path(), ContainerId([1; 16])).is_frozen());
        files.set_frozen(false).unwrap();
        assert!(!files.is_frozen());
        files.set_frozen(true).unwrap();
        files.remove();
        assert!(!files.is_frozen());
    }

    #[test]
    fn an_earlier_reason_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::of(state.path(), ContainerId([1; 16]));
        files.write(state.path()).unwrap();
        fs::write(files.log(Log::Dump), "(1) Error (x:1): old\n").unwrap();
        assert_eq!(files.reason(Log::Dump).as_deref(), Some("old"));
        files.clear(Log::Dump);
        assert_eq!(files.reason(Log::Dump), None);
    }

    #[test]
    fn the_options_name_the_folder_of_images() {
        let state = tempfile::tempdir().unwrap();
        let files = Files::of(state.path(), ContainerId([1; 16]));
        files.write(state.path()).unwrap();
        let written = fs::read_to_string(&files.config).unwrap();
        assert!(written.contains(&format!("work-dir {}\n", files.work.display())), "{written}");
        assert!(written.ends_with(&format!("images-dir {}\n", state.path().display())), "{written}");

        let spaced = state.path().join("a b");
        fs::create_dir(&spaced).unwrap();
        assert_eq!(files.write(&spaced).unwrap_err().kind(), std::io::ErrorKind::InvalidFilename);
        assert_eq!(files.write(&state.path().join("absent")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
