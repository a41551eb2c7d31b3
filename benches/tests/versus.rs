//! `versus` from its arguments to its answers, with a tiny blob: nodes and the rivals that are present.
//!
//! It needs the built `blobmesh`, which `cargo test --workspace` builds; where there is none the test says so
//! and passes.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests may panic, and say why they skip"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it with results and files in a directory that is gone after.
fn versus(args: &[&str]) -> (Output, Vec<Value>, Vec<Value>) {
    let room = tempfile::tempdir().unwrap();
    let (lines, results) = (room.path().join("lines"), room.path().join("results"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_versus"));
    command.args(args).arg("--json").arg(&lines).arg("--results").arg(&results);
    let output = command.arg("--dir").arg(room.path()).output().unwrap();
    let lines = fs::read_to_string(lines).unwrap_or_default();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kept = fs::read_dir(results).into_iter().flatten().flatten();
    let kept = kept.map(|file| serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap());
    (output, lines, kept.collect())
}

/// Returns the built `blobmesh`, where there is one.
fn program() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_versus")).with_file_name("blobmesh");
    if program.is_file() {
        return Some(program);
    }
    eprintln!(
        "skipped: there is no blobmesh beside versus; `cargo build -p blobmesh-cli` builds it"
    );
    None
}

fn value(lines: &[Value], metric: &str) -> Option<f64> {
    let line = lines.iter().find(|line| line["metric"] == metric);
    line.unwrap_or_else(|| panic!("no line of {metric}"))["value"].as_f64()
}

#[test]
fn tiny_blob_is_measured_beside_what_is_present() {
    let Some(program) = program() else { return };
    let program = program.to_string_lossy();
    let args = ["blob", "--mib", "8", "--runs", "1", "--program", &program];
    let (output, lines, kept) = versus(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    // Bounds are not those of a tiny blob and a debug build: whether they hold is not the question.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    for metric in ["blobmesh_s", "ratio_streams", "ratio_ceiling"] {
        assert!(value(&lines, metric).is_some_and(|value| value > 0.0), "{metric}\n{said}");
    }
    for (rival, metric) in [
        ("rsync", "ratio_rsync"),
        // It takes three programs.
        ("", "ratio_nginx_h2"),
        ("libtorrent", "ratio_libtorrent"),
        ("iroh-blobs", "ratio_iroh"),
    ] {
        let is_missing = said.contains(&format!("{rival} is missing and left out"));
        assert!(value(&lines, metric).is_some() || is_missing, "{metric}\n{said}");
    }
    assert!(lines.iter().all(|line| line["experiment"] == "blob"));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("blobmesh -o") && table.contains("ratio_rsync"), "{table}");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["measured"]["bytes"], 8 << 20);
}

#[test]
fn few_small_blobs_are_measured_beside_what_is_present() {
    let Some(program) = program() else { return };
    if blobmesh_benches::machine::file_system(Path::new("/dev/shm")) != "tmpfs" {
        eprintln!("skipped: there is no tmpfs");
        return;
    }
    let program = program.to_string_lossy();
    let args = ["small", "latency", "--blobs", "40", "--runs", "1", "--program", &program];
    let (output, lines, kept) = versus(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    for metric in ["blobs_per_s", "stored_per_s"] {
        assert!(value(&lines, metric).is_some_and(|value| value > 0.0), "{metric}\n{said}");
    }
    for (rival, metric) in [
        ("rsync", "ratio_rsync"),
        ("", "ratio_curl"),
        ("", "rate_10"),
        ("iroh-blobs", "ratio_iroh"),
    ] {
        let is_missing = said.contains(&format!("{rival} is missing and left out"));
        assert!(value(&lines, metric).is_some() || is_missing, "{metric}\n{said}");
    }
    assert_eq!(kept.len(), 2);
}

#[test]
fn contenders_that_were_not_named_are_not_measured() {
    let Some(program) = program() else { return };
    let program = program.to_string_lossy();
    let args =
        ["blob", "--mib", "1", "--runs", "1", "--only", "ceiling,nobody", "--program", &program];
    let (output, lines, _) = versus(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(value(&lines, "ratio_ceiling").is_some(), "{said}");
    assert_eq!(value(&lines, "ratio_streams"), None, "{said}");
}

#[test]
fn program_that_does_nothing_is_no_result() {
    let (output, lines, kept) =
        versus(&["blob", "--mib", "1", "--runs", "1", "--program", "/nonexistent/blobmesh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(lines.iter().all(|line| line["value"].is_null()), "{lines:?}");
    assert!(lines.iter().any(|line| line["holds"] == false));
    assert!(kept.is_empty());
}

#[test]
fn unknown_work_is_a_usage_error_that_names_the_known() {
    let (output, lines, _) = versus(&["blobs"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[possible values: blob"));
    assert!(lines.is_empty());
}
