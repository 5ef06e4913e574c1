//! What the end-to-end tests and benchmarks share: the lab, the sites in it, the `godwit` processes, the workload.
//!
//! Everything goes through what a user has: the `godwit` command with `--json`, the site's API, the lab's command and the
//! workload's own answers. Invariant: no crate of the workspace is used here; the benchmark of the ledger uses them, to write
//! more than a command line can.

pub mod artifacts;
pub mod events;
pub mod genesis;
pub mod inspect;
pub mod lab;
pub mod mesh;
pub mod node;
pub mod view;
pub mod wait;
pub mod workload;

pub use lab::{Lab, Site};
pub use mesh::Mesh;
pub use node::Node;
pub use workload::Workload;
