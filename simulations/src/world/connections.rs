//! Connections between nodes that are no neighbours: a question of the DHT or a fetch opens one, and it stays
//! until nobody has used it for a while.
//!
//! Small requests to a node share a stream, which stays open in the same way.
//!
//! Neighbours keep theirs as long as they are linked. What a process that ends leaves open its kernel closes.

use std::collections::BTreeMap;
use std::time::Duration;

use blobmesh_protocol::Time;

use super::{NodeIndex, World};

/// How long a stream stays open without a small request: what nodes have.
const SMALL_IDLE: Duration = Duration::from_secs(30);
/// Below so many connections nobody looks for those that are over.
const SWEPT_FROM: usize = 1 << 16;

/// Holds what was opened.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Connections, by the two nodes in rising order.
    open: Opened,
    /// Streams of small requests, by who asks and who answers.
    small: Opened,
}

#[derive(Debug, Default)]
struct Opened {
    kept: BTreeMap<(NodeIndex, NodeIndex), Kept>,
    /// How many were left when those that are over were last removed.
    swept: usize,
}

/// Says from when on a connection is open and how long it stays, and in which lives of its ends.
#[derive(Clone, Copy, Debug)]
struct Kept {
    from: Time,
    until: Time,
    lives: (u32, u32),
}

impl Opened {
    /// Returns what is open between two nodes at a moment and in their present lives.
    fn get(&self, pair: (NodeIndex, NodeIndex), at: Time, lives: (u32, u32)) -> Option<Kept> {
        let kept = self.kept.get(&pair).copied();
        kept.filter(|kept| kept.until > at && kept.lives == lives)
    }

    fn keep(&mut self, pair: (NodeIndex, NodeIndex), kept: Kept, now: Time) {
        self.kept.insert(pair, kept);
        if self.kept.len() >= SWEPT_FROM.max(self.swept * 2) {
            self.kept.retain(|_, kept| kept.until > now);
            self.swept = self.kept.len();
        }
    }
}

impl World {
    /// Returns how long a node needs, from a moment to come, until it may open a stream to another; nothing
    /// where they are connected, and what is left of a dial that is under way. The connection is in use from
    /// then on.
    pub(super) fn connect(
        &mut self,
        (node, other): (NodeIndex, NodeIndex),
        round_trip: Duration,
        at: Time,
    ) -> Duration {
        if self.are_linked(node, other) {
            return Duration::ZERO;
        }
        let (pair, lives) = self.lives_of(node, other);
        let known = self.connections.open.get(pair, at, lives);
        let dial = self.model.dial + round_trip * self.model.dial_round_trips;
        // One whose dial is planned for later is dialled now.
        let from = known.map_or(at + dial, |kept| kept.from.min(at + dial));
        let idle = from.max(at) + self.model.connection_idle;
        let until = known.map_or(idle, |kept| kept.until.max(idle));
        self.connections.open.keep(pair, Kept { from, until, lives }, self.now);
        from.max(at) - at
    }

    /// Returns how long a node that is connected with another at a moment to come needs from then on until a small
    /// request may go out: the first one opens the stream of all.
    pub(super) fn open_small(
        &mut self,
        (node, other): (NodeIndex, NodeIndex),
        round_trip: Duration,
        at: Time,
    ) -> Duration {
        let life = |node: NodeIndex| self.hosts.get(node).map_or(0, |host| host.life);
        let (pair, lives) = ((node, other), (life(node), life(other)));
        let known = self.connections.small.get(pair, at, lives);
        let opened = at + round_trip * self.model.stream_round_trips;
        let from = known.map_or(opened, |kept| kept.from.min(opened));
        let until = from.max(at) + SMALL_IDLE;
        self.connections.small.keep(pair, Kept { from, until, lives }, self.now);
        from.max(at) - at
    }

    /// Takes in that two nodes use their connection until a moment.
    pub(super) fn use_connection(&mut self, node: NodeIndex, other: NodeIndex, until: Time) {
        let (pair, lives) = self.lives_of(node, other);
        let idle = until + self.model.connection_idle;
        if let Some(kept) =
            self.connections.open.kept.get_mut(&pair).filter(|kept| kept.lives == lives)
        {
            kept.until = kept.until.max(idle);
        }
    }

    fn are_linked(&self, node: NodeIndex, other: NodeIndex) -> bool {
        self.hosts.get(node).is_some_and(|host| host.links.contains_key(&other))
    }

    /// Returns two nodes in rising order, and their present lives.
    fn lives_of(&self, node: NodeIndex, other: NodeIndex) -> ((NodeIndex, NodeIndex), (u32, u32)) {
        let life = |node: NodeIndex| self.hosts.get(node).map_or(0, |host| host.life);
        let (low, high) = (node.min(other), node.max(other));
        ((low, high), (life(low), life(high)))
    }
}

#[cfg(test)]
mod tests {
    use blobmesh_protocol::Config;

    use super::*;
    use crate::world::NodeSpec;

    const TRIP: Duration = Duration::from_millis(40);

    fn world() -> (World, NodeIndex, NodeIndex) {
        let mut world = World::new(1);
        let mut node = || world.add_node(NodeSpec::new(Config::default()));
        let (a, b) = (node(), node());
        (world, a, b)
    }

    #[test]
    fn connection_is_dialled_once_and_again_after_it_was_idle() {
        let (mut world, a, b) = world();
        let (dial, idle) =
            (world.model.dial + TRIP * world.model.dial_round_trips, world.model.connection_idle);
        let began = world.now;
        assert_eq!(world.connect((a, b), TRIP, began), dial);
        let half = dial / 2;
        assert_eq!(world.connect((b, a), TRIP, began + half), dial - half, "it is under way");
        let sooner = world.now;
        let (c, later) = (world.add_node(NodeSpec::new(Config::default())), sooner + dial * 3);
        assert_eq!(world.connect((a, c), TRIP, later), dial);
        assert_eq!(
            world.connect((c, a), TRIP, sooner),
            dial,
            "it is not planned for later any more"
        );
        let used = began + Duration::from_secs(1);
        world.use_connection(a, b, used);
        let late = used + (idle - Duration::from_nanos(1));
        assert_eq!(world.connect((b, a), TRIP, late), Duration::ZERO);
        assert_eq!(world.connect((a, b), TRIP, late + idle), dial);
    }

    #[test]
    fn connection_ends_with_either_process_and_neighbours_need_none() {
        let (mut world, a, b) = world();
        let dial = world.connect((a, b), TRIP, world.now);
        world.stop(b, true);
        world.start(b);
        assert_eq!(world.connect((a, b), TRIP, world.now + dial), dial);
        world.link(a, b);
        assert_eq!(world.connect((b, a), TRIP, world.now), Duration::ZERO);
    }

    #[test]
    fn stream_of_small_requests_is_opened_once_in_each_direction_and_again_after_it_was_idle() {
        let (mut world, a, b) = world();
        world.model.stream_round_trips = 1;
        let (open, began) = (TRIP, world.now);
        assert_eq!(world.open_small((a, b), TRIP, began), open);
        assert_eq!(world.open_small((a, b), TRIP, began + open / 2), open - open / 2);
        let later = began + open;
        assert_eq!(world.open_small((a, b), TRIP, later), Duration::ZERO);
        assert_eq!(world.open_small((b, a), TRIP, later), open);
        assert_eq!(world.open_small((a, b), TRIP, later + SMALL_IDLE), open);
        world.stop(b, true);
        world.start(b);
        assert_eq!(world.open_small((a, b), TRIP, later + SMALL_IDLE), open);
    }

    #[test]
    fn connections_that_are_over_are_removed_when_there_are_many() {
        let mut open = Opened::default();
        let (now, lives) = (Time::from_nanos(5), (0, 0));
        for index in 0..SWEPT_FROM {
            let until = Time::from_nanos(if index < 10 { 9 } else { 1 });
            open.keep((index, index + 1), Kept { from: Time::ZERO, until, lives }, now);
        }
        assert_eq!(open.kept.len(), 10);
    }
}
