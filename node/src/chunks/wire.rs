//! What travels on a pull stream. Chunks are framed by hand: a serializer would copy them byte by byte.

use godwit_protocol::manifest::CHUNK;
use godwit_protocol::{Malformed, codec, decode, encode};
use libp2p::bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::PartKey;

/// The largest request: a part's key.
pub const REQUEST_MAX: usize = 256;
/// The largest answer: a manifest, with its tag.
pub const ANSWER_MAX: usize = codec::LIMIT + 1;

const TAG_REFUSED: u8 = 0;
const TAG_MANIFEST: u8 = 1;
const TAG_CHUNK: u8 = 2;
/// Tag, file, index.
const CHUNK_HEADER: usize = 9;

/// What the target asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First and once: which part. Answered by its manifest.
    Open(PartKey),
    /// One chunk of it.
    Chunk(Place),
}

/// A chunk's place in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Index of the file.
    pub file: u32,
    /// Index of the chunk in the file.
    pub chunk: u32,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The part is not offered to this site: not yet, no longer, or never.
    #[error("the part is not offered to this site")]
    NotOffered,
    /// The manifest has no such chunk.
    #[error("the manifest has no such chunk")]
    NoSuchChunk,
    /// The source cannot read the chunk.
    #[error("the source cannot read the chunk")]
    Unreadable,
    /// Not a request, or not in its place.
    #[error("the request makes no sense here")]
    Nonsense,
}

/// What the source answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The rest of the stream is worth nothing.
    Refused(Refused),
    /// The manifest's canonical bytes.
    Manifest(Bytes),
    /// A chunk's bytes, not verified.
    Chunk(Place, Bytes),
}

/// Why an answer is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// No such kind of answer.
    #[error("no answer has the tag {0:?}")]
    Tag(Option<u8>),
    /// Too short or too long for a chunk.
    #[error("a chunk of {0} bytes with its header")]
    Chunk(usize),
    /// The refusal is none.
    #[error("not a refusal")]
    Refusal(#[from] Malformed),
}

impl Answer {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (tag, body) = match self {
            Self::Refused(refused) => (TAG_REFUSED, Bytes::from(encode(refused).expect("a refusal is a few bytes"))),
            Self::Manifest(manifest) => (TAG_MANIFEST, manifest.clone()),
            Self::Chunk(place, data) => {
                let mut frame = chunk_frame(*place, data.len());
                frame.put_slice(data);
                return frame.freeze();
            }
        };
        let mut frame = BytesMut::with_capacity(1 + body.len());
        frame.put_u8(tag);
        frame.put_slice(&body);
        frame.freeze()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`BadAnswer`].
    pub fn decode(mut frame: Bytes) -> Result<Self, BadAnswer> {
        let length = frame.len();
        match frame.first() {
            Some(&TAG_REFUSED) => Ok(Self::Refused(decode(&frame[1..])?)),
            Some(&TAG_MANIFEST) => Ok(Self::Manifest(frame.slice(1..))),
            Some(&TAG_CHUNK) if (CHUNK_HEADER + 1..=CHUNK_HEADER + CHUNK as usize).contains(&length) => {
                frame.advance(1);
                let place = Place { file: frame.get_u32(), chunk: frame.get_u32() };
                Ok(Self::Chunk(place, frame))
            }
            Some(&TAG_CHUNK) => Err(BadAnswer::Chunk(length)),
            other => Err(BadAnswer::Tag(other.copied())),
        }
    }
}

/// The beginning of a chunk's frame, with room for the bytes.
#[must_use]
pub fn chunk_frame(place: Place, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(CHUNK_HEADER + length);
    frame.put_u8(TAG_CHUNK);
    frame.put_u32(place.file);
    frame.put_u32(place.chunk);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusals() -> impl Strategy<Value = Answer> {
        prop_oneof![
            Just(Refused::NotOffered),
            Just(Refused::NoSuchChunk),
            Just(Refused::Unreadable),
            Just(Refused::Nonsense)
        ]
        .prop_map(Answer::Refused)
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let bytes = proptest::collection::vec(any::<u8>(), 1..300);
        prop_oneof![
            refusals(),
            bytes.clone().prop_map(|bytes| Answer::Manifest(bytes.into())),
            (any::<u32>(), any::<u32>(), bytes)
                .prop_map(|(file, chunk, bytes)| Answer::Chunk(Place { file, chunk }, bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_survives_the_wire(answer in answers()) {
            prop_assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let frame = Bytes::from(bytes);
            if let Ok(answer) = Answer::decode(frame.clone()) {
                prop_assert_eq!(answer.encode(), frame);
            }
        }
    }

    #[test]
    fn a_chunk_above_its_size_is_refused() {
        let place = Place { file: 0, chunk: 0 };
        let most = Answer::Chunk(place, vec![0; CHUNK as usize].into());
        assert_eq!(Answer::decode(most.encode()), Ok(most));
        let more = Answer::Chunk(place, vec![0; CHUNK as usize + 1].into());
        assert_eq!(Answer::decode(more.encode()), Err(BadAnswer::Chunk(CHUNK as usize + 10)));
    }
}
