//! What a client says of itself: the signal it receives from the sites around it.

use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::id::{ClientId, SiteId};
use crate::signed::Signable;
use crate::units::{Dbm, Time};

/// The signal of one site at the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The site.
    pub site: SiteId,
    /// Its received strength.
    pub dbm: Dbm,
}

/// A client's own measurement. Signed with the client's key, about itself and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rises with each report of the client.
    pub sequence: u64,
    /// When it was measured, by the client's clock.
    pub at: Time,
    /// The sites it hears, at most 16, each once.
    pub signals: List<Signal, 16>,
}

impl Report {
    /// The strength at which the client hears a site, if it does.
    #[must_use]
    pub fn signal(&self, site: &SiteId) -> Option<Dbm> {
        self.signals.iter().find(|signal| signal.site == *site).map(|signal| signal.dbm)
    }
}

impl Signable for Report {
    const DOMAIN: &'static str = "godwit/report";
    type Author = ClientId;
}
