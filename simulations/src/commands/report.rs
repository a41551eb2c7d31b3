//! `blobmesh-sim report`: makes the page of a directory of results again.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use blobmesh_simulations::output::{Error, file};
use blobmesh_simulations::report::{self, Envelope};

use super::complain_of;
use crate::FAILED;

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// The directory of a run or a sweep
    directory: PathBuf,
    /// What a validation against real nodes found, to print into the page
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
}

/// Writes the page and its pictures, and prints where the page is.
pub(crate) fn execute(arguments: &Report) -> ExitCode {
    if let Err(error) = written(arguments) {
        complain_of(&error);
        return ExitCode::from(FAILED);
    }
    let page = arguments.directory.join(file::REPORT);
    match writeln!(io::stdout().lock(), "{}", page.display()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_reader_gone) => ExitCode::from(FAILED),
    }
}

fn written(arguments: &Report) -> Result<(), Error> {
    let envelope = arguments.validation.as_deref().map(Envelope::read).transpose()?;
    report::write(&arguments.directory, envelope.as_ref())
}
