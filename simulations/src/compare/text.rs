//! A comparison as people and as programs read it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::{CellRow, Comparison};
use crate::output::Settings;
use crate::report::Unit;

/// The form of the JSON lines.
const VERSION: u32 = 1;
/// The most cells that people are shown; of more, those that do not hold come first.
const CELLS_SHOWN_MAX: usize = 40;

impl Comparison {
    /// Writes two tables: each metric over all cells, then what has a bound, cell by cell.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_text(&self, output: &mut impl Write) -> io::Result<()> {
        self.write_metrics(output)?;
        self.write_cells(output)?;
        for (side, cells) in [("first", &self.only_in_a), ("second", &self.only_in_b)] {
            for cell in cells {
                writeln!(output, "only the {side} has {}: not compared", named(cell))?;
            }
        }
        writeln!(output, "{}", if self.holds { "within bounds" } else { "NOT within bounds" })
    }

    /// Writes JSON lines: of type `metric`, then `cell`, and one `summary`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_json(&self, output: &mut impl Write) -> io::Result<()> {
        for metric in &self.metrics {
            line(output, "metric", metric)?;
        }
        for cell in &self.cells {
            line(output, "cell", cell)?;
        }
        let summary = json!({
            "holds": self.holds, "cells": self.cells.len(),
            "only_in_a": self.only_in_a, "only_in_b": self.only_in_b,
        });
        line(output, "summary", &summary)
    }

    fn write_metrics(&self, output: &mut impl Write) -> io::Result<()> {
        let cells = self.cells.len();
        writeln!(output, "over {cells} cells; an error is the first over the second, less one\n")?;
        writeln!(
            output,
            "{:18} {:>9} {:>17} {:>9} {:>9} {:>7}  holds",
            "metric", "median", "95 % of median", "worst", "bound", "rank"
        )?;
        for row in &self.metrics {
            let interval = row.median_error_interval;
            let interval = interval
                .map(|[low, high]| format!("{} to {}", share(Some(low)), share(Some(high))));
            writeln!(
                output,
                "{:18} {:>9} {:>17} {:>9} {:>9} {:>7}  {}",
                row.metric,
                share(row.median_error),
                interval.unwrap_or_else(|| "-".to_owned()),
                share(row.worst_error),
                share(row.bound),
                row.rank_correlation.map_or_else(|| "-".to_owned(), |rank| format!("{rank:.2}")),
                verdict(row.bound.is_some(), row.holds),
            )?;
        }
        writeln!(output)
    }

    fn write_cells(&self, output: &mut impl Write) -> io::Result<()> {
        let mut cells: Vec<&CellRow> = self.cells.iter().collect();
        cells.sort_by_key(|cell| cell.holds);
        for cell in cells.iter().take(CELLS_SHOWN_MAX) {
            write_cell(output, cell)?;
        }
        let left = cells.len().saturating_sub(CELLS_SHOWN_MAX);
        if left > 0 {
            writeln!(output, "{left} more cells are not shown; --json has them\n")?;
        }
        Ok(())
    }
}

fn write_cell(output: &mut impl Write, cell: &CellRow) -> io::Result<()> {
    let seeds = match cell.seeds_paired {
        0 => "no seed in common, means compared".to_owned(),
        1 => "1 seed in common".to_owned(),
        seeds => format!("{seeds} seeds in common"),
    };
    writeln!(output, "{} ({seeds})", named(&cell.settings))?;
    for row in cell.metrics.iter().filter(|row| row.bound.is_some()) {
        let show = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| Unit::of_metric(row.metric).show(value))
        };
        writeln!(
            output,
            "  {:16} {:>11} {:>11} {:>9}  within {:>6}  {}",
            row.metric,
            show(row.a),
            show(row.b),
            row.error.map_or_else(|| "-".to_owned(), |error| format!("{:+.1} %", error * 100.0)),
            share(row.bound),
            verdict(true, row.holds),
        )?;
    }
    let distances = [("finish times", cell.finish_distance), ("fetch times", cell.fetch_distance)];
    for (what, distance) in distances {
        let Some(distance) = distance else { continue };
        let bound = cell.distance_bound;
        let within = bound.map_or_else(String::new, |bound| format!("  within {bound:.3}"));
        let holds = verdict(bound.is_some(), bound.is_none_or(|bound| distance <= bound));
        writeln!(output, "  {what:16} KS distance {distance:.3}{within}  {holds}")?;
    }
    writeln!(output)
}

fn named(settings: &Settings) -> String {
    if settings.is_empty() {
        return "the plan as it stands".to_owned();
    }
    let parts: Vec<String> =
        settings.iter().map(|(axis, value)| format!("{axis} = {value}")).collect();
    parts.join(", ")
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

fn verdict(bounded: bool, holds: bool) -> &'static str {
    match (bounded, holds) {
        (false, _) => "",
        (true, true) => "yes",
        (true, false) => "NO",
    }
}

fn line(output: &mut impl Write, kind: &str, body: &impl Serialize) -> io::Result<()> {
    let mut value = serde_json::to_value(body)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("type".to_owned(), json!(kind));
        object.insert("version".to_owned(), json!(VERSION));
    }
    writeln!(output, "{value}")
}
