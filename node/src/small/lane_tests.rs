//! Packs of small requests over real lanes on loopback.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::wire::small::Packs;
use blobmesh_protocol::{Hash, PeerId};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::keeper::Keeper;
use super::requester::Line;
use super::tests::Recorder;
use super::{End, Request, provider, requester};
use crate::identity::Identity;
use crate::lane::{self, LaneConfig, Lanes, Slot};
use crate::store::{Store, StoreConfig};
use crate::swarm::OpenError;
use crate::transfer::requester::{LaneWay, Way};
use crate::transfer::{FetchError, FrameIo, UploadRate};

const SOON: Duration = Duration::from_secs(20);

/// Admits everybody, or nobody to a lane, and counts.
#[derive(Clone)]
struct Gate {
    admits: bool,
    asked: Arc<AtomicUsize>,
}

struct Held;

impl Slot for Held {
    fn sent(&mut self, _: u64) {}
}

impl provider::Admission for Gate {
    type Slot = Held;

    async fn admit(&mut self) -> Result<Held, Option<Duration>> {
        Ok(Held)
    }
}

impl lane::Admission for Gate {
    type Slot = Held;

    fn admit(&mut self) -> Result<Held, Option<Duration>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // One who is not admitted because the node stops loses the lane.
        if self.admits { Ok(Held) } else { Err(None) }
    }
}

/// Leads over one pipe, and to the lanes of a peer on this machine.
struct OnePipe {
    pipe: tokio::sync::Mutex<Option<DuplexStream>>,
    lanes: Lanes,
    peer: PeerId,
}

impl Way for OnePipe {
    type Stream = DuplexStream;

    async fn open(&self) -> Result<DuplexStream, FetchError> {
        self.pipe.lock().await.take().ok_or(FetchError::Open(OpenError::NotConnected))
    }

    fn lanes(&self) -> Option<LaneWay<'_>> {
        Some(LaneWay { lanes: &self.lanes, peer: self.peer })
    }

    async fn host(&self) -> Option<String> {
        Some("127.0.0.1".to_owned())
    }
}

/// A getter and a holder that offers it lanes.
struct Pair {
    queue: mpsc::Sender<Request>,
    ends: mpsc::Receiver<End>,
    getter: Store,
    /// How often somebody asked for something on a lane.
    asked: Arc<AtomicUsize>,
    next: u64,
    _tasks: JoinSet<()>,
    _dirs: [TempDir; 2],
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 30);
    (dir, Store::open(config).expect("opens").0)
}

fn lanes(identity: &Identity, port: Option<u16>) -> Lanes {
    let upload = UploadRate::default();
    let config = LaneConfig { bytes_min: 0, buffer_bytes_max: 16 << 20, upload };
    Lanes::new(identity, config, port).expect("a key")
}

/// Half of the blobs are worth a codec.
fn blob(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 5_000];
    if number.is_multiple_of(2) {
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        return bytes;
    }
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl Pair {
    /// Links the two; `admits` says whether lanes work, and `packs` as what the holder takes many requests.
    fn new(held: &[Vec<u8>], admits: bool, packs: Packs) -> Self {
        let ((held_dir, holder), (dir, getter)) = (store(), store());
        for bytes in held {
            let mut writer = holder.add_writer().expect("a writer");
            writer.write(bytes).expect("written");
            writer.finish().expect("stored");
        }
        let mut tasks = JoinSet::new();
        let (theirs, ours) =
            (Identity::generate().expect("random"), Identity::generate().expect("random"));
        let gate = Gate { admits, asked: Arc::default() };
        let (mut listeners, port) = lane::bind(&[IpAddr::from([127, 0, 0, 1])], 0).expect("a port");
        let offering = lanes(&theirs, port);
        let (listener, door) = (listeners.pop().expect("one address"), gate.clone());
        tasks.spawn(offering.clone().accept(listener, holder.clone(), move |_| door.clone()));
        let (near, far) = duplex(1 << 16);
        let (asker, asked) = (ours.peer(), Arc::clone(&gate.asked));
        tasks.spawn(async move {
            let mut io = FrameIo::new(far);
            let first = io.read().await.expect("read").expect("a frame");
            let (upload, offer) = (UploadRate::default(), || offering.offer(asker, u64::MAX));
            let with = (&holder, &upload);
            provider::serve(io.into_inner(), first, with, gate, offer).await.ok();
        });
        let (recorder, ends) = mpsc::channel(4_096);
        let recorder = Recorder(recorder);
        let (keeper, keeping) = Keeper::new(getter.clone(), recorder.clone());
        tasks.spawn(keeping);
        let (queue, requests) = mpsc::channel(1_024);
        let peer = theirs.peer();
        let way = OnePipe { pipe: Some(near).into(), lanes: lanes(&ours, None), peer };
        let line = Arc::new(Line::default());
        tasks.spawn(requester::run(way, (peer, packs), (requests, line), keeper, recorder));
        Self { queue, ends, getter, asked, next: 0, _tasks: tasks, _dirs: [held_dir, dir] }
    }

    /// Gets blobs and returns how each ended.
    async fn get(&mut self, hashes: &[Hash]) -> Vec<End> {
        for hash in hashes {
            self.next += 1;
            let request = Request { fetch: FetchId(self.next), hash: *hash, keep: true };
            self.queue.send(request).await.expect("the requester runs");
        }
        let mut ended = Vec::new();
        while ended.len() < hashes.len() {
            let end = timeout(SOON, self.ends.recv());
            ended.push(end.await.expect("in time").expect("the requester runs"));
        }
        ended
    }

    fn asked_on_lane(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_come_over_a_lane_once_there_is_one() {
    for packs in [Packs::Plain, Packs::Coded] {
        come_over_a_lane(packs).await;
    }
}

async fn come_over_a_lane(packs: Packs) {
    let blobs: Vec<Vec<u8>> = (0..400).map(blob).collect();
    let mut pair = Pair::new(&blobs, true, packs);
    let hashes: Vec<Hash> = blobs.iter().map(|blob| Hash::of(blob)).collect();
    let mut some = hashes[..200].chunks_exact(20).cycle();
    // Some come over the stream until the lane is open.
    let opened = async {
        while pair.asked_on_lane() == 0 {
            let ended = pair.get(some.next().expect("endless")).await;
            let whole = |end: &End| end.outcome == FetchOutcome::Complete { size: 5_000 };
            assert!(ended.iter().all(whole), "{ended:?}");
        }
    };
    timeout(SOON, opened).await.expect("a lane opens");
    let nobody = Hash::of(b"nobody");
    let ended = pair.get(&[&hashes[200..], &[nobody]].concat()).await;
    for End { hash, outcome, .. } in ended {
        match hash == nobody {
            true => assert_eq!(outcome, FetchOutcome::Absent),
            false => assert_eq!(outcome, FetchOutcome::Complete { size: 5_000 }),
        }
    }
    for (hash, blob) in hashes[200..].iter().zip(&blobs[200..]) {
        let reader = pair.getter.open_blob(hash).expect("open").expect("there");
        let mut group = Vec::new();
        reader.read_group(0, &mut group).expect("right");
        assert!(group == *blob);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_lane_owes_comes_over_the_stream() {
    let blobs: Vec<Vec<u8>> = (0..200).map(blob).collect();
    let mut pair = Pair::new(&blobs, false, Packs::Coded);
    let hashes: Vec<Hash> = blobs.iter().map(|blob| Hash::of(blob)).collect();
    let broken = async {
        while pair.asked_on_lane() == 0 {
            let ended = pair.get(&hashes).await;
            let whole = |end: &End| end.outcome == FetchOutcome::Complete { size: 5_000 };
            assert!(ended.iter().all(whole), "{ended:?}");
        }
    };
    timeout(SOON, broken).await.expect("a lane is tried");
    pair.get(&hashes).await;
    assert_eq!(pair.asked_on_lane(), 1, "it is not tried again");
}
