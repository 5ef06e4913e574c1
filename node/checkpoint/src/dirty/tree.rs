//! Tracks a process and all that descend from it, as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::target::Target;
use super::{Error, Method, Phase, Round, Tracker, everything, ranges, read_pages};

/// A process and its descendants. Processes that join are found in each round, by `/proc/PID/task/*/children`; one that
/// called `execve` is attached to anew.
#[derive(Debug)]
pub struct Tree {
    root: i32,
    patience: Duration,
    worst: Method,
    trackers: BTreeMap<i32, Tracker>,
}

/// What happened in a tree since the round before.
#[derive(Debug, Default)]
pub struct TreeRound {
    /// Of each process that has memory of its own and could be looked at.
    pub processes: BTreeMap<i32, Round>,
    /// Processes whose memory is new as a whole: forked, or another program. Copies made earlier under that number are void.
    pub appeared: Vec<i32>,
    /// Processes that have ended or left the tree.
    pub gone: Vec<i32>,
    /// Processes that use the memory of another one, which is told there (`vfork` before its `execve`).
    pub sharing: Vec<(i32, i32)>,
    /// Processes that could not be looked at this time; the next round tries again. None in [`Phase::Stopped`].
    pub pending: Vec<(i32, Error)>,
}

impl TreeRound {
    /// How many bytes are to be copied.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.processes.values().map(|round| ranges::bytes(&round.written)).sum()
    }
}

impl Tree {
    /// A tree of which nothing is tracked yet: the first round attaches. `patience` is that of [`Tracker::attach`], for
    /// each process.
    #[must_use]
    pub fn new(root: i32, patience: Duration) -> Self {
        Self { root, patience, worst: Method::Hashes, trackers: BTreeMap::new() }
    }

    /// A tree whose last round is fast: a process that could be tracked by [`Method::Hashes`] alone, which reads all of its
    /// memory in each round, is not tracked. It is pending in each round but the last, which reports all that it has.
    #[must_use]
    pub fn without_hashes(self) -> Self {
        Self { worst: Method::SoftDirty, ..self }
    }

    /// The processes tracked now.
    pub fn trackers(&self) -> impl Iterator<Item = &Tracker> {
        self.trackers.values()
    }

    /// What was written since the round before.
    ///
    /// # Errors
    /// [`Error::Gone`] if the root has ended. In [`Phase::Stopped`] whatever keeps a process from being looked at.
    pub fn round(&mut self, phase: Phase) -> Result<TreeRound, Error> {
        let mut tree = TreeRound::default();
        let members = self.members()?;
        self.trackers.retain(|pid, _| {
            let stays = members.contains(pid);
            tree.gone.extend((!stays).then_some(*pid));
            stays
        });
        for &pid in &members {
            match self.round_of(pid, phase, &mut tree) {
                Ok(round) => drop(tree.processes.insert(pid, round)),
                Err(Outcome::Shares(with)) => tree.sharing.push((pid, with)),
                Err(Outcome::Failed(Error::Gone { .. })) if pid != self.root => {
                    if self.trackers.remove(&pid).is_some() {
                        tree.gone.push(pid);
                    }
                }
                Err(Outcome::Failed(error @ Error::Gone { .. })) => return Err(error),
                Err(Outcome::Failed(error)) if phase == Phase::Stopped => return Err(error),
                Err(Outcome::Failed(error)) => tree.pending.push((pid, error)),
            }
        }
        Ok(tree)
    }

    /// [`Tracker::read`] of a process of the tree.
    ///
    /// # Errors
    /// As [`read_pages`].
    ///
    /// # Panics
    /// As [`read_pages`].
    pub fn read(&mut self, pid: i32, wanted: &[Range<u64>], buffer: &mut [u8]) -> Result<Vec<Range<u64>>, Error> {
        match self.trackers.get_mut(&pid) {
            Some(tracker) => tracker.read(wanted, buffer),
            None => read_pages(pid, wanted, buffer),
        }
    }

    fn round_of(&mut self, pid: i32, phase: Phase, tree: &mut TreeRound) -> Result<Round, Outcome> {
        if let Some(tracker) = self.trackers.get_mut(&pid) {
            match tracker.round(phase) {
                // Its number may be another process's by now, or its memory another program's.
                Err(Error::Gone { .. } | Error::Replaced { .. } | Error::Refused { .. }) => {}
                other => return other.map_err(Outcome::Failed),
            }
        }
        let known = self.trackers.remove(&pid).is_some();
        let round = self.join(pid, phase);
        match &round {
            Ok(_) => tree.appeared.push(pid),
            Err(_) if known => tree.gone.push(pid),
            Err(_) => {}
        }
        round
    }

    /// The first round of a process that is not tracked.
    fn join(&mut self, pid: i32, phase: Phase) -> Result<Round, Outcome> {
        let target = Target::open(pid)?;
        if let Some(other) = self.trackers.values().find(|other| other.target.shares_memory_with(&target)) {
            return Err(Outcome::Shares(other.pid()));
        }
        match phase {
            Phase::Running => {
                let others: Vec<_> = self.trackers.values().filter_map(Tracker::descriptor).collect();
                let mut tracker = Tracker::attach_relative(pid, &others, self.patience, self.worst)?;
                let round = tracker.round(phase)?;
                self.trackers.insert(pid, tracker);
                Ok(round)
            }
            Phase::Stopped => Ok(everything(pid)?),
        }
    }

    /// The root and its descendants that live.
    fn members(&self) -> Result<BTreeSet<i32>, Error> {
        let mut members = BTreeSet::new();
        let mut queue = vec![self.root];
        while let Some(pid) = queue.pop() {
            match Target::open(pid).and_then(|target| target.children()) {
                Ok(children) if members.insert(pid) => queue.extend(children),
                Ok(_) => {}
                Err(Error::Gone { .. }) if pid != self.root => {}
                Err(error) => return Err(error),
            }
        }
        Ok(members)
    }
}

/// Why a process has no round.
enum Outcome {
    Shares(i32),
    Failed(Error),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
