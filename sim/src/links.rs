//! The network's links: which site can reach which, and which believes that it is connected to which.

use std::collections::BTreeMap;

use godwit_protocol::{Millis, Time};

use crate::plan::Dice;

/// What waits longer for a link is dropped, as a full queue drops it.
const MAX_WAIT: Millis = Millis(5_000);

/// Directed links between sites, named by their places.
#[derive(Debug)]
pub struct Links {
    sites: usize,
    /// Nothing gets from the first to the second.
    blocked: Vec<bool>,
    /// The first holds a connection to the second for alive.
    believed: Vec<bool>,
    /// Those that carry little.
    thin: BTreeMap<usize, Thin>,
}

#[derive(Debug)]
struct Thin {
    bytes_per_ms: u64,
    /// When all that was sent so far is on its way.
    free: Time,
}

impl Links {
    /// Between so many sites; all are open.
    #[must_use]
    pub fn new(sites: usize) -> Self {
        let none = vec![false; sites * sites];
        Self { sites, blocked: none.clone(), believed: none, thin: BTreeMap::new() }
    }

    /// So many of ten thousand links carry 160 kbit/s to 1.6 Mbit/s.
    pub fn thin_out(&mut self, of_ten_thousand: u32, dice: &mut Dice) {
        for link in 0..self.blocked.len() {
            if dice.chance(of_ten_thousand) {
                let bytes_per_ms = 20 + dice.below(180);
                self.thin.insert(link, Thin { bytes_per_ms, free: Time(0) });
            }
        }
    }

    /// How long something waits before all of it is on its way; none if it is dropped.
    pub fn carry(&mut self, from: usize, to: usize, bytes: usize, now: Time) -> Option<Millis> {
        let link = self.index(from, to);
        let Some(thin) = self.thin.get_mut(&link) else { return Some(Millis(0)) };
        let free = thin.free.max(now).after(Millis(bytes as u64 / thin.bytes_per_ms));
        let waits = Millis(free.since(now).0);
        if waits > MAX_WAIT {
            return None;
        }
        thin.free = free;
        Some(waits)
    }

    const fn index(&self, from: usize, to: usize) -> usize {
        from * self.sites + to
    }

    /// Whether something that is sent now can arrive.
    #[must_use]
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.blocked[self.index(from, to)]
    }

    /// Blocks a direction, or opens it.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        let index = self.index(from, to);
        self.blocked[index] = blocked;
    }

    /// Opens all, and has them carry what they are given.
    pub fn open_all(&mut self) {
        self.blocked.fill(false);
        self.thin.clear();
    }

    /// Whether a connection can live: it needs both directions.
    #[must_use]
    pub fn carries(&self, one: usize, other: usize) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }

    /// A site learns whether it is connected to another; true if that is news to it.
    pub fn learn(&mut self, site: usize, other: usize, connected: bool) -> bool {
        let index = self.index(site, other);
        std::mem::replace(&mut self.believed[index], connected) != connected
    }

    /// A site has died: it believes nothing any more.
    pub fn forget(&mut self, site: usize) {
        let own = self.index(site, 0)..self.index(site + 1, 0);
        self.believed[own].fill(false);
    }
}
