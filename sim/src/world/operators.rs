//! What operators decide together: changes of the membership, and taking a container back.

use ed25519_dalek::SigningKey;
use godwit_ledger::block::is_quorum;
use godwit_ledger::replica::Input;
use godwit_ledger::state::Phase;
use godwit_protocol::abort::{Reclaim, ReclaimApproval};
use godwit_protocol::bounded::List;
use godwit_protocol::membership::{Change, Membership, Proposal, Role, Rotation};
use godwit_protocol::{Message, Millis, OfferId, Signable, Signed, SiteId};

use super::{Happening, World};
use crate::check::Violation;
use crate::marks::Mark;
use crate::plan::{FEWEST, tolerated};

use super::found::member;

/// After what operators look whether a change is in force, and try again.
const AGAIN: Millis = Millis(4_000);

impl World {
    /// A member becomes a validator or ceases to be one, if the mesh can bear its faults afterwards.
    pub(super) fn change_validators(&mut self) {
        let at = self.dice.index(self.hosts.len());
        let id = self.hosts[at].id;
        let Some(known) = self.witness.state().member(&id) else { return };
        let votes = known.role == Role::Validator;
        let change = Change::Put(member(&self.hosts[at], !votes));
        if self.bears(&self.validators_after(&change), None) && !self.hosts[at].is_lost {
            self.put(Millis(0), Happening::Reform(Box::new(change)));
        }
    }

    /// A site is to go on under another key.
    pub(super) fn change_key(&mut self, at: usize) {
        let (key, host) = (SigningKey::from_bytes(&self.dice.bytes()), &mut self.hosts[at]);
        if !host.is_sound() || host.next_key.is_some() {
            return;
        }
        let rotation = Signed::sign(&self.mesh, &key, Rotation { old: host.id }).expect("small").into_signed();
        host.next_key = Some(key);
        self.put(Millis(0), Happening::Reform(Box::new(Change::Rotate(rotation))));
    }

    /// A site starts under the key that the ledger knows it by now. To the others it is another site.
    pub(super) fn rotate(&mut self, at: usize) -> Result<(), Violation> {
        let state = self.witness.state_at(self.hosts[at].disk.height);
        let Some(old) = self.hosts[at].rotate(state) else { return Ok(()) };
        self.mark(Mark::Rotated);
        let new = self.hosts[at].id;
        self.say(|| format!("         site {at} is {new:?} and no longer {old:?}"));
        self.places.insert(new, at);
        for other in self.others(at) {
            if self.links.learn(other, at, false) {
                self.replica(other, Input::Disconnected(old))?;
            }
        }
        Ok(())
    }

    /// Nobody holds this key any more: its site has another by now, or will have as soon as it sees it.
    fn has_gone(&self, site: SiteId) -> bool {
        let host = self.place(&site).map(|at| &self.hosts[at]);
        host.is_some_and(|host| host.id != site || host.is_renewed_in(self.witness.state()))
    }

    /// Whether the mesh goes on with these validators, whatever its faulty sites do, and one more that would be lost.
    fn bears(&self, validators: &[SiteId], lost: Option<usize>) -> bool {
        let more = lost.is_some_and(|lost| validators.iter().any(|site| self.hosts[lost].is_known_as(*site)));
        validators.len() >= FEWEST && self.faulty_among(validators) + usize::from(more) <= tolerated(validators.len())
    }

    /// Whether the mesh bears the loss of a site: as it is, and after any change that is approved of and may yet be decided.
    pub(super) fn bears_loss_of(&self, at: usize) -> bool {
        let epoch = self.witness.state().membership_epoch();
        let may_come = self.approved.iter().filter(|(in_epoch, _)| *in_epoch == epoch);
        self.bears(self.witness.state().validators(), Some(at))
            && may_come.map(|(_, change)| self.validators_after(change)).all(|after| self.bears(&after, Some(at)))
    }

    fn validators_after(&self, change: &Change) -> Vec<SiteId> {
        let mut after = self.witness.state().validators().to_vec();
        if let Change::Put(member) = change {
            after.retain(|validator| *validator != member.site);
            after.extend((member.role == Role::Validator).then_some(member.site));
        }
        after
    }

    /// A change that enough validators approve of is submitted until it is in force or no longer makes sense.
    pub(super) fn reform(&mut self, change: Box<Change>) -> Result<(), Violation> {
        let state = self.witness.state();
        let is_moot = match &*change {
            Change::Put(wanted) => state.member(&wanted.site) == Some(wanted) || self.has_gone(wanted.site),
            Change::Rotate(rotation) => state.member(&rotation.body.old).is_none(),
            Change::Remove(_) => true,
        };
        if is_moot || !self.bears(&self.validators_after(&change), None) {
            return Ok(());
        }
        let epoch = state.membership_epoch();
        let proposal = Proposal { epoch, change: (*change).clone() };
        let approvals = List::first(self.approvals(&proposal));
        self.approved.retain(|(at, _)| *at == epoch);
        if !self.approved.iter().any(|(_, approved)| *approved == *change) {
            self.approved.push((epoch, (*change).clone()));
        }
        self.put(AGAIN, Happening::Reform(change));
        self.submit_as_validator(Message::Membership(Membership { proposal, approvals }))
    }

    /// What a faulty site has taken over and does not give back is reclaimed, after a time.
    pub(super) fn look_after_the_stuck(&mut self) {
        let sound = |site: SiteId| self.place(&site).is_some_and(|at| self.hosts[at].is_sound());
        let stuck: Vec<OfferId> = self
            .witness
            .state()
            .offers()
            .filter(|(_, auction)| auction.phase == Phase::Received && sound(auction.source))
            .filter(|(_, auction)| auction.winner().is_some_and(|winner| !sound(winner)))
            .map(|(id, _)| *id)
            .collect();
        for offer in stuck {
            let after = self.dice.span(5_000..30_000);
            self.put(after, Happening::Reclaim(offer));
        }
    }

    pub(super) fn reclaim(&mut self, offer: OfferId) -> Result<(), Violation> {
        let Some(auction) = self.witness.state().offer(&offer) else { return Ok(()) };
        let Some(known) = self.witness.state().container(&auction.body.container) else { return Ok(()) };
        let Some(source) = self.place(&auction.source).filter(|_| auction.phase == Phase::Received) else {
            return Ok(());
        };
        let approvals = List::first(self.approvals(&ReclaimApproval { offer, epoch: known.epoch }));
        self.write(source, Message::Reclaim(Reclaim { offer, approvals }))
    }

    /// The signatures of as many sound validators as it takes.
    fn approvals<T: Signable<Author = SiteId> + Clone>(&self, body: &T) -> Vec<Signed<T>> {
        let validators = self.witness.state().validators();
        let needed = (0..=validators.len()).find(|votes| is_quorum(*votes, validators.len())).unwrap_or(0);
        self.hosts
            .iter()
            .filter(|host| host.is_sound() && validators.contains(&host.id))
            .take(needed)
            .map(|host| Signed::sign(&self.mesh, &host.key, body.clone()).expect("small").into_signed())
            .collect()
    }

    fn submit_as_validator(&mut self, message: Message) -> Result<(), Violation> {
        let validators = self.witness.state().validators();
        let able = |host: &crate::host::Host| host.is_sound() && host.is_up() && validators.contains(&host.id);
        let able: Vec<usize> = (0..self.hosts.len()).filter(|at| able(&self.hosts[*at])).collect();
        if able.is_empty() {
            return Ok(());
        }
        let at = *self.dice.pick(&able);
        self.write(at, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Faults, Plan};

    /// Else the simulator takes more votes away than the mesh bears, and blames the mesh.
    #[test]
    fn who_is_lost_counts_as_lost_by_the_key_that_it_was_to_have() {
        let mut world = World::new(Plan::new(7, Faults::NONE), false);
        let mut validators = world.witness.state().validators().to_vec();
        let [renewed, other] = [0, 1].map(|n| world.place(&validators[n]).expect("a founder"));
        let key = SigningKey::from_bytes(&[9; 32]);
        validators[0] = key.verifying_key().into();
        world.hosts[renewed].next_key = Some(key);
        for (lost, one_more) in [(renewed, other), (other, renewed)] {
            world.hosts[lost].is_lost = true;
            assert!(world.bears(&validators, None) && !world.bears(&validators, Some(one_more)));
            world.hosts[lost].is_lost = false;
        }
    }
}
