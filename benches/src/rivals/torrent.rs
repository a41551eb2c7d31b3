//! libtorrent, by its Python face: one seeder and one leecher that are told of each other.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::free_port;
use crate::dialogue::Dialogue;

/// The program around it.
const SCRIPT: &str = include_str!("../../rivals/torrent.py");

/// How long it may take to hash what it seeds, to start, and to fetch.
const LIMIT: Duration = Duration::from_secs(600);

/// Returns whether a Python has libtorrent.
pub fn is_in(python: &Path) -> bool {
    let asked = Command::new(python).args(["-c", "import libtorrent"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// Is a process that seeds one file.
#[derive(Debug)]
pub struct Seeder {
    /// The process.
    pub dialogue: Dialogue,
    python: PathBuf,
    script: PathBuf,
    torrent: PathBuf,
    port: u16,
}

impl Seeder {
    /// Seeds a file, with the rival's own files in `room`.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(python: &Path, file: &Path, room: &Path) -> io::Result<Self> {
        let (script, torrent) = (room.join("torrent.py"), room.join("blob.torrent"));
        std::fs::write(&script, SCRIPT)?;
        let port = free_port()?;
        let mut command = Command::new(python);
        command.arg(&script).arg("seed").arg(&torrent).arg(file).arg(port.to_string());
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear("ready", LIMIT)?;
        Ok(Self { dialogue, python: python.to_owned(), script, torrent, port })
    }

    /// Starts a process that will fetch the file into the directory `to`.
    ///
    /// # Errors
    /// When it does not start in time.
    pub fn leecher(&self, to: &Path) -> io::Result<Leecher> {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg("leech").arg(&self.torrent).arg(to);
        command.arg(free_port()?.to_string()).arg(self.port.to_string());
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear("ready", LIMIT)?;
        Ok(Leecher { dialogue })
    }
}

/// Is a process that is ready to fetch.
#[derive(Debug)]
pub struct Leecher {
    /// The process.
    pub dialogue: Dialogue,
}

impl Leecher {
    /// Has it fetch, and returns how long that took.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn fetch(&mut self) -> io::Result<Duration> {
        let started = Instant::now();
        self.dialogue.say("get")?;
        self.dialogue.hear("done", LIMIT)?;
        Ok(started.elapsed())
    }
}
