//! The one thing that is ours: a container that is prepared now, restored when its images come, and runs when it may.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use godwit_checkpoint::criu::{Criu, HeldRestore, Inherit, Restore, Worker};
use oci_spec::runtime::Spec;

use crate::arguments::Asked;
use crate::external::{Seen, Unseen};
use crate::holder::{self, Holder};
use crate::link::{Broken, Link, Order, Said};
use crate::mounts::{self, Mounts};
use crate::{MOUNTS, PATIENCE, SOCKET, state};

/// CRIU restores a large container without its memory in well under a second, on a busy machine in several; after this
/// something hangs, such as a source that does not send a page that CRIU itself touches.
const RESTORING: Duration = Duration::from_secs(15);

/// The last steps of a restore.
const RELEASING: Duration = Duration::from_secs(10);

/// It does not run, and will not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of runc.
    #[error("prepare")]
    Prepare(#[from] holder::Error),
    /// Of the holder.
    #[error(transparent)]
    Unseen(#[from] Unseen),
    /// In memory.
    #[error(transparent)]
    Mount(#[from] mounts::Error),
    /// A step of ours.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// Of CRIU.
    #[error(transparent)]
    Criu(#[from] godwit_checkpoint::criu::Error),
    /// The site is gone, or speaks another language.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The site wants no copy here.
    #[error("called off by the site")]
    Cancelled,
    /// Something else was due.
    #[error("the site ordered `{0}`, which is not due")]
    Disorder(&'static str),
    /// It runs, and the engine will never see it as its own.
    #[error("the container runs as process {0}, and its engine cannot be told")]
    Estranged(i32, #[source] state::Error),
}

impl Error {
    /// What failed and why, down to the cause.
    #[must_use]
    pub fn chain(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

/// Prepares the container, waits for its images, restores it, waits until it may run, and hands it to the engine.
///
/// # Errors
/// [`Error`]: no copy runs here, but for [`Error::Estranged`].
pub fn restore(asked: &Asked, spec: &Spec, handoff: &Path) -> Result<(), Error> {
    let mut site = Site { path: handoff.join(SOCKET), link: None };
    let ran = run(asked, spec, handoff, &mut site);
    if let Err(error) = &ran {
        // Nobody may listen any more.
        let _ = site.tell(&Said::Failed { why: error.chain() });
    }
    ran
}

fn run(asked: &Asked, spec: &Spec, handoff: &Path, site: &mut Site) -> Result<(), Error> {
    let holder = Holder::create(asked)?;
    let seen = Seen::by(holder.pid)?;
    let below = handoff.join(MOUNTS);
    let mounts = Mounts::make(&seen.tmpfs(), &below, holder.pid)?;
    let network = PathBuf::from(format!("/proc/{}/ns/net", holder.pid));
    let stands = Said::Prepared { container: asked.id.clone(), holder: holder.pid };
    let stdio = match site.order(&stands, Some(PATIENCE))? {
        Order::Expect { stdio } => stdio,
        other => return Err(not_due(&other)),
    };
    let worker = start(&seen, &network, &stdio)?;
    let external = seen.prepared(spec, &below).into_iter().map(|(key, path)| format!("mnt[{key}]:{path}")).collect();
    let images = match site.order(&Said::Ready { holder: holder.pid }, Some(PATIENCE))? {
        Order::Restore(images) => images,
        other => return Err(not_due(&other)),
    };
    let restore = Restore {
        images: images.folder,
        work: images.work,
        root: Some(root_of(asked, spec)),
        lazy: images.lazy,
        external,
    };
    let held = worker.restore(&restore, Instant::now() + RESTORING)?;
    let root = held.tree().pids().next().unwrap_or(0);
    let pid = match site.order(&Said::Held { pid: root }, None)? {
        Order::Release => release(held)?,
        other => {
            held.cancel(Instant::now() + RELEASING)?;
            return Err(not_due(&other));
        }
    };
    // First of all, for packets wait for it; and it runs whether the site still listens or not.
    let _ = site.tell(&Said::Running { pid });
    state::adopt(&asked.root, &asked.id, pid).map_err(|error| Error::Estranged(pid, error))?;
    holder.hand_over();
    drop(mounts);
    announce(&asked.pid_file, pid).map_err(|error| Error::Io("write the engine's pid file", error))
}

fn not_due(order: &Order) -> Error {
    match order {
        Order::Cancel => Error::Cancelled,
        other => Error::Disorder(other.name()),
    }
}

/// Starts CRIU in the container's cgroups and network, ahead of time: to get there takes up to 20 ms.
fn start(seen: &Seen, network: &Path, stdio: &[String; 3]) -> Result<Worker, Error> {
    let mut inherit = Vec::new();
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for (key, fd) in stdio.iter().zip([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) {
        // Files are found by their path; pipes are the engine's.
        if key.starts_with("pipe:") {
            let fd = fd.try_clone_to_owned().map_err(|error| Error::Io("keep a standard stream", error))?;
            inherit.push(Inherit { key: key.clone(), fd });
        }
    }
    let worker = Criu::at("criu").in_network(network).worker(inherit)?;
    for cgroup in seen.cgroups() {
        let procs = cgroup.join("cgroup.procs");
        fs::write(procs, worker.pid().to_string()).map_err(|error| Error::Io("enter the container's cgroup", error))?;
    }
    Ok(worker)
}

fn release(held: HeldRestore) -> Result<i32, Error> {
    let pid = held.release(Instant::now() + RELEASING)?;
    i32::try_from(pid).map_err(|_| Error::Io("a process id", io::ErrorKind::InvalidData.into()))
}

/// The root file system, which runc's record gives relative to the bundle.
fn root_of(asked: &Asked, spec: &Spec) -> PathBuf {
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path().as_path());
    asked.bundle.join(root)
}

/// Written whole or not at all: the engine reads it as soon as it is there.
fn announce(path: &Path, pid: i32) -> io::Result<()> {
    let new = path.with_extension("new");
    OpenOptions::new().write(true).create(true).truncate(true).open(&new)?.write_all(pid.to_string().as_bytes())?;
    fs::rename(new, path)
}

/// The site, called again whenever it was away.
struct Site {
    path: PathBuf,
    link: Option<Link>,
}

impl Site {
    /// Says where things stand, and waits for what to do.
    fn order(&mut self, stands: &Said, patience: Option<Duration>) -> Result<Order, Broken> {
        let until = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Broken::Silent(self.path.clone(), io::ErrorKind::TimedOut.into()));
            }
            let mut link = match self.link.take() {
                Some(link) => link,
                None => Link::call(&self.path, left)?,
            };
            match link.say(stands).and_then(|()| link.hear(left)) {
                Ok(order) => {
                    self.link = Some(link);
                    return Ok(order);
                }
                // It is away, and may come back.
                Err(Broken::Silent(..)) => {}
                Err(strange) => return Err(strange),
            }
        }
    }

    fn tell(&mut self, said: &Said) -> Result<(), Broken> {
        match &mut self.link {
            Some(link) => link.say(said),
            None => Link::call(&self.path, Some(Duration::ZERO))?.say(said),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_site_that_listens_and_says_nothing_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(SOCKET);
        let _listens = UnixListener::bind(&path).expect("binds");
        let mut site = Site { path, link: None };
        for _ in 0..2 {
            let ordered = site.order(&Said::Ready { holder: 1 }, Some(Duration::from_millis(50)));
            assert!(matches!(ordered, Err(Broken::Silent(..))), "{ordered:?}");
        }
    }
}
