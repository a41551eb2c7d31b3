//! `lan-rsync`: a directory over a wire of 1 Gbit/s, with blobmesh and with rsync.
//!
//! The wires are the kernel's own (tbf on both ends), because a relay would need a good part of the processors that both
//! sides want. In turn, on the same hosts, each into a new directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use super::{Experiment, Trial, lan, office::median};
use crate::netns::{
    command::{self, Reaped},
    error::Error,
    lab::{Host, Topology},
    metric::{Bound, MetricSpec},
    process::Node,
    relay::Rate,
    source_tree::SourceTree,
    tools,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "lan-rsync",
    about: "a tree of 10,000 files over 1 Gbit/s is there at least twice as soon as with rsync",
    topology: Topology::Bridge,
    nodes: 2..=2,
    metrics: &[LAN_RATIO_RSYNC, RSYNC_S, PULL_S, LINK_TIME_S],
    run,
};

const RATE: Rate = Rate::mbit(1_000);

/// What makes a wire of an interface.
const WIRE: &str = "qdisc add dev eth0 root tbf rate 1gbit burst 256kb latency 20ms";

/// How many files the tree has, of 4 to 16 KiB.
const FILES: u64 = 10_000;

/// How often each does it.
const ROUNDS: u8 = 5;

/// The port of rsync's daemon.
const PORT: u16 = 873;

/// How long a command may take, and the daemon until it serves.
const LIMIT: Duration = Duration::from_secs(60);
const SERVER_LIMIT: Duration = Duration::from_secs(10);
const SERVER_PAUSE: Duration = Duration::from_millis(20);

const LAN_RATIO_RSYNC: MetricSpec = MetricSpec {
    name: "lan_ratio_rsync",
    unit: "ratio",
    bound: Some(Bound::AtLeast(2.0)),
    about: "`rsync_s` over `pull_s`",
};
const RSYNC_S: MetricSpec = seconds("rsync_s", "`rsync -a` from its daemon, the median");
const PULL_S: MetricSpec =
    seconds("pull_s", "`pull` by a node with an empty store, whose start is not timed, the median");
const LINK_TIME_S: MetricSpec =
    seconds("link_time_s", "the bytes of the files alone at the rate of the wire");

const fn seconds(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "s", bound: None, about }
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("one host has a tree, and both ends of its wire carry 1 Gbit/s");
    let lab = trial.setting.lab;
    let (from, to) = (lab.host(1)?, lab.host(2)?);
    let (tree, dir) = (SourceTree::new(FILES, false), lab.path().join("tree"));
    tree.write(&dir).map_err(Error::file("write", &dir))?;
    for host in [from, to] {
        let mut command = lab.command(host, &tools::tc()?);
        command.args(WIRE.split(' '));
        command::run(command, b"", LIMIT, trial.setting.stop)?.success()?;
    }
    let rsync = Rsync::start(trial, from, &dir)?;
    let home = trial.home(1, "")?;
    let ticket = home.invite()?;
    let mut holder = home.start(&[])?;
    holder.ready()?;
    let root = holder.home.add(&dir)?;
    let (mut rsync_s, mut pull_s) = (Vec::new(), Vec::new());
    let rounds = ROUNDS.min(trial.repeats_max);
    for round in 1..=rounds {
        trial.report.step(&format!("rsync, then pull, {round} of {rounds}"));
        rsync_s.push(rsync.fetch(trial, to)?);
        pull_s.push(pull(trial, (&holder, &ticket), (&root, &tree), round)?);
    }
    holder.stop()?;
    trial.report.record(&LAN_RATIO_RSYNC, median(rsync_s.clone()) / median(pull_s.clone()))?;
    trial.report.record(&RSYNC_S, median(rsync_s))?;
    trial.report.record(&PULL_S, median(pull_s))?;
    trial.report.record(&LINK_TIME_S, RATE.time_of(tree.bytes()).as_secs_f64())
}

/// Pulls the tree with a new node, and returns how long that took.
fn pull<'a>(
    trial: &Trial<'a, '_>,
    (holder, ticket): (&Node<'a>, &str),
    (root, tree): (&str, &SourceTree),
    round: u8,
) -> Result<f64, Error> {
    let home = trial.home(2, &format!("-{round}"))?;
    home.join(ticket)?;
    let mut getter = home.start(&[])?;
    getter.ready()?;
    lan::know(trial, std::slice::from_ref(&getter), std::slice::from_ref(holder), FILES)?;
    let out = getter.home.file(".tree");
    let began = Instant::now();
    getter.home.pull(root, &out, LIMIT)?;
    let took = began.elapsed().as_secs_f64();
    lan::has_pulled(tree, &out)?;
    fs::remove_dir_all(&out).map_err(Error::file("remove", &out))?;
    getter.discard()?;
    Ok(took)
}

/// Is rsync's daemon on one host, without encryption.
struct Rsync {
    program: PathBuf,
    url: String,
    _daemon: Reaped,
}

impl Rsync {
    fn start(trial: &Trial<'_, '_>, host: &Host, served: &Path) -> Result<Self, Error> {
        let (lab, program) = (trial.setting.lab, tools::rsync()?);
        let (config, log) = (lab.path().join("rsyncd.conf"), lab.path().join("rsyncd.log"));
        let text = format!(
            "use chroot = no\nuid = root\ngid = root\nreverse lookup = no\nport = {PORT}\nlog file = {}\n\
             [tree]\npath = {}\nread only = yes\n",
            log.display(),
            served.display()
        );
        fs::write(&config, text).map_err(Error::file("write", &config))?;
        let mut command = lab.command(host, &program);
        command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Error::system(format!("run `{}`", command::line_of(&command)));
        let daemon = command.spawn().map(Reaped).map_err(start)?;
        let url = format!("rsync://{}/tree/", host.address);
        trial.setting.stop.until("the rsync daemon", SERVER_LIMIT, SERVER_PAUSE, || {
            let mut list = lab.command(host, &program);
            list.arg(&url);
            Ok(command::run(list, b"", LIMIT, trial.setting.stop)?.success().ok())
        })?;
        Ok(Self { program, url, _daemon: daemon })
    }

    /// Fetches the tree into a new directory, and returns how long that took.
    fn fetch(&self, trial: &Trial<'_, '_>, host: &Host) -> Result<f64, Error> {
        let lab = trial.setting.lab;
        let out = lab.path().join("rsync-tree");
        let mut command = lab.command(host, &self.program);
        command.arg("-a").arg(&self.url).arg(&out);
        let began = Instant::now();
        command::run(command, b"", LIMIT, trial.setting.stop)?.success()?;
        let took = began.elapsed().as_secs_f64();
        fs::remove_dir_all(&out).map_err(Error::file("remove", &out))?;
        Ok(took)
    }
}
