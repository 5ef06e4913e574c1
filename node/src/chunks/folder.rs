//! A folder that paths cannot leave: the kernel resolves them beneath it and follows no link (`openat2`, Linux 5.6).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, OFlag, OpenHow, ResolveFlag, fallocate, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = nix::fcntl::open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Where it was when it was opened, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(if flags.contains(OFlag::O_CREAT) { Mode::S_IRUSR | Mode::S_IWUSR } else { Mode::empty() })
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(self.fd.as_fd(), path, how)?.into())
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The kernel's: `ELOOP` for a link, `EXDEV` for a path that leaves the folder.
    pub fn read(&self, path: &str) -> io::Result<File> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
    }

    /// Opens a file for reading and writing, with its folders; says whether it was there.
    ///
    /// # Errors
    /// As for [`Folder::read`].
    pub fn write(&self, path: &str) -> io::Result<(File, bool)> {
        match self.resolve(path, OFlag::O_RDWR | OFlag::O_NOFOLLOW) {
            Ok(file) => return Ok((file, true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for (end, _) in path.match_indices('/') {
            match mkdirat(self.fd.as_fd(), &path[..end], Mode::S_IRWXU) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let file = self.resolve(path, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW)?;
        Ok((file, false))
    }

    /// Makes the folder's own entries durable.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sync(&self) -> io::Result<()> {
        nix::unistd::fsync(self.fd.as_fd()).map_err(Into::into)
    }
}

/// Gives a file its size and, where the file system can, its blocks: a full disk is noticed before anything travels.
///
/// # Errors
/// The kernel's; `ENOSPC` for a full disk.
pub fn allocate(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size)?;
    let Ok(length) = i64::try_from(size) else { return Err(io::ErrorKind::FileTooLarge.into()) };
    if length == 0 {
        return Ok(());
    }
    match fallocate(file.as_fd(), FallocateFlags::empty(), 0, length) {
        // The file system cannot reserve: writes will tell.
        Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leaves_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        let inside = outside.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        symlink(outside.path(), inside.join("up")).unwrap();
        symlink(outside.path().join("secret"), inside.join("link")).unwrap();
        let folder = Folder::open(&inside).unwrap();
        for path in ["../secret", "up/secret", "link", outside.path().join("secret").to_str().unwrap()] {
            assert!(folder.read(path).is_err(), "{path}");
            assert!(folder.write(path).is_err(), "{path}");
        }
        assert!(folder.write("up/new").is_err());
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn a_file_is_made_with_its_folders_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(!folder.write("a/b/c").unwrap().1);
        assert!(folder.write("a/b/c").unwrap().1);
    }
}
