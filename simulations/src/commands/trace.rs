//! `blobmesh-sim trace`: draws the way of one blob through a run.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use blobmesh_simulations::outcome::Outcome;
use blobmesh_simulations::output::{Record, file, write_file};
use blobmesh_simulations::plan::{Plan, PlanError, Source};
use blobmesh_simulations::trace::{self, Again, Error};
use blobmesh_simulations::world::{RunOptions, run_plan};

use super::{complain_of, told};
use crate::FAILED;

#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// The directory of a run or a sweep
    directory: PathBuf,
    /// The blob, as fetches.csv names it: SET/INDEX
    #[arg(long, value_name = "BLOB")]
    blob: String,
    /// The cell of a sweep, as manifest.json numbers it [default: the first]
    #[arg(long, value_name = "N")]
    cell: Option<usize>,
    /// The seed of a sweep [default: the first]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where the picture goes [default: trace-BLOB.svg in the directory]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Draws and prints where the picture is.
pub(crate) fn execute(arguments: &Trace) -> ExitCode {
    let place = match written(arguments) {
        Ok(place) => place,
        Err(error) => {
            complain_of(&error);
            return ExitCode::from(FAILED);
        }
    };
    match writeln!(io::stdout().lock(), "{}", place.display()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_reader_gone) => ExitCode::from(FAILED),
    }
}

fn written(arguments: &Trace) -> Result<PathBuf, Error> {
    let record = Record::open(&arguments.directory)?;
    let run = trace::run_of(&record, arguments.cell, arguments.seed)?;
    let svg = trace::trace(&record, run, &arguments.blob, run_again)?;
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    let name: String = arguments.blob.chars().take(80).map(plain).collect();
    let place = arguments.out.clone();
    let place = place.unwrap_or_else(|| arguments.directory.join(format!("trace-{name}.svg")));
    write_file(&place, svg.as_bytes())?;
    Ok(place)
}

/// Runs a plan again as it was run, but for the blob's rows.
fn run_again(again: &Again<'_>) -> Result<Outcome, String> {
    let options = RunOptions { detail: again.detail.clone(), ..RunOptions::default() };
    let plan = planned(again).map_err(|error| told(&error))?;
    run_plan(&plan, &options, |_| {}).map_err(|error| told(&error))
}

fn planned(again: &Again<'_>) -> Result<Plan, PlanError> {
    let mut source = Source::parse(file::MANIFEST, again.plan_text)?;
    for (path, value) in again.settings {
        source.set(&format!("{path}={value}"))?;
    }
    Ok(Plan { seed: again.seed, ..source.plan()? })
}
