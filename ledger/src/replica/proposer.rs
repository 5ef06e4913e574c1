//! Who proposes first at a height, and how long the others wait.

use std::collections::VecDeque;
use std::time::Duration;

use godwit_protocol::{Millis, SiteId};
use malachitebft_core_types::{Timeout, TimeoutKind};

use super::context::Committee;
use crate::block::Header;
use crate::state::State;

/// A proposer leads this many heights: long enough that one dead validator does not cost every fourth block a timeout,
/// short enough that none keeps the order of records to itself.
const TENURE: u64 = 64;

/// Decisions that the timeouts follow.
const OBSERVED: usize = 16;

/// Before any decision was observed.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// A scheduler's hiccup on a small machine is no dead proposer.
const SHORTEST: Duration = Duration::from_millis(50);

/// Nobody waits longer for a proposal, whatever the network was like.
const LONGEST: Duration = Duration::from_secs(5);

/// From this round on all wait equally long: `SHORTEST`, doubled with each round, is above `LONGEST` by then.
const COMMON_ROUND: u32 = 7;

/// How much longer each round waits than the one before it, beyond the doubling.
const LATER: Duration = Duration::from_millis(250);

/// The committee of the height after a state's last block.
pub(crate) fn committee(state: &State) -> Committee {
    led(state.validators(), |site| state.is_suspended(site), state.header())
}

/// Its first proposer is the last block's builder, or the one after it when its tenure ended or it no longer is a
/// validator. Who is suspended does not propose, as long as anybody else can.
fn led(validators: &[SiteId], is_suspended: impl Fn(&SiteId) -> bool, last: Option<&Header>) -> Committee {
    let mut turns: Vec<SiteId> = validators.iter().filter(|site| !is_suspended(site)).copied().collect();
    if turns.is_empty() {
        turns = validators.to_vec();
    }
    let first = last.map_or(0, |header| {
        let ended = header.height.0 % TENURE == 0;
        match turns.binary_search(&header.proposer) {
            Ok(seat) => (seat + usize::from(ended)) % turns.len(),
            Err(seat) => seat % turns.len(),
        }
    });
    Committee::new(validators, &turns, first)
}

/// Timeouts that follow how long decisions take.
#[derive(Debug)]
pub(crate) struct Pace {
    spans: VecDeque<Duration>,
}

impl Pace {
    pub fn new() -> Self {
        Self { spans: VecDeque::with_capacity(OBSERVED) }
    }

    /// A round took this long from its start to the decision. A round that waited for its first record says nothing.
    pub fn observe(&mut self, span: Millis) {
        if span > Millis(5000) {
            return;
        }
        if self.spans.len() == OBSERVED {
            self.spans.pop_front();
        }
        self.spans.push_back(Duration::from_millis(span.0));
    }

    /// Four times the longest recent decision, within bounds: a proposal takes a third of a decision.
    pub fn propose(&self) -> Duration {
        self.spans.iter().max().map_or(FIRST_GUESS, |longest| (*longest * 4).clamp(SHORTEST, LONGEST))
    }

    /// How long to wait. A round ends with a decision only if those whose votes it takes are in it at the same time, so what
    /// sites have observed, each for itself, must not keep them apart: from some round on all wait equally long. And later
    /// rounds wait longer, so that they end up long enough for any network.
    pub fn span(&self, timeout: Timeout) -> Millis {
        let round = timeout.round.as_u32().unwrap_or(0);
        let common = SHORTEST.saturating_mul(1 << round.min(COMMON_ROUND));
        let propose = self.propose().max(common).min(LONGEST) + (LATER * round).min(LONGEST);
        let span = match timeout.kind {
            TimeoutKind::Propose => propose,
            // Repeats what may have been lost with a connection; a loaded network is not helped by repeating.
            TimeoutKind::Rebroadcast => (self.propose() * 4).max(Duration::from_millis(500)),
            _ => propose / 2,
        };
        Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Height;
    use crate::testing::{Mesh, register, site};
    use godwit_protocol::Message;

    fn validators() -> Vec<SiteId> {
        Mesh::new().state.validators().to_vec()
    }

    fn header(height: u64, proposer: SiteId) -> Header {
        let mut mesh = Mesh::new();
        mesh.say(0, Message::Register(register(1)));
        let header = mesh.state.header().expect("a block").clone();
        Header { height: Height(height), proposer, ..header }
    }

    fn honest(validators: &[SiteId], last: Option<&Header>) -> Committee {
        led(validators, |_| false, last)
    }

    #[test]
    fn who_is_suspended_votes_and_does_not_propose_while_another_can() {
        let all = validators();
        let without =
            |gone: &[usize]| led(&all, |site| gone.iter().any(|n| all[*n] == *site), Some(&header(5, all[1])));
        let proposers = |committee: &Committee| (0..4).map(|round| committee.proposer(round)).collect::<Vec<_>>();
        assert_eq!(proposers(&without(&[1])), [all[2], all[3], all[0], all[2]]);
        assert_eq!((without(&[1]).len(), without(&[1]).contains(&all[1])), (4, true));
        assert_eq!(proposers(&without(&[0, 1, 2, 3])), [all[1], all[2], all[3], all[0]]);
    }

    #[test]
    fn the_last_blocks_proposer_leads_until_its_tenure_ends_and_the_others_follow_in_turn() {
        let all = validators();
        let led = honest(&all, Some(&header(5, all[2])));
        assert_eq!(
            (0..5).map(|round| led.proposer(round)).collect::<Vec<_>>(),
            [all[2], all[3], all[0], all[1], all[2]]
        );
        assert_eq!(honest(&all, Some(&header(64, all[3]))).proposer(0), all[0]);
        assert_eq!(honest(&all, None).proposer(0), all[0]);
    }

    #[test]
    fn a_proposer_that_left_is_followed_by_a_validator() {
        let all = validators();
        let stranger = site(9);
        assert!(all.contains(&honest(&all, Some(&header(5, stranger))).proposer(0)));
    }

    #[test]
    fn the_wait_for_a_proposal_follows_the_slowest_recent_decision() {
        let mut pace = Pace::new();
        assert_eq!(pace.propose(), FIRST_GUESS);
        pace.observe(Millis(3));
        assert_eq!(pace.propose(), SHORTEST);
        pace.observe(Millis(100));
        assert_eq!(pace.propose(), Duration::from_millis(400));
        pace.observe(Millis(60_000));
        assert_eq!(pace.propose(), Duration::from_millis(400));
        pace.observe(Millis(5000));
        assert_eq!(pace.propose(), LONGEST);
        (0..OBSERVED).for_each(|_| pace.observe(Millis(100)));
        assert_eq!(pace.propose(), Duration::from_millis(400));
    }

    #[test]
    fn in_late_rounds_all_wait_equally_long_whatever_they_have_observed() {
        use malachitebft_core_types::Round;
        let (mut fast, mut slow) = (Pace::new(), Pace::new());
        fast.observe(Millis(3));
        slow.observe(Millis(5000));
        for kind in [TimeoutKind::Propose, TimeoutKind::Prevote, TimeoutKind::Precommit] {
            let span = |pace: &Pace, round| pace.span(Timeout::new(Round::new(round), kind));
            assert!(span(&fast, 0) < span(&slow, 0));
            for round in COMMON_ROUND..100 {
                assert_eq!(span(&fast, round), span(&slow, round), "{kind:?} of round {round}");
            }
            assert!((1..100).all(|round| span(&fast, round - 1) <= span(&fast, round)));
            assert!(span(&slow, 1_000) <= Millis(10_000), "rounds go on");
        }
    }
}
