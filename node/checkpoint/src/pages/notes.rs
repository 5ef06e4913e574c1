//! What the guard and the service say to each other, over a `SOCK_SEQPACKET` unix socket on one machine.
//!
//! A packet is a row of up to [`NOTES_MAX`] notes of five u64 in the machine's byte order: the kind, the space, three values.
//! Descriptors go along in the order of the notes that need one (man 7 unix, `SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::uffd::MESSAGES_MAX;

/// Changes with every change of the notes: after an upgrade, a new service meets the guard of the old one.
pub(super) const VERSION: u64 = 1;
/// The answer to a read: its head, and all events of one read.
pub(super) const NOTES_MAX: usize = MESSAGES_MAX + 1;
const NOTE_BYTES: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// Guard, first: the version of these notes, and how many notes of what has happened so far follow.
    Hello {
        version: u64,
        history: u64,
    },
    /// Guard: an address space, with its userfaultfd; `parent` when it was forked from another.
    Space {
        id: u64,
        pid: i32,
        parent: Option<u64>,
    },
    /// Guard, in the history: an address space that has ended, or lacked nothing any more. Others were forked from it.
    Ghost {
        id: u64,
        pid: i32,
        parent: Option<u64>,
    },
    /// Guard: the answer to `Read`: this many notes follow in the packet.
    Events {
        id: u64,
        count: u64,
    },
    Fault {
        id: u64,
        address: u64,
    },
    Remap {
        id: u64,
        from: u64,
        to: u64,
        bytes: u64,
    },
    Remove {
        id: u64,
        range: Range<u64>,
    },
    Unmap {
        id: u64,
        range: Range<u64>,
    },
    /// Guard: CRIU has handed over everything; so many tasks were zombies.
    Finished {
        zombies: u64,
    },
    /// Guard: CRIU's connection ended, or its deadline passed, before it had handed over everything.
    Broken,
    /// Service: take the events of this space.
    Read {
        id: u64,
    },
    /// Service: this space has ended, or lacks nothing any more.
    Gone {
        id: u64,
    },
    /// Service: a task to kill when pages are missing for good, with its pidfd.
    Protect,
    /// Service: no page is missing.
    Done,
    /// Service: kill the tasks, there will be no pages.
    Abandon,
}

impl Note {
    fn encode(&self) -> [u8; NOTE_BYTES] {
        let words = match *self {
            Self::Hello { version, history } => [1, 0, version, history, 0],
            Self::Space { id, pid, parent } => [2, id, u64::from(pid.cast_unsigned()), parent.map_or(0, |p| p + 1), 0],
            Self::Events { id, count } => [3, id, count, 0, 0],
            Self::Fault { id, address } => [4, id, address, 0, 0],
            Self::Remap { id, from, to, bytes } => [5, id, from, to, bytes],
            Self::Remove { id, ref range } => [6, id, range.start, range.end, 0],
            Self::Unmap { id, ref range } => [7, id, range.start, range.end, 0],
            Self::Finished { zombies } => [8, 0, zombies, 0, 0],
            Self::Broken => [9, 0, 0, 0, 0],
            Self::Read { id } => [10, id, 0, 0, 0],
            Self::Protect => [11, 0, 0, 0, 0],
            Self::Done => [12, 0, 0, 0, 0],
            Self::Abandon => [13, 0, 0, 0, 0],
            Self::Ghost { id, pid, parent } => [14, id, u64::from(pid.cast_unsigned()), parent.map_or(0, |p| p + 1), 0],
            Self::Gone { id } => [15, id, 0, 0, 0],
        };
        let mut bytes = [0; NOTE_BYTES];
        for (into, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *into = word.to_ne_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; NOTE_BYTES]) -> Option<Self> {
        let word = |index: usize| bytes.as_chunks().0.get(index).copied().map_or(0, u64::from_ne_bytes);
        let (id, a, b, c) = (word(1), word(2), word(3), word(4));
        Some(match word(0) {
            1 => Self::Hello { version: a, history: b },
            2 => Self::Space { id, pid: u32::try_from(a).ok()?.cast_signed(), parent: b.checked_sub(1) },
            3 => Self::Events { id, count: a },
            4 => Self::Fault { id, address: a },
            5 => Self::Remap { id, from: a, to: b, bytes: c },
            6 => Self::Remove { id, range: a..b },
            7 => Self::Unmap { id, range: a..b },
            8 => Self::Finished { zombies: a },
            9 => Self::Broken,
            10 => Self::Read { id },
            11 => Self::Protect,
            12 => Self::Done,
            13 => Self::Abandon,
            14 => Self::Ghost { id, pid: u32::try_from(a).ok()?.cast_signed(), parent: b.checked_sub(1) },
            15 => Self::Gone { id },
            _ => return None,
        })
    }

    /// Whether a descriptor goes along.
    pub fn carries(&self) -> bool {
        matches!(self, Self::Space { .. } | Self::Protect)
    }
}

/// Sends one packet; waits while the other side's queue is full.
pub(super) fn send(socket: impl AsFd, notes: &[Note], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    debug_assert!(notes.len() <= NOTES_MAX);
    debug_assert_eq!(notes.iter().filter(|note| note.carries()).count(), descriptors.len());
    let bytes: Vec<u8> = notes.iter().flat_map(Note::encode).collect();
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
        {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// Notes, and the descriptors that came with them.
pub(super) type Packet = (Vec<Note>, Vec<OwnedFd>);

/// Takes one packet, and the descriptors that came with it; no notes at all when the other side has gone.
pub(super) fn receive(socket: impl AsFd, flags: MsgFlags) -> Result<Packet, Errno> {
    let mut bytes = [0; NOTE_BYTES * NOTES_MAX];
    let mut control = cmsg_space!([RawFd; MESSAGES_MAX]);
    let (length, whole, descriptors) = receive_raw(socket, &mut bytes, &mut control, flags)?;
    let (notes, rest) = bytes[..length].as_chunks();
    let notes: Option<Vec<_>> = notes.iter().map(Note::decode).collect();
    let notes = notes.filter(|_| whole && rest.is_empty()).ok_or(Errno::EBADMSG)?;
    if notes.iter().filter(|note| note.carries()).count() != descriptors.len() {
        return Err(Errno::EBADMSG);
    }
    Ok((notes, descriptors))
}

/// Receives bytes and descriptors: how many bytes, whether nothing was cut off, the descriptors.
pub(super) fn receive_raw(
    socket: impl AsFd,
    bytes: &mut [u8],
    control: &mut [u8],
    flags: MsgFlags,
) -> Result<(usize, bool, Vec<OwnedFd>), Errno> {
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(control), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = control {
            // SAFETY: the kernel made these descriptors for us when it gave us this message; nobody else knows them.
            descriptors.extend(rights.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let whole = !message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    Ok((message.bytes, whole, descriptors))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn notes_arrive_with_their_descriptors() {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let notes = vec![
            Note::Hello { version: VERSION, history: 9 },
            Note::Ghost { id: 3, pid: 12, parent: None },
            Note::Gone { id: 3 },
            Note::Space { id: 3, pid: 12, parent: Some(0) },
            Note::Events { id: 3, count: 2 },
            Note::Fault { id: 3, address: 0x1000 },
            Note::Remap { id: 3, from: 1, to: 2, bytes: 3 },
            Note::Remove { id: 3, range: 1..2 },
            Note::Unmap { id: 3, range: 1..2 },
            Note::Finished { zombies: 2 },
            Note::Broken,
            Note::Read { id: 3 },
            Note::Protect,
            Note::Done,
            Note::Abandon,
        ];
        send(&a, &notes, &[a.as_fd(), b.as_fd()]).unwrap();
        let (arrived, descriptors) = receive(&b, MsgFlags::empty()).unwrap();
        assert_eq!((arrived, descriptors.len()), (notes, 2));
        drop((a, descriptors));
        assert_eq!(receive(&b, MsgFlags::empty()).unwrap().0, []);
    }
}
