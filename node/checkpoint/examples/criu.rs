//! How long a held dump and a held restore take: medians, in a lab of one machine.
//!
//! `cargo run --release -p godwit-checkpoint --example criu [MEGABYTES [ROUNDS]]`, as root, with the lab's base system.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::container::{Container, criu, inherit, restore, soon};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["workload", megabytes] => common::container::workload(megabytes.parse().unwrap()),
        [megabytes, rounds] if common::inside() => measure(megabytes.parse().unwrap(), rounds.parse().unwrap()),
        _ => {
            let megabytes = arguments.first().unwrap_or(&"1");
            let rounds = arguments.get(1).unwrap_or(&"21");
            match common::in_lab(&[megabytes, rounds]) {
                Ok(said) => print!("{said}"),
                Err(reason) => panic!("{reason}"),
            }
        }
    }
}

fn measure(megabytes: usize, rounds: usize) {
    let mut container = Container::start(megabytes);
    let [mut dump, mut lazy, mut abort, mut commit, mut hold, mut release] = [const { Vec::new() }; 6];
    for _ in 0..rounds {
        let worker = criu().worker(Vec::new()).unwrap();
        let request = container.dump(true);
        settle();
        let held = timed(&mut lazy, || worker.dump(&request, soon()).unwrap());
        timed(&mut abort, || held.abort(soon()).unwrap());

        let worker = criu().worker(Vec::new()).unwrap();
        let request = container.dump(false);
        settle();
        let held = timed(&mut dump, || worker.dump(&request, soon()).unwrap());
        timed(&mut commit, || held.commit(soon()).unwrap());
        container.reap();

        let worker = criu().worker(inherit("site")).unwrap();
        let request = restore(false);
        settle();
        let held = timed(&mut hold, || worker.restore(&request, soon()).unwrap());
        container.pid = timed(&mut release, || held.release(soon()).unwrap());
        assert_eq!(container.report().wrong, 0);
    }
    println!("{megabytes} MB, medians of {rounds} rounds, ms");
    for (what, times) in [
        ("dump until held", &mut dump),
        ("lazy dump until held", &mut lazy),
        ("abort", &mut abort),
        ("commit", &mut commit),
        ("restore until held", &mut hold),
        ("release", &mut release),
    ] {
        times.sort_unstable();
        let least = times[0].as_secs_f64() * 1e3;
        println!("{what:22} {:7.1}   least {least:.1}", times[times.len() / 2].as_secs_f64() * 1e3);
    }
}

/// What was started ahead of time is ready, as it would be.
fn settle() {
    std::thread::sleep(Duration::from_millis(30));
}

fn timed<T>(times: &mut Vec<Duration>, action: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = action();
    times.push(start.elapsed());
    done
}
