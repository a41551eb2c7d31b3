//! Holds the simulator to real nodes: cells are replayed, half of them calibrate, the other half test.
//!
//! All cells are replayed with some seeds and written as a directory of results. The calibrating half
//! sets one number, the goodput, by the median of how much longer or shorter the model takes; every other
//! number was measured before. Then all cells are simulated with it, and the two directories are compared.
//! [Models](Model) that are wrong on purpose must not pass: if one did, the bounds would bound nothing.
//!
//! What the comparison needs of the replays is kept beside its result, and can be compared again,
//! with another version of the simulator or with a wrong model, where no real node runs ([`recheck`]).
//!
//! Cells in which the machine's processors were busy tell of the machine. They are shown and marked, and
//! count neither for nor against the model.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use self::{
    cells::{Cell, Load},
    model::Model,
};
use super::{
    error::Error as LabError,
    replay::{self, DISK_BYTES_MAX_DEFAULT, PROCESSOR_SHARE_MAX},
    stop::Stop,
};
use crate::{
    compare::{CellRow, Difference, compare_cells},
    output::{self, Head, Keep, Kind, Record, Run, Settings, SummaryRow, Writer},
    plan::PlanError,
    report::{Envelope, MeasuredError, Range},
    stats,
    world::{Calibration, RunError},
};

mod cells;
mod model;
mod stored;

/// What is bounded in some cell.
const METRICS: [&str; 7] = [
    "finish.p50",
    "finish.p95",
    "fetch.p50",
    "fetch.p95",
    "local.bytes",
    "lan.bytes",
    "edge.bytes",
];

/// The least and the most that fitting may make of the goodput.
const GOODPUT: std::ops::RangeInclusive<f64> = 0.3..=1.0;

/// Says why a validation came to no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A replay failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Results could not be written, read or compared.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// A cell could not be simulated.
    #[error("cannot simulate a cell")]
    Run(#[from] RunError),
    /// A cell is no plan, which is a fault of this program.
    #[error("cannot make a cell")]
    Plan(#[from] PlanError),
    /// There is no cell, which is a fault of this program.
    #[error("there is no cell")]
    NoCell,
}

/// Says what is validated and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `blobmesh` binary.
    pub binary: PathBuf,
    /// With how many seeds each cell is replayed.
    pub repeats: u64,
    /// Where the results go; replays that lie there are taken, and not made again.
    pub out: PathBuf,
    /// The numbers measured before.
    pub calibration: Calibration,
    /// How it was called, for the envelope.
    pub command: String,
}

/// Is what a validation found.
#[derive(Clone, Debug)]
pub struct Validated {
    /// All cells.
    pub rows: Vec<Row>,
    /// The numbers with the goodput that was fitted.
    pub calibration: Calibration,
    /// What reports print.
    pub envelope: Envelope,
    /// Whether the bounds hold in all cells that were held out and count; never without such a cell.
    pub holds: bool,
    /// Whether each model that is wrong on purpose was found out: it is out of a bound that the right one
    /// keeps.
    pub found_out: Vec<(Model, bool)>,
}

/// Is one cell, simulated and replayed.
#[derive(Clone, Debug)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// The largest share of processor time that was busy in one of its replays.
    pub processor_share: f64,
    /// The largest share that others took meanwhile; 0 where it was not kept.
    pub others_share: f64,
    /// The comparison, the simulator first.
    pub compared: CellRow,
}

impl Row {
    /// Returns whether the machine had processor time to spare.
    pub fn is_sound(&self) -> bool {
        self.processor_share < PROCESSOR_SHARE_MAX
    }

    /// Returns whether the cell decides.
    pub fn counts(&self) -> bool {
        self.cell.held_out && self.is_sound()
    }

    /// Returns what came of a metric.
    pub fn difference(&self, metric: &str) -> Option<&Difference> {
        self.compared.metrics.iter().find(|row| row.metric == metric)
    }

    /// Returns the relative error of a metric.
    pub fn error(&self, metric: &str) -> Option<f64> {
        self.difference(metric)?.error
    }
}

/// Validates.
///
/// # Errors
/// Those of a replay that fails, and of results that cannot be written.
pub fn validate(options: &Options, stop: &Stop, talk: &mut dyn Write) -> Result<Validated, Error> {
    let real = replays(options, stop, talk)?;
    let seeds: Vec<u64> = (1..=options.repeats).collect();
    let simulate = |model: Model, calibration: &Calibration, name: &str| {
        let simulated = model.simulate(calibration, &seeds, &options.out.join(name))?;
        rows(&simulated, &real)
    };
    let before = simulate(Model::Right, &options.calibration, "sim-before-fit")?;
    let calibration = fitted(&options.calibration, &before);
    let rows = simulate(Model::Right, &calibration, "sim")?;
    let mut found_out = Vec::new();
    for wrong in Model::WRONG {
        let wrong_rows = simulate(wrong, &calibration, &format!("sim-{}", wrong.name()))?;
        found_out.push((wrong, is_found_out(&wrong_rows, &rows)));
    }
    let envelope = envelope(options, &rows, &real);
    Ok(Validated { holds: holds(&rows), rows, calibration, envelope, found_out })
}

/// Is how a model compares with replays that were kept.
#[derive(Clone, Debug)]
pub struct Rechecked {
    /// All cells.
    pub rows: Vec<Row>,
    /// As of [`Validated`].
    pub holds: bool,
}

/// Holds a model to replays that an envelope keeps. Directories of results are written into `out`.
///
/// # Errors
/// When a cell cannot be simulated, or results cannot be written; an [`output::Error`] where the envelope
/// keeps no replay of any cell.
pub fn recheck(
    envelope: &Envelope,
    calibration: &Calibration,
    model: Model,
    out: &Path,
) -> Result<Rechecked, Error> {
    let real = stored::unpacked(&envelope.replays, &out.join("stored"))?;
    let seeds = stored::seeds_of(&envelope.replays);
    let simulated =
        model.simulate(calibration, &seeds, &out.join(format!("sim-{}", model.name())))?;
    let rows = rows(&simulated, &real)?;
    Ok(Rechecked { holds: holds(&rows), rows })
}

fn holds(rows: &[Row]) -> bool {
    let mut counted = rows.iter().filter(|row| row.counts()).peekable();
    counted.peek().is_some() && counted.all(|row| row.compared.holds)
}

/// Returns whether a model is out of a bound, in a cell that counts, that the right one keeps.
pub fn is_found_out(wrong: &[Row], right: &[Row]) -> bool {
    let mut counted = wrong.iter().zip(right).filter(|(_, right)| right.counts());
    counted.any(|(wrong, right)| {
        right.cell.metrics().into_iter().any(|metric| {
            let holds = |row: &Row| row.difference(metric).is_some_and(|found| found.holds);
            holds(right) && !holds(wrong)
        })
    })
}

/// Replays all cells, or reads the replays that are there.
fn replays(options: &Options, stop: &Stop, talk: &mut dyn Write) -> Result<Record, Error> {
    let place = options.out.join("real");
    if place.join(output::file::MANIFEST).is_file() {
        let _unheard = writeln!(talk, "validate: takes the replays in {}", place.display());
        return Ok(Record::open(&place)?);
    }
    let (begun, cells) = (Instant::now(), Cell::all());
    let mut writer = Writer::create(&place, Kind::Sweep)?;
    for seed in 1..=options.repeats {
        for (number, cell) in cells.iter().enumerate() {
            let text = cell.name();
            let _unheard = writeln!(talk, "validate: {text}, {seed} of {}", options.repeats);
            let plan = cell.plan(seed)?;
            let disk_bytes_max = DISK_BYTES_MAX_DEFAULT;
            let play = replay::Options { plan: &plan, binary: &options.binary, disk_bytes_max };
            let played = replay::replay(&play, stop, &mut std::io::sink())?;
            let (settings, outcome) = (cell.settings(), &played.outcome);
            let wall = played.wall;
            let run = Run { cell: number, settings: &settings, seed, plan: &plan, wall, outcome };
            writer.add(&run, Keep::Rows)?;
            let [median, ..] = cell.metrics();
            let _unheard = writeln!(
                talk,
                "validate:   {median} {:.3} s, processors {:.0} % busy",
                outcome.summary.get(median).copied().unwrap_or(0.0),
                played.processor_share * 100.0
            );
        }
    }
    finish(writer, begun.elapsed())
}

fn finish(writer: Writer, wall: Duration) -> Result<Record, Error> {
    // The plan that the manifest shows; what each cell sets stands with its runs.
    let cells = Cell::all();
    let Some(cell) = cells.first() else { return Err(Error::NoCell) };
    let (plan, text) = (cell.plan(1)?, cell.text());
    let head = Head {
        plan: &plan,
        plan_text: &text,
        commit: output::commit(),
        wall,
        threads: None,
        memory_peak_bytes: output::memory_peak_bytes(),
    };
    Ok(Record::open(&writer.finish(&head)?.publish()?)?)
}

/// Sets the goodput by the calibrating cells in which rates decide: a model that takes longer than real
/// nodes gets more of it.
fn fitted(calibration: &Calibration, rows: &[Row]) -> Calibration {
    let calibrating = rows.iter().filter(|row| !row.cell.held_out && row.is_sound());
    let crowds = calibrating.filter(|row| row.cell.load == Load::Crowd);
    let ratios = crowds.filter_map(|row| row.error("finish.p50")).map(|error| 1.0 + error);
    let Some(ratio) = stats::median(&stats::sorted(ratios)) else { return calibration.clone() };
    let goodput = (calibration.goodput * ratio).clamp(*GOODPUT.start(), *GOODPUT.end());
    Calibration { goodput, ..calibration.clone() }
}

/// Compares simulated cells with the real ones, each with its own bounds.
fn rows(simulated: &Record, real: &Record) -> Result<Vec<Row>, Error> {
    let cells = Cell::all();
    let cell_of = |settings: &Settings| cells.iter().find(|cell| cell.settings() == *settings);
    let bounds = |settings: &Settings| cell_of(settings).map(Cell::bounds).unwrap_or_default();
    let compared = compare_cells(simulated, real, bounds)?;
    let row = |compared: &CellRow| {
        let cell = cell_of(&compared.settings)?;
        let runs = || real.runs().filter(|(run, _)| run.settings == compared.settings);
        let share = |row: &SummaryRow, name| row.metrics.get(name).copied();
        let own = |row: &SummaryRow| share(row, "processor.share");
        let others = |row: &SummaryRow| Some(share(row, "machine.share")? - own(row)?);
        let processor_share = runs().filter_map(|(_, row)| own(row)).fold(0.0, f64::max);
        let others_share = runs().filter_map(|(_, row)| others(row)).fold(0.0, f64::max);
        Some(Row { cell: *cell, processor_share, others_share, compared: compared.clone() })
    };
    Ok(compared.cells.iter().filter_map(row).collect())
}

fn envelope(options: &Options, rows: &[Row], real: &Record) -> Envelope {
    let counted: Vec<&Row> = rows.iter().filter(|row| row.counts()).collect();
    let range = |what: &str, unit: &str, of: fn(&Cell) -> u64| {
        let values = || counted.iter().map(|row| of(&row.cell));
        let text = |value: Option<u64>| format!("{} {unit}", value.unwrap_or(0)).trim().to_owned();
        Range { what: what.to_owned(), from: text(values().min()), to: text(values().max()) }
    };
    let error = |metric: &str| {
        let bounded = |row: &&&Row| row.cell.metrics().contains(&metric);
        let rows: Vec<&Difference> =
            counted.iter().filter(bounded).filter_map(|row| row.difference(metric)).collect();
        let errors = stats::sorted(rows.iter().filter_map(|row| row.error).map(f64::abs));
        Some(MeasuredError {
            metric: metric.to_owned(),
            median: stats::median(&errors)?,
            worst: errors.last().copied()?,
            bound: rows.iter().find_map(|row| row.bound)?,
        })
    };
    Envelope {
        commit: output::commit(),
        command: options.command.clone(),
        cells: counted.len() as u64,
        ranges: vec![
            range("nodes", "", |cell| cell.nodes),
            range("rate of every wire", "Mbit/s", |cell| cell.rate_mbit),
            range("time from node to node", "us", |cell| {
                u64::try_from(cell.latency.as_micros()).unwrap_or(u64::MAX)
            }),
            range("blob", "bytes", Cell::bytes),
            range("killed nodes", "", |cell| u64::from(cell.kill)),
        ],
        errors: METRICS.iter().filter_map(|metric| error(metric)).collect(),
        replays: stored::taken_from(real),
    }
}
