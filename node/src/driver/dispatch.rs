//! Doing what the engine decided.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::blob::GROUP_LEN;
use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::engine::{
    DropReason, FetchOutcome, Input, LookResult, Output, ServeVerdict, Source, WantError,
};
use blobmesh_protocol::id::{FetchId, LookId, QueryId, ServeId, WantId};
use blobmesh_protocol::wire::message::Message;
use blobmesh_protocol::{Hash, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::event::{Event, GetEnded, ServeSlot, Verdict};
use super::requests::Request;
use super::{Driver, Fetch, Holdings};
use crate::compute;
use crate::control::api::{Failure, Trouble};
use crate::store::{Store, StoreError};
use crate::swarm::{Stream, SwarmHandle};
use crate::transfer::{self, FetchError, FrameIo, Report, provider, requester};

/// How long saying goodbye may take.
const GOODBYE_TIME: Duration = Duration::from_millis(200);

impl Driver {
    /// Does everything the engine has put out.
    pub(super) fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Look { look, hash } => self.look(look, hash),
            Output::Send { peer, message } => self.send(peer, message),
            Output::Fetch { fetch, hash, source } => self.start_fetch(fetch, hash, source),
            Output::StopFetch { fetch } => {
                if let Some(running) = self.forget_fetch(fetch) {
                    running.task.abort();
                }
            }
            Output::FindProviders { query, hash } => self.find_providers(query, hash),
            Output::StopFindProviders { query } => self.request(Request::StopFind { query }),
            Output::Provide { hash } => self.request(Request::Provide { hash }),
            Output::Unprovide { hash } => self.request(Request::Unprovide { hash }),
            Output::Serve { serve, verdict } => self.serve(serve, verdict),
            Output::Drop { peer, reason } => self.drop_peer(peer, reason),
            Output::Ended { want, result, receipt } => self.end(want, result, *receipt),
        }
    }

    fn look(&mut self, look: LookId, hash: Hash) {
        let store = self.store.clone();
        self.tasks.spawn_event(async move {
            let result = compute::store(&store, move |store| look_up(store, hash)).await;
            let result = result.unwrap_or_else(|error| {
                tracing::warn!(hash = %hash.fmt_short(), %error, "store look-up failed");
                LookResult::Absent
            });
            Event::Input(Input::Looked { look, result })
        });
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        if !self.links.send(peer, message) {
            tracing::debug!(peer = ?peer, "neighbour does not read, its link is given up");
            self.close_link(peer, None);
        }
    }

    fn start_fetch(&mut self, fetch: FetchId, hash: Hash, source: Source) {
        let events = self.tasks.events();
        let (store, swarm, edge) = (self.store.clone(), self.swarm.clone(), self.edge.clone());
        let (size_max, holdings) = (self.blob_bytes_max, Arc::clone(&self.holdings));
        let task = self.tasks.spawn_event(async move {
            let report = Arc::new(Reporter { fetch, hash, events, holdings });
            let result = match (source, edge) {
                (Source::Peer(peer), _) => match open_blob(&swarm, peer).await {
                    Ok(stream) => requester::fetch(stream, hash, &store, size_max, report).await,
                    Err(error) => Err(error),
                },
                (Source::Edge, Some(edge)) => {
                    transfer::edge::fetch(&edge, hash, &store, size_max, report).await
                }
                (Source::Edge, None) => Err(FetchError::Absent),
            };
            let (outcome, failure) = match result {
                Ok(size) => (FetchOutcome::Complete { size }, None),
                Err(error) => (error.outcome(), failure_of(&error)),
            };
            Event::FetchEnded { fetch, outcome, failure: failure.map(Box::new) }
        });
        let peer = match source {
            Source::Peer(peer) => Some(peer),
            Source::Edge => None,
        };
        self.fetches.insert(fetch, Fetch { hash, peer, task, unverified: 0 });
    }

    fn find_providers(&mut self, query: QueryId, hash: Hash) {
        if !self.requests.send(Request::Find { query, hash }) {
            self.tell(Input::ProvidersEnded { query });
        }
    }

    fn request(&self, request: Request) {
        if !self.requests.send(request) {
            tracing::warn!(?request, "the swarm stands still, a request is lost");
        }
    }

    /// Takes a blob stream that a peer opened: the engine decides once the request is there.
    pub(super) fn start_serving(&mut self, peer: PeerId, stream: Stream) {
        let (store, events) = (self.store.clone(), self.tasks.events());
        self.tasks.spawn(async move {
            let mut io = FrameIo::new(stream);
            if let Err(error) = serve_one(&mut io, peer, &store, &events).await {
                tracing::debug!(peer = ?peer, %error, "service ended early");
            }
        });
    }

    fn serve(&mut self, serve: ServeId, verdict: ServeVerdict) {
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

    pub(super) fn drop_peer(&mut self, peer: PeerId, reason: DropReason) {
        tracing::info!(peer = %crate::swarm::convert::peer_text(&peer), ?reason, "peer dropped");
        self.close_link(peer, None);
        if reason == DropReason::Full {
            // No fault of the peer's: blobs may still come from it and go to it.
            return self.contacts.refused(peer, Instant::now());
        }
        self.request(Request::Disconnect { peer });
    }

    fn end(&mut self, want: WantId, result: Result<(), WantError>, receipt: Receipt) {
        let Some(pending) = self.wants.remove(&want) else { return };
        let hash = pending.hash;
        let failure = self.failures.get(&hash).cloned().filter(|_| result.is_err());
        if !self.wants.values().any(|other| other.hash == hash) {
            self.failures.remove(&hash);
        }
        // Whoever wanted it may have gone.
        pending.ended.send(GetEnded { result, receipt, failure }).ok();
    }

    /// Tells the neighbours that the node stops, as far as they listen at once.
    pub(super) async fn say_goodbye(&mut self, events: &mut mpsc::Receiver<Event>) {
        let mut speaking = self.links.finish();
        let spoken = async {
            while speaking > 0 {
                match events.recv().await {
                    Some(Event::LinkClosed { .. }) => speaking -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // Whoever does not listen in time notices by the connection's end.
        tokio::time::timeout(GOODBYE_TIME, spoken).await.ok();
    }
}

fn look_up(store: &Store, hash: Hash) -> Result<LookResult, StoreError> {
    if let Some(info) = store.find(&hash)? {
        return Ok(LookResult::Whole { size: info.size });
    }
    let partial = store.find_partial(&hash)?;
    Ok(partial.map_or(LookResult::Absent, |partial| {
        let size = partial.list().size();
        let held = partial.held().held().saturating_mul(GROUP_LEN).min(size);
        LookResult::Part { size, held }
    }))
}

/// Connects to a peer if need be, and opens a blob stream to it.
async fn open_blob(swarm: &SwarmHandle, peer: PeerId) -> Result<Stream, FetchError> {
    swarm.connect(&peer).await.map_err(FetchError::Connect)?;
    Ok(swarm.open_blob(&peer).await?)
}

/// Tells the driver how a fetch goes. An error says that the driver is gone: nobody is left to tell.
struct Reporter {
    fetch: FetchId,
    hash: Hash,
    events: mpsc::Sender<Event>,
    holdings: Arc<Holdings>,
}

impl Report for Reporter {
    fn progress(&self, bytes: u64, size: u64) {
        let progress = Input::Progress { fetch: self.fetch, bytes, size };
        self.events.blocking_send(Event::Input(progress)).ok();
    }

    fn arrived(&self, bytes: u64, size: u64) {
        self.events.try_send(Event::Arrived { fetch: self.fetch, bytes, size }).ok();
    }

    fn stored(&self) {
        self.holdings.stored(self.fetch, self.hash);
    }
}

/// Says what a user should hear of a fetch that failed, where it is the user who can change it.
fn failure_of(error: &FetchError) -> Option<Failure> {
    match error {
        FetchError::Edge(edge) => Some(Failure::new(edge.trouble(), describe(edge))),
        FetchError::Store(store) => Some(Failure::new(store.kind(), describe(store))),
        FetchError::Worker => Some(Failure::new(Trouble::Other, error.to_string())),
        FetchError::TooLarge { .. } => Some(Failure::new(Trouble::TooLarge, error.to_string())),
        FetchError::Absent
        | FetchError::Busy { .. }
        | FetchError::Connect(_)
        | FetchError::Open(_)
        | FetchError::Stream(_)
        | FetchError::Short
        | FetchError::OutOfTurn { .. }
        | FetchError::Refused
        | FetchError::List(_)
        | FetchError::Group(_)
        | FetchError::Codec(_) => None,
    }
}

/// Puts an error and its causes into one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

async fn serve_one(
    io: &mut FrameIo<Stream>,
    peer: PeerId,
    store: &Store,
    events: &mpsc::Sender<Event>,
) -> Result<(), provider::ServeError> {
    let request = provider::request(io).await?;
    let (verdict, answer) = oneshot::channel();
    if events.send(Event::ServeAsked { peer, verdict }).await.is_err() {
        return Ok(());
    }
    match answer.await {
        // The driver has stopped.
        Err(_) => Ok(()),
        Ok(Verdict::Busy { retry_after }) => provider::turn_away(io, retry_after).await,
        Ok(Verdict::Admit(mut slot)) => {
            slot.bytes = provider::serve(io, request, store).await?;
            Ok(())
        }
    }
}
