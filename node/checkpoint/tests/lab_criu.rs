//! Holding dumps and restores, with CRIU itself, of a container with threads, memory that it knows, and a connection.
//!
//! This program plays all parts: outside of the lab it starts itself inside, once per test; there it is the test, and what it
//! starts are its other roles.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::container::{Container, Report, beats, criu, inherit, restore, runs, soon, stands, until};
use common::in_lab;
use godwit_checkpoint::criu::holder::{self, Holder, Status};
use godwit_checkpoint::criu::{Error, MIN_VERSION, Tree};
use libtest_mimic::{Arguments, Failed, Trial};

const SOCKET: &str = "/tmp/holder.sock";

const TESTS: &[(&str, fn())] = &[
    ("the_lab_has_a_criu_that_is_new_enough", the_lab_has_a_criu_that_is_new_enough),
    ("an_aborted_dump_runs_on_with_memory_and_connection", || an_aborted_dump_runs_on(false)),
    ("an_aborted_lazy_dump_runs_on_with_memory_and_connection", || an_aborted_dump_runs_on(true)),
    ("a_dropped_dump_runs_on", a_dropped_dump_runs_on),
    ("a_committed_dump_goes_on_where_it_stood_when_it_is_restored", a_committed_dump_goes_on_where_it_stood),
    ("a_cancelled_restore_leaves_nothing_and_can_be_repeated", a_cancelled_restore_leaves_nothing),
    ("a_dump_at_its_deadline_runs_on_with_memory_and_connection", a_dump_at_its_deadline_runs_on),
    ("a_refused_dump_says_why_and_runs_on", a_refused_dump_says_why_and_runs_on),
    ("a_holder_keeps_the_tasks_when_its_user_is_killed", a_holder_keeps_the_tasks_when_its_user_is_killed),
    ("a_holder_commits_once_and_for_all", a_holder_commits_once_and_for_all),
    ("a_holder_keeps_the_tasks_when_criu_is_killed", a_holder_keeps_the_tasks_when_criu_is_killed),
    ("the_tasks_stand_when_the_holder_is_killed", the_tasks_stand_when_the_holder_is_killed),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["inside", name] => TESTS.iter().find(|(test, _)| *test == name).unwrap().1(),
        ["workload", megabytes] => common::container::workload(megabytes.parse().unwrap()),
        ["holder", socket] => holder::run(Path::new(socket)).unwrap(),
        ["user", pid] => user(pid.parse().unwrap()),
        _ => {
            let trial = |(name, _): &(&'static str, _)| {
                Trial::test(*name, || in_lab(&["inside", name]).map(drop).map_err(Failed::from))
            };
            libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect()).exit();
        }
    }
}

fn the_lab_has_a_criu_that_is_new_enough() {
    assert!(criu().version(soon()).unwrap() >= MIN_VERSION);
}

fn an_aborted_dump_runs_on(lazy: bool) {
    let mut container = Container::start(8);
    let held = criu().worker(Vec::new()).unwrap().dump(&container.dump(lazy), soon()).unwrap();
    assert!(stands());
    held.abort(soon()).unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_dropped_dump_runs_on() {
    let mut container = Container::start(1);
    drop(criu().worker(Vec::new()).unwrap().dump(&container.dump(true), soon()).unwrap());
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_committed_dump_goes_on_where_it_stood() {
    let mut container = Container::start(8);
    let held = criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap();
    let stood_at = beats();
    held.commit(soon()).unwrap();
    assert!(Tree::of(container.pid).is_err() || stands());
    container.reap();

    let held = criu().worker(inherit()).unwrap().restore(&restore(), soon()).unwrap();
    assert!(stands());
    assert_eq!(beats(), stood_at);
    let pid = held.release(soon()).unwrap();
    assert!(runs() && beats() > stood_at);
    assert_ne!(pid, container.pid);
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_cancelled_restore_leaves_nothing() {
    let mut container = Container::start(1);
    criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap().commit(soon()).unwrap();
    container.reap();
    let stood_at = beats();
    for _ in 0..2 {
        let held = criu().worker(inherit()).unwrap().restore(&restore(), soon()).unwrap();
        let pid = held.tree().pids().next().unwrap();
        held.cancel(soon()).unwrap();
        assert_eq!(beats(), stood_at);
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    }
    criu().worker(inherit()).unwrap().restore(&restore(), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

/// Wherever in the dump the deadline falls.
fn a_dump_at_its_deadline_runs_on() {
    let mut container = Container::start(64);
    let mut late = 0;
    for milliseconds in [0, 1, 2, 4, 8, 12, 16, 20, 25, 30, 40, 60] {
        let worker = criu().worker(Vec::new()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        match worker.dump(&container.dump(false), deadline) {
            Ok(held) => held.abort(soon()).unwrap(),
            Err(Error::Late { .. }) => late += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(runs());
        assert_eq!(container.report().wrong, 0);
    }
    assert!(late > 0);
}

fn a_refused_dump_says_why_and_runs_on() {
    let mut container = Container::start(1);
    let mut dump = container.dump(false);
    dump.pid = std::process::id();
    let error = criu().worker(Vec::new()).unwrap().dump(&dump, soon()).unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if !reason.is_empty()), "{error}");
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_holder_keeps_the_tasks_when_its_user_is_killed() {
    let mut container = Container::start(8);
    let mut user = start_user(container.pid);
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(stands());

    let mut holder = Holder::connect(Path::new(SOCKET)).unwrap();
    let Status::Held { pids, criu_lives: true } = holder.status(soon()).unwrap() else { panic!() };
    assert_eq!(pids, [container.pid]);
    holder.abort(soon()).unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
    assert_eq!(holder.status(soon()).unwrap(), Status::Aborted);
    holder.quit(soon()).unwrap();
    until("the holder's socket is gone", || (!Path::new(SOCKET).exists()).then_some(()));
}

fn a_holder_commits_once_and_for_all() {
    let mut container = Container::start(1);
    let mut holder = start_holder();
    assert_eq!(holder.status(soon()).unwrap(), Status::Idle);
    assert!(matches!(holder.commit(soon()), Err(Error::Holder { .. })));
    holder.dump(&container.dump(false), soon()).unwrap();
    holder.commit(soon()).unwrap();
    container.reap();
    holder.commit(soon()).unwrap();
    assert!(matches!(holder.abort(soon()), Err(Error::Holder { .. })));
    assert_eq!(holder.status(soon()).unwrap(), Status::Committed);
    holder.quit(soon()).unwrap();

    criu().worker(inherit()).unwrap().restore(&restore(), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_holder_keeps_the_tasks_when_criu_is_killed() {
    let mut container = Container::start(8);
    let mut holder = start_holder();
    holder.dump(&container.dump(false), soon()).unwrap();
    kill_the("criu");
    until("CRIU is gone", || match holder.status(soon()).unwrap() {
        Status::Held { criu_lives: false, .. } => Some(()),
        _ => None,
    });
    assert!(stands());
    // CRIU has died and says nothing more; the tasks run with what it has left mended.
    assert!(matches!(holder.abort(soon()), Err(Error::Holder { .. })));
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn the_tasks_stand_when_the_holder_is_killed() {
    let mut container = Container::start(8);
    let mut holder = start_holder();
    holder.dump(&container.dump(true), soon()).unwrap();
    kill_the("program holder");
    kill_the("criu");
    assert!(stands());
    assert!(matches!(holder.status(soon()), Err(Error::HolderSilent { .. })));
    assert!(matches!(Holder::connect(Path::new(SOCKET)), Err(Error::HolderSilent { .. })));
    Tree::of(container.pid).unwrap().recover().unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn start_holder() -> Holder {
    let mut command = Command::new("/program");
    command.args(["holder", SOCKET]);
    Holder::start(command, Path::new(SOCKET), &criu(), soon()).unwrap()
}

/// A user in a process of its own, which has had the container dumped.
fn start_user(pid: u32) -> Child {
    let mut command = Command::new("/program");
    let mut user = command.args(["user", &pid.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut said).unwrap();
    user
}

fn user(pid: u32) {
    start_holder().dump(&common::container::dump(pid, false), soon()).unwrap();
    println!("held");
    std::thread::sleep(Duration::from_secs(600));
}

/// Kills the processes in the lab whose command line begins with this, path aside; there are some.
fn kill_the(command: &str) {
    let found: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
            line.rsplit_once('/').map_or(&*line, |(_, name)| name).starts_with(command)
                || line.trim_start_matches('/').starts_with(command)
        })
        .collect();
    assert!(!found.is_empty(), "no {command}");
    for pid in found {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}
