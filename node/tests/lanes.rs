//! Large blobs between real nodes: over lanes where there are some, over blob streams where not, and over
//! either after a cut.

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blobmesh_node::config::NodeConfig;
use blobmesh_node::control::api::{Receipt, Trouble, WayRow};
use mesh_support::bad_peer::{BadPeer, Conduct, LanesAt, Said};
use mesh_support::blob::{Blob, GROUP_BYTES};
use mesh_support::{SOON, TestNode, panics};
use tokio::time::timeout;

/// A blob above the length from which on lanes are offered.
const LARGE: usize = 5 << 20;

/// Returns how the bytes came that completed a get.
fn way(receipt: &Receipt) -> &WayRow {
    let last = receipt.fetches.iter().find(|row| row.outcome == "complete");
    last.and_then(|row| row.way.as_ref()).expect("a peer gave it")
}

fn bytes_of(len: usize) -> u64 {
    u64::try_from(len).expect("small")
}

async fn pair(holder: impl FnOnce(&mut NodeConfig)) -> (TestNode, TestNode) {
    let holder = TestNode::start_with(&[], holder).await;
    let getter = TestNode::start(&[&holder]).await;
    getter.linked(1).await;
    (holder, getter)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blob_comes_over_lanes_and_a_small_one_over_a_stream() {
    panics::watch();
    let (holder, getter) = pair(|_| {}).await;
    for (number, len) in [(1, LARGE), (2, LARGE + 1), (3, GROUP_BYTES * 2), (4, 1)] {
        let blob = Blob::new(number, len);
        let hash = holder.add(&blob.bytes).await;
        getter.hears_of(u64::from(number)).await;
        let receipt = getter.get(&hash).await.expect("got");
        assert_eq!(receipt.tier.lan, bytes_of(len));
        let way = way(&receipt);
        assert_eq!(way.lane_bytes > 0, len >= LARGE, "{way:?}");
        assert_eq!(way.lanes > 0, len >= LARGE, "{way:?}");
        assert!(getter.cat(&hash).await == blob.bytes, "{len}");
    }
    assert_eq!(panics::count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_lanes_serve_and_get_large_blobs_over_streams() {
    for (of_holder, of_getter) in [(None, Some(0)), (Some(0), None)] {
        let holder = TestNode::start_with(&[], |config| config.lane_port = of_holder).await;
        let getter = TestNode::start_with(&[&holder], |config| config.lane_port = of_getter).await;
        getter.linked(1).await;
        let blob = Blob::new(11, LARGE);
        let hash = holder.add(&blob.bytes).await;
        getter.hears_of(1).await;
        let receipt = getter.get(&hash).await.expect("got");
        // Whoever listens for no lanes may still dial those of others.
        assert_eq!(way(&receipt).lane_bytes > 0, of_holder.is_some(), "{receipt:?}");
        assert!(getter.cat(&hash).await == blob.bytes);
    }
}

/// Lets a node get a blob from a peer whose lanes lead nowhere, and then another one.
async fn get_past(lanes: LanesAt) {
    panics::watch();
    let conduct =
        Conduct { lanes, serve: |blob| Said::then_close(blob.response()), ..Conduct::EMPTY_HANDED };
    let blobs = [Blob::new(20, LARGE), Blob::new(21, LARGE)];
    let node = TestNode::start(&[]).await;
    let peer = BadPeer::start(conduct, &blobs).await;
    peer.dial(&node).await;
    node.until(|rows| rows.iter().any(|row| row.filter_blobs.is_some())).await;
    for blob in &blobs {
        let hash = blob.hash().to_hex();
        let receipt = node.get(&hash).await.expect("got over a stream");
        let way = way(&receipt);
        assert_eq!((way.lanes, way.lane_bytes), (0, 0), "{lanes:?}: {receipt:?}");
        assert_eq!(receipt.fetches.len(), 1, "{lanes:?}: in the same attempt, {receipt:?}");
        assert!(node.cat(&hash).await == blob.bytes, "{lanes:?}");
    }
    assert_eq!(peer.seen().requested_on_lanes, 0);
    assert_eq!(node.counter("bans").await, 0);
    assert_eq!(panics::count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_over_a_stream_when_nothing_listens_for_lanes() {
    get_past(LanesAt::DeadPort).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_over_a_stream_when_somebody_else_listens_for_lanes() {
    get_past(LanesAt::OtherKey).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_over_a_stream_when_lanes_speak_another_version() {
    get_past(LanesAt::OtherProtocol).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_over_a_stream_when_lanes_are_silent() {
    get_past(LanesAt::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lane_that_is_cut_leaves_only_the_rest_to_be_fetched() {
    static SERVED: AtomicUsize = AtomicUsize::new(0);
    // The first lane breaks in the middle of its range; the stream then serves what it is asked for.
    let serve = |blob: &mesh_support::blob::Requested<'_>| {
        if SERVED.fetch_add(1, Ordering::Relaxed) == 0 {
            let first: Vec<u8> = (0..30).flat_map(|index| blob.group(index)).collect();
            return Said::then_close([blob.opening(), first].concat());
        }
        let rest: Vec<u8> = (30..=blob.last()).flat_map(|index| blob.group(index)).collect();
        let end = mesh_support::blob::end();
        Said::then_close([blob.opening(), rest, end].concat())
    };
    let conduct = Conduct { lanes: LanesAt::Port, serve, ..Conduct::EMPTY_HANDED };
    let blob = Blob::new(30, LARGE);
    let node = TestNode::start(&[]).await;
    let peer = BadPeer::start(conduct, std::slice::from_ref(&blob)).await;
    peer.dial(&node).await;
    node.until(|rows| rows.iter().any(|row| row.filter_blobs.is_some())).await;
    let receipt = node.get(&blob.hash().to_hex()).await.expect("got");
    let way = way(&receipt);
    // What the broken lane had brought came once, whichever way the rest has taken.
    assert_eq!(way.lane_bytes + way.stream_bytes, bytes_of(LARGE), "{way:?}");
    assert!(way.lane_bytes >= bytes_of(30 * GROUP_BYTES), "{way:?}");
    assert!(node.cat(&blob.hash().to_hex()).await == blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_blobs_at_once_come_whole_whatever_way_they_take() {
    panics::watch();
    let (holder, getter) = pair(|config| config.lane_bytes_min = 0).await;
    let blobs: Vec<Blob> = (40..70)
        .map(|number| Blob::new(number, 2 * GROUP_BYTES * (number as usize - 39)))
        .collect();
    for blob in &blobs {
        holder.add(&blob.bytes).await;
    }
    getter.hears_of(30).await;
    let getter = Arc::new(getter);
    let gets = blobs.iter().map(|blob| {
        let (getter, hash) = (Arc::clone(&getter), blob.hash().to_hex());
        async move { getter.get(&hash).await.expect("got") }
    });
    futures::future::join_all(gets).await;
    for blob in &blobs {
        assert!(getter.cat(&blob.hash().to_hex()).await == blob.bytes);
    }
    assert_eq!(panics::count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_stops_while_its_lanes_wait() {
    let conduct = Conduct {
        lanes: LanesAt::Port,
        serve: |blob| Said::then_silence([blob.opening(), blob.group(0)].concat()),
        ..Conduct::EMPTY_HANDED
    };
    let blob = Blob::new(80, LARGE);
    let node = TestNode::start(&[]).await;
    let peer = BadPeer::start(conduct, std::slice::from_ref(&blob)).await;
    peer.dial(&node).await;
    node.until(|rows| rows.iter().any(|row| row.filter_blobs.is_some())).await;
    let hash = blob.hash().to_hex();
    tokio::select! {
        biased;
        got = node.get(&hash) => assert_eq!(got.expect_err("silence").kind, Trouble::Other),
        () = peer.until("asked on a lane", |seen| seen.requested_on_lanes > 0) => {}
    }
    timeout(SOON, node.stop()).await.expect("the node stops");
}
