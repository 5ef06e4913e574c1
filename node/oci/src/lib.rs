//! An OCI runtime that is runc for everything but one thing: the `restore` of a container that a site takes over.
//!
//! Docker spends some 350 ms on creating and starting a container. So the site starts it early, from a checkpoint that is
//! still to come: runc makes namespaces, cgroups, network and mounts, and this runtime waits inside of Docker's call until
//! the site has the images. What is left for the frozen time is CRIU's restore.
//!
//! ```text
//! godwit                      docker, containerd        godwit-runtime              runc, criu
//!   |  start --checkpoint ------->|  restore ------------->|  create ----------------->| holder: namespaces, cgroups
//!   |<------------------------------------- prepared ------|  file systems in memory   |
//!   |  expect(standard streams) -------------------------->|  ------------------------>| criu, idle
//!   |<------------------------------------- ready ---------|                           |
//!   |  restore(images) ----------------------------------->|  ------------------------>| restores, holds
//!   |<------------------------------------- held ----------|                           |
//!   |  release (the receipt is committed) ---------------->|  ------------------------>| runs
//!   |<------------------------------------- running -------|  runc's record names it   | the holder ends
//!   |<-- started -----------------|<-- exit 0 -------------|
//! ```
//!
//! The container's annotation [`ANNOTATION`] names the folder in which the site listens. A site that dies is waited for:
//! before the restore for [`PATIENCE`], after it without limit, for only the site knows whether the copy may run.
//!
//! Invariant: knows nothing of ledgers and peers; what may run is said by the site, and `cancel` always wins over silence.

pub mod arguments;
pub mod external;
pub mod holder;
pub mod link;
pub mod mounts;
pub mod restore;
pub mod state;

use std::time::Duration;

/// Of a container: the absolute path of the folder in which the site listens, by [`SOCKET`].
pub const ANNOTATION: &str = "org.godwit.handoff";

/// In the folder that the annotation names.
pub const SOCKET: &str = "runtime.sock";

/// In the same folder: what is mounted until CRIU has it, one folder each.
pub const MOUNTS: &str = "mounts";

/// For how long a prepared container waits for its images: preparing and pre-copy of a large one take minutes, and until
/// then the engine has locked the container.
pub const PATIENCE: Duration = Duration::from_secs(600);
