//! `blobmesh-sim`: experiments with blobmesh.
//!
//! Exit codes: 0 done and all bounds hold; 1 a bound does not hold, or a step failed; 2 bad
//! arguments; 77 this machine cannot run it; 128 + n ended by signal n.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// The exit code of a bound that does not hold and of a step that failed.
const FAILED: u8 = 1;

/// The exit code of an experiment that this machine cannot run: the skip of automake and others.
const SKIPPED: u8 = 77;

#[derive(Debug, Parser)]
#[command(name = "blobmesh-sim", version, about = "Experiments with blobmesh", after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all bounds hold, 1 a bound does not hold or a step failed, \
    2 bad arguments, 77 this machine cannot run it, 128 + n ended by signal n";

#[derive(Debug, Subcommand)]
enum Command {
    /// Real nodes in network namespaces of this machine (Linux, root)
    Netns {
        #[command(subcommand)]
        command: commands::netns::Command,
    },
    /// The engine that ships, in virtual time
    Run {
        #[command(subcommand)]
        run: commands::run::Run,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command {
        Command::Netns { command } => commands::netns::execute(&command),
        Command::Run { run } => commands::run::execute(&run),
    }
}

/// Prints a usage error, or the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // With stderr closed there is nobody to tell; the exit code still does.
    let _printed = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED))
}
