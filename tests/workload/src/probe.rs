//! The kept TCP connection, asking side: one connection, and what its user sees of a migration.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::gaps::{Gaps, ms, wall_clock_ns};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often the probe looks up from reading: bounds neither what it measures nor how exactly.
const LOOK_UP: Duration = Duration::from_millis(20);
const PING_EVERY: Duration = Duration::from_millis(50);
/// A server line is a few dozen bytes.
const LINE_MAX: usize = 512;

/// What came over the connection so far. Times are wall-clock nanoseconds of the client, which never stands still.
#[derive(Default)]
pub struct Observation {
    /// Between server lines as they arrive: the stall a client sees.
    arrivals: Gaps,
    /// Between server lines as they were sent: the gap of the server.
    departures: Gaps,
    last_arrival_ns: u64,
    last_seq: u64,
    pings: u64,
    /// When the pings not yet answered were sent.
    unanswered: std::collections::VecDeque<u64>,
    answers: u64,
    max_round_trip_ns: u64,
    /// The first line that was not what had to come.
    flaw: Option<String>,
    /// Why the connection ended before the probe did.
    broken: Option<String>,
    elapsed: Duration,
    /// Since the last line: a connection that nobody serves any more does not break, it falls silent.
    silent_ns: u64,
}

/// Keeps one connection to `address` for `length`, or until `stop`, or until it breaks.
///
/// # Errors
/// When the connection cannot be made; one that breaks later is a result.
pub fn run(address: SocketAddr, length: Option<Duration>, stop: &AtomicBool) -> anyhow::Result<Observation> {
    let mut stream =
        TcpStream::connect_timeout(&address, CONNECT_MAX).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    stream.set_read_timeout(Some(LOOK_UP)).context("SO_RCVTIMEO")?;
    stream.set_write_timeout(Some(CONNECT_MAX)).context("SO_SNDTIMEO")?;

    // A wall clock that nobody sets while the probe runs.
    let (start, start_ns) = (Instant::now(), wall_clock_ns());
    let now_ns = || start_ns + u64::try_from(start.elapsed().as_nanos()).expect("less than 584 years");
    let mut seen = Observation::default();
    let mut received = Vec::new();
    let mut next_ping = start;
    while !stop.load(Relaxed) && length.is_none_or(|length| start.elapsed() < length) && seen.is_well() {
        if Instant::now() >= next_ping {
            next_ping = Instant::now() + PING_EVERY;
            let ping = seen.ping(now_ns());
            seen.broken = stream.write_all(ping.as_bytes()).err().map(|error| format!("send: {error}"));
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => seen.broken = Some("closed by the server".into()),
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => seen.broken = Some(format!("receive: {error}")),
        }
        let none_before = seen.last_seq == 0;
        seen.take_lines(&mut received, now_ns());
        if none_before && seen.last_seq > 0 {
            // From here on nothing escapes: whoever started the probe may begin what it is to see.
            eprintln!("probe: connected to {address}");
        }
    }
    seen.end(now_ns(), start.elapsed());
    Ok(seen)
}

impl Observation {
    /// Neither broken nor out of sequence.
    pub fn is_well(&self) -> bool {
        self.broken.is_none() && self.flaw.is_none()
    }

    fn ping(&mut self, now_ns: u64) -> String {
        self.pings += 1;
        self.unanswered.push_back(now_ns);
        format!("ping {}\n", self.pings)
    }

    fn take_lines(&mut self, received: &mut Vec<u8>, now_ns: u64) {
        while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = received.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line[..end]).as_ref(), now_ns);
        }
        if received.len() > LINE_MAX {
            self.flaw.get_or_insert("a line without end".into());
        }
    }

    fn line(&mut self, line: &str, now_ns: u64) {
        let expected_answer = format!("echo ping {}", self.answers + 1);
        if let Some(sent_ns) = self.unanswered.front().filter(|_| line == expected_answer) {
            self.max_round_trip_ns = self.max_round_trip_ns.max(now_ns.saturating_sub(*sent_ns));
            self.unanswered.pop_front();
            self.answers += 1;
            return;
        }
        match line.split_once(' ').map(|(seq, at)| (seq.parse(), at.parse())) {
            Some((Ok(seq), Ok(sent_ns))) if seq == self.last_seq + 1 => {
                self.last_seq = seq;
                self.last_arrival_ns = now_ns;
                self.arrivals.tick(now_ns);
                self.departures.tick(sent_ns);
            }
            _ => {
                let after = self.last_seq;
                self.flaw.get_or_insert_with(|| format!("after line {after}: {:.60}", line.escape_default()));
            }
        }
    }

    /// Counts the silence and the pings that are still without an end.
    fn end(&mut self, now_ns: u64, elapsed: Duration) {
        self.elapsed = elapsed;
        if self.last_seq > 0 {
            self.silent_ns = now_ns.saturating_sub(self.last_arrival_ns);
            self.arrivals.tick(now_ns);
        }
        if let Some(sent_ns) = self.unanswered.front() {
            self.max_round_trip_ns = self.max_round_trip_ns.max(now_ns.saturating_sub(*sent_ns));
        }
    }

    pub fn json(&self) -> String {
        let text = |value: &Option<String>| value.as_ref().map_or("null".into(), |text| format!("{text:?}"));
        format!(
            r#"{{"seconds":{},"lines":{},"max_stall_ms":{},"max_server_gap_ms":{},"pings":{},"answers":{},"max_round_trip_ms":{},"unbroken":{},"flaw":{},"connection_broken":{},"broken_by":{},"silent_ms":{},"stalls":{}}}"#,
            self.elapsed.as_secs_f64(),
            self.last_seq,
            self.arrivals.max_gap_ms(),
            self.departures.max_gap_ms(),
            self.pings,
            self.answers,
            ms(self.max_round_trip_ns),
            self.flaw.is_none(),
            text(&self.flaw),
            self.broken.is_some(),
            text(&self.broken),
            ms(self.silent_ns),
            self.arrivals.recent_json(),
        )
    }

    /// A line for people.
    pub fn text(&self) -> String {
        format!(
            "max stall {} ms, {} lines in {:.1} s, sequence {}, connection {}, {} of {} pings answered, slowest {} ms, silent for {} ms at the end",
            self.arrivals.max_gap_ms(),
            self.last_seq,
            self.elapsed.as_secs_f64(),
            self.flaw.as_deref().map_or("unbroken".into(), |flaw| format!("BROKEN {flaw}")),
            self.broken.as_deref().map_or("kept".into(), |why| format!("BROKEN ({why})")),
            self.answers,
            self.pings,
            ms(self.max_round_trip_ns),
            ms(self.silent_ns),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn after(lines: &[(&str, u64)]) -> Observation {
        let mut seen = Observation::default();
        seen.ping(0);
        seen.ping(50 * MS);
        lines.iter().for_each(|(line, at_ms)| seen.line(line, at_ms * MS));
        seen
    }

    #[test]
    fn a_stall_is_measured_at_the_client_and_at_the_server() {
        let mut seen = after(&[
            ("1 10000000", 10),
            ("echo ping 1", 11),
            ("2 20000000", 20),
            ("3 90000000", 110),
            ("echo ping 2", 111),
        ]);
        seen.end(115 * MS, Duration::from_millis(115));
        assert!(seen.is_well());
        assert_eq!((seen.arrivals.max_gap_ms(), seen.departures.max_gap_ms()), ("90.000".into(), "70.000".into()));
        assert_eq!((seen.last_seq, seen.answers, seen.max_round_trip_ns), (3, 2, 61 * MS));
    }

    #[test]
    fn silence_at_the_end_counts() {
        let mut seen = after(&[("1 1", 1), ("2 2", 11)]);
        seen.end(5011 * MS, Duration::from_secs(5));
        assert_eq!(
            (seen.arrivals.max_gap_ms(), seen.silent_ns, seen.max_round_trip_ns),
            ("5000.000".into(), 5000 * MS, 5011 * MS)
        );
    }

    #[test]
    fn lost_repeated_and_foreign_lines_are_flaws() {
        for lines in [
            &[("2 1", 1)][..],
            &[("1 1", 1), ("1 2", 2)],
            &[("1 1", 1), ("3 2", 2)],
            &[("echo ping 2", 1)],
            &[("echo ping 1", 1), ("echo ping 1", 2)],
            &[("echo ping 1", 1), ("echo ping 2", 2), ("echo ping 3", 3)],
            &[("1 x", 1)],
            &[("", 1)],
        ] {
            assert!(after(lines).flaw.is_some(), "{lines:?}");
        }
    }

    #[test]
    fn lines_may_arrive_in_any_portions() {
        let mut seen = Observation::default();
        let mut received = Vec::new();
        for byte in b"1 5\n2 6\n3 7\n" {
            received.push(*byte);
            seen.take_lines(&mut received, MS);
        }
        assert!(seen.is_well() && received.is_empty());
        assert_eq!(seen.last_seq, 3);
        received.extend([b'4'; LINE_MAX + 1]);
        seen.take_lines(&mut received, MS);
        assert!(!seen.is_well());
    }
}
