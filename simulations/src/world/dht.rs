//! The model of the Kademlia DHT: routing tables as they would be, lookups walked through in full.
//!
//! Maymounkov and Mazières, *Kademlia* (2002): a node knows up to `k` nodes in each subtree that it is
//! not in; a lookup asks the closest known ones, and takes in the `k` closest that each of them knows, until
//! the `k` closest have answered. It asks as libp2p does: `alpha` nodes at a time while answers bring closer
//! ones, and `k` at a time after `alpha` answers in a row brought none. The tables are not stored: which
//! nodes of a subtree a node knows is drawn again from the same stream each time, so it is the same each
//! time as long as those are up. A lookup is walked through at the moment it starts, in times of its own,
//! and its ends become events.
//!
//! A question takes a stream of its own, over a connection that is dialled where there is none
//! ([`super::connections`]).
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
const ASKED_MAX: u64 = 256;

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
    distance: u64,
    node: NodeIndex,
    answered: bool,
}

/// Is whom a lookup knows of, closest first, and how far it is with each.
#[derive(Debug)]
struct Lookup {
    k: usize,
    alpha: usize,
    known: BTreeMap<(u64, NodeIndex), Candidate>,
    waiting: usize,
    /// Answers in a row that brought nobody closer.
    in_vain: usize,
}

/// Is a node that a lookup knows of.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    state: State,
    /// How many answers led to it.
    depth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Answered,
    Failed,
}

impl Lookup {
    fn new((k, alpha): (usize, usize), known: Vec<(u64, NodeIndex)>) -> Self {
        let new = Candidate { state: State::New, depth: 1 };
        let known = known.into_iter().map(|place| (place, new)).collect();
        Self { k, alpha, known, waiting: 0, in_vain: 0 }
    }

    /// Takes the next node to ask; none as long as enough are asked, or when the lookup is over.
    fn next_to_ask(&mut self) -> Option<(u64, NodeIndex)> {
        let stalled = self.in_vain >= self.alpha;
        let room = if stalled { self.k.max(self.alpha) } else { self.alpha };
        if self.waiting >= room || self.is_over() {
            return None;
        }
        let mut new = self.known.iter_mut().filter(|(_, of)| of.state == State::New);
        let (place, candidate) = new.next()?;
        candidate.state = State::Asked;
        self.waiting += 1;
        Some(*place)
    }

    /// Returns whether the `k` closest have answered, those that failed left out.
    fn is_over(&self) -> bool {
        let closest = self.known.values().filter(|of| of.state != State::Failed).take(self.k);
        closest.clone().count() == self.k && closest.clone().all(|of| of.state == State::Answered)
    }

    /// Takes in that a node did not answer.
    fn failed(&mut self, place: (u64, NodeIndex)) {
        self.waiting -= 1;
        self.known.entry(place).and_modify(|of| of.state = State::Failed);
    }

    /// Takes in that a node answered, and whom it named.
    fn answered(&mut self, place: (u64, NodeIndex), named: Vec<(u64, NodeIndex)>) {
        self.waiting -= 1;
        let Some(candidate) = self.known.get_mut(&place) else { return };
        candidate.state = State::Answered;
        let depth = candidate.depth + 1;
        let farthest = self.known.keys().take(self.k).next_back().map_or(place.0, |(far, _)| *far);
        let mut closer = self.known.len() < self.k;
        for other in named {
            self.known.entry(other).or_insert_with(|| {
                closer |= other.0 < farthest;
                Candidate { state: State::New, depth }
            });
        }
        self.in_vain = if closer { 0 } else { self.in_vain + 1 };
    }

    /// Returns the closest nodes that answered, at most `k`, and after how many answers the first was known.
    fn into_closest(self) -> (Vec<NodeIndex>, u32) {
        let mut answered =
            self.known.into_iter().filter(|(_, of)| of.state == State::Answered).peekable();
        let hops = answered.peek().map_or(0, |(_, of)| of.depth);
        (answered.take(self.k).map(|((_, node), _)| node).collect(), hops)
    }
}

/// Says how a node takes a question that is asked after a while: how long it takes, and whether an answer
/// comes.
type Reach<'a> = dyn FnMut(NodeIndex, Duration) -> (Duration, bool) + 'a;

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
        let mut lookup = Lookup::new((self.spec.k, self.spec.alpha), self.closest_known(node, key));
        let mut running: BinaryHeap<Reverse<Question>> = BinaryHeap::new();
        // What a node keeps itself it knows at once.
        let own = self.providers(node, hash, now);
        walk.named.extend(own.into_iter().map(|provider| (Duration::ZERO, provider)));
        loop {
            while walk.requests < ASKED_MAX
                && let Some((distance, other)) = lookup.next_to_ask()
            {
                let (takes, answered) = reach(other, walk.took);
                walk.requests += 1;
                let ends = walk.took + takes;
                running.push(Reverse(Question { ends, distance, node: other, answered }));
            }
            if lookup.is_over() {
                break;
            }
            let Some(Reverse(question)) = running.pop() else { break };
            walk.took = question.ends;
            let place = (question.distance, question.node);
            if !question.answered {
                lookup.failed(place);
                continue;
            }
            let providers = self.providers(question.node, hash, now);
            walk.named.extend(providers.into_iter().map(|provider| (question.ends, provider)));
            let mut named = self.closest_known(question.node, key);
            named.retain(|(_, other)| *other != node);
            lookup.answered(place, named);
        }
        (walk.closest, walk.hops) = lookup.into_closest();
        walk
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
        let way = way * (1 + 2 * self.model.stream_round_trips);
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
            dht.walk(node, hash, now, &mut |other, after| {
                self.question_time((node, other), now + after, timeout)
            })
        });
        dht.stats.requests += walk.as_ref().map_or(0, |walk| walk.requests);
        self.dht = Some(dht);
        walk
    }

    /// Returns how long a question to a node takes that is asked at a moment to come, and whether it answers.
    fn question_time(
        &mut self,
        (node, other): (NodeIndex, NodeIndex),
        at: Time,
        timeout: Duration,
    ) -> (Duration, bool) {
        if self.are_apart(node, other) {
            return (timeout, false);
        }
        let round_trip = self.delay(node, other) * 2;
        if self.hosts.get(other).is_none_or(|host| !host.is_up()) {
            return (round_trip, false);
        }
        let connect = self.connect((node, other), round_trip, at);
        let asked = round_trip * (self.model.stream_round_trips + 1) + self.model.question;
        self.use_connection(node, other, at + connect + asked);
        (connect + asked, true)
    }
}
