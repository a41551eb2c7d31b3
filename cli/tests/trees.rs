//! Directories through the command line, without a running node.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::symlink;

use blobmesh_cli::exit;
use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, Name, Node, Totals};
use support::Place;

/// Adds bytes and returns their hash.
fn add_bytes(place: &Place, bytes: &[u8]) -> String {
    place.run_with_input(&["add", "-"], bytes).succeeded().stdout.trim().to_owned()
}

#[test]
fn directory_is_added_and_listed() {
    let place = Place::new();
    place.file("d/sub/b.txt", "bb");
    place.file("d/a.txt", "a");
    place.file("d/noise.log", "x");
    place.file("d/.gitignore", "*.log\n");
    place.file("d/.git/config", "x");
    symlink("../a.txt", place.directory.path().join("d/sub/l\n")).unwrap();
    let run = place.run(&["add", "d"]);
    let hash = run.succeeded().stdout.trim();
    assert_eq!(hash.len(), 64, "{run:?}");
    assert!(run.stderr.contains("added d: 3 files, 9 B"), "{run:?}");
    for word in [".git left out", "1 ignored (--no-ignore adds them)"] {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    let run = place.run(&["tree", hash, "--no-mdns"]);
    let names: Vec<&str> =
        run.succeeded().stdout.lines().map(|line| line[13..].trim_start()).collect();
    let of = |bytes: &[u8]| Hash::of(bytes).to_hex();
    let expected = [
        format!("{} .gitignore", of(b"*.log\n")),
        format!("{} a.txt", of(b"a")),
        "sub".to_owned(),
        format!("{} sub/b.txt", of(b"bb")),
        "sub/l\\n -> ../a.txt".to_owned(),
    ];
    assert_eq!(names, expected);
    let answers = place.run(&["tree", hash, "--no-mdns", "--json"]).succeeded().answers();
    let kinds: Vec<_> =
        answers.iter().filter(|line| line["type"] == "entry").map(|line| &line["kind"]).collect();
    assert_eq!(kinds, ["file", "file", "directory", "file", "symlink"]);
    assert_eq!(answers[4]["path"], "sub/l\n", "{answers:?}");
    let summary = answers.last().unwrap();
    assert_eq!((&summary["files"], &summary["bytes"]), (&3.into(), &9.into()));
    place.run(&["has", &of(b"bb")]).succeeded();
    place.run(&["has", &of(b"x")]).failed(exit::NOT_FOUND, "is not in the store");
}

#[test]
fn directory_is_told_of_in_json_and_is_the_same_from_everywhere() {
    let (place, other) = (Place::new(), Place::new());
    for (place, name) in [(&place, "one"), (&other, "other/name")] {
        place.file(&format!("{name}/x/y"), "y");
        place.file(&format!("{name}/.gitignore"), "z");
        place.file(&format!("{name}/z"), "z");
    }
    let tree = |place: &Place, args: &[&str]| {
        let answers = place.run(args).succeeded().answers();
        assert_eq!((&answers[0]["type"], &answers[1]["type"]), (&"tree".into(), &"summary".into()));
        answers[0].clone()
    };
    let first = tree(&place, &["add", "one", "--json"]);
    assert_eq!(
        (&first["files"], &first["bytes"], &first["entries"]),
        (&2.into(), &2.into(), &3.into())
    );
    assert_eq!((&first["new_blobs"], &first["manifests"]), (&3.into(), &1.into()));
    assert_eq!(first["hash"], tree(&other, &["add", "other/name/", "--json"])["hash"]);
    let again = tree(&place, &["add", "./one", "--json"]);
    assert_eq!((&again["hash"], &again["new_blobs"]), (&first["hash"], &0.into()));
    let all = tree(&place, &["add", "one", "--no-ignore", "--json"]);
    assert_eq!((&all["files"], &all["ignored"]), (&3.into(), &0.into()));
    assert_ne!(all["hash"], first["hash"]);
}

#[test]
fn pinned_directory_is_protected_with_all_that_is_in_it() {
    let place = Place::new();
    for index in 0..100 {
        place.file(&format!("d/many/{index}"), format!("{index}"));
    }
    let run = place.run(&["add", "--pin", "d"]);
    let hash = run.succeeded().stdout.trim();
    let pinned = || {
        let answers = place.run(&["ls", "--json"]).succeeded().answers();
        answers.iter().filter(|line| line["pinned"] == true).count()
    };
    assert_eq!(pinned(), 102, "files, the manifest of `many` and the root's");
    place.run(&["rm", &Hash::of(b"7").to_hex()]).failed(exit::OTHER, "is pinned");
    place.run(&["unpin", hash]).succeeded();
    assert_eq!(pinned(), 0);
    place.run(&["pin", hash]).succeeded();
    assert_eq!(pinned(), 102);
    place.run(&["unpin", hash]).succeeded();
    place.run(&["rm", &Hash::of(b"7").to_hex()]).succeeded();
    place.run(&["pin", hash]).failed(exit::NOT_FOUND, "is not in the store");
    assert_eq!(pinned(), 0, "all or none");
}

#[test]
fn blob_that_is_no_tree_is_told_alike_by_all_that_want_one() {
    let place = Place::new();
    // A manifest has 64 MiB at most.
    for len in [9, (64 << 20) + 1] {
        let file = add_bytes(&place, &vec![b'x'; len]);
        for args in [&["tree", &file][..], &["checkout", &file, "out"], &["pull", &file, "out"]] {
            let node = if args[0] == "checkout" { &[][..] } else { &["--no-mdns"] };
            let run = place.run(&[args, node].concat());
            let hint = run.failed(exit::USAGE, "is no tree");
            assert!(hint.is_some_and(|hint| hint.contains("`blobmesh get`")), "{run:?}");
        }
    }
    assert!(!place.directory.path().join("out").exists());
}

#[test]
fn blobs_that_are_no_trees_or_bad_ones_are_told_apart() {
    let place = Place::new();
    let file = add_bytes(&place, b"#!/bin/sh");
    let run = place.run(&["tree", &file, "--no-mdns"]);
    run.failed(exit::USAGE, "is no tree");
    assert!(run.stderr.contains("the blob is no manifest of a tree"), "{run:?}");
    let newer = add_bytes(&place, b"BMTREE\0\x02\0");
    place.run(&["tree", &newer, "--no-mdns"]).failed(exit::FORMAT_NEWER, "is no tree");
    let escape = add_bytes(&place, b"BMTREE\0\x01\x01\x00\x02..\x00");
    let run = place.run(&["tree", &escape, "--no-mdns"]);
    run.failed(exit::REFUSED, "is no tree");
    assert!(run.stderr.contains("unsafe tree entry: a name is \"..\""), "{run:?}");
    place.run(&["tree", "xyz"]).failed(exit::USAGE, "invalid hash");

    let totals = Totals { files: 1, bytes: 1, entries: 1 };
    let node = Node::Tree { hash: Hash::of(b"nowhere"), totals };
    let entries = vec![Entry { name: Name::new(b"t").unwrap(), node }];
    let torn = add_bytes(&place, &Manifest::new(entries).unwrap().encode());
    let run = place.run(&["tree", &torn, "--no-mdns"]);
    run.failed(
        exit::NOT_FOUND,
        &format!("blob {} was not found", Hash::of(b"nowhere").fmt_short()),
    );
}

#[test]
fn what_a_checkout_would_refuse_is_warned_of() {
    let place = Place::new();
    place.file("d/README", "x");
    place.file("d/readme", "x");
    let run = place.run(&["add", "d"]);
    assert!(
        run.succeeded().stderr.contains(
            "warning: unsafe tree entry \"README\": some file system takes it for \"readme\""
        ),
        "{run:?}"
    );
}

#[test]
fn directories_and_files_are_added_side_by_side_and_bad_ones_are_named() {
    let place = Place::new();
    place.file("d/a", "a");
    place.file("f", "f");
    let run = place.run(&["add", "d", "f", "missing"]);
    run.failed(exit::PARTIAL, "2 of 3 files were added");
    assert_eq!(run.stdout.lines().nth(1), Some(Hash::of(b"f").to_hex().as_str()));
    let store = place.home().join("store");
    let run = place.run(&["add", store.to_str().unwrap()]);
    run.failed(exit::USAGE, "belongs to the store");
}
