//! The resolver: where the missing groups of a want come from.
//!
//! A hash is resolved once for all who want it at the same time (single-flight). It goes through the
//! tiers in order: the local store, the LAN, the edge. On the LAN only those neighbours are asked
//! whose filter does not rule the blob out, best first; a provider search in the DHT runs beside the
//! questions when no filter makes a holder likely. The edge is started when the LAN has nothing left,
//! or when it has had the time that 95 of 100 answers took lately: the *hedge* (Dean and Barroso, The
//! Tail at Scale, CACM 2013).
//!
//! This file takes in and ends wants. [`finding`] takes in what is learned of holders, [`fetching`]
//! what comes of fetches, [`small`] asks for small blobs at once; [`advance`] is the one place that decides
//! what happens next. [`swarm`] fetches a long blob from many at once, [`herd`] has the edge asked once for all
//! who want it, and [`overheard`] remembers who does though nobody wants it here. [`resolution`] holds the state of one hash and keeps its receipt, [`sources`] what became of those it tried, and
//! [`queues`] who waits for room at a peer.

mod advance;
mod fetching;
mod finding;
mod held_up;
mod herd;
mod overheard;
mod queues;
mod resolution;
mod small;
mod sources;
mod swarm;

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use herd::{Claimed, Rumoured};
use overheard::Overheard;
use queues::Queues;
use resolution::{Resolution, Search, Stage, Want};
pub(crate) use swarm::Told;
pub(in crate::engine) use swarm::pair_weight;

use crate::blob::Hash;
use crate::engine::peers::Peers;
use crate::engine::receipt::{Found, Receipt};
use crate::engine::{LookResult, Output, Shell, Source, Timer, WantError};
use crate::id::{FetchId, PeerId, QueryId, WantId};
use crate::time::Time;

#[derive(Debug, Default)]
pub(crate) struct Resolver {
    /// In boxes: some hundred come and go at once, and nodes of the map are moved about.
    resolutions: BTreeMap<Hash, Box<Resolution>>,
    wants: BTreeMap<WantId, Hash>,
    fetches: BTreeMap<FetchId, Hash>,
    queries: BTreeMap<QueryId, Hash>,
    /// Questions out at each neighbour, and the hashes that wait to ask it.
    asking: Queues,
    /// Fetches from each peer, and the hashes that wait to fetch from it.
    fetching: Queues,
    /// Peers that have room for another fetch, of which those who wait for it have not been told.
    freed: Vec<PeerId>,
    /// Small requests out at each neighbour, and the hashes that wait to make one.
    small: Queues,
    /// Claims of blobs that are not resolved here.
    overheard: Overheard,
    /// Hashes for which the store must be looked into now.
    looks: Vec<Hash>,
    /// Whether the node has looked for its neighbours long enough to say that a blob is nowhere.
    settled: bool,
    /// When the node began to look for them.
    born: Time,
    /// Whether each request to the edge that is under way has a connection of its own.
    pub(crate) edge_apart: bool,
    /// When a connection to the edge was last to be made ahead.
    prepared: Option<Time>,
}

impl Resolver {
    pub(crate) fn new(now: Time) -> Self {
        Self { born: now, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.resolutions.len()
    }

    /// Takes in a want, and returns whether the store must be looked into for it.
    pub(crate) fn get(
        &mut self,
        id: WantId,
        hash: Hash,
        (timeout, len_max): (Option<Duration>, Option<u64>),
        shell: &mut Shell,
    ) -> bool {
        shell.stats.gets += 1;
        let mut want = Want { id, started: shell.now, deadline: None, len_max };
        let full = self.resolutions.len() >= shell.config.resolutions_max;
        let refused = match self.resolutions.get(&hash) {
            Some(running) => running.wants.len() >= shell.config.wants_per_hash_max,
            None => full,
        };
        if refused {
            end_want(&want, Err(WantError::TooMany), Receipt::new(hash), shell);
            return false;
        }
        self.wants.insert(id, hash);
        want.deadline =
            timeout.map(|timeout| shell.start_timer(timeout, Timer::Deadline { want: id }));
        match self.resolutions.get_mut(&hash) {
            Some(running) => {
                shell.stats.gets_joined += 1;
                running.wants.push(want);
                false
            }
            None => {
                self.resolutions.insert(hash, Box::new(Resolution::new(hash, want)));
                true
            }
        }
    }

    /// Takes back a want, because of its user or its deadline.
    pub(crate) fn leave(
        &mut self,
        id: WantId,
        why: WantError,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(hash) = self.wants.remove(&id) else { return };
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let Some(place) = running.wants.iter().position(|want| want.id == id) else { return };
        let want = running.wants.swap_remove(place);
        let receipt = running.receipt_for(&want, shell.now);
        let abandoned = running.wants.is_empty();
        end_want(&want, Err(why), receipt, shell);
        if abandoned {
            self.finish(hash, Err(why), peers, shell);
        }
    }

    /// Takes in what the store holds.
    pub(crate) fn looked(
        &mut self,
        hash: Hash,
        result: LookResult,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        let first = running.stage == Stage::Local;
        if first {
            running.local_done(shell.now);
        }
        let claimed = running.receipt.size;
        match result {
            LookResult::Whole { size } => {
                running.receipt.found = Some(match running.found_whole(size) {
                    None => Found::Local,
                    Some(Source::Peer(peer)) if peers.contains(peer) => Found::Lan,
                    Some(Source::Peer(_)) => Found::Dht,
                    Some(Source::Edge) => Found::Edge,
                });
                return self.finish(hash, Ok(()), peers, shell);
            }
            // It went again before it was looked for: what is under way goes on.
            LookResult::Part { .. } | LookResult::Absent if !first => return,
            LookResult::Part { size, held, groups } => {
                running.receipt.size = Some(size);
                running.receipt.bytes_local = held;
                self.open_swarm(hash, size, Some(groups), peers, shell);
            }
            LookResult::Absent => {
                // Whoever was asked ahead may have said that it is a long one.
                if let Some(size) = claimed {
                    self.open_swarm(hash, size, None, peers, shell);
                }
            }
        }
        self.open_lan(hash, peers, shell);
        self.advance(hash, peers, shell);
    }

    /// Takes the hashes for which the store must be looked into.
    pub(crate) fn take_looks(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.looks)
    }

    /// Takes in that a blob came into the store by another way than a fetch that runs, and returns
    /// whether the store must be looked into again. While it is being looked into, it need not.
    pub(crate) fn held(&self, hash: Hash) -> bool {
        self.resolutions.get(&hash).is_some_and(|running| running.stage == Stage::Remote)
    }

    /// Takes in that a fetch stored a blob after it was stopped: its neighbour was slow, and is asked for small blobs again.
    pub(crate) fn stored_late(&mut self, hash: Hash, fetch: FetchId, peers: &mut Peers) {
        let Some(running) = self.resolutions.get_mut(&hash) else { return };
        if let Some(Source::Peer(peer)) = running.stored_late(fetch) {
            peers.end_rest_of_small(peer);
        }
    }

    pub(crate) fn settle(&mut self, peers: &mut Peers, shell: &mut Shell) {
        self.settled = true;
        for hash in self.hashes() {
            if let Some(running) = self.resolutions.get_mut(&hash) {
                let found_none = running.receipt.search.is_some_and(|search| search.providers == 0);
                if running.search == Search::Ended && found_none {
                    running.search = Search::Idle;
                }
            }
            self.advance(hash, peers, shell);
        }
    }

    /// Returns which blob a running fetch is for.
    pub(crate) fn hash_of(&self, fetch: FetchId) -> Option<Hash> {
        self.fetches.get(&fetch).copied()
    }

    fn hashes(&self) -> Vec<Hash> {
        self.resolutions.keys().copied().collect()
    }

    /// Ends a resolution for everybody who waits for it, and everything that runs for it.
    fn finish(
        &mut self,
        hash: Hash,
        result: Result<(), WantError>,
        peers: &mut Peers,
        shell: &mut Shell,
    ) {
        if result.is_ok() {
            self.tell_followers(hash, shell);
        } else {
            // Of a blob that is whole, claims end by themselves: until then word of it has gone round.
            self.release_claims(hash, peers, shell);
        }
        let Some(mut running) = self.resolutions.remove(&hash) else { return };
        running.ticker.take().into_iter().for_each(|timer| shell.stop_timer(timer));
        running.part_from_herd(shell);
        running.timers.drain(..).for_each(|timer| shell.stop_timer(timer));
        let mut freed = Vec::new();
        for (fetch, source) in running.sources_of_fetches() {
            freed.push((source, running.is_small(fetch)));
            stop_fetch(&mut running, fetch, "let go", &mut self.fetches, shell);
        }
        for peer in running.asks.keys() {
            if let Some(neighbour) = peers.get_mut(*peer) {
                neighbour.forget_ask(hash);
            }
        }
        if let Search::Running { query, since } = running.search {
            running.searched(0, since, false, shell.now);
            self.queries.remove(&query);
            shell.emit(Output::StopFindProviders { query });
        }
        for want in &running.wants {
            self.wants.remove(&want.id);
            end_want(want, result, running.receipt_for(want, shell.now), shell);
        }
        let asked: Vec<PeerId> = running.asks.keys().copied().collect();
        for (source, small) in freed {
            self.freed(source, small, peers, shell);
        }
        asked.into_iter().for_each(|peer| self.ask_freed(peer, peers, shell));
    }

    /// Lets the next hash that waits for a peer have the room of a fetch that ended there.
    fn freed(&mut self, source: Source, small: bool, peers: &mut Peers, shell: &mut Shell) {
        match source {
            Source::Peer(peer) if small => self.small_freed(peer, peers, shell),
            Source::Peer(_) | Source::Edge => self.fetch_freed(source, peers, shell),
        }
    }

    /// Lets the next hash that waits for a peer fetch from it.
    fn fetch_freed(&mut self, source: Source, peers: &mut Peers, shell: &mut Shell) {
        let Source::Peer(peer) = source else { return };
        self.fetching.end(peer);
        self.give_room_of(peer, peers, shell);
    }

    /// Lets those go on who wait for room that a fetch left which turned into others, as far as these left it.
    fn give_freed_room(&mut self, peers: &mut Peers, shell: &mut Shell) {
        while let Some(peer) = self.freed.pop() {
            self.give_room_of(peer, peers, shell);
        }
    }

    fn give_room_of(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        while self.fetching.has_room(peer, shell.config.fetches_per_peer_max) {
            let Some(next) = self.fetching.next(peer) else { break };
            self.advance(next, peers, shell);
        }
    }

    /// Lets the next hash that waits for a neighbour ask it.
    fn ask_freed(&mut self, peer: PeerId, peers: &mut Peers, shell: &mut Shell) {
        self.asking.end(peer);
        while self.asking.has_room(peer, shell.config.asks_per_neighbour_max) {
            let Some(next) = self.asking.next(peer) else { break };
            self.advance(next, peers, shell);
        }
    }
}

/// Stops a fetch, and writes into the receipt why. What it takes of its peer's room is given back by
/// whoever stops it.
fn stop_fetch(
    running: &mut Resolution,
    fetch: FetchId,
    why: &str,
    fetches: &mut BTreeMap<FetchId, Hash>,
    shell: &mut Shell,
) {
    if let Some(stopped) = running.fetch_ended(fetch, why, shell.now) {
        running.was_stopped(&stopped);
        stopped.timers.stop(shell);
    }
    running.end_lost = true;
    fetches.remove(&fetch);
    shell.emit(Output::StopFetch { fetch });
}

fn end_want(want: &Want, result: Result<(), WantError>, receipt: Receipt, shell: &mut Shell) {
    if let Some(deadline) = want.deadline {
        shell.stop_timer(deadline);
    }
    let stats = &mut shell.stats;
    match (result, receipt.found) {
        (Ok(()), Some(Found::Local)) => stats.found_local += 1,
        (Ok(()), Some(Found::Lan)) => stats.found_lan += 1,
        (Ok(()), Some(Found::Dht)) => stats.found_dht += 1,
        (Ok(()), Some(Found::Edge)) => stats.found_edge += 1,
        (Ok(()), None) | (Err(_), _) => stats.failed += 1,
    }
    if result.is_ok() {
        stats.count_bytes(&receipt);
    }
    shell.emit(Output::Ended { want: want.id, result, receipt: Box::new(receipt) });
}
