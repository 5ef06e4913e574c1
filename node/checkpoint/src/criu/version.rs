//! Which CRIU there is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Error;
use super::conversation::Answer;
use super::rpc::{Kind, Request};
use super::worker::{Inherit, Worker};

/// The least version with which all of this works: older ones fail on kernels from 6.16 on.
pub const MIN_VERSION: Version = Version { major: 4, minor: 2, sublevel: 0 };

/// A version of CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 4 of 4.2.1.
    pub major: u32,
    /// 2 of 4.2.1.
    pub minor: u32,
    /// 1 of 4.2.1; 0 of 4.2.
    pub sublevel: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 { write!(f, ".{}", self.sublevel) } else { Ok(()) }
    }
}

/// CRIU's program.
#[derive(Clone, Debug)]
pub struct Criu {
    program: PathBuf,
    network: Option<PathBuf>,
}

impl Criu {
    /// The program at this path, or of this name in `PATH`. Nothing is tried yet: see [`version`](Self::version).
    #[must_use]
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), network: None }
    }

    /// To be run in this network namespace, a path such as `/proc/PID/ns/net`. What CRIU shares with the tasks it neither
    /// captures nor makes: of a network namespace of their own it captures the connection tracking, even if the rest is
    /// external, which takes 20 ms where the kernel has to look for a module for it.
    #[must_use]
    pub fn in_network(self, namespace: impl Into<PathBuf>) -> Self {
        Self { network: Some(namespace.into()), ..self }
    }

    /// The network namespace that it is run in, if not this process's.
    #[must_use]
    pub fn network(&self) -> Option<&Path> {
        self.network.as_deref()
    }

    /// Its path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks for its version.
    ///
    /// # Errors
    /// [`Error::TooOld`] below [`MIN_VERSION`], or that it does not answer in its RPC.
    pub fn version(&self, deadline: Instant) -> Result<Version, Error> {
        const ACTION: &str = "tell its version";
        let mut worker = self.worker(Vec::new())?;
        worker.send(ACTION, &Request { kind: Kind::Version.into(), ..Request::default() })?;
        let found = match worker.answer(ACTION, deadline)? {
            Answer::Done(response) => response.version,
            Answer::Notified { .. } => None,
        };
        let Some(found) = found else { return Err(Error::Garbled { what: "no version".into() }) };
        let number = |part: i32| u32::try_from(part).unwrap_or(0);
        let found = Version {
            major: number(found.major_number),
            minor: number(found.minor_number),
            sublevel: number(found.sublevel.unwrap_or(0)),
        };
        if found < MIN_VERSION { Err(Error::TooOld { found }) } else { Ok(found) }
    }

    /// Starts a CRIU that waits for its one request, so that its start is no part of anyone's downtime. For a restore,
    /// `inherit` names the descriptors that stand for external resources, and the caller may move
    /// [the process](Worker::pid) into cgroups first: the restored tasks inherit them.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn worker(&self, inherit: Vec<Inherit>) -> Result<Worker, Error> {
        Worker::start(&self.program, self.network.as_deref(), inherit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_criu_numbers_them() {
        let version = |major, minor, sublevel| Version { major, minor, sublevel };
        for (older, newer) in [((3, 19, 0), (4, 0, 0)), ((4, 1, 1), (4, 2, 0)), ((4, 2, 0), (4, 2, 1))] {
            assert!(version(older.0, older.1, older.2) < version(newer.0, newer.1, newer.2));
        }
        assert!(version(4, 1, 1) < MIN_VERSION && version(4, 2, 0) >= MIN_VERSION);
        assert_eq!(version(4, 2, 0).to_string(), "4.2");
        assert_eq!(version(4, 2, 1).to_string(), "4.2.1");
    }
}
