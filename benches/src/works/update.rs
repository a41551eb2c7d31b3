//! One file in a hundred changes in a directory of 10,000, on a tmpfs: how long until it is published, and until it
//! has arrived where the version before lies; beside git and rsync.
//!
//! Each round edits other files. Whoever publishes and whoever fetches have directories of their own, so that nobody
//! finds done what another has just measured. What precedes a fetch (`add`, `commit` and `push`) is not timed there.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use blobmesh_simulations::netns::source_tree::SourceTree;
use serde_json::json;

use super::tree::PULL_STEPS;
use super::{Figures, Setting, Work, settle};
use crate::content::same_files;
use crate::git::{self, Git};
use crate::machine::loopback_bytes;
use crate::nodes::BenchNode;
use crate::process::{Sides, Taken, Tree, measure, run as run_to_end};
use crate::rivals::Rival;
use crate::rounds::{Contender, Round, Rows};
use crate::rsync;
use crate::stats::median;
use crate::steps::Steps;

/// The work.
pub const WORK: Work = Work {
    name: "update",
    about: "1 % of 10,000 files changed: published, and fetched by whoever has the version before, on a tmpfs",
    metrics: &[RATIO_PULL, RATIO_PUSH, RATIO_RSYNC, MB_MOVED, MB_MOVED_GIT, MB_MOVED_RSYNC],
    rivals: &[Rival::Git, Rival::Rsync],
    run,
};

const RATIO_PULL: MetricSpec =
    at_least("ratio_git_pull", 1.0, "seconds of git pull over those of pull");
const RATIO_PUSH: MetricSpec =
    at_least("ratio_git_commit_push", 3.0, "seconds of git commit and push over those of add");
const RATIO_RSYNC: MetricSpec =
    at_least("ratio_rsync", 1.0, "seconds of rsync -a over those of pull");
const MB_MOVED: MetricSpec = MetricSpec {
    name: "mb_moved",
    unit: "MB",
    bound: Some(Bound::AtMost(0.4)),
    about: "what crossed loopback for a pull, headers included",
};
const MB_MOVED_GIT: MetricSpec = moved("mb_moved_git", "the same for a git pull");
const MB_MOVED_RSYNC: MetricSpec = moved("mb_moved_rsync", "the same for an rsync -a");

const fn at_least(name: &'static str, bound: f64, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(bound)), about }
}

const fn moved(name: &'static str, about: &'static str) -> MetricSpec {
    MetricSpec { name, unit: "MB", bound: None, about }
}

/// What a tree may have, and how often it lies on the tmpfs: three directories of ours and a store for each of two
/// nodes, four of git's, two of rsync's, and repositories.
const TREE_BYTES_MAX: u64 = 200 << 20;
const COPIES: u64 = 16;

const OURS: &str = "blobmesh pull";
const ADD: &str = "blobmesh add";
const PULL: &str = "git pull";
const PUSH: &str = "git commit+push";
const RSYNC: &str = "rsync -a";

fn run(setting: &Setting) -> io::Result<Figures> {
    let room = setting.tmpfs_room(COPIES * TREE_BYTES_MAX);
    let room = room.ok_or_else(|| io::Error::other("no tmpfs with enough room"))?;
    let tree = SourceTree::new(setting.blobs, false);
    let bench = Bench::start(setting, room.path(), &tree)?;
    let rows = setting.take_turns(bench.contenders(), OURS)?;
    Ok(bench.figures(&rows))
}

/// Is a directory that is edited from round to round.
struct Edited {
    tree: RefCell<(SourceTree, u64)>,
    dir: PathBuf,
}

impl Edited {
    fn new(tree: &SourceTree, dir: PathBuf) -> io::Result<Self> {
        if !dir.exists() {
            tree.write(&dir)?;
        }
        Ok(Self { tree: RefCell::new((tree.clone(), 0)), dir })
    }

    /// Makes the next version of the directory.
    fn edit(&self) -> io::Result<()> {
        let (tree, version) = &mut *self.tree.borrow_mut();
        *version += 1;
        let edited = tree.edit(*version);
        tree.write_some(&edited, &self.dir)
    }
}

/// Is blobmesh's part: a node that publishes two directories, and one that has fetched the first.
struct Ours {
    holder: BenchNode,
    getter: BenchNode,
    fetched: Edited,
    published: Edited,
    out: PathBuf,
}

/// Is git's: a directory whose repository is fetched from, and one that is published.
struct Gits {
    git: Git,
    daemon: git::Daemon,
    fetched: Edited,
    published: Edited,
    out: PathBuf,
}

struct Rsyncs {
    daemon: rsync::Daemon,
    source: Edited,
    out: PathBuf,
}

struct Bench<'a> {
    setting: &'a Setting,
    room: &'a Path,
    bytes: u64,
    ours: Ours,
    git: Option<Gits>,
    rsync: Option<Rsyncs>,
    /// The bytes that crossed loopback in the counted rounds of a contender.
    moved: RefCell<Vec<(&'static str, u64)>>,
    pulls: Steps,
    adds: Steps,
}

impl<'a> Bench<'a> {
    fn start(setting: &'a Setting, room: &'a Path, tree: &SourceTree) -> io::Result<Self> {
        let git = setting.rivals.find(Rival::Git).map(Git::new);
        let rsync = setting.rivals.find(Rival::Rsync);
        Ok(Self {
            setting,
            room,
            bytes: tree.bytes(),
            ours: Ours::start(setting, room, tree)?,
            git: git.map(|git| Gits::start(git, room, tree)).transpose()?,
            rsync: rsync.map(|rsync| Rsyncs::start(&rsync, room, tree)).transpose()?,
            moved: RefCell::default(),
            pulls: Steps::default(),
            adds: Steps::default(),
        })
    }

    fn contenders(&self) -> Vec<Contender<'_>> {
        let mut contenders = vec![
            Contender { name: OURS, run: Box::new(|round| self.pull(round)) },
            Contender { name: ADD, run: Box::new(|round| self.add(round)) },
        ];
        if let Some(gits) = &self.git {
            contenders
                .push(Contender { name: PULL, run: Box::new(|round| self.git_pull(gits, round)) });
            contenders.push(Contender { name: PUSH, run: Box::new(|_| self.git_push(gits)) });
        }
        if let Some(rsyncs) = &self.rsync {
            let run = Box::new(|round| self.rsync(rsyncs, round));
            contenders.push(Contender { name: RSYNC, run });
        }
        contenders
    }

    fn pull(&self, round: Round) -> io::Result<Taken> {
        let ours = &self.ours;
        ours.fetched.edit()?;
        let root = ours.holder.add_tree(&ours.fetched.dir)?.hash;
        let sides = (&[ours.holder.process.tree()][..], &[ours.getter.process.tree()][..]);
        let taken = self.moving((OURS, round), sides, |sides| {
            let (said, took) = sides.run(&mut ours.getter.pulling(root, &ours.out))?;
            if round == Round::Counted {
                self.pulls.take(&said, took, &PULL_STEPS);
            }
            Ok(())
        })?;
        check(round, &ours.fetched, &ours.out)?;
        Ok(taken)
    }

    fn add(&self, round: Round) -> io::Result<Taken> {
        let ours = &self.ours;
        ours.published.edit()?;
        settle(self.room, self.bytes)?;
        measure(&[ours.holder.process.tree()], &[], |sides| {
            let mut command = ours.holder.adding(&ours.published.dir);
            let (said, took) = sides.run(command.arg("--json"))?;
            if round == Round::Counted {
                self.adds.take(&said, took, &[]);
            }
            Ok(took)
        })
    }

    fn git_pull(&self, gits: &Gits, round: Round) -> io::Result<Taken> {
        gits.fetched.edit()?;
        gits.publish(&gits.fetched, |command| run_to_end(command).map(drop))?;
        let mut command = gits.git.command();
        command.current_dir(&gits.out).args(["pull", "--quiet", "--ff-only"]);
        let taken = self.moving((PULL, round), (&[gits.daemon.process.tree()], &[]), |sides| {
            sides.run(&mut command).map(drop)
        })?;
        check(round, &gits.fetched, &gits.out)?;
        Ok(taken)
    }

    fn git_push(&self, gits: &Gits) -> io::Result<Taken> {
        gits.published.edit()?;
        settle(self.room, self.bytes)?;
        measure(&[gits.daemon.process.tree()], &[], |sides| {
            let began = Instant::now();
            gits.publish(&gits.published, |command| sides.run(command).map(drop))?;
            Ok(began.elapsed())
        })
    }

    fn rsync(&self, rsyncs: &Rsyncs, round: Round) -> io::Result<Taken> {
        rsyncs.source.edit()?;
        let taken =
            self.moving((RSYNC, round), (&[rsyncs.daemon.process.tree()], &[]), |sides| {
                rsyncs.daemon.fetch_all(sides, &rsyncs.out).map(drop)
            })?;
        check(round, &rsyncs.source, &rsyncs.out)?;
        Ok(taken)
    }

    /// Measures some work, and what crosses loopback meanwhile.
    fn moving(
        &self,
        (name, round): (&'static str, Round),
        (serving, fetching): (&[Tree], &[Tree]),
        work: impl FnOnce(&Sides) -> io::Result<()>,
    ) -> io::Result<Taken> {
        settle(self.room, self.bytes)?;
        let before = loopback_bytes()?;
        let taken = measure(serving, fetching, |sides| {
            let began = Instant::now();
            work(sides)?;
            Ok(began.elapsed())
        })?;
        if round == Round::Counted {
            self.moved.borrow_mut().push((name, loopback_bytes()?.saturating_sub(before)));
        }
        Ok(taken)
    }

    fn figures(&self, rows: &Rows) -> Figures {
        let head = format!("update: {} files, {} MiB", self.setting.blobs, self.bytes >> 20);
        let moved = self.moved.borrow();
        let steps = format!("{}\n{}", self.pulls.told(OURS), self.adds.told(ADD));
        let mut figures = Figures {
            text: format!("{head}\n{}\n{steps}", rows.table(OURS, self.bytes)),
            raw: json!({
                "contenders": rows, "moved": *moved, "pulls": self.pulls, "adds": self.adds
            }),
            ..Figures::default()
        };
        let ratio = |over, under| rows.ratio(over, under).map(|ratio| ratio.median);
        figures.put(&RATIO_PULL, ratio(PULL, OURS));
        figures.put(&RATIO_PUSH, ratio(PUSH, ADD));
        figures.put(&RATIO_RSYNC, ratio(RSYNC, OURS));
        for (metric, name) in [(&MB_MOVED, OURS), (&MB_MOVED_GIT, PULL), (&MB_MOVED_RSYNC, RSYNC)] {
            let bytes = moved.iter().filter(|(whose, _)| *whose == name).map(|(_, bytes)| *bytes);
            figures.put(metric, median(bytes.map(|bytes| bytes as f64 / 1e6)));
        }
        figures
    }
}

impl Ours {
    fn start(setting: &Setting, room: &Path, tree: &SourceTree) -> io::Result<Self> {
        let holder = BenchNode::start(&setting.program, &room.join("holder"), &[], "any")?;
        let fetched = Edited::new(tree, room.join("ours-fetched"))?;
        let published = Edited::new(tree, room.join("ours-published"))?;
        let root = holder.add_tree(&fetched.dir)?.hash;
        holder.add_tree(&published.dir)?;
        let peers = [holder.address()?];
        let getter = BenchNode::start(&setting.program, &room.join("getter"), &peers, "any")?;
        let out = room.join("ours-out");
        run_to_end(&mut getter.pulling(root, &out))?;
        Ok(Self { holder, getter, fetched, published, out })
    }
}

impl Gits {
    fn start(git: Git, room: &Path, tree: &SourceTree) -> io::Result<Self> {
        let served = room.join("repositories");
        fs::create_dir(&served)?;
        let daemon = git::Daemon::start(&git, &served)?;
        let begin = |name: &str| -> io::Result<Edited> {
            let edited = Edited::new(tree, room.join(name))?;
            git.take_in(&edited.dir)?;
            git.run(&edited.dir, &["repack", "-adq"])?;
            let bare = served.join(name);
            run_to_end(
                git.command().args(["clone", "--quiet", "--bare"]).arg(&edited.dir).arg(bare),
            )?;
            git.run(&edited.dir, &["remote", "add", "origin", &daemon.url(name)])?;
            Ok(edited)
        };
        let (fetched, published) = (begin("git-fetched")?, begin("git-published")?);
        let out = room.join("git-out");
        let mut clone = git.command();
        run_to_end(clone.args(["clone", "--quiet", &daemon.url("git-fetched")]).arg(&out))?;
        Ok(Self { git, daemon, fetched, published, out })
    }

    /// Commits what was edited, and pushes it.
    fn publish(
        &self,
        edited: &Edited,
        mut run: impl FnMut(&mut Command) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut command = |args: &[&str]| {
            let mut command = self.git.command();
            run(command.current_dir(&edited.dir).args(args))
        };
        command(&["commit", "--quiet", "--all", "--message", "next"])?;
        command(&["push", "--quiet", "origin", "main"])
    }
}

impl Rsyncs {
    fn start(program: &Path, room: &Path, tree: &SourceTree) -> io::Result<Self> {
        let source = Edited::new(tree, room.join("rsync-source"))?;
        let daemon = rsync::Daemon::start(program, &source.dir, room)?;
        let out = room.join("rsync-out");
        run_to_end(Command::new("cp").arg("-a").arg(&source.dir).arg(&out))?;
        Ok(Self { daemon, source, out })
    }
}

fn check(round: Round, source: &Edited, out: &Path) -> io::Result<()> {
    if round == Round::First { same_files(&source.dir, out) } else { Ok(()) }
}
