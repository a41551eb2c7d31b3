//! Who has a line in the diagram, and where moments are on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::outcome::{MessageRow, TransferRow};

/// What the edge is called in rows.
pub(super) const EDGE: &str = "edge";
/// The most nodes that have a line of their own; of more, those with the most rows, and one line
/// for the rest.
pub(super) const LINES_MAX: usize = 64;
/// The height that all pauses share by their length.
const HEIGHT: f64 = 900.0;
/// The most that one pause takes of it.
const PAUSE_MAX: f64 = 60.0;

/// Is the lines from left to right: the edge first if it took part, then nodes as they came in.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    names: Vec<String>,
    indexes: BTreeMap<String, usize>,
    others: usize,
}

impl Lines {
    pub(super) fn of(transfers: &[&TransferRow], messages: &[&MessageRow]) -> Self {
        let sent = messages.iter().map(|row| (row.sent_ns, &row.from, &row.to));
        let mut rows: Vec<_> =
            transfers.iter().map(|row| (row.start_ns, &row.from, &row.to)).chain(sent).collect();
        rows.sort_by_key(|row| row.0);
        let mut first_seen: Vec<&str> = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in rows.iter().flat_map(|(_, from, to)| [to.as_str(), from.as_str()]) {
            let count = counts.entry(name).or_default();
            if *count == 0 {
                first_seen.push(name);
            }
            *count += 1;
        }
        let nodes: Vec<&str> = first_seen.iter().copied().filter(|name| *name != EDGE).collect();
        let mut by_count = nodes.clone();
        by_count.sort_by_key(|name| std::cmp::Reverse(counts.get(name).copied()));
        let chosen: BTreeSet<&str> = by_count.into_iter().take(LINES_MAX).collect();
        let edge = counts.contains_key(EDGE).then_some(EDGE);
        let shown =
            edge.into_iter().chain(nodes.iter().copied().filter(|name| chosen.contains(name)));
        let names: Vec<String> = shown.map(str::to_owned).collect();
        let indexes =
            names.iter().cloned().enumerate().map(|(index, name)| (name, index)).collect();
        Self { names, indexes, others: nodes.len() - chosen.len() }
    }

    /// Returns the names from left to right; the last is of all others, if there are.
    pub(super) fn names(&self) -> Vec<String> {
        let others = (self.others > 0).then(|| format!("{} others", self.others));
        self.names.iter().cloned().chain(others).collect()
    }

    /// Returns which line a node has, its own or that of all others.
    pub(super) fn index_of(&self, name: &str) -> usize {
        self.indexes.get(name).copied().unwrap_or(self.names.len())
    }
}

/// Places moments from top to bottom. Each pause takes height by its length, but no less than makes
/// it seen and no more than keeps the rest in sight.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    places: BTreeMap<u64, f64>,
}

impl Moments {
    pub(super) fn of(moments: impl Iterator<Item = u64>) -> Self {
        let moments: BTreeSet<u64> = moments.collect();
        let first = moments.first().copied().unwrap_or(0);
        let span = moments.last().map_or(1, |last| last - first).max(1) as f64;
        let least = (1600.0 / moments.len().max(1) as f64).clamp(1.5, 14.0);
        let mut places = BTreeMap::new();
        let (mut place, mut before) = (0.0, first);
        for moment in moments {
            if moment > before {
                let pause = (moment - before) as f64 / span * HEIGHT;
                place += pause.clamp(least, PAUSE_MAX.max(least));
            }
            places.insert(moment, place);
            before = moment;
        }
        Self { places }
    }

    /// Returns how far down a moment is, which must be one of those given.
    pub(super) fn at(&self, moment: u64) -> f64 {
        self.places.range(..=moment).next_back().map_or(0.0, |(_, place)| *place)
    }

    pub(super) fn height(&self) -> f64 {
        self.places.values().next_back().copied().unwrap_or(0.0)
    }

    /// Returns moments with their places, at least `gap` apart.
    pub(super) fn ticks(&self, gap: f64) -> Vec<(u64, f64)> {
        let mut ticks: Vec<(u64, f64)> = Vec::new();
        for (moment, place) in &self.places {
            if ticks.last().is_none_or(|last| place - last.1 >= gap) {
                ticks.push((*moment, *place));
            }
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sent_ns: u64, from: &str, to: &str) -> MessageRow {
        let (from, to, blob) = (from.to_owned(), to.to_owned(), "a/0".to_owned());
        MessageRow { sent_ns, arrived_ns: None, from, to, blob, kind: "ask" }
    }

    #[test]
    fn the_busiest_nodes_have_lines_and_the_rest_share_one() {
        let many: Vec<MessageRow> =
            (0..100).map(|index| message(index, "busy-0", &format!("quiet-{index}"))).collect();
        let lines = Lines::of(&[], &many.iter().collect::<Vec<_>>());
        let names = lines.names();
        assert_eq!((names.len(), names.last().unwrap().as_str()), (65, "37 others"));
        assert_eq!(lines.index_of("quiet-99"), 64);
        assert!(names.contains(&"busy-0".to_owned()));
    }

    #[test]
    fn the_edge_is_first_whenever_it_comes() {
        let rows = [message(1, "a-0", "b-0"), message(2, "b-0", EDGE)];
        assert_eq!(Lines::of(&[], &[&rows[0], &rows[1]]).names(), ["edge", "b-0", "a-0"]);
    }

    #[test]
    fn later_is_further_down_and_no_pause_fills_the_picture() {
        let moments = Moments::of([0, 10, 20, 1_000_000_000_000].into_iter());
        assert!(moments.at(0) < moments.at(10) && moments.at(10) < moments.at(20));
        assert_eq!(moments.height() - moments.at(20), PAUSE_MAX);
    }
}
