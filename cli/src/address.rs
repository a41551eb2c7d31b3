//! Network addresses as users write them: multiaddresses, or HOST:PORT.
//!
//! Only the shape is checked here; whether an address can be listened on or dialled is for the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::units::quoted;

/// Reads an address to listen on: `/ip4/0.0.0.0/tcp/4701`, `127.0.0.1:0`, `[::]:4701`, `:4701`.
///
/// # Errors
/// Says what an address looks like.
pub(crate) fn parse_listen(text: &str) -> Result<String, String> {
    let multiaddr = if text.starts_with('/') {
        text.to_owned()
    } else if let Some(port) = text.strip_prefix(':') {
        format!("/ip4/0.0.0.0/tcp/{port}")
    } else {
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        text.parse::<SocketAddr>().map(|address| multiaddr_of(&address)).unwrap_or_default()
    };
    let parsed = Parsed::of(&multiaddr).filter(|parsed| parsed.ip.is_some() && !parsed.has_peer);
    parsed.map(|_| multiaddr).ok_or_else(|| {
        format!("{} is not an address to listen on, such as /ip4/0.0.0.0/tcp/4701", quoted(text))
    })
}

/// Reads the address of a peer: `/ip4/192.168.1.5/tcp/4701[/p2p/12D3…]`, `build-server:4701`.
///
/// # Errors
/// Says what an address looks like.
pub(crate) fn parse_peer(text: &str) -> Result<String, String> {
    let multiaddr = if text.starts_with('/') { text.to_owned() } else { from_host_port(text) };
    let parsed = Parsed::of(&multiaddr).filter(|parsed| parsed.port != 0);
    parsed.map(|_| multiaddr).ok_or_else(|| {
        format!("{} is not a peer's address, such as /ip4/192.168.1.5/tcp/4701", quoted(text))
    })
}

/// Returns where a TCP listener of this multiaddress would be bound; none for one without an IP.
pub(crate) fn socket_address(multiaddr: &str) -> Option<SocketAddr> {
    let parsed = Parsed::of(multiaddr)?;
    Some(SocketAddr::new(parsed.ip?, parsed.port))
}

/// Returns whether only this machine can dial the address.
pub(crate) fn is_loopback(multiaddr: &str) -> bool {
    Parsed::of(multiaddr).and_then(|parsed| parsed.ip).is_some_and(|ip| ip.is_loopback())
}

fn from_host_port(text: &str) -> String {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return multiaddr_of(&address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    format!("/dns/{host}/tcp/{port}")
}

fn multiaddr_of(address: &SocketAddr) -> String {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) => format!("/ip4/{ip}/tcp/{port}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}/tcp/{port}"),
    }
}

/// The parts of `/{ip4,ip6,dns,dns4,dns6}/HOST/tcp/PORT[/p2p/PEER]`.
struct Parsed {
    /// None for a name.
    ip: Option<IpAddr>,
    port: u16,
    has_peer: bool,
}

impl Parsed {
    fn of(multiaddr: &str) -> Option<Self> {
        let mut parts = multiaddr.strip_prefix('/')?.split('/');
        let ip = match (parts.next()?, parts.next()?) {
            ("ip4", ip) => Some(IpAddr::V4(ip.parse::<Ipv4Addr>().ok()?)),
            ("ip6", ip) => Some(IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?)),
            ("dns" | "dns4" | "dns6", name) if is_host_name(name) => None,
            _ => return None,
        };
        let ("tcp", port) = (parts.next()?, parts.next()?) else { return None };
        let port =
            port.bytes().all(|digit| digit.is_ascii_digit()).then(|| port.parse().ok())??;
        let has_peer = match parts.next() {
            None => false,
            Some("p2p") => parts.next().is_some_and(is_peer_id).then_some(true)?,
            Some(_) => return None,
        };
        parts.next().is_none().then_some(Self { ip, port, has_peer })
    }
}

fn is_host_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(fits)
}

/// An ed25519 peer id in base 58 has 52 characters and begins so.
fn is_peer_id(id: &str) -> bool {
    id.len() == 52 && id.starts_with("12D3KooW") && id.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

    #[test]
    fn addresses_that_cannot_be_listened_on_are_refused() {
        for text in [
            "",
            "/",
            "4701",
            "host:4701",
            "127.0.0.1",
            "127.0.0.1:65536",
            ":65536",
            ":-1",
            ":+1",
            "/ip4/127.0.0.1",
            "/ip4/256.0.0.1/tcp/1",
            "/ip4/::1/tcp/1",
            "/ip4/127.0.0.1/udp/1",
            "/ip4/127.0.0.1/tcp/1/",
            "/ip4/127.0.0.1/tcp/+1",
            "/dns/host/tcp/1",
            &format!("/ip4/127.0.0.1/tcp/1/p2p/{PEER}"),
        ] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses_become_multiaddresses() {
        for (text, multiaddr) in [
            ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0"),
            ("127.0.0.1:0", "/ip4/127.0.0.1/tcp/0"),
            ("localhost:4701", "/ip4/127.0.0.1/tcp/4701"),
            ("[::]:4701", "/ip6/::/tcp/4701"),
            (":4701", "/ip4/0.0.0.0/tcp/4701"),
        ] {
            assert_eq!(parse_listen(text).as_deref(), Ok(multiaddr), "{text}");
        }
    }

    #[test]
    fn peer_addresses_need_a_host_and_a_port() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:x",
            ":4701",
            "ho st:1",
            "/ip4/10.0.0.1/tcp/0",
            "/dns//tcp/1",
            "/ip4/10.0.0.1/tcp/1/p2p",
            "/ip4/10.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
            "/ip4/10.0.0.1/tcp/1/ws",
        ] {
            assert!(parse_peer(text).is_err(), "{text}");
        }
        for (text, multiaddr) in [
            ("build-server:4701", "/dns/build-server/tcp/4701".to_owned()),
            ("10.0.0.1:4701", "/ip4/10.0.0.1/tcp/4701".to_owned()),
            ("/ip6/fd00::1/tcp/1", "/ip6/fd00::1/tcp/1".to_owned()),
        ] {
            assert_eq!(parse_peer(text), Ok(multiaddr), "{text}");
        }
        let with_peer = format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER}");
        assert_eq!(parse_peer(&with_peer), Ok(with_peer));
    }
}
