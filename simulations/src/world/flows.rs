//! Flows of bytes over shared links: every flow gets its max-min fair share.
//!
//! A *pipe* is something that carries so many bytes a second: a node's link up or down, a site's
//! uplink, the edge. A *flow* crosses some of them and may have a limit of its own. The rates are those
//! of progressive filling (Bertsekas and Gallager, *Data Networks*, 6.5.2): all flows grow alike until a
//! pipe is full or a flow at its limit; those stay, the others grow on.
//!
//! A change is settled where it happened: the pipes that it touches are filled anew, and every other pipe
//! that their flows cross offers what its own flows have at most. Where that leaves another pipe
//! overfull, or one that was full with room, it is filled together with them. A pipe may be wrong by
//! [`OVERFULL`] and [`UNUSED`] before that is so; without these a change of one flow would go through
//! all that hang together. Many changes fall together, so rates are settled at the end of a moment, and
//! where many flows were touched not again before a time that grows with their number:
//! [`SETTLE_NANOS_PER_FLOW`]. In between a new flow waits and an ended one leaves its share unused.
//!
//! Rates are in floating point; its basic operations are exactly defined, so two runs agree to the bit.

mod marks;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use blobmesh_protocol::Time;

use marks::Marks;

/// How long rates stay as they are, for each flow that was touched by the last change. Settling costs about
/// as much of a processor's time, so what it costs of a simulated second is bounded however many flows there
/// are: 5 ms with the 80,000 flows of 2,600 nodes.
const SETTLE_NANOS_PER_FLOW: u64 = 60;
/// The same, for each flow there is: 0.5 ms with the 20,000 flows of 1,000 nodes, and nothing to speak of in a
/// small world. The end of one range and the beginning of the next between the same two nodes fall together then.
const SETTLE_NANOS_PER_ANY_FLOW: u64 = 25;
/// The share of its rate that a pipe may carry too much because of changes elsewhere.
const OVERFULL: f64 = 0.005;
/// The share of its rate that a full pipe may leave unused because of changes elsewhere.
const UNUSED: f64 = 0.02;
/// How long a flow carries bytes before the world is told, whether it has reached its mark or not: a source
/// that gives something is not silent.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How far a change is followed from pipe to pipe in one moment; what is left follows in the next.
const ROUNDS_MAX: usize = 8;

/// Names a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PipeId(usize);

/// Names a flow; a number is never used for two flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlowId {
    pub(super) slot: usize,
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
    /// Bytes a second that its flows have together.
    used: f64,
    /// What its flows have at most because of it; infinite where it has room.
    level: f64,
    /// While rates are settled: what is left, among how many, and what flows that are settled want more.
    left: f64,
    unsettled: usize,
    change: f64,
    /// The settling that fills it, and the round that counted changes of it last.
    visit: u64,
    round: u64,
}

#[derive(Debug, Default)]
struct Flow {
    life: u64,
    alive: bool,
    path: Path,
    /// The flow's own limit in bytes a second.
    limit: f64,
    rate: f64,
    /// Bytes carried at `since`.
    done: f64,
    since: Time,
    /// The number of bytes at which the world is told, and when it was told last.
    mark: f64,
    marked: Time,
    /// When the world is told next.
    mark_at: Option<Time>,
    /// While rates are settled: the rate that it is to have.
    next: f64,
    settled: bool,
    visit: u64,
}

/// Is the pipes that a flow crosses, and where it stands in the list of each.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    pipes: [(PipeId, usize); PATH_MAX],
    len: usize,
}

impl Path {
    fn push(&mut self, pipe: PipeId, place: usize) {
        if let Some(free) = self.pipes.get_mut(self.len) {
            *free = (pipe, place);
            self.len += 1;
        }
    }

    fn pipes(&self) -> impl Iterator<Item = PipeId> {
        self.pipes.into_iter().take(self.len).map(|(pipe, _)| pipe)
    }
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
    marks: Marks,
    visits: u64,
    rounds: u64,
    /// Lists that a settling fills, kept for the next one: it happens thousands of times a simulated second.
    spare: (Vec<PipeId>, Vec<usize>),
    spare_limits: Vec<(u64, usize)>,
    spare_full: BinaryHeap<Reverse<(u64, PipeId)>>,
}

impl Flows {
    /// Adds a pipe that carries `rate` bytes a second.
    pub(super) fn add_pipe(&mut self, rate: f64) -> PipeId {
        let pipe = Pipe {
            rate,
            flows: Vec::new(),
            carried: 0.0,
            dirty: false,
            used: 0.0,
            level: f64::INFINITY,
            left: 0.0,
            unsettled: 0,
            change: 0.0,
            visit: 0,
            round: 0,
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
        let mut crossed = Path::default();
        for id in path {
            let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
            crossed.push(*id, pipe.flows.len());
            pipe.flows.push(slot);
        }
        let life = self.lives;
        if let Some(flow) = self.flows.get_mut(slot) {
            *flow = Flow {
                life,
                alive: true,
                path: crossed,
                limit,
                since: now,
                mark: to_float(mark),
                marked: now,
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
            (flow.mark, flow.marked) = (to_float(mark), now);
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
        let (done, rate, mark_at) = (flow.done, flow.rate, flow.mark_at.take());
        let path = std::mem::take(&mut flow.path);
        self.marks.replace(mark_at, None, id.slot);
        self.open_marks();
        for (pipe, place) in path.pipes.into_iter().take(path.len) {
            self.leave(pipe, place, (done, rate));
            self.touch(now, pipe);
        }
        self.free.push(id.slot);
        done
    }

    /// Returns when [`pop_due`](Self::pop_due) should be called next.
    pub(super) fn next_at(&self) -> Option<Time> {
        [self.settle_at, self.marks.next_at()].into_iter().flatten().min()
    }

    /// Settles rates if that is due, and returns a flow that has reached its mark, or was silent for long.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<FlowId> {
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle(now);
        }
        let slot = self.marks.pop_due(now)?;
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.mark_at = None;
        }
        self.open_marks();
        let flow = self.flows.get_mut(slot)?;
        (flow.done, flow.since, flow.marked) = (flow.done_when_due(now), now, now);
        Some(FlowId { slot, life: flow.life })
    }

    /// Returns until when it is known which flows reach their marks, `until` at the latest: so long rates stay as they
    /// are, whatever happens from now on, and no flow that begins has a mark.
    pub(super) fn known_until(&mut self, now: Time, until: Time) -> Time {
        if self.free.len() == self.flows.len() {
            // Nobody waits for a flow but whoever begins one.
            return until;
        }
        let calm = self.settle_at.map_or(self.settle_after, |at| at.min(self.settle_after));
        let known = calm.min(until).max(now);
        let flows = &self.flows;
        self.marks.open_before(known, |slot| flows.get(slot).and_then(|flow| flow.mark_at));
        known
    }

    /// Returns the flows that reach their marks before a moment, in order, if that moment is
    /// [known](Self::known_until).
    pub(super) fn due_before(&self, until: Time) -> impl Iterator<Item = (Time, FlowId)> + '_ {
        self.marks.before(until).filter_map(|(at, slot)| {
            let life = self.flows.get(slot)?.life;
            Some((at, FlowId { slot, life }))
        })
    }

    /// Returns the bytes that a flow will have carried when it reaches its mark.
    pub(super) fn done_when_due(&self, at: Time, id: FlowId) -> f64 {
        self.get(id).map_or(0.0, |flow| flow.done_when_due(at))
    }

    fn get(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id.slot).filter(|flow| flow.alive && flow.life == id.life)
    }

    fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.slot).filter(|flow| flow.alive && flow.life == id.life)
    }

    /// Takes a flow off a pipe's list; the last of the list takes its place.
    fn leave(&mut self, pipe: PipeId, place: usize, (done, rate): (f64, f64)) {
        let Some(found) = self.pipes.get_mut(pipe.0) else { return };
        found.carried += done;
        found.used = (found.used - rate).max(0.0);
        found.flows.swap_remove(place);
        let Some(moved) = found.flows.get(place).copied() else { return };
        let Some(flow) = self.flows.get_mut(moved) else { return };
        if let Some((_, own)) = flow.path.pipes.iter_mut().find(|(other, _)| *other == pipe) {
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

    /// Gives the flows of pipes that changed their fair share, and others as far as that reaches them.
    fn settle(&mut self, now: Time) {
        self.settle_at = None;
        self.visits += 1;
        let (mut pipes, mut flows) = std::mem::take(&mut self.spare);
        let mut touched = self.take_touched(&mut flows);
        for round in 1..=ROUNDS_MAX {
            self.take_in(touched, &mut pipes, &mut flows);
            self.fill(&flows, &pipes);
            touched = self.wronged(&flows);
            if touched.is_empty() {
                break;
            }
            if round == ROUNDS_MAX {
                for pipe in std::mem::take(&mut touched) {
                    self.touch(now, pipe);
                }
            }
        }
        self.hand_out(now, &flows, &pipes);
        let touched = to_int(flows.len()).saturating_mul(SETTLE_NANOS_PER_FLOW);
        let running = self.flows.len() - self.free.len();
        let any = to_int(running).saturating_mul(SETTLE_NANOS_PER_ANY_FLOW);
        self.settle_after = now + Duration::from_nanos(touched.max(any));
        if let Some(planned) = self.settle_at {
            self.settle_at = Some(planned.max(self.settle_after));
        }
        pipes.clear();
        flows.clear();
        self.spare = (pipes, flows);
    }

    /// Returns the pipes that changed or that changed flows cross, and adds those flows.
    fn take_touched(&mut self, flows: &mut Vec<usize>) -> Vec<PipeId> {
        let mut touched = std::mem::take(&mut self.dirty);
        for slot in std::mem::take(&mut self.dirty_flows) {
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            if flow.alive && flow.visit != self.visits {
                flow.visit = self.visits;
                flows.push(slot);
                touched.extend(flow.path.pipes());
            }
        }
        touched
    }

    /// Adds pipes to those that are filled, and the flows that cross them.
    fn take_in(&mut self, touched: Vec<PipeId>, pipes: &mut Vec<PipeId>, flows: &mut Vec<usize>) {
        for id in touched {
            let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
            pipe.dirty = false;
            if pipe.visit == self.visits {
                continue;
            }
            pipe.visit = self.visits;
            pipes.push(id);
            for slot in &pipe.flows {
                let Some(flow) = self.flows.get_mut(*slot) else { continue };
                if flow.visit != self.visits {
                    flow.visit = self.visits;
                    flows.push(*slot);
                }
            }
        }
    }

    /// Progressive filling: the pipe or flow that is full first is settled first.
    fn fill(&mut self, flows: &[usize], pipes: &[PipeId]) {
        let mut full = std::mem::take(&mut self.spare_full);
        for id in pipes {
            let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
            (pipe.left, pipe.unsettled, pipe.level) = (pipe.rate, pipe.flows.len(), f64::INFINITY);
            if pipe.unsettled > 0 {
                full.push(Reverse((bits(pipe.share()), *id)));
            }
        }
        let limits = self.limits(flows);
        let mut limited = limits.iter().copied().peekable();
        while let Some(Reverse((share, id))) = full.peek().copied() {
            let pipe = self.pipes.get(id.0).filter(|pipe| pipe.unsettled > 0);
            let Some(now) = pipe.map(|pipe| bits(pipe.share())) else {
                full.pop();
                continue;
            };
            // A share only grows while others are settled, so what was noted is too low at most.
            if now > share {
                full.pop();
                full.push(Reverse((now, id)));
                continue;
            }
            let mut given = false;
            while let Some((limit, slot)) = limited.next_if(|(limit, _)| *limit <= share) {
                self.give(slot, f64::from_bits(limit));
                given = true;
            }
            if !given {
                full.pop();
                self.give_all(id, f64::from_bits(share));
            }
        }
        for (limit, slot) in limited {
            self.give(slot, f64::from_bits(limit));
        }
        (self.spare_limits, self.spare_full) = (limits, full);
    }

    /// Returns what each flow has at most because of itself and of pipes that are not filled now, least
    /// first; flows without such a limit are left out where a pipe will settle them.
    fn limits(&mut self, flows: &[usize]) -> Vec<(u64, usize)> {
        let mut limited = std::mem::take(&mut self.spare_limits);
        limited.clear();
        for slot in flows {
            let Some(flow) = self.flows.get_mut(*slot) else { continue };
            flow.settled = false;
            let mut limit = flow.limit;
            for id in flow.path.pipes() {
                if let Some(pipe) = self.pipes.get(id.0).filter(|pipe| pipe.visit != self.visits) {
                    limit = limit.min(pipe.level);
                }
            }
            if limit.is_finite() || flow.path.len == 0 {
                limited.push((bits(limit), *slot));
            }
        }
        limited.sort_unstable();
        limited
    }

    /// Settles the flows of a pipe that is full at a rate.
    fn give_all(&mut self, id: PipeId, rate: f64) {
        let Some(pipe) = self.pipes.get_mut(id.0) else { return };
        pipe.level = rate;
        let flows = std::mem::take(&mut pipe.flows);
        for slot in &flows {
            self.give(*slot, rate);
        }
        if let Some(pipe) = self.pipes.get_mut(id.0) {
            pipe.flows = flows;
        }
    }

    /// Settles one flow at a rate, and takes that off the pipes it crosses.
    fn give(&mut self, slot: usize, rate: f64) {
        let Some(flow) = self.flows.get_mut(slot).filter(|flow| !flow.settled) else { return };
        flow.settled = true;
        flow.next = rate.min(flow.limit);
        for id in flow.path.pipes() {
            if let Some(pipe) = self.pipes.get_mut(id.0).filter(|pipe| pipe.visit == self.visits) {
                pipe.left = (pipe.left - flow.next).max(0.0);
                pipe.unsettled -= 1;
            }
        }
    }

    /// Returns the pipes that are not filled now and that the new rates leave overfull, or with room that
    /// they had not.
    fn wronged(&mut self, flows: &[usize]) -> Vec<PipeId> {
        self.rounds += 1;
        let mut crossed = Vec::new();
        for slot in flows {
            let Some(flow) = self.flows.get(*slot).filter(|flow| flow.next != flow.rate) else {
                continue;
            };
            for id in flow.path.pipes() {
                let Some(pipe) = self.pipes.get_mut(id.0) else { continue };
                if pipe.visit == self.visits {
                    continue;
                }
                if pipe.round != self.rounds {
                    (pipe.round, pipe.change) = (self.rounds, 0.0);
                    crossed.push(id);
                }
                pipe.change += flow.next - flow.rate;
            }
        }
        crossed.retain(|id| self.pipes.get(id.0).is_some_and(Pipe::is_wronged));
        crossed
    }

    /// Gives flows the rates that were found.
    fn hand_out(&mut self, now: Time, flows: &[usize], pipes: &[PipeId]) {
        for slot in flows {
            let Some(flow) = self.flows.get_mut(*slot) else { continue };
            if flow.next == flow.rate {
                continue;
            }
            flow.advance(now);
            let change = flow.next - flow.rate;
            flow.rate = flow.next;
            for id in flow.path.pipes() {
                if let Some(pipe) = self.pipes.get_mut(id.0) {
                    pipe.used += change;
                }
            }
            self.plan_mark(now, *slot);
        }
        for id in pipes {
            // Sums of changes drift; a pipe that was filled knows exactly.
            if let Some(pipe) = self.pipes.get_mut(id.0) {
                pipe.used = pipe.rate - pipe.left;
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
            (now + after).min((flow.marked + SILENCE_MAX).max(now))
        });
        if flow.mark_at == at {
            return;
        }
        let old = std::mem::replace(&mut flow.mark_at, at);
        self.marks.replace(old, at, slot);
        self.open_marks();
    }

    /// Sees that the next mark is known exactly.
    fn open_marks(&mut self) {
        let flows = &self.flows;
        self.marks.open(|slot| flows.get(slot).and_then(|flow| flow.mark_at));
    }
}

impl Pipe {
    fn share(&self) -> f64 {
        self.left / to_float(to_int(self.unsettled.max(1)))
    }

    /// Returns whether changes elsewhere made it carry too much, or leave too much unused.
    fn is_wronged(&self) -> bool {
        let used = self.used + self.change;
        let full = self.level.is_finite();
        used > self.rate * (1.0 + OVERFULL) || (full && used < self.rate * (1.0 - UNUSED))
    }
}

impl Flow {
    fn done_at(&self, now: Time) -> f64 {
        let seconds = to_float(u64::try_from((now - self.since).as_nanos()).unwrap_or(0)) / 1e9;
        let done = self.done + self.rate.min(f64::MAX) * seconds;
        // A flow without limit is at its mark at once, not beyond it.
        done.min(self.mark.max(self.done))
    }

    /// Returns the bytes that it has carried when it reaches its mark, or has been silent for so long.
    fn done_when_due(&self, now: Time) -> f64 {
        let done = self.done_at(now);
        // The moment was rounded up to whole nanoseconds, and the bytes are what was meant; a flow without
        // limit is there at once.
        if self.rate.is_infinite() || self.mark - done < 1.0 { self.mark } else { done }
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
        let settled_before = flows.visits;
        flows.start(at(5_000), &[here], f64::INFINITY, NEVER);
        settled(&mut flows);
        assert!(flows.visits > settled_before);
        let visit = |slot: usize| flows.flows.get(slot).map(|flow| flow.visit);
        assert_eq!(visit(apart.slot), Some(settled_before));
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

    #[test]
    fn changes_that_are_settled_where_they_happened_leave_no_pipe_overfull_and_none_unused() {
        use crate::random::Random;
        let mut random = Random::new(5);
        for _ in 0..100 {
            let mut flows = Flows::default();
            let pipes: Vec<_> =
                (0..12).map(|_| flows.add_pipe(to_float(random.between(10, 100)))).collect();
            let mut all: Vec<(FlowId, Vec<PipeId>, f64)> = Vec::new();
            for step in 1..200 {
                let now = at(step * 1_000_000);
                if all.is_empty() || random.chance(0.6) {
                    let path: Vec<_> = random.choose(2, 12).iter().map(|at| pipes[*at]).collect();
                    let limit = if random.chance(0.2) { 1.0 } else { f64::INFINITY };
                    all.push((flows.start(now, &path, limit, NEVER), path, limit));
                } else {
                    let (flow, _, _) = all.swap_remove(random.index(all.len()));
                    flows.stop(now, flow);
                }
                settled(&mut flows);
                check_use(&flows, &all, &pipes);
            }
        }
    }

    /// Within the bounds of what is let pass no pipe is overfull, and each flow is at its own limit or crosses
    /// a pipe that is full.
    fn check_use(flows: &Flows, all: &[(FlowId, Vec<PipeId>, f64)], pipes: &[PipeId]) {
        let used = |pipe: PipeId| -> f64 {
            let crossing = all.iter().filter(|(_, path, _)| path.contains(&pipe));
            crossing.map(|(flow, _, _)| flows.rate(*flow)).sum()
        };
        for pipe in pipes {
            let (used, rate) = (used(*pipe), flows.pipe_rate(*pipe));
            assert!(used <= rate * (1.0 + OVERFULL + 1e-9), "{used} of {rate}");
        }
        for (flow, path, limit) in all {
            let full = |pipe: &PipeId| {
                used(*pipe) >= flows.pipe_rate(*pipe) * (1.0 - UNUSED - OVERFULL - 1e-9)
            };
            let rate = flows.rate(*flow);
            assert!(rate >= limit * (1.0 - 1e-9) || path.iter().any(full), "{rate} of {limit}");
        }
    }

    #[test]
    fn flow_without_limit_is_at_its_mark_at_once_and_a_slow_one_is_heard_of_before() {
        let mut flows = Flows::default();
        let fast = flows.start(at(0), &[], f64::INFINITY, 1_000);
        assert_eq!(flows.pop_due(at(0)), Some(fast));
        assert_eq!(flows.done(at(0), fast), 1_000.0);
        flows.stop(at(0), fast);
        let slow = flows.start(at(0), &[], 10.0, 1_000);
        settled(&mut flows);
        let first = flows.next_at().expect("a sign of life");
        assert_eq!(first - at(0), SILENCE_MAX);
        assert_eq!(flows.pop_due(first), Some(slow));
        assert!((flows.done(first, slow) - 20.0).abs() < 1e-3);
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
