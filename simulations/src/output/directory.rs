//! Writing a directory of results: beside its place first, then into it in one step.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::error::Error;
use super::file;
use super::manifest::{AssertFacts, Kind, Manifest, PROGRAM, RunFacts, SCHEMA, Settings};
use super::record;
use super::summary::{self, SummaryRow};
use super::table;
use crate::outcome::Outcome;
use crate::plan::{Assert, Plan};

/// Where results go without `--out`.
const ROOT: &str = "blobmesh-sim-out";

/// Returns where the results of a plan go by default: `blobmesh-sim-out/NAME-seedN` of a run,
/// `blobmesh-sim-out/NAME-sweep` of a sweep. The same plan and seed have the same place.
pub fn default_directory(kind: Kind, name: &str, seed: u64) -> PathBuf {
    let leaf = match kind {
        Kind::Run => format!("{name}-seed{seed}"),
        Kind::Sweep => format!("{name}-sweep"),
    };
    Path::new(ROOT).join(leaf)
}

/// Is a run that ended.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The cell's number; 0 of a run that is no sweep's.
    pub cell: usize,
    /// What the cell sets.
    pub settings: &'a Settings,
    /// The seed it ran with.
    pub seed: u64,
    /// The plan it ran, with the settings in it.
    pub plan: &'a Plan,
    /// How long it took in real time.
    pub wall: Duration,
    /// What it came to.
    pub outcome: &'a Outcome,
}

/// Says whether a run's rows are written, or only its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Gets, series, nodes, and what the detail asked for.
    Rows,
    /// The metrics only.
    Summary,
}

/// Is what the manifest says beside the runs.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The plan as it stands.
    pub plan: &'a Plan,
    /// Its file, whole.
    pub plan_text: &'a str,
    /// See [`commit`](super::commit).
    pub commit: String,
    /// How long all took in real time.
    pub wall: Duration,
    /// How many threads worked at the runs in all; none where none of ours did.
    pub threads: Option<usize>,
    /// See [`memory_peak_bytes`](super::memory_peak_bytes).
    pub memory_peak_bytes: Option<u64>,
}

/// Writes a directory of results. Dropped before [`Staged::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    kind: Kind,
    place: PathBuf,
    beside: TempDir,
    runs: Vec<RunFacts>,
    rows: Vec<SummaryRow>,
}

impl Writer {
    /// Prepares to write into `place`, whose parents are made.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when something is there that no run wrote: it is said before the run
    /// begins.
    pub fn create(place: &Path, kind: Kind) -> Result<Self, Error> {
        let place = resolved(place)?;
        refuse_others(&place)?;
        let parent = place.parent().unwrap_or(&place);
        fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        let beside = tempfile::Builder::new().prefix(BESIDE).tempdir_in(parent);
        let beside = beside.map_err(Error::file("make a directory in", parent))?;
        let staged = beside.path().join(STAGED);
        fs::create_dir(&staged).map_err(Error::file("make", &staged))?;
        Ok(Self { kind, place, beside, runs: Vec::new(), rows: Vec::new() })
    }

    /// Takes a run. Runs of a sweep may come in any order.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add(&mut self, run: &Run<'_>, keep: Keep) -> Result<(), Error> {
        let facts = facts(run, keep);
        if keep == Keep::Rows {
            let folder = record::rows_folder(&self.beside.path().join(STAGED), self.kind, &facts);
            write_rows(&folder, run.outcome)?;
        }
        self.rows.push(SummaryRow {
            settings: run.settings.clone(),
            seed: run.seed,
            metrics: run.outcome.summary.clone(),
        });
        self.runs.push(facts);
        Ok(())
    }

    /// Writes the manifest and the metrics of all runs, in the order of cells and seeds.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self, head: &Head<'_>) -> Result<Staged, Error> {
        let mut both: Vec<_> = self.runs.into_iter().zip(self.rows).collect();
        both.sort_by_key(|(facts, _)| (facts.cell, facts.seed));
        let (runs, rows): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        let path = self.beside.path().join(STAGED);
        summary::write_csv(&path.join(file::SUMMARY_CSV), &rows)?;
        write_json(&path.join(file::SUMMARY_JSON), &summary::json(&rows))?;
        write_json(&path.join(file::MANIFEST), &manifest(self.kind, head, runs))?;
        Ok(Staged { place: self.place, beside: self.beside, path })
    }
}

/// Is a whole directory that waits beside its place; reports may be added to it.
#[derive(Debug)]
pub struct Staged {
    place: PathBuf,
    beside: TempDir,
    path: PathBuf,
}

impl Staged {
    /// Returns where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it into its place, and what was there away; returns the place.
    ///
    /// Linux changes the two in one step. Elsewhere, and on file systems that cannot, there is a
    /// moment without either.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when something came into the place since; what was there is back then.
    pub fn publish(self) -> Result<PathBuf, Error> {
        refuse_others(&self.place)?;
        if exchanged(&self.path, &self.place) {
            return Ok(self.place);
        }
        let old = self.beside.path().join(REPLACED);
        let replaced = match fs::rename(&self.place, &old) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::file("replace", &self.place)(error)),
        };
        if let Err(error) = fs::rename(&self.path, &self.place) {
            if replaced {
                fs::rename(&old, &self.place).map_err(Error::file("put back", &self.place))?;
            }
            return Err(Error::file("write", &self.place)(error));
        }
        Ok(self.place)
    }
}

/// Lets two directories change places, if both are there and the system can.
#[cfg(target_os = "linux")]
fn exchanged(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

/// Says that this system cannot.
#[cfg(not(target_os = "linux"))]
fn exchanged(_a: &Path, _b: &Path) -> bool {
    false
}

/// Replaces a file in one step.
///
/// # Errors
/// Those of writing.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(BESIDE);
    // What is for reading, others may read: by itself a temporary file is its owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent).map_err(Error::file("write into", parent))?;
    file.write_all(bytes).map_err(Error::file("write", path))?;
    file.persist(path).map_err(|error| Error::file("write", path)(error.error))?;
    Ok(())
}

/// What names begin with that are on their way.
const BESIDE: &str = ".blobmesh-sim-";
/// What is written beside the place.
const STAGED: &str = "new";
/// What was in the place, until the directory beside it goes.
const REPLACED: &str = "old";

/// Follows the place to where it is: a link is kept, and what it names is replaced.
fn resolved(place: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(place) {
        Ok(path) => Ok(path),
        Err(_not_there) => std::path::absolute(place).map_err(Error::file("find", place)),
    }
}

/// Fails unless the place is free, or empty, or holds nothing but what we write.
fn refuse_others(place: &Path) -> Result<(), Error> {
    let not_ours = |reason: String| Error::NotOurs { path: place.to_path_buf(), reason };
    let entries = match names_in(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(not_ours("it is no directory".to_owned()));
        }
        Err(error) => return Err(Error::file("look into", place)(error)),
    };
    if entries.is_empty() {
        return Ok(());
    }
    if record::read_manifest(&place.join(file::MANIFEST)).is_err() {
        return Err(not_ours(format!("it has no {} of blobmesh-sim", file::MANIFEST)));
    }
    match entries.iter().find(|name| !is_ours(name)) {
        Some(name) => Err(not_ours(format!("it holds {name}, which blobmesh-sim did not write"))),
        None => Ok(()),
    }
}

fn is_ours(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        file::MANIFEST,
        file::SUMMARY_CSV,
        file::SUMMARY_JSON,
        file::FETCHES,
        file::SERIES,
        file::NODES,
        file::TRANSFERS,
        file::MESSAGES,
        file::REPORT,
        file::RUNS,
    ];
    NAMES.contains(&name) || name.ends_with(".svg") || name.starts_with(BESIDE)
}

fn names_in(place: &Path) -> io::Result<Vec<String>> {
    let names =
        fs::read_dir(place)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

fn write_rows(folder: &Path, outcome: &Outcome) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    table::write(&folder.join(file::FETCHES), &outcome.fetches)?;
    table::write(&folder.join(file::SERIES), &outcome.series)?;
    table::write(&folder.join(file::NODES), &outcome.nodes)?;
    if !outcome.transfers.is_empty() || !outcome.messages.is_empty() {
        table::write(&folder.join(file::TRANSFERS), &outcome.transfers)?;
        table::write(&folder.join(file::MESSAGES), &outcome.messages)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
    fs::write(path, text + "\n").map_err(Error::file("write", path))
}

fn facts(run: &Run<'_>, keep: Keep) -> RunFacts {
    RunFacts {
        cell: run.cell,
        settings: run.settings.clone(),
        seed: run.seed,
        nodes: run.plan.nodes() as u64,
        event_log_hash: run.outcome.event_log_hash.clone(),
        complete: run.outcome.complete,
        rows: keep == Keep::Rows,
        events: run.outcome.events,
        wall_seconds: run.wall.as_secs_f64(),
        ended_ns: run.outcome.ended_ns,
        asserts: run.plan.asserts.iter().map(|assert| assert_facts(assert, run.outcome)).collect(),
        violations: run.outcome.violations.clone(),
    }
}

fn assert_facts(assert: &Assert, outcome: &Outcome) -> AssertFacts {
    let checked = assert.check(&outcome.summary);
    let value = checked.value.filter(|value| value.is_finite());
    AssertFacts { text: assert.text.clone(), value, holds: checked.holds() }
}

fn manifest(kind: Kind, head: &Head<'_>, runs: Vec<RunFacts>) -> Manifest {
    let nodes = runs.iter().map(|run| run.nodes).max().unwrap_or(0);
    let events: u64 = runs.iter().map(|run| run.events).sum();
    let ended = runs.iter().map(|run| run.ended_ns).max().unwrap_or(0);
    let wall_seconds = head.wall.as_secs_f64();
    let alone = kind == Kind::Run;
    Manifest {
        program: PROGRAM.to_owned(),
        schema: SCHEMA,
        kind,
        name: head.plan.name.clone(),
        about: head.plan.about.clone(),
        commit: head.commit.clone(),
        seed: runs.first().map_or(head.plan.seed, |run| run.seed),
        nodes,
        event_log_hash: hash_of(kind, &runs),
        complete: runs.iter().all(|run| run.complete),
        holds: runs.iter().all(RunFacts::holds),
        events,
        events_per_second: if wall_seconds > 0.0 { events as f64 / wall_seconds } else { 0.0 },
        wall_seconds,
        virtual_seconds: Duration::from_nanos(ended).as_secs_f64(),
        threads: head.threads,
        memory_peak_bytes: head.memory_peak_bytes,
        memory_per_node_bytes: head
            .memory_peak_bytes
            .filter(|_| alone)
            .and_then(|bytes| bytes.checked_div(nodes)),
        axes: if alone { Default::default() } else { head.plan.sweep.axes.clone() },
        runs,
        plan: head.plan_text.to_owned(),
    }
}

fn hash_of(kind: Kind, runs: &[RunFacts]) -> String {
    if let (Kind::Run, [run]) = (kind, runs) {
        return run.event_log_hash.clone();
    }
    let mut hasher = blake3::Hasher::new();
    for run in runs {
        hasher.update(run.event_log_hash.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}
