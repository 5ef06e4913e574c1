//! Captures running processes and lets them go on elsewhere, with CRIU called directly and with their memory apart from the
//! rest: most of it travels while they run, what is missing follows when they run again.
//!
//! [`criu`] speaks CRIU's RPC and holds a dump or a restore at the moments that matter; [`dirty`] tells which pages of a
//! running process were written; [`pages`] serves the pages that a restored process still lacks.
//!
//! Invariant: what calls the kernel directly lies here, each unsafe block with the reason why it is sound.

pub mod criu;
pub mod dirty;
pub mod pages;
