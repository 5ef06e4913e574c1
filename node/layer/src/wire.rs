//! What source and target say to each other about a layer, over any ordered stream of bytes.
//!
//! Both sides first send a greeting of 9 bytes: `"gwlayer\0"` and the version, 1. Then frames follow: a tag of one byte, the
//! body's length (u32), the body. All integers outside of bincode are little-endian.
//!
//! | tag | from | body |
//! | --- | --- | --- |
//! | 1 | source | [`FromSource`], bincode |
//! | 2 | target | [`FromTarget`], bincode |
//! | 3 | source | a chunk: index of the entry (u32) and of the chunk (u32) as asked, then its data without holes |
//! | 4 | source | the chunk cannot be read, for the file went meanwhile: the two indices |
//!
//! The target begins with [`FromTarget::Have`]. Each round is [`FromSource::Round`], any number of
//! [`FromSource::Changes`], [`FromSource::End`]; then the target asks and the source answers in that order, until the target
//! says [`FromTarget::Staged`]. The target has at most two [`FromTarget::Want`] unanswered, so that neither side ever waits
//! for the other to read: what it asks fits the smallest buffers that sockets have.
//!
//! Invariant: what the other side sends is bounded before it is believed.

use std::fmt;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

use godwit_protocol::Hash;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::LayerError;
use crate::path::LayerPath;
use crate::tree::{CELL, Entry};

const GREETING: [u8; 9] = *b"gwlayer\0\x01";

const TAG_SOURCE: u8 = 1;
const TAG_TARGET: u8 = 2;
const TAG_CHUNK: u8 = 3;
const TAG_UNREADABLE: u8 = 4;

/// A file of 256 GiB has a million chunks: 32 MiB of hashes in one entry, and as much for its holes.
const MESSAGE_MAX: usize = 64 << 20;
/// What a target says: a batch of places.
const ASKED_MAX: usize = 16 << 10;
const PLACE: usize = 8;
const CHUNK_MAX: usize = PLACE + CELL;
/// Entries travel in messages of about this size: the target reads one while the next is on its way.
pub const CHANGES: usize = 1 << 20;
/// Entries in one message, each of which takes at least 100 bytes in memory and may take less on the wire.
const BATCH_MAX: usize = 16_384;
/// Places in one [`FromTarget::Want`]: 64 MiB of large files, and half a MiB of small ones.
pub const WANT_MAX: usize = 256;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MESSAGE_MAX>,
> = bincode::config::standard().with_limit::<MESSAGE_MAX>();

/// Why layers do not come to be the same at both sides.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The stream ended or failed: connect again, what arrived is kept.
    #[error("the connection for the layer is lost")]
    Lost(#[from] io::Error),
    /// The other side is none that moves layers, or of another version.
    #[error(
        "the other side greets with {0:02x?}, not as version 1 of what moves layers: both sites need the same version"
    )]
    Greeting([u8; 9]),
    /// The other side breaks the protocol.
    #[error("the other side breaks the layer protocol: {0}")]
    Broken(&'static str),
    /// The tree is not the one that was announced: its root differs.
    #[error("the layer's tree was damaged on its way: its BLAKE3 differs")]
    Damaged,
    /// All tasks stand still, and yet a chunk is not what its hash says: it was damaged, or the source lies, or something
    /// still writes.
    #[error("{}: chunk {chunk} is not what its BLAKE3 says", path.as_path().display())]
    Wrong {
        /// The file.
        path: LayerPath,
        /// The chunk's index in it.
        chunk: u64,
    },
    /// This side cannot read or write its files.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// What the source says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSource {
    /// A tree follows.
    Round {
        /// As changes of the one that the target has, or from nothing.
        on_yours: bool,
        /// Tasks are stopped: every chunk must be what its hash says.
        last: bool,
    },
    /// A part of the changes.
    Changes {
        /// Names that went, in order.
        #[serde(deserialize_with = "at_most::<_, _, BATCH_MAX>")]
        gone: Vec<LayerPath>,
        /// Entries that came or changed, in order.
        #[serde(deserialize_with = "at_most::<_, _, BATCH_MAX>")]
        new: Vec<Entry>,
    },
    /// That was all; the tree's root.
    End(Hash),
}

/// What the target says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromTarget {
    /// The root of the tree that changes may refer to.
    Have(Hash),
    /// These chunks, at most [`WANT_MAX`].
    Want(#[serde(deserialize_with = "at_most::<_, _, WANT_MAX>")] Vec<Place>),
    /// All is laid out but for so many chunks, none if the round was the last.
    Staged { lacking: u64 },
}

/// A chunk's place in the tree of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // named by themselves
pub struct Place {
    pub entry: u32,
    pub chunk: u32,
}

/// What comes from the source.
#[derive(Debug, PartialEq, Eq)]
pub enum SourceFrame {
    Says(FromSource),
    Chunk(Place, Vec<u8>),
    Unreadable(Place),
}

/// Greets and reads the other side's greeting.
pub fn greet(read: &mut impl Read, write: &mut impl Write) -> Result<(), SessionError> {
    write.write_all(&GREETING)?;
    write.flush()?;
    let mut greeting = [0; 9];
    read.read_exact(&mut greeting)?;
    if greeting == GREETING { Ok(()) } else { Err(SessionError::Greeting(greeting)) }
}

impl FromSource {
    pub fn write(&self, write: &mut impl Write) -> Result<(), SessionError> {
        message(write, TAG_SOURCE, self, MESSAGE_MAX)
    }
}

impl FromTarget {
    pub fn write(&self, write: &mut impl Write) -> Result<(), SessionError> {
        message(write, TAG_TARGET, self, ASKED_MAX)
    }

    pub fn read(read: &mut impl Read) -> Result<Self, SessionError> {
        match head(read)? {
            (TAG_TARGET, length) => decode(&body(read, length, ASKED_MAX)?),
            _ => Err(SessionError::Broken("a target says no such thing")),
        }
    }
}

impl SourceFrame {
    pub fn read(read: &mut impl Read) -> Result<Self, SessionError> {
        let (tag, length) = head(read)?;
        match tag {
            TAG_SOURCE => Ok(Self::Says(decode(&body(read, length, MESSAGE_MAX)?)?)),
            TAG_CHUNK => {
                let mut place = [0; PLACE];
                let data = length.checked_sub(PLACE).ok_or(SessionError::Broken("a chunk without its place"))?;
                if length > CHUNK_MAX {
                    return Err(SessionError::Broken("a chunk above its size"));
                }
                read.read_exact(&mut place)?;
                Ok(Self::Chunk(Place::from_bytes(place), body(read, data, CHUNK_MAX)?))
            }
            TAG_UNREADABLE if length == PLACE => {
                let mut place = [0; PLACE];
                read.read_exact(&mut place)?;
                Ok(Self::Unreadable(Place::from_bytes(place)))
            }
            _ => Err(SessionError::Broken("a source says no such thing")),
        }
    }
}

impl Place {
    fn from_bytes([a, b, c, d, e, f, g, h]: [u8; PLACE]) -> Self {
        Self { entry: u32::from_le_bytes([a, b, c, d]), chunk: u32::from_le_bytes([e, f, g, h]) }
    }

    /// Sends the chunk that was asked.
    pub fn answer(self, write: &mut impl Write, data: Option<&[u8]>) -> Result<(), SessionError> {
        let (tag, data) = data.map_or((TAG_UNREADABLE, &[][..]), |data| (TAG_CHUNK, data));
        frame_head(write, tag, PLACE + data.len())?;
        write.write_all(&self.entry.to_le_bytes())?;
        write.write_all(&self.chunk.to_le_bytes())?;
        Ok(write.write_all(data)?)
    }
}

fn message(write: &mut impl Write, tag: u8, value: &impl Serialize, max: usize) -> Result<(), SessionError> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())
        .ok()
        .filter(|bytes| bytes.len() <= max)
        .ok_or(SessionError::Broken("an entry of this layer is too large for a message"))?;
    frame_head(write, tag, bytes.len())?;
    Ok(write.write_all(&bytes)?)
}

fn frame_head(write: &mut impl Write, tag: u8, length: usize) -> Result<(), SessionError> {
    let length = u32::try_from(length).map_err(|_| SessionError::Broken("a message above its size"))?;
    write.write_all(&[tag])?;
    Ok(write.write_all(&length.to_le_bytes())?)
}

fn head(read: &mut impl Read) -> Result<(u8, usize), SessionError> {
    let mut head = [0; 5];
    read.read_exact(&mut head)?;
    let [tag, length @ ..] = head;
    Ok((tag, u32::from_le_bytes(length) as usize))
}

/// Memory grows with what arrives, not with what is promised.
fn body(read: &mut impl Read, length: usize, max: usize) -> Result<Vec<u8>, SessionError> {
    if length > max {
        return Err(SessionError::Broken("a message above its size"));
    }
    let mut bytes = Vec::with_capacity(length.min(CHUNK_MAX));
    if read.take(length as u64).read_to_end(&mut bytes)? < length {
        return Err(SessionError::Lost(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SessionError> {
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        Ok((value, consumed)) if consumed == bytes.len() => Ok(value),
        Ok(_) => Err(SessionError::Broken("bytes after a message")),
        Err(_) => Err(SessionError::Broken("bytes that are no message")),
    }
}

/// A list of at most `MAX` elements, refused before more are read: in memory they may be many times what they are on the wire.
pub fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error> {
    struct AtMost<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(AtMost::<T, MAX>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target() -> impl Strategy<Value = FromTarget> {
        let place = (any::<u32>(), any::<u32>()).prop_map(|(entry, chunk)| Place { entry, chunk });
        prop_oneof![
            any::<[u8; 32]>().prop_map(|hash| FromTarget::Have(Hash(hash))),
            proptest::collection::vec(place, 0..WANT_MAX).prop_map(FromTarget::Want),
            any::<u64>().prop_map(|lacking| FromTarget::Staged { lacking }),
        ]
    }

    proptest! {
        #[test]
        fn what_a_target_says_survives_the_wire(said in target()) {
            let mut bytes = Vec::new();
            said.write(&mut bytes).unwrap();
            prop_assert_eq!(FromTarget::read(&mut bytes.as_slice()).unwrap(), said);
        }

        #[test]
        fn a_chunk_survives_the_wire(entry: u32, chunk: u32, data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))) {
            let place = Place { entry, chunk };
            let mut bytes = Vec::new();
            place.answer(&mut bytes, data.as_deref()).unwrap();
            let expected = data.map_or(SourceFrame::Unreadable(place), |data| SourceFrame::Chunk(place, data));
            prop_assert_eq!(SourceFrame::read(&mut bytes.as_slice()).unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(tag in 0u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut frame = vec![tag];
            frame.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            frame.extend(bytes);
            let _ = SourceFrame::read(&mut frame.as_slice());
            let _ = FromTarget::read(&mut frame.as_slice());
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        for (tag, length) in [(TAG_SOURCE, MESSAGE_MAX + 1), (TAG_CHUNK, CHUNK_MAX + 1), (TAG_UNREADABLE, 9), (9, 0)] {
            let mut frame = vec![tag];
            frame.extend(u32::try_from(length).unwrap().to_le_bytes());
            assert!(matches!(SourceFrame::read(&mut frame.as_slice()), Err(SessionError::Broken(_))), "{tag}");
        }
        let mut frame = vec![TAG_TARGET];
        frame.extend(u32::try_from(ASKED_MAX + 1).unwrap().to_le_bytes());
        assert!(matches!(FromTarget::read(&mut frame.as_slice()), Err(SessionError::Broken(_))));
    }

    #[test]
    fn a_full_batch_fits_what_a_target_may_say() {
        let place = Place { entry: u32::MAX, chunk: u32::MAX };
        let mut bytes = Vec::new();
        FromTarget::Want(vec![place; WANT_MAX]).write(&mut bytes).unwrap();
        assert!(bytes.len() <= ASKED_MAX);
    }

    #[test]
    fn a_message_of_very_many_things_is_refused() {
        let said = FromSource::Changes { gone: vec![LayerPath::ROOT; BATCH_MAX + 1], new: Vec::new() };
        let mut bytes = Vec::new();
        said.write(&mut bytes).unwrap();
        assert!(matches!(SourceFrame::read(&mut bytes.as_slice()), Err(SessionError::Broken(_))));
    }

    #[test]
    fn half_a_frame_is_a_lost_connection() {
        let mut bytes = Vec::new();
        FromSource::End(Hash::ZERO).write(&mut bytes).unwrap();
        bytes.pop();
        assert!(matches!(SourceFrame::read(&mut bytes.as_slice()), Err(SessionError::Lost(_))));
    }
}
