//! Whether mDNS can work: each interface sends a packet to the group and must hear it.
//!
//! A packet that does not come back from this machine's own stack reaches no other machine either.
//! One that does may still be lost on the way: access points and switches drop multicast too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use blobmesh_node::edge::{Finding, Verdict};

use super::{finding, with_hint};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// Checks every IPv4 interface but loopback.
pub(super) fn check() -> Vec<Finding> {
    let interfaces = match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            return vec![finding(
                "multicast",
                Verdict::Warn,
                format!("cannot be checked: {error}"),
            )];
        }
    };
    let findings: Vec<Finding> = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback())
        .filter_map(|interface| match interface.ip() {
            std::net::IpAddr::V4(ip) => Some(check_interface(&interface.name, ip)),
            std::net::IpAddr::V6(_) => None,
        })
        .collect();
    if findings.is_empty() {
        let none = finding("multicast", Verdict::Warn, "there is no interface but loopback");
        return vec![with_hint(none, "name peers on this machine with --peer")];
    }
    findings
}

fn check_interface(name: &str, ip: Ipv4Addr) -> Finding {
    match echo(ip) {
        Ok(true) => {
            finding("multicast", Verdict::Ok, format!("{name} ({ip}) hears the mDNS group"))
        }
        Ok(false) => {
            let text = format!("{name} ({ip}) does not hear its own packet to the mDNS group");
            let hint =
                format!("let UDP port {PORT} through the firewall, or name peers with --peer");
            with_hint(finding("multicast", Verdict::Warn, text), hint)
        }
        Err(error) => {
            let text = format!("{name} ({ip}) cannot use the mDNS group: {error}");
            with_hint(finding("multicast", Verdict::Warn, text), "name peers with --peer")
        }
    }
}

/// Sends a packet to the group on one interface; returns whether it came back.
fn echo(ip: Ipv4Addr) -> io::Result<bool> {
    let socket = group_socket(ip)?;
    let question = question();
    socket.send_to(&question, SocketAddr::from((GROUP, PORT)))?;
    let until = Instant::now() + HEARD_WITHIN;
    let mut buffer = [0; 9000];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            // Others talk in the group, too.
            Ok(len) if buffer[..len] == question => return Ok(true),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Binds the mDNS port beside whoever has it, in the group on one interface.
#[cfg(unix)]
fn group_socket(ip: Ipv4Addr) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
    sockopt::set_ip_add_membership(&socket, &GROUP, &ip)?;
    sockopt::set_ip_multicast_if(&socket, &ip)?;
    sockopt::set_ip_multicast_loop(&socket, true)?;
    Ok(UdpSocket::from(socket))
}

#[cfg(not(unix))]
fn group_socket(_ip: Ipv4Addr) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a question nobody answers: for a name of this process and moment.
fn question() -> Vec<u8> {
    let moment = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let name = format!("blobmesh-doctor-{}-{moment}", std::process::id());
    // No id, no flags, one question: type TXT (16), class IN (1), in network byte order.
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name.as_str(), "local"] {
        packet.push(u8::try_from(label.len()).unwrap_or(63));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 16, 0, 1]);
    packet
}
