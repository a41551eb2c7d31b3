//! A longer way to a node: what is written arrives a moment later.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::TestNode;

/// How much later bytes arrive. What it has to exceed is the time a peer in the same process takes to
/// answer; nothing depends on it but how often a test must try again.
const DELAY: Duration = Duration::from_millis(10);
/// How many bytes travel at once.
const PIECE_BYTES: usize = 256 << 10;

/// Forwards connections to a node, for as long as it lives.
#[derive(Debug)]
pub struct Detour {
    address: String,
    _tasks: JoinSet<()>,
}

impl Detour {
    /// Opens a detour on loopback.
    pub async fn to(node: &TestNode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", node.node.peer_id());
        let listened = &node.node.addresses()[0];
        let target = format!("127.0.0.1:{}", listened.rsplit('/').next().expect("a port"));
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(listener, target));
        Self { address, _tasks: tasks }
    }

    /// Returns where it begins, with the node's name at the end.
    pub fn address(&self) -> String {
        self.address.clone()
    }
}

async fn forward(listener: TcpListener, target: String) {
    let mut ways = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(&target).await else { continue };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        ways.spawn(carry(near_in, far_out));
        ways.spawn(carry(far_in, near_out));
    }
}

/// Carries bytes one way until either end has had enough.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    while from.read_buf(&mut piece).await.is_ok_and(|len| len > 0) {
        tokio::time::sleep(DELAY).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
        piece.clear();
    }
}
