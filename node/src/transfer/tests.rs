//! Both sides of a blob stream over a pipe, with real stores, and providers that misbehave.

#![allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]

mod noise;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN, GroupList, ProvisionalList};
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::wire::frame::{self, Frame, FrameHeader};
use blobmesh_protocol::wire::message::{
    BlobHead, BlobRequest, END, GROUP, HEAD, LIST, REQUEST, RUNS_MAX,
};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::provider::ServeError;
use super::requester::{LaneWay, Way};
use super::sink::{GroupSink, RawGroup};
use super::{FetchError, FrameIo, Meter, Report, UploadRate, edge, provider, requester};
use crate::edge::{Edge, EdgeOptions};
use crate::store::{Store, StoreConfig, StoreError};

const GROUP_BYTES: usize = GROUP_LEN as usize;
const SIZE_MAX: u64 = 1 << 30;
/// How long anything may take that should come soon.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

struct TestStore {
    store: Store,
    dir: TempDir,
}

impl TestStore {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = StoreConfig::new(dir.path().join("store"), SIZE_MAX, SIZE_MAX);
        Self { store: Store::open(config).expect("opens").0, dir }
    }

    fn holding(bytes: &[u8]) -> Self {
        let holder = Self::new();
        let mut writer = holder.store.add_writer().expect("a writer");
        writer.write(bytes).expect("written");
        writer.finish().expect("added");
        holder
    }

    /// Puts other bytes in the place of a blob's, and loses its list.
    fn rot(&self, hash: Hash) {
        let store = self.dir.path().join("store");
        let blob = store.join("blobs").join(hash.sharded_path());
        let len = std::fs::metadata(&blob).expect("a blob").len() as usize;
        std::fs::remove_file(&blob).expect("removed");
        std::fs::write(&blob, vec![9; len]).expect("written");
        std::fs::remove_file(store.join("outboard").join(hash.sharded_path())).expect("removed");
    }

    fn bytes_of(&self, hash: Hash) -> Option<Vec<u8>> {
        let reader = self.store.open_blob(&hash).expect("readable")?;
        let (mut bytes, mut group) = (Vec::new(), Vec::new());
        for index in 0..blobmesh_protocol::blob::group_count(reader.size()) {
            reader.read_group(index, &mut group).expect("verified");
            bytes.extend_from_slice(&group);
        }
        Some(bytes)
    }
}

#[derive(Debug, Default)]
struct Recorder {
    bytes: Mutex<u64>,
    /// Unverified bytes, and how often a source was said to be alive.
    arrived: Mutex<(u64, u32)>,
    stored: Mutex<u32>,
    told: tokio::sync::Notify,
    meter: Arc<Meter>,
}

impl Recorder {
    /// Waits until so many verified bytes were reported.
    async fn reaches(&self, bytes: u64) {
        let reached = async {
            while *self.bytes.lock().expect("unpoisoned") < bytes {
                self.told.notified().await;
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("reported in time");
    }
}

impl Report for Recorder {
    fn progress(&self, bytes: u64, _groups: Range<u64>, _size: u64) {
        *self.bytes.lock().expect("unpoisoned") += bytes;
        self.told.notify_one();
    }

    fn unlisted(&self) {}

    fn arrived(&self, bytes: u64, _size: u64) {
        let mut arrived = self.arrived.lock().expect("unpoisoned");
        *arrived = (arrived.0 + bytes, arrived.1 + 1);
    }

    fn stored(&self) {
        *self.stored.lock().expect("unpoisoned") += 1;
    }

    fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

/// Leads to whoever holds the other end of a pipe, once.
struct Pipe(Mutex<Option<DuplexStream>>);

impl Pipe {
    fn of(stream: DuplexStream) -> Self {
        Self(Mutex::new(Some(stream)))
    }
}

impl Way for Pipe {
    type Stream = DuplexStream;

    async fn open(&self) -> Result<DuplexStream, FetchError> {
        self.0.lock().expect("unpoisoned").take().ok_or(FetchError::Refused)
    }

    fn lanes(&self) -> Option<LaneWay<'_>> {
        None
    }

    async fn host(&self) -> Option<String> {
        None
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let key = [7; 32];
    blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut bytes);
    bytes
}

fn list_of(bytes: &[u8]) -> GroupList {
    let mut hasher = BlobHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

async fn first_request(io: &mut FrameIo<DuplexStream>) -> Result<BlobRequest, ServeError> {
    provider::request(&provider::first(io).await?)
}

/// Fetches from an honest provider; returns what was reported, and the bytes on the wire.
async fn fetch_between(from: &TestStore, to: &TestStore, hash: Hash) -> Result<u64, FetchError> {
    let (ours, theirs) = duplex(1 << 20);
    let store = from.store.clone();
    let serving = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        let request = first_request(&mut io).await.expect("a request");
        provider::serve(&mut io, request, (&store, &UploadRate::default()), |_| None).await
    });
    let result =
        requester::fetch(&Pipe::of(ours), hash, &to.store, SIZE_MAX, Arc::new(Recorder::default()))
            .await;
    serving.await.expect("no panic").ok();
    result
}

/// Fetches from a script that gives no blob.
async fn fetch_from_script(to: &TestStore, hash: Hash, script: Vec<u8>) -> FetchError {
    let (result, stored) = follow_script(to, hash, script).await;
    assert_eq!(stored, 0);
    result.expect_err("a misbehaving provider gives no blob")
}

/// Fetches from a script: whatever it writes after it has read the request. Returns besides how often a blob was stored.
async fn follow_script(
    to: &TestStore,
    hash: Hash,
    script: Vec<u8>,
) -> (Result<u64, FetchError>, u32) {
    let (ours, theirs) = duplex(1 << 20);
    let served = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        io.read().await.expect("readable").expect("a request");
        // The requester may hang up in the middle: that is its right.
        io.write(&script).await.ok();
        io.close().await.ok();
    });
    let recorder = Arc::new(Recorder::default());
    let result =
        requester::fetch(&Pipe::of(ours), hash, &to.store, 1 << 20, Arc::clone(&recorder)).await;
    served.await.expect("no panic");
    let stored = *recorder.stored.lock().expect("unpoisoned");
    (result, stored)
}

fn head(size: u64) -> Vec<u8> {
    frame::encode(HEAD, &BlobHead::Ok { size }).expect("encodes")
}

fn frame_of(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = FrameHeader { kind, len: body.len() as u32 }.encode().to_vec();
    frame.extend_from_slice(body);
    frame
}

fn group(index: u64, codec: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = index.to_le_bytes().to_vec();
    body.push(codec);
    body.extend_from_slice(payload);
    frame_of(GROUP, &body)
}

fn list_frame(list: &GroupList) -> Vec<u8> {
    frame_of(LIST, list.values().as_flattened())
}

#[tokio::test]
async fn blobs_of_every_boundary_size_arrive_whole() {
    for size in [0, 1, 4096, 4097, GROUP_BYTES - 1, GROUP_BYTES, GROUP_BYTES + 1, 40 * GROUP_BYTES]
    {
        for bytes in [noise(size), vec![b'a'; size]] {
            let (from, to) = (TestStore::holding(&bytes), TestStore::new());
            let hash = Hash::of(&bytes);
            let got = fetch_between(&from, &to, hash).await.expect("fetched");
            assert_eq!(got, size as u64);
            assert!(to.bytes_of(hash).as_deref() == Some(&bytes[..]), "size {size}");
        }
    }
}

#[tokio::test]
async fn blob_the_provider_does_not_hold_is_absent() {
    let error = fetch_between(&TestStore::new(), &TestStore::new(), Hash::of(b"none")).await;
    assert!(matches!(error, Err(FetchError::Absent)));
}

#[tokio::test]
async fn partial_blob_is_resumed_with_its_missing_groups_only() {
    let bytes = noise(10 * GROUP_BYTES + 5);
    let (from, to, list) = (TestStore::holding(&bytes), TestStore::new(), list_of(&bytes));
    let partial = to.store.partial(list.clone()).expect("a partial");
    for index in [0u64, 1, 4, 10] {
        let start = index as usize * GROUP_BYTES;
        let end = bytes.len().min(start + GROUP_BYTES);
        partial.write_group(index, &bytes[start..end]).expect("right bytes");
    }
    drop(partial);
    let (ours, theirs) = duplex(1 << 20);
    let store = from.store.clone();
    let serving = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        let request = first_request(&mut io).await.expect("a request");
        assert_eq!(request.runs, vec![(2, 2), (5, 5)]);
        assert!(!request.with_list, "the list is proven already");
        provider::serve(&mut io, request, (&store, &UploadRate::default()), |_| None)
            .await
            .expect("served")
    });
    let recorder = Arc::new(Recorder::default());
    let hash = list.hash();
    requester::fetch(&Pipe::of(ours), hash, &to.store, SIZE_MAX, Arc::clone(&recorder))
        .await
        .expect("got");
    assert_eq!(serving.await.expect("no panic"), 7 * GROUP_LEN);
    assert_eq!(*recorder.bytes.lock().expect("unpoisoned"), 7 * GROUP_LEN);
    assert!(to.bytes_of(hash) == Some(bytes));
}

#[tokio::test]
async fn wrong_bytes_in_every_place_are_refused_and_never_stored() {
    let bytes = noise(3 * GROUP_BYTES + 9);
    let list = list_of(&bytes);
    let part =
        |index: usize| &bytes[index * GROUP_BYTES..bytes.len().min((index + 1) * GROUP_BYTES)];
    let mut flipped = part(1).to_vec();
    flipped[77] ^= 1;
    let opening = [head(list.size()), list_frame(&list), group(3, 0, part(3))].concat();
    let mut bad_list = list.values().to_vec();
    bad_list[2][0] ^= 1;
    let bad_list = [head(list.size()), frame_of(LIST, bad_list.as_flattened())].concat();
    let scripts: Vec<(&str, Vec<u8>)> = vec![
        ("a flipped bit", [opening.clone(), group(1, 0, &flipped)].concat()),
        ("another group's bytes", [opening.clone(), group(0, 0, part(1))].concat()),
        ("a group past the end", [opening.clone(), group(9, 0, part(1))].concat()),
        ("a short group", [opening.clone(), group(1, 0, &part(1)[1..])].concat()),
        ("garbage for lz4", [opening, group(1, 1, &noise(500))].concat()),
        ("a wrong list", bad_list),
        (
            "a wrong last group",
            [head(list.size()), list_frame(&list), group(3, 0, &[0; 9])].concat(),
        ),
    ];
    for (what, script) in scripts {
        let to = TestStore::new();
        let error = fetch_from_script(&to, list.hash(), script).await;
        assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{what}: {error}");
        assert!(to.store.find(&list.hash()).expect("readable").is_none(), "{what}");
        let stored = to.store.find_partial(&list.hash()).expect("readable");
        let held = stored.map_or(0, |partial| partial.held().held());
        assert!(held <= 1, "{what}: only the verified last group may stay, not {held}");
    }
}

/// Nothing else is fetched of a blob until its list is there.
#[tokio::test]
async fn list_that_comes_entry_by_entry_is_hardly_a_sign_of_life() {
    let (ours, theirs) = duplex(1 << 20);
    let served = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        io.read().await.expect("readable").expect("a request");
        let entries = frame_of(LIST, &[0; 32]).repeat(1_500);
        io.write(&[head(4_096 * GROUP_LEN), entries].concat()).await.expect("written");
        io.close().await.ok();
    });
    let (to, recorder) = (TestStore::new(), Arc::new(Recorder::default()));
    let hash = Hash::of(b"none");
    let report = Arc::clone(&recorder);
    let fetched = requester::fetch(&Pipe::of(ours), hash, &to.store, SIZE_MAX, report).await;
    fetched.expect_err("the list has no end");
    served.await.expect("no panic");
    let (_, signs) = *recorder.arrived.lock().expect("unpoisoned");
    assert!((2..=4).contains(&signs), "{signs} signs of life for 48 KB");
}

#[tokio::test]
async fn breach_of_the_wire_is_no_proof_of_wrong_bytes() {
    let bytes = noise(3 * GROUP_BYTES + 9);
    let list = list_of(&bytes);
    let first = &bytes[..GROUP_BYTES];
    let last = group(3, 0, &bytes[3 * GROUP_BYTES..]);
    let opening = [head(list.size()), list_frame(&list)].concat();
    let begun = [opening.clone(), last].concat();
    let scripts: Vec<(&str, Vec<u8>)> = vec![
        ("a frame out of turn", [begun.clone(), frame_of(HEAD, &[0])].concat()),
        ("a codec nobody knows", [begun.clone(), group(0, 9, first)].concat()),
        ("a frame too long", [begun, vec![GROUP, 1, 0, 0, 255, 255, 255, 255]].concat()),
        ("another group first", [opening, group(0, 0, first)].concat()),
        ("too long a list", [head(list.size()), frame_of(LIST, &[0; 32 * 9])].concat()),
        ("an odd list", [head(list.size()), frame_of(LIST, &[0; 33])].concat()),
        ("another version", vec![HEAD, 9, 0, 0, 0, 0, 0, 0]),
    ];
    for (what, script) in scripts {
        let error = fetch_from_script(&TestStore::new(), list.hash(), script).await;
        assert!(matches!(error.outcome(), FetchOutcome::Misbehaved { .. }), "{what}: {error}");
    }
    for refusal in [head(u64::MAX), frame::encode(HEAD, &BlobHead::Refused).expect("encodes")] {
        let error = fetch_from_script(&TestStore::new(), list.hash(), refusal).await;
        assert!(matches!(error.outcome(), FetchOutcome::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn frames_of_later_versions_are_skipped() {
    let hash = Hash::of(b"right");
    let unknown = frame_of(0x7f, b"who knows");
    let script = [unknown.clone(), head(5), unknown, group(0, 0, b"right")].concat();
    let (ours, theirs) = duplex(1 << 20);
    let served = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        io.read().await.expect("readable").expect("a request");
        io.write(&script).await.expect("written");
    });
    let to = TestStore::new();
    let report = Arc::new(Recorder::default());
    requester::fetch(&Pipe::of(ours), hash, &to.store, SIZE_MAX, report).await.expect("fetched");
    served.await.expect("no panic");
    assert_eq!(to.bytes_of(hash).as_deref(), Some(&b"right"[..]));
}

#[tokio::test]
async fn single_group_with_wrong_bytes_is_refused() {
    let hash = Hash::of(b"right");
    for payload in [&b"wrong"[..], b"righ", b""] {
        let script = [head(5), group(0, 0, payload), frame_of(END, &[])].concat();
        let to = TestStore::new();
        let error = fetch_from_script(&to, hash, script).await;
        assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{error}");
    }
}

#[tokio::test]
async fn groups_without_bytes_are_refused_while_they_come() {
    let bytes = noise(4 * GROUP_BYTES);
    let list = list_of(&bytes);
    let last = group(3, 0, &bytes[3 * GROUP_BYTES..]);
    let opening = [head(list.size()), list_frame(&list), last].concat();
    let (ours, theirs) = duplex(1 << 20);
    let endless = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        io.read().await.expect("readable").expect("a request");
        io.write(&opening).await.expect("room");
        while io.write(&group(0, 0, &[])).await.is_ok() {}
    });
    let to = TestStore::new();
    let report = Arc::new(Recorder::default());
    let way = Pipe::of(ours);
    let fetch = requester::fetch(&way, list.hash(), &to.store, SIZE_MAX, report);
    let error = tokio::time::timeout(std::time::Duration::from_secs(20), fetch).await;
    let error = error.expect("in time").expect_err("a misbehaving provider gives no blob");
    assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{error}");
    endless.await.expect("it is hung up on");
}

#[tokio::test]
async fn wrong_group_followed_by_silence_is_found_out() {
    let bytes = noise(4 * GROUP_BYTES);
    let list = list_of(&bytes);
    let last = group(3, 0, &bytes[3 * GROUP_BYTES..]);
    let wrong = group(0, 0, &bytes[GROUP_BYTES..2 * GROUP_BYTES]);
    let script = [head(list.size()), list_frame(&list), last, wrong].concat();
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(&script).await.expect("room");
    let to = TestStore::new();
    let report = Arc::new(Recorder::default());
    let way = Pipe::of(ours);
    let fetch = requester::fetch(&way, list.hash(), &to.store, SIZE_MAX, report);
    let error = tokio::time::timeout(std::time::Duration::from_secs(20), fetch).await;
    let error = error.expect("in time").expect_err("a misbehaving provider gives no blob");
    assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{error}");
}

#[tokio::test]
async fn garbage_for_an_empty_blob_is_not_taken_for_it() {
    let hash = Hash::of(b"");
    let script = [head(5), group(0, 1, b"wrong"), frame_of(END, &[])].concat();
    let to = TestStore::new();
    let error = fetch_from_script(&to, hash, script).await;
    assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{error}");
    assert!(to.store.find(&hash).expect("readable").is_none());
}

#[tokio::test]
async fn provider_that_stops_early_is_a_failure_to_be_tried_again() {
    let bytes = noise(3 * GROUP_BYTES);
    let list = list_of(&bytes);
    let whole =
        [head(list.size()), list_frame(&list), group(2, 0, &bytes[2 * GROUP_BYTES..])].concat();
    let cuts = [0, 4, 20, head(list.size()).len() + 9, whole.len() - 1, whole.len()];
    for cut in cuts {
        let to = TestStore::new();
        let error = fetch_from_script(&to, list.hash(), whole[..cut].to_vec()).await;
        assert!(matches!(error.outcome(), FetchOutcome::Failed { .. }), "cut {cut}: {error}");
    }
    let to = TestStore::new();
    let early = [whole.clone(), frame_of(END, &[])].concat();
    let error = fetch_from_script(&to, list.hash(), early).await;
    assert!(matches!(error, FetchError::Short), "an end before the last group: {error}");
    let kept = to.store.find_partial(&list.hash()).expect("readable").expect("a partial");
    assert_eq!(kept.held().held(), 1, "what was verified is kept for the next source");
}

#[tokio::test]
async fn blob_of_which_all_came_is_whole_though_its_end_did_not() {
    let bytes = noise(2 * GROUP_BYTES);
    let list = list_of(&bytes);
    let groups = [group(1, 0, &bytes[GROUP_BYTES..]), group(0, 0, &bytes[..GROUP_BYTES])].concat();
    let cut = [head(list.size()), list_frame(&list), groups].concat();
    let to = TestStore::new();
    let (result, stored) = follow_script(&to, list.hash(), cut).await;
    assert_eq!(result.expect("nothing is missing"), list.size());
    assert_eq!(stored, 1);
    assert!(to.bytes_of(list.hash()).as_deref() == Some(&bytes[..]));
}

/// Inner nodes of the tree, passed off as the groups of a shorter blob, merge to the right hash.
#[tokio::test]
async fn forged_short_blob_is_refused_before_a_byte_is_stored() {
    let bytes = noise(4 * GROUP_BYTES);
    let list = list_of(&bytes);
    let merge = |i: usize| {
        blake3::hazmat::merge_subtrees_non_root(
            &list.values()[i],
            &list.values()[i + 1],
            blake3::hazmat::Mode::Hash,
        )
    };
    let forged = [merge(0), merge(2)];
    let size = 2 * GROUP_LEN;
    ProvisionalList::check(list.hash(), size, forged.to_vec()).expect("the forgery merges");
    let script = [
        head(size),
        frame_of(LIST, forged.as_flattened()),
        group(1, 0, &bytes[GROUP_BYTES..2 * GROUP_BYTES]),
    ];
    let to = TestStore::new();
    let error = fetch_from_script(&to, list.hash(), script.concat()).await;
    assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }));
    assert!(to.store.find_partial(&list.hash()).expect("readable").is_none());
}

#[tokio::test]
async fn busy_provider_says_when_to_come_again() {
    let busy = frame::encode(HEAD, &BlobHead::Busy { retry_after_ms: 70 }).expect("encodes");
    let error = fetch_from_script(&TestStore::new(), Hash::of(b"x"), busy).await;
    let after = std::time::Duration::from_millis(70);
    assert_eq!(error.outcome(), FetchOutcome::Busy { retry_after: after });
}

/// Sends one request and returns the answer's first frame.
async fn ask(store: &TestStore, request: &[u8]) -> Option<Frame> {
    let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 20);
    let store = store.store.clone();
    let serving = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        if let Ok(request) = first_request(&mut io).await {
            provider::serve(&mut io, request, (&store, &UploadRate::default()), |_| None)
                .await
                .ok();
        }
    });
    let mut ours = ours;
    ours.write_all(request).await.expect("written");
    let mut io = FrameIo::new(ours);
    let first = io.read().await.ok().flatten();
    drop(io);
    serving.await.expect("no bytes of a peer panic");
    first
}

#[tokio::test]
async fn senseless_requests_are_refused() {
    let bytes = noise(3 * GROUP_BYTES);
    let (holder, hash) = (TestStore::holding(&bytes), Hash::of(&bytes));
    let runs: Vec<Vec<(u64, u64)>> = vec![
        vec![(0, 0)],
        vec![(0, 4)],
        vec![(3, 1)],
        vec![(1, 1), (0, 1)],
        vec![(0, 2), (1, 1)],
        vec![(u64::MAX, 2)],
        (0..=RUNS_MAX as u64).map(|n| (2 * n, 1)).collect(),
    ];
    for runs in runs {
        let request = BlobRequest { hash, with_list: false, codecs: 1, runs };
        let request = frame::encode(REQUEST, &request).expect("encodes");
        let answer = ask(&holder, &request).await.expect("an answer");
        assert_eq!(answer.decode::<BlobHead>(), Ok(BlobHead::Refused));
    }
}

#[tokio::test]
async fn malformed_requests_get_no_answer() {
    let holder = TestStore::new();
    let no_request: [&[u8]; 4] =
        [&[0; 8], &[0xff; 64], &frame_of(REQUEST, &[1, 2, 3]), &frame_of(GROUP, &[0; 20])];
    for bytes in no_request {
        assert!(ask(&holder, bytes).await.is_none());
    }
}

#[tokio::test]
async fn groups_of_a_source_that_falls_silent_are_stored_and_reported() {
    let bytes = noise(9 * GROUP_BYTES);
    let (to, list) = (TestStore::new(), list_of(&bytes));
    let part = |index: usize| &bytes[index * GROUP_BYTES..(index + 1) * GROUP_BYTES];
    let (ours, theirs) = duplex(1 << 20);
    let mut source = FrameIo::new(theirs);
    let opening = [head(list.size()), list_frame(&list), group(8, 0, part(8))].concat();
    let groups = [group(0, 0, part(0)), group(1, 0, part(1))].concat();
    source.write(&[opening, groups].concat()).await.expect("room");
    let (recorder, hash) = (Arc::new(Recorder::default()), list.hash());
    let report = Arc::clone(&recorder);
    let way = Pipe::of(ours);
    let fetching = requester::fetch(&way, hash, &to.store, SIZE_MAX, report);
    tokio::select! {
        result = fetching => panic!("the source neither ended nor failed: {result:?}"),
        () = recorder.reaches(3 * GROUP_LEN) => {}
    }
    let kept = to.store.find_partial(&hash).expect("readable").expect("a partial");
    assert_eq!(kept.held().held(), 3);
    assert_eq!(*recorder.arrived.lock().expect("unpoisoned"), (0, 1), "the list told of life");
}

#[tokio::test]
async fn groups_that_came_before_a_fetch_is_dropped_are_stored() {
    let bytes = noise(3 * GROUP_BYTES);
    let (to, list) = (TestStore::new(), list_of(&bytes));
    let recorder = Arc::new(Recorder::default());
    let mut sink = GroupSink::begin(&to.store, list.clone(), &recorder).await.expect("begins");
    for index in [2, 0] {
        let start = index as usize * GROUP_BYTES;
        let payload = bytes::Bytes::copy_from_slice(&bytes[start..start + GROUP_BYTES]);
        sink.push(RawGroup { index, codec: Codec::Raw, payload }).await.expect("taken");
    }
    drop(sink);
    recorder.reaches(2 * GROUP_LEN).await;
}

#[tokio::test]
async fn wrong_group_is_named_also_when_many_batches_follow_it() {
    let bytes = noise(80 * GROUP_BYTES);
    let list = list_of(&bytes);
    let part = |index: usize| &bytes[index * GROUP_BYTES..(index + 1) * GROUP_BYTES];
    let mut script = [head(list.size()), list_frame(&list), group(79, 0, part(79))].concat();
    script.extend(group(0, 0, part(1)));
    for index in 1..79 {
        script.extend(group(index as u64, 0, part(index)));
    }
    let to = TestStore::new();
    let (ours, theirs) = duplex(1 << 20);
    let served = tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        io.write(&script).await.ok();
    });
    let way = Pipe::of(ours);
    let fetched =
        requester::fetch(&way, list.hash(), &to.store, SIZE_MAX, Arc::new(Recorder::default()));
    let error = fetched.await.expect_err("a wrong group");
    served.await.expect("no panic");
    assert!(matches!(error.outcome(), FetchOutcome::WrongBytes { .. }), "{error}");
}

#[tokio::test]
async fn blob_that_is_whole_already_needs_no_source() {
    let bytes = noise(3 * GROUP_BYTES);
    let hash = Hash::of(&bytes);
    let list = list_of(&bytes);
    let filled = TestStore::new();
    let partial = filled.store.partial(list).expect("a partial");
    for (index, group) in (0..).zip(bytes.chunks(GROUP_BYTES)) {
        partial.write_group(index, group).expect("right bytes");
    }
    drop(partial);
    for (what, to) in [("added", TestStore::holding(&bytes)), ("all groups there", filled)] {
        let (ours, _) = duplex(64);
        let recorder = Arc::new(Recorder::default());
        let got = requester::fetch(&Pipe::of(ours), hash, &to.store, SIZE_MAX, recorder).await;
        assert_eq!(got.expect(what), bytes.len() as u64);
        assert!(to.bytes_of(hash).as_deref() == Some(&bytes[..]), "{what}");
    }
}

#[test]
fn rot_in_what_was_fetched_before_is_fetched_again() {
    let rotten = StoreError::Incomplete { hash: Hash::of(b""), missing: 1 };
    let outcome = FetchError::from(rotten).outcome();
    assert!(matches!(outcome, FetchOutcome::Failed { .. }), "{outcome:?}");
}

#[tokio::test]
async fn bytes_of_the_edge_are_no_progress_before_they_are_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let (right, wrong) = (noise(2_500_000), vec![7; 2_500_000]);
    let config = crate::config::EdgeConfig::Directory { path: dir.path().to_owned() };
    let edge = Edge::new(&config, EdgeOptions::default()).expect("an edge");
    let hash = Hash::of(&right);
    let path = dir.path().join("blobs").join(hash.sharded_path());
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    for (bytes, progress) in [(&wrong, 0), (&right, right.len() as u64)] {
        std::fs::write(&path, bytes).expect("written");
        let (to, recorder) = (TestStore::new(), Arc::new(Recorder::default()));
        let report = Arc::clone(&recorder);
        let got = edge::fetch(&edge, (hash, None), &to.store, SIZE_MAX, report).await;
        assert_eq!(got.is_ok(), progress > 0, "{got:?}");
        assert_eq!(*recorder.bytes.lock().expect("unpoisoned"), progress);
        assert!(recorder.arrived.lock().expect("unpoisoned").1 > 0, "the edge answered");
    }
}

/// Serves one request through a pipe with room for `room` bytes, of which the requester reads none.
async fn serve_unread(holder: &TestStore, hash: Hash, room: usize) -> Result<u64, ServeError> {
    let (ours, theirs) = duplex(room);
    let mut io = FrameIo::new(theirs);
    let request = BlobRequest { hash, with_list: true, codecs: 1, runs: Vec::new() };
    let served =
        provider::serve(&mut io, request, (&holder.store, &UploadRate::default()), |_| None).await;
    drop(ours);
    served
}

#[tokio::test(start_paused = true)]
async fn requester_that_takes_all_but_the_end_is_given_up() {
    let bytes = noise(1000);
    let holder = TestStore::holding(&bytes);
    let answer = head(1000).len() + group(0, 0, &bytes).len();
    for room in [answer, answer - 1, 1] {
        let served = serve_unread(&holder, Hash::of(&bytes), room).await;
        assert!(matches!(served, Err(ServeError::TooSlow)), "{room}: {served:?}");
    }
}

#[tokio::test]
async fn blob_that_has_rotted_without_a_list_is_absent_before_anything_is_promised() {
    let bytes = noise(3 * GROUP_BYTES);
    let (holder, hash) = (TestStore::holding(&bytes), Hash::of(&bytes));
    holder.rot(hash);
    let request = BlobRequest { hash, with_list: true, codecs: 1, runs: Vec::new() };
    let request = frame::encode(REQUEST, &request).expect("encodes");
    let answer = ask(&holder, &request).await.expect("an answer");
    assert_eq!(answer.decode::<BlobHead>(), Ok(BlobHead::Absent));
}
