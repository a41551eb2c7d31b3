//! The bytes of a transfer: how fast they flow, and what the requester's store and engine hear of them.

use std::f64::consts::SQRT_2;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::Time;
use blobmesh_protocol::blob::{GROUP_LEN, group_count, group_len};
use blobmesh_protocol::engine::{FetchOutcome, Input};

use super::{From, Transfer, TransferId, Window, run_len, whole_bytes};
use crate::world::ahead::{Bytes, Task};
use crate::world::flows::FlowId;
use crate::world::links::Route;
use crate::world::{Event, NodeIndex, World};

/// A transfer tells of its progress at the first group, then at multiples of a power of two between these,
/// the least and the most, so that a block of a long blob is known as soon as it is whole.
const PROGRESS_BYTES: Range<u64> = GROUP_LEN..4 << 20;
/// The multiple is what comes in this time, and no more than this, as it is of a real node, whose engine takes a pause of
/// 50 ms of all its sources for silence. Of several flows each tells the more rarely: together they tell as often.
const PROGRESS_TIME: Range<Duration> = Duration::from_millis(50)..Duration::from_millis(500);
const PROGRESS_MOST: u64 = 1 << 20;
/// So many flows tell each as often as one.
const FEW_FLOWS: u32 = 4;
/// Where there are more than these, no flow tells of less than [`PROGRESS_MOST`].
const MANY_FLOWS: u32 = 16;
/// A way of a shorter round trip than this has its whole window open before it matters.
const SLOW_START_FROM: Duration = Duration::from_millis(2);

impl World {
    /// Lets the bytes of a transfer flow.
    pub(super) fn begin_flow(&mut self, id: TransferId) {
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
        self.transfers.set_flow(flow, Some((id, node)));
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        (transfer.pieces, transfer.wanted, transfer.mark) = (pieces, wanted, first);
        (transfer.flow, transfer.window, transfer.limit) = (Some(flow), window, limit);
        transfer.first_byte = Some(self.now);
        self.note_flow(node, flow);
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
    pub(in crate::world) fn transfer_grown(&mut self, id: TransferId) {
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
    pub(in crate::world) fn flow_due(&mut self, flow: FlowId) {
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
    pub(in crate::world) fn foresee_flow(
        &self,
        at: Time,
        flow: FlowId,
    ) -> Option<(NodeIndex, Option<Bytes>)> {
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
        let end = end.map(|end| Task::End(Box::new(end)));
        Some((node, Some((Task::Input(Box::new(input)), end))))
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
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let flows = self.hosts.get(transfer.node).map_or(1, |host| host.flows.len());
        let flows = u32::try_from(flows).unwrap_or(u32::MAX);
        let share = (flows / FEW_FLOWS).max(1);
        let time = PROGRESS_TIME.start.saturating_mul(share).min(PROGRESS_TIME.end);
        let soon = self.flows.rate(flow) * time.as_secs_f64();
        // The nearest power of two is the one below what is half a step of the logarithm more.
        let soon = whole_bytes(soon * SQRT_2).max(1);
        let least = if flows > MANY_FLOWS { PROGRESS_MOST } else { PROGRESS_BYTES.start };
        let most = PROGRESS_MOST.saturating_mul(u64::from(share)).min(PROGRESS_BYTES.end);
        let step = (1_u64 << soon.ilog2()).clamp(least, most);
        transfer.mark = ((transfer.told / step + 1) * step).min(transfer.wanted);
        let (node, mark) = (transfer.node, transfer.mark);
        self.flows.set_mark(self.now, flow, mark);
        self.note_flow(node, flow);
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

    /// Takes the bytes that came since the last mark of a flow that ends before its next one: they
    /// travelled, and whole groups among them stay.
    pub(super) fn settle_bytes(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some(flow) = transfer.flow.filter(|_| !transfer.wrong) else { return };
        let done = self.flows.done(self.now, flow);
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.told = transfer.told.max(whole_bytes(done).min(transfer.wanted));
        }
        self.store_groups(id);
    }

    /// Ends a transfer's flow and counts its bytes on both sides.
    pub(super) fn close_flow(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let Some(flow) = transfer.flow.take() else { return };
        self.transfers.set_flow(flow, None);
        let carried = self.flows.stop(self.now, flow);
        let Some(transfer) = self.transfers.get(id) else { return };
        let (node, from, window) = (transfer.node, transfer.from, transfer.window);
        if let Some(host) = self.hosts.get_mut(node)
            && let Some(place) = host.flows.iter().position(|(other, _)| *other == flow)
        {
            host.flows.swap_remove(place);
        }
        self.tally.count_bytes(node, from, carried);
        if from == From::Edge {
            let window = window.map_or(f64::INFINITY, |window| window.bytes);
            self.give_edge_window(node, window);
        }
    }

    /// Stops the flows that a cut goes through, and lets those flow again that it went through.
    pub(in crate::world) fn cut_flows(&mut self) {
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
}

impl Window {
    fn rate(&self) -> f64 {
        self.bytes / self.round_trip.as_secs_f64().max(1e-9)
    }
}
