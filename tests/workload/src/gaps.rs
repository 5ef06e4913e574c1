//! How long a process, or a peer it listens to, stood still.
//!
//! Wall-clock time throughout: CLOCK_MONOTONIC inside a restored process hides part of a gap. Between two hosts a gap is
//! therefore as exact as their clocks agree; a clock set back hides it.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// A shorter gap is the scheduler's doing more often than a migration's.
const WORTH_KEEPING_NS: u64 = 20_000_000;
/// Enough for every handoff of a long test; what a busy machine adds must not grow without end.
const KEPT_MAX: usize = 64;

/// Nothing happened between these two moments, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub start_ns: u64,
    pub end_ns: u64,
}

/// Counts ticks and keeps the largest gap and the latest large ones.
#[derive(Default)]
pub struct Gaps {
    ticks: u64,
    last_ns: Option<u64>,
    largest: Option<Gap>,
    recent: VecDeque<Gap>,
}

impl Gap {
    pub fn length_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    pub fn json(&self) -> String {
        let Self { start_ns, end_ns } = self;
        format!(r#"{{"start_ns":{start_ns},"end_ns":{end_ns},"ms":{}}}"#, ms(self.length_ns()))
    }
}

impl Gaps {
    /// Something happened at `now_ns` (nanoseconds since 1970).
    pub fn tick(&mut self, now_ns: u64) {
        self.ticks += 1;
        let Some(start_ns) = self.last_ns.replace(now_ns) else { return };
        let gap = Gap { start_ns, end_ns: now_ns };
        if self.largest.is_none_or(|largest| largest.length_ns() < gap.length_ns()) {
            self.largest = Some(gap);
        }
        if gap.length_ns() > WORTH_KEEPING_NS {
            self.recent.truncate(KEPT_MAX - 1);
            self.recent.push_front(gap);
        }
    }

    /// Forgets the gaps. Ticks and the time of the last one stay, so a gap that is under way is not lost.
    pub fn reset(&mut self) {
        self.largest = None;
        self.recent.clear();
    }

    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Milliseconds, to the microsecond, as JSON.
    pub fn max_gap_ms(&self) -> String {
        ms(self.largest.map_or(0, |gap| gap.length_ns()))
    }

    /// The latest large gaps, newest first.
    pub fn recent_json(&self) -> String {
        let gaps: Vec<String> = self.recent.iter().map(Gap::json).collect();
        format!("[{}]", gaps.join(","))
    }

    pub fn json(&self) -> String {
        let largest = self.largest.map_or("null".into(), |gap| gap.json());
        format!(
            r#"{{"max_gap_ms":{},"largest":{largest},"over_ms":{},"recent":{}}}"#,
            self.max_gap_ms(),
            ms(WORTH_KEEPING_NS),
            self.recent_json()
        )
    }
}

/// CLOCK_REALTIME, in nanoseconds since 1970.
pub fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("before the year 2554")
}

/// Nanoseconds as milliseconds with three decimals.
pub fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn after(ticks_ms: &[u64]) -> Gaps {
        let mut gaps = Gaps::default();
        ticks_ms.iter().for_each(|at| gaps.tick(at * MS));
        gaps
    }

    #[test]
    fn the_largest_gap_is_kept_and_small_ones_are_not_listed() {
        let gaps = after(&[1000, 1001, 1021, 1072, 1073, 1094]);
        assert_eq!((gaps.ticks(), gaps.max_gap_ms()), (6, "51.000".into()));
        let newest = Gap { start_ns: 1073 * MS, end_ns: 1094 * MS };
        let largest = Gap { start_ns: 1021 * MS, end_ns: 1072 * MS };
        assert_eq!(gaps.recent, [newest, largest]);
        assert_eq!(
            gaps.json(),
            format!(
                r#"{{"max_gap_ms":51.000,"largest":{0},"over_ms":20.000,"recent":[{1},{0}]}}"#,
                largest.json(),
                newest.json()
            )
        );
    }

    #[test]
    fn only_the_latest_gaps_are_kept() {
        let ticks: Vec<u64> = (0..=KEPT_MAX as u64 + 10).map(|n| n * 30 + n * n).collect();
        let gaps = after(&ticks);
        assert_eq!(gaps.recent.len(), KEPT_MAX);
        assert_eq!(gaps.recent[0].end_ns, ticks.last().unwrap() * MS);
        assert_eq!(gaps.recent[KEPT_MAX - 1].start_ns, ticks[10] * MS);
    }

    #[test]
    fn a_gap_under_way_survives_a_reset() {
        let mut gaps = after(&[0, 500]);
        gaps.reset();
        assert_eq!((gaps.ticks(), gaps.max_gap_ms(), gaps.recent_json()), (2, "0.000".into(), "[]".into()));
        gaps.tick(800 * MS);
        assert_eq!((gaps.ticks(), gaps.max_gap_ms()), (3, "300.000".into()));
    }

    #[test]
    fn a_clock_set_back_is_no_gap() {
        assert_eq!(after(&[1000, 400, 401]).max_gap_ms(), "1.000");
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        assert_eq!((ms(0), ms(1_002_345), ms(51 * MS)), ("0.000".into(), "1.002".into(), "51.000".into()));
    }
}
