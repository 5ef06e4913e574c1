//! One ed25519 key is a site's ledger identity and its libp2p peer id: the two names are translated here.

use ed25519_dalek::SigningKey;
use godwit_protocol::{ClientId, SiteId};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};

/// The multihash code of a peer id that holds its key itself instead of a hash of it; ed25519 keys are short enough.
const IDENTITY_HASH: u64 = 0;

/// Why a peer or a key has no other name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The peer's key is of another kind, or hashed.
    #[error("peer {0} is not an ed25519 key")]
    NotEd25519(PeerId),
    /// The bytes are not a point of the curve.
    #[error("{0} is not an ed25519 public key")]
    NotAKey(SiteId),
}

/// The libp2p key pair of a signing key.
///
/// # Panics
/// Never: every 32 bytes are an ed25519 secret.
#[must_use]
pub fn keypair(key: &SigningKey) -> Keypair {
    Keypair::ed25519_from_bytes(key.to_bytes()).expect("any 32 bytes are an ed25519 secret")
}

/// The libp2p peer of a site.
///
/// # Errors
/// [`NoIdentity::NotAKey`]: a site id may come from outside and need not be a key at all.
pub fn peer_of(site: &SiteId) -> Result<PeerId, NoIdentity> {
    let key = ed25519::PublicKey::try_from_bytes(&site.0).map_err(|_| NoIdentity::NotAKey(*site))?;
    Ok(PeerId::from_public_key(&PublicKey::from(key)))
}

/// The client behind a libp2p peer, by the same rule as the site.
///
/// # Errors
/// As for [`site_of`].
pub fn client_of(peer: &PeerId) -> Result<ClientId, NoIdentity> {
    site_of(peer).map(|site| ClientId(site.0))
}

/// The site behind a libp2p peer.
///
/// # Errors
/// [`NoIdentity::NotEd25519`] for any other kind of key.
pub fn site_of(peer: &PeerId) -> Result<SiteId, NoIdentity> {
    let refused = || NoIdentity::NotEd25519(*peer);
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return Err(refused());
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).map_err(|_| refused())?;
    Ok(SiteId(key.try_into_ed25519().map_err(|_| refused())?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_and_its_peer_name_each_other() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let site = SiteId::from(key.verifying_key());
        let peer = peer_of(&site).unwrap();
        assert_eq!(peer, keypair(&key).public().to_peer_id());
        assert_eq!(site_of(&peer), Ok(site));
    }

    #[test]
    fn what_is_no_key_is_no_peer() {
        // y = 2 is on no point of the curve.
        let mut bytes = [0; 32];
        bytes[0] = 2;
        assert_eq!(peer_of(&SiteId(bytes)), Err(NoIdentity::NotAKey(SiteId(bytes))));
    }

    #[test]
    fn a_hashed_peer_is_no_site() {
        let hashed = PeerId::random();
        // A random peer id is an identity multihash of 32 random bytes, which are no protobuf of a key.
        assert_eq!(site_of(&hashed), Err(NoIdentity::NotEd25519(hashed)));
    }
}
