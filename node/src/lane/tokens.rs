//! Tokens: what opens a lane, once, for one peer, for a short time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::LaneToken;

/// How long a token may be used: a requester dials as soon as it has it.
pub(super) const TOKEN_TTL: Duration = Duration::from_secs(10);
/// How many tokens of one peer are out at once; a further one takes the place of its oldest.
const PER_PEER_MAX: usize = 32;
/// How many peers have tokens out at once. Their own connections are fewer: this is a second fence.
const PEERS_MAX: usize = 512;

/// Holds the tokens that are out. A fetch takes as many as it opens lanes; the others expire.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    by_peer: HashMap<PeerId, Vec<(LaneToken, Instant)>>,
}

impl Tokens {
    /// Puts out a token for a peer; false where too many peers have some.
    pub(super) fn put_out(&mut self, peer: PeerId, token: LaneToken, now: Instant) -> bool {
        self.forget_old(now);
        if !self.by_peer.contains_key(&peer) && self.by_peer.len() >= PEERS_MAX {
            return false;
        }
        let of_peer = self.by_peer.entry(peer).or_default();
        if of_peer.len() >= PER_PEER_MAX {
            of_peer.remove(0);
        }
        of_peer.push((token, now));
        true
    }

    /// Returns whether a peer has a token that may still be used.
    pub(super) fn expects(&self, peer: &PeerId, now: Instant) -> bool {
        let of_peer = self.by_peer.get(peer);
        of_peer.is_some_and(|tokens| tokens.iter().any(|(_, since)| is_fresh(*since, now)))
    }

    /// Takes a token back that a peer shows; false unless it is the peer's, unused and fresh.
    pub(super) fn redeem(&mut self, peer: &PeerId, token: LaneToken, now: Instant) -> bool {
        let Some(of_peer) = self.by_peer.get_mut(peer) else { return false };
        let Some(at) = of_peer.iter().position(|(out, _)| *out == token) else { return false };
        let (_, since) = of_peer.remove(at);
        if of_peer.is_empty() {
            self.by_peer.remove(peer);
        }
        is_fresh(since, now)
    }

    /// Takes back all tokens of a peer.
    pub(super) fn revoke(&mut self, peer: &PeerId) {
        self.by_peer.remove(peer);
    }

    fn forget_old(&mut self, now: Instant) {
        self.by_peer.retain(|_, tokens| {
            tokens.retain(|(_, since)| is_fresh(*since, now));
            !tokens.is_empty()
        });
    }
}

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < TOKEN_TTL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        PeerId::from_bytes(bytes)
    }

    fn token(number: u8) -> LaneToken {
        LaneToken::from_bytes([number; 16])
    }

    #[test]
    fn token_opens_once_and_only_for_its_peer() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        assert!(tokens.put_out(peer(1), token(1), now));
        assert!(tokens.expects(&peer(1), now) && !tokens.expects(&peer(2), now));
        assert!(!tokens.redeem(&peer(2), token(1), now), "another peer's");
        assert!(!tokens.redeem(&peer(1), token(2), now), "a guess");
        assert!(tokens.redeem(&peer(1), token(1), now));
        assert!(!tokens.redeem(&peer(1), token(1), now), "replayed");
        assert!(!tokens.expects(&peer(1), now));
    }

    #[test]
    fn token_expires_and_leaves_nothing_behind() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let (just_in_time, late) = (TOKEN_TTL - Duration::from_nanos(1), TOKEN_TTL);
        assert!(tokens.put_out(peer(1), token(1), now));
        assert!(tokens.put_out(peer(1), token(2), now));
        assert!(tokens.redeem(&peer(1), token(1), now + just_in_time));
        assert!(!tokens.expects(&peer(1), now + late));
        assert!(!tokens.redeem(&peer(1), token(2), now + late));
        assert!(tokens.put_out(peer(2), token(3), now));
        assert!(tokens.put_out(peer(3), token(4), now + late));
        assert_eq!(tokens.by_peer.len(), 1, "peers 1 and 2 are forgotten");
    }

    #[test]
    fn tokens_of_a_peer_and_peers_with_tokens_are_bounded() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for number in 0..=u8::try_from(PER_PEER_MAX).expect("small") {
            assert!(tokens.put_out(peer(0), token(number), now));
        }
        assert!(!tokens.redeem(&peer(0), token(0), now), "the oldest has gone");
        assert!(tokens.redeem(&peer(0), token(1), now));
        for number in 1..u16::try_from(PEERS_MAX).expect("small") {
            assert!(tokens.put_out(peer(number), token(1), now));
        }
        assert!(!tokens.put_out(peer(9_999), token(1), now), "one peer too many");
        assert!(tokens.put_out(peer(1), token(2), now), "a peer that has some");
        tokens.revoke(&peer(1));
        assert!(!tokens.expects(&peer(1), now));
        assert!(tokens.put_out(peer(9_999), token(1), now));
    }
}
