//! Queues of hashes that wait for room at one peer: for a question, or for a fetch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::blob::Hash;
use crate::id::PeerId;

/// Keeps, for each peer, how much is under way and which hashes wait, first come first served.
///
/// Holds at most one entry for each hash and peer, so it is bounded by the hashes being resolved and
/// the peers each of them knows.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    running: BTreeMap<PeerId, usize>,
    waiting: BTreeMap<PeerId, VecDeque<Hash>>,
    members: BTreeSet<(PeerId, Hash)>,
}

impl Queues {
    /// Returns whether a peer has room, with at most `max` under way.
    pub(crate) fn has_room(&self, peer: PeerId, max: usize) -> bool {
        self.len(peer) < max
    }

    /// Returns how much is under way at a peer.
    pub(crate) fn len(&self, peer: PeerId) -> usize {
        self.running.get(&peer).copied().unwrap_or(0)
    }

    /// Counts one more under way.
    pub(crate) fn begin(&mut self, peer: PeerId) {
        *self.running.entry(peer).or_default() += 1;
    }

    /// Counts one less under way.
    pub(crate) fn end(&mut self, peer: PeerId) {
        match self.running.get_mut(&peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.running.remove(&peer);
            }
        }
    }

    /// Has a hash wait for room at a peer.
    pub(crate) fn wait(&mut self, peer: PeerId, hash: Hash) {
        if self.members.insert((peer, hash)) {
            self.waiting.entry(peer).or_default().push_back(hash);
        }
    }

    /// Takes the hash that has waited longest for a peer.
    pub(crate) fn next(&mut self, peer: PeerId) -> Option<Hash> {
        let waiting = self.waiting.get_mut(&peer)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&peer);
        }
        if let Some(hash) = next {
            self.members.remove(&(peer, hash));
        }
        next
    }
}
