//! Identities: 16 or 32 bytes, shown and parsed as lower-case hexadecimal.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text is not the hexadecimal form of an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got `{got}`")]
pub struct NotAnId {
    expected: usize,
    got: String,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], NotAnId> {
    let refused = || NotAnId { expected: N * 2, got: text.chars().take(N * 2 + 8).collect() };
    if text.len() != N * 2 || !text.is_ascii() {
        return Err(refused());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = core::str::from_utf8(pair).map_err(|_| refused())?;
        if pair.bytes().any(|digit| !digit.is_ascii_hexdigit() || digit.is_ascii_uppercase()) {
            return Err(refused());
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
    }
    Ok(bytes)
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The first eight hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = alloc::format!("{self}");
                text.truncate(8);
                text
            }
        }

        impl AsRef<[u8; $len]> for $name {
            fn as_ref(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

identity!(
    /// A mesh: the BLAKE3 hash of its genesis.
    MeshId, 32
);
identity!(
    /// A site: its ed25519 public key, which is also its libp2p peer, its ledger signature and its validator key.
    SiteId, 32
);
identity!(
    /// A client, for example a vehicle: its ed25519 public key.
    ClientId, 32
);
identity!(
    /// A container in the whole mesh; an engine's own id for it is local to that engine.
    ContainerId, 16
);
identity!(
    /// An image: the SHA-256 digest of its configuration, as container engines name it.
    ImageId, 32
);
identity!(
    /// A BLAKE3 hash.
    Hash, 32
);
identity!(
    /// A record of the ledger: the BLAKE3 hash of its canonical bytes without the signature.
    RecordId, 32
);
identity!(
    /// An offer: the id of the record that made it.
    OfferId, 32
);

/// BLAKE3 takes 16 KiB at once several times as fast as in small pieces: from so many on parts are put together first.
const MANY_PARTS: usize = 32;

fn frame(domain: &str, parts: &[&[u8]], mut put: impl FnMut(&[u8])) {
    for part in core::iter::once(&domain.as_bytes()).chain(parts) {
        put(&(part.len() as u64).to_le_bytes());
        put(part);
    }
}

impl Hash {
    /// No hash: the parent of the first block, the root of an empty tree.
    pub const ZERO: Self = Self([0; 32]);

    /// BLAKE3 of the bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// BLAKE3 of the parts, each preceded by its length so that no two lists of parts collide.
    #[must_use]
    pub fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        if parts.len() < MANY_PARTS {
            let mut hasher = blake3::Hasher::new();
            frame(domain, parts, |bytes| {
                hasher.update(bytes);
            });
            return Self(*hasher.finalize().as_bytes());
        }
        let mut whole = Vec::new();
        frame(domain, parts, |bytes| whole.extend_from_slice(bytes));
        Self::of(&whole)
    }
}

impl From<RecordId> for OfferId {
    fn from(record: RecordId) -> Self {
        Self(record.0)
    }
}

impl From<VerifyingKey> for SiteId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl From<VerifyingKey> for ClientId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_id_is_read_back_from_its_text() {
        let id = ContainerId([0xa7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "a7",
            "zz".repeat(16).as_str(),
            "A7".repeat(16).as_str(),
            "é".repeat(16).as_str(),
            "+1".repeat(16).as_str(),
        ] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn many_parts_have_the_hash_that_they_have_one_by_one() {
        let parts: Vec<[u8; 32]> = (0..2_000_u16).map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        for count in [0, 1, MANY_PARTS - 1, MANY_PARTS, MANY_PARTS + 1, 2_000] {
            let parts: Vec<&[u8]> = parts[..count].iter().map(<[u8; 32]>::as_slice).collect();
            let mut hasher = blake3::Hasher::new();
            for part in core::iter::once(&&b"domain"[..]).chain(&parts) {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            assert_eq!(Hash::of_parts("domain", &parts).0, *hasher.finalize().as_bytes(), "{count}");
        }
    }

    #[test]
    fn parts_are_not_confused_with_their_concatenation() {
        assert_ne!(Hash::of_parts("d", &[b"ab", b"c"]), Hash::of_parts("d", &[b"a", b"bc"]));
    }
}
