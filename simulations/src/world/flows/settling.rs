//! Settling: what rate each flow has after something changed.
//!
//! A change is settled where it happened: the pipes that it touches are filled anew, and every other pipe
//! that their flows cross offers what its own flows have at most. Where that leaves another pipe
//! overfull, or one that was full with room, it is filled together with them. A pipe may be wrong by
//! [`OVERFULL`] and [`UNUSED`] before that is so; without these a change of one flow would go through
//! all that hang together. Many changes fall together, so rates are settled at the end of a moment, and
//! where many flows were touched not again before a time that grows with their number:
//! [`SETTLE_NANOS_PER_FLOW`]. In between a new flow waits and an ended one leaves its share unused.

use std::cmp::Reverse;
use std::time::Duration;

use blobmesh_protocol::Time;

use super::{Flows, Pipe, PipeId, to_float, to_int};

/// How long rates stay as they are, for each flow that was touched by the last change. Settling costs about
/// as much of a processor's time, so what it costs of a simulated second is bounded however many flows there
/// are: 5 ms with the 80,000 flows of 2,600 nodes.
const SETTLE_NANOS_PER_FLOW: u64 = 60;
/// The same, for each flow there is: 4 ms with the 20,000 flows of 1,000 nodes, and nothing to speak of in a
/// small world. The end of one range and the beginning of the next between the same two nodes fall together then.
const SETTLE_NANOS_PER_ANY_FLOW: u64 = 200;
/// The share of its rate that a pipe may carry too much because of changes elsewhere.
const OVERFULL: f64 = 0.005;
/// The share of its rate that a full pipe may leave unused because of changes elsewhere.
const UNUSED: f64 = 0.02;
/// How far a change is followed from pipe to pipe in one moment; what is left follows in the next.
const ROUNDS_MAX: usize = 8;

impl Flows {
    /// Gives the flows of pipes that changed their fair share, and others as far as that reaches them.
    pub(super) fn settle(&mut self, now: Time) {
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

/// Orders rates as whole numbers: the bits of floats that are not negative sort as they do.
fn bits(rate: f64) -> u64 {
    rate.max(0.0).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::flows::FlowId;
    use crate::world::flows::tests::{NEVER, at, settled};

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
