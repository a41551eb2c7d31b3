//! The works of `versus`: each one has blobmesh and its rivals do the same thing in turn.

pub mod blob;
pub mod delta;
pub mod latency;
pub mod memory;
pub mod small;
pub mod tree;
pub mod update;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blobmesh_protocol::Hash;
use blobmesh_simulations::netns::metric::MetricSpec;
use serde_json::Value;
use tempfile::TempDir;

use crate::content::Made;
use crate::machine;
use crate::nodes::BenchNode;
use crate::process::run;
use crate::rivals::{Rival, Rivals};
use crate::rounds::{Contender, Round, Rows, Told, take_turns};

/// All works, in the order in which they are done.
pub const WORKS: &[Work] =
    &[blob::WORK, small::WORK, latency::WORK, memory::WORK, tree::WORK, update::WORK, delta::WORK];

/// How the directories of a run begin.
const ROOM_PREFIX: &str = "blobmesh-versus-";

/// Is something that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its name, which is also that of the experiment in JSON.
    pub name: &'static str,
    /// What is done, in a line.
    pub about: &'static str,
    /// What is told, and what must hold.
    pub metrics: &'static [MetricSpec],
    /// The rivals it can be measured beside.
    pub rivals: &'static [Rival],
    /// Does it.
    pub run: fn(&Setting) -> io::Result<Figures>,
}

/// Finds a work by its name.
pub fn find(name: &str) -> Option<&'static Work> {
    WORKS.iter().find(|work| work.name == name)
}

/// Names what every work needs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The `blobmesh` program.
    pub program: PathBuf,
    /// The `ceiling` program.
    pub ceiling: PathBuf,
    /// Where rivals are.
    pub rivals: Rivals,
    /// The directory in which everything is put, on the file system to be measured.
    pub dir: PathBuf,
    /// A directory on a tmpfs; none where there is none.
    pub tmpfs: Option<PathBuf>,
    /// The names of the contenders that take part beside ours; all where none is named.
    pub only: Vec<String>,
    /// How many rounds are counted.
    pub runs: usize,
    /// The large blob's length in MiB.
    pub mib: u64,
    /// The huge blob's length in GiB.
    pub gib: u64,
    /// How many small blobs there are.
    pub blobs: u64,
    /// Is set once the run is to end.
    pub stop: Arc<AtomicBool>,
}

impl Setting {
    /// Makes a directory that is gone when it is dropped.
    ///
    /// # Errors
    /// When it cannot be made, or the file system has not that much room.
    pub fn room(&self, parent: &Path, bytes: u64) -> io::Result<TempDir> {
        let free = machine::free_bytes(parent)?;
        if free < bytes {
            let (bytes, free) = (bytes >> 20, free >> 20);
            let at = parent.display();
            return Err(io::Error::other(format!(
                "{at} has {free} MiB of room; {bytes} are needed"
            )));
        }
        tempfile::Builder::new().prefix(ROOM_PREFIX).tempdir_in(parent)
    }

    /// Makes a directory on the tmpfs; none where there is none with that much room.
    pub fn tmpfs_room(&self, bytes: u64) -> Option<TempDir> {
        let tmpfs = self.tmpfs.as_deref()?;
        let room = self.room(tmpfs, bytes);
        room.inspect_err(|error| self.tell(&format!("no tmpfs: {error}"))).ok()
    }

    /// Has those contenders take turns that are to take part.
    ///
    /// # Errors
    /// As [`take_turns`].
    pub fn take_turns<T: Told>(
        &self,
        mut contenders: Vec<Contender<'_, T>>,
        ours: &'static str,
    ) -> io::Result<Rows<T>> {
        contenders.retain(|contender| {
            let name = contender.name;
            name == ours || self.only.is_empty() || self.only.iter().any(|only| only == name)
        });
        let tell = |text: &str| self.tell(text);
        take_turns(&mut contenders, ours, self.runs, tell, || self.go_on())
    }

    /// Tells people what happens. Nobody needs to hear it.
    pub fn tell(&self, text: &str) {
        writeln!(io::stderr(), "{text}").ok();
    }

    /// Lets the work go on.
    ///
    /// # Errors
    /// When somebody interrupted it.
    pub fn go_on(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
        }
        Ok(())
    }
}

/// Is what came of a work.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The table for people.
    pub text: String,
    /// The values of those metrics that were measured, by name.
    pub values: BTreeMap<&'static str, f64>,
    /// All that was measured.
    pub raw: Value,
}

impl Figures {
    /// Adds the value of a metric, where it was measured.
    pub fn put(&mut self, metric: &MetricSpec, value: Option<f64>) {
        self.values.extend(value.map(|value| (metric.name, value)));
    }
}

/// Fails when the bytes of the first round are not those of the source.
fn check(round: Round, got: &Path, source: &Made) -> io::Result<()> {
    check_hash(round, source, || crate::content::hash_of(got))
}

/// Fails when what a node stored in the first round is not the source.
fn check_held(round: Round, node: &BenchNode, source: &Made) -> io::Result<()> {
    check_hash(round, source, || node.hash_held(source.hash))
}

fn check_hash(
    round: Round,
    source: &Made,
    got: impl FnOnce() -> io::Result<Hash>,
) -> io::Result<()> {
    if round == Round::First && got()? != source.hash {
        return Err(io::Error::other(format!("{} has wrong bytes", source.name)));
    }
    Ok(())
}

/// Has the disk finish what was written before, and the kernel hold as much memory as will be written: a
/// virtual machine pays dearly for memory that it has not touched for a while, and whoever writes next would
/// pay for all.
fn settle(room: &Path, bytes: u64) -> io::Result<()> {
    run(&mut Command::new("sync"))?;
    let path = room.join("warm");
    let mut file = std::fs::File::create(&path)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..((bytes / 4 * 5) >> 20) + 16 {
        file.write_all(&piece)?;
    }
    std::fs::remove_file(path)
}
