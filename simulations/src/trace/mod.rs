//! The way of one blob: who asked whom, who sent what, drawn in space and time.
//!
//! A run keeps no messages, for there are too many; but the same plan, settings and seed give the
//! same run, so it is run again with [`Detail::Blob`], and its event log's hash shows that it is
//! the same. How a plan is run is the caller's to say.

mod draw;
mod lines;

use std::collections::BTreeMap;

pub use draw::diagram;

use crate::outcome::{Detail, Outcome};
use crate::output::{self, Record, RunFacts, Settings};

/// Says which run is to be run again, and what it must write down.
#[derive(Clone, Debug)]
pub struct Again<'a> {
    /// The plan's file.
    pub plan_text: &'a str,
    /// What the cell sets in it.
    pub settings: &'a Settings,
    /// The seed.
    pub seed: u64,
    /// The blob.
    pub detail: Detail,
}

/// Says why there is no diagram.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory could not be read.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// The directory has no such run.
    #[error("there is no run of cell {cell} with seed {seed}")]
    NoRun {
        /// The cell that was asked for.
        cell: usize,
        /// The seed that was asked for.
        seed: u64,
    },
    /// The run could not be run again.
    #[error("cannot run it again: {reason}")]
    Again {
        /// Why.
        reason: String,
    },
    /// What was run again was another run.
    #[error(
        "the run cannot be repeated: commit {commit} wrote the log {expected}, this program writes {found}"
    )]
    OtherRun {
        /// The commit of the directory.
        commit: String,
        /// Its event log's hash.
        expected: String,
        /// The hash now.
        found: String,
    },
    /// Nothing happened to the blob.
    #[error("nobody asked for or sent {blob}; blobs that were got: {some}")]
    NoRows {
        /// The blob that was asked for.
        blob: String,
        /// Some that there are.
        some: String,
    },
}

/// Returns the run of a cell and seed; without them the first.
///
/// # Errors
/// [`Error::NoRun`].
pub fn run_of(record: &Record, cell: Option<usize>, seed: Option<u64>) -> Result<&RunFacts, Error> {
    let wanted = |run: &&RunFacts| {
        cell.is_none_or(|cell| run.cell == cell) && seed.is_none_or(|seed| run.seed == seed)
    };
    let missing = || Error::NoRun {
        cell: cell.unwrap_or_default(),
        seed: seed.unwrap_or(record.manifest.seed),
    };
    record.manifest.runs.iter().find(wanted).ok_or_else(missing)
}

/// Draws the way of a blob, from the rows of the run if it kept them, else by running it again.
///
/// # Errors
/// [`Error`].
pub fn trace(
    record: &Record,
    run: &RunFacts,
    blob: &str,
    again: impl FnOnce(&Again<'_>) -> Result<Outcome, String>,
) -> Result<String, Error> {
    let kept = record.outcome(run)?.filter(|outcome| has_rows(outcome, blob));
    let outcome = match kept {
        Some(outcome) => outcome,
        None => repeated(record, run, blob, again)?,
    };
    diagram(&outcome, blob).ok_or_else(|| {
        let names: BTreeMap<&str, ()> =
            outcome.fetches.iter().map(|row| (row.blob.as_str(), ())).collect();
        let some: Vec<&str> = names.into_keys().take(5).collect();
        Error::NoRows { blob: blob.to_owned(), some: some.join(", ") }
    })
}

fn repeated(
    record: &Record,
    run: &RunFacts,
    blob: &str,
    again: impl FnOnce(&Again<'_>) -> Result<Outcome, String>,
) -> Result<Outcome, Error> {
    let outcome = again(&Again {
        plan_text: &record.manifest.plan,
        settings: &run.settings,
        seed: run.seed,
        detail: Detail::Blob(blob.to_owned()),
    });
    let outcome = outcome.map_err(|reason| Error::Again { reason })?;
    if outcome.event_log_hash != run.event_log_hash {
        return Err(Error::OtherRun {
            commit: record.manifest.commit.clone(),
            expected: run.event_log_hash.clone(),
            found: outcome.event_log_hash,
        });
    }
    Ok(outcome)
}

fn has_rows(outcome: &Outcome, blob: &str) -> bool {
    outcome.transfers.iter().any(|row| row.blob == blob)
        || outcome.messages.iter().any(|row| row.blob == blob)
}
