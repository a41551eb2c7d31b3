//! Writes reports of made-up outcomes, to look at: `cargo run --example made_up_report -- DIR
//! [NODES] [GETS]`.

#![expect(clippy::unwrap_used, reason = "what fails here fails the example")]

use std::path::PathBuf;

use blobmesh_simulations::report;
use synthetic::{Cells, Shape, outcome, plan, staged_run, staged_sweep, with_detail};

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().unwrap());
    let mut number = |otherwise| arguments.next().map_or(otherwise, |text| text.parse().unwrap());
    let shape = Shape { nodes: number(1_000), gets_per_node: number(50), seed: 1, slowness: 1.0 };
    let run = staged_run(
        &root.join("run"),
        &plan("flash-crowd", shape.nodes),
        &with_detail(outcome(shape), "image/2"),
    );
    report::write(run.path(), None).unwrap();
    run.publish().unwrap();
    let cells = Cells {
        nodes: &[10, 30, 100, 300],
        hedges: &["0ms", "50ms", "200ms"],
        seeds: 5,
        slowness: 1.0,
    };
    let sweep = staged_sweep(&root.join("sweep"), &cells);
    report::write(sweep.path(), None).unwrap();
    sweep.publish().unwrap();
}
