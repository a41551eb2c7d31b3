//! The node in the foreground: how it is found, stopped and kept from harm; and the demo.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use blobmesh_cli::exit;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::up::{UP, Up};
use support::{Place, Run};

/// How long is waited for what takes a moment, on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn signals_stop_the_node_and_take_its_ready_file_and_socket_away() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM] {
        let up = Up::start(&place, &["--ready-file", "ready.json"]);
        let ready = place.directory.path().join("ready.json");
        let told: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        for field in ["peer", "addresses", "pid"] {
            assert_eq!(told[field], up.start[field], "{told}");
        }
        assert_eq!(told["pid"], up.child.id());
        assert!(told["addresses"][0].as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"));
        let socket = place.home().join("control.sock");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

        let status = place.run(&["status", "--json"]).succeeded().lines();
        assert_eq!((&status[0]["pid"], &status[0]["peer"]), (&told["pid"], &told["peer"]));

        up.signal(signal);
        let run = up.end();
        assert_eq!(run.lines().last().unwrap()["type"], "summary");
        run.succeeded();
        assert!(!ready.exists() && !socket.exists());
    }
}

#[test]
fn second_node_of_a_home_is_refused_by_the_pid_of_the_first() {
    let place = Place::new();
    let up = Up::start(&place, &[]);
    let second = Up::start(&place, &["--ready-file", "second.json"]).end();
    second.failed(exit::STORE, &up.child.id().to_string());
    assert!(!place.directory.path().join("second.json").exists());
    place.run(&["status"]).succeeded();
}

#[test]
fn node_and_command_that_start_at_once_in_a_new_home_both_succeed() {
    for _ in 0..4 {
        let place = Place::new();
        place.file("a.txt", "hello");
        let mut add = place.command(&["add", "a.txt"]);
        let add = add.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let up = Up::start(&place, &[]);
        Run::of(add.wait_with_output().unwrap()).succeeded();
        assert_eq!(up.start["type"], "start", "{:?}", up.start);
        up.signal(Signal::TERM);
        up.end().succeeded();
    }
}

#[test]
fn store_that_a_command_holds_is_waited_for_and_that_is_said() {
    let place = Place::new();
    place.run(&["ls"]).succeeded();
    let mut holder = place.command(&["add", "-"]);
    holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    wait_for_holder(&place, holder.id());
    let up = ["up", "--no-mdns", "--listen", "127.0.0.1:0", "--until-stdin-ends"];
    let mut up = place.command(&up);
    up.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut up = up.spawn().unwrap();
    let mut said = BufReader::new(up.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "another process holds the store: waiting for its end\n");
    drop(holder.stdin.take());
    Run::of(holder.wait_with_output().unwrap()).succeeded();
    while !line.starts_with("node ") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the node does not serve");
    }
    drop(up.stdin.take());
    assert!(up.wait().unwrap().success());
}

/// Waits until a process holds the store of a place.
fn wait_for_holder(place: &Place, pid: u32) {
    let (lock, since) = (place.home().join("store/lock"), Instant::now());
    while std::fs::read_to_string(&lock).unwrap_or_default() != format!("{pid}\n") {
        assert!(since.elapsed() < PATIENCE, "nobody holds the store");
        std::thread::yield_now();
    }
}

#[test]
fn commands_go_through_the_running_node() {
    let place = Place::new();
    let _up = Up::start(&place, &[]);
    let run = place.run_with_input(&["add", "-"], b"hello");
    let hash = run.succeeded().stdout.trim();
    assert_eq!(place.run(&["cat", hash]).succeeded().stdout, "hello");
    assert_eq!(place.run(&["ls", "--json"]).succeeded().lines().len(), 2);
    let doctor = place.run(&["doctor", "--no-mdns"]);
    assert!(doctor.succeeded().stdout.contains("open in the running node"), "{doctor:?}");
}

#[test]
fn node_that_was_killed_leaves_nothing_in_the_way_of_the_next() {
    let place = Place::new();
    let up = Up::start(&place, &[]);
    up.signal(Signal::KILL);
    up.end();
    assert!(place.home().join("control.sock").exists());
    place.run(&["ls"]).succeeded();
    let up = Up::start(&place, &[]);
    place.run(&["status"]).succeeded();
    up.signal(Signal::TERM);
    up.end().succeeded();
}

#[test]
fn taken_port_is_told_and_nothing_is_left_running() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = place.run(&["up", "--no-mdns", "--listen", &address, "--ready-file", "ready.json"]);
    let hint = run.failed(exit::OTHER, "");
    assert!(hint.is_some_and(|hint| hint.contains("--listen")), "{run:?}");
    assert!(!place.directory.path().join("ready.json").exists());
    place.run(&["status"]).failed(exit::NO_NODE, "no node runs");
}

#[test]
fn ready_file_that_cannot_be_written_stops_the_node() {
    let place = Place::new();
    let run = place.run(&[&UP[..], &["--ready-file", "no/such/ready.json"]].concat());
    run.failed(exit::OTHER, "cannot write the ready file no/such/ready.json");
    place.run(&["status"]).failed(exit::NO_NODE, "no node runs");
}

#[test]
fn open_node_is_warned_of() {
    let place = Place::new();
    let up = Up::start(&place, &["--open"]);
    assert_eq!(up.start["type"], "warning", "{:?}", up.start);
    let since = Instant::now();
    while place.run(&["status"]).code != Some(0) {
        assert!(since.elapsed() < PATIENCE, "the node does not serve");
    }
    let run = place.run(&["invite"]);
    let hint = run.failed(exit::REFUSED, "the node that runs here is open");
    assert!(hint.is_some_and(|hint| hint.contains("--open")), "{run:?}");
    up.signal(Signal::TERM);
    up.end();
}

#[test]
fn node_whose_stderr_nobody_reads_goes_on() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    drop(up.child.stderr.take());
    // Whoever gets lists ahead logs the end of each, and with it the first list's end would be the last.
    let since = Instant::now();
    for digit in ["1", "2"] {
        place.run(&["prefetch", &digit.repeat(64)]).succeeded();
        while prefetches_waiting(&place) > 0 {
            assert!(since.elapsed() < PATIENCE, "the node gets nothing ahead any more");
        }
    }
}

fn prefetches_waiting(place: &Place) -> u64 {
    let status = place.run(&["status", "--json"]).succeeded().lines();
    status[0]["counters"]["prefetch_lists_waiting"].as_u64().unwrap()
}

#[test]
fn node_ends_with_its_stdin_where_that_was_asked_for() {
    let place = Place::new();
    let mut up = Up::start(&place, &["--until-stdin-ends"]);
    place.run(&["status"]).succeeded();
    drop(up.child.stdin.take());
    up.end().succeeded();
}

#[test]
fn demo_shows_every_tier_and_leaves_nothing_behind() {
    let place = Place::new();
    let temporary = place.directory.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = place.command(&["demo", "--json", "--size", "1MiB"]);
    let run = Run::of(command.env("TMPDIR", &temporary).output().unwrap());
    let lines = run.succeeded().lines();
    let steps: Vec<&Value> = lines.iter().filter(|line| line["type"] == "step").collect();
    assert_eq!(steps.len(), 4, "{lines:?}");
    for (step, tier) in steps.iter().zip(["lan", "local", "edge"]) {
        assert_eq!((&step["ok"], &step["tier"][tier]), (&true.into(), &(1 << 20).into()));
    }
    let refused = "asked 0 of 2 peers: both filters rule it out; exit code 3";
    assert!(steps[3]["text"].as_str().unwrap().contains(refused), "{}", steps[3]);
    assert_eq!(support::names_in(&temporary), Vec::<String>::new());
}

#[test]
fn interrupted_demo_leaves_nothing_behind() {
    let place = Place::new();
    let temporary = place.directory.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = place.command(&["demo", "--json", "--size", "1MiB"]);
    command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    // The signal may come when all is shown already; either way nothing stays.
    assert!(matches!(run.code, Some(0 | 130)), "{run:?}");
    assert_eq!(support::names_in(&temporary), Vec::<String>::new());
}

#[test]
fn savings_say_where_bytes_came_from_and_outlive_the_nodes() {
    let (giver, taker) = (Place::new(), Place::new());
    let edge = giver.directory.path().join("edge");
    std::fs::create_dir(&edge).unwrap();
    let edge = format!("dir:{}", edge.display());
    let add = |bytes: &[u8]| {
        giver.run_with_input(&["add", "-"], bytes).succeeded().stdout.trim().to_owned()
    };
    let (far, near) = (add(&[1; 70_000]), add(&[2; 5_000]));
    giver.run(&["push", &far, "--edge", &edge]).succeeded();
    let ticket = giver.run(&["invite"]).succeeded().stdout.clone();
    taker.run_with_input(&["join", "-"], ticket.as_bytes()).succeeded();
    assert_eq!(taker.run(&["savings"]).succeeded().stdout, "nothing was got yet\n");

    // Each by a node of its own: out of the edge, out of the store, and from a peer.
    let node = ["--no-mdns", "--listen", "127.0.0.1:0"];
    let get = |args: &[&str]| taker.run(&[&["get"], args, &node].concat());
    get(&[&far, "--edge", &edge]).succeeded();
    get(&[&far, "--edge", &edge]).succeeded();
    let up = Up::start(&giver, &[]);
    get(&[&near, "--peer", up.start["addresses"][0].as_str().unwrap()]).succeeded();

    let lines = taker.run(&["savings", "--json"]).succeeded().lines();
    let summary = lines.last().unwrap();
    // Two rows if this runs at midnight.
    assert!(lines[0]["type"] == "day" && lines.len() <= 3, "{lines:?}");
    for (name, expected) in [("gets", 3), ("without_edge", 2), ("spared", 75_000)] {
        assert_eq!(summary[name], expected, "{name} of {summary}");
    }
    let tier = serde_json::json!({"local": 70_000, "lan": 5_000, "edge": 70_000});
    assert_eq!(summary["tier"], tier, "{summary}");
    assert!(summary["edge_requests"].as_u64().unwrap() >= 1, "{summary}");
    let text = taker.run(&["savings", "--days", "1"]).succeeded().stdout.clone();
    assert!(text.lines().last().unwrap().starts_with("spared the edge "), "{text}");
}
