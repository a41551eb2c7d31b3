//! The command line of blobmesh: arguments, settings, output, hints and exit codes.
//!
//! It decides nothing about blobs: every command is a request to a node, to the running one by its
//! socket or else to one of this process (`session`). What a command answers goes to stdout, what it
//! says about it to stderr (`output`). How it ends is one of the codes in [`exit`].

use std::ffi::OsString;
use std::process::ExitCode;

mod address;
mod args;
mod commands;
mod error;
pub mod exit;
mod files;
mod hints;
mod logging;
mod output;
mod patience;
mod session;
mod settings;
mod signals;
mod units;

pub use output::JSON_VERSION;

use crate::error::CommandError;
use crate::output::Printer;

/// Runs the command line of this process to its exit code.
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let arguments = match args::parse(&argv) {
        Ok(arguments) => arguments,
        Err(error) => {
            let json = argv.iter().any(|argument| argument == "--json");
            return ExitCode::from(Printer::plain(json).clap(&error));
        }
    };
    let printer = Printer::new(&arguments.global);
    logging::install(&arguments, printer.is_colored());
    let result = run(arguments, printer);
    if let Err(error) = &result {
        printer.error(error);
    }
    ExitCode::from(result.map_or_else(|error| error.code(), |()| exit::DONE))
}

fn run(arguments: args::Arguments, printer: Printer) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CommandError::new(
            blobmesh_node::control::api::Trouble::Other,
            format!("cannot start the threads: {error}"),
        )
    })?;
    let result = runtime.block_on(Box::pin(commands::run(arguments, printer)));
    // A read of stdin may still block one of its threads; it ends with the process.
    runtime.shutdown_background();
    result
}
