//! `summary.csv` and `summary.json`: the metrics, one row for each cell and seed.
//!
//! The CSV's columns are what the cells set, then `seed`, then the metrics. A metric that a run did
//! not measure is an empty field. Reading takes known metrics in any order, so that results of two
//! versions of this program can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::error::Error;
use super::manifest::Settings;
use super::table;
use crate::outcome::METRICS;

/// Is the metrics of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryRow {
    /// What its cell sets.
    pub settings: Settings,
    /// Its seed.
    pub seed: u64,
    /// The metrics by name.
    pub metrics: BTreeMap<&'static str, f64>,
}

/// Writes the CSV. All rows must set the same.
pub(super) fn write_csv(path: &Path, rows: &[SummaryRow]) -> Result<(), Error> {
    let axes: Vec<&String> = rows.first().into_iter().flat_map(|row| row.settings.keys()).collect();
    if rows.iter().any(|row| !row.settings.keys().eq(axes.iter().copied())) {
        return Err(Error::mismatch(path, "the cells do not set the same".to_owned()));
    }
    let names = axes.iter().map(|axis| axis.as_str()).chain(["seed"]);
    let header: csv::StringRecord = names.chain(METRICS.iter().map(|metric| metric.0)).collect();
    let records = rows.iter().map(|row| {
        let mut record: csv::StringRecord = row.settings.values().map(String::as_str).collect();
        record.push_field(&row.seed.to_string());
        for (name, _, _) in METRICS {
            let value = row.metrics.get(name).filter(|value| value.is_finite()).map(f64::to_string);
            record.push_field(value.as_deref().unwrap_or_default());
        }
        record
    });
    table::write_records(path, &header, records)
}

/// Returns the JSON: `{"schema", "metrics": [{"name", "unit", "about"}], "rows": [{"settings",
/// "seed", "metrics"}]}`.
pub(super) fn json(rows: &[SummaryRow]) -> serde_json::Value {
    let metrics = METRICS
        .iter()
        .map(|(name, unit, about)| json!({ "name": name, "unit": unit, "about": about }));
    let rows = rows
        .iter()
        .map(|row| json!({ "settings": row.settings, "seed": row.seed, "metrics": row.metrics }));
    json!({
        "schema": super::SCHEMA,
        "metrics": metrics.collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// Reads the CSV.
pub(super) fn read_csv(path: &Path) -> Result<Vec<SummaryRow>, Error> {
    let mut reader = table::open(path)?;
    let columns = Columns::of(path, &table::header(path, &mut reader)?)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|source| Error::Csv { path: path.to_path_buf(), source })?;
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(columns.row(&record).map_err(|problem| Error::value(path, line, problem))?);
    }
    Ok(rows)
}

/// Is the header, understood.
struct Columns {
    axes: Vec<String>,
    metrics: Vec<&'static str>,
}

impl Columns {
    fn of(path: &Path, header: &csv::StringRecord) -> Result<Self, Error> {
        let wrong = |problem: String| Error::value(path, 1, problem);
        // An axis may be called `seed`, a metric may not: so the last one is ours.
        let names: Vec<&str> = header.iter().collect();
        let Some(seed) = names.iter().rposition(|name| *name == "seed") else {
            return Err(wrong("there is no column seed".to_owned()));
        };
        let (axes, metrics) = names.split_at(seed);
        let known = |name: &&str| {
            let metric = METRICS.iter().find(|metric| metric.0 == *name);
            metric
                .map(|metric| metric.0)
                .ok_or_else(|| wrong(format!("column {name:?}: no such metric")))
        };
        let metrics = metrics.iter().skip(1).map(known).collect::<Result<Vec<_>, _>>()?;
        if metrics.iter().collect::<BTreeSet<_>>().len() < metrics.len()
            || axes.iter().collect::<BTreeSet<_>>().len() < axes.len()
        {
            return Err(wrong("a column is there twice".to_owned()));
        }
        Ok(Self { axes: axes.iter().map(|axis| (*axis).to_owned()).collect(), metrics })
    }

    fn row(&self, record: &csv::StringRecord) -> Result<SummaryRow, String> {
        let mut fields = record.iter();
        let settings = self.axes.iter().cloned().zip(fields.by_ref().map(str::to_owned)).collect();
        let seed = fields.next().unwrap_or_default();
        let seed =
            seed.parse().map_err(|_| format!("column seed: {seed:?} is not a whole number"))?;
        let mut metrics = BTreeMap::new();
        for (name, field) in self.metrics.iter().zip(fields).filter(|(_, field)| !field.is_empty())
        {
            let value = field.parse::<f64>().ok().filter(|value| value.is_finite());
            let value = value.ok_or_else(|| format!("column {name}: {field:?} is not a number"))?;
            metrics.insert(*name, value);
        }
        Ok(SummaryRow { settings, seed, metrics })
    }
}
