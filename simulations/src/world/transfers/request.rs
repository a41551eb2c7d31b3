//! Requests: what is asked of a source, and what it says to that.

use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::engine::{FetchOutcome, Input};
use blobmesh_protocol::id::{FetchId, ServeId};
use blobmesh_protocol::wire::small::SMALL_BYTES_MAX;
use blobmesh_protocol::{Hash, PeerId};

use super::{From, Response, Transfer, TransferId, outcome_failed, run_len};
use crate::plan::Behaviour;
use crate::world::{Event, NodeIndex, World, host};

/// From how many bytes on a fetch uses a lane: what nodes are configured with.
const LANE_BYTES_MIN: u64 = 4 << 20;

impl World {
    /// Sends a small request, which is a transfer without a wait for admission: one slot serves the whole
    /// stream.
    pub(in crate::world) fn request_small(
        &mut self,
        node: NodeIndex,
        fetch: FetchId,
        hash: Hash,
        peer: PeerId,
    ) {
        self.request(node, (fetch, None), hash, peer, true);
    }

    pub(in crate::world) fn fetch_from_peer(
        &mut self,
        node: NodeIndex,
        (fetch, groups): (FetchId, Option<Range<u64>>),
        hash: Hash,
        peer: PeerId,
    ) {
        self.request(node, (fetch, groups), hash, peer, false);
    }

    fn request(
        &mut self,
        node: NodeIndex,
        (fetch, groups): (FetchId, Option<Range<u64>>),
        hash: Hash,
        peer: PeerId,
        small: bool,
    ) {
        let Some(provider) = host::node_of(peer).filter(|other| *other < self.hosts.len()) else {
            let failed = outcome_failed("no such peer");
            let ended = Input::FetchEnded { fetch, outcome: failed };
            return self.schedule(Duration::ZERO, node, Event::told(ended));
        };
        let id = self.open_transfer(node, fetch, hash, From::Node(provider));
        self.transfers.set_groups(id, groups);
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.small = small;
        }
        if self.are_apart(node, provider) {
            // No word comes; the engine's own patience ends it.
            return;
        }
        let way = self.delay(node, provider);
        if self.hosts.get(provider).is_some_and(host::Host::is_up) {
            let dial = self.connect((node, provider), way * 2, self.now);
            let stream = match small {
                true => self.open_small((node, provider), way * 2, self.now + dial),
                false => way * 2 * self.model.stream_round_trips,
            };
            let after = dial + stream + self.model.fetch + way + self.model.step;
            self.schedule(after, provider, Event::Asked { transfer: id });
        } else {
            let response = Response::Failed { detail: "connection refused" };
            self.schedule(way * 2, node, Event::Answered { transfer: id, response });
        }
    }

    pub(in crate::world) fn open_transfer(
        &mut self,
        node: NodeIndex,
        fetch: FetchId,
        hash: Hash,
        from: From,
    ) -> TransferId {
        let id = TransferId(self.next_serial());
        let transfer = Transfer {
            node,
            fetch,
            hash,
            from,
            size: 0,
            started: self.now,
            first_byte: None,
            flow: None,
            serve: None,
            groups: None,
            small: false,
            pieces: Vec::new(),
            mark: 0,
            told: 0,
            stored: 0,
            wanted: 0,
            window: None,
            limit: f64::INFINITY,
            wrong: false,
            lane: false,
        };
        self.transfers.running.insert(id, transfer);
        if let Some(host) = self.hosts.get_mut(node) {
            host.fetches.insert(fetch, id);
        }
        id
    }

    /// Takes in that a request has arrived at its provider.
    pub(in crate::world) fn transfer_asked(&mut self, provider: NodeIndex, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (requester, hash, groups) = (transfer.node, transfer.hash, transfer.groups.clone());
        let Some(host) = self.hosts.get_mut(provider) else { return };
        let part = groups.and_then(|groups| host.store.size_of_part(&hash, &groups));
        let Some(size) = host.store.look(&hash).or(part) else {
            return self.respond(provider, id, Response::Absent);
        };
        self.transfers.set_size(id, size);
        if self.transfers.get(id).is_some_and(|transfer| transfer.small) {
            return match size {
                size if size > SMALL_BYTES_MAX => {
                    self.respond(provider, id, Response::Large { size });
                }
                _ => self.transfer_admitted(provider, id),
            };
        }
        let serve = ServeId(self.next_serial());
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.serve = Some(serve);
        if let Some(host) = self.hosts.get_mut(provider) {
            host.serves.insert(serve, id);
        }
        self.tell(provider, Input::ServeAsked { serve, peer: host::peer_of(requester) });
    }

    /// Takes in that the provider's engine admitted a request.
    pub(in crate::world) fn transfer_admitted(&mut self, provider: NodeIndex, id: TransferId) {
        let (corrupt, stalls) = (
            self.misbehaves(provider, Behaviour::Corrupt),
            self.misbehaves(provider, Behaviour::Stall),
        );
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.wrong = corrupt;
        if !stalls {
            let lane = self.lane_time(provider, id);
            self.respond_after(lane, provider, id, Response::Begins);
        }
    }

    /// Returns how long it takes until the bytes of a long transfer flow over a lane, counted from the answer;
    /// nothing for one that has none.
    fn lane_time(&mut self, provider: NodeIndex, id: TransferId) -> Duration {
        let Some(transfer) = self.transfers.get(id) else { return Duration::ZERO };
        let (node, size) = (transfer.node, transfer.size);
        let (hash, groups) = (transfer.hash, transfer.groups.as_ref());
        let wanted = self.hosts.get(node).map(|host| host.store.missing(&hash, size, groups));
        let bytes: u64 = wanted.unwrap_or_default().iter().map(|run| run_len(size, run)).sum();
        if bytes < LANE_BYTES_MIN {
            return Duration::ZERO;
        }
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.lane = true;
        }
        let round_trip = self.delay(provider, node) * 2;
        round_trip * self.model.lane_round_trips + self.model.lane
    }

    /// Sends a provider's word to the requester.
    pub(in crate::world) fn respond(
        &mut self,
        provider: NodeIndex,
        id: TransferId,
        response: Response,
    ) {
        self.respond_after(Duration::ZERO, provider, id, response);
    }

    fn respond_after(
        &mut self,
        wait: Duration,
        provider: NodeIndex,
        id: TransferId,
        response: Response,
    ) {
        let Some(requester) = self.transfers.get(id).map(|transfer| transfer.node) else { return };
        if self.are_apart(provider, requester) {
            return;
        }
        let after = wait + self.delay(provider, requester) + self.model.step;
        self.schedule(after, requester, Event::Answered { transfer: id, response });
    }

    /// Takes in what the source said.
    pub(in crate::world) fn transfer_answered(&mut self, id: TransferId, response: Response) {
        let outcome = match response {
            Response::Begins => return self.begin_flow(id),
            Response::Absent => FetchOutcome::Absent,
            Response::Busy { retry_after } => FetchOutcome::Busy { retry_after },
            Response::Large { size } => FetchOutcome::Large { size },
            Response::Failed { detail } => outcome_failed(detail),
        };
        self.end_fetch(id, outcome);
    }
}
