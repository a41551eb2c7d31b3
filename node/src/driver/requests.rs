//! What the driver asks of the swarm, in the order it was asked.
//!
//! A provide record that is put in after it was withdrawn, or a search that begins after it was
//! stopped, would stay; so all go through one queue and one task. The driver never waits for it.

use blobmesh_protocol::engine::Input;
use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId};
use tokio::sync::mpsc;

use super::event::Event;
use super::tasks::Tasks;
use crate::swarm::{SwarmHandle, SwarmStopped};

/// How many requests wait for the swarm: a start and a stop for each of the resolver's 1,024 searches,
/// and all of the 1,000 blobs that are advertised, with room to spare.
const REQUESTS_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Find { query: QueryId, hash: Hash },
    StopFind { query: QueryId },
    Provide { hash: Hash },
    Unprovide { hash: Hash },
    Disconnect { peer: PeerId },
}

#[derive(Debug)]
pub(super) struct Requests {
    queue: mpsc::Sender<Request>,
}

impl Requests {
    /// Starts the task that carries requests to the swarm.
    pub(super) fn start(swarm: SwarmHandle, tasks: &mut Tasks) -> Self {
        let (queue, requests) = mpsc::channel(REQUESTS_MAX);
        let events = tasks.events();
        tasks.spawn(forward(swarm, requests, events));
        Self { queue }
    }

    /// Queues a request; false if there is no room, which only a swarm that stands still can cause.
    pub(super) fn send(&self, request: Request) -> bool {
        self.queue.try_send(request).is_ok()
    }
}

async fn forward(
    swarm: SwarmHandle,
    mut requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<Event>,
) {
    while let Some(request) = requests.recv().await {
        if ask(&swarm, request).await.is_ok() {
            continue;
        }
        // Without a swarm a search finds nobody. Nobody waits for the others.
        if let Request::Find { query, .. } = request {
            let ended = Event::Input(Input::ProvidersEnded { query });
            events.send(ended).await.ok();
        }
    }
}

async fn ask(swarm: &SwarmHandle, request: Request) -> Result<(), SwarmStopped> {
    match request {
        Request::Find { query, hash } => swarm.find_providers(query, hash).await,
        Request::StopFind { query } => swarm.stop_find(query).await,
        Request::Provide { hash } => swarm.provide(hash).await,
        Request::Unprovide { hash } => swarm.stop_providing(hash).await,
        Request::Disconnect { peer } => swarm.disconnect(&peer).await,
    }
}
