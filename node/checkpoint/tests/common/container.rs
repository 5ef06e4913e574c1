//! What is dumped and restored in the lab: a lean container with a network namespace that outlives it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use godwit_checkpoint::criu::{Criu, Dump, Inherit, Restore};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The name that the container's network namespace has in the images.
const NET: &str = "lab-net";
const ADDRESS: &str = "10.77.0.2:7000";
/// In the container's root, which is the lab's: its threads count here, for all to see.
const BEATS: &str = "/beats";
const THREADS: usize = 3;
/// Two network namespaces with the same address, of which a bridge reaches one: `site` at first.
const NETWORK: &str = "ip link add bridge type bridge; ip addr add 10.77.0.1/24 dev bridge; ip link set bridge up
for site in site other; do
  ip netns add $site
  ip link add to-$site type veth peer name eth0 address 02:00:00:00:00:02 netns $site
  ip link set to-$site master bridge
  ip -n $site addr add 10.77.0.2/24 dev eth0
  ip -n $site link set eth0 up; ip -n $site link set lo up
done
ip link set to-site up";
/// A mount namespace with a root and /proc, as the first process of a pid namespace and of a session.
const BOX: &str = "mount --bind / /box && cd /box && mount -t proc proc proc && pivot_root . . && umount -l . && cd / && \
    exec setsid /program workload \"$1\" </dev/null >/dev/null 2>&1";

/// A container that runs in the lab, and a connection to it.
pub struct Container {
    unshare: Child,
    /// Its first process, as the lab sees it.
    pub pid: u32,
    client: BufReader<TcpStream>,
}

/// What the container says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Answers given over the one connection, this one included.
    pub served: u64,
    /// Bytes of its memory that are not what they should be.
    pub wrong: u64,
}

impl Container {
    /// Starts one with that much memory of known content.
    pub fn start(megabytes: usize) -> Self {
        sh(NETWORK);
        let mut unshare = Command::new("nsenter");
        unshare.args(["--net=/run/netns/site", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"]);
        unshare.args(["--", "bash", "-c", BOX, "box", &megabytes.to_string()]);
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = unshare.spawn().unwrap();
        let client = until("the container answers", || TcpStream::connect(ADDRESS).ok());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let pid = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).unwrap();
        let mut container = Self { unshare, pid: pid.trim().parse().unwrap(), client: BufReader::new(client) };
        assert_eq!(container.report(), Report { served: 1, wrong: 0 });
        container
    }

    /// Asks over the connection, and waits for the answer.
    pub fn report(&mut self) -> Report {
        self.ask();
        self.answer()
    }

    /// Asks over the connection.
    pub fn ask(&mut self) {
        self.client.get_mut().write_all(b"report\n").unwrap();
    }

    /// Waits for the answer.
    pub fn answer(&mut self) -> Report {
        let mut line = String::new();
        self.client.read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
        Report { served: numbers.next().unwrap(), wrong: numbers.next().unwrap() }
    }

    /// What dumps it.
    pub fn dump(&self, lazy: bool) -> Dump {
        dump(self.pid, lazy)
    }

    /// Whoever has started it sees its end: `unshare` at first, and us when it was restored.
    pub fn reap(&mut self) {
        until("the container's parent sees its end", || {
            let ended = self.unshare.try_wait().unwrap();
            let pid = Pid::from_raw(i32::try_from(self.pid).unwrap());
            let reaped = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            (ended.is_some() && reaped != Ok(WaitStatus::StillAlive)).then_some(())
        });
    }
}

/// What dumps the container with this first process: its network namespace stays.
pub fn dump(pid: u32, lazy: bool) -> Dump {
    let net = std::fs::metadata("/run/netns/site").unwrap().ino();
    let external = vec![format!("net[{net}]:{NET}")];
    Dump { pid, images: tmpfs("images"), work: tmpfs("work"), lazy, external, ghost_limit: 1 << 20 }
}

/// Restores what [`dump`] has dumped.
pub fn restore(lazy: bool) -> Restore {
    let (images, work) = (PathBuf::from("/tmp/images"), tmpfs("restore"));
    Restore { images, work, root: Some("/box".into()), lazy, external: Vec::new() }
}

/// Whether the bridge reaches the first network namespace.
pub fn network(up: bool) {
    sh(&format!("ip link set to-site {}", if up { "up" } else { "down" }));
}

/// From now on the bridge reaches the other network namespace.
pub fn switch() {
    sh("ip link set to-site down; ip link set to-other up");
}

/// The network namespace that it is restored into.
pub fn inherit(site: &str) -> Vec<Inherit> {
    let fd = OwnedFd::from(File::open(Path::new("/run/netns").join(site)).unwrap());
    vec![Inherit { key: NET.into(), fd }]
}

/// The lab's.
pub fn criu() -> Criu {
    Criu::at("/usr/sbin/criu")
}

/// As long as nothing hangs.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The sum of what the container's threads have counted.
pub fn beats() -> u64 {
    let mut bytes = [0; 8];
    File::open(BEATS).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Whether its threads count on.
pub fn runs() -> bool {
    let before = beats();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if beats() != before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Whether not one of its threads counts, watched for 300 times as long as a beat takes.
pub fn stands() -> bool {
    let before = beats();
    std::thread::sleep(Duration::from_millis(300));
    beats() == before
}

/// Waits for what is sure to come.
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = soon();
    loop {
        if let Some(ready) = ready() {
            return ready;
        }
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An empty folder on the lab's tmpfs.
pub fn tmpfs(name: &str) -> PathBuf {
    let folder = Path::new("/tmp").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The life of the process that is dumped: threads that count, a child, a zombie, memory that it knows, and a connection.
pub fn workload(megabytes: usize) {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut zombie = Command::new("true").spawn().unwrap();
    let beats = shared_counter();
    for _ in 0..THREADS {
        let beats = Arc::clone(&beats);
        std::thread::spawn(move || {
            loop {
                beats.beat();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
    let memory: Vec<u64> = (0..megabytes as u64 * 131_072).map(known).collect();
    let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
    let (mut client, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(client.try_clone().unwrap());
    let mut served = 0_u64;
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        served += 1;
        let wrong = (0..).zip(&memory).filter(|(index, word)| **word != known(*index)).count();
        writeln!(client, "{served} {wrong}").unwrap();
        line.clear();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    zombie.wait().unwrap();
}

fn known(index: u64) -> u64 {
    index.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
}

/// A counter in a file that all threads share, private memory beside it.
struct Beats {
    file: File,
    count: AtomicU64,
}

impl Beats {
    fn beat(&self) {
        let count = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.file.write_all_at(&count.to_ne_bytes(), 0).unwrap();
    }
}

fn shared_counter() -> Arc<Beats> {
    Arc::new(Beats { file: File::create(BEATS).unwrap(), count: AtomicU64::new(0) })
}
