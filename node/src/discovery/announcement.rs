//! What a node says of itself on the LAN, and how that is read from strangers.
//!
//! The text of an announcement has four properties: `v`, the version, `1`; `salt`, 8 random bytes of
//! this start; `mesh` and `peer`, the tags of the mesh and of the peer under that salt, 8 bytes each in
//! 16 lower-case hex digits. Unknown properties are ignored; another version is not read at all.

use std::net::IpAddr;

use blobmesh_protocol::PeerId;
use data_encoding::HEXLOWER;
use mdns_sd::{ResolvedService, TxtProperties};

use super::Candidate;
use crate::mesh::{MeshKey, TAG_BYTES};

/// The type of the service.
pub(super) const SERVICE: &str = "_blobmesh._tcp.local.";
/// How many bytes of text a peer's announcement may have.
pub const TXT_BYTES_MAX: usize = 400;

const VERSION: &str = "1";
const NAME_LEN: usize = 2 * TAG_BYTES;

/// What this node announces.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) name: String,
    salt: [u8; TAG_BYTES],
    mesh: MeshKey,
    peer: PeerId,
}

impl Own {
    /// Makes an announcement of 16 random bytes, half of them the name and half the salt.
    pub(super) fn new(mesh: MeshKey, peer: PeerId) -> Result<Self, getrandom::Error> {
        let (mut name, mut salt) = ([0; TAG_BYTES], [0; TAG_BYTES]);
        getrandom::fill(&mut name)?;
        getrandom::fill(&mut salt)?;
        Ok(Self { name: HEXLOWER.encode(&name), salt, mesh, peer })
    }

    /// Returns the properties of the text.
    pub(super) fn properties(&self) -> [(&'static str, String); 4] {
        [
            ("v", VERSION.to_owned()),
            ("salt", HEXLOWER.encode(&self.salt)),
            ("mesh", HEXLOWER.encode(&self.mesh.mesh_tag(&self.salt))),
            ("peer", HEXLOWER.encode(&self.mesh.peer_tag(&self.salt, &self.peer))),
        ]
    }

    /// Reads another node's announcement; none for our own, other meshes' and malformed ones.
    pub(super) fn read(&self, service: &ResolvedService) -> Option<Candidate> {
        let name = name_of(&service.fullname)?;
        let text = &service.txt_properties;
        if name == self.name || text_len(text) > TXT_BYTES_MAX {
            return None;
        }
        if text.get_property_val_str("v") != Some(VERSION) {
            return None;
        }
        let salt = tag(text, "salt")?;
        if tag(text, "mesh")? != self.mesh.mesh_tag(&salt) {
            return None;
        }
        let ips = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr);
        let addresses = multiaddresses(ips.collect(), service.port);
        if addresses.is_empty() {
            return None;
        }
        Some(Candidate {
            dial_first: self.name.as_str() < name,
            name: name.to_owned(),
            addresses,
            mesh: self.mesh.clone(),
            salt,
            peer_tag: tag(text, "peer")?,
        })
    }
}

/// Returns the name in `NAME._blobmesh._tcp.local.`, if it is one of ours.
pub(super) fn name_of(fullname: &str) -> Option<&str> {
    let name = fullname.strip_suffix(SERVICE)?.strip_suffix('.')?;
    let digits = name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (name.len() == NAME_LEN && digits).then_some(name)
}

fn text_len(text: &TxtProperties) -> usize {
    text.iter().map(|one| one.key().len() + one.val().map_or(0, <[u8]>::len) + 2).sum()
}

fn tag(text: &TxtProperties, key: &str) -> Option<[u8; TAG_BYTES]> {
    let digits = text.get_property_val_str(key)?;
    HEXLOWER.decode(digits.as_bytes()).ok()?.try_into().ok()
}

/// Returns addresses that TCP can dial, the likeliest first.
///
/// Link-local IPv6 addresses mean nothing without their interface, which a TCP multiaddress cannot
/// carry; every LAN with IPv6 has others, or IPv4.
fn multiaddresses(mut ips: Vec<IpAddr>, port: u16) -> Vec<String> {
    if port == 0 {
        return Vec::new();
    }
    ips.retain(|ip| match ip {
        IpAddr::V4(ip) => !(ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast()),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()),
    });
    ips.sort_by_key(|ip| (ip.is_ipv6(), ip.is_loopback(), *ip));
    let mut texts: Vec<_> = ips
        .into_iter()
        .map(|ip| match ip {
            IpAddr::V4(ip) => format!("/ip4/{ip}/tcp/{port}"),
            IpAddr::V6(ip) => format!("/ip6/{ip}/tcp/{port}"),
        })
        .collect();
    texts.dedup();
    texts.truncate(Candidate::ADDRESSES_MAX);
    texts
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    fn own(mesh: u8, peer: u8) -> Own {
        let mesh = MeshKey::from_bytes([mesh; 32]).unwrap();
        Own::new(mesh, PeerId::from_bytes([peer; 32])).unwrap()
    }

    fn service(name: &str, properties: &[(&str, String)]) -> ResolvedService {
        let host = format!("{name}.local.");
        let ips = "192.0.2.7,fe80::1,fd00::2";
        ServiceInfo::new(SERVICE, name, &host, ips, 4001, properties).unwrap().as_resolved_service()
    }

    fn changed(own: &Own, key: &str, value: &str) -> Vec<(&'static str, String)> {
        let mut properties = own.properties().to_vec();
        properties.retain(|(other, _)| *other != key);
        if let Some((key, _)) = own.properties().iter().find(|(other, _)| *other == key) {
            properties.push((key, value.to_owned()));
        }
        properties
    }

    #[test]
    fn a_member_reads_who_announces_and_where() {
        let (ours, theirs) = (own(1, 1), own(1, 2));
        let candidate = ours.read(&service(&theirs.name, &theirs.properties())).unwrap();
        assert_eq!(candidate.name, theirs.name);
        assert_eq!(candidate.addresses, ["/ip4/192.0.2.7/tcp/4001", "/ip6/fd00::2/tcp/4001"]);
        assert!(candidate.is_peer(&PeerId::from_bytes([2; 32])));
        assert!(!candidate.is_peer(&PeerId::from_bytes([1; 32])));
        let back = theirs.read(&service(&ours.name, &ours.properties())).unwrap();
        assert_ne!(candidate.dial_first, back.dial_first, "just one of two dials first");
        assert_eq!(candidate.dial_first, ours.name < theirs.name);
    }

    #[test]
    fn our_own_and_other_meshes_announcements_are_not_read() {
        let (ours, other) = (own(1, 1), own(2, 2));
        assert_eq!(ours.read(&service(&ours.name, &ours.properties())), None);
        assert_eq!(ours.read(&service(&other.name, &other.properties())), None);
    }

    #[test]
    fn two_starts_of_a_node_cannot_be_told_to_be_the_same() {
        let (first, second) = (own(1, 1), own(1, 1));
        assert_ne!(first.name, second.name);
        for (one, two) in first.properties().iter().zip(&second.properties()).skip(1) {
            assert_ne!(one.1, two.1, "{}", one.0);
        }
    }

    #[test]
    fn malformed_announcements_are_not_read() {
        let (ours, theirs) = (own(1, 1), own(1, 2));
        let read = |properties: &[_]| ours.read(&service(&theirs.name, properties));
        for key in ["v", "salt", "mesh", "peer"] {
            let mut missing = theirs.properties().to_vec();
            missing.retain(|(other, _)| *other != key);
            assert_eq!(read(&missing), None, "without {key}");
            for value in ["", "2", "00", "zz00000000000000", "000000000000000000", "é"] {
                assert_eq!(read(&changed(&theirs, key, value)), None, "{key} {value}");
            }
        }
        let mut long = theirs.properties().to_vec();
        long.push(("x", "x".repeat(200)));
        assert!(read(&long).is_some(), "unknown properties are ignored");
        long.push(("y", "y".repeat(200)));
        assert_eq!(read(&long), None, "the text is too long");
    }

    #[test]
    fn names_of_another_form_are_not_ours() {
        let properties = own(1, 2).properties();
        for name in ["", "abc", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcdeg"] {
            assert_eq!(own(1, 1).read(&service(name, &properties)), None, "{name}");
        }
        assert_eq!(name_of("0123456789abcdef._other._tcp.local."), None);
        assert_eq!(name_of("0123456789abcdef._blobmesh._tcp.local."), Some("0123456789abcdef"));
    }

    #[test]
    fn addresses_are_few_dialable_and_in_order() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let mixed =
            ips(&["::1", "fd00::2", "127.0.0.1", "10.0.0.2", "0.0.0.0", "ff02::1", "fe80::1"]);
        assert_eq!(
            multiaddresses(mixed, 1),
            ["/ip4/10.0.0.2/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/fd00::2/tcp/1", "/ip6/::1/tcp/1"]
        );
        assert!(multiaddresses(ips(&["10.0.0.2"]), 0).is_empty());
        let many = (1..100).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(multiaddresses(many, 1).len(), Candidate::ADDRESSES_MAX);
    }
}
