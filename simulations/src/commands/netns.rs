//! `blobmesh-sim netns`: lists and runs the experiments in network namespaces.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Subcommand;

use super::complain;
use crate::SKIPPED;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the experiments with their metrics and bounds
    List {
        /// Print one JSON object per metric
        #[arg(long)]
        json: bool,
    },
    /// Run an experiment
    ///
    /// The blobmesh binary is the one beside this program; BLOBMESH_BIN names another.
    Run(Run),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The experiment's name, as `netns list` shows it
    name: String,
    /// How many nodes; each experiment has a range, whose start is the default
    #[arg(long, value_name = "N")]
    nodes: Option<u8>,
    /// Kill a node under way: runs the experiment NAME-kill, where there is one
    #[arg(long)]
    kill: bool,
    /// Print one JSON object per metric, as soon as it is measured
    #[arg(long)]
    json: bool,
    /// Leave namespaces, homes and logs for inspection; the next run removes them
    #[arg(long)]
    keep: bool,
}

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{binary, chain, code_of, execute};

/// Says that this system has no network namespaces.
#[cfg(not(target_os = "linux"))]
pub(crate) fn execute(_command: &Command) -> ExitCode {
    complain("network namespaces need Linux");
    ExitCode::from(SKIPPED)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{error::Error as _, path::PathBuf};

    use blobmesh_simulations::netns::{
        BLOB_BYTES_DEFAULT, Options,
        error::Error,
        experiments::{self, CATALOGUE, Experiment},
        report::Format,
        stop::Stop,
    };
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;
    use crate::{Arguments, BAD_PLAN, FAILED, usage};

    /// Carries out the command.
    pub(crate) fn execute(command: &Command) -> ExitCode {
        match command {
            Command::List { json } => match list(*json, &mut io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_reader_gone) => ExitCode::from(FAILED),
            },
            Command::Run(arguments) => match plan(arguments) {
                Ok((experiment, options)) => run(experiment, &options),
                Err(error) => usage(&error),
            },
        }
    }

    fn run(experiment: &'static Experiment, options: &Options) -> ExitCode {
        let (mut output, mut talk) = (io::stdout(), io::stderr());
        let result = Stop::on_signals().and_then(|stop| {
            blobmesh_simulations::netns::run(experiment, options, &stop, &mut output, &mut talk)
        });
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => {
                complain(&format!("{}: a bound does not hold", experiment.name));
                ExitCode::from(FAILED)
            }
            Err(error) => {
                complain(&chain(&error));
                ExitCode::from(code_of(&error))
            }
        }
    }

    /// Checks the arguments of a run.
    fn plan(arguments: &Run) -> Result<(&'static Experiment, Options), clap::Error> {
        let invalid = |message| Arguments::command().error(ErrorKind::ValueValidation, message);
        let killing = format!("{}-kill", arguments.name);
        let name = if arguments.kill { &killing } else { &arguments.name };
        let experiment = experiments::find(name).ok_or_else(|| {
            let names: Vec<&str> = CATALOGUE.iter().map(|experiment| experiment.name).collect();
            invalid(format!("no experiment is named {name}; there are {}", names.join(", ")))
        })?;
        let range = &experiment.nodes;
        let nodes = arguments.nodes.unwrap_or(*range.start());
        if !range.contains(&nodes) {
            let (least, most) = (range.start(), range.end());
            return Err(invalid(format!("{name} has {least} to {most} nodes, not {nodes}")));
        }
        let binary = binary().map_err(|error| invalid(format!("no blobmesh binary: {error}")))?;
        let format = if arguments.json { Format::JsonLines } else { Format::Table };
        let (blob_bytes, repeats_max, keep) = (BLOB_BYTES_DEFAULT, u8::MAX, arguments.keep);
        Ok((experiment, Options { nodes, binary, blob_bytes, repeats_max, format, keep }))
    }

    /// Returns the path in BLOBMESH_BIN, or that of `blobmesh` beside this program, absolute.
    pub(crate) fn binary() -> io::Result<PathBuf> {
        match std::env::var_os("BLOBMESH_BIN") {
            Some(path) => std::path::absolute(path),
            None => Ok(std::env::current_exe()?.with_file_name("blobmesh")),
        }
    }

    /// Returns the exit code of an error.
    pub(crate) fn code_of(error: &Error) -> u8 {
        match error {
            Error::Unavailable { .. } => SKIPPED,
            Error::Unplayable { .. } => BAD_PLAN,
            Error::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(FAILED),
            Error::Answer { .. }
            | Error::Command { .. }
            | Error::File { .. }
            | Error::Late { .. }
            | Error::Layout { .. }
            | Error::NoBinary { .. }
            | Error::NodeEnded { .. }
            | Error::NoHost { .. }
            | Error::NoRelay
            | Error::Report { .. }
            | Error::System { .. } => FAILED,
        }
    }

    /// Writes an error and its causes in one line.
    pub(crate) fn chain(error: &Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    fn list(json: bool, output: &mut impl Write) -> io::Result<()> {
        for experiment in CATALOGUE {
            if !json {
                let (least, most) = (experiment.nodes.start(), experiment.nodes.end());
                writeln!(output, "{}: {}", experiment.name, experiment.about)?;
                writeln!(output, "  nodes {least} to {most}")?;
            }
            for spec in experiment.metrics {
                let bound = spec.bound.map(|bound| bound.to_string());
                if json {
                    let row = serde_json::json!({
                        "experiment": experiment.name,
                        "metric": spec.name,
                        "unit": spec.unit,
                        "bound": bound,
                        "about": spec.about,
                    });
                    writeln!(output, "{row}")?;
                } else {
                    let bound = bound.as_deref().unwrap_or("-");
                    writeln!(output, "  {} ({}) {bound}: {}", spec.name, spec.unit, spec.about)?;
                }
            }
        }
        output.flush()
    }
}
