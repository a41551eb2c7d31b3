//! The tables of the page.

use std::fmt::Display;

use super::envelope::Envelope;
use super::format::{Unit, digits, places, rounded};
use super::markup::{Markup, shortened};
use super::plots::sweep;
use super::value::{Setting, short_axis};
use crate::outcome::METRICS;
use crate::output::{Manifest, Record, RunFacts};
use crate::stats::{mean_interval, sorted};

/// The most rows of a table; the files have them all.
const ROWS_MAX: usize = 200;
/// The most asserts that are listed.
const ASSERTS_MAX: usize = 100;

/// Writes what the plan's asserts came to: of a run their values, of a sweep in how many runs they
/// held.
pub(super) fn asserts(html: &mut Markup, manifest: &Manifest) {
    let Some(first) = manifest.runs.first().filter(|run| !run.asserts.is_empty()) else {
        html.leaf("p", &[("class", &"verdict")], "The plan asserts nothing.");
        return;
    };
    let held =
        (0..first.asserts.len()).filter(|index| held_in(manifest, *index) == manifest.runs.len());
    let (held, all) = (held.count(), first.asserts.len());
    html.open("section", &[("id", &"asserts")]);
    html.leaf(
        "h2",
        &[],
        &if held == all {
            format!("All {all} asserts hold")
        } else {
            format!("{} of {all} asserts fail", all - held)
        },
    );
    let many = manifest.runs.len() > 1;
    let heads: &[&str] = if many {
        &["Assert", "Holds", "Least#", "Most#"]
    } else {
        &["Assert", "Holds", "Measured#"]
    };
    table(html, heads);
    for index in 0..first.asserts.len().min(ASSERTS_MAX) {
        assert_row(html, manifest, index);
    }
    end_table(html);
    html.close("section");
}

fn assert_row(html: &mut Markup, manifest: &Manifest, index: usize) {
    let verdicts = manifest.runs.iter().filter_map(|run| run.asserts.get(index));
    let text = verdicts.clone().next().map(|verdict| verdict.text.as_str()).unwrap_or_default();
    let values = sorted(verdicts.filter_map(|verdict| verdict.value));
    let unit = unit_of(text);
    let show = |value: Option<&f64>| {
        value.map_or_else(|| "not measured".to_owned(), |value| unit.show(*value))
    };
    let (held, runs) = (held_in(manifest, index), manifest.runs.len());
    html.open("tr", &[]);
    html.open("th", &[("scope", &"row")]);
    html.leaf("code", &[], &shortened(text, 200));
    html.close("th");
    let (class, word) = if held == runs { ("holds", "holds") } else { ("fails", "FAILS") };
    let word = if runs > 1 {
        format!("{word} in {} of {runs}", if held == runs { held } else { runs - held })
    } else {
        word.to_owned()
    };
    html.leaf("td", &[("class", &class)], &word);
    number(html, &show(values.first()));
    if runs > 1 {
        number(html, &show(values.last()));
    }
    html.close("tr");
}

/// Returns the unit of an assert's value: that of the one metric it names; a ratio of two has none.
fn unit_of(text: &str) -> Unit {
    match sweep::named_in(text).as_slice() {
        [metric] => Unit::of_metric(metric),
        _ => Unit::Count,
    }
}

fn held_in(manifest: &Manifest, index: usize) -> usize {
    let held = |run: &&RunFacts| run.asserts.get(index).is_some_and(|verdict| verdict.holds);
    manifest.runs.iter().filter(held).count()
}

/// Writes all metrics of a run.
pub(super) fn metrics(html: &mut Markup, record: &Record) {
    let Some(row) = record.summary.first() else { return };
    html.open("section", &[("id", &"metrics")]);
    html.leaf("h2", &[], "All metrics");
    table(html, &["Metric", "Value#", "What it is"]);
    for (name, _, about) in METRICS {
        let Some(value) = row.metrics.get(name) else { continue };
        html.open("tr", &[]);
        html.open("th", &[("scope", &"row")]);
        html.leaf("code", &[], name);
        html.close("th");
        number(html, &Unit::of_metric(name).show(*value));
        html.leaf("td", &[("class", &"about")], about);
        html.close("tr");
    }
    end_table(html);
    html.close("section");
}

/// Writes the metrics that vary, a row for each cell: the mean over its seeds and half the width of
/// its 95 % confidence interval.
pub(super) fn cells(html: &mut Markup, record: &Record) {
    let metrics = sweep::metrics(record);
    let Some(first) = record.summary.first() else { return };
    html.open("section", &[("id", &"cells")]);
    html.leaf("h2", &[], "Cells");
    let note = "Mean over seeds ± half the 95 % confidence interval (Student's t). \
        summary.csv has every metric and run.";
    html.leaf("p", &[("class", &"note")], note);
    let axes = first.settings.keys().map(|axis| short_axis(axis) + "#");
    let heads: Vec<String> = axes
        .chain(["seeds#".to_owned()])
        .chain(metrics.iter().map(|metric| format!("{metric}#")))
        .collect();
    table(html, &heads);
    let runs: Vec<_> = record.runs().collect();
    let mut cells = runs.chunk_by(|a, b| a.0.cell == b.0.cell);
    for cell in cells.by_ref().take(ROWS_MAX) {
        html.open("tr", &[]);
        for value in cell.iter().take(1).flat_map(|(run, _)| run.settings.values()) {
            html.leaf(
                "th",
                &[("scope", &"row"), ("class", &"number")],
                &shortened(&Setting::of(value).text(), 24),
            );
        }
        number(html, &cell.len().to_string());
        for metric in &metrics {
            let values: Vec<f64> =
                cell.iter().filter_map(|(_, row)| row.metrics.get(metric).copied()).collect();
            number(html, &spread(&values, Unit::of_metric(metric)));
        }
        html.close("tr");
    }
    end_table(html);
    let left = cells.count();
    if left > 0 {
        html.leaf("p", &[("class", &"note")], &format!("{left} more cells are in summary.csv."));
    }
    html.close("section");
}

/// Shows a mean and half its interval in one unit: `4.21 ± 0.13 s`.
fn spread(values: &[f64], unit: Unit) -> String {
    let Some(interval) = mean_interval(values) else { return "–".to_owned() };
    let (size, name) = unit.step(interval.middle);
    let (middle, half) = (interval.middle / size, interval.half_width() / size);
    // The interval says how many places of the mean mean something.
    let places =
        if half > 0.0 { places(half).map(|places| places.saturating_sub(1)) } else { None };
    let shown = |value| places.map_or_else(|| digits(value), |places| rounded(value, places));
    let text = format!("{} ± {}", shown(middle), shown(half));
    if name.is_empty() { text } else { format!("{text}\u{a0}{name}") }
}

/// Writes within which ranges the simulator was compared with real nodes.
pub(super) fn envelope(html: &mut Markup, envelope: &Envelope) {
    let text = format!(
        "Compared with real nodes at commit {} in {} cells that took no part in the calibration. Beyond these \
         ranges the numbers are an extrapolation.",
        shortened(&envelope.commit, 60),
        envelope.cells,
    );
    html.leaf("p", &[], &text);
    html.leaf("pre", &[], &shortened(&envelope.command, 400));
    table(html, &["Range", "From#", "To#"]);
    for range in envelope.ranges.iter().take(ROWS_MAX) {
        html.open("tr", &[]);
        html.leaf("th", &[("scope", &"row")], &shortened(&range.what, 80));
        number(html, &shortened(&range.from, 40));
        number(html, &shortened(&range.to, 40));
        html.close("tr");
    }
    end_table(html);
    table(html, &["Metric", "Median error#", "Worst error#", "Bound#", "Holds"]);
    for error in envelope.errors.iter().take(ROWS_MAX) {
        html.open("tr", &[]);
        html.leaf("th", &[("scope", &"row")], &shortened(&error.metric, 80));
        for share in [error.median, error.worst, error.bound] {
            number(html, &Unit::Share.show(share));
        }
        let holds = error.worst <= error.bound;
        html.leaf(
            "td",
            &[("class", &if holds { "holds" } else { "fails" })],
            if holds { "holds" } else { "FAILS" },
        );
        html.close("tr");
    }
    end_table(html);
}

/// Begins a table; it scrolls in itself on a narrow screen. Columns whose head ends in `#` are of
/// numbers.
fn table<T: Display>(html: &mut Markup, heads: &[T]) {
    html.open("div", &[("class", &"scroll"), ("tabindex", &0)]);
    html.open("table", &[]);
    html.open("thead", &[]);
    html.open("tr", &[]);
    for head in heads {
        let head = head.to_string();
        let (head, class) =
            head.strip_suffix('#').map_or((head.as_str(), "text"), |head| (head, "number"));
        html.leaf("th", &[("scope", &"col"), ("class", &class)], &shortened(head, 60));
    }
    html.close("tr");
    html.close("thead");
    html.open("tbody", &[]);
}

fn end_table(html: &mut Markup) {
    html.close("tbody");
    html.close("table");
    html.close("div");
}

fn number(html: &mut Markup, text: &str) {
    html.leaf("td", &[("class", &"number")], text);
}
