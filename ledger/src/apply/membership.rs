//! `Membership`, and the validators' approvals.

use godwit_protocol::membership::{Change, MAX_VALIDATORS, Member, Membership, Role, Rotation};
use godwit_protocol::{Signable, Signed, SiteId};

use super::{Turn, Work};
use crate::block::is_quorum;
use crate::genesis::is_key;
use crate::refusal::Refusal;
use crate::state::State;

/// Members of a mesh, of all roles.
pub const MAX_MEMBERS: usize = 16_384;

impl State {
    /// Whether a change could be made now, given the approvals that it takes.
    ///
    /// # Errors
    /// Why not.
    pub fn check_change(&self, change: &Change) -> Result<(), Refusal> {
        Work::begin(self, self.time()).check_change(change)
    }
}

impl Work {
    pub(super) fn check_membership(&self, author: &SiteId, membership: &Membership) -> Result<(), Refusal> {
        let proposal = &membership.proposal;
        if !self.state.validators().contains(author) {
            return Err(Refusal::NotAValidator);
        }
        if proposal.epoch != self.state.membership_epoch {
            return Err(Refusal::WrongMembership { current: self.state.membership_epoch, got: proposal.epoch });
        }
        if self.turn.is_some() {
            return Err(Refusal::MembershipPending);
        }
        self.check_change(&proposal.change)?;
        self.check_approvals(&membership.approvals, |approval| approval.body == *proposal)
    }

    pub(super) fn membership(&mut self, membership: &Membership) {
        self.turn = Some(Turn::Change(membership.proposal.change.clone()));
    }

    fn check_change(&self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::Put(member) => self.check_put(member),
            Change::Remove(site) if self.state.member(site).is_none() => Err(Refusal::UnknownMember(*site)),
            Change::Remove(site) => self.check_validators(site, None),
            Change::Rotate(rotation) => self.check_rotation(rotation),
        }
    }

    fn check_put(&self, member: &Member) -> Result<(), Refusal> {
        let known = self.state.member(&member.site);
        // To put back a member that is suspended is a change, even if it stays as it was.
        if known == Some(member) && !self.state.is_suspended(&member.site) {
            return Err(Refusal::NoChange);
        }
        if !is_key(&member.site) {
            return Err(Refusal::NotAKey(member.site));
        }
        if known.is_none() && self.state.members.len() >= MAX_MEMBERS {
            return Err(Refusal::TooManyMembers(MAX_MEMBERS));
        }
        self.check_validators(&member.site, Some(member.role))
    }

    /// There are validators left once `site` has that role, and not too many.
    fn check_validators(&self, site: &SiteId, role: Option<Role>) -> Result<(), Refusal> {
        let others = self.state.validators().iter().filter(|validator| *validator != site).count();
        let left = others + usize::from(role == Some(Role::Validator));
        if (1..=MAX_VALIDATORS).contains(&left) { Ok(()) } else { Err(Refusal::Validators(left)) }
    }

    /// A new key takes the place of an old one: it is nobody's yet, somebody holds it, and the member has no handoff that
    /// only the old key can finish. Whoever stole a key cannot rotate it away from its owner: that takes the approvals. Whoever
    /// lost one can: the old key signs nothing. A suspended member rotates after it was judged, not to escape it.
    fn check_rotation(&self, rotation: &Signed<Rotation>) -> Result<(), Refusal> {
        let (old, new) = (rotation.body.old, rotation.author);
        if self.state.member(&old).is_none() {
            return Err(Refusal::UnknownMember(old));
        }
        if self.state.is_suspended(&old) {
            return Err(Refusal::Suspended(old));
        }
        if !is_key(&new) {
            return Err(Refusal::NotAKey(new));
        }
        if self.state.member(&new).is_some() || self.state.authors.contains(&new) {
            return Err(Refusal::KeyUsed(new));
        }
        if let Some((offer, _)) = self.state.offers().find(|(_, auction)| auction.is_party(&old)) {
            return Err(Refusal::PartyOf { site: old, offer: *offer });
        }
        rotation.clone().verify(&self.state.mesh()).map(|_| ()).map_err(|_| Refusal::RotationForged)
    }

    /// More than two thirds of the validators signed what `is_meant`. All signatures must hold: a wrong one is somebody's
    /// doing.
    pub(super) fn check_approvals<T>(
        &self,
        approvals: &[Signed<T>],
        is_meant: impl Fn(&Signed<T>) -> bool,
    ) -> Result<(), Refusal>
    where
        T: Signable<Author = SiteId> + Clone,
    {
        let validators = self.state.validators();
        for (index, approval) in approvals.iter().enumerate() {
            let site = approval.author;
            if !validators.contains(&site) {
                return Err(Refusal::ApproverNotAValidator(site));
            }
            if approvals[..index].iter().any(|earlier| earlier.author == site) {
                return Err(Refusal::ApprovedTwice(site));
            }
            if !is_meant(approval) {
                return Err(Refusal::ApprovedOther(site));
            }
        }
        let (votes, of) = (approvals.len(), validators.len());
        if !is_quorum(votes, of) {
            return Err(Refusal::TooFewApprovals { votes, of });
        }
        let mesh = self.state.mesh();
        approvals.iter().try_for_each(|approval| {
            approval.clone().verify(&mesh).map(|_| ()).map_err(|_| Refusal::ApprovalForged(approval.author))
        })
    }
}
