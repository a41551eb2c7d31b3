//! Lanes: connections for bulk bytes beside the control connection (SPEC.md, "Lanes").
//!
//! A provider offers a lane in its response on a blob stream, with the port it listens on and tokens
//! that open one lane each. The requester dials that port, both prove their identities in a TLS
//! handshake with raw public keys, and the requester shows a token: whoever got it over the control
//! connection is a member of the mesh. Then it asks for ranges of groups as it would on a blob stream,
//! one request behind another.
//!
//! Here is what the two say. Who may open how many lanes, and when, is the data plane's business.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::PeerId;

/// The name of a lane's protocol in the TLS handshake; its number is the version. It says nothing of
/// the mesh, because it travels in the clear.
pub const LANE_ALPN: &[u8] = b"blobmesh-lane/1";
/// The bit of [`BlobRequest::codecs`](super::message::BlobRequest::codecs) that says that the requester
/// takes groups over a lane where the provider offers one.
pub const TAKES_LANE: u8 = 1 << 7;
/// The most tokens in one offer.
pub const LANE_TOKENS_MAX: usize = 4;
/// How many groups a requester asks for at once on a lane: 4 MiB. Less makes a lane wait for requests,
/// more leaves one of several lanes alone with the end of a blob.
pub const LANE_RANGE_GROUPS: u64 = 64;
/// How many requests of a lane may be unanswered, so that the next range begins when one ends.
pub const LANE_REQUESTS_MAX: usize = 2;

/// Opens one lane, once, for the peer it was made for. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneToken([u8; 16]);

impl LaneToken {
    /// Makes a token of random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for LaneToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneToken(redacted)")
    }
}

/// Offers lanes for the groups of a response, which are then not sent on the blob stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOffer {
    /// The TCP port of the lanes, at the address of the control connection.
    pub port: u16,
    /// Tokens for 1 to [`LANE_TOKENS_MAX`] lanes.
    pub tokens: Vec<LaneToken>,
}

impl LaneOffer {
    /// Returns whether the offer keeps the rules: a port that can be dialled and as many tokens as may
    /// be.
    pub fn is_valid(&self) -> bool {
        self.port != 0 && (1..=LANE_TOKENS_MAX).contains(&self.tokens.len())
    }
}

/// Opens a lane: the requester's first frame on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOpen {
    /// One of the offered tokens.
    pub token: LaneToken,
}

/// What precedes the 32 bytes of an ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Returns a peer's key as a lane's handshake carries it: a raw public key (RFC 7250).
pub fn raw_key_of(peer: &PeerId) -> Vec<u8> {
    [&SPKI_PREFIX[..], peer.as_bytes()].concat()
}

/// Returns the peer that a raw public key names; none where it is not an ed25519 key in its one form.
pub fn peer_of_raw_key(key: &[u8]) -> Option<PeerId> {
    let bytes = key.strip_prefix(&SPKI_PREFIX)?;
    Some(PeerId::from_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_survives_the_way_into_the_handshake_and_no_other_form_is_taken() {
        let peer = PeerId::from_bytes([7; 32]);
        let key = raw_key_of(&peer);
        assert_eq!(peer_of_raw_key(&key), Some(peer));
        for cut in 0..key.len() {
            assert_eq!(peer_of_raw_key(&key[..cut]), None, "{cut}");
        }
        assert_eq!(peer_of_raw_key(&[&key[..], &[0]].concat()), None, "too long");
        for at in 0..SPKI_PREFIX.len() {
            let mut other = key.clone();
            other[at] ^= 1;
            assert_eq!(peer_of_raw_key(&other), None, "another kind of key at {at}");
        }
    }

    #[test]
    fn offer_has_a_port_and_one_to_four_tokens() {
        let offer =
            |port, tokens| LaneOffer { port, tokens: vec![LaneToken::from_bytes([1; 16]); tokens] };
        for (port, tokens, valid) in
            [(1, 0, false), (1, 1, true), (u16::MAX, 4, true), (1, 5, false), (0, 1, false)]
        {
            assert_eq!(offer(port, tokens).is_valid(), valid, "{port}, {tokens}");
        }
    }

    #[test]
    fn token_is_not_shown() {
        let offer = LaneOffer { port: 1, tokens: vec![LaneToken::from_bytes([0xab; 16])] };
        let shown = format!("{offer:?}");
        assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
    }
}
