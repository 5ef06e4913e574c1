//! What dirty tracking costs: medians for processes of 256 MB and 1 GB, which are started by fork and write one page each
//! millisecond. Needs root. `cargo run --release -p godwit-checkpoint --example dirty`

use std::time::{Duration, Instant};

use godwit_checkpoint::dirty::{Error, Method, PAGE, Phase, Tracker};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

const RUNS: usize = 15;
const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> Result<(), Error> {
    println!("medians of {RUNS} runs, in ms; {:?}", Method::choose());
    println!(
        "| MB | huge pages | thread stopped | attach | first round | each round | pages in it | stopped round | drop |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (megabytes, huge) in [(256, false), (1024, false), (256, true), (1024, true)] {
        let memory = Memory::new(megabytes << 20, huge);
        // SAFETY: this program has one thread, so that the child may do anything.
        let child = match unsafe { fork() }.expect("fork") {
            ForkResult::Child => memory.write_forever(),
            ForkResult::Parent { child } => child,
        };
        drop(memory);
        // Until it has pages of its own.
        std::thread::sleep(Duration::from_millis(megabytes as u64 * 2 + 200));
        let mut samples: [Vec<Duration>; 6] = Default::default();
        let mut pages = Vec::new();
        for _ in 0..RUNS {
            measure(child, &mut samples, &mut pages)?;
        }
        kill(child, Signal::SIGKILL).expect("kill");
        waitpid(child, None).expect("waitpid");
        let [stopped, attach, first, each, last, end] = samples.map(median);
        pages.sort_unstable();
        let found = pages[pages.len() / 2];
        println!("| {megabytes} | {huge} | {stopped} | {attach} | {first} | {each} | {found} | {last} | {end} |");
    }
    Ok(())
}

fn measure(child: Pid, samples: &mut [Vec<Duration>; 6], pages: &mut Vec<u64>) -> Result<(), Error> {
    let timed = |begun: Instant| begun.elapsed();
    let begun = Instant::now();
    let mut tracker = Tracker::attach_by(Method::WriteProtect, child.as_raw(), PATIENCE)?;
    samples[1].push(timed(begun));
    samples[0].push(tracker.stopped());
    let begun = Instant::now();
    tracker.round(Phase::Running)?;
    samples[2].push(timed(begun));
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let round = tracker.round(Phase::Running)?;
        samples[3].push(timed(begun));
        pages.push(round.written_bytes() / PAGE);
    }
    kill(child, Signal::SIGSTOP).expect("stop");
    std::thread::sleep(Duration::from_millis(20));
    let begun = Instant::now();
    tracker.round(Phase::Stopped)?;
    samples[4].push(timed(begun));
    kill(child, Signal::SIGCONT).expect("continue");
    let begun = Instant::now();
    drop(tracker);
    samples[5].push(timed(begun));
    Ok(())
}

fn median(mut samples: Vec<Duration>) -> String {
    samples.sort_unstable();
    let micros = samples[samples.len() / 2].as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// Private memory, with or without huge pages.
struct Memory(nix::sys::mman::MmapAdvise, std::ptr::NonNull<std::ffi::c_void>, usize);

impl Memory {
    fn new(bytes: usize, huge: bool) -> Self {
        use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, mmap_anonymous};
        let length = bytes.try_into().expect("not empty");
        // SAFETY: a new mapping, used through this value alone.
        let at = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        };
        let advice = if huge { MmapAdvise::MADV_HUGEPAGE } else { MmapAdvise::MADV_NOHUGEPAGE };
        Self(advice, at.expect("mmap"), bytes)
    }

    /// Fills the memory, then writes a page of it each millisecond.
    fn write_forever(&self) -> ! {
        let Self(advice, at, bytes) = *self;
        // SAFETY: the mapping is ours, and advice on the size of its pages does not change what it holds.
        unsafe { nix::sys::mman::madvise(at, bytes, advice) }.expect("madvise");
        // SAFETY: the mapping is `bytes` long, writable, and nobody else uses it in this process.
        let memory = unsafe { std::slice::from_raw_parts_mut(at.as_ptr().cast::<u8>(), bytes) };
        let page = usize::try_from(PAGE).expect("small");
        memory.iter_mut().step_by(page).for_each(|byte| *byte = 1);
        for at in (0..bytes).step_by(page).map(|at| at.wrapping_mul(97) % bytes).cycle() {
            std::hint::black_box(&mut memory[at..=at])[0] ^= 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        unreachable!("an endless cycle")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and not used any more.
        unsafe { nix::sys::mman::munmap(self.1, self.2) }.expect("munmap");
    }
}
