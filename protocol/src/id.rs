//! The names of things: peers, wants, fetches, queries.

use std::cmp::Ordering;
use std::fmt;

/// Names a peer by its ed25519 public key.
///
/// blobmesh accepts ed25519 identities only, so 32 bytes name a peer completely; the libp2p form
/// (`12D3KooW…`) is made from them at the border, in `node`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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

/// Peers are sorted as their bytes are.
impl Ord for PeerId {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for PeerId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares names as their bytes compare. The first eight bytes of two names nearly always differ, and to compare
/// them as one number takes a fraction of a call of `memcmp`: maps by peer and by hash are looked into many
/// times for each message.
#[inline]
pub(crate) fn compare(a: &[u8; 32], b: &[u8; 32]) -> Ordering {
    let ((a, _), (b, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes).swap_bytes();
    a.iter().map(number).cmp(b.iter().map(number))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_sorted_as_their_bytes_are() {
        let mut names = vec![[0_u8; 32], [255; 32], [7; 32]];
        for place in [0, 1, 6, 7, 8, 15, 16, 24, 31] {
            for byte in [1, 128, 255] {
                let mut name = [7; 32];
                name[place] = byte;
                names.push(name);
            }
        }
        for a in &names {
            for b in &names {
                let peers = [a, b].map(|name| PeerId::from_bytes(*name));
                assert_eq!(peers[0].cmp(&peers[1]), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }
}
