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
};

use blobmesh_simulations::netns::{
    self, Options, error::Error, experiments, lab::Lab, lab::Topology, process::Home,
    process::Setting, report::Format, stop::Stop,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The blob of these tests: some groups and a part of one.
const BLOB_BYTES: u64 = (1 << 20) + 7;

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
fn hosts_reach_each_other_and_nothing_is_left_of_them() {
    let stop = Stop::never().unwrap();
    for topology in [Topology::Bridge, Topology::Router] {
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
fn panic_leaves_nothing_behind() {
    let stop = Stop::never().unwrap();
    let Some(lab) = lab(Topology::Bridge, &stop) else { return };
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
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = Running::start();
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
    let mut running = Running::start();
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
        let experiment = experiments::find(name).unwrap();
        let stub = Stub::new(fault);
        let options = Options {
            nodes: *experiment.nodes.start(),
            binary: stub.path.clone(),
            blob_bytes: BLOB_BYTES,
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

/// Is a simulator process whose nodes never find each other, so that it waits when it is signalled.
struct Running {
    child: Child,
    _stub: Stub,
}

impl Running {
    /// Starts it and returns once its nodes are being started.
    fn start() -> Self {
        let stub = Stub::new("deaf");
        let mut child = Command::new(simulator())
            .args(["netns", "run", "three-nodes"])
            .env("BLOBMESH_BIN", &stub.path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        talk.read_line(&mut line).unwrap();
        assert_eq!(line, "three-nodes: nodes find each other by mDNS\n");
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
    match Lab::new(topology, 2, stop) {
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
