//! The conversation with the site: one line of JSON a message, over a Unix socket on which the site listens.
//!
//! Each connection begins with where the runtime stands: `prepared`, or `ready` or `held` if one before ended after that.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longer than any message: paths have 4 KiB at most.
const LINE_MAX: u64 = 64 * 1024;

/// How often a site that does not listen is looked for.
const AGAIN: Duration = Duration::from_millis(100);

/// What the runtime says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Said {
    /// All that does not depend on the images is there.
    Prepared {
        /// The engine's id of the container.
        container: String,
        /// A process in the container's namespaces, as this host numbers it.
        holder: i32,
    },
    /// CRIU runs in the container's cgroups and waits for the images.
    Ready {
        /// As before.
        holder: i32,
    },
    /// The tasks are restored and have not run an instruction.
    Held {
        /// Their root, as this host numbers it.
        pid: u32,
    },
    /// They run.
    Running {
        /// The init process.
        pid: i32,
    },
    /// It does not run and will not.
    Failed {
        /// Why, in words.
        why: String,
    },
}

/// What the site orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Order {
    /// Be ready for images of a container with these standard streams.
    Expect {
        /// What the descriptors 0, 1 and 2 of the init process are at the source, such as `pipe:[4711]`.
        stdio: [String; 3],
    },
    /// Restore, and hold.
    Restore(Images),
    /// The container is this site's: let it run.
    Release,
    /// End what was prepared or restored.
    Cancel,
}

/// What is to be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// CRIU's images.
    pub folder: PathBuf,
    /// CRIU's logs, and the socket of a page service.
    pub work: PathBuf,
    /// Memory comes later, from the page service.
    pub lazy: bool,
}

impl Order {
    /// As it is called on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Expect { .. } => "expect",
            Self::Restore(_) => "restore",
            Self::Release => "release",
            Self::Cancel => "cancel",
        }
    }
}

/// The conversation broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Nobody listens there, or not any more.
    #[error("the site does not answer at {0}; is godwit running?")]
    Silent(PathBuf, #[source] io::Error),
    /// It is not a message.
    #[error("not a message of this version: {0:.200}")]
    Strange(String, #[source] serde_json::Error),
    /// A message without an end.
    #[error("a message of more than {LINE_MAX} bytes")]
    Long,
}

/// One side of a conversation.
#[derive(Debug)]
pub struct Link {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Link {
    /// Calls the site, for as long as it may take.
    ///
    /// # Errors
    /// [`Broken::Silent`] if nobody listened in all that time; without a limit never.
    pub fn call(path: &Path, patience: Option<Duration>) -> Result<Self, Broken> {
        let since = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Ok(Self::new(stream, path)),
                Err(error) if patience.is_some_and(|patience| since.elapsed() > patience) => {
                    return Err(Broken::Silent(path.to_owned(), error));
                }
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    }

    /// Somebody who has called or was called.
    #[must_use]
    pub fn new(stream: UnixStream, path: &Path) -> Self {
        Self { stream: BufReader::new(stream), path: path.to_owned() }
    }

    /// Says something.
    ///
    /// # Errors
    /// [`Broken::Silent`] if the other side is gone.
    pub fn say<T: Serialize>(&mut self, message: &T) -> Result<(), Broken> {
        let mut line = serde_json::to_vec(message).expect("messages are maps of strings and numbers");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| self.silent(error))
    }

    /// Waits for the other side to say something; for ever, if there is no limit.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn hear<T: DeserializeOwned>(&mut self, patience: Option<Duration>) -> Result<T, Broken> {
        self.stream.get_ref().set_read_timeout(patience).map_err(|error| self.silent(error))?;
        let mut line = String::new();
        let read = Read::by_ref(&mut self.stream).take(LINE_MAX).read_line(&mut line);
        match read.map_err(|error| self.silent(error))? {
            _ if line.ends_with('\n') => serde_json::from_str(&line).map_err(|error| Broken::Strange(line, error)),
            read if read as u64 == LINE_MAX => Err(Broken::Long),
            _ => Err(self.silent(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn silent(&self, error: io::Error) -> Broken {
        Broken::Silent(self.path.clone(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, Link) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Link::new(one, Path::new("one")), Link::new(other, Path::new("other")))
    }

    #[test]
    fn what_is_said_is_heard() {
        let (mut site, mut runtime) = pair();
        let images = Images { folder: "/images".into(), work: "/work".into(), lazy: true };
        let stdio = ["/dev/null".into(), "pipe:[1]".into(), "pipe:[2]".into()];
        for order in [Order::Expect { stdio }, Order::Restore(images), Order::Release, Order::Cancel] {
            site.say(&order).expect("heard");
            assert_eq!(runtime.hear::<Order>(None).expect("said"), order);
        }
        let said = Said::Prepared { container: "4711".into(), holder: 17 };
        runtime.say(&said).expect("heard");
        assert_eq!(site.hear::<Said>(None).expect("said"), said);
    }

    #[test]
    fn silence_nonsense_and_endless_messages_are_told_apart() {
        let (mut site, mut runtime) = pair();
        let heard = runtime.hear::<Order>(Some(Duration::from_millis(1)));
        assert!(matches!(heard, Err(Broken::Silent(..))), "{heard:?}");
        site.say(&"explode").expect("heard");
        assert!(matches!(runtime.hear::<Order>(None), Err(Broken::Strange(..))));
        let long = std::thread::spawn(move || site.say(&"x".repeat(2 * usize::try_from(LINE_MAX).expect("small"))));
        assert!(matches!(runtime.hear::<Order>(None), Err(Broken::Long)));
        drop(runtime);
        // The writer finds that nobody listens, or had written it all before.
        let _ = long.join().expect("it ends");
        let (site, mut runtime) = pair();
        drop(site);
        assert!(matches!(runtime.hear::<Order>(None), Err(Broken::Silent(..))));
    }

    #[test]
    fn a_site_that_listens_later_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(crate::SOCKET);
        assert!(matches!(Link::call(&path, Some(Duration::ZERO)), Err(Broken::Silent(..))));
        let at = path.clone();
        let caller = std::thread::spawn(move || Link::call(&at, None));
        std::thread::sleep(2 * AGAIN);
        let _listens = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        assert!(caller.join().expect("it ends").is_ok());
    }
}
