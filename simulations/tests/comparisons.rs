//! Comparisons: a model that is right passes, one that is wrong fails, and nothing is passed
//! unseen.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;

use blobmesh_simulations::compare::{Bounds, Comparison, compare};
use blobmesh_simulations::output::{Error, Record};
use synthetic::{Cells, Shape, outcome, plan, staged_run, staged_sweep};

#[allow(dead_code, reason = "each test program uses its own part")]
mod synthetic;

const CELLS: Cells<'static> =
    Cells { nodes: &[20, 40], hedges: &["0ms", "50ms"], seeds: 4, slowness: 1.0 };

fn sweep(room: &Path, name: &str, cells: &Cells<'_>) -> Record {
    let place = staged_sweep(&room.join(name), cells).publish().unwrap();
    Record::open(&place).unwrap()
}

fn sweeps(other: &Cells<'_>, bounds: &Bounds) -> Comparison {
    let room = tempfile::tempdir().unwrap();
    compare(&sweep(room.path(), "a", other), &sweep(room.path(), "b", &CELLS), bounds).unwrap()
}

fn text_of(comparison: &Comparison) -> String {
    let mut text = Vec::new();
    comparison.write_text(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn results_are_within_bounds_of_themselves() {
    let found = sweeps(&CELLS, &Bounds::default().with_distance(Some(0.0)));
    assert!(found.holds);
    assert_eq!(found.cells.len(), 4);
    for cell in &found.cells {
        assert_eq!(
            (cell.seeds_paired, cell.finish_distance, cell.fetch_distance),
            (4, Some(0.0), Some(0.0))
        );
    }
    let finish = found.metrics.iter().find(|row| row.metric == "finish.p50").unwrap();
    assert_eq!((finish.worst_error, finish.rank_correlation), (Some(0.0), Some(1.0)));
    assert!(text_of(&found).ends_with("\nwithin bounds\n"));
}

#[test]
fn a_model_with_twice_the_latency_fails() {
    let found = sweeps(&Cells { slowness: 2.0, ..CELLS }, &Bounds::default());
    assert!(!found.holds);
    assert!(found.cells.iter().all(|cell| !cell.holds && cell.finish_distance.unwrap() > 0.5));
    let finish = found.metrics.iter().find(|row| row.metric == "finish.p50").unwrap();
    assert!((finish.median_error.unwrap() - 1.0).abs() < 0.2, "{finish:?}");
    // The order of the cells is right all the same, which is what a rank correlation is for.
    assert_eq!(finish.rank_correlation, Some(1.0));
    let bytes = found.metrics.iter().find(|row| row.metric == "edge.bytes").unwrap();
    assert!(bytes.holds && !finish.holds);
    assert!(text_of(&found).ends_with("NOT within bounds\n"));
}

#[test]
fn a_median_error_has_an_interval_once_there_are_five_cells() {
    let of = |hedges: &[&str]| {
        let room = tempfile::tempdir().unwrap();
        let cells = Cells { hedges, ..CELLS };
        let slow = Cells { slowness: 1.1, ..cells };
        let (a, b) = (sweep(room.path(), "a", &slow), sweep(room.path(), "b", &cells));
        let found = compare(&a, &b, &Bounds::default()).unwrap();
        found.metrics.iter().find(|row| row.metric == "fetch.p50").unwrap().clone()
    };
    assert_eq!(of(&["0ms", "50ms"]).median_error_interval, None);
    let row = of(&["0ms", "50ms", "100ms"]);
    let [low, high] = row.median_error_interval.unwrap();
    assert!(low <= row.median_error.unwrap() && row.median_error.unwrap() <= high);
    assert!((0.09..0.11).contains(&low) && (0.09..0.11).contains(&high), "{low} {high}");
}

#[test]
fn one_bad_cell_among_good_ones_fails() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let mut bad = good.clone();
    for row in
        bad.summary.iter_mut().filter(|row| row.settings["group.runner.count"] == "40").take(4)
    {
        *row.metrics.get_mut("finish.p50").unwrap() *= 1.3;
    }
    let found = compare(&bad, &good, &Bounds::default()).unwrap();
    assert!(!found.holds);
    assert_eq!(found.cells.iter().filter(|cell| !cell.holds).count(), 1);
    let mut wide = Bounds::default();
    wide.set("finish.p50=31%").unwrap();
    assert!(compare(&bad, &good, &wide).unwrap().holds);
}

#[test]
fn the_error_has_the_second_as_its_reference() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let mut half = good.clone();
    for row in &mut half.summary {
        *row.metrics.get_mut("makespan").unwrap() /= 2.0;
    }
    let error = |a: &Record, b: &Record| {
        let found = compare(a, b, &Bounds::default()).unwrap();
        found.metrics.iter().find(|row| row.metric == "makespan").unwrap().worst_error.unwrap()
    };
    assert!((error(&half, &good) - 0.5).abs() < 1e-9);
    assert!((error(&good, &half) - 1.0).abs() < 1e-9);
}

#[test]
fn other_seeds_are_compared_by_their_means() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let mut later = good.clone();
    for (row, run) in later.summary.iter_mut().zip(&mut later.manifest.runs) {
        row.seed += 100;
        run.seed += 100;
        run.rows = false;
    }
    let found = compare(&later, &good, &Bounds::default()).unwrap();
    assert!(found.holds && found.cells.iter().all(|cell| cell.seeds_paired == 0));
    assert_eq!(found.cells[0].finish_distance, None);
    let strict = Bounds::default().with_distance(Some(0.5));
    assert!(
        !compare(&later, &good, &strict).unwrap().holds,
        "a distance that cannot be had passed"
    );
}

#[test]
fn a_metric_with_a_bound_that_one_side_lacks_does_not_hold() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let mut blind = good.clone();
    for row in &mut blind.summary {
        row.metrics.remove("edge.bytes");
    }
    for (a, b) in [(&blind, &good), (&good, &blind), (&blind, &blind)] {
        assert!(!compare(a, b, &Bounds::default()).unwrap().holds);
    }
}

#[test]
fn something_against_nothing_has_no_error_and_does_not_hold() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let mut local = good.clone();
    for row in &mut local.summary {
        row.metrics.insert("local.bytes", 1.0);
    }
    let found = compare(&local, &good, &Bounds::default()).unwrap();
    let row = found.metrics.iter().find(|row| row.metric == "local.bytes").unwrap();
    assert_eq!((row.worst_error, row.holds), (None, false));
}

#[test]
fn bytes_of_tiers_bounded_together_are_off_by_a_share_of_all() {
    let room = tempfile::tempdir().unwrap();
    let good = sweep(room.path(), "b", &CELLS);
    let with_local = |share: f64| {
        let mut other = good.clone();
        for row in &mut other.summary {
            let all =
                row.metrics["local.bytes"] + row.metrics["lan.bytes"] + row.metrics["edge.bytes"];
            *row.metrics.get_mut("local.bytes").unwrap() += all * share;
        }
        other
    };
    let together = Bounds::default().with_tiers_of_all();
    assert!(!compare(&with_local(0.02), &good, &Bounds::default()).unwrap().holds);
    assert!(compare(&with_local(0.02), &good, &together).unwrap().holds);
    assert!(!compare(&with_local(0.04), &good, &together).unwrap().holds);
}

#[test]
fn cells_of_one_side_are_named_and_no_cell_in_common_is_an_error() {
    let found = sweeps(&Cells { nodes: &[20, 60], ..CELLS }, &Bounds::default());
    assert_eq!((found.cells.len(), found.only_in_a.len(), found.only_in_b.len()), (2, 2, 2));
    assert!(
        text_of(&found)
            .contains("only the first has engine.hedge_after = \"0ms\", group.runner.count = 60")
    );
    let room = tempfile::tempdir().unwrap();
    let (a, b) = (
        sweep(room.path(), "a", &Cells { nodes: &[60], ..CELLS }),
        sweep(room.path(), "b", &CELLS),
    );
    let none = compare(&a, &b, &Bounds::default());
    assert!(matches!(none, Err(Error::Mismatch { .. })));
}

#[test]
fn two_runs_are_compared_as_one_cell_and_json_tells_the_same() {
    let room = tempfile::tempdir().unwrap();
    let run = |name: &str, slowness| {
        let outcome = outcome(Shape { slowness, ..Shape::default() });
        let place = staged_run(&room.path().join(name), &plan("flash-crowd", 40), &outcome)
            .publish()
            .unwrap();
        Record::open(&place).unwrap()
    };
    let found = compare(&run("a", 1.02), &run("b", 1.0), &Bounds::default()).unwrap();
    assert!(found.holds, "{}", text_of(&found));
    let mut json = Vec::new();
    found.write_json(&mut json).unwrap();
    let lines: Vec<serde_json::Value> = json
        .split(|byte| *byte == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert!(lines.iter().all(|line| line["version"] == 1));
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["holds"]), (&"summary".into(), &true.into()));
    let cell = lines.iter().find(|line| line["type"] == "cell").unwrap();
    assert_eq!(cell["seeds_paired"], 1);
}
