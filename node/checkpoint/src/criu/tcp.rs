//! Connections that a dead CRIU has left in repair mode: they send nothing until they are taken out of it.
//!
//! CRIU reads a connection's queues without taking anything from them, so that nothing is lost. What it sets before its end
//! and we cannot know is `SO_REUSEADDR`, which matters for a later `bind` alone.

use std::fs;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::Error;
use super::tree::Tree;

/// `TCP_REPAIR_OFF`: back to normal, with a window probe that tells the other side.
const REPAIR_OFF: u32 = 0;

/// Takes all connections of the tasks, which stand still, out of repair mode.
pub(super) fn mend(tree: &Tree) -> Result<(), Error> {
    let mut first = Ok(());
    for (pid, process) in tree.processes() {
        for number in sockets(pid) {
            let mended = mend_one(process, number).map_err(Error::system("take a connection out of repair mode"));
            first = first.and(mended);
        }
    }
    first
}

/// Numbers of the descriptors that are sockets. A task that has ended has none.
fn sockets(pid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let sockets = entries.flatten().filter(is_socket);
    sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn mend_one(process: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let socket = match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
        Ok(socket) => socket,
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::BADF) => return Ok(()),
        Err(error) => return Err(Errno::from_raw(error.raw_os_error())),
    };
    match getsockopt(&socket, sockopt::TcpRepair) {
        Ok(REPAIR_OFF) => Ok(()),
        Ok(_) => setsockopt(&socket, sockopt::TcpRepair, &REPAIR_OFF),
        // Not a TCP socket.
        Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
