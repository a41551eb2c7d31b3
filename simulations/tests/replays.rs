//! `blobmesh-sim replay` where it needs no namespaces: what it refuses, and how.
#![cfg(target_os = "linux")]

use std::process::{Command, Output};

fn replay(words: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobmesh-sim"));
    command.args(["replay", "--netns", "--out"]).arg(directory.path().join("out")).args(words);
    command.output().expect("blobmesh-sim runs")
}

#[test]
fn plan_that_cannot_be_replayed_is_refused_with_its_key() {
    for (words, key) in [
        (&["flash-crowd"][..], "group.count"),
        (&["ci-five-jobs", "--set", "site.farm.latency=1ms", "--disk", "1"][..], "blobs.size"),
        (&["ci-five-jobs"][..], "site.farm.latency"),
    ] {
        let output = replay(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.starts_with("error: the plan cannot be replayed: "), "{text}");
        assert!(text.contains(key) && text.lines().count() == 1, "{words:?}: {text}");
    }
}

#[test]
fn plan_that_is_none_is_refused_before_anything_is_made() {
    let output = replay(&["no-such-plan"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no-such-plan"), "{text}");
}
