//! Git, out of reach of what the user has configured: repositories, and a daemon that serves them on loopback.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Background, run};
use crate::rivals::{free_port, is_open};

/// How long the daemon may take to serve.
const SOON: Duration = Duration::from_secs(10);

/// What a commit needs, and what keeps git from tidying up while it is measured.
const SETTINGS: [&str; 4] =
    ["user.name=nobody", "user.email=nobody@example.org", "gc.auto=0", "maintenance.auto=false"];

/// Is the program.
#[derive(Clone, Debug)]
pub struct Git(PathBuf);

impl Git {
    /// Uses a program.
    pub fn new(program: PathBuf) -> Self {
        Self(program)
    }

    /// Returns a command that knows nothing of the user's configuration.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command
    }

    /// Runs a command in a directory to its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, at: &Path, args: &[&str]) -> io::Result<()> {
        run(self.command().current_dir(at).args(args)).map(drop)
    }

    /// Makes a repository of what lies in a directory, with loose objects.
    ///
    /// # Errors
    /// When git fails.
    pub fn take_in(&self, at: &Path) -> io::Result<()> {
        self.run(at, &["init", "--quiet", "--initial-branch", "main"])?;
        self.run(at, &["add", "--all", "--force"])?;
        self.commit(at, "first")
    }

    /// Commits all that changed in a directory.
    ///
    /// # Errors
    /// When git fails, or nothing changed.
    pub fn commit(&self, at: &Path, message: &str) -> io::Result<()> {
        self.run(at, &["commit", "--quiet", "--all", "--message", message])
    }
}

/// Is a daemon that serves every repository of a directory, for reading and writing.
#[derive(Debug)]
pub struct Daemon {
    /// The daemon's process.
    pub process: Background,
    url: String,
}

impl Daemon {
    /// Serves the repositories in a directory.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(git: &Git, served: &Path) -> io::Result<Self> {
        let port = free_port()?;
        let mut command = git.command();
        command.args(["daemon", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}"));
        command.arg(format!("--base-path={}", served.display())).arg(served);
        let mut process = Background::start(&mut command)?;
        process.until("the git daemon", SOON, || is_open(port))?;
        Ok(Self { process, url: format!("git://127.0.0.1:{port}") })
    }

    /// Returns where a repository is to be had.
    pub fn url(&self, repository: &str) -> String {
        format!("{}/{repository}", self.url)
    }
}
