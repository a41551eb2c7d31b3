//! A world in virtual time: the engines that ship, and models of what is around them.
//!
//! Each node is a real [`Engine`](blobmesh_protocol::Engine) with its real configuration, and its messages travel as the bytes of
//! the real wire format. What is modelled is the rest: a link has a delay and each node one rate at
//! which it receives; a store is a map that answers after a moment; the DHT and the edge are maps that
//! answer after a delay. One world runs on one thread, in one order: two runs of one seed give the same
//! [`log_hash`](World::log_hash).

mod host;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::engine::{Input, WantError};
use blobmesh_protocol::id::{FetchId, QueryId, WantId};
use blobmesh_protocol::wire::frame::FrameReader;
use blobmesh_protocol::wire::message::{self, Message};
use blobmesh_protocol::{Config, Hash, PeerId, Time};

use host::Host;

/// Numbers a node of a world, from 0.
pub type NodeIndex = usize;

/// Says how the models around the engines behave.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Seeds the engines' jitter.
    pub seed: u64,
    /// How long a message takes from one node to another.
    pub delay: Duration,
    /// How many bytes of blobs a node receives each second.
    pub rate: u64,
    /// How long a look into a store takes.
    pub look: Duration,
    /// How long a provider search in the DHT takes.
    pub search: Duration,
    /// How long the edge takes to its first byte.
    pub edge_delay: Duration,
}

impl Default for WorldConfig {
    /// An office: 0.1 ms between neighbours, 1 Gbit/s, an edge 20 ms away.
    fn default() -> Self {
        Self {
            seed: 1,
            delay: Duration::from_micros(100),
            rate: 125_000_000,
            look: Duration::from_micros(20),
            search: Duration::from_millis(5),
            edge_delay: Duration::from_millis(20),
        }
    }
}

/// Counts what travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Filters, deltas and greetings between nodes.
    pub gossip: Messages,
    /// Questions and answers between nodes.
    pub asks: Messages,
    /// Bytes of blobs between nodes.
    pub blob_bytes: u64,
    /// Bytes of blobs from the edge.
    pub edge_bytes: u64,
}

/// Counts messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// Tells how one get ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The node.
    pub node: NodeIndex,
    /// The want.
    pub want: WantId,
    /// When.
    pub at: Time,
    /// Whether the blob is there.
    pub result: Result<(), WantError>,
    /// How it was resolved.
    pub receipt: Receipt,
}

/// What will happen to a node.
#[derive(Clone, Debug)]
enum Event {
    Input(Input),
    /// Bytes of control frames from a neighbour.
    Frames {
        from: PeerId,
        bytes: Vec<u8>,
    },
    /// A fetch's bytes are all there.
    Arrived {
        fetch: FetchId,
        hash: Hash,
        size: u64,
        edge: bool,
    },
    Searched {
        query: QueryId,
        hash: Hash,
    },
    Timeout,
}

/// Runs engines in virtual time. See the [module](self).
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    now: Time,
    hosts: Vec<Host>,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, (NodeIndex, Event)>,
    serial: u64,
    links: BTreeSet<(NodeIndex, NodeIndex)>,
    edge: BTreeMap<Hash, u64>,
    dht: BTreeMap<Hash, BTreeSet<PeerId>>,
    traffic: Traffic,
    ended: Vec<Ended>,
    log: blake3::Hasher,
    steps: u64,
}

impl World {
    /// Makes a world without nodes.
    pub fn new(config: WorldConfig) -> Self {
        Self {
            config,
            now: Time::ZERO,
            hosts: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            serial: 0,
            links: BTreeSet::new(),
            edge: BTreeMap::new(),
            dht: BTreeMap::new(),
            traffic: Traffic::default(),
            ended: Vec::new(),
            log: blake3::Hasher::new(),
            steps: 0,
        }
    }

    /// Adds a node that has looked for its neighbours already.
    pub fn add_node(&mut self, config: Config) -> NodeIndex {
        let index = self.hosts.len();
        let seed = self.config.seed.wrapping_add(u64::try_from(index).unwrap_or(0));
        self.hosts.push(Host::new(index, config, seed, self.now));
        self.schedule(Duration::ZERO, index, Event::Input(Input::Settled));
        index
    }

    /// Links two nodes as neighbours.
    pub fn link(&mut self, a: NodeIndex, b: NodeIndex) {
        self.links.insert((a.min(b), a.max(b)));
        for (node, other) in [(a, b), (b, a)] {
            let peer = host::peer_of(other);
            self.schedule(Duration::ZERO, node, Event::Input(Input::Connected { peer }));
        }
    }

    /// Ends the link of two nodes; what is under way between them is lost.
    pub fn unlink(&mut self, a: NodeIndex, b: NodeIndex) {
        self.links.remove(&(a.min(b), a.max(b)));
        for (node, other) in [(a, b), (b, a)] {
            let peer = host::peer_of(other);
            self.schedule(Duration::ZERO, node, Event::Input(Input::Disconnected { peer }));
        }
    }

    /// Puts a blob into a node's store, as its user adds it.
    pub fn add_blob(&mut self, node: NodeIndex, hash: Hash, size: u64) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.store.insert(hash, size);
            let held = Input::Held { hash, advertise: true };
            self.schedule(Duration::ZERO, node, Event::Input(held));
        }
    }

    /// Puts a blob onto the edge.
    pub fn add_to_edge(&mut self, hash: Hash, size: u64) {
        self.edge.insert(hash, size);
    }

    /// Has a node want a blob, now.
    pub fn get(&mut self, node: NodeIndex, hash: Hash) -> WantId {
        self.serial += 1;
        let want = WantId(self.serial);
        let get = Input::Get { want, hash, timeout: None };
        self.schedule(Duration::ZERO, node, Event::Input(get));
        want
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, serial))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            if let Some((node, event)) = self.events.remove(&serial) {
                self.now = at;
                self.step(node, event);
            }
        }
        self.now = end;
    }

    /// Returns the moment that was reached.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Returns what travelled.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Returns how many events were handled.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes the gets that ended since the last call.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Returns the counters of a node's engine.
    pub fn stats(&self, node: NodeIndex) -> blobmesh_protocol::stats::Stats {
        self.hosts.get(node).map(|host| host.engine.stats()).unwrap_or_default()
    }

    /// Returns the BLAKE3 hash of every event so far: when, to whom, and what it was.
    pub fn log_hash(&self) -> Hash {
        Hash::from_bytes(*self.log.finalize().as_bytes())
    }

    fn schedule(&mut self, after: Duration, node: NodeIndex, event: Event) {
        self.schedule_at(self.now + after, node, event);
    }

    fn schedule_at(&mut self, at: Time, node: NodeIndex, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((at, self.serial)));
        self.events.insert(self.serial, (node, event));
    }

    fn step(&mut self, node: NodeIndex, event: Event) {
        self.steps += 1;
        self.record(node, &event);
        match event {
            Event::Input(input) => self.tell(node, input),
            Event::Frames { from, bytes } => {
                let mut reader = FrameReader::new(message::body_len_max);
                let mut rest = &bytes[..];
                while let Ok(Some(frame)) = reader.poll_frame(&mut rest) {
                    if let Ok(Some(message)) = Message::decode(frame.kind, &frame.body) {
                        self.tell(node, Input::Message { peer: from, message });
                    }
                }
            }
            Event::Arrived { fetch, hash, size, edge } => {
                self.arrive(node, fetch, hash, size, edge)
            }
            Event::Searched { query, hash } => {
                let peers: Vec<PeerId> =
                    self.dht.get(&hash).into_iter().flatten().copied().collect();
                if !peers.is_empty() {
                    self.tell(node, Input::Providers { query, peers });
                }
                self.tell(node, Input::ProvidersEnded { query });
            }
            Event::Timeout => self.tell(node, Input::Timeout),
        }
    }

    fn record(&mut self, node: NodeIndex, event: &Event) {
        self.log.update(&self.now.as_nanos().to_le_bytes());
        self.log.update(&u64::try_from(node).unwrap_or(0).to_le_bytes());
        self.log.update(format!("{event:?}").as_bytes());
    }

    fn tell(&mut self, node: NodeIndex, input: Input) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        host.engine.handle(self.now, input);
        loop {
            let Some(host) = self.hosts.get_mut(node) else { return };
            let Some(output) = host.engine.poll_output() else { break };
            self.perform(node, output);
        }
        self.schedule_timeout(node);
    }

    /// Wakes an engine at its next timeout, unless that is scheduled already.
    fn schedule_timeout(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some((at, _)) = host.engine.poll_timeout() else { return };
        if host.wakes_at.is_none_or(|wakes_at| wakes_at > at || wakes_at <= self.now) {
            host.wakes_at = Some(at);
            self.schedule_at(at.max(self.now), node, Event::Timeout);
        }
    }
}
