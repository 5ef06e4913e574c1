//! A ledger that is damaged: moved aside, so that the site fetches it again, and what a validator must not do after that.
//!
//! A validator that lost its ledger or its write-ahead log does not remember what it said in consensus. When it lost them is
//! kept in a file of its own, [`FORGOT`]: the replica does not vote before it has followed a block that was built later.
//!
//! Invariant: the file is on disk before anything is moved, and nothing is ever deleted.

use std::io;
use std::path::{Path, PathBuf};

use godwit_ledger::wal::replace;
use godwit_protocol::Time;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::run::{LEDGER, WAL};

/// In the data folder: when this site lost what it had said, in ms since 1970.
pub const FORGOT: &str = "forgot";

/// In the data folder: what was moved aside, a folder each time.
pub const ASIDE: &str = "aside";

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the damaged files are now; none if there were none.
    pub aside: Option<PathBuf>,
    /// The site does not vote on blocks that may have been built before this.
    pub since: Time,
}

/// Why a ledger cannot be moved aside, or a site does not know since when it must not vote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever has it open goes on voting by it.
    #[error("the ledger in {0} is in use by another process")]
    Running(PathBuf),
    /// The operating system says no.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Not a time.
    #[error("{0} does not say when this site lost its ledger")]
    NoTime(PathBuf),
}

/// When this site lost what it had said, if it ever did.
///
/// # Errors
/// [`Error::NoTime`], [`Error::Io`]: then it must not vote at all.
pub fn forgot(data: &Path) -> Result<Option<Time>, Error> {
    let path = data.join(FORGOT);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(|ms| Some(Time(ms))).map_err(|_| Error::NoTime(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { operation: "read", path, source }),
    }
}

/// Moves ledger and write-ahead log aside, at `now` by this site's clock. Without any, the site only does not vote.
///
/// # Errors
/// [`Error`]. Run again, it goes on where it stopped.
pub fn rebuild(data: &Path, now: Time) -> Result<Rebuilt, Error> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { operation, path, source }
    };
    std::fs::create_dir_all(data).map_err(failed("make", data))?;
    let ledger = data.join(LEDGER);
    if is_locked(&ledger.join("LOCK")).map_err(failed("look at the lock of", &ledger))? {
        return Err(Error::Running(ledger));
    }
    let since = forgot(data)?.map_or(now, |before| before.max(now));
    let mark = data.join(FORGOT);
    replace(&mark, format!("{}\n", since.0).as_bytes()).map_err(|error| failed("write", &mark)(error.source))?;
    let present: Vec<&str> = [LEDGER, WAL].into_iter().filter(|name| data.join(name).exists()).collect();
    if present.is_empty() {
        return Ok(Rebuilt { aside: None, since });
    }
    let aside = data.join(ASIDE).join(now.0.to_string());
    std::fs::create_dir_all(&aside).map_err(failed("make", &aside))?;
    // The log goes last: a ledger without one is refused, a log without a ledger is an old one.
    for name in present {
        let from = data.join(name);
        std::fs::rename(&from, aside.join(name)).map_err(failed("move aside", &from))?;
    }
    for folder in [&aside, data] {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))?;
    }
    Ok(Rebuilt { aside: Some(aside), since })
}

/// Whether another process holds the database's lock.
fn is_locked(lock: &Path) -> io::Result<bool> {
    let file = match std::fs::File::options().read(true).write(true).open(lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).unwrap_or_default();
    let mut asked =
        libc::flock { l_type: kind(libc::F_WRLCK), l_whence: kind(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_GETLK(&mut asked))?;
    Ok(asked.l_type != kind(libc::F_UNLCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn filled() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join(LEDGER)).unwrap();
        fs::write(data.path().join(LEDGER).join("LOCK"), "").unwrap();
        fs::write(data.path().join(WAL), "what was said").unwrap();
        fs::write(data.path().join("journal"), "promises").unwrap();
        data
    }

    #[test]
    fn what_is_damaged_is_moved_and_the_time_remembered() {
        let data = filled();
        assert_eq!(forgot(data.path()).unwrap(), None);
        let rebuilt = rebuild(data.path(), Time(1000)).unwrap();
        let aside = rebuilt.aside.unwrap();
        assert!(aside.join(LEDGER).is_dir() && !data.path().join(LEDGER).exists());
        assert_eq!(fs::read_to_string(aside.join(WAL)).unwrap(), "what was said");
        assert!(data.path().join("journal").exists(), "promises are another matter");
        assert_eq!((rebuilt.since, forgot(data.path()).unwrap()), (Time(1000), Some(Time(1000))));
    }

    #[test]
    fn a_site_without_a_ledger_only_remembers_and_never_an_earlier_time() {
        let data = tempfile::tempdir().unwrap();
        for (now, since) in [(1000, 1000), (900, 1000), (1100, 1100)] {
            let rebuilt = rebuild(data.path(), Time(now)).unwrap();
            assert_eq!(rebuilt, Rebuilt { aside: None, since: Time(since) });
            assert_eq!(forgot(data.path()).unwrap(), Some(Time(since)));
        }
    }

    #[test]
    fn a_mark_that_says_no_time_is_refused() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join(FORGOT), "yesterday").unwrap();
        assert!(matches!(forgot(data.path()), Err(Error::NoTime(_))));
        assert!(matches!(rebuild(data.path(), Time(1)), Err(Error::NoTime(_))));
    }
}
