//! The holder's own process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen, socket, sockopt,
};
use nix::unistd::geteuid;

use super::super::conversation::{hear, readable, say};
use super::super::{Criu, Dump, Error, Held, Worker};
use super::wire::{Ask, Call, Phase, Reply};

/// Nothing is held: a holder that nobody talks to for so long is not needed any more.
const LINGER: Duration = Duration::from_secs(600);

/// Whatever its user says, one question takes no longer.
const WITHIN_MAX: Duration = Duration::from_secs(3600);

/// A holder has one user; another one waits until that one has hung up.
const BACKLOG: i32 = 4;

enum State {
    /// With a CRIU that waits for its request, once it was prepared.
    Idle(Option<Worker>),
    Held(Box<Held>),
    Committed,
    Aborted,
}

/// Listens at `socket`, serves one user after another, and returns when it is told to quit, or when nothing is held and
/// nobody has come for 10 minutes. Its process does nothing else; call [`harden`](crate::pages::guard::harden) first in it.
///
/// # Errors
/// That the socket cannot be made, or that another holder listens there already.
pub fn run(socket: &Path) -> Result<(), Error> {
    let listener = listen_at(socket).map_err(|source| Error::Listen { socket: socket.into(), source })?;
    let mut state = State::Idle(None);
    while let Some(client) = next_client(&listener, &state) {
        if !serve(&client, &mut state) {
            break;
        }
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let new = || socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    if connect(new()?.as_raw_fd(), &address).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    // What a dead holder has left.
    let _ = std::fs::remove_file(path);
    let listener = new()?;
    bind(listener.as_raw_fd(), &address)?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// The next user who may command: our own, or root. `None` when nobody comes and nothing is held.
fn next_client(listener: &OwnedFd, state: &State) -> Option<OwnedFd> {
    loop {
        let limit = if let State::Held(_) = state { None } else { Some(Instant::now() + LINGER) };
        match readable(listener, limit) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::error!(%error, "the holder cannot wait for its user");
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        }
        let Ok(client) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { continue };
        // SAFETY: accept4 has just made this descriptor, and nobody else knows it.
        let client = unsafe { OwnedFd::from_raw_fd(client) };
        match getsockopt(&client, sockopt::PeerCredentials) {
            Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => return Some(client),
            _ => tracing::warn!("another user knocked at the holder and was refused"),
        }
    }
}

/// Serves one user until it hangs up; false when it is time to end.
fn serve(client: &OwnedFd, state: &mut State) -> bool {
    loop {
        let call = match hear::<Call>(client.as_fd(), None) {
            Ok(Some(call)) => call,
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(%error, "the holder's user says what is no question");
                return true;
            }
        };
        let quits = matches!(call.ask, Some(Ask::Quit(()))) && !matches!(state, State::Held(_));
        let deadline = Instant::now() + Duration::from_millis(call.within_ms).min(WITHIN_MAX);
        let answer = match call.ask {
            Some(ask) => answer(ask, state, deadline).map_err(|error| chain(&error)),
            None => Err("the holder does not know this question".into()),
        };
        if say(client.as_fd(), &reply(state, answer.err())).is_err() {
            return true;
        }
        if quits {
            return false;
        }
    }
}

fn answer(ask: Ask, state: &mut State, deadline: Instant) -> Result<(), Error> {
    match (ask, &mut *state) {
        (Ask::Status(()), _)
        | (Ask::Commit(()), State::Committed)
        | (Ask::Abort(()), State::Aborted)
        | (Ask::Quit(()), State::Idle(_) | State::Committed | State::Aborted) => Ok(()),
        (Ask::Prepare(program), State::Idle(worker)) => {
            *worker = Some(Criu::from(program).worker(Vec::new())?);
            Ok(())
        }
        (Ask::Dump(call), State::Idle(worker)) => {
            let worker = worker.take().ok_or_else(|| refused("dump: CRIU was not prepared"))?;
            let mut held = worker.dump(&Dump::from(call), deadline)?;
            held.pin();
            *state = State::Held(Box::new(held));
            Ok(())
        }
        (Ask::Commit(()), State::Held(held)) => {
            held.kill(deadline)?;
            *state = State::Committed;
            Ok(())
        }
        (Ask::Abort(()), State::Held(held)) if !held.killed() => abort(state, deadline),
        (Ask::Prepare(_), _) => Err(refused("prepare: this holder has had its dump")),
        (Ask::Dump(_), _) => Err(refused("dump: this holder has had its dump")),
        (Ask::Commit(()), _) => Err(refused("commit: nothing is held")),
        (Ask::Abort(()), _) => Err(refused("abort: nothing is held that still lives")),
        (Ask::Quit(()), State::Held(_)) => Err(refused("quit: a dump is held")),
    }
}

/// Whatever error there is, the tasks run afterwards.
fn abort(state: &mut State, deadline: Instant) -> Result<(), Error> {
    match std::mem::replace(state, State::Aborted) {
        State::Held(held) => held.abort(deadline),
        _ => Ok(()),
    }
}

fn reply(state: &State, failure: Option<String>) -> Reply {
    let mut reply = Reply { failure: failure.unwrap_or_default(), ..Reply::default() };
    let phase = match state {
        State::Idle(_) => Phase::Idle,
        State::Held(held) => {
            reply.pids = held.tree().pids().collect();
            reply.criu_lives = held.criu_lives();
            if held.killed() { Phase::Killed } else { Phase::Held }
        }
        State::Committed => Phase::Committed,
        State::Aborted => Phase::Aborted,
    };
    reply.set_phase(phase);
    reply
}

fn refused(reason: &str) -> Error {
    Error::Holder { reason: reason.into() }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
