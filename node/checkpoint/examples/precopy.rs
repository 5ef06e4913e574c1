//! What pre-copy costs: a process of 256 MB and of 1 GB whose memory neither compresses nor repeats, idle and writing 10 MB/s,
//! copied over a loopback connection. Needs root. `cargo run --release -p godwit-checkpoint --example precopy`

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use godwit_checkpoint::pages::Connection;
use godwit_checkpoint::precopy::{Limits, Options, Receiver, Sender};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

const RUNS: usize = 7;
const PAGE: usize = 4096;
/// 10 MB/s.
const PAGES_PER_MS: f64 = 2.44;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!(
        "medians of {RUNS} runs; times in ms, the threads' being those that a processor gave them until rounds ended"
    );
    println!(
        "| MB | MB/s written | rounds | MB sent | until then | sender | receiver | MB left | finish | store after |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (megabytes, writes) in [(256, false), (256, true), (1024, false), (1024, true)] {
        let child = start(megabytes << 20, writes)?;
        let runs: Result<Vec<_>, _> = (0..RUNS).map(|_| measure(child)).collect();
        kill(child, Signal::SIGKILL)?;
        waitpid(child, None)?;
        let runs = runs?;
        let median = |index: usize| {
            let mut values: Vec<f64> = runs.iter().map(|run| run[index]).collect();
            values.sort_by(f64::total_cmp);
            values[RUNS / 2]
        };
        let [rounds, sent, converged, sender, receiver, left, finish, ready] = std::array::from_fn(median);
        let written = if writes { 10 } else { 0 };
        println!(
            "| {megabytes} | {written} | {rounds} | {sent:.1} | {converged:.0} | {sender:.0} | {receiver:.0} | {left:.2} | {finish:.2} | {ready:.1} |"
        );
    }
    Ok(())
}

fn measure(child: Pid) -> Result<[f64; 8], Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = TcpStream::connect(listener.local_addr()?)?;
    let limits = Limits { bytes: 4 << 30, patience: Duration::from_secs(60) };
    let receiver = Receiver::start(Connection::tcp(listener.accept()?.0)?, limits)?;
    let begun = Instant::now();
    let sender = Sender::start(child.as_raw(), Connection::tcp(source)?, Options::default())?;
    sender.wait(Duration::from_secs(120));
    let converged = begun.elapsed();
    let (sending, receiving) = (processor_ms("precopy-send")?, processor_ms("precopy-receive")?);
    // As long as it may take until the other sites have agreed.
    std::thread::sleep(Duration::from_millis(300));
    let progress = sender.progress();
    sender.pause();
    kill(child, Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(20));
    let begun = Instant::now();
    let (told, tail) = sender.finish()?;
    let finish = begun.elapsed();
    let store = receiver.finish(&told)?;
    let ready = begun.elapsed();
    tail.wait(Duration::from_secs(1))?;
    drop((tail, store));
    kill(child, Signal::SIGCONT)?;
    let left = resident(child)? - megabytes(told.bytes());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (rounds, sent) = (f64::from(progress.rounds), megabytes(progress.wire_bytes));
    Ok([rounds, sent, ms(converged), sending, receiving, left, ms(finish), ms(ready)])
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// What a thread of this process took of a processor's time.
fn processor_ms(name: &str) -> Result<f64, Failure> {
    for thread in std::fs::read_dir("/proc/self/task")? {
        let path = thread?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim_end() == name {
            let stat = std::fs::read_to_string(path.join("schedstat"))?;
            return Ok(stat.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e6);
        }
    }
    Err("there is no such thread".into())
}

/// Anonymous memory.
fn resident(pid: Pid) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no such line")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(megabytes(kilobytes << 10))
}

/// Starts a child with so much memory, and waits until it has filled it.
fn start(bytes: usize, writes: bool) -> Result<Pid, Failure> {
    let (ready, filled) = nix::unistd::pipe()?;
    // SAFETY: this program has one thread now, so that the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let memory = fill(bytes);
            nix::unistd::write(&filled, b".").expect("tell the parent");
            work(memory, writes)
        }
        ForkResult::Parent { child } => {
            nix::unistd::read(&ready, &mut [0])?;
            Ok(child)
        }
    }
}

fn fill(bytes: usize) -> &'static mut [u8] {
    let flags = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    let length = bytes.try_into().expect("not empty");
    // SAFETY: a new mapping, used through this slice alone, for as long as the process lives.
    let memory = unsafe {
        let at = mmap_anonymous(None, length, flags.0, flags.1).expect("mmap");
        std::slice::from_raw_parts_mut(at.as_ptr().cast::<u8>(), bytes)
    };
    blake3::Hasher::new().finalize_xof().fill(memory);
    memory
}

fn work(memory: &mut [u8], writes: bool) -> ! {
    let (begun, mut written, bytes) = (Instant::now(), 0_usize, memory.len());
    loop {
        std::thread::sleep(Duration::from_millis(1));
        let due = begun.elapsed().as_secs_f64() * 1e3 * PAGES_PER_MS;
        while writes && (written as f64) < due {
            let at = written.wrapping_mul(97 * PAGE) % bytes;
            std::hint::black_box(&mut memory[at..=at])[0] ^= 1;
            written += 1;
        }
    }
}
