//! An rsync daemon on loopback, without encryption.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Background, Sides};
use crate::rivals::{free_port, is_open};

/// How long the daemon may take to serve, and one transfer without a byte.
const SOON: Duration = Duration::from_secs(10);

/// Is a daemon that serves one directory.
#[derive(Debug)]
pub struct Daemon {
    /// The daemon's process.
    pub process: Background,
    /// The port at which it serves.
    pub port: u16,
    rsync: std::path::PathBuf,
}

impl Daemon {
    /// Serves a directory, with the daemon's own files in `room`.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(rsync: &Path, served: &Path, room: &Path) -> io::Result<Self> {
        let port = free_port()?;
        let (config, log) = (room.join("rsyncd.conf"), room.join("rsyncd.log"));
        // As root it would serve as nobody, who sees no private directory.
        let text = format!(
            "use chroot = no\n{}port = {port}\naddress = 127.0.0.1\nlog file = {}\n\
             [bench]\npath = {}\nread only = yes\n",
            if rustix::process::geteuid().is_root() { "uid = root\ngid = root\n" } else { "" },
            log.display(),
            served.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(rsync);
        command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let mut process = Background::start(&mut command)?;
        process.until("the rsync daemon", SOON, || is_open(port))?;
        Ok(Self { process, port, rsync: rsync.to_owned() })
    }

    /// Fetches one file to `to`, and returns how long that took.
    ///
    /// # Errors
    /// When rsync fails.
    pub fn fetch(&self, sides: &Sides, name: &str, to: &Path) -> io::Result<Duration> {
        self.rsync(sides, (&["--whole-file"], self.port), &format!("/{name}"), to)
    }

    /// Fetches all that is served into the directory `to`, with times and modes.
    ///
    /// # Errors
    /// When rsync fails.
    pub fn fetch_all(&self, sides: &Sides, to: &Path) -> io::Result<Duration> {
        self.rsync(sides, (&["-a"], self.port), "/", to)
    }

    /// Makes the file `to`, which is of an older version, what is served, by way of a port that leads to the daemon's.
    ///
    /// # Errors
    /// When rsync fails.
    pub fn update(&self, sides: &Sides, port: u16, name: &str, to: &Path) -> io::Result<Duration> {
        self.rsync(sides, (&["--no-whole-file"], port), &format!("/{name}"), to)
    }

    fn rsync(
        &self,
        sides: &Sides,
        (flags, port): (&[&str], u16),
        path: &str,
        to: &Path,
    ) -> io::Result<Duration> {
        let mut command = Command::new(&self.rsync);
        command.args(flags).arg(format!("--timeout={}", SOON.as_secs() * 6));
        command.arg(format!("rsync://127.0.0.1:{port}/bench{path}")).arg(to);
        sides.run(&mut command).map(|(_, took)| took)
    }
}
