//! How much gossip is taken of one neighbour, before any of it is looked at: verifying costs processor time, and whoever floods
//! must not take that of the others.
//!
//! By the neighbour that the connection proves, not by the author that a message claims: a forger could use up another's share.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Between two messages of one neighbour, in the long run. 2,500 messages a second take an eighth of a processor to verify, and
/// are half of what a mesh at its limit commits; what is refused comes again, directly.
const INTERVAL: Duration = Duration::from_micros(400);

/// How far ahead of that it may be: a second's worth at once, as after a pause of the link.
const BURST: Duration = Duration::from_secs(1);

/// When each neighbour's next message would be due if its messages came evenly.
#[derive(Debug, Default)]
pub struct Pace(HashMap<PeerId, Instant>);

impl Pace {
    /// Whether one more message of a neighbour is taken now.
    pub fn admits(&mut self, neighbour: PeerId, now: Instant) -> bool {
        let due = self.0.entry(neighbour).or_insert(now);
        let next = (*due).max(now);
        let admitted = next.duration_since(now) < BURST;
        if admitted {
            *due = next + INTERVAL;
        }
        admitted
    }

    /// Forgets those who are no members any more. A member's share outlives its connection: it would come back for another.
    pub fn retain(&mut self, is_member: impl Fn(&PeerId) -> bool) {
        self.0.retain(|neighbour, _| is_member(neighbour));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(pace: &mut Pace, neighbour: PeerId, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| pace.admits(neighbour, now)).count()
    }

    #[test]
    fn who_floods_is_held_to_a_burst_and_a_rate_and_the_others_are_not() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let (flooder, other) = (PeerId::random(), PeerId::random());
        assert_eq!(admitted(&mut pace, flooder, start, 10_000), 2_500);
        assert_eq!(admitted(&mut pace, other, start, 100), 100);
        let later = start + Duration::from_millis(100);
        assert_eq!(admitted(&mut pace, flooder, later, 10_000), 250, "what has become due since");
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(admitted(&mut pace, flooder, much_later, 10_000), 2_500, "silence saves up one burst, no more");
    }

    #[test]
    fn an_even_stream_at_the_rate_is_taken_for_ever() {
        let (mut pace, start, neighbour) = (Pace::default(), Instant::now(), PeerId::random());
        assert!((0..10_000).all(|n| pace.admits(neighbour, start + INTERVAL * n)));
    }

    #[test]
    fn only_members_are_remembered() {
        let (mut pace, start, neighbour) = (Pace::default(), Instant::now(), PeerId::random());
        assert!(pace.admits(neighbour, start));
        pace.retain(|_| false);
        assert!(pace.0.is_empty());
    }
}
