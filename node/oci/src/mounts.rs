//! The file systems in memory of a container that is still to come, mounted on this host until CRIU has taken them over.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::external::Tmpfs;

/// A device folder has some twenty entries; whoever fills more lets CRIU carry it.
const ENTRIES_MAX: usize = 4_096;

/// Deeper than any device folder.
const DEPTH_MAX: usize = 8;

/// It cannot be prepared.
#[derive(Debug, thiserror::Error)]
#[error("prepare {0}")]
pub struct Error(PathBuf, #[source] io::Error);

/// Mounted until dropped.
#[derive(Debug, Default)]
pub struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// Mounts them below a folder, with what the holder has in them: devices, links, empty folders and files.
    ///
    /// # Errors
    /// [`Error`]; nothing stays mounted.
    pub fn make(all: &[Tmpfs], below: &Path, holder: i32) -> Result<Self, Error> {
        let mut mounts = Self::default();
        for tmpfs in all {
            mounts.add(tmpfs, below, holder).map_err(|error| Error(tmpfs.mount_point.clone(), error))?;
        }
        Ok(mounts)
    }

    fn add(&mut self, tmpfs: &Tmpfs, below: &Path, holder: i32) -> io::Result<()> {
        let folder = Tmpfs::folder(below, &tmpfs.mount_point);
        fs::create_dir_all(&folder)?;
        let flags = MsFlags::MS_NOSUID;
        mount(Some("tmpfs"), &folder, Some("tmpfs"), flags, Some(tmpfs.data.as_str()))?;
        self.0.push(folder.clone());
        let inside = tmpfs.mount_point.strip_prefix("/").unwrap_or(&tmpfs.mount_point);
        let from = Path::new("/proc").join(holder.to_string()).join("root").join(inside);
        let device = fs::metadata(&from)?.dev();
        copy(&from, &folder, device, &mut 0, 0)?;
        if tmpfs.read_only {
            mount(None::<&str>, &folder, None::<&str>, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)?;
        }
        Ok(())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // Mounts inside of the container are its own; these here are seen by nobody.
            if umount2(folder, MntFlags::MNT_DETACH).is_ok() {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Entries of one file system, without what files hold.
fn copy(from: &Path, to: &Path, device: u64, entries: &mut usize, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("folders are nested more than {DEPTH_MAX} deep")));
    }
    for entry in fs::read_dir(from)? {
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let entry = entry?;
        let (name, known): (OsString, _) = (entry.file_name(), entry.metadata()?);
        let (from, to) = (entry.path(), to.join(name));
        let mode = Mode::from_bits_truncate(known.mode() & 0o7777);
        match known.file_type() {
            kind if kind.is_symlink() => symlink(fs::read_link(&from)?, &to)?,
            kind if kind.is_dir() => fs::create_dir(&to)?,
            kind if kind.is_char_device() => mknod(&to, SFlag::S_IFCHR, mode, known.rdev())?,
            kind if kind.is_block_device() => mknod(&to, SFlag::S_IFBLK, mode, known.rdev())?,
            kind if kind.is_fifo() => mknod(&to, SFlag::S_IFIFO, mode, 0)?,
            // What is mounted over it, is mounted over it again.
            _ => drop(fs::File::create_new(&to)?),
        }
        if known.is_symlink() {
            lchown(&to, Some(known.uid()), Some(known.gid()))?;
            continue;
        }
        chown(&to, Some(known.uid()), Some(known.gid()))?;
        // A process's umask has its say when something is made.
        fs::set_permissions(&to, fs::Permissions::from_mode(known.mode() & 0o7777))?;
        if known.is_dir() && known.dev() == device {
            copy(&from, &to, device, entries, depth + 1)?;
        }
    }
    Ok(())
}
