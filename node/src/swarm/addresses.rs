//! Where peers may be reached: a bounded table, and the rule which addresses are worth a place in it.
//!
//! Addresses come from dials that succeeded, from what peers say of themselves, and from the DHT. None
//! is trusted: a dial proves the peer's key before anything else happens, and the rule keeps peers from
//! making this node look up names or dial itself, broadcast groups and addresses of another link.

use std::collections::{BTreeMap, HashMap};

use libp2p::PeerId;
use libp2p::multiaddr::{Multiaddr, Protocol};

use super::convert;

/// How many peers the table knows; the longest unused goes first.
pub(super) const PEERS_MAX: usize = 4_096;
/// How many addresses of a peer the table knows; the longest unconfirmed goes first.
pub(super) const ADDRESSES_PER_PEER_MAX: usize = 8;

/// Knows addresses of peers, those last confirmed first.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    peers: HashMap<PeerId, Known>,
    /// The peers by last use, the longest unused first; the same set as `peers`.
    order: BTreeMap<u64, PeerId>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    used: u64,
    addresses: Vec<Multiaddr>,
}

impl AddressTable {
    /// Puts an address before the other ones of its peer.
    pub(super) fn remember(&mut self, peer: PeerId, address: &Multiaddr) {
        let address = convert::without_peer(address);
        self.clock += 1;
        let used = self.clock;
        let known = self.peers.entry(peer).or_insert_with(|| Known { used, addresses: Vec::new() });
        self.order.remove(&known.used);
        known.used = used;
        self.order.insert(used, peer);
        known.addresses.retain(|other| *other != address);
        known.addresses.insert(0, address);
        known.addresses.truncate(ADDRESSES_PER_PEER_MAX);
        self.evict();
    }

    /// Removes an address that turned out wrong.
    pub(super) fn forget(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        let address = convert::without_peer(address);
        known.addresses.retain(|other| *other != address);
        if known.addresses.is_empty() {
            self.order.remove(&known.used);
            self.peers.remove(peer);
        }
    }

    /// Returns the addresses of a peer, those last confirmed first.
    pub(super) fn of(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |known| &known.addresses)
    }

    fn evict(&mut self) {
        while self.peers.len() > PEERS_MAX {
            let Some((_, peer)) = self.order.pop_first() else { return };
            self.peers.remove(&peer);
        }
    }
}

/// Returns whether an address that came from a peer may be dialled and passed on.
///
/// It must be an IP address and a TCP port. `loopback` says whether peers on this very machine are
/// meant; for all others a loopback address is this node's own.
pub(super) fn is_dialable(address: &Multiaddr, loopback: bool) -> bool {
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => {
            !(ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast())
                && (loopback || !ip.is_loopback())
        }
        // A link-local address means nothing without its interface, which TCP addresses cannot name.
        Some(Protocol::Ip6(ip)) => {
            !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local())
                && (loopback || !ip.is_loopback())
        }
        _ => false,
    };
    let port = matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0);
    let end = match parts.next() {
        None => true,
        Some(Protocol::P2p(_)) => parts.next().is_none(),
        Some(_) => false,
    };
    host && port && end
}

/// Returns whether an address is of this machine's loopback interface.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Chooses from the addresses listened on those that peers are told.
///
/// Loopback addresses are told only where there are no others: a node on loopback alone serves its own
/// machine, any other node can be reached from its own machine by its other addresses too.
pub(super) fn to_tell(listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let outer: Vec<_> =
        listening.iter().filter(|address| is_dialable(address, false)).cloned().collect();
    if !outer.is_empty() {
        return outer;
    }
    listening.iter().filter(|address| is_dialable(address, true)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn port(port: usize) -> Multiaddr {
        address(&format!("/ip4/192.0.2.7/tcp/{port}"))
    }

    #[test]
    fn the_last_confirmed_address_comes_first() {
        let (peer, mut table) = (PeerId::random(), AddressTable::default());
        assert!(table.of(&peer).is_empty());
        for number in [1, 2, 3, 1] {
            table.remember(peer, &port(number));
        }
        assert_eq!(table.of(&peer), [port(1), port(3), port(2)]);
        table.forget(&peer, &port(3));
        assert_eq!(table.of(&peer), [port(1), port(2)]);
    }

    #[test]
    fn the_peer_at_the_end_makes_no_second_address() {
        let (peer, mut table) = (PeerId::random(), AddressTable::default());
        table.remember(peer, &port(1));
        table.remember(peer, &port(1).with_p2p(peer).unwrap());
        assert_eq!(table.of(&peer), [port(1)]);
        table.forget(&peer, &port(1).with_p2p(peer).unwrap());
        assert!(table.peers.is_empty() && table.order.is_empty());
    }

    #[test]
    fn a_peer_has_few_addresses() {
        let (peer, mut table) = (PeerId::random(), AddressTable::default());
        for number in 1..=100 {
            table.remember(peer, &port(number));
        }
        let expected: Vec<_> = (93..=100).rev().map(port).collect();
        assert_eq!(table.of(&peer), expected);
    }

    #[test]
    fn the_longest_unused_peer_goes_first() {
        let mut table = AddressTable::default();
        let peers: Vec<_> = (0..PEERS_MAX).map(|_| PeerId::random()).collect();
        for peer in &peers {
            table.remember(*peer, &port(1));
        }
        table.remember(peers[0], &port(2));
        table.remember(PeerId::random(), &port(1));
        assert_eq!(table.peers.len(), PEERS_MAX);
        assert_eq!(table.order.len(), PEERS_MAX);
        assert_eq!(table.of(&peers[0]).len(), 2, "it was used a moment ago");
        assert!(table.of(&peers[1]).is_empty(), "it was unused the longest");
    }

    #[test]
    fn only_plain_tcp_addresses_of_real_hosts_are_dialled() {
        let cases = [
            ("/ip4/192.0.2.7/tcp/4001", true, true),
            ("/ip4/10.0.0.1/tcp/1", true, true),
            ("/ip4/169.254.3.4/tcp/1", true, true),
            ("/ip6/fd00::2/tcp/1", true, true),
            ("/ip4/127.0.0.1/tcp/1", false, true),
            ("/ip6/::1/tcp/1", false, true),
            ("/ip4/192.0.2.7/tcp/0", false, false),
            ("/ip4/0.0.0.0/tcp/1", false, false),
            ("/ip4/0.1.2.3/tcp/1", false, false),
            ("/ip4/224.0.0.251/tcp/1", false, false),
            ("/ip4/255.255.255.255/tcp/1", false, false),
            ("/ip6/::/tcp/1", false, false),
            ("/ip6/ff02::fb/tcp/1", false, false),
            ("/ip6/fe80::1/tcp/1", false, false),
            ("/dns4/node.example/tcp/1", false, false),
            ("/ip4/192.0.2.7/udp/1/quic-v1", false, false),
            ("/ip4/192.0.2.7/tcp/1/ws", false, false),
            ("/ip4/192.0.2.7", false, false),
            ("/tcp/1", false, false),
        ];
        for (text, from_afar, from_here) in cases {
            assert_eq!(is_dialable(&address(text), false), from_afar, "{text}");
            assert_eq!(is_dialable(&address(text), true), from_here, "{text}");
        }
        let peer = PeerId::random();
        assert!(is_dialable(&port(1).with_p2p(peer).unwrap(), false));
        assert!(!is_dialable(
            &address(&format!("/ip4/192.0.2.7/tcp/1/p2p/{peer}/p2p-circuit")),
            true
        ));
    }

    #[test]
    fn loopback_is_told_only_where_it_is_all_there_is() {
        let (inner, outer) = (address("/ip4/127.0.0.1/tcp/1"), port(1));
        let link = address("/ip6/fe80::1/tcp/1");
        assert_eq!(to_tell(std::slice::from_ref(&inner)), std::slice::from_ref(&inner));
        assert_eq!(to_tell(&[inner.clone(), link.clone(), outer.clone()]), [outer]);
        assert_eq!(to_tell(&[link, inner.clone()]), [inner]);
        assert!(to_tell(&[]).is_empty());
    }
}
