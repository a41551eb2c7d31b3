//! Distributions of times.

use super::{fetch_times, finish_times};
use crate::outcome::{FetchRow, Outcome};
use crate::report::chart::{Axis, Caption, Chart, Frame, legend};
use crate::report::format::Unit;
use crate::report::markup::{Markup, Path, Px};
use crate::stats::Cdf;

/// The most points of one curve.
const POINTS_MAX: usize = 200;
/// Beyond this many medians a slowest value would press the curve to the left: the axis is
/// logarithmic.
const LOGARITHMIC_FROM: f64 = 15.0;

/// Draws when nodes had all they wanted.
pub(crate) fn finish(outcome: &Outcome) -> Option<Chart> {
    let cdf = Cdf::new(finish_times(&outcome.fetches).into_values().flatten());
    let caption = Caption {
        name: "finish-cdf".to_owned(),
        heading: "When nodes had everything".to_owned(),
        ..Caption::default()
    };
    draw(caption, "from a node's first want to its last end", "nodes", &[("all", "all nodes", cdf)])
}

/// Draws how long gets took, and those of each tier apart.
pub(crate) fn fetch(fetches: &[FetchRow]) -> Option<Chart> {
    let of = |found: &[&str]| {
        Cdf::new(fetch_times(fetches).filter(|t| found.contains(&t.0)).map(|t| t.1))
    };
    let tiers =
        [("lan", "found on LAN", of(&["lan", "dht"])), ("edge", "found at edge", of(&["edge"]))];
    let mut curves = vec![("all", "all gets", Cdf::new(fetch_times(fetches).map(|time| time.1)))];
    if tiers.iter().all(|tier| !tier.2.values().is_empty()) {
        curves.extend(tiers);
    }
    let caption = Caption {
        name: "fetch-cdf".to_owned(),
        heading: "How long gets took".to_owned(),
        ..Caption::default()
    };
    draw(caption, "gets that ended well and were not local", "gets", &curves)
}

fn draw(
    mut caption: Caption,
    title: &str,
    what: &str,
    curves: &[(&'static str, &str, Cdf)],
) -> Option<Chart> {
    let all = &curves.first()?.2;
    let at = |share| all.percentile(share);
    let (p50, p95, p99, most) = (at(0.5)?, at(0.95)?, at(0.99)?, at(1.0)?);
    let show = |value| Unit::Seconds.show(value);
    let count = Unit::Count.show(all.values().len() as f64);
    caption.subtitle =
        format!("p50 {} · p95 {} · p99 {} · max {}", show(p50), show(p95), show(p99), show(most));
    caption.description =
        format!("Cumulative distribution over {count} {what}: {}.", caption.subtitle);
    let frame = Frame::new(time_axis(title, all, p50, most), shares(), 0.0);
    let mut svg = Markup::default();
    for (class, _, cdf) in curves {
        let mut points = vec![(cdf.values().first().copied()?, 0.0)];
        points.extend(cdf.curve(POINTS_MAX));
        let class = format!("line {class}");
        let path = Path::line(steps(&points).into_iter().map(|point| frame.point(point)));
        svg.empty("path", &[("class", &class), ("d", &path)]);
    }
    for (share, value) in [(0.5, p50), (0.95, p95), (0.99, p99)] {
        let (x, y) = frame.point((value, share));
        svg.open("circle", &[("class", &"dot all"), ("cx", &Px(x)), ("cy", &Px(y)), ("r", &4)]);
        svg.leaf("title", &[], &format!("p{} {}", (share * 100.0).round(), show(value)));
        svg.close("circle");
    }
    if curves.len() > 1 {
        let entry = |curve: &(&'static str, &str, Cdf)| {
            (curve.0, format!("{} ({})", curve.1, Unit::Count.show(curve.2.values().len() as f64)))
        };
        legend(&mut svg, &frame, &curves.iter().map(entry).collect::<Vec<_>>());
    }
    Some(frame.chart(caption, &svg))
}

/// Adds the corners of a staircase while it has few steps; of many they are not seen.
fn steps(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let Some(first) = points.first().filter(|_| points.len() <= POINTS_MAX / 2) else {
        return points.to_vec();
    };
    let corners = points.windows(2).filter_map(|pair| match pair {
        [before, after] => Some([(after.0, before.1), *after]),
        _ => None,
    });
    std::iter::once(*first).chain(corners.flatten()).collect()
}

fn time_axis(title: &str, cdf: &Cdf, median: f64, most: f64) -> Axis {
    let least = cdf.values().first().copied().unwrap_or(0.0);
    if least > 0.0 && most > LOGARITHMIC_FROM * median {
        return Axis::logarithmic(title, Unit::Seconds, least, most);
    }
    Axis::until(title, Unit::Seconds, most)
}

fn shares() -> Axis {
    let ticks = [(0.0, "0"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")];
    Axis::with_ticks("share", ticks.map(|(share, text)| (share, text.to_owned())).to_vec(), false)
}
