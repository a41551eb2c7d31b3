//! Tests that have to look inside a swarm or make it fail; the others are in `tests/swarm_loopback.rs`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one kind of event")]

use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";
const DEADLINE: Duration = Duration::from_secs(30);

struct Node {
    peer: PeerId,
    handle: SwarmHandle,
    events: mpsc::Receiver<SwarmEvent>,
}

impl Node {
    fn start(mesh: u8, listen: &str) -> Self {
        let identity = Identity::generate().unwrap();
        let (peer, mesh) = (identity.peer(), MeshKey::from_bytes([mesh; 32]).unwrap());
        let config = SwarmConfig { identity, mesh, listen: vec![listen.to_owned()] };
        let (handle, events) = Swarm::start(config).unwrap();
        Self { peer, handle, events }
    }

    /// Waits for the first event that `wanted` takes.
    async fn wait<T>(&mut self, wanted: impl Fn(SwarmEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the swarm runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, search).await.expect("the event comes in time")
    }

    async fn listening(&mut self) -> String {
        self.wait(|event| match event {
            SwarmEvent::Listening { address } => Some(address),
            _ => None,
        })
        .await
    }

    async fn connected(&mut self) -> PeerId {
        self.wait(|event| match event {
            SwarmEvent::Connected { peer, .. } => Some(peer),
            _ => None,
        })
        .await
    }

    async fn disconnected(&mut self) -> PeerId {
        self.wait(|event| match event {
            SwarmEvent::Disconnected { peer } => Some(peer),
            _ => None,
        })
        .await
    }

    /// Waits until this node keeps so many provider records for others.
    async fn keeps(&self, keys: usize) {
        let kept = async { while self.handle.remote_keys().await != keys {} };
        tokio::time::timeout(DEADLINE, kept).await.expect("the records come in time");
    }

    async fn find(&mut self, hash: Hash) -> Vec<PeerId> {
        self.handle.find_providers(QueryId(1), hash).await.unwrap();
        self.wait(|event| match event {
            SwarmEvent::Providers { peers, .. } => Some(peers),
            SwarmEvent::ProvidersEnded { .. } => Some(Vec::new()),
            _ => None,
        })
        .await
    }
}

/// Starts a peer of a mesh that speaks none of its protocols, as one of a later version may.
async fn speaker_of_nothing(mesh: u8) -> (PeerId, String) {
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let prologue = MeshKey::from_bytes([mesh; 32]).unwrap().noise_prologue();
    let transport = transport::build(&keypair, &prologue).unwrap();
    let config = libp2p::swarm::Config::with_tokio_executor();
    let name = keypair.public().to_peer_id();
    let behaviour = libp2p::swarm::dummy::Behaviour;
    let mut swarm = libp2p::Swarm::new(transport, behaviour, name, config);
    swarm.listen_on(LOOPBACK.parse().unwrap()).unwrap();
    let address = loop {
        match swarm.next().await {
            Some(libp2p::swarm::SwarmEvent::NewListenAddr { address, .. }) => break address,
            _ => continue,
        }
    };
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    (convert::from_libp2p(&name).unwrap(), address.to_string())
}

#[tokio::test]
async fn stream_that_the_peer_does_not_agree_to_fails_at_its_first_read_and_at_all_calls_after() {
    let (peer, address) = speaker_of_nothing(1).await;
    let mut node = Node::start(1, LOOPBACK);
    node.handle.dial(&address).await.unwrap();
    assert_eq!(node.connected().await, peer);
    let mut stream = node.handle.open_blob(&peer).await.unwrap();
    stream.write_all(b"a request").await.unwrap();
    stream.flush().await.unwrap();
    for _ in 0..2 {
        stream.read_u8().await.expect_err("nobody answers");
        stream.write_u8(1).await.expect_err("nobody listens");
        stream.flush().await.expect_err("nobody listens");
        stream.shutdown().await.expect_err("there is nothing to end");
    }
}

#[tokio::test]
async fn what_was_announced_before_any_peer_came_is_told_to_all_who_come() {
    let mut holder = Node::start(1, LOOPBACK);
    let address = holder.listening().await;
    let hashes: Vec<_> = (0..5_u8).map(|number| Hash::of(&[number])).collect();
    for hash in &hashes {
        holder.handle.provide(*hash).await.unwrap();
    }
    let mut first = Node::start(1, LOOPBACK);
    let first_address = first.listening().await;
    first.handle.dial(&address).await.unwrap();
    first.keeps(hashes.len()).await;
    let late = Node::start(1, LOOPBACK);
    late.handle.dial(&address).await.unwrap();
    late.keeps(hashes.len()).await;

    // Now the records have to speak for a holder who is gone.
    holder.handle.shutdown().await;
    late.handle.shutdown().await;
    while first.disconnected().await != holder.peer {}
    let mut second = Node::start(1, LOOPBACK);
    second.handle.dial(&first_address).await.unwrap();
    second.connected().await;
    let found = async {
        for hash in hashes {
            while second.find(hash).await != [holder.peer] {}
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("all are found");
}

#[tokio::test]
async fn a_provider_comes_with_its_addresses() {
    let mut holder = Node::start(1, LOOPBACK);
    let mut middle = Node::start(1, LOOPBACK);
    let (holder_address, address) = (holder.listening().await, middle.listening().await);
    let hash = Hash::of(b"blob");
    holder.handle.provide(hash).await.unwrap();
    holder.handle.dial(&address).await.unwrap();
    middle.keeps(1).await;
    holder.handle.shutdown().await;
    assert_eq!(middle.disconnected().await, holder.peer);
    // In the holder's place something accepts connections and says nothing: the search cannot
    // connect, which would teach the address in another way, and does not fail either.
    let port = holder_address.rsplit('/').next().unwrap().parse::<u16>().unwrap();
    let _mute = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut seeker = Node::start(1, LOOPBACK);
    seeker.handle.dial(&address).await.unwrap();
    seeker.connected().await;
    while seeker.find(hash).await != [holder.peer] {}
    assert_eq!(seeker.handle.known_addresses(&holder.peer).await, [holder_address]);
}

#[tokio::test]
async fn a_peer_that_lost_its_records_is_told_again() {
    let mut holder = Node::start(1, LOOPBACK);
    let mut keeper = Node::start(1, LOOPBACK);
    let address = keeper.listening().await;
    holder.handle.provide(Hash::of(b"blob")).await.unwrap();
    holder.handle.dial(&address).await.unwrap();
    keeper.keeps(1).await;
    keeper.handle.panic().await;
    assert_eq!(holder.disconnected().await, keeper.peer);
    assert_eq!(keeper.listening().await, address);
    keeper.keeps(0).await;
    holder.handle.dial(&address).await.unwrap();
    keeper.keeps(1).await;
}

#[tokio::test]
async fn a_swarm_that_panics_is_started_anew_on_its_port_with_its_blobs() {
    let mut ours = Node::start(1, LOOPBACK);
    let mut theirs = Node::start(1, LOOPBACK);
    let address = ours.listening().await;
    let hash = Hash::of(b"blob");
    ours.handle.provide(hash).await.unwrap();
    theirs.handle.dial(&address).await.unwrap();
    assert_eq!(theirs.connected().await, ours.peer);
    assert_eq!(ours.connected().await, theirs.peer);

    ours.handle.panic().await;
    assert_eq!(ours.disconnected().await, theirs.peer);
    assert_eq!(ours.listening().await, address, "peers know the port");
    theirs.wait(|event| matches!(event, SwarmEvent::Disconnected { .. }).then_some(())).await;

    theirs.handle.dial(&address).await.unwrap();
    assert_eq!(theirs.connected().await, ours.peer);
    let announced = ours.wait(|event| match event {
        SwarmEvent::Provided { hash, ok } => Some((hash, ok)),
        _ => None,
    });
    assert_eq!(announced.await, (hash, true));
}

#[tokio::test]
async fn a_search_that_runs_when_the_swarm_panics_still_ends() {
    let mut node = Node::start(1, LOOPBACK);
    node.listening().await;
    let query = QueryId(7);
    // Both are in the queue before the swarm has a chance to end the search.
    node.handle.find_providers(query, Hash::of(b"blob")).await.unwrap();
    node.handle.panic().await;
    let ended = node.wait(|event| match event {
        SwarmEvent::ProvidersEnded { query } => Some(query),
        _ => None,
    });
    assert_eq!(ended.await, query);
    node.handle.shutdown().await;
}
