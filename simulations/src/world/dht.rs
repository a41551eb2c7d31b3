//! The model of the Kademlia DHT: routing tables as they would be, lookups walked through in full.
//!
//! Maymounkov and Mazières, *Kademlia* (2002): a node knows up to `k` nodes in each subtree that it is
//! not in; a lookup asks the closest known ones, `alpha` at a time, and takes in the `k` closest that
//! each of them knows, until the `k` closest have answered. The tables are not stored: which nodes of a
//! subtree a node knows is drawn again from the same stream each time, so it is the same each time as
//! long as those are up. A lookup is walked through at the moment it starts, in times of its own, and
//! its ends become events.
//!
//! Provide records lie with the `k` closest nodes that the provider's own lookup found, in memory: they
//! go when their keeper ends, and expire.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId, Time};

use super::host::peer_of;
use super::{Event, NodeIndex, World};
use crate::plan::{self, Behaviour};
use crate::random::Random;

/// Draws from a subtree for each place of a bucket; nodes that are down are passed over.
const DRAWS_PER_PLACE: usize = 3;
/// The most nodes that one lookup asks.
const ASKED_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Dht {
    spec: plan::Dht,
    random: Random,
    /// Every node that ever joined, by place in the key space.
    places: Vec<(u64, NodeIndex)>,
    sorted: bool,
    joined: BTreeSet<NodeIndex>,
    up: BTreeSet<NodeIndex>,
    /// What each node keeps: providers of a hash, and until when.
    kept: BTreeMap<NodeIndex, BTreeMap<Hash, BTreeMap<NodeIndex, Time>>>,
    pub(super) out: bool,
    pub(super) stats: DhtStats,
}

/// Counts what the DHT was asked.
#[derive(Debug, Default)]
pub(super) struct DhtStats {
    pub(super) lookups: u64,
    pub(super) found: u64,
    pub(super) requests: u64,
    pub(super) stale: u64,
    /// How many steps away the closest node was, for each lookup.
    pub(super) hops: Vec<u32>,
    /// How long each lookup took, in nanoseconds.
    pub(super) took: Vec<u64>,
}

/// Is what came of a lookup.
#[derive(Debug, Default)]
struct Walk {
    took: Duration,
    hops: u32,
    requests: u64,
    /// The closest nodes that answered, closest first.
    closest: Vec<NodeIndex>,
    /// Providers that were named, and when.
    named: Vec<(Duration, NodeIndex)>,
}

/// Is a question of a lookup that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    ends: Duration,
    node: NodeIndex,
    depth: u32,
    answered: bool,
}

/// Is a node that a lookup may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    distance: u64,
    node: NodeIndex,
    depth: u32,
}

/// Says how a node takes a question: how long it takes, and whether an answer comes.
type Reach<'a> = dyn FnMut(NodeIndex) -> (Duration, bool) + 'a;

/// Returns the place of a node in the key space.
fn place_of(node: NodeIndex) -> u64 {
    place(blake3::hash(peer_of(node).as_bytes()))
}

fn place(hash: blake3::Hash) -> u64 {
    let first = hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}

impl Dht {
    pub(super) fn new(spec: &plan::Dht, random: &Random) -> Self {
        Self {
            spec: spec.clone(),
            random: random.fork("dht", 0),
            places: Vec::new(),
            sorted: true,
            joined: BTreeSet::new(),
            up: BTreeSet::new(),
            kept: BTreeMap::new(),
            out: false,
            stats: DhtStats::default(),
        }
    }

    /// Takes a node into the key space.
    pub(super) fn join(&mut self, node: NodeIndex) {
        if self.joined.insert(node) {
            self.places.push((place_of(node), node));
            self.sorted = false;
        }
        self.up.insert(node);
    }

    /// Takes out a node that is down, with the records it kept.
    pub(super) fn leave(&mut self, node: NodeIndex) {
        self.up.remove(&node);
        self.kept.remove(&node);
    }

    fn keep(&mut self, keeper: NodeIndex, hash: Hash, provider: NodeIndex, until: Time) {
        if self.up.contains(&keeper) {
            let records = self.kept.entry(keeper).or_default();
            records.entry(hash).or_default().insert(provider, until);
        }
    }

    fn providers(&self, keeper: NodeIndex, hash: &Hash, now: Time) -> Vec<NodeIndex> {
        let records = self.kept.get(&keeper).and_then(|kept| kept.get(hash));
        let fresh = records.into_iter().flatten().filter(|(_, until)| **until > now);
        fresh.map(|(provider, _)| *provider).collect()
    }

    /// Walks through a lookup of `key` by `node`.
    fn walk(&mut self, node: NodeIndex, hash: &Hash, now: Time, reach: &mut Reach<'_>) -> Walk {
        self.sort();
        let key = place(blake3::hash(hash.as_bytes()));
        let mut walk = Walk::default();
        let mut seen = BTreeSet::from([node]);
        let mut waiting = BTreeSet::new();
        let mut answered: BTreeSet<Candidate> = BTreeSet::new();
        let mut running: BinaryHeap<Reverse<Question>> = BinaryHeap::new();
        for (distance, other) in self.closest_known(node, key) {
            if seen.insert(other) {
                waiting.insert(Candidate { distance, node: other, depth: 1 });
            }
        }
        loop {
            while running.len() < self.spec.alpha && seen.len() < ASKED_MAX {
                let Some(next) = self.next_to_ask(&mut waiting, &answered) else { break };
                let (takes, answers) = reach(next.node);
                walk.requests += 1;
                let ends = walk.took + takes;
                running.push(Reverse(Question {
                    ends,
                    node: next.node,
                    depth: next.depth,
                    answered: answers,
                }));
            }
            let Some(Reverse(question)) = running.pop() else { break };
            walk.took = question.ends;
            if !question.answered {
                continue;
            }
            let distance = place_of(question.node) ^ key;
            answered.insert(Candidate { distance, node: question.node, depth: question.depth });
            let named = self.providers(question.node, hash, now);
            walk.named.extend(named.into_iter().map(|provider| (question.ends, provider)));
            for (distance, other) in self.closest_known(question.node, key) {
                if seen.insert(other) {
                    waiting.insert(Candidate { distance, node: other, depth: question.depth + 1 });
                }
            }
        }
        walk.hops = answered.first().map_or(0, |closest| closest.depth);
        walk.closest = answered.iter().take(self.spec.k).map(|candidate| candidate.node).collect();
        walk
    }

    /// Takes the closest node that was not asked, as long as it is closer than the `k` that answered.
    fn next_to_ask(
        &self,
        waiting: &mut BTreeSet<Candidate>,
        answered: &BTreeSet<Candidate>,
    ) -> Option<Candidate> {
        let farthest = answered.iter().nth(self.spec.k.saturating_sub(1));
        let next = waiting.first().copied()?;
        if farthest.is_some_and(|farthest| next.distance > farthest.distance) {
            return None;
        }
        waiting.pop_first()
    }

    /// Returns the `k` nodes closest to `key` that a node knows, with their distance.
    fn closest_known(&self, node: NodeIndex, key: u64) -> Vec<(u64, NodeIndex)> {
        let own = place_of(node);
        let mut found: Vec<(u64, NodeIndex)> = Vec::new();
        // The subtree of the key first. Everything nearer to the node itself is next, in no order; then
        // ever wider subtrees.
        let shared = (own ^ key).leading_zeros().min(63);
        self.bucket(node, own, shared, &mut found);
        for bits in shared + 1..64 {
            if found.len() >= self.spec.k || self.is_lonely(own, bits) {
                break;
            }
            self.bucket(node, own, bits, &mut found);
        }
        for bits in (0..shared).rev() {
            if found.len() >= self.spec.k {
                break;
            }
            self.bucket(node, own, bits, &mut found);
        }
        for known in &mut found {
            known.0 ^= key;
        }
        found.sort_unstable();
        found.truncate(self.spec.k);
        found
    }

    /// Adds the nodes that a node knows in the subtree that shares exactly `bits` bits with it.
    fn bucket(&self, node: NodeIndex, own: u64, bits: u32, found: &mut Vec<(u64, NodeIndex)>) {
        let range = self.subtree(own, bits);
        let members = self.places.get(range).unwrap_or_default();
        let is_up = |other: &NodeIndex| *other != node && self.up.contains(other);
        if members.len() <= self.spec.k {
            found.extend(members.iter().filter(|(_, other)| is_up(other)));
            return;
        }
        let number = u64::try_from(node).unwrap_or(0) << 6 | u64::from(bits);
        let mut random = self.random.fork("bucket", number);
        let mut drawn = BTreeSet::new();
        for _ in 0..self.spec.k * DRAWS_PER_PLACE {
            let member = members.get(random.index(members.len()));
            if let Some(member) = member.filter(|(_, other)| is_up(other)) {
                drawn.insert(*member);
            }
            if drawn.len() >= self.spec.k {
                break;
            }
        }
        found.extend(drawn);
    }

    /// Returns the places that share exactly `bits` leading bits with `own`.
    fn subtree(&self, own: u64, bits: u32) -> std::ops::Range<usize> {
        // The bit after the shared ones differs; below it anything goes.
        let flip = 1_u64 << (63 - bits);
        let low = (own ^ flip) & !(flip - 1);
        let high = low | (flip - 1);
        let start = self.places.partition_point(|(place, _)| *place < low);
        let end = self.places.partition_point(|(place, _)| *place <= high);
        start..end
    }

    /// Returns whether nobody else shares at least `bits` leading bits with `own`.
    fn is_lonely(&self, own: u64, bits: u32) -> bool {
        let rest = u64::MAX >> bits;
        let start = self.places.partition_point(|(place, _)| *place < (own & !rest));
        let end = self.places.partition_point(|(place, _)| *place <= (own | rest));
        end - start <= 1
    }

    fn sort(&mut self) {
        if !self.sorted {
            self.places.sort_unstable();
            self.sorted = true;
        }
    }
}

impl World {
    /// Searches the DHT for providers of a blob.
    pub(super) fn search(&mut self, node: NodeIndex, query: QueryId, hash: Hash) {
        let Some(walk) = self.walk(node, &hash) else {
            let ended = Event::Searched { query, peers: Vec::new(), ended: true };
            return self.schedule(Duration::ZERO, node, ended);
        };
        let liars = self.malicious.iter().filter(|(_, how)| *how == Behaviour::FalseProvider);
        let liars: Vec<(Duration, NodeIndex)> = liars.map(|(liar, _)| (walk.took, *liar)).collect();
        let mut told = BTreeSet::from([node]);
        let (mut named, mut stale) = (0, 0);
        for (after, provider) in walk.named.into_iter().chain(liars) {
            if !told.insert(provider) {
                continue;
            }
            named += 1;
            let holds = self
                .hosts
                .get(provider)
                .is_some_and(|host| host.is_up() && host.store.size(&hash).is_some());
            stale += u64::from(!holds);
            let peers = vec![peer_of(provider)];
            self.schedule(after, node, Event::Searched { query, peers, ended: false });
        }
        self.schedule(walk.took, node, Event::Searched { query, peers: Vec::new(), ended: true });
        if let Some(dht) = &mut self.dht {
            dht.stats.lookups += 1;
            dht.stats.found += u64::from(named > 0);
            dht.stats.stale += stale;
            dht.stats.hops.push(walk.hops);
            dht.stats.took.push(u64::try_from(walk.took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn searched(
        &mut self,
        node: NodeIndex,
        query: QueryId,
        peers: Vec<PeerId>,
        ended: bool,
    ) {
        if !peers.is_empty() {
            self.tell(node, Input::Providers { query, peers });
        }
        if ended {
            self.tell(node, Input::ProvidersEnded { query });
        }
    }

    /// Puts a provide record with the nodes closest to a blob's hash.
    pub(super) fn provide(&mut self, node: NodeIndex, hash: Hash) {
        let Some(walk) = self.walk(node, &hash) else { return };
        let keepers = walk.closest;
        let way = keepers.first().map(|keeper| self.delay(node, *keeper)).unwrap_or_default();
        if let Some(dht) = &mut self.dht {
            dht.stats.requests += u64::try_from(keepers.len()).unwrap_or(0);
        }
        self.schedule(walk.took + way, node, Event::Provided { hash, keepers });
    }

    pub(super) fn provided(&mut self, node: NodeIndex, hash: Hash, keepers: &[NodeIndex]) {
        let Some(dht) = &mut self.dht else { return };
        let until = self.now + dht.spec.record_ttl;
        for keeper in keepers {
            dht.keep(*keeper, hash, node, until);
        }
    }

    /// Walks through a lookup; none where there is no DHT, or it is out.
    fn walk(&mut self, node: NodeIndex, hash: &Hash) -> Option<Walk> {
        let mut dht = self.dht.take()?;
        let (now, timeout) = (self.now, dht.spec.timeout);
        let walk = (!dht.out).then(|| {
            dht.walk(node, hash, now, &mut |other| self.question_time(node, other, timeout))
        });
        dht.stats.requests += walk.as_ref().map_or(0, |walk| walk.requests);
        self.dht = Some(dht);
        walk
    }

    /// Returns how long a question to a node takes, and whether it answers.
    fn question_time(
        &mut self,
        node: NodeIndex,
        other: NodeIndex,
        timeout: Duration,
    ) -> (Duration, bool) {
        if self.are_apart(node, other) {
            return (timeout, false);
        }
        let round_trip = self.delay(node, other) * 2 + self.model.step * 2;
        let Some(host) = self.hosts.get(other).filter(|host| host.is_up()) else {
            return (round_trip, false);
        };
        let dial = self.model.dial + round_trip * self.model.dial_round_trips;
        let linked = host.links.contains_key(&node);
        (if linked { round_trip } else { dial + round_trip }, true)
    }
}
