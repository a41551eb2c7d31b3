//! A node in this process, as a program has one that uses blobmesh as a library.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use blobmesh_node::config::NodeConfig;
use blobmesh_node::control::Service;
use blobmesh_node::control::api::{Answer, Exchange, Failure, Request};
use blobmesh_node::{Node, NodeService};
use blobmesh_protocol::Hash;
use tokio::sync::mpsc;

/// How long it may take to find its neighbour.
const SOON: Duration = Duration::from_secs(20);
/// The pause between two looks for the neighbour.
const PAUSE: Duration = Duration::from_millis(5);

/// Is a node in this process.
#[derive(Debug)]
pub struct LocalNode(Node);

impl LocalNode {
    /// Starts a node in `home`, and waits until it knows what the peer at an address holds.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn start(home: &Path, peer: &str) -> io::Result<Self> {
        let mut config = NodeConfig::new(home.to_owned());
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        config.peers = vec![peer.to_owned()];
        (config.mdns, config.adverts, config.open) = (false, false, true);
        let node = Self(Node::start(config).await.map_err(io::Error::other)?);
        let deadline = Instant::now() + SOON;
        while !node.knows_a_filter().await? {
            if Instant::now() >= deadline {
                return Err(io::Error::other("the node did not find its neighbour in time"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(node)
    }

    /// Returns what serves requests; cheap to clone.
    pub fn service(&self) -> NodeService {
        self.0.service()
    }

    /// Stops it.
    pub async fn end(self) {
        self.0.shutdown().await;
    }

    async fn knows_a_filter(&self) -> io::Result<bool> {
        let answer = ask(&self.service(), Request::Peers).await.map_err(io::Error::other)?;
        let Answer::Peers { peers } = answer else { return Ok(false) };
        Ok(peers.iter().any(|peer| peer.filter_blobs.is_some()))
    }
}

/// Fetches one blob of 4 KiB at most to memory, as a program does that needs its bytes.
///
/// # Errors
/// When it does not come.
pub async fn fetch(node: NodeService, hash: Hash) -> io::Result<NodeService> {
    node.read(hash, 4 << 10).await.map_err(io::Error::other)?;
    Ok(node)
}

async fn ask(node: &NodeService, request: Request) -> Result<Answer, Failure> {
    // Nobody listens to its progress, and it has no input.
    let (events, _unheard) = mpsc::channel(1);
    let (_no_input, input) = mpsc::channel(1);
    node.handle(request, Exchange { events, input }).await
}
