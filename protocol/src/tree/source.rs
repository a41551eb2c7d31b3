//! Where manifests come from.

use super::{Manifest, ManifestError, Totals};
use crate::blob::Hash;

/// Gives manifests by their hash: a store, a map in a test.
pub trait TreeSource {
    /// Says why a blob cannot be given.
    type Error;

    /// Returns the blob `hash`, which is a manifest as far as anybody says: verified against its hash,
    /// and no longer than [`MANIFEST_BYTES_MAX`](super::MANIFEST_BYTES_MAX).
    ///
    /// # Errors
    /// Whatever keeps the source from giving it.
    fn load(&mut self, hash: &Hash) -> Result<Vec<u8>, Self::Error>;
}

/// Says why a manifest could not be loaded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError<E> {
    /// The source has no such blob for us.
    #[error("manifest {} could not be loaded", hash.fmt_short())]
    Source {
        /// The manifest.
        hash: Hash,
        /// What the source says.
        source: E,
    },
    /// The blob is no manifest, or not the one that it has to be.
    #[error("blob {} is no manifest that can be used", hash.fmt_short())]
    Manifest {
        /// The blob.
        hash: Hash,
        /// What is wrong with it.
        source: ManifestError,
    },
}

/// Loads the manifest of a tree's root.
///
/// # Errors
/// [`LoadError`] where it cannot be had or is none.
pub fn load_root<S: TreeSource>(
    hash: &Hash,
    source: &mut S,
) -> Result<Manifest, LoadError<S::Error>> {
    let bytes = source.load(hash).map_err(|source| LoadError::Source { hash: *hash, source })?;
    Manifest::decode(&bytes).map_err(|source| LoadError::Manifest { hash: *hash, source })
}

/// Loads the manifest that a [`Node::Tree`](super::Node::Tree) names.
///
/// # Errors
/// [`LoadError`] where it cannot be had, is none, or is not what the tree's parent says.
pub fn load_below<S: TreeSource>(
    hash: &Hash,
    totals: &Totals,
    source: &mut S,
) -> Result<Manifest, LoadError<S::Error>> {
    let bytes = source.load(hash).map_err(|source| LoadError::Source { hash: *hash, source })?;
    Manifest::decode_below(&bytes, totals)
        .map_err(|source| LoadError::Manifest { hash: *hash, source })
}
