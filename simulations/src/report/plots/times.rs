//! What happened over time.

use super::seconds;
use crate::outcome::SeriesRow;
use crate::report::chart::{Axis, Caption, Chart, EndLabel, Frame, end_labels};
use crate::report::format::Unit;
use crate::report::markup::{Markup, Path};

/// The most points of one line.
const POINTS_MAX: usize = 240;
const TITLE: &str = "virtual time";
/// Room for a label such as `LAN 384 GiB`.
const LABELS: f64 = 92.0;

/// Draws the bytes that came so far, those of the edge below those of peers.
pub(crate) fn bytes_by_tier(series: &[SeriesRow]) -> Option<Chart> {
    let points = thinned(series, |row| row.lan_bytes.saturating_add(row.edge_bytes));
    let last = points.last()?;
    let (lan, edge) = (last.lan_bytes as f64, last.edge_bytes as f64);
    if lan + edge == 0.0 {
        return None;
    }
    let x = Axis::until(TITLE, Unit::Seconds, seconds(last.at_ns));
    let frame = Frame::new(x, Axis::from_zero("bytes", Unit::Bytes, lan + edge), LABELS);
    let line = |of: fn(&SeriesRow) -> f64| -> Vec<(f64, f64)> {
        points.iter().map(|row| frame.point((seconds(row.at_ns), of(row)))).collect()
    };
    let ground = line(|_| 0.0);
    let middle = line(|row| row.edge_bytes as f64);
    let top = line(|row| row.edge_bytes as f64 + row.lan_bytes as f64);
    let mut svg = Markup::default();
    svg.empty("path", &[("class", &"area lan"), ("d", &Path::between(&top, &middle))]);
    svg.empty("path", &[("class", &"area edge"), ("d", &Path::between(&middle, &ground))]);
    let (lan_text, edge_text) = (Unit::Bytes.show(lan), Unit::Bytes.show(edge));
    end_labels(
        &mut svg,
        &frame,
        vec![
            EndLabel {
                y: frame.top_of(edge + lan / 2.0),
                text: format!("LAN {lan_text}"),
                class: "lan",
            },
            EndLabel {
                y: frame.top_of(edge / 2.0),
                text: format!("edge {edge_text}"),
                class: "edge",
            },
        ],
    );
    let share = Unit::Share.show(edge / (lan + edge));
    let caption = Caption {
        name: "bytes-by-tier".to_owned(),
        heading: "Bytes received, by tier".to_owned(),
        subtitle: format!("{} since the start; {share} came from the edge", frame.y.unit),
        description: format!(
            "At the end {lan_text} had come from peers and {edge_text} from the edge."
        ),
    };
    Some(frame.chart(caption, &svg))
}

/// Draws how many gets were under way.
pub(crate) fn gets_open(series: &[SeriesRow]) -> Option<Chart> {
    count(series, "gets-open", "Gets under way", "lan", |row| row.gets_open)
}

/// Draws how many nodes were up.
pub(crate) fn nodes_up(series: &[SeriesRow]) -> Option<Chart> {
    count(series, "nodes-up", "Nodes up", "local", |row| row.nodes_up)
}

fn count(
    series: &[SeriesRow],
    name: &str,
    heading: &str,
    class: &'static str,
    of: fn(&SeriesRow) -> u64,
) -> Option<Chart> {
    let points = thinned(series, of);
    let last = points.last()?;
    let most = series.iter().rev().max_by_key(|row| of(row)).filter(|row| of(row) > 0)?;
    let x = Axis::until(TITLE, Unit::Seconds, seconds(last.at_ns));
    let frame = Frame::new(x, Axis::from_zero(heading, Unit::Count, of(most) as f64), 0.0);
    let line: Vec<_> =
        points.iter().map(|row| frame.point((seconds(row.at_ns), of(row) as f64))).collect();
    let ground: Vec<_> = line.iter().map(|(x, _)| (*x, frame.ground())).collect();
    let mut svg = Markup::default();
    svg.empty(
        "path",
        &[("class", &format!("band {class}")), ("d", &Path::between(&line, &ground))],
    );
    svg.empty("path", &[("class", &format!("line {class}")), ("d", &Path::line(line))]);
    let (count, at) = (Unit::Count.show(of(most) as f64), Unit::Seconds.show(seconds(most.at_ns)));
    let end = Unit::Count.show(of(last) as f64);
    let subtitle = format!("at most {count}, first at {at}; {end} at the end");
    let description = format!("{heading} over virtual time: {subtitle}.");
    let caption =
        Caption { name: name.to_owned(), heading: heading.to_owned(), subtitle, description };
    Some(frame.chart(caption, &svg))
}

/// Returns at most [`POINTS_MAX`] rows, of each stretch of time the one with the most, and both
/// ends.
fn thinned(series: &[SeriesRow], of: impl Fn(&SeriesRow) -> u64) -> Vec<SeriesRow> {
    if series.len() <= POINTS_MAX {
        return series.to_vec();
    }
    let stretch = series.len().div_ceil(POINTS_MAX - 2);
    let tops = series.chunks(stretch).filter_map(|rows| rows.iter().max_by_key(|row| of(row)));
    let ends = [series.first(), series.last()].into_iter().flatten();
    let mut points: Vec<SeriesRow> = tops.chain(ends).copied().collect();
    points.sort_by_key(|row| row.at_ns);
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_series_keeps_its_ends_and_its_peaks() {
        let row = |at_ns: u64| SeriesRow {
            at_ns,
            gets_open: u64::from(at_ns == 777_777),
            ..SeriesRow::default()
        };
        let series: Vec<_> = (0..1_000_000).map(row).collect();
        let points = thinned(&series, |row| row.gets_open);
        assert!(points.len() <= POINTS_MAX, "{}", points.len());
        assert_eq!((points[0].at_ns, points[points.len() - 1].at_ns), (0, 999_999));
        assert!(points.iter().any(|row| row.gets_open == 1));
    }
}
