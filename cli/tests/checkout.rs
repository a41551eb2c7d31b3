//! `checkout` from its arguments to its answers, and killed in the middle.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use blobmesh_node::store::{Store, StoreConfig};
use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, Name, Node};
use support::Place;

/// How many files a tree has.
const FILES: u64 = 600;
/// How often a checkout is killed.
const KILLS: u64 = 12;

/// Puts a tree of [`FILES`] files into the store of a place, some of which differ from version to version.
fn store_tree(place: &Place, version: u64) -> Hash {
    fs::create_dir_all(place.home()).unwrap();
    let config = StoreConfig::new(place.home().join("store"), 1 << 30, 1 << 28);
    let (store, _) = Store::open(config).unwrap();
    let entry = |number: u64| {
        let bytes = content(number, version);
        let (hash, size) = (Hash::of(&bytes), bytes.len() as u64);
        store.put_whole(&hash, &bytes).unwrap();
        let name = Name::new(format!("f{number:05}").as_bytes()).unwrap();
        Entry { name, node: Node::File { hash, size, executable: false } }
    };
    let root = Manifest::new((0..FILES).map(entry).collect()).unwrap().encode();
    let hash = Hash::of(&root);
    store.put_whole(&hash, &root).unwrap();
    store.close();
    hash
}

fn content(number: u64, version: u64) -> Vec<u8> {
    let version = if number.is_multiple_of(3) { version } else { 0 };
    format!("file {number} of version {version}\n").repeat(200).into_bytes()
}

/// Returns which version a directory holds, if it is one of them whole.
fn version_of(dir: &Path) -> Option<u64> {
    let held = |version: u64| {
        (0..FILES).all(|number| {
            fs::read(dir.join(format!("f{number:05}"))).is_ok_and(|b| b == content(number, version))
        })
    };
    let files = fs::read_dir(dir).ok()?.flatten().filter(|entry| entry.file_name() != ".blobmesh");
    (1..=2).find(|version| held(*version)).filter(|_| files.count() as u64 == FILES)
}

fn root_of(roots: &[Hash; 2], version: u64) -> &Hash {
    if version == 1 { &roots[0] } else { &roots[1] }
}

fn begin(place: &Place, root: &Hash) -> Child {
    let mut command = place.command(&["--quiet", "checkout", &root.to_hex(), "out"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills a checkout once `reached` says so, or lets it end before.
fn kill_at(mut child: Child, mut reached: impl FnMut() -> bool) {
    while child.try_wait().unwrap().is_none() && !reached() {
        std::thread::yield_now();
    }
    child.kill().ok();
    child.wait().unwrap();
}

fn count(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

#[test]
fn checkout_killed_in_the_middle_leaves_no_directory() {
    let place = Place::new();
    let root = store_tree(&place, 1);
    let (base, out) = (place.directory.path().to_owned(), place.directory.path().join("out"));
    let stage = base.join(format!(".blobmesh-{}", &Hash::of(b"out").to_hex()[..16]));
    let mut killed = 0;
    for kill in 0..KILLS {
        kill_at(begin(&place, &root), || count(&stage) > kill * FILES / KILLS);
        if out.exists() {
            assert_eq!(version_of(&out), Some(1), "kill {kill}");
            fs::remove_dir_all(&out).unwrap();
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "no checkout was killed in the middle");
    place.run(&["checkout", &root.to_hex(), "out"]).succeeded();
    assert_eq!(version_of(&out), Some(1));
    assert!(!stage.exists());
}

#[test]
fn switch_killed_in_the_middle_leaves_one_tree_or_is_finished_by_the_next() {
    let place = Place::new();
    let roots = [store_tree(&place, 1), store_tree(&place, 2)];
    let out = place.directory.path().join("out");
    let own = out.join(".blobmesh");
    place.run(&["checkout", &roots[0].to_hex(), "out"]).succeeded();
    let (mut before, mut after) = (0, 0);
    for kill in 0..2 * KILLS {
        let held = version_of(&out).expect("one of both");
        let next = if held == 1 { 2 } else { 1 };
        let root = root_of(&roots, next);
        // Half of them in the middle of staging, half once the journal is there.
        kill_at(begin(&place, root), || match kill % 2 {
            0 => count(&own.join("stage")) > kill / 2 * FILES / 3 / KILLS,
            _ => own.join("journal").exists(),
        });
        let had_journal = own.join("journal").exists();
        if had_journal {
            after += 1;
        } else {
            before += 1;
            assert!(version_of(&out).is_some(), "kill {kill}: without a journal one tree is whole");
        }
        let ends_with = if kill % 4 < 2 { next } else { held };
        let root = root_of(&roots, ends_with).to_hex();
        let run = place.run(&["checkout", &root, "out"]);
        run.succeeded();
        assert_eq!(version_of(&out), Some(ends_with), "kill {kill}");
        let told = run.stderr.contains("an interrupted checkout of");
        assert_eq!(told, had_journal, "kill {kill}: {}", run.stderr);
    }
    assert!(before > 0 && after > 0, "{before} killed before the journal, {after} after");
}

#[test]
fn answers_and_errors_of_a_checkout_are_told() {
    let place = Place::new();
    let root = store_tree(&place, 1);
    let (text, out) = (root.to_hex(), place.directory.path().join("out"));
    let run = place.run(&["checkout", &text, "out"]);
    assert_eq!(run.succeeded().stdout.trim_end(), out.to_str().unwrap());
    assert!(run.stderr.contains("600 added"), "{run:?}");
    let run = place.run(&["--json", "checkout", &text, "out"]);
    let line = run.succeeded().answers().pop().unwrap();
    assert_eq!((line["type"].as_str(), line["added"].as_u64()), (Some("summary"), Some(0)));

    let second = store_tree(&place, 2).to_hex();
    fs::write(out.join("f00003"), "mine").unwrap();
    let run = place.run(&["checkout", &second, "out"]);
    let hint = run.failed(2, "1 paths in");
    assert!(hint.unwrap().contains("--force"), "{run:?}");
    assert!(run.stderr.contains("  f00003\n"), "{run:?}");
    place.run(&["checkout", &second, "out", "--force"]).succeeded();
    assert_eq!(version_of(&out), Some(2));

    place.file("full/file", "");
    let absent = Hash::of(b"absent").to_hex();
    for (args, code, error) in [
        (["checkout", "nonsense", "x"], 2, "invalid hash"),
        (["checkout", &text, "/"], 2, "cannot check out into /"),
        (["checkout", &text, "full"], 2, "is not empty, and no checkout"),
        (["checkout", &text, "full/file"], 2, "it is not a directory"),
        (["checkout", &text, "home/store"], 2, "it lies in the store"),
        (["checkout", &text, "missing/x"], 2, "does not exist"),
        (["checkout", &absent, "x"], 3, "of the tree is not in the store"),
    ] {
        assert!(place.run(&args).failed(code, error).is_some() || code == 2, "{args:?}");
    }
    let text = Hash::of(&content(1, 1)).to_hex();
    let run = place.run(&["checkout", &text, "x"]);
    assert!(run.failed(2, "is no tree").unwrap().contains("blobmesh get"), "{run:?}");
    assert!(!place.directory.path().join("x").exists());
}
