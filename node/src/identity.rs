//! Who this node is: one ed25519 key pair, made at the first start.
//!
//! The secret lives in a [secret file](crate::secret_file) and is proven to every peer by the Noise
//! handshake. Nothing else than ed25519 is ever made or accepted, so that 32 bytes name a peer
//! completely. The arithmetic is libp2p's, reached through [`swarm::convert`](crate::swarm::convert).

use std::fmt;
use std::path::Path;

use blobmesh_protocol::PeerId;

use crate::secret_file::{self, SECRET_BYTES, SecretFileError};
use crate::swarm::convert;

/// Holds a node's ed25519 secret and the [`PeerId`] that follows from it; `Debug` shows the latter only.
#[derive(Clone)]
pub struct Identity {
    secret: [u8; SECRET_BYTES],
    peer: PeerId,
}

/// Says why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is unfit or cannot be made.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The system gives no random bytes.
    #[error("cannot make an identity without random bytes")]
    Random(#[source] getrandom::Error),
    /// The secret makes no key pair; no 32 bytes are known that do not.
    #[error("the secret of this identity makes no ed25519 key pair")]
    Secret,
}

impl Identity {
    /// Makes a fresh identity that is nowhere stored.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_secret(random_secret()?)
    }

    /// Makes the identity of a known secret, as RFC 8032 does.
    ///
    /// # Errors
    /// [`IdentityError::Secret`], which no 32 bytes are known to cause.
    pub fn from_secret(secret: [u8; SECRET_BYTES]) -> Result<Self, IdentityError> {
        let peer = convert::peer_of_secret(secret).ok_or(IdentityError::Secret)?;
        Ok(Self { secret, peer })
    }

    /// Reads the identity in `path`, or makes it there at a node's first start.
    ///
    /// # Errors
    /// When the file is readable by others, of another shape, or cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        Self::from_secret(secret_file::load_or_create(path, random_secret)?)
    }

    /// Returns the name under which peers know this node.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns the secret, for the places of this crate that prove the identity.
    pub(crate) fn secret(&self) -> [u8; SECRET_BYTES] {
        self.secret
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

fn random_secret() -> Result<[u8; SECRET_BYTES], IdentityError> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(IdentityError::Random)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_of_a_home_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer(), second.peer());
        assert_ne!(first.peer(), Identity::generate().unwrap().peer());
    }

    #[test]
    fn the_public_key_is_the_one_of_rfc_8032() {
        // The first test vector of RFC 8032, section 7.1.
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).unwrap();
        let identity = Identity::from_secret(secret.try_into().unwrap()).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(identity.peer().as_bytes()), public);
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", Identity::from_secret([0xab; 32]).unwrap());
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
