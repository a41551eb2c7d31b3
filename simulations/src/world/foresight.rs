//! Foresight: what befalls an engine next, as soon as that is certain.
//!
//! What one node does reaches another one after the shortest way of a link at the earliest. So for a while it is
//! certain what befalls a node next, and its engine can be told at once, on another thread ([`super::ahead`]). The world
//! goes on in its order, event by event, and finds what the engine decided when it comes there. Nothing else happens
//! sooner than without foresight, so that log and outcome are the same to the bit.
//!
//! Flows know no least way: what happens anywhere may change the rate of any of them when rates are settled next. Until
//! then their marks are known to the moment and told ahead, too. Beyond that a node's next event is certain where none
//! of its flows can be at its mark before, had it the link to itself from now on.
//!
//! What befalls a node after that is told ahead, too, as long as the engine makes nothing but words of what befell it
//! before: anything else may befall itself sooner. Events that may touch other nodes at once (starts, ends, faults) are never looked past. How long the shortest way is follows
//! from the draws of ways that come next, as their stream is known. Should what was foreseen ever be wrong all the
//! same, the run has a violation ([`super::checks`]) that names the moment.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Time;
use blobmesh_protocol::engine::Input;

use super::ahead::{Ahead, Task, Work};
use super::flows::FlowId;
use super::links::Frame;
use super::{Event, NodeIndex, Planned, World};
use crate::plan::Behaviour;

/// Of the time that can be seen into one part in so many is let pass before the world looks again.
const LOOK_SHARE: u32 = 4;

/// How many events are seen before they happen at most.
const SEEN_MAX: usize = 192;

/// Is what a world keeps to see ahead.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// How far it sees, and after how many draws of ways that is to be found out again.
    reach: Duration,
    renewed_at: u64,
    /// How far it has looked, and until when rates are known to stay.
    looked_to: Time,
    settled: Time,
    /// Counts looks, and what was told ahead.
    looks: u64,
    given: u64,
    /// Events among those that were seen that nothing is looked past.
    bars: usize,
    /// The flows that reach their marks, kept for the next look.
    marks: Vec<(Time, FlowId)>,
}

impl Foresight {
    /// Takes in that an event that nothing is looked past was planned among those that were seen, or came.
    pub(super) fn bar(&mut self, more: bool) {
        self.bars = if more { self.bars + 1 } else { self.bars.saturating_sub(1) };
    }
}

impl World {
    /// Has so many threads work at the world, this one included. It makes no difference to what happens.
    pub(super) fn work_on(&mut self, threads: usize) {
        let others = threads.saturating_sub(1);
        self.ahead = (others > 0).then(|| Ahead::start(others));
    }

    /// Gives out what is certain to befall engines until `end`.
    pub(super) fn look_ahead(&mut self, end: Time) {
        let now = self.now;
        if self.ahead.is_none() || self.foresight.bars > 0 || self.queue.count_seen() >= SEEN_MAX {
            return;
        }
        if self.sites.drawn() >= self.foresight.renewed_at {
            (self.foresight.reach, self.foresight.renewed_at) = self.sites.foresight();
        }
        let last = end + Duration::from_nanos(1);
        let until = (now + self.foresight.reach).min(last);
        if until < self.foresight.looked_to + self.foresight.reach / LOOK_SHARE && until != last {
            return;
        }
        self.foresight.looked_to = until;
        self.foresight.looks += 1;
        let mut marks = std::mem::take(&mut self.foresight.marks);
        let settled = self.flows.known_until(now, until);
        marks.extend(self.flows.due_before(settled));
        self.foresight.settled = settled;
        let mut next = marks.iter().copied().peekable();
        loop {
            let event_at = self.queue.peek_unseen().map(|(at, _)| at).filter(|at| *at < until);
            // A flow comes before an event of the same moment.
            let mark = next.next_if(|(at, _)| event_at.is_none_or(|event_at| *at <= event_at));
            let goes_on = match (mark, event_at) {
                (Some((at, flow)), _) => self.see_flow(at, flow),
                (None, Some(at)) => self.see_event(at),
                (None, None) => false,
            };
            if !goes_on {
                break;
            }
        }
        marks.clear();
        self.foresight.marks = marks;
        if let Some(ahead) = &self.ahead {
            ahead.start_given();
        }
    }

    /// Looks at the next event, and returns whether to look further.
    fn see_event(&mut self, at: Time) -> bool {
        let Some((_, planned)) = self.queue.peek_unseen() else { return false };
        let Planned { node, life, event } = planned;
        if event.is_bar() {
            return false;
        }
        let node = *node;
        let Some(host) = self.hosts.get(node).filter(|host| host.life == *life) else {
            self.queue.see(None);
            return true;
        };
        let waits = host.seen > 0 || host.is_ahead() || host.marked == self.foresight.looks;
        let is_timeout = matches!(event, Event::Timeout);
        let is_idle = is_timeout && host.wakes_at != Some(at);
        let follows = host.marked != self.foresight.looks && host.is_followed();
        let task =
            if (waits && !follows) || is_idle { None } else { self.foresee_event(node, event) };
        let is_next = at < self.foresight.settled
            || ((is_idle || task.is_some()) && self.is_free_of_marks(node, at));
        if is_idle && !waits && is_next {
            // It was planned before an earlier one was needed, and nothing comes of it.
            self.queue.see(None);
            return true;
        }
        let given = match task.filter(|_| is_next) {
            Some(task) if follows => self.give_then(node, at, task),
            Some(task) => {
                if !self.give(node, at, (task, None)) {
                    return false;
                }
                true
            }
            None => false,
        };
        self.queue.see(Some(node));
        if let Some(host) = self.hosts.get_mut(node) {
            host.seen += 1;
            // When it is woken after that follows from what it makes of being woken.
            host.given = if given && !is_timeout { host.seen } else { 0 };
        }
        true
    }

    /// Returns whether no flow of a node can be at its mark up to a moment.
    fn is_free_of_marks(&mut self, node: NodeIndex, until: Time) -> bool {
        let Some(host) = self.hosts.get_mut(node) else { return true };
        host.flows.iter_mut().all(|(flow, not_before)| {
            if *not_before <= until {
                *not_before = self.flows.not_before(self.now, *flow);
            }
            *not_before > until
        })
    }

    /// Takes in that a flow of a node begins, or has another mark.
    pub(super) fn note_flow(&mut self, node: NodeIndex, flow: FlowId) {
        let not_before = self.flows.not_before(self.now, flow);
        let Some(host) = self.hosts.get_mut(node) else { return };
        match host.flows.iter_mut().find(|(other, _)| *other == flow) {
            Some((_, known)) => *known = not_before,
            None => host.flows.push((flow, not_before)),
        }
    }

    /// Forgets what flows do not reach their marks before, because a pipe has changed.
    pub(super) fn doubt_marks(&mut self) {
        for (_, not_before) in self.hosts.iter_mut().flat_map(|host| &mut host.flows) {
            *not_before = Time::ZERO;
        }
    }

    /// Returns what an engine will be told when an event befalls its node; nothing where that is not known before.
    fn foresee_event(&self, node: NodeIndex, event: &Event) -> Option<Task> {
        let heard = |frame: &Frame, from, link| {
            frame.message.is_some()
                && self.gets_through(node, from, link)
                && !self.misbehaves(node, Behaviour::FalseHave)
        };
        let told = |input| Some(Task::Input(Box::new(input)));
        match event {
            Event::Timeout => Some(Task::Timeout),
            Event::Frames { from, link, frame } if heard(frame, *from, *link) => {
                Some(Task::Message { from: *from, frame: Arc::clone(frame) })
            }
            Event::Input(input) => Some(Task::Input(input.clone())),
            Event::Released { serve } => told(Input::ServeEnded { serve: *serve }),
            Event::Start { .. }
            | Event::Leave
            | Event::Linked { .. }
            | Event::Unlinked { .. }
            | Event::Silent { .. }
            | Event::Frames { .. }
            | Event::Discover
            | Event::Asked { .. }
            | Event::Answered { .. }
            | Event::Grown { .. }
            | Event::Finished { .. }
            | Event::Searched { .. }
            | Event::Provided { .. }
            | Event::Want { .. }
            | Event::Fault { .. }
            | Event::Healed { .. }
            | Event::Sample => None,
        }
    }

    /// Looks at a flow that reaches its mark, and returns whether to look further.
    fn see_flow(&mut self, at: Time, flow: FlowId) -> bool {
        let (looks, node) = (self.foresight.looks, self.transfers.node_of_flow(flow));
        let Some(host) = node.and_then(|node| self.hosts.get_mut(node)) else { return true };
        // Most were seen before: a mark is looked at again and again until it comes.
        let waits = host.seen > 0 || host.is_ahead() || host.marked == looks;
        host.marked = looks;
        if waits {
            return true;
        }
        let Some((node, task)) = self.foresee_flow(at, flow) else { return true };
        task.is_none_or(|(task, end)| self.give(node, at, (task, end)))
    }

    /// Gives out what befalls an engine at a moment, and returns whether there was room.
    fn give(&mut self, node: NodeIndex, at: Time, (task, end): (Task, Option<Task>)) -> bool {
        let Some(ahead) = self.ahead.as_mut().filter(|ahead| ahead.has_room()) else {
            return false;
        };
        let Some(host) = self.hosts.get_mut(node) else { return true };
        if let Some(engine) = host.lend_engine() {
            let then = end.into_iter().map(|end| (at, end)).collect();
            host.away = Some(ahead.give(Work { engine, at, task, then }));
            (host.ahead_of, host.given) = (at, 0);
            self.foresight.given += 1;
        }
        true
    }

    /// Gives out what befalls an engine after what was given out last, and returns whether that was in time.
    fn give_then(&mut self, node: NodeIndex, at: Time, task: Task) -> bool {
        let ticket = self.hosts.get(node).and_then(|host| host.away);
        let given = match (ticket, &mut self.ahead) {
            (Some(ticket), Some(ahead)) => ahead.give_then(ticket, at, task),
            (_, _) => false,
        };
        self.foresight.given += u64::from(given);
        given
    }

    /// Returns whether a node's engine was told ahead of what befalls it next.
    pub(super) fn is_ahead(&self, node: NodeIndex) -> bool {
        self.hosts.get(node).is_some_and(super::host::Host::is_ahead)
    }

    /// Has all engines come back that are away.
    pub(super) fn call_all_back(&mut self) {
        for node in 0..self.hosts.len() {
            let ticket = self.hosts.get(node).and_then(|host| host.away);
            self.call_back(node);
            let before = ticket.zip(self.ahead.as_ref());
            let before = before.map(|(ticket, ahead)| ahead.stats_before(ticket));
            if let (Some(before), Some(host)) = (before, self.hosts.get_mut(node)) {
                host.stats_before = Some(before);
            }
        }
    }
}

impl Event {
    /// Returns whether it may touch other nodes than its own at once.
    pub(super) fn is_bar(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Leave
            | Self::Discover
            | Self::Want { .. }
            | Self::Fault { .. }
            | Self::Healed { .. }
            | Self::Sample => true,
            Self::Input(_)
            | Self::Linked { .. }
            | Self::Unlinked { .. }
            | Self::Silent { .. }
            | Self::Frames { .. }
            | Self::Asked { .. }
            | Self::Answered { .. }
            | Self::Released { .. }
            | Self::Grown { .. }
            | Self::Finished { .. }
            | Self::Searched { .. }
            | Self::Provided { .. }
            | Self::Timeout => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::stats::Stats;
    use blobmesh_protocol::{Config, Hash};

    use super::*;
    use crate::plan::{Distribution, Shape, Site};
    use crate::world::{Calibration, Ended, NodeSpec};

    const NODES: usize = 16;

    /// Returns a world of neighbours.
    fn neighbours() -> World {
        let mut world = World::calibrated(7, Calibration::default());
        let shape = Shape::Lognormal { median: 250_000, sigma: 0.4 };
        let latency = Distribution { shape, min: 0, max: 1_000_000_000 };
        world.add_site(&Site { latency, ..Site::office("office") });
        for a in 0..NODES {
            world.add_node(NodeSpec::new(Config::default()));
            (0..a).for_each(|b| world.link(a, b));
        }
        world
    }

    /// Returns a world of neighbours of which one holds a long blob that all others want.
    fn herd(threads: usize) -> World {
        let mut world = neighbours();
        let hash = Hash::of(b"long");
        world.add_blob(0, hash, 64 << 20);
        world.work_on(threads);
        world.run_for(Duration::from_secs(1));
        for node in 1..NODES {
            world.get(node, hash);
        }
        world
    }

    type Outcome = (Hash, u64, Vec<Ended>, Vec<Stats>);

    /// Runs a world, and returns what came of it and how many of 100 events engines were told ahead of.
    fn outcome(mut world: World) -> (Outcome, u64) {
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.violations(), Vec::<String>::new());
        let stats = (0..NODES).map(|node| world.stats(node)).collect();
        let ahead = world.foresight.given * 100 / world.steps();
        ((world.log_hash(), world.steps(), world.take_ended(), stats), ahead)
    }

    #[test]
    fn what_is_told_ahead_changes_nothing_in_a_herd() {
        let ((one, none), (two, some)) = (outcome(herd(1)), outcome(herd(2)));
        assert_eq!(one.2.iter().filter(|ended| ended.result.is_ok()).count(), NODES - 1);
        // Rates are settled often where flows are so few: nodes whose flows are far from their marks do not wait for that.
        assert!(none == 0 && some > 25, "{some} of 100 events");
        assert!(one == two, "{} and {}", one.0, two.0);
    }

    #[test]
    fn most_of_what_neighbours_say_is_told_ahead_and_changes_nothing() {
        let talk = |threads| {
            let mut world = neighbours();
            world.work_on(threads);
            for number in 0..500_u32 {
                let node = usize::try_from(number).unwrap_or(0) % NODES;
                world.add_blob(node, Hash::of(&number.to_le_bytes()), 1 << 30);
                world.run_for(Duration::from_millis(2));
            }
            outcome(world)
        };
        let (one, none) = talk(1);
        assert_eq!(none, 0);
        for threads in 2..4 {
            let (many, ahead) = talk(threads);
            assert!(ahead > 50, "{ahead} of 100 events");
            assert!(one == many, "{threads} threads: {} and {}", one.0, many.0);
        }
    }

    #[test]
    fn engine_that_was_told_of_what_does_not_come_is_found_out() {
        let mut world = herd(2);
        world.run_for(Duration::from_millis(500));
        let at = world.now + Duration::from_millis(1);
        assert!(world.give(3, at, (Task::Timeout, None)));
        world.tell(3, Input::Settled);
        let told = format!("{}: node 3 was told ahead of {at}", world.now);
        assert_eq!(world.violations(), [told]);
    }

    #[test]
    fn event_that_comes_before_what_an_engine_was_told_is_found_out() {
        let mut world = herd(2);
        let at = world.now + Duration::from_millis(1);
        assert!(world.give(3, at, (Task::Timeout, None)));
        world.schedule_at(at, 3, Event::Timeout);
        assert_eq!(world.violations(), Vec::<String>::new());
        world.schedule_at(world.now, 3, Event::Timeout);
        let planned = format!("{}: node 3 was told ahead of {at}", world.now);
        assert_eq!(world.violations(), [planned]);
    }

    #[test]
    fn counters_of_an_engine_are_those_of_what_has_happened() {
        let mut world = herd(2);
        let (before, hash) = (world.stats(5), Hash::of(b"another"));
        let want = blobmesh_protocol::id::WantId(1 << 40);
        let input = Input::Get { want, hash, timeout: None };
        assert!(world.give(5, world.now, (Task::Input(Box::new(input.clone())), None)));
        world.call_all_back();
        assert_eq!(world.stats(5), before);
        world.tell(5, input);
        assert_eq!(world.stats(5).gets, before.gets + 1);
        assert_eq!(world.violations(), Vec::<String>::new());
    }
}
