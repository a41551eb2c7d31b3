//! Many blobs up to an edge and down again, in few requests: packs, their index, and what can go wrong with both.

#![cfg(target_os = "linux")]
#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]

#[allow(dead_code, reason = "each test file uses its part")]
mod edge_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobmesh_node::Node;
use blobmesh_node::config::{EdgeConfig, NodeConfig};
use blobmesh_node::control::Service;
use blobmesh_node::control::api::{
    Answer, CheckoutOptions, Exchange, Failure, PushReport, Request, Trouble,
};
use blobmesh_node::edge::{Edge, EdgeError};
use blobmesh_protocol::Hash;
use edge_support::blobs::{Blob, collect};
use edge_support::fault::Fault;
use edge_support::front::{Front, Upstream};
use edge_support::place::{Place, quick};
use futures::future::join_all;
use hyper::Method;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A node of a test, with a home of its own.
struct TestNode {
    node: Node,
    home: TempDir,
}

impl TestNode {
    /// Starts a node whose edge this is.
    async fn start(edge: Edge) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let config = NodeConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
            adverts: false,
            open: true,
            ..NodeConfig::new(home.path().join("home"))
        };
        let node = Node::start_with_edge(config, Some(Arc::new(edge))).await.expect("a node");
        Self { node, home }
    }

    async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        let (events, mut events_in) = mpsc::channel(16);
        let (_, input) = mpsc::channel(1);
        let service = self.node.service();
        let served = service.handle(request, Exchange { events, input });
        let drain = async { while events_in.recv().await.is_some() {} };
        tokio::join!(served, drain).0
    }

    /// Adds a directory and returns its hash.
    async fn add(&self, path: PathBuf) -> Hash {
        let request = Request::AddTree { path, pin: false, ignore: false };
        let Answer::AddedTree(added) = self.ask(request).await.expect("added") else {
            panic!("not added")
        };
        added.hash.parse().expect("a hash")
    }

    async fn push(&self, hash: &Hash) -> PushReport {
        self.push_as(hash, false, false).await.expect("pushed")
    }

    async fn push_as(
        &self,
        hash: &Hash,
        only: bool,
        no_packs: bool,
    ) -> Result<PushReport, Failure> {
        let request = Request::Push { hashes: vec![hash.to_hex()], only, no_packs };
        let Answer::Pushed(report) = self.ask(request).await? else { panic!("not pushed") };
        Ok(*report)
    }

    /// Gets a tree and returns the directory that holds it then.
    async fn pull(&self, hash: &Hash) -> Result<PathBuf, Failure> {
        let dir = self.home.path().join("pulled");
        let request = Request::Pull {
            hash: hash.to_hex(),
            dir: dir.clone(),
            options: CheckoutOptions::default(),
            timeout_ms: Some(60_000),
        };
        self.ask(request).await.map(|_| dir)
    }
}

/// Bytes that no two files of the tests share.
fn bytes(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Makes a directory of files of 1 to 8 KiB, in directories of 50, with some long ones and an empty one.
fn tree(seed: &str, files: usize, long: usize) -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let write = |name: String, bytes: &[u8]| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, bytes).expect("written");
    };
    for file in 0..files {
        let len = 1024 + 512 * (file % 15);
        let name = format!("d{}/f{file}", file / 50);
        write(name.clone(), &bytes(&format!("{seed} {name}"), len));
    }
    for file in 0..long {
        let name = format!("long/f{file}");
        write(name.clone(), &bytes(&format!("{seed} {name}"), 65_537 + file));
    }
    write("empty".to_owned(), b"");
    root
}

/// Returns all files below a directory with their bytes, without what a checkout keeps for itself.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != ".blobmesh") {
                open.push(path);
            } else if path.is_file() {
                let name = path.strip_prefix(root).expect("below").to_owned();
                found.push((name, std::fs::read(&path).expect("read")));
            }
        }
    }
    found.sort();
    found
}

fn edge(config: &EdgeConfig) -> Edge {
    Edge::new(config, quick()).expect("an edge")
}

/// Returns how many objects lie below a folder of an edge.
fn objects(place: &Place, folder: &str) -> usize {
    let root = place.root.join(folder);
    if root.is_dir() { files(&root).len() } else { 0 }
}

fn requests(front: &Front) -> usize {
    front.seen().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn tree_goes_up_once_and_comes_down_in_tens_of_requests() {
    let place = Place::s3().await;
    let source = tree("one", 2_000, 5);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;

    let report = pusher.push(&root).await;
    let first = requests(place.front());
    assert_eq!(report.requests, first as u64);
    assert_eq!((report.failed, report.existed), (0, 0), "{report:?}");
    assert!(report.packed >= 2_001 && report.packs >= 2, "{report:?}");
    assert_eq!(report.uploaded - report.packed, 5, "the long ones lie alone");
    // Index, listing; for each long blob itself and its list; the packs; and what is published.
    assert!(first <= 2 + 3 * 5 + report.packs as usize + 2, "{first} requests");

    let again = pusher.push(&root).await;
    assert_eq!((again.uploaded, again.existed), (0, report.uploaded));
    assert!(again.requests <= 2, "{again:?}");
    let other = TestNode::start(place.edge_with(quick())).await;
    assert_eq!(other.add(source.path().to_owned()).await, root);
    let elsewhere = other.push(&root).await;
    assert_eq!((elsewhere.uploaded, elsewhere.existed), (0, report.uploaded));
    assert!(elsewhere.requests <= 3, "{elsewhere:?}");

    let url = Front::start(Upstream::Folder(place.root.clone())).await;
    let public = edge(&EdgeConfig::Public { url: url.url() });
    let mirror = edge(&EdgeConfig::Directory { path: place.root.clone() });
    for (kind, edge) in [("s3", place.edge_with(quick())), ("url", public), ("dir", mirror)] {
        let getter = TestNode::start(edge.clone()).await;
        let dir = getter.pull(&root).await.expect("pulled");
        assert!(files(&dir) == files(source.path()), "{kind}: the tree is another");
        let made = edge.stats().requests;
        // A miss, the index and its segment; two for each pack, and one more where two began at once; the long ones.
        let most = 3 + 3 * report.packs + 5;
        assert!(made <= most, "{kind}: {made} requests of {most}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn next_version_sends_what_changed_and_the_index_keeps_the_rest() {
    let place = Place::s3().await;
    let source = tree("next", 300, 2);
    let pusher = TestNode::start(place.edge.clone()).await;
    let first = pusher.add(source.path().to_owned()).await;
    pusher.push(&first).await;
    for file in 0..10 {
        std::fs::write(source.path().join(format!("d1/f{}", 50 + file)), bytes("new", 500 + file))
            .expect("written");
    }
    let second = pusher.add(source.path().to_owned()).await;
    let report = pusher.push(&second).await;
    assert!((11..=13).contains(&report.uploaded), "ten files, manifests: {report:?}");
    assert_eq!(report.packs, 1);
    assert!(report.requests <= 5, "{report:?}");
    let getter = TestNode::start(place.edge_with(quick())).await;
    let dir = getter.pull(&second).await.expect("pulled");
    assert!(files(&dir) == files(source.path()));
    let dir = getter.home.path().join("first");
    std::fs::rename(getter.home.path().join("pulled"), &dir).expect("moved");
    getter.pull(&first).await.expect("the older version is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_takes_a_file_for_each_blob_and_no_lists_of_short_ones() {
    let place = Place::directory().await;
    let source = tree("plain", 60, 3);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let report = pusher.push(&root).await;
    assert_eq!((report.failed, report.packed), (0, 0), "{report:?}");
    assert_eq!(objects(&place, "blobs"), report.uploaded as usize + 3, "three lists");
    assert_eq!(objects(&place, "packs") + objects(&place, "index"), 0);
    let getter = TestNode::start(place.edge_with(quick())).await;
    let dir = getter.pull(&root).await.expect("pulled");
    assert!(files(&dir) == files(source.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_lie_under_their_own_names_where_packs_are_not_wanted() {
    let place = Place::s3().await;
    let source = tree("no packs", 60, 3);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let report = pusher.push_as(&root, false, true).await.expect("pushed");
    assert_eq!((report.failed, report.packed), (0, 0), "{report:?}");
    assert_eq!(objects(&place, "blobs"), report.uploaded as usize + 3, "three lists");
    assert_eq!(objects(&place, "packs"), 0);
    let again = pusher.push_as(&root, false, true).await.expect("pushed");
    assert_eq!((again.uploaded, again.existed), (0, report.uploaded));
    assert!(again.requests <= 2, "the index knows of them: {again:?}");
    // In packs they are there, too, but not for who wants them alone.
    let source = tree("packs", 60, 0);
    let root = pusher.add(source.path().to_owned()).await;
    let packed = pusher.push(&root).await.uploaded;
    let alone = pusher.push_as(&root, false, true).await.expect("pushed");
    assert_eq!((alone.uploaded, alone.failed), (packed, 0), "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_manifest_goes_where_that_is_asked_for() {
    let place = Place::s3().await;
    let source = tree("only", 20, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let report = pusher.push_as(&root, true, false).await.expect("pushed");
    assert_eq!((report.uploaded, report.packed), (1, 0));
    assert_eq!(objects(&place, "blobs"), 1, "and no list of it");
    assert_eq!(requests(place.front()), 2, "whether it is there, and itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_that_fails_keeps_the_manifests_here_and_the_rest_goes_up() {
    let place = Place::s3().await;
    let source = tree("fails", 100, 4);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    place.front().inject(Method::PUT, Fault::s3(400, "EntityTooLarge", "not this one"));
    let report = pusher.push(&root).await;
    assert!(report.failed > 0 && report.uploaded > 0, "{report:?}");
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].kind, Trouble::EdgeRefused);
    let reader = place.edge_with(quick());
    let read = reader.read(&root, None).await;
    assert!(matches!(read, Err(EdgeError::NotFound { .. })), "what it names is not all there");
    let again = pusher.push(&root).await;
    assert_eq!((again.failed, again.existed), (0, report.uploaded), "{again:?}");
    // Who has looked in vain looks again when it is told.
    reader.announced(&root);
    TestNode::start(reader).await.pull(&root).await.expect("pulled");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_has_rotted_in_the_store_keeps_the_manifests_here() {
    let place = Place::s3().await;
    let source = tree("rotten", 60, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let file = Hash::of(&std::fs::read(source.path().join("d1/f59")).expect("read"));
    let path = pusher.home.path().join("home/store/blobs").join(file.sharded_path());
    let mut bytes = std::fs::read(&path).expect("in the store");
    bytes[7] ^= 1;
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, bytes).expect("written");
    let report = pusher.push(&root).await;
    assert!(report.uploaded >= 59 && report.failed >= 2, "the file and its manifests: {report:?}");
    assert_eq!(report.uploaded, report.packed);
    let read = place.edge_with(quick()).read(&root, None).await;
    assert!(matches!(read, Err(EdgeError::NotFound { .. })), "what it names is not all there");
    assert_eq!(pusher.add(source.path().to_owned()).await, root);
    let again = pusher.push(&root).await;
    assert_eq!((again.failed, again.existed), (0, report.uploaded), "{again:?}");
    TestNode::start(place.edge_with(quick())).await.pull(&root).await.expect("pulled");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_end_a_push_at_once() {
    let place = Place::s3().await;
    let source = tree("refused", 100, 20);
    let pusher = TestNode::start(place.edge_as(Some(("AKIDNOBODY", "secret")))).await;
    let root = pusher.add(source.path().to_owned()).await;
    let error = pusher.push_as(&root, false, false).await.expect_err("refused");
    assert_eq!(error.kind, Trouble::EdgeBadCredentials);
    assert_eq!(requests(place.front()), 1);
    let error = pusher.push_as(&root, false, true).await.expect_err("refused");
    assert_eq!(error.kind, Trouble::EdgeBadCredentials);
    assert!(requests(place.front()) <= 20, "{} requests", requests(place.front()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_publish_at_once_lose_nothing() {
    let place = Place::s3().await;
    let mut pushers = Vec::new();
    for of in 0..4 {
        let source = tree(&format!("race {of}"), 40, 0);
        let node = TestNode::start(place.edge_with(quick())).await;
        let root = node.add(source.path().to_owned()).await;
        pushers.push((node, root, source));
    }
    let reports = join_all(pushers.iter().map(|(node, root, _)| node.push(root))).await;
    assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
    let getter = TestNode::start(place.edge_with(quick())).await;
    for (_, root, source) in &pushers {
        let dir = getter.pull(root).await.expect("pulled");
        assert!(files(&dir) == files(source.path()));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_that_another_node_has_changed_is_read_and_written_anew() {
    let place = Place::s3().await;
    let (mine, other) = (tree("mine", 40, 0), tree("other", 40, 0));
    let (first, second) = (
        TestNode::start(place.edge.clone()).await,
        TestNode::start(place.edge_with(quick())).await,
    );
    let (root, of_other) =
        (first.add(mine.path().to_owned()).await, second.add(other.path().to_owned()).await);
    second.push(&of_other).await;
    // As if the head had changed between the look at it and the write, twice: after pack and segment.
    for is_lost in [false, false, true, true] {
        let lost = Fault::s3(412, "PreconditionFailed", "changed");
        let fault = if is_lost { lost } else { Fault::Header("x-none", String::new()) };
        place.front().inject(Method::PUT, fault);
    }
    let report = first.push(&root).await;
    assert_eq!(report.failed, 0, "{report:?}");
    let reader = TestNode::start(place.edge_with(quick())).await;
    for (hash, source) in [(root, &mine), (of_other, &other)] {
        let dir = reader.pull(&hash).await.expect("pulled");
        assert!(files(&dir) == files(source.path()));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_is_read_out_of_a_pack_by_itself_first_and_ranges_are_cut_of_it() {
    let place = Place::s3().await;
    let source = tree("ranges", 100, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    pusher.push(&root).await;
    let reader = place.edge_with(quick());
    let blob = std::fs::read(source.path().join("d1/f77")).expect("read");
    let (hash, size) = (Hash::of(&blob), blob.len() as u64);
    let before = requests(place.front());
    assert_eq!(reader.size(&hash).await.expect("a size"), size);
    assert_eq!(requests(place.front()) - before, 3, "a miss, the head, its segment");
    let body = reader.read(&hash, None).await.expect("a body");
    assert_eq!((body.size, body.range.clone()), (size, 0..size));
    assert!(collect(body).await.expect("read") == blob);
    let seen = place.front().seen();
    let last = seen.last().expect("a request");
    assert!(last.uri.path().contains("/packs/") && last.headers.contains_key("range"), "{last:?}");
    for range in [0..1, 5..size - 1, size - 1..size + 10] {
        let body = reader.read(&hash, Some(range.clone())).await.expect("a body");
        let end = range.end.min(size);
        assert_eq!(body.range, range.start..end);
        let due = &blob[range.start as usize..end as usize];
        assert!(collect(body).await.expect("read") == due, "{range:?}");
    }
    for range in [size..size + 1, 3..3] {
        let read = reader.read(&hash, Some(range)).await;
        assert!(matches!(read, Err(EdgeError::Range { .. })), "{read:?}");
    }
    assert_eq!(requests(place.front()) - before, 5, "the second read brought the whole pack");
    let empty = reader.read(&Hash::of(b""), None).await.expect("a body");
    assert_eq!(collect(empty).await.expect("read"), b"");
    assert!(reader.group_list(&hash, size).await.expect("answered").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_that_knows_no_ranges_gives_whole_packs() {
    let place = Place::s3().await;
    let source = tree("no-ranges", 100, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    pusher.push(&root).await;
    place.front().always(Fault::IgnoreRange);
    let reader = place.edge_with(quick());
    for file in ["d1/f77", "d0/f14"] {
        let blob = std::fs::read(source.path().join(file)).expect("read");
        let body = reader.read(&Hash::of(&blob), None).await.expect("a body");
        assert!(collect(body).await.expect("read") == blob, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_a_pack_hurt_one_blob_and_an_own_object_heals_it() {
    let place = Place::s3().await;
    let source = tree("rot", 100, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    pusher.push(&root).await;
    let bad = std::fs::read(source.path().join("d0/f30")).expect("read");
    let mut packs = files(&place.root.join("packs"));
    let holds = |pack: &[u8]| pack.windows(bad.len()).position(|window| window == &bad[..]);
    let (name, pack, at) = packs
        .drain(..)
        .find_map(|(name, pack)| holds(&pack).map(|at| (name, pack, at)))
        .expect("it is in a pack");
    let mut rotten = pack.clone();
    rotten[at + 10] ^= 1;
    std::fs::write(place.root.join("packs").join(&name), &rotten).expect("written");
    let reader = place.edge_with(quick());
    for _ in 0..3 {
        let read = reader.read(&Hash::of(&bad), None).await;
        assert!(matches!(read, Err(EdgeError::NotFound { .. })), "{read:?}");
    }
    let good = std::fs::read(source.path().join("d0/f31")).expect("read");
    let body = reader.read(&Hash::of(&good), None).await.expect("a body");
    assert!(collect(body).await.expect("read") == good, "its neighbour is as it was");
    let getter = TestNode::start(place.edge_with(quick())).await;
    assert_eq!(getter.pull(&root).await.expect_err("one is missing").kind, Trouble::NotFound);
    pusher.push_as(&Hash::of(&bad), false, false).await.expect("pushed by itself");
    let getter = TestNode::start(place.edge_with(quick())).await;
    let dir = getter.pull(&root).await.expect("pulled");
    assert!(files(&dir) == files(source.path()));
    // A pack that is gone, or something else altogether, is no pack.
    for file in [None, Some(&b"bmpacks\x01\xff\xff\xff\xff\0\0\0\0"[..]), Some(&pack[..100])] {
        let path = place.root.join("packs").join(&name);
        file.map_or_else(|| std::fs::remove_file(&path), |file| std::fs::write(&path, file))
            .expect("changed");
        let reader = place.edge_with(quick());
        for blob in [&good, &good, &good] {
            let read = reader.read(&Hash::of(blob), None).await;
            assert!(matches!(read, Err(EdgeError::NotFound { .. })), "{read:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_of_a_newer_version_is_left_alone() {
    let place = Place::s3().await;
    let source = tree("newer", 40, 0);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let head = place.root.join("index/head");
    std::fs::create_dir_all(place.root.join("index")).expect("made");
    std::fs::write(&head, b"bmheads\x02\0\0\0\0\0\0\0\0").expect("written");
    let error = pusher.push_as(&root, false, false).await.expect_err("refused");
    assert!(format!("{error:?}").contains("newer version"), "{error:?}");
    assert_eq!(std::fs::read(&head).expect("read")[7], 2, "it is as it was");
    let report = pusher.push_as(&root, false, true).await.expect("pushed");
    assert_eq!(report.failed, 0, "without packs nothing needs it");
    let getter = TestNode::start(place.edge_with(quick())).await;
    getter.pull(&root).await.expect("pulled");
}

#[tokio::test]
async fn edge_without_an_index_is_asked_for_it_once() {
    for place in [Place::public().await, Place::s3().await] {
        for of in 0..5u64 {
            let read = place.edge.read(&Hash::of(&of.to_le_bytes()), None).await;
            assert!(matches!(read, Err(EdgeError::NotFound { .. })), "{read:?}");
        }
        assert_eq!(requests(place.front()), 6);
        let present = Blob::of_len(10);
        present.seed(&place.root).await;
        place.edge.read(&present.hash(), None).await.expect("there");
        assert_eq!(requests(place.front()), 7, "what is there needs no index");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_blobs_that_another_program_put_there_are_found_by_a_listing() {
    let place = Place::s3().await;
    let source = tree("listed", 10, 40);
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    let mirror = TestNode::start(edge(&EdgeConfig::Directory { path: place.root.clone() })).await;
    assert_eq!(mirror.add(source.path().to_owned()).await, root);
    let seeded = mirror.push(&root).await.uploaded;
    let report = pusher.push(&root).await;
    assert_eq!((report.existed, report.uploaded), (seeded, 0), "{report:?}");
    assert_eq!(place.front().count(&Method::HEAD), 0);
    assert!(report.requests <= 5, "the index, a listing, and what is published: {report:?}");
    let again = pusher.push(&root).await;
    assert_eq!((again.existed, again.requests), (seeded, 1), "{again:?}");
}

/// Prints what a tree costs that is as large as those of the benches.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release -p blobmesh-node --test edge_push -- --ignored --nocapture"]
async fn ten_thousand_files_over_an_edge_50_ms_away() {
    let place = Place::s3().await;
    let source = tempfile::tempdir().expect("a directory");
    for file in 0..10_000 {
        let dir = source.path().join(format!("d{}", file / 40));
        std::fs::create_dir_all(&dir).expect("made");
        let len = 4_096 + (file * 7_919) % 12_288;
        std::fs::write(dir.join(format!("f{file}")), bytes(&format!("{file}"), len))
            .expect("written");
    }
    let pusher = TestNode::start(place.edge.clone()).await;
    let root = pusher.add(source.path().to_owned()).await;
    place.front().delay(std::time::Duration::from_millis(50));
    let tell = |what: &str, requests: u64, seconds: f64| {
        println!("{what:<22} {requests:>6} requests {seconds:>8.2} s");
    };
    let push = pusher.push(&root).await;
    println!("{} blobs, {} bytes, in {} packs", push.uploaded, push.bytes, push.packs);
    tell("push", push.requests, push.seconds);
    let again = pusher.push(&root).await;
    tell("push again", again.requests, again.seconds);
    let edge = place.edge_with(quick());
    let getter = TestNode::start(edge.clone()).await;
    let began = std::time::Instant::now();
    let dir = getter.pull(&root).await.expect("pulled");
    let (seconds, pull) = (began.elapsed().as_secs_f64(), edge.stats().requests);
    tell("pull", pull, seconds);
    assert!(files(&dir) == files(source.path()));
    assert_eq!((push.failed, again.failed), (0, 0));
    assert!(push.requests <= 100 && again.requests <= 10 && pull <= 100);
}
