//! The model of a node's store: whole blobs, parts of blobs, and what goes when room is short.

use std::collections::BTreeMap;
use std::ops::Range;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GroupSet, group_count, group_len};

/// A node writes down which groups of a part it holds whenever so many bytes of it are new. A node that is
/// killed knows no more than that when it starts again.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Holds blobs by hash. The least recently used ones go first; those that were added here stay.
#[derive(Debug, Default)]
pub(super) struct Store {
    whole: BTreeMap<Hash, Held>,
    parts: BTreeMap<Hash, Part>,
    /// The blobs that may go, by when they were used last.
    used: BTreeMap<u64, Hash>,
    clock: u64,
    bytes: u64,
    /// Bytes that fit; none is without limit.
    room: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    size: u64,
    used: u64,
    /// Whether it was added here.
    own: bool,
    advertised: bool,
}

/// Is what is held of a blob that is not whole.
#[derive(Debug)]
pub(super) struct Part {
    size: u64,
    groups: GroupSet,
    bytes: u64,
    /// What was written down last: groups, and their bytes.
    saved: Option<(GroupSet, u64)>,
}

impl Store {
    pub(super) fn new(room: Option<u64>) -> Self {
        Self { room, ..Self::default() }
    }

    /// Returns the length of a blob that is held whole, and counts that as a use.
    pub(super) fn look(&mut self, hash: &Hash) -> Option<u64> {
        let held = self.whole.get_mut(hash)?;
        if !held.own {
            self.used.remove(&held.used);
            self.clock += 1;
            held.used = self.clock;
            self.used.insert(self.clock, *hash);
        }
        Some(held.size)
    }

    /// Returns the length of a blob that is held whole.
    pub(super) fn size(&self, hash: &Hash) -> Option<u64> {
        self.whole.get(hash).map(|held| held.size)
    }

    /// Returns what is held of a blob that is not whole.
    pub(super) fn part(&self, hash: &Hash) -> Option<(u64, u64, &GroupSet)> {
        self.parts.get(hash).map(|part| (part.size, part.bytes, &part.groups))
    }

    /// Returns the length of a blob of which these groups are held.
    pub(super) fn size_of_part(&self, hash: &Hash, groups: &Range<u64>) -> Option<u64> {
        let part = self.parts.get(hash)?;
        (groups.end <= part.groups.groups() && part.groups.missing_within(groups).is_empty())
            .then_some(part.size)
    }

    /// Returns the runs of groups of a blob that are not held, all of them or those of a range.
    pub(super) fn missing(
        &self,
        hash: &Hash,
        size: u64,
        within: Option<&Range<u64>>,
    ) -> Vec<Range<u64>> {
        let all = 0..group_count(size);
        let within = within.map_or(&all, |range| range);
        match self.parts.get(hash) {
            Some(part) => part.groups.missing_within(within),
            None => std::iter::once(within.start..within.end.min(all.end)).collect(),
        }
    }

    /// Puts verified groups into a part, and returns the bytes of those that were there already.
    pub(super) fn insert_groups(&mut self, hash: Hash, size: u64, groups: Range<u64>) -> u64 {
        let part = self.parts.entry(hash).or_insert_with(|| Part {
            size,
            groups: GroupSet::new(group_count(size)),
            bytes: 0,
            saved: None,
        });
        let mut twice = 0;
        for group in groups {
            let len = u64::try_from(group_len(size, group)).unwrap_or(0);
            if !part.groups.insert(group) {
                twice += len;
                continue;
            }
            part.bytes += len;
            let saved_bytes = part.saved.as_ref().map_or(0, |(_, bytes)| *bytes);
            if part.bytes - saved_bytes >= CHECKPOINT_BYTES {
                part.saved = Some((part.groups.clone(), part.bytes));
            }
        }
        twice
    }

    /// Writes down what is held of a part, as when the last fetch of its blob ends.
    pub(super) fn save_part(&mut self, hash: &Hash) {
        if let Some(part) = self.parts.get_mut(hash) {
            part.saved = Some((part.groups.clone(), part.bytes));
        }
    }

    /// Returns whether every group of a part is held.
    pub(super) fn is_full(&self, hash: &Hash) -> bool {
        self.parts.get(hash).is_some_and(|part| part.groups.is_full())
    }

    /// Puts a whole blob into the store, and returns what had to go for it.
    pub(super) fn insert(
        &mut self,
        hash: Hash,
        size: u64,
        own: bool,
        advertised: bool,
    ) -> Vec<Hash> {
        self.parts.remove(&hash);
        self.remove(&hash);
        self.clock += 1;
        self.whole.insert(hash, Held { size, used: self.clock, own, advertised });
        self.bytes += size;
        if !own {
            self.used.insert(self.clock, hash);
        }
        self.make_room(&hash)
    }

    /// Returns the blobs held, and whether they are advertised.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (Hash, bool)> + '_ {
        self.whole.iter().map(|(hash, held)| (*hash, held.advertised))
    }

    /// Returns how many blobs are held whole.
    pub(super) fn count(&self) -> usize {
        self.whole.len()
    }

    /// Returns the bytes of whole blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what was not written down, as a process that is killed.
    pub(super) fn forget_unsaved(&mut self) {
        for part in self.parts.values_mut() {
            if let Some((groups, bytes)) = &part.saved {
                (part.groups, part.bytes) = (groups.clone(), *bytes);
            }
        }
        self.parts.retain(|_, part| part.saved.is_some());
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.room);
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some(held) = self.whole.remove(hash) {
            self.used.remove(&held.used);
            self.bytes -= held.size;
        }
    }

    /// Lets the least recently used blobs go until the rest fits; the newest stays.
    fn make_room(&mut self, newest: &Hash) -> Vec<Hash> {
        let mut gone = Vec::new();
        let Some(room) = self.room else { return gone };
        while self.bytes > room {
            let Some(oldest) = self.used.values().find(|hash| *hash != newest).copied() else {
                break;
            };
            self.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_node_knows_of_a_part_what_it_wrote_down_last() {
        let (size, mut store) = (100 << 20, Store::new(None));
        let [large, small] = [b"large", b"small"].map(|name| Hash::of(name));
        let checkpoint = CHECKPOINT_BYTES / 65_536;
        store.insert_groups(large, size, 0..checkpoint + 10);
        store.insert_groups(small, size, 0..1);
        store.forget_unsaved();
        let held = store.part(&large).map(|(size, bytes, _)| (size, bytes));
        assert_eq!(held, Some((size, CHECKPOINT_BYTES)));
        assert_eq!(
            store.missing(&large, size, None).first().map(|run| run.start),
            Some(checkpoint)
        );
        assert!(store.part(&small).is_none());
        store.insert_groups(small, size, 3..4);
        store.save_part(&small);
        store.insert_groups(small, size, 4..5);
        store.forget_unsaved();
        assert_eq!(store.part(&small).map(|(_, bytes, _)| bytes), Some(65_536));
    }

    #[test]
    fn least_recently_used_goes_first_and_own_blobs_stay() {
        let [own, a, b, c] = [1_u8, 2, 3, 4].map(|n| Hash::of(&[n]));
        let mut store = Store::new(Some(40));
        assert_eq!(store.insert(own, 10, true, true), []);
        assert_eq!(store.insert(a, 10, false, false), []);
        assert_eq!(store.insert(b, 10, false, false), []);
        assert_eq!(store.look(&a), Some(10));
        assert_eq!(store.insert(c, 20, false, false), [b]);
        assert_eq!(store.bytes(), 40);
        assert_eq!(store.insert(Hash::of(b"large"), 100, false, false), [a, c]);
        assert_eq!(store.size(&own), Some(10));
    }

    #[test]
    fn part_becomes_full_with_its_last_group_and_counts_no_group_twice() {
        let (hash, size) = (Hash::of(b"part"), 3 * 65_536 - 1);
        let mut store = Store::new(None);
        assert_eq!(store.insert_groups(hash, size, 0..1), 0);
        assert_eq!(store.insert_groups(hash, size, 0..1), 65_536);
        assert_eq!(store.insert_groups(hash, size, 2..3), 0);
        assert_eq!(
            store.part(&hash).map(|(size, bytes, _)| (size, bytes)),
            Some((size, 2 * 65_536 - 1))
        );
        assert_eq!(store.missing(&hash, size, None), vec![1..2]);
        assert_eq!(store.missing(&hash, size, Some(&(2..3))), vec![]);
        assert!(!store.is_full(&hash));
        assert_eq!(store.insert_groups(hash, size, 0..3), 2 * 65_536 - 1);
        assert!(store.is_full(&hash));
    }
}
