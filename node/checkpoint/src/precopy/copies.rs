//! What the target has of each task, what it still has to get, and what is not worth sending yet. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::outcome::Valid;
use crate::dirty::ranges::{bytes, intersect, push, subtract, union};
use crate::dirty::{Round, TreeRound};

/// Pages to be sent, by this site's pid, or that are gone, by the pid in the images. In the order in which they are.
pub(super) type Queue = VecDeque<(i32, Range<u64>)>;

#[derive(Debug, Default)]
pub(super) struct Copies {
    /// By the pid that this site has for them.
    tasks: BTreeMap<i32, Task>,
}

#[derive(Debug, Default)]
struct Task {
    /// Its pid in the images.
    image: i32,
    /// Sent, and not written since as far as is known.
    sent: Vec<Range<u64>>,
    /// Sent since the last round; ascending.
    fresh: Vec<Range<u64>>,
    /// Written before the last round, not sent, and left alone since.
    cold: Vec<Range<u64>>,
    /// Found written by the last round: likely to be written again.
    hot: Vec<Range<u64>>,
}

impl Copies {
    /// Follows a round and returns what the target has in vain. `image` tells the pid in the images. A task without one, or
    /// with another's, is left out.
    pub fn follow(&mut self, round: &TreeRound, image: impl Fn(i32) -> Option<i32>) -> Queue {
        let mut void = Queue::new();
        for pid in round.gone.iter().chain(&round.appeared) {
            if let Some(task) = self.tasks.remove(pid) {
                void.extend(task.all_sent().into_iter().map(|range| (task.image, range)));
            }
        }
        for &pid in &round.appeared {
            let named = image(pid).filter(|image| self.tasks.values().all(|task| task.image != *image));
            if let Some(image) = named {
                self.tasks.insert(pid, Task { image, ..Task::default() });
            }
        }
        for (pid, round) in &round.processes {
            if let Some(task) = self.tasks.get_mut(pid) {
                let lost = task.follow(round);
                void.extend(lost.into_iter().map(|range| (task.image, range)));
            }
        }
        void
    }

    /// Takes out what is to be sent: all, or what was left alone since it was written, at most so many bytes of it.
    pub fn take(&mut self, all: bool, most: u64) -> Queue {
        let (mut queue, mut left) = (Queue::new(), most);
        for (pid, task) in &mut self.tasks {
            if all {
                task.cold = union(&task.cold, &std::mem::take(&mut task.hot));
            }
            let mut keep = Vec::new();
            for range in std::mem::take(&mut task.cold) {
                let end = range.end.min(range.start.saturating_add(left));
                left -= end - range.start;
                push(&mut keep, end..range.end);
                if range.start < end {
                    queue.push_back((*pid, range.start..end));
                }
            }
            task.cold = keep;
        }
        queue
    }

    /// Puts back what was not sent after all.
    pub fn put_back(&mut self, queue: &mut Queue) {
        for (pid, range) in queue.drain(..) {
            if let Some(task) = self.tasks.get_mut(&pid) {
                task.cold = union(&task.cold, &[range]);
            }
        }
    }

    /// Pages of a task were sent; in ascending order between two rounds.
    pub fn sent(&mut self, pid: i32, ranges: Vec<Range<u64>>) {
        if let Some(task) = self.tasks.get_mut(&pid) {
            ranges.into_iter().for_each(|range| push(&mut task.fresh, range));
        }
    }

    /// A task's pid in the images, if its pages are sent.
    pub fn image(&self, pid: i32) -> Option<i32> {
        self.tasks.get(&pid).map(|task| task.image)
    }

    /// Bytes that the target lacks, those apart that are being sent.
    pub fn lacking(&self) -> u64 {
        self.tasks.values().map(|task| bytes(&task.cold) + bytes(&task.hot)).sum()
    }

    /// After the last round, which was followed: what the target has, by the pid in the images.
    pub fn valid(self, round: &TreeRound) -> Valid {
        let told = self.tasks.into_iter().filter(|(pid, _)| round.processes.contains_key(pid));
        told.map(|(_, task)| (task.image, task.all_sent())).filter(|(_, ranges)| !ranges.is_empty()).collect()
    }
}

impl Task {
    fn all_sent(&self) -> Vec<Range<u64>> {
        union(&self.sent, &self.fresh)
    }

    /// Returns what was sent and is no more.
    fn follow(&mut self, round: &Round) -> Vec<Range<u64>> {
        let lost = union(&round.zeroed, &round.gone);
        let changed = union(&lost, &round.written);
        let sent = self.all_sent();
        let waiting = union(&self.cold, &self.hot);
        self.fresh.clear();
        self.cold = subtract(&waiting, &changed);
        self.hot.clone_from(&round.written);
        self.sent = subtract(&sent, &changed);
        // What is written again is sent again: that it is gone is said of the rest.
        intersect(&sent, &subtract(&lost, &round.written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pid: i32, written: &[Range<u64>], gone: &[Range<u64>]) -> TreeRound {
        let round = Round { written: written.to_vec(), gone: gone.to_vec(), ..Round::default() };
        TreeRound { processes: BTreeMap::from([(pid, round)]), ..TreeRound::default() }
    }

    fn appeared(pid: i32, written: &[Range<u64>]) -> TreeRound {
        TreeRound { appeared: vec![pid], ..told(pid, written, &[]) }
    }

    fn send(copies: &mut Copies, all: bool, most: u64) -> Vec<Range<u64>> {
        let queue = copies.take(all, most);
        queue.iter().for_each(|(pid, range)| copies.sent(*pid, vec![range.clone()]));
        queue.into_iter().map(|(_, range)| range).collect()
    }

    #[test]
    fn what_is_written_again_and_again_waits_for_the_end() {
        let mut copies = Copies::default();
        copies.follow(&appeared(50, &[10..30]), |_| Some(5));
        assert_eq!(send(&mut copies, true, u64::MAX), [10..30]);
        copies.follow(&told(50, &[12..14, 20..21], &[]), |_| None);
        assert_eq!(send(&mut copies, false, u64::MAX), [], "just written");
        copies.follow(&told(50, &[20..21], &[]), |_| None);
        assert_eq!(copies.lacking(), 3);
        assert_eq!(send(&mut copies, false, 1), [12..13], "left alone, and within what may be sent");
        assert_eq!(copies.lacking(), 2);
        let last = told(50, &[20..21, 25..26], &[]);
        copies.follow(&last, |_| None);
        assert_eq!(copies.valid(&last), [(5, vec![10..13, 14..20, 21..25, 26..30])].into());
    }

    #[test]
    fn what_is_gone_is_void_and_not_valid() {
        let mut copies = Copies::default();
        copies.follow(&appeared(50, &[10..30]), |_| Some(5));
        send(&mut copies, true, u64::MAX);
        let void = copies.follow(&told(50, &[12..13], &[11..15, 40..50]), |_| None);
        assert_eq!(void, [(5, 11..12), (5, 13..15)]);
        // Another program: nothing of the old one's is left.
        let replaced = appeared(50, &[10..12]);
        let void = copies.follow(&replaced, |_| Some(5));
        assert_eq!(void, [(5, 10..11), (5, 15..30)]);
        assert_eq!(copies.valid(&replaced), [].into());
    }

    #[test]
    fn of_two_tasks_with_one_pid_in_the_images_the_second_is_left_out() {
        let mut copies = Copies::default();
        copies.follow(&appeared(50, &[10..11]), |_| Some(5));
        copies.follow(&appeared(60, &[10..12]), |_| Some(5));
        assert_eq!((copies.image(50), copies.image(60)), (Some(5), None));
        assert_eq!(copies.take(true, u64::MAX), [(50, 10..11)]);
    }

    #[test]
    fn what_could_not_be_sent_is_sent_later() {
        let mut copies = Copies::default();
        copies.follow(&appeared(50, &[10..20]), |_| Some(5));
        let mut queue = copies.take(true, u64::MAX);
        assert_eq!(copies.lacking(), 0);
        copies.put_back(&mut queue);
        assert_eq!(copies.lacking(), 10);
        assert_eq!(send(&mut copies, false, u64::MAX), [10..20]);
    }
}
