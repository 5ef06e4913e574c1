//! Serving others: who gets what is on this site's disk, and how fast.
//!
//! Reading and sending a batch takes the loop that also votes some 10 ms. Whoever lags, or pretends to, must not take the
//! time that consensus needs: requests wait for their turn, one a site.

use std::collections::BTreeMap;

use godwit_protocol::{Millis, SiteId, Time};

use crate::block::Height;

/// Between two answers, whoever they are for: at least half of the time is left for consensus.
const PAUSE: Millis = Millis(20);

/// Between two answers to one site, so that two who lag share what there is: 1,600 blocks a second each.
const PAUSE_OF_SITE: Millis = Millis(40);

/// What a site asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Blocks { from: Height, most: u16 },
    Snapshot { trusted: Height },
    Chunk { height: Height, index: u32 },
}

/// Requests that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    sites: BTreeMap<SiteId, Turn>,
    /// Nobody is served before this.
    pause: Time,
}

#[derive(Debug)]
struct Turn {
    /// The newest request: who asks again has given the one before up.
    wanted: Option<Wanted>,
    since: Time,
    pause: Time,
}

impl Serving {
    /// A site asks for something.
    pub fn want(&mut self, site: SiteId, wanted: Wanted, now: Time) {
        let turn = self.sites.entry(site).or_insert(Turn { wanted: None, since: now, pause: Time(0) });
        if turn.wanted.is_none() {
            turn.since = now;
        }
        turn.wanted = Some(wanted);
    }

    /// A site is gone. When it may be served again is remembered for as long as that matters.
    pub fn forget(&mut self, site: &SiteId, now: Time) {
        if let Some(turn) = self.sites.get_mut(site) {
            turn.wanted = None;
        }
        self.sites.retain(|_, turn| turn.wanted.is_some() || turn.pause > now);
    }

    /// Whom to serve now: who has waited longest.
    pub fn due(&mut self, now: Time) -> Option<(SiteId, Wanted)> {
        if self.pause > now {
            return None;
        }
        let ready = self.sites.iter_mut().filter(|(_, turn)| turn.wanted.is_some() && turn.pause <= now);
        let (site, turn) = ready.min_by_key(|(_, turn)| turn.since)?;
        let wanted = turn.wanted.take()?;
        turn.pause = now.after(PAUSE_OF_SITE);
        self.pause = now.after(PAUSE);
        Some((*site, wanted))
    }

    /// When somebody is to be served next.
    pub fn next_at(&self) -> Option<Time> {
        let waiting = self.sites.values().filter(|turn| turn.wanted.is_some());
        waiting.map(|turn| turn.pause.max(self.pause)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SiteId = SiteId([1; 32]);
    const B: SiteId = SiteId([2; 32]);

    fn blocks(from: u64) -> Wanted {
        Wanted::Blocks { from: Height(from), most: 64 }
    }

    #[test]
    fn who_asks_first_is_served_at_once_and_the_others_in_turn() {
        let mut serving = Serving::default();
        assert_eq!(serving.next_at(), None);
        serving.want(A, blocks(1), Time(100));
        assert_eq!(serving.due(Time(100)), Some((A, blocks(1))));
        serving.want(A, blocks(65), Time(101));
        serving.want(B, blocks(1), Time(102));
        assert_eq!(serving.due(Time(102)), None);
        assert_eq!(serving.next_at(), Some(Time(120)));
        assert_eq!(serving.due(Time(120)), Some((B, blocks(1))), "A has had its share");
        assert_eq!(serving.due(Time(140)), Some((A, blocks(65))));
        assert_eq!((serving.due(Time(200)), serving.next_at()), (None, None));
    }

    #[test]
    fn a_flood_of_requests_is_one_request() {
        let mut serving = Serving::default();
        let mut served = 0;
        for now in 0..1000 {
            serving.want(A, blocks(now), Time(now));
            served += u32::from(serving.due(Time(now)).is_some());
        }
        assert_eq!(served, 25);
        serving.forget(&A, Time(999));
        assert_eq!(serving.next_at(), None);
        serving.want(A, blocks(1), Time(999));
        assert_eq!(serving.next_at(), Some(Time(1000)), "who comes back does not jump the queue");
    }
}
