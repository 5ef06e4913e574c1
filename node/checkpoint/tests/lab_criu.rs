//! Holding dumps and restores, with CRIU itself, of a container with threads, memory that it knows, and a connection.
//!
//! This program plays all parts: outside of the lab it starts itself inside, once per test; there it is the test, and what it
//! starts are its other roles.

mod common;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::container::{
    Container, Report, beats, criu, dump, inherit, network, restore, runs, soon, stands, switch, until,
};
use common::in_lab;
use godwit_checkpoint::criu::holder::{self, Holder, Status};
use godwit_checkpoint::criu::{Criu, Error, MIN_VERSION, Restore, Tree};
use godwit_checkpoint::pages::{Connection, MemoryStore, Options, Server, Service, guard};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;

const SOCKET: &str = "/tmp/holder.sock";
const CONTROL: &str = "/tmp/pages.sock";
/// When it is there, this program in CRIU's role is an older one.
const OLD: &str = "/tmp/old";

const TESTS: &[(&str, fn())] = &[
    ("the_lab_has_a_criu_that_is_new_enough", the_lab_has_a_criu_that_is_new_enough),
    ("an_older_criu_is_refused", an_older_criu_is_refused),
    ("a_program_that_is_no_criu_is_ended", a_program_that_is_no_criu_is_ended),
    ("an_aborted_dump_runs_on_with_memory_and_connection", || an_aborted_dump_runs_on(false)),
    ("an_aborted_lazy_dump_runs_on_with_memory_and_connection", || an_aborted_dump_runs_on(true)),
    ("a_dropped_dump_runs_on", a_dropped_dump_runs_on),
    ("a_committed_dump_goes_on_where_it_stood_when_it_is_restored", a_committed_dump_goes_on_where_it_stood),
    ("what_is_sent_while_the_network_is_down_arrives_at_the_copy", what_is_sent_while_the_network_is_down_arrives),
    ("a_cancelled_restore_leaves_nothing_and_can_be_repeated", a_cancelled_restore_leaves_nothing),
    ("a_restore_at_its_deadline_leaves_nothing", a_restore_at_its_deadline_leaves_nothing),
    ("a_released_copy_runs_even_if_criu_hangs_meanwhile", a_released_copy_runs_even_if_criu_hangs),
    ("a_dump_at_its_deadline_runs_on_with_memory_and_connection", a_dump_at_its_deadline_runs_on),
    ("a_refused_dump_says_why_and_runs_on", a_refused_dump_says_why_and_runs_on),
    ("a_criu_that_hangs_is_ended_and_the_source_runs_on", a_criu_that_hangs_is_ended),
    ("a_lazy_restore_runs_while_its_pages_come", a_lazy_restore_runs_while_its_pages_come),
    ("a_restore_whose_holder_is_killed_never_runs", a_restore_whose_holder_is_killed_never_runs),
    ("a_holder_keeps_the_tasks_when_its_user_is_killed", a_holder_keeps_the_tasks_when_its_user_is_killed),
    ("a_holder_commits_once_and_for_all", a_holder_commits_once_and_for_all),
    ("a_holder_keeps_the_tasks_when_criu_is_killed", a_holder_keeps_the_tasks_when_criu_is_killed),
    ("the_tasks_stand_when_the_holder_is_killed", || the_tasks_stand_when_the_holder_is_killed(false)),
    ("the_tasks_stand_when_the_holder_and_criu_are_killed", || the_tasks_stand_when_the_holder_is_killed(true)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["inside", name] => TESTS.iter().find(|(test, _)| *test == name).unwrap().1(),
        ["workload", megabytes] => common::container::workload(megabytes.parse().unwrap()),
        ["holder", socket] => {
            guard::harden().unwrap();
            holder::run(Path::new(socket)).unwrap();
        }
        ["swrk", socket] => another_criu(socket.parse().unwrap()),
        ["user", pid] => user(pid.parse().unwrap()),
        ["restorer"] => restorer(),
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

fn an_older_criu_is_refused() {
    std::fs::write(OLD, "").unwrap();
    let error = Criu::at("/program").version(soon()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "CRIU 4.1.1 is too old: 4.2 or newer is needed, for older ones fail on Linux 6.16 and later"
    );
    assert!(matches!(Criu::at("/nowhere/criu").version(soon()), Err(Error::Start { .. })));
}

fn a_program_that_is_no_criu_is_ended() {
    let error = Criu::at("/program").version(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert!(find("program swrk").is_empty());
}

/// An older version, as 4.1.1 tells it, or one that never says anything.
fn another_criu(socket: i32) {
    let version = b"\x08\x0a\x10\x01\x52\x06\x08\x04\x10\x01\x20\x01";
    if Path::new(OLD).exists() {
        recv(socket, &mut [0; 1024], MsgFlags::empty()).unwrap();
        send(socket, version, MsgFlags::empty()).unwrap();
    } else {
        std::thread::sleep(Duration::from_secs(600));
    }
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

    let held = criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap();
    assert!(stands());
    assert_eq!(beats(), stood_at);
    let pid = held.release(soon()).unwrap();
    assert!(runs() && beats() > stood_at);
    assert_ne!(pid, container.pid);
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn what_is_sent_while_the_network_is_down_arrives() {
    let mut container = Container::start(1);
    network(false);
    let held = criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap();
    container.ask();
    held.commit(soon()).unwrap();
    container.reap();
    let held = criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap();
    held.release(soon()).unwrap();
    network(true);
    assert_eq!(container.answer(), Report { served: 2, wrong: 0 });
}

fn a_cancelled_restore_leaves_nothing() {
    let mut container = Container::start(1);
    criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap().commit(soon()).unwrap();
    container.reap();
    let stood_at = beats();
    for _ in 0..2 {
        let held = criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap();
        let pid = held.tree().pids().next().unwrap();
        held.cancel(soon()).unwrap();
        assert_eq!(beats(), stood_at);
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    }
    criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

/// Wherever in the restore the deadline falls, and when CRIU hangs then.
fn a_restore_at_its_deadline_leaves_nothing() {
    let mut container = Container::start(1);
    criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap().commit(soon()).unwrap();
    container.reap();
    let stood_at = beats();
    for (milliseconds, hangs) in [(0, false), (1, false), (3, false), (5, false), (2, true), (4, true), (6, true)] {
        let worker = criu().worker(inherit("site")).unwrap();
        let deadline = Duration::from_millis(milliseconds);
        let held = if hangs {
            let stops = stop_after(worker.pid(), deadline);
            let held = worker.restore(&restore(false), Instant::now() + Duration::from_millis(100));
            stops.join().unwrap();
            held
        } else {
            worker.restore(&restore(false), Instant::now() + deadline)
        };
        match held {
            Ok(held) => held.cancel(soon()).unwrap(),
            Err(Error::Late { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        until("all tasks are gone", || find("program workload").is_empty().then_some(()));
        assert_eq!(beats(), stood_at);
    }
    criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

/// What was released may have served a client: it is not killed.
fn a_released_copy_runs_even_if_criu_hangs() {
    let mut container = Container::start(1);
    criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap().commit(soon()).unwrap();
    container.reap();
    let worker = criu().worker(inherit("site")).unwrap();
    let process = pid(worker.pid());
    let held = worker.restore(&restore(false), soon()).unwrap();
    kill(process, Signal::SIGSTOP).unwrap();
    let late = held.release(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(matches!(late, Error::Late { .. }), "{late}");
    assert!(stands());
    kill(process, Signal::SIGCONT).unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

/// Makes a process hang.
fn stop_after(process: u32, wait: Duration) -> JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(wait);
        kill(pid(process), Signal::SIGSTOP).unwrap();
    })
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

/// At several moments of the dump: parasites are in, connections in repair mode, or nothing is there yet.
fn a_criu_that_hangs_is_ended() {
    let mut container = Container::start(32);
    for milliseconds in [4, 8, 12, 16] {
        let worker = criu().worker(Vec::new()).unwrap();
        let hangs = stop_after(worker.pid(), Duration::from_millis(milliseconds));
        let held = worker.dump(&container.dump(true), Instant::now() + Duration::from_millis(200));
        hangs.join().unwrap();
        let late = held.and_then(|held| held.abort(Instant::now() + Duration::from_millis(200))).unwrap_err();
        assert!(matches!(late, Error::Late { .. }), "{late}");
        assert!(runs());
        assert_eq!(container.report().wrong, 0);
    }
}

/// The source is held and read while the copy already runs; only then it goes.
fn a_lazy_restore_runs_while_its_pages_come() {
    let mut container = Container::start(16);
    let held = criu().worker(Vec::new()).unwrap().dump(&container.dump(true), soon()).unwrap();
    let stood_at = beats();
    let restore = restore(true);
    let guard = guard(&restore);
    let service = service(&restore, held.tree());
    switch();
    let copy = criu().worker(inherit("other")).unwrap().restore(&restore, soon()).unwrap();
    assert!(stands() && beats() == stood_at);
    service.protect(copy.tree().root().unwrap()).unwrap();
    copy.release(soon()).unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
    until("all pages come", || service.ended().then_some(()));
    assert!(service.wait().unwrap().lazy >= 16 * 256);
    guard.join().unwrap();
    held.commit(soon()).unwrap();
    container.reap();
    assert_eq!(container.report(), Report { served: 3, wrong: 0 });
}

fn a_restore_whose_holder_is_killed_never_runs() {
    let mut container = Container::start(1);
    criu().worker(Vec::new()).unwrap().dump(&container.dump(false), soon()).unwrap().commit(soon()).unwrap();
    container.reap();
    let stood_at = beats();
    let mut restorer = start_role(&["restorer"]);
    restorer.kill().unwrap();
    restorer.wait().unwrap();
    assert!(stands() && beats() == stood_at);
    // CRIU has undone it all: the same can be restored again.
    until("CRIU is gone", || find("criu").is_empty().then_some(()));
    criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_holder_keeps_the_tasks_when_its_user_is_killed() {
    let mut container = Container::start(8);
    let mut user = start_role(&["user", &container.pid.to_string()]);
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(stands());

    let mut holder = Holder::connect(Path::new(SOCKET)).unwrap();
    let Status::Held { pids, criu_lives: true } = holder.status(soon()).unwrap() else { panic!() };
    assert_eq!((pids.len(), pids[0]), (3, container.pid));
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
    let second = Holder::start(Command::new("/program"), Path::new(SOCKET), &criu(), soon());
    assert!(matches!(second, Err(Error::Listen { .. })));
    assert!(matches!(holder.commit(soon()), Err(Error::Holder { .. })));
    holder.dump(&container.dump(false), soon()).unwrap();
    holder.commit(soon()).unwrap();
    container.reap();
    holder.commit(soon()).unwrap();
    assert!(matches!(holder.abort(soon()), Err(Error::Holder { .. })));
    assert_eq!(holder.status(soon()).unwrap(), Status::Committed);
    holder.quit(soon()).unwrap();

    criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap().release(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn a_holder_keeps_the_tasks_when_criu_is_killed() {
    let mut container = Container::start(8);
    let mut holder = start_holder();
    holder.dump(&container.dump(false), soon()).unwrap();
    let stood_at = beats();
    kill_the("criu");
    until("CRIU is gone", || match holder.status(soon()).unwrap() {
        Status::Held { criu_lives: false, .. } => Some(()),
        _ => None,
    });
    assert!(stands() && beats() == stood_at);
    // CRIU has died and says nothing more; the tasks run with what it has left mended.
    assert!(matches!(holder.abort(soon()), Err(Error::Holder { .. })));
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });
}

fn the_tasks_stand_when_the_holder_is_killed(criu_too: bool) {
    let mut container = Container::start(8);
    let started = Tree::of(container.pid).unwrap().started().unwrap();
    let mut holder = start_holder();
    holder.dump(&container.dump(true), soon()).unwrap();
    let stood_at = beats();
    kill_the("program holder");
    if criu_too {
        kill_the("criu");
    }
    until("CRIU is gone", || find("criu").is_empty().then_some(()));
    assert!(stands() && beats() == stood_at);
    assert!(matches!(holder.status(soon()), Err(Error::HolderSilent { .. })));
    assert!(matches!(Holder::connect(Path::new(SOCKET)), Err(Error::HolderSilent { .. })));
    Tree::again(container.pid, started).unwrap().recover().unwrap();
    assert!(runs());
    assert_eq!(container.report(), Report { served: 2, wrong: 0 });

    // Another holder takes the dead one's place.
    let mut holder = start_holder();
    holder.dump(&container.dump(true), soon()).unwrap();
    holder.abort(soon()).unwrap();
    assert_eq!(container.report(), Report { served: 3, wrong: 0 });
}

fn start_holder() -> Holder {
    let mut command = Command::new("/program");
    command.args(["holder", SOCKET]);
    Holder::start(command, Path::new(SOCKET), &criu(), soon()).unwrap()
}

/// This program in another role, once it has said that it is ready.
fn start_role(role: &[&str]) -> Child {
    let mut child = Command::new("/program").args(role).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    child
}

/// Has a holder dump the container.
fn user(pid: u32) {
    start_holder().dump(&dump(pid, false), soon()).unwrap();
    say_ready();
}

/// Holds a restore.
fn restorer() {
    let _held = criu().worker(inherit("site")).unwrap().restore(&restore(false), soon()).unwrap();
    say_ready();
}

fn say_ready() {
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

/// Serves what CRIU hands over; a thread of this test is enough of a process.
fn guard(restore: &Restore) -> JoinHandle<guard::Ending> {
    let config = guard::Config {
        criu: restore.work.join("lazy-pages.socket"),
        control: CONTROL.into(),
        restore: Duration::from_secs(20),
        patience: Duration::from_secs(20),
    };
    std::thread::spawn(move || guard::run(&config).unwrap())
}

/// Fills pages with what the standing tasks have.
fn service(restore: &Restore, tree: &Tree) -> Service {
    let tasks: Vec<_> =
        tree.image_pids().unwrap().iter().map(|(image, here)| (pid(*image).as_raw(), pid(*here))).collect();
    let connect = move || {
        let (ours, theirs) = UnixStream::pair()?;
        let (server, connection) = (Server::new(tasks.clone()), Connection::unix(theirs)?);
        std::thread::spawn(move || server.serve(connection));
        Connection::unix(ours)
    };
    let options = Options {
        images: restore.images.clone(),
        guard: CONTROL.into(),
        attach: Duration::from_secs(20),
        store: Box::new(MemoryStore::default()),
        connect: Box::new(connect),
        stale: Duration::from_secs(5),
        silence: Duration::from_secs(5),
    };
    Service::start(options).unwrap()
}

/// Kills the processes in the lab whose command begins with this, path aside; there are some.
fn kill_the(command: &str) {
    let found = find(command);
    assert!(!found.is_empty(), "no {command}");
    for found in found {
        let _ = kill(found, Signal::SIGKILL);
    }
}

fn find(command: &str) -> Vec<Pid> {
    let begins = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        let (program, arguments) = line.split_once(' ').unwrap_or((&line, ""));
        let name = program.rsplit('/').next().unwrap_or_default();
        format!("{name} {arguments}").starts_with(command)
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(begins).map(pid).collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}
