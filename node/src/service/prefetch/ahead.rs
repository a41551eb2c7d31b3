//! What came ahead, and whether it was used since.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use blobmesh_protocol::Hash;
use tokio::time::Instant;

use crate::control::api::TierBytes;

/// How many blobs that came ahead and were not used yet are remembered, about 150 bytes each; the oldest are forgotten.
const REMEMBERED_MAX: usize = 65_536;
/// How long what came unasked and was not used counts against what may come.
const COUNTS_FOR: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// What it followed the time before, if that is why it came.
    after: Option<Hash>,
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

    /// Returns the bytes of what came lately without being asked for and was not used.
    pub(super) fn unused_learned(&self) -> u64 {
        let counts =
            |unused: &&Unused| unused.after.is_some() && unused.came.elapsed() < COUNTS_FOR;
        self.unused.values().filter(counts).map(|unused| unused.size).sum()
    }

    /// Notes that a blob came ahead, perhaps because it followed `after` the time before.
    pub(super) fn came(&mut self, hash: Hash, size: u64, tier: TierBytes, after: Option<Hash>) {
        self.counts.gets += 1;
        self.counts.without_edge += u64::from(tier.edge == 0);
        self.counts.bytes += tier.lan + tier.edge;
        let unused = Unused { size, tier, came: Instant::now(), after };
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
        let why = used.after.map_or_else(String::new, |after| {
            format!(", as it followed {} last time", after.fmt_short())
        });
        Some(format!(
            "got ahead {since} s before{why}: {lan} bytes from peers, {edge} from the edge"
        ))
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
        ahead.came(hash(1), 7, TIER, None);
        ahead.came(hash(2), 7, TIER, None);
        let line = ahead.used_by_get(&hash(1)).expect("it came ahead");
        assert!(line.ends_with("3 bytes from peers, 4 from the edge"), "{line}");
        assert_eq!(ahead.used_by_get(&hash(1)), None);
        ahead.used_without_get(&[hash(1), hash(2), hash(3)]);
        let counts = ahead.counts();
        assert_eq!((counts.gets, counts.bytes), (2, 14));
        assert_eq!((counts.used, counts.used_without_get), (14, 7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_unasked_counts_until_it_is_used_or_a_day_has_passed() {
        let mut ahead = Ahead::default();
        ahead.came(hash(1), 1, TIER, Some(hash(0)));
        ahead.came(hash(2), 2, TIER, Some(hash(0)));
        ahead.came(hash(3), 4, TIER, None);
        assert_eq!(ahead.unused_learned(), 3);
        ahead.used_by_get(&hash(1));
        assert_eq!(ahead.unused_learned(), 2);
        tokio::time::advance(COUNTS_FOR).await;
        assert_eq!(ahead.unused_learned(), 0);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut ahead = Ahead::default();
        (0..REMEMBERED_MAX + 2).for_each(|n| ahead.came(hash(n), 7, TIER, None));
        assert_eq!(ahead.used_by_get(&hash(1)), None);
        assert!(ahead.used_by_get(&hash(2)).is_some());
        assert_eq!(ahead.order.len(), REMEMBERED_MAX);
    }
}
