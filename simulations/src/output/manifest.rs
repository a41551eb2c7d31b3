//! `manifest.json`: what was run, by which program, and how it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The form of the directory; a change that old readers would misread takes the next number.
pub const SCHEMA: u32 = 1;
/// What the manifest's `program` says.
pub(super) const PROGRAM: &str = "blobmesh-sim";

/// What a cell of a sweep sets: paths into the plan's file, and values as TOML text.
pub type Settings = BTreeMap<String, String>;

/// Tells whether a directory is of one run or of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One run; its rows lie beside the manifest.
    Run,
    /// The runs of all cells and seeds.
    Sweep,
}

/// Is all of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `blobmesh-sim`.
    pub program: String,
    /// [`SCHEMA`].
    pub schema: u32,
    /// One run or many.
    pub kind: Kind,
    /// The plan's name.
    pub name: String,
    /// What question it answers.
    pub about: String,
    /// The commit of the program, or `unknown`.
    pub commit: String,
    /// The first seed.
    pub seed: u64,
    /// Nodes of the largest run.
    pub nodes: u64,
    /// Of a run: BLAKE3 of its event log. Of a sweep: BLAKE3 of its runs' hashes in their order, in
    /// hex, each with a line feed.
    pub event_log_hash: String,
    /// Whether every get of every run had ended.
    pub complete: bool,
    /// Whether every assert held in every run, and no invariant broke.
    pub holds: bool,
    /// Events of all runs.
    pub events: u64,
    /// Events for each second of wall time.
    pub events_per_second: f64,
    /// Real time, of all runs together.
    pub wall_seconds: f64,
    /// Virtual time, of the longest run.
    pub virtual_seconds: f64,
    /// How many threads worked at the runs in all; none where none of ours did.
    #[serde(default)]
    pub threads: Option<usize>,
    /// The most memory that the program had, where the system tells.
    pub memory_peak_bytes: Option<u64>,
    /// That over the nodes; none of a sweep, whose runs share it.
    pub memory_per_node_bytes: Option<u64>,
    /// What a sweep varied.
    pub axes: BTreeMap<String, Vec<String>>,
    /// Each run, in the order of cells, then of seeds.
    pub runs: Vec<RunFacts>,
    /// The plan's file, whole.
    pub plan: String,
}

/// Tells of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFacts {
    /// The cell's number, from 0.
    pub cell: usize,
    /// What it sets.
    pub settings: Settings,
    /// The seed.
    pub seed: u64,
    /// Its nodes.
    pub nodes: u64,
    /// BLAKE3 of its event log.
    pub event_log_hash: String,
    /// Whether all gets had ended.
    pub complete: bool,
    /// Whether its rows were kept.
    pub rows: bool,
    /// Events handled.
    pub events: u64,
    /// Real time.
    pub wall_seconds: f64,
    /// Virtual time at its end, in nanoseconds.
    pub ended_ns: u64,
    /// What the plan's asserts came to.
    pub asserts: Vec<AssertFacts>,
    /// Invariants that did not hold.
    pub violations: Vec<String>,
}

impl RunFacts {
    /// Returns whether every assert and every invariant held.
    pub fn holds(&self) -> bool {
        self.violations.is_empty() && self.asserts.iter().all(|assert| assert.holds)
    }
}

/// Tells what an assert came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssertFacts {
    /// The assert as the plan has it.
    pub text: String,
    /// What was measured; none where there was nothing to measure, or a ratio was over 0.
    pub value: Option<f64>,
    /// Whether it holds; never without a value.
    pub holds: bool,
}
