//! Who belongs to the mesh and who decides: what a decided change of the membership does to the state.

use std::collections::BTreeMap;

use godwit_protocol::membership::{Change, Member, Role};
use godwit_protocol::{ContainerId, SiteId};

use super::{Seat, State};
use crate::apply::EVIDENCE_WINDOW;
use crate::block::{Height, validators_hash};
use crate::lineage;

impl State {
    /// Whether a member contradicted itself and lost its rights but for its vote.
    #[must_use]
    pub fn is_suspended(&self, site: &SiteId) -> bool {
        self.seats.get(site).is_some_and(|seat| seat.suspended)
    }

    /// Since when a member votes, or when it did last.
    #[must_use]
    pub fn seat(&self, site: &SiteId) -> Option<&Seat> {
        self.seats.get(site)
    }

    /// What each member may do. Who is suspended may do what an observer may: its vote is no matter of a site's brain.
    #[must_use]
    pub fn roles(&self) -> BTreeMap<SiteId, Role> {
        let role = |m: &Member| if self.is_suspended(&m.site) { Role::Observer } else { m.role };
        self.members().map(|member| (member.site, role(member))).collect()
    }

    /// Puts a decided change into force.
    pub(crate) fn change(&mut self, change: Change) {
        // By what light clients go by as well.
        let elected = lineage::elect(&self.validators, &change);
        match change {
            Change::Put(member) => {
                // More than two thirds of the validators put it back: that lifts a suspension.
                if self.is_suspended(&member.site) {
                    self.seats.remove(&member.site);
                }
                self.members.insert(member.site, member);
            }
            Change::Remove(site) => self.members.remove(&site),
            Change::Rotate(rotation) => self.rotate(rotation.body.old, rotation.author),
        }
        self.membership_epoch = self.membership_epoch.saturating_add(1);
        self.elect();
        assert_eq!(*self.validators, *elected, "a change has one effect on the validators");
        let decided = self.height().next();
        self.assign_seats(decided);
    }

    /// Takes all rights from a validator but its vote.
    pub(crate) fn suspend(&mut self, site: &SiteId) {
        if let Some(seat) = self.seats.modify(site) {
            seat.suspended = true;
        }
        // Whoever was about to approve a change should know.
        self.membership_epoch = self.membership_epoch.saturating_add(1);
    }

    /// A member goes on under another key, with all that it has. What it may have said under the old one that is still
    /// under way stays used up, should that key ever be admitted again.
    fn rotate(&mut self, old: SiteId, new: SiteId) {
        let Some(member) = self.members.get(&old).cloned() else { return };
        self.members.remove(&old);
        self.members.insert(new, Member { site: new, ..member });
        if let Some(author) = self.authors.get(&old).cloned() {
            self.authors.insert(new, author);
        }
        let owned: Vec<ContainerId> =
            self.containers().filter(|(_, held)| held.owner == old).map(|(id, _)| *id).collect();
        for id in owned {
            let container = self.containers.modify(&id).expect("was just listed");
            (container.owner, container.epoch) = (new, container.epoch.next());
        }
    }

    /// Derives the validators from the members.
    pub(super) fn elect(&mut self) {
        self.validators = self.members().filter(|m| m.role == Role::Validator).map(|m| m.site).collect();
        self.validators_hash = validators_hash(&self.validators);
    }

    /// Who has got a vote has it from the height after `decided`, who has lost it had it until `decided`. Seats of former
    /// validators are kept as long as they may be judged, and as long as there is somebody to be punished.
    pub(super) fn assign_seats(&mut self, decided: Height) {
        let validators = std::sync::Arc::clone(&self.validators);
        for site in validators.iter() {
            if self.seats.get(site).is_none_or(|seat| seat.until.is_some()) {
                self.seats.insert(*site, Seat::from(decided.next()));
            }
        }
        let former: Vec<SiteId> =
            self.seats.iter().map(|(site, _)| *site).filter(|site| !validators.contains(site)).collect();
        for site in former {
            let is_member = self.members.contains(&site);
            let seat = self.seats.modify(&site).expect("was just listed");
            let until = *seat.until.get_or_insert(decided);
            if !is_member || until.0.saturating_add(EVIDENCE_WINDOW) < decided.0 {
                self.seats.remove(&site);
            }
        }
    }
}
