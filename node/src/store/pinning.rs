//! Pinning: a blob stays, and is durable, before a pin of it says so.
//!
//! Somebody may remove or evict it meanwhile. So whoever pins holds it, adds the pin and looks then whether a durable blob
//! is there; whoever removes looks at the pins under the blob's stripe. One of the two sees the other.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use blobmesh_protocol::Hash;

use super::catalog::Located;
use super::error::StoreError;
use super::files::{self, Class};
use super::index::Row;
use super::read::{BlobReader, FileMark};
use super::sys::lock;
use super::{Inner, Store, sys};

impl Store {
    /// Protects a blob from eviction and makes it durable; it is both when the call returns.
    ///
    /// # Errors
    /// [`StoreError::Absent`] if it is not in the store, or is removed meanwhile, [`StoreError::Rot`] if its bytes are
    /// wrong.
    pub fn pin(&self, hash: &Hash) -> Result<(), StoreError> {
        self.pin_all(std::slice::from_ref(hash))
    }

    /// Protects many blobs from eviction, as [`pin`](Self::pin) does, in one step.
    ///
    /// # Errors
    /// As [`pin`](Self::pin) for the first that cannot be pinned; none is pinned then.
    pub fn pin_all(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.ensure_open()?;
        // None of them is evicted between the check and the pin.
        let _held = self.hold(hashes.iter().copied());
        for hash in hashes {
            let row = inner.find_row(hash)?.ok_or(StoreError::Absent { hash: *hash })?;
            if row.class == Class::Cache {
                let reader = inner.open_blob(hash)?.ok_or(StoreError::Absent { hash: *hash })?;
                reader.verify_all()?;
                inner.make_durable(hash, &reader)?;
            }
        }
        inner.names.sync(inner.catalog.files(), hashes)?;
        inner.insert_pins(hashes)
    }

    /// Ends the protection of many blobs in one step.
    pub fn unpin_all(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        self.inner.ensure_open()?;
        self.inner.pins.remove_all(self.inner.catalog.files(), hashes)
    }

    /// Ends the protection of a blob; does nothing if it is not pinned.
    pub fn unpin(&self, hash: &Hash) -> Result<(), StoreError> {
        self.inner.ensure_open()?;
        self.inner.pins.remove(self.inner.catalog.files(), hash)
    }
}

impl Inner {
    /// Makes a fetched blob durable: a synced file under a synced name.
    fn make_durable(&self, hash: &Hash, reader: &BlobReader) -> Result<(), StoreError> {
        if let Some(file) = reader.file() {
            return self.sync_in_place(hash, file);
        }
        let mut bytes = Vec::new();
        reader.read_group(0, &mut bytes)?;
        self.store_durably(&bytes)
    }

    fn sync_in_place(&self, hash: &Hash, file: &File) -> Result<(), StoreError> {
        let path = self.catalog.files().blob(hash);
        // No stripe is held: a sync may take long.
        file.sync_all().map_err(StoreError::io("sync", &path))?;
        let _stripe = self.catalog.stripe(hash);
        if !is_at(file, &path) {
            // Removed or replaced since it was opened.
            let durable = self.is_durable_held(hash)?;
            return durable.then_some(()).ok_or(StoreError::Absent { hash: *hash });
        }
        // Its bytes are durable before its mode says so.
        let class = || -> io::Result<()> {
            files::set_class(file, Class::Durable)?;
            file.sync_all()?;
            sys::sync_dir(files::parent(&path))
        };
        if let Err(error) = class() {
            files::set_class(file, Class::Cache).ok();
            return Err(StoreError::io("sync", &path)(error));
        }
        if let Some(row) = self.catalog.row(hash) {
            self.catalog.put(hash, &Row { class: Class::Durable, ..row }, None);
        }
        Ok(())
    }

    /// Adds pins of durable blobs, or none where one of them was removed meanwhile.
    fn insert_pins(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        // Else others would be told of pins that are taken back here.
        let _one_at_a_time = lock(&self.pinning);
        let new: Vec<Hash> =
            hashes.iter().copied().filter(|hash| !self.pins.contains(hash)).collect();
        self.pins.insert_all(self.catalog.files(), hashes)?;
        for hash in hashes {
            let stripe = self.catalog.stripe(hash);
            let durable = self.is_durable_held(hash);
            drop(stripe);
            if !matches!(durable, Ok(true)) {
                self.pins.remove_all(self.catalog.files(), &new)?;
                return durable.and(Err(StoreError::Absent { hash: *hash }));
            }
        }
        Ok(())
    }

    /// Returns whether a durable blob is there. The caller holds the stripe.
    fn is_durable_held(&self, hash: &Hash) -> Result<bool, StoreError> {
        let located = self.catalog.locate_held(hash)?;
        Ok(matches!(located, Located::Here(row) if row.class == Class::Durable))
    }
}

/// Returns whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let metas = file.metadata().and_then(|file| Ok((file, fs::symlink_metadata(path)?)));
    metas.is_ok_and(|(file, there)| FileMark::of(&file) == FileMark::of(&there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Origin, StoreConfig};

    #[test]
    fn blob_that_is_removed_while_it_is_pinned_is_absent_and_not_pinned() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 20_000, 10_000);
        let (store, _) = Store::open(config).expect("open");
        let (bytes, inner) = ([1; 5_000], &store.inner);
        let hash = Hash::of(&bytes);
        store.put_whole(&hash, &bytes).expect("put");
        let reader = inner.open_blob(&hash).expect("open").expect("there");
        store.remove(&hash, false).expect("remove");
        let absent = |result: Result<(), StoreError>| {
            assert!(matches!(result, Err(StoreError::Absent { .. })), "{result:?}");
            assert_eq!(store.pins(), []);
        };
        absent(inner.make_durable(&hash, &reader));
        absent(inner.insert_pins(&[hash]));
        // One that was fetched again meanwhile is another, and not durable.
        store.put_whole(&hash, &bytes).expect("put");
        absent(inner.make_durable(&hash, &reader));
        absent(inner.insert_pins(&[hash]));
        assert_eq!(store.find(&hash).expect("find").expect("there").origin, Origin::Fetched);
        let mut writer = store.add_writer().expect("writer");
        writer.write(&bytes).expect("write");
        let added = writer.finish().expect("add").hash;
        inner.make_durable(&added, &reader).expect("the other one is durable");
        inner.insert_pins(&[added]).expect("pinned");
    }
}
