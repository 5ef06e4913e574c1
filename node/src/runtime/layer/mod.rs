//! A container's writable layer or volume as one tar archive, and back.
//!
//! Kept: contents with their holes, owners, modes, modification times to the nanosecond, hard and symbolic links, devices,
//! FIFOs, extended attributes. Of an overlay's own marks, deleted files become `.wh.NAME` and replaced directories hold
//! `.wh..wh..opq`, as in image layers, so that the archive does not depend on the engine's storage driver.
//!
//! Not kept: sockets, which only their owner can make again and CRIU does; access times; file attributes of `chattr`.
//!
//! What is unpacked comes from another site: every path is relative and leads through directories only, never through a
//! symbolic link that the archive itself may have made, and an overlay's own attributes are not taken from it.

mod pack;
mod unpack;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

pub use pack::pack;
pub use unpack::{clear, unpack};

/// What a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The upper directory of an overlay that nobody writes to: packed as it is; unpacked while it is not mounted.
    Overlay,
    /// An overlay as it is mounted, to unpack into: what is seen there already stays known to the kernel.
    Mounted,
    /// An ordinary tree, such as a volume's.
    Plain,
}

/// Why a tree cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named by the messages
pub enum LayerError {
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("read or write the archive")]
    Archive(#[source] io::Error),
    #[error("{} refers to a layer below by the overlay's {attribute}, which does not travel: mount without it", path.display())]
    Refers { path: PathBuf, attribute: &'static str },
    #[error("{}: a name that begins with .wh. has a meaning of its own in layers", .0.display())]
    Reserved(PathBuf),
    #[error("{}: an extended attribute whose name holds `=` or a line end", .0.display())]
    Attribute(PathBuf),
    #[error("entry {} would leave the layer", .0.display())]
    Escapes(PathBuf),
    #[error("{}: with it the files hold more than {MAX_CONTENT} bytes, holes counted", .0.display())]
    TooLarge(PathBuf),
    #[error("entry {}: {what}", path.display())]
    Malformed { path: PathBuf, what: &'static str },
}

impl LayerError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What the files of one archive may hold, their holes counted: an archive of a few bytes can claim a hole of any size, and
/// even zeros take time to write. 256 GiB of them take a minute.
const MAX_CONTENT: u64 = 256 << 30;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// An attribute's value in hexadecimal digits: archives hold extensions as lines, and values may hold line ends.
const XATTR: &str = "GODWIT.xattr.";
const MTIME: &str = "GODWIT.mtime_ns";

/// Attributes that belong to an overlay and mean nothing, or something else, in another.
fn is_overlays(attribute: &OsStr) -> bool {
    let name = attribute.as_encoded_bytes();
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use std::collections::BTreeMap;
    use std::fs::{self, File, Permissions};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    fn travel(from: &Path, to: &Path, form: Form) -> Result<(), LayerError> {
        let mut archive = Vec::new();
        pack(from, &mut archive, form)?;
        unpack(archive.as_slice(), to, form)
    }

    /// Everything of a tree that must survive.
    fn look(root: &Path) -> BTreeMap<PathBuf, String> {
        let mut seen = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut xattrs: Vec<_> = xattr::list(&path).map(|list| list.collect()).unwrap_or_default();
            xattrs.sort();
            let xattrs: Vec<_> = xattrs.iter().map(|name| (name, xattr::get(&path, name).unwrap())).collect();
            let content = match meta.file_type() {
                kind if kind.is_dir() => {
                    open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                    String::new()
                }
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                kind if kind.is_file() => blake3::hash(&fs::read(&path).unwrap()).to_string(),
                _ => format!("device {:x}", meta.rdev()),
            };
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let looks = format!(
                "{:o} {}:{} links {} mtime {}.{} size {size} {xattrs:?} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                if meta.is_dir() { 0 } else { meta.nlink() },
                meta.mtime(),
                meta.mtime_nsec(),
            );
            seen.insert(path.strip_prefix(root).unwrap().to_owned(), looks);
        }
        seen
    }

    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/file"), "content").unwrap();
        fs::hard_link(root.join("etc/file"), root.join("etc/deep/other")).unwrap();
        symlink("/etc/passwd", root.join("etc/link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("run.sh"), "#!").unwrap();
        fs::set_permissions(root.join("run.sh"), Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(root.join("etc/deep"), Permissions::from_mode(0o1777)).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"odd \xff name\n")), "odd").unwrap();
        fs::write(root.join("long".repeat(60)), "long").unwrap();
        fs::create_dir_all(root.join("a".repeat(200)).join("b".repeat(200))).unwrap();
        symlink("c".repeat(300), root.join("long-target")).unwrap();
        xattr::set(root.join("etc/file"), "user.note", b"line\nend\0").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        File::open(root.join("etc/file")).unwrap().set_modified(old).unwrap();
        File::open(root.join("etc")).unwrap().set_modified(old).unwrap();
        if is_root() {
            std::os::unix::fs::chown(root.join("run.sh"), Some(3_000_000_000), Some(1234)).unwrap();
            fs::set_permissions(root.join("run.sh"), Permissions::from_mode(0o4751)).unwrap();
            xattr::set(
                root.join("run.sh"),
                "security.capability",
                &[1, 0, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
            .unwrap();
        }
    }

    #[test]
    fn a_tree_arrives_as_it_left() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        tree(from.path());
        travel(from.path(), to.path(), Form::Plain).unwrap();
        assert_eq!(look(to.path()), look(from.path()));
    }

    #[test]
    fn packing_a_tree_twice_gives_the_same_bytes() {
        let from = tempfile::tempdir().unwrap();
        tree(from.path());
        let (mut first, mut second) = (Vec::new(), Vec::new());
        pack(from.path(), &mut first, Form::Plain).unwrap();
        pack(from.path(), &mut second, Form::Plain).unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn holes_stay_holes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = File::create(from.path().join("sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive, Form::Plain).unwrap();
        assert!(archive.len() < 1 << 20, "{} bytes for six", archive.len());
        unpack(archive.as_slice(), to.path(), Form::Plain).unwrap();
        let meta = fs::metadata(to.path().join("sparse")).unwrap();
        assert!(meta.size() == 64 << 20 && meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        assert_eq!(fs::read(from.path().join("sparse")).unwrap(), fs::read(to.path().join("sparse")).unwrap());
    }

    #[test]
    fn a_hole_beyond_the_limit_is_packed_by_nobody_and_unpacked_by_nobody() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = File::create(from.path().join("sparse")).unwrap();
        file.set_len(MAX_CONTENT + 1).unwrap();
        let refused = pack(from.path(), &mut Vec::new(), Form::Plain);
        assert!(matches!(refused, Err(LayerError::TooLarge(_))), "{refused:?}");

        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..6].copy_from_slice(b"sparse");
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_size(0);
        // One piece of no bytes at its end: all of it is a hole.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(u64::MAX >> 1);
        gnu.sparse[0].set_offset(u64::MAX >> 1);
        gnu.sparse[0].set_length(0);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, io::empty()).unwrap();
        let refused = unpack(archive.into_inner().unwrap().as_slice(), to.path(), Form::Plain);
        assert!(matches!(refused, Err(LayerError::TooLarge(_))), "{refused:?}");
    }

    #[test]
    fn an_overlays_marks_travel_and_its_other_attributes_do_not() {
        if !is_root() {
            return; // whiteouts are device nodes
        }
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (upper, arrived) = (from.path(), to.path());
        fs::create_dir(upper.join("opaque")).unwrap();
        fs::write(upper.join("opaque/new"), "new").unwrap();
        xattr::set(upper.join("opaque"), "trusted.overlay.opaque", b"y").unwrap();
        xattr::set(upper.join("opaque"), "trusted.overlay.impure", b"y").unwrap();
        mknod(&upper.join("gone"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
        mknod(&upper.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();

        let mut archive = Vec::new();
        pack(upper, &mut archive, Form::Overlay).unwrap();
        let names: Vec<_> = tar::Archive::new(archive.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names.contains(&".wh.gone".into()) && names.contains(&"opaque/.wh..wh..opq".into()), "{names:?}");

        unpack(archive.as_slice(), arrived, Form::Overlay).unwrap();
        let get = |attribute| xattr::get(arrived.join("opaque"), attribute).unwrap();
        assert_eq!(get("trusted.overlay.opaque").as_deref(), Some(b"y".as_slice()));
        assert_eq!(get("trusted.overlay.impure"), None);
        assert_eq!(fs::symlink_metadata(arrived.join("gone")).unwrap().rdev(), 0);
        assert_eq!(fs::symlink_metadata(arrived.join("null")).unwrap().rdev(), makedev(1, 3));
    }

    /// Mounted until dropped.
    struct Overlay {
        folder: tempfile::TempDir,
    }

    impl Overlay {
        fn over(lower: &Path) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let part = |name: &str| folder.path().join(name);
            for name in ["upper", "work", "merged"] {
                fs::create_dir(part(name)).unwrap();
            }
            let parts = [lower.to_owned(), part("upper"), part("work")].map(|part| part.display().to_string());
            let options = format!("lowerdir={},upperdir={},workdir={}", parts[0], parts[1], parts[2]);
            let kind = Some("overlay");
            nix::mount::mount(kind, &part("merged"), kind, nix::mount::MsFlags::empty(), Some(options.as_str()))
                .unwrap();
            Self { folder }
        }

        fn part(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            nix::mount::umount2(&self.part("merged"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn a_mounted_overlay_shows_what_the_one_showed_that_the_layer_is_from() {
        if !is_root() {
            return; // mounts
        }
        let lower = tempfile::tempdir().unwrap();
        for folder in ["kept", "emptied", "replaced", "deep/deeper", "becomes-file"] {
            fs::create_dir_all(lower.path().join(folder)).unwrap();
            fs::write(lower.path().join(folder).join("below"), folder).unwrap();
        }
        for file in ["changed", "gone", "becomes-folder"] {
            fs::write(lower.path().join(file), "below").unwrap();
        }
        let (source, target) = (Overlay::over(lower.path()), Overlay::over(lower.path()));
        // The kernel knows them before the layer comes, and some are in use.
        let _in_use = File::open(target.part("merged/deep")).unwrap();
        look(&target.part("merged"));

        let merged = source.part("merged");
        let at = |name: &str| merged.join(name);
        fs::write(at("changed"), "above").unwrap();
        fs::write(at("new"), "above").unwrap();
        fs::hard_link(at("new"), at("kept/link")).unwrap();
        fs::write(at("deep/deeper/new"), "above").unwrap();
        fs::remove_file(at("gone")).unwrap();
        fs::remove_file(at("emptied/below")).unwrap();
        fs::remove_dir_all(at("replaced")).unwrap();
        fs::create_dir(at("replaced")).unwrap();
        fs::write(at("replaced/new"), "above").unwrap();
        fs::remove_dir_all(at("becomes-file")).unwrap();
        fs::write(at("becomes-file"), "above").unwrap();
        fs::remove_file(at("becomes-folder")).unwrap();
        fs::create_dir(at("becomes-folder")).unwrap();

        let mut archive = Vec::new();
        pack(&source.part("upper"), &mut archive, Form::Overlay).unwrap();
        for _ in 0..2 {
            unpack(archive.as_slice(), &target.part("merged"), Form::Mounted).unwrap();
            assert_eq!(look(&target.part("merged")), look(&merged));
        }
    }

    #[test]
    fn a_layer_that_refers_to_one_below_is_refused() {
        if !is_root() {
            return;
        }
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("moved")).unwrap();
        xattr::set(from.path().join("moved"), "trusted.overlay.redirect", b"/old").unwrap();
        let refused = pack(from.path(), &mut Vec::new(), Form::Overlay);
        assert!(matches!(refused, Err(LayerError::Refers { attribute: "redirect_dir", .. })), "{refused:?}");
    }

    #[test]
    fn a_name_of_the_archives_own_is_refused() {
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join(".wh.mine"), "").unwrap();
        assert!(matches!(pack(from.path(), &mut Vec::new(), Form::Overlay), Err(LayerError::Reserved(_))));
        assert!(pack(from.path(), &mut Vec::new(), Form::Plain).is_ok());
    }

    /// An archive that a careful packer would never write.
    fn hostile(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, path, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(nix::unistd::geteuid().as_raw().into());
            header.set_gid(nix::unistd::getegid().as_raw().into());
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_size(0);
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn no_entry_leaves_the_layer() {
        use tar::EntryType::{Link, Regular, Symlink};
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), "whole").unwrap();
        let out = outside.path().to_str().unwrap();
        let victim = format!("{out}/victim");
        for entries in [
            vec![(Regular, "../victim", "")],
            vec![(Regular, victim.as_str(), "")],
            vec![(Symlink, "./door", out), (Regular, "./door/victim", "")],
            vec![(Symlink, "./door", out), (Link, "./mine", "./door/victim"), (Regular, "./mine", "")],
            vec![(Link, "./mine", victim.as_str()), (Regular, "./mine", "")],
            vec![(Symlink, "./victim", victim.as_str()), (Link, "./mine", "../victim")],
        ] {
            let to = tempfile::tempdir().unwrap();
            let refused = unpack(hostile(&entries).as_slice(), to.path(), Form::Plain);
            assert!(matches!(refused, Err(LayerError::Escapes(_))), "{entries:?}: {refused:?}");
            assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole");
        }
        // An entry over a link replaces the link, not what it points to.
        let to = tempfile::tempdir().unwrap();
        let over = hostile(&[(Symlink, "./victim", &victim), (Regular, "./victim", "")]);
        unpack(over.as_slice(), to.path(), Form::Plain).unwrap();
        assert!(fs::symlink_metadata(to.path().join("victim")).unwrap().is_file());
        assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole");
    }

    #[test]
    fn clearing_follows_no_link() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), "").unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        clear(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn half_an_archive_is_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("file"), vec![7; 100_000]).unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive, Form::Plain).unwrap();
        assert!(unpack(&archive[..50_000], to.path(), Form::Plain).is_err());
    }
}
