//! Processes to be tracked: this test program, started again with a scenario in its environment, and what they do.
//!
//! They run before the test harness does, so that their main thread is the one at work: it is the first to be borrowed.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "plain system calls, on memory that the process mapped for this and uses by raw pointers alone, which other \
              threads of it may write at the same time: that is what is tested"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

const SCENARIO: &str = "GODWIT_TEST_SCENARIO";
const WAIT: Duration = Duration::from_millis(400);

/// A process that plays a scenario, in a process group of its own; killed when dropped.
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(scenario: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(SCENARIO, scenario).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, input, output };
        assert_eq!(process.line(), "ready");
        process
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn number(&mut self) -> u64 {
        self.line().parse().unwrap()
    }

    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        self.line()
    }

    pub fn finish(&mut self) -> String {
        self.line()
    }

    /// Until the main thread is where its scenario wants it, asleep unless it spins.
    pub fn wait_until_inside(&mut self) {
        let what = self.line();
        while what != "spins" && self.status("State:") != "S (sleeping)" {
            sleep(Duration::from_millis(1));
        }
    }

    fn status(&self, key: &str) -> String {
        status(&format!("/proc/{}/task/{}", self.pid(), self.pid()), key)
    }

    /// What tracking must not change.
    pub fn status_of_interest(&self) -> Vec<String> {
        ["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:", "TracerPid:", "Seccomp:"]
            .map(|key| self.status(key))
            .into()
    }

    pub fn signal(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    pub fn signal_soon(&self, signal: i32, delay: Duration) -> JoinHandle<()> {
        let pid = self.pid();
        spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        })
    }

    /// Stops the process and its descendants, as a checkpoint does by other means.
    pub fn stop(&self) {
        assert_eq!(unsafe { libc::kill(-self.pid(), libc::SIGSTOP) }, 0);
        while !self.is_stopped() {
            sleep(Duration::from_millis(1));
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.members().iter().all(|pid| {
            // Whoever waits for a stopped child of vfork does not run either.
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
            let paths: Vec<_> = threads.flatten().map(|thread| thread.path().display().to_string()).collect();
            paths.iter().all(|path| status(path, "State:").starts_with(['T', 'Z', 'D']))
        })
    }

    pub fn go_on(&self) {
        assert_eq!(unsafe { libc::kill(-self.pid(), libc::SIGCONT) }, 0);
    }

    pub fn kill(&mut self) {
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        self.child.wait().unwrap();
    }

    pub fn members(&self) -> BTreeSet<i32> {
        let mut members = BTreeSet::new();
        let mut queue = vec![self.pid()];
        while let Some(pid) = queue.pop() {
            members.insert(pid);
            for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                queue.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
            }
        }
        members
    }

    pub fn descriptors(&self) -> BTreeSet<(String, String)> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        let link = |path: &std::path::Path| std::fs::read_link(path).unwrap().display().to_string();
        entries.map(|entry| (entry.file_name().display().to_string(), link(&entry.path()))).collect()
    }

    pub fn mappings(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap()
    }

    /// The process itself or a descendant.
    pub fn has_userfaultfds(&self) -> bool {
        self.members().iter().any(|pid| {
            let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            entries
                .map(|entry| std::fs::read_link(entry.path()))
                .any(|link| link.is_ok_and(|link| link.ends_with("anon_inode:[userfaultfd]")))
        })
    }

    fn ranges(&self, perms: &str) -> Vec<(u64, u64)> {
        let parse = |line: &str| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap())
        };
        self.mappings().lines().filter(|line| line.contains(perms) && !line.contains("[v")).map(parse).collect()
    }

    pub fn code_hash(&self) -> blake3::Hash {
        let mem = std::fs::File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        let mut hash = blake3::Hasher::new();
        for (start, end) in self.ranges(" r-xp ") {
            let mut code = vec![0; usize::try_from(end - start).unwrap()];
            mem.read_exact_at(&mut code, start).unwrap();
            hash.update(&code);
        }
        hash.finalize()
    }

    /// By bit 57 of the pagemap.
    pub fn protected_pages(&self) -> usize {
        let pagemap = std::fs::File::open(format!("/proc/{}/pagemap", self.pid())).unwrap();
        let count = |(start, end): (u64, u64)| {
            let mut entries = vec![0; usize::try_from((end - start) / 4096 * 8).unwrap()];
            pagemap.read_exact_at(&mut entries, start / 4096 * 8).unwrap();
            entries
                .chunks_exact(8)
                .filter(|entry| u64::from_ne_bytes((*entry).try_into().unwrap()) >> 57 & 1 == 1)
                .count()
        };
        self.ranges("").into_iter().map(count).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        drop(self.child.wait());
    }
}

fn status(task: &str, key: &str) -> String {
    let text = std::fs::read_to_string(format!("{task}/status")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("Z").trim().to_owned()
}

pub fn has_memory(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty())
}

/// Called by the C library before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = play;

extern "C" fn play() {
    let Ok(scenario) = std::env::var(SCENARIO) else { return };
    say("ready");
    match scenario.as_str() {
        "pages" => pages(),
        "sparse" => sparse(),
        "pair" => pair(),
        "nursery" => nursery(),
        "churn" => churn(),
        "family" => family(),
        "trio" => trio(),
        "exec" => exec(),
        "forks" => forks(),
        "signals" => signals(),
        "kinds" => kinds(),
        "filtered" => filtered(),
        call => wait_in(call),
    }
    std::process::exit(0);
}

fn say(what: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "{what}").and_then(|()| out.flush()).unwrap();
}

/// Answers commands, one a line, until there are no more.
fn serve(mut answer: impl FnMut(&str, u64) -> String) {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        say(answer(command, number.parse().unwrap()));
    }
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn map(bytes: usize, flags: i32) -> *mut u8 {
    let at = unsafe { libc::mmap(null_mut(), bytes, RW, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.cast()
}

fn write(at: *mut u8, value: u8) {
    unsafe { at.write_volatile(value) };
}

fn done(result: i32) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn pages() {
    let base = map(64 * 4096, PRIVATE);
    let page = |n: u64| base.wrapping_add(usize::try_from(n).unwrap() * 4096);
    for n in 0..32 {
        write(page(n), n.to_le_bytes()[0] + 1);
    }
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    say(base.expose_provenance());
    serve(|command, n| {
        let at = page(n);
        unsafe {
            match command {
                "write" => write(at, 99),
                "read" => drop(std::hint::black_box(at.read_volatile())),
                "kernel" => {
                    use std::os::fd::AsRawFd;
                    assert_eq!(libc::read(zeros.as_raw_fd(), at.cast(), 100), 100);
                }
                "drop" => done(libc::madvise(at.cast(), 4096, libc::MADV_DONTNEED)),
                "readonly" => {
                    done(libc::mprotect(at.cast(), 4096, libc::PROT_READ));
                    done(libc::mprotect(at.cast(), 4096, RW));
                }
                "none" => done(libc::mprotect(at.cast(), 4096, libc::PROT_NONE)),
                "remap" => {
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
                    assert_ne!(libc::mremap(at.cast(), 4096, 4096, flags, null_mut::<u8>()), libc::MAP_FAILED);
                }
                "fork" => match libc::fork() {
                    0 => libc::_exit(0),
                    child => assert_eq!(libc::waitpid(child, null_mut(), 0), child),
                },
                "unmap" => done(libc::munmap(at.cast(), 4096)),
                other => panic!("{other}"),
            }
        }
        "done".into()
    });
}

fn sparse() {
    let base = map(64 << 20, PRIVATE);
    done(unsafe { libc::madvise(base.cast(), 64 << 20, libc::MADV_NOHUGEPAGE) });
    let fill = |value| (0..64 << 20).step_by(8192).for_each(|offset| write(base.wrapping_add(offset), value));
    fill(1);
    say(base.expose_provenance());
    serve(|_, _| {
        fill(2);
        "done".into()
    });
}

/// A process and a child of it with the same 16 MiB.
fn pair() {
    let base = random_pages(4096);
    let child = unsafe { libc::fork() };
    if child != 0 {
        say(base.expose_provenance());
        say(child);
    }
    loop {
        sleep(WAIT);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }
}

/// Writes anywhere in an arena, by itself and through the kernel.
fn scribble(base: usize, pages: usize, random: &mut Random, zeros: i32) {
    let at = std::ptr::with_exposed_provenance_mut::<u8>(base + random.below(pages) * 4096 + random.below(4000));
    match random.below(8) {
        0 => drop(unsafe { libc::read(zeros, at.cast(), 90) }),
        _ => write(at, random.0.to_le_bytes()[0]),
    }
}

fn scribbler(base: usize, pages: usize, seed: u64, per_ms: usize) {
    spawn(move || {
        let file = std::fs::File::open("/dev/urandom").unwrap();
        let mut random = Random(seed);
        loop {
            (0..per_ms).for_each(|_| scribble(base, pages, &mut random, std::os::fd::AsRawFd::as_raw_fd(&file)));
            sleep(Duration::from_millis(1));
        }
    });
}

/// Maps, unmaps, moves, grows, protects and drops memory, and writes to it in between.
fn reshape(random: &mut Random, areas: &mut Vec<(*mut u8, usize)>) {
    let pages = 1 + random.below(64);
    if areas.len() < 8 {
        areas.push((map(pages * 4096, PRIVATE), pages));
    }
    let index = random.below(areas.len());
    let (at, held) = areas[index];
    let part = random.below(held);
    let from = at.wrapping_add(part * 4096);
    let rest = (held - part) * 4096;
    unsafe {
        match random.below(9) {
            0 => {
                done(libc::munmap(at.cast(), held * 4096));
                areas.swap_remove(index);
                return;
            }
            1 => done(libc::madvise(from.cast(), rest, libc::MADV_DONTNEED)),
            2 => {
                let moved = libc::mremap(at.cast(), held * 4096, pages * 4096, libc::MREMAP_MAYMOVE);
                // Not over mappings that were put into it.
                if moved != libc::MAP_FAILED {
                    areas[index] = (moved.cast(), pages);
                }
                return;
            }
            3 => {
                done(libc::mprotect(from.cast(), rest, libc::PROT_NONE));
                done(libc::mprotect(from.cast(), rest, RW));
            }
            4 => {
                // Another mapping at the same place, unseen between two rounds.
                let flags = PRIVATE | libc::MAP_FIXED;
                assert_eq!(libc::mmap(from.cast(), rest, RW, flags, -1, 0), from.cast());
            }
            _ => {}
        }
    }
    for _ in 0..random.below(held) + 1 {
        write(at.wrapping_add(random.below(held) * 4096), random.0.to_le_bytes()[0]);
    }
}

fn churn() {
    const PAGES: usize = 8192;
    let arena = map(PAGES * 4096, PRIVATE);
    // Half of it in huge pages, where the kernel has some.
    unsafe { libc::madvise(arena.wrapping_add(PAGES * 2048).cast(), PAGES * 2048, libc::MADV_HUGEPAGE) };
    (0..PAGES).for_each(|n| write(arena.wrapping_add(n * 4096), n.to_le_bytes()[0]));
    for seed in 1..4 {
        scribbler(arena.expose_provenance(), PAGES, seed * 77, 20);
    }
    let mut random = Random(4711);
    let mut areas = Vec::new();
    loop {
        (0..20).for_each(|_| reshape(&mut random, &mut areas));
        // The heap and its end.
        drop(std::hint::black_box(vec![random.0.to_le_bytes()[0]; random.below(300_000)]));
        sleep(Duration::from_millis(1));
    }
}

/// A child's life: it inherits an arena, writes to it, may have children of its own.
fn child(base: usize, pages: usize, seed: u64, depth: u32) {
    let mut random = Random(seed);
    let lives = 10 + random.below(60);
    let mut grandchild = 0;
    if depth > 0 && random.below(2) == 0 {
        grandchild = unsafe { libc::fork() };
        if grandchild == 0 {
            child(base, pages, seed + 1, depth - 1);
        }
    }
    for _ in 0..lives {
        (0..10).for_each(|_| scribble(base, pages, &mut random, -1));
        unsafe { libc::usleep(1000) };
    }
    unsafe {
        if grandchild != 0 {
            libc::waitpid(grandchild, null_mut(), 0);
        }
        libc::_exit(0);
    }
}

/// Memory that does not compress, and whose pages differ.
fn random_pages(pages: usize) -> *mut u8 {
    let (base, mut random) = (map(pages * 4096, PRIVATE), Random(99));
    (0..pages * 4096).for_each(|at| write(base.wrapping_add(at), random.below(256).to_le_bytes()[0]));
    base
}

/// A process and two children of it, all of which churn, and leave 4 MiB alone.
fn trio() {
    random_pages(1024);
    if (0..2).all(|_| unsafe { libc::fork() } != 0) {
        spawn(churn);
    } else {
        churn();
    }
    loop {
        sleep(WAIT);
    }
}

/// Children come and go, a few at a time; each writes to a part of what it inherited.
fn nursery() {
    let arena = random_pages(1024).expose_provenance();
    spawn(move || {
        let mut children = std::collections::VecDeque::new();
        loop {
            match unsafe { libc::fork() } {
                0 => {
                    let arena = std::ptr::with_exposed_provenance_mut::<u8>(arena);
                    for n in 0..500 {
                        write(arena.wrapping_add(n % 64 * 4096), n.to_le_bytes()[0]);
                        unsafe { libc::usleep(1000) };
                    }
                    unsafe { libc::_exit(0) }
                }
                pid => children.push_back(pid),
            }
            if children.len() > 3 {
                let oldest = children.pop_front().unwrap();
                unsafe { libc::waitpid(oldest, null_mut(), 0) };
            }
        }
    });
    loop {
        sleep(WAIT);
    }
}

fn family() {
    const PAGES: usize = 2048;
    let arena = map(PAGES * 4096, PRIVATE).expose_provenance();
    scribbler(arena, PAGES, 5, 20);
    // vfork and execve.
    spawn(|| {
        loop {
            Command::new("/bin/sleep").arg("0.01").env_remove(SCENARIO).status().unwrap();
        }
    });
    let mut seed = 99;
    let mut children = Vec::new();
    loop {
        if children.len() < 4 {
            seed += 17;
            match unsafe { libc::fork() } {
                0 => child(arena, PAGES, seed, 2),
                pid => children.push(pid),
            }
        }
        children.retain(|&pid| unsafe { libc::waitpid(pid, null_mut(), libc::WNOHANG) } == 0);
        sleep(Duration::from_millis(2));
    }
}

/// Forks as often as it can, each child living for a while; by a thread, so that the main one can be borrowed meanwhile.
fn forks() {
    spawn(|| {
        let mut children = std::collections::VecDeque::new();
        loop {
            match unsafe { libc::fork() } {
                0 => unsafe {
                    libc::usleep(200_000);
                    libc::_exit(0);
                },
                pid => children.push_back(pid),
            }
            if children.len() > 16 {
                let oldest = children.pop_front().unwrap();
                unsafe { libc::waitpid(oldest, null_mut(), 0) };
            }
        }
    });
    loop {
        sleep(WAIT);
    }
}

fn exec() {
    serve(|_, _| panic!("{}", Command::new(std::env::current_exe().unwrap()).exec()));
}

static COUNTS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

extern "C" fn count(signal: i32) {
    COUNTS[usize::from(signal != libc::SIGRTMIN() + 1 && signal != libc::SIGUSR1)].fetch_add(1, SeqCst);
}

fn handle(signal: i32) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        done(libc::sigaction(signal, &raw const action, null_mut()));
    }
}

fn signals() {
    handle(libc::SIGRTMIN() + 1);
    handle(libc::SIGRTMIN() + 2);
    serve(|_, _| format!("{} {}", COUNTS[0].load(SeqCst), COUNTS[1].load(SeqCst)));
}

fn kinds() {
    use std::os::fd::AsRawFd;
    let exe = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let bases = unsafe {
        let file = libc::mmap(null_mut(), 4096, RW, libc::MAP_PRIVATE, exe.as_raw_fd(), 0);
        let locked = map(4096, PRIVATE);
        done(libc::mlock(locked.cast(), 4096));
        let foreign = map(4096, PRIVATE);
        [map(4096, PRIVATE), map(4096, libc::MAP_SHARED | libc::MAP_ANONYMOUS), file.cast(), locked, foreign]
    };
    bases.iter().for_each(|&base| write(base, 1));
    own_userfaultfd(bases[4].addr() as u64);
    say(bases.map(|base| base.addr().to_string()).join(" "));
    serve(|_, _| "done".into());
}

/// A userfaultfd of the process's own, for missing pages.
fn own_userfaultfd(base: u64) {
    const UFFDIO_API: u64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    unsafe {
        let fd = i32::try_from(libc::syscall(libc::SYS_userfaultfd, 1)).unwrap();
        let mut api = [0xaa_u64, 0, 0];
        done(libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()));
        let mut register = [base, 4096, 1, 0];
        done(libc::ioctl(fd, UFFDIO_REGISTER, register.as_mut_ptr()));
    }
}

fn filter(program: &mut [libc::sock_filter]) {
    let len = program.len().try_into().unwrap();
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    unsafe {
        done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program));
    }
}

const fn bpf(code: u32, k: u32, jt: u8) -> libc::sock_filter {
    #[expect(clippy::cast_possible_truncation, reason = "the codes are 16 bits")]
    libc::sock_filter { code: code as u16, jt, jf: 0, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP_IF: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

pub fn allow_everything_by_a_filter() {
    filter(&mut [bpf(RETURN, libc::SECCOMP_RET_ALLOW, 0)]);
}

fn filtered() {
    let userfaultfd = u32::try_from(libc::SYS_userfaultfd).unwrap();
    filter(&mut [
        bpf(LOAD, 0, 0),
        bpf(JUMP_IF, userfaultfd, 1),
        bpf(RETURN, libc::SECCOMP_RET_ALLOW, 0),
        bpf(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0),
    ]);
    say("filtered");
    serve(|_, _| unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::syscall(libc::SYS_userfaultfd, 1);
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        let killed = std::process::ExitStatus::from_raw(status).signal() == Some(libc::SIGSYS);
        if killed { "yes" } else { "no" }.into()
    });
}

/// Waits in a system call and says whether it ended as it should.
fn wait_in(call: &str) {
    let main = std::process::id().cast_signed();
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos().try_into().unwrap() };
    let wait_ms = i32::try_from(WAIT.as_millis()).unwrap();
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap();
    let mut ends = [0; 2];
    done(unsafe { libc::pipe(ends.as_mut_ptr()) });
    say(if call == "spin" { "spins" } else { "waits" });
    let begun = Instant::now();
    let right = unsafe {
        match call {
            "nanosleep" => libc::nanosleep(&raw const timeout, null_mut()) == 0,
            "clock_nanosleep" => {
                let mut until: libc::timespec = std::mem::zeroed();
                done(libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until));
                until.tv_sec += 1;
                libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const until, null_mut()) == 0
            }
            "pipe" => {
                spawn(move || {
                    sleep(WAIT);
                    libc::write(ends[1], "x".as_ptr().cast(), 1)
                });
                let mut byte = 0_u8;
                libc::read(ends[0], (&raw mut byte).cast(), 1) == 1 && byte == b'x'
            }
            "futex" => {
                let word = AtomicU32::new(7);
                let waits = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
                libc::syscall(libc::SYS_futex, word.as_ptr(), waits, 7, &raw const timeout) == -1
                    && errno() == libc::ETIMEDOUT
            }
            "poll" => {
                let mut poll = libc::pollfd { fd: ends[0], events: libc::POLLIN, revents: 0 };
                libc::poll(&raw mut poll, 1, wait_ms) == 0
            }
            "sigsuspend" => {
                handle(libc::SIGUSR1);
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&raw mut mask, libc::SIGUSR1);
                done(libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, null_mut()));
                spawn(move || {
                    sleep(WAIT);
                    libc::syscall(libc::SYS_tgkill, main, main, libc::SIGUSR1)
                });
                libc::sigemptyset(&raw mut mask);
                let interrupted = libc::sigsuspend(&raw const mask) == -1 && errno() == libc::EINTR;
                done(libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask));
                interrupted && COUNTS[0].load(SeqCst) == 1 && libc::sigismember(&raw const mask, libc::SIGUSR1) == 1
            }
            // As after any stop, signal(7): it is not restarted, and programs know.
            "epoll_pwait" => {
                let epoll = libc::epoll_create1(0);
                let mut event: libc::epoll_event = std::mem::zeroed();
                let got = libc::epoll_pwait(epoll, &raw mut event, 1, wait_ms, std::ptr::null());
                say(if got == -1 && errno() == libc::EINTR { "as expected" } else { "something else" });
                return;
            }
            "spin" => {
                let chain = |rounds: u32| {
                    (0..rounds).fold((1_u64, 1_f64), |(a, b), n| {
                        (
                            a.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(n),
                            (b * 1.000_1 + 0.5) % 1000.0,
                        )
                    })
                };
                let first = chain(100_000_000);
                first == chain(100_000_000)
            }
            other => panic!("no scenario is called {other}"),
        }
    };
    let early = call != "spin" && begun.elapsed() < WAIT;
    say(if right && !early { "as expected" } else { "something else" });
}
