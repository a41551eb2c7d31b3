//! Real swarms on the loopback interface: who gets in, what streams carry, what the DHT finds.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test waits for one kind of event")]

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use blobmesh_node::identity::Identity;
use blobmesh_node::mesh::MeshKey;
use blobmesh_node::swarm::{
    DialFailure, OpenError, Stream, Swarm, SwarmConfig, SwarmError, SwarmEvent, SwarmHandle,
    SwarmStopped, convert,
};
use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId};
use futures::StreamExt;
use libp2p::swarm::SwarmEvent as LibSwarmEvent;
use libp2p::{noise, tcp, yamux};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

fn mesh(seed: u8) -> MeshKey {
    MeshKey::from_bytes([seed; 32]).unwrap()
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Has the peer hear of a stream: it does with the first that is written, and that goes before it has agreed.
async fn announced<E: std::fmt::Debug>(opening: impl Future<Output = Result<Stream, E>>) -> Stream {
    let mut stream = in_time("open", opening).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

struct Node {
    peer: PeerId,
    handle: SwarmHandle,
    events: mpsc::Receiver<SwarmEvent>,
    address: String,
}

impl Node {
    async fn start(mesh: MeshKey) -> Self {
        let identity = Identity::generate().unwrap();
        let peer = identity.peer();
        let config = SwarmConfig { identity, mesh, listen: vec![LOOPBACK.to_owned()] };
        let (handle, events) = Swarm::start(config).unwrap();
        let mut node = Self { peer, handle, events, address: String::new() };
        node.address = node
            .wait("listening", |event| match event {
                SwarmEvent::Listening { address } => Some(address),
                _ => None,
            })
            .await;
        node
    }

    /// Starts two nodes that are connected.
    async fn pair() -> (Self, Self) {
        let mut ours = Self::start(mesh(1)).await;
        let mut theirs = Self::start(mesh(1)).await;
        ours.dial(&theirs).await;
        ours.connected(&theirs).await;
        let event = ours.next("dialled").await;
        assert!(
            matches!(event, SwarmEvent::Dialed { peer, .. } if peer == theirs.peer),
            "{event:?}"
        );
        theirs.connected(&ours).await;
        (ours, theirs)
    }

    async fn next(&mut self, what: &str) -> SwarmEvent {
        in_time(what, self.events.recv()).await.expect("the swarm runs")
    }

    /// Waits for the first event that `wanted` takes and passes over the others.
    async fn wait<T>(&mut self, what: &str, wanted: impl Fn(SwarmEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next(what).await) {
                return found;
            }
        }
    }

    async fn dial(&self, other: &Node) {
        let address = convert::address_with_peer(&other.address, &other.peer);
        self.handle.dial(&address).await.unwrap();
    }

    async fn connected(&mut self, other: &Node) {
        let wanted = other.peer;
        self.wait("connected", |event| match event {
            SwarmEvent::Connected { peer, .. } if peer == wanted => Some(()),
            _ => None,
        })
        .await;
    }

    async fn disconnected(&mut self, other: &Node) {
        let wanted = other.peer;
        self.wait("disconnected", |event| match event {
            SwarmEvent::Disconnected { peer } if peer == wanted => Some(()),
            _ => None,
        })
        .await;
    }

    async fn dial_failure(&mut self) -> (Option<PeerId>, DialFailure) {
        self.wait("dial failure", |event| match event {
            SwarmEvent::DialFailed { peer, reason, .. } => Some((peer, reason)),
            _ => None,
        })
        .await
    }

    async fn blob_stream(&mut self) -> (PeerId, Stream) {
        self.wait("blob stream", |event| match event {
            SwarmEvent::BlobStream { peer, stream } => Some((peer, stream)),
            _ => None,
        })
        .await
    }

    async fn provided(&mut self) -> (Hash, bool) {
        self.wait("provided", |event| match event {
            SwarmEvent::Provided { hash, ok } => Some((hash, ok)),
            _ => None,
        })
        .await
    }

    /// Searches once and returns everything that was found, in order.
    async fn find(&mut self, number: u64, hash: Hash) -> Vec<PeerId> {
        let searched = QueryId(number);
        self.handle.find_providers(searched, hash).await.unwrap();
        let mut found = Vec::new();
        loop {
            match self.next("search").await {
                SwarmEvent::Providers { query, peers } if query == searched => found.extend(peers),
                SwarmEvent::ProvidersEnded { query } if query == searched => return found,
                _ => {}
            }
        }
    }

    /// Searches again and again until something is found: announcing takes its time.
    async fn find_in_time(&mut self, hash: Hash) -> Vec<PeerId> {
        in_time("a provider", async {
            for number in 1_000.. {
                let found = self.find(number, hash).await;
                if !found.is_empty() {
                    return found;
                }
            }
            unreachable!()
        })
        .await
    }
}

async fn exchange(mut ours: Stream, mut theirs: Stream) {
    // Both directions at once and more than any window holds.
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|word| word.to_le_bytes()).collect();
    let send = |mut half: tokio::io::WriteHalf<Stream>, bytes: Vec<u8>| async move {
        half.write_all(&bytes).await.unwrap();
        half.shutdown().await.unwrap();
    };
    let receive = |mut half: tokio::io::ReadHalf<Stream>| async move {
        let mut received = Vec::new();
        half.read_to_end(&mut received).await.unwrap();
        received
    };
    ours.write_all(b"ping").await.unwrap();
    ours.flush().await.unwrap();
    let mut ping = [0; 4];
    theirs.read_exact(&mut ping).await.unwrap();
    assert_eq!(&ping, b"ping");
    let (our_in, our_out) = tokio::io::split(ours);
    let (their_in, their_out) = tokio::io::split(theirs);
    let (_, _, here, there) = tokio::join!(
        send(our_out, bytes.clone()),
        send(their_out, bytes.clone()),
        receive(our_in),
        receive(their_in)
    );
    assert!(here == bytes && there == bytes, "every byte arrives in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_carry_bytes_both_ways() {
    let (ours, mut theirs) = Node::pair().await;
    let blob = announced(ours.handle.open_blob(&theirs.peer)).await;
    let (peer, their_blob) = theirs.blob_stream().await;
    assert_eq!(peer, ours.peer);
    in_time("blob bytes", exchange(blob, their_blob)).await;

    let control = announced(theirs.handle.open_control(&ours.peer)).await;
    let mut ours = ours;
    let (peer, our_control) = ours
        .wait("control stream", |event| match event {
            SwarmEvent::ControlStream { peer, stream } => Some((peer, stream)),
            _ => None,
        })
        .await;
    assert_eq!(peer, theirs.peer);
    in_time("control bytes", exchange(control, our_control)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_streams_to_a_slow_reader_arrives_complete() {
    const BURST: u8 = 200;
    let (ours, mut theirs) = Node::pair().await;
    let mut opening = tokio::task::JoinSet::new();
    for number in 0..BURST {
        let (handle, peer) = (ours.handle.clone(), theirs.peer);
        opening.spawn(async move {
            let mut stream = handle.open_blob(&peer).await.unwrap();
            stream.write_all(&[number]).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        });
    }
    // Not one event is read before all streams are open.
    let opened = in_time("opened", opening.join_all()).await;
    let mut numbers = HashSet::new();
    for _ in 0..BURST {
        let (_, mut stream) = theirs.blob_stream().await;
        numbers.insert(in_time("a byte", stream.read_u8()).await.unwrap());
    }
    assert_eq!(numbers.len(), usize::from(BURST));
    drop(opened);
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused_and_places_come_back() {
    const PLACES: usize = 256;
    let (ours, mut theirs) = Node::pair().await;
    let mut open = Vec::new();
    for _ in 0..PLACES {
        open.push(announced(ours.handle.open_blob(&theirs.peer)).await);
    }
    let error = ours.handle.open_blob(&theirs.peer).await.unwrap_err();
    assert!(matches!(error, OpenError::TooMany), "{error}");
    let _control = announced(ours.handle.open_control(&theirs.peer)).await;
    open.pop();
    let mut inbound = Vec::new();
    for _ in 0..PLACES {
        inbound.push(theirs.blob_stream().await);
    }
    inbound.clear();
    open.push(announced(ours.handle.open_blob(&theirs.peer)).await);
    theirs.blob_stream().await;
}

#[tokio::test]
async fn streams_to_absent_peers_fail_at_once() {
    let (ours, theirs) = Node::pair().await;
    let stranger = Identity::generate().unwrap().peer();
    let no_key = PeerId::from_bytes([2; 32]);
    for peer in [stranger, no_key] {
        let error = in_time("refusal", ours.handle.open_blob(&peer)).await.unwrap_err();
        assert!(matches!(error, OpenError::NotConnected), "{error}");
    }
    let mut stream = ours.handle.open_blob(&theirs.peer).await.unwrap();
    theirs.handle.shutdown().await;
    let mut ours = ours;
    ours.disconnected(&theirs).await;
    let mut byte = [0];
    let outcome = in_time("the end", stream.read(&mut byte)).await;
    assert!(matches!(outcome, Ok(0) | Err(_)), "a stream of a lost connection ends");
    let error = in_time("refusal", ours.handle.open_control(&theirs.peer)).await.unwrap_err();
    assert!(matches!(error, OpenError::NotConnected), "{error}");
}

#[tokio::test]
async fn nodes_of_other_meshes_do_not_get_past_the_handshake() {
    let mut target = Node::start(mesh(1)).await;
    for key in [mesh(2), MeshKey::open()] {
        let mut stranger = Node::start(key).await;
        stranger.dial(&target).await;
        let failure = stranger.dial_failure().await;
        assert_eq!(failure, (Some(target.peer), DialFailure::Handshake));
        let plain = target.address.clone();
        stranger.handle.dial(&plain).await.unwrap();
        assert_eq!(stranger.dial_failure().await, (None, DialFailure::Handshake));
        // The other way round it is no better.
        target.dial(&stranger).await;
        assert_eq!(target.dial_failure().await, (Some(stranger.peer), DialFailure::Handshake));
        assert!(stranger.events.try_recv().is_err(), "the stranger was told nothing else");
    }
    // The next thing the target hears is of a member.
    let member = Node::start(mesh(1)).await;
    member.dial(&target).await;
    let event = target.next("connected").await;
    assert!(
        matches!(event, SwarmEvent::Connected { peer, .. } if peer == member.peer),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_libp2p_node_without_the_mesh_key_learns_no_protocol() {
    let mut target = Node::start(mesh(1)).await;
    let identify = |keypair: &libp2p::identity::Keypair| {
        let config = libp2p::identify::Config::new("/x/1".to_owned(), keypair.public());
        libp2p::identify::Behaviour::new(config)
    };
    let mut plain = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(identify)
        .unwrap()
        .build();
    plain.dial(target.address.parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    let event = in_time("failure", async {
        loop {
            let event = plain.select_next_some().await;
            if !matches!(event, LibSwarmEvent::Dialing { .. }) {
                return event;
            }
        }
    })
    .await;
    assert!(matches!(event, LibSwarmEvent::OutgoingConnectionError { .. }), "{event:?}");
    assert!(target.events.try_recv().is_err(), "the target saw no peer");
}

#[tokio::test]
async fn a_misbehaving_member_gets_no_more_streams_than_a_peer_may_have() {
    const TRIED: usize = 300;
    let mut target = Node::start(mesh(1)).await;
    let prologue = mesh(1).noise_prologue();
    let secure = |keypair: &libp2p::identity::Keypair| {
        noise::Config::new(keypair).map(|config| config.with_prologue(prologue.to_vec()))
    };
    let mut bad = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), secure, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .build();
    let name = libp2p::StreamProtocol::try_from_owned(mesh(1).protocol("control")).unwrap();
    let peer: libp2p::PeerId = convert::peer_text(&target.peer).parse().unwrap();
    let mut control = bad.behaviour().new_control();
    bad.dial(target.address.parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    in_time("connected", async {
        while !bad.is_connected(&peer) {
            bad.select_next_some().await;
        }
    })
    .await;
    let running = tokio::spawn(async move { while bad.next().await.is_some() {} });
    let opening = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..TRIED {
            // A stream that was agreed on and then dropped is opened all the same.
            streams.extend(control.open_stream(peer, name.clone()).await);
        }
        streams
    });
    let streams = in_time("tries", opening).await.unwrap();
    assert_eq!(streams.len(), TRIED);
    let mut accepted = Vec::new();
    while let Ok(event) = target.events.try_recv() {
        accepted.extend(matches!(event, SwarmEvent::ControlStream { .. }).then_some(event));
    }
    assert_eq!(accepted.len(), 8);
    running.abort();
}

#[tokio::test]
async fn providers_are_found_and_reached_through_a_third_node() {
    let mut holder = Node::start(mesh(1)).await;
    let mut middle = Node::start(mesh(1)).await;
    let mut seeker = Node::start(mesh(1)).await;
    let hash = Hash::of(b"only the holder has it");
    // Neither of the outer two is ever told of the other one.
    holder.dial(&middle).await;
    holder.connected(&middle).await;
    holder.handle.provide(hash).await.unwrap();
    assert_eq!(holder.provided().await, (hash, true));
    middle.connected(&holder).await;
    seeker.dial(&middle).await;
    seeker.connected(&middle).await;

    assert_eq!(seeker.find_in_time(hash).await, [holder.peer]);
    in_time("connect", seeker.handle.connect(&holder.peer)).await.unwrap();
    let stream = announced(seeker.handle.open_blob(&holder.peer)).await;
    let (peer, their_stream) = holder.blob_stream().await;
    assert_eq!(peer, seeker.peer);
    in_time("bytes", exchange(stream, their_stream)).await;
    let address = seeker.handle.peer_address(&holder.peer).await.unwrap();
    assert!(address.is_some_and(|address| address.starts_with("/ip4/127.0.0.1/tcp/")));
}

#[tokio::test]
async fn a_search_in_a_mesh_of_two_finds_what_is_there_and_ends() {
    let (mut ours, theirs) = Node::pair().await;
    let (there, nowhere) = (Hash::of(b"there"), Hash::of(b"nowhere"));
    theirs.handle.provide(there).await.unwrap();
    assert_eq!(ours.find_in_time(there).await, [theirs.peer]);
    assert!(ours.find(1, nowhere).await.is_empty());
    theirs.handle.stop_providing(there).await.unwrap();
}

#[tokio::test]
async fn a_node_alone_searches_in_vain_and_never_finds_itself() {
    let mut node = Node::start(mesh(1)).await;
    let hash = Hash::of(b"its own");
    node.handle.provide(hash).await.unwrap();
    assert!(node.find(1, hash).await.is_empty());
    node.handle.find_providers(QueryId(2), hash).await.unwrap();
    node.handle.stop_find(QueryId(2)).await.unwrap();
    node.handle.stop_find(QueryId(3)).await.unwrap();
    assert!(node.find(4, hash).await.is_empty());
}

#[tokio::test]
async fn more_blobs_than_a_node_may_announce_are_refused_one_by_one() {
    const KEYS: usize = 1_024;
    let mut node = Node::start(mesh(1)).await;
    for number in 0..=KEYS {
        node.handle.provide(Hash::of(&number.to_le_bytes())).await.unwrap();
    }
    assert_eq!(node.provided().await, (Hash::of(&KEYS.to_le_bytes()), false));
    node.handle.stop_providing(Hash::of(&0_usize.to_le_bytes())).await.unwrap();
    node.handle.provide(Hash::of(b"one more")).await.unwrap();
    node.handle.provide(Hash::of(b"too many")).await.unwrap();
    assert_eq!(node.provided().await, (Hash::of(b"too many"), false));
}

#[tokio::test]
async fn dials_that_make_no_sense_do_no_harm() {
    let (mut ours, theirs) = Node::pair().await;
    let own = ours.address.clone();
    for address in [own.clone(), convert::address_with_peer(&own, &ours.peer)] {
        ours.handle.dial(&address).await.unwrap();
        assert_eq!(ours.dial_failure().await.1, DialFailure::OwnAddress);
    }
    let swapped =
        convert::address_with_peer(&theirs.address, &Identity::generate().unwrap().peer());
    ours.handle.dial(&swapped).await.unwrap();
    assert_eq!(ours.dial_failure().await.1, DialFailure::OtherPeer);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("/ip4/127.0.0.1/tcp/{}", free.local_addr().unwrap().port());
    drop(free);
    ours.handle.dial(&nobody).await.unwrap();
    assert_eq!(ours.dial_failure().await, (None, DialFailure::Unreachable));
    for bad in ["", "127.0.0.1:1", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1/quic-v1"] {
        assert!(ours.handle.dial(bad).await.is_err(), "{bad}");
    }
    // A second dial of a connected peer is none, and yet it reaches the peer.
    let full = convert::address_with_peer(&theirs.address, &theirs.peer);
    for given in [full, theirs.address.clone()] {
        ours.handle.dial(&given).await.unwrap();
        let event = ours.next("dialled").await;
        let SwarmEvent::Dialed { peer, address } = event else { panic!("{event:?}") };
        assert_eq!((peer, address), (theirs.peer, given));
    }
    in_time("connect", ours.handle.connect(&theirs.peer)).await.unwrap();
    assert!(ours.events.try_recv().is_err());
    let stranger = Identity::generate().unwrap().peer();
    let error = in_time("refusal", ours.handle.connect(&stranger)).await.unwrap_err();
    assert!(matches!(error, blobmesh_node::swarm::ConnectError::Dial(DialFailure::NoAddress)));
}

#[tokio::test]
async fn both_ends_dialling_at_once_makes_one_peer_each() {
    for _ in 0..10 {
        let mut ours = Node::start(mesh(1)).await;
        let mut theirs = Node::start(mesh(1)).await;
        tokio::join!(ours.dial(&theirs), theirs.dial(&ours));
        ours.connected(&theirs).await;
        theirs.connected(&ours).await;
        let _stream = announced(ours.handle.open_blob(&theirs.peer)).await;
        theirs.blob_stream().await;
    }
}

#[tokio::test]
async fn a_peer_is_connected_again_at_the_address_it_had() {
    let (mut ours, mut theirs) = Node::pair().await;
    ours.handle.disconnect(&theirs.peer).await.unwrap();
    ours.disconnected(&theirs).await;
    theirs.disconnected(&ours).await;
    in_time("connect", ours.handle.connect(&theirs.peer)).await.unwrap();
    theirs.connected(&ours).await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_at_the_start() {
    let node = Node::start(mesh(1)).await;
    let start = |listen: &str| {
        let identity = Identity::generate().unwrap();
        Swarm::start(SwarmConfig { identity, mesh: mesh(1), listen: vec![listen.to_owned()] })
    };
    let Err(SwarmError::Listen { address, source }) = start(&node.address) else {
        panic!("a second node on the port of a first one")
    };
    assert_eq!(address, node.address);
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(matches!(start("/ip4/127.0.0.1"), Err(SwarmError::Address { .. })));
    assert!(matches!(start("/ip4/192.0.2.99/tcp/1234"), Err(SwarmError::Listen { .. })));
}

#[tokio::test]
async fn a_swarm_that_was_shut_down_answers_nothing() {
    let (mut ours, mut theirs) = Node::pair().await;
    assert_eq!(ours.handle.local_addresses().await.unwrap(), [ours.address.clone()]);
    in_time("shutdown", ours.handle.shutdown()).await;
    in_time("second shutdown", ours.handle.shutdown()).await;
    assert_eq!(ours.handle.local_addresses().await, Err(SwarmStopped));
    theirs.disconnected(&ours).await;
    in_time("end of events", async { while ours.events.recv().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_swarm_without_handles_or_without_a_reader_ends() {
    let Node { handle, mut events, .. } = Node::start(mesh(1)).await;
    drop(handle);
    in_time("end of events", async { while events.recv().await.is_some() {} }).await;
    let Node { handle, events, .. } = Node::start(mesh(1)).await;
    drop(events);
    // It notices when it has something to say.
    in_time("end", async {
        let failing = || {
            handle.dial(
                "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            )
        };
        while failing().await.is_ok() {}
    })
    .await;
}
