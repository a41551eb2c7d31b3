//! An rsync daemon on loopback, without encryption: what a get is measured by.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{Background, run};

/// How long the daemon may take to serve.
const SOON: Duration = Duration::from_secs(10);

/// Is a daemon that serves one directory.
#[derive(Debug)]
pub struct Daemon {
    /// The daemon's process.
    pub process: Background,
    url: String,
}

impl Daemon {
    /// Serves the directory of a file, with the daemon's own files in `room`.
    ///
    /// # Errors
    /// When rsync is missing or does not serve in time.
    pub fn start(file: &Path, room: &Path) -> io::Result<Self> {
        // Nobody else takes the port in the moment before the daemon does, or the bench fails.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let served = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let config = room.join("rsyncd.conf");
        let text = format!(
            "use chroot = no\nport = {port}\naddress = 127.0.0.1\n[bench]\npath = {}\nread only = yes\n",
            served.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let process = Background::start(&mut command)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let daemon = Self { process, url: format!("rsync://127.0.0.1:{port}/bench/{name}") };
        let deadline = Instant::now() + SOON;
        while let Err(error) = run(Command::new("rsync").arg(&daemon.url)) {
            if Instant::now() >= deadline {
                return Err(error);
            }
        }
        Ok(daemon)
    }

    /// Fetches the file to `to`, and returns how long that took.
    ///
    /// # Errors
    /// When rsync fails.
    pub fn fetch(&self, to: &PathBuf) -> io::Result<Duration> {
        run(Command::new("rsync").arg("--whole-file").arg(&self.url).arg(to)).map(|(_, took)| took)
    }
}
