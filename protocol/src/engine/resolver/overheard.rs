//! What neighbours say that they bring from the edge of blobs that nobody wants here yet.
//!
//! Who wants one of them a moment later knows at once whom to wait for. Otherwise it would have to hear that in
//! answer to its own word, and words take longer than it listens where machines are busy or the network is slow.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::blob::Hash;
use crate::id::PeerId;
use crate::time::Time;

/// The most blobs that are remembered of a neighbour, the latest: 64 neighbours make 512.
const BLOBS_MAX: usize = 8;

/// Is what was overheard of each neighbour, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Overheard {
    words: BTreeMap<PeerId, VecDeque<Word>>,
}

/// Is what a neighbour said of one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    hash: Hash,
    pub(crate) runs: Vec<Range<u64>>,
    pub(crate) done: u64,
    /// When it said so.
    pub(crate) at: Time,
}

impl Overheard {
    /// Takes in what a neighbour says now, instead of what it said of that blob before.
    pub(crate) fn hear(
        &mut self,
        peer: PeerId,
        hash: Hash,
        (runs, done): (Vec<Range<u64>>, u64),
        at: Time,
    ) {
        let words = self.words.entry(peer).or_default();
        words.retain(|word| word.hash != hash);
        if !runs.is_empty() {
            if words.len() >= BLOBS_MAX {
                words.pop_front();
            }
            words.push_back(Word { hash, runs, done, at });
        }
        if words.is_empty() {
            self.words.remove(&peer);
        }
    }

    /// Forgets a neighbour that is gone.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.words.remove(&peer);
    }

    /// Takes what neighbours said of a blob no longer than `ttl` ago.
    pub(crate) fn take(&mut self, hash: Hash, ttl: Duration, now: Time) -> Vec<(PeerId, Word)> {
        let mut taken = Vec::new();
        for (peer, words) in &mut self.words {
            let place = words.iter().position(|word| word.hash == hash);
            let word = place.and_then(|place| words.remove(place));
            taken.extend(word.filter(|word| now - word.at < ttl).map(|word| (*peer, word)));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(2);

    fn hash(n: u8) -> Hash {
        Hash::from_bytes([n; 32])
    }

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn word(groups: Range<u64>) -> (Vec<Range<u64>>, u64) {
        (std::iter::once(groups).collect(), 0)
    }

    fn taken(overheard: &mut Overheard, n: u8, now: Time) -> Vec<(PeerId, Vec<Range<u64>>)> {
        let words = overheard.take(hash(n), TTL, now).into_iter();
        words.map(|(peer, word)| (peer, word.runs)).collect()
    }

    #[test]
    fn last_word_counts_and_an_empty_one_takes_it_back() {
        let mut overheard = Overheard::default();
        overheard.hear(peer(1), hash(1), word(0..64), Time::ZERO);
        overheard.hear(peer(1), hash(1), word(64..128), Time::ZERO);
        overheard.hear(peer(2), hash(1), word(0..64), Time::ZERO);
        overheard.hear(peer(2), hash(1), (Vec::new(), 0), Time::ZERO);
        assert_eq!(taken(&mut overheard, 1, Time::ZERO), [(peer(1), word(64..128).0)]);
        assert_eq!(taken(&mut overheard, 1, Time::ZERO), [], "what was taken is gone");
    }

    #[test]
    fn words_end_with_their_time_and_with_their_neighbour() {
        let mut overheard = Overheard::default();
        overheard.hear(peer(1), hash(1), word(0..64), Time::ZERO);
        assert_eq!(taken(&mut overheard, 1, Time::ZERO + TTL), []);
        overheard.hear(peer(1), hash(1), word(0..64), Time::ZERO);
        overheard.forget(peer(1));
        assert_eq!(taken(&mut overheard, 1, Time::ZERO), []);
    }

    #[test]
    fn neighbour_that_says_much_drives_out_its_own_words_alone() {
        let mut overheard = Overheard::default();
        overheard.hear(peer(1), hash(100), word(0..64), Time::ZERO);
        for n in 0..=8 {
            overheard.hear(peer(2), hash(n), word(0..64), Time::ZERO);
        }
        assert_eq!(taken(&mut overheard, 0, Time::ZERO), []);
        assert_eq!(taken(&mut overheard, 1, Time::ZERO).len(), 1);
        assert_eq!(taken(&mut overheard, 100, Time::ZERO).len(), 1);
    }
}
