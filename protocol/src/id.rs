//! The names of things: peers, wants, fetches, queries.

use std::fmt;

/// Names a peer by its ed25519 public key.
///
/// blobmesh accepts ed25519 identities only, so 32 bytes name a peer completely; the libp2p form
/// (`12D3KooW…`) is made from them at the border, in `node`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Makes a peer's name from its 32-byte ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId(")?;
        self.0[..5].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ")")
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    };
}

numbered!(
    /// Numbers a user's get, chosen by the driver; each get of the same hash has its own.
    WantId
);
numbered!(
    /// Numbers one attempt at one source, chosen by the engine.
    FetchId
);
numbered!(
    /// Numbers one provider search in the DHT, chosen by the engine.
    QueryId
);
numbered!(
    /// Numbers one look into the store, chosen by the engine.
    LookId
);
numbered!(
    /// Numbers one blob being served to a peer, chosen by the driver.
    ServeId
);
