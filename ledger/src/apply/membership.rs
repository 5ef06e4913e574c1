//! `Membership`, and the validators' approvals.

use godwit_protocol::membership::{Change, MAX_VALIDATORS, Membership, Role};
use godwit_protocol::{Event, Signable, Signed, SiteId};

use super::Work;
use crate::block::is_quorum;
use crate::genesis::is_key;
use crate::refusal::Refusal;

/// Members of a mesh, of all roles.
pub const MAX_MEMBERS: usize = 16_384;

impl Work {
    pub(super) fn membership(&mut self, author: SiteId, membership: &Membership) -> Result<(), Refusal> {
        let proposal = &membership.proposal;
        if !self.state.validators().contains(&author) {
            return Err(Refusal::NotAValidator);
        }
        if proposal.epoch != self.state.membership_epoch {
            return Err(Refusal::WrongMembership { current: self.state.membership_epoch, got: proposal.epoch });
        }
        if self.change.is_some() {
            return Err(Refusal::MembershipPending);
        }
        self.check_change(&proposal.change)?;
        self.check_approvals(&membership.approvals, |approval| approval.body == *proposal)?;
        self.change = Some(proposal.change.clone());
        self.events.push(Event::MembershipChanged { change: proposal.change.clone() });
        Ok(())
    }

    fn check_change(&self, change: &Change) -> Result<(), Refusal> {
        let (site, role) = match change {
            Change::Put(member) => (member.site, Some(member.role)),
            Change::Remove(site) => (*site, None),
        };
        let known = self.state.member(&site);
        match change {
            Change::Put(member) if known == Some(member) => return Err(Refusal::NoChange),
            Change::Put(_) if !is_key(&site) => return Err(Refusal::NotAKey(site)),
            Change::Put(_) if known.is_none() && self.state.members.len() >= MAX_MEMBERS => {
                return Err(Refusal::TooManyMembers(MAX_MEMBERS));
            }
            Change::Remove(_) if known.is_none() => return Err(Refusal::UnknownMember(site)),
            _ => {}
        }
        let others = self.state.validators().iter().filter(|validator| **validator != site).count();
        let left = others + usize::from(role == Some(Role::Validator));
        if (1..=MAX_VALIDATORS).contains(&left) { Ok(()) } else { Err(Refusal::Validators(left)) }
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
