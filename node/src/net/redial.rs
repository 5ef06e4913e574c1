//! Whom to dial when: every member that is not connected, again and again, ever more slowly, so that a site that was
//! down is back in seconds and a site that is gone costs nothing.
//!
//! Invariant: knows nothing of sockets or clocks; the time and the jitter come in as arguments.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The wait after a first failure.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait: a peer that comes back dials us itself at once, so this only matters when it cannot.
const LONGEST: Duration = Duration::from_secs(15);

/// When to dial each target that is wanted and not connected.
#[derive(Debug)]
pub struct Redial<T> {
    targets: HashMap<T, Target>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    failures: u32,
    /// `None` while connected or being dialled.
    due: Option<Instant>,
}

impl<T: Copy + Eq + Hash> Default for Redial<T> {
    fn default() -> Self {
        Self { targets: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Redial<T> {
    /// Replaces the targets that are wanted; new ones are due at once.
    pub fn want(&mut self, wanted: impl Fn(&T) -> bool, all: impl IntoIterator<Item = T>, now: Instant) {
        self.targets.retain(|target, _| wanted(target));
        for target in all {
            self.targets.entry(target).or_insert(Target { failures: 0, due: Some(now) });
        }
    }

    /// A connection exists: no dialling until it is lost. It proves little: a peer that refuses us does so after the
    /// handshake, so the wait goes on doubling.
    pub fn established(&mut self, target: &T) {
        if let Some(target) = self.targets.get_mut(target) {
            target.due = None;
        }
    }

    /// It has proved to be of this mesh: after its loss the waits begin anew.
    pub fn connected(&mut self, target: &T) {
        if let Some(target) = self.targets.get_mut(target) {
            *target = Target { failures: 0, due: None };
        }
    }

    /// Forgets a target.
    pub fn forget(&mut self, target: &T) {
        self.targets.remove(target);
    }

    /// It was lost, or a dial failed: due again after a wait that doubles with each failure. `jitter` in thousandths
    /// spreads the waits over 75 % to 125 %, so that sites that lost each other at once do not return at once.
    pub fn failed(&mut self, target: &T, now: Instant, jitter: u16) {
        if let Some(target) = self.targets.get_mut(target) {
            target.due = Some(now + delay(target.failures, jitter));
            target.failures = target.failures.saturating_add(1);
        }
    }

    /// News of it arrived: due now, if it is not connected.
    pub fn hurry(&mut self, target: &T, now: Instant) {
        if let Some(target) = self.targets.get_mut(target)
            && target.due.is_some()
        {
            target.due = Some(now);
        }
    }

    /// The targets to dial now; they count as being dialled until `connected` or `failed` says more.
    pub fn take_due(&mut self, now: Instant) -> Vec<T> {
        let due = |target: &Target| target.due.is_some_and(|due| due <= now);
        let taken: Vec<T> = self.targets.iter().filter(|(_, target)| due(target)).map(|(key, _)| *key).collect();
        for key in &taken {
            if let Some(target) = self.targets.get_mut(key) {
                target.due = None;
            }
        }
        taken
    }

    /// When the next target is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.targets.values().filter_map(|target| target.due).min()
    }
}

fn delay(failures: u32, jitter: u16) -> Duration {
    let wait = FIRST.saturating_mul(1 << failures.min(6)).min(LONGEST);
    wait * (750 + u32::from(jitter.min(1000)) / 2) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_peer_is_dialled_ever_more_slowly_and_never_given_up() {
        let start = Instant::now();
        let mut redial = Redial::default();
        redial.want(|_| true, [7], start);
        assert_eq!(redial.take_due(start), [7]);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..10 {
            redial.failed(&7, now, 500);
            let due = redial.next().unwrap();
            waits.push(due - now);
            assert!(redial.take_due(due - Duration::from_millis(1)).is_empty());
            assert_eq!(redial.take_due(due), [7]);
            now = due;
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[0], FIRST);
        assert_eq!(waits[9], LONGEST);
    }

    #[test]
    fn a_connected_peer_is_left_alone_until_it_is_lost() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.want(|_| true, [1, 2], now);
        redial.connected(&1);
        redial.hurry(&1, now);
        assert_eq!(redial.take_due(now), [2]);
        assert_eq!(redial.next(), None);
        redial.failed(&1, now, 0);
        assert!(redial.next().unwrap() < now + FIRST);
    }

    #[test]
    fn a_peer_that_refuses_us_after_the_handshake_is_dialled_ever_more_slowly() {
        let start = Instant::now();
        let mut redial = Redial::default();
        redial.want(|_| true, [7], start);
        for _ in 0..3 {
            redial.established(&7);
            assert_eq!(redial.next(), None);
            redial.failed(&7, start, 500);
        }
        assert_eq!(redial.next(), Some(start + FIRST * 4));
        redial.connected(&7);
        redial.failed(&7, start, 500);
        assert_eq!(redial.next(), Some(start + FIRST));
    }

    #[test]
    fn who_is_no_longer_wanted_is_not_dialled() {
        let now = Instant::now();
        let mut redial = Redial::default();
        redial.want(|_| true, [1, 2], now);
        redial.want(|target| *target == 2, [2], now);
        assert_eq!(redial.take_due(now), [2]);
        redial.failed(&1, now, 0);
        assert_eq!(redial.next(), None);
    }
}
