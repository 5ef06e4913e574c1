//! Measures the page service: how fast 256 MB arrive over a loopback connection, and how long a fault takes. Needs root.
//!
//! `cargo run --release -p godwit-checkpoint --example page_service`
//!
//! This process is the source's server, the service and the guard (in a thread); a child holds the source's memory, another is
//! the task whose memory is filled. Contents do not compress and do not repeat.

#![allow(clippy::cast_possible_truncation, reason = "its own small numbers, and addresses of this machine")]

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use godwit_checkpoint::pages::{Connect, Connection, MemoryStore, Options, Server, Service, guard};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

#[path = "../tests/pages/images.rs"]
mod images;

use images::{image, varint};

const PID: i32 = 1;
const BASE: u64 = 0x10_0000_0000;
const PAGE: usize = 4096;
const PAGES: usize = 65_536;
/// Each fault far from all others, so that no push brings the page.
const FAULTS: usize = 200;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["source"] => source(),
        ["task", socket, faults] => task(Path::new(socket), faults == "faults"),
        _ => {
            println!("{:<12} {:<8} {:>8} {:>8}", "connection", "pages", "ms", "GB/s");
            for connection in ["tcp", "unix"] {
                for stored in [false, true] {
                    throughput(connection, stored)?;
                }
            }
            ["tcp", "unix"].into_iter().try_for_each(latency)
        }
    }
}

/// Medians of five.
fn throughput(connection: &str, stored: bool) -> Result<(), Failure> {
    let mut source = start(&["source"])?;
    let mut store = MemoryStore::default();
    if stored {
        (0..PAGES).for_each(|index| store.insert(PID, BASE + (index * PAGE) as u64, &page(index)));
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        let (dir, service) = serve(&source, connection, store.clone())?;
        let mut task = start(&["task", dir.path().join("lazy-pages.socket").to_str().unwrap_or_default(), "still"])?;
        let started = Instant::now();
        let progress = service.wait()?;
        times.push(started.elapsed());
        assert!(progress.finished && progress.lazy == PAGES as u64);
        end(&mut task);
    }
    end(&mut source);
    times.sort();
    let seconds = times[2].as_secs_f64();
    let from = if stored { "store" } else { "source" };
    let rate = (PAGES * PAGE) as f64 / seconds / 1e9;
    println!("{connection:<12} {from:<8} {:>8.1} {rate:>8.2}", seconds * 1e3);
    Ok(())
}

fn latency(connection: &str) -> Result<(), Failure> {
    let mut source = start(&["source"])?;
    let (dir, service) = serve(&source, connection, MemoryStore::default())?;
    let socket = dir.path().join("lazy-pages.socket");
    let mut task = start_silent(&["task", socket.to_str().unwrap_or_default(), "faults"])?;
    let mut said = String::new();
    BufReader::new(task.stdout.as_mut().ok_or("no output")?).read_line(&mut said)?;
    print!("fault over {connection}, nothing pushed: {said}");
    end(&mut task);
    service.abandon();
    end(&mut source);
    Ok(())
}

fn serve(source: &Child, connection: &str, store: MemoryStore) -> Result<(tempfile::TempDir, Service), Failure> {
    let dir = tempfile::tempdir()?;
    write_images(dir.path())?;
    let config = guard::Config {
        criu: dir.path().join("lazy-pages.socket"),
        control: dir.path().join("guard.socket"),
        restore: Duration::from_secs(60),
        patience: Duration::from_secs(60),
    };
    let control = config.control.clone();
    std::thread::spawn(move || guard::run(&config));
    let server = Server::new([(PID, Pid::from_raw(i32::try_from(source.id())?))]);
    let service = Service::start(Options {
        images: dir.path().to_owned(),
        guard: control,
        attach: Duration::from_secs(5),
        store: Box::new(store),
        connect: connect(connection, dir.path(), server)?,
        stale: Duration::from_secs(60),
        silence: Duration::from_secs(60),
    })?;
    Ok((dir, service))
}

fn connect(connection: &str, dir: &Path, server: Server) -> Result<Connect, Failure> {
    if connection == "tcp" {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || Connection::tcp(listener.accept()?.0).map(|connection| server.serve(connection)));
        return Ok(Box::new(move || Connection::tcp(TcpStream::connect(address)?)));
    }
    let path = dir.join("source.socket");
    let listener = UnixListener::bind(&path)?;
    std::thread::spawn(move || Connection::unix(listener.accept()?.0).map(|connection| server.serve(connection)));
    Ok(Box::new(move || Connection::unix(UnixStream::connect(&path)?)))
}

fn start(arguments: &[&str]) -> Result<Child, Failure> {
    let mut child = start_silent(arguments)?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
    Ok(child)
}

fn start_silent(arguments: &[&str]) -> Result<Child, Failure> {
    Ok(Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?)
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn page(index: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut x = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in page.as_chunks_mut::<8>().0 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *word = (x ^ x >> 29).to_ne_bytes();
    }
    page
}

fn map() -> Result<(), Failure> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: maps fresh memory where nothing is.
    let at = unsafe { libc::mmap(BASE as *mut _, PAGES * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at as u64 == BASE { Ok(()) } else { Err("the addresses are taken".into()) }
}

fn source() -> Result<(), Failure> {
    map()?;
    for index in 0..PAGES {
        // SAFETY: inside what was just mapped.
        unsafe { std::ptr::write((BASE as usize + index * PAGE) as *mut [u8; PAGE], page(index)) };
    }
    println!("ready");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?;
    Ok(())
}

mod ioctl {
    /// `struct uffdio_api`, `struct uffdio_register`.
    type Words<const N: usize> = [u64; N];
    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Words<3>);
    nix::ioctl_readwrite!(register, 0xaa, 0x00, Words<4>);
}

/// With `faults`, it measures them before it says that restore has ended: until then nothing is pushed.
fn task(socket: &Path, faults: bool) -> Result<(), Failure> {
    map()?;
    // SAFETY: takes flags alone.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    nix::errno::Errno::result(raw)?;
    // SAFETY: just made, for us.
    let uffd = unsafe { OwnedFd::from_raw_fd(i32::try_from(raw)?) };
    let mut api = [0xaa, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6, 0];
    // SAFETY: the kernel writes to `api` alone.
    unsafe { ioctl::api(uffd.as_raw_fd(), &raw mut api) }?;
    let mut register = [BASE, (PAGES * PAGE) as u64, 1, 0];
    // SAFETY: has the kernel watch memory that only `measure` reads; it writes to `register` alone.
    unsafe { ioctl::register(uffd.as_raw_fd(), &raw mut register) }?;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&PID.to_ne_bytes())?;
    let rights = [uffd.as_raw_fd()];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )?;
    if faults {
        measure();
    }
    stream.write_all(&0x5253_5446_i32.to_ne_bytes())?;
    println!("handed over");
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn measure() {
    std::thread::sleep(Duration::from_millis(200));
    let fault = |index: usize| {
        let started = Instant::now();
        // SAFETY: inside what is mapped; nobody writes there but the kernel, before the read goes on.
        unsafe { std::ptr::read_volatile((BASE as usize + index * (PAGES / FAULTS) * PAGE) as *const u64) };
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..FAULTS).map(fault).collect();
    times.sort();
    println!("median {:?}, 95 of 100 within {:?}", times[FAULTS / 2], times[FAULTS * 95 / 100]);
}

/// The images as CRIU 4.2 writes them, of the fields that matter.
fn write_images(dir: &Path) -> std::io::Result<()> {
    let (pages, end) = (PAGES as u64, BASE + (PAGES * PAGE) as u64);
    let field = |tag: u8, value: u64| [vec![tag << 3], varint(value)].concat();
    let mapping = [field(1, BASE), field(2, end)].concat();
    let mm = [vec![14 << 3 | 2], varint(mapping.len() as u64), mapping].concat();
    let entry = [field(1, BASE), field(4, 2), field(5, pages)].concat();
    std::fs::write(dir.join(format!("pagemap-{PID}.img")), image(0x5608_4025, &[field(1, 1), entry]))?;
    std::fs::write(dir.join(format!("mm-{PID}.img")), image(0x5749_2820, &[mm]))
}
