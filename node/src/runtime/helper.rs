//! Small processes of this program's own that outlive the site's: who holds a dump, and who guards missing pages. Each is a
//! hidden subcommand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// This program, also when its file was replaced by a newer one.
const SELF: &str = "/proc/self/exe";

/// Holds one dump: see [`godwit_checkpoint::criu::holder`].
pub const HOLD: &str = "hold-dump";

/// Guards one restore's missing pages: see [`godwit_checkpoint::pages::guard`].
pub const GUARD: &str = "guard-pages";

/// A command that holds a dump, listening at `socket`.
#[must_use]
pub fn hold(socket: &Path) -> Command {
    let mut command = helper(HOLD);
    command.arg(socket);
    command
}

/// A command that guards pages: CRIU connects to `criu`, services to `control`. For `restore` CRIU is awaited; for
/// `patience` tasks with missing pages may be without a service.
#[must_use]
pub fn guard(criu: &Path, control: &Path, restore: Duration, patience: Duration) -> Command {
    let mut command = helper(GUARD);
    command.arg(criu).arg(control).args([restore, patience].map(|time| time.as_secs().to_string()));
    command
}

/// Its errors go where the site's go; nothing else comes from it.
fn helper(name: &str) -> Command {
    let mut command = Command::new(SELF);
    command.arg(name).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
