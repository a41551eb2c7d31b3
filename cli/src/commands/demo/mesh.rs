//! The demo's nodes: a fresh private mesh in one temporary directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blobmesh_node::control::api::{Failure, PeerRow, Trouble};
use serde::Deserialize;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::program::Program;
use crate::error::CommandError;

/// How long the nodes may take to serve, to find each other and to hear of a blob.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How long the nodes may take to stop; then they are killed.
const STOP_WITHIN: Duration = Duration::from_secs(11);

/// Owns the demo's processes.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) program: Program,
    directory: PathBuf,
    edge: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    name: &'static str,
    child: Child,
    ready: Ready,
}

#[derive(Debug, Deserialize)]
struct Ready {
    peer: String,
    addresses: Vec<String>,
}

impl Mesh {
    /// Makes the edge directory; starts nothing.
    pub(super) fn new(directory: &Path) -> Result<Self, CommandError> {
        let edge = directory.join("edge");
        std::fs::create_dir(&edge).map_err(|error| CommandError::file("make", &edge, error))?;
        let edge = format!("dir:{}", edge.display());
        let directory = directory.to_owned();
        Ok(Self { program: Program::find()?, directory, edge, nodes: Vec::new() })
    }

    /// Returns the place of a home or a file of the demo.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the edge's URL.
    pub(super) fn edge(&self) -> &str {
        &self.edge
    }

    /// Starts the node `name`, told of all that run already, and waits until it serves.
    pub(super) async fn start(&mut self, name: &'static str) -> Result<(), CommandError> {
        let ready_file = self.place(&format!("{name}.ready"));
        let log = self.log(name);
        let ready_text = ready_file.display().to_string();
        let mut args = vec!["up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"];
        args.extend(["--until-stdin-ends", "--edge", &self.edge, "--ready-file", &ready_text]);
        for address in self.nodes.iter().filter_map(|node| node.ready.addresses.first()) {
            args.extend(["--peer", address]);
        }
        let mut child = self.program.start(&self.place(name), &args, &log)?;
        let ready = until_ready(&mut child, &ready_file, &log).await?;
        self.nodes.push(Node { name, child, ready });
        Ok(())
    }

    /// Waits until each node is connected with each other one and holds its filter.
    pub(super) async fn until_acquainted(&self) -> Result<(), CommandError> {
        let others = self.nodes.len().saturating_sub(1);
        let enough = |peers: &[PeerRow]| {
            let known = |peer: &&PeerRow| peer.neighbour && peer.filter_blobs.is_some();
            peers.iter().filter(known).count() >= others
        };
        for node in &self.nodes {
            self.until_peers(node.name, "did not get to know the others", enough).await?;
        }
        Ok(())
    }

    /// Waits until `name` has heard that `holder` holds so many blobs.
    pub(super) async fn until_heard(
        &self,
        name: &str,
        holder: &str,
        blobs: u64,
    ) -> Result<(), CommandError> {
        let holder = self.nodes.iter().find(|node| node.name == holder);
        let peer = holder.map(|node| node.ready.peer.as_str()).unwrap_or_default();
        let heard = |peers: &[PeerRow]| {
            peers.iter().any(|row| row.peer == peer && row.filter_blobs >= Some(blobs))
        };
        self.until_peers(name, "did not hear of the blob", heard).await
    }

    async fn until_peers(
        &self,
        name: &str,
        complaint: &str,
        enough: impl Fn(&[PeerRow]) -> bool,
    ) -> Result<(), CommandError> {
        let until = Instant::now() + READY_WITHIN;
        while Instant::now() < until {
            let said = self.program.run(&self.place(name), &["peers"], "").await?;
            let rows = said.lines.into_iter().filter(|line| line["type"] == "peer");
            let peers: Vec<PeerRow> =
                rows.filter_map(|line| serde_json::from_value(line).ok()).collect();
            if enough(&peers) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(with_log(&format!("node {name} {complaint}"), &self.log(name)))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place(&format!("{name}.log"))
    }

    /// Stops the nodes, all at once, and kills those that take their time.
    pub(super) async fn stop(&mut self) {
        for node in &mut self.nodes {
            // The end of its stdin is what a node of the demo stops at.
            drop(node.child.stdin.take());
        }
        let until = Instant::now() + STOP_WITHIN;
        for node in &mut self.nodes {
            if tokio::time::timeout_at(until, node.child.wait()).await.is_err() {
                node.child.kill().await.ok();
            }
        }
        self.nodes.clear();
    }
}

async fn until_ready(child: &mut Child, file: &Path, log: &Path) -> Result<Ready, CommandError> {
    let until = Instant::now() + READY_WITHIN;
    while Instant::now() < until {
        if let Ok(text) = std::fs::read(file) {
            return serde_json::from_slice(&text)
                .map_err(|error| CommandError::file("understand the ready file", file, error));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(with_log(
                &format!("a node of the demo ended at its start ({status})"),
                log,
            ));
        }
        sleep(LOOK_EVERY).await;
    }
    Err(with_log("a node of the demo does not serve", log))
}

/// Makes an error with the last that a node said.
fn with_log(text: &str, log: &Path) -> CommandError {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let mut failure = Failure::new(Trouble::Other, text);
    failure.causes.extend(lines.iter().rev().take(5).rev().map(|line| (*line).to_owned()));
    failure.into()
}
