//! Real nodes in one process, on loopback, each with its own home; and members that misbehave.

#![allow(clippy::wildcard_enum_match_arm, reason = "an answer of another kind fails the test")]

pub mod bad_peer;
pub mod blob;
pub mod detour;
pub mod lane;
pub mod misdeeds;
pub mod noise;
pub mod panics;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use blobmesh_node::Node;
use blobmesh_node::config::{EdgeConfig, NodeConfig};
use blobmesh_node::control::Service;
use blobmesh_node::control::api::{
    Answer, Event, Exchange, Failure, GotRow, Input, PeerRow, Receipt, Request,
};
use blobmesh_node::mesh::MeshKey;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long anything may take that should come soon, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);
/// What a get is allowed in milliseconds, on a machine that has much else to do.
const GET_MS: u64 = 45_000;

/// One node and its home.
#[derive(Debug)]
pub struct TestNode {
    pub node: Node,
    pub home: TempDir,
}

/// Configures a node of the tests' common mesh that listens on loopback.
pub fn config(home: &Path) -> NodeConfig {
    let mesh = home.join("mesh.key");
    if !mesh.exists() {
        common_mesh().store_new(&mesh).expect("a mesh key");
    }
    NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        mdns: false,
        ..NodeConfig::new(home.to_owned())
    }
}

pub fn common_mesh() -> &'static MeshKey {
    static MESH: OnceLock<MeshKey> = OnceLock::new();
    MESH.get_or_init(|| MeshKey::generate().expect("random bytes"))
}

impl TestNode {
    /// Starts a node that dials `peers`.
    pub async fn start(peers: &[&TestNode]) -> Self {
        Self::start_with(peers, |_| {}).await
    }

    pub async fn start_with(peers: &[&TestNode], change: impl FnOnce(&mut NodeConfig)) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let mut config = config(home.path());
        config.peers = peers.iter().map(|peer| peer.address()).collect();
        change(&mut config);
        let node = Node::start(config).await.expect("the node starts");
        Self { node, home }
    }

    pub fn address(&self) -> String {
        format!("{}/p2p/{}", self.node.addresses()[0], self.node.peer_id())
    }

    pub async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        self.ask_with(request, &[]).await.0
    }

    /// Asks with input, and returns the answer and the bytes that came.
    pub async fn ask_with(
        &self,
        request: Request,
        input: &[u8],
    ) -> (Result<Answer, Failure>, Vec<u8>) {
        let (events, mut events_in) = mpsc::channel(16);
        let (input_out, input_in) = mpsc::channel(16);
        for piece in input.chunks(1 << 20) {
            let piece = Input::Bytes(Bytes::copy_from_slice(piece));
            input_out.send(Ok(piece)).await.expect("room");
        }
        input_out.send(Ok(Input::End)).await.expect("room");
        drop(input_out);
        let service = self.node.service();
        let served = service.handle(request, Exchange { events, input: input_in });
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(event) = events_in.recv().await {
                if let Event::Bytes(piece) = event {
                    bytes.extend_from_slice(&piece);
                }
            }
            bytes
        };
        tokio::join!(served, collect)
    }

    /// Adds bytes and returns their hash.
    pub async fn add(&self, bytes: &[u8]) -> String {
        let (added, _) = self.ask_with(Request::Add { path: None, pin: false }, bytes).await;
        match added.expect("added") {
            Answer::Added { hash, .. } => hash,
            other => panic!("not added: {other:?}"),
        }
    }

    pub async fn get(&self, hash: &str) -> Result<Receipt, Failure> {
        let request = Request::Get {
            hash: hash.to_owned(),
            output: None,
            force: false,
            timeout_ms: Some(GET_MS),
            base: None,
            no_store: false,
        };
        self.ask(request).await.map(|answer| match answer {
            Answer::Got(receipt) => *receipt,
            other => panic!("not got: {other:?}"),
        })
    }

    /// Gets many blobs, and returns the answer and the rows that came.
    pub async fn get_many(&self, hashes: &[String]) -> (Result<Answer, Failure>, Vec<GotRow>) {
        let (events, mut events_in) = mpsc::channel(16);
        let (_, input) = mpsc::channel(1);
        let request = Request::GetMany { hashes: hashes.to_vec(), timeout_ms: Some(GET_MS) };
        let service = self.node.service();
        let served = service.handle(request, Exchange { events, input });
        let collect = async {
            let mut rows = Vec::new();
            while let Some(event) = events_in.recv().await {
                if let Event::Got(some) = event {
                    rows.extend(some);
                }
            }
            rows
        };
        tokio::join!(served, collect)
    }

    pub async fn cat(&self, hash: &str) -> Vec<u8> {
        let request = Request::Cat { hash: hash.to_owned(), timeout_ms: Some(GET_MS) };
        let (answer, bytes) = self.ask_with(request, &[]).await;
        answer.expect("got");
        bytes
    }

    pub async fn peers(&self) -> Vec<PeerRow> {
        match self.ask(Request::Peers).await.expect("answered") {
            Answer::Peers { peers } => peers,
            other => panic!("not peers: {other:?}"),
        }
    }

    /// Returns the row of one peer, while it is connected.
    pub async fn peer(&self, peer: &str) -> Option<PeerRow> {
        self.peers().await.into_iter().find(|row| row.peer == peer)
    }

    /// Returns one of the counters of the node's status.
    pub async fn counter(&self, name: &str) -> u64 {
        match self.ask(Request::Status).await.expect("answered") {
            Answer::Status(status) => {
                status.counters.iter().find(|(counter, _)| counter == name).expect("known").1
            }
            other => panic!("not a status: {other:?}"),
        }
    }

    /// Waits until `count` neighbours have told their filter.
    pub async fn linked(&self, count: usize) {
        self.until(|peers| {
            peers.iter().filter(|peer| peer.filter_blobs.is_some()).count() >= count
        })
        .await;
    }

    /// Waits until the filters of all neighbours together hold `blobs` blobs.
    pub async fn hears_of(&self, blobs: u64) {
        self.until(|peers| peers.iter().filter_map(|peer| peer.filter_blobs).sum::<u64>() >= blobs)
            .await;
    }

    /// Waits until the rows of the peers are as `ready` wants them.
    pub async fn until(&self, ready: impl Fn(&[PeerRow]) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        loop {
            let peers = self.peers().await;
            if ready(&peers) {
                return;
            }
            timeout_at(deadline, pace.tick()).await.expect("time to look again");
            assert!(Instant::now() < deadline, "not in time: {peers:?}");
        }
    }

    pub async fn stop(self) -> TempDir {
        self.node.shutdown().await;
        self.home
    }
}

/// Makes bytes that no two tests share.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes an edge of a directory that already holds `blobs`, without group lists.
pub fn edge_dir(dir: &Path, blobs: &[&[u8]]) -> EdgeConfig {
    for blob in blobs {
        let hash = blobmesh_protocol::Hash::of(blob);
        let path: PathBuf = dir.join("blobs").join(hash.sharded_path());
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, blob).expect("written");
    }
    EdgeConfig::Directory { path: dir.to_owned() }
}
