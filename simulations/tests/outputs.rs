//! Directories of results: what is written is read again, and nothing of others is ever lost.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use blobmesh_simulations::output::{Error, Kind, Record, Writer, default_directory, file};
use synthetic::{Cells, Shape, outcome, plan, staged_run, staged_sweep, with_detail};

#[allow(dead_code, reason = "each test program uses its own part")]
mod synthetic;

fn place() -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().unwrap();
    let place = room.path().join("deep/flash-crowd-seed1");
    (room, place)
}

fn names_beside(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place.parent().unwrap()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn text_of(error: &Error) -> String {
    error.to_string()
}

#[test]
fn a_run_is_read_as_it_was_written() {
    let (_room, place) = place();
    let written = with_detail(outcome(Shape::default()), "image/2");
    staged_run(&place, &plan("flash-crowd", 40), &written).publish().unwrap();

    let record = Record::open(&place).unwrap();
    let run = &record.manifest.runs[0];
    assert_eq!(record.outcome(run).unwrap().unwrap(), written);
    assert_eq!(record.manifest.kind, Kind::Run);
    assert_eq!(record.manifest.plan, synthetic::PLAN_TEXT);
    assert_eq!(record.manifest.event_log_hash, written.event_log_hash);
    assert_eq!(record.manifest.memory_per_node_bytes, Some((183 << 20) / 40));
    assert!(record.manifest.holds && record.manifest.complete);
    assert_eq!(run.asserts.len(), 3);
    assert_eq!(names_beside(&place), ["flash-crowd-seed1"]);
}

#[test]
fn a_sweep_is_read_as_it_was_written() {
    let (_room, place) = place();
    let cells = Cells { nodes: &[4, 8], hedges: &["0ms", "50ms"], seeds: 3, slowness: 1.0 };
    staged_sweep(&place, &cells).publish().unwrap();

    let record = Record::open(&place).unwrap();
    assert_eq!(record.runs().count(), 12);
    let (last, metrics) = record.runs().last().unwrap();
    assert_eq!((last.cell, last.seed, last.nodes), (3, 3, 8));
    assert_eq!(last.settings["engine.hedge_after"], "\"50ms\"");
    assert_eq!(record.outcome(last).unwrap().unwrap().summary, metrics.metrics);
    assert!(place.join("runs/c3-seed3").join(file::FETCHES).is_file());
    assert_eq!(record.manifest.memory_per_node_bytes, None);
}

#[test]
fn the_same_outcome_gives_the_same_bytes() {
    let (_room, place) = place();
    let read = || {
        staged_run(&place, &plan("flash-crowd", 40), &outcome(Shape::default())).publish().unwrap();
        let names =
            [file::FETCHES, file::SERIES, file::NODES, file::SUMMARY_CSV, file::SUMMARY_JSON];
        names.map(|name| fs::read(place.join(name)).unwrap())
    };
    assert_eq!(read(), read());
}

#[test]
fn a_new_run_replaces_the_old_one_and_leaves_nothing_beside_it() {
    let (_room, place) = place();
    let detailed = with_detail(outcome(Shape::default()), "image/2");
    staged_run(&place, &plan("flash-crowd", 40), &detailed).publish().unwrap();
    fs::write(place.join("finish-cdf.svg"), "<svg/>").unwrap();
    let other = outcome(Shape { seed: 9, ..Shape::default() });
    staged_run(&place, &plan("flash-crowd", 40), &other).publish().unwrap();

    assert_eq!(Record::open(&place).unwrap().manifest.event_log_hash, other.event_log_hash);
    assert!(!place.join(file::TRANSFERS).exists() && !place.join("finish-cdf.svg").exists());
    assert_eq!(names_beside(&place), ["flash-crowd-seed1"]);
}

#[test]
fn a_run_that_ends_early_leaves_what_was_there() {
    let (_room, place) = place();
    let first = outcome(Shape::default());
    staged_run(&place, &plan("flash-crowd", 40), &first).publish().unwrap();
    drop(staged_run(
        &place,
        &plan("flash-crowd", 40),
        &outcome(Shape { seed: 9, ..Shape::default() }),
    ));

    assert_eq!(Record::open(&place).unwrap().manifest.event_log_hash, first.event_log_hash);
    assert_eq!(names_beside(&place), ["flash-crowd-seed1"]);
}

#[test]
fn a_directory_of_somebody_else_is_never_replaced() {
    let (_room, place) = place();
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("thesis.tex"), "years of work").unwrap();
    let error = Writer::create(&place, Kind::Run).unwrap_err();
    assert!(text_of(&error).contains("it has no manifest.json of blobmesh-sim"), "{error}");

    fs::write(place.join(file::MANIFEST), "{\"name\": \"a web page\"}").unwrap();
    assert!(matches!(Writer::create(&place, Kind::Run), Err(Error::NotOurs { .. })));
    assert_eq!(fs::read_to_string(place.join("thesis.tex")).unwrap(), "years of work");
}

#[test]
fn a_file_that_a_user_put_beside_the_results_keeps_them_all() {
    let (_room, place) = place();
    staged_run(&place, &plan("flash-crowd", 40), &outcome(Shape::default())).publish().unwrap();
    fs::write(place.join("notes.txt"), "look at node 7").unwrap();
    let error = Writer::create(&place, Kind::Run).unwrap_err();
    assert!(text_of(&error).contains("it holds notes.txt"), "{error}");
    assert!(place.join("notes.txt").exists());
}

#[test]
fn a_file_in_the_place_is_not_replaced() {
    let (room, _) = place();
    let file = room.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(Writer::create(&file, Kind::Run), Err(Error::NotOurs { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// Writes a run, changes one file, and returns what reading it says.
fn error_after(name: &str, change: impl Fn(String) -> String) -> String {
    let (_room, place) = place();
    let detailed = with_detail(outcome(Shape::default()), "image/2");
    staged_run(&place, &plan("flash-crowd", 40), &detailed).publish().unwrap();
    let path = place.join(name);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    let read = Record::open(&place).and_then(|record| record.outcome(&record.manifest.runs[0]));
    let error = read.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {cause}")
}

/// Replaces the value of a column in a line from 0, the header.
fn with_field(text: String, line: usize, column: usize, value: &str) -> String {
    let mut lines: Vec<Vec<String>> =
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
    lines[line][column] = value.to_owned();
    lines.iter().map(|fields| fields.join(",") + "\n").collect()
}

#[test]
fn a_wrong_value_is_told_with_file_line_and_column() {
    let cases = [
        (file::FETCHES, 4, "-1", "fetches.csv:4: column took_ns: \"-1\" is not a whole number"),
        (file::FETCHES, 4, "1e9", "column took_ns: \"1e9\" is not a whole number"),
        (file::FETCHES, 4, "18446744073709551616", "is not a whole number below 2^64"),
        (file::FETCHES, 5, "fine", "column result: \"fine\" is not one of ok, not_found"),
        (file::FETCHES, 14, "yes", "column hedged: \"yes\" is not true or false"),
        (file::NODES, 0, "", "nodes.csv:4: column node: \"\" is not a name"),
        (file::NODES, 4, "soon", "column finished_ns: \"soon\" is not a whole number"),
        (file::SERIES, 1, "", "timeseries.csv:4: column lan_bytes: \"\" is not a whole number"),
        (file::TRANSFERS, 7, "done", "column outcome: \"done\" is not one of complete"),
        (file::MESSAGES, 5, "hello", "column kind: \"hello\" is not one of ask"),
        (file::SUMMARY_CSV, 0, "x", "summary.csv:2: column seed: \"x\" is not a whole number"),
        (file::SUMMARY_CSV, 1, "NaN", "summary.csv:2: column nodes: \"NaN\" is not a number"),
    ];
    for (name, column, value, expected) in cases {
        let line = if name == file::SUMMARY_CSV { 1 } else { 3 };
        let told = error_after(name, |text| with_field(text, line, column, value));
        assert!(told.contains(expected), "{name}: {told}");
    }
}

#[test]
fn wrong_columns_lines_and_manifests_are_told() {
    let cut =
        |text: String| text.lines().take(2).map(|l| format!("{l}\n")).collect::<String>() + "a,b\n";
    assert!(error_after(file::FETCHES, cut).contains("line: 3"));
    let renamed = |text: String| text.replacen("took_ns", "took_ms", 1);
    assert!(
        error_after(file::FETCHES, renamed).contains("fetches.csv:1: the columns are not node,")
    );
    let unknown = |text: String| text.replacen("finish.p50", "finish.p51", 1);
    assert!(error_after(file::SUMMARY_CSV, unknown).contains("\"finish.p51\": no such metric"));
    let twice = |text: String| text.replacen("finish.p50", "finish.p95", 1);
    assert!(error_after(file::SUMMARY_CSV, twice).contains("a column is there twice"));
    let other_seed = |text: String| with_field(text, 1, 0, "77");
    assert!(error_after(file::SUMMARY_CSV, other_seed).contains("not those of manifest.json"));
    let newer = |text: String| text.replacen("\"schema\": 1", "\"schema\": 2", 1);
    assert!(error_after(file::MANIFEST, newer).contains("schema 2 is not 1"));
    let cut_short = |text: String| text.chars().take(200).collect();
    assert!(error_after(file::MANIFEST, cut_short).contains("EOF while parsing"));
    let unknown_key = |text: String| text.replacen("\"about\"", "\"abuot\"", 1);
    assert!(error_after(file::MANIFEST, unknown_key).contains("unknown field `abuot`"));
}

#[test]
fn a_sparse_file_beyond_the_bound_is_refused_unread() {
    let (_room, place) = place();
    staged_run(&place, &plan("flash-crowd", 40), &outcome(Shape::default())).publish().unwrap();
    let file = fs::OpenOptions::new().write(true).open(place.join(file::FETCHES)).unwrap();
    file.set_len(3 << 30).unwrap();
    let record = Record::open(&place).unwrap();
    let error = record.outcome(&record.manifest.runs[0]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn names_of_places_are_those_of_plan_and_seed() {
    let run = default_directory(Kind::Run, "churn", 42);
    assert_eq!(run, Path::new("blobmesh-sim-out/churn-seed42"));
    let sweep = default_directory(Kind::Sweep, "churn", 42);
    assert_eq!(sweep, Path::new("blobmesh-sim-out/churn-sweep"));
}
