//! What came into the store and what left it, on its way to the engine.
//!
//! Blobs are added, fetched, removed and evicted on many threads at once. Each says so here without
//! waiting, in the moment after it did it, so that neither a full queue nor a client that hung up can
//! make the engine advertise what is gone, or hide what is there. Of several changes to one blob the
//! last counts.
//!
//! What gathers is one entry for each blob that changed since the driver's last turn. The driver never
//! waits and takes them all at once, and every entry took the store a file or a row to write or remove:
//! so there are no more than blobs in the store and those that it lost within one turn.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::FetchId;
use tokio::sync::Notify;

/// Hands changes of the store to the driver; any thread may call it, and none waits.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    changes: Mutex<BTreeMap<Hash, Change>>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Held { advertise: bool },
    Stored { fetch: FetchId },
    Gone,
}

impl Holdings {
    /// Says that a user of this node put a blob into the store.
    pub(crate) fn held(&self, hash: Hash) {
        self.lock().insert(hash, Change::Held { advertise: true });
        self.changed.notify_one();
    }

    /// Says that a user put blobs into the store that need no advert of their own.
    pub(crate) fn held_with(&self, hashes: impl Iterator<Item = Hash>) {
        let mut changes = self.lock();
        for hash in hashes {
            if !matches!(changes.get(&hash), Some(Change::Held { .. })) {
                changes.insert(hash, Change::Held { advertise: false });
            }
        }
        drop(changes);
        self.changed.notify_one();
    }

    /// Says that a fetch stored a blob; nothing new where a user just put it there.
    pub(super) fn stored(&self, fetch: FetchId, hash: Hash) {
        self.stored_all(std::iter::once((fetch, hash)));
    }

    /// Says that fetches stored blobs.
    pub(super) fn stored_all(&self, stored: impl Iterator<Item = (FetchId, Hash)>) {
        let mut changes = self.lock();
        for (fetch, hash) in stored {
            if !matches!(changes.get(&hash), Some(Change::Held { .. })) {
                changes.insert(hash, Change::Stored { fetch });
            }
        }
        drop(changes);
        self.changed.notify_one();
    }

    /// Says that a blob has left the store.
    pub(crate) fn gone(&self, hash: Hash) {
        self.lock().insert(hash, Change::Gone);
        self.changed.notify_one();
    }

    /// Waits until something has changed. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what changed, in the words of the engine.
    pub(super) fn take(&self) -> impl Iterator<Item = Input> {
        let changes = std::mem::take(&mut *self.lock());
        changes.into_iter().map(|(hash, change)| match change {
            Change::Held { advertise } => Input::Held { hash, advertise },
            Change::Stored { fetch } => Input::Stored { fetch, hash },
            Change::Gone => Input::Gone { hash },
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Hash, Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_change_is_heard_of_and_of_one_blob_the_last() {
        let holdings = Holdings::default();
        let hashes: Vec<Hash> = (0u32..5_000).map(|n| Hash::of(&n.to_le_bytes())).collect();
        hashes.iter().for_each(|hash| holdings.gone(*hash));
        holdings.held(hashes[0]);
        holdings.stored(FetchId(1), hashes[0]);
        holdings.held(hashes[1]);
        holdings.gone(hashes[1]);
        holdings.stored(FetchId(2), hashes[2]);
        holdings.changed().await;
        let taken: Vec<Input> = holdings.take().collect();
        assert_eq!(taken.len(), hashes.len());
        let held = |wanted: Hash| {
            let held = |input: &Input| matches!(input, Input::Held { hash, advertise: true } if *hash == wanted);
            taken.iter().any(held)
        };
        assert!(held(hashes[0]));
        let stored = taken.iter().filter(|input| matches!(input, Input::Stored { .. })).count();
        assert_eq!(stored, 1, "what a user put there is not hidden by a fetch");
        let gone = taken.iter().filter(|input| matches!(input, Input::Gone { .. })).count();
        assert_eq!(gone, hashes.len() - 2, "also the one that was held for a moment");
        assert_eq!(holdings.take().count(), 0);
    }
}
