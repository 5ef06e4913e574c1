//! How many pages are asked for ahead, so that the link is never idle and a fault's answer never waits long behind them.
//!
//! The window grows while pushes are answered about as fast as the fastest was, and shrinks when they begin to queue: what
//! queues in front of a fault is then bounded by a delay, whatever the link's rate.
//!
//! Invariant: knows no clock; the caller says what time it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::PAGE;

/// Pages of one push.
pub(super) const PUSH: u64 = 64;
/// Two pushes, so that the second is asked for while the first travels.
const WINDOW_MIN: u64 = 2 * PUSH;
/// 32 MiB: 10 Gbit/s over 25 ms.
const WINDOW_MAX: u64 = 8192;
/// Time that pushes may queue. A fault waits this much longer than on an idle link.
const QUEUE: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Push {
    pid: i32,
    address: u64,
    pages: u64,
    missing: u64,
    asked: Instant,
}

/// The pushes that are under way.
#[derive(Debug)]
pub(super) struct Pace {
    window: u64,
    under_way: u64,
    pushes: VecDeque<Push>,
    fastest: Option<Duration>,
}

impl Pace {
    pub fn new() -> Self {
        Self { window: WINDOW_MIN, under_way: 0, pushes: VecDeque::new(), fastest: None }
    }

    /// Whether another push may be asked for.
    pub fn allows(&self) -> bool {
        self.under_way + PUSH <= self.window
    }

    pub fn asked(&mut self, pid: i32, address: u64, pages: u64, now: Instant) {
        self.under_way += pages;
        self.pushes.push_back(Push { pid, address, pages, missing: pages, asked: now });
    }

    /// Pages arrived: how many of them had been asked for in a push.
    pub fn arrived(&mut self, pid: i32, address: u64, pages: u64, now: Instant) -> u64 {
        let end = address + pages * PAGE;
        let mut pushed = 0;
        for push in self.pushes.iter_mut().filter(|push| push.pid == pid) {
            let from = address.max(push.address);
            let to = end.min(push.address + push.pages * PAGE);
            if from >= to {
                continue;
            }
            let part = ((to - from) / PAGE).min(push.missing);
            // One page may have been hurried; a whole portion tells how long the queue is.
            if part > 1 && push.missing == push.pages {
                let took = now.saturating_duration_since(push.asked);
                let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
                self.fastest = Some(fastest);
                let queued = took > fastest + QUEUE;
                self.window = if queued { self.window - self.window / 8 } else { self.window + PUSH };
                self.window = self.window.clamp(WINDOW_MIN, WINDOW_MAX);
            }
            push.missing -= part;
            pushed += part;
        }
        self.under_way -= pushed;
        self.pushes.retain(|push| push.missing > 0);
        pushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that carries a page in `page_us` after `delay_us`: how many pages end up under way.
    fn settled(page_us: u64, delay_us: u64) -> u64 {
        let (mut pace, start, mut address) = (Pace::new(), Instant::now(), 0);
        let (mut now, mut free, mut wire) = (0, 0, VecDeque::new());
        let at = |us| start + Duration::from_micros(us);
        for _ in 0..20_000 {
            while pace.allows() {
                pace.asked(1, address, PUSH, at(now));
                free = (now + delay_us).max(free) + PUSH * page_us;
                wire.push_back((address, free));
                address += PUSH * PAGE;
            }
            let (arrived, when) = wire.pop_front().unwrap();
            now = when;
            assert_eq!(pace.arrived(1, arrived, PUSH, at(now)), PUSH);
        }
        pace.under_way
    }

    #[test]
    fn what_is_under_way_fits_the_link() {
        // At 1 Gbit/s a page takes 34 us: the delay's worth of pages, 2 ms of queue, and the push that overshoots.
        for (page_us, delay_us) in [(34, 200), (34, 10_000), (340, 200), (4, 1000)] {
            let (pages, least) = (settled(page_us, delay_us), delay_us / page_us);
            let most = WINDOW_MIN.max((delay_us + 2 * 2000 + 2 * PUSH * page_us) / page_us + 2 * PUSH);
            assert!(pages + PUSH >= least.min(WINDOW_MAX) && pages <= most, "{page_us} {delay_us}: {pages}");
        }
    }

    #[test]
    fn pages_that_faults_asked_for_do_not_count() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        pace.asked(1, 0x10_000, PUSH, now);
        assert_eq!(pace.arrived(1, 0x1000, 1, now), 0);
        assert_eq!(pace.arrived(2, 0x10_000, 1, now), 0);
        assert_eq!(pace.arrived(1, 0x10_000, 1, now), 1);
        assert_eq!((pace.arrived(1, 0x10_000 + PAGE, PUSH, now), pace.under_way), (PUSH - 1, 0));
    }
}
