//! The network between the sites: what is said arrives late, twice or not at all.

use godwit_ledger::replica::Input;
use godwit_protocol::word::Word;
use godwit_protocol::{Millis, SiteId};

use super::{Happening, World};
use crate::check::Violation;

/// About as long as a record, a word or a gossip is with what carries it.
pub(super) const RECORD: usize = 400;

impl World {
    pub(super) fn send(&mut self, from: usize, to: SiteId, word: Word) {
        let Some(to) = self.place(&to) else { return };
        self.deliver(from, to, RECORD, |from| Happening::Told(from, to, word.clone()));
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, bytes: usize, make: impl Fn(usize) -> Happening) {
        for _ in 0..=u32::from(self.dice.chance(self.faults.twice)) {
            if self.dice.chance(self.faults.loss) || !self.links.reaches(from, to) {
                continue;
            }
            let Some(waits) = self.links.carry(from, to, bytes, self.now) else { continue };
            let delay = match self.plan.delay {
                _ if self.dice.chance(self.faults.late) => self.dice.span(100..6_000),
                Some(delay) => delay,
                None => self.dice.span(1..20),
            };
            self.put(delay.plus(waits), make(from));
        }
    }

    pub(super) fn place(&self, site: &SiteId) -> Option<usize> {
        self.places.get(site).copied()
    }

    /// Parts one side from the other for a time: both directions, or one of them.
    pub(super) fn part(&mut self, side: &[usize], other: &[usize], until: Millis) {
        let (out, back) = *self.dice.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        for one in side {
            for far in other {
                for (from, to, parted) in [(*one, *far, out), (*far, *one, back)] {
                    if parted {
                        self.put(Millis(0), Happening::Block(from, to, true));
                        self.put(until, Happening::Block(from, to, false));
                    }
                }
            }
        }
    }

    /// A broken connection is noticed by its silence, a new one when it is dialled.
    pub(super) fn notice_later(&mut self, at: usize, other: usize) {
        let after = self.dice.span(10..4_000);
        self.put(after, Happening::Notice(at, other));
    }

    /// Between a site and all others connections are made, as far as they can be.
    pub(super) fn notice_all(&mut self, at: usize) {
        for other in self.others(at) {
            let after = self.dice.span(5..500);
            self.put(after, Happening::Notice(at, other));
            self.put(after, Happening::Notice(other, at));
        }
    }

    pub(super) fn notice(&mut self, at: usize, other: usize) -> Result<(), Violation> {
        let connected = self.hosts[other].is_up() && self.links.carries(at, other);
        if !self.hosts[at].is_up() || !self.links.learn(at, other, connected) {
            return Ok(());
        }
        let site = self.hosts[other].id;
        let input = if connected { Input::Connected(site) } else { Input::Disconnected(site) };
        self.replica(at, input)
    }
}
