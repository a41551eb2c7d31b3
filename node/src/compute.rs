//! Work that may block, kept off the async threads.
//!
//! Hashing, compression, sled and files run on tokio's blocking threads. Their number is bounded by
//! the runtime; what can be asked of them at once is bounded by whoever asks: fetches, services and
//! requests all have bounds of their own.

use crate::store::{Store, StoreError};

/// Says that a thread panicked, or that the runtime shuts down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a worker thread was lost")]
pub(crate) struct WorkerLost;

impl From<WorkerLost> for crate::transfer::FetchError {
    fn from(_: WorkerLost) -> Self {
        Self::Worker
    }
}

/// Runs `work` on a thread that may block.
///
/// Dropping the future does not stop work that has begun.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerLost> {
    tokio::task::spawn_blocking(work).await.map_err(|_| WorkerLost)
}

/// Runs `work` with the store on a thread that may block.
pub(crate) async fn store<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    run(move || work(&store)).await.unwrap_or(Err(StoreError::Closed))
}
