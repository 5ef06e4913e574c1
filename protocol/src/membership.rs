//! Who belongs to the mesh, and how that changes.

use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::id::SiteId;
use crate::signed::{Signable, Signed};

/// A larger committee would be slow: with 100 validators a height takes a hundred times as long as with 4.
pub const MAX_VALIDATORS: usize = 31;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Votes, and all below.
    Validator,
    /// Offers, bids and follows the ledger.
    Member,
    /// Follows and audits.
    Observer,
}

/// A site that belongs to the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key.
    pub site: SiteId,
    /// What it may do.
    pub role: Role,
    /// For people.
    pub name: Text<63>,
    /// libp2p multiaddresses at which it listens, as its operator gave them.
    pub addresses: List<Text<255>, 8>,
}

/// A change to the membership, in force from the height after its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What is to change.
    pub proposal: Proposal,
    /// More than two thirds of the validators.
    pub approvals: List<Signed<Proposal>, MAX_VALIDATORS>,
}

/// What validators sign to approve a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The number of changes so far: an approval serves for one change of one membership.
    pub epoch: u64,
    /// The change.
    pub change: Change,
}

/// One change to the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A new member, or a known one with a new role, name or addresses.
    Put(Member),
    /// A member leaves.
    Remove(SiteId),
    /// A member goes on under another key, the signer of this: that it signs shows that somebody holds its secret half.
    Rotate(Signed<Rotation>),
}

/// What a new key signs, to take the place of an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The key that the member has had so far.
    pub old: SiteId,
}

impl Signable for Rotation {
    const DOMAIN: &'static str = "godwit/rotation";
    type Author = SiteId;
}

impl Signable for Proposal {
    const DOMAIN: &'static str = "godwit/membership";
    type Author = SiteId;
}
