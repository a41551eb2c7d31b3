//! `remote-git`: a directory from a colleague on the LAN, against git from a server far away.
//!
//! What developers do all day: clone, pull and publish a tree of 10,000 files. With git the server lies behind the
//! office's uplink; with blobmesh a colleague holds the tree. In turn, on the same hosts, each clone into a new directory
//! and by a node with an empty store.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Experiment, Trial, lan,
    office::{self, median},
};
use crate::netns::{
    client::Pulled,
    command::{self, Reaped},
    error::Error,
    lab::{Host, Topology},
    metric::{Bound, MetricSpec},
    process::Node,
    relay::{Layout, Link, Rate},
    source_tree::SourceTree,
    tools,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "remote-git",
    about: "a tree of 10,000 files from a colleague is there at least 5 times sooner than from a git server far away",
    topology: Topology::Relay(layout),
    nodes: 2..=2,
    metrics: &[
        REMOTE_GIT_CLONE,
        REMOTE_GIT_PULL,
        REMOTE_GIT_PUSH,
        GIT_CLONE_S,
        GIT_PULL_S,
        GIT_PUSH_S,
        CLONE_S,
        PULL_S,
        PUSH_S,
        CLONE_FIND_S,
        CLONE_FETCH_S,
        CLONE_REST_S,
        COPY_S,
        COPY_SYNC_S,
    ],
    run,
};

const LAN_LINK: Link = Link::new(Rate::mbit(1_000), Duration::from_micros(100));

/// Round trips to the server take 50 ms.
const UPLINK: Link = Link {
    up: Some(Rate::mbit(200)),
    down: Some(Rate::mbit(200)),
    ..Link::slow(Duration::from_millis(25))
};

/// How many files the tree has, of 4 to 16 KiB.
const FILES: u64 = 10_000;

/// How often each thing is done.
const ROUNDS: u8 = 3;

/// How long a command may take, and the server until it serves.
const LIMIT: Duration = Duration::from_secs(180);
const SERVER_LIMIT: Duration = Duration::from_secs(10);
const SERVER_PAUSE: Duration = Duration::from_millis(20);

const REMOTE_GIT_CLONE: MetricSpec = at_least("remote_git_clone", "`git_clone_s` over `clone_s`");
const REMOTE_GIT_PULL: MetricSpec = at_least("remote_git_pull", "`git_pull_s` over `pull_s`");
const REMOTE_GIT_PUSH: MetricSpec = at_least("remote_git_push", "`git_push_s` over `push_s`");
const GIT_CLONE_S: MetricSpec =
    seconds("git_clone_s", "`git clone` of a repacked repository from the server, the median");
const GIT_PULL_S: MetricSpec =
    seconds("git_pull_s", "`git pull` after one file in a hundred changed, the median");
const GIT_PUSH_S: MetricSpec =
    seconds("git_push_s", "`git commit --all` and `git push` of such a change, the median");
const CLONE_S: MetricSpec =
    seconds("clone_s", "`pull` into a new directory by a node with an empty store, the median");
const PULL_S: MetricSpec =
    seconds("pull_s", "`pull` into a directory with the version before, the median");
const PUSH_S: MetricSpec = seconds("push_s", "`add` of such a change, the median");

const CLONE_FIND_S: MetricSpec =
    seconds("clone_find_s", "of `clone_s`, until all manifests were there, the median");
const CLONE_FETCH_S: MetricSpec =
    seconds("clone_fetch_s", "from then on until all files were in the store, the median");
const CLONE_REST_S: MetricSpec =
    seconds("clone_rest_s", "from then on until the directory had its name, the median");
const COPY_S: MetricSpec =
    seconds("copy_s", "`cp -r` of the tree on the same file system, the median");
const COPY_SYNC_S: MetricSpec =
    seconds("copy_sync_s", "`sync` after that, so long does the disk write a tree, the median");

const fn at_least(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(5.0)), about }
}

const fn seconds(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "s", bound: None, about }
}

fn layout(nodes: u8) -> Layout {
    office::layout(nodes, LAN_LINK, UPLINK)
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("the colleague and the server have the first version");
    let lab = trial.setting.lab;
    let hosts = Hosts { colleague: lab.host(1)?, developer: lab.host(2)?, server: lab.host(3)? };
    let rounds = ROUNDS.min(trial.repeats_max);
    let mut git = Git::start(trial, &hosts)?;
    let mut ours = Ours::start(trial)?;
    let (mut git_s, mut ours_s) = (Times::default(), Times::default());
    let mut disk = Disk::default();
    for round in 1..=rounds {
        trial.report.step(&format!("clone, pull and push, {round} of {rounds}"));
        git.round(trial, &hosts, &mut git_s)?;
        ours.round(trial, &mut ours_s)?;
        disk.round(trial, &ours.colleague.dir)?;
    }
    let pulls = ours.end()?;
    git_s.record(trial, [&GIT_CLONE_S, &GIT_PULL_S, &GIT_PUSH_S])?;
    ours_s.record(trial, [&CLONE_S, &PULL_S, &PUSH_S])?;
    for (metric, times) in [
        (&CLONE_FIND_S, pulls.iter().map(|pull| pull.find_s).collect()),
        (&CLONE_FETCH_S, pulls.iter().map(|pull| pull.fetch_s).collect()),
        (
            &CLONE_REST_S,
            pulls.iter().map(|pull| pull.seconds - pull.find_s - pull.fetch_s).collect(),
        ),
        (&COPY_S, disk.copy),
        (&COPY_SYNC_S, disk.sync),
    ] {
        trial.report.record(metric, median(times))?;
    }
    for (metric, git_s, ours_s) in [
        (&REMOTE_GIT_CLONE, git_s.clone, ours_s.clone),
        (&REMOTE_GIT_PULL, git_s.pull, ours_s.pull),
        (&REMOTE_GIT_PUSH, git_s.push, ours_s.push),
    ] {
        trial.report.record(metric, median(git_s) / median(ours_s))?;
    }
    Ok(())
}

struct Hosts<'a> {
    colleague: &'a Host,
    developer: &'a Host,
    server: &'a Host,
}

/// Is what each round took, in seconds.
#[derive(Default)]
struct Times {
    clone: Vec<f64>,
    pull: Vec<f64>,
    push: Vec<f64>,
}

impl Times {
    fn record(
        &self,
        trial: &mut Trial<'_, '_>,
        [clone, pull, push]: [&MetricSpec; 3],
    ) -> Result<(), Error> {
        for (metric, times) in [(clone, &self.clone), (pull, &self.pull), (push, &self.push)] {
            trial.report.record(metric, median(times.clone()))?;
        }
        Ok(())
    }
}

/// Is what the file system itself takes, in seconds, where all of them write.
#[derive(Default)]
struct Disk {
    copy: Vec<f64>,
    sync: Vec<f64>,
}

impl Disk {
    /// Makes a tree once more, with nothing else to do, and removes it.
    fn round(&mut self, trial: &Trial<'_, '_>, tree: &Path) -> Result<(), Error> {
        let to = trial.setting.lab.path().join("copy");
        let run = |mut command: Command, words: &[&Path]| {
            command.args(words);
            command::run(command, b"", LIMIT, trial.setting.stop)?.success().map(drop)
        };
        let sync = || timed(|| run(Command::new("sync"), &[]));
        // What was written before is not its business.
        sync()?;
        self.copy.push(timed(|| run(Command::new("cp"), &[Path::new("-r"), tree, &to]))?);
        self.sync.push(sync()?);
        fs::remove_dir_all(&to).map_err(Error::file("remove", &to))
    }
}

/// Is a tree that changes from round to round, and the directory in which somebody works on it.
struct Edited {
    tree: SourceTree,
    version: u64,
    dir: PathBuf,
}

impl Edited {
    fn new(trial: &Trial<'_, '_>, name: &str) -> Result<Self, Error> {
        let (tree, dir) = (SourceTree::new(FILES, false), trial.setting.lab.path().join(name));
        tree.write(&dir).map_err(Error::file("write", &dir))?;
        Ok(Self { tree, version: 0, dir })
    }

    fn edit(&mut self) -> Result<(), Error> {
        self.version += 1;
        let edited = self.tree.edit(self.version);
        self.tree.write_some(&edited, &self.dir).map_err(Error::file("write", &self.dir))
    }
}

/// Is git: a server with one repository, a colleague who works on it, and the developer.
struct Git {
    program: PathBuf,
    url: String,
    colleague: Edited,
    clone: PathBuf,
    _server: Reaped,
}

impl Git {
    fn start(trial: &Trial<'_, '_>, hosts: &Hosts<'_>) -> Result<Self, Error> {
        let program = tools::git()?;
        let colleague = Edited::new(trial, "git-colleague")?;
        let served = trial.setting.lab.path().join("git-served");
        let run = |host: &Host, at: &Path, words: &[&str]| git(trial, host, &program, at, words);
        run(hosts.colleague, &colleague.dir, &["init", "--quiet", "--initial-branch", "main"])?;
        run(hosts.colleague, &colleague.dir, &["add", "--all"])?;
        run(hosts.colleague, &colleague.dir, &["commit", "--quiet", "--message", "first"])?;
        run(hosts.colleague, &colleague.dir, &["repack", "-adq"])?;
        fs::create_dir(&served).map_err(Error::file("make the directory", &served))?;
        let (from, to) = (colleague.dir.to_string_lossy(), served.join("tree"));
        run(hosts.server, &served, &["clone", "--quiet", "--bare", &from, &to.to_string_lossy()])?;
        let url = format!("git://{}/tree", hosts.server.address);
        run(hosts.colleague, &colleague.dir, &["remote", "add", "origin", &url])?;
        let server = serve(trial, hosts.server, &program, &served)?;
        // Until it answers: from its own host, so that nothing is warm.
        trial.setting.stop.until("the git server", SERVER_LIMIT, SERVER_PAUSE, || {
            Ok(run(hosts.server, &served, &["ls-remote", "--quiet", &url]).ok())
        })?;
        let clone = trial.setting.lab.path().join("git-clone");
        Ok(Self { program, url, colleague, clone, _server: server })
    }

    fn round(
        &mut self,
        trial: &Trial<'_, '_>,
        hosts: &Hosts<'_>,
        times: &mut Times,
    ) -> Result<(), Error> {
        let program = self.program.clone();
        let run = |host: &Host, at: &Path, words: &[&str]| git(trial, host, &program, at, words);
        let lab = trial.setting.lab.path();
        if self.clone.exists() {
            fs::remove_dir_all(&self.clone).map_err(Error::file("remove", &self.clone))?;
        }
        let to = self.clone.to_string_lossy().into_owned();
        times
            .clone
            .push(timed(|| run(hosts.developer, lab, &["clone", "--quiet", &self.url, &to]))?);
        self.colleague.edit()?;
        let push = |at: &Path| {
            run(hosts.colleague, at, &["commit", "--quiet", "--all", "--message", "next"])?;
            run(hosts.colleague, at, &["push", "--quiet", "origin", "main"])
        };
        times.push.push(timed(|| push(&self.colleague.dir))?);
        times
            .pull
            .push(timed(|| run(hosts.developer, &self.clone, &["pull", "--quiet", "--ff-only"]))?);
        Ok(())
    }
}

/// Is blobmesh: the colleague's node, and a new one of the developer's each round.
struct Ours<'a> {
    holder: Node<'a>,
    ticket: String,
    colleague: Edited,
    root: String,
    round: u64,
    /// What the pulls into new directories tell of themselves.
    pulls: Vec<Pulled>,
}

impl<'a> Ours<'a> {
    fn start(trial: &Trial<'a, '_>) -> Result<Self, Error> {
        let colleague = Edited::new(trial, "colleague")?;
        let home = trial.home(1, "")?;
        let ticket = home.invite()?;
        let mut holder = home.start(&[])?;
        holder.ready()?;
        let root = holder.home.add(&colleague.dir)?;
        Ok(Self { holder, ticket, colleague, root, round: 0, pulls: Vec::new() })
    }

    fn round(&mut self, trial: &Trial<'a, '_>, times: &mut Times) -> Result<(), Error> {
        self.round += 1;
        let home = trial.home(2, &format!("-{}", self.round))?;
        home.join(&self.ticket)?;
        let mut getter = home.start(&[])?;
        getter.ready()?;
        let holders = std::slice::from_ref(&self.holder);
        lan::know(trial, std::slice::from_ref(&getter), holders, FILES)?;
        let out = getter.home.file(".tree");
        let pull = |root: &str| getter.home.pull(root, &out, LIMIT);
        let began = Instant::now();
        self.pulls.push(pull(&self.root)?);
        times.clone.push(began.elapsed().as_secs_f64());
        self.colleague.edit()?;
        let add = || self.holder.home.add(&self.colleague.dir);
        let began = Instant::now();
        self.root = add()?;
        times.push.push(began.elapsed().as_secs_f64());
        times.pull.push(timed(|| pull(&self.root).map(drop))?);
        lan::has_pulled(&self.colleague.tree, &out)?;
        fs::remove_dir_all(&out).map_err(Error::file("remove", &out))?;
        getter.discard()
    }

    fn end(self) -> Result<Vec<Pulled>, Error> {
        self.holder.stop()?;
        Ok(self.pulls)
    }
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Runs git in a directory on a host, whatever the user has configured.
fn git(
    trial: &Trial<'_, '_>,
    host: &Host,
    program: &Path,
    at: &Path,
    words: &[&str],
) -> Result<(), Error> {
    let mut command = trial.setting.lab.command(host, program);
    command.args(["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]);
    command.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.current_dir(at).args(words);
    command::run(command, b"", LIMIT, trial.setting.stop)?.success().map(drop)
}

/// Serves the repositories in a directory. The daemon is started itself: `git daemon` would be its parent, and leave it
/// behind when it is killed.
fn serve(
    trial: &Trial<'_, '_>,
    host: &Host,
    program: &Path,
    served: &Path,
) -> Result<Reaped, Error> {
    let mut asked = Command::new(program);
    asked.arg("--exec-path");
    let answer = command::run(asked, b"", LIMIT, trial.setting.stop)?.success()?;
    let daemon = Path::new(answer.stdout.trim()).join("git-daemon");
    let mut command = trial.setting.lab.command(host, &daemon);
    command.args(["--export-all", "--enable=receive-pack", "--reuseaddr"]);
    command.arg(format!("--base-path={}", served.display())).arg(served);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Error::system(format!("run `{}`", command::line_of(&command)));
    command.spawn().map(Reaped).map_err(start)
}
