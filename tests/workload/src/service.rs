//! The state of a running workload, and what it answers, in JSON.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | instance, pid, ticks, uptime_ms, generation, pages_written, memory_mb, max_gap_ms, wrong_pages (of the latest verification, or null), acknowledged (how many) |
//! | `GET /gaps` | the largest gap between two ticks, and the latest ones above 20 ms, newest first |
//! | `POST /reset` | forgets the gaps (GET does too) |
//! | `GET /verify` | walks all memory; how many pages are wrong, and the first of them |
//! | `GET /journal` | reads the file back: whether its sequence is unbroken and what it holds is what was acknowledged |
//! | `POST /acknowledge?n=K` | K, made durable before the answer; and how many there are now |
//! | `GET /acknowledged` | all values, in the order of their acknowledgement |

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};

use crate::gaps::{Gaps, wall_clock_ns};
use crate::http::{Answer, Request, refuse};
use crate::journal::Journal;
use crate::memory::{Memory, Verification};

pub struct Service {
    /// Drawn at the start: a copy that was started anew, instead of being moved, has another.
    pub instance: u64,
    pub started_ns: u64,
    pub memory_mb: u64,
    pub memory: Memory,
    pub gaps: Mutex<Gaps>,
    pub journal: Mutex<Journal>,
    /// Of the latest `/verify`.
    pub verification: Mutex<Option<Verification>>,
}

impl Service {
    pub fn answer(&self, request: &Request) -> Answer {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => (200, self.summary()),
            ("GET", "/gaps") => (200, lock(&self.gaps).json()),
            ("GET" | "POST", "/reset") => self.reset(),
            ("GET", "/verify") => (200, self.verify()),
            ("GET", "/journal") => self.check_journal(),
            ("GET", "/acknowledged") => (200, self.acknowledged()),
            ("POST", "/acknowledge") => self.acknowledge(&request.query),
            (_, "/" | "/gaps" | "/reset" | "/verify" | "/journal" | "/acknowledged" | "/acknowledge") => {
                refuse(405, "method not allowed here")
            }
            _ => refuse(404, "no such path"),
        }
    }

    fn summary(&self) -> String {
        let (ticks, max_gap_ms) = {
            let gaps = lock(&self.gaps);
            (gaps.ticks(), gaps.max_gap_ms())
        };
        let wrong = lock(&self.verification).as_ref().map_or("null".into(), |found| found.wrong.to_string());
        format!(
            r#"{{"instance":"{:016x}","pid":{},"ticks":{ticks},"uptime_ms":{},"generation":{},"pages_written":{},"memory_mb":{},"max_gap_ms":{max_gap_ms},"wrong_pages":{wrong},"acknowledged":{}}}"#,
            self.instance,
            std::process::id(),
            wall_clock_ns().saturating_sub(self.started_ns) / 1_000_000,
            self.memory.generation(),
            self.memory.written(),
            self.memory_mb,
            lock(&self.journal).acknowledged().len(),
        )
    }

    fn reset(&self) -> Answer {
        lock(&self.gaps).reset();
        (200, r#"{"reset":true}"#.into())
    }

    fn verify(&self) -> String {
        let found = self.memory.verify();
        let first = found.first_wrong.map_or("null".into(), |page| page.to_string());
        let json = format!(
            r#"{{"pages":{},"wrong_pages":{},"first_wrong":{first},"generation":{}}}"#,
            found.pages,
            found.wrong,
            self.memory.generation()
        );
        *lock(&self.verification) = Some(found);
        json
    }

    fn check_journal(&self) -> Answer {
        let expected = lock(&self.journal).expected();
        match expected.and_then(|expected| expected.check()) {
            Ok(json) => (200, json),
            Err(error) => refuse(500, &format!("read journal: {error}")),
        }
    }

    fn acknowledged(&self) -> String {
        let journal = lock(&self.journal);
        let values = journal.acknowledged();
        let mut json = format!(r#"{{"count":{},"values":["#, values.len());
        for (n, value) in values.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(json, "{comma}{value}").expect("a string takes all");
        }
        json + "]}"
    }

    fn acknowledge(&self, query: &str) -> Answer {
        let value = query.split('&').find_map(|pair| pair.strip_prefix("n="));
        let Some(Ok(value)) = value.map(str::parse::<u64>) else {
            return refuse(400, "expected ?n=NUMBER");
        };
        match lock(&self.journal).acknowledge(value) {
            Ok(count) => (200, format!(r#"{{"acknowledged":{value},"count":{count}}}"#)),
            Err(error) => refuse(507, &format!("{error:#}")),
        }
    }
}

/// A thread that panics ends the process, so no lock is ever found poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic ends the process")
}
