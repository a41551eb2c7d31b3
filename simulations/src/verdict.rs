//! What a run or a sweep tells at its end: each assert with what was measured, how fast it went, and
//! whether all held. It is made from a directory of results alone.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::outcome::METRICS;
use crate::output::{AssertFacts, Kind, Record, RunFacts, Settings, SummaryRow};
use crate::report::{Unit, rounded};

/// Cells that are named for an assert which fails in them.
const CELLS_TOLD_MAX: usize = 10;
/// Broken invariants that are told; the page has more, the manifest all.
const VIOLATIONS_TOLD_MAX: usize = 10;

/// Writes for people: what was run, what of the asserts holds, and what it cost.
///
/// # Errors
/// Those of writing.
pub fn write_text(record: &Record, output: &mut impl Write) -> io::Result<()> {
    let manifest = &record.manifest;
    let nodes = rounded(manifest.nodes as f64, 0);
    let time = show(Unit::Seconds, manifest.virtual_seconds);
    match (manifest.kind, record.runs().next()) {
        (Kind::Run, Some((run, row))) => {
            writeln!(
                output,
                "{}: {nodes} nodes, seed {}, {time} simulated",
                manifest.name, run.seed
            )?;
            figures(row, output)?;
        }
        (Kind::Run | Kind::Sweep, _) => {
            let runs = manifest.runs.len();
            writeln!(
                output,
                "{}: {runs} runs, up to {nodes} nodes and {time} simulated",
                manifest.name
            )?;
        }
    }
    if !manifest.complete {
        writeln!(output, "the plan's duration cut gets that were under way")?;
    }
    writeln!(output)?;
    for assert in Held::of(record) {
        assert.write(manifest.kind, output)?;
    }
    violations(record, output)?;
    cost(record, output)
}

/// Writes for programs: one object a line, in the form of all experiments. A run tells every metric, a
/// sweep the asserts of each run, with cell and seed.
///
/// # Errors
/// Those of writing.
pub fn write_json(record: &Record, output: &mut impl Write) -> io::Result<()> {
    let manifest = &record.manifest;
    for (run, row) in record.runs() {
        let of = (manifest.kind == Kind::Sweep).then_some(run);
        for (metric, unit, _) in METRICS.iter().filter(|_| of.is_none()) {
            if let Some(value) = row.metrics.get(metric) {
                Line::new(record, metric, number(*value), unit).write(output)?;
            }
        }
        for assert in &run.asserts {
            let (measure, bound) = halves(&assert.text);
            let value = assert.value.map_or(Value::Null, number);
            let line = Line::new(record, measure, value, unit_of(measure));
            let (cell, seed) = (of.map(|run| &run.settings), of.map(|run| run.seed));
            let (bound, holds) = (Some(bound), assert.holds);
            Line { bound, holds, cell, seed, ..line }.write(output)?;
        }
    }
    let broken = manifest.runs.iter().map(|run| run.violations.len()).sum::<usize>();
    let line = Line::new(record, "invariants_broken", json!(broken), "count");
    Line { bound: Some("== 0"), holds: broken == 0, ..line }.write(output)?;
    let float = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
    for (metric, value, unit) in [
        ("events_per_s", Some(manifest.events_per_second), "1/s"),
        ("wall_s", Some(manifest.wall_seconds), "s"),
        ("memory_peak_bytes", float(manifest.memory_peak_bytes), "bytes"),
        ("memory_per_node_bytes", float(manifest.memory_per_node_bytes), "bytes"),
    ] {
        if let Some(value) = value {
            Line::new(record, metric, number(value), unit).write(output)?;
        }
    }
    Line::new(record, "event_log_hash", json!(manifest.event_log_hash), "blake3").write(output)
}

/// Is one line for programs.
#[derive(Serialize)]
struct Line<'a> {
    experiment: &'a str,
    metric: &'a str,
    value: Value,
    unit: &'a str,
    bound: Option<&'a str>,
    holds: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell: Option<&'a Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl<'a> Line<'a> {
    /// Makes a line of a figure without a bound.
    fn new(record: &'a Record, metric: &'a str, value: Value, unit: &'a str) -> Self {
        let experiment = &record.manifest.name;
        Self { experiment, metric, value, unit, bound: None, holds: true, cell: None, seed: None }
    }

    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *output, self)?;
        output.write_all(b"\n")
    }
}

/// Writes what most readers look for first.
fn figures(row: &SummaryRow, output: &mut impl Write) -> io::Result<()> {
    let metric = |name: &str| row.metrics.get(name).copied();
    let count = |name: &str| rounded(metric(name).unwrap_or(0.0), 0);
    let shown = |name: &str| show(Unit::of_metric(name), metric(name).unwrap_or(0.0));
    if metric("gets").unwrap_or(0.0) == 0.0 {
        return Ok(());
    }
    writeln!(
        output,
        "gets      {} of {} ended well; median {}, 99 of 100 within {}, the slowest {}",
        count("gets.ok"),
        count("gets"),
        shown("fetch.p50"),
        shown("fetch.p99"),
        shown("fetch.max"),
    )?;
    writeln!(
        output,
        "bytes     {} wanted: {} from the store, {} from peers, {} from the edge",
        shown("wanted.bytes"),
        shown("local.bytes"),
        shown("lan.bytes"),
        shown("edge.bytes"),
    )
}

/// Is an assert over all runs of a record.
struct Held<'a> {
    text: &'a str,
    /// What was measured in each run, by cell; none where it could not be.
    values: Vec<Option<f64>>,
    fails: usize,
    /// The cells in which it fails, with how often, and what was measured.
    failing: BTreeMap<usize, (&'a RunFacts, Vec<Option<f64>>)>,
}

impl<'a> Held<'a> {
    /// Returns the asserts in the plan's order. Those of one text are one.
    fn of(record: &'a Record) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for run in &record.manifest.runs {
            for assert in &run.asserts {
                let place = all.iter().position(|held| held.text == assert.text);
                let place = place.unwrap_or_else(|| {
                    let (values, failing) = (Vec::new(), BTreeMap::new());
                    all.push(Self { text: &assert.text, values, fails: 0, failing });
                    all.len() - 1
                });
                if let Some(held) = all.get_mut(place) {
                    held.add(run, assert);
                }
            }
        }
        all
    }

    fn add(&mut self, run: &'a RunFacts, assert: &AssertFacts) {
        self.values.push(assert.value);
        if !assert.holds {
            self.fails += 1;
            let (_, values) = self.failing.entry(run.cell).or_insert_with(|| (run, Vec::new()));
            values.push(assert.value);
        }
    }

    fn write(&self, kind: Kind, output: &mut impl Write) -> io::Result<()> {
        let word = if self.fails == 0 { "holds" } else { "FAILS" };
        let measured = self.range(&self.values);
        if kind == Kind::Run {
            return writeln!(output, "{word}  {:48} {measured}", self.text);
        }
        let runs = self.values.len();
        let count = if self.fails == 0 {
            format!("in {runs} runs")
        } else {
            format!("in {} of {runs} runs", self.fails)
        };
        writeln!(output, "{word}  {:48} {measured}, {count}", self.text)?;
        for (run, values) in self.failing.values().take(CELLS_TOLD_MAX) {
            let settings = run.settings.iter().map(|(path, value)| format!("{path}={value}"));
            let cell = settings.collect::<Vec<_>>().join(" ");
            writeln!(output, "         cell {} {cell}: {}", run.cell, self.range(values))?;
        }
        if self.failing.len() > CELLS_TOLD_MAX {
            writeln!(output, "         and {} cells more", self.failing.len() - CELLS_TOLD_MAX)?;
        }
        Ok(())
    }

    /// Shows what was measured, from the least to the most.
    fn range(&self, values: &[Option<f64>]) -> String {
        let unit = Unit::of_metric(halves(self.text).0);
        let known = || values.iter().flatten().copied();
        let (least, most) =
            (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
        let missing = values.iter().filter(|value| value.is_none()).count();
        let shown = match missing {
            _ if missing == values.len() => return "was not measured".to_owned(),
            _ if least.to_bits() == most.to_bits() => precisely(unit, least),
            _ => format!("{} to {}", precisely(unit, least), precisely(unit, most)),
        };
        if missing == 0 { shown } else { format!("{shown}, in {missing} runs not measured") }
    }
}

fn violations(record: &Record, output: &mut impl Write) -> io::Result<()> {
    let runs = &record.manifest.runs;
    let all = || runs.iter().flat_map(|run| run.violations.iter().map(move |text| (run, text)));
    for (run, text) in all().take(VIOLATIONS_TOLD_MAX) {
        writeln!(output, "BROKEN cell {}, seed {}: {text}", run.cell, run.seed)?;
    }
    match all().count().saturating_sub(VIOLATIONS_TOLD_MAX) {
        0 => Ok(()),
        more => writeln!(output, "and {more} more in the manifest"),
    }
}

/// Writes what the runs cost, and the hash by which they are known again.
fn cost(record: &Record, output: &mut impl Write) -> io::Result<()> {
    let manifest = &record.manifest;
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| show(Unit::Bytes, bytes as f64));
    let mut parts = vec![
        format!("{} events", show(Unit::Count, manifest.events as f64)),
        format!("{} events/s", show(Unit::Count, manifest.events_per_second)),
    ];
    parts.extend(bytes(manifest.memory_peak_bytes).map(|bytes| format!("{bytes} of memory")));
    parts.extend(bytes(manifest.memory_per_node_bytes).map(|bytes| format!("{bytes} a node")));
    let wall = show(Unit::Seconds, manifest.wall_seconds);
    writeln!(output, "\nran in {wall}: {}", parts.join(", "))?;
    writeln!(output, "event log {}", manifest.event_log_hash)
}

/// Splits the text of an assert into what is measured and its bound.
fn halves(text: &str) -> (&str, &str) {
    let at = text.find(['<', '>', '=']).unwrap_or(text.len());
    let (measure, bound) = text.split_at(at);
    (measure.trim(), bound)
}

fn unit_of(measure: &str) -> &'static str {
    let of_metric = METRICS.iter().find(|metric| metric.0 == measure).map(|metric| metric.1);
    of_metric.unwrap_or("ratio")
}

fn show(unit: Unit, value: f64) -> String {
    unit.show(value).replace('\u{a0}', " ")
}

/// Shows a number of an assert: near its bound three digits may not tell it from the bound.
fn precisely(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Count | Unit::Share if value == value.trunc() => rounded(value, 0),
        Unit::Count | Unit::Share => format!("{value:.6}"),
        Unit::Seconds | Unit::Bytes => show(unit, value),
    }
}

/// Makes 1 of 1.0, as all experiments write it; what is no number is null.
#[expect(clippy::cast_possible_truncation, reason = "only whole numbers below 2^53 are cast")]
fn number(value: f64) -> Value {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value == value.trunc() && value.abs() < WHOLE_MAX {
        json!(value as i64)
    } else {
        json!(value)
    }
}
