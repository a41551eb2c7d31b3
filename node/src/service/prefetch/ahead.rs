//! What came ahead, and whether it was used since.

use std::collections::{HashMap, VecDeque};

use blobmesh_protocol::Hash;
use tokio::time::Instant;

use crate::control::api::TierBytes;

/// How many blobs that came ahead and were not used yet are remembered, about 100 bytes each; the oldest are forgotten.
const REMEMBERED_MAX: usize = 65_536;

/// What came ahead, since the start of the node.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    counts: AheadCounts,
    unused: HashMap<Hash, Unused>,
    /// In the order in which they came; may name blobs that were used since.
    order: VecDeque<Hash>,
}

#[derive(Clone, Copy, Debug)]
struct Unused {
    size: u64,
    tier: TierBytes,
    came: Instant,
}

/// Counts what came ahead; fields only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::service) struct AheadCounts {
    /// Gets of a prefetch that ended well.
    pub(in crate::service) gets: u64,
    /// Those for which the edge gave no byte.
    pub(in crate::service) without_edge: u64,
    /// The bytes they brought.
    pub(in crate::service) bytes: u64,
    /// Those of them that somebody used since.
    pub(in crate::service) used: u64,
    /// Those of the latter that came to no get, as a directory was made of them.
    pub(in crate::service) used_without_get: u64,
}

impl Ahead {
    pub(super) fn counts(&self) -> AheadCounts {
        self.counts
    }

    pub(super) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    pub(super) fn came(&mut self, hash: Hash, size: u64, tier: TierBytes) {
        self.counts.gets += 1;
        self.counts.without_edge += u64::from(tier.edge == 0);
        self.counts.bytes += tier.lan + tier.edge;
        let unused = Unused { size, tier, came: Instant::now() };
        if self.unused.insert(hash, unused).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.unused.remove(&oldest);
        }
    }

    /// Notes that a blob was used, and returns a line on how it came if it had come ahead.
    pub(super) fn used_by_get(&mut self, hash: &Hash) -> Option<String> {
        let used = self.unused.remove(hash)?;
        self.counts.used += used.size;
        let TierBytes { lan, edge, .. } = used.tier;
        let since = used.came.elapsed().as_secs();
        Some(format!("got ahead {since} s before: {lan} bytes from peers, {edge} from the edge"))
    }

    /// Notes that blobs were used without a get of them.
    pub(super) fn used_without_get(&mut self, hashes: &[Hash]) {
        for hash in hashes {
            if let Some(used) = self.unused.remove(hash) {
                self.counts.used += used.size;
                self.counts.used_without_get += used.size;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> Hash {
        Hash::of(&n.to_le_bytes())
    }

    const TIER: TierBytes = TierBytes { local: 0, lan: 3, edge: 4 };

    #[test]
    fn what_came_ahead_counts_as_used_once() {
        let mut ahead = Ahead::default();
        ahead.came(hash(1), 7, TIER);
        ahead.came(hash(2), 7, TIER);
        let line = ahead.used_by_get(&hash(1)).expect("it came ahead");
        assert!(line.ends_with("3 bytes from peers, 4 from the edge"), "{line}");
        assert_eq!(ahead.used_by_get(&hash(1)), None);
        ahead.used_without_get(&[hash(1), hash(2), hash(3)]);
        let counts = ahead.counts();
        assert_eq!((counts.gets, counts.bytes), (2, 14));
        assert_eq!((counts.used, counts.used_without_get), (14, 7));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut ahead = Ahead::default();
        (0..REMEMBERED_MAX + 2).for_each(|n| ahead.came(hash(n), 7, TIER));
        assert_eq!(ahead.used_by_get(&hash(1)), None);
        assert!(ahead.used_by_get(&hash(2)).is_some());
        assert_eq!(ahead.order.len(), REMEMBERED_MAX);
    }
}
