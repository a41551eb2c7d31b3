//! Doing what the engine decided.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::blob::GROUP_LEN;
use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::engine::{
    DropReason, FetchOutcome, Input, LookResult, Output, Source, WantError,
};
use blobmesh_protocol::id::{FetchId, LookId, QueryId, WantId};
use blobmesh_protocol::wire::message::Message;
use blobmesh_protocol::{Hash, PeerId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Event, GetEnded, post};
use super::requests::Request;
use super::{Driver, Fetch, Holdings};
use crate::compute;
use crate::control::api::{Failure, Trouble};
use crate::lane::Lanes;
use crate::small;
use crate::store::{Store, StoreError};
use crate::swarm::{Stream, SwarmHandle, convert};
use crate::transfer::requester::{self, LaneWay, Way};
use crate::transfer::{self, Carried, FetchError, Meter, Report};

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
            Output::Fetch { fetch, hash, source, groups } => {
                self.start_fetch(fetch, (hash, groups), source);
            }
            Output::FetchSmall { fetch, hash, peer, keep } => {
                self.request_small(peer, small::Request { fetch, hash, keep });
            }
            Output::PrepareEdge => self.prepare_edge(),
            // An answer to a small request comes all the same, and is worth what it brings.
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

    fn start_fetch(
        &mut self,
        fetch: FetchId,
        (hash, groups): (Hash, Option<Range<u64>>),
        source: Source,
    ) {
        let events = self.tasks.events();
        let (store, swarm, edge) = (self.store.clone(), self.swarm.clone(), self.edge.clone());
        let (size_max, holdings) = (self.blob_bytes_max, Arc::clone(&self.holdings));
        let (lanes, meter) = (self.lanes.0.clone(), Arc::new(Meter::default()));
        let counted = Arc::clone(&meter);
        let ranged = groups.is_some();
        let gentle = source == Source::Edge && self.wants.is_ahead(&hash);
        let task = self.tasks.spawn_event(async move {
            let report = Arc::new(Reporter { fetch, hash, events, holdings, meter: counted });
            let result = match (source, edge) {
                (Source::Peer(peer), _) => {
                    let way = PeerWay { swarm, peer, lanes };
                    requester::fetch_groups(&way, (hash, groups), &store, size_max, report).await
                }
                (Source::Edge, Some(edge)) => {
                    let edge = if gentle { Arc::new(edge.gently().await) } else { edge };
                    transfer::edge::fetch(&edge, (hash, groups), &store, size_max, report).await
                }
                (Source::Edge, None) => Err(FetchError::Absent),
            };
            let (outcome, failure) = match result {
                Ok(Some(size)) => (FetchOutcome::Complete { size }, None),
                Ok(None) => (FetchOutcome::Part, None),
                Err(error) => (error.outcome(), failure_of(&error)),
            };
            Event::FetchEnded { fetch, outcome, failure: failure.map(Box::new) }
        });
        let started = Fetch { hash, source, ranged, gentle, task, meter, unverified: 0 };
        self.fetches.insert(fetch, started);
    }

    fn prepare_edge(&mut self) {
        if let Some(edge) = self.edge.clone() {
            self.tasks.spawn(async move { edge.prepare().await });
        }
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

    pub(super) fn drop_peer(&mut self, peer: PeerId, reason: DropReason) {
        tracing::info!(peer = %convert::peer_text(&peer), ?reason, "peer dropped");
        self.close_link(peer, None);
        if reason == DropReason::Full {
            // No fault of the peer's: blobs may still come from it and go to it.
            return self.contacts.refused(peer, Instant::now());
        }
        self.lanes.0.drop_peer(peer);
        self.request(Request::Disconnect { peer });
    }

    fn end(&mut self, want: WantId, result: Result<(), WantError>, receipt: Receipt) {
        let Some(pending) = self.wants.remove(want, &receipt.hash) else { return };
        let hash = receipt.hash;
        let others = self.wants.contains(&hash);
        let failure = self.failures.get(&hash).cloned().filter(|_| result.is_err());
        let mut carried = self.carried.get(&hash).cloned().unwrap_or_default();
        if others {
            let running = self.fetches.iter().filter(|(_, running)| running.hash == hash);
            carried.extend(
                running.map(|(fetch, running)| (*fetch, running.source, running.meter.read())),
            );
        } else {
            self.failures.remove(&hash);
            self.carried.remove(&hash);
        }
        let carried = carried_by_row(carried, &receipt);
        pending.end(GetEnded { result, receipt, failure, carried });
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

/// Sums up what was carried for each row of a receipt: the ranges of one source share its first row.
fn carried_by_row(
    carried: Vec<(FetchId, Source, Carried)>,
    receipt: &Receipt,
) -> Vec<(FetchId, Carried)> {
    let mut rows: Vec<(FetchId, Carried)> = Vec::new();
    for (fetch, source, carried) in carried {
        let own = receipt.fetches.iter().find(|row| row.fetch == fetch);
        let first = || receipt.fetches.iter().find(|row| row.source == source);
        let row = own.or_else(first).map_or(fetch, |row| row.fetch);
        match rows.iter_mut().find(|(other, _)| *other == row) {
            Some((_, sum)) => sum.add(&carried),
            None => rows.push((row, carried)),
        }
    }
    rows
}

fn look_up(store: &Store, hash: Hash) -> Result<LookResult, StoreError> {
    if let Some(info) = store.find(&hash)? {
        return Ok(LookResult::Whole { size: info.size });
    }
    let partial = store.find_partial(&hash)?;
    Ok(partial.map_or(LookResult::Absent, |partial| {
        let size = partial.list().size();
        let held = partial.held().held().saturating_mul(GROUP_LEN).min(size);
        LookResult::Part { size, held, groups: partial.held().clone() }
    }))
}

/// Leads to a peer by way of the swarm, and to its lanes.
pub(super) struct PeerWay {
    pub(super) swarm: SwarmHandle,
    pub(super) peer: PeerId,
    pub(super) lanes: Lanes,
}

impl Way for PeerWay {
    type Stream = Stream;

    async fn open(&self) -> Result<Stream, FetchError> {
        self.swarm.connect(&self.peer).await.map_err(FetchError::Connect)?;
        Ok(self.swarm.open_blob(&self.peer).await?)
    }

    fn lanes(&self) -> Option<LaneWay<'_>> {
        Some(LaneWay { lanes: &self.lanes, peer: self.peer })
    }

    async fn host(&self) -> Option<String> {
        let address = self.swarm.peer_address(&self.peer).await.ok().flatten()?;
        convert::host_of_address(&address)
    }
}

/// Tells the driver how a fetch goes. An error says that the driver is gone: nobody is left to tell.
struct Reporter {
    fetch: FetchId,
    hash: Hash,
    events: mpsc::Sender<Event>,
    holdings: Arc<Holdings>,
    meter: Arc<Meter>,
}

impl Report for Reporter {
    fn progress(&self, bytes: u64, groups: Range<u64>, size: u64) {
        let progress = Input::Progress { fetch: self.fetch, bytes, groups, size };
        self.events.blocking_send(Event::Input(progress)).ok();
    }

    fn unlisted(&self) {
        post(&self.events, Event::Input(Input::Unlisted { fetch: self.fetch }));
    }

    fn arrived(&self, bytes: u64, size: u64) {
        self.events.try_send(Event::Arrived { fetch: self.fetch, bytes, size }).ok();
    }

    fn stored(&self) {
        self.holdings.stored(self.fetch, self.hash);
    }

    fn meter(&self) -> &Arc<Meter> {
        &self.meter
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
        | FetchError::Codec(_)
        | FetchError::NoBuffer => None,
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
