//! A service that plays the running node of a home, so that the face can be tested without the rest.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use blobmesh_node::control::api::{
    Answer, AskedRow, BlobRow, Event, Exchange, Failure, GotRow, Input, PeerRow, Phases, Progress,
    PushReport, Receipt, Request, Status, TierBytes, Trouble,
};
use blobmesh_node::control::{Listener, Service, serve};
use blobmesh_protocol::Hash;
use tokio::runtime::Runtime;

use super::Place;

/// A blob that the fake node gets from a peer.
pub(crate) const FOUND: &str = "3f9a1c20be00000000000000000000000000000000000000000000000000beef";
/// A blob that nobody has.
pub(crate) const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// A blob whose get never ends.
pub(crate) const NEVER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
/// A list of so many blobs ends with a failure, after all its rows.
pub(crate) const BREAKS_AFTER: u64 = 12;
/// The bytes of `FOUND`, as `cat` gives them; longer than a pipe holds.
pub(crate) const LEN: usize = 300_000;

pub(crate) const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

/// The running node of a place, until it is dropped.
pub(crate) struct FakeNode {
    /// What the node was asked, and `cancelled` for a get of `NEVER` that was given up.
    pub(crate) asked: Receiver<String>,
    _runtime: Runtime,
}

impl FakeNode {
    pub(crate) fn start(place: &Place) -> Self {
        std::fs::create_dir_all(place.home()).unwrap();
        let runtime = Runtime::new().unwrap();
        let socket = place.home().join("control.sock");
        let listener = runtime.block_on(Listener::bind(&socket)).unwrap();
        let (tell, asked) = channel();
        runtime.spawn(serve(listener, Arc::new(Fake { tell, home: place.home() }), pending()));
        Self { asked, _runtime: runtime }
    }
}

pub(crate) fn bytes() -> Vec<u8> {
    (0..=250).cycle().take(LEN).collect()
}

struct Fake {
    tell: Sender<String>,
    home: PathBuf,
}

struct TellOnDrop(Sender<String>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.send("cancelled".to_owned()).ok();
    }
}

impl Service for Fake {
    async fn handle(&self, request: Request, mut exchange: Exchange) -> Result<Answer, Failure> {
        self.tell.send(serde_json::to_string(&request).unwrap()).ok();
        match request {
            Request::Add { path, .. } => {
                let mut bytes = path.map(|path| std::fs::read(path).unwrap()).unwrap_or_default();
                // One that is added by its path has no input.
                while let Some(Ok(Input::Bytes(piece))) = exchange.input.recv().await {
                    bytes.extend_from_slice(&piece);
                }
                let hash = Hash::of(&bytes).to_hex();
                Ok(Answer::Added { hash, size: bytes.len() as u64, existed: false })
            }
            Request::AddTree { .. } => Ok(Answer::AddedTree(Box::default())),
            Request::Tree { .. } => Ok(Answer::Tree { entries: Vec::new() }),
            Request::GetMany { hashes, .. } => self.get_many(hashes, &exchange).await,
            Request::Get { hash, .. } => self.get(hash, &exchange).await,
            Request::Cat { hash, .. } => {
                for piece in bytes().chunks(64 << 10) {
                    let sent = exchange.events.send(Event::Bytes(piece.to_vec().into())).await;
                    sent.map_err(|_| Failure::new(Trouble::Interrupted, "hung up"))?;
                }
                self.get(hash, &exchange).await
            }
            Request::Checkout { .. } => Ok(Answer::CheckedOut(Box::default())),
            Request::Pull { .. } => Ok(Answer::Pulled(Box::default())),
            Request::Has { hashes } => Ok(Answer::Has {
                sizes: hashes.iter().map(|hash| (hash == FOUND).then_some(LEN as u64)).collect(),
            }),
            Request::List => Ok(Answer::List { blobs: vec![row()] }),
            Request::Remove { hashes, .. } => {
                Ok(Answer::Removed { bytes: LEN as u64, blobs: hashes.len() as u64 })
            }
            Request::Pin { .. } | Request::Unpin { .. } => Ok(Answer::Done),
            Request::Push { hashes, .. } if hashes.len() > 1 => {
                Ok(Answer::Pushed(Box::new(pushed())))
            }
            Request::Push { .. } => Err(Failure::new(
                Trouble::EdgeNotPublic,
                "the edge refused the request (400 InvalidArgument)",
            )),
            Request::Peers => Ok(Answer::Peers { peers: vec![peer()] }),
            Request::Status => Ok(Answer::Status(Box::new(self.status()))),
            Request::Why { hash } => Ok(Answer::Why(Box::new(receipt(hash)))),
            Request::Prefetch { .. } => Ok(Answer::Prefetching { before: 0 }),
            Request::Savings => Ok(Answer::Savings { days: Vec::new() }),
            Request::Verify { .. } => {
                Ok(Answer::Verified { blobs: 2, bytes: 8, bad: vec![NEVER.to_owned()] })
            }
            Request::Gc => Ok(Answer::Collected { blobs: 3, bytes: 3 << 20 }),
        }
    }
}

impl Fake {
    async fn get(&self, hash: String, exchange: &Exchange) -> Result<Answer, Failure> {
        for (phase, done) in [("find", 0), ("lan", LEN as u64)] {
            let phase = phase.to_owned();
            let progress = Progress { phase, done, total: Some(LEN as u64), peers: 1, files: None };
            exchange.events.send(Event::Progress(progress)).await.ok();
        }
        match hash.as_str() {
            NOBODY => Err(Failure::new(Trouble::NotFound, "blob 0000000000 was not found")
                .cause("local: absent")
                .cause("lan: asked 0 of 2 peers: both filters rule it out")
                .cause("edge: 404")),
            NEVER => {
                let _tell = TellOnDrop(self.tell.clone());
                pending().await
            }
            _ => Ok(Answer::Got(Box::new(receipt(hash)))),
        }
    }

    /// Tells of those before `NEVER`, each by itself, and then of no other.
    async fn get_many(&self, hashes: Vec<String>, exchange: &Exchange) -> Result<Answer, Failure> {
        let (mut got, mut failed) = (0, 0);
        for hash in hashes {
            let answer = self.get(hash.clone(), exchange).await;
            let failure = answer.err();
            *(if failure.is_some() { &mut failed } else { &mut got }) += 1;
            let lan = if failure.is_some() { 0 } else { LEN as u64 };
            let row = GotRow {
                hash,
                size: failure.is_none().then_some(lan),
                found: if failure.is_some() { "none" } else { "lan" }.to_owned(),
                tier: TierBytes { lan, ..TierBytes::default() },
                seconds: 0.041,
                failure,
            };
            exchange.events.send(Event::Got(vec![row])).await.ok();
        }
        if got + failed == BREAKS_AFTER {
            return Err(Failure::new(Trouble::StoreDamaged, "the store is damaged"));
        }
        let tier = TierBytes { lan: got * LEN as u64, ..TierBytes::default() };
        Ok(Answer::GotMany { got, failed, tier, seconds: 0.5 })
    }

    fn status(&self) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 4711,
            peer: PEER.to_owned(),
            addresses: ["127.0.0.1", "192.168.1.5"].map(|ip| format!("/ip4/{ip}/tcp/4701")).into(),
            uptime_s: 61,
            home: self.home.clone(),
            mesh: Some("00112233aabbccdd".to_owned()),
            edge: None,
            mdns: true,
            peers: 1,
            blobs: 1,
            bytes: LEN as u64,
            bytes_max: 50 << 30,
            counters: vec![("gets".to_owned(), 7)],
        }
    }
}

fn pushed() -> PushReport {
    let failure = Failure::new(Trouble::Unreachable, "blob 0000000000 did not go up");
    let failures = vec![failure.cause("the edge did not answer in time")];
    PushReport { uploaded: 1, failed: 1, failures, ..PushReport::default() }
}

fn row() -> BlobRow {
    BlobRow {
        hash: FOUND.to_owned(),
        size: LEN as u64,
        pinned: true,
        origin: "added".to_owned(),
        accessed: 0,
    }
}

fn peer() -> PeerRow {
    PeerRow {
        peer: PEER.to_owned(),
        address: "/ip4/192.168.1.6/tcp/4701".to_owned(),
        neighbour: true,
        filter_blobs: Some(12),
        rtt_us: Some(420),
        bytes_in: LEN as u64,
        bytes_out: 0,
    }
}

fn receipt(hash: String) -> Receipt {
    Receipt {
        hash,
        size: Some(LEN as u64),
        found: "lan".to_owned(),
        tier: TierBytes { local: 0, lan: LEN as u64, edge: 0 },
        seconds: 0.041,
        phases: Phases { transfer_s: 0.04, ..Phases::default() },
        neighbours: 2,
        asked: vec![AskedRow { peer: PEER.to_owned(), answer: "have".to_owned(), ms: 0.4 }],
        skipped: vec!["12D3other".to_owned()],
        ..Receipt::default()
    }
}
