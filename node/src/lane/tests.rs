//! Both ends of lanes over loopback, and whoever else comes to a lane port.

mod warm;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN, GroupList, group_count};
use blobmesh_protocol::wire::frame;
use blobmesh_protocol::wire::lane::LaneOpen;
use blobmesh_protocol::wire::message::{BlobHead, BlobRequest, HEAD, LANE_OPEN, REQUEST};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::dialled::{Dialled, Received};
use super::wait::Patience;
use super::*;
use crate::store::{Store, StoreConfig};
use crate::transfer::{FetchError, Meter};

const GROUP: usize = 64 * 1024;
/// How long anything may take that should come soon.
const SOON: Duration = Duration::from_secs(20);

/// A node that holds one blob and serves it over lanes.
struct Holder {
    lanes: OpenLanes,
    peer: PeerId,
    list: Arc<GroupList>,
    bytes: Vec<u8>,
    admitted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
    store: Store,
    _dir: TempDir,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Says how a holder admits.
#[derive(Clone)]
enum Mode {
    Everybody,
    Nobody,
    /// Nobody either, and says so only when the other end of a channel is dropped.
    Undecided(Arc<Mutex<mpsc::Receiver<()>>>),
}

struct Gate {
    admitted: Arc<AtomicUsize>,
    mode: Mode,
}

struct Pass;

impl Slot for Pass {
    fn sent(&mut self, _: u64) {}
}

impl Admission for Gate {
    type Slot = Pass;

    fn admit(&mut self) -> Result<Pass, Option<Duration>> {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        match &self.mode {
            Mode::Everybody => Ok(Pass),
            Mode::Nobody => Err(Some(Duration::from_secs(1))),
            Mode::Undecided(ended) => {
                lock(ended).recv().ok();
                Err(None)
            }
        }
    }
}

fn config() -> LaneConfig {
    LaneConfig { bytes_min: 0, buffer_bytes_max: 16 << 20, upload: UploadRate::default() }
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[3; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

impl Holder {
    fn start(bytes: Vec<u8>, mode: Mode) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = StoreConfig::new(dir.path().join("store"), 1 << 30, 1 << 30);
        let store = Store::open(store).expect("opens").0;
        let mut writer = store.add_writer().expect("a writer");
        writer.write(&bytes).expect("written");
        writer.finish().expect("added");
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        let identity = Identity::generate().expect("random bytes");
        let loopback = [IpAddr::from([127, 0, 0, 1])];
        let (mut listeners, port) = bind(&loopback, 0).expect("a port");
        let lanes = Lanes::new(&identity, config(), port).expect("a key");
        let admitted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&admitted);
        let gate = move |_| Gate { admitted: Arc::clone(&counted), mode: mode.clone() };
        let listener = listeners.pop().expect("one address");
        let accepting = tokio::spawn(lanes.clone().accept(listener, store.clone(), gate));
        let list = Arc::new(hasher.finish());
        let (lanes, peer) = (OpenLanes(lanes), identity.peer());
        Self { lanes, peer, list, bytes, admitted, accepting, store, _dir: dir }
    }

    fn offer(&self, to: &Getter) -> LaneOffer {
        self.lanes.0.offer(to.peer, u64::MAX).expect("an offer")
    }

    /// Offers lanes to a getter.
    fn door(&self, to: &Getter) -> Door {
        Door::Offer { host: "127.0.0.1".to_owned(), offer: self.offer(to) }
    }

    /// Says that everything is wanted.
    fn work(&self) -> Work {
        Work {
            peer: self.peer,
            list: Arc::clone(&self.list),
            ranges: std::iter::once(0..group_count(self.list.size())).collect(),
            meter: Arc::new(Meter::default()),
        }
    }

    fn port(&self) -> u16 {
        self.lanes.0.0.port.expect("listens")
    }

    fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(("127.0.0.1", self.port())).expect("connects");
        tcp.set_read_timeout(Some(SOON)).expect("a timeout");
        tcp
    }

    fn places(&self) -> usize {
        lock(&self.lanes.0.0.accepted).lanes.len()
    }

    /// Waits until no lane and no half of one is left.
    async fn is_quiet(&self) {
        soon("quiet", || {
            self.places() == 0 && self.lanes.0.0.pending.available_permits() == PENDING_MAX
        })
        .await;
    }
}

/// A node that fetches.
struct Getter {
    lanes: Lanes,
    peer: PeerId,
}

impl Getter {
    fn new() -> Self {
        let identity = Identity::generate().expect("random bytes");
        let lanes = Lanes::new(&identity, config(), None).expect("a key");
        Self { lanes, peer: identity.peer() }
    }

    /// Fetches, and returns what came and how it ended.
    async fn fetch(&self, work: Work, door: Door) -> (Vec<u8>, Result<(), LaneEnd>) {
        let size = usize::try_from(work.list.size()).expect("small");
        let got = Arc::new(Mutex::new(vec![0; size]));
        let to = Arc::clone(&got);
        let result = self.lanes.fetch(work, door, move |run| {
            put(&mut lock(&to), &run);
            Ok(())
        });
        let result = tokio::time::timeout(SOON, result).await.expect("an end in time");
        let got = lock(&got).clone();
        (got, result)
    }

    /// Opens a lane by hand, shows a token, asks for everything, and returns what comes; none where the
    /// handshake fails.
    fn ask(&self, holder: &Holder, token: LaneToken) -> Option<Vec<u8>> {
        self.ask_for(holder, token, Vec::new())
    }

    /// Does the same for these runs of groups.
    fn ask_for(&self, holder: &Holder, token: LaneToken, runs: Vec<(u64, u64)>) -> Option<Vec<u8>> {
        let stop = AtomicBool::new(false);
        let patience = Patience { stop: &stop, deadline: Instant::now() + SOON };
        let tls = self.lanes.0.tls.connect(holder.peer).ok()?;
        let lane = Dialled::open(tls, holder.peer, ("127.0.0.1", holder.port()), patience);
        let mut lane = lane.ok()?;
        let request = BlobRequest { hash: holder.list.hash(), with_list: false, codecs: 1, runs };
        lane.queue(&frame::encode(LANE_OPEN, &LaneOpen { token }).ok()?);
        lane.queue(&frame::encode(REQUEST, &request).ok()?);
        let mut heard = Vec::new();
        loop {
            assert!(patience.check().is_ok(), "no end in time");
            let take = |bytes: &[u8]| {
                heard.extend_from_slice(bytes);
                Ok(())
            };
            match lane.receive(patience, take) {
                Ok(Received::End) | Err(_) => return Some(heard),
                Ok(_) if heard.len() > holder.bytes.len() => return Some(heard),
                Ok(_) => {}
            }
        }
    }
}

fn put(bytes: &mut [u8], run: &Run) {
    let start = usize::try_from(run.groups().start * GROUP_LEN).expect("small");
    bytes[start..start + run.bytes().len()].copy_from_slice(run.bytes());
}

async fn soon(what: &str, ready: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !ready() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pace.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_boundary_sizes_come_whole_over_lanes() {
    for size in [GROUP + 1, 16 * GROUP, 64 * GROUP, 64 * GROUP + 1, 300 * GROUP + 77] {
        for bytes in [noise(size), vec![b'a'; size]] {
            let (holder, getter) = (Holder::start(bytes, Mode::Everybody), Getter::new());
            let (got, result) = getter.fetch(holder.work(), holder.door(&getter)).await;
            result.expect("fetched");
            assert!(got == holder.bytes, "{size}");
            drop(getter);
            holder.is_quiet().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_ranges_asked_for_come() {
    let (holder, getter) = (Holder::start(noise(200 * GROUP), Mode::Everybody), Getter::new());
    let meter = Arc::new(Meter::default());
    let ranges = vec![3..4, 60..70, 199..200];
    let work = Work { ranges, meter: Arc::clone(&meter), ..holder.work() };
    let (got, result) = getter.fetch(work, holder.door(&getter)).await;
    result.expect("fetched");
    for group in 0..200 {
        let wanted = group == 3 || (60..70).contains(&group) || group == 199;
        let part = group * GROUP..(group + 1) * GROUP;
        assert_eq!(got[part.clone()] == holder.bytes[part], wanted, "{group}");
    }
    assert!(meter.read().lanes >= 1, "they came over lanes");
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_without_a_token_gets_nothing() {
    let (holder, getter, stranger) =
        (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new(), Getter::new());
    let offer = holder.offer(&getter);
    // The stranger has seen the token, and even so is refused: it was made for another key.
    let refused = stranger.ask(&holder, offer.tokens[0]);
    assert!(refused.is_none_or(|heard| heard.is_empty()));
    // With a token of its own, the other's still opens nothing.
    holder.offer(&stranger);
    assert_eq!(stranger.ask(&holder, offer.tokens[0]).expect("a handshake"), [0u8; 0]);
    assert_eq!(holder.admitted.load(Ordering::Relaxed), 0);
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_about_a_part_of_a_blob_is_answered_before_anything_is_read() {
    let (mut holder, getter) = (Holder::start(noise(9), Mode::Everybody), Getter::new());
    let bytes = noise(GROUP * 3);
    let mut hasher = BlobHasher::new();
    hasher.update(&bytes);
    let list = hasher.finish();
    let partial = holder.store.partial(list.clone()).expect("a partial");
    partial.write_group(2, &bytes[GROUP * 2..]).expect("right bytes");
    // The first byte that is heard is enough.
    (holder.list, holder.bytes) = (Arc::new(list), Vec::new());
    let absent = frame::encode(HEAD, &BlobHead::Absent).expect("encodes");
    for runs in [vec![(3, 0)], vec![(2, 1), (2, 1)], vec![(u64::MAX, 2)]] {
        let offer = holder.offer(&getter);
        let heard = getter.ask_for(&holder, offer.tokens[0], runs.clone());
        assert_eq!(heard.as_ref(), Some(&absent), "{runs:?}");
    }
    let offer = holder.offer(&getter);
    let heard = getter.ask_for(&holder, offer.tokens[0], vec![(2, 1)]).expect("a lane");
    assert!(!heard.starts_with(&absent), "what is right is served");
    drop(partial);
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_opens_no_second_lane_and_a_guess_opens_none() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new());
    let offer = holder.offer(&getter);
    let guess = LaneToken::from_bytes([9; 16]);
    assert_eq!(getter.ask(&holder, guess).expect("a handshake"), [0u8; 0]);
    assert!(getter.ask(&holder, offer.tokens[0]).expect("a lane").len() > GROUP * 2);
    assert_eq!(getter.ask(&holder, offer.tokens[0]).expect("a handshake"), [0u8; 0], "replayed");
    assert_eq!(holder.admitted.load(Ordering::Relaxed), 1);
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_with_another_key_is_refused_and_its_lanes_are_avoided() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new());
    let someone = Getter::new().peer;
    let work = Work { peer: someone, ..holder.work() };
    let (_, result) = getter.fetch(work, holder.door(&getter)).await;
    let end = result.expect_err("not whom it dialled");
    assert!(end.is_of_the_way(), "{:?}", end.error);
    assert!(matches!(&end.rest[..], [rest] if *rest == (0..2)), "{:?}", end.rest);
    assert!(!getter.lanes.takes(someone) && getter.lanes.takes(holder.peer));
    assert_eq!(holder.admitted.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_provider_says_so_on_the_lane() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Nobody), Getter::new());
    let (_, result) = getter.fetch(holder.work(), holder.door(&getter)).await;
    let end = result.expect_err("busy");
    let asked = Duration::from_secs(1);
    assert!(matches!(end.error, FetchError::Busy { retry_after } if retry_after == asked));
    assert!(getter.lanes.takes(holder.peer), "the lane did its work");
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_blob_is_absent_on_a_lane() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new());
    let mut other = BlobHasher::new();
    other.update(&vec![1; 3 * GROUP]);
    let work = Work { list: Arc::new(other.finish()), ..holder.work() };
    let (_, result) = getter.fetch(work, holder.door(&getter)).await;
    assert!(matches!(result.expect_err("absent").error, FetchError::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_has_so_many_lanes_and_is_offered_no_more() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new());
    let mut tokens = Vec::new();
    while tokens.len() <= OF_PEER_MAX {
        tokens.extend(holder.offer(&getter).tokens);
    }
    let stop = AtomicBool::new(false);
    let patience = Patience { stop: &stop, deadline: Instant::now() + SOON };
    let mut open = Vec::new();
    for (number, token) in tokens.into_iter().take(OF_PEER_MAX + 1).enumerate() {
        let tls = getter.lanes.0.tls.connect(holder.peer).expect("a key");
        let mut lane = Dialled::open(tls, holder.peer, ("127.0.0.1", holder.port()), patience)
            .expect("a handshake");
        lane.queue(&frame::encode(LANE_OPEN, &LaneOpen { token }).expect("encodes"));
        if number < OF_PEER_MAX {
            assert_eq!(lane.receive(patience, |_| Ok(())).expect("open"), Received::Nothing);
            open.push(lane);
            continue;
        }
        let ended = std::iter::repeat_with(|| lane.receive(patience, |_| Ok(())));
        let ended = ended.take_while(|_| patience.check().is_ok());
        assert!(ended.into_iter().any(|end| !matches!(end, Ok(Received::Nothing))), "closed");
    }
    assert_eq!(holder.lanes.0.offer(getter.peer, u64::MAX), None);
    // A ban ends them all.
    holder.lanes.0.drop_peer(getter.peer);
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_few_and_do_not_stay() {
    let holder = Holder::start(noise(GROUP * 2), Mode::Everybody);
    let silent: Vec<TcpStream> = (0..PENDING_MAX).map(|_| holder.connect()).collect();
    soon("all pending", || holder.places() == PENDING_MAX).await;
    let mut late = holder.connect();
    // One more is closed without a word.
    assert_eq!(late.read(&mut [0; 1]).unwrap_or(0), 0);
    // The others are given up after their deadline, not held by a byte now and then.
    for mut stream in silent {
        stream.write_all(&[0x16]).expect("half a header");
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    holder.is_quiet().await;
    let getter = Getter::new();
    let (got, result) = getter.fetch(holder.work(), holder.door(&getter)).await;
    result.expect("fetched");
    assert!(got == holder.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_is_closed_and_nothing_is_left_of_it() {
    let holder = Holder::start(noise(GROUP * 2), Mode::Everybody);
    let oversized = [&[0x16, 3, 1, 0x3f, 0xff][..], &[1; 20_000]].concat();
    let endless_hello = [&[0x16, 3, 1, 0x3f, 0xff, 1, 0xff, 0xff, 0xff][..], &[0; 16_379]].concat();
    for bytes in [
        noise(70_000),
        vec![0; 100_000],
        oversized,
        endless_hello,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut tcp = holder.connect();
        // The node may hang up at any byte.
        tcp.write_all(&bytes).ok();
        tcp.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).ok();
        assert!(answer.len() < 4_096, "{} bytes for garbage", answer.len());
    }
    holder.is_quiet().await;
    assert_eq!(holder.admitted.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_behind_the_handshake_ends_the_lane() {
    let (holder, getter) = (Holder::start(noise(GROUP * 2), Mode::Everybody), Getter::new());
    let long = [&[REQUEST, 1, 0, 0][..], &u32::MAX.to_le_bytes()].concat();
    let unknown = [0x7f, 1, 0, 0, 0, 0, 0, 0].to_vec();
    let unasked = frame::encode(LANE_OPEN, &LaneOpen { token: LaneToken::from_bytes([0; 16]) });
    for garbage in [noise(5_000), long, unknown, unasked.expect("encodes")] {
        for with_token in [false, true] {
            let token = holder.offer(&getter).tokens[0];
            let stop = AtomicBool::new(false);
            let patience = Patience { stop: &stop, deadline: Instant::now() + SOON };
            let tls = getter.lanes.0.tls.connect(holder.peer).expect("a key");
            let mut lane = Dialled::open(tls, holder.peer, ("127.0.0.1", holder.port()), patience)
                .expect("a handshake");
            if with_token {
                lane.queue(&frame::encode(LANE_OPEN, &LaneOpen { token }).expect("encodes"));
            }
            lane.queue(&garbage);
            let mut ends = std::iter::repeat_with(|| lane.receive(patience, |_| Ok(())))
                .take_while(|_| patience.check().is_ok());
            assert!(ends.any(|end| !matches!(end, Ok(Received::Nothing))), "not closed");
            holder.lanes.0.drop_peer(getter.peer);
            holder.is_quiet().await;
        }
    }
    assert_eq!(holder.admitted.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_fetch_stops_its_lanes_at_both_ends() {
    let (undecided, ended) = mpsc::channel();
    let mode = Mode::Undecided(Arc::new(Mutex::new(ended)));
    let (holder, getter) = (Holder::start(noise(40 * GROUP), mode), Getter::new());
    let state = Arc::new(());
    let weak = Arc::downgrade(&state);
    let fetch = getter.lanes.fetch(holder.work(), holder.door(&getter), move |_| {
        let _alive = &state;
        Ok(())
    });
    tokio::select! {
        biased;
        _ = fetch => unreachable!("nothing is served"),
        () = soon("asked", || holder.admitted.load(Ordering::Relaxed) > 0) => {}
    }
    soon("stopped", || weak.upgrade().is_none()).await;
    drop(undecided);
    holder.is_quiet().await;
}

/// Lets two ends shake hands, and returns what each makes of it.
fn shake_hands(server: &Tls, client: &Tls, dialled: PeerId) -> (bool, Option<PeerId>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (stop, deadline) = (AtomicBool::new(false), Instant::now() + SOON);
    let patience = Patience { stop: &stop, deadline };
    std::thread::scope(|threads| {
        let accepted = threads.spawn(|| {
            let (tcp, _) = listener.accept().expect("a connection");
            let tls = server.accept().expect("a key");
            accepted::Accepted::open(tcp, tls, patience).ok().map(|(_, peer)| peer)
        });
        let tls = client.connect(dialled).expect("a key");
        let dialled = Dialled::open(tls, dialled, ("127.0.0.1", port), patience);
        (dialled.is_ok(), accepted.join().expect("no panic"))
    })
}

#[test]
fn handshake_proves_both_keys_or_fails() {
    let [us, them] = [(); 2].map(|()| Identity::generate().expect("random bytes"));
    let everybody = |identity| Tls::new(identity, |_| true).expect("a key");
    let nobody = |identity| Tls::new(identity, |_| false).expect("a key");
    let (ours, theirs) = (everybody(&us), everybody(&them));
    assert_eq!(shake_hands(&theirs, &ours, them.peer()), (true, Some(us.peer())));
    // A peer that is not expected is refused by its key, before it can say anything.
    assert_eq!(shake_hands(&nobody(&them), &ours, them.peer()).1, None);
    // Whoever is not the peer that was dialled does not get as far as to learn who dialled.
    assert_eq!(shake_hands(&theirs, &ours, us.peer()), (false, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_fails_ends_the_fetch() {
    let (holder, getter) = (Holder::start(noise(40 * GROUP), Mode::Everybody), Getter::new());
    let (work, door) = (holder.work(), holder.door(&getter));
    let result = getter.lanes.fetch(work, door, |_| Err(FetchError::Worker)).await;
    assert!(matches!(result.expect_err("nothing is stored").error, FetchError::Worker));
    holder.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_are_closed_take_nobody() {
    let (holder, getter) = (Holder::start(noise(2 * GROUP), Mode::Everybody), Getter::new());
    let door = holder.door(&getter);
    holder.lanes.0.close();
    let (_, result) = getter.fetch(holder.work(), door).await;
    assert!(result.expect_err("closed").is_of_the_way());
    holder.is_quiet().await;
}
