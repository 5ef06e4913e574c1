//! What a command can fail with, and how it is told.

use std::io;
use std::path::PathBuf;

use godwit_protocol::Malformed;

use super::client::ApiError;
use crate::api::fault::chain;
use crate::config::BadConfig;
use crate::genesis::BadGenesisFile;
use crate::key::BadKey;

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A request to the site.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// A key file.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// A genesis file.
    #[error(transparent)]
    Genesis(#[from] BadGenesisFile),
    /// A value too large for the wire.
    #[error("encode {what}")]
    Encode {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// Files, terminal, operating system.
    #[error("{what}")]
    Io {
        /// The operation.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or line is not what it should be.
    #[error("{what}: {reason}")]
    Input {
        /// Which.
        what: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The work was done and its result is bad: a failed check, a ledger that does not verify, a handoff that ended.
    #[error("{0}")]
    Verdict(String),
    /// Another part of the program failed.
    #[error("{what}")]
    Part {
        /// The operation.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What to do.
        remedy: Option<String>,
    },
}

impl Failure {
    /// A failure of reading or writing a file.
    pub fn file(operation: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{operation} {}", path.into().display());
        move |source| Self::Io { what, source }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.remedy(),
            Self::Config(error) => Some(error.remedy()),
            Self::Key(error) => Some(error.remedy()),
            Self::Genesis(error) => Some(error.remedy()),
            Self::Input { remedy, .. } => Some(remedy.clone()),
            Self::Part { remedy, .. } => remedy.clone(),
            Self::Encode { .. } | Self::Io { .. } | Self::Verdict(_) => None,
        }
    }

    /// As it is printed to standard error.
    #[must_use]
    pub fn text(&self, json: bool) -> String {
        let (error, remedy) = (chain(self), self.remedy());
        if json {
            return serde_json::json!({ "error": error, "remedy": remedy }).to_string();
        }
        let label = console::style("error:").red().bold().for_stderr();
        match remedy {
            Some(remedy) => format!("{label} {error}\n       {remedy}"),
            None => format!("{label} {error}"),
        }
    }

    /// Whether the reader of our output has gone.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
