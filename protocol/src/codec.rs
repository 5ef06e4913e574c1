//! Canonical bytes: bincode behind a version byte, with a hard limit on size.
//!
//! Bincode's varints are not canonical by themselves (5 can be written in nine bytes), so a decoded value must encode to
//! the very bytes it came from. Otherwise two replicas could hold different bytes, and hashes, for one value.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format's version, the first byte of everything encoded.
pub const VERSION: u8 = 1;

/// The largest value that is encoded or decoded: a block of 4 MiB with room for its header and certificate.
pub const LIMIT: usize = 4 * 1024 * 1024 + 64 * 1024;

/// Room for a vote or a record, most of what is encoded.
const USUAL: usize = 512;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<LIMIT>,
> = bincode::config::standard().with_limit::<LIMIT>();

/// Why bytes are not the canonical form of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are no bytes at all.
    #[error("empty")]
    Empty,
    /// Longer than [`LIMIT`].
    #[error("{0} bytes, more than the limit of {LIMIT}")]
    TooLong(usize),
    /// Written by another version of the format.
    #[error("format version {0}, this is version {VERSION}")]
    Version(u8),
    /// Not a value of the type.
    #[error("not a valid value: {0}")]
    Invalid(String),
    /// Bytes left over after the value.
    #[error("{0} bytes after the value")]
    Trailing(usize),
    /// A valid value, but not its canonical form.
    #[error("not the canonical form of the value")]
    NotCanonical,
}

/// The canonical bytes of a value.
///
/// # Errors
/// [`Malformed::TooLong`] above [`LIMIT`]; [`Malformed::Invalid`] for what bincode cannot express.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::with_capacity(USUAL);
    bytes.push(VERSION);
    bincode::serde::encode_into_writer(value, Sink(&mut bytes), CONFIG)
        .map_err(|e| Malformed::Invalid(e.to_string()))?;
    if bytes.len() > LIMIT { Err(Malformed::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The value whose canonical bytes these are.
///
/// # Errors
/// [`Malformed`] says what is wrong with them.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() > LIMIT {
        return Err(Malformed::TooLong(bytes.len()));
    }
    let (&version, body) = bytes.split_first().ok_or(Malformed::Empty)?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let (value, consumed) =
        bincode::serde::decode_from_slice(body, CONFIG).map_err(|e| Malformed::Invalid(e.to_string()))?;
    if consumed != body.len() {
        return Err(Malformed::Trailing(body.len() - consumed));
    }
    let mut rest = body;
    let same = bincode::serde::encode_into_writer(&value, Same(&mut rest), CONFIG).is_ok() && rest.is_empty();
    if same { Ok(value) } else { Err(Malformed::NotCanonical) }
}

/// Appends what is encoded.
struct Sink<'a>(&'a mut Vec<u8>);

impl Writer for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        // Keys, hashes and signatures come byte by byte.
        match bytes {
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// Compares what is encoded with what is expected, without a copy of it.
struct Same<'a, 'b>(&'a mut &'b [u8]);

impl Writer for Same<'_, '_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        // As above: a comparison of memory for every byte would cost more than all the rest.
        let rest = match (bytes, *self.0) {
            ([byte], [first, rest @ ..]) => (byte == first).then_some(rest),
            (bytes, expected) => expected.strip_prefix(bytes),
        };
        *self.0 = rest.ok_or(EncodeError::Other("another value"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let value = (7u64, String::from("godwit"), vec![1u8, 2, 3]);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&encode(&value).unwrap()), Ok(value));
    }

    #[test]
    fn every_departure_from_the_canonical_form_is_refused_by_name() {
        assert_eq!(decode::<u64>(&[]), Err(Malformed::Empty));
        assert_eq!(decode::<u64>(&[9, 5]), Err(Malformed::Version(9)));
        assert_eq!(decode::<u64>(&[VERSION, 5, 5]), Err(Malformed::Trailing(1)));
        assert_eq!(decode::<u64>(&[VERSION, 251, 5, 0]), Err(Malformed::NotCanonical));
        assert_eq!(decode::<(u8, u64, u8)>(&[VERSION, 9, 251, 5, 0, 9]), Err(Malformed::NotCanonical));
        assert!(matches!(decode::<u64>(&[VERSION]), Err(Malformed::Invalid(_))));
        assert_eq!(decode::<Vec<u8>>(&vec![0; LIMIT + 1]), Err(Malformed::TooLong(LIMIT + 1)));
    }

    #[test]
    fn a_length_that_promises_more_than_the_limit_is_refused_without_allocating_it() {
        let mut bytes = vec![VERSION, 253];
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(Malformed::Invalid(_))));
    }
}
