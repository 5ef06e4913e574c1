//! What moving a layer takes: 10,000 small files and four of 64 MiB, from one directory to another in one process.
//!
//! `cargo run -p godwit-layer --example timings [directory on the file system to measure]`

use std::error::Error;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use godwit_layer::{Form, Limits, Moment, Receiver, Scanner, Sender};

const SMALL: usize = 10_000;
const LARGE: usize = 4;
const LARGE_BYTES: usize = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).unwrap_or_else(|| std::env::temp_dir().into_os_string());
    let folder = tempfile::tempdir_in(base)?;
    let (source, destination) = (folder.path().join("source"), folder.path().join("destination"));
    fs::create_dir(&destination)?;
    fill(&source)?;
    // What was written just now does not count as quiet.
    std::thread::sleep(std::time::Duration::from_secs(3));

    let mut scanner = Scanner::open(&source, Form::Overlay, Limits::default())?;
    let mut receiver = Receiver::open(&folder.path().join("staging"), &destination, Form::Overlay, Limits::default())?;
    let (ours, theirs) = UnixStream::pair()?;
    let arrived = std::thread::scope(|scope| -> Result<_, Box<dyn Error>> {
        let serving = scope.spawn(|| receiver.serve(&theirs, &theirs));
        let mut sender = Sender::open(&ours, &ours, &[])?;
        round("first, while it runs", &mut scanner, &mut sender, Moment::Running)?;
        round("unchanged, while it runs", &mut scanner, &mut sender, Moment::Running)?;
        change(&source, 1)?;
        std::thread::sleep(std::time::Duration::from_secs(3));
        round("1 % of the small files changed, while it runs", &mut scanner, &mut sender, Moment::Running)?;
        println!("from here all stands still:");
        scan("unchanged", &mut scanner)?;
        scan("unchanged", &mut scanner)?;
        change(&source, 2)?;
        scan("1 % changed", &mut scanner)?;
        fs::OpenOptions::new().write(true).open(source.join("large0"))?.write_all_at(b"a page", 32 << 20)?;
        round("1 % and a page of a large file changed", &mut scanner, &mut sender, Moment::Stopped)?;
        drop(sender);
        Ok(serving.join().expect("the receiver does not panic")?)
    })?;
    let began = Instant::now();
    receiver.finish(&arrived.root)?;
    println!("finish: {:.1} ms", ms(began));
    receiver.discard()?;
    Ok(())
}

fn round(
    what: &str,
    scanner: &mut Scanner,
    sender: &mut Sender<&UnixStream, &UnixStream>,
    moment: Moment,
) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let scanned = scanner.scan(moment)?;
    let scan = ms(began);
    let began = Instant::now();
    let sent = sender.round(scanner, &scanned.tree, moment)?;
    println!(
        "{what}: scan {scan:.1} ms ({} files, {:.1} MB read), round {:.1} ms ({} changes, {} chunks, {:.1} MB)",
        scanned.files_read,
        scanned.bytes_read as f64 / 1e6,
        ms(began),
        sent.changes,
        sent.chunks,
        sent.bytes as f64 / 1e6
    );
    Ok(())
}

fn scan(what: &str, scanner: &mut Scanner) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let scanned = scanner.scan(Moment::Stopped)?;
    println!(
        "{what}: scan {:.1} ms ({} files, {:.1} MB read)",
        ms(began),
        scanned.files_read,
        scanned.bytes_read as f64 / 1e6
    );
    Ok(())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// A hundred directories of a hundred files of 100 to 8,000 bytes, and the large ones.
fn fill(root: &Path) -> std::io::Result<()> {
    for index in 0..SMALL {
        let folder = root.join(format!("d{}", index / 100));
        if index % 100 == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("file-{index}")), bytes(100 + index * 79 % 7900, index))?;
    }
    for index in 0..LARGE {
        fs::write(root.join(format!("large{index}")), bytes(LARGE_BYTES, SMALL + index))?;
    }
    Ok(())
}

/// Every hundredth of the small files.
fn change(root: &Path, turn: usize) -> std::io::Result<()> {
    for index in (turn..SMALL).step_by(100) {
        let path = root.join(format!("d{}", index / 100)).join(format!("file-{index}"));
        fs::write(path, bytes(100 + index * 79 % 7900, index + turn * 100_000))?;
    }
    Ok(())
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
