//! Real mDNS on the loopback interface. Multicast on it is tried first: where it is blocked, these
//! tests say so and prove nothing.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use blobmesh_node::discovery::{Candidate, Discovery, DiscoveryConfig, DiscoveryError, Interfaces};
use blobmesh_node::mesh::MeshKey;
use blobmesh_protocol::PeerId;
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(30);

/// Returns whether a multicast packet sent on loopback comes back; says why not.
fn multicast_works() -> bool {
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let attempt = || -> std::io::Result<usize> {
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        receiver.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)?;
        receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        sender.send_to(b"?", (group, receiver.local_addr()?.port()))?;
        receiver.recv(&mut [0; 1])
    };
    match attempt() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: no multicast on the loopback interface: {error}");
            false
        }
    }
}

/// Makes a mesh that no other test on this machine has: they all share one multicast group.
fn mesh() -> MeshKey {
    MeshKey::generate().unwrap()
}

fn peer(seed: u8) -> PeerId {
    PeerId::from_bytes([seed; 32])
}

fn start(mesh: &MeshKey, seed: u8, port: u16) -> (Discovery, mpsc::Receiver<Candidate>) {
    let interfaces = Interfaces::Only(vec![Ipv4Addr::LOCALHOST.into()]);
    let config = DiscoveryConfig { mesh: mesh.clone(), peer: peer(seed), port, interfaces };
    Discovery::start(config).unwrap()
}

async fn next(candidates: &mut mpsc::Receiver<Candidate>) -> Candidate {
    let next = tokio::time::timeout(DEADLINE, candidates.recv()).await;
    next.expect("a candidate comes in time").expect("discovery runs")
}

#[tokio::test]
async fn two_nodes_find_each_other_and_agree_who_dials() {
    if !multicast_works() {
        return;
    }
    let mesh = mesh();
    let (ours, mut our_candidates) = start(&mesh, 1, 4_001);
    let (theirs, mut their_candidates) = start(&mesh, 2, 4_002);
    let them = next(&mut our_candidates).await;
    let us = next(&mut their_candidates).await;
    assert_eq!((them.name.as_str(), us.name.as_str()), (theirs.name(), ours.name()));
    assert_eq!(them.addresses, ["/ip4/127.0.0.1/tcp/4002"]);
    assert_eq!(us.addresses, ["/ip4/127.0.0.1/tcp/4001"]);
    assert!(them.is_peer(&peer(2)) && !them.is_peer(&peer(1)));
    assert!(us.is_peer(&peer(1)) && !us.is_peer(&peer(2)));
    assert_ne!(them.dial_first, us.dial_first);
    ours.shutdown().await;
    theirs.shutdown().await;
}

#[tokio::test]
async fn nodes_of_other_meshes_are_ignored() {
    if !multicast_works() {
        return;
    }
    let (mesh, other_mesh) = (mesh(), mesh());
    let (_other, mut other_candidates) = start(&other_mesh, 9, 4_009);
    let (_ours, mut our_candidates) = start(&mesh, 1, 4_001);
    // A member that comes last is the first one heard of.
    let (_member, _member_candidates) = start(&mesh, 2, 4_002);
    assert!(next(&mut our_candidates).await.is_peer(&peer(2)));
    assert!(our_candidates.try_recv().is_err());
    assert!(other_candidates.try_recv().is_err());
}

#[tokio::test]
async fn candidates_are_repeated_until_they_say_farewell() {
    if !multicast_works() {
        return;
    }
    let mesh = mesh();
    let (_ours, mut candidates) = start(&mesh, 1, 4_001);
    let (gone, _gone_candidates) = start(&mesh, 2, 4_002);
    assert!(next(&mut candidates).await.is_peer(&peer(2)));
    gone.shutdown().await;
    let (_stays, _stays_candidates) = start(&mesh, 3, 4_003);
    assert!(next(&mut candidates).await.is_peer(&peer(3)));
    // Nobody dialled them; only the one that is still there comes again.
    assert!(next(&mut candidates).await.is_peer(&peer(3)));
}

#[tokio::test]
async fn a_port_must_be_known_before_it_is_announced() {
    let config =
        DiscoveryConfig { mesh: mesh(), peer: peer(1), port: 0, interfaces: Interfaces::All };
    assert!(matches!(Discovery::start(config), Err(DiscoveryError::NoPort)));
}

#[tokio::test]
async fn discovery_ends_with_its_handle() {
    if !multicast_works() {
        return;
    }
    let (ours, mut candidates) = start(&mesh(), 1, 4_001);
    drop(ours);
    let ended = async { while candidates.recv().await.is_some() {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("it ends in time");
}
