//! Filters are worth their bytes: 64 engines, 10,000 blobs, and how many questions a get costs.
//!
//! `cargo test -p blobmesh-simulations --test filters -- --nocapture` prints the comparison. Gossip is
//! paid for each blob that comes in, questions for each get: the bytes say after how many gets the
//! filters have paid for themselves.

#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52 become ratios")]
#![allow(clippy::print_stdout, reason = "the comparison is what the test is for")]

use std::time::Duration;

use blobmesh_protocol::engine::WantError;
use blobmesh_protocol::{Config, Hash};
use blobmesh_simulations::world::{Messages, NodeSpec, Traffic, World};

const NODES: usize = 64;
const BLOBS: usize = 10_000;
const GETS: usize = 1_000;

/// What gets cost, with or without filters.
#[derive(Debug)]
struct Cost {
    /// Questions per get.
    asks: f64,
    /// Questions answered with absent although a filter had said maybe, per question that a filter
    /// could have saved.
    wasted: f64,
    /// What travelled for it: without filters there would be no gossip.
    gossip: Messages,
    questions: Messages,
}

fn blob(n: usize) -> Hash {
    Hash::of(&u64::try_from(n).expect("small").to_le_bytes())
}

/// A mesh of 64 nodes, each with its share of the blobs.
fn mesh(filters: bool) -> World {
    let mut world = World::new(1);
    // A filter that is never fresh is no filter: then every neighbour is asked.
    let filter_ttl = if filters { Config::default().filter_ttl } else { Duration::ZERO };
    let config = Config {
        filter_ttl,
        provider_search: false,
        neighbours_max: NODES,
        asks_parallel_max: NODES,
        adverts: false,
        ..Config::default()
    };
    for _ in 0..NODES {
        world.add_node(NodeSpec { up: None, down: None, ..NodeSpec::new(config.clone()) });
    }
    for a in 0..NODES {
        for b in a + 1..NODES {
            world.link(a, b);
        }
    }
    world.run_for(Duration::from_secs(1));
    for n in 0..BLOBS {
        world.add_blob(n % NODES, blob(n), 1_000);
    }
    world.run_for(Duration::from_secs(1));
    world
}

/// Has nodes get blobs one after another; `which` says which blob the n-th get wants.
fn cost(filters: bool, absent: bool) -> Cost {
    let mut world = mesh(filters);
    for n in 0..GETS {
        // A node never asks for what it holds itself.
        let node = (n + 1) % NODES;
        let wanted = if absent { blob(BLOBS + n) } else { blob(n) };
        world.get(node, wanted);
        world.run_for(Duration::from_millis(5));
    }
    world.run_for(Duration::from_secs(5));
    let ended = world.take_ended();
    assert_eq!(ended.len(), GETS, "every get ends");
    for ended in &ended {
        let expected = if absent { Err(WantError::NotFound) } else { Ok(()) };
        assert_eq!(ended.result, expected);
    }
    let sum = |counter: fn(&blobmesh_protocol::stats::Stats) -> u64| {
        (0..NODES).map(|node| counter(&world.stats(node))).sum::<u64>() as f64
    };
    let (asks, wasted) = (sum(|stats| stats.asks_sent), sum(|stats| stats.asks_wasted));
    let skipped = sum(|stats| stats.asks_skipped);
    let Traffic { gossip, asks: questions, .. } = world.traffic();
    Cost {
        asks: asks / GETS as f64,
        wasted: if filters { wasted / (wasted + skipped) } else { 0.0 },
        gossip: if filters { gossip } else { Messages::default() },
        questions,
    }
}

fn print_cost(name: &str, cost: &Cost) {
    let Cost { asks, gossip, questions, .. } = cost;
    let (messages, bytes) = (gossip.count + questions.count, gossip.bytes + questions.bytes);
    println!(
        "  {name:16} {asks:7.3} asks a get; {messages} messages and {bytes} bytes in all, \
         {} and {} of them gossip",
        gossip.count, gossip.bytes
    );
}

#[test]
fn filters_save_most_questions_and_pay_for_their_gossip() {
    let mut failures = Vec::new();
    for (kind, absent, gain_min) in [("absent", true, 50.0), ("one holder", false, 25.0)] {
        let (with, without) = (cost(true, absent), cost(false, absent));
        // No ask at all counts as one in all gets.
        let gain = without.asks / with.asks.max(1.0 / GETS as f64);
        println!("{kind}: {GETS} gets, {NODES} nodes, {BLOBS} blobs");
        for (name, cost) in [("filters", &with), ("asking everybody", &without)] {
            print_cost(name, cost);
        }
        let wasted = with.wasted * 100.0;
        let more = if with.asks == 0.0 { "more than " } else { "" };
        println!("  {more}{gain:.1} times fewer asks (at least {gain_min}), {wasted:.3} % wasted");
        if gain < gain_min {
            failures.push(format!("{kind}: {gain:.1} < {gain_min}"));
        }
        // The filters are made for 1 % at their capacity, so that is what they may waste.
        if with.wasted > 0.01 {
            failures.push(format!("{kind}: {:.4} wasted", with.wasted));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
