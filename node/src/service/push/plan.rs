//! What is to be pushed, and in what order.

use std::collections::HashSet;

use blobmesh_protocol::Hash;

use crate::control::api::{Failure, Trouble};
use crate::driver::describe;
use crate::edge::packs::{
    MEMBER_BYTES_MAX, PACK_BYTES_MAX, PACKED_BYTES_MAX, Presence, packed_len,
};
use crate::service::len_u64;
use crate::store::{HeldSet, Store, StoreError};
use crate::tree::closure::{self, Part, level_below};

/// Is one blob to be pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) hash: Hash,
    pub(super) size: u64,
    /// Manifests go into packs up to a greater length.
    pub(super) is_manifest: bool,
    pub(super) presence: Presence,
}

impl Item {
    /// Makes the item of a blob whose length is found out later.
    pub(super) fn of(hash: Hash, is_manifest: bool) -> Self {
        Self { hash, size: 0, is_manifest, presence: Presence::Unknown }
    }

    pub(super) fn is_small(&self) -> bool {
        self.size <= if self.is_manifest { MEMBER_BYTES_MAX } else { PACKED_BYTES_MAX }
    }

    pub(super) fn is_here(&self) -> bool {
        matches!(self.presence, Presence::Indexed | Presence::Here)
    }
}

/// Is what is pushed together: the files of a tree, or blobs without one, and then its manifests.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) files: Vec<Item>,
    /// By level, the root first.
    pub(super) levels: Vec<Vec<Item>>,
}

impl Job {
    pub(super) fn items(&mut self) -> impl Iterator<Item = &mut Item> {
        self.files.iter_mut().chain(self.levels.iter_mut().flatten())
    }
}

/// Is all that is to be pushed, each blob once, and kept from eviction meanwhile.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) jobs: Vec<Job>,
    _held: HeldSet,
}

impl Plan {
    /// Finds out what is to be pushed; the store must hold all of it.
    pub(super) fn of(store: &Store, hashes: &[Hash], only: bool) -> Result<Self, Failure> {
        let mut met = HashSet::new();
        let (mut lone, mut jobs) = (Job::default(), Vec::new());
        for hash in hashes {
            let is_tree = !only && closure::of_tree(store, hash)?.is_some();
            if is_tree {
                jobs.push(job_of_tree(store, *hash, &mut met)?);
            } else if met.insert(*hash) {
                lone.files.push(Item::of(*hash, false));
            }
        }
        jobs.insert(0, lone);
        let held = store.hold(met);
        for item in jobs.iter_mut().flat_map(Job::items) {
            let found = store.find(&item.hash)?.ok_or(StoreError::Absent { hash: item.hash })?;
            item.size = found.size;
        }
        Ok(Self { jobs, _held: held })
    }
}

/// Finds out what a tree consists of.
fn job_of_tree(store: &Store, root: Hash, met: &mut HashSet<Hash>) -> Result<Job, Failure> {
    let mut levels = Vec::new();
    let mut level = vec![Part { path: Vec::new(), hash: root, size: None }];
    level.retain(|part| met.insert(part.hash));
    while !level.is_empty() {
        levels.push(level.iter().map(|part| Item::of(part.hash, true)).collect());
        let below = level_below(store, &level);
        level = below.map_err(|error| Failure::new(Trouble::UnsafeTree, describe(&error)))?;
        level.retain(|part| met.insert(part.hash));
    }
    // Neighbours are to share a pack; what is in no path has no neighbours.
    let rest = closure::of_tree(store, &root)?.unwrap_or_default();
    let all = in_order(store, &root)?.into_iter().chain(rest);
    let files = all.filter(|hash| met.insert(*hash)).map(|hash| Item::of(hash, false)).collect();
    Ok(Job { files, levels })
}

/// Returns the files of a tree in the order of their paths.
#[cfg(target_os = "linux")]
fn in_order(store: &Store, root: &Hash) -> Result<Vec<Hash>, Failure> {
    let mut files = Vec::new();
    crate::tree::each_file(store, root, |some| -> Result<(), Failure> {
        files.extend(some.into_iter().map(|part| part.hash));
        Ok(())
    })?;
    Ok(files)
}

/// Returns none: only checkouts know the order.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Linux")]
fn in_order(_store: &Store, _root: &Hash) -> Result<Vec<Hash>, Failure> {
    Ok(Vec::new())
}

/// Takes out what would be in the last pack: it goes with the manifests.
pub(super) fn last_pack(files: &mut Vec<Item>) -> Vec<Item> {
    let goes_in = |item: &&Item| item.is_small() && !item.is_here();
    let last = packs_of(files.iter().filter(goes_in).copied().collect()).pop().unwrap_or_default();
    let hashes: HashSet<Hash> = last.iter().map(|item| item.hash).collect();
    files.retain(|item| !hashes.contains(&item.hash));
    last
}

/// Cuts small blobs into packs, in their order.
pub(super) fn packs_of(items: Vec<Item>) -> Vec<Vec<Item>> {
    // The table's header, and no more than that.
    let room = len_u64(PACK_BYTES_MAX) - 16;
    let (mut packs, mut left): (Vec<Vec<Item>>, u64) = (Vec::new(), 0);
    for item in items {
        let len = packed_len(item.size);
        match packs.last_mut() {
            Some(last) if len <= left => last.push(item),
            _ => {
                packs.push(vec![item]);
                left = room;
            }
        }
        left = left.saturating_sub(len);
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(size: u64) -> Item {
        let hash = Hash::of(&size.to_le_bytes());
        Item { hash, size, is_manifest: false, presence: Presence::Unknown }
    }

    #[test]
    fn packs_are_full_and_no_fuller_and_keep_the_order() {
        let sizes = [65_536, 0, 10_000, 3].into_iter().cycle().take(2_000);
        let items: Vec<_> = sizes.map(item).collect();
        let packs = packs_of(items.clone());
        let len = |pack: &[Item]| 16 + pack.iter().map(|item| packed_len(item.size)).sum::<u64>();
        let max = len_u64(PACK_BYTES_MAX);
        assert!(packs.len() > 2 && packs.iter().all(|pack| len(pack) <= max));
        for (pack, next) in packs.iter().zip(&packs[1..]) {
            assert!(len(pack) + packed_len(next[0].size) > max, "the next one has room");
        }
        let order = packs.concat().iter().map(|item| item.hash).collect::<Vec<_>>();
        assert_eq!(order, items.iter().map(|item| item.hash).collect::<Vec<_>>());
        let all = item(len_u64(PACK_BYTES_MAX) - 16 - packed_len(0));
        assert_eq!(packs_of(vec![all, item(0)]).len(), 2);
        assert!(packs_of(Vec::new()).is_empty());
    }
}
