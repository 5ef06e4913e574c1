//! Frames: entries one after the other in a file that is only appended to.
//!
//! A crash may leave an incomplete frame at the end: nobody was told of it, so it is to be cut off. A frame that is damaged
//! while whole ones lie behind it is no crash but a fault of the disk, and what was said may be lost with it: that is
//! [`Damaged`].
//!
//! Frame: mark (4 bytes), length of the entry (4, little endian), CRC-32 of length and entry (4), entry.

use std::ops::Range;

use godwit_protocol::codec;

const MARK: [u8; 4] = *b"gwal";
const HEAD: usize = 12;

/// An entry holds at most a block.
pub const MAX_ENTRY: usize = codec::LIMIT;

/// Longer than any entry; how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {0} bytes; the most is {MAX_ENTRY}")]
pub struct TooLong(pub usize);

/// Damaged before its end; where the damaged frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {0}, with whole entries behind it")]
pub struct Damaged(pub usize);

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Where the entries are, oldest first.
    pub entries: Vec<Range<usize>>,
    /// Where the last whole frame ends.
    pub end: usize,
}

/// The bytes to append for an entry.
///
/// # Errors
/// [`TooLong`].
pub fn frame(entry: &[u8]) -> Result<Vec<u8>, TooLong> {
    let length = u32::try_from(entry.len()).ok().filter(|_| entry.len() <= MAX_ENTRY).ok_or(TooLong(entry.len()))?;
    let length = length.to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD + entry.len());
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&checksum(length, entry).to_le_bytes());
    frame.extend_from_slice(entry);
    Ok(frame)
}

/// The whole frames from `start` on.
///
/// # Errors
/// [`Damaged`].
pub fn read(bytes: &[u8], start: usize) -> Result<Frames, Damaged> {
    let mut frames = Frames { entries: Vec::new(), end: start };
    while let Some(entry) = whole(bytes, frames.end) {
        frames.end = entry.end;
        frames.entries.push(entry);
    }
    let behind = frames.end.saturating_add(1)..bytes.len();
    if behind.into_iter().any(|later| whole(bytes, later).is_some()) {
        return Err(Damaged(frames.end));
    }
    Ok(frames)
}

/// The entry of the whole frame that begins at `at`, if one does.
fn whole(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (head, rest) = bytes.get(at..)?.split_at_checked(HEAD)?;
    let field = |range: Range<usize>| -> [u8; 4] { head[range].try_into().expect("four bytes") };
    let (mark, length, crc) = (field(0..4), field(4..8), field(8..12));
    let size = usize::try_from(u32::from_le_bytes(length)).ok()?;
    if mark != MARK || size > MAX_ENTRY {
        return None;
    }
    let entry = rest.get(..size)?;
    (checksum(length, entry) == u32::from_le_bytes(crc)).then_some(at + HEAD..at + HEAD + size)
}

fn checksum(length: [u8; 4], entry: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(entry);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        entries.iter().flat_map(|entry| frame(entry).expect("short enough")).collect()
    }

    fn entries(bytes: &[u8], start: usize) -> Result<Vec<Vec<u8>>, Damaged> {
        Ok(read(bytes, start)?.entries.into_iter().map(|entry| bytes[entry].to_vec()).collect())
    }

    #[test]
    fn an_entry_beyond_the_limit_is_refused() {
        assert_eq!(frame(&vec![0; MAX_ENTRY + 1]), Err(TooLong(MAX_ENTRY + 1)));
        assert!(frame(&vec![0; MAX_ENTRY]).is_ok());
    }

    #[test]
    fn reading_begins_behind_what_precedes_the_frames() {
        let mut bytes = b"header".to_vec();
        bytes.extend(file(&[vec![1], vec![2]]));
        assert_eq!(entries(&bytes, 6), Ok(vec![vec![1], vec![2]]));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_before_the_last_frame_is_damage_and_in_it_a_torn_end(
            sizes in prop::collection::vec(0_usize..300, 1..6),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let whole: Vec<Vec<u8>> = (1_u8..).zip(&sizes).map(|(n, size)| vec![n; *size]).collect();
            let mut bytes = file(&whole);
            let last = bytes.len() - HEAD - sizes[sizes.len() - 1];
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            match entries(&bytes, 0) {
                Ok(found) => {
                    prop_assert!(at >= last);
                    prop_assert_eq!(&found, &whole[..whole.len() - 1]);
                }
                Err(Damaged(begin)) => prop_assert!(begin <= at && at < last),
            }
        }

        #[test]
        fn a_file_cut_anywhere_keeps_every_whole_entry(
            sizes in prop::collection::vec(0_usize..300, 1..6),
            cut in any::<prop::sample::Index>(),
            zeros in 0_usize..40,
        ) {
            let whole: Vec<Vec<u8>> = (1_u8..).zip(&sizes).map(|(n, size)| vec![n; *size]).collect();
            let bytes = file(&whole);
            let cut = cut.index(bytes.len() + 1);
            // Some file systems lengthen a file before they write to it.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            let found = entries(&torn, 0).expect("not damaged");
            let complete = (0..=whole.len()).filter(|n| file(&whole[..*n]).len() <= cut).count() - 1;
            prop_assert_eq!(&found[..complete], &whole[..complete]);
            // A frame whose missing bytes are zeros is whole with them.
            prop_assert!(found.len() <= complete + 1 && found.as_slice() == &whole[..found.len()]);
        }
    }
}
