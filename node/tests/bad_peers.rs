//! Members that misbehave: a get still comes to its blob, nothing wrong is stored, and the node that
//! met them goes on.

#[allow(dead_code, clippy::cast_possible_truncation, reason = "each test file uses its part")]
mod edge_support;
#[allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
mod mesh_support;

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use blobmesh_node::config::EdgeConfig;
use blobmesh_node::control::api::{Answer, PeerRow, Receipt, Request, Trouble};
use blobmesh_protocol::filter::{FilterFrame, OwnFilter};
use blobmesh_protocol::wire::frame;
use blobmesh_protocol::wire::message::{AskResult, BlobHead, BlobRequest, Message, REQUEST};
use edge_support::front::{Front, Upstream};
use futures::FutureExt;
use futures::future::join_all;
use mesh_support::bad_peer::{BadPeer, Conduct, Said, Then, encode, hello};
use mesh_support::blob::Blob;
use mesh_support::detour::Detour;
use mesh_support::misdeeds::{self, Misdeed, Place, Verdict};
use mesh_support::noise::Noise;
use mesh_support::{SOON, TestNode, edge_dir, panics};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How many blobs a bad peer claims to hold. A get may come to its blob before the bad peer has had
/// its chance; then there is another get.
const CHANCES: u32 = 6;
/// How much later each answer of the edge comes.
const EDGE_DELAY: Duration = Duration::from_millis(300);
/// When a peer whose coming the node did not end comes again.
const COMES_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How many times a peer says something senseless.
const BABBLES: u64 = 300;
/// How many meetings are held at once: many, since much of their time they wait for deadlines of
/// seconds, and not so many that a peer which answers at once is late.
static TURNS: Semaphore = Semaphore::const_new(10);

/// Where the blobs are to be had, besides.
enum Elsewhere {
    /// At a neighbour, which answers a little later than the bad peer.
    Neighbour(TestNode, Detour),
    /// At the edge, which answers a little later, too: else it would have brought everything before.
    Edge { front: Front, _dir: TempDir },
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_a_neighbour_when_a_peer_serves_badly() {
    meet_all(misdeeds::in_service(), Source::Neighbour).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_the_edge_when_a_peer_serves_badly() {
    meet_all(misdeeds::in_service(), Source::Edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_a_neighbour_when_a_peer_serves_badly_on_a_lane() {
    meet_all(misdeeds::on_lanes(), Source::Neighbour).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_the_edge_when_a_peer_serves_badly_on_a_lane() {
    meet_all(misdeeds::on_lanes(), Source::Edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_a_neighbour_when_a_peer_speaks_badly() {
    meet_all(in_speech(), Source::Neighbour).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_comes_from_the_edge_when_a_peer_speaks_badly() {
    meet_all(in_speech(), Source::Edge).await;
}

/// Has a peer come until it has seen the node hang up so many times. It sees no end of a connection that is over before it was
/// whole, nor of one whose place another has taken.
async fn turned_away(bad: &BadPeer, node: &TestNode, times: usize) {
    let comes = || async {
        bad.dial(node).await;
        bad.until("turned away", |seen| seen.ends >= times).await;
    };
    let away = async { while timeout(COMES_AGAIN_AFTER, comes()).await.is_err() {} };
    timeout(SOON, away).await.expect("turned away");
}

#[tokio::test(flavor = "multi_thread")]
async fn liar_loses_its_connection_and_is_turned_away_when_it_returns() {
    panics::watch();
    let lie = misdeeds::in_service().into_iter().find(|deed| deed.verdict == Verdict::Banned);
    let lie = lie.expect("wrong bytes are in the table");
    let blobs = [Blob::new(1_000, lie.blob_len), Blob::new(1_001, lie.blob_len)];
    let node = TestNode::start(&[]).await;
    let bad = BadPeer::start(lie.conduct, &blobs).await;
    bad.dial(&node).await;
    node.until(|rows| rows.iter().any(has_filter)).await;
    let failure = node.get(&blobs[0].hash().to_hex()).await.expect_err("a lie");
    assert_eq!(failure.kind, Trouble::WrongBytes, "{failure:?}");
    bad.until("disconnected", |seen| seen.ends == 1).await;
    for returned in 2..5 {
        turned_away(&bad, &node, returned).await;
    }
    // It is no neighbour, so it is neither asked nor fetched from.
    let failure = node.get(&blobs[1].hash().to_hex()).await.expect_err("not there");
    assert_eq!(failure.kind, Trouble::NotFound, "{failure:?}");
    assert_eq!(bad.seen().requested, [blobs[0].hash()]);
    assert_eq!(node.counter("bans").await, 1);
    // Nor is it served, whatever the node holds.
    let mine = node.add(b"not for liars").await.parse().expect("a hash");
    let answer = bad.request(&node, mine).await;
    assert!(matches!(answer, None | Some(BlobHead::Busy { .. })), "{answer:?}");
    assert_eq!(panics::count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbour_that_talks_without_pause_does_not_keep_others_waiting() {
    panics::watch();
    let honest = TestNode::start(&[]).await;
    let node = TestNode::start(&[&honest]).await;
    node.linked(1).await;
    let undisturbed = letting_in(6, &node).await;
    let conduct = Conduct { greet: chatter, ..Conduct::EMPTY_HANDED };
    let bad = BadPeer::start(conduct, &[]).await;
    bad.dial(&node).await;
    bad.until("linked", |seen| seen.links > 0).await;
    for number in 2_000..2_010 {
        let blob = Blob::new(number, 300_000);
        let hash = honest.add(&blob.bytes).await;
        node.hears_of(u64::from(number) - 1_999).await;
        assert_eq!(node.get(&hash).await.expect("got").tier.lan, 300_000);
    }
    // Newcomers are let in, too; each needs its connections and streams to be noticed. The chatter takes
    // processor time, so on a small machine a while more than without it.
    let took = letting_in(6, &node).await;
    assert!(
        took < 10 * undisturbed + SOON / 12,
        "{took:?}, and {undisturbed:?} without the chatter"
    );
    assert!(node.peer(&bad.peer).await.is_some_and(|row| row.neighbour));
    assert_eq!(panics::count(), 0);
}

/// How long it takes until so many newcomers, one after the other, are linked to `node`.
async fn letting_in(newcomers: usize, node: &TestNode) -> Duration {
    let started = Instant::now();
    for _ in 0..newcomers {
        let late = TestNode::start(&[node]).await;
        late.linked(1).await;
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_peer_panics_the_node_or_keeps_it_from_serving() {
    panics::watch();
    let node = TestNode::start(&[]).await;
    let honest = TestNode::start(&[&node]).await;
    honest.linked(1).await;
    let held = Blob::new(3_000, 200_000);
    node.add(&held.bytes).await;
    let bad = BadPeer::start(Conduct::EMPTY_HANDED, &[]).await;
    bad.dial(&node).await;
    bad.until("linked", |seen| seen.links > 0).await;
    let babble = async {
        let (spoken, requested) = frames_about(&held);
        for seed in 0..BABBLES {
            let on_control = seed % 2 == 0;
            let frames = if on_control { &spoken } else { &requested };
            bad.babble(&node, on_control, &Noise::new(seed).mutilate(frames)).await;
        }
    };
    let traded = Cell::new(0);
    let trade = async {
        for number in 3_001.. {
            let blob = Blob::new(number, 100_000);
            let hash = node.add(&blob.bytes).await;
            assert!(got_soon(&honest, &hash).await == blob.bytes, "{number}");
            traded.set(traded.get() + 1);
        }
    };
    tokio::select! {
        () = babble => {}
        () = trade => unreachable!("numbers do not end before"),
    }
    assert!(traded.get() > 0, "nothing was got meanwhile");
    let late = TestNode::start(&[&node]).await;
    late.linked(1).await;
    assert!(got_soon(&late, &held.hash().to_hex()).await == held.bytes);
    assert_eq!(panics::count(), 0);
}

fn in_speech() -> Vec<Misdeed> {
    [misdeeds::in_answers(), misdeeds::in_greetings()].concat()
}

#[derive(Clone, Copy)]
enum Source {
    Neighbour,
    Edge,
}

/// Lets one node meet each misdeed.
async fn meet_all(deeds: Vec<Misdeed>, source: Source) {
    panics::watch();
    let meetings = (0..).zip(deeds).map(|(row, deed)| {
        let meeting = async move {
            let _turn = TURNS.acquire().await.expect("never closed");
            let blobs = blobs_of(row, &deed);
            Meeting::start(deed, &blobs, source).await.hold(&blobs).await;
        };
        // A panic of one would hide what becomes of the others.
        AssertUnwindSafe(meeting).catch_unwind()
    });
    assert!(join_all(meetings).await.iter().all(Result::is_ok), "see above");
    assert_eq!(panics::count(), 0);
}

/// Makes the blobs of one misdeed: one for each chance, and one that the bad peer does not claim.
fn blobs_of(row: u32, deed: &Misdeed) -> Vec<Blob> {
    let number = |chance| row * (CHANCES + 1) + chance;
    let chance = |chance| Blob::new(number(chance), deed.blob_len);
    (0..CHANCES).map(chance).chain([Blob::new(number(CHANCES), 70_000)]).collect()
}

impl Elsewhere {
    async fn with(source: Source, blobs: &[Blob]) -> Self {
        match source {
            Source::Neighbour => {
                let node = TestNode::start(&[]).await;
                for blob in blobs {
                    node.add(&blob.bytes).await;
                }
                let detour = Detour::to(&node).await;
                Self::Neighbour(node, detour)
            }
            Source::Edge => {
                let dir = tempfile::tempdir().expect("a directory");
                let bytes: Vec<&[u8]> = blobs.iter().map(|blob| &blob.bytes[..]).collect();
                edge_dir(dir.path(), &bytes);
                let front = Front::start(Upstream::Folder(dir.path().to_owned())).await;
                front.delay(EDGE_DELAY);
                Self::Edge { front, _dir: dir }
            }
        }
    }
}

/// One node, one bad peer, and the one who has the blob.
struct Meeting {
    deed: Misdeed,
    node: TestNode,
    bad: BadPeer,
    elsewhere: Elsewhere,
}

impl Meeting {
    /// Brings them together: the bad peer is dialled by the node, or where it is the greeting that is
    /// bad, dials it, so that a link that was lost stays lost.
    async fn start(deed: Misdeed, blobs: &[Blob], source: Source) -> Self {
        let elsewhere = Elsewhere::with(source, blobs).await;
        let bad = BadPeer::start(deed.conduct, &blobs[..blobs.len() - 1]).await;
        let dials = deed.place == Place::Greeting;
        let node = TestNode::start_with(&[], |config| {
            // Asked for the blob itself the neighbour would be too fast: the bad peer is asked by question.
            config.small_per_peer_max = 0;
            match &elsewhere {
                Elsewhere::Neighbour(_, detour) => config.peers.push(detour.address()),
                Elsewhere::Edge { front, .. } => {
                    config.edge = Some(EdgeConfig::Public { url: front.url() });
                }
            }
            if !dials {
                config.peers.push(bad.address());
            }
        })
        .await;
        if let Elsewhere::Neighbour(..) = &elsewhere {
            node.linked(if dials { 1 } else { 2 }).await;
        }
        if dials {
            bad.dial(&node).await;
            // Some are heard, and let go, before the node has said a word.
            bad.until(deed.what, |seen| seen.links > 0 || seen.ends > 0).await;
        } else {
            node.until(|rows| rows.iter().any(|row| row.peer == bad.peer && has_filter(row))).await;
        }
        Self { deed, node, bad, elsewhere }
    }

    async fn hold(self, blobs: &[Blob]) {
        let what = self.deed.what;
        let (untouched, claimed) = blobs.split_last().expect("more than the chances");
        let mut met = false;
        for blob in claimed {
            self.get(blob).await;
            met = self.has_misbehaved(blob).await;
            if met {
                break;
            }
        }
        assert!(met, "{what}: the bad peer never had its chance");
        self.judge().await;
        self.get(untouched).await;
        self.serve().await;
        self.check_store().await;
        self.node.stop().await;
    }

    /// Gets a blob, which must come whole and from elsewhere.
    async fn get(&self, blob: &Blob) {
        let (what, hash) = (self.deed.what, blob.hash().to_hex());
        let receipt = self.node.get(&hash).await;
        let receipt = receipt.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
        assert!(self.is_from_elsewhere(&receipt), "{what}: {receipt:?}");
        assert_eq!(receipt.size, Some(blob.list.size()), "{what}");
        assert!(self.node.cat(&hash).await == blob.bytes, "{what}: other bytes");
    }

    fn is_from_elsewhere(&self, receipt: &Receipt) -> bool {
        let rows = || receipt.fetches.iter();
        let last = rows().find(|row| row.outcome == "complete");
        // Another attempt at the bad peer may begin when all is stored already, and end well with nothing.
        let last = last.filter(|row| row.bytes > 0).or_else(|| rows().max_by_key(|row| row.bytes));
        match &self.elsewhere {
            Elsewhere::Neighbour(honest, _) => {
                last.is_some_and(|row| row.source == honest.node.peer_id())
            }
            Elsewhere::Edge { .. } => last.is_some_and(|row| row.source == "edge"),
        }
    }

    /// Returns whether the bad peer had its chance, and the node saw it to the end: what a faster source
    /// makes needless is neither waited for nor counted.
    async fn has_misbehaved(&self, blob: &Blob) -> bool {
        let seen = self.bad.seen();
        let met = match self.deed.place {
            Place::Greeting => return true,
            Place::Answer => seen.asked.contains(&blob.hash()),
            Place::Service => seen.requested.contains(&blob.hash()),
        };
        let banned = self.deed.verdict != Verdict::Banned || self.node.counter("bans").await > 0;
        met && banned && self.has_counted().await
    }

    async fn has_counted(&self) -> bool {
        match self.deed.counted {
            Some(counter) => self.node.counter(counter).await > 0,
            None => true,
        }
    }

    /// Checks what the node makes of the bad peer.
    async fn judge(&self) {
        let deed = &self.deed;
        let linked = async || self.node.peer(&self.bad.peer).await.is_some_and(|row| row.neighbour);
        match deed.verdict {
            Verdict::Kept => self.soon("kept", linked).await,
            Verdict::Banned | Verdict::Dropped => {
                self.soon("dropped", async || !linked().await).await;
            }
            Verdict::PassedOver => {}
        }
        if deed.verdict != Verdict::PassedOver {
            let bans = u64::from(deed.verdict == Verdict::Banned);
            assert_eq!(self.node.counter("bans").await, bans, "{}", deed.what);
        }
        self.soon("counted", async || self.has_counted().await).await;
    }

    /// Checks that the node still gives others what it holds.
    async fn serve(&self) {
        let mine = format!("only the node that met {}", self.deed.what).into_bytes();
        let hash = self.node.add(&mine).await;
        let Elsewhere::Neighbour(honest, _) = &self.elsewhere else {
            assert!(self.node.cat(&hash).await == mine, "{}", self.deed.what);
            return;
        };
        assert!(got_soon(honest, &hash).await == mine, "{}", self.deed.what);
    }

    /// Checks that every blob of the store is what its name says.
    async fn check_store(&self) {
        let verified = self.node.ask(Request::Verify { hashes: Vec::new() }).await;
        let Ok(Answer::Verified { bad, .. }) = verified else { panic!("{verified:?}") };
        assert_eq!(bad, [""; 0], "{}", self.deed.what);
    }

    async fn soon(&self, what: &str, ready: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + SOON;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !ready().await {
            assert!(Instant::now() < deadline, "{}: not in time: {what}", self.deed.what);
            pace.tick().await;
        }
    }
}

/// Answers questions that nobody asked, as fast as it is heard.
fn chatter(filter: FilterFrame) -> Said {
    let bytes = [hello(), encode(&Message::Filter(filter))].concat();
    let answer = encode(&Message::Answer { id: 7, result: AskResult::Have { size: 1 } });
    Said { bytes, then: Then::Flood(answer.repeat(1_000)) }
}

/// Returns what may be said on a control stream, and on a blob stream, each frame by itself.
fn frames_about(blob: &Blob) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut filter = OwnFilter::build(1, [blob.hash().prefix()].into_iter());
    let told = filter.frame().expect("not too full");
    filter.insert(*b"a prefix");
    let messages = [
        Message::Filter(told),
        Message::FilterDelta(filter.delta_since(1, 0).expect("of this generation")),
        Message::FilterRequest,
        Message::Ask { id: 3, hash: blob.hash() },
        Message::Answer { id: 0, result: AskResult::Have { size: 9 } },
        Message::Goodbye,
    ];
    let spoken = messages.iter().map(|message| [hello(), encode(message)].concat()).collect();
    let request = |runs: &[(u64, u64)], with_list| {
        let request = BlobRequest { hash: blob.hash(), with_list, codecs: 3, runs: runs.to_vec() };
        frame::encode(REQUEST, &request).expect("encodes")
    };
    let requested = [request(&[], true), request(&[(0, 1), (2, 2)], false), blob.list_frame()];
    (spoken, requested.into())
}

/// Gets a blob that the node may not have heard of yet, and returns its bytes.
async fn got_soon(node: &TestNode, hash: &str) -> Vec<u8> {
    let deadline = Instant::now() + SOON;
    while let Err(failure) = node.get(hash).await {
        assert_eq!(failure.kind, Trouble::NotFound, "{failure:?}");
        assert!(Instant::now() < deadline, "{failure:?}");
    }
    node.cat(hash).await
}

fn has_filter(row: &PeerRow) -> bool {
    row.filter_blobs.is_some()
}
