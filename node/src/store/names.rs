//! Names of durable blobs that are not synced yet.
//!
//! A batch gives its blobs their names first and syncs the directories at its end, and a run that was killed may have
//! left names of such a batch. Whoever finds a durable blob that he was about to add may say that it is durable only
//! when its name is, so he syncs the directory if it is one of these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use blobmesh_protocol::Hash;

use super::batch::sync_each;
use super::error::StoreError;
use super::files::{Files, parent};
use super::sys::{self, lock};

/// Knows the shards that have such names.
#[derive(Debug)]
pub(super) struct Names {
    unsynced: Mutex<Unsynced>,
}

#[derive(Debug)]
struct Unsynced {
    /// Shards, each with the moment of the last name that was given in it.
    shards: BTreeMap<u8, u64>,
    moment: u64,
}

impl Names {
    /// Begins a run. After an unclean end any shard may have such names.
    pub(super) fn new(clean: bool) -> Self {
        let all = (0..=u8::MAX).map(|shard| (shard, 0));
        let shards = if clean { BTreeMap::new() } else { all.collect() };
        Self { unsynced: Mutex::new(Unsynced { shards, moment: 0 }) }
    }

    /// Notes that a durable blob has a name that is not synced.
    pub(super) fn note(&self, hash: &Hash) {
        let mut unsynced = lock(&self.unsynced);
        unsynced.moment += 1;
        let moment = unsynced.moment;
        unsynced.shards.insert(shard(hash), moment);
    }

    /// Returns the moment of the last name so far.
    pub(super) fn moment(&self) -> u64 {
        lock(&self.unsynced).moment
    }

    /// Notes that all names up to a moment are synced.
    pub(super) fn synced(&self, until: u64) {
        lock(&self.unsynced).shards.retain(|_, last| *last > until);
    }

    /// Makes the names of some blobs durable, where they are not.
    pub(super) fn sync<'a>(
        &self,
        files: &Files,
        hashes: impl IntoIterator<Item = &'a Hash>,
    ) -> Result<(), StoreError> {
        let shards = self.unsynced_of(hashes);
        if shards.is_empty() {
            return Ok(());
        }
        let moment = self.moment();
        let paths: Vec<PathBuf> =
            shards.values().map(|hash| parent(&files.blob(hash)).to_owned()).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        sync_each(&paths, sys::sync_dir)?;
        // Not where another name was given meanwhile.
        let is_left = |shard: &u8, last: &mut u64| !shards.contains_key(shard) || *last > moment;
        lock(&self.unsynced).shards.retain(is_left);
        Ok(())
    }

    /// Makes all names durable before a clean end, after which nobody doubts them.
    pub(super) fn sync_all(&self, files: &Files) -> Result<(), StoreError> {
        let shards: Vec<u8> = lock(&self.unsynced).shards.keys().copied().collect();
        let some: Vec<Hash> =
            shards.into_iter().map(|shard| Hash::from_bytes([shard; 32])).collect();
        self.sync(files, &some)
    }

    /// Returns the shards of some blobs that have such names, each with one of the blobs.
    fn unsynced_of<'a>(
        &self,
        hashes: impl IntoIterator<Item = &'a Hash>,
    ) -> BTreeMap<u8, &'a Hash> {
        let unsynced = lock(&self.unsynced);
        let hashes = hashes.into_iter().map(|hash| (shard(hash), hash));
        hashes.filter(|(shard, _)| unsynced.shards.contains_key(shard)).collect()
    }
}

/// Returns the number of the directory that a blob's file is in.
fn shard(hash: &Hash) -> u8 {
    hash.as_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::super::sys::fault;
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        (dir, files)
    }

    fn hash(shard: u8) -> Hash {
        Hash::from_bytes([shard; 32])
    }

    #[test]
    fn name_is_unsynced_from_when_it_is_given_until_its_directory_is_synced() {
        let (_dir, files) = files();
        let names = Names::new(true);
        let sync = |shard| names.sync(&files, [&hash(shard)]).is_ok();
        assert!(fault::without_sync_dir(|| sync(1)), "there is nothing to be done");
        names.note(&hash(1));
        names.note(&hash(2));
        assert!(!fault::without_sync_dir(|| sync(1)));
        assert!(!fault::without_sync_dir(|| sync(1)), "the first try did not do it");
        assert!(sync(1));
        assert!(fault::without_sync_dir(|| sync(1)));
        assert!(!fault::without_sync_dir(|| sync(2)), "it is another directory");
        let moment = names.moment();
        names.note(&hash(1));
        names.synced(moment);
        assert!(fault::without_sync_dir(|| sync(2)));
        assert!(!fault::without_sync_dir(|| sync(1)), "it came later");
    }

    #[test]
    fn any_name_may_be_unsynced_after_an_unclean_end() {
        let (_dir, files) = files();
        let names = Names::new(false);
        let sync = |shard| names.sync(&files, [&hash(shard)]).is_ok();
        assert!(!fault::without_sync_dir(|| sync(0)) && !fault::without_sync_dir(|| sync(255)));
        assert!(sync(255));
        assert!(fault::without_sync_dir(|| sync(255)));
        names.sync_all(&files).expect("synced");
        assert!(fault::without_sync_dir(|| sync(0)));
    }
}
