//! What the source tells of the pages that it sent ahead, when its tasks are frozen.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | version, 1 |
//! | 32 | transcript |
//! | v | tasks |
//! | | for each task, in ascending order: pid (v), number of ranges (v), the ranges |
//! | | each range, in ascending order: pages since the end of the one before (v), its own pages (v) |
//!
//! *v* are numbers of 7 bits a byte, the lowest first, the highest bit set in all but the last (LEB128), in their shortest
//! form: there is one encoding of each value.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Error;
use crate::pages::PAGE;
use crate::pages::wire::ADDRESS_END;

const VERSION: u8 = 1;
/// More processes are no container of ours.
const TASKS_MAX: u64 = 4096;
/// Ranges of all tasks: 8 GiB of which every other page was written. What lies beyond is left out, and fetched.
const RANGES_MAX: usize = 1 << 20;
/// Bytes of the encoding: ranges that are far apart take up to 11.
const BYTES_MAX: usize = 16 << 20;

/// Address ranges of each task, by its pid in the images: whole pages, ascending, apart from each other.
pub type Valid = BTreeMap<i32, Vec<Range<u64>>>;

/// Which pages that were sent ahead are what the frozen tasks have. Whoever vouches for its bytes vouches for the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final {
    /// BLAKE3 of all that was sent.
    pub(super) transcript: [u8; 32],
    pub(super) valid: Valid,
}

impl Final {
    pub(super) fn new(transcript: blake3::Hash, mut valid: Valid) -> Self {
        let mut room = RANGES_MAX;
        valid.retain(|pid, ranges| {
            ranges.truncate(room);
            room -= ranges.len();
            *pid >= 0 && !ranges.is_empty()
        });
        while valid.len() as u64 > TASKS_MAX {
            valid.pop_last();
        }
        Self { transcript: *transcript.as_bytes(), valid }
    }

    /// Which pages need not be fetched.
    #[must_use]
    pub fn valid(&self) -> &Valid {
        &self.valid
    }

    /// Bytes of memory that need not be fetched.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.valid.values().map(|ranges| crate::dirty::ranges::bytes(ranges)).sum()
    }

    /// As bytes for a file: some 3 for each range.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut into = vec![VERSION];
        into.extend(self.transcript);
        put(&mut into, self.valid.len() as u64);
        for (pid, ranges) in &self.valid {
            put(&mut into, u64::from(pid.unsigned_abs()));
            put(&mut into, ranges.len() as u64);
            let mut before = 0;
            for range in ranges {
                put(&mut into, (range.start - before) / PAGE);
                put(&mut into, (range.end - range.start) / PAGE);
                before = range.end;
            }
        }
        into
    }

    /// From the bytes of [`Final::encode`].
    ///
    /// # Errors
    /// [`Error::Malformed`]: they are others.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = Error::Malformed;
        if bytes.len() > BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let (version, rest) = bytes.split_first().ok_or(malformed("it is empty"))?;
        if *version != VERSION {
            return Err(malformed("it is of another version"));
        }
        let (transcript, mut rest) = rest.split_first_chunk::<32>().ok_or(malformed("it ends early"))?;
        let (mut valid, mut room) = (Valid::new(), RANGES_MAX);
        for _ in 0..take(&mut rest, TASKS_MAX)? {
            let pid = i32::try_from(take(&mut rest, i32::MAX as u64)?).map_err(|_| malformed("a pid"))?;
            if valid.last_key_value().is_some_and(|(last, _)| *last >= pid) {
                return Err(malformed("its tasks do not ascend"));
            }
            let ranges = take_ranges(&mut rest, room)?;
            room -= ranges.len();
            valid.insert(pid, ranges);
        }
        if rest.is_empty() { Ok(Self { transcript: *transcript, valid }) } else { Err(malformed("it goes on")) }
    }
}

fn take_ranges(from: &mut &[u8], most: usize) -> Result<Vec<Range<u64>>, Error> {
    let count = take(from, most as u64)?;
    if count == 0 {
        return Err(Error::Malformed("a task without ranges"));
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for _ in 0..count {
        let before = ranges.last().map_or(0, |range| range.end);
        let (gap, pages) = (take(from, ADDRESS_END / PAGE)?, take(from, ADDRESS_END / PAGE)?);
        let (start, end) = (before + gap * PAGE, before + (gap + pages) * PAGE);
        if end > ADDRESS_END || pages == 0 || (gap == 0 && !ranges.is_empty()) {
            return Err(Error::Malformed("a range that cannot be"));
        }
        ranges.push(start..end);
    }
    Ok(ranges)
}

fn put(into: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            return into.push(low);
        }
        into.push(low | 0x80);
    }
}

fn take(from: &mut &[u8], most: u64) -> Result<u64, Error> {
    let mut number = 0;
    // Eight bytes hold 56 bits, which is more than any number here has.
    for shift in (0..56).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(Error::Malformed("it ends early"))?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = *byte != 0 || shift == 0;
            return if shortest && number <= most { Ok(number) } else { Err(Error::Malformed("a number")) };
        }
    }
    Err(Error::Malformed("a number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> impl Strategy<Value = Valid> {
        let range = (1..1_u64 << 30, 1..1_u64 << 20);
        let ranges = proptest::collection::vec(range, 1..20).prop_map(|steps| {
            let mut end = 0;
            let each = |(gap, pages)| {
                let start = end + gap * PAGE;
                end = start + pages * PAGE;
                start..end
            };
            steps.into_iter().map(each).collect()
        });
        proptest::collection::btree_map(0..i32::MAX, ranges, 0..5)
    }

    proptest! {
        #[test]
        fn it_arrives_as_it_was_sent(valid in valid(), transcript: [u8; 32]) {
            let told = Final::new(transcript.into(), valid);
            prop_assert_eq!(Final::decode(&told.encode()).unwrap(), told);
        }

        #[test]
        fn there_is_one_encoding_and_others_are_refused(valid in valid(), at: prop::sample::Index, with: u8) {
            let mut bytes = Final::new([7; 32].into(), valid).encode();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(told) = Final::decode(&bytes) {
                prop_assert_eq!(told.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Final::decode(&bytes);
            let _ = Final::decode(&[&[VERSION][..], &[0; 32], &bytes].concat());
        }
    }

    #[test]
    fn what_it_does_not_have_room_for_is_left_out() {
        let ranges = |pages: u64| (0..pages).map(|index| index * 2 * PAGE..(index * 2 + 1) * PAGE).collect::<Vec<_>>();
        let valid = Valid::from([(1, ranges(RANGES_MAX as u64 - 1)), (2, ranges(3)), (3, ranges(1))]);
        let told = Final::new([0; 32].into(), valid);
        assert_eq!(told.valid().values().map(Vec::len).collect::<Vec<_>>(), [RANGES_MAX - 1, 1]);
        let bytes = told.encode();
        assert!(bytes.len() < 3 << 20, "{}", bytes.len());
        assert_eq!(Final::decode(&bytes).unwrap(), told);
    }
}
