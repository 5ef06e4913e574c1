//! The target's side of a session.

use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_protocol::Hash;
use rustix::fs::{Mode, OFlags};

use crate::path::LayerPath;
use crate::stage::{Lack, Stage};
use crate::tree::{Entry, Tree, merge};
use crate::wire::{FromSource, FromTarget, Place, SessionError, SourceFrame, WANT_MAX, greet};
use crate::{Form, LayerError, Limits, files};

/// What one round may tell of a tree, in bytes as [`Entry::weight`] counts them: a million names are 300 MiB, 256 GiB of content
/// 32 MiB.
const ROUND_MAX: usize = 512 << 20;

/// Batches of places that are asked for and not answered yet: one travels while the other is read.
const WINDOW: usize = 2;

/// Lays out a layer next to its destination, on the same file system, ahead of time; at last everything is renamed into place.
///
/// What arrived survives a lost connection, and the end of the process: the next receiver for the same staging directory reads what
/// lies there.
pub struct Receiver {
    staging: PathBuf,
    stage: Stage,
    destination: (PathBuf, OwnedFd),
    form: Form,
    limits: Limits,
    /// The tree of the last round that was told to its end.
    told: Tree,
    /// The root of the last round's tree, once all of it is there.
    arrived: Option<Hash>,
    /// Something failed between the disk and what is recorded of it.
    is_unsure: bool,
}

/// All of a layer is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The root of its tree, to be compared with what the source signed.
    pub root: Hash,
}

impl Receiver {
    /// `staging` is made if need be and is for this receiver alone; it lies on the mount of `destination`, and not in it.
    ///
    /// # Errors
    /// [`LayerError::Apart`], or what cannot be made or read.
    pub fn open(staging: &Path, destination: &Path, form: Form, limits: Limits) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder =
            rustix::fs::open(destination, flags, Mode::empty()).map_err(LayerError::io("open", destination))?;
        let stage = Stage::open(staging, form, limits)?;
        let mount = |fd: &OwnedFd, path| {
            let meta = files::stat_fd(fd).map_err(LayerError::io("read", path))?;
            Ok::<_, LayerError>((meta.stx_dev_major, meta.stx_dev_minor, meta.stx_mnt_id))
        };
        let staged = rustix::fs::open(staging, flags, Mode::empty()).map_err(LayerError::io("open", staging))?;
        if mount(&staged, staging)? != mount(&folder, destination)? {
            return Err(LayerError::Apart { staging: staging.to_owned(), destination: destination.to_owned() });
        }
        Ok(Self {
            staging: staging.to_owned(),
            told: stage.has(),
            stage,
            destination: (destination.to_owned(), folder),
            form,
            limits,
            arrived: None,
            is_unsure: false,
        })
    }

    /// Serves a source until all of a layer that stands still has arrived.
    ///
    /// # Errors
    /// [`SessionError::Lost`]: connect and serve again, what arrived is kept. Any other error says what the source, or this side's
    /// disk, did wrong; after one of the disk, too, it can be tried again.
    pub fn serve(&mut self, read: impl Read, write: impl Write) -> Result<Arrived, SessionError> {
        self.arrived = None;
        if self.is_unsure {
            self.stage.empty_trash()?;
            self.stage.look_again()?;
            self.told = self.stage.has();
            self.is_unsure = false;
        }
        let (mut read, mut write) = (BufReader::with_capacity(1 << 20, read), BufWriter::new(write));
        greet(&mut read, &mut write)?;
        FromTarget::Have(self.told.root()).write(&mut write)?;
        write.flush()?;
        loop {
            let (root, last) = self.hear(&mut read)?;
            let lacking = self.lay(last, &mut read, &mut write).inspect_err(|error| {
                self.is_unsure |= matches!(error, SessionError::Layer(_));
            })?;
            FromTarget::Staged { lacking }.write(&mut write)?;
            write.flush()?;
            if last {
                self.arrived = Some(root);
                return Ok(Arrived { root });
            }
        }
    }

    /// Puts the layer whose root was signed in its place; what the destination held goes away. Nothing is copied. Nothing is
    /// synced either: that must happen before the source is told to forget its copy.
    ///
    /// # Errors
    /// [`LayerError::NotTheSigned`] if something else is staged; then the destination is as it was.
    pub fn finish(&mut self, signed: &Hash) -> Result<(), LayerError> {
        let root = self.told.entries.first().filter(|_| self.arrived == Some(*signed));
        let root = root.ok_or(LayerError::NotTheSigned)?;
        self.arrived = None;
        self.is_unsure = true;
        self.stage.deliver(&self.destination.1, &self.destination.0, root)
    }

    /// Removes the staging directory, with what the destination held before. After [`Self::finish`], when the container runs.
    ///
    /// # Errors
    /// [`LayerError::Io`].
    pub fn discard(self) -> Result<(), LayerError> {
        std::fs::remove_dir_all(&self.staging).map_err(LayerError::io("remove", &self.staging))
    }

    /// Reads the tree of a round: its root, and whether the round is the last.
    fn hear(&mut self, read: &mut impl Read) -> Result<(Hash, bool), SessionError> {
        let SourceFrame::Says(FromSource::Round { on_yours, last }) = SourceFrame::read(read)? else {
            return Err(SessionError::Broken("a round begins with its base"));
        };
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let mut room = ROUND_MAX;
        let root = loop {
            match SourceFrame::read(read)? {
                SourceFrame::Says(FromSource::Changes { gone: some_gone, new: some_new }) => {
                    let weight = some_gone.iter().map(LayerPath::weight).sum::<usize>()
                        + some_new.iter().map(Entry::weight).sum::<usize>();
                    room = room.checked_sub(weight).ok_or(SessionError::Broken("a tree above its size"))?;
                    gone.extend(some_gone);
                    new.extend(some_new.into_iter().map(Arc::new));
                }
                SourceFrame::Says(FromSource::End(root)) => break root,
                _ => return Err(SessionError::Broken("not a part of a tree")),
            }
        };
        let base = if on_yours { &*self.told.entries } else { &[] };
        let tree = apply(base, &gone, &new)?;
        tree.check(self.form, &self.limits)?;
        if tree.root() != root {
            return Err(SessionError::Damaged);
        }
        self.told = tree;
        Ok((root, last))
    }

    /// Makes the stage like the tree, as far as the source has what is lacking.
    fn lay(&mut self, last: bool, read: &mut impl Read, write: &mut impl Write) -> Result<u64, SessionError> {
        let lacks = self.stage.lay(&self.told)?;
        let places = lacks.iter().map(|lack| self.place(lack)).collect::<Result<Vec<_>, _>>()?;
        let mut asked = places.chunks(WANT_MAX);
        for batch in asked.by_ref().take(WINDOW) {
            FromTarget::Want(batch.to_vec()).write(write)?;
        }
        write.flush()?;
        for (lacks, places) in lacks.chunks(WANT_MAX).zip(places.chunks(WANT_MAX)) {
            for (lack, &place) in lacks.iter().zip(places) {
                self.take(lack, place, SourceFrame::read(read)?, last)?;
            }
            if let Some(batch) = asked.next() {
                FromTarget::Want(batch.to_vec()).write(write)?;
                write.flush()?;
            }
        }
        let lacking = self.stage.settle(&self.told)?;
        if !last {
            // In the frozen time this would cost, and what is left of it then can wait.
            self.stage.empty_trash()?;
            self.stage.write_back()?;
        }
        Ok(lacking)
    }

    fn take(&mut self, lack: &Lack, asked: Place, frame: SourceFrame, last: bool) -> Result<(), SessionError> {
        let wrong = || SessionError::Wrong { path: lack.spots[0].path.clone(), chunk: lack.spots[0].cell };
        match frame {
            SourceFrame::Chunk(place, data) if place == asked && data.len() == self.stage.data(&lack.spots[0]) => {
                if self.stage.fill(lack, &data, !last)? || !last {
                    Ok(())
                } else {
                    Err(wrong())
                }
            }
            SourceFrame::Unreadable(place) if place == asked && !last => Ok(()),
            SourceFrame::Unreadable(place) if place == asked => Err(wrong()),
            _ => Err(SessionError::Broken("not the chunk that was asked for")),
        }
    }

    fn place(&self, lack: &Lack) -> Result<Place, SessionError> {
        let spot = &lack.spots[0];
        let place = || {
            let entry = self.told.entries.binary_search_by(|entry| entry.path.cmp(&spot.path)).ok()?;
            Some(Place { entry: u32::try_from(entry).ok()?, chunk: u32::try_from(spot.cell).ok()? })
        };
        place().ok_or(SessionError::Broken("a file above all sizes"))
    }
}

/// A tree of another one and its changes.
fn apply(base: &[Arc<Entry>], gone: &[LayerPath], new: &[Arc<Entry>]) -> Result<Tree, SessionError> {
    let is_ordered = gone.is_sorted() && new.is_sorted_by(|a, b| a.path < b.path);
    if !is_ordered {
        return Err(SessionError::Broken("changes out of order"));
    }
    let mut entries = Vec::with_capacity(base.len() + new.len());
    merge(base, new, |pair| match pair {
        (_, Some(new)) => entries.push(new.clone()),
        (Some(old), None) if gone.binary_search(&old.path).is_err() => entries.push(old.clone()),
        _ => {}
    });
    Ok(Tree { entries })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Attributes, CHUNK, Content, Device, Extent, Kind, Xattr};

    const GREETING: &[u8] = b"gwlayer\0\x01";

    fn path(text: &str) -> LayerPath {
        LayerPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    fn entry(text: &str, kind: Kind) -> Entry {
        Entry { path: path(text), kind, attributes: Attributes::default() }
    }

    fn folder(text: &str) -> Entry {
        entry(text, Kind::Directory { opaque: false })
    }

    fn file(text: &str, data: &[u8]) -> Entry {
        let extents = vec![Extent { offset: 0, length: data.len() as u64 }];
        entry(text, Kind::File(Content { size: data.len() as u64, extents, chunks: vec![files::hash(data)] }))
    }

    fn with(mut entry: Entry, change: impl FnOnce(&mut Attributes)) -> Entry {
        change(&mut entry.attributes);
        entry
    }

    fn tree(entries: &[Entry]) -> Tree {
        Tree { entries: entries.iter().cloned().map(Arc::new).collect() }
    }

    fn told(entries: &[Entry], last: bool) -> Vec<u8> {
        let mut bytes = GREETING.to_vec();
        FromSource::Round { on_yours: false, last }.write(&mut bytes).unwrap();
        FromSource::Changes { gone: Vec::new(), new: entries.to_vec() }.write(&mut bytes).unwrap();
        FromSource::End(tree(entries).root()).write(&mut bytes).unwrap();
        bytes
    }

    /// What comes of bytes that a source sends, and what the target says.
    fn serve(bytes: &[u8], form: Form) -> (SessionError, Vec<u8>) {
        let (target, mut said) = (tempfile::tempdir().unwrap(), Vec::new());
        let destination = target.path().join("destination");
        fs::create_dir(&destination).unwrap();
        fs::write(target.path().join("victim"), "whole").unwrap();
        let limits = Limits { entries: 100, content: 1 << 20, extents: 3, ..Limits::default() };
        let mut receiver = Receiver::open(&target.path().join("staging"), &destination, form, limits).unwrap();
        let refused = receiver.serve(bytes, &mut said).unwrap_err();
        assert!(receiver.finish(&Hash::ZERO).is_err());
        assert_eq!(fs::read_dir(&destination).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(target.path().join("victim")).unwrap(), "whole");
        (refused, said)
    }

    #[test]
    fn a_tree_that_could_not_be_a_layer_is_refused_by_name() {
        let content = |size, extents: &[(u64, u64)], chunks: usize| {
            let extents = extents.iter().map(|&(offset, length)| Extent { offset, length }).collect();
            entry("f", Kind::File(Content { size, extents, chunks: vec![Hash([1; 32]); chunks] }))
        };
        let char = |major, minor| entry("c", Kind::Char(Device { major, minor }));
        let link = |at, to| entry(at, Kind::Link(path(to)));
        let xattr = |name: &str, length| Xattr { name: name.into(), value: vec![0; length] };
        let of = |xattrs: Vec<Xattr>| with(folder("d"), |attributes| attributes.xattrs = xattrs);
        let whiteout = |text| entry(text, Kind::Whiteout);
        let symlink = |target: &[u8]| entry("s", Kind::Symlink(target.to_vec()));
        for (form, entries, what) in [
            (Form::Plain, vec![folder("d"), folder("d")], "out of order"),
            (Form::Plain, vec![folder("e"), folder("d")], "out of order"),
            (Form::Plain, vec![whiteout("w")], "a mark of overlays"),
            (Form::Plain, vec![entry("d", Kind::Directory { opaque: true })], "a mark of overlays"),
            (Form::Plain, vec![link("l", "gone")], "a link to what is not there"),
            (Form::Plain, vec![folder("d"), link("l", "d")], "a link to what is not there"),
            (Form::Plain, vec![link("a", "b"), file("b", b"b")], "a link to what is not there"),
            (Form::Overlay, vec![whiteout("a"), link("b", "a")], "a link to what is not there"),
            (Form::Plain, vec![file("a", b"a"), link("b", "a"), link("c", "b")], "a link to what is not there"),
            (Form::Overlay, vec![with(whiteout("w"), |a| a.mode = 0o644)], "attributes of its own"),
            (
                Form::Overlay,
                vec![of(vec![xattr("trusted.overlay.redirect", 1)])],
                "an attribute that belongs to an overlay",
            ),
            (Form::Plain, vec![of(vec![xattr("", 1)])], "an attribute"),
            (Form::Plain, vec![of(vec![xattr("user.\0", 1)])], "an attribute"),
            (Form::Plain, vec![of(vec![xattr("user.a", 65_537)])], "an attribute"),
            (Form::Plain, vec![of(vec![xattr("user.b", 1), xattr("user.a", 1)])], "an attribute"),
            (Form::Plain, vec![with(folder("d"), |a| a.mode = 0o10000)], "its mode"),
            (Form::Plain, vec![with(folder("d"), |a| a.mtime_ns = 1_000_000_000)], "its time"),
            (Form::Plain, vec![symlink(b"")], "a link without a target"),
            (Form::Plain, vec![symlink(b"a\0b")], "a link without a target"),
            (Form::Plain, vec![symlink(&[b'a'; 4096])], "a link without a target"),
            (Form::Plain, vec![char(4096, 0)], "a device without a number"),
            (Form::Overlay, vec![char(0, 0)], "a device without a number"),
            (Form::Plain, vec![content(9, &[(0, 5), (4, 5)], 1)], "ranges of data that overlap or touch"),
            (Form::Plain, vec![content(9, &[(0, 5), (5, 4)], 1)], "ranges of data that overlap or touch"),
            (Form::Plain, vec![content(9, &[(3, 0)], 0)], "ranges of data that overlap or touch"),
            (Form::Plain, vec![content(9, &[(u64::MAX, 2)], 1)], "a range of data beyond all files"),
            (Form::Plain, vec![content(9, &[(0, 10)], 1)], "data beyond its end"),
            (Form::Plain, vec![content(9, &[(0, 9)], 2)], "chunks that do not make its content"),
            (Form::Plain, vec![content(u64::MAX, &[(0, u64::MAX)], 2)], "chunks that do not make its content"),
            (Form::Plain, vec![content(CHUNK + 1, &[(CHUNK - 1, 2)], 1)], "chunks that do not make its content"),
            (
                Form::Plain,
                vec![content(99, &[(0, 1), (5, 1), (9, 1), (20, 1)], 1)],
                "with it the files have more holes than the limit",
            ),
        ] {
            let entries: Vec<_> = [folder("")].into_iter().chain(entries).collect();
            let (refused, said) = serve(&told(&entries, true), form);
            let is_named = match &refused {
                SessionError::Layer(LayerError::Malformed { what: said, .. }) => *said == what,
                SessionError::Broken(said) => what == "out of order" && *said == "changes out of order",
                _ => false,
            };
            assert!(is_named, "{what}: {refused:?}");
            assert!(said.len() < 60, "nothing is asked for");
        }
        for entries in [vec![], vec![folder("d")], vec![file("", b"root")]] {
            let (refused, _) = serve(&told(&entries, true), Form::Plain);
            assert!(matches!(refused, SessionError::Layer(LayerError::Malformed { .. })), "{refused:?}");
        }
        let nothing = Kind::File(Content { size: 0, extents: vec![], chunks: vec![Hash::ZERO] });
        let (refused, _) = serve(&told(&[folder(""), entry("f", nothing)], true), Form::Plain);
        assert!(matches!(refused, SessionError::Layer(LayerError::Malformed { .. })), "{refused:?}");
    }

    #[test]
    fn no_entry_leaves_the_layer() {
        let door = || entry("door", Kind::Symlink(b"..".to_vec()));
        for entries in [
            vec![folder(""), file("nowhere/f", b"f")],
            vec![folder(""), door(), file("door/victim", b"f")],
            vec![folder(""), file("f", b"f"), file("f/victim", b"f")],
        ] {
            let (refused, _) = serve(&told(&entries, true), Form::Plain);
            assert!(matches!(refused, SessionError::Layer(LayerError::Escapes(_))), "{refused:?}");
        }
        // Such a path cannot even be said.
        for (said, meant) in [("aa/victim", "../victim"), ("atmp/x", "/tmp/x"), ("a/bb/c", "a/../c"), ("abcd", "ab\0d")]
        {
            let bytes = told(&[folder(""), file(said, b"f")], true);
            let at = bytes.windows(said.len()).position(|window| window == said.as_bytes()).unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + said.len()].copy_from_slice(meant.as_bytes());
            let (refused, _) = serve(&bytes, Form::Plain);
            assert!(matches!(refused, SessionError::Broken("bytes that are no message")), "{meant}: {refused:?}");
        }
    }

    #[test]
    fn more_than_the_limits_is_refused() {
        let many: Vec<_> = [folder("")].into_iter().chain((100..201).map(|n| folder(&format!("d{n}")))).collect();
        let (refused, _) = serve(&told(&many, true), Form::Plain);
        assert!(matches!(refused, SessionError::Layer(LayerError::TooMany(100))), "{refused:?}");
        let hole = |at| entry(at, Kind::File(Content { size: 700_000, ..Content::default() }));
        let (refused, _) = serve(&told(&[folder(""), hole("a"), hole("b")], true), Form::Plain);
        assert!(matches!(refused, SessionError::Layer(LayerError::TooLarge { .. })), "{refused:?}");
    }

    #[test]
    fn a_tree_that_is_not_its_root_is_refused() {
        let mut bytes = told(&[folder("")], true);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(serve(&bytes, Form::Plain).0, SessionError::Damaged));
    }

    #[test]
    fn a_source_that_lies_about_content_is_refused_when_all_stands_still_and_not_believed_before() {
        let entries = [folder(""), file("f", b"truth")];
        let place = Place { entry: 1, chunk: 0 };
        let answer = |last, place: Place, data: Option<&[u8]>| {
            let mut bytes = told(&entries, last);
            place.answer(&mut bytes, data).unwrap();
            serve(&bytes, Form::Plain)
        };
        let wrong =
            |refused: &SessionError| matches!(refused, SessionError::Wrong { path: at, chunk: 0 } if *at == path("f"));
        assert!(wrong(&answer(true, place, Some(b"false")).0));
        assert!(wrong(&answer(true, place, None).0));
        for data in [Some(&b"false"[..]), None] {
            // Then the bytes end.
            let (refused, said) = answer(false, place, data);
            assert!(matches!(refused, SessionError::Lost(_)), "{refused:?}");
            let mut staged = Vec::new();
            FromTarget::Staged { lacking: 1 }.write(&mut staged).unwrap();
            assert!(said.ends_with(&staged));
        }
        for (place, data) in [(place, &b"long truth"[..]), (place, b"t"), (Place { entry: 0, chunk: 0 }, b"truth")] {
            assert!(matches!(answer(false, place, Some(data)).0, SessionError::Broken(_)));
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(matches!(serve(b"gwlayer\0\x02", Form::Plain).0, SessionError::Greeting(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_damaged_session_is_refused_and_touches_nothing(flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4)) {
            let link = entry("l", Kind::Link(path("d/f")));
            let mut bytes = told(&[folder(""), folder("d"), file("d/f", b"truth"), link], true);
            Place { entry: 2, chunk: 0 }.answer(&mut bytes, Some(b"truth")).unwrap();
            let whole = bytes.clone();
            // Behind the frame's head and the message's kind: changes of the nothing that is staged are as good as a whole tree.
            let on_yours = GREETING.len() + 6;
            for (at, flip) in flips {
                let at = at.index(bytes.len());
                bytes[at] = bytes[at].wrapping_add(flip);
            }
            bytes[on_yours] = whole[on_yours];
            if bytes != whole {
                serve(&bytes, Form::Plain);
            }
        }
    }
}
