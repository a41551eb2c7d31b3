//! The tree as the store has it: loaded and checked as a whole, before anything is written.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::source::load_root;
use blobmesh_protocol::tree::{Change, Item, Manifest, Rules, TreeSource, check, diff};

use super::error::CheckoutError;
use super::pool;
use crate::store::{Lendable, Store, StoreError};
use crate::tree::closure::Part;
use crate::tree::source::StoreSource;
use crate::tree::ways::Stop;

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

/// Gives manifests out of the store, and keeps them: a tree is checked first and listed after.
#[derive(Debug)]
pub(super) struct Manifests<'a> {
    store: &'a Store,
    kept: HashMap<Hash, Vec<u8>>,
}

impl<'a> Manifests<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, kept: HashMap::new() }
    }

    /// Returns the manifest of a tree that is safe to be written, whatever it is of.
    pub(super) fn checked(&mut self, root: &Hash) -> Result<Manifest, CheckoutError> {
        check(root, Rules::default(), self)?;
        Ok(load_root(root, self)?)
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
        self.kept.insert(*hash, bytes.clone());
        Ok(bytes)
    }
}

/// Checks a tree whose manifests are all in the store, and returns the blobs of its files in the order of their paths,
/// each once and without the empty one, which is everywhere.
///
/// # Errors
/// [`CheckoutError`] where the tree is not one that may be written.
pub(crate) fn files_of(store: &Store, root: &Hash) -> Result<Vec<Part>, CheckoutError> {
    let mut manifests = Manifests::of(store);
    let manifest = manifests.checked(root)?;
    let changes = diff(Manifest::default(), manifest, &mut manifests)?;
    let mut met = HashSet::from([Hash::of(b"")]);
    let part = |change: Change| match change.new {
        Some(Item::File { hash, size, .. }) if met.insert(hash) => {
            Some(Part { path: change.path.to_vec(), hash, size: Some(size) })
        }
        _ => None,
    };
    Ok(changes.into_iter().filter_map(part).collect())
}

/// Checks that the store has every blob that `changes` ask for.
///
/// # Errors
/// [`CheckoutError::Missing`] with the count of all that are not, [`CheckoutError::Length`].
pub(super) fn check_blobs(
    store: &Store,
    changes: &[Change],
    stop: &Stop,
) -> Result<(), CheckoutError> {
    let missing = Mutex::new(BTreeSet::new());
    pool::each(changes, stop, |change| {
        let Some(Item::File { hash, size, .. }) = &change.new else { return Ok(()) };
        match is_lendable(store, hash, *size)? {
            Lendable::Yes => Ok(()),
            Lendable::Absent => {
                let mut missing = missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                missing.insert((*hash, *size));
                Ok(())
            }
            Lendable::OtherLength { found } => {
                let (path, hash, size) = (change.path.to_vec(), *hash, *size);
                Err(CheckoutError::Length { path, hash, size, found })
            }
        }
    })?;
    let missing = missing.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if missing.is_empty() {
        return Ok(());
    }
    let bytes = missing.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
    let blobs = u64::try_from(missing.len()).unwrap_or(u64::MAX);
    Err(CheckoutError::Missing { blobs, bytes })
}

/// The empty blob is everywhere.
fn is_lendable(store: &Store, hash: &Hash, size: u64) -> Result<Lendable, StoreError> {
    if *hash == Hash::of(b"") {
        return Ok(if size == 0 { Lendable::Yes } else { Lendable::OtherLength { found: 0 } });
    }
    store.is_lendable(hash, size)
}
