//! Transfers: one fetch at one source, from the request to the last byte.
//!
//! A request travels to its provider, whose engine admits it or not; then bytes flow, group after group
//! of what the requester misses, and each group that is whole is verified and stored. A provider that
//! misbehaves is found out at the first group, as the group list that came before it is checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::blob::{GROUP_LEN, group_count, group_len};
use blobmesh_protocol::engine::{FetchOutcome, Input};
use blobmesh_protocol::id::{FetchId, ServeId};
use blobmesh_protocol::wire::small::SMALL_BYTES_MAX;
use blobmesh_protocol::{Hash, PeerId, Time};

use super::ahead::Task;
use super::flows::FlowId;
use super::links::Route;
use super::{Event, NodeIndex, World, host};
use crate::plan::Behaviour;

/// A transfer tells of its progress at the first group, then at multiples of a power of two between these,
/// the least and the most, so that a block of a long blob is known as soon as it is whole.
const PROGRESS_BYTES: Range<u64> = 1 << 20..4 << 20;
/// The multiple is what comes in this time.
const PROGRESS_TIME: Duration = Duration::from_millis(500);
/// How a transfer ends whose requester's process ends.
const KILLED: &str = "killed";
/// From how many bytes on a fetch uses a lane: what nodes are configured with.
const LANE_BYTES_MIN: u64 = 4 << 20;
/// A way of a shorter round trip than this has its whole window open before it matters.
const SLOW_START_FROM: Duration = Duration::from_millis(2);

/// Names a transfer; a number is never used for two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransferId(u64);

/// Is what a provider says to a request.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// Here it comes.
    Begins,
    Absent,
    Busy {
        retry_after: Duration,
    },
    /// It is too long to answer a small request with.
    Large {
        size: u64,
    },
    Failed {
        detail: &'static str,
    },
}

/// Says who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Node(NodeIndex),
    Edge,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) node: NodeIndex,
    pub(super) fetch: FetchId,
    pub(super) hash: Hash,
    pub(super) from: From,
    pub(super) size: u64,
    pub(super) started: Time,
    pub(super) first_byte: Option<Time>,
    pub(super) flow: Option<FlowId>,
    /// The provider's number for it, once its engine was asked.
    serve: Option<ServeId>,
    /// The groups that were asked for; none for all.
    groups: Option<Range<u64>>,
    /// Whether it is a small request.
    small: bool,
    /// The groups that are to come.
    pieces: Vec<Range<u64>>,
    /// The bytes at which the flow is looked at next.
    mark: u64,
    /// Bytes that were told to the engine.
    told: u64,
    /// Bytes up to the end of the last group that was stored.
    stored: u64,
    /// Bytes that are to come in all.
    wanted: u64,
    /// What the flow's own window allows in bytes a second, while it grows.
    window: Option<Window>,
    /// What the way allows beside the pipes: loss, one connection of the edge.
    limit: f64,
    /// Whether what comes is not of the blob.
    wrong: bool,
    /// Whether the bytes come over a lane.
    lane: bool,
}

/// Is a window of TCP in slow start.
#[derive(Clone, Copy, Debug)]
struct Window {
    bytes: f64,
    round_trip: Duration,
}

/// Holds the transfers of a world.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    running: BTreeMap<TransferId, Transfer>,
    /// The transfers by the slots of their flows.
    by_flow: Vec<Option<(FlowId, TransferId)>>,
}

impl Transfers {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.running.get(&id)
    }

    pub(super) fn set_size(&mut self, id: TransferId, size: u64) {
        if let Some(transfer) = self.get_mut(id) {
            transfer.size = size;
        }
    }

    pub(super) fn set_groups(&mut self, id: TransferId, groups: Option<Range<u64>>) {
        if let Some(transfer) = self.get_mut(id) {
            transfer.groups = groups;
        }
    }

    fn get_mut(&mut self, id: TransferId) -> Option<&mut Transfer> {
        self.running.get_mut(&id)
    }

    /// Returns the transfer of a flow.
    pub(super) fn of_flow(&self, flow: FlowId) -> Option<TransferId> {
        let (own, id) = self.by_flow.get(flow.slot).copied().flatten()?;
        (own == flow).then_some(id)
    }

    fn set_flow(&mut self, flow: FlowId, id: Option<TransferId>) {
        if self.by_flow.len() <= flow.slot {
            self.by_flow.resize(flow.slot + 1, None);
        }
        if let Some(place) = self.by_flow.get_mut(flow.slot) {
            *place = id.map(|id| (flow, id));
        }
    }
}

impl World {
    /// Sends a small request, which is a transfer without a wait for admission: one slot serves the whole
    /// stream.
    pub(super) fn request_small(
        &mut self,
        node: NodeIndex,
        fetch: FetchId,
        hash: Hash,
        peer: PeerId,
    ) {
        self.fetch_from_peer(node, (fetch, None), hash, peer);
        let host = self.hosts.get(node);
        let id = host.and_then(|host| host.fetches.get(&fetch).copied());
        if let Some(transfer) = id.and_then(|id| self.transfers.get_mut(id)) {
            transfer.small = true;
        }
    }

    pub(super) fn fetch_from_peer(
        &mut self,
        node: NodeIndex,
        (fetch, groups): (FetchId, Option<Range<u64>>),
        hash: Hash,
        peer: PeerId,
    ) {
        let Some(provider) = host::node_of(peer).filter(|other| *other < self.hosts.len()) else {
            let failed = outcome_failed("no such peer");
            let ended = Input::FetchEnded { fetch, outcome: failed };
            return self.schedule(Duration::ZERO, node, Event::Input(ended));
        };
        let id = self.open_transfer(node, fetch, hash, From::Node(provider));
        self.transfers.set_groups(id, groups);
        if self.are_apart(node, provider) {
            // No word comes; the engine's own patience ends it.
            return;
        }
        let way = self.delay(node, provider);
        if self.hosts.get(provider).is_some_and(host::Host::is_up) {
            let dial = self.connect((node, provider), way * 2, self.now);
            let stream = way * 2 * self.model.stream_round_trips + self.model.fetch;
            let after = dial + stream + way + self.model.step;
            self.schedule(after, provider, Event::Asked { transfer: id });
        } else {
            let response = Response::Failed { detail: "connection refused" };
            self.schedule(way * 2, node, Event::Answered { transfer: id, response });
        }
    }

    pub(super) fn open_transfer(
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
    pub(super) fn transfer_asked(&mut self, provider: NodeIndex, id: TransferId) {
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
    pub(super) fn transfer_admitted(&mut self, provider: NodeIndex, id: TransferId) {
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
    pub(super) fn respond(&mut self, provider: NodeIndex, id: TransferId, response: Response) {
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
    pub(super) fn transfer_answered(&mut self, id: TransferId, response: Response) {
        let outcome = match response {
            Response::Begins => return self.begin_flow(id),
            Response::Absent => FetchOutcome::Absent,
            Response::Busy { retry_after } => FetchOutcome::Busy { retry_after },
            Response::Large { size } => FetchOutcome::Large { size },
            Response::Failed { detail } => outcome_failed(detail),
        };
        self.end_fetch(id, outcome);
    }

    /// Lets the bytes of a transfer flow.
    fn begin_flow(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (node, from, hash, size) = (transfer.node, transfer.from, transfer.hash, transfer.size);
        let (groups, lane) = (transfer.groups.clone(), transfer.lane);
        let route = match from {
            From::Node(provider) => self.route(provider, node),
            From::Edge => self.route_from_edge(node),
        };
        let host = self.hosts.get(node);
        let pieces = host.map(|host| host.store.missing(&hash, size, groups.as_ref()));
        let pieces = pieces.unwrap_or_default();
        let wanted: u64 = pieces.iter().map(|run| run_len(size, run)).sum();
        let window = self.initial_window((node, from, lane), &route);
        let limit = route.loss_limit().min(self.edge_limit(from));
        let apart = matches!(from, From::Node(provider) if self.are_apart(provider, node));
        let allowed = window.map_or(f64::INFINITY, |window| window.rate()).min(limit);
        let rate = if apart { 0.0 } else { allowed };
        let first = wanted.min(GROUP_LEN);
        let flow = self.flows.start(self.now, &route.path, rate, first);
        self.transfers.set_flow(flow, Some(id));
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        (transfer.pieces, transfer.wanted, transfer.mark) = (pieces, wanted, first);
        (transfer.flow, transfer.window, transfer.limit) = (Some(flow), window, limit);
        transfer.first_byte = Some(self.now);
        if let Some(window) = window {
            self.schedule(window.round_trip, node, Event::Grown { transfer: id });
        }
    }

    /// Returns the window a flow begins with; none where slow start does not matter.
    fn initial_window(
        &mut self,
        (node, from, lane): (NodeIndex, From, bool),
        route: &Route,
    ) -> Option<Window> {
        let round_trip = route.delay * 2;
        if round_trip < SLOW_START_FROM {
            return None;
        }
        let warm = match from {
            From::Edge => self.take_edge_window(node),
            // Neighbours keep their connection, and so its window; a lane is a new one.
            From::Node(provider) => {
                let linked =
                    self.hosts.get(node).is_some_and(|host| host.links.contains_key(&provider));
                (linked && !lane).then_some(f64::INFINITY)
            }
        };
        let bytes = warm.unwrap_or(self.model.window_initial);
        bytes.is_finite().then_some(Window { bytes, round_trip })
    }

    /// Doubles the window of a flow in slow start, until something else is narrower.
    pub(super) fn transfer_grown(&mut self, id: TransferId) {
        let now = self.now;
        let Some(transfer) = self.transfers.running.get_mut(&id) else { return };
        let (Some(flow), Some(window)) = (transfer.flow, &mut transfer.window) else { return };
        let filled = self.flows.rate(flow) >= window.rate() * 0.99;
        window.bytes *= 2.0;
        let (rate, after, node) = (window.rate(), window.round_trip, transfer.node);
        if !filled {
            // Something else is narrower, and stays so as far as the window is concerned.
            transfer.window = None;
        }
        let window = if filled { rate } else { f64::INFINITY };
        let limit = window.min(transfer.limit);
        let from = transfer.from;
        if !matches!(from, From::Node(provider) if self.are_apart(provider, node)) {
            self.flows.set_limit(now, flow, limit);
        }
        if filled {
            self.schedule(after, node, Event::Grown { transfer: id });
        }
    }

    /// Takes in that a flow has reached its mark.
    pub(super) fn flow_due(&mut self, flow: FlowId) {
        let Some(id) = self.transfers.of_flow(flow) else { return };
        let Some(transfer) = self.transfers.running.get_mut(&id) else { return };
        // One that is slow is told of before its mark.
        let done = transfer.mark.min(whole_bytes(self.flows.done(self.now, flow)));
        let (node, fetch, size) = (transfer.node, transfer.fetch, transfer.size);
        let small = transfer.small;
        self.log.flow(self.now, node, id.0, done);
        if transfer.wrong && done >= transfer.mark {
            let outcome =
                FetchOutcome::WrongBytes { detail: "group 0 has a wrong hash".to_owned() };
            return self.end_fetch(id, outcome);
        }
        transfer.told = done;
        let whole = done >= transfer.wanted;
        let mut runs = self.store_groups(id);
        if runs.is_empty() {
            // A sign of life in the middle of a group.
            runs.push(0..0);
        }
        // Of a small request only its end is told.
        for groups in runs.into_iter().filter(|_| !small) {
            let bytes = run_len(size, &groups);
            self.tell(node, Input::Progress { fetch, bytes, groups, size });
        }
        if whole {
            self.flow_done(id);
        } else {
            self.plan_progress(id, flow);
        }
        self.check(node);
    }

    /// Returns whose flow reaches its mark at a moment, and what its engine will be told then: bytes, and the end of
    /// the fetch if that is certain to follow. Nothing where that cannot be said before.
    pub(super) fn foresee_flow(&self, at: Time, flow: FlowId) -> Option<(NodeIndex, Option<Task>)> {
        let transfer = self.transfers.get(self.transfers.of_flow(flow)?)?;
        let (node, hash, size) = (transfer.node, transfer.hash, transfer.size);
        if transfer.small || transfer.wrong {
            return Some((node, None));
        }
        let done = transfer.mark.min(whole_bytes(self.flows.done_when_due(at, flow)));
        let Some(groups) = transfer.next_groups(done) else { return Some((node, None)) };
        let store = &self.hosts.get(node)?.store;
        let held = store.part(&hash).map_or(0, |(_, _, groups)| groups.held());
        let missing = group_count(size).saturating_sub(held);
        // More than these groups are missing, so that this range is not the last one.
        let is_part = transfer.groups.is_some()
            && store.size(&hash).is_none()
            && missing > groups.end - groups.start;
        let fetch = transfer.fetch;
        let end = (done >= transfer.wanted && is_part)
            .then_some(Input::FetchEnded { fetch, outcome: FetchOutcome::Part });
        let bytes = run_len(size, &groups);
        let input = Input::Progress { fetch, bytes, groups, size };
        let task = match end {
            Some(end) => Task::Last(Box::new([input, end])),
            None => Task::Input(Box::new(input)),
        };
        Some((node, Some(task)))
    }

    /// Takes in that all bytes of a transfer came. The last one of its blob still has to be put under its
    /// final name.
    fn flow_done(&mut self, id: TransferId) {
        self.close_flow(id);
        let Some(transfer) = self.transfers.get(id) else { return };
        let (node, hash) = (transfer.node, transfer.hash);
        let missing = transfer.groups.is_some()
            && self
                .hosts
                .get(node)
                .is_some_and(|host| host.store.part(&hash).is_some() && !host.store.is_full(&hash));
        if missing {
            self.end_fetch(id, FetchOutcome::Part);
        } else {
            self.schedule(self.model.finish, node, Event::Finished { transfer: id });
        }
    }

    /// Plans when the engine is told of progress next.
    fn plan_progress(&mut self, id: TransferId, flow: FlowId) {
        let soon = whole_bytes(self.flows.rate(flow) * PROGRESS_TIME.as_secs_f64()).max(1);
        let step = 1_u64 << soon.ilog2();
        let step = step.clamp(PROGRESS_BYTES.start, PROGRESS_BYTES.end);
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        transfer.mark = ((transfer.told / step + 1) * step).min(transfer.wanted);
        self.flows.set_mark(self.now, flow, transfer.mark);
    }

    /// Puts the groups whose last byte came into the store, and returns them as runs.
    fn store_groups(&mut self, id: TransferId) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let Some(transfer) = self.transfers.running.get_mut(&id) else { return runs };
        let (hash, size) = (transfer.hash, transfer.size);
        let Some(host) = self.hosts.get_mut(transfer.node) else { return runs };
        while let Some(run) = transfer.pieces.first_mut() {
            let Some(group) = run.next() else {
                transfer.pieces.remove(0);
                continue;
            };
            let len = u64::try_from(group_len(size, group)).unwrap_or(0);
            if transfer.stored + len > transfer.told {
                run.start = group;
                break;
            }
            transfer.stored += len;
            match runs.last_mut() {
                Some(last) if last.end == group => last.end = group + 1,
                Some(_) | None => runs.push(group..group + 1),
            }
        }
        let whole = host.store.size(&hash).is_some();
        let twice = runs.iter().map(|run| match whole {
            true => run_len(size, run),
            false => host.store.insert_groups(hash, size, run.clone()),
        });
        let duplicate = twice.sum();
        self.tally.count_duplicate(duplicate);
        if transfer.wrong {
            self.tally.count_corrupt(runs.iter().map(|run| run.end - run.start).sum());
        }
        runs
    }

    /// Takes in that a transfer's last group is under the blob's final name.
    pub(super) fn transfer_finished(&mut self, node: NodeIndex, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (hash, size) = (transfer.hash, transfer.size);
        let Some(host) = self.hosts.get(node) else { return };
        let empty = size == 0 || host.store.size(&hash).is_some();
        if !empty && !host.store.is_full(&hash) {
            // What another fetch was to bring did not come: the engine asks again.
            return self.end_fetch(id, outcome_failed("groups are missing"));
        }
        if host.store.size(&hash).is_none() {
            self.store_blob(node, hash, size, (false, false));
        }
        self.end_fetch(id, FetchOutcome::Complete { size });
    }

    /// Ends a transfer and tells the requester's engine how.
    pub(super) fn end_fetch(&mut self, id: TransferId, outcome: FetchOutcome) {
        let word = outcome_word(&outcome);
        let Some(transfer) = self.close_transfer(id, word) else { return };
        self.checks.fetch_ended(transfer.node, transfer.fetch);
        self.tell(transfer.node, Input::FetchEnded { fetch: transfer.fetch, outcome });
    }

    /// Ends a transfer that the requester's engine wants no more.
    pub(super) fn stop_fetch(&mut self, node: NodeIndex, fetch: FetchId) {
        let Some(host) = self.hosts.get(node) else { return };
        if let Some(id) = host.fetches.get(&fetch).copied() {
            self.close_transfer(id, "stopped");
        }
    }

    /// Ends what a node that ends has under way, on both sides.
    pub(super) fn abandon_transfers(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get(node) else { return };
        let fetched: Vec<TransferId> = host.fetches.values().copied().collect();
        let served: Vec<TransferId> = host.serves.values().copied().collect();
        for id in fetched {
            self.close_transfer(id, KILLED);
        }
        for id in served {
            let Some(transfer) = self.transfers.get(id) else { continue };
            let requester = transfer.node;
            self.close_flow(id);
            if !self.are_apart(node, requester) {
                // A requester hears that the connection is gone before what that did to its streams.
                let after = self.delay(node, requester) + self.model.step;
                let response = Response::Failed { detail: "connection lost" };
                self.schedule(after, requester, Event::Answered { transfer: id, response });
            }
        }
        if let Some(host) = self.hosts.get_mut(node) {
            host.serves.clear();
        }
    }

    /// Forgets a transfer on the requester's side and lets the provider know.
    fn close_transfer(&mut self, id: TransferId, outcome: &'static str) -> Option<Transfer> {
        self.settle_bytes(id);
        self.close_flow(id);
        let transfer = self.transfers.running.remove(&id)?;
        if let Some(host) = self.hosts.get_mut(transfer.node) {
            host.fetches.remove(&transfer.fetch);
            let of_blob = |other: &TransferId| {
                self.transfers.get(*other).is_some_and(|other| other.hash == transfer.hash)
            };
            if outcome != KILLED && !host.fetches.values().any(of_blob) {
                host.store.save_part(&transfer.hash);
            }
        }
        self.tally.transfer_ended(&transfer, self.now, outcome);
        if let (From::Node(provider), Some(serve)) = (transfer.from, transfer.serve) {
            self.use_connection(transfer.node, provider, self.now);
            let after = self.delay(transfer.node, provider);
            let known =
                self.hosts.get(provider).is_some_and(|host| host.serves.contains_key(&serve));
            if known {
                self.schedule(after, provider, Event::Released { serve });
            }
        }
        Some(transfer)
    }

    /// Takes the bytes that came since the last mark of a flow that ends before its next one: they
    /// travelled, and whole groups among them stay.
    fn settle_bytes(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some(flow) = transfer.flow.filter(|_| !transfer.wrong) else { return };
        let done = self.flows.done(self.now, flow);
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.told = transfer.told.max(whole_bytes(done).min(transfer.wanted));
        }
        self.store_groups(id);
    }

    /// Ends a transfer's flow and counts its bytes on both sides.
    fn close_flow(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Some(flow) = transfer.flow.take() else { return };
        self.transfers.set_flow(flow, None);
        let carried = self.flows.stop(self.now, flow);
        let Some(transfer) = self.transfers.get(id) else { return };
        let (node, from, window) = (transfer.node, transfer.from, transfer.window);
        self.tally.count_bytes(node, from, carried);
        if from == From::Edge {
            let window = window.map_or(f64::INFINITY, |window| window.bytes);
            self.give_edge_window(node, window);
        }
    }

    /// Ends everything that is under way, at the end of a run.
    pub(super) fn end_transfers(&mut self) {
        let all: Vec<TransferId> = self.transfers.running.keys().copied().collect();
        for id in all {
            self.close_transfer(id, "unfinished");
        }
    }

    pub(super) fn release(&mut self, provider: NodeIndex, serve: ServeId) {
        if let Some(host) = self.hosts.get_mut(provider) {
            host.serves.remove(&serve);
        }
        self.tell(provider, Input::ServeEnded { serve });
    }

    /// Stops the flows that a cut goes through, and lets those flow again that it went through.
    pub(super) fn cut_flows(&mut self) {
        let flowing = self.transfers.running.iter();
        let all: Vec<(FlowId, NodeIndex, From, f64)> = flowing
            .filter_map(|(_, transfer)| {
                let limit = transfer.window.map_or(f64::INFINITY, |window| window.rate());
                Some((transfer.flow?, transfer.node, transfer.from, limit.min(transfer.limit)))
            })
            .collect();
        for (flow, node, from, limit) in all {
            let apart = match from {
                From::Node(provider) => self.are_apart(provider, node),
                From::Edge => self.is_off_edge(node),
            };
            self.flows.set_limit(self.now, flow, if apart { 0.0 } else { limit });
        }
    }
}

impl Transfer {
    /// Returns the groups of which the last byte comes while bytes up to `done` come, if they are one run; an empty
    /// run if there are none.
    fn next_groups(&self, done: u64) -> Option<Range<u64>> {
        let (mut stored, mut whole) = (self.stored, 0..0);
        for group in self.pieces.iter().cloned().flatten() {
            stored += u64::try_from(group_len(self.size, group)).unwrap_or(0);
            if stored > done {
                break;
            }
            match whole.end {
                _ if whole.start == whole.end => whole = group..group + 1,
                end if end == group => whole.end = group + 1,
                _ => return None,
            }
        }
        Some(whole)
    }

    /// Returns the bytes that came and were told of.
    pub(super) fn bytes(&self) -> u64 {
        self.told
    }
}

impl Window {
    fn rate(&self) -> f64 {
        self.bytes / self.round_trip.as_secs_f64().max(1e-9)
    }
}

/// Returns the whole bytes of a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and a cast saturates"
)]
fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}

fn run_len(size: u64, run: &Range<u64>) -> u64 {
    (run.end * GROUP_LEN).min(size).saturating_sub(run.start * GROUP_LEN)
}

pub(super) fn outcome_failed(detail: &str) -> FetchOutcome {
    FetchOutcome::Failed { detail: detail.to_owned() }
}

fn outcome_word(outcome: &FetchOutcome) -> &'static str {
    match outcome {
        FetchOutcome::Complete { .. } => "complete",
        FetchOutcome::Read { .. } => "read",
        FetchOutcome::Large { .. } => "large",
        FetchOutcome::Part => "part",
        FetchOutcome::Absent => "absent",
        FetchOutcome::Busy { .. } => "busy",
        FetchOutcome::WrongBytes { .. } => "wrong_bytes",
        FetchOutcome::Failed { .. }
        | FetchOutcome::Misbehaved { .. }
        | FetchOutcome::Refused { .. }
        | FetchOutcome::StoreFailed { .. } => "failed",
    }
}
