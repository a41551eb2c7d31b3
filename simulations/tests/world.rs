//! The world is deterministic, and the smallest plan ends as it must.

use std::time::Duration;

use blobmesh_protocol::{Config, Hash};
use blobmesh_simulations::fuzz;
use blobmesh_simulations::outcome::{Outcome, SeriesRow};
use blobmesh_simulations::plan::{Canned, Plan, Source};
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

/// Each canned plan, made small.
const SMALL: [(&str, &[&str]); 11] = [
    ("two-nodes", &[]),
    ("flash-crowd", &["group.runner.count=20", "blobs.image.size=\"64MiB\""]),
    ("office-morning", &["group.laptop.count=12"]),
    ("partition-heal", &["group.desk.count=40", "workload.gets=5"]),
    ("malicious", &["group.node.count=20", "workload.gets=10"]),
    ("churn", &["group.runner.count=20", "workload.gets=10"]),
    ("dht-hops", &["group.node.count=40"]),
    ("edge-savings", &["group.node.count=30", "workload.gets=10", "engine.neighbours_max=8"]),
    ("ci-five-jobs", &[]),
    ("kraken-2600", &["group.host.count=12", "blobs.layer.size=\"64MiB\""]),
    ("faasnet-1000", &["group.vm.count=10"]),
];

#[test]
fn the_number_of_threads_changes_no_outcome() {
    for (name, settings) in SMALL {
        let mut source = Canned::find(name).expect("a canned plan").source().expect("it is right");
        settings.iter().for_each(|setting| source.set(setting).expect(setting));
        let plan = source.plan().expect("it is right");
        assert_same_on_threads(&plan, name);
    }
}

/// Faults, churn and misbehaviour of every kind, in worlds that are drawn.
#[test]
fn the_number_of_threads_changes_no_random_world() {
    for seed in 0..24 {
        assert_same_on_threads(&fuzz::random_plan(seed), &format!("seed {seed}"));
    }
}

fn assert_same_on_threads(plan: &Plan, name: &str) {
    let outcome = |threads| {
        let options = RunOptions { threads, ..RunOptions::default() };
        run_plan(plan, &options, |_| {}).expect("an outcome")
    };
    let (one, two) = (outcome(1), outcome(2));
    assert_eq!(two.event_log_hash, one.event_log_hash, "{name} on two threads");
    assert!(two == one, "{name} on two threads has another outcome");
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

#[test]
fn time_series_has_the_bytes_of_fetches_that_have_not_ended() {
    let text = "name = \"slow\"\n[[group]]\nname = \"node\"\ncount = 1\n[edge]\nrate = \"1MB/s\"\n\
        [[blobs]]\nname = \"image\"\ncount = 1\nsize = \"20MB\"\n\
        [[workload]]\nname = \"pull\"\nkind = \"pull_set\"\n[metrics]\nevery = \"1s\"\n";
    let plan = Source::parse("slow.toml", text).and_then(|source| source.plan());
    let plan = plan.expect("a sound plan");
    let outcome = run_plan(&plan, &RunOptions::default(), |_| {}).expect("an outcome");
    let came = |pair: &[SeriesRow]| pair[1].edge_bytes - pair[0].edge_bytes;
    let amid =
        outcome.series.windows(2).filter(|pair| (5..15).contains(&(pair[0].at_ns / 1_000_000_000)));
    let each: Vec<u64> = amid.map(came).collect();
    assert_eq!(each.len(), 10);
    assert!(each.iter().all(|bytes| (900_000..=1_000_000).contains(bytes)), "{each:?}");
}
