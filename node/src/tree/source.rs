//! Manifests out of the store.

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{MANIFEST_BYTES_MAX, TreeSource};

use crate::store::{SmallRead, Store, StoreError};

/// Gives the manifests that the store holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreSource<'a>(pub(crate) &'a Store);

impl TreeSource for StoreSource<'_> {
    type Error = StoreError;

    /// # Errors
    /// [`StoreError::Absent`] for a blob that is not in the store, [`StoreError::TooLarge`] for one that is longer
    /// than any manifest.
    fn load(&mut self, hash: &Hash) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        match self.0.read_small(hash, MANIFEST_BYTES_MAX, &mut bytes)? {
            SmallRead::Whole => Ok(bytes),
            SmallRead::Absent => Err(StoreError::Absent { hash: *hash }),
            SmallRead::Large { size } => {
                Err(StoreError::TooLarge { size, blob_bytes_max: MANIFEST_BYTES_MAX })
            }
        }
    }
}
