//! `/proc/PID/pagemap` read entry by entry, for kernels without `PAGEMAP_SCAN` (kernel documentation,
//! `admin-guide/mm/pagemap.rst`).

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::fcntl::OFlag;

use super::kernel::Pages;
use super::target::Target;
use super::{Error, PAGE, ranges};

const SOFT_DIRTY: u64 = 1 << 55;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// Entries read by one call: 128 KiB, for 64 MiB of memory.
const ENTRIES: usize = 16_384;

/// The pages of ascending ranges, those written by their soft-dirty bit.
pub(super) fn read(target: &Target, wanted: impl Iterator<Item = Range<u64>>) -> Result<Pages, Error> {
    let failed = |error| Error::io("read of the pagemap of", target.pid, error);
    let file = target.open_file("pagemap", OFlag::O_RDONLY).map_err(|errno| failed(errno.into()))?;
    let mut pages = Pages::default();
    let mut bytes = vec![0; ENTRIES * 8];
    for range in wanted {
        let mut start = range.start;
        while start < range.end {
            let length = usize::try_from((range.end - start) / PAGE).unwrap_or(ENTRIES).min(ENTRIES) * 8;
            let read = file.read_at(&mut bytes[..length], start / PAGE * 8).map_err(failed)?;
            if read < 8 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            collect(&bytes[..read - read % 8], start, &mut pages);
            start += (read / 8) as u64 * PAGE;
        }
    }
    Ok(pages)
}

fn collect(entries: &[u8], start: u64, pages: &mut Pages) {
    let addresses = (start..).step_by(usize::try_from(PAGE).expect("small"));
    for (entry, address) in entries.as_chunks().0.iter().zip(addresses) {
        let entry = u64::from_ne_bytes(*entry);
        if entry & (PRESENT | SWAPPED) == 0 {
            continue;
        }
        ranges::push(&mut pages.populated, address..address + PAGE);
        if entry & SOFT_DIRTY != 0 {
            ranges::push(&mut pages.written, address..address + PAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_pages_that_are_there_and_pages_that_were_written() {
        let entries = [PRESENT | SOFT_DIRTY, PRESENT, 0, SOFT_DIRTY, SWAPPED | SOFT_DIRTY, SWAPPED];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
        let mut pages = Pages::default();
        collect(&bytes, 0x1_0000, &mut pages);
        assert_eq!(pages.populated, [0x1_0000..0x1_2000, 0x1_4000..0x1_6000]);
        assert_eq!(pages.written, [0x1_0000..0x1_1000, 0x1_4000..0x1_5000]);
    }
}
