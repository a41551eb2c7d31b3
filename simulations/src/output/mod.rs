//! Directories of results: what a run or a sweep leaves behind, written and read again.
//!
//! A directory holds `manifest.json` ([`Manifest`]: what was run, by which commit, and how it
//! ended), `summary.csv` and `summary.json` (a row for each cell and seed), and the rows of each
//! run that kept them: `fetches.csv`, `timeseries.csv`, `nodes.csv`, and `transfers.csv` and
//! `messages.csv` of a run with the detail of one blob. A run has its rows beside the manifest, a
//! sweep in `runs/cCELL-seedSEED`. `report` adds `report.html` and pictures.
//!
//! A [`Writer`] writes beside the place and takes the place at the end, so a reader sees a whole
//! directory or none. Only a directory that this program wrote, and to which nothing was added, is
//! ever replaced. Reading is strict: what this program would not have written is an error with
//! file, line and column. The CSV files are the same, to the byte, for the same outcome; the
//! manifest tells wall time too.

mod directory;
mod error;
mod machine;
mod manifest;
pub mod progress;
mod record;
mod rows;
mod summary;
mod table;

pub use directory::{Head, Keep, Run, Staged, Writer, default_directory, write_file};
pub use error::Error;
pub use machine::{commit, memory_peak_bytes};
pub use manifest::{AssertFacts, Kind, Manifest, RunFacts, SCHEMA, Settings};
pub use record::Record;
pub use summary::SummaryRow;

/// The names of files in a directory of results.
pub mod file {
    /// What was run and how it ended.
    pub const MANIFEST: &str = "manifest.json";
    /// The metrics, for spreadsheets.
    pub const SUMMARY_CSV: &str = "summary.csv";
    /// The metrics, for programs.
    pub const SUMMARY_JSON: &str = "summary.json";
    /// One row for each get.
    pub const FETCHES: &str = "fetches.csv";
    /// One row for each moment.
    pub const SERIES: &str = "timeseries.csv";
    /// One row for each node.
    pub const NODES: &str = "nodes.csv";
    /// One row for each transfer about one blob.
    pub const TRANSFERS: &str = "transfers.csv";
    /// One row for each message about one blob.
    pub const MESSAGES: &str = "messages.csv";
    /// The page that people look at.
    pub const REPORT: &str = "report.html";
    /// The directory of a sweep's rows.
    pub const RUNS: &str = "runs";
}
