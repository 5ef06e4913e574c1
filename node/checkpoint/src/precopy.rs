//! Memory that travels while its processes run, so that after the switch only what changed is missing.
//!
//! ```text
//!  source                                                   target
//!  running tasks ──► dirty::Tree ──► Sender ══ frames ══► Receiver ──► pages in memory
//!                                      ▲ ╚═══ received ════╝              │
//!  Sender::pause, the freeze,          │                                  ▼
//!  Sender::finish ─────────────────── Final ───── by the images ───► Receiver::finish ──► a pages::Store
//! ```
//!
//! [`Sender`] copies all tracked memory, then in rounds what was written meanwhile, as long as a round is worth it
//! ([`Rounds`](crate::dirty::Rounds)). From then on it only keeps up: it sends pages that were written and have been left
//! alone since. When the tasks are frozen, [`Sender::finish`] tells in a few milliseconds, without reading any memory, which
//! of the pages that it sent still hold what the tasks have: that is [`Final`], which travels with the images.
//! [`Receiver::finish`] makes of the pages it received and of [`Final`] a store for the page service, which asks the source
//! for the rest.
//!
//! A task is named by its pid in CRIU's images, that is the innermost one. The frames are described in `wire`. Their running
//! hash, the *transcript*, is in [`Final`]: whoever signs that vouches for every page.
//!
//! When the connection breaks, both sides end with an error and the pages that came are of no use: another pre-copy starts
//! from nothing, and the handoff goes on without.
//!
//! Invariant: a page in the store is what its task had when it was frozen. Whatever goes wrong costs pages, never the tasks:
//! the processes are as they were when the [`Sender`] is dropped.

#![cfg_attr(test, expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant"))]

mod arena;
mod copies;
mod known;
mod outcome;
mod receiver;
mod sender;
mod thrift;
mod wire;

use std::io;
use std::time::Duration;

use crate::dirty;
use crate::pages::WireError;

pub use arena::Arena;
pub use outcome::{Final, Valid};
pub use receiver::{Limits, Receiver};
pub use sender::{Options, Progress, Sender, Tail};

/// Why a pre-copy ended without use. The handoff goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection is lost, or the other side breaks the protocol.
    #[error("send or receive memory ahead")]
    Wire(#[from] WireError),
    /// The tree's memory cannot be tracked any more.
    #[error("track the memory of the processes")]
    Track(#[from] dirty::Error),
    /// There is no thread or no memory for it.
    #[error("start to copy ahead")]
    Start(#[source] io::Error),
    /// The source vouches for other pages than those that came.
    #[error("what was received ahead is not what the source vouches for: the transcripts differ")]
    Transcript,
    /// The last pages did not come in time.
    #[error("what was sent ahead did not end within {} ms", .0.as_millis())]
    Late(Duration),
    /// The bytes are no [`Final`].
    #[error("what a source tells of the pages that it sent ahead is malformed: {0}")]
    Malformed(&'static str),
    /// It has been dropped or has ended before.
    #[error("the pre-copy has ended")]
    Ended,
}
