//! Holds the simulator to real nodes: cells are replayed, half of them calibrate, the other half test.
//!
//! All cells are replayed with some seeds and written as a directory of results. The calibrating half
//! sets one number, the goodput, by the median of how much longer or shorter the model takes; every other
//! number was measured before. Then all cells are simulated with it, and the two directories are compared
//! with the bounds that `compare` has. A model whose goodput is halved must not pass: if it did, the bounds
//! would bound nothing.
//!
//! Cells in which the machine's processors were busy tell of the machine. They are shown and marked, and
//! count neither for nor against the model.

use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

pub use self::cells::Cell;
use super::{
    error::Error as LabError,
    replay::{self, DISK_BYTES_MAX_DEFAULT, PROCESSOR_SHARE_MAX},
    stop::Stop,
};
use crate::{
    compare::{Bounds, CellRow, Comparison, compare},
    output::{self, Head, Keep, Kind, Record, Run, Writer},
    plan::PlanError,
    report::{Envelope, MeasuredError, Range},
    stats,
    world::{Calibration, RunError, RunOptions, run_plan},
};

mod cells;

/// What is compared, as the table shows it.
pub const METRICS: [&str; 5] =
    ["finish.p50", "finish.p95", "local.bytes", "lan.bytes", "edge.bytes"];

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
    /// Whether the model that is wrong on purpose was found out.
    pub wrong_model_fails: bool,
}

/// Is one cell, simulated and replayed.
#[derive(Clone, Debug)]
pub struct Row {
    /// The cell.
    pub cell: Cell,
    /// The largest share of processor time that was busy in one of its replays.
    pub processor_share: f64,
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

    /// Returns the relative error of a metric.
    pub fn error(&self, metric: &str) -> Option<f64> {
        self.compared.metrics.iter().find(|row| row.metric == metric)?.error
    }
}

/// Validates.
///
/// # Errors
/// Those of a replay that fails, and of results that cannot be written.
pub fn validate(options: &Options, stop: &Stop, talk: &mut dyn Write) -> Result<Validated, Error> {
    let real = replays(options, stop, talk)?;
    let first = simulate(options, &options.calibration, "sim-before-fit")?;
    let before = compare(&first, &real, &Bounds::default())?;
    let calibration = fitted(&options.calibration, &rows(&before, &real));
    let sim = simulate(options, &calibration, "sim")?;
    let compared = compare(&sim, &real, &Bounds::default())?;
    let rows = rows(&compared, &real);
    let wrong = Calibration { goodput: calibration.goodput / 2.0, ..calibration.clone() };
    let wrong = compare(&simulate(options, &wrong, "sim-wrong")?, &real, &Bounds::default())?;
    let holds = |rows: &[Row]| {
        let mut counted = rows.iter().filter(|row| row.counts()).peekable();
        counted.peek().is_some() && counted.all(|row| row.compared.holds)
    };
    let wrong_model_fails = !holds(&self::rows(&wrong, &real));
    let envelope = envelope(options, &rows);
    Ok(Validated { holds: holds(&rows), rows, calibration, envelope, wrong_model_fails })
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
            let text = cell_name(cell);
            let _unheard = writeln!(talk, "validate: {text}, {seed} of {}", options.repeats);
            let plan = cell.plan(seed)?;
            let disk_bytes_max = DISK_BYTES_MAX_DEFAULT;
            let play = replay::Options { plan: &plan, binary: &options.binary, disk_bytes_max };
            let played = replay::replay(&play, stop, &mut std::io::sink())?;
            let (settings, outcome) = (cell.settings(), &played.outcome);
            let wall = played.wall;
            let run = Run { cell: number, settings: &settings, seed, plan: &plan, wall, outcome };
            writer.add(&run, Keep::Rows)?;
            let at = |metric: &str| outcome.summary.get(metric).copied().unwrap_or(0.0);
            let _unheard = writeln!(
                talk,
                "validate:   finish.p50 {:.2} s, processors {:.0} % busy",
                at("finish.p50"),
                played.processor_share * 100.0
            );
        }
    }
    finish(writer, begun.elapsed())
}

/// Simulates all cells with the seeds of the replays.
fn simulate(options: &Options, calibration: &Calibration, name: &str) -> Result<Record, Error> {
    let begun = Instant::now();
    let mut writer = Writer::create(&options.out.join(name), Kind::Sweep)?;
    let run_options = RunOptions { calibration: calibration.clone(), ..RunOptions::default() };
    for (number, cell) in Cell::all().iter().enumerate() {
        for seed in 1..=options.repeats {
            let (plan, begun) = (cell.plan(seed)?, Instant::now());
            let outcome = &run_plan(&plan, &run_options, |_| ())?;
            let (settings, wall) = (cell.settings(), begun.elapsed());
            let run = Run { cell: number, settings: &settings, seed, plan: &plan, wall, outcome };
            writer.add(&run, Keep::Rows)?;
        }
    }
    finish(writer, begun.elapsed())
}

fn finish(writer: Writer, wall: Duration) -> Result<Record, Error> {
    // The plan that the manifest shows; what each cell sets stands with its runs.
    let cell = Cell { nodes: 2, rate_mbit: 100, kill: false, held_out: false };
    let (plan, text) = (cell.plan(1)?, cell.text());
    let head = Head {
        plan: &plan,
        plan_text: &text,
        commit: output::commit(),
        wall,
        memory_peak_bytes: output::memory_peak_bytes(),
    };
    Ok(Record::open(&writer.finish(&head)?.publish()?)?)
}

/// Sets the goodput by the calibrating cells: a model that takes longer than real nodes gets more of it.
fn fitted(calibration: &Calibration, rows: &[Row]) -> Calibration {
    let calibrating = rows.iter().filter(|row| !row.cell.held_out && row.is_sound());
    let ratios = calibrating.filter_map(|row| row.error("finish.p50")).map(|error| 1.0 + error);
    let Some(ratio) = stats::median(&stats::sorted(ratios)) else { return calibration.clone() };
    let goodput = (calibration.goodput * ratio).clamp(*GOODPUT.start(), *GOODPUT.end());
    Calibration { goodput, ..calibration.clone() }
}

/// Puts each compared cell beside what is known of it.
fn rows(compared: &Comparison, real: &Record) -> Vec<Row> {
    let cells = Cell::all();
    let row = |compared: &CellRow| {
        let cell = cells.iter().find(|cell| cell.settings() == compared.settings)?;
        let shares = real.runs().filter(|(run, _)| run.settings == compared.settings);
        let shares = shares.filter_map(|(_, row)| row.metrics.get("processor.share").copied());
        let processor_share = shares.fold(0.0, f64::max);
        Some(Row { cell: *cell, processor_share, compared: compared.clone() })
    };
    compared.cells.iter().filter_map(row).collect()
}

fn envelope(options: &Options, rows: &[Row]) -> Envelope {
    let counted: Vec<&Row> = rows.iter().filter(|row| row.counts()).collect();
    let range = |what: &str, unit: &str, of: fn(&Cell) -> u64| {
        let values = || counted.iter().map(|row| of(&row.cell));
        let text = |value: Option<u64>| format!("{} {unit}", value.unwrap_or(0)).trim().to_owned();
        Range { what: what.to_owned(), from: text(values().min()), to: text(values().max()) }
    };
    let bounds = Bounds::default();
    let error = |metric: &str| {
        let errors = counted.iter().filter_map(|row| row.error(metric)).map(f64::abs);
        let errors = stats::sorted(errors);
        Some(MeasuredError {
            metric: metric.to_owned(),
            median: stats::median(&errors)?,
            worst: errors.last().copied()?,
            bound: bounds.of(metric)?,
        })
    };
    Envelope {
        commit: output::commit(),
        command: options.command.clone(),
        cells: counted.len() as u64,
        ranges: vec![
            range("nodes", "", |cell| cell.nodes),
            range("rate of every wire", "Mbit/s", |cell| cell.rate_mbit),
            range("blob", "bytes", Cell::bytes),
            range("killed nodes", "", |cell| u64::from(cell.kill)),
        ],
        errors: METRICS.iter().filter_map(|metric| error(metric)).collect(),
    }
}

/// Returns a cell in words.
pub fn cell_name(cell: &Cell) -> String {
    let kill = if cell.kill { ", one killed" } else { "" };
    format!("{} nodes, {} Mbit/s{kill}", cell.nodes, cell.rate_mbit)
}
