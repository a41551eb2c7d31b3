//! The main job with real nodes: add here, get there, from the store, a neighbour or the edge.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use blobmesh_node::control::Service;
use blobmesh_node::control::api::{Answer, Exchange, Input, Request, Trouble};
use blobmesh_protocol::Hash;
use mesh_support::{TestNode, bytes, edge_dir};
use tokio::sync::mpsc;

#[tokio::test(flavor = "multi_thread")]
async fn blob_added_on_one_node_is_got_on_another_then_from_its_own_store() {
    let a = TestNode::start(&[]).await;
    let b = TestNode::start(&[&a]).await;
    b.linked(1).await;
    let sizes = [0, 1, 5_000, 65_536, 65_537, 3_000_000];
    for (seed, len) in (1u8..).zip(sizes) {
        let blob = bytes(seed, len);
        let hash = a.add(&blob).await;
        b.hears_of(u64::from(seed)).await;
        let receipt = b.get(&hash).await.expect("got");
        assert_eq!((receipt.found.as_str(), receipt.tier.lan), ("lan", len as u64), "{len}");
        assert_eq!((receipt.tier.local, receipt.tier.edge), (0, 0));
        let again = b.get(&hash).await.expect("got again");
        assert_eq!((again.found.as_str(), again.tier.local), ("local", len as u64), "{len}");
        assert!(b.cat(&hash).await == blob, "{len}");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_nobody_has_is_not_found_and_nobody_is_asked() {
    let a = TestNode::start(&[]).await;
    let b = TestNode::start(&[&a]).await;
    let c = TestNode::start(&[&a, &b]).await;
    c.linked(2).await;
    let failure = c.get(&Hash::of(b"nowhere").to_hex()).await.expect_err("not found");
    assert_eq!(failure.kind, Trouble::NotFound);
    let lan = "lan: asked 0 of 2 peers: both filters rule it out";
    assert!(failure.causes.iter().any(|cause| cause == lan), "{:?}", failure.causes);
    let why = c.ask(Request::Why { hash: Hash::of(b"nowhere").to_hex() }).await;
    assert!(matches!(why, Ok(Answer::Why(receipt)) if receipt.found == "none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_only_the_edge_has_comes_from_the_edge() {
    let dir = tempfile::tempdir().expect("a directory");
    let (small, large) = (bytes(1, 100), bytes(2, 2_500_000));
    let edge = edge_dir(dir.path(), &[&small, &large]);
    let a = TestNode::start(&[]).await;
    let b = TestNode::start_with(&[&a], |config| config.edge = Some(edge)).await;
    b.linked(1).await;
    for (held, blob) in (1..).zip([small, large]) {
        let receipt = b.get(&Hash::of(&blob).to_hex()).await.expect("got");
        assert_eq!(receipt.tier.edge, blob.len() as u64);
        assert_eq!((receipt.found.as_str(), receipt.tier.lan), ("edge", 0));
        // What came from the edge once is the neighbours' from then on.
        a.hears_of(held).await;
        let receipt = a.get(&Hash::of(&blob).to_hex()).await.expect("got");
        assert_eq!(receipt.found, "lan");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_blob_comes_back_from_the_edge_group_by_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let edge = edge_dir(dir.path(), &[]);
    let a = TestNode::start_with(&[], |config| config.edge = Some(edge.clone())).await;
    let blob = bytes(3, 5_000_000);
    let hash = a.add(&blob).await;
    let push = Request::Push { hashes: vec![hash.clone()], only: false, no_packs: false };
    let Answer::Pushed(pushed) = a.ask(push).await.expect("pushed") else { panic!("not pushed") };
    assert_eq!((pushed.uploaded, pushed.existed, pushed.bytes), (1, 0, 5_000_000));
    a.stop().await;
    let b = TestNode::start_with(&[], |config| config.edge = Some(edge)).await;
    assert_eq!(b.get(&hash).await.expect("got").tier.edge, 5_000_000);
    assert!(b.cat(&hash).await == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_with_wrong_bytes_is_a_verification_failure_and_stores_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let edge = edge_dir(dir.path(), &[]);
    for (seed, len) in [(1, 10), (2, 100_000), (3, 2_000_000)] {
        let wanted = Hash::of(&bytes(seed, len));
        let path = dir.path().join("blobs").join(wanted.sharded_path());
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, bytes(9, len)).expect("written");
        let edge = edge.clone();
        let node = TestNode::start_with(&[], |config| config.edge = Some(edge)).await;
        let failure = node.get(&wanted.to_hex()).await.expect_err("wrong bytes");
        assert_eq!(failure.kind, Trouble::WrongBytes, "{len}: {failure:?}");
        let has = node.ask(Request::Has { hashes: vec![wanted.to_hex()] }).await;
        assert_eq!(has, Ok(Answer::Has { sizes: vec![None] }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_known_to_the_dht_alone_is_found_through_a_common_peer() {
    let b = TestNode::start(&[]).await;
    let a = TestNode::start(&[&b]).await;
    let c = TestNode::start(&[&b]).await;
    a.linked(1).await;
    c.linked(1).await;
    let blob = bytes(7, 300_000);
    let hash = a.add(&blob).await;
    let deadline = tokio::time::Instant::now() + mesh_support::SOON;
    let receipt = loop {
        // The provide record takes a moment to reach the DHT.
        match c.get(&hash).await {
            Ok(receipt) => break receipt,
            Err(failure) => assert!(tokio::time::Instant::now() < deadline, "{failure:?}"),
        }
    };
    assert_eq!((receipt.found.as_str(), receipt.tier.lan), ("dht", 300_000), "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_restarts_serves_what_it_held() {
    let a = TestNode::start(&[]).await;
    let blob = bytes(8, 200_000);
    let hash = a.add(&blob).await;
    let home = a.stop().await;
    let config = mesh_support::config(home.path());
    let node = blobmesh_node::Node::start(config).await.expect("starts again");
    let a = TestNode { node, home };
    let b = TestNode::start(&[&a]).await;
    b.linked(1).await;
    assert_eq!(b.get(&hash).await.expect("got").found, "lan");
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_gets_at_once_from_one_neighbour_all_succeed() {
    let a = TestNode::start(&[]).await;
    let b = TestNode::start(&[&a]).await;
    b.linked(1).await;
    let mut hashes = Vec::new();
    for seed in 0..40 {
        hashes.push(a.add(&bytes(seed, 1_000_000)).await);
    }
    b.hears_of(40).await;
    let gets = hashes.iter().map(|hash| b.get(hash));
    for receipt in futures::future::join_all(gets).await {
        assert_eq!(receipt.expect("got").tier.lan, 1_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_dropped_leaves_the_mesh() {
    let a = TestNode::start(&[]).await;
    let b = TestNode::start(&[&a]).await;
    b.linked(1).await;
    drop(a);
    b.until(|peers| peers.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_whose_client_hung_up_is_still_heard_of() {
    let a = TestNode::start(&[]).await;
    let b = TestNode::start(&[&a]).await;
    b.linked(1).await;
    let (events, _events_in) = mpsc::channel(16);
    let (input_out, input) = mpsc::channel(1);
    let service = a.node.service();
    let add = Request::Add { path: None, pin: false };
    let client = tokio::spawn(async move {
        service.handle(add, Exchange { events, input }).await.expect("added");
    });
    for piece in bytes(1, 4).chunks(1) {
        let piece = Input::Bytes(bytes::Bytes::copy_from_slice(piece));
        input_out.send(Ok(piece)).await.expect("taken");
    }
    input_out.send(Ok(Input::End)).await.expect("taken");
    client.abort();
    client.await.expect_err("hung up");
    b.hears_of(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_cut_is_no_blob() {
    let a = TestNode::start(&[]).await;
    for pieces in 0..2 {
        let (events, _events_in) = mpsc::channel(16);
        let (input_out, input) = mpsc::channel(1);
        for _ in 0..pieces {
            let half = Input::Bytes(bytes::Bytes::from_static(b"half of it"));
            input_out.send(Ok(half)).await.expect("room");
        }
        drop(input_out);
        let add = Request::Add { path: None, pin: true };
        let cut = a.node.service().handle(add, Exchange { events, input }).await;
        assert_eq!(cut.expect_err("no blob").kind, Trouble::Interrupted);
        assert_eq!(a.ask(Request::List).await, Ok(Answer::List { blobs: Vec::new() }));
    }
}
