//! The list of pins: what users protect from eviction.
//!
//! It is user intent, so it lies in a file of its own that is replaced in one durable step, and not in
//! the index, which may be thrown away. A pin outlives its blob: when a pinned blob rots and is
//! fetched again, it is kept durably again. The list has no bound but the user's patience.

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

use blobmesh_protocol::Hash;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::files::{Class, Files};
use super::sys::lock;

const FILE: &str = "pins.json";

/// Is what the file holds.
#[derive(Debug, Deserialize, Serialize)]
struct PinFile {
    version: u32,
    /// 64 hex digits each, sorted.
    pins: Vec<String>,
}

/// Holds the pins in memory; every change is on disk before it is visible.
#[derive(Debug)]
pub(super) struct Pins {
    pins: Mutex<BTreeSet<Hash>>,
}

impl Pins {
    /// Reads the list; a store without one has no pins.
    pub(super) fn load(files: &Files) -> Result<Self, StoreError> {
        let path = files.path(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { pins: Mutex::default() });
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let pins = parse(&bytes).map_err(|source| StoreError::PinsDamaged { path, source })?;
        Ok(Self { pins: Mutex::new(pins) })
    }

    /// Returns whether a blob is pinned.
    pub(super) fn contains(&self, hash: &Hash) -> bool {
        lock(&self.pins).contains(hash)
    }

    /// Returns all pins, sorted.
    pub(super) fn all(&self) -> Vec<Hash> {
        lock(&self.pins).iter().copied().collect()
    }

    /// Returns how many pins there are.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(lock(&self.pins).len()).unwrap_or(u64::MAX)
    }

    /// Adds pins, durably and at once; does nothing when they are there.
    pub(super) fn insert_all(&self, files: &Files, hashes: &[Hash]) -> Result<(), StoreError> {
        self.change(files, |pins| {
            let before = pins.len();
            pins.extend(hashes);
            pins.len() > before
        })
    }

    /// Removes many pins, durably and at once.
    pub(super) fn remove_all(&self, files: &Files, hashes: &[Hash]) -> Result<(), StoreError> {
        self.change(files, |pins| {
            let before = pins.len();
            hashes.iter().for_each(|hash| {
                pins.remove(hash);
            });
            pins.len() < before
        })
    }

    /// Removes a pin, durably; does nothing when there is none.
    pub(super) fn remove(&self, files: &Files, hash: &Hash) -> Result<(), StoreError> {
        self.change(files, |pins| pins.remove(hash))
    }

    fn change(
        &self,
        files: &Files,
        edit: impl FnOnce(&mut BTreeSet<Hash>) -> bool,
    ) -> Result<(), StoreError> {
        let mut pins = lock(&self.pins);
        let mut edited = pins.clone();
        if edit(&mut edited) {
            let path = files.path(FILE);
            let hex = edited.iter().map(Hash::to_hex).collect();
            let bytes = serde_json::to_vec_pretty(&PinFile { version: 1, pins: hex })
                .map_err(|error| StoreError::io("write", &path)(error.into()))?;
            files.replace(&path, &bytes, Class::Durable)?;
            *pins = edited;
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeSet<Hash>, serde_json::Error> {
    use serde::de::Error as _;
    let file: PinFile = serde_json::from_slice(bytes)?;
    if file.version != 1 {
        return Err(serde_json::Error::custom(format!("version {} is unknown", file.version)));
    }
    file.pins.iter().map(|pin| pin.parse().map_err(serde_json::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sys::fault;
    use super::*;

    #[test]
    fn damaged_lists_are_refused() {
        let hash = Hash::of(b"x").to_hex();
        let good = format!("{{\"version\":1,\"pins\":[\"{hash}\"]}}");
        assert_eq!(parse(good.as_bytes()).expect("good").len(), 1);
        let newer = good.replace(":1", ":2");
        let short = good.replace(&hash, &hash[1..]);
        for bad in ["", "{}", "[]", &good[..good.len() - 1], &newer, &short] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_are_on_disk_when_the_call_returns() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        let (kept, dropped) = (Hash::of(b"kept"), Hash::of(b"dropped"));
        let pins = Pins::load(&files).expect("none yet");
        pins.insert_all(&files, &[kept]).expect("insert");
        pins.insert_all(&files, &[dropped]).expect("insert");
        pins.remove(&files, &dropped).expect("remove");
        let again = Pins::load(&files).expect("load");
        assert!(again.contains(&kept) && !again.contains(&dropped));
        assert_eq!(again.len(), 1);
    }

    #[test]
    fn change_that_cannot_be_made_durable_costs_no_pin() {
        let dir = tempfile::tempdir().expect("a directory");
        let (files, _) = Files::prepare(dir.path()).expect("prepare");
        files.furnish().expect("furnish");
        let (kept, refused) = (Hash::of(b"kept"), Hash::of(b"refused"));
        let pins = Pins::load(&files).expect("none yet");
        pins.insert_all(&files, &[kept]).expect("insert");
        fault::without_sync_dir(|| pins.insert_all(&files, &[refused])).expect_err("not durable");
        assert!(pins.contains(&kept) && !pins.contains(&refused));
        assert!(Pins::load(&files).expect("load").contains(&kept), "the list is gone");
    }
}
