//! Replays that a `validation.json` keeps, so that any model can be held to them without real nodes.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{Cell, Error, finish};
use crate::{
    outcome::{METRICS, Outcome},
    output::{Keep, Kind, Record, Run, Writer},
    report::ReplayedRun,
};

/// What is kept of a replay beside what its cell bounds.
const SHARES: [&str; 2] = ["processor.share", "machine.share"];

/// Takes from replays what a later comparison needs.
pub(super) fn taken_from(real: &Record) -> Vec<ReplayedRun> {
    let mut replays = Vec::new();
    for cell in Cell::all() {
        let settings = cell.settings();
        for (facts, row) in real.runs().filter(|(facts, _)| facts.settings == settings) {
            let names = cell.metrics().into_iter().chain(SHARES);
            let metrics =
                names.filter_map(|name| Some((name.to_owned(), row.metrics.get(name).copied()?)));
            let (settings, seed) = (settings.clone(), facts.seed);
            replays.push(ReplayedRun { settings, seed, metrics: metrics.collect() });
        }
    }
    replays
}

/// Writes kept replays as a directory of results.
pub(super) fn unpacked(replays: &[ReplayedRun], place: &Path) -> Result<Record, Error> {
    let mut writer = Writer::create(place, Kind::Sweep)?;
    for (number, cell) in Cell::all().iter().enumerate() {
        let settings = cell.settings();
        for replay in replays.iter().filter(|replay| replay.settings == settings) {
            let outcome = Outcome { summary: known(&replay.metrics), ..Outcome::default() };
            let (seed, wall, plan) = (replay.seed, Duration::ZERO, cell.plan(replay.seed)?);
            let run = Run {
                cell: number,
                settings: &settings,
                seed,
                plan: &plan,
                wall,
                outcome: &outcome,
            };
            writer.add(&run, Keep::Summary)?;
        }
    }
    finish(writer, Duration::ZERO)
}

/// Returns the seeds of kept replays.
pub(super) fn seeds_of(replays: &[ReplayedRun]) -> Vec<u64> {
    let mut seeds: Vec<u64> = replays.iter().map(|replay| replay.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

/// Returns the metrics that this program knows.
fn known(metrics: &BTreeMap<String, f64>) -> BTreeMap<&'static str, f64> {
    let value = |name: &'static str| Some((name, metrics.get(name).copied()?));
    METRICS.iter().filter_map(|metric| value(metric.0)).collect()
}
