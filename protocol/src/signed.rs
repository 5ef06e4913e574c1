//! Signatures that cannot be taken for another kind of word or for another mesh.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::codec::{Malformed, encode};
use crate::id::{MeshId, SiteId};

/// What may be signed: its domain keeps a signature on one kind of word from serving for another.
pub trait Signable: Serialize {
    /// Unique for the kind of word, for example `godwit/record`.
    const DOMAIN: &'static str;
    /// Whose key signs it: a site's or a client's.
    type Author: Copy + Eq + fmt::Debug + fmt::Display + AsRef<[u8; 32]> + Serialize + DeserializeOwned;
}

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A word with its author and signature, as it comes from outside: not to be trusted before [`Signed::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Signed<T: Signable> {
    /// What is said.
    pub body: T,
    /// Who says it.
    pub author: T::Author,
    /// Over domain, mesh and body.
    pub signature: Signature,
}

/// A word whose signature was checked. Only [`Signed::verify`] and [`Signed::sign`] make one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Verified<T: Signable>(Signed<T>);

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// The author is not a point of the curve.
    #[error("{0} is not an ed25519 public key")]
    NoKey(alloc::string::String),
    /// The signature is not the author's over this word in this mesh.
    #[error("the signature is not {0}'s over this {1} in this mesh")]
    NoMatch(alloc::string::String, &'static str),
    /// The body has no canonical form.
    #[error("the signed body has no canonical form")]
    Malformed(#[from] Malformed),
}

/// The bytes that are signed for a body in a mesh.
///
/// # Errors
/// [`Malformed`] if the body is too large.
pub fn signing_bytes<T: Signable>(mesh: &MeshId, body: &T) -> Result<Vec<u8>, Malformed> {
    let body = encode(body)?;
    let mut bytes = Vec::with_capacity(T::DOMAIN.len() + 1 + 32 + body.len());
    bytes.extend_from_slice(T::DOMAIN.as_bytes());
    bytes.push(0); // no domain contains a zero: none is the beginning of another
    bytes.extend_from_slice(&mesh.0);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Signs bytes.
#[must_use]
pub fn sign_bytes(key: &SigningKey, bytes: &[u8]) -> Signature {
    scheme::sign(key, bytes)
}

/// Whether `signature` is the key's over the bytes, by the strict equation: all replicas agree on crafted signatures too.
#[must_use]
pub fn verify_bytes(key: &[u8; 32], bytes: &[u8], signature: &Signature) -> bool {
    scheme::key(key).is_some_and(|key| scheme::verify(&key, bytes, signature))
}

/// Public keys as they are computed with. To make one from its bytes is a sixth of verifying a signature, and a ledger has few
/// authors and many signatures.
#[derive(Debug, Default)]
pub struct Keys(BTreeMap<[u8; 32], Option<scheme::Key>>);

/// Keys that are remembered: of more than the validators and the busier members; some 200 bytes each.
const KEYS_MAX: usize = 1024;

impl Keys {
    /// As [`verify_bytes`].
    #[must_use]
    pub fn verify_bytes(&mut self, key: &[u8; 32], bytes: &[u8], signature: &Signature) -> bool {
        if self.0.len() >= KEYS_MAX && !self.0.contains_key(key) {
            self.0.clear();
        }
        let key = self.0.entry(*key).or_insert_with(|| scheme::key(key));
        key.as_ref().is_some_and(|key| scheme::verify(key, bytes, signature))
    }
}

#[cfg(not(feature = "keyed-hash"))]
mod scheme {
    use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

    use super::Signature;

    pub(super) fn sign(key: &SigningKey, bytes: &[u8]) -> Signature {
        Signature(key.sign(bytes).to_bytes())
    }

    pub(super) type Key = VerifyingKey;

    pub(super) fn key(bytes: &[u8; 32]) -> Option<Key> {
        VerifyingKey::from_bytes(bytes).ok()
    }

    pub(super) fn verify(key: &Key, bytes: &[u8], signature: &Signature) -> bool {
        key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// A stand-in for simulations in bulk: anybody could forge it, who would want to, and it costs a hundredth.
#[cfg(feature = "keyed-hash")]
mod scheme {
    use ed25519_dalek::SigningKey;

    use super::Signature;

    pub(super) fn sign(key: &SigningKey, bytes: &[u8]) -> Signature {
        of(key.verifying_key().as_bytes(), bytes)
    }

    pub(super) type Key = [u8; 32];

    pub(super) fn key(bytes: &[u8; 32]) -> Option<Key> {
        Some(*bytes)
    }

    pub(super) fn verify(key: &Key, bytes: &[u8], signature: &Signature) -> bool {
        of(key, bytes) == *signature
    }

    fn of(key: &[u8; 32], bytes: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(blake3::keyed_hash(key, bytes).as_bytes());
        Signature(signature)
    }
}

impl<T: Signable> Signed<T> {
    /// Signs a body with a key whose public half becomes the author.
    ///
    /// # Errors
    /// [`Malformed`] if the body is too large.
    pub fn sign(mesh: &MeshId, key: &SigningKey, body: T) -> Result<Verified<T>, Malformed>
    where
        T::Author: From<VerifyingKey>,
    {
        let signature = sign_bytes(key, &signing_bytes(mesh, &body)?);
        Ok(Verified(Self { body, author: key.verifying_key().into(), signature }))
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`Forged`] says why it does not hold.
    pub fn verify(self, mesh: &MeshId) -> Result<Verified<T>, Forged> {
        self.verify_by(mesh, verify_bytes)
    }

    /// As [`Signed::verify`], for many of the same authors.
    ///
    /// # Errors
    /// [`Forged`] says why it does not hold.
    pub fn verify_with(self, mesh: &MeshId, keys: &mut Keys) -> Result<Verified<T>, Forged> {
        self.verify_by(mesh, |key, bytes, signature| keys.verify_bytes(key, bytes, signature))
    }

    fn verify_by(
        self,
        mesh: &MeshId,
        holds: impl FnOnce(&[u8; 32], &[u8], &Signature) -> bool,
    ) -> Result<Verified<T>, Forged> {
        if holds(self.author.as_ref(), &signing_bytes(mesh, &self.body)?, &self.signature) {
            return Ok(Verified(self));
        }
        let author = alloc::format!("{}", self.author);
        match VerifyingKey::from_bytes(self.author.as_ref()) {
            Ok(_) => Err(Forged::NoMatch(author, T::DOMAIN)),
            Err(_) => Err(Forged::NoKey(author)),
        }
    }
}

impl<T: Signable> Verified<T> {
    /// The word with its signature, to be sent on.
    #[must_use]
    pub fn into_signed(self) -> Signed<T> {
        self.0
    }
}

impl<T: Signable> Deref for Verified<T> {
    type Target = Signed<T>;

    fn deref(&self) -> &Signed<T> {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

// Serde derives arrays of up to 32 elements only.
impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let hex: alloc::string::String = self.0.iter().map(|byte| alloc::format!("{byte:02x}")).collect();
            return serializer.serialize_str(&hex);
        }
        let mut tuple = serializer.serialize_tuple(64)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (left, right) = if deserializer.is_human_readable() {
            let text = alloc::string::String::deserialize(deserializer)?;
            let (left, right) = text.split_at_checked(64).ok_or_else(|| de::Error::custom("signature too short"))?;
            (
                left.parse::<SiteId>().map_err(de::Error::custom)?.0,
                right.parse::<SiteId>().map_err(de::Error::custom)?.0,
            )
        } else {
            <([u8; 32], [u8; 32])>::deserialize(deserializer)?
        };
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&left);
        bytes[32..].copy_from_slice(&right);
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Word(u64);
    impl Signable for Word {
        const DOMAIN: &'static str = "godwit/test-word";
        type Author = SiteId;
    }

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Other(u64);
    impl Signable for Other {
        const DOMAIN: &'static str = "godwit/test-other";
        type Author = SiteId;
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    const MESH: MeshId = MeshId([1; 32]);

    #[test]
    fn keys_that_are_remembered_judge_as_new_ones_do() {
        let word = Signed::sign(&MESH, &key(), Word(5)).unwrap().into_signed();
        let mut keys = Keys::default();
        for n in 0..=u8::MAX {
            let mut other = word.clone();
            other.author.0[0] = n;
            for _ in 0..2 {
                assert_eq!(other.clone().verify_with(&MESH, &mut keys), other.clone().verify(&MESH));
            }
        }
        assert!(keys.0.len() <= KEYS_MAX);
        assert!(word.verify_with(&MESH, &mut keys).is_ok());
    }

    #[test]
    fn a_signed_word_survives_the_wire() {
        let word = Signed::sign(&MESH, &key(), Word(5)).unwrap();
        let back: Signed<Word> = decode(&encode(&word).unwrap()).unwrap();
        assert_eq!(back.verify(&MESH).unwrap(), word);
    }

    #[test]
    fn a_signature_does_not_serve_for_another_mesh_word_body_or_author() {
        let word = Signed::sign(&MESH, &key(), Word(5)).unwrap().into_signed();
        assert!(word.clone().verify(&MeshId([2; 32])).is_err());
        assert!(Signed { body: Word(6), ..word.clone() }.verify(&MESH).is_err());
        let other = Signed { body: Other(5), author: word.author, signature: word.signature };
        assert!(other.verify(&MESH).is_err());
        let stranger = SigningKey::from_bytes(&[8; 32]).verifying_key().into();
        assert!(Signed { author: stranger, ..word }.verify(&MESH).is_err());
    }
}
