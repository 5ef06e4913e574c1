//! `Register` and `Retire`: a container enters and leaves the mesh.

use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::container::{Image, Profile};
use crate::id::{ClientId, ContainerId};
use crate::units::Address;

/// A member brings a container into the mesh and owns it from epoch 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Not yet known to the ledger.
    pub container: ContainerId,
    /// For people; not unique.
    pub name: Text<63>,
    /// What it runs.
    pub image: Image,
    /// What it takes and tolerates.
    pub profile: Profile,
    /// Its own address in the mesh's range; no other live container has it.
    pub address: Address,
    /// Whose signal reports may move it.
    pub clients: List<ClientId, 16>,
}

/// The owner ends a container: its id is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retire {
    /// The container, with no open offer.
    pub container: ContainerId,
}
