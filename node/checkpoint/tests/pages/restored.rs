//! The processes whose memory is served: the frozen source, and the restored task that stands in for what CRIU restores.

use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub const BASE: u64 = 0x10_0000_0000;
/// 16 MiB.
pub const PAGES: usize = 4096;
const PAGE: usize = 4096;
/// Where memory is moved to.
const ELSEWHERE: u64 = 0x20_0000_0000;

/// What a restored task does while its pages are missing; all end with a look at all its memory.
pub const SCENARIOS: [&str; 8] = [
    "reads_by_four_threads",
    "forks",
    "moves_its_memory",
    "unmaps_memory",
    "gives_memory_up",
    "splits_its_mappings",
    "reads_what_it_never_had",
    "does_everything_at_once",
];

/// What a page held when the task was frozen: zeros, repeats, text and noise.
pub fn page(index: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let seed = match index % 16 {
        0 | 1 => return page,
        2 | 3 => 1,
        _ => index as u64 + 100,
    };
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (position, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let text = index % 16 < 8 && position % 8 > 0;
        *word = if text { *b"godwit. " } else { x.to_ne_bytes() };
    }
    page
}

fn map(address: u64, pages: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: maps fresh memory where nothing is.
    let at = unsafe { libc::mmap(address as *mut _, pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_eq!(at as u64, address, "map memory at {address:#x}");
}

/// Reads a page of mapped memory.
fn look(address: u64) -> [u8; PAGE] {
    // SAFETY: the scenarios look only at what is mapped, and nobody writes there meanwhile.
    unsafe { std::ptr::read_volatile(address as *const [u8; PAGE]) }
}

fn is(address: u64, content: &[u8; PAGE]) -> bool {
    let found = look(address);
    if found != *content {
        let zero = found == [0; PAGE];
        println!("the page at {address:#x} is wrong, zero: {zero}");
    }
    found == *content
}

/// Pages `from..to` as they were, from `address` on.
fn are(address: u64, from: usize, to: usize) -> bool {
    (from..to).all(|index| is(address + ((index - from) * PAGE) as u64, &page(index)))
}

fn home(index: usize) -> u64 {
    BASE + (index * PAGE) as u64
}

pub fn source() -> ExitCode {
    map(BASE, PAGES);
    for index in 0..PAGES {
        // SAFETY: inside what was just mapped.
        unsafe { std::ptr::write(home(index) as *mut [u8; PAGE], page(index)) };
    }
    println!("ready");
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
    ExitCode::FAILURE
}

/// `struct uffdio_api`, `struct uffdio_register`.
type Words<const N: usize> = [u64; N];
nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, Words<3>);
nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, Words<4>);

pub fn run(socket: &Path, scenario: &str) -> ExitCode {
    map(BASE, PAGES);
    hand_over(socket).expect("hand over to the guard");
    println!("handed over");
    if act(scenario) {
        println!("right");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// As CRIU's restore does.
fn hand_over(socket: &Path) -> std::io::Result<()> {
    // SAFETY: takes flags alone.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    nix::errno::Errno::result(raw)?;
    // SAFETY: just made, for us.
    let uffd = unsafe { OwnedFd::from_raw_fd(raw as i32) };
    // Events of fork, remap, remove and unmap.
    let mut api = [0xaa, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6, 0];
    // SAFETY: the kernel writes to `api` alone.
    unsafe { uffdio_api(uffd.as_raw_fd(), &raw mut api) }?;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&(-9_i32).to_ne_bytes())?;
    stream.write_all(&super::PID.to_ne_bytes())?;
    let rights = [uffd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &control, MsgFlags::empty(), None)?;
    // CRIU registers after that, when the mappings are where they belong.
    std::thread::sleep(std::time::Duration::from_millis(2));
    for half in 0..2 {
        let mut register = [home(half * PAGES / 2), (PAGES / 2 * PAGE) as u64, 1, 0];
        // SAFETY: has the kernel watch memory that only `look` reads; it writes to `register` alone.
        unsafe { uffdio_register(uffd.as_raw_fd(), &raw mut register) }?;
    }
    stream.write_all(&0x5253_5446_i32.to_ne_bytes())
}

fn act(scenario: &str) -> bool {
    match scenario {
        "reads_by_four_threads" => read_at_random(0..PAGES),
        "forks" => forks(),
        "moves_its_memory" => moves(0..PAGES),
        "unmaps_memory" => unmaps(0..PAGES),
        "gives_memory_up" => gives_up(0..PAGES),
        "splits_its_mappings" => splits(0..PAGES),
        "reads_what_it_never_had" => grows(),
        "does_everything_at_once" => everything(),
        _ => false,
    }
}

fn read_at_random(pages: std::ops::Range<usize>) -> bool {
    let reader = |seed: u64| {
        let (mut x, pages) = (seed, pages.clone());
        move || {
            let random = (0..pages.len() / 4).all(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let index = pages.start + (x >> 33) as usize % pages.len();
                is(home(index), &page(index))
            });
            random && pages.clone().all(|index| is(home(index), &page(index)))
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5).map(|seed| scope.spawn(reader(seed))).collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    })
}

/// Two generations, each of which looks at everything.
fn forks() -> bool {
    let child = || {
        // SAFETY: the child only reads memory, prints when it is wrong, and ends by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                let grandchild = unsafe { libc::fork() };
                let right = are(BASE, 0, PAGES) && (grandchild == 0 || reaped(grandchild));
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            pid => pid,
        }
    };
    let children = [child(), child()];
    let right = are(BASE, 0, PAGES);
    children.into_iter().all(reaped) && right
}

fn reaped(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: writes to `status` alone.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && status == 0
}

/// Moves a part away page range by page range, and one of them back.
fn moves(pages: std::ops::Range<usize>) -> bool {
    let step = pages.len() / 16;
    let target = |index: usize| ELSEWHERE + ((index * 2) * PAGE) as u64;
    let odd = || pages.clone().step_by(step).skip(1).step_by(2);
    for index in odd() {
        remap(home(index), target(index), step);
    }
    let moved = odd().all(|index| are(target(index), index, index + step));
    let stayed = pages.clone().step_by(2 * step).all(|index| are(home(index), index, index + step));
    let first = pages.start + step;
    remap(target(first), home(first), step);
    moved && stayed && are(home(first), first, first + step)
}

fn remap(from: u64, to: u64, pages: usize) {
    let bytes = pages * PAGE;
    // SAFETY: moves memory of the scenario to where nothing is.
    let at = unsafe {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(from as *mut _, bytes, bytes, flags, to as *mut libc::c_void)
    };
    assert_eq!(at as u64, to, "move memory");
}

/// Unmaps parts; what is mapped there afterwards is new.
fn unmaps(pages: std::ops::Range<usize>) -> bool {
    let step = pages.len() / 16;
    for index in pages.clone().step_by(2 * step) {
        // SAFETY: nobody uses this part.
        assert_eq!(unsafe { libc::munmap(home(index) as *mut _, step * PAGE) }, 0);
        map(home(index), step);
    }
    let zeros = |from: usize| (from..from + step).all(|index| is(home(index), &[0; PAGE]));
    pages.clone().step_by(2 * step).all(zeros)
        && pages.clone().step_by(step).skip(1).step_by(2).all(|index| are(home(index), index, index + step))
}

/// Gives parts up: they read as zeros at once and for ever.
fn gives_up(pages: std::ops::Range<usize>) -> bool {
    let step = pages.len() / 64;
    let parts = || pages.clone().step_by(2 * step);
    let zeros = |from: usize| (from..from + step).all(|index| is(home(index), &[0; PAGE]));
    let at_once = parts().all(|index| {
        // SAFETY: the scenario knows that this part reads as zeros afterwards.
        assert_eq!(unsafe { libc::madvise(home(index) as *mut _, step * PAGE, libc::MADV_DONTNEED) }, 0);
        zeros(index)
    });
    let rest = pages.clone().step_by(step).skip(1).step_by(2).all(|index| are(home(index), index, index + step));
    at_once && rest && parts().all(zeros)
}

/// Protects every other page, so that each becomes a mapping.
fn splits(pages: std::ops::Range<usize>) -> bool {
    for index in pages.clone().step_by(2) {
        // SAFETY: the page stays readable.
        assert_eq!(unsafe { libc::mprotect(home(index) as *mut _, PAGE, libc::PROT_READ) }, 0);
    }
    pages.clone().all(|index| is(home(index), &page(index)))
}

/// Grows its mapping: what is added reads as zeros.
fn grows() -> bool {
    // SAFETY: nothing lies behind the mapping's second half, and it may move.
    let at =
        unsafe { libc::mremap(home(PAGES / 2) as *mut _, PAGES / 2 * PAGE, PAGES * PAGE, libc::MREMAP_MAYMOVE) } as u64;
    let added = at + (PAGES / 2 * PAGE) as u64;
    (0..PAGES / 2).all(|index| is(added + (index * PAGE) as u64, &[0; PAGE])) && are(at, PAGES / 2, PAGES)
}

/// Acts in a part of the memory; whether it was right.
type Act = fn(std::ops::Range<usize>) -> bool;

/// All of it in threads of one process, each in its own part, while it forks.
fn everything() -> bool {
    let part = |number: usize| number * PAGES / 8..(number + 1) * PAGES / 8;
    let wrong = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let acts: [(usize, Act); 5] = [(0, moves), (1, unmaps), (2, gives_up), (3, splits), (4, read_at_random)];
        for (number, act) in acts {
            let wrong = &wrong;
            scope.spawn(move || {
                if !act(part(number)) {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            // SAFETY: the child only reads memory that no thread changes, and ends by `_exit`.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let right = part(5).chain(part(6)).chain(part(7)).all(|index| look(home(index)) == page(index));
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!right)) };
            }
            if !reaped(pid) {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    wrong.into_inner() == 0 && are(home(5 * PAGES / 8), 5 * PAGES / 8, PAGES)
}
