//! The page service with CRIU itself: a container with threads that read, write and fork is dumped lazily, restored into a
//! new pid namespace while the source is held, and gets its memory from there.
//!
//! This program plays all parts: outside of the lab it starts itself inside, once per test; there it is the test, and what it
//! starts are its other roles.

#![allow(clippy::cast_possible_truncation, reason = "its own small numbers, and addresses of this machine")]

mod common;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSliceMut, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::container::{criu, soon, tmpfs, until};
use common::in_lab;
use godwit_checkpoint::criu::{Dump, Held, Restore};
use godwit_checkpoint::pages::image::lazy_runs;
use godwit_checkpoint::pages::{Connection, MemoryStore, Options, PAGE, Progress, Server, Service, guard};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

const TESTS: &[(&str, fn())] = &[
    ("a_restored_container_gets_its_memory_from_the_source", || moves(|_| None)),
    ("a_restored_container_gets_its_memory_from_store_and_source", || moves(three_of_four_pages)),
    ("a_new_service_goes_on_where_a_killed_one_ended", a_new_service_goes_on),
    ("without_a_new_service_the_container_dies_and_reads_no_zero", without_a_new_service_the_container_dies),
];

const SOURCE: &str = "127.0.0.1:7100";
const IMAGES: &str = "/tmp/images";
const WORK: &str = "/tmp/restore";
/// In the container's root, which is the lab's: its threads say here how they are.
const LIFE: &str = "/life";
/// When it is there, each thread looks at all its memory.
const CHECK: &str = "/check";
const THREADS: usize = 3;
const MEGABYTES: usize = 48;
const PAGES: usize = MEGABYTES * 256;
/// A mount namespace with a root and /proc, as the first process of a pid namespace and of a session.
const BOX: &str = "mount --bind / /box && cd /box && mount -t proc proc proc && pivot_root . . && umount -l . && cd / && \
    exec setsid /program life </dev/null >/dev/null 2>&1";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["inside", name] => TESTS.iter().find(|(test, _)| *test == name).unwrap().1(),
        ["life"] => life(),
        ["guard", patience_ms] => guard_process(patience_ms.parse().unwrap()),
        ["service"] => service_process(),
        _ => {
            let trial = |(name, _): &(&'static str, _)| {
                Trial::test(*name, || in_lab(&["inside", name]).map(drop).map_err(Failed::from))
            };
            libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect()).exit();
        }
    }
}

fn moves(store: fn(&Source) -> Option<MemoryStore>) {
    let source = Source::frozen();
    let mut guard = start_guard(20_000);
    let stored = store(&source);
    let service = Service::start(options(stored.clone().unwrap_or_default(), Duration::ZERO)).unwrap();
    let restored = restore(&service);
    let progress = finish(service);
    assert!(progress.finished && progress.lazy >= PAGES as u64, "{progress:?}");
    assert_eq!(stored.is_some(), progress.by_store > 0, "{progress:?}");
    assert_eq!(guard.wait().unwrap().code(), Some(0));
    source.held.commit(soon()).unwrap();
    restored_is_right(restored);
}

/// As if pre-copy had brought them, and the rest had been written since.
fn three_of_four_pages(source: &Source) -> Option<MemoryStore> {
    let mut store = MemoryStore::default();
    for (image, pid) in &source.pids {
        for run in lazy_runs(Path::new(IMAGES), *image).unwrap() {
            let addresses = (0..run.pages).map(|index| run.address + index * PAGE);
            for address in addresses.filter(|address| !(address / PAGE).is_multiple_of(4)) {
                let mut page = [0; PAGE as usize];
                let remote = RemoteIoVec { base: address as usize, len: page.len() };
                process_vm_readv(*pid, &mut [IoSliceMut::new(&mut page)], &[remote]).unwrap();
                store.insert(*image, address, &page);
            }
        }
    }
    Some(store)
}

fn a_new_service_goes_on() {
    let source = Source::frozen();
    let mut guard = start_guard(20_000);
    let mut first = Command::new("/program").arg("service").stdout(Stdio::piped()).spawn().unwrap();
    // The guard holds the first service's connection from its first line on.
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "attached");
    let restored = restore_with(|_| ());
    assert_eq!(lines.next().unwrap().unwrap(), "some");
    first.kill().unwrap();
    first.wait().unwrap();
    let service = Service::start(options(MemoryStore::default(), Duration::ZERO)).unwrap();
    let progress = finish(service);
    assert!(progress.there > 0, "{progress:?}");
    assert_eq!(guard.wait().unwrap().code(), Some(0));
    source.held.commit(soon()).unwrap();
    restored_is_right(restored);
}

fn without_a_new_service_the_container_dies() {
    let source = Source::frozen();
    let mut guard = start_guard(200);
    let service = Service::start(options(MemoryStore::default(), Duration::from_millis(20))).unwrap();
    let restored = restore(&service);
    until("some pages come", || (service.progress().by_push > 500).then_some(()));
    drop(service);
    assert_eq!(guard.wait().unwrap().code(), Some(1));
    assert!(fs::read_to_string(format!("/proc/{restored}/cmdline")).unwrap_or_default().is_empty());
    assert_eq!(words(1).iter().sum::<u64>(), 0, "wrong pages were read");
    // It goes on where it was.
    source.held.abort(soon()).unwrap();
    let before = words(0);
    until("the source goes on", || (words(0) != before).then_some(()));
}

/// A container that was dumped and is held, and what serves its pages.
struct Source {
    _unshare: Child,
    held: Held,
    pids: Vec<(i32, Pid)>,
}

impl Source {
    fn frozen() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--", "bash", "-c", BOX, "box"]);
        let unshare = unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the container lives", || {
            fs::metadata(LIFE).is_ok_and(|life| life.len() > 0).then_some(())?;
            words(0).iter().all(|count| *count > 0).then_some(())
        });
        let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).unwrap();
        let dump = Dump {
            pid: child.trim().parse().unwrap(),
            images: tmpfs("images"),
            work: tmpfs("work"),
            lazy: true,
            external: Vec::new(),
            ghost_limit: 1 << 20,
        };
        let held = criu().worker(Vec::new()).unwrap().dump(&dump, soon()).unwrap();
        let pids: Vec<_> = held.tree().pids().map(|pid| (image_pid(pid), Pid::from_raw(pid as i32))).collect();
        let server = Server::new(pids.clone());
        let listener = TcpListener::bind(SOURCE).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, connection) = (server.clone(), Connection::tcp(stream.unwrap()).unwrap());
                std::thread::spawn(move || server.serve(connection));
            }
        });
        Self { _unshare: unshare, held, pids }
    }
}

/// A task is in the images by its pid in its own namespace.
fn image_pid(pid: u32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    pids.split_whitespace().last().unwrap().parse().unwrap()
}

fn options(store: MemoryStore, delay: Duration) -> Options {
    let connect = move || {
        let connection = Connection::tcp(TcpStream::connect(SOURCE)?)?;
        Ok(Connection { read: Box::new(Slow { read: connection.read, delay }), ..connection })
    };
    Options {
        images: PathBuf::from(IMAGES),
        guard: Path::new(WORK).join("guard.socket"),
        attach: Duration::from_secs(10),
        store: Box::new(store),
        connect: Box::new(connect),
        stale: Duration::from_secs(5),
        silence: Duration::from_secs(5),
    }
}

/// A link of some 128 KiB in each `delay`.
struct Slow {
    read: Box<dyn Read + Send>,
    delay: Duration,
}

impl Read for Slow {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(128 << 10);
        let read = self.read.read(&mut into[..most])?;
        if read > 1000 {
            std::thread::sleep(self.delay);
        }
        Ok(read)
    }
}

fn start_guard(patience_ms: u64) -> Child {
    tmpfs("restore");
    Command::new("/program").args(["guard", &patience_ms.to_string()]).spawn().unwrap()
}

fn guard_process(patience_ms: u64) {
    guard::harden().unwrap();
    let config = guard::Config {
        criu: Path::new(WORK).join("lazy-pages.socket"),
        control: Path::new(WORK).join("guard.socket"),
        restore: Duration::from_secs(20),
        patience: Duration::from_millis(patience_ms),
    };
    std::process::exit(match guard::run(&config).unwrap() {
        guard::Ending::Complete => 0,
        guard::Ending::Dead => 1,
        guard::Ending::NothingCame => 2,
    });
}

fn service_process() {
    let service = Service::start(options(MemoryStore::default(), Duration::from_millis(5))).unwrap();
    println!("attached");
    until("some pages come", || (service.progress().by_push > 500).then_some(()));
    println!("some");
    let _ = service.wait();
}

fn restore(service: &Service) -> u32 {
    restore_with(|pid| {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        service.protect(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()).unwrap();
    })
}

/// Restores; `before` is told of the first process before it runs.
fn restore_with(before: impl FnOnce(u32)) -> u32 {
    let restore = Restore {
        images: PathBuf::from(IMAGES),
        work: PathBuf::from(WORK),
        root: Some("/box".into()),
        lazy: true,
        external: Vec::new(),
    };
    let held = criu().worker(Vec::new()).unwrap().restore(&restore, soon()).unwrap();
    before(held.tree().pids().next().unwrap());
    held.release(soon()).unwrap()
}

fn finish(service: Service) -> Progress {
    until("all pages come", || service.ended().then_some(()));
    service.wait().unwrap()
}

/// All its memory, looked at by itself.
fn restored_is_right(pid: u32) {
    assert!(Path::new(&format!("/proc/{pid}/exe")).exists());
    File::create(CHECK).unwrap();
    until("all threads have looked at all their memory", || words(2).iter().all(|done| *done > 0).then_some(()));
    assert_eq!(words(1).iter().sum::<u64>(), 0, "wrong pages were read");
}

/// One word of each thread's four: what it did, what was wrong, whether it has looked at everything.
fn words(index: usize) -> Vec<u64> {
    let file = File::open(LIFE).unwrap();
    let word = |thread: usize| {
        let mut bytes = [0; 8];
        let _ = file.read_at(&mut bytes, (thread * 32 + index * 8) as u64);
        u64::from_ne_bytes(bytes)
    };
    (0..THREADS).map(word).collect()
}

/// The life of the process that is dumped: threads that look at pages, write them and fork, each in its part.
fn life() {
    let memory: Vec<[AtomicU32; 1024]> = (0..PAGES).map(|page| fresh(page, 0)).collect();
    let file = File::create(LIFE).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let part = thread * PAGES / THREADS..(thread + 1) * PAGES / THREADS;
            let (memory, file) = (&memory, &file);
            scope.spawn(move || live(thread, part, memory, file));
        }
    });
}

fn fresh(page: usize, version: u32) -> [AtomicU32; 1024] {
    std::array::from_fn(|word| AtomicU32::new(content(page, version, word)))
}

/// The first word is the version.
fn content(page: usize, version: u32, word: usize) -> u32 {
    match word {
        0 => version,
        _ => (page as u32 ^ version << 20).wrapping_mul(0x9e37_79b9).wrapping_add(word as u32).rotate_left(9),
    }
}

fn right(memory: &[[AtomicU32; 1024]], page: usize) -> bool {
    let version = memory[page][0].load(Ordering::Relaxed);
    let is = |(word, found): (usize, &AtomicU32)| found.load(Ordering::Relaxed) == content(page, version, word);
    memory[page].iter().enumerate().all(is)
}

fn live(thread: usize, part: std::ops::Range<usize>, memory: &[[AtomicU32; 1024]], file: &File) {
    let (mut x, mut wrong, mut checked) = (thread as u64 + 1, 0_u64, 0_u64);
    for round in 1_u64.. {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let page = part.start + (x >> 33) as usize % part.len();
        wrong += u64::from(!right(memory, page));
        if round.is_multiple_of(4) {
            let version = memory[page][0].load(Ordering::Relaxed).wrapping_add(1);
            for (word, place) in memory[page].iter().enumerate() {
                place.store(content(page, version, word), Ordering::Relaxed);
            }
        }
        if round.is_multiple_of(400) {
            wrong += u64::from(!child_is_right(memory, part.clone()));
        }
        if checked == 0 && Path::new(CHECK).exists() {
            wrong += part.clone().filter(|page| !right(memory, *page)).count() as u64;
            checked = 1;
        }
        for (index, word) in [round, wrong, checked].into_iter().enumerate() {
            file.write_all_at(&word.to_ne_bytes(), (thread * 32 + index * 8) as u64).unwrap();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A child that looks at some pages of the part that only this thread writes.
fn child_is_right(memory: &[[AtomicU32; 1024]], part: std::ops::Range<usize>) -> bool {
    // SAFETY: the child only reads memory, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let wrong = part.step_by(7).filter(|page| !right(memory, *page)).count();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(wrong > 0)) };
    }
    let mut status = 0;
    // SAFETY: writes to `status` alone.
    unsafe { libc::waitpid(pid, &raw mut status, 0) == pid && status == 0 }
}
