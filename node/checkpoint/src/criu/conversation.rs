//! One socket of packets: a message each, with a deadline.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use prost::Message;

use super::rpc::{Kind, Response};

/// The longest message that is read. CRIU's own are below 2 KiB; the holder's carry a reason and pids.
pub(super) const MESSAGE_MAX: usize = 256 * 1024;

/// What CRIU says.
#[derive(Debug)]
pub(super) enum Answer {
    /// It has come to this point and waits for an answer.
    Notified { script: String, pid: Option<i32> },
    /// The request is done, well or badly.
    Done(Response),
}

impl TryFrom<Response> for Answer {
    type Error = String;

    fn try_from(response: Response) -> Result<Self, String> {
        if response.kind() != Kind::Notify {
            return Ok(Self::Done(response));
        }
        match response.notify {
            Some(notify) => Ok(Self::Notified { script: notify.script.unwrap_or_default(), pid: notify.pid }),
            None => Err("a notification of nothing".into()),
        }
    }
}

/// Both ends of a new socket of packets.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message. Messages are few and small: the socket's buffer always has room, and if not, that is an error.
pub(super) fn say(socket: BorrowedFd<'_>, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Waits for one message; `None` when the other side has hung up.
///
/// # Errors
/// `TimedOut` at the deadline; `InvalidData` for what is too long or no message.
pub(super) fn hear<M: Message + Default>(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<Option<M>> {
    if !readable(socket, deadline)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut bytes = vec![0; MESSAGE_MAX];
    let length = match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_TRUNC) {
        Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
        Ok(length) if length > MESSAGE_MAX => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
        }
        Ok(length) => length,
        Err(errno) => return Err(errno.into()),
    };
    M::decode(&bytes[..length]).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether there is something to read, or an end, before the deadline; without one it waits for good.
pub(super) fn readable(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            // Rounded up: poll counts milliseconds, and must not spin through the last one.
            Some(left) => PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| deadline > Instant::now()) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rpc::{Notify, Request};
    use super::*;

    #[test]
    fn a_message_arrives_whole() {
        let (ours, theirs) = pair().unwrap();
        let request = Request { kind: Kind::Notify.into(), opts: None, notify_success: Some(false) };
        say(ours.as_fd(), &request).unwrap();
        assert_eq!(hear(theirs.as_fd(), Some(Instant::now())).unwrap(), Some(request));
    }

    #[test]
    fn silence_ends_at_the_deadline_and_a_hang_up_at_once() {
        let (ours, theirs) = pair().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(2));
        assert_eq!(hear::<Response>(ours.as_fd(), soon).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        assert_eq!(hear::<Response>(ours.as_fd(), None).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let (ours, theirs) = pair().unwrap();
        for bytes in [&b"\xff\xff\xff\xff"[..], &[0x0a][..]] {
            send(theirs.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
            let error = hear::<Response>(ours.as_fd(), Some(Instant::now())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn notifications_and_ends_are_told_apart() {
        let notify = Notify { script: Some("post-dump".into()), pid: None };
        let said = Response { kind: Kind::Notify.into(), success: true, notify: Some(notify), ..Response::default() };
        assert!(matches!(Answer::try_from(said.clone()), Ok(Answer::Notified { script, .. }) if script == "post-dump"));
        assert!(Answer::try_from(Response { notify: None, ..said.clone() }).is_err());
        let done = Response { kind: Kind::Dump.into(), notify: None, ..said };
        assert!(matches!(Answer::try_from(done), Ok(Answer::Done(_))));
    }
}
