//! The target's side of a move, below any engine: a container that is prepared waits in our OCI runtime, is restored and
//! held when its images are here, runs when it may, and is given the pages that it lacks.
//!
//! The runtime's process waits inside the engine's call, and a guard's process holds what lacks pages: both outlive the
//! site's and are found again by their sockets in the container's [`Place`].
//!
//! All calls block, each within its deadline.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_checkpoint::pages::{self, Connection, MemoryStore, Progress, Service, Store};
use godwit_oci::SOCKET;
use godwit_oci::link::{Images, Link, Order, Said};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::place::Place;
use super::{Cause, helper};

/// The engine makes namespaces, network and mounts: half a second, on a busy machine many.
const PREPARING: Duration = Duration::from_secs(60);

/// A runtime that waits calls again ten times a second.
const CALLING: Duration = Duration::from_secs(3);

/// Restoring takes tens of milliseconds; the runtime itself gives up after 15 s.
const RESTORING: Duration = Duration::from_secs(25);

/// The last steps of a restore; the runtime itself gives up after ten seconds.
const RELEASING: Duration = Duration::from_secs(20);

/// From the preparation until the images are here: the runtime waits as long.
const GUARD_RESTORE: Duration = Duration::from_secs(3600);

/// A site that was ended is back by then, or its container lacks pages that nobody will ever bring.
const GUARD_PATIENCE: Duration = Duration::from_secs(600);

/// A guard listens within milliseconds; on a machine that is busy with everything else, within seconds.
const ATTACHING: Duration = Duration::from_secs(10);

/// A source that lives sends something twice a second.
const STALE: Duration = Duration::from_secs(2);

/// After this the container is stopped until its source is back: half a state serves nobody.
const SILENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether all pages are here.
const LOOK: Duration = Duration::from_millis(20);

/// A container on its way in.
pub struct Arrival {
    place: Place,
    listener: UnixListener,
    link: Mutex<Option<(Link, Said)>>,
    service: Mutex<Option<Service>>,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What the source says while the container runs here and lacks pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is silent: the container should stand until it is back.
    SourceSilent,
    /// It is back.
    SourceBack,
}

impl Arrival {
    /// Listens for the runtime, which may be waiting since an earlier life of this site.
    ///
    /// # Errors
    /// [`Cause::Io`].
    pub fn open(place: Place) -> Result<Self, Cause> {
        place.make()?;
        let path = place.root().join(SOCKET);
        let listen = || {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(Cause::io("listen at", &path))?;
        Ok(Self { place, listener, link: Mutex::default(), service: Mutex::default() })
    }

    /// Waits until the container is prepared as far as it can be without its images. `stdio` names the standard streams that
    /// it had at the source.
    ///
    /// # Errors
    /// [`Cause::Runtime`] with the runtime's words, or without any when the time has passed.
    pub fn expect(&self, stdio: &[String; 3]) -> Result<(), Cause> {
        let mut link = self.link();
        self.meet(&mut link, PREPARING)?;
        if let Some((_, Said::Prepared { .. })) = &*link {
            ask(&mut link, &Order::Expect { stdio: stdio.clone() }, PREPARING)?;
        }
        match &*link {
            // The guard is there before CRIU looks for it.
            Some((_, Said::Ready { .. })) => self.start_guard(),
            Some((_, Said::Held { .. })) => Ok(()),
            _ => Err(out_of_step(&link)),
        }
    }

    /// Whether a runtime waits with this container.
    pub fn is_awaited(&self) -> bool {
        self.meet(&mut self.link(), CALLING).is_ok()
    }

    /// Where the output of the prepared container goes, and its errors: the pipes that its process will have. None once it is
    /// restored.
    ///
    /// # Errors
    /// [`Cause::Io`].
    pub fn output(&self) -> Result<Option<[File; 2]>, Cause> {
        let Some((_, Said::Ready { holder })) = &*self.link() else { return Ok(None) };
        let open = |stream: u8| {
            let path = PathBuf::from(format!("/proc/{holder}/fd/{stream}"));
            OpenOptions::new().write(true).open(&path).map_err(Cause::io("open", &path))
        };
        Ok(Some([open(1)?, open(2)?]))
    }

    /// Restores the container and holds it before its first instruction; nothing to do if that is done. What it lacks is asked
    /// for at the Unix socket `source`, but for what `store` has.
    ///
    /// # Errors
    /// [`Cause::Criu`] with CRIU's reason, [`Cause::Runtime`]: nothing of the restore is left.
    pub fn restore(&self, images: &Path, source: &Path, store: Box<dyn Store>) -> Result<(), Cause> {
        let mut link = self.link();
        self.meet(&mut link, CALLING)?;
        // If the container is held since an earlier life of this site, a service has filled what a store had.
        self.serve(images, source, store)?;
        if let Some((_, Said::Ready { .. })) = &*link {
            let order = Order::Restore(Images { folder: images.to_owned(), work: self.place.work(), lazy: true });
            ask(&mut link, &order, RESTORING).map_err(|cause| match cause {
                Cause::Runtime { reason } => Cause::Criu { reason },
                other => other,
            })?;
        }
        let Some((_, Said::Held { pid })) = &*link else { return Err(out_of_step(&link)) };
        self.protect(*pid)
    }

    /// Lets the restored container run. Whoever calls this has made sure that no other copy does.
    ///
    /// # Errors
    /// [`Cause::Criu`]: it has failed in its last steps and does not run. [`Cause::Deadline`]: it may run.
    pub fn release(&self) -> Result<(), Cause> {
        let mut link = self.link();
        match &*link {
            Some((_, Said::Held { .. })) => {}
            Some((_, Said::Running { .. })) => return Ok(()),
            _ => return Err(out_of_step(&link)),
        }
        match ask(&mut link, &Order::Release, RELEASING) {
            Ok(()) => match &*link {
                Some((_, Said::Running { .. })) => Ok(()),
                _ => Err(out_of_step(&link)),
            },
            Err(Cause::Runtime { reason }) => Err(Cause::Criu { reason }),
            Err(_) => Err(Cause::Deadline(RELEASING)),
        }
    }

    /// Gives the running container what it still lacks, until it lacks nothing; `news` is told of the source.
    ///
    /// # Errors
    /// [`Cause::Pages`]: why pages are missing still. Right to ask again.
    pub fn fill(&self, images: &Path, source: &Path, mut news: impl FnMut(News)) -> Result<Progress, Cause> {
        if self.service().is_none() {
            if !self.place.guard().exists() {
                return Ok(Progress { finished: true, ..Progress::default() });
            }
            self.serve(images, source, Box::new(MemoryStore::default()))?;
        }
        loop {
            let service = self.service();
            let Some(running) = service.as_ref() else { return Err(Cause::Pages("nobody serves them".into(), None)) };
            if running.ended() {
                break;
            }
            let event = running.event(LOOK);
            drop(service);
            match event {
                Some(pages::Event::SourceSilent) => news(News::SourceSilent),
                Some(pages::Event::SourceBack) => news(News::SourceBack),
                Some(pages::Event::ConnectionLost(error)) => {
                    tracing::debug!(%error, "pages.reconnect");
                }
                None => {}
            }
        }
        let ended = self.service().take().map(Service::wait);
        Ok(ended.transpose()?.unwrap_or_default())
    }

    /// Ends what was prepared or restored.
    pub fn cancel(&self) {
        let mut link = self.link();
        if self.meet(&mut link, CALLING).is_ok() {
            // It says that it was called off, or is gone.
            let _ = ask(&mut link, &Order::Cancel, RELEASING);
        }
        drop(link);
        self.give_up();
    }

    /// Nothing of it runs or ever will: ends who guards its pages.
    pub fn give_up(&self) {
        if let Some(service) = self.service().take() {
            service.abandon();
        }
        pages::dismiss(&self.place.guard());
    }

    /// The runtime calls, and says where it stands.
    fn meet(&self, link: &mut Option<(Link, Said)>, patience: Duration) -> Result<(), Cause> {
        if link.is_some() {
            return Ok(());
        }
        let until = Instant::now() + patience;
        loop {
            let stream = self.accept(until)?;
            let mut met = Link::new(stream, &self.place.root().join(SOCKET));
            // One that has hung up meanwhile calls again.
            if let Ok(said) = met.hear::<Said>(Some(CALLING)) {
                *link = Some((met, said));
                return Ok(());
            }
        }
    }

    fn accept(&self, until: Instant) -> Result<UnixStream, Cause> {
        let path = self.place.root().join(SOCKET);
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(Cause::io("talk at", &path))?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Cause::io("listen at", &path)(error)),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Cause::Runtime { reason: "it does not answer".into() });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut waits = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waits, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Cause::io("wait at", &path)(errno.into())),
            }
        }
    }

    fn start_guard(&self) -> Result<(), Cause> {
        if self.place.guard().exists() {
            return Ok(());
        }
        let (criu, control) = (self.place.lazy_pages(), self.place.guard());
        let mut command = helper::guard(&criu, &control, GUARD_RESTORE, GUARD_PATIENCE);
        let mut child = command.spawn().map_err(Cause::io("start a guard at", &control))?;
        let reap = move || drop(child.wait());
        let waits = std::thread::Builder::new().name("guard".into()).spawn(reap);
        waits.map(drop).map_err(Cause::io("wait for the guard at", &control))
    }

    /// Serves pages, unless that is under way.
    fn serve(&self, images: &Path, source: &Path, store: Box<dyn Store>) -> Result<(), Cause> {
        let mut service = self.service();
        if service.as_ref().is_some_and(|service| !service.ended()) {
            return Ok(());
        }
        let source: PathBuf = source.to_owned();
        let options = pages::Options {
            images: images.to_owned(),
            guard: self.place.guard(),
            attach: ATTACHING,
            store,
            connect: Box::new(move || Connection::unix(UnixStream::connect(&source)?)),
            stale: STALE,
            silence: SILENCE,
        };
        *service = Some(Service::start(options)?);
        Ok(())
    }

    /// The container dies rather than read a zero.
    fn protect(&self, pid: u32) -> Result<(), Cause> {
        let root = godwit_checkpoint::criu::Tree::of(pid).and_then(|tree| tree.root())?;
        Ok(self.service().as_ref().map_or(Ok(()), |service| service.protect(root))?)
    }

    fn link(&self) -> MutexGuard<'_, Option<(Link, Said)>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn service(&self) -> MutexGuard<'_, Option<Service>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Orders something; where the runtime stands then.
fn ask(link: &mut Option<(Link, Said)>, order: &Order, patience: Duration) -> Result<(), Cause> {
    let Some((talk, stands)) = link.as_mut() else { return Err(Cause::Runtime { reason: "it is gone".into() }) };
    match talk.say(order).and_then(|()| talk.hear(Some(patience))) {
        Ok(Said::Failed { why }) => {
            *link = None;
            Err(Cause::Runtime { reason: why })
        }
        Ok(said) => {
            *stands = said;
            Ok(())
        }
        Err(broken) => {
            *link = None;
            Err(Cause::Runtime { reason: crate::api::fault::chain(&broken) })
        }
    }
}

fn out_of_step(link: &Option<(Link, Said)>) -> Cause {
    let stands = link.as_ref().map(|(_, said)| said);
    Cause::Runtime { reason: format!("it stands elsewhere than expected: {stands:?}") }
}
