//! A small process of its own that holds a dump, so that nobody's death lets the tasks run.
//!
//! [`run`] is its whole life; the program that uses this crate offers it as a hidden subcommand. [`Holder`] is the other side,
//! which may die and [connect](Holder::connect) again:
//!
//! ```text
//! godwit                         holder                        criu, tasks
//!  |  prepare ------------------->|  starts CRIU -------------->|
//!  |  dump ---------------------->|  dumps, pins -------------->| stand
//!  |<------------------- held ----|                             |
//!  x                              |  waits without limit        | stand
//!  |  connect, status ----------->|                             |
//!  |<------------------- held ----|                             |
//!  |  commit, or abort ---------->|  kills, or lets go -------->| gone, or run
//!  |<--------------- committed ---|                             |
//!  |  quit ---------------------->x
//! ```
//!
//! One at a time is served. What was decided is decided: a commit after an abort, or the reverse, is refused; the same again
//! is answered with the same. The holder decides nothing by itself, not even after days.
//!
//! If the holder itself dies, CRIU lets the tasks go, and SIGSTOP, sent beforehand, keeps them. Then nobody answers at the
//! socket; [`Tree::again`](super::Tree::again) finds the tasks, to commit ([`kill`](super::Tree::kill)) or to abort
//! ([`recover`](super::Tree::recover)).
//!
//! A service manager that kills all of a service's processes when its main process ends kills the holder too: the service
//! needs `KillMode=process`.

mod client;
mod server;
mod wire;

pub use client::{Holder, Status};
pub use server::run;
