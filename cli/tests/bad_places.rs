//! Files that cannot be read, devices that are full, and a store that another process holds: one clear
//! error each, the documented code, and nothing lost.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod support;

use std::process::Command;

use blobmesh_cli::exit;
use support::{Place, Run};

/// A regular file whose first byte nobody can read, not even root.
const UNREADABLE: &str = "/proc/self/mem";

#[test]
fn file_that_cannot_be_read_is_named_and_nothing_is_added() {
    let place = Place::new();
    let run = place.run(&["add", UNREADABLE]);
    run.failed(exit::OTHER, UNREADABLE);
    assert_eq!(place.run(&["ls", "--json"]).succeeded().stdout.matches("\"hash\"").count(), 0);
}

#[test]
fn file_that_cannot_be_read_does_not_keep_others_from_being_added() {
    let place = Place::new();
    place.file("good", "good");
    let run = place.run(&["add", "good", UNREADABLE]);
    run.failed(exit::PARTIAL, "1 of 2 files were added");
    assert!(run.stderr.contains(UNREADABLE), "{run:?}");
    assert!(run.stdout.contains(&blobmesh_protocol::Hash::of(b"good").to_hex()), "{run:?}");
}

/// Runs a command with a tmpfs of 4 MiB mounted on `full`, in a namespace of its own; none where this
/// user may not make one. The commands of one script share the tmpfs.
fn on_a_small_device(place: &Place, script: &str) -> Option<Run> {
    std::fs::create_dir_all(place.directory.path().join("full")).unwrap();
    let mounted = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!("mount -t tmpfs -o size=4m tmpfs full && {{ {script}\n}}"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("blobmesh", env!("CARGO_BIN_EXE_blobmesh")).current_dir(place.directory.path());
        command.output()
    };
    if !mounted("true").is_ok_and(|output| output.status.success()) {
        println!("skipped: no namespaces with a tmpfs for this user");
        return None;
    }
    Some(Run::of(mounted(script).unwrap()))
}

#[test]
fn add_to_a_full_device_fails_and_what_was_there_stays() {
    let place = Place::new();
    place.file("small", vec![1; 100_000]);
    place.file("large", vec![2; 8_000_000]);
    let script = r#""$blobmesh" -q --home full/home add small >before || exit 99
        "$blobmesh" --home full/home add large; code=$?
        "$blobmesh" -q --home full/home cat "$(cat before)" | cmp - small || exit 98
        exit $code"#;
    let Some(run) = on_a_small_device(&place, script) else { return };
    let hint = run.failed(exit::NO_SPACE, "no space is left");
    assert!(hint.is_some(), "{run:?}");
}

#[test]
fn output_on_a_full_device_fails_and_leaves_no_part_of_it() {
    let place = Place::new();
    place.file("large", vec![3; 8_000_000]);
    let script = r#"hash=$("$blobmesh" -q --home home add large) || exit 99
        "$blobmesh" --home home get "$hash" -o full/out; code=$?
        [ -z "$(ls -A full)" ] || exit 98
        exit $code"#;
    let Some(run) = on_a_small_device(&place, script) else { return };
    run.failed(exit::NO_SPACE, "no space is left");
}
