//! `blobmesh-sim`: experiments with blobmesh.
//!
//! Exit codes: 0 done and all bounds hold; 1 a bound does not hold, or a step failed; 2 bad
//! arguments or a bad plan; 77 this machine cannot run it; 128 + n ended by signal n.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

/// A large world lies scattered over hundreds of megabytes, and much of its time is waiting for memory: with huge pages
/// it waits less.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a bound that does not hold and of a step that failed.
const FAILED: u8 = 1;

/// The exit code of a plan that is refused, as of bad arguments.
const BAD_PLAN: u8 = 2;

/// The exit code of an experiment that this machine cannot run: the skip of automake and others.
const SKIPPED: u8 = 77;

#[derive(Debug, Parser)]
#[command(name = "blobmesh-sim", version, about = "Experiments with blobmesh", after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all bounds hold, 1 a bound does not hold or a step failed, \
    2 bad arguments or a bad plan, 77 this machine cannot run it, 128 + n ended by signal n";

#[derive(Debug, Subcommand)]
enum Command {
    /// Real nodes in network namespaces of this machine (Linux, root)
    Netns {
        #[command(subcommand)]
        command: commands::netns::Command,
    },
    /// Random small worlds with trouble in them
    FuzzSeeds(commands::fuzz::Arguments),
    /// Run a plan: the engine that ships, in virtual time
    Run(commands::run::Run),
    /// Run a plan in every cell of its sweep, each with several seeds
    Sweep(commands::sweep::Sweep),
    /// Play the run of a plan with real nodes, and write it down as `run` does
    Replay(commands::replay::Replay),
    /// Measure what this machine costs a node beside the wire (Linux, root)
    Calibrate(commands::validate::Calibrate),
    /// Measure provider searches of real nodes, and hold the model of the DHT to them (Linux, root)
    CalibrateDht(commands::lookups::Lookups),
    /// Hold the simulator to real nodes: replay cells, fit half of them, compare the others (Linux, root)
    Validate(commands::validate::Validate),
    /// List the plans that come with this program
    List(commands::list::List),
    /// Write a plan that comes with this program, as a start
    New(commands::new::New),
    /// Read a plan and say what it found; exit code 2 if it is wrong
    Check(commands::check::Check),
    /// Hold one directory of results to another: errors by cell, distances of distributions, ranks
    Compare(commands::compare::Compare),
    /// Make report.html and its pictures again from a directory of results
    Report(commands::report::Report),
    /// Draw who asked whom for one blob, and who sent it, as SVG
    Trace(commands::trace::Trace),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command {
        Command::Netns { command } => commands::netns::execute(&command),
        Command::FuzzSeeds(arguments) => commands::fuzz::execute(&arguments),
        Command::Run(run) => commands::run::execute(&run),
        Command::Sweep(sweep) => commands::sweep::execute(&sweep),
        Command::Replay(replay) => commands::replay::execute(&replay),
        Command::Calibrate(calibrate) => commands::validate::calibrate(&calibrate),
        Command::CalibrateDht(lookups) => commands::lookups::execute(&lookups),
        Command::Validate(validate) => commands::validate::validate(&validate),
        Command::List(list) => commands::list::execute(&list),
        Command::New(new) => commands::new::execute(&new),
        Command::Check(check) => commands::check::execute(&check),
        Command::Compare(compare) => commands::compare::execute(&compare),
        Command::Report(report) => commands::report::execute(&report),
        Command::Trace(trace) => commands::trace::execute(&trace),
    }
}

/// Prints a usage error, or the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // With stderr closed there is nobody to tell; the exit code still does.
    let _printed = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED))
}
