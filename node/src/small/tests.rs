//! Both sides of small requests against each other, and each against a script, over pipes.

use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::engine::FetchOutcome;
use blobmesh_protocol::id::FetchId;
use blobmesh_protocol::wire::frame::{self, Frame, FrameHeader, FrameReader};
use blobmesh_protocol::wire::lane::{LaneOffer, LaneToken};
use blobmesh_protocol::wire::message::{END, LANE_OFFER, body_len_max};
use blobmesh_protocol::wire::small::{
    CODED_PACK, CodedPack, Longest, PACK_BLOBS_MAX, Packs, SMALL_BLOB, SMALL_BUNDLE, SMALL_PACK,
    SmallAnswer, SmallPack, SmallRequest, SmallResult, bundle_head, push_small_blob,
    split_small_blob,
};
use blobmesh_protocol::{Hash, PeerId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::keeper::Keeper;
use super::provider::{self, Admission};
use super::requester::Line;
use super::{End, Ends, Request, requester};
use crate::lane::Slot;
use crate::store::{Store, StoreConfig};
use crate::swarm::OpenError;
use crate::transfer::FetchError;
use crate::transfer::provider::ServeError;
use crate::transfer::requester::{LaneWay, Way};
use crate::transfer::{FrameIo, UploadRate};

/// Makes an answer that breaks the rules, from the number of a request.
type Breach<'a> = &'a dyn Fn(u32) -> Vec<u8>;

const PEER: PeerId = PeerId::from_bytes([7; 32]);

/// Opens the ends of pipes, one after another.
struct Pipes(Mutex<Vec<DuplexStream>>);

impl Way for Pipes {
    type Stream = DuplexStream;

    async fn open(&self) -> Result<DuplexStream, FetchError> {
        self.0.lock().await.pop().ok_or(FetchError::Open(OpenError::NotConnected))
    }

    fn lanes(&self) -> Option<LaneWay<'_>> {
        None
    }

    async fn host(&self) -> Option<String> {
        None
    }
}

/// Keeps how requests ended.
#[derive(Clone)]
pub(super) struct Recorder(pub(super) mpsc::Sender<End>);

impl Ends for Recorder {
    async fn ended(&self, ends: Vec<End>) {
        self.stored(ends);
    }

    fn stored(&self, ends: Vec<End>) {
        ends.into_iter().for_each(|end| drop(self.0.try_send(end)));
    }
}

/// Admits everybody, or nobody.
struct Gate(bool);

struct Held;

impl Slot for Held {
    fn sent(&mut self, _: u64) {}
}

impl Admission for Gate {
    type Slot = Held;

    async fn admit(&mut self) -> Result<Held, Option<Duration>> {
        if self.0 { Ok(Held) } else { Err(Some(Duration::from_millis(200))) }
    }
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 30);
    (dir, Store::open(config).expect("opens").0)
}

fn add(store: &Store, bytes: &[u8]) -> Hash {
    let mut writer = store.add_writer().expect("a writer");
    writer.write(bytes).expect("written");
    writer.finish().expect("stored").hash
}

fn blob(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A requester with a store of its own.
struct Asking {
    queue: mpsc::Sender<Request>,
    line: Arc<Line<DuplexStream>>,
    ends: mpsc::Receiver<End>,
    store: Store,
    next: u64,
    _dir: TempDir,
    _tasks: [JoinHandle<()>; 2],
}

impl Asking {
    /// Asks over these pipes, the last one first.
    fn over(pipes: Vec<DuplexStream>) -> Self {
        Self::new(pipes, Packs::None)
    }

    /// Asks a peer that takes many requests as one message.
    fn packing_over(pipes: Vec<DuplexStream>) -> Self {
        Self::new(pipes, Packs::Plain)
    }

    fn new(pipes: Vec<DuplexStream>, packs: Packs) -> Self {
        let (dir, store) = store();
        let (queue, requests) = mpsc::channel(1_024);
        let (recorder, ends) = mpsc::channel(4_096);
        let recorder = Recorder(recorder);
        let (keeper, keeping) = Keeper::new(store.clone(), recorder.clone());
        let way = Pipes(Mutex::new(pipes));
        let line = Arc::new(Line::default());
        let asking =
            requester::run(way, (PEER, packs), (requests, Arc::clone(&line)), keeper, recorder);
        let tasks = [tokio::spawn(keeping), tokio::spawn(asking)];
        Self { queue, line, ends, store, next: 0, _dir: dir, _tasks: tasks }
    }

    async fn ask(&mut self, hash: Hash, keep: bool) -> FetchId {
        self.next += 1;
        let fetch = FetchId(self.next);
        self.queue.send(Request { fetch, hash, keep }).await.expect("the requester runs");
        fetch
    }

    /// Asks without the requester's task, once that has nothing to write.
    async fn ask_alone(&mut self, hash: Hash) -> FetchId {
        self.next += 1;
        let fetch = FetchId(self.next);
        let request = Request { fetch, hash, keep: false };
        let written = async {
            while !self.line.write(request) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), written).await.expect("the stream is idle at last");
        fetch
    }

    async fn ended(&mut self) -> End {
        let end = timeout(Duration::from_secs(20), self.ends.recv());
        end.await.expect("in time").expect("the requester runs")
    }
}

/// Serves a pipe as a node does.
fn serve(theirs: DuplexStream, store: Store, admits: bool) -> JoinHandle<Result<(), ServeError>> {
    tokio::spawn(async move {
        let mut io = FrameIo::new(theirs);
        let first = io.read().await.expect("read").expect("a frame");
        let (io, with) = (io.into_inner(), (&store, &UploadRate::default()));
        provider::serve(io, first, with, Gate(admits), || None).await
    })
}

async fn next_request(stream: &mut DuplexStream) -> SmallRequest {
    next_frame(stream).await.decode().expect("a small request")
}

async fn next_frame(stream: &mut DuplexStream) -> Frame {
    let mut frame = [0; 8];
    stream.read_exact(&mut frame).await.expect("a header");
    let header = FrameHeader::decode(frame, body_len_max).expect("a header");
    let mut body = vec![0; usize::try_from(header.len).expect("short")];
    stream.read_exact(&mut body).await.expect("a body");
    Frame { kind: header.kind, body }
}

#[tokio::test]
async fn blobs_of_every_length_are_kept_or_read_and_long_or_absent_ones_are_said_so() {
    let (_dir, held) = store();
    let lens = [0, 1, 4_096, 4_097, 65_535, 65_536];
    let blobs: Vec<Vec<u8>> = (0..300).map(|n| blob(n, lens[n as usize % lens.len()])).collect();
    let hashes: Vec<Hash> = blobs.iter().map(|blob| add(&held, blob)).collect();
    let long = add(&held, &blob(1, 65_537));
    let (ours, theirs) = duplex(1 << 16);
    let serving = serve(theirs, held, true);
    let mut asking = Asking::over(vec![ours]);
    for (number, hash) in hashes.iter().enumerate() {
        asking.ask(*hash, number % 2 == 0).await;
    }
    for _ in &hashes {
        let end = asking.ended().await;
        let number = usize::try_from(end.fetch.0 - 1).expect("small");
        assert_eq!((end.hash, end.peer), (hashes[number], PEER));
        let size = blobs[number].len() as u64;
        if number % 2 == 0 {
            assert_eq!(end.outcome, FetchOutcome::Complete { size });
            assert_eq!(asking.store.find(&end.hash).expect("find").expect("there").size, size);
        } else {
            assert_eq!(end.outcome, FetchOutcome::Read { size });
            assert!(end.bytes.expect("bytes") == blobs[number]);
        }
    }
    asking.ask(long, true).await;
    assert_eq!(asking.ended().await.outcome, FetchOutcome::Large { size: 65_537 });
    asking.ask(Hash::of(b"nobody"), true).await;
    assert_eq!(asking.ended().await.outcome, FetchOutcome::Absent);
    drop(asking);
    serving.await.expect("no panic").expect("a proper end");
}

#[tokio::test]
async fn many_requests_are_one_message_and_answered_one_by_one() {
    let (ours, mut theirs) = duplex(1 << 20);
    let mut asking = Asking::packing_over(vec![ours]);
    let blobs: Vec<Vec<u8>> = (0..300).map(|n| blob(n, 5_000)).collect();
    for (number, blob) in blobs.iter().enumerate() {
        asking.ask(Hash::of(blob), number % 2 == 0).await;
    }
    let mut ids = Vec::new();
    while ids.len() < blobs.len() {
        let frame = next_frame(&mut theirs).await;
        match frame.kind {
            SMALL_PACK => {
                let pack: SmallPack = frame.decode().expect("a pack");
                assert!(!pack.takes_lane, "there is no way to lanes");
                ids.extend(pack.requests().expect("allowed").map(|request| request.id));
            }
            _ => ids.push(frame.decode::<SmallRequest>().expect("a request").id),
        }
    }
    for (id, blob) in ids.iter().zip(&blobs).rev() {
        let mut frames = Vec::new();
        push_small_blob(*id, blob, &mut frames);
        theirs.write_all(&frames).await.expect("written");
    }
    let mut ended = std::collections::BTreeSet::new();
    for _ in &blobs {
        let end = asking.ended().await;
        let size = 5_000;
        let done = [FetchOutcome::Complete { size }, FetchOutcome::Read { size }];
        assert!(done.contains(&end.outcome), "{end:?}");
        ended.insert(end.fetch.0);
    }
    assert_eq!(ended.len(), blobs.len());
}

#[tokio::test]
async fn pack_is_served_as_its_requests_and_one_that_breaks_the_rules_ends_the_stream() {
    let (_dir, held) = store();
    let blobs: Vec<Vec<u8>> = (0..256).map(|n| blob(n, 5_000)).collect();
    let mut hashes: Vec<Hash> = blobs.iter().map(|blob| add(&held, blob)).collect();
    hashes[7] = Hash::of(b"nobody");
    let (mut ours, theirs) = duplex(1 << 16);
    let serving = serve(theirs, held, true);
    let pack = SmallPack { first: u32::MAX, takes_lane: true, hashes };
    ours.write_all(&pack.encode().expect("encodes")).await.expect("written");
    for _ in 0..PACK_BLOBS_MAX {
        let frame = next_frame(&mut ours).await;
        if frame.kind == SMALL_BLOB {
            let (id, bytes) = split_small_blob(&frame.body).expect("a number");
            assert_eq!(bytes, blobs[id.wrapping_add(1) as usize]);
        } else {
            let answer: SmallAnswer = frame.decode().expect("an answer");
            assert_eq!(answer, SmallAnswer { id: 6, result: SmallResult::Absent });
        }
    }
    let none = SmallPack { first: 0, takes_lane: false, hashes: Vec::new() };
    ours.write_all(&none.encode().expect("encodes")).await.expect("written");
    assert_eq!(ours.read(&mut [0]).await.expect("read"), 0, "closed");
    assert!(serving.await.expect("no panic").is_err());
}

#[tokio::test]
async fn offer_of_a_lane_that_nobody_asked_for_ends_the_stream() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut asking = Asking::packing_over(vec![ours]);
    asking.ask(Hash::of(b"1"), true).await;
    next_request(&mut theirs).await;
    let offer = LaneOffer { port: 1, tokens: vec![LaneToken::from_bytes([7; 16])] };
    let offer = frame::encode(LANE_OFFER, &offer).expect("encodes");
    theirs.write_all(&offer).await.expect("written");
    assert!(matches!(asking.ended().await.outcome, FetchOutcome::Failed { .. }));
}

#[tokio::test]
async fn peer_that_is_not_admitted_hears_when_to_come_again() {
    let (_dir, held) = store();
    let hash = add(&held, b"blob");
    let (ours, theirs) = duplex(1 << 16);
    let _serving = serve(theirs, held, false);
    let mut asking = Asking::over(vec![ours]);
    for _ in 0..3 {
        asking.ask(hash, true).await;
        let retry_after = Duration::from_millis(200);
        assert_eq!(asking.ended().await.outcome, FetchOutcome::Busy { retry_after });
    }
}

#[tokio::test]
async fn answers_are_taken_in_any_order() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut asking = Asking::over(vec![ours]);
    let blobs: Vec<Vec<u8>> = (0..4).map(|n| blob(n, 100)).collect();
    for blob in &blobs {
        asking.ask(Hash::of(blob), false).await;
    }
    let mut requests = Vec::new();
    for _ in &blobs {
        requests.push(next_request(&mut theirs).await);
    }
    let mut frames = Vec::new();
    for (request, blob) in requests.iter().zip(&blobs).rev() {
        push_small_blob(request.id, blob, &mut frames);
    }
    theirs.write_all(&frames).await.expect("written");
    for number in (1..=4).rev() {
        let end = asking.ended().await;
        assert_eq!(end.fetch, FetchId(number));
        assert!(matches!(end.outcome, FetchOutcome::Read { size: 100 }));
    }
}

#[tokio::test]
async fn wrong_bytes_are_neither_stored_nor_given_and_the_stream_goes_on() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut asking = Asking::over(vec![ours]);
    let right = blob(1, 5_000);
    for (keep, bytes) in [(true, blob(2, 5_000)), (false, blob(3, 5_000)), (false, right.clone())] {
        asking.ask(Hash::of(&right), keep).await;
        let request = next_request(&mut theirs).await;
        let mut frames = Vec::new();
        push_small_blob(request.id, &bytes, &mut frames);
        theirs.write_all(&frames).await.expect("written");
        let end = asking.ended().await;
        let wrong = matches!(end.outcome, FetchOutcome::WrongBytes { .. });
        assert_eq!((wrong, end.bytes.is_some()), (bytes != right, bytes == right));
        assert_eq!(asking.store.find(&Hash::of(&right)).expect("find"), None);
    }
}

#[tokio::test]
async fn request_alone_is_written_at_once_and_what_the_stream_does_not_take_by_the_task() {
    for buffer in [1 << 16, 7, 1] {
        let (ours, mut theirs) = duplex(buffer);
        let mut asking = Asking::over(vec![ours]);
        assert!(!asking.line.write(Request {
            fetch: FetchId(0),
            hash: Hash::of(b"0"),
            keep: false
        }));
        let mut fetch = asking.ask(Hash::of(b"1"), false).await;
        for n in 0..20u8 {
            let request = next_request(&mut theirs).await;
            let absent = SmallAnswer { id: request.id, result: SmallResult::Absent };
            theirs.write_all(&absent.encode().expect("encodes")).await.expect("written");
            let end = asking.ended().await;
            assert_eq!(
                (end.fetch, end.hash, end.outcome),
                (fetch, request.hash, FetchOutcome::Absent)
            );
            fetch = match n % 3 {
                0 => asking.ask(Hash::of(&[n]), false).await,
                _ => asking.ask_alone(Hash::of(&[n])).await,
            };
        }
        let another = Request { fetch: FetchId(99), hash: Hash::of(b"2"), keep: false };
        assert!(!asking.line.write(another), "one is out");
        next_request(&mut theirs).await;
        drop(theirs);
        let end = asking.ended().await;
        assert!(
            end.fetch == fetch && matches!(end.outcome, FetchOutcome::Failed { .. }),
            "{end:?}"
        );
        assert!(!asking.line.write(another), "the stream is closed");
    }
}

#[tokio::test]
async fn breach_of_the_rules_fails_all_that_is_out_and_the_next_request_opens_a_stream() {
    let twice = |id| {
        let mut frames = Vec::new();
        let absent = SmallAnswer { id, result: SmallResult::Absent };
        frames.extend(absent.encode().expect("encodes"));
        frames.extend(absent.encode().expect("encodes"));
        frames
    };
    let unknown = |id: u32| {
        let mut frames = Vec::new();
        push_small_blob(id.wrapping_add(99), b"x", &mut frames);
        frames
    };
    let long = |_| FrameHeader { kind: SMALL_BLOB, len: 65_541 }.encode().to_vec();
    let kind = |_| FrameHeader { kind: END, len: 0 }.encode().to_vec();
    let cut = |_| FrameHeader { kind: SMALL_BLOB, len: 9 }.encode()[..5].to_vec();
    let breaches: [(&str, Breach<'_>, usize); 5] = [
        ("twice", &twice, 1),
        ("unknown", &unknown, 0),
        ("too long", &long, 0),
        ("out of turn", &kind, 0),
        ("cut", &cut, 0),
    ];
    for (name, breach, answered) in breaches {
        let ((first, mut theirs), (second, mut again)) = (duplex(1 << 16), duplex(1 << 16));
        let mut asking = Asking::over(vec![second, first]);
        for n in 0..3u8 {
            asking.ask(Hash::of(&[n]), n % 2 == 0).await;
        }
        let id = next_request(&mut theirs).await.id;
        next_request(&mut theirs).await;
        next_request(&mut theirs).await;
        theirs.write_all(&breach(id)).await.expect("written");
        drop(theirs);
        for number in 0..3 {
            let end = asking.ended().await;
            let failed = matches!(end.outcome, FetchOutcome::Failed { .. });
            assert_eq!(failed, number >= answered, "{name}: {end:?}");
        }
        asking.ask(Hash::of(b"y"), false).await;
        let request = next_request(&mut again).await;
        let mut frames = Vec::new();
        push_small_blob(request.id, b"y", &mut frames);
        again.write_all(&frames).await.expect("written");
        assert!(matches!(asking.ended().await.outcome, FetchOutcome::Read { size: 1 }), "{name}");
    }
}

/// Text that tells a number.
fn text(number: u32, len: usize) -> Vec<u8> {
    let line = |n: u32| format!("line {n} of file {number}\n").into_bytes();
    (0..).flat_map(line).take(len).collect()
}

#[tokio::test]
async fn many_answers_are_compressed_together_where_the_peer_takes_that() {
    let (_dir, held) = store();
    let texts: Vec<Vec<u8>> = (0..40).map(|n| text(n, 10_000)).collect();
    let hashes: Vec<Hash> = texts.iter().map(|text| add(&held, text)).collect();
    let (mut ours, theirs) = duplex(1 << 20);
    let serving = serve(theirs, held, true);
    let pack = SmallPack { first: 0, takes_lane: false, hashes: hashes.clone() };
    let mut lens = Vec::new();
    for codecs in [Some(Codec::ALL), Some(Codec::Raw.bit()), None] {
        let frame = match codecs {
            Some(codecs) => CodedPack { codecs, pack: pack.clone() }.encode(),
            None => pack.encode(),
        };
        ours.write_all(&frame.expect("encodes")).await.expect("written");
        let (mut came, mut len) = (vec![None; texts.len()], 0);
        while came.iter().any(Option::is_none) {
            let frame = next_frame(&mut ours).await;
            len += frame.body.len();
            let answers = match frame.kind {
                SMALL_BUNDLE => super::answers_in(&frame.body, Longest::Small).expect("right"),
                _ => vec![frame],
            };
            for answer in answers {
                let (id, bytes) = split_small_blob(&answer.body).expect("a number");
                came[usize::try_from(id).expect("small")] = Some(bytes.to_vec());
            }
        }
        assert!(came.iter().zip(&texts).all(|(came, text)| came.as_ref() == Some(text)));
        lens.push(len);
    }
    assert!(lens[0] * 4 < lens[1] && lens[1] == lens[2], "{lens:?}");
    drop(ours);
    serving.await.expect("no panic").expect("a proper end");
}

#[tokio::test]
async fn one_blob_is_not_compressed_though_many_were() {
    let (_dir, held) = store();
    let texts: Vec<Vec<u8>> = (0..10).map(|n| text(n, 10_000)).collect();
    let hashes: Vec<Hash> = texts.iter().map(|text| add(&held, text)).collect();
    let (mut ours, theirs) = duplex(1 << 20);
    serve(theirs, held, true);
    let request = SmallRequest { id: 99, hash: hashes[0] }.encode().expect("encodes");
    let pack = SmallPack { first: 0, takes_lane: false, hashes };
    let pack = CodedPack { codecs: Codec::ALL, pack }.encode().expect("encodes");
    ours.write_all(&pack).await.expect("written");
    assert_eq!(next_frame(&mut ours).await.kind, SMALL_BUNDLE);
    ours.write_all(&request).await.expect("written");
    assert_eq!(next_frame(&mut ours).await.kind, SMALL_BLOB);
}

#[tokio::test]
async fn bundle_is_taken_apart_and_its_blobs_are_verified_each() {
    let (ours, mut theirs) = duplex(1 << 20);
    let mut asking = Asking::new(vec![ours], Packs::Coded);
    let texts: Vec<Vec<u8>> = (0..20).map(|n| text(n, 10_000)).collect();
    for (n, text) in texts.iter().enumerate() {
        asking.ask(Hash::of(text), n % 2 == 0).await;
    }
    let mut ids = Vec::new();
    while ids.len() < texts.len() {
        let frame = next_frame(&mut theirs).await;
        if frame.kind == CODED_PACK {
            let coded: CodedPack = frame.decode().expect("a pack");
            assert_eq!(coded.codecs, Codec::ALL);
            ids.extend(coded.pack.requests().expect("allowed").map(|it| (it.id, it.hash)));
        } else {
            let SmallRequest { id, hash } = frame.decode().expect("a small request");
            ids.push((id, hash));
        }
    }
    let mut answers = Vec::new();
    for (id, hash) in &ids {
        let at = texts.iter().position(|text| Hash::of(text) == *hash).expect("asked for");
        match at {
            3 | 4 => push_small_blob(*id, b"something else", &mut answers),
            5 => {
                let absent = SmallAnswer { id: *id, result: SmallResult::Absent };
                answers.extend(absent.encode().expect("encodes"));
            }
            _ => push_small_blob(*id, &texts[at], &mut answers),
        }
    }
    let mut frame = bundle_head(Codec::Raw, answers.len(), answers.len()).to_vec();
    frame.extend(&answers);
    theirs.write_all(&frame).await.expect("written");
    for _ in 0..texts.len() {
        let End { hash, outcome, .. } = asking.ended().await;
        let at = texts.iter().position(|text| Hash::of(text) == hash).expect("asked for");
        match at {
            3 | 4 => assert!(matches!(outcome, FetchOutcome::WrongBytes { .. }), "{outcome:?}"),
            5 => assert_eq!(outcome, FetchOutcome::Absent),
            _ if at % 2 == 0 => assert_eq!(outcome, FetchOutcome::Complete { size: 10_000 }),
            _ => assert_eq!(outcome, FetchOutcome::Read { size: 10_000 }),
        }
    }
    assert!(asking.store.find(&Hash::of(&texts[4])).expect("find").is_none());
}

#[tokio::test]
async fn bundle_that_breaks_the_rules_fails_all_that_is_out() {
    let bundle = |codec, len, payload: &[u8]| {
        [&bundle_head(codec, len, payload.len())[..], payload].concat()
    };
    let mut answer = Vec::new();
    push_small_blob(0, b"x", &mut answer);
    let (whole, cut) = (bundle(Codec::Raw, answer.len(), &answer), &answer[..answer.len() - 1]);
    let breaches = [
        ("of another length", Packs::Coded, bundle(Codec::Raw, answer.len() + 1, &answer)),
        ("too long", Packs::Coded, bundle(Codec::Zstd, (384 << 10) + 1, &answer)),
        ("not of its codec", Packs::Coded, bundle(Codec::Zstd, 50, &answer)),
        ("cut in a frame", Packs::Coded, bundle(Codec::Raw, cut.len(), cut)),
        ("in a bundle", Packs::Coded, bundle(Codec::Raw, whole.len(), &whole)),
        ("not asked for", Packs::Plain, whole),
    ];
    for (name, packs, breach) in breaches {
        let (ours, mut theirs) = duplex(1 << 16);
        let mut asking = Asking::new(vec![ours], packs);
        asking.ask(Hash::of(b"x"), false).await;
        next_frame(&mut theirs).await;
        theirs.write_all(&breach).await.expect("written");
        let end = asking.ended().await;
        assert!(matches!(end.outcome, FetchOutcome::Failed { .. }), "{name}: {end:?}");
    }
}

#[tokio::test]
async fn peer_that_cannot_be_reached_fails_what_waits_and_is_tried_again() {
    let mut asking = Asking::over(Vec::new());
    for n in 0..3 {
        asking.ask(Hash::of(&[n]), true).await;
    }
    for _ in 0..3 {
        assert!(matches!(asking.ended().await.outcome, FetchOutcome::Failed { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_given_up_and_one_that_owes_nothing_is_not() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut asking = Asking::over(vec![ours]);
    asking.ask(Hash::of(b"1"), false).await;
    let request = next_request(&mut theirs).await;
    let absent = SmallAnswer { id: request.id, result: SmallResult::Absent };
    theirs.write_all(&absent.encode().expect("encodes")).await.expect("written");
    assert_eq!(asking.ended().await.outcome, FetchOutcome::Absent);
    tokio::time::sleep(Duration::from_secs(20)).await;
    asking.ask(Hash::of(b"2"), false).await;
    next_request(&mut theirs).await;
    let asked = tokio::time::Instant::now();
    assert!(matches!(asking.ended().await.outcome, FetchOutcome::Failed { .. }));
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited <= Duration::from_secs(10), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_stream_is_closed_and_the_next_request_opens_another() {
    let ((first, mut theirs), (second, mut again)) = (duplex(1 << 16), duplex(1 << 16));
    let mut asking = Asking::over(vec![second, first]);
    asking.ask(Hash::of(b"1"), false).await;
    let request = next_request(&mut theirs).await;
    let absent = SmallAnswer { id: request.id, result: SmallResult::Absent };
    theirs.write_all(&absent.encode().expect("encodes")).await.expect("written");
    asking.ended().await;
    assert_eq!(theirs.read(&mut [0]).await.expect("read"), 0, "closed after a while");
    asking.ask(Hash::of(b"2"), false).await;
    assert_eq!(next_request(&mut again).await.hash, Hash::of(b"2"));
}

#[tokio::test]
async fn stream_is_ended_that_turns_to_something_else() {
    let (_dir, held) = store();
    let hash = add(&held, b"blob");
    for nonsense in [
        FrameHeader { kind: END, len: 0 }.encode().to_vec(),
        FrameHeader { kind: 0x16, len: 5_000 }.encode().to_vec(),
        FrameHeader { kind: 0x16, len: 0 }.encode().to_vec(),
    ] {
        let (mut ours, theirs) = duplex(1 << 16);
        let serving = serve(theirs, held.clone(), true);
        let request = SmallRequest { id: 9, hash }.encode().expect("encodes");
        ours.write_all(&[&request[..], &nonsense].concat()).await.expect("written");
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).await.expect("read");
        if let Ok(Some(frame)) = FrameReader::new(body_len_max).poll_frame(&mut &heard[..]) {
            assert_eq!(split_small_blob(&frame.body), Ok((9, &b"blob"[..])));
        }
        serving.await.expect("no panic").expect_err("a breach");
    }
}

#[tokio::test(start_paused = true)]
async fn provider_ends_a_stream_that_asks_for_nothing() {
    let (_dir, held) = store();
    let hash = add(&held, b"blob");
    let (mut ours, theirs) = duplex(1 << 16);
    let serving = serve(theirs, held, true);
    ours.write_all(&SmallRequest { id: 1, hash }.encode().expect("encodes"))
        .await
        .expect("written");
    let asked = tokio::time::Instant::now();
    let mut heard = Vec::new();
    ours.read_to_end(&mut heard).await.expect("read");
    assert_eq!(heard.len(), 8 + 4 + 4);
    assert!(asked.elapsed() >= Duration::from_secs(60));
    serving.await.expect("no panic").expect("a proper end");
}
