//! A layer's whole appearance, and sessions between a source and a target in one process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_layer::{Arrived, Form, Limits, Moment, Receiver, Scanner, Sender, Sent, SessionError, Tree};
use rustix::fs::{SeekFrom, seek};

/// Everything of a tree that must survive.
#[allow(dead_code)]
pub fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    look_as(Form::Plain, root)
}

/// Everything of a tree that must survive: of an overlay's whiteouts only that they are.
pub fn look_as(form: Form, root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut groups = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let short = path.strip_prefix(root).unwrap().to_owned();
        if form == Form::Overlay && meta.file_type().is_char_device() && meta.rdev() == 0 {
            seen.insert(short, "whiteout".into());
            continue;
        }
        let mut xattrs: Vec<_> = xattr::list(&path).map(|list| list.collect()).unwrap_or_default();
        xattrs.sort();
        let xattrs: Vec<_> = xattrs.iter().map(|name| (name, xattr::get(&path, name).unwrap())).collect();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            kind if kind.is_file() => format!("{} {:?}", blake3::hash(&fs::read(&path).unwrap()), data(&path)),
            _ => format!("device {:x}", meta.rdev()),
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        if links > 1 {
            groups.entry(meta.ino()).or_insert_with(Vec::new).push(short.clone());
        }
        let looks = format!(
            "{:o} {}:{} links {links} mtime {}.{} size {} {xattrs:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.size() },
        );
        seen.insert(short, looks);
    }
    for mut group in groups.into_values() {
        group.sort();
        for path in &group {
            seen.get_mut(path).unwrap().push_str(&format!(" with {group:?}"));
        }
    }
    seen
}

/// Where a file has data.
fn data(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Ok(from) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(from)).unwrap();
        ranges.push((from, at));
    }
    ranges
}

/// What was read a tick ago counts.
#[allow(dead_code)]
pub fn limits() -> Limits {
    Limits { quiet: Duration::ZERO, ..Limits::default() }
}

/// Longer than a tick of the coarse clock.
#[allow(dead_code)]
pub fn tick() {
    std::thread::sleep(Duration::from_millis(12));
}

/// One session: the receiver serves while `source` speaks. Ends when `source` returns.
pub fn session<T>(
    receiver: &mut Receiver,
    known: &[Tree],
    source: impl FnOnce(&mut Sender<UnixStream, UnixStream>) -> T,
) -> (T, Result<Arrived, SessionError>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || receiver.serve(&theirs, &theirs));
        let mut sender = Sender::open(ours.try_clone().unwrap(), ours, known).unwrap();
        let result = source(&mut sender);
        drop(sender);
        (result, serving.join().unwrap())
    })
}

/// Scans at a moment and tells the target.
#[allow(dead_code)]
pub fn round(
    sender: &mut Sender<UnixStream, UnixStream>,
    scanner: &mut Scanner,
    moment: Moment,
) -> Result<(Tree, Sent), SessionError> {
    let tree = scanner.scan(moment)?.tree;
    let sent = sender.round(scanner, &tree, moment)?;
    Ok((tree, sent))
}
