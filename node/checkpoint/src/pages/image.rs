//! The parts of CRIU's images (version 4.2) that tell which pages a restored process lacks: `pagemap-PID.img` and
//! `mm-PID.img`.
//!
//! Layout (CRIU, `criu/image.c`, `criu/protobuf.c`): two magic numbers, then records of a u32 length and a protobuf
//! message. All integers are little-endian.
//!
//! Invariant: images are outside bytes; whatever they hold, reading them ends with a value or an error, and takes at most
//! memory in proportion to their bounded size.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use prost::Message;

use super::PAGE;

/// `IMG_COMMON_MAGIC`, then each file's own (CRIU, `criu/include/magic.h`).
const COMMON_MAGIC: u32 = 0x5456_4319;
const PAGEMAP_MAGIC: u32 = 0x5608_4025;
const MM_MAGIC: u32 = 0x5749_2820;

/// Flags of a page map entry (CRIU, `criu/include/pagemap.h`).
const IN_PARENT: u32 = 1;
const LAZY: u32 = 2;
const PRESENT: u32 = 4;

/// An entry takes some 20 bytes, so this holds three million: far more than a process has runs of pages.
const PAGEMAP_MAX_BYTES: u64 = 64 << 20;
/// A process has at most 65,530 mappings (`vm.max_map_count`), of some 100 bytes each.
const MM_MAX_BYTES: u64 = 8 << 20;
/// Pages of one process: 256 GiB. The service keeps a byte for each.
const PAGES_MAX: u64 = 1 << 26;
/// User addresses end below this on every processor that CRIU knows (five-level page tables).
const ADDRESS_END: u64 = 1 << 56;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("read the image {path}; is the checkpoint complete?")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else than CRIU 4.2 writes.
    #[error("the image {path} is refused; take the checkpoint anew with CRIU 4.2 or newer")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: Malformed,
    },
}

/// What is wrong in an image's bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins like another kind of file.
    #[error("its magic numbers are {0:#x} and {1:#x}")]
    Magic(u32, u32),
    /// It ends in the middle of a record.
    #[error("it ends in the middle of a record")]
    Truncated,
    /// It is larger than such a file ever is.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// A record is no message of its kind.
    #[error("a record does not decode")]
    Record,
    /// A run of pages is empty, not aligned, out of order or beyond all addresses.
    #[error("{pages} pages at {address:#x} cannot be")]
    Run {
        /// Where they would begin.
        address: u64,
        /// How many they would be.
        pages: u64,
    },
    /// A mapping is empty, not aligned, out of order or beyond all addresses.
    #[error("a mapping from {0:#x} to {1:#x} cannot be")]
    Mapping(u64, u64),
    /// A lazy page lies in no mapping.
    #[error("the lazy page at {0:#x} lies in no mapping")]
    Unmapped(u64),
    /// There are more pages than a process may have.
    #[error("it names more than {PAGES_MAX} pages")]
    TooManyPages,
}

/// Where an entry's pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In `pages-N.img`, from this byte on.
    Here {
        /// Offset in the file, bytes.
        offset: u64,
    },
    /// Still at the source: they are to be served.
    Lazy,
    /// In the parent image.
    Parent,
    /// Nowhere: the entry keeps addresses only.
    Hole,
}

/// A run of pages in a page map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins in the process.
    pub address: u64,
    /// How many pages it has.
    pub pages: u64,
    /// Where they are.
    pub place: Whereabouts,
}

/// What `pagemap-PID.img` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// The N of `pages-N.img`.
    pub pages_id: u32,
    /// Ascending, without overlap.
    pub entries: Vec<Entry>,
}

/// A run of pages to serve, inside one mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LazyRun {
    /// Where it begins in the process.
    pub address: u64,
    /// How many pages it has.
    pub pages: u64,
}

#[derive(Clone, PartialEq, Message)]
struct HeadRecord {
    #[prost(uint32, required, tag = "1")]
    pages_id: u32,
}

#[derive(Clone, PartialEq, Message)]
struct EntryRecord {
    #[prost(uint64, required, tag = "1")]
    vaddr: u64,
    #[prost(uint32, optional, tag = "2")]
    compat_nr_pages: Option<u32>,
    #[prost(bool, optional, tag = "3")]
    in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    /// Since CRIU 4.1; then the field above holds its lower bits.
    #[prost(uint64, optional, tag = "5")]
    nr_pages: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MmRecord {
    #[prost(message, repeated, tag = "14")]
    vmas: Vec<VmaRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct VmaRecord {
    #[prost(uint64, required, tag = "1")]
    start: u64,
    #[prost(uint64, required, tag = "2")]
    end: u64,
}

/// The pages that the task with pid `pid` in the images under `images` lacks when it is restored, split at its mappings.
///
/// # Errors
/// When a file is missing or is not as CRIU writes it.
pub fn lazy_runs(images: &Path, pid: i32) -> Result<Vec<LazyRun>, ImageError> {
    let pagemap = read(&images.join(format!("pagemap-{pid}.img")), PAGEMAP_MAX_BYTES, parse_pagemap)?;
    let mappings = read(&images.join(format!("mm-{pid}.img")), MM_MAX_BYTES, parse_mappings)?;
    split(&pagemap, &mappings)
        .map_err(|source| ImageError::Refused { path: images.join(format!("pagemap-{pid}.img")), source })
}

fn read<T>(path: &Path, limit: u64, parse: fn(&[u8]) -> Result<T, Malformed>) -> Result<T, ImageError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    let parsed = if bytes.len() as u64 > limit { Err(Malformed::TooLarge(limit)) } else { parse(&bytes) };
    parsed.map_err(|source| ImageError::Refused { path: path.to_owned(), source })
}

/// Reads a `pagemap-PID.img`.
///
/// # Errors
/// Says what in the bytes cannot be.
pub fn parse_pagemap(bytes: &[u8]) -> Result<Pagemap, Malformed> {
    let mut records = Records::open(bytes, PAGEMAP_MAGIC)?;
    let head: HeadRecord = records.next_message()?.ok_or(Malformed::Truncated)?;
    let (mut entries, mut floor, mut offset, mut total) = (Vec::new(), 0, 0, 0);
    while let Some(record) = records.next_message::<EntryRecord>()? {
        let pages = record.nr_pages.or(record.compat_nr_pages.map(u64::from)).unwrap_or(0);
        let address = record.vaddr;
        let end = run_end(address, pages).filter(|_| address >= floor).ok_or(Malformed::Run { address, pages })?;
        total += pages;
        if total > PAGES_MAX {
            return Err(Malformed::TooManyPages);
        }
        let place = place(&record, offset);
        if let Whereabouts::Here { .. } = place {
            offset += pages * PAGE;
        }
        floor = end;
        entries.push(Entry { address, pages, place });
    }
    Ok(Pagemap { pages_id: head.pages_id, entries })
}

/// CRIU looks at the flags in this order (`criu/pagemap.c`); before it had flags, a page was here unless the parent had it.
fn place(record: &EntryRecord, offset: u64) -> Whereabouts {
    let old = if record.in_parent == Some(true) { IN_PARENT } else { PRESENT };
    let flags = record.flags.unwrap_or(old);
    match flags {
        _ if flags & IN_PARENT != 0 => Whereabouts::Parent,
        _ if flags & PRESENT != 0 => Whereabouts::Here { offset },
        _ if flags & LAZY != 0 => Whereabouts::Lazy,
        _ => Whereabouts::Hole,
    }
}

fn run_end(address: u64, pages: u64) -> Option<u64> {
    let end = pages.checked_mul(PAGE).and_then(|bytes| address.checked_add(bytes))?;
    (pages > 0 && address.is_multiple_of(PAGE) && end <= ADDRESS_END).then_some(end)
}

/// Reads the mappings of an `mm-PID.img`, ascending.
///
/// # Errors
/// Says what in the bytes cannot be.
pub fn parse_mappings(bytes: &[u8]) -> Result<Vec<Range<u64>>, Malformed> {
    let mut records = Records::open(bytes, MM_MAGIC)?;
    let mm: MmRecord = records.next_message()?.ok_or(Malformed::Truncated)?;
    let mut floor = 0;
    let checked = |vma: VmaRecord| {
        let aligned = vma.start.is_multiple_of(PAGE) && vma.end.is_multiple_of(PAGE);
        // The vsyscall page lies above all others, at the end of all addresses.
        if !aligned || vma.start < floor || vma.end <= vma.start {
            return Err(Malformed::Mapping(vma.start, vma.end));
        }
        floor = vma.end;
        Ok(vma.start..vma.end)
    };
    mm.vmas.into_iter().map(checked).collect()
}

/// The lazy runs of `pagemap`, each inside one of `mappings`: the kernel fills no range across two.
fn split(pagemap: &Pagemap, mappings: &[Range<u64>]) -> Result<Vec<LazyRun>, Malformed> {
    let mut runs = Vec::new();
    for entry in pagemap.entries.iter().filter(|entry| entry.place == Whereabouts::Lazy) {
        let (mut address, end) = (entry.address, entry.address + entry.pages * PAGE);
        while address < end {
            let index = mappings.partition_point(|mapping| mapping.end <= address);
            let mapping =
                mappings.get(index).filter(|mapping| mapping.start <= address).ok_or(Malformed::Unmapped(address))?;
            let stop = end.min(mapping.end);
            runs.push(LazyRun { address, pages: (stop - address) / PAGE });
            address = stop;
        }
    }
    Ok(runs)
}

/// The records of an image, after its magic numbers.
struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    fn open(bytes: &'a [u8], magic: u32) -> Result<Self, Malformed> {
        let mut records = Self { rest: bytes };
        let found = (records.number()?, records.number()?);
        if found != (COMMON_MAGIC, magic) {
            return Err(Malformed::Magic(found.0, found.1));
        }
        Ok(records)
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(self.number()?).map_err(|_| Malformed::Truncated)?;
        let (record, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        M::decode(record).map(Some).map_err(|_| Malformed::Record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(magic: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [COMMON_MAGIC.to_le_bytes(), magic.to_le_bytes()].concat();
        for record in records {
            bytes.extend(u32::try_from(record.len()).unwrap().to_le_bytes());
            bytes.extend(record);
        }
        bytes
    }

    fn pagemap(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut records = vec![HeadRecord { pages_id: 7 }.encode_to_vec()];
        records.extend(entries.iter().map(|&(vaddr, pages, flags)| {
            let record = EntryRecord {
                vaddr,
                compat_nr_pages: u32::try_from(pages).ok(),
                in_parent: None,
                flags: Some(flags),
                nr_pages: Some(pages),
            };
            record.encode_to_vec()
        }));
        image(PAGEMAP_MAGIC, &records)
    }

    fn mm(mappings: &[(u64, u64)]) -> Vec<u8> {
        let vmas = mappings.iter().map(|&(start, end)| VmaRecord { start, end }).collect();
        image(MM_MAGIC, &[MmRecord { vmas }.encode_to_vec()])
    }

    #[test]
    fn entries_tell_where_their_pages_are() {
        let map = parse_pagemap(&pagemap(&[
            (0x1000, 2, PRESENT),
            (0x8000, 3, LAZY),
            (0xb000, 1, PRESENT | LAZY),
            (0xc000, 1, IN_PARENT),
            (0xd000, 1, 0),
        ]))
        .unwrap();
        let places: Vec<_> = map.entries.iter().map(|entry| entry.place).collect();
        use Whereabouts::*;
        assert_eq!(map.pages_id, 7);
        assert_eq!(places, [Here { offset: 0 }, Lazy, Here { offset: 0x2000 }, Parent, Hole]);
    }

    #[test]
    fn lazy_runs_end_where_mappings_end() {
        let map = parse_pagemap(&pagemap(&[(0x2000, 4, LAZY), (0x7000, 1, PRESENT), (0x8000, 1, LAZY)])).unwrap();
        let mappings = parse_mappings(&mm(&[(0x1000, 0x4000), (0x4000, 0x9000)])).unwrap();
        let run = |address, pages| LazyRun { address, pages };
        assert_eq!(split(&map, &mappings).unwrap(), [run(0x2000, 2), run(0x4000, 2), run(0x8000, 1)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (entries, error) in [
            (vec![(0x1001, 1, LAZY)], Malformed::Run { address: 0x1001, pages: 1 }),
            (vec![(0x1000, 0, LAZY)], Malformed::Run { address: 0x1000, pages: 0 }),
            (vec![(0x2000, 2, LAZY), (0x3000, 1, LAZY)], Malformed::Run { address: 0x3000, pages: 1 }),
            (vec![(0x1000, u64::MAX, LAZY)], Malformed::Run { address: 0x1000, pages: u64::MAX }),
            (vec![(0x1000, PAGES_MAX + 1, LAZY)], Malformed::TooManyPages),
        ] {
            assert_eq!(parse_pagemap(&pagemap(&entries)), Err(error));
        }
        assert_eq!(parse_mappings(&mm(&[(0x3000, 0x3000)])), Err(Malformed::Mapping(0x3000, 0x3000)));
        assert_eq!(parse_mappings(&pagemap(&[])), Err(Malformed::Magic(COMMON_MAGIC, PAGEMAP_MAGIC)));
        let map = parse_pagemap(&pagemap(&[(0x1000, 2, LAZY)])).unwrap();
        assert_eq!(split(&map, &[0x1000..0x2000, 0x3000..0x4000]), Err(Malformed::Unmapped(0x2000)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = (parse_pagemap(&bytes), parse_mappings(&bytes));
        }

        #[test]
        fn damaged_images_are_read_or_refused(at in 0_usize..200, byte: u8, cut in 0_usize..200) {
            let entries: Vec<_> = (1..9).map(|i| (i << 16, i, (i % 8) as u32)).collect();
            for mut bytes in [pagemap(&entries), mm(&[(0x1000, 0x4000), (0x5000, 0x9000)])] {
                let index = at % bytes.len();
                bytes[index] = byte;
                let _ = (parse_pagemap(&bytes), parse_mappings(&bytes));
                bytes.truncate(cut);
                let _ = (parse_pagemap(&bytes), parse_mappings(&bytes));
            }
        }
    }
}
