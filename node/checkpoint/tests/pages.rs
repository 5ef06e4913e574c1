//! The page service with real processes and real userfaultfds, without CRIU: a child of the test does what CRIU's restorer
//! does, then reads and moves its memory while it is filled. Needs root.
//!
//! Every process is this test program, in a role that its first argument names.

#![allow(clippy::cast_possible_truncation, reason = "its own small numbers, and addresses of this machine")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use godwit_checkpoint::pages::{
    Connect, Connection, Event, MemoryStore, Options, PAGE, Progress, Server, Service, ServiceError, guard,
};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Pid;

#[path = "pages/images.rs"]
mod images;
#[path = "pages/restored.rs"]
mod restored;

use images::{image, varint};
use restored::{BASE, PAGES, page};

/// The restored task's pid in the images.
const PID: i32 = 7;
/// For whatever must happen: far longer than it takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["role:source"] => restored::source(),
        ["role:restored", socket, scenario] => restored::run(Path::new(socket), scenario),
        ["role:guard", dir, patience_ms] => guard_role(Path::new(dir), patience_ms.parse().unwrap()),
        ["role:service", dir] => service_role(Path::new(dir)),
        _ => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
    }
}

type Test = fn() -> Result<(), Failed>;

fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = restored::SCENARIOS
        .iter()
        .map(|scenario| Trial::test(format!("memory_is_right_when_a_task_{scenario}"), || serves(scenario)))
        .collect();
    let tests: [(&str, Test); 10] = [
        ("pages_of_the_store_do_not_travel", pages_of_the_store_do_not_travel),
        ("a_lost_connection_costs_no_page", a_lost_connection_costs_no_page),
        ("a_damaged_batch_is_fetched_again", a_damaged_batch_is_fetched_again),
        ("a_silent_source_is_reported_and_its_return_too", a_silent_source_is_reported_and_its_return_too),
        ("a_dead_source_task_ends_the_service_and_the_task", a_dead_source_task_ends_the_service_and_the_task),
        ("a_new_service_goes_on_where_a_killed_one_ended", a_new_service_goes_on_where_a_killed_one_ended),
        ("without_a_new_service_the_task_dies_and_reads_no_zero", without_a_new_service_the_task_dies),
        ("when_the_guard_dies_the_task_dies_and_reads_no_zero", when_the_guard_dies_the_task_dies),
        ("restore_that_ends_early_is_reported", restore_that_ends_early_is_reported),
        ("a_guard_to_which_nothing_will_come_is_dismissed", a_guard_to_which_nothing_will_come_is_dismissed),
    ];
    trials.extend(tests.map(|(name, test)| Trial::test(name, test)));
    trials
}

fn serves(scenario: &str) -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let service = world.service(MemoryStore::default(), Weather::Slow)?;
    world.restore(scenario)?;
    world.restored_is_right()?;
    let progress = ended(service)?;
    check(progress.finished && progress.missing == 0, &progress)?;
    let changes = !matches!(scenario, "reads_by_four_threads" | "splits_its_mappings" | "reads_what_it_never_had");
    check(!changes || progress.changes > 0, &progress)?;
    world.guard_ended_well()
}

fn pages_of_the_store_do_not_travel() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let mut store = MemoryStore::default();
    let absent = |index: usize| index.is_multiple_of(64);
    for index in (0..PAGES).filter(|index| !absent(*index)) {
        store.insert(PID, BASE + index as u64 * PAGE, &page(index));
    }
    let service = world.service(store, Weather::Fair)?;
    world.restore("reads_by_four_threads")?;
    world.restored_is_right()?;
    let progress = ended(service)?;
    check(progress.by_store == (PAGES - PAGES / 64) as u64, &progress)?;
    check(progress.by_fault + progress.by_push == (PAGES / 64) as u64, &progress)?;
    world.guard_ended_well()
}

fn a_lost_connection_costs_no_page() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let service = world.service(MemoryStore::default(), Weather::CutEvery(1 << 20))?;
    world.restore("reads_by_four_threads")?;
    world.restored_is_right()?;
    check(matches!(service.event(Duration::ZERO), Some(Event::ConnectionLost(_))), &"no connection was lost")?;
    ended(service)?;
    world.guard_ended_well()
}

fn a_damaged_batch_is_fetched_again() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let service = world.service(MemoryStore::default(), Weather::Damage(1 << 20))?;
    world.restore("reads_by_four_threads")?;
    world.restored_is_right()?;
    check(matches!(service.event(Duration::ZERO), Some(Event::ConnectionLost(_))), &"nothing was noticed")?;
    ended(service)?;
    world.guard_ended_well()
}

fn a_silent_source_is_reported_and_its_return_too() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let open = Arc::new(AtomicBool::new(false));
    let service = world.service(MemoryStore::default(), Weather::Closed(open.clone()))?;
    world.restore("reads_by_four_threads")?;
    expect_event(&service, |event| matches!(event, Event::SourceSilent))?;
    check(service.progress().missing > 0, &service.progress())?;
    open.store(true, Ordering::Release);
    expect_event(&service, |event| matches!(event, Event::SourceBack))?;
    world.restored_is_right()?;
    ended(service)?;
    world.guard_ended_well()
}

fn a_dead_source_task_ends_the_service_and_the_task() -> Result<(), Failed> {
    let mut world = World::new(50)?;
    let service = world.service(MemoryStore::default(), Weather::Slow)?;
    world.restore("reads_by_four_threads")?;
    service.protect(world.restored_pidfd()?)?;
    world.source.kill()?;
    world.source.wait()?;
    match ended(service) {
        Err(error) if error.message().is_some_and(|message| message.contains("has lost")) => {}
        other => return Err(format!("{other:?}").into()),
    }
    world.restored_died_without_zeros()
}

fn a_new_service_goes_on_where_a_killed_one_ended() -> Result<(), Failed> {
    for scenario in ["reads_by_four_threads", "forks", "moves_its_memory", "gives_memory_up", "does_everything_at_once"]
    {
        let mut world = World::new(20_000)?;
        let mut first = world.service_process()?;
        world.restore(scenario)?;
        // It says so when it has filled a tenth.
        let mut line = String::new();
        BufReader::new(first.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        first.kill()?;
        first.wait()?;
        check(line == "some\n", &line)?;
        let service = world.service(MemoryStore::default(), Weather::Slow)?;
        world.restored_is_right()?;
        let progress = ended(service)?;
        check(progress.there > 0, &progress)?;
        world.guard_ended_well()?;
    }
    Ok(())
}

fn without_a_new_service_the_task_dies() -> Result<(), Failed> {
    let mut world = World::new(200)?;
    let service = world.service(MemoryStore::default(), Weather::Slow)?;
    world.restore("reads_by_four_threads")?;
    service.protect(world.restored_pidfd()?)?;
    while service.progress().by_push < PAGES as u64 / 10 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(service);
    world.restored_died_without_zeros()
}

fn when_the_guard_dies_the_task_dies() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let service = world.service(MemoryStore::default(), Weather::Slow)?;
    world.restore("reads_by_four_threads")?;
    service.protect(world.restored_pidfd()?)?;
    world.guard.kill()?;
    world.guard.wait()?;
    check(ended(service).is_err(), &"the service did not notice")?;
    world.restored_died_without_zeros_unguarded()
}

fn restore_that_ends_early_is_reported() -> Result<(), Failed> {
    let mut world = World::new(50)?;
    let service = world.service(MemoryStore::default(), Weather::Fair)?;
    drop(UnixStream::connect(world.dir.path().join("lazy-pages.socket"))?);
    let error = service.wait().err();
    check(matches!(error, Some(ServiceError::RestoreBroke)), &error)?;
    check(world.guard.wait()?.code() == Some(12), &"the guard waits for nothing")
}

fn a_guard_to_which_nothing_will_come_is_dismissed() -> Result<(), Failed> {
    let mut world = World::new(20_000)?;
    let until = Instant::now() + DEADLINE;
    let ended = loop {
        // It may still be starting.
        godwit_checkpoint::pages::dismiss(&world.dir.path().join("guard.socket"));
        match world.guard.try_wait()? {
            Some(ended) => break ended,
            None => check(Instant::now() < until, &"it stays")?,
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    check(ended.code() == Some(12), &ended)
}

/// How the connection to the source behaves.
enum Weather {
    Fair,
    /// Some 40 MB/s, so that much is missing while the task acts.
    Slow,
    /// Each connection ends after so many bytes from the source.
    CutEvery(usize),
    /// The first connection damages one byte after so many.
    Damage(usize),
    /// No connection until this is set.
    Closed(Arc<AtomicBool>),
}

/// A frozen source, a guard, and a task that is restored.
struct World {
    dir: tempfile::TempDir,
    source: Child,
    guard: Child,
    restored: Option<(Child, Receiver<String>)>,
}

impl World {
    fn new(patience_ms: u64) -> Result<Self, Failed> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root: the guard refuses connections of others".into());
        }
        let dir = tempfile::tempdir()?;
        write_images(dir.path())?;
        let mut source = role(&["role:source"])?;
        let mut line = String::new();
        BufReader::new(source.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        check(line == "ready\n", &line)?;
        let guard = role(&["role:guard", text(dir.path()), &patience_ms.to_string()])?;
        fs::write(dir.path().join("source.pid"), source.id().to_string())?;
        Ok(Self { dir, source, guard, restored: None })
    }

    fn service(&self, store: MemoryStore, weather: Weather) -> Result<Service, Failed> {
        Ok(Service::start(options(self.dir.path(), store, weather))?)
    }

    /// A service in a process of its own.
    fn service_process(&self) -> Result<Child, Failed> {
        let child = role(&["role:service", text(self.dir.path())])?;
        Ok(child)
    }

    /// Starts the task; returns when it has handed itself over.
    fn restore(&mut self, scenario: &str) -> Result<(), Failed> {
        let socket = self.dir.path().join("lazy-pages.socket");
        wait_for(|| socket.exists())?;
        let mut child = role(&["role:restored", text(&socket), scenario])?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        let first = lines.recv_timeout(DEADLINE)?;
        self.restored = Some((child, lines));
        check(first == "handed over", &first)
    }

    fn restored(&mut self) -> Result<&mut (Child, Receiver<String>), Failed> {
        self.restored.as_mut().ok_or_else(|| "nothing was restored".into())
    }

    fn restored_pidfd(&mut self) -> Result<OwnedFd, Failed> {
        let pid = rustix::process::Pid::from_child(&self.restored()?.0);
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
    }

    /// What the task said, and how it ended.
    fn restored_end(&mut self) -> Result<(ExitStatus, Vec<String>), Failed> {
        let (child, lines) = self.restored()?;
        let status = wait_child(child)?;
        Ok((status, lines.iter().collect()))
    }

    fn restored_is_right(&mut self) -> Result<(), Failed> {
        let (status, said) = self.restored_end()?;
        check(status.success() && said == ["right"], &(status, said))
    }

    fn restored_died_without_zeros(&mut self) -> Result<(), Failed> {
        self.restored_died_without_zeros_unguarded()?;
        let status = wait_child(&mut self.guard)?;
        check(status.code() == Some(11), &status)
    }

    fn restored_died_without_zeros_unguarded(&mut self) -> Result<(), Failed> {
        let (status, said) = self.restored_end()?;
        check(status.signal() == Some(libc::SIGKILL) && said.is_empty(), &(status, said))
    }

    fn guard_ended_well(&mut self) -> Result<(), Failed> {
        let status = wait_child(&mut self.guard)?;
        check(status.code() == Some(10), &status)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let restored = self.restored.as_mut().map(|(child, _)| child);
        for child in [&mut self.source, &mut self.guard].into_iter().chain(restored) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn options(dir: &Path, store: MemoryStore, weather: Weather) -> Options {
    Options {
        images: dir.to_owned(),
        guard: dir.join("guard.socket"),
        attach: DEADLINE,
        store: Box::new(store),
        connect: connect(dir.join("source.pid"), weather),
        stale: Duration::from_secs(5),
        silence: Duration::from_millis(300),
    }
}

/// Each connection has a server of its own in a thread.
fn connect(source: PathBuf, weather: Weather) -> Connect {
    let connections = AtomicUsize::new(0);
    Box::new(move || {
        let first = connections.fetch_add(1, Ordering::Relaxed) == 0;
        let (mut delay, mut cut, mut damage) = (Duration::ZERO, usize::MAX, usize::MAX);
        match &weather {
            Weather::Fair => {}
            Weather::Slow => delay = Duration::from_millis(3),
            Weather::CutEvery(bytes) => cut = *bytes,
            Weather::Damage(bytes) if first => damage = *bytes,
            Weather::Damage(_) => {}
            Weather::Closed(open) if open.load(Ordering::Acquire) => {}
            Weather::Closed(_) => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        let pid = fs::read_to_string(&source)?.parse().map_err(io::Error::other)?;
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::spawn(move || {
            let server = Server::new([(PID, Pid::from_raw(pid))]);
            Connection::unix(theirs).map(|connection| server.serve(connection))
        });
        let Connection { read, write, close } = Connection::unix(ours)?;
        Ok(Connection { read: Box::new(Bad { read, delay, cut, damage }), write, close })
    })
}

struct Bad<R> {
    read: R,
    delay: Duration,
    cut: usize,
    damage: usize,
}

impl<R: Read> Read for Bad<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cut == 0 {
            return Ok(0);
        }
        let most = into.len().min(128 << 10);
        let read = self.read.read(&mut into[..most])?;
        if read > 1000 {
            std::thread::sleep(self.delay);
        }
        if self.damage < read {
            into[self.damage] ^= 1;
        }
        self.damage = if self.damage < read { usize::MAX } else { self.damage - read };
        self.cut = self.cut.saturating_sub(read);
        Ok(read)
    }
}

fn guard_role(dir: &Path, patience_ms: u64) -> ExitCode {
    let config = guard::Config {
        criu: dir.join("lazy-pages.socket"),
        control: dir.join("guard.socket"),
        restore: DEADLINE,
        patience: Duration::from_millis(patience_ms),
    };
    match guard::harden().map(|()| guard::run(&config)) {
        Ok(Ok(guard::Ending::Complete)) => ExitCode::from(10),
        Ok(Ok(guard::Ending::Dead)) => ExitCode::from(11),
        Ok(Ok(guard::Ending::NothingCame)) => ExitCode::from(12),
        other => {
            eprintln!("{other:?}");
            ExitCode::FAILURE
        }
    }
}

fn service_role(dir: &Path) -> ExitCode {
    let service = Service::start(options(dir, MemoryStore::default(), Weather::Slow)).unwrap();
    while service.progress().by_push < PAGES as u64 / 10 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("some");
    let _ = service.wait();
    ExitCode::SUCCESS
}

/// The images as CRIU 4.2 writes them, of the fields that matter.
fn write_images(dir: &Path) -> io::Result<()> {
    let (half, pages) = (BASE + PAGES as u64 / 2 * PAGE, PAGES as u64);
    let field = |tag: u8, value: u64| [vec![tag << 3], varint(value)].concat();
    let nested = |tag: u8, message: Vec<u8>| [vec![tag << 3 | 2], varint(message.len() as u64), message].concat();
    let vma = |from, to| nested(14, [field(1, from), field(2, to)].concat());
    let entry = [field(1, BASE), field(2, pages), field(4, 2), field(5, pages)].concat();
    let mappings = [vma(BASE, half), vma(half, BASE + pages * PAGE)].concat();
    fs::write(dir.join(format!("pagemap-{PID}.img")), image(0x5608_4025, &[field(1, 1), entry]))?;
    fs::write(dir.join(format!("mm-{PID}.img")), image(0x5749_2820, &[mappings]))
}

fn role(arguments: &[&str]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn check(holds: bool, otherwise: &impl std::fmt::Debug) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(format!("{otherwise:?}").into()) }
}

fn wait_for(mut holds: impl FnMut() -> bool) -> Result<(), Failed> {
    let started = Instant::now();
    while !holds() {
        check(started.elapsed() < DEADLINE, &"it did not happen in time")?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn wait_child(child: &mut Child) -> Result<ExitStatus, Failed> {
    let mut status = None;
    wait_for(|| {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })?;
    status.ok_or_else(|| "no status".into())
}

fn ended(service: Service) -> Result<Progress, Failed> {
    wait_for(|| service.ended())?;
    Ok(service.wait()?)
}

fn expect_event(service: &Service, wanted: impl Fn(&Event) -> bool) -> Result<(), Failed> {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if service.event(Duration::from_secs(1)).is_some_and(|event| wanted(&event)) {
            return Ok(());
        }
    }
    Err("the event did not come".into())
}
