//! Catching up: whom to ask for missing blocks, and when.
//!
//! Pure. What sites claim is only a hint: the blocks they send are verified, and a claim that leads to nothing is dropped.

use std::collections::BTreeMap;

use godwit_protocol::{Millis, SiteId, Time};

use crate::block::Height;

/// How long a block that others have may still be on its way before it is asked for.
const PATIENCE: Millis = Millis(50);

/// How long to wait for an answer before another site is asked: 64 blocks over a slow uplink.
const ANSWER: Millis = Millis(2000);

/// What is known of others' progress.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    claims: BTreeMap<SiteId, Height>,
    /// Who was asked last, and until when its answer is awaited.
    asked: Option<(SiteId, Time)>,
    /// When a gap was first seen, while nobody was asked.
    since: Option<Time>,
}

impl CatchUp {
    /// A site is this far, as it says or as its words imply.
    pub fn learn(&mut self, site: SiteId, height: Height, now: Time) {
        let claim = self.claims.entry(site).or_default();
        *claim = height.max(*claim);
        self.since.get_or_insert(now);
    }

    /// A site is gone, or its claim came to nothing.
    pub fn forget(&mut self, site: &SiteId) {
        self.claims.remove(site);
        if self.asked.is_some_and(|(asked, _)| asked == *site) {
            self.asked = None;
        }
    }

    /// When to ask next; none if nobody is known to be further.
    pub fn next_at(&mut self, own: Height, now: Time) -> Option<Time> {
        self.claims.retain(|_, claim| *claim > own);
        if self.claims.is_empty() {
            (self.asked, self.since) = (None, None);
            return None;
        }
        match self.asked {
            Some((_, until)) => Some(until),
            None => Some(self.since.get_or_insert(now).after(PATIENCE)),
        }
    }

    /// Whom to ask now: the sites that are further, in turn.
    pub fn ask(&mut self, own: Height, now: Time) -> Option<SiteId> {
        // Whoever did not answer in time has had its chance.
        if let Some((silent, _)) = self.asked.take_if(|(_, until)| *until <= now) {
            self.claims.remove(&silent);
        }
        self.claims.retain(|_, claim| *claim > own);
        let site = *self.claims.keys().next()?;
        self.asked = Some((site, now.after(ANSWER)));
        self.since = None;
        Some(site)
    }

    /// Blocks came from a site. True if it was asked, and there may be more to ask for at once.
    pub fn answered(&mut self, site: &SiteId, progress: bool) -> bool {
        if self.asked.take_if(|(asked, _)| asked == site).is_none() {
            return false;
        }
        if !progress {
            self.claims.remove(site);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SiteId = SiteId([1; 32]);
    const B: SiteId = SiteId([2; 32]);

    #[test]
    fn nobody_is_asked_while_nobody_is_further() {
        let mut catch_up = CatchUp::default();
        catch_up.learn(A, Height(5), Time(0));
        assert_eq!(catch_up.next_at(Height(5), Time(1)), None);
        assert_eq!(catch_up.ask(Height(5), Time(1)), None);
    }

    #[test]
    fn a_block_on_its_way_is_waited_for_and_a_silent_site_is_replaced() {
        let mut catch_up = CatchUp::default();
        catch_up.learn(A, Height(7), Time(100));
        catch_up.learn(B, Height(6), Time(120));
        assert_eq!(catch_up.next_at(Height(5), Time(130)), Some(Time(150)));
        assert_eq!(catch_up.ask(Height(5), Time(150)), Some(A));
        assert_eq!(catch_up.next_at(Height(5), Time(160)), Some(Time(2150)));
        assert_eq!(catch_up.ask(Height(5), Time(2150)), Some(B));
        assert!(!catch_up.answered(&A, true), "it was not asked any more");
        assert!(catch_up.answered(&B, true));
        assert_eq!(catch_up.next_at(Height(6), Time(2160)), None, "all that was claimed is here");
    }

    #[test]
    fn a_claim_that_leads_to_nothing_is_dropped() {
        let mut catch_up = CatchUp::default();
        catch_up.learn(A, Height(u64::MAX), Time(0));
        assert_eq!(catch_up.ask(Height(5), Time(50)), Some(A));
        assert!(catch_up.answered(&A, false));
        assert_eq!(catch_up.ask(Height(5), Time(50)), None);
        assert_eq!(catch_up.next_at(Height(5), Time(60)), None);
    }
}
