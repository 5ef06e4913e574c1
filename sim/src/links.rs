//! The network's links: which site can reach which, and which believes that it is connected to which.

use std::collections::BTreeSet;

/// Directed links between sites, named by their places.
#[derive(Debug, Default)]
pub struct Links {
    /// Nothing gets from the first to the second.
    blocked: BTreeSet<(usize, usize)>,
    /// The first holds a connection to the second for alive.
    believed: BTreeSet<(usize, usize)>,
}

impl Links {
    /// Whether something that is sent now can arrive.
    #[must_use]
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Blocks a direction, or opens it.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// Opens all.
    pub fn open_all(&mut self) {
        self.blocked.clear();
    }

    /// Whether a connection can live: it needs both directions.
    #[must_use]
    pub fn carries(&self, one: usize, other: usize) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }

    /// A site learns whether it is connected to another; true if that is news to it.
    pub fn learn(&mut self, site: usize, other: usize, connected: bool) -> bool {
        if connected { self.believed.insert((site, other)) } else { self.believed.remove(&(site, other)) }
    }

    /// A site has died: it believes nothing any more.
    pub fn forget(&mut self, site: usize) {
        self.believed.retain(|(believer, _)| *believer != site);
    }
}
