//! What the driver hears from its own tasks and from those who ask it for things.

use std::time::Duration;

use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::engine::{FetchOutcome, Input, WantError};
use blobmesh_protocol::id::{FetchId, ServeId, WantId};
use blobmesh_protocol::stats::Stats;
use blobmesh_protocol::{Hash, NeighbourInfo, PeerId};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::api::Failure;
use crate::small;
use crate::swarm::{OpenError, Stream, SwarmHandle};
use crate::transfer::Carried;

/// How many events wait for the driver before those who send them wait too.
pub(super) const EVENTS_MAX: usize = 1_024;

#[derive(Debug)]
pub(crate) enum Event {
    /// Goes to the engine as it is.
    Input(Input),
    /// Somebody wants a blob, or some.
    Get(Box<Get>),
    /// Somebody wants blobs no more.
    Cancel(Vec<WantId>),
    /// More bytes of a fetch came that are not verified yet; none say that its source is alive.
    Arrived {
        fetch: FetchId,
        bytes: u64,
        /// The blob's length as the source claims it.
        size: u64,
    },
    /// A fetch came to its end.
    FetchEnded {
        fetch: FetchId,
        outcome: FetchOutcome,
        /// What to tell the user if the get fails for it.
        failure: Option<Box<Failure>>,
    },
    /// Small requests came to their ends.
    SmallEnded(Vec<small::End>),
    /// The control stream we opened to a neighbour.
    LinkOpened { peer: PeerId, link: u64, result: Result<Stream, OpenError> },
    /// A control stream ended, for better or worse.
    LinkClosed { peer: PeerId, link: u64, malformed: bool },
    /// A peer asks to be served.
    ServeAsked { peer: PeerId, verdict: oneshot::Sender<Verdict> },
    /// A service came to its end.
    ServeEnded { serve: ServeId, peer: PeerId, bytes: u64 },
    /// Somebody wants to know how the node stands.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Somebody wants to know who may hold a blob and answers delta requests.
    DeltaHolders(Hash, oneshot::Sender<DeltaHolders>),
    /// The node stops.
    Stop(oneshot::Sender<()>),
}

/// Says whether a peer is served.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is, as long as the slot is held.
    Admit(ServeSlot),
    /// It should come again.
    Busy {
        /// After how long.
        retry_after: Duration,
    },
}

/// Is one of the services that may run at once. Dropping it ends the service for the driver, however it
/// came to its end: a slot that got lost would be missing until the node stops.
#[derive(Debug)]
pub(super) struct ServeSlot {
    pub(super) serve: ServeId,
    pub(super) peer: PeerId,
    /// The bytes of blobs that were sent.
    pub(super) bytes: u64,
    pub(super) events: mpsc::Sender<Event>,
}

impl Drop for ServeSlot {
    fn drop(&mut self) {
        let Self { serve, peer, bytes, .. } = *self;
        post(&self.events, Event::ServeEnded { serve, peer, bytes });
    }
}

/// Sends an event from where nobody can wait for room. There are never more of these under way than
/// gets and services, which are bounded.
pub(super) fn post(events: &mpsc::Sender<Event>, event: Event) {
    if let Err(mpsc::error::TrySendError::Full(event)) = events.try_send(event)
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        let events = events.clone();
        runtime.spawn(async move { events.send(event).await.ok() });
    }
}

/// Asks for blobs.
#[derive(Debug)]
pub(crate) enum Get {
    /// One, into the store.
    One {
        want: WantId,
        hash: Hash,
        timeout: Option<Duration>,
        /// Whether nobody waits for it yet.
        ahead: bool,
        progress: watch::Sender<GetProgress>,
        ended: oneshot::Sender<GetEnded>,
    },
    /// Some of many, into the store.
    Many {
        wants: Vec<(WantId, Hash)>,
        timeout: Option<Duration>,
        /// Has room for the ends of all that are under way.
        ended: mpsc::Sender<GetEnded>,
    },
    /// The bytes of one of at most `len_max` bytes.
    Read {
        want: WantId,
        hash: Hash,
        len_max: u64,
        timeout: Option<Duration>,
        ended: oneshot::Sender<(GetEnded, Option<Bytes>)>,
    },
}

/// Says how far a get is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GetProgress {
    /// The blob's length in bytes: what a source claims, until it is proven.
    pub(crate) size: Option<u64>,
    /// Verified bytes that came from peers.
    pub(crate) lan: u64,
    /// Verified bytes that came from the edge.
    pub(crate) edge: u64,
    /// Bytes that fetches under way got and cannot verify before their end.
    pub(crate) unverified: u64,
}

/// Says how a get ended.
#[derive(Debug)]
pub(crate) struct GetEnded {
    pub(crate) result: Result<(), WantError>,
    pub(crate) receipt: Receipt,
    /// The failure of the source that decided, where one did.
    pub(crate) failure: Option<Failure>,
    /// Where the time of each fetch went.
    pub(crate) carried: Vec<(FetchId, Carried)>,
}

/// Describes the mesh around the node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) addresses: Vec<String>,
    pub(crate) neighbours: Vec<NeighbourInfo>,
    pub(crate) connected: Vec<ConnectedPeer>,
    pub(crate) stats: Stats,
}

/// Names those who may hold a blob and answer delta requests, and leads to them.
#[derive(Debug)]
pub(crate) struct DeltaHolders {
    /// The neighbours that may hold it, best first.
    pub(crate) peers: Vec<PeerId>,
    /// How many neighbours have said hello.
    pub(crate) neighbours: usize,
    pub(crate) swarm: SwarmHandle,
}

/// Describes one connected peer.
#[derive(Clone, Debug)]
pub(crate) struct ConnectedPeer {
    pub(crate) peer: PeerId,
    pub(crate) address: String,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slot_of_a_service_that_panics_is_given_back_also_when_the_driver_is_behind() {
        let (events, mut events_in) = mpsc::channel(1);
        events.try_send(Event::Input(Input::Timeout)).expect("room");
        let peer = PeerId::from_bytes([1; 32]);
        let slot = ServeSlot { serve: ServeId(7), peer, bytes: 0, events };
        let service = tokio::spawn(async move {
            let _slot = slot;
            panic!("a service of this test ends like this");
        });
        assert!(service.await.is_err());
        assert!(matches!(events_in.recv().await, Some(Event::Input(Input::Timeout))));
        let ended = events_in.recv().await;
        assert!(matches!(ended, Some(Event::ServeEnded { serve: ServeId(7), .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn slot_that_nobody_takes_is_given_back() {
        let (events, mut events_in) = mpsc::channel(1);
        let (verdict, answer) = oneshot::channel();
        drop(answer);
        let peer = PeerId::from_bytes([1; 32]);
        let slot = ServeSlot { serve: ServeId(7), peer, bytes: 0, events };
        drop(verdict.send(Verdict::Admit(slot)));
        assert!(matches!(events_in.recv().await, Some(Event::ServeEnded { .. })));
    }
}
