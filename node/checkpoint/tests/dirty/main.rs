//! Dirty tracking of real processes, which this test program starts of itself. Needs root, and Linux 6.7 with userfaultfd.

#![expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]

mod model;
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use godwit_checkpoint::dirty::{Error, Kind, Method, PAGE, Phase, Refusal, Tracker, Tree, read_pages};
use model::Model;
use target::Process;

const PATIENCE: Duration = Duration::from_secs(5);

fn by(method: Method, process: &Process) -> Tracker {
    Tracker::attach_by(method, process.pid(), PATIENCE).unwrap_or_else(|error| panic!("{method:?}: {error:?}"))
}

#[test]
fn this_kernel_has_the_best_method() {
    assert_eq!(Method::choose().method, Method::WriteProtect);
}

#[test]
fn exactly_the_written_pages_are_reported() {
    let mut process = Process::start("pages");
    let base = process.number();
    let page = |n: u64| base + n * PAGE..base + (n + 1) * PAGE;
    let mut tracker = by(Method::WriteProtect, &process);
    let within = |ranges: &[std::ops::Range<u64>]| {
        let pages = ranges.iter().cloned().flat_map(|range| range.step_by(4096));
        pages
            .filter_map(|at| at.checked_sub(base).map(|offset| offset / PAGE))
            .filter(|&n| n < 64)
            .collect::<BTreeSet<_>>()
    };

    let first = tracker.round(Phase::Running).unwrap();
    assert_eq!(within(&first.written), (0..32).collect(), "only pages with content");
    assert_eq!(within(&tracker.round(Phase::Running).unwrap().written), BTreeSet::new(), "nothing was written");
    for (command, written, zeroed) in [
        ("write 3", vec![3], vec![]),
        ("write 40", vec![40], vec![]),
        ("read 41", vec![], vec![]),
        ("kernel 5", vec![5], vec![]),
        ("drop 6", vec![], vec![6]),
        ("readonly 7", vec![], vec![]),
        ("write 8", vec![8], vec![]),
        ("remap 9", vec![], vec![9]),
        ("write 9", vec![9], vec![]),
        ("write 9", vec![9], vec![]),
        ("fork 10", vec![], vec![]),
        ("write 11", vec![11], vec![]),
    ] {
        process.ask(command);
        let round = tracker.round(Phase::Running).unwrap();
        assert_eq!(within(&round.written), BTreeSet::from_iter(written), "{command}");
        assert_eq!(within(&round.zeroed), BTreeSet::from_iter(zeroed), "{command}");
    }
    process.ask("unmap 12");
    assert!(tracker.round(Phase::Running).unwrap().gone.contains(&page(12)));
}

#[test]
fn no_write_is_missed() {
    for method in [Method::WriteProtect, Method::Hashes] {
        let process = Process::start("churn");
        let mut tracker = by(method, &process);
        let mut model = Model::default();
        // The process goes on after a stop, as after a handoff that failed.
        for stop in 0..4 {
            for _ in 0..12 {
                let round = tracker.round(Phase::Running).unwrap();
                model.apply(&round, |wanted, buffer| tracker.read(wanted, buffer).unwrap());
                std::thread::sleep(Duration::from_millis(3));
            }
            process.stop();
            let round = tracker.round(Phase::Stopped).unwrap();
            let bytes = round.written_bytes();
            model.apply(&round, |wanted, buffer| tracker.read(wanted, buffer).unwrap());
            let compared = model.compare(process.pid());
            assert!(compared > 1000, "{compared} pages only");
            eprintln!("{method:?}, stop {stop}: {compared} pages equal, {} KiB in the last round", bytes >> 10);
            process.go_on();
        }
    }
}

#[test]
fn no_write_of_any_process_in_a_tree_is_missed() {
    let process = Process::start("family");
    let mut tree = Tree::new(process.pid(), PATIENCE);
    let mut models = std::collections::BTreeMap::<i32, Model>::new();
    let mut seen = BTreeSet::new();
    let mut sharing = BTreeSet::new();
    for stop in 0..4 {
        for turn in 0..=20 {
            let phase = if turn < 20 { Phase::Running } else { Phase::Stopped };
            if phase == Phase::Stopped {
                process.stop();
            }
            let round = tree.round(phase).unwrap();
            for pid in round.gone.iter().chain(&round.appeared) {
                models.remove(pid);
            }
            seen.extend(round.appeared);
            sharing = round.sharing.into_iter().map(|(pid, _)| pid).collect();
            for (pid, round) in round.processes {
                // A process may end while it is copied.
                let mut ended = false;
                models.entry(pid).or_default().apply(&round, |wanted, buffer| match tree.read(pid, wanted, buffer) {
                    Err(Error::Gone { .. }) if phase == Phase::Running => {
                        ended = true;
                        Vec::new()
                    }
                    read => read.unwrap(),
                });
                assert!(!ended || pid != process.pid());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let members = process.members();
        let compared: usize = members.iter().map(|pid| models.get(pid).map_or(0, |model| model.compare(*pid))).sum();
        for pid in &members {
            assert!(
                models.contains_key(pid) || sharing.contains(pid) || !target::has_memory(*pid),
                "process {pid} was not told"
            );
        }
        eprintln!(
            "stop {stop}: {} processes, {compared} pages equal, {} processes seen so far",
            members.len(),
            seen.len()
        );
        process.go_on();
    }
    assert!(seen.len() > 4, "{seen:?}");
}

#[test]
fn no_descriptor_of_ours_is_left_in_a_child() {
    let process = Process::start("forks");
    let mut inherited = 0;
    for _ in 0..150 {
        let mut tree = Tree::new(process.pid(), PATIENCE);
        tree.round(Phase::Running).unwrap();
        inherited += usize::from(process.has_userfaultfds());
        // Forked after the first round had listed the children, hence found by the second.
        tree.round(Phase::Running).unwrap();
        assert!(!process.has_userfaultfds());
    }
    eprintln!("inherited after {inherited} of 150 first rounds");
}

#[test]
fn a_program_that_replaces_another_is_tracked_anew() {
    let mut process = Process::start("exec");
    let mut tree = Tree::new(process.pid(), PATIENCE);
    let mut tracker = by(Method::Hashes, &process);
    assert_eq!(tree.round(Phase::Running).unwrap().appeared, [process.pid()]);
    assert_eq!(tree.round(Phase::Running).unwrap().appeared, []);
    process.ask("exec");
    let round = tree.round(Phase::Running).unwrap();
    assert_eq!(round.appeared, [process.pid()]);
    assert!(round.pending.is_empty(), "{:?}", round.pending);
    assert!(round.written_bytes() > 0);
    tracker.round(Phase::Running).unwrap();
}

#[test]
fn a_tracker_says_that_the_program_was_replaced() {
    let mut process = Process::start("exec");
    let mut tracker = by(Method::WriteProtect, &process);
    tracker.round(Phase::Running).unwrap();
    process.ask("exec");
    assert!(matches!(tracker.round(Phase::Running), Err(Error::Replaced { .. })));
    process.kill();
    assert!(matches!(tracker.round(Phase::Running), Err(Error::Gone { .. })));
}

#[test]
fn a_system_call_in_progress_goes_on() {
    for call in ["nanosleep", "clock_nanosleep", "pipe", "futex", "poll", "sigsuspend", "epoll_pwait", "spin"] {
        let mut process = Process::start(call);
        process.wait_until_inside();
        let before = process.status_of_interest();
        // Calls that are not restarted after a stop (signal(7)) end at the first.
        let times = if call == "epoll_pwait" { 1 } else { 20 };
        for _ in 0..times {
            drop(by(Method::WriteProtect, &process));
        }
        assert_eq!(process.status_of_interest(), before, "{call}");
        // It says itself whether the call returned what it should, and not before its time.
        assert_eq!(process.finish(), "as expected", "{call}");
    }
}

#[test]
fn no_signal_is_lost() {
    let mut process = Process::start("signals");
    assert_eq!(process.ask("count"), "0 0", "handlers are set");
    let rounds = 400;
    for n in 0..rounds {
        // One in flight before the thread is stopped, one at any moment of it.
        process.signal(libc::SIGRTMIN() + 1);
        let other = process.signal_soon(libc::SIGRTMIN() + 2, Duration::from_micros(n % 97 * 3));
        drop(by(Method::WriteProtect, &process));
        other.join().unwrap();
    }
    let counts = process.ask("count");
    assert_eq!(counts, format!("{rounds} {rounds}"), "signals are queued one by one");
}

#[test]
fn a_stopped_process_stays_stopped_and_is_tracked_nevertheless() {
    let process = Process::start("churn");
    process.stop();
    let mut tracker = by(Method::WriteProtect, &process);
    assert!(tracker.round(Phase::Running).unwrap().written_bytes() > 0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(process.is_stopped());
    process.go_on();
    std::thread::sleep(Duration::from_millis(20));
    assert!(tracker.round(Phase::Running).unwrap().written_bytes() > 0);
}

#[test]
fn a_tracker_leaves_the_process_as_it_was() {
    let mut process = Process::start("pages");
    process.number();
    let before = (process.descriptors(), process.mappings(), process.code_hash(), process.status_of_interest());
    let mut tracker = by(Method::WriteProtect, &process);
    tracker.round(Phase::Running).unwrap();
    tracker.round(Phase::Running).unwrap();
    assert!(process.protected_pages() > 0);
    assert_eq!(process.descriptors(), before.0, "the userfaultfd is not the process's");
    drop(tracker);
    assert_eq!(process.protected_pages(), 0);
    assert_eq!((process.descriptors(), process.mappings(), process.code_hash(), process.status_of_interest()), before);
    assert_eq!(process.ask("write 3"), "done");
}

#[test]
fn every_kind_of_mapping_is_told() {
    let mut process = Process::start("kinds");
    let bases: Vec<u64> = process.line().split(' ').map(|base| base.parse().unwrap()).collect();
    let mut tracker = by(Method::WriteProtect, &process);
    let round = tracker.round(Phase::Running).unwrap();
    let kind = |base: u64| round.left.iter().find(|mapping| mapping.range.contains(&base)).map(|mapping| mapping.kind);
    let expected = [None, Some(Kind::Shared), Some(Kind::File), Some(Kind::Locked), Some(Kind::Unprotectable)];
    assert_eq!(bases.iter().map(|&base| kind(base)).collect::<Vec<_>>(), expected);
    assert!(round.appeared.iter().any(|range| range.contains(&bases[0])));
    assert!(round.left.iter().any(|mapping| mapping.kind == Kind::Kernel));

    process.stop();
    let last = tracker.round(Phase::Stopped).unwrap();
    assert!(last.written.iter().any(|range| range.contains(&bases[4])), "what cannot be protected is told at the end");
}

#[test]
fn a_seccomp_filter_is_suspended_or_the_process_refused() {
    // A filter that kills for userfaultfd: were the call made under it, the process would be gone.
    let mut process = Process::start("filtered");
    process.line();
    let mut tracker = by(Method::WriteProtect, &process);
    assert!(tracker.round(Phase::Running).unwrap().written_bytes() > 0);
    drop(tracker);
    assert_eq!(process.ask("filtered?"), "yes");

    // A tracer with a filter of its own may not suspend another's.
    let pid = process.pid();
    let refused = std::thread::spawn(move || {
        target::allow_everything_by_a_filter();
        let refused = Tracker::attach_by(Method::WriteProtect, pid, PATIENCE).map(drop);
        let fallback = Tracker::attach(pid, PATIENCE).unwrap();
        (refused, fallback.method())
    });
    let (refused, fallback) = refused.join().unwrap();
    assert!(matches!(refused, Err(Error::Refused { refusal: Refusal::Seccomp(_), .. })), "{refused:?}");
    assert_eq!(fallback, Method::Hashes);
    assert_eq!(process.ask("filtered?"), "yes");
}

#[test]
fn a_traced_process_is_refused_and_no_process_is_gone() {
    let process = Process::start("churn");
    nix::sys::ptrace::seize(nix::unistd::Pid::from_raw(process.pid()), nix::sys::ptrace::Options::empty()).unwrap();
    let refused = Tracker::attach_by(Method::WriteProtect, process.pid(), PATIENCE);
    assert!(matches!(refused, Err(Error::Refused { refusal: Refusal::Traced(_), .. })), "{refused:?}");
    assert!(matches!(Tracker::attach(i32::MAX, PATIENCE), Err(Error::Gone { .. })));
}

#[test]
fn pages_are_read_across_holes_and_whatever_their_protection() {
    let mut process = Process::start("pages");
    let base = process.number();
    process.ask("unmap 2");
    process.ask("unmap 3");
    process.ask("none 5");
    let at = |n: u64| base + n * PAGE;
    let mut buffer = vec![0; 64 * 4096];
    let read = read_pages(process.pid(), &[at(0)..at(4), at(4)..at(7), at(9)..at(10)], &mut buffer).unwrap();
    assert_eq!(read, [at(0)..at(2), at(4)..at(7), at(9)..at(10)]);
    let first_bytes: Vec<u8> = buffer.chunks(4096).take(6).map(|page| page[0]).collect();
    assert_eq!(first_bytes, [1, 2, 5, 6, 7, 10], "each page holds its number, from 1");
}

#[test]
fn thousands_of_single_pages_are_found_and_read() {
    let mut process = Process::start("sparse");
    let base = process.number();
    let mut tracker = by(Method::WriteProtect, &process);
    tracker.round(Phase::Running).unwrap();
    process.ask("write");
    let round = tracker.round(Phase::Running).unwrap();
    let written: Vec<_> =
        round.written.iter().filter(|range| (base..base + (64 << 20)).contains(&range.start)).cloned().collect();
    assert_eq!(written.len(), 8192, "every other page, more than one call can tell");
    let mut buffer = vec![0; 8192 * 4096];
    assert_eq!(read_pages(process.pid(), &written, &mut buffer).unwrap(), written);
    assert!(buffer.chunks(4096).all(|page| page[0] == 2));
}
