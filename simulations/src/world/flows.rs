//! Flows of bytes over shared links: every flow gets its max-min fair share.
//!
//! A *pipe* is something that carries so many bytes a second: a node's link up or down, a site's
//! uplink, the edge. A *flow* crosses some of them and may have a limit of its own. The rates are those
//! of progressive filling (Bertsekas and Gallager, *Data Networks*, 6.5.2): all flows grow alike until a
//! pipe is full or a flow at its limit; those stay, the others grow on.
//!
//! A change touches only the flows that share a pipe with it, directly or by way of others. As many
//! changes fall together, rates are settled at the end of a moment, and where many flows hang together
//! not again before a time that grows with their number: [`SETTLE_NANOS_PER_FLOW`]. In between a new
//! flow waits and an ended one leaves its share unused, at most 1 ms with 4,000 flows.
//!
//! Rates are in floating point; its basic operations are exactly defined, so two runs agree to the bit.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use blobmesh_protocol::Time;

/// How long rates stay as they are, for each flow that a change touched. Settling costs about as much of
/// a processor's time, so a simulated second costs a second or less however many flows there are.
const SETTLE_NANOS_PER_FLOW: u64 = 250;

/// Names a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PipeId(usize);

/// Names a flow; a number is never used for two flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlowId {
    slot: usize,
    life: u64,
}

/// The most pipes that a flow crosses: its two ends, two uplinks and the edge.
const PATH_MAX: usize = 5;

#[derive(Debug)]
struct Pipe {
    /// Bytes a second.
    rate: f64,
    flows: Vec<usize>,
    /// Bytes carried by flows that ended.
    carried: f64,
    dirty: bool,
    /// While rates are settled: what is left, and among how many.
    left: f64,
    unsettled: usize,
    /// Counts changes of `left`, so that an old entry of the heap is known.
    version: u64,
    mark: u64,
}

#[derive(Debug, Default)]
struct Flow {
    life: u64,
    alive: bool,
    path: Vec<PipeId>,
    /// Where the flow stands in the list of each pipe of its path.
    places: Vec<usize>,
    /// The flow's own limit in bytes a second.
    limit: f64,
    rate: f64,
    /// Bytes carried at `since`.
    done: f64,
    since: Time,
    /// The number of bytes at which the world is told.
    mark: f64,
    mark_at: Option<Time>,
    settled: bool,
    visit: u64,
}

/// Shares pipes among flows. See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Flows {
    pipes: Vec<Pipe>,
    flows: Vec<Flow>,
    free: Vec<usize>,
    lives: u64,
    dirty: Vec<PipeId>,
    /// Flows without any pipe, or with a new limit, that are to be settled.
    dirty_flows: Vec<usize>,
    settle_at: Option<Time>,
    settle_after: Time,
    marks: BTreeSet<(Time, usize)>,
    visits: u64,
}

impl Flows {
    /// Adds a pipe that carries `rate` bytes a second.
    pub(super) fn add_pipe(&mut self, rate: f64) -> PipeId {
        let pipe = Pipe {
            rate,
            flows: Vec::new(),
            carried: 0.0,
            dirty: false,
            left: 0.0,
            unsettled: 0,
            version: 0,
            mark: 0,
        };
        self.pipes.push(pipe);
        PipeId(self.pipes.len() - 1)
    }

    /// Changes how much a pipe carries.
    pub(super) fn set_pipe_rate(&mut self, now: Time, pipe: PipeId, rate: f64) {
        if let Some(found) = self.pipes.get_mut(pipe.0) {
            found.rate = rate;
        }
        self.touch(now, pipe);
    }

    /// Returns the rate of a pipe.
    pub(super) fn pipe_rate(&self, pipe: PipeId) -> f64 {
        self.pipes.get(pipe.0).map_or(f64::INFINITY, |pipe| pipe.rate)
    }

    /// Returns the bytes that a pipe carried.
    pub(super) fn carried(&self, now: Time, pipe: PipeId) -> f64 {
        let Some(found) = self.pipes.get(pipe.0) else { return 0.0 };
        let running = found.flows.iter().filter_map(|slot| self.flows.get(*slot));
        found.carried + running.map(|flow| flow.done_at(now)).sum::<f64>()
    }

    /// Starts a flow over `path`, at most [`PATH_MAX`] pipes. The world is told at `mark` bytes.
    pub(super) fn start(&mut self, now: Time, path: &[PipeId], limit: f64, mark: u64) -> FlowId {
        debug_assert!(path.len() <= PATH_MAX, "a path of {} pipes", path.len());
        let slot = self.free.pop().unwrap_or(self.flows.len());
        if slot == self.flows.len() {
            self.flows.push(Flow::default());
        }
        self.lives += 1;
        let mut places = Vec::with_capacity(path.len());
        for pipe in path {
            let Some(pipe) = self.pipes.get_mut(pipe.0) else { continue };
            places.push(pipe.flows.len());
            pipe.flows.push(slot);
        }
        let life = self.lives;
        if let Some(flow) = self.flows.get_mut(slot) {
            *flow = Flow {
                life,
                alive: true,
                path: path.to_vec(),
                places,
                limit,
                since: now,
                mark: to_float(mark),
                ..Flow::default()
            };
        }
        self.touch_flow(now, slot);
        FlowId { slot, life }
    }

    /// Gives a flow another limit.
    pub(super) fn set_limit(&mut self, now: Time, id: FlowId, limit: f64) {
        if let Some(flow) = self.get_mut(id) {
            flow.limit = limit;
            self.touch_flow(now, id.slot);
        }
    }

    /// Has the world be told again at `mark` bytes.
    pub(super) fn set_mark(&mut self, now: Time, id: FlowId, mark: u64) {
        if let Some(flow) = self.get_mut(id) {
            flow.mark = to_float(mark);
            self.plan_mark(now, id.slot);
        }
    }

    /// Returns the bytes a second that a flow has now.
    pub(super) fn rate(&self, id: FlowId) -> f64 {
        self.get(id).map_or(0.0, |flow| flow.rate)
    }

    /// Returns the bytes that a flow has carried.
    pub(super) fn done(&self, now: Time, id: FlowId) -> f64 {
        self.get(id).map_or(0.0, |flow| flow.done_at(now))
    }

    /// Ends a flow and returns the bytes that it carried.
    pub(super) fn stop(&mut self, now: Time, id: FlowId) -> f64 {
        let Some(flow) = self.get_mut(id) else { return 0.0 };
        flow.advance(now);
        flow.alive = false;
        let (done, mark_at) = (flow.done, flow.mark_at.take());
        let (path, places) = (std::mem::take(&mut flow.path), std::mem::take(&mut flow.places));
        if let Some(at) = mark_at {
            self.marks.remove(&(at, id.slot));
        }
        for (pipe, place) in path.iter().zip(places) {
            self.leave(*pipe, place, done);
            self.touch(now, *pipe);
        }
        self.free.push(id.slot);
        done
    }

    /// Returns when [`pop_due`](Self::pop_due) should be called next.
    pub(super) fn next_at(&self) -> Option<Time> {
        let mark = self.marks.first().map(|(at, _)| *at);
        [self.settle_at, mark].into_iter().flatten().min()
    }

    /// Settles rates if that is due, and returns a flow that has reached its mark.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<FlowId> {
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle(now);
        }
        let (at, slot) = self.marks.first().copied()?;
        if at > now {
            return None;
        }
        self.marks.remove(&(at, slot));
        let flow = self.flows.get_mut(slot)?;
        flow.mark_at = None;
        flow.advance(now);
        // The moment was rounded up to whole nanoseconds; the bytes are what was meant.
        flow.done = flow.mark;
        Some(FlowId { slot, life: flow.life })
    }

    fn get(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id.slot).filter(|flow| flow.alive && flow.life == id.life)
    }

    fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.slot).filter(|flow| flow.alive && flow.life == id.life)
    }

    /// Takes a flow off a pipe's list; the last of the list takes its place.
    fn leave(&mut self, pipe: PipeId, place: usize, done: f64) {
        let Some(found) = self.pipes.get_mut(pipe.0) else { return };
        found.carried += done;
        found.flows.swap_remove(place);
        let Some(moved) = found.flows.get(place).copied() else { return };
        let Some(flow) = self.flows.get_mut(moved) else { return };
        if let Some(at) = flow.path.iter().position(|other| *other == pipe)
            && let Some(own) = flow.places.get_mut(at)
        {
            *own = place;
        }
    }

    fn touch(&mut self, now: Time, pipe: PipeId) {
        let Some(found) = self.pipes.get_mut(pipe.0) else { return };
        if !found.dirty {
            found.dirty = true;
            self.dirty.push(pipe);
        }
        self.plan_settling(now);
    }

    fn touch_flow(&mut self, now: Time, slot: usize) {
        self.dirty_flows.push(slot);
        self.plan_settling(now);
    }

    fn plan_settling(&mut self, now: Time) {
        let at = self.settle_after.max(now);
        self.settle_at = Some(self.settle_at.map_or(at, |planned| planned.min(at)));
    }

    /// Gives every flow that hangs together with a change its fair share.
    fn settle(&mut self, now: Time) {
        self.settle_at = None;
        let (flows, pipes) = self.touched();
        let nanos = to_int(flows.len()).saturating_mul(SETTLE_NANOS_PER_FLOW);
        self.settle_after = now + Duration::from_nanos(nanos);
        for slot in &flows {
            if let Some(flow) = self.flows.get_mut(*slot) {
                flow.advance(now);
                flow.settled = false;
            }
        }
        self.fill(&flows, &pipes);
        for slot in flows {
            self.plan_mark(now, slot);
        }
    }

    /// Collects the flows that share a pipe with what changed, and those that share one with them.
    fn touched(&mut self) -> (Vec<usize>, Vec<PipeId>) {
        self.visits += 1;
        let (visit, mut flows, mut pipes) = (self.visits, Vec::new(), Vec::new());
        let mut next = std::mem::take(&mut self.dirty);
        for pipe in &next {
            if let Some(pipe) = self.pipes.get_mut(pipe.0) {
                pipe.dirty = false;
                pipe.mark = visit;
            }
        }
        let mut found = std::mem::take(&mut self.dirty_flows);
        loop {
            for slot in found.drain(..) {
                let Some(flow) = self.flows.get_mut(slot) else { continue };
                if !flow.alive || flow.visit == visit {
                    continue;
                }
                flow.visit = visit;
                flows.push(slot);
                for pipe in &flow.path {
                    let Some(other) = self.pipes.get_mut(pipe.0) else { continue };
                    if other.mark != visit {
                        other.mark = visit;
                        next.push(*pipe);
                    }
                }
            }
            let Some(pipe) = next.pop() else { break };
            pipes.push(pipe);
            if let Some(pipe) = self.pipes.get(pipe.0) {
                found.extend_from_slice(&pipe.flows);
            }
        }
        (flows, pipes)
    }

    /// Progressive filling: the pipe or flow that is full first is settled first.
    fn fill(&mut self, flows: &[usize], pipes: &[PipeId]) {
        let mut full = BinaryHeap::with_capacity(pipes.len());
        for id in pipes {
            let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
            (pipe.left, pipe.unsettled) = (pipe.rate, pipe.flows.len());
            pipe.version += 1;
            if pipe.unsettled > 0 {
                full.push(Reverse((bits(pipe.share()), *id, pipe.version)));
            }
        }
        let mut limited: Vec<(u64, usize)> = flows
            .iter()
            .filter_map(|slot| self.flows.get(*slot).map(|flow| (bits(flow.limit), *slot)))
            .collect();
        limited.sort_unstable();
        let mut limited = limited.into_iter().peekable();
        while let Some(Reverse((share, id, version))) = full.peek().copied() {
            while let Some((limit, slot)) = limited.next_if(|(limit, _)| *limit <= share) {
                self.give(slot, f64::from_bits(limit), &mut full);
            }
            // Giving to limited flows changed shares: look again at who is full first.
            let Some(Reverse(top)) = full.peek().copied() else { break };
            if top != (share, id, version) {
                continue;
            }
            full.pop();
            let Some(pipe) = self.pipes.get(id.0) else { continue };
            if pipe.version != version || pipe.unsettled == 0 {
                continue;
            }
            for slot in pipe.flows.clone() {
                self.give(slot, f64::from_bits(share), &mut full);
            }
        }
        for (limit, slot) in limited {
            self.give(slot, f64::from_bits(limit), &mut full);
        }
    }

    /// Settles one flow at a rate, and takes that off the pipes it crosses.
    fn give(&mut self, slot: usize, rate: f64, full: &mut BinaryHeap<Reverse<(u64, PipeId, u64)>>) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.settled {
            return;
        }
        flow.settled = true;
        flow.rate = rate.min(flow.limit);
        for id in &flow.path {
            let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
            pipe.left = (pipe.left - flow.rate).max(0.0);
            pipe.unsettled -= 1;
            pipe.version += 1;
            if pipe.unsettled > 0 {
                full.push(Reverse((bits(pipe.share()), *id, pipe.version)));
            }
        }
    }

    /// Plans when the world is told of a flow.
    fn plan_mark(&mut self, now: Time, slot: usize) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.advance(now);
        let at = (flow.rate > 0.0 && flow.mark.is_finite()).then(|| {
            let seconds = ((flow.mark - flow.done) / flow.rate).max(0.0);
            let nanos = (seconds * 1e9).ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and a cast saturates at the end of time"
            )]
            let after = Duration::from_nanos(nanos as u64);
            now + after
        });
        if flow.mark_at == at {
            return;
        }
        if let Some(old) = flow.mark_at.take() {
            self.marks.remove(&(old, slot));
        }
        flow.mark_at = at;
        if let Some(at) = at {
            self.marks.insert((at, slot));
        }
    }
}

impl Pipe {
    fn share(&self) -> f64 {
        self.left / to_float(to_int(self.unsettled.max(1)))
    }
}

impl Flow {
    fn done_at(&self, now: Time) -> f64 {
        let seconds = to_float(u64::try_from((now - self.since).as_nanos()).unwrap_or(0)) / 1e9;
        let done = self.done + self.rate.min(f64::MAX) * seconds;
        // A flow without limit is at its mark at once, not beyond it.
        done.min(self.mark.max(self.done))
    }

    fn advance(&mut self, now: Time) {
        self.done = self.done_at(now);
        self.since = now;
    }
}

/// Orders rates as whole numbers: the bits of floats that are not negative sort as they do.
fn bits(rate: f64) -> u64 {
    rate.max(0.0).to_bits()
}

fn to_int(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and nanoseconds far below 2^52")]
fn to_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = 1 << 50;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn settled(flows: &mut Flows) {
        while let Some(due) = flows.settle_at {
            assert_eq!(flows.pop_due(due), None);
        }
    }

    #[test]
    fn one_flow_takes_its_length_over_the_narrowest_pipe() {
        let mut flows = Flows::default();
        let (wide, narrow) = (flows.add_pipe(1e9), flows.add_pipe(1e6));
        let flow = flows.start(at(0), &[wide, narrow], f64::INFINITY, 500_000);
        assert_eq!(flows.pop_due(at(0)), None);
        assert_eq!(flows.next_at(), Some(at(500_000_000)));
        assert_eq!(flows.pop_due(at(500_000_000)), Some(flow));
        assert!((flows.stop(at(500_000_000), flow) - 500_000.0).abs() < 1e-6);
        assert!((flows.carried(at(500_000_000), narrow) - 500_000.0).abs() < 1e-6);
    }

    #[test]
    fn what_one_flow_cannot_use_the_others_share() {
        // The textbook case: a and b share one pipe, b and c another; b is the one held up twice.
        let mut flows = Flows::default();
        let (first, second) = (flows.add_pipe(10.0), flows.add_pipe(4.0));
        let a = flows.start(at(0), &[first], f64::INFINITY, NEVER);
        let b = flows.start(at(0), &[first, second], f64::INFINITY, NEVER);
        let c = flows.start(at(0), &[second], f64::INFINITY, NEVER);
        settled(&mut flows);
        assert_eq!([a, b, c].map(|flow| flows.rate(flow)), [8.0, 2.0, 2.0]);
        flows.set_limit(at(1_000), c, 0.5);
        settled(&mut flows);
        assert_eq!([a, b, c].map(|flow| flows.rate(flow)), [6.5, 3.5, 0.5]);
        flows.stop(at(2_000), b);
        settled(&mut flows);
        assert_eq!([a, c].map(|flow| flows.rate(flow)), [10.0, 0.5]);
    }

    #[test]
    fn change_leaves_flows_alone_that_share_nothing_with_it() {
        let mut flows = Flows::default();
        let (here, there) = (flows.add_pipe(10.0), flows.add_pipe(10.0));
        let apart = flows.start(at(0), &[there], f64::INFINITY, NEVER);
        settled(&mut flows);
        flows.start(at(5_000), &[here], f64::INFINITY, NEVER);
        flows.plan_settling(at(5_000));
        let (touched, _) = flows.touched();
        assert!(!touched.contains(&apart.slot), "{touched:?}");
    }

    #[test]
    fn stopped_flow_has_carried_what_its_rate_allowed_and_its_name_means_nothing_more() {
        let mut flows = Flows::default();
        let pipe = flows.add_pipe(1_000.0);
        let first = flows.start(at(0), &[pipe], f64::INFINITY, NEVER);
        settled(&mut flows);
        assert!((flows.stop(at(2_000_000_000), first) - 2_000.0).abs() < 1e-6);
        let second = flows.start(at(2_000_000_000), &[pipe], f64::INFINITY, NEVER);
        assert_ne!(first, second);
        assert_eq!(flows.rate(first), 0.0);
        assert_eq!(flows.stop(at(3_000_000_000), first), 0.0);
    }

    #[test]
    fn rates_are_fair_whatever_the_flows() {
        use crate::random::Random;
        let mut random = Random::new(3);
        for _ in 0..200 {
            let mut flows = Flows::default();
            let rate = |random: &mut Random| to_float(random.between(1, 100));
            let pipes: Vec<_> = (0..6).map(|_| flows.add_pipe(rate(&mut random))).collect();
            let mut all = Vec::new();
            for _ in 0..random.between(1, 20) {
                let path: Vec<_> = random.choose(3, 6).into_iter().map(|at| pipes[at]).collect();
                let limit = if random.chance(0.3) { rate(&mut random) } else { f64::INFINITY };
                all.push((flows.start(at(0), &path, limit, NEVER), path, limit));
            }
            settled(&mut flows);
            check_fairness(&flows, &all, &pipes);
        }
    }

    /// A division is max-min fair when no pipe is overfull and every flow is at its own limit, or
    /// crosses a full pipe on which no other flow has more.
    fn check_fairness(flows: &Flows, all: &[(FlowId, Vec<PipeId>, f64)], pipes: &[PipeId]) {
        let through = |pipe: PipeId| -> Vec<f64> {
            let crossing = all.iter().filter(|(_, path, _)| path.contains(&pipe));
            crossing.map(|(flow, _, _)| flows.rate(*flow)).collect()
        };
        for pipe in pipes {
            let sum: f64 = through(*pipe).iter().sum();
            assert!(sum <= flows.pipe_rate(*pipe) * (1.0 + 1e-9), "{sum}");
        }
        for (flow, path, limit) in all {
            let rate = flows.rate(*flow);
            let held_up = path.iter().any(|pipe| {
                let rates = through(*pipe);
                let full = rates.iter().sum::<f64>() >= flows.pipe_rate(*pipe) * (1.0 - 1e-9);
                full && rates.iter().all(|other| *other <= rate * (1.0 + 1e-9))
            });
            assert!(held_up || rate >= limit * (1.0 - 1e-9), "{rate} of {limit}");
        }
    }
}
