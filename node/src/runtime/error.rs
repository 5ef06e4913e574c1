//! What goes wrong with an engine: which operation, on which container, why, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_protocol::{Address, ContainerId, ImageId};

use super::layer::LayerError;
use super::spec::BadSpec;

/// An operation that failed. Its text includes the cause's; [`std::error::Error::source`] goes on from there.
#[derive(Debug)]
pub struct Error {
    /// Which operation, as a verb.
    pub operation: &'static str,
    /// On which container, if it was about one.
    pub container: Option<ContainerId>,
    /// Why.
    pub cause: Cause,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named by the messages
pub enum Cause {
    #[error("the engine refuses: {0}")]
    Engine(#[source] bollard::errors::Error),
    #[error("the engine does not answer at {}", .0.display())]
    Unreachable(PathBuf, #[source] bollard::errors::Error),
    #[error("no end after {0:?}; what it has done is unknown")]
    Deadline(Duration),
    #[error("the engine has no such container")]
    Absent,
    #[error("it does not run")]
    NotRunning,
    #[error("it runs")]
    StillRunning,
    #[error("it ran here and ended with code {code}")]
    AlreadyRan { code: i64 },
    #[error("it was frozen for a handoff and may run elsewhere: from its beginning it would be a second copy")]
    Frozen,
    #[error("it is here already, created from something else")]
    Occupied,
    #[error("CRIU refuses: {reason}")]
    Criu { reason: String },
    #[error("it was stopped, but its state could not be kept: {reason}")]
    StateLost { reason: String },
    #[error("the image {0} is not here")]
    ImageAbsent(String),
    #[error("the image {reference} cannot be pulled: {reason}")]
    Pull { reference: String, reason: String },
    #[error("the archive is not image {expected} and nothing else: {why}")]
    WrongImage { expected: ImageId, why: String },
    #[error("the specification: {0}")]
    Spec(#[from] BadSpec),
    #[error("the address {0} is already used on this engine")]
    AddressTaken(Address),
    #[error("port {0} is already used on this site")]
    PortTaken(u16),
    #[error("{needed} bytes are needed on {}, {free} are free", path.display())]
    DiskFull { path: PathBuf, needed: u64, free: u64 },
    #[error("the writable layer: {0}")]
    Layer(#[from] LayerError),
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the frozen state in {} is incomplete", .0.display())]
    Incomplete(PathBuf),
    #[error("its state moves in a way this engine does not know: {0}")]
    Unsupported(String),
    #[error("the route to {address}: {reason}")]
    Route { address: Address, reason: String },
    #[error("the mesh's network on this site: {0}")]
    Network(String),
    #[error("the OCI runtime that prepares it here: {reason}")]
    Runtime { reason: String },
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] godwit_checkpoint::criu::Error),
    #[error("its memory, sent ahead: {0}")]
    Ahead(#[from] godwit_checkpoint::precopy::Error),
    #[error("its missing pages: {0}")]
    Pages(String, #[source] Option<godwit_checkpoint::pages::ServiceError>),
    #[error("a worker ended: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl Cause {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// What an operator can do about it, where there is something.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unreachable(..) => {
                "start the engine (systemctl start docker), or set its socket in the configuration"
            }
            Self::Criu { .. } => {
                "godwit doctor checks CRIU; a container that holds what CRIU cannot capture stays where it is"
            }
            Self::ImageAbsent(_) => "load or build the image on this site, or name one that a registry has",
            Self::Pull { .. } => "check the reference and the site's access to the registry, or docker load the image",
            Self::PortTaken(_) => "free the port or deploy with another",
            Self::AddressTaken(_) | Self::Occupied => "godwit ps shows what is here; remove what does not belong",
            Self::Frozen => "end its handoff first; thaw and release know what they do",
            Self::StateLost { .. } => "its memory is gone; godwit can start it from its beginning",
            Self::DiskFull { .. } => "free space: docker system prune, or a larger disk for the engine and godwit",
            Self::Network(_) => "godwit doctor checks the network; it needs root, iptables and ip_forward",
            Self::Route { .. } => {
                "the sites must reach each other without a router in between, and godwit needs CAP_NET_ADMIN"
            }
            _ => return None,
        })
    }
}

impl From<godwit_checkpoint::pages::ServiceError> for Cause {
    fn from(error: godwit_checkpoint::pages::ServiceError) -> Self {
        Self::Pages(crate::api::fault::chain(&error), Some(error))
    }
}

impl From<bollard::errors::Error> for Cause {
    fn from(error: bollard::errors::Error) -> Self {
        match error {
            bollard::errors::Error::DockerResponseServerError { status_code: 404, ref message }
                if message.starts_with("No such container") =>
            {
                Self::Absent
            }
            error => Self::Engine(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.container {
            Some(container) => write!(f, "{} container {}: {}", self.operation, container.short(), self.cause),
            None => write!(f, "{}: {}", self.operation, self.cause),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
