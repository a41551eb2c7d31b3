//! `blobmesh-sim sweep`: runs a plan in every cell of its sweep, each with several seeds.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use blobmesh_simulations::output::{Keep, Kind, default_directory};
use blobmesh_simulations::plan::{Plan, cells};
use blobmesh_simulations::world::RunOptions;

use super::conduct::{Order, conduct, refuse, source};

#[derive(Debug, clap::Args)]
pub(crate) struct Sweep {
    /// A plan's file, or the name of one that `list` shows
    plan: String,
    /// How many seeds each cell runs with, from the plan's seed up [default: the plan's sweep.repeat]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: Option<u32>,
    /// How many worlds run at once; fewer than processors share them [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// The first seed, in place of the plan's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Put a value into the plan first, as group.runner.count=30; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Where the results go [default: blobmesh-sim-out/NAME-sweep]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Keep the metrics of each run, and not the rows of its gets, nodes and moments
    #[arg(long)]
    no_rows: bool,
    /// Print one JSON object per assert of each run
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(sweep: &Sweep) -> ExitCode {
    let read = source(&sweep.plan, &sweep.set)
        .and_then(|source| Ok((source.plan()?, cells(&source)?, source.text())));
    let (plan, mut cells, text) = match read {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let plan = Plan { seed: sweep.seed.unwrap_or(plan.seed), ..plan };
    if let Some(seed) = sweep.seed {
        cells.iter_mut().for_each(|cell| cell.plan.seed = seed);
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let place = sweep.out.clone();
    conduct(Order {
        kind: Kind::Sweep,
        text,
        seeds: sweep.repeat.unwrap_or(plan.sweep.repeat),
        jobs: sweep.jobs.map_or(processors, usize::from),
        threads: processors,
        place: place.unwrap_or_else(|| default_directory(Kind::Sweep, &plan.name, plan.seed)),
        plan,
        cells,
        options: RunOptions::default(),
        keep: if sweep.no_rows { Keep::Summary } else { Keep::Rows },
        json: sweep.json,
    })
}
