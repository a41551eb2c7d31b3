//! How the rest of the node asks the driver for things.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::WantId;
use tokio::sync::{mpsc, oneshot, watch};

use super::event::{Event, Get, GetEnded, GetProgress, Snapshot, post};
use super::holdings::Holdings;

/// Says that the driver has stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct DriverStopped;

/// Asks the driver for things; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DriverHandle {
    events: mpsc::Sender<Event>,
    wants: Arc<AtomicU64>,
    holdings: Arc<Holdings>,
}

impl DriverHandle {
    pub(super) fn new(events: mpsc::Sender<Event>, holdings: Arc<Holdings>) -> Self {
        Self { events, wants: Arc::default(), holdings }
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
        let want = WantId(self.wants.fetch_add(1, Ordering::Relaxed));
        let (ended, end) = oneshot::channel();
        let get = Get { want, hash, timeout, progress, ended };
        self.send(Event::Get(Box::new(get))).await?;
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

    /// Tells the engine that a blob left the store. Never waits, as [`held`](Self::held).
    pub(crate) fn gone(&self, hash: Hash) {
        self.holdings.gone(hash);
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot, DriverStopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Snapshot(reply)).await?;
        answer.await.map_err(|_| DriverStopped)
    }

    /// Says goodbye to the neighbours and ends the driver's task.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.send(Event::Stop(done)).await.is_ok() {
            stopped.await.ok();
        }
    }

    async fn send(&self, event: Event) -> Result<(), DriverStopped> {
        self.events.send(event).await.map_err(|_| DriverStopped)
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
