//! Lists of blobs that were all here, so that whoever brings the same list again need not have each looked up.
//!
//! A directory that is added again and again names ten thousand blobs each time, and to look all of them up takes longer
//! than everything else. Nothing leaves a store without being counted: as long as the count is the one from before the
//! list was looked up, its blobs have rows, and only their files are looked at, which somebody may have removed by hand.

use std::collections::HashMap;
use std::sync::Mutex;

use blobmesh_protocol::Hash;

use super::sys::lock;

/// Of how many lists it is remembered, at some 100 bytes each; then all are forgotten.
const LISTS_MAX: usize = 256;
/// How long a list is good for: the blobs of one that is not looked up are not noted as used either.
const GOOD_FOR_NANOS: u64 = 3_600_000_000_000;

/// Says that blobs were all here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vouch {
    /// How many blobs had left the store by then.
    pub(super) departures: u64,
    /// When they were looked up one by one, in nanoseconds since 1970.
    pub(super) looked_up: u64,
}

/// Remembers lists by their hashes.
#[derive(Debug, Default)]
pub(super) struct Vouches {
    lists: Mutex<HashMap<Hash, Vouch>>,
}

impl Vouches {
    /// Returns what is remembered of a list, if it is good now, at a number of departures.
    pub(super) fn find(&self, list: &Hash, now: u64, departures: u64) -> Option<Vouch> {
        let known = lock(&self.lists).get(list).copied();
        known.filter(|known| {
            known.departures == departures && now.saturating_sub(known.looked_up) < GOOD_FOR_NANOS
        })
    }

    /// Remembers a list.
    pub(super) fn insert(&self, list: Hash, vouch: Vouch) {
        let mut lists = lock(&self.lists);
        if lists.len() >= LISTS_MAX && !lists.contains_key(&list) {
            lists.clear();
        }
        lists.insert(list, vouch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_good_until_something_left_or_an_hour_is_over() {
        let (vouches, list) = (Vouches::default(), Hash::of(b"list"));
        let vouch = Vouch { departures: 3, looked_up: 1_000 };
        assert_eq!(vouches.find(&list, 1_000, 3), None);
        vouches.insert(list, vouch);
        assert_eq!(vouches.find(&list, 2_000, 3), Some(vouch));
        assert_eq!(vouches.find(&list, 2_000, 4), None, "something left");
        assert_eq!(vouches.find(&list, 1_000 + GOOD_FOR_NANOS, 3), None, "an hour is over");
    }

    #[test]
    fn lists_are_bounded() {
        let vouches = Vouches::default();
        let list = |n: usize| Hash::of(&n.to_le_bytes());
        for n in 0..=LISTS_MAX {
            vouches.insert(list(n), Vouch { departures: 0, looked_up: 0 });
        }
        assert_eq!(lock(&vouches.lists).len(), 1);
        assert!(vouches.find(&list(LISTS_MAX), 0, 0).is_some());
    }
}
