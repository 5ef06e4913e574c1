//! What arrives is what left, whatever happened on the way. Devices and owners need root.

#![allow(missing_docs)]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{limits, look, look_as, round, session, tick};
use godwit_layer::{Form, LayerError, Limits, Moment, Receiver, Scanner, Sender, SessionError};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use proptest::prelude::*;
use tempfile::TempDir;

/// A source, and a target with something in its way.
struct Sites {
    source: TempDir,
    target: TempDir,
}

impl Sites {
    fn new() -> Self {
        let sites = Self { source: tempfile::tempdir().unwrap(), target: tempfile::tempdir().unwrap() };
        fs::create_dir_all(sites.destination().join("old/inner")).unwrap();
        fs::write(sites.destination().join("f0"), "old").unwrap();
        sites
    }

    fn root(&self) -> &Path {
        self.source.path()
    }

    fn destination(&self) -> PathBuf {
        self.target.path().join("diff")
    }

    fn receiver(&self, form: Form) -> Receiver {
        Receiver::open(&self.target.path().join("staging"), &self.destination(), form, limits()).unwrap()
    }

    fn scanner(&self, form: Form) -> Scanner {
        Scanner::open(self.root(), form, limits()).unwrap()
    }

    /// Everything in one go, while nothing runs.
    fn travel(&self, form: Form) -> Result<(), SessionError> {
        let (mut receiver, mut scanner) = (self.receiver(form), self.scanner(form));
        let (sent, arrived) =
            session(&mut receiver, &[], |sender| round(sender, &mut scanner, Moment::Stopped).map(|_| ()));
        let root = arrived?.root;
        sent?;
        receiver.finish(&root)?;
        Ok(receiver.discard()?)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What containers do to their files.
#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, kilobytes: usize, seed: u8 },
    Append { at: usize, seed: u8 },
    Poke { at: usize, seed: u8 },
    RewriteSecretly { at: usize, seed: u8 },
    Truncate { at: usize, kilobytes: usize },
    Sparse { at: usize, seed: u8 },
    Punch { at: usize },
    Folder { at: usize },
    Remove { at: usize },
    Rename { at: usize, to: usize },
    Link { at: usize, to: usize },
    Copy { at: usize, to: usize },
    Symlink { at: usize, seed: u8 },
    Fifo { at: usize },
    Device { at: usize },
    Whiteout { at: usize },
    Opaque { at: usize, on: bool },
    Xattr { at: usize, seed: u8 },
    Unxattr { at: usize },
    Mode { at: usize, mode: u32 },
    Owner { at: usize, uid: u32 },
    Date { at: usize, seconds: u64 },
}

fn ops() -> impl Strategy<Value = Op> {
    let at = 0..PATHS.len();
    prop_oneof![
        6 => (at.clone(), 0usize..700, any::<u8>()).prop_map(|(at, kilobytes, seed)| Op::Write { at, kilobytes, seed }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::Append { at, seed }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::Poke { at, seed }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::RewriteSecretly { at, seed }),
        2 => (at.clone(), 0usize..900).prop_map(|(at, kilobytes)| Op::Truncate { at, kilobytes }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::Sparse { at, seed }),
        1 => at.clone().prop_map(|at| Op::Punch { at }),
        5 => at.clone().prop_map(|at| Op::Folder { at }),
        3 => at.clone().prop_map(|at| Op::Remove { at }),
        4 => (at.clone(), at.clone()).prop_map(|(at, to)| Op::Rename { at, to }),
        4 => (at.clone(), at.clone()).prop_map(|(at, to)| Op::Link { at, to }),
        1 => (at.clone(), at.clone()).prop_map(|(at, to)| Op::Copy { at, to }),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::Symlink { at, seed }),
        1 => at.clone().prop_map(|at| Op::Fifo { at }),
        1 => at.clone().prop_map(|at| Op::Device { at }),
        2 => at.clone().prop_map(|at| Op::Whiteout { at }),
        2 => (at.clone(), any::<bool>()).prop_map(|(at, on)| Op::Opaque { at, on }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, seed)| Op::Xattr { at, seed }),
        1 => at.clone().prop_map(|at| Op::Unxattr { at }),
        1 => (at.clone(), 0u32..0o10000).prop_map(|(at, mode)| Op::Mode { at, mode }),
        1 => (at.clone(), any::<u16>()).prop_map(|(at, uid)| Op::Owner { at, uid: uid.into() }),
        1 => (at, 0u64..2_000_000_000).prop_map(|(at, seconds)| Op::Date { at, seconds }),
    ]
}

/// Few names, so that what happens meets what happened.
const PATHS: [&str; 14] =
    ["f0", "f1", "f2", "d0", "d0/f", "d0/g", "d0/d", "d0/d/f", "d0.x", "d1", "d1/f", "d1/d", "d1/d/g", "z"];

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Does it, if it can be done: most of what fails is a name that is not there.
fn act(root: &Path, op: &Op, form: Form) {
    let path = |at: usize| root.join(PATHS[at]);
    let open =
        |at| OpenOptions::new().write(true).open(path(at)).ok().filter(|file| file.metadata().unwrap().is_file());
    let is_plain = |at| fs::symlink_metadata(path(at)).is_ok_and(|meta| meta.is_file());
    let is_link = |at| fs::symlink_metadata(path(at)).is_ok_and(|meta| meta.is_symlink());
    let node = |at, kind, number| {
        let _ = mknod(&path(at), kind, Mode::from_bits_truncate(0o640), number);
    };
    match *op {
        // Never through a link, nor into a device.
        Op::Write { at, kilobytes, seed } if !path(at).exists() && !is_link(at) || is_plain(at) => {
            drop(fs::write(path(at), bytes(kilobytes * 1000, seed)));
        }
        Op::Append { at, seed } if is_plain(at) => {
            let file = open(at).unwrap();
            let end = file.metadata().unwrap().len();
            file.write_all_at(&bytes(5000, seed), end).unwrap();
        }
        Op::Poke { at, seed } if is_plain(at) => {
            let file = open(at).unwrap();
            let end = file.metadata().unwrap().len();
            file.write_all_at(&bytes(100, seed), end / 2).unwrap();
        }
        // As long as before, and said to be as old as before.
        Op::RewriteSecretly { at, seed } if is_plain(at) => {
            let file = open(at).unwrap();
            let meta = file.metadata().unwrap();
            file.write_all_at(&bytes(usize::try_from(meta.len()).unwrap().min(700_000), seed), 0).unwrap();
            file.set_modified(meta.modified().unwrap()).unwrap();
        }
        Op::Truncate { at, kilobytes } if is_plain(at) => open(at).unwrap().set_len(kilobytes as u64 * 1000).unwrap(),
        Op::Sparse { at, seed } if !path(at).exists() && !is_link(at) => {
            let Ok(file) = File::create_new(path(at)) else { return };
            file.set_len(5 << 20).unwrap();
            file.write_all_at(&bytes(9000, seed), 1 << 20).unwrap();
            file.write_all_at(&bytes(9000, seed), (3 << 20) + 77_777).unwrap();
            file.write_all_at(&[0; 8192], 4 << 20).unwrap();
        }
        Op::Punch { at } if is_plain(at) => {
            let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(open(at).unwrap(), mode, 4096 * 3, 4096 * 70).unwrap();
        }
        Op::Folder { at } => drop(fs::create_dir(path(at))),
        Op::Remove { at } => drop(fs::remove_file(path(at)).or_else(|_| fs::remove_dir_all(path(at)))),
        Op::Rename { at, to } => drop(fs::rename(path(at), path(to))),
        Op::Link { at, to } => drop(fs::hard_link(path(at), path(to))),
        Op::Copy { at, to } if is_plain(at) && !path(to).exists() && !is_link(to) => drop(fs::copy(path(at), path(to))),
        Op::Symlink { at, seed } => drop(symlink(format!("../{seed}"), path(at))),
        Op::Fifo { at } => node(at, SFlag::S_IFIFO, 0),
        Op::Device { at } => node(at, SFlag::S_IFCHR, makedev(1, 3)),
        Op::Whiteout { at } => node(at, SFlag::S_IFCHR, 0),
        Op::Opaque { at, on } if form == Form::Overlay && path(at).is_dir() && !is_link(at) => {
            let mark = "trusted.overlay.opaque";
            drop(if on { xattr::set(path(at), mark, b"y") } else { xattr::remove(path(at), mark) });
        }
        Op::Xattr { at, seed } => {
            let name = ["user.a", "trusted.b", "user.b\n=c"][usize::from(seed) % 3];
            drop(xattr::set(path(at), name, &bytes(usize::from(seed), seed)));
            if seed > 200 && is_plain(at) {
                let capability = [1, 0, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                xattr::set(path(at), "security.capability", &capability).unwrap();
            }
        }
        Op::Unxattr { at } => {
            for name in xattr::list(path(at)).into_iter().flatten() {
                drop(xattr::remove(path(at), name));
            }
        }
        Op::Mode { at, mode } if !is_link(at) => drop(fs::set_permissions(path(at), Permissions::from_mode(mode))),
        Op::Owner { at, uid } => drop(std::os::unix::fs::lchown(path(at), Some(uid), Some(uid / 2))),
        Op::Date { at, seconds } if is_plain(at) || path(at).is_dir() => {
            let date = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
            File::open(path(at)).unwrap().set_modified(date).unwrap();
        }
        _ => {}
    }
}

/// How a round follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    SameSession,
    NewSession,
    NewReceiver,
}

fn check(form: Form, rounds: &[(Vec<Op>, Next)]) {
    let sites = Sites::new();
    let (mut receiver, mut scanner) = (sites.receiver(form), sites.scanner(form));
    let mut known = Vec::new();
    let mut rounds = rounds.iter().peekable();
    let root = loop {
        let before = std::mem::take(&mut known);
        let (last, arrived) = session(&mut receiver, &before, |sender| {
            loop {
                let Some((ops, _)) = rounds.next() else { return true };
                ops.iter().for_each(|op| act(sites.root(), op, form));
                tick();
                let moment = if rounds.peek().is_some() { Moment::Running } else { Moment::Stopped };
                let (tree, sent) = round(sender, &mut scanner, moment).unwrap();
                assert_eq!(sent.lacking, 0);
                known = vec![tree];
                match rounds.peek() {
                    None => return true,
                    Some((_, Next::SameSession)) => {}
                    Some(_) => return false,
                }
            }
        });
        match arrived {
            Ok(arrived) if last => break arrived.root,
            Err(SessionError::Lost(_)) if !last => {}
            other => panic!("{other:?}"),
        }
        if rounds.peek().is_some_and(|(_, next)| *next == Next::NewReceiver) {
            receiver = sites.receiver(form);
        }
    };
    let expected = look_as(form, sites.root());
    assert_eq!(root, known[0].root());
    receiver.finish(&root).unwrap();
    let arrived = look_as(form, &sites.destination());
    for (path, looks) in &expected {
        assert_eq!(arrived.get(path), Some(looks), "{}", path.display());
    }
    assert_eq!(arrived.len(), expected.len(), "{:?}", arrived.keys());
    receiver.discard().unwrap();
    assert_eq!(fs::read_dir(sites.target.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn after_any_rounds_the_target_is_the_source(
        is_overlay: bool,
        rounds in proptest::collection::vec(
            (
                proptest::collection::vec(ops(), 0..24),
                prop_oneof![3 => Just(Next::SameSession), 1 => Just(Next::NewSession), 1 => Just(Next::NewReceiver)],
            ),
            1..6,
        ),
    ) {
        if is_root() {
            check(if is_overlay { Form::Overlay } else { Form::Plain }, &rounds);
        }
    }
}

/// Every round's connection breaks once, after so many bytes, and is made again.
fn check_broken(rounds: &[(Vec<Op>, u64)]) {
    let sites = Sites::new();
    let (mut receiver, mut scanner) = (sites.receiver(Form::Overlay), sites.scanner(Form::Overlay));
    let (mut known, mut arrived) = (Vec::new(), None);
    for (index, (ops, bytes)) in rounds.iter().enumerate() {
        ops.iter().for_each(|op| act(sites.root(), op, Form::Overlay));
        tick();
        let moment = if index + 1 < rounds.len() { Moment::Running } else { Moment::Stopped };
        let tree = scanner.scan(moment).unwrap().tree;
        known.push(tree.clone());
        for limit in [*bytes, u64::MAX] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let receiver = &mut receiver;
            arrived = std::thread::scope(|scope| {
                let serving = scope.spawn(move || {
                    let result = receiver.serve((&theirs).take(limit), &theirs);
                    theirs.shutdown(std::net::Shutdown::Both).unwrap();
                    result
                });
                let sent =
                    Sender::open(&ours, &ours, &known).and_then(|mut sender| sender.round(&scanner, &tree, moment));
                assert!(sent.is_ok() || limit == *bytes, "{sent:?}");
                ours.shutdown(std::net::Shutdown::Both).ok();
                match serving.join().unwrap() {
                    Ok(arrived) => Some(arrived),
                    Err(SessionError::Lost(_)) => None,
                    Err(error) => panic!("{error:?}"),
                }
            });
        }
    }
    receiver.finish(&arrived.unwrap().root).unwrap();
    assert_eq!(look_as(Form::Overlay, &sites.destination()), look_as(Form::Overlay, sites.root()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_connection_may_break_at_any_byte_of_any_round(
        rounds in proptest::collection::vec((proptest::collection::vec(ops(), 0..24), prop_oneof![0u64..3_000, 0u64..1_000_000]), 1..5),
    ) {
        if is_root() {
            check_broken(&rounds);
        }
    }
}

#[test]
fn an_empty_layer_arrives() {
    check(Form::Plain, &[(vec![], Next::SameSession)]);
}

#[test]
fn odd_names_and_deep_paths_arrive() {
    use std::os::unix::ffi::OsStrExt;
    let sites = Sites::new();
    fs::write(sites.root().join(std::ffi::OsStr::from_bytes(b"odd \xff name\n")), "odd").unwrap();
    fs::write(sites.root().join(".wh.mine"), "mine").unwrap();
    let deep = sites.root().join("a".repeat(200)).join("b".repeat(200)).join("c".repeat(255));
    fs::create_dir_all(&deep).unwrap();
    symlink("c".repeat(3000), deep.join("long-target")).unwrap();
    sites.travel(Form::Overlay).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

#[test]
fn an_overlays_marks_travel_and_its_other_attributes_do_not() {
    if !is_root() {
        return; // whiteouts are device nodes
    }
    let sites = Sites::new();
    fs::create_dir(sites.root().join("opaque")).unwrap();
    xattr::set(sites.root().join("opaque"), "trusted.overlay.opaque", b"y").unwrap();
    xattr::set(sites.root().join("opaque"), "trusted.overlay.impure", b"y").unwrap();
    mknod(&sites.root().join("gone"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    // What the overlay at the target made of its upper directory stays its own.
    xattr::set(sites.destination(), "trusted.overlay.origin", b"here").unwrap();
    sites.travel(Form::Overlay).unwrap();
    let arrived = sites.destination();
    let get = |path: &Path, attribute| xattr::get(path, attribute).unwrap();
    assert_eq!(get(&arrived.join("opaque"), "trusted.overlay.opaque").as_deref(), Some(b"y".as_slice()));
    assert_eq!(get(&arrived.join("opaque"), "trusted.overlay.impure"), None);
    assert_eq!(get(&arrived, "trusted.overlay.origin").as_deref(), Some(b"here".as_slice()));
    assert_eq!(fs::symlink_metadata(arrived.join("gone")).unwrap().rdev(), 0);
}

#[test]
fn a_layer_that_refers_to_one_below_is_refused() {
    if !is_root() {
        return;
    }
    let sites = Sites::new();
    fs::create_dir(sites.root().join("moved")).unwrap();
    xattr::set(sites.root().join("moved"), "trusted.overlay.redirect", b"/old").unwrap();
    let refused = sites.scanner(Form::Overlay).scan(Moment::Stopped);
    assert!(matches!(refused, Err(LayerError::Refers { attribute: "redirect_dir", .. })), "{refused:?}");
    assert!(sites.scanner(Form::Plain).scan(Moment::Stopped).is_ok());
}

#[test]
fn a_hole_beyond_the_limit_is_refused() {
    let sites = Sites::new();
    File::create(sites.root().join("sparse")).unwrap().set_len(2001).unwrap();
    let limits = Limits { content: 2000, ..limits() };
    let refused = godwit_layer::scan(sites.root(), Form::Plain, &limits);
    assert!(matches!(refused, Err(LayerError::TooLarge { limit: 2000, .. })), "{refused:?}");
    let limits = Limits { entries: 1, ..limits };
    let refused = godwit_layer::scan(sites.root(), Form::Plain, &limits);
    assert!(matches!(refused, Err(LayerError::TooMany(1))), "{refused:?}");
}

#[test]
fn only_what_changed_is_read_again() {
    let sites = Sites::new();
    for index in 0..20 {
        fs::write(sites.root().join(format!("f{index}")), bytes(1000, index)).unwrap();
    }
    tick();
    let mut scanner = sites.scanner(Form::Plain);
    let files = |scanner: &mut Scanner, moment| scanner.scan(moment).unwrap().files_read;
    assert_eq!(files(&mut scanner, Moment::Running), 20);
    assert_eq!(files(&mut scanner, Moment::Running), 0);
    fs::write(sites.root().join("f7"), bytes(1000, 77)).unwrap();
    assert_eq!(files(&mut scanner, Moment::Stopped), 1);
    // What was read without being written back does not count: tasks may run again.
    assert_eq!(files(&mut scanner, Moment::Running), 1);
}

#[test]
fn what_changed_just_now_is_read_again() {
    let sites = Sites::new();
    fs::write(sites.root().join("f"), "content").unwrap();
    let limits = Limits { quiet: Duration::from_secs(3600), ..limits() };
    let mut scanner = Scanner::open(sites.root(), Form::Plain, limits).unwrap();
    for _ in 0..3 {
        assert_eq!(scanner.scan(Moment::Running).unwrap().files_read, 1);
    }
}

#[test]
fn a_renamed_or_copied_file_does_not_travel_again() {
    let sites = Sites::new();
    let path = |name: &str| sites.root().join(name);
    fs::write(path("old"), bytes(3_000_000, 1)).unwrap();
    fs::write(path("log"), bytes(2_000_000, 2)).unwrap();
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let (sent, arrived) = session(&mut receiver, &[], |sender| {
        let (_, first) = round(sender, &mut scanner, Moment::Running).unwrap();
        assert_eq!(first.bytes, 5_000_000);
        fs::create_dir(path("d")).unwrap();
        fs::rename(path("old"), path("d/new")).unwrap();
        // As log rotation does.
        fs::copy(path("log"), path("log.1")).unwrap();
        File::create(path("log")).unwrap().write_all_at(b"fresh", 0).unwrap();
        round(sender, &mut scanner, Moment::Stopped).unwrap().1
    });
    assert_eq!((sent.chunks, sent.bytes), (1, 5));
    receiver.finish(&arrived.unwrap().root).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

#[test]
fn a_file_that_was_renamed_over_another_is_not_copied() {
    let sites = Sites::new();
    let (path, staged) = (|name: &str| sites.root().join(name), sites.target.path().join("staging/tree"));
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    for (seed, name) in ["data", "data.tmp", "log", "left", "right"].into_iter().enumerate() {
        fs::write(path(name), bytes(600_000, u8::try_from(seed).unwrap())).unwrap();
    }
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let ((sent, before), arrived) = session(&mut receiver, &[], |sender| {
        round(sender, &mut scanner, Moment::Running).unwrap();
        let before = ["data.tmp", "log", "left", "right"].map(|name| inode(staged.join(name)));
        fs::rename(path("data.tmp"), path("data")).unwrap();
        fs::rename(path("log"), path("log.1")).unwrap();
        fs::write(path("log"), "fresh").unwrap();
        fs::rename(path("left"), path("third")).unwrap();
        fs::rename(path("right"), path("left")).unwrap();
        fs::rename(path("third"), path("right")).unwrap();
        (round(sender, &mut scanner, Moment::Stopped).unwrap().1, before)
    });
    assert_eq!(sent.bytes, 5);
    receiver.finish(&arrived.unwrap().root).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
    assert_eq!(["data", "log.1", "right", "left"].map(|name| inode(sites.destination().join(name))), before);
}

#[test]
fn a_large_file_travels_again_only_where_it_changed() {
    let sites = Sites::new();
    let path = sites.root().join("database");
    fs::write(&path, bytes(8 << 20, 1)).unwrap();
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let (sent, arrived) = session(&mut receiver, &[], |sender| {
        round(sender, &mut scanner, Moment::Running).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"a page", 3 << 20).unwrap();
        file.write_all_at(b"the end", 8 << 20).unwrap();
        round(sender, &mut scanner, Moment::Stopped).unwrap().1
    });
    assert_eq!((sent.chunks, sent.bytes), (2, (256 << 10) + 7));
    receiver.finish(&arrived.unwrap().root).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

#[test]
fn a_layer_that_changes_all_the_time_arrives_as_it_was_when_it_stopped() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let sites = Sites::new();
    let stop = AtomicBool::new(false);
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut turn = 0usize;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                let seed = u8::try_from(turn % 251).unwrap();
                let (at, to) = (turn * 7 % PATHS.len(), turn * 5 % PATHS.len());
                for op in [
                    Op::Folder { at: 3 },
                    Op::Folder { at: 6 },
                    Op::Write { at, kilobytes: turn % 600, seed },
                    Op::Poke { at: to, seed },
                    Op::Rename { at, to },
                    Op::Link { at: to, to: at },
                    Op::Symlink { at, seed },
                    Op::Remove { at: turn * 3 % PATHS.len() },
                ] {
                    act(sites.root(), &op, Form::Plain);
                }
            }
        });
        let (_, arrived) = session(&mut receiver, &[], |sender| {
            for _ in 0..15 {
                round(sender, &mut scanner, Moment::Running).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            round(sender, &mut scanner, Moment::Stopped).unwrap();
        });
        receiver.finish(&arrived.unwrap().root).unwrap();
    });
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

/// The page is dirty when it is read; the writes that follow change no times by themselves. The file is mapped at `mapped`, and
/// scanned in the source.
fn map_and_write(sites: &Sites, mapped: &Path) {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    const LENGTH: usize = 64 << 10;
    let file = OpenOptions::new().read(true).write(true).open(mapped).unwrap();
    let (length, access) = (LENGTH.try_into().unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
    #[allow(unsafe_code)]
    // SAFETY: a new mapping, which nothing else knows, of a file as long as it is; it stays until the process ends.
    let page = unsafe {
        let map = mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0).unwrap();
        std::slice::from_raw_parts_mut(map.as_ptr().cast::<u8>(), LENGTH)
    };
    let mut scanner = sites.scanner(Form::Plain);
    for turn in 0..20u8 {
        page[4096] = turn;
        tick();
        scanner.scan(Moment::Running).unwrap();
        page[4096] = turn ^ 0x80;
        page[9000] = turn;
        let tree = scanner.scan(Moment::Stopped).unwrap().tree;
        assert_eq!(tree, godwit_layer::scan(sites.root(), Form::Plain, &limits()).unwrap(), "{turn}");
    }
}

#[test]
fn writes_through_a_mapping_are_not_missed() {
    let sites = Sites::new();
    let path = sites.root().join("mapped");
    fs::write(&path, bytes(64 << 10, 1)).unwrap();
    map_and_write(&sites, &path);
}

#[test]
fn writes_through_a_mapping_in_an_overlay_are_not_missed() {
    if !is_root() {
        return; // mounts
    }
    let (sites, lower, merged) = (Sites::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let overlay = Mount::overlay(lower.path(), sites.root(), &sites.target.path().join("work"), merged.path());
    fs::write(overlay.0.join("mapped"), bytes(64 << 10, 1)).unwrap();
    map_and_write(&sites, &overlay.0.join("mapped"));
}

#[test]
fn a_link_in_the_place_of_a_directory_does_not_lead_the_source_astray() {
    let (sites, outside) = (Sites::new(), tempfile::tempdir().unwrap());
    fs::create_dir(sites.root().join("d")).unwrap();
    fs::write(sites.root().join("d/f"), "own").unwrap();
    fs::write(outside.path().join("f"), "not").unwrap();
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let tree = scanner.scan(Moment::Running).unwrap().tree;
    fs::remove_dir_all(sites.root().join("d")).unwrap();
    symlink(outside.path(), sites.root().join("d")).unwrap();
    let (sent, _) = session(&mut receiver, &[], |sender| sender.round(&scanner, &tree, Moment::Running).unwrap());
    assert_eq!((sent.lacking, sent.bytes), (1, 0));
    sites.travel(Form::Plain).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

#[test]
fn an_interrupted_session_is_resumed_where_it_broke() {
    let sites = Sites::new();
    for index in 0..40 {
        fs::write(sites.root().join(format!("f{index}")), bytes(300_000, index)).unwrap();
    }
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let tree = scanner.scan(Moment::Running).unwrap().tree;
    // The line breaks after some megabytes, in the middle of a chunk.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lost = std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let result = receiver.serve((&theirs).take(5_000_000), &theirs);
            theirs.shutdown(std::net::Shutdown::Both).unwrap();
            result
        });
        let mut sender = Sender::open(&ours, &ours, &[]).unwrap();
        assert!(sender.round(&scanner, &tree, Moment::Running).is_err());
        serving.join().unwrap()
    });
    assert!(matches!(lost, Err(SessionError::Lost(_))), "{lost:?}");

    let (sent, _) = session(&mut receiver, std::slice::from_ref(&tree), |sender| {
        sender.round(&scanner, &tree, Moment::Running).unwrap()
    });
    assert!(sent.changes == 0 && sent.bytes < 12_000_000 - 4_000_000, "{sent:?}");
    drop(receiver);
    let mut receiver = sites.receiver(Form::Plain);
    let (sent, arrived) = session(&mut receiver, std::slice::from_ref(&tree), |sender| {
        round(sender, &mut scanner, Moment::Stopped).unwrap().1
    });
    assert_eq!((sent.changes, sent.chunks), (0, 0));
    receiver.finish(&arrived.unwrap().root).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
}

#[test]
fn only_what_was_signed_is_put_in_place() {
    let sites = Sites::new();
    fs::write(sites.root().join("f"), "content").unwrap();
    let (mut receiver, mut scanner) = (sites.receiver(Form::Plain), sites.scanner(Form::Plain));
    let before = look(&sites.destination());
    let (_, arrived) = session(&mut receiver, &[], |sender| round(sender, &mut scanner, Moment::Stopped).map(|_| ()));
    let arrived = arrived.unwrap();
    let mut other = arrived.root;
    other.0[0] ^= 1;
    assert!(matches!(receiver.finish(&other), Err(LayerError::NotTheSigned)));
    assert_eq!(look(&sites.destination()), before);
    receiver.finish(&arrived.root).unwrap();
    assert_eq!(look(&sites.destination()), look(sites.root()));
    assert!(matches!(receiver.finish(&arrived.root), Err(LayerError::NotTheSigned)));
}

#[test]
fn staging_on_another_file_system_is_refused_at_once() {
    let (target, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let refused = Receiver::open(&elsewhere.path().join("staging"), target.path(), Form::Plain, limits());
    assert!(matches!(refused.map(|_| ()), Err(LayerError::Apart { .. })));
}

/// A file system of its own, gone when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(kind: &str, at: &Path, options: &str) -> Self {
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("godwit-test", at, kind, rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
        Self(at.to_owned())
    }

    fn overlay(lower: &Path, upper: &Path, work: &Path, at: &Path) -> Self {
        fs::create_dir(work).unwrap();
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        Self::new("overlay", at, &format!("lowerdir={lower},upperdir={upper},workdir={work}"))
    }

    fn grow(&self, options: &str) {
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_named_and_what_arrived_is_kept() {
    if !is_root() {
        return; // mounts
    }
    let sites = Sites::new();
    for index in 0..12 {
        fs::write(sites.root().join(format!("f{index}")), bytes(700_000, index)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = Mount::new("tmpfs", folder.path(), "size=5m");
    let destination = disk.0.join("diff");
    fs::create_dir(&destination).unwrap();
    let mut receiver = Receiver::open(&disk.0.join("staging"), &destination, Form::Plain, limits()).unwrap();
    let mut scanner = sites.scanner(Form::Plain);
    let (sent, refused) = session(&mut receiver, &[], |sender| round(sender, &mut scanner, Moment::Running));
    assert!(sent.is_err());
    let is_full = |source: &std::io::Error| source.kind() == std::io::ErrorKind::StorageFull;
    assert!(
        matches!(&refused, Err(SessionError::Layer(LayerError::Io { source, .. })) if is_full(source)),
        "{refused:?}"
    );
    disk.grow("size=20m");
    let (sent, arrived) = session(&mut receiver, &[], |sender| round(sender, &mut scanner, Moment::Stopped).unwrap().1);
    assert!(sent.bytes < 8_400_000 - 3_000_000, "{sent:?}");
    receiver.finish(&arrived.unwrap().root).unwrap();
    let (arrived, expected) = (look(&destination), look(sites.root()));
    assert_eq!(arrived, expected);
}
