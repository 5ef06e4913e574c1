//! Serves the pages that a restored process still lacks, in place of `criu lazy-pages` and CRIU's page server.
//!
//! ```text
//!  source                                    target
//!  frozen tasks ──► Server ◄══ wire ══► Service ──► UFFDIO_COPY ──► restored tasks
//!                                        ▲    ▲                          │
//!                           Store ───────┘    └── notes ── guard ◄───────┘ userfaultfds (from CRIU), events
//! ```
//!
//! [`guard`] runs in a process of its own: it takes the userfaultfds from CRIU and holds them, so that missing pages are
//! never read as zeros, whoever dies. [`Service`] fills pages from a local [`Store`] and from the source, where [`Server`]
//! reads them from the frozen tasks. The bytes between the two are described in `wire`; the images that say which pages are
//! missing are read by [`image`].
//!
//! The order at the target: start the guard's process, [`Service::start`], CRIU's restore with lazy pages, [`Service::protect`]
//! before the tasks run, [`Service::wait`].
//!
//! Invariant: a page is filled with what it held when its task was frozen, or its thread waits, or its task is dead.
//!
//! One hole is the kernel's: events of two threads are queued in the order in which the threads come to wait, not in which
//! they changed the mappings. A program that moves a mapping (`mremap`) with missing pages to a place that another thread of
//! it is just unmapping, before that call has returned, can lose pages.

mod connection;
mod fill;
pub(crate) mod frame;
pub mod guard;
pub mod image;
mod link;
mod notes;
mod pace;
mod service;
mod source;
mod space;
mod store;
mod uffd;
pub(crate) mod wire;
mod work;

pub use connection::{Close, Connect, Connection};
pub use service::{Event, Options, Progress, Service, ServiceError, dismiss};
pub use source::{Ending, ServeError, Server};
pub use store::{MemoryStore, Store};
pub use wire::WireError;

/// Bytes of a page. CRIU's images and userfaultfd count in the processor's own; godwit moves tasks between x86-64 sites.
pub const PAGE: u64 = 4096;
/// The same, for sizes in memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Bytes of so many pages in memory. What does not fit there is more than any slice has.
pub(crate) fn bytes(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(PAGE_BYTES)
}
