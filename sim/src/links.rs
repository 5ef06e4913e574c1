//! The network's links: which site can reach which, and which believes that it is connected to which.

/// Directed links between sites, named by their places.
#[derive(Debug)]
pub struct Links {
    sites: usize,
    /// Nothing gets from the first to the second.
    blocked: Vec<bool>,
    /// The first holds a connection to the second for alive.
    believed: Vec<bool>,
}

impl Links {
    /// Between so many sites; all are open.
    #[must_use]
    pub fn new(sites: usize) -> Self {
        let none = vec![false; sites * sites];
        Self { sites, blocked: none.clone(), believed: none }
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

    /// Opens all.
    pub fn open_all(&mut self) {
        self.blocked.fill(false);
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
