//! Everything that can be wrong with an edge, met by a node: each fault ends a get as `EDGE.md` says, gives
//! no wrong byte, and costs no more requests than the policy of the edge allows. For a public URL and a
//! bucket alike; the table there is what these tests hold the node to.

#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]

#[allow(dead_code, reason = "each test file uses its part")]
mod edge_support;

use std::sync::Arc;
use std::time::Duration;

use blobmesh_node::Node;
use blobmesh_node::config::{EdgeConfig, NodeConfig};
use blobmesh_node::control::Service;
use blobmesh_node::control::api::{Event, Exchange, Failure, Request, Trouble};
use blobmesh_node::edge::{Edge, EdgeError, EdgeOptions, EdgeState, PolicyOptions};
use blobmesh_protocol::Hash;
use edge_support::blobs::Blob;
use edge_support::dead::{BlackHole, Expired, refusing};
use edge_support::fault::Fault;
use edge_support::place::{KEY_ID, Kind, Place, SECRET, impatient, quick, s3_at, trusting};
use futures::future::join_all;
use hyper::Method;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// More than one request is needed for a blob above 1 MiB, some of them for ranges.
const LEN: usize = 1_200_000;
/// How many blobs are asked for in all, one after the other.
const BLOBS: usize = 10;

/// Makes one test of each fault, and the list of all.
macro_rules! faults {
    ($($fault:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $fault() {
                ends_as_documented(stringify!($fault)).await;
            }
        )+

        const FAULTS: &[&str] = &[$(stringify!($fault)),+];
    };
}

faults!(
    refused,
    black_hole,
    silent,
    slow,
    reset_mid_body,
    reset_once,
    wrong_range,
    whole_for_range,
    web_page,
    redirect_loop,
    redirect_elsewhere,
    bad_request,
    forbidden,
    missing,
    too_many_requests,
    error_burst,
    errors_for_ever,
    wrong_bytes,
    expired_certificate,
    no_such_name,
);

#[test]
fn every_fault_is_documented_and_nothing_else() {
    let documented: Vec<_> = rows().iter().map(|row| row.fault.clone()).collect();
    assert_eq!(documented, FAULTS);
}

#[tokio::test]
async fn storm_of_gets_keeps_within_the_budget() {
    let place = Place::public().await;
    place.front().always(Fault::s3(500, "InternalError", "never"));
    let reads = (0..300u64).map(|of| {
        let edge = place.edge.clone();
        async move { edge.read(&Hash::of(&of.to_le_bytes()), None).await.map(|_| ()) }
    });
    let ended = join_all(reads).await;
    assert!(ended.iter().all(Result::is_err));
    let requests = place.front().seen().len();
    let stats = place.edge.stats();
    assert!(requests <= 300 + 30 + 5, "{requests} requests");
    assert_eq!(stats.requests, requests as u64);
    assert!(stats.retries <= 35, "{stats:?}");
    assert_eq!(stats.state, EdgeState::LeftAlone);
    // From now on the answer is there at once, and says why.
    let error = place.edge.size(&Hash::of(b"one more")).await.expect_err("left alone");
    let told = error.to_string();
    assert!(told.contains("left alone"), "{told}");
    assert_eq!(place.front().seen().len(), requests);
}

#[tokio::test]
async fn missing_blob_is_asked_for_once_until_it_is_announced() {
    for place in [Place::public().await, Place::s3().await] {
        let blob = Blob::of_len(1000);
        for _ in 0..5 {
            place.edge.read(&blob.hash(), None).await.expect_err("missing");
            place.edge.size(&blob.hash()).await.expect_err("missing");
        }
        assert_eq!(place.front().seen().len(), 2, "the blob, and the index of packs");
        blob.seed(&place.root).await;
        place.edge.announced(&blob.hash());
        place.edge.read(&blob.hash(), None).await.expect("there");
    }
    let place = Place::s3().await;
    let blob = Blob::of_len(1000);
    place.edge.size(&blob.hash()).await.expect_err("missing");
    blob.push(&place.edge).await.expect("pushed");
    place.edge.size(&blob.hash()).await.expect("what we pushed is there");
}

#[tokio::test]
async fn edge_is_back_with_the_first_bytes_of_the_one_request_that_tries() {
    let place = Place::public().await;
    let (blob, small) = (Blob::of_len(4 << 20), Blob::of_len(1000));
    blob.seed(&place.root).await;
    small.seed(&place.root).await;
    let policy = PolicyOptions {
        attempts_max: 1,
        breaker_row: 1,
        breaker_pause: Duration::ZERO,
        ..PolicyOptions::default()
    };
    let edge = place.edge_with(EdgeOptions { policy, ..quick() });
    place.front().inject(Method::GET, Fault::s3(500, "InternalError", "once"));
    edge.read(&small.hash(), None).await.expect_err("500");
    let mut body = edge.read(&blob.hash(), None).await.expect("the one that tries");
    let error = edge.size(&small.hash()).await.expect_err("nobody else does");
    assert!(matches!(error, EdgeError::LeftAlone { .. }), "{error:?}");
    body.chunk().await.expect("bytes");
    // A long blob need not be there to its end.
    assert_eq!(edge.size(&small.hash()).await.expect("all may ask"), 1000);
    assert_eq!(edge.stats().state, EdgeState::Serving);
}

/// What `EDGE.md` says of one fault.
#[derive(Clone, Debug)]
struct Row {
    fault: String,
    /// What the failure says, one way or another.
    says: Vec<String>,
    public: String,
    bucket: String,
    /// How many requests one get may cost, and how many ten of different blobs.
    one: u64,
    all: u64,
}

/// Reads the table of outcomes.
fn rows() -> Vec<Row> {
    let (_, table) = include_str!("../EDGE.md").split_once("| fault |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [fault, _, says, public, bucket, one, all] = cells[..] else { panic!("{line}") };
        // Each outcome is a kind and an exit code.
        let kind =
            |cell: &str| cell.split_once(',').expect("a code").0.trim_matches('`').to_owned();
        let says = says.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (public, bucket) = (kind(public), kind(bucket));
        let fault = fault.trim_matches('`').to_owned();
        Row { fault, says, public, bucket, one: number(one), all: number(all) }
    };
    rows.map(row).collect()
}

async fn ends_as_documented(fault: &str) {
    let row = rows().into_iter().find(|row| row.fault == fault).expect("it is documented");
    let (http_1, http_2) = (&[][..], &["h2"][..]);
    for (kind, protocols, expected) in [
        (Kind::Public, http_1, &row.public),
        (Kind::S3, http_1, &row.bucket),
        (Kind::Public, http_2, &row.public),
    ] {
        let stage = Stage::set(fault, kind, protocols).await;
        let (ended, bytes) = stage.get(&stage.blob.hash()).await;
        let one = stage.requests();
        // A fault that a get overcomes says nothing of the next one.
        let others = if ended.is_err() { &stage.others[..] } else { &[] };
        for other in others {
            let (ended, bytes) = stage.get(other).await;
            assert!(ended.is_err() && bytes.is_empty(), "{fault} of {kind:?}, then {ended:?}");
        }
        let all = stage.requests();
        let case =
            format!("{fault} of {kind:?} over {protocols:?}, {one} and {all} requests: {ended:?}");
        let due: &[u8] = if ended.is_ok() { &stage.blob.bytes } else { &[] };
        assert!(bytes == due, "{} bytes came; {case}", bytes.len());
        assert_eq!(outcome(&ended), *expected, "{case}");
        let told = |words: &String| format!("{ended:?}").contains(words);
        assert!(ended.is_ok() || row.says.iter().any(told), "none of {:?}; {case}", row.says);
        assert!(one <= row.one && all <= row.all, "too many requests; {case}");
        stage.node.shutdown().await;
    }
}

fn outcome(ended: &Result<(), Failure>) -> String {
    let kind = |kind: Trouble| serde_json::to_value(kind).expect("a name");
    match ended {
        Ok(()) => "done".to_owned(),
        Err(failure) => kind(failure.kind).as_str().expect("a name").to_owned(),
    }
}

/// A node whose edge has a fault.
struct Stage {
    node: Node,
    edge: Arc<Edge>,
    place: Option<Place>,
    blob: Blob,
    /// Further blobs, for which the edge has the same fault.
    others: Vec<Hash>,
    patience: Duration,
    _home: TempDir,
    _dead: Dead,
}

/// What keeps a dead place dead.
enum Dead {
    No,
    BlackHole { _host: BlackHole },
    Expired { _host: Expired },
}

impl Stage {
    async fn set(fault: &str, kind: Kind, protocols: &[&str]) -> Self {
        let blob = Blob::of_len(LEN);
        let at = |host: String, scheme: &str| match kind {
            Kind::S3 => s3_at(format!("{scheme}://{host}"), Some((KEY_ID, SECRET))),
            Kind::Public | Kind::Directory => {
                EdgeConfig::Public { url: format!("{scheme}://{host}") }
            }
        };
        let (dead, config, options) = match fault {
            "refused" => (Dead::No, at(refusing().await.to_string(), "http"), quick()),
            "black_hole" => {
                let host = BlackHole::start().await;
                let config = at(host.address.to_string(), "http");
                (Dead::BlackHole { _host: host }, config, impatient())
            }
            "expired_certificate" => {
                let host = Expired::start().await;
                let config = at(format!("localhost:{}", host.address.port()), "https");
                (Dead::Expired { _host: host }, config, quick())
            }
            "no_such_name" => {
                // A label longer than any name server takes, so that none is asked.
                let config = at(format!("{}.invalid", "a".repeat(64)), "http");
                (Dead::No, config, EdgeOptions { plain_http: true, ..quick() })
            }
            _ => {
                let place = place(fault, kind, protocols).await;
                let (config, options) = (place.config(), trusting(place.front(), options(fault)));
                return Self::start(fault, blob, config, options, (Some(place), Dead::No)).await;
            }
        };
        Self::start(fault, blob, config, options, (None, dead)).await
    }

    async fn start(
        fault: &str,
        blob: Blob,
        config: EdgeConfig,
        options: EdgeOptions,
        (place, dead): (Option<Place>, Dead),
    ) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let edge = Arc::new(Edge::new(&config, options).expect("an edge"));
        let config = NodeConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
            adverts: false,
            open: true,
            ..NodeConfig::new(home.path().to_owned())
        };
        let node = Node::start_with_edge(config, Some(Arc::clone(&edge))).await.expect("a node");
        // An edge that asks for half a minute is waited for; nobody else needs so long.
        let patience = if fault == "too_many_requests" { 300 } else { 30_000 };
        let patience = Duration::from_millis(patience);
        let others = others().map(|other| other.hash()).collect();
        Self { node, edge, place, blob, others, patience, _home: home, _dead: dead }
    }

    /// Gets a blob and returns how that ended, with the bytes that came.
    async fn get(&self, hash: &Hash) -> (Result<(), Failure>, Vec<u8>) {
        let (events, mut events_in) = mpsc::channel(16);
        let (_, input) = mpsc::channel(1);
        let timeout_ms = u64::try_from(self.patience.as_millis()).ok();
        let request = Request::Cat { hash: hash.to_hex(), timeout_ms };
        let service = self.node.service();
        let served = service.handle(request, Exchange { events, input });
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(event) = events_in.recv().await {
                if let Event::Bytes(piece) = event {
                    bytes.extend_from_slice(&piece);
                }
            }
            bytes
        };
        let (ended, bytes) = tokio::join!(served, collect);
        (ended.map(|_| ()), bytes)
    }

    /// Returns how many requests were made, redirects not counted; no server saw more.
    fn requests(&self) -> u64 {
        let made = self.edge.stats().requests;
        if let Some(place) = &self.place {
            let redirects = 3;
            let seen = place.front().seen().len() as u64;
            assert!(seen <= made * (1 + redirects), "{seen} seen of {made}");
        }
        made
    }
}

/// Deadlines that pass during a test, for those faults alone that are about deadlines.
fn options(fault: &str) -> EdgeOptions {
    match fault {
        "silent" => impatient(),
        "slow" => EdgeOptions { stall_window: Duration::from_millis(80), ..quick() },
        _ => quick(),
    }
}

/// Makes the blobs after the first one.
fn others() -> impl Iterator<Item = Blob> {
    (1..BLOBS).map(|other| Blob::of_len(LEN + other))
}

async fn place(fault: &str, kind: Kind, protocols: &[&str]) -> Place {
    let place = match kind {
        Kind::S3 => Place::s3().await,
        Kind::Public | Kind::Directory => Place::public_behind(protocols).await,
    };
    let blobs: Vec<_> = std::iter::once(Blob::of_len(LEN)).chain(others()).collect();
    if fault != "missing" {
        join_all(blobs.iter().map(|blob| blob.seed(&place.root))).await;
    }
    let front = place.front();
    let error = |status, code| Fault::s3(status, code, "on purpose");
    let to = |url: String| Fault::status(302, &[("location", url.as_str())]);
    match fault {
        "missing" => {}
        "silent" => front.always(Fault::Silent),
        "slow" => front.always(Fault::Drip { bytes: 10, every: Duration::from_millis(5) }),
        "reset_mid_body" => front.always(Fault::CutAfter(70_000)),
        "reset_once" => front.inject(Method::GET, Fault::CutAfter(70_000)),
        "wrong_range" => front.always(Fault::Header("content-range", "bytes 7-9/1200000".into())),
        "whole_for_range" => front.always(Fault::IgnoreRange),
        "web_page" => front.always(Fault::page(200)),
        "redirect_loop" => front.always(to(format!("{}/round", front.url()))),
        "redirect_elsewhere" => front.always(to("http://127.0.0.1:1/".to_owned())),
        "bad_request" => front.always(error(400, "InvalidArgument")),
        "forbidden" => front.always(error(403, "AccessDenied")),
        "too_many_requests" => front.always(Fault::status(429, &[("retry-after", "30")])),
        "error_burst" => {
            (0..2).for_each(|_| front.inject(Method::GET, error(503, "SlowDown")));
        }
        "errors_for_ever" => front.always(error(500, "InternalError")),
        "wrong_bytes" => {
            for blob in &blobs {
                let mut bytes = blob.bytes.to_vec();
                bytes[LEN / 2] ^= 1;
                std::fs::write(place.file(&blob.hash()), bytes).expect("written");
            }
        }
        other => panic!("no such fault: {other}"),
    }
    place
}
