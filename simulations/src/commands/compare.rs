//! `blobmesh-sim compare`: two directories of results against each other.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use blobmesh_simulations::compare::{Bounds, Comparison, compare};
use blobmesh_simulations::output::{Error, Record};
use clap::{CommandFactory as _, error::ErrorKind};

use super::complain_of;
use crate::{Arguments, FAILED, usage};

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The results to be judged
    a: PathBuf,
    /// The results they are held to, such as those of real nodes
    b: PathBuf,
    /// What the relative error of a metric may be in any cell, as finish.p50=10%; by default
    /// finish.p50=15%, finish.p95=25%, and 3% for local.bytes, lan.bytes and edge.bytes
    #[arg(long, value_name = "METRIC=SHARE")]
    bound: Vec<String>,
    /// What the Kolmogorov-Smirnov distance of finish and of fetch times may be, 0 to 1
    #[arg(long, value_name = "DISTANCE")]
    distance: Option<f64>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Compares and tells; fails when a bound does not hold.
pub(crate) fn execute(arguments: &Compare) -> ExitCode {
    let mut bounds = Bounds::default().with_distance(arguments.distance);
    if let Some(bad) = arguments.bound.iter().find_map(|text| bounds.set(text).err()) {
        return usage(
            &Arguments::command().error(ErrorKind::ValueValidation, format!("--bound: {bad}")),
        );
    }
    let comparison = match compared(arguments, &bounds) {
        Ok(comparison) => comparison,
        Err(error) => {
            complain_of(&error);
            return ExitCode::from(FAILED);
        }
    };
    match print(&comparison, arguments.json) {
        Ok(()) if comparison.holds => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::from(FAILED),
    }
}

fn compared(arguments: &Compare, bounds: &Bounds) -> Result<Comparison, Error> {
    compare(&Record::open(&arguments.a)?, &Record::open(&arguments.b)?, bounds)
}

fn print(comparison: &Comparison, json: bool) -> io::Result<()> {
    let mut output = io::BufWriter::new(io::stdout().lock());
    if json {
        comparison.write_json(&mut output)?
    } else {
        comparison.write_text(&mut output)?
    }
    output.flush()
}
