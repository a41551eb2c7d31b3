//! The driver with a real store and a real swarm.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::engine::WantError;
use blobmesh_protocol::{Config, Hash};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{
    Driver, DriverHandle, GetEnded, GetProgress, HELD_UP, Holdings, Parts, is_held_up, start,
};
use crate::config::EdgeConfig;
use crate::edge::{Edge, EdgeOptions};
use crate::identity::Identity;
use crate::lane::{LaneConfig, Lanes};
use crate::mesh::MeshKey;
use crate::store::{Store, StoreConfig};
use crate::swarm::{Swarm, SwarmConfig, SwarmHandle};
use crate::transfer::UploadRate;

/// How long anything may take that should come soon.
const SOON: Duration = Duration::from_secs(20);

struct Alone {
    driver: DriverHandle,
    _task: JoinHandle<()>,
    swarm: SwarmHandle,
    store: Store,
    _dir: TempDir,
}

impl Alone {
    fn start() -> Self {
        Self::with_edge(None)
    }

    fn with_edge(edge: Option<Edge>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 30);
        let store = Store::open(config).expect("opens").0;
        let identity = Identity::load_or_create(&dir.path().join("identity")).expect("an identity");
        let me = identity.peer();
        let lane_config =
            LaneConfig { bytes_min: 0, buffer_bytes_max: 0, upload: UploadRate::default() };
        let lanes = Lanes::new(&identity, lane_config, None).expect("a key");
        let config = SwarmConfig { identity, mesh: MeshKey::open(), listen: Vec::new() };
        let (swarm, swarm_events) = Swarm::start(config).expect("a swarm");
        let parts = Parts {
            me,
            config: Config { edge: edge.is_some(), ..Config::default() },
            seed: 1,
            store: store.clone(),
            swarm: swarm.clone(),
            swarm_events,
            candidates: None,
            edge: edge.map(Arc::new),
            lanes,
            lane_listeners: Vec::new(),
            peers: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            addresses: Vec::new(),
            held: Vec::new(),
            holdings: Arc::new(Holdings::default()),
        };
        let (driver, task) = start(parts);
        Self { driver, _task: task, swarm, store, _dir: dir }
    }

    async fn get(&self, hash: Hash) -> GetEnded {
        let (progress, _watched) = watch::channel(GetProgress::default());
        let got = timeout(SOON, self.driver.get(hash, None, progress)).await;
        got.expect("an end in time").expect("the driver runs")
    }
}

#[tokio::test]
async fn node_without_a_swarm_goes_on_to_answer_from_its_store() {
    let node = Alone::start();
    node.swarm.shutdown().await;
    let mut writer = node.store.add_writer().expect("a writer");
    writer.write(b"held").expect("written");
    let held = writer.finish().expect("added").hash;
    node.driver.held(held);
    node.get(held).await.result.expect("it is in the store");
    let absent = node.get(Hash::of(b"absent")).await;
    assert!(absent.result.is_err(), "nobody is left to ask");
    assert!(node.driver.snapshot().await.expect("the driver runs").connected.is_empty());
}

#[tokio::test]
async fn one_get_is_begun_on_the_spot_and_more_take_their_turns() {
    let node = Alone::start();
    // Nobody else has news once it answers.
    node.driver.snapshot().await.expect("it runs");
    let has = |hash: &Hash| node.driver.desk().with(|driver| driver.wants.contains(hash));
    let hashes = [Hash::of(b"1"), Hash::of(b"2")];
    let mut first = Box::pin(node.driver.read(hashes[0], 100, None));
    assert!(futures::poll!(&mut first).is_pending());
    assert_eq!(has(&hashes[0]), Some(true));
    let mut second = Box::pin(node.driver.read(hashes[1], 100, None));
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!(has(&hashes[1]), Some(false));
    for ended in [timeout(SOON, first).await, timeout(SOON, second).await] {
        ended.expect("an end in time").expect("the driver runs");
    }
    node.driver.stop().await;
    assert_eq!(has(&hashes[0]), None);
    assert!(node.driver.read(hashes[0], 100, None).await.is_err());
}

#[tokio::test]
async fn driver_over_which_somebody_panicked_does_no_more() {
    let node = Alone::start();
    let driver = &node.driver;
    let panics = || driver.desk().with(|_| panic!("a caller of this test ends like this"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("it panicked");
    assert!(driver.desk().with(|_| ()).is_none());
    let read = timeout(SOON, driver.read(Hash::of(b"1"), 100, None)).await;
    assert!(read.expect("an end").is_err());
}

#[tokio::test]
async fn what_comes_slowly_as_nobody_waits_for_it_is_asked_for_anew_when_somebody_does() {
    // It takes requests and answers none.
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", server.local_addr().expect("bound"));
    let options = EdgeOptions { plain_http: true, ..EdgeOptions::default() };
    let edge = Edge::new(&EdgeConfig::Public { url }, options).expect("an edge");
    let node = Alone::with_edge(Some(edge));
    let hash = Hash::of(b"1");
    let fetches_are = async |gentle: bool| {
        let are = |driver: &mut Driver| {
            let mut fetches = driver.fetches.values();
            fetches.next().is_some_and(|fetch| fetch.gentle == gentle && fetches.next().is_none())
        };
        while node.driver.desk().with(are) != Some(true) {
            tokio::task::yield_now().await;
        }
    };
    let progress = watch::Sender::default();
    let ahead = node.driver.get_ahead(hash, progress);
    let get = async {
        fetches_are(true).await;
        tokio::select! {
            _ = node.get(hash) => panic!("nobody has it"),
            () = fetches_are(false) => {}
        }
    };
    let (ahead, ()) = timeout(SOON, async { tokio::join!(ahead, get) }).await.expect("in time");
    let ahead = ahead.expect("the driver runs");
    assert_eq!(ahead.result, Err(WantError::Cancelled));
    assert_eq!(ahead.receipt.fetches.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn driver_that_is_late_or_whose_store_stands_still_is_held_up_when_something_is_due() {
    let now = Instant::now();
    tokio::time::advance(Duration::from_secs(10)).await;
    let ago = |millis: u64| Some(now + Duration::from_millis(10_000 - millis));
    let table = [
        (None, true, false),
        (Some(now + Duration::from_secs(11)), true, false),
        (ago(0), true, true),
        (ago(0), false, false),
        (ago(499), false, false),
        (ago(500), false, true),
    ];
    for (due, is_behind, expected) in table {
        let held_up = is_held_up(due, |long| is_behind && long == HELD_UP);
        assert_eq!(held_up, expected, "{due:?} {is_behind}");
    }
}
