//! The tree as the store has it: loaded and checked as a whole, before anything is written.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::source::load_root;
use blobmesh_protocol::tree::{
    Change, Item, Manifest, Rules, Totals, TreeSource, check, difference,
};

use super::error::CheckoutError;
use super::pool;
use crate::stop::Stop;
use crate::store::{Lendable, Store, StoreError};
use crate::tree::closure::Part;
use crate::tree::source::StoreSource;

/// How many entries of a tree are listed at once, at some 200 bytes each.
pub(crate) const LISTED_MAX: usize = 8_192;
/// How many bytes of manifests are kept: those of some 80,000 files. What is beyond is read again.
pub(super) const KEPT_BYTES_MAX: usize = 4 << 20;

/// Says why the store gives no manifest.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("it is not in the store")]
    Absent,
    /// It is longer than manifests are.
    #[error("it has {size} bytes")]
    TooLong {
        /// Its length in bytes.
        size: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Gives manifests out of the store, and keeps some of them: a tree is checked first and listed after.
#[derive(Debug)]
pub(super) struct Manifests<'a> {
    store: &'a Store,
    kept: HashMap<Hash, Vec<u8>>,
    kept_bytes: usize,
}

impl<'a> Manifests<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, kept: HashMap::new(), kept_bytes: 0 }
    }

    /// Returns how many bytes of manifests are in memory.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    /// Checks that a tree is safe to be written, whatever it is of, and returns what is in it.
    pub(super) fn check(&mut self, root: &Hash) -> Result<Totals, CheckoutError> {
        let checked = check(root, Rules::default(), self);
        checked.map_err(|error| CheckoutError::from(error).of_root(root))
    }

    /// Returns the manifest of the root of a tree that was [checked](Self::check).
    pub(super) fn load_root(&mut self, root: &Hash) -> Result<Manifest, CheckoutError> {
        Ok(load_root(root, self)?)
    }

    /// Lists a tree that was checked, each directory before what is in it, at most [`LISTED_MAX`] entries at once.
    pub(super) fn list(
        &mut self,
        root: &Hash,
        mut take: impl FnMut(&[Change]) -> Result<(), CheckoutError>,
    ) -> Result<(), CheckoutError> {
        let manifest = self.load_root(root)?;
        let mut listing = difference(Manifest::default(), manifest, self);
        loop {
            let some: Result<Vec<Change>, _> = listing.by_ref().take(LISTED_MAX).collect();
            let some = some?;
            if some.is_empty() {
                return Ok(());
            }
            take(&some)?;
        }
    }

    /// Returns the manifest of a tree's root; none where it cannot be had.
    pub(super) fn root(&mut self, root: &Hash) -> Option<Manifest> {
        load_root(root, self).ok()
    }
}

impl TreeSource for Manifests<'_> {
    type Error = SourceError;

    fn load(&mut self, hash: &Hash) -> Result<Vec<u8>, SourceError> {
        if let Some(bytes) = self.kept.get(hash) {
            return Ok(bytes.clone());
        }
        let loaded = StoreSource(self.store).load(hash);
        if matches!(loaded, Err(StoreError::Absent { .. })) {
            return Err(SourceError::Absent);
        }
        if let Err(StoreError::TooLarge { size, .. }) = loaded {
            return Err(SourceError::TooLong { size });
        }
        let bytes = loaded.map_err(SourceError::Store)?;
        if self.kept_bytes + bytes.len() <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes.len();
            self.kept.insert(*hash, bytes.clone());
        }
        Ok(bytes)
    }
}

/// Checks a tree whose manifests are all in the store, and hands out its files in the order of their paths, at most
/// [`LISTED_MAX`] at once, without those of the empty blob, which is everywhere. A blob that several files have comes
/// several times.
///
/// # Errors
/// [`CheckoutError`] where the tree is not one that may be written, or of `take`.
pub(crate) fn each_file<E: From<CheckoutError>>(
    store: &Store,
    root: &Hash,
    mut take: impl FnMut(Vec<Part>) -> Result<(), E>,
) -> Result<(), E> {
    let mut manifests = Manifests::of(store);
    manifests.check(root)?;
    let empty = Hash::of(b"");
    let mut failed = None;
    let listed = manifests.list(root, |changes| {
        let part = |change: &Change| match change.new {
            Some(Item::File { hash, size, .. }) if hash != empty => {
                Some(Part { path: change.path.to_vec(), hash, size: Some(size) })
            }
            _ => None,
        };
        take(changes.iter().filter_map(part).collect()).map_err(|error| {
            failed = Some(error);
            CheckoutError::Stopped
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(listed?),
    }
}

/// Gathers blobs that the store does not have.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<BTreeSet<(Hash, u64)>>);

impl Lacking {
    /// Looks for the blobs that `changes` ask for.
    ///
    /// # Errors
    /// [`CheckoutError::Length`] for one that is not what the tree says.
    pub(super) fn look(
        &self,
        store: &Store,
        changes: &[Change],
        stop: &Stop,
    ) -> Result<(), CheckoutError> {
        pool::each(changes, stop, |change| {
            let Some(Item::File { hash, size, .. }) = &change.new else { return Ok(()) };
            match is_lendable(store, hash, *size)? {
                Lendable::Yes => Ok(()),
                Lendable::Absent => {
                    let mut lacking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    lacking.insert((*hash, *size));
                    Ok(())
                }
                Lendable::OtherLength { found } => {
                    let (path, hash, size) = (change.path.to_vec(), *hash, *size);
                    Err(CheckoutError::Length { path, hash, size, found })
                }
            }
        })
    }

    /// Fails where some were not there.
    ///
    /// # Errors
    /// [`CheckoutError::Missing`] with the count of all that are not.
    pub(super) fn end(self) -> Result<(), CheckoutError> {
        let lacking = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if lacking.is_empty() {
            return Ok(());
        }
        let bytes = lacking.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        let blobs = u64::try_from(lacking.len()).unwrap_or(u64::MAX);
        Err(CheckoutError::Missing { blobs, bytes })
    }
}

/// The empty blob is everywhere.
fn is_lendable(store: &Store, hash: &Hash, size: u64) -> Result<Lendable, StoreError> {
    if *hash == Hash::of(b"") {
        return Ok(if size == 0 { Lendable::Yes } else { Lendable::OtherLength { found: 0 } });
    }
    store.is_lendable(hash, size)
}
