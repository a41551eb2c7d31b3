//! The commands that read results: their exit codes, and what they print where.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blobmesh_simulations::output::file;
use synthetic::{Shape, outcome, plan, staged_run, with_detail};

#[allow(dead_code, reason = "each test program uses its own part")]
mod synthetic;

fn simulate(arguments: &[&str], room: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_blobmesh-sim"))
        .args(arguments)
        .current_dir(room)
        .output()
        .unwrap()
}

fn room() -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().unwrap();
    for (name, slowness) in [("right", 1.0), ("near", 1.05), ("wrong", 2.0)] {
        let outcome = with_detail(outcome(Shape { slowness, ..Shape::default() }), "image/2");
        staged_run(&room.path().join(name), &plan("flash-crowd", 40), &outcome).publish().unwrap();
    }
    let path = room.path().to_path_buf();
    (room, path)
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

#[test]
fn compare_ends_with_0_within_bounds_and_with_1_beyond() {
    let (_room, path) = room();
    let near = simulate(&["compare", "near", "right"], &path);
    assert_eq!((code(&near), err(&near)), (0, String::new()));
    assert!(out(&near).ends_with("within bounds\n"));
    let wrong = simulate(&["compare", "wrong", "right"], &path);
    assert_eq!(code(&wrong), 1);
    assert!(out(&wrong).ends_with("NOT within bounds\n"));
    let strict = simulate(&["compare", "near", "right", "--bound", "finish.p50=1%"], &path);
    assert_eq!(code(&strict), 1);
    let far = simulate(&["compare", "near", "right", "--distance", "0.001"], &path);
    assert_eq!(code(&far), 1);
}

#[test]
fn compare_prints_json_lines_only() {
    let (_room, path) = room();
    let output = simulate(&["compare", "near", "right", "--json"], &path);
    for line in out(&output).lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["type"].is_string() && value["version"] == 1);
    }
}

#[test]
fn bad_arguments_end_with_2_and_missing_results_with_1() {
    let (_room, path) = room();
    let bad = simulate(&["compare", "near", "right", "--bound", "speed=1%"], &path);
    assert_eq!(code(&bad), 2);
    assert!(err(&bad).contains("there is no metric speed"));
    let missing = simulate(&["compare", "near", "nowhere"], &path);
    assert_eq!(code(&missing), 1);
    assert!(
        err(&missing).starts_with("error: cannot read nowhere/manifest.json: "),
        "{}",
        err(&missing)
    );
}

#[test]
fn report_writes_the_page_and_prints_where() {
    let (_room, path) = room();
    let output = simulate(&["report", "right"], &path);
    assert_eq!((code(&output), out(&output).as_str()), (0, "right/report.html\n"));
    let page = fs::read_to_string(path.join("right").join(file::REPORT)).unwrap();
    assert!(page.contains("Not validated yet") && page.ends_with("</html>\n"));
    fs::write(path.join("v.json"), "{\"commit\": 7}").unwrap();
    let bad = simulate(&["report", "right", "--validation", "v.json"], &path);
    assert_eq!(code(&bad), 1);
    assert!(err(&bad).contains("line 1 column 12"), "{}", err(&bad));
}

#[test]
fn trace_writes_the_picture_beside_the_results_or_where_it_is_told() {
    let (_room, path) = room();
    let output = simulate(&["trace", "right", "--blob", "image/2"], &path);
    assert_eq!((code(&output), out(&output).as_str()), (0, "right/trace-image-2.svg\n"));
    let told = simulate(&["trace", "right", "--blob", "image/2", "--out", "here.svg"], &path);
    assert_eq!(code(&told), 0);
    assert!(fs::read_to_string(path.join("here.svg")).unwrap().starts_with("<svg"));
    let none = simulate(&["trace", "right", "--blob", "image/2", "--seed", "9"], &path);
    assert_eq!(
        (code(&none), err(&none).as_str()),
        (1, "error: there is no run of cell 0 with seed 9\n")
    );
}
