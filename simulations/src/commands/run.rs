//! `blobmesh-sim run`: runs a plan as it stands.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use blobmesh_simulations::output::{Keep, Kind, default_directory};
use blobmesh_simulations::plan::{Cell, Plan};
use blobmesh_simulations::world::RunOptions;

use super::conduct::{Order, conduct, refuse, source};

/// From how many nodes on a second thread saves more than it costs.
const NODES_WORTH_THREADS: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// A plan's file, or the name of one that `list` shows
    plan: String,
    /// Seeds all chance, in place of the plan's seed; the same seed gives the same run, to the byte
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Put a value into the plan first, as group.runner.count=30; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// How many threads work at the run; the result is the same with any number [default: one for each processor from
    /// 1,000 nodes on, else 1]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Where the results go [default: blobmesh-sim-out/NAME-seedN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object per metric and assert
    #[arg(long)]
    json: bool,
    /// Write the event log, one line for each event; its BLAKE3 is event_log_hash
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
}

pub(crate) fn execute(run: &Run) -> ExitCode {
    let read = source(&run.plan, &run.set).and_then(|source| Ok((source.plan()?, source.text())));
    let (plan, text) = match read {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let plan = Plan { seed: run.seed.unwrap_or(plan.seed), ..plan };
    let place = run.out.clone();
    let threads = run.threads.map_or_else(|| threads_for(plan.nodes()), usize::from);
    let cell = Cell { name: "plan".to_owned(), settings: Vec::new(), plan: plan.clone() };
    conduct(Order {
        kind: Kind::Run,
        text,
        place: place.unwrap_or_else(|| default_directory(Kind::Run, &plan.name, plan.seed)),
        plan,
        cells: vec![cell],
        seeds: 1,
        jobs: 1,
        threads,
        options: RunOptions { event_log: run.event_log.clone(), ..RunOptions::default() },
        keep: Keep::Rows,
        json: run.json,
    })
}

/// Returns how many threads work at a world of so many nodes where nobody says.
fn threads_for(nodes: usize) -> usize {
    if nodes < NODES_WORTH_THREADS {
        return 1;
    }
    thread::available_parallelism().map_or(1, usize::from)
}
