//! Real nodes of the built program, on loopback.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Background, run};

/// How long a node may take to serve, or to find its neighbour.
const SOON: Duration = Duration::from_secs(20);

/// Is one running node.
#[derive(Debug)]
pub struct BenchNode {
    program: PathBuf,
    home: PathBuf,
    /// The node's process.
    pub process: Background,
}

impl BenchNode {
    /// Starts a node in `home` that links with the peers at some addresses.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(
        program: &Path,
        home: &Path,
        peers: &[String],
        lane_port: &str,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["up", "--open", "--no-mdns", "--no-adverts"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).env("BLOBMESH_LANE_PORT", lane_port);
        for peer in peers {
            command.arg("--peer").arg(peer);
        }
        let process = Background::start(&mut command)?;
        let node = Self { program: program.to_owned(), home: home.to_owned(), process };
        node.until(&["status"], |_| true)?;
        if !peers.is_empty() {
            let is_told = |row: &Value| row["filter_blobs"].is_u64();
            node.until(&["peers"], |lines| lines.iter().any(is_told))?;
        }
        Ok(node)
    }

    /// Returns the address at which others link with it.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn address(&self) -> io::Result<String> {
        let (lines, _) = self.ask(&["status"])?;
        let status = lines.last().cloned().unwrap_or_default();
        let part = |value: &Value| value.as_str().map(str::to_owned);
        let (address, peer) = (part(&status["addresses"][0]), part(&status["peer"]));
        let found = address.zip(peer).map(|(address, peer)| format!("{address}/p2p/{peer}"));
        found.ok_or_else(|| io::Error::other("the node does not say where it listens"))
    }

    /// Runs a command with `--json`, and returns the lines that it printed and how long it took.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ask(&self, args: &[&str]) -> io::Result<(Vec<Value>, Duration)> {
        let mut command = Command::new(&self.program);
        let (said, took) = run(command.arg("--home").arg(&self.home).args(args).arg("--json"))?;
        let lines: Result<_, _> = said.lines().map(serde_json::from_str).collect();
        Ok((lines?, took))
    }

    fn until(&self, args: &[&str], ready: impl Fn(&[Value]) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            match self.ask(args) {
                Ok((answer, _)) if ready(&answer) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // Each question is a process of its own: pause enough.
                Ok(_) | Err(_) if Instant::now() < deadline => {}
                Ok(_) | Err(_) => return Err(io::Error::other(format!("not in time: {args:?}"))),
            }
        }
    }
}
