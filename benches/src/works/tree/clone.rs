//! A whole directory from a peer on loopback, everything on a tmpfs: `pull` beside `git clone` and `rsync -a`.
//!
//! Two trees: the generated one, and the sources of all that this workspace depends on, as `cargo vendor` writes
//! them. What the side that serves does before (`add`, `commit`, `repack`) is not timed; nor is the start of the
//! getter's node, which is fresh each time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use blobmesh_simulations::netns::source_tree::SourceTree;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::{Figures, Setting, settle};
use crate::content::same_files;
use crate::git::{self, Git};
use crate::nodes::BenchNode;
use crate::process::{Taken, measure, run as run_to_end};
use crate::rivals::Rival;
use crate::rounds::{Contender, Round, Rows};
use crate::rsync;
use crate::steps::Steps;

/// What a tree may have, and so often it lies on the tmpfs at once: as source, in three repositories and a store, and
/// twice where it is got.
const TREE_BYTES_MAX: u64 = 1 << 30;
const COPIES: u64 = 7;

const OURS: &str = "blobmesh";
const PACKED: &str = "git packed";
const LOOSE: &str = "git loose";
const RSYNC: &str = "rsync -a";
const COPY: &str = "cp -r";

/// What a pull tells of its time; the rest is what its checkout takes after the last blob has come.
pub(in super::super) const PULL_STEPS: [(&str, &str); 2] =
    [("find", "find_s"), ("fetch", "fetch_s")];

/// What is told of one tree.
struct Told {
    tree: &'static str,
    packed: MetricSpec,
    loose: MetricSpec,
    rsync: MetricSpec,
}

const fn at_least(name: &'static str, bound: f64, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(bound)), about }
}

const GENERATED: Told = Told {
    tree: "generated",
    packed: at_least("ratio_git_repacked", 3.0, "git clone of a repacked repository over pull"),
    loose: at_least("ratio_git_loose", 10.0, "git clone of one with loose objects over pull"),
    rsync: at_least("ratio_rsync", 1.3, "rsync -a from its daemon over pull"),
};

const VENDORED: Told = Told {
    tree: "vendored",
    packed: at_least("vendored_git_repacked", 3.0, "as ratio_git_repacked, our dependencies"),
    loose: at_least("vendored_git_loose", 10.0, "as ratio_git_loose, our dependencies"),
    rsync: at_least("vendored_rsync", 1.3, "as ratio_rsync, our dependencies"),
};

/// What is told of clones.
pub(super) const METRICS: [MetricSpec; 6] = [
    GENERATED.packed,
    GENERATED.loose,
    GENERATED.rsync,
    VENDORED.packed,
    VENDORED.loose,
    VENDORED.rsync,
];

/// Measures both trees.
pub(super) fn run(setting: &Setting) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let mut raw = serde_json::Map::new();
    type Plant = fn(&Setting, &Path) -> io::Result<()>;
    let trees: [(Told, Plant); 2] = [(GENERATED, generate), (VENDORED, vendor)];
    for (told, plant) in &trees {
        setting.go_on()?;
        let Some(room) = setting.tmpfs_room(COPIES * TREE_BYTES_MAX) else {
            figures.text += "clones are skipped: no tmpfs with enough room\n";
            break;
        };
        let source = room.path().join("source");
        if let Err(error) = plant(setting, &source) {
            let text = format!("{}: skipped: {error}\n", told.tree);
            setting.tell(&text);
            figures.text += &text;
            continue;
        }
        let bench = Bench::start(setting, &room, &source)?;
        let rows = setting.take_turns(bench.contenders(), OURS)?;
        put(&mut figures, told, &rows);
        let head = format!("{}: {} files, {} MiB", told.tree, bench.files, bench.bytes >> 20);
        let steps = bench.steps.told(OURS);
        figures.text += &format!("{head}\n{}\n{steps}\n", rows.table(OURS, bench.bytes));
        let told_raw = json!({ "files": bench.files, "contenders": rows, "steps": bench.steps });
        raw.insert(told.tree.to_owned(), told_raw);
    }
    figures.raw = Value::Object(raw);
    Ok(figures)
}

fn put(figures: &mut Figures, told: &Told, rows: &Rows) {
    let ratio = |rival| rows.ratio(rival, OURS).map(|ratio| ratio.median);
    figures.put(&told.packed, ratio(PACKED));
    figures.put(&told.loose, ratio(LOOSE));
    figures.put(&told.rsync, ratio(RSYNC));
}

fn generate(setting: &Setting, to: &Path) -> io::Result<()> {
    SourceTree::new(setting.blobs, false).write(to)
}

/// Has cargo write the sources of all that this workspace depends on.
fn vendor(_: &Setting, to: &Path) -> io::Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["vendor", "--locked", "--quiet", "--versioned-dirs", "--manifest-path"]);
    run_to_end(command.arg(manifest).arg(to)).map(drop)
}

struct Bench<'a> {
    setting: &'a Setting,
    room: &'a Path,
    source: &'a Path,
    files: u64,
    bytes: u64,
    root: Hash,
    holder: BenchNode,
    address: String,
    git: Option<(Git, git::Daemon)>,
    rsync: Option<rsync::Daemon>,
    steps: Steps,
}

impl<'a> Bench<'a> {
    fn start(setting: &'a Setting, room: &'a TempDir, source: &'a Path) -> io::Result<Self> {
        let room = room.path();
        let holder = BenchNode::start(&setting.program, &room.join("holder"), &[], "any")?;
        let root = holder.add_tree(source)?;
        let (files, bytes) = (root.files, root.bytes);
        let rsync = setting.rivals.find(Rival::Rsync);
        let git = setting.rivals.find(Rival::Git).map(Git::new);
        let serve = |git: Git| -> io::Result<_> {
            let served = room.join("repositories");
            make_repositories(&git, source, &served)?;
            let daemon = git::Daemon::start(&git, &served)?;
            Ok((git, daemon))
        };
        Ok(Self {
            setting,
            room,
            source,
            files,
            bytes,
            root: root.hash,
            address: holder.address()?,
            holder,
            git: git.map(serve).transpose()?,
            rsync: rsync.map(|rsync| rsync::Daemon::start(&rsync, source, room)).transpose()?,
            steps: Steps::default(),
        })
    }

    fn contenders(&self) -> Vec<Contender<'_>> {
        let mut contenders =
            vec![Contender { name: OURS, run: Box::new(|round| self.pull(round)) }];
        if let Some((git, daemon)) = &self.git {
            for (name, repository) in [(PACKED, "packed"), (LOOSE, "loose")] {
                let run = Box::new(move |round| self.clone(round, git, (daemon, repository)));
                contenders.push(Contender { name, run });
            }
        }
        if let Some(daemon) = &self.rsync {
            let run = Box::new(|round| self.rsync(round, daemon));
            contenders.push(Contender { name: RSYNC, run });
        }
        contenders.push(Contender { name: COPY, run: Box::new(|round| self.copy(round)) });
        contenders
    }

    fn pull(&self, round: Round) -> io::Result<Taken> {
        let (home, out) = (self.room.join("getter"), self.room.join("out"));
        let peers = std::slice::from_ref(&self.address);
        let getter = BenchNode::start(&self.setting.program, &home, peers, "any")?;
        settle(self.room, self.bytes)?;
        let taken = measure(&[self.holder.process.tree()], &[getter.process.tree()], |sides| {
            let (said, took) = sides.run(&mut getter.pulling(self.root, &out))?;
            if round == Round::Counted {
                self.steps.take(&said, took, &PULL_STEPS);
            }
            Ok(took)
        })?;
        getter.process.end()?;
        fs::remove_dir_all(home)?;
        self.done(round, &out)?;
        Ok(taken)
    }

    fn clone(
        &self,
        round: Round,
        git: &Git,
        (daemon, repository): (&git::Daemon, &str),
    ) -> io::Result<Taken> {
        let out = self.room.join("out");
        let mut command = git.command();
        command.args(["clone", "--quiet"]).arg(daemon.url(repository)).arg(&out);
        settle(self.room, self.bytes)?;
        let taken = measure(&[daemon.process.tree()], &[], |sides| {
            sides.run(&mut command).map(|(_, took)| took)
        })?;
        self.done(round, &out)?;
        Ok(taken)
    }

    fn rsync(&self, round: Round, daemon: &rsync::Daemon) -> io::Result<Taken> {
        let out = self.room.join("out");
        settle(self.room, self.bytes)?;
        let taken = measure(&[daemon.process.tree()], &[], |sides| daemon.fetch_all(sides, &out))?;
        self.done(round, &out)?;
        Ok(taken)
    }

    /// Makes the same tree with nobody else in it: what the file system itself needs.
    fn copy(&self, round: Round) -> io::Result<Taken> {
        let out = self.room.join("out");
        let mut command = Command::new("cp");
        command.arg("-r").arg(self.source).arg(&out);
        settle(self.room, self.bytes)?;
        let taken = measure(&[], &[], |sides| sides.run(&mut command).map(|(_, took)| took))?;
        self.done(round, &out)?;
        Ok(taken)
    }

    /// Sees to it that the first round brought what there is, and clears what it brought away.
    fn done(&self, round: Round, out: &PathBuf) -> io::Result<()> {
        if round == Round::First {
            same_files(self.source, out)?;
        }
        fs::remove_dir_all(out)
    }
}

/// Makes two repositories of a directory's files: `loose`, with an object a file, and `packed`.
fn make_repositories(git: &Git, source: &Path, served: &Path) -> io::Result<()> {
    let work = served.join("work");
    fs::create_dir_all(served)?;
    run_to_end(Command::new("cp").arg("-r").arg(source).arg(&work))?;
    git.take_in(&work)?;
    fs::rename(work.join(".git"), served.join("loose"))?;
    fs::remove_dir_all(&work)?;
    let (loose, packed) = (served.join("loose"), served.join("packed"));
    git.run(&loose, &["config", "core.bare", "true"])?;
    run_to_end(Command::new("cp").arg("-r").arg(&loose).arg(&packed))?;
    git.run(&packed, &["repack", "-adq"])
}
