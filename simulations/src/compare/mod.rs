//! Two directories of results against each other: a simulator against real nodes, or one commit
//! against another.
//!
//! Cells are paired by what they set, and runs within them by seed where both sides have the same
//! seeds; else each side's mean over its own seeds is compared. The second directory is the
//! reference: an error is the first's value over the second's, less one. Bounds are on every cell,
//! not on an average over cells: a model that is right on the whole and wrong everywhere does not
//! pass. What has a bound and was not measured on both sides does not hold.

mod bounds;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use bounds::{BadBound, Bounds};

use crate::outcome::METRICS;
use crate::output::{Error, Record, RunFacts, Settings, SummaryRow};
use crate::report::{fetch_times, finish_times};
use crate::stats::{self, Cdf};

/// With fewer seeds on a side the Mann-Whitney test cannot find anything.
const SEEDS_MIN: usize = 4;
/// With fewer cells a rank correlation says nothing.
const CELLS_MIN: usize = 3;

/// With fewer cells the bootstrap of a median returns little but the sample's ends.
const BOOTSTRAP_CELLS_MIN: usize = 5;
/// Seeds the bootstrap: the same results have the same interval.
const BOOTSTRAP_SEED: u64 = 1;

/// Is what a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Whether every bound holds in every cell.
    pub holds: bool,
    /// Each metric over all cells.
    pub metrics: Vec<MetricRow>,
    /// Each cell that both sides have.
    pub cells: Vec<CellRow>,
    /// Cells that only the first has; they decide nothing.
    pub only_in_a: Vec<Settings>,
    /// Cells that only the second has.
    pub only_in_b: Vec<Settings>,
}

/// Tells of one metric over all cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricRow {
    /// The metric.
    pub metric: &'static str,
    /// The median of the cells' errors, without sign; none where no cell has one.
    pub median_error: Option<f64>,
    /// Its 95 % confidence interval over the cells, by the bootstrap; none with fewer than five.
    pub median_error_interval: Option<[f64; 2]>,
    /// The largest of them; none where a cell has none, as when the reference is 0.
    pub worst_error: Option<f64>,
    /// Spearman's correlation of both sides over the cells; none with fewer than three, or where
    /// one side is the same in all.
    pub rank_correlation: Option<f64>,
    /// What an error may be in the cells that bound it.
    pub bound: Option<f64>,
    /// Whether all cells are within.
    pub holds: bool,
}

/// Tells of one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellRow {
    /// What it sets.
    pub settings: Settings,
    /// Seeds that both sides ran; 0 where each side's own were taken.
    pub seeds_paired: usize,
    /// Its metrics.
    pub metrics: Vec<Difference>,
    /// The Kolmogorov-Smirnov distance of the nodes' finish times, where both kept rows.
    pub finish_distance: Option<f64>,
    /// That of the times of gets.
    pub fetch_distance: Option<f64>,
    /// What a distance may be.
    pub distance_bound: Option<f64>,
    /// Whether all its bounds hold.
    pub holds: bool,
}

/// Tells of one metric in one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The metric.
    pub metric: &'static str,
    /// The first's mean over seeds; none where it was not measured.
    pub a: Option<f64>,
    /// The second's.
    pub b: Option<f64>,
    /// The first over the second, less one, or for bytes of a tier that are bounded together with the others
    /// the difference over all of them; none where that is no number.
    pub error: Option<f64>,
    /// The probability of such a difference between two samples of one distribution; none with few
    /// seeds.
    pub p: Option<f64>,
    /// What the error may be, without sign.
    pub bound: Option<f64>,
    /// Whether it is within.
    pub holds: bool,
}

/// Compares `a` with the reference `b`.
///
/// # Errors
/// Those of reading rows; [`Error::Mismatch`] when the two have no cell in common.
pub fn compare(a: &Record, b: &Record, bounds: &Bounds) -> Result<Comparison, Error> {
    compare_cells(a, b, |_| bounds.clone())
}

/// Compares `a` with the reference `b`, each cell with bounds of its own.
///
/// # Errors
/// As those of [`compare`].
pub fn compare_cells(
    a: &Record,
    b: &Record,
    bounds: impl Fn(&Settings) -> Bounds,
) -> Result<Comparison, Error> {
    let (cells_a, cells_b) = (cells_of(a), cells_of(b));
    let mut cells = Vec::new();
    for (settings, runs_a) in &cells_a {
        if let Some(runs_b) = cells_b.get(settings) {
            cells.push(cell(settings, (a, runs_a), (b, runs_b), &bounds(settings))?);
        }
    }
    // The order of the plan: settings as text would put 100 before 20.
    let place =
        |settings: &Settings| a.manifest.runs.iter().position(|run| run.settings == *settings);
    cells.sort_by_key(|cell| place(&cell.settings));
    if cells.is_empty() {
        let problem = format!("it has no cell in common with {}", b.path.display());
        return Err(Error::Mismatch { path: a.path.clone(), problem });
    }
    let only = |these: &Cells<'_>, others: &Cells<'_>| -> Vec<Settings> {
        let missing = these.keys().filter(|settings| !others.contains_key(*settings));
        missing.map(|settings| (*settings).clone()).collect()
    };
    Ok(Comparison {
        holds: cells.iter().all(|cell| cell.holds),
        metrics: METRICS.iter().filter_map(|metric| metric_row(metric.0, &cells)).collect(),
        only_in_a: only(&cells_a, &cells_b),
        only_in_b: only(&cells_b, &cells_a),
        cells,
    })
}

/// Is a run with its metrics.
type Measured<'a> = (&'a RunFacts, &'a SummaryRow);
type Cells<'a> = BTreeMap<&'a Settings, Vec<Measured<'a>>>;

fn cells_of(record: &Record) -> Cells<'_> {
    let mut cells = Cells::new();
    for run in record.runs() {
        cells.entry(&run.0.settings).or_default().push(run);
    }
    cells
}

fn cell(
    settings: &Settings,
    (a, runs_a): (&Record, &[Measured<'_>]),
    (b, runs_b): (&Record, &[Measured<'_>]),
    bounds: &Bounds,
) -> Result<CellRow, Error> {
    let seeds = |runs: &[Measured<'_>]| runs.iter().map(|run| run.0.seed).collect::<BTreeSet<_>>();
    let both: BTreeSet<u64> = seeds(runs_a).intersection(&seeds(runs_b)).copied().collect();
    let taken = |runs: &[Measured<'_>]| -> Vec<BTreeMap<&'static str, f64>> {
        let wanted = runs.iter().filter(|run| both.is_empty() || both.contains(&run.0.seed));
        wanted.map(|run| run.1.metrics.clone()).collect()
    };
    let (taken_a, taken_b) = (taken(runs_a), taken(runs_b));
    let differences =
        METRICS.iter().filter_map(|metric| difference(metric.0, &taken_a, &taken_b, bounds));
    let metrics: Vec<Difference> = differences.collect();
    let (times_a, times_b) = (times(a, runs_a)?, times(b, runs_b)?);
    let finish_distance = stats::ks_distance(&times_a.finish, &times_b.finish);
    let fetch_distance = stats::ks_distance(&times_a.fetch, &times_b.fetch);
    let near = |distance: Option<f64>| match (distance, bounds.distance()) {
        (_, None) => true,
        (distance, Some(bound)) => distance.is_some_and(|distance| distance <= bound),
    };
    let holds = metrics.iter().all(|m| m.holds) && near(finish_distance) && near(fetch_distance);
    Ok(CellRow {
        settings: settings.clone(),
        seeds_paired: both.len(),
        metrics,
        finish_distance,
        fetch_distance,
        distance_bound: bounds.distance(),
        holds,
    })
}

/// Compares a metric; none where neither side has it and nothing bounds it.
fn difference(
    metric: &'static str,
    a: &[BTreeMap<&'static str, f64>],
    b: &[BTreeMap<&'static str, f64>],
    bounds: &Bounds,
) -> Option<Difference> {
    let values = |runs: &[BTreeMap<&'static str, f64>]| -> Vec<f64> {
        runs.iter().filter_map(|run| run.get(metric).copied()).collect()
    };
    let (values_a, values_b) = (values(a), values(b));
    let (mean_a, mean_b) = (stats::mean(&values_a), stats::mean(&values_b));
    let bound = bounds.of(metric);
    if mean_a.is_none() && mean_b.is_none() && bound.is_none() {
        return None;
    }
    let over = |own: f64| if bounds.is_of_all(metric) { bytes_of_tiers(b) } else { own };
    let error = mean_a.zip(mean_b).and_then(|(a, b)| relative_error(a, b, over(b)));
    let holds = bound.is_none_or(|bound| error.is_some_and(|error| error.abs() <= bound));
    let enough = values_a.len().min(values_b.len()) >= SEEDS_MIN;
    let test = if enough { stats::mann_whitney(&values_a, &values_b) } else { None };
    Some(Difference {
        metric,
        a: mean_a,
        b: mean_b,
        error,
        p: test.map(|test| test.p),
        bound,
        holds,
    })
}

/// Returns by how much `a` is more than `b`, as a share of a whole, which is `b` itself or more.
fn relative_error(a: f64, b: f64, whole: f64) -> Option<f64> {
    if a == b {
        return Some(0.0);
    }
    let error = (a - b) / whole;
    error.is_finite().then_some(error)
}

/// Returns the bytes of all tiers, the mean over runs.
fn bytes_of_tiers(runs: &[BTreeMap<&'static str, f64>]) -> f64 {
    let of = |run: &BTreeMap<&'static str, f64>| {
        bounds::TIERS.iter().filter_map(|tier| run.get(tier)).sum::<f64>()
    };
    stats::mean(&runs.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
}

/// Is what the rows of a cell's runs say, all seeds together.
#[derive(Default)]
struct Times {
    finish: Cdf,
    fetch: Cdf,
}

/// Reads one run after another: a sweep's rows together may not fit into memory.
fn times(record: &Record, runs: &[Measured<'_>]) -> Result<Times, Error> {
    let (mut finish, mut fetch) = (Vec::new(), Vec::new());
    for (run, _) in runs {
        let Some(outcome) = record.outcome(run)? else { continue };
        finish.extend(finish_times(&outcome.fetches).into_values().flatten());
        fetch.extend(fetch_times(&outcome.fetches).map(|time| time.1));
    }
    Ok(Times { finish: Cdf::new(finish), fetch: Cdf::new(fetch) })
}

fn metric_row(metric: &'static str, cells: &[CellRow]) -> Option<MetricRow> {
    let of = |cell: &'_ CellRow| cell.metrics.iter().find(|row| row.metric == metric).cloned();
    let rows: Vec<Difference> = cells.iter().filter_map(of).collect();
    let errors = stats::sorted(rows.iter().filter_map(|row| row.error).map(f64::abs));
    let pairs: Vec<(f64, f64)> = rows.iter().filter_map(|row| row.a.zip(row.b)).collect();
    let correlation = if pairs.len() >= CELLS_MIN { stats::spearman(&pairs) } else { None };
    let complete = errors.len() == rows.len();
    let enough = complete && errors.len() >= BOOTSTRAP_CELLS_MIN;
    let interval = if enough { stats::median_interval(&errors, BOOTSTRAP_SEED) } else { None };
    (!rows.is_empty()).then(|| MetricRow {
        metric,
        median_error: stats::median(&errors),
        median_error_interval: interval.map(|interval| [interval.low, interval.high]),
        worst_error: errors.last().copied().filter(|_| complete),
        rank_correlation: correlation,
        bound: rows.iter().find_map(|row| row.bound),
        holds: rows.iter().all(|row| row.holds),
    })
}
