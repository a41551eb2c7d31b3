//! `blobmesh-sim fuzz-seeds`: random small worlds with trouble in them.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use blobmesh_simulations::fuzz::{self, Failure};
use serde_json::json;

use crate::FAILED;

/// Failures that are told in full; of more only the number is.
const FAILURES_TOLD_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many worlds to run, beside those that failed once
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    first: u64,
    /// Print one JSON object per metric
    #[arg(long)]
    json: bool,
}

/// Runs the worlds and tells of those that failed.
pub(crate) fn execute(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let mut seeds = fuzz::kept_seeds();
    seeds.extend((0..arguments.seeds).map(|number| arguments.first.wrapping_add(number)));
    let failures = run(&seeds);
    let took = started.elapsed().as_secs_f64();
    match report(arguments.json, seeds.len(), &failures, took, &mut io::stdout().lock()) {
        Ok(()) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::from(FAILED),
    }
}

/// Runs seeds on all processors, and returns the failures by seed.
fn run(seeds: &[u64]) -> Vec<Failure> {
    let (next, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Ok(place) = usize::try_from(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(seed) = seeds.get(place) else { break };
            match fuzz::run_seed(*seed) {
                Ok(None) => {}
                Ok(Some(failure)) => {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                }
                // Nothing is written, so nothing can go wrong with it.
                Err(_) => broken.store(true, Ordering::Relaxed),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|failure| failure.seed);
    failures
}

fn report(
    json: bool,
    worlds: usize,
    failures: &[Failure],
    took: f64,
    output: &mut impl Write,
) -> io::Result<()> {
    for failure in failures.iter().take(FAILURES_TOLD_MAX) {
        let Failure { seed, faults } = failure;
        if json {
            writeln!(
                output,
                "{}",
                json!({ "type": "failure", "version": 1, "seed": seed, "faults": faults })
            )?;
        } else {
            writeln!(output, "seed {seed}")?;
            for fault in faults {
                writeln!(output, "  {fault}")?;
            }
        }
    }
    let holds = failures.is_empty();
    let rows = [
        ("worlds", json!(worlds), "count", None, true),
        ("failures", json!(failures.len()), "count", Some("= 0"), holds),
        ("took_s", json!(took), "s", None, true),
    ];
    for (metric, value, unit, bound, holds) in rows {
        if json {
            let row = json!({
                "experiment": "fuzz-seeds", "metric": metric, "value": value, "unit": unit,
                "bound": bound, "holds": holds,
            });
            writeln!(output, "{row}")?;
        } else {
            writeln!(output, "{metric:10} {value} {unit}  {}", bound.unwrap_or_default())?;
        }
    }
    output.flush()
}
