//! One node of a world: its engine, its models, and doing what the engine decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blobmesh_protocol::engine::{Engine, FetchOutcome, Input, LookResult, Output, Source};
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::wire::message::Message;
use blobmesh_protocol::{Config, Hash, PeerId, Time};

use super::{Ended, Event, NodeIndex, World};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) store: BTreeMap<Hash, u64>,
    pub(super) wakes_at: Option<Time>,
    /// Fetches under way; what arrives for another is dropped.
    fetches: BTreeSet<FetchId>,
    /// Until when the node's link is taken by blobs that are coming in.
    receives_until: Time,
}

/// Names the node of an index.
pub(super) fn peer_of(node: NodeIndex) -> PeerId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::try_from(node).unwrap_or(u64::MAX).to_le_bytes());
    PeerId::from_bytes(bytes)
}

fn node_of(peer: PeerId) -> Option<NodeIndex> {
    let bytes = peer.as_bytes().first_chunk::<8>()?;
    NodeIndex::try_from(u64::from_le_bytes(*bytes)).ok()
}

impl Host {
    pub(super) fn new(index: NodeIndex, config: Config, seed: u64, now: Time) -> Self {
        Self {
            engine: Engine::new(config, peer_of(index), seed, now),
            store: BTreeMap::new(),
            wakes_at: None,
            fetches: BTreeSet::new(),
            receives_until: now,
        }
    }
}

impl World {
    pub(super) fn perform(&mut self, node: NodeIndex, output: Output) {
        match output {
            Output::Look { look, hash } => {
                let size = self.hosts.get(node).and_then(|host| host.store.get(&hash)).copied();
                let result = size.map_or(LookResult::Absent, |size| LookResult::Whole { size });
                let looked = Event::Input(Input::Looked { look, result });
                self.schedule(self.config.look, node, looked);
            }
            Output::Send { peer, message } => self.send(node, peer, &message),
            Output::Fetch { fetch, hash, source } => self.fetch(node, fetch, hash, source),
            Output::StopFetch { fetch } => {
                if let Some(host) = self.hosts.get_mut(node) {
                    host.fetches.remove(&fetch);
                }
            }
            Output::FindProviders { query, hash } => {
                self.schedule(self.config.search, node, Event::Searched { query, hash });
            }
            Output::Provide { hash } => {
                self.dht.entry(hash).or_default().insert(peer_of(node));
            }
            Output::Unprovide { hash } => {
                if let Some(providers) = self.dht.get_mut(&hash) {
                    providers.remove(&peer_of(node));
                }
            }
            Output::Drop { peer, .. } => {
                if let Some(other) = node_of(peer) {
                    self.unlink(node, other);
                }
            }
            Output::Ended { want, result, receipt } => {
                let at = self.now;
                self.ended.push(Ended { node, want, at, result, receipt: *receipt });
            }
            // Services are not limited here: every fetch is served.
            Output::StopFindProviders { .. } | Output::Serve { .. } => {}
        }
    }

    fn send(&mut self, node: NodeIndex, peer: PeerId, message: &Message) {
        let Some(other) = node_of(peer) else { return };
        if !self.links.contains(&(node.min(other), node.max(other))) {
            return;
        }
        let Ok(bytes) = message.encode() else { return };
        let messages = match message {
            Message::Ask { .. } | Message::Answer { .. } => &mut self.traffic.asks,
            Message::Hello(_)
            | Message::Filter(_)
            | Message::FilterDelta(_)
            | Message::FilterRequest
            | Message::Goodbye => &mut self.traffic.gossip,
        };
        messages.count += 1;
        messages.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        let from = peer_of(node);
        self.schedule(self.config.delay, other, Event::Frames { from, bytes });
    }

    /// Starts a fetch: the request travels, then the bytes queue on the receiver's link.
    fn fetch(&mut self, node: NodeIndex, fetch: FetchId, hash: Hash, source: Source) {
        let (holds, first_byte) = match source {
            Source::Peer(peer) => {
                let holder = node_of(peer).and_then(|other| self.hosts.get(other));
                (holder.and_then(|holder| holder.store.get(&hash)).copied(), self.config.delay * 2)
            }
            Source::Edge => (self.edge.get(&hash).copied(), self.config.edge_delay),
        };
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(size) = holds else {
            let ended = Input::FetchEnded { fetch, outcome: FetchOutcome::Absent };
            return self.schedule(first_byte, node, Event::Input(ended));
        };
        host.fetches.insert(fetch);
        let begins = host.receives_until.max(self.now + first_byte);
        host.receives_until = begins + transfer_time(size, self.config.rate);
        let (at, edge) = (host.receives_until, source == Source::Edge);
        self.schedule_at(at, node, Event::Arrived { fetch, hash, size, edge });
    }

    pub(super) fn arrive(
        &mut self,
        node: NodeIndex,
        fetch: FetchId,
        hash: Hash,
        size: u64,
        edge: bool,
    ) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        if !host.fetches.remove(&fetch) {
            return;
        }
        host.store.insert(hash, size);
        let bytes = if edge { &mut self.traffic.edge_bytes } else { &mut self.traffic.blob_bytes };
        *bytes += size;
        self.tell(node, Input::Progress { fetch, bytes: size, size });
        let outcome = FetchOutcome::Complete { size };
        self.tell(node, Input::FetchEnded { fetch, outcome });
    }
}

fn transfer_time(size: u64, rate: u64) -> Duration {
    let nanos = u128::from(size) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
