//! Experiments with real nodes in network namespaces of one machine.
//!
//! An [`Experiment`] declares its topology, its metrics and their bounds,
//! and a function that starts nodes, acts as their users would, and records what it measures. The
//! runner here makes the lab, runs it, and removes the lab whatever happened.
//!
//! Who owns what: [`lab::Lab`] owns namespaces and files, [`process::Node`] a process,
//! [`report::Report`] the metrics, [`stop::Stop`] all waiting. Every wait has a deadline and ends at
//! SIGINT, SIGTERM and SIGHUP. Experiments do not look into nodes: they use the command line only.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use self::{
    error::Error,
    experiments::{Experiment, Trial},
    lab::Lab,
    process::Setting,
    relay::Network,
    report::{Format, Report},
    stop::Stop,
    tools::Tools,
};

mod blob;
pub mod calibrate;
pub mod client;
pub mod command;
mod edge;
pub mod error;
pub mod experiments;
pub mod inside;
pub mod lab;
mod leftovers;
pub mod lookups;
mod machine;
mod memory;
pub mod metric;
pub mod noise;
pub mod probe;
pub mod process;
pub mod relay;
pub mod replay;
pub mod report;
pub mod source_tree;
pub mod stop;
mod tools;
pub mod validate;

/// How many lines of each node's log are shown when an experiment comes to no result.
const LOG_LINES_MAX: usize = 20;

/// The length of the blob that experiments move unless told otherwise: 256 MiB.
pub const BLOB_BYTES_DEFAULT: u64 = 256 << 20;

/// Says how an experiment is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of nodes, within the experiment's range.
    pub nodes: u8,
    /// The `blobmesh` binary.
    pub binary: PathBuf,
    /// The length of the large blob in bytes; the lab's directory needs about six times as much.
    pub blob_bytes: u64,
    /// How often one thing is measured at most: medians of fewer are rougher, and sooner there.
    pub repeats_max: u8,
    /// How metrics are written.
    pub format: Format,
    /// Whether namespaces, homes and logs are left for inspection.
    pub keep: bool,
}

/// Runs an experiment; returns whether all its bounds hold.
///
/// Metrics go to `output`, and talk to `talk`. The lab is gone when this returns, unless it is to be
/// kept.
///
/// # Errors
/// [`Error::Unavailable`] when this machine cannot run it, and others when a step fails. What was
/// measured until then has been reported, and the rest as missing.
pub fn run(
    experiment: &'static Experiment,
    options: &Options,
    stop: &Stop,
    output: &mut dyn Write,
    talk: &mut dyn Write,
) -> Result<bool, Error> {
    Tools::find()?;
    if !options.binary.is_file() {
        return Err(Error::NoBinary { path: options.binary.clone() });
    }
    let lab = Lab::new(experiment.topology, options.nodes, stop)?;
    let mut report = Report::new(experiment.name, experiment.metrics, options.format, output, talk);
    let setting = Setting { lab: &lab, binary: &options.binary, stop };
    let &Options { nodes, blob_bytes, repeats_max, .. } = options;
    let mut trial = Trial { setting, nodes, blob_bytes, repeats_max, report: &mut report };
    let result = (experiment.run)(&mut trial);
    // Without its network an experiment has measured nothing, whatever it says.
    let result = result.and_then(|()| lab.network().map_or(Ok(()), Network::check));
    if result.is_err() {
        show_logs(lab.path(), &mut report);
    }
    if options.keep {
        let (path, namespaces) = lab.keep();
        report.step(&format!("kept {} and {}", path.display(), namespaces.join(", ")));
    }
    let holds = report.finish();
    result?;
    holds
}

/// Shows the end of every node's log, oldest name first.
fn show_logs(directory: &Path, report: &mut Report<'_>) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    for log in logs {
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let name = log.file_stem().unwrap_or_default().to_string_lossy();
        let skipped = text.lines().count().saturating_sub(LOG_LINES_MAX);
        for line in text.lines().skip(skipped) {
            report.step(&format!("log of {name}: {line}"));
        }
    }
}
