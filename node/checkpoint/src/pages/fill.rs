//! Filling pages: the calls, and what to make of their outcomes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::service::{Origin, Progress, ServiceError};
use super::space::Space;
use super::uffd::{Filled, Uffd};
use super::work::Work;
use super::{PAGE, bytes};

/// Pages from the store that are filled before events are looked at again: 50 us.
const STORED_AT_ONCE: u64 = 64;
/// After a run could not be filled: CRIU has not registered it yet, or an event is under way.
const AGAIN: Duration = Duration::from_micros(300);
/// After the tasks' cgroup had no memory.
const NO_MEMORY: Duration = Duration::from_millis(10);

/// An address space that is served.
pub(super) struct Served {
    pub pid: i32,
    pub uffd: Uffd,
    pub space: Space,
    /// Since when threads wait, by the page's current address.
    pub waiting: BTreeMap<u64, Instant>,
}

/// Pages that could not be filled yet.
pub(super) struct Later {
    pub id: u64,
    pub pid: i32,
    /// Spaces from this id on were forked after it was kept.
    pub born: u64,
    pub image: u64,
    pub pages: u64,
    /// `None`: zeros.
    pub content: Option<Vec<u8>>,
    pub origin: Origin,
    pub due: Instant,
}

/// What filling a run came to.
enum Try {
    Done,
    After(Duration),
}

impl Work {
    /// A page that the process never had.
    pub(super) fn fill_zero(&mut self, id: u64, address: u64) -> Result<(), ServiceError> {
        let Some(served) = self.state.spaces.get_mut(&id) else { return Ok(()) };
        match served.uffd.zero(address, PAGE) {
            Ok(Filled::Bytes(_)) => {}
            Ok(Filled::Dead) => self.let_go(id)?,
            // The thread looks again, and faults again if it must.
            Ok(_) => self.change(id, address..address + PAGE, |_| ()),
            Err(source) => return Err(ServiceError::Fill { pid: served.pid, address, source }),
        }
        Ok(())
    }

    pub(super) fn try_again(&mut self) -> Result<bool, ServiceError> {
        let now = Instant::now();
        let (due, later) =
            std::mem::take(&mut self.state.later).into_iter().partition(|later: &Later| later.due <= now);
        self.state.later = later;
        let due: Vec<Later> = due;
        for Later { id, pid, born, image, pages, content, origin, .. } in &due {
            match origin {
                Origin::Store => self.fill_stored(*id, *image, *pages)?,
                _ => {
                    self.fill(*id, *pid, *image, *pages, content.as_deref(), *origin)?;
                    self.fill_all(*born, *pid, *image, *pages, content.as_deref(), *origin)?;
                }
            }
        }
        Ok(!due.is_empty())
    }

    /// Fills pages that came from the source in all spaces of a task from the id `from` on. Children that are forked meanwhile
    /// have the highest ids: they are filled too, since what was asked for before the fork is not asked for again.
    pub(super) fn fill_all(
        &mut self,
        from: u64,
        pid: i32,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<(), ServiceError> {
        let mut from = from;
        while let Some(id) = self.state.spaces.range(from..).find(|(_, served)| served.pid == pid).map(|(id, _)| *id) {
            self.fill(id, pid, image, pages, content, origin)?;
            from = id + 1;
        }
        Ok(())
    }

    /// What cannot be filled now is kept.
    fn fill(
        &mut self,
        id: u64,
        pid: i32,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<(), ServiceError> {
        if let Try::After(wait) = self.put(id, image, pages, content, origin)? {
            let (content, due) = (content.map(<[u8]>::to_vec), Instant::now() + wait);
            self.keep(Later { id, pid, born: 0, image, pages, content, origin, due });
        }
        Ok(())
    }

    fn keep(&mut self, later: Later) {
        let born = self.state.spaces.last_key_value().map_or(0, |(id, _)| id + 1);
        self.state.later.push(Later { born, ..later });
    }

    pub(super) fn fill_stored(&mut self, id: u64, image: u64, pages: u64) -> Result<(), ServiceError> {
        let Some(served) = self.state.spaces.get_mut(&id) else { return Ok(()) };
        let pid = served.pid;
        let zeros = self.store.zeros(pid, image, pages);
        let mut content = std::mem::take(&mut self.stored);
        content.resize(if zeros { 0 } else { bytes(pages) }, 0);
        if let Err(error) = self.store.read(pid, image, &mut content) {
            tracing::warn!(%error, pid, "a page of the local store cannot be used: the source is asked");
            served.space.not_stored(image, pages);
            // Who waits for it faults again, and the source is asked then.
            for run in served.space.locate(image, pages) {
                let _ = served.uffd.wake(run.current..run.current + run.pages * PAGE);
            }
            return Ok(());
        }
        let put = self.put(id, image, pages, (!zeros).then_some(&content), Origin::Store);
        self.stored = content;
        if let Try::After(wait) = put? {
            let due = Instant::now() + wait;
            self.keep(Later { id, pid, born: 0, image, pages, content: None, origin: Origin::Store, due });
        }
        Ok(())
    }

    /// Fills those of the pages that are still missing, wherever they lie now.
    fn put(
        &mut self,
        id: u64,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<Try, ServiceError> {
        // An event that is under way has usually been sent when it has been read; a second one may follow.
        for _ in 0..3 {
            match self.put_once(id, image, pages, content, origin)? {
                Filled::Again => self.read_events(id)?,
                Filled::NoMemory => return Ok(Try::After(NO_MEMORY)),
                Filled::NotMapped => return Ok(Try::After(AGAIN)),
                Filled::Bytes(_) | Filled::There | Filled::Dead => return Ok(Try::Done),
            }
        }
        Ok(Try::After(AGAIN))
    }

    fn put_once(
        &mut self,
        id: u64,
        image: u64,
        pages: u64,
        content: Option<&[u8]>,
        origin: Origin,
    ) -> Result<Filled, ServiceError> {
        let Some(served) = self.state.spaces.get_mut(&id) else { return Ok(Filled::Dead) };
        for run in served.space.locate(image, pages) {
            let (mut done, mut width) = (0, run.pages);
            while done < run.pages {
                width = width.min(run.pages - done);
                let current = run.current + done * PAGE;
                let from = run.image + done * PAGE;
                let offset = bytes((from - image) / PAGE);
                let filled = match content {
                    Some(content) => served.uffd.copy(current, &content[offset..offset + bytes(width)]),
                    None => served.uffd.zero(current, width * PAGE),
                };
                let filled =
                    filled.map_err(|source| ServiceError::Fill { pid: served.pid, address: current, source })?;
                match filled {
                    Filled::Bytes(0) => return Ok(Filled::Again),
                    Filled::Bytes(bytes) => {
                        self.state.progress.count(origin, bytes / PAGE);
                        served.arrived(from, current, bytes / PAGE, &mut self.state.progress);
                        done += bytes / PAGE;
                    }
                    Filled::There => {
                        self.state.progress.there += 1;
                        served.arrived(from, current, 1, &mut self.state.progress);
                        let _ = served.uffd.wake(current..current + PAGE);
                        done += 1;
                    }
                    // The process split the mapping, by mprotect for example: the kernel fills within one only.
                    Filled::NotMapped if width > 1 => width = width.div_ceil(2),
                    // All events before this are acted on, so that the page lies in a mapping that is watched no more.
                    Filled::NotMapped if self.state.progress.restored => {
                        served.space.remove(current..current + PAGE);
                        let _ = served.uffd.wake(current..current + PAGE);
                        done += 1;
                    }
                    Filled::Dead => {
                        self.let_go(id)?;
                        return Ok(Filled::Dead);
                    }
                    other => return Ok(other),
                }
            }
        }
        Ok(Filled::Bytes(0))
    }

    pub(super) fn fill_from_store(&mut self) -> Result<bool, ServiceError> {
        // What could not be filled is tried again first: it is the same pages.
        if self.state.later.iter().any(|later| later.origin == Origin::Store) {
            return Ok(false);
        }
        let next = self
            .state
            .spaces
            .iter_mut()
            .find_map(|(id, served)| served.space.next_stored(STORED_AT_ONCE).map(|run| (*id, run)));
        match next {
            Some((id, run)) => self.fill_stored(id, run.image, run.pages).map(|()| true),
            None => Ok(false),
        }
    }
}

impl Served {
    /// Pages are there now: whoever waited for them runs.
    fn arrived(&mut self, image: u64, current: u64, pages: u64, progress: &mut Progress) {
        self.space.present(image, pages);
        let mut waited: Vec<u64> = self.waiting.range(current..current + pages * PAGE).map(|(at, _)| *at).collect();
        for address in waited.drain(..) {
            if let Some(since) = self.waiting.remove(&address) {
                progress.waited(since.elapsed());
            }
        }
    }
}
