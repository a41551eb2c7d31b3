//! Doubt: which fetched blobs may not be what they were, since a power cut.
//!
//! A fetched blob is not synced. After a power cut its file may have its full length and hold zeros, and its blocks in
//! a pack may be empty; only the bytes tell. Whoever reads a blob by its groups checks them. Whoever is lent it does
//! not, so what is in doubt is hashed before it is lent for the first time in a run.
//!
//! An unclean end puts all fetched blobs in doubt that were written before the sweep after it was through. A clean end
//! does not lift that: the file `doubt` says it to the runs that follow. What they fetch themselves is
//! not in doubt, because a clean end syncs it; where that fails, they put it in doubt, too.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use blobmesh_protocol::Hash;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::files::{Class, Files, class_of};
use super::packs::Spot;
use super::sys::lock;

const FILE: &str = "doubt";
/// Of how many blobs it is remembered that they are right, at some 50 bytes each; then all are forgotten, and hashed
/// again.
const RIGHT_MAX: usize = 131_072;

/// Says what is in doubt, in memory and in the file.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Extent {
    /// Files of fetched blobs that were written up to this moment, in nanoseconds since 1970.
    until: u64,
    /// Members of packs with lower numbers.
    packs: u32,
}

impl Extent {
    const ALL: Self = Self { until: u64::MAX, packs: u32::MAX };
}

/// Knows what is in doubt, and what of it was found right in this run.
#[derive(Debug)]
pub(super) struct Doubt {
    extent: Mutex<Extent>,
    /// What the file says, if it says anything.
    saved: Mutex<Extent>,
    right: Mutex<HashSet<Hash>>,
}

impl Doubt {
    /// Reads what earlier runs left in doubt. After an unclean end that is all they fetched: in packs with lower numbers
    /// than `packs`, and in files until the sweep [says](Self::settle) otherwise.
    pub(super) fn load(files: &Files, clean: bool, packs: u32) -> Self {
        let saved = load(files);
        let extent = if clean { saved } else { Extent { until: u64::MAX, packs } };
        Self { extent: Mutex::new(extent), saved: Mutex::new(saved), right: Mutex::default() }
    }

    /// Notes that no file that may be in doubt was written after `until`.
    pub(super) fn settle(&self, until: u64) {
        let mut extent = lock(&self.extent);
        extent.until = extent.until.min(until);
    }

    /// Puts in doubt what was fetched up to `until`, and lies in packs with lower numbers than `packs`.
    pub(super) fn raise(&self, until: u64, packs: u32) {
        let mut extent = lock(&self.extent);
        *extent = Extent { until: extent.until.max(until), packs: extent.packs.max(packs) };
    }

    /// Tells the next runs, durably, before a clean end hides that there was an unclean one.
    pub(super) fn save(&self, files: &Files) -> Result<(), StoreError> {
        let (extent, mut saved) = (*lock(&self.extent), lock(&self.saved));
        if extent == *saved {
            return Ok(());
        }
        let path = files.path(FILE);
        let bytes = serde_json::to_vec(&extent)
            .map_err(|error| StoreError::io("write", &path)(error.into()))?;
        files.replace(&path, &bytes, Class::Durable)?;
        *saved = extent;
        Ok(())
    }

    /// Returns whether any file is in doubt.
    pub(super) fn is_of_files(&self) -> bool {
        lock(&self.extent).until > 0
    }

    /// Returns whether a blob's file is in doubt.
    pub(super) fn is_of_file(&self, meta: &Metadata) -> bool {
        class_of(meta) == Class::Cache && written(meta) <= lock(&self.extent).until
    }

    /// Returns whether a member of a pack is in doubt.
    pub(super) fn is_of_member(&self, spot: Spot) -> bool {
        spot.pack < lock(&self.extent).packs
    }

    /// Returns whether a blob was found right in this run, in which no doubt comes up.
    pub(super) fn is_right(&self, hash: &Hash) -> bool {
        lock(&self.right).contains(hash)
    }

    /// Notes that a blob was found right.
    pub(super) fn note_right(&self, hash: &Hash) {
        let mut right = lock(&self.right);
        if right.len() >= RIGHT_MAX {
            right.clear();
        }
        right.insert(*hash);
    }
}

/// Returns when a file was written, in nanoseconds since 1970; 0 where that cannot be learned.
pub(super) fn written(meta: &Metadata) -> u64 {
    let modified = meta.modified().unwrap_or(UNIX_EPOCH);
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the file; nothing is in doubt without one, and all with one that says nothing.
fn load(files: &Files) -> Extent {
    match fs::read(files.path(FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(Extent::ALL),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Extent::default(),
        Err(_) => Extent::ALL,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        (dir, files)
    }

    /// Returns what is known of a fetched blob's file that was written at a moment.
    fn written_at(files: &Files, moment: u64) -> Metadata {
        let temp = files.temp_cache().expect("temp");
        let moment = UNIX_EPOCH + Duration::from_nanos(moment);
        temp.file().set_modified(moment).expect("time");
        temp.file().metadata().expect("stat")
    }

    fn spot(pack: u32) -> Spot {
        Spot { pack, head: 0, entry: 0, block: 1 }
    }

    #[test]
    fn doubt_of_an_unclean_end_outlives_clean_ones_and_is_of_nothing_newer() {
        let (_dir, files) = files();
        let (old, new) = (written_at(&files, 1_000_000), written_at(&files, 3_000_000));
        let unclean = Doubt::load(&files, false, 7);
        assert!(unclean.is_of_file(&old) && unclean.is_of_file(&new), "nothing is known yet");
        unclean.settle(2_000_000);
        unclean.save(&files).expect("save");
        for _ in 0..2 {
            let clean = Doubt::load(&files, true, 9);
            assert!(clean.is_of_files() && clean.is_of_file(&old) && !clean.is_of_file(&new));
            assert!(clean.is_of_member(spot(6)) && !clean.is_of_member(spot(7)));
            clean.save(&files).expect("save");
        }
    }

    #[test]
    fn nothing_is_in_doubt_without_an_unclean_end_and_all_behind_a_damaged_mark() {
        let (_dir, files) = files();
        let old = written_at(&files, 1_000_000);
        let doubt = Doubt::load(&files, true, 0);
        assert!(!doubt.is_of_files() && !doubt.is_of_file(&old) && !doubt.is_of_member(spot(0)));
        doubt.save(&files).expect("save");
        assert!(!files.path(FILE).exists());
        fs::write(files.path(FILE), "{").expect("write");
        let doubt = Doubt::load(&files, true, 0);
        assert!(doubt.is_of_file(&old) && doubt.is_of_member(spot(9)));
    }

    #[test]
    fn durable_blob_is_in_no_doubt() {
        let (_dir, files) = files();
        let temp = files.temp().expect("temp");
        super::super::files::set_class(temp.file(), Class::Durable).expect("chmod");
        let doubt = Doubt::load(&files, false, 0);
        assert!(!doubt.is_of_file(&temp.file().metadata().expect("stat")));
    }

    #[test]
    fn what_was_found_right_is_remembered_up_to_a_bound() {
        let (_dir, files) = files();
        let doubt = Doubt::load(&files, false, 0);
        let hash = |n: usize| Hash::of(&n.to_le_bytes());
        (0..=RIGHT_MAX).for_each(|n| doubt.note_right(&hash(n)));
        assert!(doubt.is_right(&hash(RIGHT_MAX)) && !doubt.is_right(&hash(0)));
        assert_eq!(lock(&doubt.right).len(), 1);
    }
}
