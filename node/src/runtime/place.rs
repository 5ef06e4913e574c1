//! Where one container's handoff happens on this machine: a folder in memory (tmpfs) for its sockets, CRIU's logs, and what
//! is captured. A machine that restarts has lost it, and the processes with it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use godwit_protocol::ContainerId;
use nix::mount::{MntFlags, umount2};

use super::Cause;

/// The longest path of a Unix socket (`sun_path` in unix(7)), without the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

/// The longest name of a socket in the folder, `work/lazy-pages.socket`, with its separator.
const SOCKET_NAME_MAX: usize = 24;

/// One container's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// Below `run`, which holds one folder for each container that moves.
    #[must_use]
    pub fn of(run: &Path, container: ContainerId) -> Self {
        Self { root: run.join("containers").join(container.to_string()) }
    }

    /// Whether sockets below `run` have paths that the system takes.
    #[must_use]
    pub fn fits(run: &Path) -> bool {
        Self::of(run, ContainerId([0; 16])).root.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX
    }

    /// Makes it, for the owner only.
    ///
    /// # Errors
    /// [`Cause::Io`].
    pub fn make(&self) -> Result<(), Cause> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(self.work()).map_err(Cause::io("make", &self.root))
    }

    /// The folder itself: a prepared container's annotation names it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// CRIU's logs, and the socket on which it hands over what lacks pages.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Where the process listens that holds the container's dump.
    #[must_use]
    pub fn holder(&self) -> PathBuf {
        self.root.join("holder.sock")
    }

    /// Where the process listens that guards missing pages.
    #[must_use]
    pub fn guard(&self) -> PathBuf {
        self.root.join("guard.sock")
    }

    /// Where CRIU hands over what lacks pages; it knows the name by itself.
    #[must_use]
    pub fn lazy_pages(&self) -> PathBuf {
        self.work().join("lazy-pages.socket")
    }

    /// Removes it with all that is in it. What is mounted there is unmounted and not emptied: the container may have it.
    pub fn clear(&self) {
        for mounted in fs::read_dir(self.root.join(godwit_oci::MOUNTS)).into_iter().flatten().flatten() {
            // Most are not mounted any more.
            let _ = umount2(&mounted.path(), MntFlags::MNT_DETACH);
            if let Err(error) = fs::remove_dir(mounted.path()) {
                tracing::warn!(folder = %mounted.path().display(), %error, "a handoff's folder stays");
                return;
            }
        }
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.root.display(), %error, "a handoff's folder stays");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_folder_has_room_for_all_names_of_sockets_and_a_deep_one_is_found_out() {
        let run = Path::new("/run/godwit");
        assert!(Place::fits(run));
        let place = Place::of(run, ContainerId([0xff; 16]));
        for socket in [place.holder(), place.guard(), place.lazy_pages(), place.root().join(godwit_oci::SOCKET)] {
            assert!(socket.as_os_str().len() <= SOCKET_PATH_MAX, "{}", socket.display());
            assert!(socket.as_os_str().len() - place.root().as_os_str().len() <= SOCKET_NAME_MAX);
        }
        assert!(!Place::fits(Path::new("/a/folder/that/somebody/has/put/deep/below/others/of/his")));
    }

    #[test]
    fn it_is_for_the_owner_only_and_goes_whole() {
        use std::os::unix::fs::PermissionsExt;
        let run = tempfile::tempdir().unwrap();
        let place = Place::of(run.path(), ContainerId([1; 16]));
        place.make().unwrap();
        place.make().unwrap();
        assert_eq!(fs::metadata(place.root()).unwrap().permissions().mode() & 0o777, 0o700);
        place.clear();
        place.clear();
        assert!(!place.root().exists());
    }
}
