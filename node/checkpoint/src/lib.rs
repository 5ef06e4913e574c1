//! Captures running processes and lets them go on elsewhere, with CRIU called directly and with their memory apart from the
//! rest: most of it travels while they run, what is missing follows when they run again.
//!
//! [`criu`] speaks CRIU's RPC and holds a dump or a restore at the moments that matter; [`dirty`] tells which pages of a
//! running process were written; [`precopy`] sends them ahead; [`pages`] serves those that a restored process still lacks.
//!
//! Invariant: what calls the kernel directly lies here, each unsafe block with the reason why it is sound.

pub mod criu;
pub mod dirty;
pub mod pages;
pub mod precopy;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

/// Bytes that a process has written to a pipe, by its descriptor's number, and that nobody has read yet; zero if it is no pipe.
///
/// # Errors
/// What `/proc` says.
pub fn unread(pid: u32, descriptor: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    if !std::fs::read_link(&path)?.to_string_lossy().starts_with("pipe:") {
        return Ok(0);
    }
    let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(rustix::io::ioctl_fionread(pipe)?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_pipe_holds_is_counted_until_it_is_read() {
        let mut child =
            Command::new("sh").args(["-c", "printf abc; exec sleep 60"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        while super::unread(child.id(), 1).unwrap() < 3 {
            std::thread::yield_now();
        }
        output.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(super::unread(child.id(), 1).unwrap(), 0);
        assert_eq!(super::unread(child.id(), 0).unwrap(), 0, "no pipe of ours");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
