//! CRIU, by its RPC: a dump that is held before it ends, a restore that is held before its first instruction.
//!
//! One process `criu swrk` serves one request; it is started ahead of time ([`Criu::worker`]) since starting costs some
//! milliseconds. At certain points it sends a notification and waits for the answer, and there we hold it:
//!
//! ```text
//! us                          criu                      tasks
//!  |  DUMP ------------------->|  PTRACE_SEIZE, parasite ->| stand
//!  |<------------- post-dump --|  images are complete      | stand, memory readable
//!  |        (Held)             |  waits                    |
//!  |  commit: SIGKILL -------->x  SIGKILL ---------------->x
//!  |  or abort: failure ------>|  connections, detach ---->| run on as they were
//!
//!  |  RESTORE ---------------->|  fork, memory, files ---->| in CRIU's restorer
//!  |<---------- post-restore --|  waits                    | have run no instruction
//!  |        (HeldRestore)      |                           |
//!  |  release: success ------->|  credentials, sigreturn ->| run
//!  |  or cancel: failure ----->|  SIGKILL ---------------->x
//! ```
//!
//! Why `post-restore` and not `pre-resume` (CRIU 4.2, `restore_root_task` in `criu/cr-restore.c`): at both no task has run an
//! instruction of its own. At `post-restore` they wait in CRIU's restorer, connections are still in repair mode, and whatever
//! is not an answer of success (failure, our death) makes CRIU kill them. At `pre-resume` connections are live again, and
//! CRIU *ignores* a failure: the tasks would run after our death.
//!
//! **Keep packets away** from the network namespace from before a dump until its end, and until a restore is released (a link
//! that is down, a queue of ours). CRIU's own network lock is off, for it costs 9-50 ms, and the kernel acknowledges what
//! arrives at a socket in repair mode: what a client sends to a held dump would count as received, and be lost with it.
//!
//! What happens when someone dies while a dump is held:
//!
//! | who | [`Held`] alone | in a [`holder`] |
//! | --- | --- | --- |
//! | our process | CRIU resumes the tasks | the tasks stand; reconnect |
//! | CRIU | the tasks run on, their connections are broken | the tasks stand; abort mends the connections |
//! | the holder | | the tasks stand, stopped by signal: [`Tree`] kills or resumes them |
//!
//! All calls block; each ends at its deadline, give or take the seconds in which a CRIU that hangs is ended.
//!
//! Invariant: knows nothing of containers, engines and ledgers; a call that fails leaves the source running, and of a restore
//! nothing, unless its documentation says otherwise.

mod conversation;
mod dump;
mod error;
pub mod holder;
mod log;
mod restore;
mod rpc;
mod tcp;
mod tree;
mod version;
mod worker;

pub use dump::{Dump, Held};
pub use error::Error;
pub use restore::{HeldRestore, Restore};
pub use tree::Tree;
pub(crate) use tree::inner_pid;
pub use version::{Criu, MIN_VERSION, Version};
pub use worker::{Inherit, Worker};
