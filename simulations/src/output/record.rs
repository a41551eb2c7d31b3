//! Reading a directory of results.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::file;
use super::manifest::{Kind, Manifest, PROGRAM, RunFacts, SCHEMA};
use super::summary::{self, SummaryRow};
use super::table;
use crate::outcome::Outcome;

/// The largest manifest that is read; plans have a bound of their own, and a sweep has many runs.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// Is a directory of results, its rows still in files.
#[derive(Clone, Debug)]
pub struct Record {
    /// The directory.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// The metrics, one row for each of the manifest's runs, in their order.
    pub summary: Vec<SummaryRow>,
}

impl Record {
    /// Reads manifest and metrics.
    ///
    /// # Errors
    /// What is missing, malformed, too large, or does not fit together.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let manifest = read_manifest(&path.join(file::MANIFEST))?;
        let summary_path = path.join(file::SUMMARY_CSV);
        let summary = summary::read_csv(&summary_path)?;
        let runs = manifest.runs.iter().map(|run| (&run.settings, run.seed));
        if !summary.iter().map(|row| (&row.settings, row.seed)).eq(runs) {
            let problem = format!("cells and seeds are not those of {}", file::MANIFEST);
            return Err(Error::mismatch(&summary_path, problem));
        }
        Ok(Self { path: path.to_path_buf(), manifest, summary })
    }

    /// Returns the runs with their metrics.
    pub fn runs(&self) -> impl Iterator<Item = (&RunFacts, &SummaryRow)> {
        self.manifest.runs.iter().zip(&self.summary)
    }

    /// Reads the rows of a run; none where it did not keep them.
    ///
    /// # Errors
    /// As those of [`Record::open`].
    pub fn outcome(&self, run: &RunFacts) -> Result<Option<Outcome>, Error> {
        if !run.rows {
            return Ok(None);
        }
        let folder = rows_folder(&self.path, self.manifest.kind, run);
        let found = self.runs().find(|(facts, _)| (facts.cell, facts.seed) == (run.cell, run.seed));
        Ok(Some(Outcome {
            summary: found.map(|(_, row)| row.metrics.clone()).unwrap_or_default(),
            fetches: table::read(&folder.join(file::FETCHES))?,
            series: table::read(&folder.join(file::SERIES))?,
            nodes: table::read(&folder.join(file::NODES))?,
            transfers: table::read_if_there(&folder.join(file::TRANSFERS))?,
            messages: table::read_if_there(&folder.join(file::MESSAGES))?,
            event_log_hash: run.event_log_hash.clone(),
            events: run.events,
            ended_ns: run.ended_ns,
            complete: run.complete,
            violations: run.violations.clone(),
        }))
    }
}

/// Returns where the rows of a run lie.
pub(super) fn rows_folder(path: &Path, kind: Kind, run: &RunFacts) -> PathBuf {
    match kind {
        Kind::Run => path.to_path_buf(),
        Kind::Sweep => path.join(file::RUNS).join(format!("c{}-seed{}", run.cell, run.seed)),
    }
}

/// Reads a manifest of this program.
pub(super) fn read_manifest(path: &Path) -> Result<Manifest, Error> {
    let malformed = |source| Error::Json { path: path.to_path_buf(), source };
    let mut text = String::new();
    let file = table::open_bounded(path, MANIFEST_BYTES_MAX)?;
    file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text).map_err(Error::file("read", path))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(malformed)?;
    if manifest.program != PROGRAM {
        let problem = format!("it is of {:?}, not of {PROGRAM}", manifest.program);
        return Err(Error::mismatch(path, problem));
    }
    if manifest.schema != SCHEMA {
        let (path, found, known) = (path.to_path_buf(), manifest.schema, SCHEMA);
        return Err(Error::Schema { path, found, known });
    }
    if manifest.kind == Kind::Run && manifest.runs.len() != 1 {
        return Err(Error::mismatch(path, format!("a run is one, not {}", manifest.runs.len())));
    }
    Ok(manifest)
}
