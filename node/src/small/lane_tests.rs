//! Packs of small requests over real lanes on loopback.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::wire::small::{MEDIUM_BYTES_MAX, Packs, SMALL_BYTES_MAX};
use blobmesh_protocol::{Hash, PeerId};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
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
    sent: Arc<AtomicUsize>,
    held_up: Arc<Mutex<()>>,
}

/// Counts the bytes that were sent on a lane.
struct Held(Option<Arc<AtomicUsize>>);

impl Slot for Held {
    fn sent(&mut self, bytes: u64) {
        if let Some(sent) = &self.0 {
            sent.fetch_add(usize::try_from(bytes).expect("short"), Ordering::Relaxed);
        }
    }
}

impl provider::Admission for Gate {
    type Slot = Held;

    async fn admit(&mut self) -> Result<Held, Option<Duration>> {
        Ok(Held(None))
    }
}

impl lane::Admission for Gate {
    type Slot = Held;

    fn admit(&mut self) -> Result<Held, Option<Duration>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.held_up.blocking_lock());
        // One who is not admitted because the node stops loses the lane.
        if self.admits { Ok(Held(Some(Arc::clone(&self.sent)))) } else { Err(None) }
    }
}

/// Leads over one pipe, and to the lanes of a peer on this machine.
struct OnePipe {
    pipe: Mutex<Option<DuplexStream>>,
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
    line: Arc<Line<DuplexStream>>,
    ends: mpsc::Receiver<End>,
    getter: Store,
    /// How often somebody asked for something on a lane.
    asked: Arc<AtomicUsize>,
    /// The bytes of blobs that were sent on a lane.
    sent: Arc<AtomicUsize>,
    /// What is asked for on a lane is not answered while it is locked.
    held_up: Arc<Mutex<()>>,
    /// Serves the stream.
    serving: AbortHandle,
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
        let gate =
            Gate { admits, asked: Arc::default(), sent: Arc::default(), held_up: Arc::default() };
        let (mut listeners, port) = lane::bind(&[IpAddr::from([127, 0, 0, 1])], 0).expect("a port");
        let offering = lanes(&theirs, port);
        let (listener, door) = (listeners.pop().expect("one address"), gate.clone());
        tasks.spawn(offering.clone().accept(listener, holder.clone(), move |_| door.clone()));
        let (near, far) = duplex(1 << 16);
        let (asker, asked) = (ours.peer(), Arc::clone(&gate.asked));
        let (sent, held_up) = (Arc::clone(&gate.sent), Arc::clone(&gate.held_up));
        let serving = tasks.spawn(async move {
            let mut io = FrameIo::new(far);
            let first = io.read().await.expect("read").expect("a frame");
            let (upload, offer) = (UploadRate::default(), || offering.offer_small(asker));
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
        let asked_by = (requests, Arc::clone(&line));
        tasks.spawn(requester::run(way, (peer, packs), asked_by, keeper, recorder));
        let (_tasks, _dirs) = (tasks, [held_dir, dir]);
        Self { queue, line, ends, getter, asked, sent, held_up, serving, next: 0, _tasks, _dirs }
    }

    /// Asks for one blob, by whatever way is open.
    async fn ask(&mut self, hash: Hash, keep: bool) {
        self.next += 1;
        let request = Request { fetch: FetchId(self.next), hash, keep };
        if !self.line.write(request) {
            self.queue.send(request).await.expect("the requester runs");
        }
    }

    async fn end(&mut self) -> End {
        let end = timeout(SOON, self.ends.recv());
        end.await.expect("in time").expect("the requester runs")
    }

    /// Reads one blob after another until something was asked for on a lane.
    async fn read_until_a_lane(&mut self, blobs: &[Vec<u8>]) {
        let read = async {
            let mut some = blobs.iter().cycle();
            while self.asked_on_lane() == 0 {
                self.read(some.next().expect("endless")).await;
            }
        };
        timeout(SOON, read).await.expect("a lane is asked on");
    }

    async fn read(&mut self, blob: &[u8]) {
        self.ask(Hash::of(blob), false).await;
        let end = self.end().await;
        assert_eq!(end.bytes.as_deref(), Some(blob), "{end:?}");
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

/// Blobs as long as one of a few groups may be to come in one message, and a byte longer.
fn longer_blobs() -> Vec<Vec<u8>> {
    let max = usize::try_from(MEDIUM_BYTES_MAX).expect("small");
    let blob = |(number, len): (u32, usize)| {
        // Half of them are worth a codec.
        let words = blob(number).into_iter().cycle().take(len);
        words.enumerate().map(|(at, byte)| byte ^ u8::try_from(at / 5_000 % 251).expect("small"))
    };
    let lens = [65_536, 65_537, 200_000, max - 1, max, max + 1];
    (1_000..).zip(lens).map(|of| blob(of).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn medium_blobs_come_over_a_lane_and_longer_ones_are_told_to_be_large() {
    for (packs, whole_max) in [(Packs::Coded, MEDIUM_BYTES_MAX), (Packs::Plain, SMALL_BYTES_MAX)] {
        let (small, longer): (Vec<_>, _) = ((0..200).map(blob).collect(), longer_blobs());
        let mut pair = Pair::new(&[small.clone(), longer.clone()].concat(), true, packs);
        let hashes_of = |blobs: &[Vec<u8>]| blobs.iter().map(|blob| Hash::of(blob)).collect();
        let (hashes, longer_hashes): (Vec<Hash>, Vec<Hash>) =
            (hashes_of(&small), hashes_of(&longer));
        let opened = async {
            while pair.asked_on_lane() == 0 {
                pair.get(&hashes).await;
            }
        };
        timeout(SOON, opened).await.expect("a lane opens");
        let size_of = |hash: &Hash| {
            let at = longer_hashes.iter().position(|longer| longer == hash)?;
            u64::try_from(longer[at].len()).ok()
        };
        let mut left = longer_hashes.clone();
        left.retain(|hash| size_of(hash).is_some_and(|size| size <= whole_max));
        let come = async {
            // Which of them go alone, over the stream, is a matter of time; with some small ones most are a pack.
            while !left.is_empty() {
                for End { hash, outcome, .. } in
                    pair.get(&[&longer_hashes, &hashes[..20]].concat()).await
                {
                    let Some(size) = size_of(&hash) else { continue };
                    if outcome == (FetchOutcome::Complete { size }) {
                        assert!(size <= whole_max, "{packs:?}: {size}");
                        left.retain(|left| *left != hash);
                    } else {
                        assert!(size > SMALL_BYTES_MAX, "{packs:?}: {outcome:?}");
                        assert_eq!(outcome, FetchOutcome::Large { size });
                    }
                }
            }
        };
        timeout(SOON, come).await.expect("all of them come whole");
        for (hash, blob) in longer_hashes.iter().zip(&longer) {
            let Some(reader) = pair.getter.open_blob(hash).expect("open") else { continue };
            let mut bytes = vec![0; blob.len()];
            reader.read_run(0, &mut bytes).expect("right");
            assert!(bytes == *blob);
        }
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
    for _ in 0..3 {
        pair.get(&hashes).await;
    }
    // Where time left some single, a quick lane was tried beside that for many.
    let asked = pair.asked_on_lane();
    assert!((1..=2).contains(&asked), "none is tried again, but {asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn single_blobs_come_over_a_quick_lane_once_there_is_one() {
    let mut blobs: Vec<Vec<u8>> = (0..40).map(blob).collect();
    blobs.push(blob(41).iter().copied().cycle().take(64 << 10).collect());
    let mut pair = Pair::new(&blobs, true, Packs::Coded);
    pair.read_until_a_lane(&blobs).await;
    let before = pair.sent.load(Ordering::Relaxed);
    for blob in &blobs {
        pair.read(blob).await;
    }
    let all = blobs.iter().map(Vec::len).sum::<usize>();
    let counted = async {
        while pair.sent.load(Ordering::Relaxed) - before < all {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, counted).await.expect("all were sent on the lane");
    let kept = blobs.last().expect("some");
    pair.ask(Hash::of(kept), true).await;
    assert_eq!(pair.end().await.outcome, FetchOutcome::Complete { size: 64 << 10 });
    pair.ask(Hash::of(b"nobody"), false).await;
    assert_eq!(pair.end().await.outcome, FetchOutcome::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_once_come_over_a_quick_lane() {
    let blobs: Vec<Vec<u8>> = (0..300).map(blob).collect();
    let mut pair = Pair::new(&blobs, true, Packs::Coded);
    pair.read_until_a_lane(&blobs).await;
    for _ in 0..3 {
        for blob in &blobs {
            pair.ask(Hash::of(blob), false).await;
        }
        for _ in &blobs {
            let End { hash, bytes, .. } = pair.end().await;
            assert_eq!(bytes.map(|bytes| Hash::of(&bytes)), Some(hash));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_quick_lane_owes_comes_over_the_stream() {
    let blobs: Vec<Vec<u8>> = (0..40).map(blob).collect();
    let mut pair = Pair::new(&blobs, false, Packs::Plain);
    pair.read_until_a_lane(&blobs).await;
    for blob in &blobs {
        pair.read(blob).await;
    }
    assert_eq!(pair.asked_on_lane(), 1, "it is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_quick_lane_owes_fails_with_the_session() {
    let blobs: Vec<Vec<u8>> = (0..40).map(blob).collect();
    let mut pair = Pair::new(&blobs, true, Packs::Plain);
    let held_up = Arc::clone(&pair.held_up);
    let stopped = held_up.lock().await;
    let lost = async {
        let mut some = blobs.iter().cycle();
        while pair.asked_on_lane() == 0 {
            pair.ask(Hash::of(some.next().expect("endless")), false).await;
            // The last one is not answered.
            drop(timeout(Duration::from_millis(100), pair.ends.recv()).await);
        }
    };
    timeout(SOON, lost).await.expect("a lane is asked on");
    pair.serving.abort();
    let end = pair.end().await;
    assert!(matches!(end.outcome, FetchOutcome::Failed { .. }), "{end:?}");
    drop(stopped);
}
