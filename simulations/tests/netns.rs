//! The lab and the experiments, with a stand-in for `blobmesh` (`examples/stub_node.rs`).
//!
//! Most of these need root and network namespaces. Where they are missing a test says so and passes,
//! so that `cargo test` works for everybody; continuous integration runs them as root.
#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stderr,
    clippy::unwrap_in_result,
    clippy::unwrap_used,
    reason = "helpers of tests may panic, and say why they skip"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use blobmesh_simulations::netns::{
    self, Options,
    error::Error,
    experiments,
    lab::{Lab, Topology},
    probe::{self, Datagrams, Stream},
    process::{Home, Setting},
    relay::{Layout, Link, Rate, Side, Site},
    report::Format,
    stop::Stop,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The blob of these tests: some groups and a part of one.
const BLOB_BYTES: u64 = (1 << 20) + 7;

const MS: Duration = Duration::from_millis(1);

/// How long datagrams are waited for that must come, and those that must not: in vain.
const COME_LIMIT: Duration = Duration::from_secs(30);
const VAIN_LIMIT: Duration = Duration::from_millis(100);

#[test]
fn three_nodes_holds_with_nodes_that_do_their_job() {
    let Some(run) = Run::of("three-nodes", "") else { return };
    assert!(run.holds.unwrap(), "{:?}", run.values);
    assert_eq!(run.values["found_when_muted"], Some(0.0));
    assert_eq!(run.values["peer_flag_without_multicast"], Some(1.0));
}

#[test]
fn three_nodes_sees_bytes_from_the_wrong_tier() {
    let Some(run) = Run::of("three-nodes", "edge") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["lan_bytes_share"], Some(0.0));
    assert_eq!(run.values["late_node_found"], Some(0.0));
}

#[test]
fn three_nodes_sees_a_node_that_forgets() {
    let Some(run) = Run::of("three-nodes", "forget") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["second_get_local_share"], Some(0.0));
}

#[test]
fn three_nodes_sees_wrong_bytes_behind_a_right_receipt() {
    let Some(run) = Run::of("three-nodes", "wrong") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["second_get_local_share"], Some(0.0));
    assert_eq!(run.values["late_node_found"], Some(0.0));
}

#[test]
fn step_that_fails_is_an_error_and_leaves_bounds_unmet() {
    let Some(run) = Run::of("three-nodes", "stubborn") else { return };
    assert!(matches!(run.holds, Err(Error::Command { .. })), "{:?}", run.holds);
    assert_eq!(run.values["lan_bytes_share"], None);
}

#[test]
fn dht_only_sees_nodes_that_advertise_against_their_orders() {
    // The stand-in counts peers it was told of as neighbours; A and C are told of B only.
    let Some(run) = Run::of("dht-only", "loud") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["holder_unknown_before"], Some(1.0));
    assert_eq!(run.values["found_by_dht"], Some(1.0));
    assert_eq!(run.values["found_without_adverts"], Some(1.0));
}

#[test]
fn dht_only_holds_with_nodes_that_do_their_job() {
    let Some(run) = Run::of("dht-only", "") else { return };
    assert!(run.holds.unwrap(), "{:?}", run.values);
}

#[test]
fn two_nodes_shaped_sees_bytes_from_the_wrong_tier() {
    let Some(run) = Run::of("two-nodes-shaped", "edge") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["lan_bytes_share"], Some(0.0));
    // A blob takes at least its time on the wire, whatever this machine does.
    assert!(run.values["get_over_link_time"].unwrap() >= 1.0, "{:?}", run.values);
}

#[test]
fn swarm_sees_getters_that_all_take_from_the_holder() {
    let Some(run) = Run::of("swarm", "edge") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["lan_bytes_share"], Some(0.0));
    // Eight copies through one uplink take at least eight times as long as one, whatever this machine does.
    assert!(run.values["uplink_copies"].unwrap() >= 8.0, "{:?}", run.values);
    assert!(run.values["finish_over_link_time"].unwrap() >= 7.0, "{:?}", run.values);
    // They ask one holder only, however many there are.
    assert!(run.values["two_holders_s"].unwrap() >= 0.04, "{:?}", run.values);
}

#[test]
fn holders_fail_sees_getters_that_ask_one_holder_after_another_and_notice_late() {
    // A second on a holder's wire: the stand-in has a third of it when the fault strikes.
    let Some(run) = Run::sized("holders-fail", "wrong", 24 << 20) else { return };
    assert!(!run.holds.unwrap());
    // It goes on with one of the two that remain, and from the beginning: three times what both need.
    for fault in ["die", "stall", "cut", "slow", "wrong"] {
        let ratio = run.values[&format!("over_remaining_{fault}")].unwrap();
        assert!(ratio > 1.5, "{fault}: {:?}", run.values);
    }
    // One that is stopped, cut off or slow is waited for, for seconds.
    for fault in ["stall", "cut", "slow"] {
        let ratio = run.values[&format!("over_remaining_{fault}")].unwrap();
        assert!(ratio > 6.0, "{fault}: {:?}", run.values);
    }
    // A byte too many in each of six files.
    assert_eq!(run.values["wrong_bytes"], Some(6.0));
}

#[test]
fn herd_sees_nodes_that_each_take_their_own_copy() {
    let Some(run) = Run::of("herd", "") else { return };
    assert!(!run.holds.unwrap());
    // Who begins before another one has it whole takes a copy and a group list for itself.
    assert!(run.values["edge_bytes_ratio"].unwrap() >= 2.0, "{:?}", run.values);
    assert_eq!(run.values["alone_requests"], Some(2.0));
    assert!(run.values["edge_requests_ratio"].unwrap() >= 2.0, "{:?}", run.values);
    assert!(run.values["uplink_copies"].unwrap() >= 2.0, "{:?}", run.values);
    assert!(run.values["edge_bytes_ratio_without_groups"].unwrap() >= 2.0, "{:?}", run.values);
    assert!(run.values["five_jobs_edge_copies"].unwrap() >= 5.0, "{:?}", run.values);
    assert!(run.values["five_jobs_off_edge_copies"].unwrap() >= 5.0, "{:?}", run.values);
    // Five copies take the uplink as long as five copies do, and no machine makes it faster.
    assert!(run.values["five_jobs_s"].unwrap() >= 1.6, "{:?}", run.values);
    assert_eq!(run.values["failed"], Some(0.0));
    assert_eq!(run.values["wrong_bytes"], Some(0.0));
}

#[test]
fn herd_counts_one_copy_where_one_node_takes_it_for_all() {
    let Some(run) = Run::of("herd", "one") else { return };
    for name in ["edge_bytes_ratio", "edge_bytes_ratio_without_groups", "five_jobs_edge_copies"] {
        assert!(run.values[name].unwrap() <= 1.05, "{name}: {:?}", run.values);
    }
    assert_eq!(run.values["edge_requests_ratio"], Some(1.0));
    assert!(run.values["five_jobs_off_edge_copies"].unwrap() >= 5.0, "{:?}", run.values);
    assert_eq!(run.values["failed"], Some(0.0));
}

#[test]
fn herd_counts_bytes_that_are_wrong() {
    let Some(run) = Run::of("herd", "wrong") else { return };
    assert!(!run.holds.unwrap());
    // A byte too many in the file of each get: twice one alone and a herd, and twice five jobs.
    assert_eq!(run.values["wrong_bytes"], Some(44.0));
}

#[test]
fn herd_kill_counts_gets_that_fail_and_does_not_hold_where_nobody_was_killed() {
    let Some(run) = Run::of("herd-kill", "stubborn") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["failed"], Some(16.0));
    // No time is told of gets that failed, and no ratio of a kill that was none.
    assert_eq!(run.values["last_killed_s"], None);
    assert_eq!(run.values["edge_bytes_ratio_killed"], None);
}

#[test]
fn herd_kill_sees_what_the_survivors_take_once_more() {
    // Long enough that it is not over when a third has come.
    let Some(run) = Run::sized("herd-kill", "one", 4 << 20) else { return };
    assert!(!run.holds.unwrap());
    // The stand-in's survivors all go to the edge when the one that they waited for is dead.
    assert!(run.values["edge_bytes_ratio_killed"].unwrap() >= 10.0, "{:?}", run.values);
    assert!(run.values["killed_bytes_share"].unwrap() >= 0.3, "{:?}", run.values);
    assert_eq!(run.values["failed"], Some(0.0));
}

#[test]
fn adversaries_sees_a_node_that_waits_for_each_of_its_peers() {
    let Some(run) = Run::of("adversaries", "hasty") else { return };
    assert!(!run.holds.unwrap());
    // It asks three peers who are gone two things each, one of them who is stopped, and waits 0.1 s each time.
    for (adversary, least) in [("dead", 300.0), ("silent", 100.0)] {
        let extra = run.values[&format!("extra_ms_{adversary}")].unwrap();
        assert!(extra > least, "{adversary}: {:?}", run.values);
    }
    let over = |adversary: &str| run.values[&format!("extra_over_limit_{adversary}")].unwrap();
    assert!(over("dead") > 1.0 && over("silent") > 1.0, "{:?}", run.values);
    assert_eq!(run.values["failed"], Some(0.0));
    assert_eq!(run.values["wrong_bytes"], Some(0.0));
}

#[test]
fn adversaries_counts_gets_that_fail_and_tells_no_time_of_them() {
    let Some(run) = Run::of("adversaries", "stubborn") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["failed"], Some(7.0));
    assert_eq!(run.values["extra_over_limit_none"], None);
}

#[test]
fn lan_against_edge_sees_bytes_from_the_wrong_tier() {
    let Some(run) = Run::of("lan-against-edge", "edge") else { return };
    assert!(!run.holds.unwrap());
    // The stand-in says of what came from its peer that it came from the edge: all but six gets of the edge.
    let right = run.values["right_tier_share"].unwrap();
    assert!((right - 6.0 / 14.0).abs() < 1e-9, "{:?}", run.values);
    // The wires alone take that long.
    assert!(run.values["edge_p50_ms"].unwrap() >= 50.0, "{:?}", run.values);
    assert_eq!(run.values["exists_right"], Some(10_000.0));
}

#[test]
fn lan_against_edge_sees_a_node_that_denies_what_it_got() {
    let Some(run) = Run::of("lan-against-edge", "forget") else { return };
    assert!(!run.holds.unwrap());
    assert_eq!(run.values["exists_right"], Some(9_994.0));
}

#[test]
fn hosts_reach_each_other_and_nothing_is_left_of_them() {
    let stop = Stop::never().unwrap();
    let relay = Topology::Relay(|hosts| Layout::lan(hosts, Link::default()));
    for topology in [Topology::Bridge, Topology::Router, relay] {
        let Some(lab) = lab(topology, &stop) else { return };
        let stub = Stub::new("");
        let setting = Setting { lab: &lab, binary: &stub.path, stop: &stop };
        let home = |number| Home::new(setting, lab.host(number).unwrap(), &format!("h{number}"));
        let mut listener = home(1).unwrap().start(&["--no-mdns"]).unwrap();
        listener.ready().unwrap();
        // It dials before it says that it is ready, and the other side notes who dialled.
        let address = listener.home.multiaddress();
        let mut dialler = home(2).unwrap().start(&["--no-mdns", "--peer", &address]).unwrap();
        dialler.ready().unwrap();
        let seen = listener.home.peers().unwrap();
        assert_eq!(seen.len(), 1, "{topology:?}");
        assert_eq!(seen[0].peer, dialler.peer);
        drop((listener, dialler));
        let (path, tag) = (lab.path().to_owned(), tag_of(&lab));
        assert!(namespaces().iter().any(|name| name.contains(&tag)));
        drop(lab);
        assert!(!namespaces().iter().any(|name| name.contains(&tag)));
        assert!(!path.exists());
    }
}

#[test]
fn wires_take_their_time_and_never_less() {
    let stop = Stop::never().unwrap();
    let mut layout = Layout::lan(2, Link::slow(5 * MS));
    layout.sites[0].uplink = Link::slow(10 * MS);
    layout.internet.push(Link::default());
    let Some(lab) = shaped(&layout, &stop) else { return };
    let host = |number| lab.host(number).unwrap();
    for (to, least) in [(2, 20 * MS), (3, 30 * MS)] {
        let trips = probe::round_trips(host(1), host(to), 5, &stop).unwrap();
        assert_eq!(trips.len(), 5, "to n{to}");
        assert!(trips.iter().all(|trip| *trip >= least), "{trips:?} to n{to}");
    }
}

#[test]
fn stream_is_no_faster_than_its_wire_and_its_bytes_are_counted() {
    let stop = Stop::never().unwrap();
    let mut layout = Layout::lan(1, Link::default());
    layout.sites[0].uplink = Link::new(Rate::mbit(20), MS);
    layout.internet.push(Link::default());
    let Some(lab) = shaped(&layout, &stop) else { return };
    let network = lab.network().unwrap();
    let mut streams = [Stream::between(lab.host(2).unwrap(), lab.host(1).unwrap()).unwrap()];
    let (bytes, time) =
        probe::bytes_through(&mut streams, Duration::ZERO, 300 * MS, &stop).unwrap();
    assert!(bytes > 0 && bytes <= Rate::mbit(20).bytes_in(time + MS), "{bytes} in {time:?}");
    // What arrived had crossed the uplink before, with its headers.
    assert!(network.counters().unwrap().uplinks[0].down.bytes > bytes);
}

#[test]
fn partition_stops_traffic_and_multicast_until_it_is_healed() {
    let stop = Stop::never().unwrap();
    let site = Site { hosts: vec![Link::default(); 2], ..Site::default() };
    let layout = Layout { sites: vec![site.clone(), site], ..Layout::default() };
    let Some(lab) = shaped(&layout, &stop) else { return };
    let [n1, n2, n3, n4] = [1, 2, 3, 4].map(|number| lab.host(number).unwrap());
    let network = lab.network().unwrap();
    let all = |datagrams: Result<Datagrams, _>| comes(datagrams, COME_LIMIT, &stop) == 5;
    let none = |datagrams: Result<Datagrams, _>| comes(datagrams, VAIN_LIMIT, &stop) == 0;
    let (between, multicast) = (Datagrams::between, Datagrams::multicast);
    assert!(all(between(n1, n2)) && all(between(n1, n3)) && all(between(n4, n1)));
    assert!(all(multicast(n1, n2)) && none(multicast(n1, n3)));
    network.partition(Side::Host(n1), Side::Everyone).unwrap();
    assert!(none(between(n1, n2)) && none(between(n1, n3)) && none(between(n4, n1)));
    assert!(none(multicast(n1, n2)) && all(between(n2, n3)));
    network.heal(Side::Host(n1), Side::Site(2)).unwrap();
    assert!(none(between(n1, n2)) && all(between(n1, n3)) && all(between(n4, n1)));
    network.heal(Side::Site(1), Side::Everyone).unwrap();
    assert!(all(between(n1, n2)) && all(multicast(n1, n2)));
}

#[test]
fn wires_that_change_hold_for_what_comes_after() {
    let stop = Stop::never().unwrap();
    let Some(lab) = shaped(&Layout::lan(2, Link::default()), &stop) else { return };
    let (n1, n2) = (lab.host(1).unwrap(), lab.host(2).unwrap());
    let network = lab.network().unwrap();
    // Before the loss: else a host would ask for the other's address a second later only.
    assert_eq!(comes(Datagrams::between(n1, n2), COME_LIMIT, &stop), 5);
    network.set_link(n2, Link { loss: 1.0, ..Link::default() }, &stop).unwrap();
    assert_eq!(comes(Datagrams::between(n1, n2), VAIN_LIMIT, &stop), 0);
    network.set_link(n2, Link::slow(20 * MS), &stop).unwrap();
    assert_eq!(comes(Datagrams::between(n1, n2), COME_LIMIT, &stop), 5);
    let trips = probe::round_trips(n1, n2, 3, &stop).unwrap();
    assert!(trips.iter().all(|trip| *trip >= 40 * MS), "{trips:?}");
}

#[test]
fn what_a_network_has_not_is_an_error() {
    let stop = Stop::never().unwrap();
    let Some(bridge) = lab(Topology::Bridge, &stop) else { return };
    assert!(matches!(bridge.network(), Err(Error::NoRelay)));
    let Some(lab) = shaped(&Layout::lan(2, Link::default()), &stop) else { return };
    let (network, n1) = (lab.network().unwrap(), lab.host(1).unwrap());
    let refused = |result| assert!(matches!(result, Err(Error::Layout { .. })), "{result:?}");
    refused(network.set_uplink(2, Link::default(), &stop));
    refused(network.set_uplink(0, Link::default(), &stop));
    refused(network.set_link(n1, Link { loss: 1.5, ..Link::default() }, &stop));
    refused(network.set_link(bridge.host(1).unwrap(), Link::default(), &stop));
    refused(network.partition(Side::Site(2), Side::Everyone));
    // A refused change changed nothing.
    let datagrams = Datagrams::between(n1, lab.host(2).unwrap());
    assert_eq!(comes(datagrams, COME_LIMIT, &stop), 5);
    let crowd = Layout::lan(u8::MAX, Link::default());
    assert!(matches!(Lab::shaped(&crowd, &stop), Err(Error::Layout { .. })));
}

#[test]
fn panic_leaves_nothing_behind() {
    let stop = Stop::never().unwrap();
    let Some(lab) = shaped(&Layout::lan(2, Link::default()), &stop) else { return };
    let tag = tag_of(&lab);
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lab = lab;
        std::panic::resume_unwind(Box::new("a bug"));
    }));
    assert!(unwound.is_err());
    assert!(!namespaces().iter().any(|name| name.contains(&tag)));
}

#[test]
fn host_beyond_the_last_is_an_error() {
    let stop = Stop::never().unwrap();
    let Some(lab) = lab(Topology::Bridge, &stop) else { return };
    assert!(matches!(lab.host(0), Err(Error::NoHost { number: 0 })));
    assert_eq!(lab.host(2).unwrap().name, "n2");
    assert!(matches!(lab.host(3), Err(Error::NoHost { number: 3 })));
}

#[test]
fn interrupt_ends_the_run_and_leaves_nothing_behind() {
    let stop = Stop::never().unwrap();
    if lab(Topology::Bridge, &stop).is_none() {
        return;
    }
    let first_steps = ["nodes find each other by mDNS", "round trips over wires with delay"];
    let experiments = ["three-nodes", "impairment"].into_iter().zip(first_steps);
    for ((experiment, step), (signal, code)) in
        experiments.zip([(Signal::INT, 130), (Signal::TERM, 143)])
    {
        let mut running = Running::start(experiment, step);
        kill_process(running.pid(), signal).unwrap();
        let status = running.child.wait().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(running.namespaces().is_empty());
        assert!(running.directories().is_empty());
    }
}

#[test]
fn next_lab_removes_what_a_killed_run_left() {
    let stop = Stop::never().unwrap();
    if lab(Topology::Bridge, &stop).is_none() {
        return;
    }
    let mut running = Running::start("impairment", "round trips over wires with delay");
    kill_process(running.pid(), Signal::KILL).unwrap();
    assert_eq!(running.child.wait().unwrap().signal(), Some(9));
    // Nothing is asserted of the time between: other tests of this process make labs too.
    drop(lab(Topology::Bridge, &stop));
    assert!(running.namespaces().is_empty());
    assert!(running.directories().is_empty());
}

#[test]
fn bad_arguments_are_code_2_without_root() {
    for words in [
        &["netns"][..],
        &["netns", "run"],
        &["netns", "run", "no-such-experiment"],
        &["netns", "run", "three-nodes", "--nodes", "2"],
        &["netns", "run", "three-nodes", "--nodes", "300"],
        &["netns", "run", "dht-only", "--nodes", "4"],
        &["netns", "run", "three-nodes", "--no-such-flag"],
        &["netns", "run", "three-nodes", "--kill"],
    ] {
        let output = Command::new(simulator()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn list_names_every_bound_as_json() {
    let output = Command::new(simulator()).args(["netns", "list", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bound = |metric: &str| {
        let row = rows.iter().find(|row| row["metric"] == metric).unwrap();
        row["bound"].clone()
    };
    assert_eq!(bound("discover_s"), "<= 3");
    assert_eq!(bound("found_without_adverts"), "= 0");
    assert!(bound("lan_get_s").is_null());
}

#[test]
fn user_without_root_gets_code_77_and_a_reason() {
    // A copy, because the build directory may be closed to others.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("blobmesh-sim");
    // By another process: a file that is open for writing here when another test's thread forks
    // cannot be run until that child is gone.
    assert!(Command::new("cp").arg(simulator()).arg(&copy).status().unwrap().success());
    let mut command = Command::new(&copy);
    command.args(["netns", "run", "three-nodes"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("root"), "{stderr}");
}

#[test]
fn missing_binary_is_named() {
    let stop = Stop::never().unwrap();
    if lab(Topology::Bridge, &stop).is_none() {
        return;
    }
    let output = Command::new(simulator())
        .args(["netns", "run", "three-nodes"])
        .env("BLOBMESH_BIN", "/nonexistent/blobmesh")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("/nonexistent/blobmesh"), "{stderr}");
}

/// Is one finished run of an experiment.
struct Run {
    holds: Result<bool, Error>,
    values: BTreeMap<String, Option<f64>>,
}

impl Run {
    /// Runs an experiment with the stand-in; none on a machine that cannot.
    fn of(name: &str, fault: &str) -> Option<Self> {
        Self::sized(name, fault, BLOB_BYTES)
    }

    fn sized(name: &str, fault: &str, blob_bytes: u64) -> Option<Self> {
        let experiment = experiments::find(name).unwrap();
        let stub = Stub::new(fault);
        let options = Options {
            nodes: *experiment.nodes.start(),
            binary: stub.path.clone(),
            blob_bytes,
            repeats_max: 1,
            format: Format::JsonLines,
            keep: false,
        };
        let (mut output, mut talk) = (Vec::new(), Vec::new());
        let stop = Stop::never().unwrap();
        let holds = netns::run(experiment, &options, &stop, &mut output, &mut talk);
        if let Err(Error::Unavailable { reason }) = &holds {
            eprintln!("skipped: {reason}");
            return None;
        }
        eprintln!("{}", String::from_utf8_lossy(&talk));
        let lines = String::from_utf8(output).unwrap();
        let rows = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        let values = rows.map(|row: serde_json::Value| {
            (row["metric"].as_str().unwrap().to_owned(), row["value"].as_f64())
        });
        Some(Self { holds, values: values.collect() })
    }
}

/// Is the stand-in under a name that tells it what to do wrong.
struct Stub {
    path: PathBuf,
    _directory: TempDir,
}

impl Stub {
    fn new(fault: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("stub_node.{fault}"));
        // Cargo builds examples together with tests, in the directory beside theirs.
        let tests = std::env::current_exe().unwrap();
        let built = tests.ancestors().nth(2).unwrap().join("examples/stub_node");
        assert!(built.is_file(), "{} is not built", built.display());
        symlink(built, &path).unwrap();
        Self { path, _directory: directory }
    }
}

/// Is a simulator process that takes longer than its signal: its nodes, if any, never find each other.
struct Running {
    child: Child,
    _stub: Stub,
}

impl Running {
    /// Starts it and returns once its lab is there and its first step begins.
    fn start(experiment: &str, step: &str) -> Self {
        let stub = Stub::new("deaf");
        let mut child = Command::new(simulator())
            .args(["netns", "run", experiment])
            .env("BLOBMESH_BIN", &stub.path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        talk.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{experiment}: {step}\n"));
        // Nobody reads on: the rest of the talk must not stop it either.
        Self { child, _stub: stub }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    fn namespaces(&self) -> Vec<String> {
        let prefix = format!("blobmesh-{}-", self.child.id());
        namespaces().into_iter().filter(|name| name.starts_with(&prefix)).collect()
    }

    fn directories(&self) -> Vec<String> {
        let prefix = format!("blobmesh-sim-{}-", self.child.id());
        let names = names_in(&std::env::temp_dir());
        names.into_iter().filter(|name| name.starts_with(&prefix)).collect()
    }
}

fn simulator() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blobmesh-sim"))
}

/// Makes a lab of two hosts, or says why there is none on this machine.
fn lab(topology: Topology, stop: &Stop) -> Option<Lab> {
    unless_unavailable(Lab::new(topology, 2, stop))
}

/// Makes a lab of a layout, or says why there is none on this machine.
fn shaped(layout: &Layout, stop: &Stop) -> Option<Lab> {
    unless_unavailable(Lab::shaped(layout, stop))
}

/// Returns how many of five datagrams come within `wait`.
fn comes(datagrams: Result<Datagrams, Error>, wait: Duration, stop: &Stop) -> usize {
    datagrams.unwrap().burst(5, MS, wait, stop).unwrap().len()
}

fn unless_unavailable(lab: Result<Lab, Error>) -> Option<Lab> {
    match lab {
        Ok(lab) => Some(lab),
        Err(Error::Unavailable { reason }) => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn tag_of(lab: &Lab) -> String {
    let name = lab.path().file_name().unwrap().to_str().unwrap();
    name.rsplit('-').next().unwrap().to_owned()
}

fn namespaces() -> Vec<String> {
    names_in(Path::new("/run/netns"))
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
