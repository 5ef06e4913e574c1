//! The payload of a test container: counts, holds and dirties memory, writes a file, serves HTTP and TCP, and records
//! the gaps it lived through, so that state, downtime and client stalls are measured by something real.
//!
//! Plain threads, blocking sockets and one regular file: nothing that CRIU cannot checkpoint. It runs as PID 1 of an
//! image that holds nothing else, therefore it also is the client that asks another one of its kind.

mod accept;
mod arguments;
mod gaps;
mod http;
mod journal;
mod memory;
mod probe;
mod service;
mod stream;

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use arguments::{Command, Serve};
use gaps::wall_clock_ns;
use journal::Journal;
use memory::{Memory, PAGES_PER_MB};
use service::{Service, lock};

const TICK: Duration = Duration::from_millis(1);
const JOURNAL_EVERY: Duration = Duration::from_millis(100);
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Broken or wrong is 1, so that a script can tell it from what could not be tried.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("workload: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match arguments::parse(std::env::args().skip(1)).context(arguments::USAGE)? {
        Command::Serve(options) => serve(&options),
        Command::Probe { address, length, json } => {
            let signals = block_signals()?;
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            thread::spawn(move || {
                let _ = signals.wait();
                stopped.store(true, Relaxed);
            });
            let seen = probe::run(address, length, &stop)?;
            println!("{}", if json { seen.json() } else { seen.text() });
            Ok(if seen.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Http { address, target, method, timeout } => {
            let (status, body) = http::ask(address, &method, &target, timeout)?;
            std::io::stdout().write_all(&body).context("print body")?;
            if (200..300).contains(&status) {
                return Ok(ExitCode::SUCCESS);
            }
            eprintln!("workload: {method} {target}: status {status}");
            Ok(ExitCode::FAILURE)
        }
        Command::Help => {
            println!("{}", arguments::USAGE);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve(options: &Serve) -> anyhow::Result<ExitCode> {
    // Before the first thread, so that all inherit it.
    let signals = block_signals()?;
    end_process_on_panic();
    let (http, lines) = listen(options.port)?;
    let port = http.local_addr().context("own address")?.port();
    // The standard library's hash keys are the kernel's random numbers.
    let instance = RandomState::new().hash_one(0);
    let service = Arc::new(Service {
        instance,
        started_ns: wall_clock_ns(),
        memory_mb: options.memory_mb,
        journal: Mutex::new(Journal::open(&options.file, instance, options.fsync)?),
        memory: Memory::new(options.memory_mb, options.threads, instance)?,
        gaps: Mutex::default(),
        verification: Mutex::default(),
    });
    say(&format!("instance {instance:016x} http {port} lines {}", port + 1));
    start_threads(&service, options);

    let answering = Arc::clone(&service);
    thread::spawn(move || {
        accept::forever(&http, move |stream| http::serve(stream, |request| answering.answer(request)))
    });
    thread::spawn(move || accept::forever(&lines, stream::serve));

    signals.wait().context("wait for a signal")?;
    exit(0)
}

fn start_threads(service: &Arc<Service>, options: &Serve) {
    every(TICK, Arc::clone(service), |service| lock(&service.gaps).tick(wall_clock_ns()));
    every(JOURNAL_EVERY, Arc::clone(service), |service| lock(&service.journal).tick(wall_clock_ns() / 1_000_000));
    every(LOG_EVERY, 0u64, |seconds| {
        *seconds += 1;
        say(&format!("tick {seconds}"));
    });

    let pages_per_s = options.dirty_mb_per_s * PAGES_PER_MB;
    let threads = options.threads as u64;
    for stripe in 0..options.threads {
        // What does not divide goes to the first ones.
        let mine = pages_per_s / threads + u64::from((stripe as u64) < pages_per_s % threads);
        let service = Arc::clone(service);
        thread::spawn(move || service.memory.dirty_forever(stripe, mine));
    }
}

fn every<T: Send + 'static>(interval: Duration, mut state: T, act: impl Fn(&mut T) + Send + 'static) {
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            act(&mut state);
        }
    });
}

/// Writes a line to the log. A reader that went away must not end what it read from.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Binds `port` and the one after it; with 0 any two that are free and follow each other.
fn listen(port: u16) -> anyhow::Result<(TcpListener, TcpListener)> {
    let bind =
        |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("listen on port {port}"));
    let mut attempts = if port == 0 { 16 } else { 1 };
    loop {
        attempts -= 1;
        let http = bind(port)?;
        let next = http.local_addr().context("own address")?.port().checked_add(1).context("no port after it")?;
        match bind(next) {
            Ok(lines) => return Ok((http, lines)),
            Err(_) if attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// SIGTERM and SIGINT now wait to be asked for. PID 1 has no default actions: without this it would ignore both.
fn block_signals() -> anyhow::Result<SigSet> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().context("block signals")?;
    Ok(signals)
}

/// Half a workload must not look like a whole one.
fn end_process_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        exit(i32::from(FAILED));
    }));
}
