//! Container engines: what a site asks of one, and the backend for Docker.
//!
//! [`Runtime`] is message-shaped: its arguments and answers are owned and serializable, so that what needs root can move
//! into a process of its own, and another engine or another way of moving state is another implementation.
//!
//! A container that moves leaves its source and arrives at its target through a folder that holds everything that travels:
//!
//! ```text
//! source                                target
//! describe   spec.json, stdio.json      load_image   image.tar, if the image is absent
//! save_image image.tar                  prepare      creates the container from spec.json, and all but its processes
//! ahead      memory, while it runs      receive      keeps it for the restore
//! freeze     images/, layer.tar,        restore      lays layer, volumes and logs into it and makes its processes,
//!            volume-N.tar, log/,                     without their memory; they have not run an instruction
//!            frozen.json, written last  resume       lets them run
//! pages      their memory, on demand    fill         until they lack nothing
//! thaw       after an abort             discard      after an abort
//! release    after `Done`
//! ```
//!
//! The frozen processes stay at the source until the release: their memory is read there, and an abort lets them run on.
//!
//! Invariant: between [`Runtime::freeze`] and [`Runtime::route`] or [`Runtime::thaw`] nobody answers at the source for the
//! container's address: a reset from its kernel would end the connections that are to survive.
//! Invariant: no process of a container runs before [`Runtime::resume`] at the target, nor after [`Runtime::freeze`] at the
//! source unless [`Runtime::thaw`] was asked for, whoever dies.

pub mod arrive;
pub mod depart;
pub mod docker;
pub mod doctor;
mod error;
pub mod helper;
mod hold;
pub mod late;
pub mod layer;
pub mod network;
pub mod place;
pub mod register;
mod spec;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use godwit_protocol::container::Image;
use godwit_protocol::{Address, Bytes, ContainerId, ImageId, MilliCpu, Millis};
use serde::{Deserialize, Serialize};

pub use doctor::Check;
pub use error::{Cause, Error};
pub use network::{Range, Way};
pub use spec::{BadSpec, Deploy, Port, Protocol, Spec};

/// The future answer to a request.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A container engine of this site. Every call ends: each has a deadline, after which its effect is unknown and
/// [`Runtime::state`] tells.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Creates and starts a new container, pulling its image if it is absent.
    fn deploy(&self, deploy: Deploy) -> Answer<'_, Deployed>;

    /// The mesh's containers on this engine, running or not.
    fn list(&self) -> Answer<'_, Vec<Found>>;

    /// What has become of a container; [`State::Absent`] for one that this engine does not know.
    fn state(&self, container: ContainerId) -> Answer<'_, State>;

    /// Runs a container that has ended once more from its beginning, for example after the host was restarted; nothing to
    /// do if it runs. Refused by [`Cause::Frozen`] while it moves: it would be a second copy.
    fn start(&self, container: ContainerId) -> Answer<'_, ()>;

    /// Asks a container to end, and ends it after ten seconds; nothing to do if it does not run.
    fn stop(&self, container: ContainerId) -> Answer<'_, ()>;

    /// Removes a container with its writable layer and volumes, running or not; nothing to do if it is absent.
    fn remove(&self, container: ContainerId) -> Answer<'_, ()>;

    /// What a container has written to its output.
    fn logs(&self, container: ContainerId, logs: Logs) -> Answer<'_, LogStream>;

    /// What the running containers use.
    fn usage(&self) -> Answer<'_, Vec<Usage>>;

    /// Writes `spec.json` into the folder and estimates what will travel. The container goes on running.
    fn describe(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Description>;

    /// Whether an image is here.
    fn image_present(&self, image: ImageId) -> Answer<'_, bool>;

    /// Writes `image.tar` into the folder; its size.
    fn save_image(&self, image: ImageId, dir: PathBuf) -> Answer<'_, Bytes>;

    /// Loads `image.tar` from the folder: refused unless it holds the expected image and nothing else, not even a name.
    fn load_image(&self, image: ImageId, dir: PathBuf) -> Answer<'_, ()>;

    /// At the target: creates the container of the folder's `spec.json` without starting it, and checks what can be
    /// checked. Repeated, it finds its work done.
    fn prepare(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Spec>;

    /// At the source: a stream on which the memory of the running container is sent ahead, in place of an earlier one.
    fn ahead(&self, container: ContainerId) -> Answer<'_, UnixStream>;

    /// At the target: receives memory for the prepared container from the Unix socket `source`, until what is left there is
    /// little. What has come is used by [`Runtime::restore`]; without it, or after an error, all comes later.
    fn receive(&self, container: ContainerId, source: PathBuf) -> Answer<'_, ()>;

    /// At the source: stops the container with its state in the folder, complete but for its memory. If the state cannot be
    /// captured, the container goes on running and the error says why. Packets for the container wait from here on.
    fn freeze(&self, container: ContainerId, dir: PathBuf) -> Answer<'_, Frozen>;

    /// At the source: a stream on which the memory of a frozen container is served until the other side hangs up.
    fn pages(&self, container: ContainerId) -> Answer<'_, UnixStream>;

    /// At the target: restores the prepared container from the state in the folder, before its first instruction. Memory is
    /// asked for at the Unix socket `pages`. Nothing to do if that is done, or if the container is stateless.
    fn restore(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, ()>;

    /// At the target: lets the restored container run, restoring it first if that was not done. Nothing to do if it runs;
    /// refused by [`Cause::AlreadyRan`] if it ran and ended.
    fn resume(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, Resumed>;

    /// At the target: waits until the running container has all its memory. Nothing to do if it has.
    fn fill(&self, container: ContainerId, dir: PathBuf, pages: PathBuf) -> Answer<'_, Filled>;

    /// At the source, after an abort: lets the container go on from where it was frozen. Nothing to do if it runs; refused
    /// by [`Cause::AlreadyRan`] if it ran since it was frozen and ended.
    fn thaw(&self, container: ContainerId) -> Answer<'_, Resumed>;

    /// At the target, after an abort: removes the prepared container. Refused if it has ever run.
    fn discard(&self, container: ContainerId) -> Answer<'_, ()>;

    /// At the source, when the container runs elsewhere: removes what is left of it. Refused while it runs here.
    fn release(&self, container: ContainerId) -> Answer<'_, ()>;

    /// Where this site sends packets for a container's address.
    fn route(&self, address: Address, way: Way) -> Answer<'_, ()>;

    /// What an operator should know about this engine and its surroundings.
    fn checks(&self) -> BoxFuture<'_, Vec<Check>>;
}

/// A container that was just deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The engine's own id for it.
    pub engine_id: String,
    /// Its image, by content.
    pub image: Image,
}

/// A container that the engine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The engine's own id for it.
    pub engine_id: String,
    /// What it was created from.
    pub spec: Spec,
    /// What has become of it.
    pub state: State,
}

/// What has become of a container on this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The engine does not know it.
    Absent,
    /// Created and never started.
    Prepared,
    /// It runs.
    Running,
    /// It ran; what it returned. A frozen container has ended by signal 9, which is 137.
    Ended {
        /// Its exit code.
        code: i64,
    },
}

/// Which part of a container's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Go on with what is still to come.
    pub follow: bool,
    /// The last lines only.
    pub tail: Option<u32>,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// From its standard error.
    pub stderr: bool,
    /// As it was written, up to a line.
    pub bytes: Vec<u8>,
}

/// Output as it comes.
pub type LogStream = BoxStream<'static, Result<LogLine, Error>>;

/// What one container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Which.
    pub container: ContainerId,
    /// Processor use, the mean since the last question; zero at the first.
    pub cpu: MilliCpu,
    /// Memory without page cache.
    pub memory: Bytes,
}

/// What a move of a container would carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it was created from.
    pub spec: Spec,
    /// Its memory; zero for a stateless container.
    pub memory: Bytes,
    /// Its writable layer; zero for a stateless container.
    pub layer: Bytes,
    /// Its image, if that must travel too.
    pub image: Bytes,
}

/// A container whose state is in the folder, and where the time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Until it stood, captured but for its memory.
    pub stop_ms: Millis,
    /// Until layer, volumes and logs were in the folder.
    pub copy_ms: Millis,
}

/// Memory of a container that runs here, and lacks none any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// What travelled of it, before and after the container was frozen.
    pub bytes: Bytes,
}

/// A container that goes on, and where the time went; zeros if it already ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Until it was restored.
    pub copy_ms: Millis,
    /// Until it ran.
    pub start_ms: Millis,
}
