//! Nodes of another mesh, or of an open one, that know each other's address: the handshake fails, so
//! neither ever sees the other as a peer, and neither is asked or serves.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use blobmesh_node::config::NodeConfig;
use blobmesh_node::control::api::Trouble;
use blobmesh_node::mesh::MeshKey;
use mesh_support::{TestNode, bytes, panics};

/// Says which key a node has.
#[derive(Clone, Copy, Debug)]
enum Mesh {
    Common,
    Other,
    Open,
}

impl Mesh {
    fn configure(self, config: &mut NodeConfig) {
        match self {
            Self::Common => {}
            Self::Other => {
                let path = config.mesh_key_path();
                std::fs::remove_file(&path).expect("the common key");
                let key = MeshKey::from_bytes([9; 32]).expect("not a known key");
                key.store_new(&path).expect("a mesh key");
            }
            Self::Open => config.open = true,
        }
    }

    async fn node(self, peers: &[&TestNode]) -> TestNode {
        TestNode::start_with(peers, |config| self.configure(config)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_two_meshes_stay_strangers_whoever_dials() {
    strangers(Mesh::Common, Mesh::Other).await;
    strangers(Mesh::Other, Mesh::Common).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_a_key_stays_a_stranger_whoever_dials() {
    strangers(Mesh::Common, Mesh::Open).await;
    strangers(Mesh::Open, Mesh::Common).await;
}

/// Lets a node of one mesh dial a node of another one, and lets each want what the other holds.
async fn strangers(dialled: Mesh, dialler: Mesh) {
    panics::watch();
    let at_home = dialled.node(&[]).await;
    let theirs = at_home.add(&bytes(1, 100_000)).await;
    let stranger = dialler.node(&[&at_home]).await;
    let ours = stranger.add(&bytes(2, 100_000)).await;
    // A node says that a blob is nowhere only after it has tried whom it was told to dial.
    for (node, wanted) in [(&stranger, &theirs), (&at_home, &ours)] {
        let failure = node.get(wanted).await.expect_err("a stranger's blob");
        assert_eq!(failure.kind, Trouble::NotFound, "{failure:?}");
        assert!(failure.causes.contains(&"lan: no peers".to_owned()), "{failure:?}");
    }
    for node in [&stranger, &at_home] {
        assert_eq!(node.peers().await, Vec::new());
        for counter in ["asks_received", "asks_sent", "filters_sent", "serves"] {
            assert_eq!(node.counter(counter).await, 0, "{counter}");
        }
    }
    // A member at the same address gets in, so it was the key that kept the stranger out.
    let member = dialled.node(&[&at_home]).await;
    member.linked(1).await;
    assert_eq!(member.get(&theirs).await.expect("got").found, "lan");
    assert_eq!(panics::count(), 0);
}
