//! What the pictures show. Each takes rows and gives a picture, or none where there is nothing to
//! show.

pub(crate) mod cdf;
pub(crate) mod heat;
pub(crate) mod sweep;
pub(crate) mod times;

use std::collections::BTreeMap;

use crate::outcome::FetchRow;

/// Turns virtual time into seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Returns for each node the seconds from its first want to the end of its last get; a node that
/// was killed under a get, or had one under way at the end, has none.
pub(crate) fn finish_times(fetches: &[FetchRow]) -> BTreeMap<&str, Option<f64>> {
    let mut spans: BTreeMap<&str, (u64, u64, bool)> = BTreeMap::new();
    for row in fetches {
        let end = row.start_ns.saturating_add(row.took_ns);
        let ended = !matches!(row.result, "killed" | "unfinished");
        let span = spans.entry(&row.node).or_insert((row.start_ns, end, true));
        *span = (span.0.min(row.start_ns), span.1.max(end), span.2 && ended);
    }
    let finish =
        |(from, to, ended): (u64, u64, bool)| ended.then(|| seconds(to.saturating_sub(from)));
    spans.into_iter().map(|(node, span)| (node, finish(span))).collect()
}

/// Returns the seconds of the gets that ended well and were not local.
pub(crate) fn fetch_times(fetches: &[FetchRow]) -> impl Iterator<Item = (&'static str, f64)> {
    let well = fetches.iter().filter(|row| row.result == "ok" && row.found != "local");
    well.map(|row| (row.found, seconds(row.took_ns)))
}
