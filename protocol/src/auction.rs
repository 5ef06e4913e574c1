//! The auction: from an offer and its bids to the award, the same on every replica.
//!
//! The default score is the thesis's algorithm I: for a moving client the bidder's signal first, then an operator's wish,
//! then the same network, then the least loaded. Each part outweighs all parts after it.

use alloc::vec::Vec;

use crate::award::{Award, Ranked};
use crate::bid::Bid;
use crate::id::{Hash, OfferId, SiteId};
use crate::offer::{Offer, Why};
use crate::planted::{self, Bug};

/// One dB of the client's signal outweighs every other part together.
const SIGNAL: i64 = 1 << 24;
/// An operator's wish outweighs nearness.
const PREFERRED: i64 = 1 << 20;
/// Nearness outweighs load, which is at most 65,535 ‰.
const SAME_NETWORK: i64 = 1 << 17;
/// A site that the client does not hear counts as hearing it at this strength, weaker than any radio reports.
const UNHEARD_DBM: i16 = -200;

/// How good a bid is for an offer; larger is better.
#[must_use]
pub fn score(offer: &Offer, bidder: &SiteId, bid: &Bid) -> i64 {
    let signal = match &offer.why {
        Why::Mobility { report } => report.body.signal(bidder).map_or(UNHEARD_DBM, |dbm| dbm.0.max(UNHEARD_DBM)),
        _ => 0,
    };
    let preferred = matches!(&offer.why, Why::Manual { prefer: Some(site) } if site == bidder);
    i64::from(signal) * SIGNAL + i64::from(preferred) * PREFERRED + i64::from(bid.same_network) * SAME_NETWORK
        - i64::from(bid.load.0)
}

/// Ends the bidding: all bidders, best first. Ties break by a hash that nobody can choose, because the parent block's
/// hash is in it.
#[must_use]
pub fn close(parent: &Hash, id: &OfferId, offer: &Offer, bids: &[(SiteId, Bid)]) -> Award {
    let mut ranking: Vec<Ranked> =
        bids.iter().map(|(site, bid)| Ranked { site: *site, score: score(offer, site, bid) }).collect();
    let tie = |site: &SiteId| Hash::of_parts("godwit/tie", &[&parent.0, &id.0, &site.0]);
    if !planted::is(Bug::AwardByArrival) {
        ranking.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| tie(&a.site).cmp(&tie(&b.site))));
    }
    Award { ranking }
}
