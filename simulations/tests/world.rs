//! The world is deterministic, and the smallest plan ends as it must.

use std::time::Duration;

use blobmesh_protocol::{Config, Hash};
use blobmesh_simulations::outcome::Outcome;
use blobmesh_simulations::plan::{Canned, Plan};
use blobmesh_simulations::world::{Calibration, NodeSpec, RunOptions, World, run_plan};

fn two_nodes(seed: u64) -> Outcome {
    let canned = Canned::find("two-nodes").expect("a canned plan");
    let plan = canned.source().and_then(|source| source.plan()).expect("it is right");
    run_plan(&Plan { seed, ..plan }, &RunOptions::default(), |_| {}).expect("an outcome")
}

#[test]
fn two_nodes_find_each_blob_where_it_is() {
    let outcome = two_nodes(1);
    let found: Vec<&str> = outcome.fetches.iter().map(|row| row.found).collect();
    assert_eq!(found, ["lan", "local", "edge", "-"], "{:?}", outcome.fetches);
    assert_eq!(outcome.violations, Vec::<String>::new());
    let took = |place: usize| Duration::from_nanos(outcome.fetches[place].took_ns);
    let goodput = 125e6 * Calibration::default().goodput;
    let link_time = Duration::from_secs_f64(f64::from(64 << 20) / goodput);
    assert!(took(0) >= link_time && took(0) < link_time + Duration::from_millis(10), "{outcome:?}");
    assert!(took(1) < Duration::from_millis(1));
}

#[test]
fn same_seed_gives_the_same_outcome_in_one_process() {
    assert_eq!(two_nodes(7), two_nodes(7));
    assert_ne!(two_nodes(7).event_log_hash, two_nodes(8).event_log_hash);
}

#[test]
fn another_delay_of_the_engine_gives_another_log() {
    let log_hash = |refresh| {
        let mut world = World::new(1);
        let config = Config { filter_refresh: refresh, ..Config::default() };
        let (a, b) =
            (world.add_node(NodeSpec::new(config.clone())), world.add_node(NodeSpec::new(config)));
        world.link(a, b);
        world.add_blob(a, Hash::of(b"x"), 1);
        world.run_for(Duration::from_secs(100));
        world.log_hash()
    };
    assert_ne!(log_hash(Duration::from_secs(60)), log_hash(Duration::from_secs(61)));
}
