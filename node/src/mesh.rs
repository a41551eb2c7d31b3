//! Which mesh a node belongs to: the key its members share, and what is derived from it.
//!
//! The key is 32 random bytes, never a passphrase: some of what is derived from it is public, and a
//! guessable key could be searched for. Every use derives a key of its own with BLAKE3's
//! key derivation and a context of its own, so that none tells anything about another:
//!
//! | derived | length | who sees it | for |
//! |---|---|---|---|
//! | [mesh id](MeshKey::mesh_id) | 8 bytes | anybody | names of protocols |
//! | [Noise prologue](MeshKey::noise_prologue) | 32 bytes | nobody | handshakes that only members complete |
//! | [mesh tag](MeshKey::mesh_tag) | 8 bytes, salted | the LAN | mDNS announcements that only members recognise |
//! | [peer tag](MeshKey::peer_tag) | 8 bytes, salted | the LAN | which member announces itself |
//!
//! A [`Ticket`] carries the key and a few addresses from a member to a newcomer. Whoever holds the key
//! is a member, and nothing here revokes it.

mod ticket;

use std::fmt;
use std::path::Path;

use blobmesh_protocol::PeerId;
use data_encoding::HEXLOWER;

use crate::secret_file::{self, SECRET_BYTES, SecretFileError};

pub use ticket::{Ticket, TicketError};

const CONTEXT_OPEN: &str = "blobmesh 2026-11 open mesh key v1";
const CONTEXT_ID: &str = "blobmesh 2026-11 mesh id v1";
const CONTEXT_PROLOGUE: &str = "blobmesh 2026-11 noise prologue v1";
const CONTEXT_MESH_TAG: &str = "blobmesh 2026-11 mdns mesh tag v1";
const CONTEXT_PEER_TAG: &str = "blobmesh 2026-11 mdns peer tag v1";

/// The length of salts and tags in mDNS announcements, in bytes.
pub const TAG_BYTES: usize = 8;

/// Holds the key that the members of a mesh share; `Debug` shows the public id only.
#[derive(Clone, PartialEq, Eq)]
pub struct MeshKey([u8; SECRET_BYTES]);

/// Says why there is no mesh key.
#[derive(Debug, thiserror::Error)]
pub enum MeshKeyError {
    /// The file is unfit or cannot be made.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The bytes are zero or the well-known key of open meshes: everybody has them.
    #[error("this mesh key is known to everybody and keeps nobody out")]
    Known,
    /// The system gives no random bytes.
    #[error("cannot make a mesh key without random bytes")]
    Random(#[source] getrandom::Error),
}

impl MeshKey {
    /// Makes the key of a new private mesh.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, MeshKeyError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(MeshKeyError::Random)?;
        Self::from_bytes(bytes)
    }

    /// Takes the key of a private mesh from its bytes.
    ///
    /// # Errors
    /// [`MeshKeyError::Known`] for zero bytes and for the key of open meshes.
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Result<Self, MeshKeyError> {
        let key = Self(bytes);
        if bytes == [0; SECRET_BYTES] || key.is_open() {
            return Err(MeshKeyError::Known);
        }
        Ok(key)
    }

    /// Returns the well-known key of an open mesh, which keeps nobody out.
    pub fn open() -> Self {
        Self(blake3::derive_key(CONTEXT_OPEN, &[]))
    }

    /// Returns whether this is the well-known key of an open mesh.
    pub fn is_open(&self) -> bool {
        *self == Self::open()
    }

    /// Reads the key in `path`, 64 hex digits in a file of mode 0600.
    ///
    /// # Errors
    /// When the file is missing, readable by others, of another shape, or holds a known key.
    pub fn load(path: &Path) -> Result<Self, MeshKeyError> {
        Self::from_bytes(secret_file::load(path)?)
    }

    /// Reads the key in `path`, or makes the key of a new private mesh there.
    ///
    /// # Errors
    /// As [`MeshKey::load`], and when the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, MeshKeyError> {
        let bytes = secret_file::load_or_create(path, || Self::generate().map(|key| key.0))?;
        Self::from_bytes(bytes)
    }

    /// Writes the key to a new file `path`; an existing key is never replaced.
    ///
    /// # Errors
    /// When the file exists ([`SecretFileError::is_already_there`]) or cannot be written.
    pub fn store_new(&self, path: &Path) -> Result<(), MeshKeyError> {
        Ok(secret_file::store_new(path, &self.0)?)
    }

    /// Returns the public name of the mesh, from which the key cannot be found.
    pub fn mesh_id(&self) -> MeshId {
        MeshId(first_bytes(&blake3::derive_key(CONTEXT_ID, &self.0)))
    }

    /// Returns what both ends mix into a Noise handshake, which fails when they differ.
    pub fn noise_prologue(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT_PROLOGUE);
        hasher.update(&self.mesh_id().0);
        hasher.update(&self.0);
        *hasher.finalize().as_bytes()
    }

    /// Returns the name of one of the mesh's protocols: `/blobmesh/<mesh id>/<name>/1`.
    pub fn protocol(&self, name: &str) -> String {
        format!("/blobmesh/{}/{name}/1", self.mesh_id())
    }

    /// Returns the tag by which members recognise an announcement of their mesh.
    pub fn mesh_tag(&self, salt: &[u8; TAG_BYTES]) -> [u8; TAG_BYTES] {
        self.tag(CONTEXT_MESH_TAG, salt, &[])
    }

    /// Returns the tag by which members recognise whose announcement it is.
    pub fn peer_tag(&self, salt: &[u8; TAG_BYTES], peer: &PeerId) -> [u8; TAG_BYTES] {
        self.tag(CONTEXT_PEER_TAG, salt, peer.as_bytes())
    }

    fn tag(&self, context: &str, salt: &[u8; TAG_BYTES], item: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(context, &self.0));
        hasher.update(salt);
        hasher.update(item);
        first_bytes(hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshKey(of mesh {})", self.mesh_id())
    }
}

/// Names a mesh in public: 8 bytes, shown as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MeshId([u8; 8]);

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

fn first_bytes(bytes: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(seed: u8) -> MeshKey {
        MeshKey::from_bytes([seed; 32]).unwrap()
    }

    #[test]
    fn known_keys_are_refused_everywhere() {
        assert!(matches!(MeshKey::from_bytes([0; 32]), Err(MeshKeyError::Known)));
        assert!(matches!(MeshKey::from_bytes(MeshKey::open().0), Err(MeshKeyError::Known)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        MeshKey::open().store_new(&path).unwrap();
        assert!(matches!(MeshKey::load(&path), Err(MeshKeyError::Known)));
        assert!(matches!(MeshKey::load_or_create(&path), Err(MeshKeyError::Known)));
    }

    #[test]
    fn a_key_file_is_made_once_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        assert!(matches!(MeshKey::load(&path), Err(MeshKeyError::File(e)) if e.is_not_found()));
        let made = MeshKey::load_or_create(&path).unwrap();
        assert_eq!(MeshKey::load_or_create(&path).unwrap(), made);
        assert_eq!(MeshKey::load(&path).unwrap(), made);
        let error = key(1).store_new(&path).unwrap_err();
        assert!(matches!(error, MeshKeyError::File(e) if e.is_already_there()));
        assert_eq!(MeshKey::load(&path).unwrap(), made);
    }

    #[test]
    fn what_is_derived_differs_by_key_use_salt_and_peer() {
        let (peer, other) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
        let (salt, pepper) = ([3; 8], [4; 8]);
        let mut seen = HashSet::new();
        for key in [key(1), key(2), MeshKey::open()] {
            let id = HEXLOWER.decode(key.mesh_id().to_string().as_bytes()).unwrap();
            assert!(seen.insert(id));
            assert!(seen.insert(key.noise_prologue().to_vec()));
            for salt in [&salt, &pepper] {
                assert!(seen.insert(key.mesh_tag(salt).to_vec()));
                assert!(seen.insert(key.peer_tag(salt, &peer).to_vec()));
                assert!(seen.insert(key.peer_tag(salt, &other).to_vec()));
            }
        }
        assert_eq!(key(1).noise_prologue(), key(1).noise_prologue());
    }

    #[test]
    fn protocol_names_carry_the_mesh_id() {
        let id = key(1).mesh_id().to_string();
        assert_eq!(id.len(), 16);
        assert_eq!(key(1).protocol("kad"), format!("/blobmesh/{id}/kad/1"));
    }

    #[test]
    fn debug_shows_no_key_byte() {
        let shown = format!("{:?}", key(0xab));
        assert!(!shown.contains("171, 171") && !shown.contains("abab"), "{shown}");
    }
}
