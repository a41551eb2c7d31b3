//! The border between this crate's names and libp2p's: peers, keys and addresses.
//!
//! libp2p types are spoken of in [`swarm`](super) only. A libp2p peer id is the identity multihash of a
//! protobuf key; for ed25519 that is a fixed prefix of six bytes and the 32 bytes of the public key, so
//! both directions are plain copying. Peer ids of other kinds of keys have no counterpart here, and
//! such peers are refused.

use std::net::IpAddr;
use std::str::FromStr;

use blobmesh_protocol::PeerId;
use libp2p::identity::{Keypair, ed25519};
use libp2p::multiaddr::{Multiaddr, Protocol};

/// Identity multihash (0x00) of 36 bytes: key type 1 (ed25519) in field 1, 32 bytes in field 2.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Says that a text is not the name of a peer that can exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer is named by 12D3KooW and 44 more characters, its ed25519 key in libp2p's form")]
pub struct ParsePeerError;

/// Returns the libp2p text form of a peer's name, `12D3KooW…`, 52 characters.
pub fn peer_text(peer: &PeerId) -> String {
    // A key that libp2p cannot take names nobody, but still must be shown.
    to_libp2p(peer).map_or_else(|| format!("{peer:?}"), |peer| peer.to_base58())
}

/// Reads the libp2p text form of a peer's name.
///
/// # Errors
/// When the text is no peer id, or one of another kind of key than ed25519.
pub fn parse_peer(text: &str) -> Result<PeerId, ParsePeerError> {
    let peer = libp2p::PeerId::from_str(text).map_err(|_| ParsePeerError)?;
    from_libp2p(&peer).ok_or(ParsePeerError)
}

/// Returns the peer that an address names at its end, `…/p2p/12D3KooW…`; none where it names none.
///
/// # Errors
/// When the text is no multiaddress, or names a peer that cannot exist here.
pub fn peer_of_address(address: &str) -> Result<Option<PeerId>, ParseAddressError> {
    let address = parse_address(address)?;
    match last_peer(&address) {
        None => Ok(None),
        Some(peer) => from_libp2p(&peer).map(Some).ok_or(ParseAddressError),
    }
}

/// Returns `address` with `/p2p/12D3KooW…` at its end, as tickets and ready-files carry it.
pub fn address_with_peer(address: &str, peer: &PeerId) -> String {
    format!("{}/p2p/{}", address.split("/p2p/").next().unwrap_or(address), peer_text(peer))
}

/// Says that a text is not an address this node can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address looks like /ip4/192.0.2.7/tcp/4001, /p2p/12D3KooW… may follow")]
pub struct ParseAddressError;

/// Reads a multiaddress that TCP can dial or listen on: a host, a TCP port, and maybe a peer.
pub(crate) fn parse_address(text: &str) -> Result<Multiaddr, ParseAddressError> {
    let address = Multiaddr::from_str(text).map_err(|_| ParseAddressError)?;
    let mut parts = address.iter();
    let host = matches!(
        parts.next(),
        Some(
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
        )
    );
    let port = matches!(parts.next(), Some(Protocol::Tcp(_)));
    let end = match parts.next() {
        None => true,
        Some(Protocol::P2p(_)) => parts.next().is_none(),
        Some(_) => false,
    };
    if host && port && end { Ok(address) } else { Err(ParseAddressError) }
}

/// Returns the host of an address: an IP address or a name.
pub(crate) fn host_of_address(address: &str) -> Option<String> {
    let address = parse_address(address).ok()?;
    let host = address.iter().next()?;
    // Its text is `/ip4/192.0.2.7`, `/dns4/node.example`.
    host.to_string().rsplit('/').next().map(str::to_owned)
}

/// Returns the IP address that an address to listen on names.
pub(crate) fn ip_of_address(address: &str) -> Option<IpAddr> {
    host_of_address(address)?.parse().ok()
}

/// Returns the peer at the end of an address.
pub(crate) fn last_peer(address: &Multiaddr) -> Option<libp2p::PeerId> {
    address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None })
}

/// Returns an address without the peer at its end.
pub(crate) fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// Returns libp2p's name of a peer; none when the bytes are no point of the curve.
pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(peer.as_bytes()).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// Returns our name of a peer; none when its key is not ed25519.
pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PREFIX)?;
    Some(PeerId::from_bytes(key.try_into().ok()?))
}

/// Returns the key pair of an ed25519 secret; none is not known to happen.
pub(crate) fn keypair_of_secret(mut secret: [u8; 32]) -> Option<Keypair> {
    Keypair::ed25519_from_bytes(&mut secret).ok()
}

/// Returns the name of the peer that holds an ed25519 secret.
pub(crate) fn peer_of_secret(secret: [u8; 32]) -> Option<PeerId> {
    let keypair = keypair_of_secret(secret)?;
    from_libp2p(&keypair.public().to_peer_id())
}

#[cfg(test)]
mod tests {
    use libp2p::multihash::Multihash;

    use super::*;

    #[test]
    fn names_survive_the_way_to_libp2p_and_back() {
        for seed in 0..32 {
            let ours = peer_of_secret([seed; 32]).unwrap();
            let theirs = keypair_of_secret([seed; 32]).unwrap().public().to_peer_id();
            assert_eq!(to_libp2p(&ours), Some(theirs));
            assert_eq!(from_libp2p(&theirs), Some(ours));
            let text = peer_text(&ours);
            assert!(text.starts_with("12D3KooW") && text.len() == 52, "{text}");
            assert_eq!(text, theirs.to_string());
            assert_eq!(parse_peer(&text), Ok(ours));
        }
    }

    #[test]
    fn keys_of_other_kinds_have_no_name_here() {
        // The prefix of a secp256k1 key is 33 bytes long and of type 2; a hashed key is no key at all.
        let secp256k1 = [&[0x08, 0x02, 0x12, 0x21, 0x02][..], &[7; 32]].concat();
        let hashed = Multihash::wrap(0x12, &[7; 32]).unwrap();
        for multihash in [Multihash::wrap(0x00, &secp256k1).unwrap(), hashed] {
            let peer = libp2p::PeerId::from_multihash(multihash).unwrap();
            assert_eq!(from_libp2p(&peer), None);
            assert_eq!(parse_peer(&peer.to_string()), Err(ParsePeerError));
            let address = format!("/ip4/192.0.2.7/tcp/1/p2p/{peer}");
            assert_eq!(peer_of_address(&address), Err(ParseAddressError));
        }
        assert_eq!(parse_peer(""), Err(ParsePeerError));
    }

    #[test]
    fn bytes_that_are_no_key_name_nobody() {
        let nobody = PeerId::from_bytes([2; 32]);
        assert_eq!(to_libp2p(&nobody), None);
        assert!(!peer_text(&nobody).is_empty());
    }

    #[test]
    fn addresses_are_a_host_a_tcp_port_and_maybe_a_peer() {
        let peer = peer_text(&peer_of_secret([1; 32]).unwrap());
        let good = [
            "/ip4/192.0.2.7/tcp/4001".to_owned(),
            "/ip6/fd00::2/tcp/0".to_owned(),
            "/dns4/node.example/tcp/4001".to_owned(),
            format!("/dns/node.example/tcp/4001/p2p/{peer}"),
        ];
        for text in good {
            assert_eq!(parse_address(&text).map(|address| address.to_string()), Ok(text));
        }
        let bad = [
            String::new(),
            "192.0.2.7:4001".to_owned(),
            "/ip4/192.0.2.7".to_owned(),
            "/ip4/192.0.2.7/udp/4001/quic-v1".to_owned(),
            "/ip4/192.0.2.7/tcp/4001/ws".to_owned(),
            "/ip4/300.0.2.7/tcp/4001".to_owned(),
            format!("/p2p/{peer}"),
            format!("/ip4/192.0.2.7/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"),
        ];
        for text in bad {
            assert_eq!(parse_address(&text), Err(ParseAddressError), "{text}");
        }
    }

    #[test]
    fn the_host_of_an_address_is_what_stands_first() {
        for (address, host) in [
            ("/ip4/192.0.2.7/tcp/4001", "192.0.2.7"),
            ("/ip6/fd00::2/tcp/1", "fd00::2"),
            ("/dns4/node.example/tcp/4001", "node.example"),
        ] {
            assert_eq!(host_of_address(address).as_deref(), Some(host));
            assert_eq!(ip_of_address(address), host.parse().ok());
        }
        assert_eq!(host_of_address("/tcp/4001"), None);
    }

    #[test]
    fn the_peer_of_an_address_is_found_and_set() {
        let peer = peer_of_secret([1; 32]).unwrap();
        let plain = "/ip4/192.0.2.7/tcp/1";
        let full = address_with_peer(plain, &peer);
        assert_eq!(peer_of_address(plain), Ok(None));
        assert_eq!(peer_of_address(&full), Ok(Some(peer)));
        assert_eq!(address_with_peer(&full, &peer), full);
        assert_eq!(without_peer(&parse_address(&full).unwrap()).to_string(), plain);
    }
}
