//! Connections between nodes that are no neighbours: a question of the DHT or a fetch opens one, and it stays
//! until nobody has used it for a while.
//!
//! Neighbours keep theirs as long as they are linked. What a process that ends leaves open its kernel closes.

use std::collections::BTreeMap;
use std::time::Duration;

use blobmesh_protocol::Time;

use super::{NodeIndex, World};

/// Below so many connections nobody looks for those that are over.
const SWEPT_FROM: usize = 1 << 16;

/// Holds the connections that were opened, by the two nodes in rising order.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: BTreeMap<(NodeIndex, NodeIndex), Kept>,
    /// How many were left when those that are over were last removed.
    swept: usize,
}

/// Says how long a connection stays, and in which lives of its ends.
#[derive(Clone, Copy, Debug)]
struct Kept {
    until: Time,
    lives: (u32, u32),
}

impl Connections {
    fn sweep(&mut self, now: Time) {
        if self.open.len() >= SWEPT_FROM.max(self.swept * 2) {
            self.open.retain(|_, kept| kept.until > now);
            self.swept = self.open.len();
        }
    }
}

impl World {
    /// Returns how long a node needs until it may open a stream to another, at a moment to come: nothing
    /// where they are connected.
    pub(super) fn connect_time(
        &self,
        node: NodeIndex,
        other: NodeIndex,
        round_trip: Duration,
        at: Time,
    ) -> Duration {
        if self.are_connected(node, other, at) {
            return Duration::ZERO;
        }
        self.model.dial + round_trip * self.model.dial_round_trips
    }

    /// Returns whether two nodes have a connection.
    pub(super) fn are_connected(&self, node: NodeIndex, other: NodeIndex, at: Time) -> bool {
        if self.hosts.get(node).is_some_and(|host| host.links.contains_key(&other)) {
            return true;
        }
        let pair = pair(node, other);
        let lives = self.lives_of(pair);
        self.connections.open.get(&pair).is_some_and(|kept| kept.until > at && kept.lives == lives)
    }

    /// Takes in that two nodes use a connection until a moment.
    pub(super) fn use_connection(&mut self, node: NodeIndex, other: NodeIndex, until: Time) {
        if self.hosts.get(node).is_some_and(|host| host.links.contains_key(&other)) {
            return;
        }
        let pair = pair(node, other);
        let kept = Kept { until: until + self.model.connection_idle, lives: self.lives_of(pair) };
        self.connections.open.insert(pair, kept);
        self.connections.sweep(self.now);
    }

    fn lives_of(&self, (low, high): (NodeIndex, NodeIndex)) -> (u32, u32) {
        let life = |node: NodeIndex| self.hosts.get(node).map_or(0, |host| host.life);
        (life(low), life(high))
    }
}

fn pair(node: NodeIndex, other: NodeIndex) -> (NodeIndex, NodeIndex) {
    (node.min(other), node.max(other))
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
        let dial = world.model.dial + TRIP * world.model.dial_round_trips;
        assert_eq!(world.connect_time(a, b, TRIP, world.now), dial);
        let used = world.now + Duration::from_secs(1);
        world.use_connection(a, b, used);
        let idle = used + world.model.connection_idle;
        let before = used + (world.model.connection_idle - Duration::from_nanos(1));
        for (from, to) in [(a, b), (b, a)] {
            assert_eq!(world.connect_time(from, to, TRIP, before), Duration::ZERO);
            assert_eq!(world.connect_time(from, to, TRIP, idle), dial);
        }
    }

    #[test]
    fn connection_ends_with_either_process_and_neighbours_need_none() {
        let (mut world, a, b) = world();
        world.use_connection(a, b, world.now);
        world.stop(b, true);
        world.start(b);
        assert!(!world.are_connected(a, b, world.now));
        world.link(a, b);
        assert!(world.are_connected(b, a, world.now + world.model.connection_idle));
    }

    #[test]
    fn connections_that_are_over_are_removed_when_there_are_many() {
        let mut connections = Connections::default();
        let (now, lives) = (Time::from_nanos(5), (0, 0));
        for index in 0..SWEPT_FROM {
            let until = Time::from_nanos(if index < 10 { 9 } else { 1 });
            connections.open.insert((index, index + 1), Kept { until, lives });
        }
        connections.sweep(now);
        assert_eq!(connections.open.len(), 10);
    }
}
