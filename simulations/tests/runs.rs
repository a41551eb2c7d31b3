//! `run` and `sweep`, as a user types them: what they print, write and end with.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blobmesh_simulations::output::{Record, file};
use blobmesh_simulations::plan::Canned;

const SMALL: &str = r#"
name = "small"
seed = 3
[[group]]
name = "node"
count = 4
[edge]
[[blobs]]
name = "image"
count = 3
size = "2MB"
[[workload]]
name = "pulls"
kind = "pull_set"
[assert]
"violations" = "== 0"
"gets.failed" = "== 0"
[sweep]
repeat = 2
"group.node.count" = [2, 4, 6]
"#;

fn sim(room: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobmesh-sim"));
    command.current_dir(room).args(words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("small.toml"), SMALL).unwrap();
    room
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    out(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the hash that a run of these words prints.
fn hash_of(room: &Path, words: &[&str]) -> String {
    let output = sim(room, &[&["run"], words, &["--json"]].concat());
    let all = lines(&output);
    let hash = all.iter().find(|line| line["metric"] == "event_log_hash").unwrap();
    hash["value"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_tells_its_asserts_and_leaves_a_directory_with_a_page() {
    let room = room();
    let output = sim(room.path(), &["run", "two-nodes", "--seed", "7"]);
    assert_eq!((code(&output), err(&output)), (0, String::new()), "{}", out(&output));
    let text = out(&output);
    assert!(text.starts_with("two-nodes: 2 nodes, seed 7, "), "{text}");
    assert!(text.contains("3 of 4 ended well"), "{text}");
    assert!(text.contains("holds  lan.bytes == 64MiB ") && !text.contains("FAILS"), "{text}");
    assert!(text.contains(" events/s, ") && text.contains(" a node\nevent log "), "{text}");
    let page = text.lines().last().unwrap();
    assert_eq!(page, "blobmesh-sim-out/two-nodes-seed7/report.html");
    let record = Record::open(&room.path().join("blobmesh-sim-out/two-nodes-seed7")).unwrap();
    assert!(record.manifest.holds && record.manifest.complete);
    assert!(text.contains(&record.manifest.event_log_hash));
    for name in [file::FETCHES, file::NODES, file::SERIES, file::REPORT, "finish-cdf.svg"] {
        assert!(record.path.join(name).is_file(), "{name}");
    }
}

#[test]
fn json_has_a_line_for_each_metric_and_assert_in_the_form_of_all_experiments() {
    let room = room();
    let output = sim(room.path(), &["run", "two-nodes", "--json"]);
    assert_eq!(code(&output), 0);
    let text = out(&output);
    let expected = "{\"experiment\":\"two-nodes\",\"metric\":\"lan.bytes\",\"value\":67108864,\
        \"unit\":\"bytes\",\"bound\":\"== 64MiB\",\"holds\":true}";
    assert!(text.lines().any(|line| line == expected), "{text}");
    let all = lines(&output);
    let of = |metric: &str| all.iter().find(|line| line["metric"] == metric).unwrap();
    assert!(of("fetch.p50")["bound"].is_null() && of("fetch.p50")["unit"] == "s");
    for metric in ["events_per_s", "wall_s", "memory_per_node_bytes"] {
        assert!(of(metric)["value"].as_f64() > Some(0.0) || !cfg!(target_os = "linux"), "{metric}");
    }
    assert!(all.iter().all(|line| line["holds"] == true));
}

#[test]
fn an_assert_that_fails_ends_with_1_and_is_named() {
    let room = room();
    let words = ["run", "small.toml", "--set", "assert.gets=\"== 13\"", "--out", "here"];
    let output = sim(room.path(), &words);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("FAILS  gets == 13 "), "{}", out(&output));
    assert!(!Record::open(&room.path().join("here")).unwrap().manifest.holds);
    let json = sim(room.path(), &[&words[..], &["--json"]].concat());
    let failed: Vec<_> = lines(&json).into_iter().filter(|line| line["holds"] == false).collect();
    assert_eq!((code(&json), failed.len()), (1, 1));
    assert_eq!((&failed[0]["metric"], &failed[0]["value"]), (&"gets".into(), &12.into()));
}

#[test]
fn a_bad_plan_ends_with_2_and_writes_nothing() {
    for words in [
        vec!["run", "blom"],
        vec!["run", "small.toml", "--set", "group.node.cuont=3"],
        vec!["sweep", "small.toml", "--set", "sweep.seed=[1.5]"],
        vec!["sweep", "small.toml", "--jobs", "0"],
        vec!["sweep", "small.toml", "--repeat", "0"],
    ] {
        let room = room();
        let output = sim(room.path(), &words);
        assert_eq!((code(&output), out(&output)), (2, String::new()), "{words:?}");
        assert!(err(&output).starts_with("error: "), "{}", err(&output));
        assert_eq!(names(room.path()), ["small.toml"]);
    }
}

#[test]
fn what_others_wrote_stays() {
    let room = room();
    fs::create_dir(room.path().join("mine")).unwrap();
    fs::write(room.path().join("mine/thesis.tex"), "all of it").unwrap();
    let output = sim(room.path(), &["run", "small.toml", "--out", "mine"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("stays as it is"), "{}", err(&output));
    assert_eq!(names(room.path()), ["mine", "small.toml"]);
    assert_eq!(names(&room.path().join("mine")), ["thesis.tex"]);
}

#[test]
fn the_hash_is_that_of_the_event_log() {
    let room = room();
    let hash = hash_of(room.path(), &["two-nodes", "--event-log", "events"]);
    let log = fs::read(room.path().join("events")).unwrap();
    assert_eq!(blake3::hash(&log).to_hex().as_str(), hash);
    assert!(log.iter().filter(|byte| **byte == b'\n').count() > 50);
    let output = sim(room.path(), &["run", "two-nodes", "--event-log", "absent/events"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("write the event log absent/events"), "{}", err(&output));
}

#[test]
fn the_same_seed_is_the_same_run_in_another_process() {
    let room = room();
    let plan = "small.toml";
    let files = |out: &str| {
        let hash = hash_of(room.path(), &[plan, "--out", out]);
        let names = [file::FETCHES, file::SERIES, file::NODES, file::SUMMARY_CSV];
        (hash, names.map(|name| fs::read(room.path().join(out).join(name)).unwrap()))
    };
    assert_eq!(files("a"), files("b"));
    assert_ne!(hash_of(room.path(), &[plan, "--seed", "4"]), files("a").0);
}

#[test]
fn another_delay_of_the_engine_is_another_run() {
    let room = room();
    let hash = |delay: &str| hash_of(room.path(), &["two-nodes", "--set", delay]);
    let default = hash_of(room.path(), &["two-nodes"]);
    assert_eq!(hash("engine.hedge_initial=50ms"), default);
    assert_ne!(hash("engine.hedge_initial=51ms"), default);
    assert_ne!(hash("engine.filter_refresh=59s"), default);
}

#[test]
fn the_manifest_has_the_plan_whole_and_runs_again_anywhere() {
    let room = room();
    fs::create_dir(room.path().join("plans")).unwrap();
    fs::rename(room.path().join("small.toml"), room.path().join("plans/base.toml")).unwrap();
    let mine = "include = [\"base.toml\"]\nname = \"mine\"\n[[workload]]\nkind = \"trace\"\n\
        file = \"gets.csv\"\n[engine]\nhedge_initial = \"20ms\"\n";
    fs::write(room.path().join("plans/mine.toml"), mine).unwrap();
    fs::write(room.path().join("plans/gets.csv"), "at,node,blobs,blob\n5s,0,image,1\n").unwrap();
    let words = ["plans/mine.toml", "--set", "group.node.count=5", "--out", "first"];
    let hash = hash_of(room.path(), &words);
    let text = Record::open(&room.path().join("first")).unwrap().manifest.plan;
    assert!(text.starts_with("# --set group.node.count=5\n"), "{text}");
    fs::remove_file(room.path().join("plans/base.toml")).unwrap();
    fs::write(room.path().join("again.toml"), &text).unwrap();
    assert_eq!(hash_of(room.path(), &["again.toml", "--out", "second"]), hash);
    let traced = sim(room.path(), &["trace", "first", "--blob", "image/1"]);
    assert_eq!((code(&traced), out(&traced).as_str()), (0, "first/trace-image-1.svg\n"));
}

#[test]
fn a_sweep_runs_every_cell_with_every_seed_whatever_the_number_of_jobs() {
    let room = room();
    let sweep = |jobs: &str, place: &str| {
        let output = sim(room.path(), &["sweep", "small.toml", "--jobs", jobs, "--out", place]);
        assert_eq!((code(&output), err(&output)), (0, String::new()), "{}", out(&output));
        let record = Record::open(&room.path().join(place)).unwrap();
        let summary = fs::read(record.path.join(file::SUMMARY_CSV)).unwrap();
        (record.manifest.event_log_hash, summary)
    };
    assert_eq!(sweep("1", "one"), sweep("5", "five"));
    let record = Record::open(&room.path().join("five")).unwrap();
    let runs: Vec<_> = record.manifest.runs.iter().map(|run| (run.cell, run.seed)).collect();
    assert_eq!(runs, [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)]);
    assert!(record.path.join("runs/c2-seed4").join(file::FETCHES).is_file());
    let page = fs::read_to_string(record.path.join(file::REPORT)).unwrap();
    assert!(page.contains("95\u{a0}%") || page.contains("95 %"), "no confidence bands");
}

#[test]
fn a_sweep_names_the_cells_in_which_an_assert_fails() {
    let room = room();
    let words = ["sweep", "small.toml", "--repeat", "3", "--no-rows", "--set"];
    let output = sim(room.path(), &[&words[..], &["assert.gets=\"<= 12\""]].concat());
    let text = out(&output);
    assert_eq!(code(&output), 1, "{text}");
    assert!(text.starts_with("small: 9 runs, up to 6 nodes "), "{text}");
    let failing = text.lines().position(|line| line.starts_with("FAILS  gets <= 12 ")).unwrap();
    assert!(text.lines().nth(failing).unwrap().ends_with("6 to 18, in 3 of 9 runs"), "{text}");
    assert_eq!(text.lines().nth(failing + 1), Some("         cell 2 group.node.count=6: 18"));
    let json = sim(room.path(), &[&words[..], &["assert.gets=\"<= 12\"", "--json"]].concat());
    let failed: Vec<_> = lines(&json).into_iter().filter(|line| line["holds"] == false).collect();
    assert_eq!(failed.len(), 3);
    assert_eq!(failed[0]["cell"]["group.node.count"], "6");
    assert_eq!(failed[0]["seed"], 3);
    let place = room.path().join("blobmesh-sim-out/small-sweep");
    assert!(!place.join("runs").exists() && place.join(file::REPORT).is_file());
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_leaves_no_half_directory() {
    use rustix::process::{Pid, Signal, kill_process};
    let room = room();
    let text = Canned::find("edge-savings").unwrap().text;
    fs::write(room.path().join("long.toml"), text).unwrap();
    let place = room.path().join("out");
    fs::create_dir(&place).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_blobmesh-sim"))
        .args(["sweep", "long.toml", "--out", "out/here"])
        .current_dir(room.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The signals are caught before anything is written.
    while names(&place).is_empty() {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
    assert_eq!(told, "error: signal 2 ended it; no results were written\n");
    assert!(names(&place).is_empty(), "{:?}", names(&place));
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
