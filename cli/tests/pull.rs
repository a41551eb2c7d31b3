//! `pull` between real nodes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use blobmesh_cli::exit;
use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Entry, Manifest, Name, Node, Totals};
use rustix::process::Signal;
use serde_json::Value;
use support::up::Up;
use support::{Place, Run};

/// How many small files a tree has; in three directories, each of which has a manifest of its own.
const FILES: usize = 300;

/// Is a mesh of two: one gives, and the other is started by its commands, or runs too.
struct Two {
    giver: Place,
    taker: Place,
    up: Up,
}

impl Two {
    fn start() -> Self {
        let (giver, taker) = (Place::new(), Place::new());
        let ticket = giver.run(&["invite"]).succeeded().stdout.clone();
        taker.run_with_input(&["join", "-"], ticket.as_bytes()).succeeded();
        let up = Up::start(&giver, &[]);
        Self { giver, taker, up }
    }

    fn address(&self) -> &str {
        self.up.start["addresses"][0].as_str().unwrap()
    }

    /// Makes the taker a running node.
    fn start_taker(&self) -> Up {
        Up::start(&self.taker, &["--peer", self.address()])
    }

    /// Pulls with a node for the time of it.
    fn pull(&self, args: &[&str]) -> Run {
        let node = ["--no-mdns", "--listen", "127.0.0.1:0", "--peer", self.address()];
        self.taker.run(&[&["--json", "pull"], args, &node].concat())
    }

    fn add(&self, name: &str) -> String {
        self.giver.run(&["add", name]).succeeded().stdout.trim().to_owned()
    }

    fn add_bytes(&self, bytes: &[u8]) -> Hash {
        let run = self.giver.run_with_input(&["add", "-"], bytes);
        run.succeeded().stdout.trim().parse().unwrap()
    }

    fn out(&self) -> PathBuf {
        self.taker.directory.path().join("out")
    }
}

/// Makes a directory of everything that trees have.
fn furnish(place: &Place) -> PathBuf {
    for number in 0..FILES {
        place.file(&format!("d/{}/f{number}", number % 3), format!("file {number}\n").repeat(9));
    }
    let noise = |at: u32| (at.wrapping_mul(at) >> 7).to_le_bytes()[0];
    let noise: Vec<u8> = (0..5 << 20).map(noise).collect();
    place.file("d/0/big", noise);
    place.file("d/empty", "");
    let run = place.file("d/0/run", "#!/bin/sh\n");
    fs::set_permissions(run, fs::Permissions::from_mode(0o755)).unwrap();
    let root = place.directory.path().join("d");
    fs::create_dir_all(root.join("nothing/in/here")).unwrap();
    symlink("../1/f1", root.join("2/link")).unwrap();
    root
}

/// Returns what is in a directory but for the state of a checkout: by path what it is and holds.
fn all_in(root: &Path) -> BTreeMap<PathBuf, (char, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if entry.file_name() == ".blobmesh" {
                continue;
            }
            let held = if meta.is_dir() {
                open.push(path.clone());
                ('d', Vec::new())
            } else if meta.is_symlink() {
                ('l', fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                let executable = meta.permissions().mode() & 0o111 != 0;
                (if executable { 'x' } else { 'f' }, fs::read(&path).unwrap())
            };
            all.insert(path.strip_prefix(root).unwrap().to_owned(), held);
        }
    }
    all
}

/// Returns how many manifests and blobs a pull has fetched.
fn fetched(run: &Run) -> (u64, u64) {
    let line = run.succeeded().answers().pop().unwrap();
    assert_eq!((&line["type"], &line["command"]), (&"summary".into(), &"pull".into()));
    (line["manifests"].as_u64().unwrap(), line["blobs"].as_u64().unwrap())
}

fn entry(name: &str, node: Node) -> Entry {
    Entry { name: Name::new(name.as_bytes()).unwrap(), node }
}

fn file(hash: Hash, size: u64) -> Node {
    Node::File { hash, size, executable: false }
}

#[test]
fn tree_is_the_same_at_both_ends_and_only_what_is_missing_is_fetched() {
    let two = Two::start();
    let root = furnish(&two.giver);
    let first = two.add("d");
    let run = two.pull(&[&first, "out"]);
    // The big file and the executable one beside the others; the empty one is everywhere.
    assert_eq!(fetched(&run), (4, FILES as u64 + 2));
    assert_eq!(all_in(&two.out()), all_in(&root));
    let phases = run.lines().into_iter().filter(|line| line["type"] == "phase");
    let phases: Vec<Value> = phases.map(|mut line| line["phase"].take()).collect();
    assert_eq!(phases[..2], ["find", "fetch"], "{phases:?}");

    for dir in ["out", "other"] {
        assert_eq!(fetched(&two.pull(&[&first, dir])), (0, 0), "{dir}");
    }
    let _taker = two.start_taker();
    for number in [3, 6] {
        two.giver.file(&format!("d/0/f{number}"), format!("changed {number}"));
    }
    fs::remove_file(root.join("0/f9")).unwrap();
    let second = two.add("d");
    let run = two.taker.run(&["--json", "pull", &second, "out"]);
    assert_eq!(fetched(&run), (2, 2));
    let summary = &run.answers().pop().unwrap()["checkout"];
    assert_eq!((&summary["changed"], &summary["removed"]), (&2.into(), &1.into()));
    assert_eq!(all_in(&two.out()), all_in(&root));

    let run = two.taker.run(&["pull", &first, "out"]);
    assert!(run.succeeded().stderr.contains(": nothing is missing\n"), "{run:?}");
    assert_eq!(run.stdout.trim_end(), two.out().to_str().unwrap());
}

#[test]
fn long_file_that_changed_is_made_of_the_older_one() {
    let two = Two::start();
    let noise = |at: u32| (at.wrapping_mul(at).wrapping_add(at >> 9) >> 7).to_le_bytes()[0];
    let old: Vec<u8> = (0..3 << 20).map(noise).collect();
    let new = [&old[..1_000], b"inserted", &old[1_000..]].concat();
    two.giver.file("d/deep/big", &old);
    two.giver.file("d/small", "old");
    // A node that has its neighbour by then: of one that has only begun, a slow machine says that nobody is there.
    let _taker = two.start_taker();
    let pull = |hash: &str, to: &str| two.taker.run(&["--json", "pull", hash, to]);
    pull(&two.add("d"), "out").succeeded();
    two.giver.file("d/deep/big", &new);
    two.giver.file("d/small", "new");
    let second = two.add("d");
    // Once out of the older blob, and once out of the older file.
    for keeps_blob in [true, false] {
        if !keeps_blob {
            let of = |bytes: &[u8]| Hash::of(bytes).to_hex();
            two.taker.run(&["rm", "--force", &of(&old), &of(&new)]).succeeded();
        }
        let run = pull(&second, if keeps_blob { "out" } else { "other" });
        let summary = run.succeeded().answers().pop().unwrap();
        assert_eq!(summary["blobs"], if keeps_blob { 2 } else { 1 }, "{summary}");
        let (copied, lan) =
            (summary["copied"].as_u64().unwrap(), summary["tier"]["lan"].as_u64().unwrap());
        let why = two.taker.run(&["why", &Hash::of(&new).to_hex()]);
        let few = lan < 100_000 && copied + lan >= new.len() as u64;
        assert!(few, "{summary}: {why:?}");
        let base = if keeps_blob { Hash::of(&old).to_hex() } else { "deep/big".to_owned() };
        assert!(why.succeeded().stdout.contains(&format!("older version {base}\n")), "{why:?}");
        let out = two.taker.directory.path().join(if keeps_blob { "out" } else { "other" });
        assert!(fs::read(out.join("deep/big")).unwrap() == new);
        if keeps_blob {
            // A second directory that still holds the first tree.
            two.giver.file("d/deep/big", &old);
            pull(&two.add("d"), "other").succeeded();
        }
    }
}

#[test]
fn blob_that_nobody_has_is_named_by_its_path_and_the_directory_stays_as_it_was() {
    let two = Two::start();
    two.giver.file("d/a", "a");
    let old = two.add("d");
    two.pull(&[&old, "out"]).succeeded();
    let (here, lost) = (two.add_bytes(b"here"), Hash::of(b"lost"));
    let inner: Vec<Entry> =
        (0..6).map(|at| entry(&format!("l{at}"), file(lost_at(at), 4))).collect();
    let entries = vec![
        entry("d\n", Node::Dir(inner)),
        entry("here", file(here, 4)),
        entry("x", file(lost, 4)),
    ];
    let root = two.add_bytes(&Manifest::new(entries).unwrap().encode()).to_hex();
    let run = two.pull(&[&root, "out"]);
    let hint = run.failed(exit::NOT_FOUND, "nobody has 7 of the 8 missing files of the tree");
    assert!(hint.unwrap().contains("add the blob"), "{run:?}");
    let told = format!("  d\\n/l0: blob {}\n", lost_at(0).fmt_short());
    assert!(run.stderr.contains(&told) && run.stderr.contains("  and 2 more\n"), "{run:?}");
    assert_eq!(support::names_in(&two.out()), [".blobmesh", "a"]);
    two.taker.run(&["has", &here.to_hex()]).succeeded();
    two.pull(&[&root, "new"]).failed(exit::NOT_FOUND, "nobody has 7 of the 7");
    assert!(!two.taker.directory.path().join("new").exists());

    let totals = Totals { files: 1, bytes: 1, entries: 1 };
    let torn = vec![entry("t", Node::Tree { hash: lost, totals })];
    let torn = two.add_bytes(&Manifest::new(torn).unwrap().encode()).to_hex();
    let run = two.pull(&[&torn, "out"]);
    run.failed(exit::NOT_FOUND, "nobody has 1 of the 1 missing manifests of the tree");
    assert!(run.stderr.contains(&format!("  t: blob {}\n", lost.fmt_short())), "{run:?}");
    let nowhere = Hash::of(b"nowhere").to_hex();
    two.pull(&[&nowhere, "out"]).failed(exit::NOT_FOUND, "was not found");
}

fn lost_at(number: usize) -> Hash {
    Hash::of(format!("lost {number}").as_bytes())
}

#[test]
fn tree_that_must_not_be_written_is_refused_before_its_files_are_fetched() {
    let two = Two::start();
    let data = two.add_bytes(b"data");
    let target = b"../../outside".to_vec().into();
    let cases = [
        vec![entry("a", file(data, 4)), entry("l", Node::Symlink { target })],
        vec![entry("A", file(data, 4)), entry("a", file(data, 4))],
    ];
    for entries in cases {
        let root = two.add_bytes(&Manifest::new(entries).unwrap().encode()).to_hex();
        two.pull(&[&root, "out"]).failed(exit::REFUSED, "unsafe tree entry");
        assert!(!two.out().exists());
        two.taker.run(&["has", &data.to_hex()]).failed(exit::NOT_FOUND, "not in the store");
    }
    two.taker.file("full/file", "");
    let root = two.add_bytes(&Manifest::new(vec![entry("a", file(data, 4))]).unwrap().encode());
    two.pull(&[&root.to_hex(), "full"]).failed(exit::USAGE, "is not empty, and no checkout");
    two.taker.run(&["has", &data.to_hex()]).failed(exit::NOT_FOUND, "not in the store");
    two.pull(&[&data.to_hex(), "out"]).failed(exit::USAGE, "is no tree");
    assert!(!two.out().exists());
}

#[test]
fn what_is_there_of_a_tree_is_not_evicted_for_the_rest_of_it() {
    let two = Two::start();
    two.taker
        .file("home/config.toml", "[store]\nbytes_max = \"12MiB\"\nblob_bytes_max = \"6MiB\"\n");
    two.giver.file("d/a", vec![1; 3 << 20]);
    two.giver.file("d/b", vec![2; 3 << 20]);
    let first = two.add("d");
    two.pull(&[&first, "out"]).succeeded();
    two.taker.file("other", vec![3; 5 << 20]);
    let other = two.taker.run(&["add", "other"]).succeeded().stdout.trim().to_owned();
    // The store has room for one MiB, and this needs three: the oldest blobs are those of the tree.
    two.giver.file("d/c", vec![4; 3 << 20]);
    let second = two.add("d");
    assert_eq!(fetched(&two.pull(&[&second, "new"])), (1, 1));
    two.taker.run(&["has", &other]).failed(exit::NOT_FOUND, "not in the store");
    assert_eq!(fs::read(two.taker.directory.path().join("new/c")).unwrap(), vec![4; 3 << 20]);
}

#[test]
fn pull_gives_up_in_time_and_goes_on_later() {
    let two = Two::start();
    furnish(&two.giver);
    let root = two.add("d");
    two.up.signal(Signal::STOP);
    let run = two.pull(&[&root, "out", "--timeout", "100ms"]);
    run.failed(exit::UNREACHABLE, "did not come in the time allowed");
    two.up.signal(Signal::CONT);
    assert!(!two.out().exists());
    two.pull(&[&root, "out", "--timeout", "1m"]).succeeded();
}

#[test]
fn tree_that_was_prefetched_is_checked_out_without_a_mesh() {
    let two = Two::start();
    two.giver.file("d/deep/a", "a".repeat(70_000));
    two.giver.file("d/b", "b");
    let tree = two.add("d");
    let alone = two.giver.run_with_input(&["add", "-"], &[7; 3_000_000]);
    let alone = alone.succeeded().stdout.trim().to_owned();
    let prefetch = |args: &[&str]| {
        let node = ["--no-mdns", "--listen", "127.0.0.1:0", "--peer", two.address()];
        two.taker.run(&[&["--json", "prefetch", "--wait"], args, &node].concat())
    };
    let of = |run: &Run| {
        let summary = run.answers().pop().unwrap();
        ["blobs", "existed", "failed", "left"].map(|name| summary[name].as_u64().unwrap())
    };
    // Two manifests or one, two files; the blob beside them is longer than the budget.
    let run = prefetch(&[&tree, &alone, "--budget", "1MB"]);
    let [blobs, existed, failed, left] = of(run.succeeded());
    assert!((3..=4).contains(&blobs), "{run:?}");
    assert_eq!((existed, failed, left), (0, 0, 1), "{run:?}");
    assert_eq!(of(prefetch(&[&tree]).succeeded()), [0, blobs, 0, 0]);
    two.taker.run(&["checkout", &tree, "out"]).succeeded();
    assert_eq!(all_in(&two.out()), all_in(&two.giver.directory.path().join("d")));

    let nobody = Hash::of(b"nobody has it").to_hex();
    let run = prefetch(&[&nobody, &tree]);
    run.failed(exit::PARTIAL, "1 blob could not be got");
    let told = run.lines().into_iter().find(|line| line["type"] == "failed").expect("a line");
    assert_eq!(told["kind"], "not_found", "{run:?}");
    prefetch(&[&nobody]).failed(exit::NOT_FOUND, "1 blob could not be got");
    two.taker.run(&["prefetch", &tree]).failed(exit::NO_NODE, "no node runs");
}

#[test]
fn running_node_prefetches_by_itself_and_tells_what_it_was_good_for() {
    let two = Two::start();
    let blob = two.add_bytes(&[9; 200_000]).to_hex();
    let _taker = two.start_taker();
    two.taker.run(&["prefetch", &blob]).succeeded();
    // As many looks as take half a minute; the first few are enough.
    let here = || two.taker.run(&["has", &blob]).code == Some(exit::DONE.into());
    assert!((0..3_000).any(|_| here()), "{:?}", two.taker.run(&["status"]));
    two.taker.run(&["get", &blob]).succeeded();
    let why = two.taker.run(&["why", &blob]);
    assert!(why.succeeded().stdout.contains("got ahead "), "{why:?}");
    let savings = two.taker.run(&["savings", "--json"]).succeeded().lines().pop().unwrap();
    for (name, expected) in [("gets", 1), ("ahead", 200_000), ("ahead_used", 200_000)] {
        assert_eq!(savings[name], expected, "{name} of {savings}");
    }
    assert_eq!(savings["spared"], 200_000, "{savings}");
}

#[test]
fn what_followed_a_blob_last_time_is_got_ahead_when_it_is_got_again() {
    let two = Two::start();
    two.taker.file("home/config.toml", "[store]\nbytes_max = 1000000\n");
    let [first, then] = [1, 2].map(|byte| two.add_bytes(&[byte; 100_000]).to_hex());
    let large = two.add_bytes(&[3; 950_000]).to_hex();
    let get = |hash: &str| assert_eq!(two.taker.run(&["get", hash]).code, Some(exit::DONE.into()));
    let has = |hash: &str| two.taker.run(&["has", hash]).code == Some(exit::DONE.into());
    let taker = two.start_taker();
    [&first, &then, &large].into_iter().for_each(|hash| get(hash));
    assert!(!has(&first) && !has(&then), "the large one took their room");
    // What is removed is not got ahead any more.
    two.taker.run(&["rm", &large]).succeeded();
    taker.signal(Signal::TERM);
    taker.end();

    let _taker = two.start_taker();
    get(&first);
    // As many looks as take half a minute; the first few are enough.
    assert!((0..3_000).any(|_| has(&then)), "{:?}", two.taker.run(&["status"]));
    assert!(!has(&large));
    get(&then);
    let why = two.taker.run(&["why", &then]);
    let because = format!("as it followed {} last time", &first[..10]);
    assert!(why.succeeded().stdout.contains(&because), "{why:?}");
}
