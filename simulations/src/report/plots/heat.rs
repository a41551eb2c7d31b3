//! One cell for each node, its colour a number.

use std::collections::BTreeMap;

use super::finish_times;
use crate::outcome::{NodeRow, Outcome};
use crate::report::chart::{Caption, Chart, WIDTH, picture};
use crate::report::format::Unit;
use crate::report::markup::{Markup, Path, Px, shortened};
use crate::stats;

/// The most cells; of more nodes, each cell stands for several, and shows the largest.
const CELLS_MAX: usize = 10_000;
/// The most groups that get a strip of their own; nodes of further ones are counted in the
/// subtitle.
const STRIPS_MAX: usize = 16;
/// How many colours there are.
const COLOURS: usize = 7;
const CLASSES: [&str; COLOURS] = ["q0", "q1", "q2", "q3", "q4", "q5", "q6"];

/// Values that differ by no more than this share of the largest have one colour.
const ALIKE: f64 = 0.01;

const LEFT: f64 = 12.0;
const TOP: f64 = 52.0;
const ROOM: f64 = WIDTH - 2.0 * LEFT;
/// The most height that cells take; they shrink to fit.
const CELLS_HEIGHT: f64 = 300.0;
const LABEL_HEIGHT: f64 = 18.0;
const CELL_MAX: f64 = 16.0;

/// Draws when each node had all it wanted.
pub(crate) fn finish(outcome: &Outcome) -> Option<Chart> {
    let times = finish_times(&outcome.fetches);
    let of = |node: &NodeRow| times.get(node.node.as_str()).copied().flatten();
    let caption = Caption {
        name: "finish-heat".to_owned(),
        heading: "When each node had everything".to_owned(),
        subtitle: "in the order of nodes; grey: nothing wanted, or not finished".to_owned(),
        description: "One cell for each node, its colour the stronger the later it finished."
            .to_owned(),
    };
    draw(&outcome.nodes, of, Unit::Seconds, caption)
}

/// Draws which share of each node's bytes came from the edge.
pub(crate) fn edge(outcome: &Outcome) -> Option<Chart> {
    let of = |node: &NodeRow| {
        let all = node.lan_bytes.saturating_add(node.edge_bytes);
        (all > 0).then(|| node.edge_bytes as f64 / all as f64)
    };
    let caption = Caption {
        name: "edge-heat".to_owned(),
        heading: "What each node took from the edge".to_owned(),
        subtitle: "share of its bytes, in the order of nodes; grey: got nothing".to_owned(),
        description: "One cell for each node, its colour the stronger the more of its bytes came from the edge."
            .to_owned(),
    };
    draw(&outcome.nodes, of, Unit::Share, caption)
}

/// Is the nodes of one group, or pairs and more of them.
struct Strip {
    label: String,
    cells: Vec<Option<f64>>,
}

fn draw(
    nodes: &[NodeRow],
    of: impl Fn(&NodeRow) -> Option<f64>,
    unit: Unit,
    caption: Caption,
) -> Option<Chart> {
    let per_cell = nodes.len().div_ceil(CELLS_MAX).max(1);
    let (strips, left_out) = strips(nodes, of, per_cell);
    let known =
        stats::sorted(strips.iter().flat_map(|strip| strip.cells.iter().flatten().copied()));
    let colours = Colours::of(&known)?;
    let mut notes = Vec::new();
    if per_cell > 1 {
        notes.push(format!("a cell is {per_cell} nodes, the largest of them"));
    }
    if left_out > 0 {
        notes.push(format!(
            "{} nodes of further groups are not shown",
            Unit::Count.show(left_out as f64)
        ));
    }
    if colours.alike() {
        notes.push("all within 1 % of each other, and so of one colour".to_owned());
    }
    let size = cell_size(&strips);
    let mut svg = Markup::default();
    let mut paths: BTreeMap<&'static str, Path> = BTreeMap::new();
    let mut top = TOP;
    for strip in &strips {
        svg.leaf(
            "text",
            &[("class", &"tick"), ("x", &Px(LEFT)), ("y", &Px(top + 11.0))],
            &strip.label,
        );
        top += LABEL_HEIGHT;
        top += lay(strip, (size, top), &colours, &mut paths) + 6.0;
    }
    for (class, path) in &paths {
        svg.empty("path", &[("class", class), ("d", path)]);
    }
    key(&mut svg, top + 4.0, &colours, unit);
    top += 36.0;
    if !notes.is_empty() {
        let (x, y) = (Px(LEFT), Px(top + 8.0));
        svg.leaf("text", &[("class", &"tick"), ("x", &x), ("y", &y)], &notes.join("; "));
        top += 14.0;
    }
    Some(picture(caption, (WIDTH, top), &svg))
}

/// Groups nodes by site and group, in the order in which those first come.
fn strips(
    nodes: &[NodeRow],
    of: impl Fn(&NodeRow) -> Option<f64>,
    per_cell: usize,
) -> (Vec<Strip>, usize) {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut members: BTreeMap<(&str, &str), Vec<Option<f64>>> = BTreeMap::new();
    for node in nodes {
        let place = (node.site.as_str(), node.group.as_str());
        let values = members.entry(place).or_insert_with(|| {
            order.push(place);
            Vec::new()
        });
        values.push(of(node));
    }
    let largest = |cell: &[Option<f64>]| cell.iter().flatten().copied().max_by(f64::total_cmp);
    let strip = |place: &(&str, &str)| {
        let values = members.get(place).map(Vec::as_slice).unwrap_or_default();
        let (site, group) = (shortened(place.0, 24), shortened(place.1, 24));
        let label = format!("{site} / {group} · {}", Unit::Count.show(values.len() as f64));
        Strip { label, cells: values.chunks(per_cell).map(largest).collect() }
    };
    let shown = order.iter().take(STRIPS_MAX).map(strip).collect();
    let left_out =
        order.iter().skip(STRIPS_MAX).filter_map(|place| members.get(place)).map(Vec::len);
    (shown, left_out.sum())
}

/// Returns the largest size at which all strips fit.
fn cell_size(strips: &[Strip]) -> f64 {
    let height =
        |size: f64| -> f64 { strips.iter().map(|strip| rows_of(strip, size) * size).sum() };
    let sizes = (4..=32).rev().map(|halves| f64::from(halves) / 2.0);
    sizes.filter(|size| *size <= CELL_MAX).find(|size| height(*size) <= CELLS_HEIGHT).unwrap_or(2.0)
}

fn columns(size: f64) -> f64 {
    (ROOM / size).floor().max(1.0)
}

fn rows_of(strip: &Strip, size: f64) -> f64 {
    (strip.cells.len() as f64 / columns(size)).ceil()
}

/// Adds the cells of a strip to the paths of their colours; returns the height.
fn lay(
    strip: &Strip,
    (size, top): (f64, f64),
    colours: &Colours,
    paths: &mut BTreeMap<&'static str, Path>,
) -> f64 {
    let gap = if size >= 6.0 { 1.0 } else { 0.0 };
    let (mut column, mut row) = (0.0, 0.0);
    for cell in &strip.cells {
        let path = paths.entry(cell.map_or("none", |value| colours.class(value))).or_default();
        path.rectangle(LEFT + column * size, top + row * size, size - gap, size - gap);
        column += 1.0;
        if column >= columns(size) {
            (column, row) = (0.0, row + 1.0);
        }
    }
    rows_of(strip, size) * size
}

/// Maps numbers to colours, evenly from the least to the 99th percentile: one straggler leaves the
/// rest their differences.
struct Colours {
    low: f64,
    high: f64,
    most: f64,
}

impl Colours {
    fn of(ascending: &[f64]) -> Option<Self> {
        let (low, most) = (*ascending.first()?, *ascending.last()?);
        Some(Self { low, high: stats::percentile(ascending, 0.99)?, most })
    }

    /// Says whether there is nothing to tell apart: full colours would make much of little.
    fn alike(&self) -> bool {
        self.high - self.low <= ALIKE * self.high.abs()
    }

    fn class(&self, value: f64) -> &'static str {
        let width = (self.high - self.low) / COLOURS as f64;
        let above = |index: &usize| value < self.low + width * (index + 1) as f64;
        let index = (0..COLOURS).find(above).unwrap_or(COLOURS - 1);
        let index = match self.alike() {
            true if self.high == 0.0 => 0,
            true => COLOURS / 2,
            false => index,
        };
        CLASSES.get(index).copied().unwrap_or("none")
    }
}

fn key(svg: &mut Markup, top: f64, colours: &Colours, unit: Unit) {
    let width = 22.0;
    for (index, class) in CLASSES.iter().enumerate() {
        let x = Px(LEFT + index as f64 * width);
        svg.empty(
            "rect",
            &[("class", class), ("x", &x), ("y", &Px(top)), ("width", &Px(width)), ("height", &9)],
        );
    }
    let right = LEFT + COLOURS as f64 * width;
    let y = Px(top + 22.0);
    svg.leaf("text", &[("class", &"tick"), ("x", &Px(LEFT)), ("y", &y)], &unit.show(colours.low));
    svg.leaf(
        "text",
        &[("class", &"tick end"), ("x", &Px(right)), ("y", &y)],
        &unit.show(colours.high),
    );
    if colours.most > colours.high {
        let most = format!("last colour: up to {}", unit.show(colours.most));
        svg.leaf(
            "text",
            &[("class", &"tick"), ("x", &Px(right + 10.0)), ("y", &Px(top + 9.0))],
            &most,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_hardly_differ_have_one_colour() {
        let colours = Colours::of(&[1833.1, 1833.5, 1834.0]).unwrap();
        assert!(colours.alike());
        assert_eq!(colours.class(1833.1), colours.class(1834.0));
    }

    #[test]
    fn a_straggler_leaves_the_rest_their_differences() {
        let mut times: Vec<f64> = (1..=200).map(f64::from).collect();
        times.push(1e6);
        let colours = Colours::of(&times).unwrap();
        assert_eq!(
            [1.0, 100.0, 199.0, 1e6].map(|time| colours.class(time)),
            ["q0", "q3", "q6", "q6"]
        );
    }
}
