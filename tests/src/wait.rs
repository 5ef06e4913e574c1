//! Waiting for a condition. Tests never sleep to let something happen: they ask until it has.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For what takes a healthy mesh seconds on a busy machine. It bounds a hang; it asserts no speed.
pub const LONG: Duration = Duration::from_secs(120);

/// A wait that is worth a line in the test's output.
const NOTABLE: Duration = Duration::from_secs(1);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `poll` until it has an answer.
///
/// # Errors
/// When there is none after `limit`: with the last reason that `poll` gave for it.
pub fn until<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match poll() {
            Ok(answer) => {
                if start.elapsed() > NOTABLE {
                    eprintln!("waited {:.1} s for: {what}", start.elapsed().as_secs_f64());
                }
                return Ok(answer);
            }
            Err(why) if start.elapsed() > limit => bail!("waited {} s for: {what}; last: {why:#}", limit.as_secs()),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
