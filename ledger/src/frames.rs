//! Frames: entries one after the other in a file that is only appended to.
//!
//! A crash may leave an incomplete frame at the end: nobody was told of it, so it is to be cut off. A frame that is damaged
//! while whole ones lie behind it is no crash but a fault of the disk, and what was said may be lost with it: that is
//! [`Unreadable::Damaged`].
//!
//! Header: kind and version of the file (8 bytes), salt (16), CRC-32 of both (4).
//! Frame: mark (4 bytes), length of the entry (4, little endian), CRC-32 of salt, length and entry (4), entry.
//!
//! The salt is drawn anew for each file, and the mark is its beginning. An entry holds what others wrote, and others do not
//! know the salt: whatever they write, no part of an entry that was torn by a crash passes for a whole frame behind it.

use std::ops::Range;

use godwit_protocol::codec;

/// The first bytes of a file: what it holds, and in which version.
pub type Kind = [u8; 8];

const KIND: usize = size_of::<Kind>();
const SALT: usize = 16;
const MARK: usize = 4;
const HEAD: usize = 12;

/// How long a file's header is.
pub const HEADER: usize = KIND + SALT + 4;

/// An entry holds at most a block.
pub const MAX_ENTRY: usize = codec::LIMIT;

/// Longer than any entry; how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {0} bytes; the most is {MAX_ENTRY}")]
pub struct TooLong(pub usize);

/// Why a file's entries cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is of another kind or version.
    #[error("it does not begin as a file of its kind and version does")]
    Kind,
    /// Damaged before its end; where the damaged frame begins, 0 for the header.
    #[error("damaged at byte {0}, with whole entries behind it")]
    Damaged(usize),
}

/// What one file's frames are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    kind: Kind,
    salt: [u8; SALT],
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// To go on with.
    pub framing: Framing,
    /// Where the entries are, oldest first.
    pub entries: Vec<Range<usize>>,
    /// Where the last whole frame ends.
    pub end: usize,
}

impl Framing {
    /// For a new file. The salt is drawn by chance, and told nobody.
    #[must_use]
    pub const fn new(kind: Kind, salt: [u8; SALT]) -> Self {
        Self { kind, salt }
    }

    /// The file's first bytes.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut header = [&self.kind[..], &self.salt].concat();
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        header
    }

    /// The bytes to append for an entry.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn frame(&self, entry: &[u8]) -> Result<Vec<u8>, TooLong> {
        let length = u32::try_from(entry.len()).ok().filter(|_| entry.len() <= MAX_ENTRY);
        let length = length.ok_or(TooLong(entry.len()))?.to_le_bytes();
        let mut frame = Vec::with_capacity(HEAD + entry.len());
        frame.extend_from_slice(self.mark());
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&self.checksum(length, entry).to_le_bytes());
        frame.extend_from_slice(entry);
        Ok(frame)
    }

    /// The framing that a file's header tells.
    fn of(kind: Kind, bytes: &[u8]) -> Result<Self, Unreadable> {
        let (header, _) = bytes.split_at_checked(HEADER).ok_or(Unreadable::Kind)?;
        if header[..KIND] != kind {
            return Err(Unreadable::Kind);
        }
        let salt = header[KIND..KIND + SALT].try_into().expect("its length is the salt's");
        let framing = Self { kind, salt };
        // The whole file hangs on it: with another salt all that was said would pass for a torn end.
        if framing.header() == header { Ok(framing) } else { Err(Unreadable::Damaged(0)) }
    }

    /// The entry of the whole frame that begins at `at`, if one does.
    fn whole(&self, bytes: &[u8], at: usize) -> Option<Range<usize>> {
        let (head, rest) = bytes.get(at..)?.split_at_checked(HEAD)?;
        let field = |range: Range<usize>| -> [u8; 4] { head[range].try_into().expect("four bytes") };
        let (length, crc) = (field(4..8), field(8..12));
        let size = usize::try_from(u32::from_le_bytes(length)).ok()?;
        if head[..MARK] != *self.mark() || size > MAX_ENTRY {
            return None;
        }
        let entry = rest.get(..size)?;
        (self.checksum(length, entry) == u32::from_le_bytes(crc)).then_some(at + HEAD..at + HEAD + size)
    }

    fn mark(&self) -> &[u8] {
        &self.salt[..MARK]
    }

    fn checksum(&self, length: [u8; 4], entry: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.salt);
        crc.update(&length);
        crc.update(entry);
        crc.finalize()
    }
}

/// Whether nothing was ever written behind the header of a file that begins like this: it may be begun anew.
#[must_use]
pub fn is_unbegun(kind: Kind, bytes: &[u8]) -> bool {
    let begins = bytes.iter().zip(&kind).all(|(byte, want)| byte == want);
    bytes.len() < HEADER && (begins || bytes.iter().all(|byte| *byte == 0))
}

/// The whole frames of a file.
///
/// # Errors
/// [`Unreadable`].
pub fn read(kind: Kind, bytes: &[u8]) -> Result<Frames, Unreadable> {
    let framing = Framing::of(kind, bytes)?;
    let mut frames = Frames { framing, entries: Vec::new(), end: HEADER };
    while let Some(entry) = framing.whole(bytes, frames.end) {
        frames.end = entry.end;
        frames.entries.push(entry);
    }
    let behind = frames.end.saturating_add(1)..bytes.len();
    if behind.into_iter().any(|later| framing.whole(bytes, later).is_some()) {
        return Err(Unreadable::Damaged(frames.end));
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEST: Kind = *b"framed-1";
    const FRAMING: Framing = Framing::new(TEST, *b"sixteen bytes :)");

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        let frames = entries.iter().flat_map(|entry| FRAMING.frame(entry).expect("short enough"));
        FRAMING.header().into_iter().chain(frames).collect()
    }

    fn entries(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Unreadable> {
        Ok(read(TEST, bytes)?.entries.into_iter().map(|entry| bytes[entry].to_vec()).collect())
    }

    #[test]
    fn an_entry_beyond_the_limit_is_refused() {
        assert_eq!(FRAMING.frame(&vec![0; MAX_ENTRY + 1]), Err(TooLong(MAX_ENTRY + 1)));
        assert!(FRAMING.frame(&vec![0; MAX_ENTRY]).is_ok());
    }

    #[test]
    fn a_file_of_another_kind_is_refused_and_one_without_a_header_may_be_begun() {
        let bytes = file(&[vec![1]]);
        assert_eq!(read(*b"framed-2", &bytes), Err(Unreadable::Kind));
        assert_eq!(read(TEST, b"something else entirely"), Err(Unreadable::Kind));
        assert!((0..HEADER).all(|cut| is_unbegun(TEST, &bytes[..cut])));
        assert!(is_unbegun(TEST, &[0; HEADER - 1]));
        assert!(!is_unbegun(TEST, &bytes[..HEADER]) && !is_unbegun(TEST, &[0; HEADER]) && !is_unbegun(TEST, b"else"));
    }

    #[test]
    fn a_damaged_salt_is_damage_and_no_torn_end() {
        for at in KIND..HEADER {
            let mut bytes = file(&[vec![1], vec![2]]);
            bytes[at] ^= 1;
            assert_eq!(entries(&bytes), Err(Unreadable::Damaged(0)), "byte {at}");
        }
    }

    /// The frame of another file, or one made by guesswork, and what is around it.
    fn smuggled() -> impl Strategy<Value = Vec<u8>> {
        let salt = prop::array::uniform16(any::<u8>());
        (salt, prop::collection::vec(any::<u8>(), 0..40), 0_usize..30, 0_usize..30).prop_map(
            |(salt, entry, before, behind)| {
                let frame = Framing::new(TEST, salt).frame(&entry).expect("short enough");
                [vec![7; before], frame, vec![7; behind]].concat()
            },
        )
    }

    proptest! {
        #[test]
        fn an_entry_that_holds_a_whole_frame_of_another_file_and_is_torn_is_a_torn_end(
            before in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..3),
            last in smuggled(),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = file(&before);
            let torn = [whole.clone(), FRAMING.frame(&last).expect("short enough")].concat();
            let torn = &torn[..whole.len() + cut.index(torn.len() - whole.len())];
            prop_assert_eq!(entries(torn), Ok(before));
        }

        #[test]
        fn a_flipped_bit_before_the_last_frame_is_damage_and_in_it_a_torn_end(
            sizes in prop::collection::vec(0_usize..300, 1..6),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let whole: Vec<Vec<u8>> = (1_u8..).zip(&sizes).map(|(n, size)| vec![n; *size]).collect();
            let mut bytes = file(&whole);
            let last = bytes.len() - HEAD - sizes[sizes.len() - 1];
            let at = HEADER + at.index(bytes.len() - HEADER);
            bytes[at] ^= 1 << bit;
            match entries(&bytes) {
                Ok(found) => {
                    prop_assert!(at >= last);
                    prop_assert_eq!(&found, &whole[..whole.len() - 1]);
                }
                Err(Unreadable::Damaged(begin)) => prop_assert!(begin <= at && at < last),
                Err(Unreadable::Kind) => prop_assert!(false, "the header is whole"),
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
            let cut = HEADER + cut.index(bytes.len() + 1 - HEADER);
            // Some file systems lengthen a file before they write to it.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            let found = entries(&torn).expect("not damaged");
            let complete = (0..=whole.len()).filter(|n| file(&whole[..*n]).len() <= cut).count() - 1;
            prop_assert_eq!(&found[..complete], &whole[..complete]);
            // A frame whose missing bytes are zeros is whole with them.
            prop_assert!(found.len() <= complete + 1 && found.as_slice() == &whole[..found.len()]);
        }
    }
}
