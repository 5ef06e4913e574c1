//! A modelled container engine: it does one task of a container after the other, takes its time, may fail, and outlives
//! the process that asked it, as a container engine does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use godwit_protocol::bid::Reason;
use godwit_protocol::bounded::Text;
use godwit_protocol::handoff::{Action, Outcome, Task};
use godwit_protocol::{Bytes, ContainerId, Hash, Millis, OfferId, Time};

/// What was late is so much.
const LATE: Bytes = Bytes(1 << 16);

/// Since when a container runs that waits for pages: it makes no step.
const STALLED: Time = Time(u64::MAX);

/// What a site has of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// It runs since then; its counter stood at `count`.
    Running {
        /// The counter at the start.
        count: u64,
        /// When it began to run.
        since: Time,
        /// The frozen state of which pages are still to come, by its root.
        lacks: Option<Hash>,
    },
    /// It stands still, on disk.
    Frozen {
        /// Where its counter stopped.
        count: u64,
        /// Of its manifest.
        root: Hash,
    },
    /// Created, but without state.
    Prepared {
        /// For which handoff.
        offer: OfferId,
    },
    /// All its state is here that must be before it runs; it has never run here.
    Fetched {
        /// In which handoff.
        offer: OfferId,
        /// Where its counter stopped at the source.
        count: u64,
        /// Of its manifest.
        root: Hash,
        /// It is restored, and held before its first instruction.
        held: bool,
    },
}

/// One site's engine.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// At most one copy of a container.
    pub copies: BTreeMap<ContainerId, Copy>,
    /// The first task of each queue is being done.
    queues: BTreeMap<ContainerId, VecDeque<Asked>>,
    /// Of which containers the process lets a target pull the frozen state.
    served: BTreeSet<ContainerId>,
}

/// A task and the life of the process that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is to be done.
    pub task: Task,
    /// Who asked: answers to an earlier life are lost.
    pub life: u32,
}

/// What the world contributes to a task's end.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The true time.
    pub now: Time,
    /// Whether it fails.
    pub fails: bool,
    /// The source's copy, if the source can be reached and serves it; for [`Action::Prepare`], [`Action::Fetch`] and
    /// [`Action::Fill`].
    pub source: Option<Copy>,
    /// The source's host is lost, and an operator has given up what had not arrived.
    pub lost: bool,
    /// Pages follow after the switch.
    pub late: bool,
    /// The container begins anew wherever it is started.
    pub stateless: bool,
}

impl Copy {
    /// The counter at a time.
    #[must_use]
    pub fn count(&self, now: Time) -> u64 {
        match self {
            Self::Running { count, since, .. } => count + now.since(*since).0,
            Self::Frozen { count, .. } | Self::Fetched { count, .. } => *count,
            Self::Prepared { .. } => 0,
        }
    }

    /// It runs from now on, from where it stood.
    fn started(self, world: Circumstances) -> Self {
        let count = if world.stateless { 0 } else { self.count(world.now) };
        Self::Running { count, since: world.now, lacks: None }
    }

    /// The frozen state of which it lacks pages while it runs.
    #[must_use]
    pub fn lacks(&self) -> Option<Hash> {
        if let Self::Running { lacks, .. } = self { *lacks } else { None }
    }
}

impl Engine {
    /// Takes a task; true if it begins at once.
    pub fn ask(&mut self, asked: Asked) -> bool {
        let queue = self.queues.entry(asked.task.container).or_default();
        queue.push_back(asked);
        queue.len() == 1
    }

    /// What was frozen runs: what no crash may do.
    pub fn thaw_all(&mut self, now: Time) {
        for copy in self.copies.values_mut().filter(|copy| matches!(copy, Copy::Frozen { .. })) {
            *copy = Copy::Running { count: copy.count(now), since: now, lacks: None };
        }
    }

    /// A running container has touched a page that is not here, and waits for it.
    pub fn stall(&mut self, container: &ContainerId, now: Time) {
        if let Some(copy @ Copy::Running { .. }) = self.copies.get_mut(container) {
            *copy = Copy::Running { count: copy.count(now), since: STALLED, lacks: copy.lacks() };
        }
    }

    /// What of a container a target may pull.
    #[must_use]
    pub fn serves(&self, container: &ContainerId) -> Option<Copy> {
        let copy = self.copies.get(container).copied();
        copy.filter(|copy| !matches!(copy, Copy::Frozen { .. }) || self.served.contains(container))
    }

    /// The process that asked is gone: only what was begun is finished, and nothing is served.
    pub fn orphan(&mut self) {
        self.served.clear();
        for queue in self.queues.values_mut() {
            queue.truncate(1);
        }
    }

    /// The task of a container that is being done.
    #[must_use]
    pub fn current(&self, container: &ContainerId) -> Option<Asked> {
        self.queues.get(container)?.front().cloned()
    }

    /// Whether a task waits for the current one of this container.
    #[must_use]
    pub fn is_awaited(&self, container: &ContainerId) -> bool {
        self.queues.get(container).is_some_and(|queue| queue.len() > 1)
    }

    /// Whether nothing is being done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// Ends the current task of a container: what it led to, and the task that begins.
    pub fn finish(&mut self, container: &ContainerId, world: Circumstances) -> Option<(Asked, Outcome, Option<Asked>)> {
        let queue = self.queues.get_mut(container)?;
        let asked = queue.pop_front()?;
        let next = queue.front().cloned();
        if next.is_none() {
            self.queues.remove(container);
        }
        let outcome = self.perform(&asked.task, world);
        match outcome {
            Outcome::Frozen { .. } => drop(self.served.insert(*container)),
            Outcome::Settled => drop(self.served.remove(container)),
            _ => {}
        }
        Some((asked, outcome, next))
    }

    fn perform(&mut self, task: &Task, world: Circumstances) -> Outcome {
        let (id, now) = (task.container, world.now);
        let copy = self.copies.get(&id).copied();
        let failed = |what: &str| Outcome::Failed(Reason::Failed(Text::clipped(what)));
        match (task.action, copy) {
            (Action::Serve { .. }, _) if world.fails => failed("serve"),
            (Action::Serve { .. }, Some(Copy::Running { .. })) => Outcome::Serving,
            (Action::Serve { .. }, _) => failed("not running here"),

            (Action::Prepare { .. }, _) if world.fails => failed("prepare"),
            (Action::Prepare { .. }, Some(Copy::Running { .. } | Copy::Frozen { .. })) => {
                failed("another copy is here")
            }
            (Action::Prepare { .. }, _) if world.source.is_none() => failed("source unreachable"),
            (Action::Prepare { .. }, Some(Copy::Fetched { offer, .. })) if offer == task.offer => Outcome::Prepared,
            (Action::Prepare { .. }, _) => {
                self.copies.insert(id, Copy::Prepared { offer: task.offer });
                Outcome::Prepared
            }

            // Half of the failures leave the container standing still.
            (Action::Freeze { .. }, Some(copy @ Copy::Running { .. })) => {
                let count = copy.count(now);
                if world.fails && count % 2 == 0 {
                    return failed("freeze");
                }
                let root = Hash::of_parts("frozen", &[&id.0, &task.offer.0, &count.to_le_bytes()]);
                self.copies.insert(id, Copy::Frozen { count, root });
                if world.fails { failed("freeze, half way") } else { frozen(root, Millis(count % 9)) }
            }
            // Whatever it took, a later life of the process no longer knows it.
            (Action::Freeze { .. }, Some(Copy::Frozen { .. })) if world.fails => failed("serve the frozen state"),
            (Action::Freeze { .. }, Some(Copy::Frozen { root, .. })) => frozen(root, Millis(0)),
            (Action::Freeze { .. }, _) => failed("nothing to freeze"),

            (Action::Fetch { .. }, _) if world.fails => failed("fetch"),
            (Action::Fetch { root, .. }, Some(Copy::Prepared { .. } | Copy::Fetched { .. })) => match world.source {
                Some(Copy::Frozen { count, root: theirs }) if theirs == root => {
                    self.copies.insert(id, Copy::Fetched { offer: task.offer, count, root, held: false });
                    Outcome::Fetched { bytes: Bytes(1 << 20) }
                }
                _ => failed("the source does not have that root"),
            },
            (Action::Fetch { .. }, _) => failed("nothing was prepared"),

            (Action::Restore, _) if world.fails => failed("restore"),
            (Action::Restore, Some(Copy::Fetched { offer, count, root, .. })) => {
                self.copies.insert(id, Copy::Fetched { offer, count, root, held: true });
                Outcome::Restored
            }
            (Action::Restore, _) => failed("nothing to restore"),

            (Action::Resume, Some(Copy::Running { .. })) => Outcome::Resumed,
            // What is held has been restored already: it rarely fails.
            (Action::Resume, Some(Copy::Fetched { held, count, .. })) if world.fails && !(held && count % 4 > 0) => {
                failed("resume")
            }
            (Action::Resume, Some(copy @ Copy::Fetched { .. })) => self.run(id, copy, world),
            (Action::Resume, _) => failed("nothing to resume"),

            (Action::Fill { .. }, _) if world.fails => failed("fill"),
            (Action::Fill { .. }, Some(copy @ Copy::Running { lacks: Some(root), .. })) => match world.source {
                Some(Copy::Frozen { root: theirs, .. }) if theirs == root => {
                    self.copies.insert(id, copy.started(world));
                    Outcome::Filled { bytes: LATE, late_root: Hash::of(&root.0) }
                }
                // What has not arrived is lost: it begins anew.
                _ if world.lost => {
                    self.copies.insert(id, Copy::Running { count: 0, since: now, lacks: None });
                    Outcome::Filled { bytes: Bytes(0), late_root: Hash::ZERO }
                }
                _ => failed("the source does not have these pages"),
            },
            (Action::Fill { .. }, Some(Copy::Running { .. })) => {
                Outcome::Filled { bytes: Bytes(0), late_root: Hash::ZERO }
            }
            (Action::Fill { .. }, _) => failed("nothing to fill"),

            (Action::Thaw, Some(Copy::Running { .. })) => Outcome::Settled,
            (Action::Thaw, _) if world.fails => failed("thaw"),
            (Action::Thaw, Some(copy @ Copy::Frozen { .. })) => {
                self.copies.insert(id, copy.started(world));
                Outcome::Settled
            }
            (Action::Thaw, _) => failed("nothing to thaw"),

            (Action::Discard | Action::Release, _) if world.fails => failed("drop"),
            (Action::Discard | Action::Release, _) => {
                self.copies.remove(&id);
                Outcome::Settled
            }
        }
    }

    /// It runs its first instruction.
    fn run(&mut self, id: ContainerId, copy: Copy, world: Circumstances) -> Outcome {
        let running = match (copy, copy.started(world)) {
            (Copy::Fetched { root, .. }, Copy::Running { count, since, .. }) if world.late => {
                Copy::Running { count, since, lacks: Some(root) }
            }
            (_, running) => running,
        };
        self.copies.insert(id, running);
        Outcome::Resumed
    }
}

fn frozen(root: Hash, freeze: Millis) -> Outcome {
    Outcome::Frozen { root, bytes: Bytes(1 << 20), freeze, collect: freeze }
}
