//! The source's side of a move, below any engine: a container's processes are captured and held, their memory is read where
//! it lies, and they are let go or ended.
//!
//! Who holds them is a process of its own ([`holder`](godwit_checkpoint::criu::holder)): nobody's death lets them run. Its
//! socket in the container's [`Place`] is how a site that was restarted finds it again.
//!
//! All calls block.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use godwit_checkpoint::criu::holder::{Holder, Status};
use godwit_checkpoint::criu::{Criu, Dump, Error, Tree};
use godwit_checkpoint::pages::{Connection, Server};
use godwit_checkpoint::precopy;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{Cause, helper};

/// A helper listens within milliseconds; on a machine that is busy with everything else, within seconds.
const STARTING: Duration = Duration::from_secs(10);

/// Capturing takes tens of milliseconds; a container that cannot be captured by then goes on.
const CAPTURING: Duration = Duration::from_secs(10);

/// Ending or letting go.
const SETTLING: Duration = Duration::from_secs(10);

/// The first process of a container: its number, and when it was started, which tells it from another that was given the
/// number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// As this machine numbers it.
    pub pid: u32,
    /// In clock ticks since the machine was started.
    pub started: u64,
}

impl Init {
    /// Of a process that runs.
    ///
    /// # Errors
    /// [`Cause::NotRunning`].
    pub fn of(pid: u32) -> Result<Self, Cause> {
        let started = Tree::of(pid).and_then(|tree| tree.started()).map_err(|_| Cause::NotRunning)?;
        Ok(Self { pid, started })
    }

    fn tree(self) -> Option<Tree> {
        Tree::again(self.pid, self.started).ok()
    }
}

/// A holder with a CRIU that waits for its request.
#[derive(Debug)]
pub struct Departure {
    holder: Holder,
}

impl Departure {
    /// Starts both, CRIU in the container's network, while the container runs.
    ///
    /// # Errors
    /// [`Cause::Frozen`] if a dump of this container is held already; [`Cause::Checkpoint`] if one of them does not start.
    pub fn ready(place: &Place, criu: &Path, init: Init) -> Result<Self, Cause> {
        place.make()?;
        let socket = place.holder();
        if let Ok(mut holder) = Holder::connect(&socket) {
            match holder.status(soon(SETTLING))? {
                Status::Held { .. } | Status::Killed { .. } => return Err(Cause::Frozen),
                Status::Idle | Status::Committed | Status::Aborted => holder.quit(soon(SETTLING))?,
            }
        }
        let criu = Criu::at(criu).in_network(format!("/proc/{}/ns/net", init.pid));
        let holder = Holder::start(helper::hold(&socket), &socket, &criu, soon(STARTING))?;
        Ok(Self { holder })
    }

    /// Captures the container and holds it: it stands when this returns, and its images are complete but for its memory.
    ///
    /// # Errors
    /// [`Cause::Criu`] says what cannot be captured; the container runs on.
    pub fn capture(mut self, dump: &Dump) -> Result<(), Cause> {
        match self.holder.dump(dump, soon(CAPTURING)) {
            Ok(_) => Ok(()),
            Err(Error::Holder { reason }) => {
                let _ = self.holder.quit(soon(SETTLING));
                Err(Cause::Criu { reason })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the container is captured and held.
#[must_use]
pub fn is_held(place: &Place) -> bool {
    let status = Holder::connect(&place.holder()).and_then(|mut holder| holder.status(soon(SETTLING)));
    matches!(status, Ok(Status::Held { .. } | Status::Killed { .. }))
}

/// Lets a container run on that may be held; nothing to do if it is not.
///
/// # Errors
/// [`Cause::StateLost`] if its processes are gone.
pub fn let_go(place: &Place, init: Init) -> Result<(), Cause> {
    if let Ok(mut holder) = Holder::connect(&place.holder()) {
        // A holder that is still capturing answers when it has.
        match holder.status(soon(CAPTURING + SETTLING))? {
            Status::Held { .. } => {
                if let Err(error) = holder.abort(soon(SETTLING)) {
                    // It runs nevertheless.
                    tracing::warn!(%error, "a container that was let go is not quite as it was");
                }
            }
            Status::Idle | Status::Aborted => {}
            Status::Killed { .. } | Status::Committed => return Err(lost("it was ended here")),
        }
        holder.quit(soon(SETTLING))?;
        return init.tree().map(drop).ok_or_else(|| lost("it has ended while it was held"));
    }
    // The holder has died: what it held stands stopped by signals.
    let tree = init.tree().ok_or_else(|| lost("its processes are gone, as after a restart of the machine"))?;
    if let Err(error) = tree.recover() {
        tracing::warn!(%error, "a container that was let go is not quite as it was");
    }
    Ok(())
}

/// Ends a container that goes on elsewhere; nothing to do if it has ended.
///
/// # Errors
/// [`Cause::Checkpoint`] if it hangs in the kernel: right to ask again.
pub fn end(place: &Place, init: Init) -> Result<(), Cause> {
    if let Ok(mut holder) = Holder::connect(&place.holder()) {
        if let Status::Held { .. } | Status::Killed { .. } = holder.status(soon(SETTLING))? {
            holder.commit(soon(SETTLING))?;
        }
        return Ok(holder.quit(soon(SETTLING))?);
    }
    if let Some(tree) = init.tree() {
        tree.kill();
        tree.wait(soon(SETTLING))?;
    }
    Ok(())
}

/// A stream on which the memory of a held container is served, by a thread of its own, until the other side hangs up.
///
/// # Errors
/// [`Cause::NotRunning`] if its processes are gone.
pub fn pages(init: Init) -> Result<UnixStream, Cause> {
    let tree = init.tree().ok_or(Cause::NotRunning)?;
    let number = |pid: u32| i32::try_from(pid).map_err(|_| Cause::NotRunning);
    let tasks = tree.image_pids()?.into_iter().map(|(image, pid)| Ok((number(image)?, Pid::from_raw(number(pid)?))));
    let server = Server::new(tasks.collect::<Result<Vec<_>, Cause>>()?);
    let (ours, theirs) = UnixStream::pair().map_err(Cause::io("make a socket for pages of", Path::new("/proc")))?;
    let connection = Connection::unix(theirs).map_err(Cause::io("share a socket for pages of", Path::new("/proc")))?;
    let serve = move || match server.serve(connection) {
        Ok(ending) => tracing::debug!(?ending, "pages.served"),
        Err(error) => tracing::warn!(error = crate::api::fault::chain(&error), "pages cannot be served"),
    };
    let started = std::thread::Builder::new().name("pages-source".into()).spawn(serve);
    started.map_err(Cause::io("start a thread for pages of", Path::new("/proc")))?;
    Ok(ours)
}

/// A stream on which the memory of a running container is sent ahead; the sender is to be told before it is frozen.
///
/// # Errors
/// [`Cause::Ahead`].
pub fn ahead(init: Init) -> Result<(UnixStream, precopy::Sender), Cause> {
    let root = i32::try_from(init.pid).map_err(|_| Cause::NotRunning)?;
    let (ours, theirs) = UnixStream::pair().map_err(Cause::io("make a socket for pages of", Path::new("/proc")))?;
    let connection = Connection::unix(theirs).map_err(Cause::io("share a socket for pages of", Path::new("/proc")))?;
    Ok((ours, precopy::Sender::start(root, connection, precopy::Options::default())?))
}

/// The three standard streams of a process, as CRIU names them.
///
/// # Errors
/// What `/proc` says.
pub fn stdio(init: Init) -> io::Result<[String; 3]> {
    let stream = |number: u32| std::fs::read_link(format!("/proc/{}/fd/{number}", init.pid));
    let name = |number| stream(number).map(|path| path.display().to_string());
    Ok([name(0)?, name(1)?, name(2)?])
}

fn soon(within: Duration) -> Instant {
    Instant::now() + within
}

fn lost(reason: &str) -> Cause {
    Cause::StateLost { reason: reason.into() }
}
