//! iroh-blobs, in a program around it that is built apart from the workspace.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;

use crate::dialogue::Dialogue;
use crate::process::run;

/// The version that is built.
pub const VERSION: &str = "iroh-blobs 0.104.0, iroh 1.4.1";

const MANIFEST: &str = include_str!("../../rivals/iroh-peer.toml");
const SOURCE: &str = include_str!("../../rivals/iroh-peer.rs");

/// How long it may take to take files in, and to fetch.
const LIMIT: Duration = Duration::from_secs(600);

/// Returns where the program is once it is built.
pub(super) fn program(built: &Path) -> PathBuf {
    built.join("iroh-peer").join("target").join("release").join("iroh-peer")
}

/// Builds the program; some minutes the first time.
pub(super) fn build(built: &Path) -> io::Result<()> {
    let own = built.join("iroh-peer");
    std::fs::create_dir_all(own.join("src"))?;
    std::fs::write(own.join("Cargo.toml"), MANIFEST)?;
    std::fs::write(own.join("src").join("main.rs"), SOURCE)?;
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--target-dir"]).arg(own.join("target"));
    run(command.current_dir(&own)).map(drop)
}

/// Is a process that holds files.
#[derive(Debug)]
pub struct Provider {
    /// The process.
    pub dialogue: Dialogue,
    program: PathBuf,
    id: String,
    address: SocketAddr,
}

impl Provider {
    /// Takes some files in by reference and serves them, with its own files in `room`.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start<'a>(
        program: &Path,
        files: impl Iterator<Item = &'a Path>,
        room: &Path,
    ) -> io::Result<Self> {
        let (list, store) = (room.join("iroh-files"), room.join("iroh-provider"));
        let absolute: Result<Vec<_>, _> = files.map(std::fs::canonicalize).collect();
        let lines: Vec<_> = absolute?.iter().map(|path| path.display().to_string()).collect();
        std::fs::write(&list, lines.join("\n"))?;
        let mut command = Command::new(program);
        let dialogue = Dialogue::start(command.arg("provide").arg(store).arg(list))?;
        let said = dialogue.hear("ready", LIMIT)?;
        let (id, address) = said.split_once(' ').unwrap_or_default();
        let address = address.parse().map_err(io::Error::other)?;
        Ok(Self { dialogue, program: program.to_owned(), id: id.to_owned(), address })
    }

    /// Starts a process with an empty store that is connected and ready to fetch.
    ///
    /// # Errors
    /// When it does not connect in time.
    pub fn getter(&self, store: &Path) -> io::Result<Getter> {
        let mut command = Command::new(&self.program);
        command.arg("fetch").arg(store).arg(&self.id).arg(self.address.to_string());
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear("ready", LIMIT)?;
        Ok(Getter { dialogue })
    }

    /// Starts a process that is connected and ready to fetch some of `hashes` to memory.
    ///
    /// # Errors
    /// When it does not connect in time.
    pub fn asker(&self, hashes: &[Hash], room: &Path) -> io::Result<Asker> {
        let list = room.join("iroh-hashes");
        let lines: Vec<String> = hashes.iter().map(Hash::to_hex).collect();
        std::fs::write(&list, lines.join("\n"))?;
        let mut command = Command::new(&self.program);
        command.arg("ask").arg(&self.id).arg(self.address.to_string()).arg(list);
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear("ready", LIMIT)?;
        Ok(Asker { dialogue })
    }
}

/// Is a process that fetches into its store.
#[derive(Debug)]
pub struct Getter {
    /// The process.
    pub dialogue: Dialogue,
}

impl Getter {
    /// Has it fetch a blob, and returns how long that took.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn fetch(&mut self, hash: Hash) -> io::Result<Duration> {
        let started = Instant::now();
        self.dialogue.say(&format!("get {}", hash.to_hex()))?;
        self.dialogue.hear("done", LIMIT)?;
        Ok(started.elapsed())
    }
}

/// Is a process that fetches to memory.
#[derive(Debug)]
pub struct Asker {
    /// The process.
    pub dialogue: Dialogue,
}

impl Asker {
    /// Has it fetch the hashes from one of the list on; returns the seconds of all and of each.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn ask(
        &mut self,
        from: usize,
        count: usize,
        concurrency: usize,
    ) -> io::Result<(f64, Vec<f64>)> {
        self.dialogue.say(&format!("ask {from} {count} {concurrency}"))?;
        let said = self.dialogue.hear("asked", LIMIT)?;
        let mut numbers = said.split_whitespace().map(str::parse::<f64>);
        let seconds = numbers.next().ok_or_else(|| io::Error::other("no time was told"))?;
        let waits: Result<Vec<_>, _> = numbers.collect();
        let waits = waits.map_err(io::Error::other)?.iter().map(|us| us / 1e6).collect();
        Ok((seconds.map_err(io::Error::other)?, waits))
    }
}
