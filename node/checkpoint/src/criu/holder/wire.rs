//! What is said between a holder and who uses it: one packet each, an answer for each question.

use std::path::Path;

use super::super::{Criu, Dump, Error};

/// A question.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Call {
    /// Milliseconds that the holder may take.
    #[prost(uint64, tag = "1")]
    pub within_ms: u64,
    #[prost(oneof = "Ask", tags = "2, 3, 4, 5, 6, 7")]
    pub ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ask {
    /// Start a CRIU.
    #[prost(message, tag = "2")]
    Prepare(Program),
    #[prost(message, tag = "3")]
    Dump(DumpCall),
    #[prost(message, tag = "4")]
    Status(()),
    #[prost(message, tag = "5")]
    Commit(()),
    #[prost(message, tag = "6")]
    Abort(()),
    /// Nothing is held any more: end.
    #[prost(message, tag = "7")]
    Quit(()),
}

/// [`Criu`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Program {
    #[prost(string, tag = "1")]
    pub path: String,
    /// Empty for the holder's own.
    #[prost(string, tag = "2")]
    pub network: String,
}

impl TryFrom<&Criu> for Program {
    type Error = Error;

    fn try_from(criu: &Criu) -> Result<Self, Error> {
        let network = criu.network().map(text).transpose()?.unwrap_or_default();
        Ok(Self { path: text(criu.program())?, network })
    }
}

impl From<Program> for Criu {
    fn from(program: Program) -> Self {
        let criu = Self::at(program.path);
        if program.network.is_empty() { criu } else { criu.in_network(program.network) }
    }
}

/// [`Dump`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DumpCall {
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    #[prost(string, tag = "2")]
    pub images: String,
    #[prost(string, tag = "3")]
    pub work: String,
    #[prost(bool, tag = "4")]
    pub lazy: bool,
    #[prost(string, repeated, tag = "5")]
    pub external: Vec<String>,
    #[prost(uint32, tag = "6")]
    pub ghost_limit: u32,
}

/// Where the holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Phase {
    /// Nothing was dumped yet.
    Idle = 0,
    Held = 1,
    /// The tasks are being killed, or were and hang in the kernel.
    Killed = 2,
    Committed = 3,
    Aborted = 4,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Reply {
    /// Required, hence always encoded: an empty packet would be an end.
    #[prost(enumeration = "Phase", required, tag = "1")]
    pub phase: i32,
    /// Of what is held.
    #[prost(uint32, repeated, tag = "2")]
    pub pids: Vec<u32>,
    #[prost(bool, tag = "3")]
    pub criu_lives: bool,
    /// Why the question was refused; empty if it was not.
    #[prost(string, tag = "4")]
    pub failure: String,
}

impl TryFrom<&Dump> for DumpCall {
    type Error = Error;

    fn try_from(dump: &Dump) -> Result<Self, Error> {
        Ok(Self {
            pid: dump.pid,
            images: text(&dump.images)?,
            work: text(&dump.work)?,
            lazy: dump.lazy,
            external: dump.external.clone(),
            ghost_limit: dump.ghost_limit,
        })
    }
}

impl From<DumpCall> for Dump {
    fn from(call: DumpCall) -> Self {
        Self {
            pid: call.pid,
            images: call.images.into(),
            work: call.work.into(),
            lazy: call.lazy,
            external: call.external,
            ghost_limit: call.ghost_limit,
        }
    }
}

pub(super) fn text(path: &Path) -> Result<String, Error> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::Name { path: path.into() })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_program_arrives_with_its_network() {
        for criu in [Criu::at("/usr/sbin/criu"), Criu::at("criu").in_network("/proc/7/ns/net")] {
            let call = Call { within_ms: 1, ask: Some(Ask::Prepare(Program::try_from(&criu).unwrap())) };
            let Some(Ask::Prepare(arrived)) = Call::decode(&*call.encode_to_vec()).unwrap().ask else { panic!() };
            let arrived = Criu::from(arrived);
            assert_eq!((arrived.program(), arrived.network()), (criu.program(), criu.network()));
        }
    }

    #[test]
    fn a_dump_arrives_as_it_was_asked_for() {
        let dump = Dump {
            pid: 7,
            images: "/images".into(),
            work: "/work".into(),
            lazy: true,
            external: vec!["net[4026531840]:net".into()],
            ghost_limit: 1 << 28,
        };
        let call = Call { within_ms: 5000, ask: Some(Ask::Dump(DumpCall::try_from(&dump).unwrap())) };
        let Some(Ask::Dump(arrived)) = Call::decode(&*call.encode_to_vec()).unwrap().ask else { panic!() };
        assert_eq!(Dump::from(arrived), dump);
    }
}
