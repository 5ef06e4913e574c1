//! The local HTTP API: all that an operator, the CLI or a dashboard can ask of a site.
//!
//! A request becomes an [`site::Ask`] that carries the place for its typed answer; the site's own loop answers it. The
//! API decides nothing, and holds nothing but the site's end of that channel.
//!
//! It listens on a UNIX socket that only its owner can open and, if configured, on loopback behind a bearer token.
//! Invariant: it never listens on an address that another machine can reach.
//! Invariant: every body, wait and connection count is bounded.

pub mod fault;
pub mod raw;
pub mod routes;
pub mod serve;
pub mod site;
pub mod token;
pub mod view;

mod body;
pub(crate) mod find;
mod stream;

pub use fault::{Fault, Kind};
pub use serve::{Listeners, ServeError};
pub use site::{Ask, Notice, Reply, SiteHandle};

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
