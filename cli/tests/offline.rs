//! The store through the command line, without a running node.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use blobmesh_cli::exit;
use blobmesh_protocol::Hash;
use support::{Place, names_in};

/// Lengths around those at which a blob is kept in another way: none, inline, one group, two.
const LENS: [usize; 7] = [0, 1, 4096, 4097, 65_536, 65_537, 200_000];

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn blobs_come_out_as_they_went_in() {
    let place = Place::new();
    for len in LENS {
        place.file(&format!("{len}.bin"), bytes(len));
        let run = place.run(&["add", &format!("{len}.bin")]);
        let hash = Hash::of(&bytes(len)).to_hex();
        assert_eq!(run.succeeded().stdout, format!("{hash}\n"), "{len}");
        place.run(&["has", &hash]).succeeded();
        let output = place.command(&["cat", &hash, "--no-mdns"]).output().unwrap();
        assert!(output.status.success() && output.stdout == bytes(len), "{len}: {output:?}");
        let name = format!("{len}.out");
        let run = place.run(&["get", &hash, "--no-mdns", "-o", &name, "--json"]);
        let lines = run.succeeded().lines();
        let summary = lines.last().unwrap();
        assert_eq!((&summary["tier"]["local"], &summary["size"]), (&len.into(), &len.into()));
        assert!(std::fs::read(place.directory.path().join(&name)).unwrap() == bytes(len), "{len}");
    }
    let lines = place.run(&["ls", "--json"]).succeeded().lines();
    let summary = lines.last().unwrap();
    assert_eq!(
        (&summary["blobs"], &summary["bytes"]),
        (&LENS.len().into(), &LENS.iter().sum::<usize>().into())
    );
    let verified = place.run(&["verify", "--json"]).succeeded().answers();
    assert_eq!((&verified[0]["blobs"], &verified[0]["bad"]), (&LENS.len().into(), &0.into()));
}

#[test]
fn stdin_is_added_whole_and_a_second_time_found_there() {
    let place = Place::new();
    let input = bytes(1 << 20);
    let add = || place.run_with_input(&["add", "-", "--json"], &input).succeeded().answers();
    let (first, second) = (add(), add());
    assert_eq!((&first[0]["existed"], &second[0]["existed"]), (&false.into(), &true.into()));
    assert_eq!(first[0]["hash"], Hash::of(&input).to_hex().as_str());
}

#[test]
fn pinned_blob_is_removed_by_force_only() {
    let place = Place::new();
    let run = place.run_with_input(&["add", "--pin", "-"], b"precious");
    let hash = run.succeeded().stdout.trim();
    let hint = place.run(&["rm", hash]);
    let hint = hint.failed(exit::OTHER, "is pinned");
    assert!(hint.is_some_and(|hint| hint.contains("--force")), "{hint:?}");
    place.run(&["unpin", hash]).succeeded();
    place.run(&["pin", hash]).succeeded();
    place.run(&["rm", hash]).failed(exit::OTHER, "is pinned");
    place.run(&["rm", "--force", hash]).succeeded();
    for command in ["has", "rm", "pin"] {
        let run = place.run(&[command, hash]);
        run.failed(exit::NOT_FOUND, "is not in the store");
    }
}

#[test]
fn blob_that_nobody_has_is_not_found_and_leaves_no_output() {
    let place = Place::new();
    let nobody = "0".repeat(64);
    let run = place.run(&["get", &nobody, "--no-mdns", "-o", "out.bin"]);
    run.failed(exit::NOT_FOUND, "blob 0000000000 was not found");
    for tier in ["  local: ", "  lan: ", "  edge: "] {
        assert!(run.stderr.contains(tier), "{run:?}");
    }
    assert_eq!(names_in(place.directory.path()), ["home"]);
    let why = place.run(&["why", &nobody]);
    assert!(why.succeeded().stdout.contains("was not found, after"), "{why:?}");
}

#[test]
fn blob_of_the_edge_directory_is_got_and_pushed_back() {
    let (place, other) = (Place::new(), Place::new());
    let edge = format!("dir:{}", place.directory.path().join("edge").display());
    std::fs::create_dir(place.directory.path().join("edge")).unwrap();
    let input = bytes(300_000);
    let hash = Hash::of(&input).to_hex();
    other.run_with_input(&["add", "-"], &input).succeeded();
    let push = ["push", &hash, "--no-mdns", "--edge", &edge, "--json"];
    let (first, second) = (other.run(&push).lines(), other.run(&push).lines());
    let counts = |lines: &[serde_json::Value]| {
        let summary = lines.last().unwrap();
        (summary["uploaded"].clone(), summary["existed"].clone())
    };
    assert_eq!(counts(&first), (1.into(), 0.into()), "{first:?}");
    assert_eq!(counts(&second), (0.into(), 1.into()), "{second:?}");

    let run = place.run(&["get", &hash, "--no-mdns", "--edge", &edge, "--json"]);
    let lines = run.succeeded().lines();
    let summary = lines.last().unwrap();
    assert_eq!((&summary["found"], &summary["tier"]["edge"]), (&"edge".into(), &300_000.into()));
}

#[test]
fn push_without_an_edge_says_what_to_configure() {
    let place = Place::new();
    let run = place.run_with_input(&["add", "-"], b"x");
    let hash = run.succeeded().stdout.trim();
    let hint = place.run(&["push", hash, "--no-mdns"]);
    let hint = hint.failed(exit::REFUSED, "edge");
    assert!(hint.is_some_and(|hint| hint.contains("s3://")), "{hint:?}");
}

#[test]
fn blob_over_the_bound_is_refused() {
    let place = Place::new();
    let env = [("BLOBMESH_STORE_BLOB_BYTES_MAX", "1KiB")];
    place.file("a.bin", bytes(1025));
    let run = place.run_with_env(&["add", "a.bin"], &env);
    run.failed(exit::NO_SPACE, "");
    place.file("a.bin", bytes(1024));
    place.run_with_env(&["add", "a.bin"], &env).succeeded();
}

#[test]
fn doctor_finds_nothing_wrong_with_a_fresh_home() {
    let place = Place::new();
    let run = place.run(&["doctor", "--no-mdns", "--listen", "127.0.0.1:0", "--json"]);
    let lines = run.succeeded().lines();
    let verdict = |check: &str| {
        let finding = lines.iter().find(|line| line["check"] == check);
        finding.map(|finding| finding["verdict"].clone())
    };
    for check in ["config", "home", "store", "listen", "multicast", "clock"] {
        assert_eq!(verdict(check), Some("ok".into()), "{check}: {lines:?}");
    }
    assert_eq!(verdict("edge"), Some("warn".into()), "there is none");
    assert_eq!(lines.last().unwrap()["failed"], 0);
}

#[test]
fn doctor_names_a_taken_port_and_a_wrong_configuration() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = place.run(&["doctor", "--no-mdns", "--listen", &address]);
    run.failed(exit::OTHER, "checks failed");
    let row = run.stdout.lines().find(|line| line.starts_with("fail  listen"));
    assert!(row.is_some_and(|row| row.contains("cannot be listened on")), "{run:?}");

    place.file("home/config.toml", "lisen = []\n");
    let run = place.run(&["doctor"]);
    run.failed(exit::OTHER, "1 of ");
    assert!(run.stdout.contains("the nearest known key is listen"), "{run:?}");
}

#[test]
fn blob_that_the_store_is_not_to_keep_is_only_at_the_output_unless_it_was_there_before() {
    let (place, other) = (Place::new(), Place::new());
    let edge = format!("dir:{}", place.directory.path().join("edge").display());
    std::fs::create_dir(place.directory.path().join("edge")).unwrap();
    for len in [0, 5, 70_000, 300_000] {
        let input = bytes(len);
        let hash = Hash::of(&input).to_hex();
        other.run_with_input(&["add", "-"], &input).succeeded();
        other.run(&["push", &hash, "--no-mdns", "--edge", &edge]).succeeded();
        let get =
            ["get", &hash, "--no-mdns", "--edge", &edge, "-o", "out.bin", "--force", "--no-store"];
        place.run(&get).succeeded();
        let out = place.directory.path().join("out.bin");
        assert!(std::fs::read(&out).unwrap() == input, "{len}");
        std::fs::write(&out, "mine now").unwrap();
        place.run(&["has", &hash]).failed(exit::NOT_FOUND, "is not in the store");
        place.run_with_input(&["add", "-"], &input).succeeded();
        place.run(&get).succeeded();
        assert!(std::fs::read(&out).unwrap() == input, "{len}");
        place.run(&["verify", &hash]).succeeded();
    }
}
