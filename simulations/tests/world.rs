//! The world is deterministic, and the smallest run ends as it must.

use std::time::Duration;

use blobmesh_protocol::{Config, Hash};
use blobmesh_simulations::runs::two_nodes;
use blobmesh_simulations::world::{World, WorldConfig};

#[test]
fn two_nodes_find_each_blob_where_it_is() {
    let run = two_nodes(1);
    assert!(run.holds, "{run:?}");
    assert_eq!((run.traffic.blob_bytes, run.traffic.edge_bytes), (64 << 20, 1 << 20));
    let link_time = Duration::from_secs_f64(f64::from(64 << 20) / 125e6);
    assert!(run.lan >= link_time && run.lan < link_time + Duration::from_millis(1), "{run:?}");
    assert!(run.local < Duration::from_millis(1));
}

#[test]
fn same_seed_gives_the_same_log_and_another_delay_another() {
    assert_eq!(two_nodes(7), two_nodes(7));
    let log_hash = |refresh| {
        let mut world = World::new(WorldConfig::default());
        let config = Config { filter_refresh: refresh, ..Config::default() };
        let (a, b) = (world.add_node(config.clone()), world.add_node(config));
        world.link(a, b);
        world.add_blob(a, Hash::of(b"x"), 1);
        world.run_for(Duration::from_secs(100));
        world.log_hash()
    };
    assert_ne!(log_hash(Duration::from_secs(60)), log_hash(Duration::from_secs(61)));
}
