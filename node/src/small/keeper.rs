//! Has small blobs stored, in batches and off the async threads.
//!
//! One task takes the blobs of all neighbours as they come. While a batch is being written the next one
//! gathers, so batches are as large as the store is behind, and nobody waits for one to fill.

use std::sync::Arc;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::{Hash, PeerId};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{End, Ends};
use crate::store::Store;
use crate::transfer::FetchError;

/// How many blobs make a batch at most: some milliseconds of work.
const BATCH_MAX: usize = 64;
/// How many batches are written at once. Small files are work for the kernel's inodes and hardly any bytes:
/// two threads share it, and leave room for those who decrypt.
const BATCHES_AT_ONCE: usize = 2;
/// How many blobs wait for the store before those who bring them wait: 16 MiB at most.
const WAITING_MAX: usize = 256;

/// Is a blob that is to be stored; nothing of it is verified yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) fetch: FetchId,
    pub(crate) peer: PeerId,
    pub(crate) hash: Hash,
    pub(crate) bytes: Bytes,
}

/// Takes blobs that are to be stored; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    arrivals: mpsc::Sender<Arrival>,
    store: Store,
}

impl Keeper {
    /// Makes a keeper, and the task that works for it until all its clones are gone and what they handed in
    /// is stored.
    pub(crate) fn new<E: Ends>(store: Store, ends: E) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, arrivals) = mpsc::channel(WAITING_MAX);
        (Self { arrivals: sender, store: store.clone() }, run(store, arrivals, ends))
    }

    /// Returns where blobs are stored, for a thread that may block and has many.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Hands in a blob; waits while the store is behind.
    pub(super) async fn keep(&self, arrival: Arrival) {
        // The task is gone only with the node.
        self.arrivals.send(arrival).await.ok();
    }
}

async fn run<E: Ends>(store: Store, mut arrivals: mpsc::Receiver<Arrival>, ends: E) {
    let permits = Arc::new(Semaphore::new(BATCHES_AT_ONCE));
    let mut batches = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let mut batch = Vec::with_capacity(BATCH_MAX);
        if arrivals.recv_many(&mut batch, BATCH_MAX).await == 0 {
            break;
        }
        let (store, ends) = (store.clone(), ends.clone());
        batches.spawn_blocking(move || {
            put(&store, batch, &ends);
            drop(permit);
        });
        while batches.try_join_next().is_some() {}
    }
    while batches.join_next().await.is_some() {}
}

/// Stores blobs that came, and tells of it. Blocks.
pub(super) fn put(store: &Store, batch: Vec<Arrival>, ends: &impl Ends) {
    let blobs: Vec<(Hash, Bytes)> =
        batch.iter().map(|arrival| (arrival.hash, arrival.bytes.clone())).collect();
    let stored = store.put_batch(&blobs);
    let ended = batch.into_iter().zip(stored).map(|(arrival, stored)| {
        let Arrival { fetch, peer, hash, .. } = arrival;
        let outcome = match stored {
            Ok(added) => FetchOutcome::Complete { size: added.size },
            Err(error) => FetchError::Store(error).outcome(),
        };
        End { fetch, peer, hash, outcome, bytes: None }
    });
    ends.stored(ended.collect());
}
