//! Finds neighbours on the LAN by mDNS, and lets them find this node.
//!
//! A node announces the service `_blobmesh._tcp` under a random name with its port and two salted tags:
//! one tells members of its mesh from everybody else, the other which member it is. Both are keyed with
//! the mesh key, so that a bystander learns neither, and cannot follow a node from one start to the next.
//!
//! What comes out are [`Candidate`]s and nothing more: anybody on the LAN can repeat an announcement,
//! so identity and membership are proven by the handshake, and liveness by the connection (mDNS notices
//! an abrupt end only after its records expire). Candidates are repeated, so that one that was lost or
//! could not be dialled gets its next chance; whoever dials skips peers it is connected with.
//!
//! Bounds: [`CANDIDATES_MAX`] candidates, [`NEW_PER_SECOND`] new ones a second, [`TXT_BYTES_MAX`] bytes
//! of a peer's text; the daemon's own cache has no bound, so it is started anew when that has grown over
//! [`CACHED_RECORDS_MAX`] records.
//!
//! - `announcement`: what is said, and how it is read from strangers.
//! - `candidates`: which candidate is reported when.
//! - `daemon`: the mDNS daemon, which has a thread of its own.

mod announcement;
mod candidates;
mod daemon;

use std::net::IpAddr;

use blobmesh_protocol::PeerId;
use tokio::sync::{mpsc, oneshot};

use crate::mesh::{MeshKey, TAG_BYTES};

pub use announcement::TXT_BYTES_MAX;
pub use candidates::{CANDIDATES_MAX, NEW_PER_SECOND, REPEAT_INTERVAL};
pub use daemon::CACHED_RECORDS_MAX;

/// Configures discovery.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// The mesh whose members are looked for.
    pub mesh: MeshKey,
    /// Who this node is.
    pub peer: PeerId,
    /// The TCP port on which this node listens, as it was bound.
    pub port: u16,
    /// Where to announce and to look.
    pub interfaces: Interfaces,
}

/// Says on which network interfaces discovery works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// On all, with those that come later.
    All,
    /// On those that have one of these addresses; a node on loopback is not announced to the LAN.
    Only(Vec<IpAddr>),
}

impl Interfaces {
    /// Chooses the interfaces for addresses to listen on, such as `/ip4/0.0.0.0/tcp/0`.
    ///
    /// An unspecified address stands for all interfaces, and so do names and no address at all.
    pub fn of_listen(addresses: &[String]) -> Self {
        let ips: Option<Vec<IpAddr>> = addresses.iter().map(|address| ip_of(address)).collect();
        match ips {
            Some(ips) if !ips.is_empty() && !ips.iter().any(IpAddr::is_unspecified) => {
                Self::Only(ips)
            }
            _ => Self::All,
        }
    }
}

fn ip_of(address: &str) -> Option<IpAddr> {
    let mut parts = address.split('/').skip(1);
    match parts.next()? {
        "ip4" | "ip6" => parts.next()?.parse().ok(),
        _ => None,
    }
}

/// A running discovery. Dropping it ends it too, without waiting for the farewell to be sent.
#[derive(Debug)]
pub struct Discovery {
    stop: mpsc::Sender<oneshot::Sender<()>>,
    name: String,
}

impl Discovery {
    /// Starts to announce this node and to look for neighbours.
    ///
    /// Candidates come out of the receiver; when it is dropped, discovery ends. Candidates for which it
    /// has no room are not lost, they are [repeated](REPEAT_INTERVAL).
    ///
    /// # Errors
    /// When the port is zero, there are no random bytes, or the mDNS daemon does not start. A network
    /// that blocks multicast is no error: nobody is found there.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(
        config: DiscoveryConfig,
    ) -> Result<(Self, mpsc::Receiver<Candidate>), DiscoveryError> {
        let (stop, stops) = mpsc::channel(1);
        let (candidates, candidates_in) = mpsc::channel(CANDIDATES_MAX);
        let name = daemon::start(config, candidates, stops)?;
        Ok((Self { stop, name }, candidates_in))
    }

    /// Returns the random name under which this node is announced, 16 hex digits.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says farewell to the LAN and ends; waits at most a second for it to be sent.
    pub async fn shutdown(self) {
        let (done, ended) = oneshot::channel();
        // An error means that it has ended already.
        if self.stop.send(done).await.is_ok() {
            ended.await.ok();
        }
    }
}

/// Someone on the LAN who claims to be of this mesh.
#[derive(Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The random name of the announcement, 16 hex digits.
    pub name: String,
    /// Where to dial, `/ip4/…/tcp/…` before `/ip6/…/tcp/…`; at least one, at most
    /// [`ADDRESSES_MAX`](Self::ADDRESSES_MAX), without a peer at their ends.
    pub addresses: Vec<String>,
    /// Whether this node is to dial at once; otherwise the other one is, and this node only after a
    /// second without a connection. Of any two nodes just one is told to be first.
    pub dial_first: bool,
    mesh: MeshKey,
    salt: [u8; TAG_BYTES],
    peer_tag: [u8; TAG_BYTES],
}

impl Candidate {
    /// How many addresses of a candidate are kept.
    pub const ADDRESSES_MAX: usize = 8;

    /// Returns whether the candidate claims to be `peer`. A claim is good enough to leave a dial out
    /// that would make a second connection, and for nothing else.
    pub fn is_peer(&self, peer: &PeerId) -> bool {
        self.mesh.peer_tag(&self.salt, peer) == self.peer_tag
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .field("dial_first", &self.dial_first)
            .finish_non_exhaustive()
    }
}

/// Says why discovery does not start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// There is no port to announce.
    #[error("cannot announce port 0: announce the port that was bound")]
    NoPort,
    /// The mDNS daemon does not start.
    #[error("cannot start mDNS")]
    Daemon(#[from] mdns_sd::Error),
    /// The system gives no random bytes.
    #[error("cannot choose a name without random bytes")]
    Random(#[source] getrandom::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_follow_the_addresses_listened_on() {
        let of = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|&text| text.to_owned()).collect();
            Interfaces::of_listen(&addresses)
        };
        let only =
            |ips: &[&str]| Interfaces::Only(ips.iter().map(|ip| ip.parse().unwrap()).collect());
        assert_eq!(of(&[]), Interfaces::All);
        assert_eq!(of(&["/ip4/0.0.0.0/tcp/0"]), Interfaces::All);
        assert_eq!(of(&["/ip6/::/tcp/4001"]), Interfaces::All);
        assert_eq!(of(&["/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"]), Interfaces::All);
        assert_eq!(of(&["/dns4/node.example/tcp/1"]), Interfaces::All);
        assert_eq!(of(&["/ip4/127.0.0.1/tcp/0"]), only(&["127.0.0.1"]));
        let two = of(&["/ip4/192.0.2.7/tcp/1", "/ip6/::1/tcp/1/p2p/x"]);
        assert_eq!(two, only(&["192.0.2.7", "::1"]));
    }
}
