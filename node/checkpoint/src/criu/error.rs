//! What can go wrong between us and CRIU.

use std::io;
use std::path::PathBuf;

use super::version::{MIN_VERSION, Version};

/// Why CRIU, or a call to it, failed. Unless a variant says otherwise, the source of a dump runs on, and of a restore nothing
/// is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program could not be started.
    #[error("start {program}: install CRIU {MIN_VERSION} or newer, or name its path", program = program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another CRIU than we can work with.
    #[error("CRIU {found} is too old: {MIN_VERSION} or newer is needed, for older ones fail on Linux 6.16 and later")]
    TooOld {
        /// What it says it is.
        found: Version,
    },
    /// A folder for images or logs could not be opened.
    #[error("open the folder {folder}", folder = folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path or a name that CRIU's RPC cannot carry.
    #[error("CRIU's RPC carries UTF-8 only: {path}", path = path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The conversation broke off.
    #[error("CRIU broke off while it was to {action}: {reason}")]
    Gone {
        /// What it was doing.
        action: &'static str,
        /// Lines of its log, or what little is known.
        reason: String,
    },
    /// A system call of ours failed.
    #[error("{action}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// CRIU says something that is not part of its RPC.
    #[error("CRIU's answer is none of its RPC's: {what}")]
    Garbled {
        /// What it said.
        what: String,
    },
    /// CRIU tried and failed.
    #[error("CRIU could not {action}: {reason}")]
    Refused {
        /// What it was to do.
        action: &'static str,
        /// Lines of its log.
        reason: String,
    },
    /// The deadline passed; CRIU was ended.
    #[error("CRIU took too long to {action} and was ended: {reason}")]
    Late {
        /// What it was to do.
        action: &'static str,
        /// Lines of its log.
        reason: String,
    },
    /// The process tree could not be read.
    #[error("list the processes below {pid}: {reason}")]
    Tree {
        /// The root of the tree.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// What was killed is not gone yet: it hangs in the kernel. Asking again is right.
    #[error("killed, but not gone by the deadline: processes {pids:?}")]
    Alive {
        /// They.
        pids: Vec<i32>,
    },
    /// A holder cannot listen.
    #[error("listen at {socket}", socket = socket.display())]
    Listen {
        /// Where.
        socket: PathBuf,
        /// Why not; `AddrInUse`: another holder does.
        #[source]
        source: io::Error,
    },
    /// The holder does not answer. Of a held dump the tasks stand: see [`Tree`](super::Tree).
    #[error("the holder at {socket} does not answer", socket = socket.display())]
    HolderSilent {
        /// Where it listens.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The holder says why it did not do what it was asked to.
    #[error("{reason}")]
    Holder {
        /// The error that it met.
        reason: String,
    },
}

impl Error {
    /// For a system call that failed.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}
