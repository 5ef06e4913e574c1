//! Lists and texts with a greatest length that holds from the moment they are decoded.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, de};

/// More elements or bytes than the type admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{got} where at most {most} are allowed")]
pub struct TooLong {
    /// What was given.
    pub got: usize,
    /// What is allowed.
    pub most: usize,
}

/// At most `MAX` elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct List<T, const MAX: usize>(Vec<T>);

/// UTF-8 of at most `MAX` bytes, without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Text<const MAX: usize>(String);

impl<T, const MAX: usize> List<T, MAX> {
    /// # Errors
    /// [`TooLong`] if there are more than `MAX`.
    pub fn new(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > MAX { Err(TooLong { got: items.len(), most: MAX }) } else { Ok(Self(items)) }
    }

    /// The first `MAX` of them.
    pub fn first(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }

    /// The elements themselves.
    #[must_use]
    pub fn into_inner(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The codec's own limit bounds what is allocated before this check.
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl<const MAX: usize> Text<MAX> {
    /// # Errors
    /// [`TooLong`] if it has more than `MAX` bytes. Control characters become `?`: they have no business in a name or a
    /// reason, and would reach an operator's terminal.
    pub fn new(text: &str) -> Result<Self, TooLong> {
        if text.len() > MAX {
            return Err(TooLong { got: text.len(), most: MAX });
        }
        Ok(Self(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()))
    }

    /// The longest beginning that fits.
    #[must_use]
    pub fn clipped(text: &str) -> Self {
        let mut clipped = String::new();
        for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
            if clipped.len() + c.len_utf8() > MAX {
                break;
            }
            clipped.push(c);
        }
        Self(clipped)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Most are plain, which is seen many bytes at a time.
        let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !plain && text.chars().any(char::is_control) {
            return Err(de::Error::custom("control character in a text"));
        }
        if text.len() > MAX {
            return Err(de::Error::custom(TooLong { got: text.len(), most: MAX }));
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use alloc::vec;

    #[test]
    fn a_list_over_its_bound_does_not_decode() {
        let long = encode(&List::<u8, 4>(vec![1; 4])).unwrap();
        assert!(decode::<List<u8, 4>>(&long).is_ok());
        assert!(decode::<List<u8, 3>>(&long).is_err());
    }

    #[test]
    fn a_text_with_a_control_character_does_not_decode() {
        let bell = encode(&Text::<8>(String::from("a\u{7}b"))).unwrap();
        assert!(decode::<Text<8>>(&bell).is_err());
        assert_eq!(Text::<8>::new("a\u{7}b").unwrap().as_str(), "a?b");
        for (text, holds) in
            [("plain ~", true), ("héé", true), ("\u{7f}", false), ("é\u{85}", false), ("123456789", false)]
        {
            let back = decode::<Text<8>>(&encode(&String::from(text)).unwrap());
            assert_eq!(back.ok(), holds.then(|| Text(String::from(text))), "{text:?}");
        }
    }

    #[test]
    fn a_clipped_text_ends_on_a_character() {
        assert_eq!(Text::<3>::clipped("aéé").as_str(), "aé");
    }
}
