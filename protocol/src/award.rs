//! `Award`: who takes the container. Derived by every replica, never sent.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::SiteId;

/// The order of the bidders when bidding ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Award {
    /// Best first: the winner of attempt 1, then the runners-up.
    pub ranking: Vec<Ranked>,
}

/// A bidder and its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// The bidder.
    pub site: SiteId,
    /// Larger is better.
    pub score: i64,
}

impl Award {
    /// Who is to take the container in an attempt, counted from 1.
    #[must_use]
    pub fn winner(&self, attempt: u32) -> Option<SiteId> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        self.ranking.get(index).map(|ranked| ranked.site)
    }
}
