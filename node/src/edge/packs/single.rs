//! Work that is done once for all who want its outcome at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

type Running<T> = Shared<BoxFuture<'static, T>>;

/// Keeps what is under way, by what it is about.
///
/// Whoever waits keeps the work going; when nobody does any more it is dropped.
pub(super) struct Single<K, T: Clone> {
    running: Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>,
}

impl<K, T: Clone> Default for Single<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K, T: Clone> std::fmt::Debug for Single<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Single").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, T: Clone> Single<K, T> {
    /// Joins the work about `key` that is under way, or begins it.
    pub(super) fn join(&self, key: K, begin: impl FnOnce() -> BoxFuture<'static, T>) -> Running<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        // No more than are waited for, and what ended since.
        running.retain(|_, flight| flight.upgrade().is_some());
        let flight = begin().shared();
        if let Some(weak) = flight.downgrade() {
            running.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn those_who_want_the_same_at_once_share_one_work() {
        let single = Single::<u8, u32>::default();
        let begun = Arc::new(AtomicU32::new(0));
        let (end, ended) = oneshot::channel::<()>();
        let mut ended = Some(ended);
        let mut work = |key| {
            let (begun, ended) = (Arc::clone(&begun), ended.take());
            single.join(key, || {
                async move {
                    let count = begun.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Some(ended) = ended {
                        ended.await.ok();
                    }
                    count
                }
                .boxed()
            })
        };
        let (first, second) = (work(1), work(1));
        end.send(()).expect("it is waited for");
        assert_eq!(tokio::join!(first, second), (1, 1));
        assert_eq!(work(1).await, 2, "what has ended is begun anew");
    }

    #[tokio::test]
    async fn work_goes_on_for_those_who_stay_and_ends_with_the_last() {
        let single = Single::<u8, u32>::default();
        let (end, ended) = oneshot::channel::<()>();
        let first = single.join(1, || async move { ended.await.map_or(0, |()| 7) }.boxed());
        let second = single.join(1, || async { 0 }.boxed());
        drop(first);
        end.send(()).expect("it is waited for");
        assert_eq!(second.await, 7);
        let (end, ended) = oneshot::channel::<()>();
        drop(single.join(1, || async move { ended.await.map_or(0, |()| 7) }.boxed()));
        assert!(end.send(()).is_err(), "nobody waits");
        assert_eq!(single.join(1, || async { 8 }.boxed()).await, 8);
    }
}
