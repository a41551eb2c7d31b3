//! The smallest run there is: two neighbours, three blobs.

use std::time::Duration;

use blobmesh_protocol::engine::receipt::Found;
use blobmesh_protocol::{Config, Hash};

use crate::world::{Traffic, World, WorldConfig};

/// Is what a run of [`two_nodes`] measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoNodes {
    /// How long the second node's get of the first one's blob took.
    pub lan: Duration,
    /// How long its second get of the same blob took.
    pub local: Duration,
    /// How long its get of a blob that only the edge has took.
    pub edge: Duration,
    /// How long it took to say that a blob is nowhere.
    pub absent: Duration,
    /// Whether each get ended as it must: from the LAN, the store, the edge, and not at all.
    pub holds: bool,
    /// What travelled.
    pub traffic: Traffic,
    /// How many events the world handled.
    pub steps: u64,
    /// The hash of all of them, the same for the same seed.
    pub log_hash: Hash,
}

/// Runs two neighbours: one adds a blob of 64 MiB, the other gets it twice, gets a blob of 1 MiB from
/// the edge, and asks for one that nobody has.
pub fn two_nodes(seed: u64) -> TwoNodes {
    let mut world = World::new(WorldConfig { seed, ..WorldConfig::default() });
    let config = Config { edge: true, ..Config::default() };
    let first = world.add_node(config.clone());
    let second = world.add_node(config);
    world.link(first, second);
    let (held, edged, absent) = (Hash::of(b"held"), Hash::of(b"edged"), Hash::of(b"absent"));
    world.add_blob(first, held, 64 << 20);
    world.add_to_edge(edged, 1 << 20);
    world.run_for(Duration::from_secs(1));
    let mut took = Vec::new();
    let mut found = Vec::new();
    for hash in [held, held, edged, absent] {
        world.get(second, hash);
        world.run_for(Duration::from_secs(5));
        for ended in world.take_ended() {
            took.push(ended.receipt.took);
            found.push(ended.receipt.found);
        }
    }
    let expected = [Some(Found::Lan), Some(Found::Local), Some(Found::Edge), None];
    let at = |place: usize| took.get(place).copied().unwrap_or_default();
    TwoNodes {
        lan: at(0),
        local: at(1),
        edge: at(2),
        absent: at(3),
        holds: found == expected,
        traffic: world.traffic(),
        steps: world.steps(),
        log_hash: world.log_hash(),
    }
}
