//! How the rest of the node asks the driver for things.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::WantId;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::desk::Desk;
use super::event::{DeltaHolders, Event, Get, GetEnded, GetProgress, Snapshot, post};
use super::holdings::Holdings;

/// Says that the driver has stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct DriverStopped;

/// Asks the driver for things; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DriverHandle {
    events: mpsc::Sender<Event>,
    desk: Arc<Desk>,
    wants: Arc<AtomicU64>,
    holdings: Arc<Holdings>,
}

impl DriverHandle {
    pub(super) fn new(
        events: mpsc::Sender<Event>,
        desk: Arc<Desk>,
        holdings: Arc<Holdings>,
    ) -> Self {
        Self { events, desk, wants: Arc::default(), holdings }
    }

    #[cfg(test)]
    pub(super) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Gets a blob into the store.
    ///
    /// Dropping the future takes the want back; what was verified by then stays in the store.
    pub(crate) async fn get(
        &self,
        hash: Hash,
        timeout: Option<Duration>,
        progress: watch::Sender<GetProgress>,
    ) -> Result<GetEnded, DriverStopped> {
        let (want, (ended, end)) = (self.next_want(), oneshot::channel());
        let get = Get::One { want, hash, timeout, ahead: false, progress, ended };
        self.get_one(want, get, end).await
    }

    /// Gets a blob for which nobody waits: from the edge slowly, so that others who get something have the uplink. It
    /// ends as cancelled when somebody gets the same blob, which is then fetched at once.
    ///
    /// Dropping the future takes the want back; what was verified by then stays in the store.
    pub(crate) async fn get_ahead(
        &self,
        hash: Hash,
        progress: watch::Sender<GetProgress>,
    ) -> Result<GetEnded, DriverStopped> {
        let (want, (ended, end)) = (self.next_want(), oneshot::channel());
        let get = Get::One { want, hash, timeout: None, ahead: true, progress, ended };
        self.get_one(want, get, end).await
    }

    /// Gets the bytes of a blob of at most `len_max` bytes; none where it came into the store instead.
    ///
    /// Dropping the future takes the want back.
    pub(crate) async fn read(
        &self,
        hash: Hash,
        len_max: u64,
        timeout: Option<Duration>,
    ) -> Result<(GetEnded, Option<Bytes>), DriverStopped> {
        let (want, (ended, end)) = (self.next_want(), oneshot::channel());
        self.get_one(want, Get::Read { want, hash, len_max, timeout, ended }, end).await
    }

    /// Prepares to get many blobs into the store, at most `running_max` at once.
    pub(crate) fn many(&self, running_max: usize) -> Many<'_> {
        let (ended, ends) = mpsc::channel(running_max.max(1));
        Many { driver: self, running: HashMap::new(), ended, ends }
    }

    fn next_want(&self) -> WantId {
        WantId(self.wants.fetch_add(1, Ordering::Relaxed))
    }

    async fn get_one<T>(
        &self,
        want: WantId,
        get: Get,
        end: oneshot::Receiver<T>,
    ) -> Result<T, DriverStopped> {
        let _under_way = self.desk.begin_get();
        self.desk.tell(Event::Get(Box::new(get))).await.map_err(|_| DriverStopped)?;
        let guard = TakeBack { events: &self.events, want };
        let end = end.await.map_err(|_| DriverStopped);
        std::mem::forget(guard);
        end
    }

    /// Tells the engine that a user of this node put a blob into the store. Never waits: say it on the
    /// thread that did it, where no client that hangs up can come between.
    pub(crate) fn held(&self, hash: Hash) {
        self.holdings.held(hash);
    }

    /// Tells the engine of blobs that came with another one, whose providers have them too: neighbours hear of
    /// them, the DHT does not. Never waits, as [`held`](Self::held).
    pub(crate) fn held_with(&self, hashes: impl Iterator<Item = Hash>) {
        self.holdings.held_with(hashes);
    }

    /// Tells the engine that a blob left the store. Never waits, as [`held`](Self::held).
    pub(crate) fn gone(&self, hash: Hash) {
        self.holdings.gone(hash);
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Snapshot(reply)).await?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// Returns who may hold a blob and answers delta requests.
    pub(crate) async fn delta_holders(&self, hash: Hash) -> Result<DeltaHolders, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::DeltaHolders(hash, reply)).await?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// Says goodbye to the neighbours and ends the driver's task.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.send(Event::Stop(done)).await.is_ok() {
            stopped.await.ok();
        }
    }

    /// Waits until the driver's task has ended, as it does when it is stopped, or panics.
    pub(crate) async fn ended(&self) {
        self.events.closed().await;
    }

    async fn send(&self, event: Event) -> Result<(), DriverStopped> {
        self.events.send(event).await.map_err(|_| DriverStopped)
    }
}

/// Gets many blobs. Dropping it takes back those that are under way; what came by then stays in the store.
#[derive(Debug)]
pub(crate) struct Many<'a> {
    driver: &'a DriverHandle,
    running: HashMap<Hash, WantId>,
    ended: mpsc::Sender<GetEnded>,
    ends: mpsc::Receiver<GetEnded>,
}

impl Many<'_> {
    /// Returns how many more may be under way.
    pub(crate) fn room(&self) -> usize {
        self.ended.max_capacity().saturating_sub(self.running.len())
    }

    /// Returns how many are under way.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns whether none is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins to get some, of which none is under way here, and no more than there is
    /// [room](Self::room) for.
    pub(crate) async fn get(
        &mut self,
        hashes: &[Hash],
        timeout: Option<Duration>,
    ) -> Result<(), DriverStopped> {
        let wants: Vec<(WantId, Hash)> =
            hashes.iter().map(|hash| (self.driver.next_want(), *hash)).collect();
        self.running.extend(wants.iter().map(|(want, hash)| (*hash, *want)));
        let get = Get::Many { wants, timeout, ended: self.ended.clone() };
        self.driver.send(Event::Get(Box::new(get))).await
    }

    /// Waits for the next ends and takes all that are there. Cancel safe.
    ///
    /// # Errors
    /// When the driver has stopped.
    pub(crate) async fn ended(&mut self) -> Result<Vec<GetEnded>, DriverStopped> {
        let mut ended = Vec::new();
        tokio::select! {
            _ = self.ends.recv_many(&mut ended, self.ended.max_capacity()) => {}
            () = self.driver.events.closed() => return Err(DriverStopped),
        }
        for end in &ended {
            self.running.remove(&end.receipt.hash);
        }
        Ok(ended)
    }
}

impl Drop for Many<'_> {
    fn drop(&mut self) {
        if !self.running.is_empty() {
            let wants = self.running.drain().map(|(_, want)| want).collect();
            post(&self.driver.events, Event::Cancel(wants));
        }
    }
}

/// Takes a want back when whoever wanted it is gone.
struct TakeBack<'a> {
    events: &'a mpsc::Sender<Event>,
    want: WantId,
}

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        post(self.events, Event::Input(Input::Cancel { want: self.want }));
    }
}
