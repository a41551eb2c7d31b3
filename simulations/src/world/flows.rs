//! Flows of bytes over shared links: every flow gets its max-min fair share.
//!
//! A *pipe* is something that carries so many bytes a second: a node's link up or down, a site's
//! uplink, the edge. A *flow* crosses some of them and may have a limit of its own. The rates are those
//! of progressive filling (Bertsekas and Gallager, *Data Networks*, 6.5.2): all flows grow alike until a
//! pipe is full or a flow at its limit; those stay, the others grow on.
//!
//! When and how far the change of one flow changes others is told in [`settling`], and when flows reach the
//! bytes that somebody waits for in [`marks`].
//!
//! Rates are in floating point; its basic operations are exactly defined, so two runs agree to the bit.

mod marks;
mod settling;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use blobmesh_protocol::Time;

use marks::Marks;

/// How long a flow carries bytes before the world is told, whether it has reached its mark or not: a source
/// that gives something is not silent.
const SILENCE_MAX: Duration = Duration::from_secs(2);

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

    /// Returns a moment that a flow does not reach its mark before, however rates are settled from now on, unless
    /// a pipe changes. None has more than the widest pipe on its way: of those that are filled it crosses one at least.
    pub(super) fn not_before(&self, now: Time, id: FlowId) -> Time {
        let Some(flow) = self.get(id) else { return Time::MAX };
        let rates = flow.path.pipes().map(|pipe| self.pipe_rate(pipe));
        let most = rates.fold(0.0, f64::max);
        // A byte for what is rounded on the way.
        let left = (flow.mark - flow.done_at(now) - 1.0).max(0.0);
        let nanos = if most > 0.0 { left / most * 1e9 } else { 0.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a cast saturates at the end of time"
        )]
        let after = Duration::from_nanos(nanos as u64);
        (now + after).min(flow.marked + SILENCE_MAX)
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

    pub(super) const NEVER: u64 = 1 << 50;

    pub(super) fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    pub(super) fn settled(flows: &mut Flows) {
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

    #[test]
    fn no_flow_is_at_its_mark_sooner_than_with_its_widest_pipe_to_itself() {
        use crate::random::Random;
        let mut random = Random::new(11);
        let mut flows = Flows::default();
        let pipes: Vec<_> =
            (0..6).map(|_| flows.add_pipe(to_float(random.between(1, 100) * 1_000_000))).collect();
        let mut noted: Vec<(FlowId, Time)> = Vec::new();
        let (mut now, mut reached, mut close) = (at(0), 0, 0);
        for _ in 0..20_000 {
            if noted.len() < 5 || (noted.len() < 50 && random.chance(0.2)) {
                let path: Vec<_> = random.choose(2, 6).iter().map(|at| pipes[*at]).collect();
                let flow = flows.start(now, &path, f64::INFINITY, random.between(1, 1 << 22));
                noted.push((flow, flows.not_before(now, flow)));
            } else if random.chance(0.05) {
                flows.stop(now, noted.swap_remove(random.index(noted.len())).0);
            } else {
                noted.iter_mut().for_each(|(flow, known)| *known = flows.not_before(now, *flow));
            }
            now = now + Duration::from_nanos(random.between(0, 10_000_000));
            while let Some(due) = flows.next_at().filter(|due| *due <= now) {
                let Some(flow) = flows.pop_due(due) else { continue };
                let place = noted.iter().position(|(other, _)| *other == flow).expect("it runs");
                let (_, not_before) = noted.swap_remove(place);
                assert!(due >= not_before, "{due}, not before {not_before}");
                reached += 1;
                close += u32::from(due - not_before < Duration::from_micros(100));
                flows.stop(due, flow);
            }
        }
        assert!(reached > 1_000 && close > 10, "{reached} marks, {close} of them just then");
    }
}
