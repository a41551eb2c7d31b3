//! Curves of a sweep: a metric over one axis, with the 95 % confidence band of its mean over seeds.

use std::collections::{BTreeMap, BTreeSet};

use crate::output::{Record, Settings, SummaryRow};
use crate::report::chart::{Axis, Caption, Chart, EndLabel, Frame, end_labels};
use crate::report::format::Unit;
use crate::report::markup::{Markup, Path, Px, shortened};
use crate::report::value::{Setting, short_axis};
use crate::stats::{Interval, mean_interval};

/// The most pictures of a sweep.
const CHARTS_MAX: usize = 24;
/// The most metrics that are drawn; the table has them all.
const METRICS_MAX: usize = 8;
/// The most curves of one picture.
const CURVES_MAX: usize = 6;
/// The most values of one axis that are drawn.
const VALUES_MAX: usize = 60;
const CLASSES: [&str; CURVES_MAX] = ["s0", "s1", "s2", "s3", "s4", "s5"];
/// What people look at first, after what the plan asserts.
const FIRST: [&str; 9] = [
    "finish.p50",
    "finish.p95",
    "fetch.p50",
    "edge.bytes",
    "savings.bytes",
    "gossip.bytes",
    "asks.wasted",
    "dht.hops.mean",
    "dht.time.p50",
];
/// Axes whose ends are this far apart are logarithmic.
const LOGARITHMIC_FROM: f64 = 20.0;

/// Returns the metrics worth a picture: those that vary, the ones of asserts first.
pub(crate) fn metrics(record: &Record) -> Vec<&'static str> {
    let asserted = record.manifest.runs.first().into_iter().flat_map(|run| &run.asserts);
    let mut seen = BTreeSet::new();
    let wanted = asserted.flat_map(|verdict| named_in(&verdict.text)).chain(FIRST);
    wanted
        .filter(|name| varies(&record.summary, name) && seen.insert(*name))
        .take(METRICS_MAX)
        .collect()
}

/// Returns the metrics that the text of an assert names.
pub(crate) fn named_in(text: &str) -> Vec<&'static str> {
    let letter = |letter: char| letter.is_alphanumeric() || letter == '.';
    let words: Vec<&str> = text.split(|other| !letter(other)).collect();
    let names = crate::outcome::METRICS.iter().map(|metric| metric.0);
    names.filter(|name| words.contains(name)).collect()
}

fn varies(rows: &[SummaryRow], name: &str) -> bool {
    let mut values = rows.iter().filter_map(|row| row.metrics.get(name));
    values.next().is_some_and(|first| values.any(|value| value != first))
}

/// Draws each metric over each axis, another axis as curves; of a third and further axes every
/// combination has a picture.
pub(crate) fn charts(record: &Record) -> Vec<Chart> {
    let names = axes(record);
    let mut charts = Vec::new();
    for metric in metrics(record) {
        for (index, x) in names.iter().enumerate() {
            let series = names.get((index + 1) % names.len()).filter(|other| *other != x);
            for (facet, rows) in facets(&record.summary, x, series) {
                if charts.len() == CHARTS_MAX {
                    return charts;
                }
                let view = View { metric, x, series, facet: &facet, number: charts.len() };
                charts.extend(view.draw(&rows));
            }
        }
    }
    charts
}

/// Returns the settings that take more than one value.
fn axes(record: &Record) -> Vec<String> {
    let mut values: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (axis, value) in record.summary.iter().flat_map(|row| &row.settings) {
        values.entry(axis).or_default().insert(value);
    }
    values
        .into_iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(axis, _)| axis.clone())
        .collect()
}

/// Splits rows by what they set beside the two axes.
fn facets<'a>(
    rows: &'a [SummaryRow],
    x: &str,
    series: Option<&String>,
) -> BTreeMap<Settings, Vec<&'a SummaryRow>> {
    let mut facets: BTreeMap<Settings, Vec<&SummaryRow>> = BTreeMap::new();
    for row in rows {
        let other = |axis: &&String| axis.as_str() != x && Some(*axis) != series;
        let rest = row.settings.iter().filter(|(axis, _)| other(axis));
        facets.entry(rest.map(|(a, v)| (a.clone(), v.clone())).collect()).or_default().push(row);
    }
    facets
}

/// Says what one picture shows.
struct View<'a> {
    metric: &'static str,
    x: &'a str,
    series: Option<&'a String>,
    facet: &'a Settings,
    number: usize,
}

/// Is a curve: its label, and where it has been measured.
type Curve = (String, Vec<(f64, Interval)>);

impl View<'_> {
    fn draw(&self, rows: &[&SummaryRow]) -> Option<Chart> {
        let places = Places::of(rows.iter().filter_map(|row| row.settings.get(self.x)))?;
        let (curves, left_out) = self.curves(rows, &places);
        let most =
            curves.iter().flat_map(|curve| &curve.1).map(|point| point.1.high).fold(0.0, f64::max);
        let unit = Unit::of_metric(self.metric);
        let labels = if self.series.is_some() { 84.0 } else { 0.0 };
        let y = Axis::from_zero(self.metric, unit, most);
        let frame = Frame::new(places.axis(&short_axis(self.x)), y, labels);
        let mut svg = Markup::default();
        let mut ends = Vec::new();
        for ((label, points), class) in curves.iter().zip(CLASSES) {
            self.curve(&mut svg, &frame, (points, class));
            if let Some((x, at)) = points.last() {
                let y = frame.point((*x, at.middle)).1;
                ends.push(EndLabel { y, text: label.clone(), class });
            }
        }
        if self.series.is_some() {
            end_labels(&mut svg, &frame, ends);
        }
        Some(frame.chart(self.caption(&frame, rows, left_out), &svg))
    }

    fn curves(&self, rows: &[&SummaryRow], places: &Places) -> (Vec<Curve>, usize) {
        let mut cells: BTreeMap<Setting, BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
        for row in rows {
            let of = |axis: &str| row.settings.get(axis).map(String::as_str).unwrap_or_default();
            let label = self.series.map(|axis| of(axis)).unwrap_or_default();
            let place = places.index_of(of(self.x));
            if let (Some(place), Some(value)) = (place, row.metrics.get(self.metric)) {
                cells.entry(Setting::of(label)).or_default().entry(place).or_default().push(*value);
            }
        }
        let point = |(place, values): (&usize, &Vec<f64>)| {
            Some((places.at(*place)?, mean_interval(values)?))
        };
        let left_out = cells.len().saturating_sub(CURVES_MAX);
        let curves = cells.iter().take(CURVES_MAX);
        (
            curves
                .map(|(label, at)| (label.text(), at.iter().filter_map(point).collect()))
                .collect(),
            left_out,
        )
    }

    fn curve(&self, svg: &mut Markup, frame: &Frame, (points, class): (&[(f64, Interval)], &str)) {
        let line = |of: fn(&Interval) -> f64| -> Vec<(f64, f64)> {
            points.iter().map(|(x, at)| frame.point((*x, of(at)))).collect()
        };
        let band = Path::between(&line(|at| at.high), &line(|at| at.low.max(0.0)));
        svg.empty("path", &[("class", &format!("band {class}")), ("d", &band)]);
        svg.empty(
            "path",
            &[("class", &format!("line {class}")), ("d", &Path::line(line(|at| at.middle)))],
        );
        for (x, at) in points {
            let (cx, cy) = frame.point((*x, at.middle));
            svg.open(
                "circle",
                &[
                    ("class", &format!("dot {class}")),
                    ("cx", &Px(cx)),
                    ("cy", &Px(cy)),
                    ("r", &3.5),
                ],
            );
            let unit = Unit::of_metric(self.metric);
            svg.leaf(
                "title",
                &[],
                &format!("{} ± {}", unit.show(at.middle), unit.show(at.half_width())),
            );
            svg.close("circle");
        }
    }

    fn caption(&self, frame: &Frame, rows: &[&SummaryRow], left_out: usize) -> Caption {
        let seeds = rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>().len();
        let unit = frame.y.title.clone();
        let curves = self.series.map(|axis| format!(", a curve for each {}", short_axis(axis)));
        let more = if left_out > 0 { format!(" ({left_out} not drawn)") } else { String::new() };
        let fixed: Vec<String> =
            self.facet.iter().map(|(a, v)| format!("{} = {v}", short_axis(a))).collect();
        let fixed =
            if fixed.is_empty() { String::new() } else { format!("{}; ", fixed.join(", ")) };
        let subtitle =
            format!("{fixed}mean of {seeds} seeds, 95 % band{}{more}", curves.unwrap_or_default());
        Caption {
            name: format!("sweep-{}-{}", self.number + 1, self.metric.replace('.', "-")),
            heading: shortened(&format!("{unit} over {}", short_axis(self.x)), 60),
            description: format!("{} over {}: {subtitle}.", self.metric, self.x),
            subtitle,
        }
    }
}

/// Is the values of the x axis in their order, and where they are.
struct Places {
    values: Vec<Setting>,
    numeric: bool,
}

impl Places {
    fn of<'a>(values: impl Iterator<Item = &'a String>) -> Option<Self> {
        let values: BTreeSet<Setting> = values.map(|value| Setting::of(value)).collect();
        let values: Vec<Setting> = values.into_iter().take(VALUES_MAX).collect();
        let kind = values.first()?.kind();
        let numeric = values.iter().all(|value| value.number().is_some() && value.kind() == kind);
        Some(Self { values, numeric })
    }

    fn index_of(&self, value: &str) -> Option<usize> {
        let wanted = Setting::of(value);
        self.values.iter().position(|value| *value == wanted)
    }

    /// Returns where a value is on the axis: at its number, or else evenly apart.
    fn at(&self, index: usize) -> Option<f64> {
        if self.numeric { self.values.get(index)?.number() } else { Some(index as f64) }
    }

    fn axis(&self, title: &str) -> Axis {
        let ticks: Vec<(f64, String)> = self
            .values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| Some((self.at(index)?, shortened(&value.text(), 12))))
            .collect();
        let ends = (ticks.first().map_or(0.0, |t| t.0), ticks.last().map_or(0.0, |t| t.0));
        let logarithmic = self.numeric && ends.0 > 0.0 && ends.1 / ends.0 >= LOGARITHMIC_FROM;
        let note = if logarithmic { ", logarithmic" } else { "" };
        Axis::with_ticks(&format!("{title}{note}"), ticks, logarithmic)
    }
}
