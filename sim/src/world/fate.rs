//! What clients and fate do, once a second.

use godwit_protocol::bounded::List;
use godwit_protocol::report::{Report, Signal};
use godwit_protocol::site::Wish;
use godwit_protocol::{Bytes, Dbm, Millis, Signed};

use super::{Happening, World, container};
use crate::marks::Mark;

impl World {
    pub(super) fn fate(&mut self) {
        self.look_after_the_stuck();
        if self.now >= self.until {
            return;
        }
        self.put(Millis(1_000), Happening::Fate);
        let at = self.dice.index(self.hosts.len());
        self.wish(at);
        if self.dice.chance(1_000) {
            self.drive(at);
        }
        if self.dice.chance(self.faults.cut) {
            let (others, until) = (self.others(at), self.dice.span(500..40_000));
            self.part(&[at], &others, until);
        }
        if self.dice.chance(self.faults.split) {
            let side: Vec<usize> = (0..self.hosts.len()).filter(|_| self.dice.chance(5_000)).collect();
            let others: Vec<usize> = (0..self.hosts.len()).filter(|at| !side.contains(at)).collect();
            let until = self.dice.span(1_000..40_000);
            self.part(&side, &others, until);
        }
        if self.dice.chance(self.faults.full) {
            let until = self.dice.span(500..20_000);
            self.put(Millis(0), Happening::Fill(at, true));
            self.put(until, Happening::Fill(at, false));
        }
        if self.dice.chance(self.faults.jump) {
            let (off, until) = (self.dice.below(20_000), self.dice.span(1_000..30_000));
            let off = i64::try_from(off).expect("small") - 10_000;
            self.put(Millis(0), Happening::Clock(at, off));
            self.put(until, Happening::Clock(at, 0));
        }
        if self.dice.chance(self.faults.lose) {
            self.lose();
        }
        if self.dice.chance(self.faults.change) {
            self.change_validators();
        }
        if self.dice.chance(self.faults.rotate) {
            self.change_key(at);
        }
        if self.dice.chance(self.faults.rebuild) {
            self.put(Millis(0), Happening::Rebuild(at));
        }
    }

    /// What an operator of a site may ask for.
    fn wish(&mut self, at: usize) {
        if self.dice.chance(8_000) {
            let container = container(self.dice.index(self.clients.len()));
            let owner = self.witness.state().container(&container).map(|known| known.owner);
            let prefer = self.dice.chance(5_000).then_some(self.hosts[at].id);
            if let Some(place) = owner.and_then(|owner| self.place(&owner)) {
                self.put(Millis(0), Happening::Wished(place, Wish::Migrate { container, prefer }));
            }
        }
        if self.dice.chance(200) {
            let until = self.dice.span(5_000..40_000);
            self.put(Millis(0), Happening::Wished(at, Wish::Drain(true)));
            self.put(until, Happening::Wished(at, Wish::Drain(false)));
        }
        if self.dice.chance(1_000) {
            let base = Bytes(self.dice.below(2_400) << 20);
            self.put(Millis(0), Happening::Press(at, base));
        }
    }

    /// A client drives towards a site and says so to some site.
    fn drive(&mut self, towards: usize) {
        let which = self.dice.index(self.clients.len());
        self.reports += 1;
        let near = towards.saturating_sub(7)..towards + 8;
        let signals = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(at, _)| near.contains(at))
            .map(|(at, host)| Signal { site: host.id, dbm: if at == towards { Dbm(-60) } else { Dbm(-100) } });
        let report = Report { sequence: self.reports, at: self.now, signals: List::first(signals) };
        let report = Signed::sign(&self.mesh, &self.clients[which], report).expect("a report is small");
        let to = self.dice.index(self.hosts.len());
        self.put(Millis(3), Happening::Reported(to, Box::new(report)));
    }

    /// A host is lost for good, with its disk and all that ran on it: rather one that has just taken a container over, or
    /// handed one over. Not more validators are lost than the mesh can bear.
    fn lose(&mut self) {
        let offers = self.witness.state().offers();
        let received = offers.filter(|(_, auction)| auction.phase == godwit_ledger::state::Phase::Received);
        let parties: Vec<_> = received
            .flat_map(|(_, auction)| [auction.winner(), Some(auction.source)])
            .filter(|site| self.may_lose(site))
            .filter_map(|site| self.place(&site?))
            .collect();
        let at = if parties.is_empty() { self.dice.index(self.hosts.len()) } else { *self.dice.pick(&parties) };
        if !self.may_lose(&Some(self.hosts[at].id)) {
            return;
        }
        self.mark(Mark::HostLost);
        self.say(|| format!("         site {at} is lost for good"));
        let host = &mut self.hosts[at];
        host.is_lost = true;
        host.engine = crate::engine::Engine::default();
        host.disk = crate::disk::Disk { height: host.disk.height, ..crate::disk::Disk::default() };
        if host.process.take().is_some() {
            self.links.forget(at);
            for other in self.others(at) {
                self.notice_later(other, at);
            }
        }
    }

    fn may_lose(&self, site: &Option<godwit_protocol::SiteId>) -> bool {
        let Some(at) = site.and_then(|site| self.place(&site)) else { return false };
        let lost = self.hosts.iter().filter(|host| host.is_lost).count();
        self.hosts[at].is_sound() && lost == 0 && !self.is_one_forgetful() && self.bears_loss_of(at)
    }

    /// How many of these sites lie or are lost.
    pub(super) fn faulty_among(&self, sites: &[godwit_protocol::SiteId]) -> usize {
        let faulty = |host: &&crate::host::Host| !host.is_sound() && sites.iter().any(|site| host.is_known_as(*site));
        self.hosts.iter().filter(faulty).count()
    }
}
