//! Pre-copy of real processes, which this test program starts of itself. Needs root, and Linux 6.7 with userfaultfd.

#[allow(dead_code, reason = "other tests need other parts of it")]
#[path = "../dirty/target.rs"]
mod target;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use godwit_checkpoint::dirty::{PAGE, Verdict};
use godwit_checkpoint::pages::{Connection, Store, WireError};
use godwit_checkpoint::precopy::{Arena, Error, Final, Limits, Options, Receiver, Sender};
use target::Process;

const LIMITS: Limits = Limits { bytes: 1 << 30, patience: Duration::from_secs(60) };
const LONG: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { patience: Duration::from_secs(5), interval: Duration::from_millis(10), ..Options::default() }
}

fn connections() -> (Connection, Connection) {
    let (source, target) = UnixStream::pair().unwrap();
    (Connection::unix(source).unwrap(), Connection::unix(target).unwrap())
}

fn begin(process: &Process, limits: Limits) -> (Sender, Receiver) {
    let (source, target) = connections();
    let receiver = Receiver::start(target, limits).unwrap();
    (Sender::start(process.pid(), source, options()).unwrap(), receiver)
}

/// Stops the tree and ends the pre-copy. What is told travels as bytes.
fn end(process: &Process, sender: Sender, receiver: Receiver) -> (Final, Arena) {
    sender.pause();
    process.stop();
    let (told, tail) = sender.finish().unwrap();
    let told = Final::decode(&told.encode()).unwrap();
    assert!(tail.wait(LONG).unwrap());
    let store = receiver.finish(&told).unwrap();
    (told, store)
}

/// Compares the store with the memory of the stopped tasks: how many pages of how many tasks.
fn compare(told: &Final, store: &Arena, process: &Process) -> (u64, usize) {
    let members = process.members();
    let mut pages = 0;
    for (pid, ranges) in told.valid() {
        assert!(members.contains(pid), "{pid} is none of {members:?}");
        assert_eq!(&store.ranges(*pid), ranges, "everything valid was received");
        let mem = File::open(format!("/proc/{pid}/mem")).unwrap();
        for address in ranges.iter().cloned().flat_map(|range| range.step_by(4096)) {
            let (mut theirs, mut ours) = ([0; 4096], [0; 4096]);
            mem.read_exact_at(&mut theirs, address).unwrap();
            store.read(*pid, address, &mut ours).unwrap();
            assert!(theirs == ours, "page {address:#x} of {pid} differs");
            pages += 1;
        }
    }
    (pages, told.valid().len())
}

/// Bytes of a task's private anonymous memory that are there.
fn populated(pid: i32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = smaps.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn left_alone(process: &Process) {
    assert_eq!(process.protected_pages(), 0);
    assert!(!process.has_userfaultfds());
}

#[test]
fn no_page_of_the_store_differs_from_what_the_stopped_tasks_have() {
    let process = Process::start("trio");
    let filled = |pid: &i32| populated(*pid) > 32 << 20;
    while process.members().len() < 3 || !process.members().iter().all(filled) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The tree goes on after a stop, as after a handoff that failed: each pre-copy starts from nothing.
    for turn in 0..5 {
        let (sender, receiver) = begin(&process, LIMITS);
        let progress = sender.wait(LONG);
        assert!(progress.is_converged() && !progress.failed, "{progress:?}");
        assert!(receiver.wait(LONG).unwrap(), "the source says so");
        std::thread::sleep(Duration::from_millis(turn * 40));
        let progress = sender.progress();
        let (told, store) = end(&process, sender, receiver);
        let (pages, tasks) = compare(&told, &store, &process);
        eprintln!("turn {turn}: {pages} pages of {tasks} tasks equal; {progress:?}");
        assert!(tasks == 3 && pages >= 3 * 1024);
        drop(store);
        left_alone(&process);
        process.go_on();
    }
}

#[test]
fn it_may_end_at_any_moment() {
    let process = Process::start("trio");
    std::thread::sleep(Duration::from_millis(200));
    for turn in 0..12 {
        let (sender, receiver) = begin(&process, LIMITS);
        std::thread::sleep(Duration::from_millis(turn * 7));
        if turn % 2 == 0 {
            sender.pause();
        }
        process.stop();
        let (told, tail) = sender.finish().unwrap();
        assert!(tail.wait(LONG).unwrap());
        let store = receiver.finish(&told).unwrap();
        let (pages, tasks) = compare(&told, &store, &process);
        eprintln!("turn {turn}: {pages} pages of {tasks} tasks equal");
        process.go_on();
    }
}

#[test]
fn tasks_come_and_go_meanwhile() {
    for scenario in ["nursery", "family"] {
        come_and_go(scenario);
    }
}

fn come_and_go(scenario: &str) {
    let process = Process::start(scenario);
    let mut told_of = BTreeSet::new();
    for turn in 0..8 {
        let (sender, receiver) = begin(&process, LIMITS);
        std::thread::sleep(Duration::from_millis(100 + turn * 60));
        let (told, store) = end(&process, sender, receiver);
        let (pages, tasks) = compare(&told, &store, &process);
        eprintln!("{scenario}, turn {turn}: {pages} pages of {tasks} tasks equal");
        told_of.extend(told.valid().keys().copied());
        process.go_on();
    }
    // Those of the other live too short.
    assert!(told_of.len() > 4 || scenario == "family", "{told_of:?}");
}

#[test]
fn all_memory_of_an_idle_tree_is_valid_and_travels_once() {
    let mut process = Process::start("pair");
    let base = process.number();
    let child = i32::try_from(process.number()).unwrap();
    let (sender, receiver) = begin(&process, LIMITS);
    let progress = sender.wait(LONG);
    assert_eq!(progress.verdict, Some(Verdict::Fits), "{progress:?}");
    assert!(progress.copied > 32 << 20 && progress.wire_bytes < 24 << 20, "{progress:?}");
    assert!(progress.link > 0 && progress.received <= progress.wire_bytes);
    let (told, store) = end(&process, sender, receiver);
    compare(&told, &store, &process);
    assert!(store.held() < 20 << 20, "what the child shares with its parent is held once");
    for pid in [process.pid(), child] {
        let whole = |range: &std::ops::Range<u64>| range.start <= base && base + (16 << 20) <= range.end;
        assert!(told.valid()[&pid].iter().any(whole), "{pid}: {:x?}", told.valid()[&pid]);
    }
}

#[test]
fn pages_that_are_written_all_the_time_are_not_sent_all_the_time() {
    let process = Process::start("trio");
    let (sender, _receiver) = begin(&process, LIMITS);
    sender.wait(LONG);
    std::thread::sleep(Duration::from_millis(50));
    let before = sender.progress();
    // It keeps looking.
    while sender.progress().rounds < before.rounds + 4 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = sender.progress();
    // Each page at most every second look.
    let looks = u64::from(after.rounds - before.rounds);
    let all: u64 = process.members().into_iter().map(populated).sum();
    assert!(after.copied - before.copied <= (looks + 1) * all / 2, "{before:?} {after:?} {all}");
    let (source, target) = connections();
    let _receiver = Receiver::start(target, LIMITS).unwrap();
    let bounded = Sender::start(process.pid(), source, Options { extra_bytes: 8192, ..options() }).unwrap();
    let converged = bounded.wait(LONG);
    std::thread::sleep(Duration::from_millis(200));
    assert!(bounded.progress().copied <= converged.copied + 8192);
}

#[test]
fn a_sender_that_is_dropped_leaves_the_processes_as_they_were() {
    for wait_ms in [0, 3, 30, 300] {
        let process = Process::start("trio");
        let (sender, receiver) = begin(&process, LIMITS);
        std::thread::sleep(Duration::from_millis(wait_ms));
        drop(sender);
        left_alone(&process);
        assert!(matches!(receiver.finish(&nothing()), Err(Error::Wire(WireError::Lost(_)))));
    }
}

#[test]
fn a_receiver_that_dies_ends_it_and_the_processes_run_on() {
    let process = Process::start("trio");
    for wait_ms in [0, 20, 200] {
        let (sender, receiver) = begin(&process, LIMITS);
        std::thread::sleep(Duration::from_millis(wait_ms));
        drop(receiver);
        while !sender.progress().failed {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ended = sender.finish().map(drop);
        assert!(matches!(ended, Err(Error::Wire(WireError::Lost(_)))), "{ended:?}");
        left_alone(&process);
    }
}

#[test]
fn a_tree_that_ends_ends_it() {
    let mut process = Process::start("trio");
    let (sender, receiver) = begin(&process, LIMITS);
    sender.wait(LONG);
    process.kill();
    while !sender.progress().failed {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(sender.finish().map(drop), Err(Error::Track(_))));
    assert!(matches!(receiver.finish(&nothing()), Err(Error::Wire(WireError::Lost(_)))));
}

#[test]
fn the_end_does_not_wait_for_a_connection_that_stands_still() {
    let process = Process::start("trio");
    std::thread::sleep(Duration::from_millis(100));
    let (source, mut target) = connections();
    // Greets, and reads nothing more.
    target.write.write_all(b"gwcopy\0\0\x01").unwrap();
    let sender = Sender::start(process.pid(), source, options()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    sender.pause();
    process.stop();
    let (told, tail) = sender.finish().unwrap();
    assert!(told.bytes() > 0);
    assert!(!tail.wait(Duration::from_millis(50)).unwrap());
    drop(tail);
    left_alone(&process);

    // The other way round: the source never ends.
    let (_source, target) = connections();
    let patience = Duration::from_millis(50);
    let receiver = Receiver::start(target, Limits { patience, ..LIMITS }).unwrap();
    assert!(matches!(receiver.finish(&told), Err(Error::Late(_))));
}

#[test]
fn pages_without_room_are_left_to_the_source() {
    let mut process = Process::start("pair");
    process.number();
    let (sender, receiver) = begin(&process, Limits { bytes: 4 << 20, ..LIMITS });
    assert!(sender.wait(LONG).is_converged());
    sender.pause();
    process.stop();
    let (told, tail) = sender.finish().unwrap();
    assert!(tail.wait(LONG).unwrap());
    let store = receiver.finish(&told).unwrap();
    assert!(store.held() <= 4 << 20 && told.bytes() > 32 << 20);
    let mem = File::open(format!("/proc/{}/mem", process.pid())).unwrap();
    let held: Vec<u64> = store.ranges(process.pid()).into_iter().flat_map(|range| range.step_by(4096)).collect();
    assert!(held.len() > 500 && (held.len() as u64) * PAGE <= 4 << 20);
    for address in held {
        let (mut theirs, mut ours) = ([0; 4096], [0; 4096]);
        mem.read_exact_at(&mut theirs, address).unwrap();
        store.read(process.pid(), address, &mut ours).unwrap();
        assert!(theirs == ours);
    }
}

#[test]
fn pages_that_the_source_does_not_vouch_for_are_not_used() {
    let mut process = Process::start("pair");
    process.number();
    let (sender, receiver) = begin(&process, LIMITS);
    sender.wait(LONG);
    sender.pause();
    process.stop();
    let (told, tail) = sender.finish().unwrap();
    assert!(tail.wait(LONG).unwrap());
    let mut bytes = told.encode();
    bytes[1] ^= 1;
    let other = Final::decode(&bytes).unwrap();
    assert!(matches!(receiver.finish(&other), Err(Error::Transcript)));
}

#[test]
fn what_is_damaged_on_its_way_ends_it_on_both_sides() {
    let mut process = Process::start("pair");
    process.number();
    let (source, mut near) = connections();
    let (mut far, target) = connections();
    let receiver = Receiver::start(target, LIMITS).unwrap();
    let sender = Sender::start(process.pid(), source, options()).unwrap();
    let back = std::thread::spawn(move || io::copy(&mut far.read, &mut near.write));
    // A byte in the second MiB is changed; what comes behind it does not matter.
    let mut passed = vec![0; 2 << 20];
    near.read.read_exact(&mut passed).unwrap();
    passed[(1 << 20) + 77] ^= 1;
    drop(far.write.write_all(&passed));
    drop(io::copy(&mut near.read, &mut far.write));
    (near.close)();
    back.join().unwrap().unwrap_or(0);
    assert!(matches!(receiver.finish(&nothing()), Err(Error::Wire(WireError::Damaged))));
    while !sender.progress().failed {
        std::thread::sleep(Duration::from_millis(1));
    }
    left_alone(&process);
}

#[test]
fn another_protocol_is_not_spoken_to() {
    let process = Process::start("churn");
    let (source, mut target) = connections();
    target.write.write_all(b"gwpages\0\x01").unwrap();
    let sender = Sender::start(process.pid(), source, options()).unwrap();
    assert!(sender.wait(LONG).failed);
    assert!(matches!(sender.finish().map(drop), Err(Error::Wire(WireError::Greeting(_)))));
    let mut heard = Vec::new();
    target.read.read_to_end(&mut heard).unwrap();
    assert!(b"gwcopy\0\0\x01".starts_with(&heard), "no memory is told to whom we do not know");
}

/// A [`Final`] that says nothing.
fn nothing() -> Final {
    Final::decode(&[&[1][..], &[0; 32], &[0]].concat()).unwrap()
}
