//! Serving peers: what they ask for comes before the engine, and what it admits is done here.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::engine::ServeVerdict;
use blobmesh_protocol::id::ServeId;
use blobmesh_protocol::wire::delta::DELTA_REQUEST;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::Driver;
use super::event::{Event, ServeSlot, Verdict};
use crate::delta;
use crate::lane::{Admission, Lanes, Slot};
use crate::small;
use crate::store::Store;
use crate::swarm::Stream;
use crate::transfer::{FrameIo, provider};

impl Driver {
    /// Takes a blob stream that a peer opened: the engine decides once the request is there.
    pub(super) fn start_serving(&mut self, peer: PeerId, stream: Stream) {
        let (store, events) = (self.store.clone(), self.tasks.events());
        let (lanes, maps) = (self.lanes.0.clone(), Arc::clone(&self.maps));
        self.tasks.spawn(async move {
            let io = FrameIo::new(stream);
            if let Err(error) = serve_stream(io, peer, (&store, maps), (events, &lanes)).await {
                tracing::debug!(peer = ?peer, %error, "service ended early");
            }
        });
    }

    pub(super) fn serve(&mut self, serve: ServeId, verdict: ServeVerdict) {
        let Some((peer, waiting)) = self.serves.remove(&serve) else { return };
        let verdict = match verdict {
            ServeVerdict::Busy { retry_after } => Verdict::Busy { retry_after },
            ServeVerdict::Admit => {
                Verdict::Admit(ServeSlot { serve, peer, bytes: 0, events: self.tasks.events() })
            }
        };
        // The slot of a peer that went while it waited comes back by itself.
        waiting.send(verdict).ok();
    }

    /// Takes the lanes that peers dial at a listener.
    pub(super) fn accept_lanes(&mut self, listener: TcpListener) {
        let events = self.tasks.events();
        let admission = move |peer| PeerAdmission { peer, events: events.clone() };
        self.tasks.spawn(self.lanes.0.clone().accept(listener, self.store.clone(), admission));
    }
}

/// Serves a stream for what its first frame says that it is.
async fn serve_stream(
    mut io: FrameIo<Stream>,
    peer: PeerId,
    (store, maps): (&Store, Arc<delta::Maps>),
    (events, lanes): (mpsc::Sender<Event>, &Lanes),
) -> Result<(), provider::ServeError> {
    let first = provider::first(&mut io).await?;
    let mut admission = PeerAdmission { peer, events };
    if small::provider::is_of_small(first.kind) {
        let (io, with) = (io.into_inner(), (store, lanes.upload()));
        let offer = || lanes.offer_small(peer);
        return small::provider::serve(io, first, with, admission, offer).await;
    }
    if first.kind == DELTA_REQUEST {
        let (store, upload) = (store.clone(), lanes.upload().clone());
        let sources = delta::provider::Sources { store, maps, upload };
        return delta::provider::serve(io, first, &sources, admission).await;
    }
    let request = provider::request(&first)?;
    match small::provider::Admission::admit(&mut admission).await {
        // The driver has stopped.
        Err(None) => Ok(()),
        Err(Some(retry_after)) => provider::turn_away(&mut io, retry_after).await,
        Ok(mut slot) => {
            let offer = |bytes| lanes.offer(peer, bytes);
            slot.bytes = provider::serve(&mut io, request, (store, lanes.upload()), offer).await?;
            Ok(())
        }
    }
}

/// Asks the engine about the peer at the other end of a stream or lane.
struct PeerAdmission {
    peer: PeerId,
    events: mpsc::Sender<Event>,
}

impl small::provider::Admission for PeerAdmission {
    type Slot = ServeSlot;

    async fn admit(&mut self) -> Result<ServeSlot, Option<Duration>> {
        let (verdict, answer) = oneshot::channel();
        let asked = Event::ServeAsked { peer: self.peer, verdict };
        self.events.send(asked).await.map_err(|_| None)?;
        verdict_of(answer.await.ok())
    }
}

/// Returns the slot of one who is admitted; else when to come again, or none where the driver has stopped.
fn verdict_of(verdict: Option<Verdict>) -> Result<ServeSlot, Option<Duration>> {
    match verdict {
        Some(Verdict::Admit(slot)) => Ok(slot),
        Some(Verdict::Busy { retry_after }) => Err(Some(retry_after)),
        None => Err(None),
    }
}

impl Admission for PeerAdmission {
    type Slot = ServeSlot;

    fn admit(&mut self) -> Result<ServeSlot, Option<Duration>> {
        let (verdict, answer) = oneshot::channel();
        let asked = Event::ServeAsked { peer: self.peer, verdict };
        self.events.blocking_send(asked).map_err(|_| None)?;
        verdict_of(answer.blocking_recv().ok())
    }
}

impl Slot for ServeSlot {
    fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}
