//! A tree of 10,000 files out of the local store, beside git's own index, on three file systems.
//!
//! Each has the store, git's repository and what they write on one file system, as a user has them. What was written
//! before is removed and synced away ahead of each turn.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use blobmesh_node::store::{Store, StoreConfig};
use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::{Bound, MetricSpec};
use blobmesh_simulations::netns::source_tree::SourceTree;
use serde_json::{Value, json};

use super::super::{Figures, Setting};
use crate::git::Git;
use crate::images::Image;
use crate::machine::file_system;
use crate::nodes::BenchNode;
use crate::process::{Taken, measure, run as run_to_end};
use crate::rivals::Rival;
use crate::rounds::{Contender, Round, Rows};

/// What store, repository and two trees take of a disk.
const ROOM_BYTES: u64 = 2 << 30;
const STORE_BYTES_MAX: u64 = 4 << 30;

const OURS: &str = "blobmesh";
const GIT: &str = "git index";
const COPY: &str = "cp -r";
const REFLINKS: &str = "reflink loop";
const SWITCH: &str = "blobmesh switch";
const GIT_SWITCH: &str = "git switch";

/// What is told of one file system.
struct Told {
    kind: &'static str,
    checkout: MetricSpec,
    switch: MetricSpec,
    copy: MetricSpec,
    reflinks: Option<MetricSpec>,
}

const fn over_git(name: &'static str, bound: f64) -> MetricSpec {
    let about = "seconds of `git checkout-index -a` over those of a fresh checkout";
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(bound)), about }
}

const fn switch_over_git(name: &'static str) -> MetricSpec {
    let about = "seconds of `git checkout` over those of a switch, 1 % changed";
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtLeast(1.0)), about }
}

const fn over_copy(name: &'static str, bound: Option<Bound>) -> MetricSpec {
    MetricSpec {
        name,
        unit: "ratio",
        bound,
        about: "seconds of `cp -r` over those of a fresh checkout",
    }
}

const fn over_reflinks(name: &'static str) -> MetricSpec {
    let about = "seconds of a fresh checkout over those of a bare loop of reflinks";
    MetricSpec { name, unit: "ratio", bound: Some(Bound::AtMost(1.2)), about }
}

const TOLD: [Told; 3] = [
    Told {
        kind: "ext4",
        checkout: over_git("checkout_over_git_ext4", 3.0),
        switch: switch_over_git("switch_over_git_ext4"),
        copy: over_copy("checkout_over_cp_ext4", None),
        reflinks: None,
    },
    Told {
        kind: "xfs",
        checkout: over_git("checkout_over_git_xfs", 1.8),
        switch: switch_over_git("switch_over_git_xfs"),
        copy: over_copy("checkout_over_cp_xfs", Some(Bound::AtLeast(1.0))),
        reflinks: Some(over_reflinks("checkout_reflinks_xfs")),
    },
    Told {
        kind: "btrfs",
        checkout: over_git("checkout_over_git_btrfs", 1.5),
        switch: switch_over_git("switch_over_git_btrfs"),
        copy: over_copy("checkout_over_cp_btrfs", Some(Bound::AtLeast(1.0))),
        reflinks: Some(over_reflinks("checkout_reflinks_btrfs")),
    },
];

/// What is told of checkouts.
pub(super) const METRICS: [MetricSpec; 11] = [
    TOLD[0].checkout,
    TOLD[1].checkout,
    TOLD[2].checkout,
    TOLD[0].switch,
    TOLD[1].switch,
    TOLD[2].switch,
    TOLD[0].copy,
    TOLD[1].copy,
    TOLD[2].copy,
    over_reflinks("checkout_reflinks_xfs"),
    over_reflinks("checkout_reflinks_btrfs"),
];

/// Measures checkouts on each kind of file system that can be had here.
pub(super) fn run(setting: &Setting) -> io::Result<Figures> {
    let room = setting.room(&setting.dir, 2 * ROOM_BYTES)?;
    let versions = [false, true].map(|edited| SourceTree::new(setting.blobs, edited));
    let mut figures = Figures::default();
    let mut raw = serde_json::Map::new();
    for told in &TOLD {
        setting.go_on()?;
        match place(told.kind, room.path()) {
            Ok((_image, place)) => {
                let rows = on(setting, told, &place, &versions)?;
                put(&mut figures, told, &rows);
                let bytes = versions[0].bytes();
                let head = format!("{}: {} files, {} MiB", told.kind, setting.blobs, bytes >> 20);
                figures.text += &format!("{head}\n{}\n", rows.table(OURS, bytes));
                raw.insert(told.kind.to_owned(), json!(rows));
            }
            Err(error) => {
                let text = format!("{} is skipped: {error}", told.kind);
                setting.tell(&text);
                figures.text += &format!("{text}\n");
            }
        }
    }
    figures.raw = Value::Object(raw);
    Ok(figures)
}

/// Returns a directory on a file system of a kind, which lives as long as the image does.
fn place(kind: &str, room: &Path) -> io::Result<(Option<Image>, PathBuf)> {
    if file_system(room) == kind {
        let path = room.join(kind);
        fs::create_dir_all(&path)?;
        return Ok((None, path));
    }
    let image = Image::mount(kind, room)?;
    let path = image.mount.clone();
    Ok((Some(image), path))
}

fn put(figures: &mut Figures, told: &Told, rows: &Rows) {
    let ratio = |over, under| rows.ratio(over, under).map(|ratio| ratio.median);
    figures.put(&told.checkout, ratio(GIT, OURS));
    figures.put(&told.switch, ratio(GIT_SWITCH, SWITCH));
    figures.put(&told.copy, ratio(COPY, OURS));
    if let Some(metric) = &told.reflinks {
        figures.put(metric, ratio(OURS, REFLINKS));
    }
}

/// Measures on one file system.
fn on(
    setting: &Setting,
    told: &Told,
    place: &Path,
    versions: &[SourceTree; 2],
) -> io::Result<Rows> {
    let bench = Bench::start(setting, place, versions)?;
    let mut contenders: Vec<Contender<'_>> = vec![
        Contender { name: OURS, run: Box::new(|round| bench.fresh(round)) },
        Contender { name: COPY, run: Box::new(|_| bench.copy()) },
        Contender { name: SWITCH, run: Box::new(|round| bench.switch(round)) },
    ];
    if bench.git.is_some() {
        contenders.push(Contender { name: GIT, run: Box::new(|round| bench.git_index(round)) });
        contenders.push(Contender { name: GIT_SWITCH, run: Box::new(|_| bench.git_switch()) });
    }
    if told.reflinks.is_some() {
        contenders.push(Contender { name: REFLINKS, run: Box::new(|_| bench.reflinks()) });
    }
    setting.tell(&format!("{}: the store and git's repository are ready", told.kind));
    setting.take_turns(contenders, OURS)
}

struct Bench<'a> {
    place: &'a Path,
    versions: &'a [SourceTree; 2],
    roots: [Hash; 2],
    node: BenchNode,
    git: Option<Git>,
}

impl<'a> Bench<'a> {
    fn start(
        setting: &Setting,
        place: &'a Path,
        versions: &'a [SourceTree; 2],
    ) -> io::Result<Self> {
        let home = place.join("home");
        let config = StoreConfig::new(home.join("store"), STORE_BYTES_MAX, STORE_BYTES_MAX);
        let (store, _) = Store::open(config).map_err(io::Error::other)?;
        let put = |tree: &SourceTree| {
            tree.store(|hash, bytes| {
                store.put_whole(hash, bytes).map(drop).map_err(io::Error::other)
            })
        };
        let roots = [put(&versions[0])?, put(&versions[1])?];
        store.close();
        versions[0].write(&place.join("source"))?;
        let git = setting.rivals.find(Rival::Git).map(Git::new);
        if let Some(git) = &git {
            make_repository(git, &place.join("repository"), versions)?;
        }
        let node = BenchNode::start(&setting.program, &home, &[], "off")?;
        let bench = Self { place, versions, roots, node, git };
        bench.node.check_out(bench.roots[0], &place.join("switched"))?;
        Ok(bench)
    }

    fn fresh(&self, round: Round) -> io::Result<Taken> {
        let out = self.cleared("out")?;
        let taken = measure(&[self.node.process.tree()], &[], |sides| {
            sides.run(&mut self.node.checking_out(self.roots[0], &out)).map(|(_, took)| took)
        })?;
        self.check(round, &out, 0)?;
        Ok(taken)
    }

    /// Switches to the other version; that one back is not timed.
    fn switch(&self, round: Round) -> io::Result<Taken> {
        let out = self.place.join("switched");
        settle()?;
        let taken = measure(&[self.node.process.tree()], &[], |sides| {
            sides.run(&mut self.node.checking_out(self.roots[1], &out)).map(|(_, took)| took)
        })?;
        self.check(round, &out, 1)?;
        self.node.check_out(self.roots[0], &out)?;
        Ok(taken)
    }

    fn git_index(&self, round: Round) -> io::Result<Taken> {
        let out = self.cleared("git-out")?;
        fs::create_dir(&out)?;
        let mut command = self.git_in("repository")?;
        command.arg("--work-tree").arg(&out).args(["checkout-index", "-a"]);
        let taken = measure(&[], &[], |sides| sides.run(&mut command).map(|(_, took)| took))?;
        self.check(round, &out, 0)?;
        Ok(taken)
    }

    fn git_switch(&self) -> io::Result<Taken> {
        settle()?;
        let mut command = self.git_in("repository")?;
        command.args(["checkout", "--quiet", "second"]);
        let taken = measure(&[], &[], |sides| sides.run(&mut command).map(|(_, took)| took))?;
        run_to_end(self.git_in("repository")?.args(["checkout", "--quiet", "main"]))?;
        Ok(taken)
    }

    fn copy(&self) -> io::Result<Taken> {
        let out = self.cleared("copy")?;
        let mut command = Command::new("cp");
        command.arg("-r").arg(self.place.join("source")).arg(&out);
        measure(&[], &[], |sides| sides.run(&mut command).map(|(_, took)| took))
    }

    /// Reflinks each file into a directory that is there, and does nothing else.
    fn reflinks(&self) -> io::Result<Taken> {
        let out = self.cleared("reflinks")?;
        let (source, files) = (self.place.join("source"), &self.versions[0].files);
        for (path, _) in files {
            path.parent().map_or(Ok(()), |above| fs::create_dir_all(out.join(above)))?;
        }
        measure(&[], &[], |_| {
            let at = Instant::now();
            for (path, _) in files {
                let from = File::open(source.join(path))?;
                rustix::fs::ioctl_ficlone(&File::create_new(out.join(path))?, &from)?;
            }
            Ok(at.elapsed())
        })
    }

    fn git_in(&self, name: &str) -> io::Result<Command> {
        let git = self.git.as_ref().ok_or_else(|| io::Error::other("no git"))?;
        let at = self.place.join(name);
        let mut command = git.command();
        command.current_dir(&at).arg("--git-dir").arg(at.join(".git"));
        Ok(command)
    }

    /// Returns a path where nothing is any more.
    fn cleared(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.place.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        settle()?;
        Ok(path)
    }

    fn check(&self, round: Round, out: &Path, version: usize) -> io::Result<()> {
        if round == Round::Counted {
            return Ok(());
        }
        for (path, bytes) in &self.versions[version].files {
            if fs::read(out.join(path))? != *bytes {
                return Err(io::Error::other(format!("{} has wrong bytes", path.display())));
            }
        }
        Ok(())
    }
}

/// Has the disk finish what was written and removed before.
fn settle() -> io::Result<()> {
    run_to_end(&mut Command::new("sync")).map(drop)
}

/// Makes a repository with both versions, packed, at the first of them.
fn make_repository(git: &Git, at: &Path, versions: &[SourceTree; 2]) -> io::Result<()> {
    versions[0].write(at)?;
    git.take_in(at)?;
    git.run(at, &["checkout", "--quiet", "-b", "second"])?;
    versions[1].write(at)?;
    git.commit(at, "second")?;
    git.run(at, &["checkout", "--quiet", "main"])?;
    git.run(at, &["repack", "-adq"])
}
