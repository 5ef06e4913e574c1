//! Proof that a validator contradicted itself.

use serde::{Deserialize, Serialize};

use crate::id::{MeshId, SiteId};
use crate::signed::{Forged, Signed};
use crate::vote::{Height, Proposal, Vote};

/// Two signed words of one validator that a correct one never says both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Two votes of one kind in one round, for different blocks or for a block and for none.
    Votes(Signed<Vote>, Signed<Vote>),
    /// Two proposals of one round, of different blocks.
    Proposals(Signed<Proposal>, Signed<Proposal>),
}

/// What becomes of a validator that contradicted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sentence {
    /// It leaves the mesh.
    Removed,
    /// It keeps its vote and loses all other rights, until the operators decide.
    Suspended,
}

impl Evidence {
    /// Whose words they are.
    #[must_use]
    pub fn culprit(&self) -> SiteId {
        match self {
            Self::Votes(one, _) => one.author,
            Self::Proposals(one, _) => one.author,
        }
    }

    /// The height that they are about.
    #[must_use]
    pub fn height(&self) -> Height {
        match self {
            Self::Votes(one, _) => one.body.height,
            Self::Proposals(one, _) => one.body.height,
        }
    }

    /// The round that they are about.
    #[must_use]
    pub fn round(&self) -> u32 {
        match self {
            Self::Votes(one, _) => one.body.round,
            Self::Proposals(one, _) => one.body.round,
        }
    }

    /// Whether the two exclude each other, if both are signed: one author, one place, two blocks. A word that names
    /// another author than its signer is nobody's word.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        match self {
            Self::Votes(one, other) => {
                let place = |vote: &Signed<Vote>| (vote.author, vote.body.height, vote.body.round, vote.body.kind);
                let own = |vote: &Signed<Vote>| vote.body.validator == vote.author;
                place(one) == place(other) && own(one) && own(other) && one.body.block != other.body.block
            }
            Self::Proposals(one, other) => {
                let place = |word: &Signed<Proposal>| (word.author, word.body.height, word.body.round);
                let own = |word: &Signed<Proposal>| word.body.proposer == word.author;
                place(one) == place(other) && own(one) && own(other) && one.body.block != other.body.block
            }
        }
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`Forged`] names the first that does not hold.
    pub fn verify(&self, mesh: &MeshId) -> Result<(), Forged> {
        match self {
            Self::Votes(one, other) => {
                one.clone().verify(mesh)?;
                other.clone().verify(mesh)?;
            }
            Self::Proposals(one, other) => {
                one.clone().verify(mesh)?;
                other.clone().verify(mesh)?;
            }
        }
        Ok(())
    }
}
