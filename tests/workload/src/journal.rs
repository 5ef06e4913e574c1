//! The file in the writable layer: numbered, checksummed lines, opened once and appended to.
//!
//! ```text
//! 0 start 14627333968358193156 5b0f5d3c     the instance that began to write here
//! 1 tick 1763780400123 8d1c2f00             wall clock, ms
//! 2 acknowledge 17 4e0a91b7                 on disk before the client heard of it
//! ```
//! The last field is the CRC-32 of what stands before it. A file that exists is read, its acknowledged values taken
//! over, and continued: a process that starts anew remembers what it acknowledged, and its `start` line tells.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// No line of ours is longer.
const LINE_MAX: u64 = 80;
/// 8 MB in memory: more than a test acknowledges, and a client gone wild cannot exhaust the site.
pub const ACKNOWLEDGED_MAX: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    Tick,
    Acknowledge,
}

/// The open file, and what it must hold.
pub struct Journal {
    path: PathBuf,
    file: File,
    next_seq: u64,
    bytes: u64,
    acknowledged: Vec<u64>,
    write_errors: u64,
    sync_ticks: bool,
}

/// What a file was found to hold, up to the first line that is not as it must be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub lines: u64,
    pub starts: u64,
    pub acknowledged: Vec<u64>,
    pub bytes: u64,
    pub flaw: Option<Flaw>,
}

/// Why a line does not belong where it stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The last line has no end: the process died while it wrote.
    Torn,
    Malformed,
    BadChecksum,
    OutOfSequence,
}

/// What the journal must hold now, to be compared with the file without keeping others from writing.
pub struct Expected {
    path: PathBuf,
    inode: (u64, u64),
    bytes: u64,
    lines: u64,
    acknowledged: Vec<u64>,
    write_errors: u64,
}

impl Journal {
    /// Opens or creates `path`, takes over what it holds and notes the start of `instance`.
    /// A line torn by a crash is cut off; `sync_ticks` makes every line durable, not only acknowledgements.
    ///
    /// # Errors
    /// When the file cannot be used, or holds anything else than a journal.
    pub fn open(path: &Path, instance: u64, sync_ticks: bool) -> anyhow::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.with_context(|| format!("open journal {}", path.display()))?;
        let reading = read(BufReader::new(&file)).with_context(|| format!("read journal {}", path.display()))?;
        match reading.flaw {
            None => {}
            Some(Flaw::Torn) => file.set_len(reading.bytes).context("cut off the journal's torn line")?,
            Some(flaw) => bail!("journal {} line {}: {flaw:?}", path.display(), reading.lines + 1),
        }
        let mut journal = Self {
            path: path.to_owned(),
            file,
            next_seq: reading.lines,
            bytes: reading.bytes,
            acknowledged: reading.acknowledged,
            write_errors: 0,
            sync_ticks,
        };
        journal.append(Kind::Start, instance).context("begin journal")?;
        Ok(journal)
    }

    /// Appends a line with the time. A failure (disk full) is counted and shown, and the next tick tries again.
    pub fn tick(&mut self, now_ms: u64) {
        // `append` has counted the error; there is nobody to tell but those who ask `/journal`.
        let _ = self.append(Kind::Tick, now_ms);
    }

    /// Makes `value` durable, then remembers it. Answers how many values are acknowledged.
    ///
    /// # Errors
    /// When the list is full or the line could not be made durable; the value then does not count as acknowledged.
    pub fn acknowledge(&mut self, value: u64) -> anyhow::Result<usize> {
        ensure!(self.acknowledged.len() < ACKNOWLEDGED_MAX, "list of {ACKNOWLEDGED_MAX} values is full");
        self.append(Kind::Acknowledge, value).context("append to journal")?;
        self.acknowledged.push(value);
        Ok(self.acknowledged.len())
    }

    pub fn acknowledged(&self) -> &[u64] {
        &self.acknowledged
    }

    /// # Errors
    /// When the kernel does not say which file is open.
    pub fn expected(&self) -> io::Result<Expected> {
        Ok(Expected {
            path: self.path.clone(),
            inode: inode(&self.file.metadata()?),
            bytes: self.bytes,
            lines: self.next_seq,
            acknowledged: self.acknowledged.clone(),
            write_errors: self.write_errors,
        })
    }

    fn append(&mut self, kind: Kind, value: u64) -> io::Result<()> {
        let line = line(self.next_seq, kind, value);
        let written = self.file.write_all(line.as_bytes()).and_then(|()| match kind {
            Kind::Tick if !self.sync_ticks => Ok(()),
            _ => self.file.sync_data(),
        });
        if let Err(error) = written {
            self.write_errors += 1;
            // Half a line must not precede the next one. If even this fails, `/journal` shows it.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.next_seq += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

impl Expected {
    /// Reads the file anew, by its path, and compares.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn check(&self) -> io::Result<String> {
        let file = File::open(&self.path)?;
        let same_file = inode(&file.metadata()?) == self.inode;
        let found = read(BufReader::new(file.take(self.bytes)))?;
        let unbroken = found.flaw.is_none() && found.lines == self.lines;
        let flaw = found.flaw.map_or("null".into(), |flaw| format!(r#""{flaw:?} after line {}""#, found.lines));
        Ok(format!(
            r#"{{"lines":{},"unbroken":{unbroken},"flaw":{flaw},"expected_lines":{},"starts":{},"same_file":{same_file},"acknowledged":{},"acknowledged_match":{},"write_errors":{}}}"#,
            found.lines,
            self.lines,
            found.starts,
            found.acknowledged.len(),
            found.acknowledged == self.acknowledged,
            self.write_errors,
        ))
    }
}

/// Reads lines until the end or the first flaw.
fn read(mut reader: impl BufRead) -> io::Result<Reading> {
    let mut reading = Reading::default();
    let mut raw = Vec::new();
    while reading.flaw.is_none() {
        raw.clear();
        let length = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut raw)?;
        if length == 0 {
            break;
        }
        match parse(&raw, length as u64 == LINE_MAX) {
            Ok((seq, _, _)) if seq != reading.lines => reading.flaw = Some(Flaw::OutOfSequence),
            Ok((_, kind, value)) => {
                match kind {
                    Kind::Start => reading.starts += 1,
                    Kind::Tick => {}
                    Kind::Acknowledge => reading.acknowledged.push(value),
                }
                reading.lines += 1;
                reading.bytes += length as u64;
            }
            Err(flaw) => reading.flaw = Some(flaw),
        }
    }
    Ok(reading)
}

fn parse(raw: &[u8], full: bool) -> Result<(u64, Kind, u64), Flaw> {
    let Some(text) = raw.strip_suffix(b"\n") else {
        return Err(if full { Flaw::Malformed } else { Flaw::Torn });
    };
    let text = std::str::from_utf8(text).map_err(|_| Flaw::Malformed)?;
    let (body, checksum) = text.rsplit_once(' ').ok_or(Flaw::Malformed)?;
    if checksum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err(Flaw::BadChecksum);
    }
    let [seq, kind, value] = body.split(' ').collect::<Vec<_>>()[..] else { return Err(Flaw::Malformed) };
    let kind = match kind {
        "start" => Kind::Start,
        "tick" => Kind::Tick,
        "acknowledge" => Kind::Acknowledge,
        _ => return Err(Flaw::Malformed),
    };
    let number = |text: &str| text.parse().map_err(|_| Flaw::Malformed);
    Ok((number(seq)?, kind, number(value)?))
}

fn line(seq: u64, kind: Kind, value: u64) -> String {
    let kind = match kind {
        Kind::Start => "start",
        Kind::Tick => "tick",
        Kind::Acknowledge => "acknowledge",
    };
    let body = format!("{seq} {kind} {value}");
    format!("{body} {:08x}\n", crc32fast::hash(body.as_bytes()))
}

fn inode(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<String> {
        vec![
            line(0, Kind::Start, u64::MAX),
            line(1, Kind::Tick, 1_763_780_400_123),
            line(2, Kind::Acknowledge, 17),
            line(3, Kind::Tick, 1_763_780_400_223),
        ]
    }

    fn read_text(text: &str) -> Reading {
        read(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let text = lines().concat();
        let expected =
            Reading { lines: 4, starts: 1, acknowledged: vec![17], bytes: text.len() as u64, ..Reading::default() };
        assert_eq!(read_text(&text), expected);
        assert_eq!(read_text(""), Reading::default());
        assert!(line(u64::MAX, Kind::Acknowledge, u64::MAX).len() as u64 <= LINE_MAX - 2);
    }

    #[test]
    fn every_flaw_is_found_where_it_is() {
        let all = lines().concat();
        let without = |n: usize| [&lines()[..n], &lines()[n + 1..]].concat().concat();
        let twice = [&lines()[..2], &lines()[1..]].concat().concat();
        let torn = all.trim_end().to_owned();
        let zeros = format!("{}{}", lines()[0], "\0".repeat(200));
        let long = format!("{}{}\n", lines()[0], "9".repeat(200));
        for (text, lines, flaw) in [
            (without(0), 0, Flaw::OutOfSequence),
            (without(2), 2, Flaw::OutOfSequence),
            (twice, 2, Flaw::OutOfSequence),
            (torn, 3, Flaw::Torn),
            (all.replace(" 17 ", " 18 "), 2, Flaw::BadChecksum),
            (zeros, 1, Flaw::Malformed),
            (long, 1, Flaw::Malformed),
            ("hello\n".into(), 0, Flaw::Malformed),
            ("one two three four\n".into(), 0, Flaw::BadChecksum),
        ] {
            let reading = read_text(&text);
            assert_eq!((reading.lines, reading.flaw), (lines, Some(flaw)), "{text}");
        }
    }

    #[test]
    fn every_single_flipped_byte_is_found() {
        let text = lines().concat();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(read(&bytes[..]).unwrap().flaw.is_some(), "byte {at}");
        }
    }
}
