//! Provider searches of real nodes, and the model of the DHT held to them.
//!
//! Some nodes of one mesh, each told the address of the first and of no other, without multicast: they know
//! each other by the DHT alone. In each [cell](LookupCell), a number of nodes and a delay of wires, every
//! node searches a blob that nobody has, over connections that it has and over new ones, and gets a blob that
//! another node advertised. A world does the very same (`model`). Half of the cells set what the
//! processor takes of a question and of a dial; the others test.
//!
//! What is compared is how long a search takes to its end, how long it takes to name a provider, and whether
//! it does. How many nodes it asked no node tells.

mod mesh;
mod model;

use std::{
    fs::File,
    io::{Read as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::model::{LookupModel, fitted};
use super::{error::Error, stop::Stop};
use crate::{output, stats, world::Calibration};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What medians and slow searches of a held-out cell may be off by, and the share of blobs found.
const MEDIAN_BOUND: f64 = 0.15;
const SLOW_BOUND: f64 = 0.25;
const FOUND_BOUND: f64 = 0.03;

/// What times may be off by whatever they are, in seconds: a node that keeps a record itself names its
/// provider at once, and a small part of nothing is nothing.
const SLACK_S: f64 = 0.002;

/// Names a mesh whose searches are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupCell {
    /// How many nodes there are.
    pub nodes: u8,
    /// How long a packet takes from node to node, in microseconds.
    pub latency_us: u64,
    /// Whether the cell is held out of the calibration.
    pub held_out: bool,
}

impl LookupCell {
    /// Returns the cells of a mesh of at most so many nodes: three quarters of them and all, each at two delays.
    /// In meshes of 20 nodes and fewer, as many as keep a record, nodes announce everything again to whoever
    /// connects, so that searches find other connections open than their own.
    pub fn all(nodes: u8) -> Vec<Self> {
        let mut cells = Vec::new();
        for (by_nodes, nodes) in [nodes / 4 * 3, nodes].into_iter().enumerate() {
            for (by_latency, latency_us) in [2_000, 20_000].into_iter().enumerate() {
                let held_out = (by_nodes + by_latency) % 2 == 1;
                cells.push(Self { nodes, latency_us, held_out });
            }
        }
        cells
    }

    fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us)
    }
}

/// Is what searches took, in seconds, each list in no order that matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Searches {
    /// To the end of a search in vain, shortly after others.
    pub warm: Vec<f64>,
    /// The same after all connections had been idle for so long that they were closed.
    pub cold: Vec<f64>,
    /// From the want to a source that the DHT named, over new connections.
    pub named: Vec<f64>,
    /// From that to the first group of the blob, from a peer that may not be connected yet.
    pub first_group: Vec<f64>,
    /// How many gets of advertised blobs there were.
    pub gets: u64,
    /// How many of them the DHT found.
    pub found: u64,
}

/// Is one cell, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredCell {
    /// The cell.
    pub cell: LookupCell,
    /// The share of processor time that was busy, of the nodes or of the whole machine.
    pub processor_share: f64,
    /// What real nodes took.
    pub searches: Searches,
}

/// Is all that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookups {
    /// The commit that was measured.
    pub commit: String,
    /// The command.
    pub command: String,
    /// The cells.
    pub cells: Vec<MeasuredCell>,
}

impl Lookups {
    /// Reads what [`to_json`](Self::to_json) made.
    ///
    /// # Errors
    /// When the file is missing, too large, or not of this form.
    pub fn read(path: &Path) -> Result<Self, output::Error> {
        let mut text = String::new();
        let file = File::open(path).map_err(output::Error::file("read", path))?;
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(output::Error::file("read", path))?;
        serde_json::from_str(&text)
            .map_err(|source| output::Error::Json { path: path.to_path_buf(), source })
    }

    /// Returns all of it as JSON.
    pub fn to_json(&self) -> String {
        // Numbers and texts: there is no value that JSON has no form for.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Says what is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `blobmesh` binary.
    pub binary: PathBuf,
    /// How many nodes there are at most; three quarters of them are cells of their own.
    pub nodes: u8,
    /// How it was called.
    pub command: String,
}

/// Measures searches of real nodes. It takes about two minutes a cell: a connection is idle for long before
/// it is closed.
///
/// # Errors
/// [`Error::Unavailable`] on a machine without namespaces, [`Error::Interrupted`], and others when a step
/// fails. Nothing is left behind.
pub fn measure(options: &Options, stop: &Stop, talk: &mut dyn Write) -> Result<Lookups, Error> {
    let cells = mesh::measure(options, stop, talk)?;
    Ok(Lookups { commit: output::commit(), command: options.command.clone(), cells })
}

/// Is a cell of real nodes beside the model.
#[derive(Clone, Debug)]
pub struct LookupRow {
    /// The cell.
    pub cell: LookupCell,
    /// The share of processor time that was busy.
    pub processor_share: f64,
    /// Each quantity: its name, the model's median, the real one, the errors of the median and of the slow.
    pub quantities: Vec<Quantity>,
    /// The share of advertised blobs that the DHT found, simulated and real.
    pub found: [f64; 2],
}

/// Is one quantity of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantity {
    /// Its name.
    pub name: &'static str,
    /// The medians, simulated and real, in seconds.
    pub median: [f64; 2],
    /// The 95th percentiles.
    pub slow: [f64; 2],
}

impl Quantity {
    /// Returns the error of the median.
    pub fn error(&self) -> f64 {
        relative(self.median)
    }

    /// Returns the error of the 95th percentile.
    pub fn slow_error(&self) -> f64 {
        relative(self.slow)
    }

    /// Returns whether both are within their bounds.
    pub fn holds(&self) -> bool {
        let near = |[simulated, real]: [f64; 2], bound: f64| {
            (simulated - real).abs() <= SLACK_S.max(real * bound)
        };
        near(self.median, MEDIAN_BOUND) && near(self.slow, SLOW_BOUND)
    }
}

impl LookupRow {
    /// Returns whether all bounds hold.
    pub fn holds(&self) -> bool {
        let [simulated, real] = self.found;
        self.quantities.iter().all(Quantity::holds) && (simulated - real).abs() <= FOUND_BOUND
    }
}

/// Returns the first over the second, less one; infinite where that is no number.
fn relative([simulated, real]: [f64; 2]) -> f64 {
    let error = simulated / real - 1.0;
    if error.is_finite() { error } else { f64::INFINITY }
}

/// Holds a model to measured cells.
pub fn compare(lookups: &Lookups, calibration: &Calibration, model: LookupModel) -> Vec<LookupRow> {
    lookups.cells.iter().map(|measured| row(measured, calibration, model)).collect()
}

fn row(measured: &MeasuredCell, calibration: &Calibration, model: LookupModel) -> LookupRow {
    let (real, simulated) = (&measured.searches, model.searches(&measured.cell, calibration));
    let quantity = |name, of: fn(&Searches) -> &Vec<f64>| {
        let of = [&simulated, real].map(|searches| stats::sorted(of(searches).iter().copied()));
        let at =
            |share| [&of[0], &of[1]].map(|times| stats::percentile(times, share).unwrap_or(0.0));
        Quantity { name, median: at(0.5), slow: at(0.95) }
    };
    let share = |searches: &Searches| searches.found as f64 / searches.gets.max(1) as f64;
    LookupRow {
        cell: measured.cell,
        processor_share: measured.processor_share,
        quantities: vec![
            quantity("warm", |searches| &searches.warm),
            quantity("cold", |searches| &searches.cold),
            quantity("named", |searches| &searches.named),
            quantity("first group", |searches| &searches.first_group),
        ],
        found: [share(&simulated), share(real)],
    }
}

/// Returns whether all held-out cells hold; never without one.
pub fn holds(rows: &[LookupRow]) -> bool {
    let mut held_out = rows.iter().filter(|row| row.cell.held_out).peekable();
    held_out.peek().is_some() && held_out.all(LookupRow::holds)
}

/// Returns whether a model does not hold for a quantity of a held-out cell for which the right one does.
pub fn is_found_out(wrong: &[LookupRow], right: &[LookupRow]) -> bool {
    let held_out = wrong.iter().zip(right).filter(|(_, right)| right.cell.held_out);
    let mut pairs =
        held_out.flat_map(|(wrong, right)| wrong.quantities.iter().zip(&right.quantities));
    pairs.any(|(wrong, right)| right.holds() && !wrong.holds())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures a cell of which the model itself says what its nodes do.
    fn imitated(held_out: bool) -> Lookups {
        let cell = LookupCell { nodes: 24, latency_us: 20_000, held_out };
        let searches = LookupModel::Right.searches(&cell, &Calibration::default());
        let cells = vec![MeasuredCell { cell, processor_share: 0.1, searches }];
        Lookups { commit: "abc".to_owned(), command: "none".to_owned(), cells }
    }

    fn rows(lookups: &Lookups, model: LookupModel) -> Vec<LookupRow> {
        compare(lookups, &Calibration::default(), model)
    }

    #[test]
    fn model_holds_against_itself_and_each_wrong_one_is_found_out() {
        let lookups = imitated(true);
        let right = rows(&lookups, LookupModel::Right);
        assert!(holds(&right));
        for wrong in LookupModel::ALL.into_iter().skip(1) {
            let wrong_rows = rows(&lookups, wrong);
            assert!(!holds(&wrong_rows) && is_found_out(&wrong_rows, &right), "{}", wrong.name());
        }
        let slow: Vec<&str> = rows(&lookups, LookupModel::FreeDials)[0]
            .quantities
            .iter()
            .filter(|quantity| !quantity.holds())
            .map(|quantity| quantity.name)
            .collect();
        assert!(slow.contains(&"cold") && !slow.contains(&"warm"), "{slow:?}");
    }

    #[test]
    fn cells_that_calibrate_decide_nothing_and_without_others_nothing_holds() {
        let right = rows(&imitated(false), LookupModel::Right);
        assert!(right[0].holds() && !holds(&right) && !is_found_out(&right, &right));
        assert!(!holds(&[]));
    }

    #[test]
    fn half_of_the_cells_of_each_number_and_delay_are_held_out() {
        let cells = LookupCell::all(32);
        assert_eq!(cells.len(), 4);
        for cell in &cells {
            let half = |like: &dyn Fn(&&LookupCell) -> bool| {
                let found = cells.iter().filter(like);
                found.clone().filter(|cell| cell.held_out).count() * 2 == found.count()
            };
            assert!(half(&|other| other.nodes == cell.nodes));
            assert!(half(&|other| other.latency_us == cell.latency_us));
        }
    }

    #[test]
    fn what_was_measured_is_read_as_it_was_written_and_nothing_else_is() {
        let room = tempfile::tempdir().unwrap();
        let (path, lookups) = (room.path().join("lookups.json"), imitated(true));
        std::fs::write(&path, lookups.to_json()).unwrap();
        assert_eq!(Lookups::read(&path).unwrap(), lookups);
        std::fs::write(&path, lookups.to_json().replace("warm", "lukewarm")).unwrap();
        assert!(Lookups::read(&path).is_err());
    }
}
