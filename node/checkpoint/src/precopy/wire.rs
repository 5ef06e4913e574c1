//! What the two sides of a pre-copy say to each other, over any ordered stream of bytes. Integers, pages, addresses and pids
//! are as in the page service's protocol.
//!
//! Both first send a greeting of 9 bytes: `"gwcopy\0\0"` and the version, 1.
//!
//! The target then only counts: after each frame, the bytes of all frames so far (u64).
//!
//! The source sends frames (see `pages::frame`). A body, at most 327,680 bytes, is a row of raw pages, then one of entries,
//! then the number of raw pages (u32, at most 64):
//!
//! | bytes | raw | zero | repeat | void | end | settled |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | 1 | 1 | 2 | 3 | 4 | 5 | 6 |
//! | 4 | pid | pid | pid | pid | | |
//! | 8 | address | address | address | address | | |
//! | 4 | pages (u32) | pages | pages | pages | | |
//! | 4 | | | pid of others | | | |
//! | 8 | | | their address | | | |
//!
//! *Raw* entries take the raw pages in order. A *repeat* has what the others have at that moment, page by page in ascending
//! order; they may be pages of the same frame. *Void* pages are gone. Nothing follows the *end*. *Settled*
//! says that waiting longer would gain nothing. No entry is of more than
//! 4,096 pages, and all of a frame together of at most 16,384.
//!
//! The proof in a frame's head is the BLAKE3 of the entries and the number, then of the BLAKE3 of each raw page: the source
//! hashes a page once, to find out whether it sent it before, and to prove it. The *transcript* is the BLAKE3 of the heads of
//! all frames in their order.
//!
//! Invariant: what the source sends is bounded before it is believed, and proved before it is used.

use std::io::{self, Read};
use std::ops::Range;

use super::known::{Known, Place};
use crate::pages::frame::{Frame, HEAD, Packer};
use crate::pages::wire::{self, BATCH_PAGES_MAX, RUN_MAX, array, checked, narrow};
use crate::pages::{PAGE, PAGE_BYTES, WireError, bytes};

const GREETING: [u8; 9] = *b"gwcopy\0\0\x01";
const BODY_MAX: usize = BATCH_PAGES_MAX * PAGE_BYTES + (64 << 10);
/// Bytes of entries after which a frame is sent; one more fits in any case.
const ENTRIES_FULL: usize = 32 << 10;
/// Pages that the entries of a frame may speak of.
const FRAME_PAGES_MAX: u64 = 4 * RUN_MAX as u64;
const TRAILER: usize = 4;

/// Sends the greeting.
pub(super) fn greet(stream: &mut impl io::Write) -> io::Result<()> {
    stream.write_all(&GREETING)?;
    stream.flush()
}

/// Reads the other side's greeting.
pub(super) fn greeted(stream: &mut impl Read) -> Result<(), WireError> {
    wire::expect(stream, GREETING)
}

/// Reads how many bytes have been received.
pub(super) fn received(stream: &mut impl Read) -> io::Result<u64> {
    array(stream).map(u64::from_le_bytes)
}

/// What follows the kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    place: Place,
    pages: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Raw,
    Zero,
    /// Where it would go on.
    Repeat(Place),
}

/// Writes frames.
pub(super) struct Encoder {
    /// Behind room for the head.
    body: Vec<u8>,
    entries: Vec<u8>,
    hashes: Vec<u8>,
    raw: usize,
    pages: u64,
    /// The last entry, whose run may go on: what it is, its place in `entries`, and its run.
    open: Option<(Open, usize, Run)>,
    known: Known,
    packer: Packer,
    transcript: blake3::Hasher,
}

impl Encoder {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            body: vec![0; HEAD],
            entries: Vec::new(),
            hashes: Vec::new(),
            raw: 0,
            pages: 0,
            open: None,
            known: Known::default(),
            packer: Packer::new()?,
            transcript: blake3::Hasher::new(),
        })
    }

    /// How many pages may be added to this frame.
    pub fn room(&self) -> u64 {
        if self.entries.len() >= ENTRIES_FULL {
            return 0;
        }
        (FRAME_PAGES_MAX - self.pages).min((BATCH_PAGES_MAX - self.raw) as u64)
    }

    /// Adds pages, at most [`Encoder::room`].
    pub fn pages(&mut self, pid: i32, address: u64, content: &[u8]) {
        for (index, page) in content.as_chunks::<PAGE_BYTES>().0.iter().enumerate() {
            self.page((pid, address + index as u64 * PAGE), page);
        }
    }

    fn page(&mut self, place: Place, page: &[u8; PAGE_BYTES]) {
        if *page == [0; PAGE_BYTES] {
            self.known.forget(place);
            return self.add(Open::Zero, place, 1);
        }
        let hash = blake3::hash(page);
        match self.known.find(&hash) {
            // The target has it where it belongs: it was written with what it held before.
            Some(same) if same == place => {}
            Some(other) => {
                self.known.forget(place);
                self.add(Open::Repeat(other), place, 1);
            }
            None => {
                self.known.put(place, hash);
                self.raw += 1;
                self.hashes.extend(hash.as_bytes());
                self.body.extend(page);
                self.add(Open::Raw, place, 1);
            }
        }
    }

    /// Adds pages that are gone: how many, as there is room.
    pub fn void(&mut self, pid: i32, range: &Range<u64>) -> u64 {
        let room = if self.room() == 0 { 0 } else { FRAME_PAGES_MAX - self.pages };
        let pages = ((range.end - range.start) / PAGE).min(u64::from(RUN_MAX)).min(room);
        if pages == 0 {
            return 0;
        }
        (0..pages).for_each(|index| self.known.forget((pid, range.start + index * PAGE)));
        self.open = None;
        self.pages += pages;
        self.head(4, Run { place: (pid, range.start), pages: narrow(pages) });
        pages
    }

    /// Waiting longer would gain nothing.
    pub fn settled(&mut self) {
        self.open = None;
        self.entries.push(6);
    }

    /// Nothing follows.
    pub fn end(&mut self) {
        self.entries.push(5);
    }

    fn add(&mut self, what: Open, place: Place, pages: u32) {
        self.pages += u64::from(pages);
        if let Some((open, at, run)) = &mut self.open
            && *open == what
            && next(run.place, run.pages) == place
            && run.pages + pages <= RUN_MAX
        {
            run.pages += pages;
            self.entries[*at + 13..*at + 17].copy_from_slice(&run.pages.to_le_bytes());
        } else {
            let run = Run { place, pages };
            self.open = Some((what, self.entries.len(), run));
            let kind = match what {
                Open::Raw => 1,
                Open::Zero => 2,
                Open::Repeat(_) => 3,
            };
            self.head(kind, run);
            if let Open::Repeat((pid, address)) = what {
                self.entries.extend(pid.to_le_bytes());
                self.entries.extend(address.to_le_bytes());
            }
        }
        if let Some((Open::Repeat(from), ..)) = &mut self.open {
            *from = next(*from, pages);
        }
    }

    fn head(&mut self, kind: u8, Run { place: (pid, address), pages }: Run) {
        self.entries.push(kind);
        self.entries.extend(pid.to_le_bytes());
        self.entries.extend(address.to_le_bytes());
        self.entries.extend(pages.to_le_bytes());
    }

    /// Whether there is nothing in this frame yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ends the frame and puts it into `frame`: how many bytes its plain body has, if compression was tried.
    pub fn finish(&mut self, frame: &mut Vec<u8>, compress: bool) -> io::Result<Option<u64>> {
        self.entries.extend(narrow(self.raw as u64).to_le_bytes());
        self.body.extend(&self.entries);
        let plain = (self.body.len() - HEAD) as u64;
        let tried = self.packer.pack(&mut self.body, &proof(&self.entries, &self.hashes), compress && self.raw > 0)?;
        self.transcript.update(&self.body[..HEAD]);
        std::mem::swap(frame, &mut self.body);
        self.body.clear();
        self.body.resize(HEAD, 0);
        self.entries.clear();
        self.hashes.clear();
        (self.raw, self.pages, self.open) = (0, 0, None);
        Ok(tried.then_some(plain))
    }

    /// Of all frames that were finished.
    pub fn transcript(&self) -> blake3::Hash {
        self.transcript.finalize()
    }
}

fn next((pid, address): Place, pages: u32) -> Place {
    (pid, address + u64::from(pages) * PAGE)
}

fn proof(entries: &[u8], hashes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(entries).update(hashes).finalize()
}

/// What the source says of a run of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Their bytes, in [`Reader::body`].
    Raw(Place, Range<usize>),
    Zero(Place, u32),
    Repeat(Place, u32, Place),
    Void(Place, u32),
}

/// Reads frames.
pub(super) struct Reader {
    body: Vec<u8>,
    pub entries: Vec<Entry>,
    pub ended: bool,
    pub settled: bool,
    /// Of all frames so far, as they came over the wire.
    pub wire_bytes: u64,
    transcript: blake3::Hasher,
}

impl Reader {
    pub fn new() -> Self {
        let transcript = blake3::Hasher::new();
        Self { body: Vec::new(), entries: Vec::new(), ended: false, settled: false, wire_bytes: 0, transcript }
    }

    /// Reads the next frame.
    pub fn read(&mut self, stream: &mut impl Read) -> Result<(), WireError> {
        let frame = Frame::read(stream, BODY_MAX, std::mem::take(&mut self.body))?;
        self.entries.clear();
        let (raw, entries) = halves(&frame.body)?;
        let mut hashes = Vec::with_capacity(BATCH_PAGES_MAX * blake3::OUT_LEN);
        raw.as_chunks::<PAGE_BYTES>().0.iter().for_each(|page| hashes.extend(blake3::hash(page).as_bytes()));
        if !frame.proved_by(&proof(entries, &hashes)) {
            return Err(WireError::Damaged);
        }
        let marks = parse(&entries[..entries.len() - TRAILER], raw.len(), &mut self.entries)?;
        self.ended = marks.ended;
        self.settled |= marks.settled;
        self.transcript.update(&frame.head);
        self.wire_bytes += frame.wire_bytes;
        self.body = frame.body;
        Ok(())
    }

    /// Of the latest frame.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Of all frames so far.
    pub fn transcript(&self) -> blake3::Hash {
        self.transcript.finalize()
    }
}

/// The raw pages, and the rest.
fn halves(body: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let (_, number) = body.split_last_chunk::<TRAILER>().ok_or(WireError::Broken("a body without its end"))?;
    let pages = u32::from_le_bytes(*number);
    let raw = bytes(u64::from(pages));
    if pages as usize > BATCH_PAGES_MAX || raw + TRAILER > body.len() {
        return Err(WireError::Broken("more raw pages than a frame has"));
    }
    Ok(body.split_at(raw))
}

/// What a frame says beside its pages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Marks {
    settled: bool,
    ended: bool,
}

fn parse(mut from: &[u8], raw: usize, into: &mut Vec<Entry>) -> Result<Marks, WireError> {
    let short = |_| WireError::Broken("an entry that ends early");
    let (mut used, mut total) = (0, 0_u64);
    let mut marks = Marks::default();
    while let Some((&kind, rest)) = from.split_first() {
        from = rest;
        if kind == 5 {
            let last = from.is_empty() && used == raw;
            marks.ended = true;
            return if last { Ok(marks) } else { Err(WireError::Broken("something after the end")) };
        }
        if kind == 6 {
            marks.settled = true;
            continue;
        }
        let (place, pages) = (place(&mut from)?, u32::from_le_bytes(array(&mut from).map_err(short)?));
        checked(place.1, pages)?;
        total += u64::from(pages);
        if total > FRAME_PAGES_MAX {
            return Err(WireError::Broken("more pages than a frame may speak of"));
        }
        into.push(match kind {
            1 => {
                let range = used..used.saturating_add(bytes(u64::from(pages)));
                used = range.end;
                Entry::Raw(place, range)
            }
            2 => Entry::Zero(place, pages),
            3 => {
                let others = self::place(&mut from)?;
                checked(others.1, pages)?;
                Entry::Repeat(place, pages, others)
            }
            4 => Entry::Void(place, pages),
            _ => return Err(WireError::Broken("an entry of an unknown kind")),
        });
        if used > raw {
            break;
        }
    }
    if used == raw { Ok(marks) } else { Err(WireError::Broken("other raw pages than the entries say")) }
}

fn place(from: &mut &[u8]) -> Result<Place, WireError> {
    let short = |_| WireError::Broken("an entry that ends early");
    let pid = i32::from_le_bytes(array(from).map_err(short)?);
    Ok((pid, u64::from_le_bytes(array(from).map_err(short)?)))
}

#[cfg(test)]
mod tests;
