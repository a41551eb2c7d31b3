//! A member of the mesh that follows a script where the protocol would have it behave.
//!
//! It holds the mesh key, so it gets past the handshake, and everything a test does not script it does
//! as it should: only so does a node come to where the script begins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use blobmesh_node::identity::Identity;
use blobmesh_node::swarm::{Stream, Swarm, SwarmConfig, SwarmEvent, SwarmHandle, convert};
use blobmesh_protocol::filter::{FilterFrame, OwnFilter};
use blobmesh_protocol::wire::frame::{self, Frame, FrameReader};
use blobmesh_protocol::wire::lane::{LaneOffer, LaneToken, TAKES_LANE};
use blobmesh_protocol::wire::message::{
    AskResult, BlobHead, BlobRequest, Hello, LANE_OFFER, LANE_OPEN, Message, REQUEST, body_len_max,
};
use blobmesh_protocol::wire::small::{
    SMALL_PACK, SMALL_REQUEST, SmallAnswer, SmallPack, SmallRequest, SmallResult,
};
use blobmesh_protocol::{Hash, PeerId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::blob::{Blob, Requested, head_of};
use super::{SOON, TestNode, common_mesh, lane};

/// The time between two repetitions of what is said without end.
const PACE: Duration = Duration::from_millis(20);

/// Says what a bad peer does at the few places where it may choose.
#[derive(Clone, Copy)]
pub struct Conduct {
    /// Makes what it says first on its control stream, from the filter it should tell.
    pub greet: fn(FilterFrame) -> Said,
    /// Makes its answer to a question about a blob that its filter claims.
    pub answer: fn(u32, &Blob) -> Vec<u8>,
    /// Makes its answer to a request for such a blob.
    pub serve: fn(&Requested<'_>) -> Said,
    /// Makes its answer to a small request for such a blob; what it says is followed by the next answer
    /// where it keeps silent then. A peer whose greeting promises no answers gets no small requests.
    pub small: fn(&SmallRequest, &Blob) -> Said,
    /// Whether it reads what is said to it.
    pub reads: bool,
    /// Where it serves those who take lanes.
    pub lanes: LanesAt,
}

/// Says where a bad peer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanesAt {
    /// On blob streams, as one that knows no lanes.
    Nowhere,
    /// At a port where lanes are opened as they should be; what is served there is scripted.
    Port,
    /// At a port where nothing listens.
    DeadPort,
    /// At a port where somebody else's key is shown.
    OtherKey,
    /// At a port where another protocol is spoken.
    OtherProtocol,
    /// At a port where connections are taken and nothing is said.
    Silent,
}

impl Conduct {
    /// Greets and answers as it should, and then has nothing.
    pub const EMPTY_HANDED: Self = Self {
        greet: |filter| Said::then_silence([hello(), encode(&Message::Filter(filter))].concat()),
        answer: |id, blob| {
            let result = AskResult::Have { size: blob.list.size() };
            encode(&Message::Answer { id, result })
        },
        serve: |_| Said::then_close(head_of(&BlobHead::Absent)),
        small: |_, _| Said::then_reset(Vec::new()),
        reads: true,
        lanes: LanesAt::Nowhere,
    };
}

/// Returns a proper greeting of one who answers no small requests.
pub fn hello() -> Vec<u8> {
    encode(&Message::Hello(Hello { features: 0, ..Hello::ours() }))
}

/// Returns a proper greeting of one who answers small requests.
pub fn hello_small() -> Vec<u8> {
    encode(&Message::Hello(Hello::ours()))
}

pub fn encode(message: &Message) -> Vec<u8> {
    message.encode().expect("encodes")
}

/// What is written to a stream, and what becomes of the stream then.
#[derive(Clone, Debug)]
pub struct Said {
    pub bytes: Vec<u8>,
    pub then: Then,
}

#[derive(Clone, Debug)]
pub enum Then {
    /// The stream ends as it should.
    Close,
    /// The stream is reset.
    Reset,
    /// The stream stays open and nothing more comes.
    Silence,
    /// The same comes again and again.
    Repeat(Vec<u8>),
    /// The same comes again as fast as it is taken.
    Flood(Vec<u8>),
}

impl Said {
    pub fn then_close(bytes: Vec<u8>) -> Self {
        Self { bytes, then: Then::Close }
    }

    pub fn then_reset(bytes: Vec<u8>) -> Self {
        Self { bytes, then: Then::Reset }
    }

    pub fn then_repeat(bytes: Vec<u8>, repeated: Vec<u8>) -> Self {
        Self { bytes, then: Then::Repeat(repeated) }
    }

    pub fn then_silence(bytes: Vec<u8>) -> Self {
        Self { bytes, then: Then::Silence }
    }

    /// Says it; an error means that the other end no longer listens, which is its right.
    async fn say(self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        stream.write_all(&self.bytes).await?;
        stream.flush().await?;
        match self.then {
            Then::Close => stream.shutdown().await,
            Then::Reset => Ok(()),
            Then::Silence => std::future::pending().await,
            Then::Repeat(bytes) => loop {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                tokio::time::sleep(PACE).await;
            },
            Then::Flood(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
        }
    }
}

/// What a bad peer has met with.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The blobs it was asked about.
    pub asked: Vec<Hash>,
    /// The blobs it was requested to serve.
    pub requested: Vec<Hash>,
    /// The blobs that small requests asked it for.
    pub requested_small: Vec<Hash>,
    /// How many of those requests came over lanes.
    pub requested_on_lanes: usize,
    /// How many control streams were opened to it.
    pub links: usize,
    /// How many times it was connected.
    pub connections: usize,
    /// How many of those connections ended.
    pub ends: usize,
}

/// A running bad peer; it ends when it is dropped.
#[derive(Debug)]
pub struct BadPeer {
    pub peer: String,
    pub handle: SwarmHandle,
    address: String,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for BadPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BadPeer {
    /// Starts a member of the tests' mesh that claims to hold `blobs`.
    pub async fn start(conduct: Conduct, blobs: &[Blob]) -> Self {
        let secret: [u8; 32] = rand_secret();
        let identity = Identity::from_secret(secret).expect("an identity");
        let peer = convert::peer_text(&identity.peer());
        let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
        let config = SwarmConfig { identity, mesh: common_mesh().clone(), listen };
        let (handle, mut events) = Swarm::start(config).expect("the swarm starts");
        let address = match events.recv().await.expect("the swarm runs") {
            SwarmEvent::Listening { address } => format!("{address}/p2p/{peer}"),
            other => panic!("not listening: {other:?}"),
        };
        let (log, seen) = watch::channel(Seen::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let lane_port = listener.local_addr().expect("bound").port();
        let script = Arc::new(Script {
            conduct,
            blobs: blobs.iter().map(|blob| (blob.hash(), blob.clone())).collect(),
            log,
            lane_port,
        });
        let mut tasks = JoinSet::new();
        let acceptor = match conduct.lanes {
            LanesAt::Port => Some(lane::proper(secret)),
            LanesAt::OtherKey => Some(lane::proper([7; 32])),
            LanesAt::OtherProtocol => Some(lane::acceptor(secret, b"blobmesh-lane/2")),
            LanesAt::Nowhere | LanesAt::DeadPort | LanesAt::Silent => None,
        };
        if let Some(acceptor) = acceptor {
            tasks.spawn(accept_lanes(Arc::clone(&script), listener, acceptor));
        } else if conduct.lanes == LanesAt::Silent {
            // The system takes the connections, and nobody reads them.
            tasks.spawn(async move {
                let _listener = listener;
                std::future::pending().await
            });
        }
        let actor = Actor {
            script,
            swarm: handle.clone(),
            speakers: HashMap::new(),
            unread: Vec::new(),
            tasks,
        };
        let task = tokio::spawn(actor.run(events));
        Self { peer, handle, address, seen, task }
    }

    /// Returns where it listens, as a node's configuration names it.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Dials a node and, once connected, opens its control stream.
    pub async fn dial(&self, node: &TestNode) {
        self.handle.dial(&node.address()).await.expect("an address");
    }

    /// Requests a blob of a node, on a connection that never had a control stream; none says that the
    /// node hung up.
    pub async fn request(&self, node: &TestNode, hash: Hash) -> Option<BlobHead> {
        let peer = convert::parse_peer(&node.node.peer_id()).expect("a peer");
        self.handle.connect(&peer).await.ok()?;
        let mut stream = self.handle.open_blob(&peer).await.ok()?;
        let request = BlobRequest { hash, with_list: true, codecs: 1, runs: Vec::new() };
        let request = frame::encode(REQUEST, &request).expect("encodes");
        stream.write_all(&request).await.ok()?;
        stream.flush().await.ok()?;
        let answer = timeout(SOON, Frames::of(stream).next()).await.expect("an answer");
        answer.map(|frame| frame.decode().expect("a head"))
    }

    /// Says `bytes` on a fresh stream, and waits until the node has had enough of it.
    ///
    /// A node that has hung up is connected again first.
    pub async fn babble(&self, node: &TestNode, on_control: bool, bytes: &[u8]) {
        let peer = convert::parse_peer(&node.node.peer_id()).expect("a peer");
        let mut stream = timeout(SOON, async {
            loop {
                let opened = match on_control {
                    true => self.handle.open_control(&peer).await,
                    false => self.handle.open_blob(&peer).await,
                };
                match opened {
                    Ok(stream) => return stream,
                    Err(_) => self.handle.connect(&peer).await.ok(),
                };
            }
        })
        .await
        .expect("the node takes streams");
        // The node may hang up at any byte.
        if stream.write_all(bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut answer = Vec::new();
            let heard = stream.read_to_end(&mut answer);
            timeout(SOON, heard).await.expect("the node ends the stream").ok();
        }
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until it has met with what `enough` wants.
    pub async fn until(&self, what: &str, enough: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let met = timeout(SOON, seen.wait_for(|seen| enough(seen))).await;
        met.unwrap_or_else(|_| panic!("not in time: {what}")).expect("the peer runs");
    }
}

/// What all of a bad peer's tasks share.
struct Script {
    conduct: Conduct,
    blobs: BTreeMap<Hash, Blob>,
    log: watch::Sender<Seen>,
    lane_port: u16,
}

struct Actor {
    script: Arc<Script>,
    swarm: SwarmHandle,
    /// Take what is to be said to each neighbour after the greeting.
    speakers: HashMap<PeerId, mpsc::Sender<Vec<u8>>>,
    /// The streams of a peer that does not read.
    unread: Vec<Stream>,
    tasks: JoinSet<()>,
}

impl Actor {
    async fn run(mut self, mut events: mpsc::Receiver<SwarmEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                SwarmEvent::Connected { .. } => {
                    self.script.log.send_modify(|seen| seen.connections += 1);
                }
                SwarmEvent::Dialed { peer, .. } => {
                    self.speaker(peer);
                }
                SwarmEvent::Disconnected { peer } => {
                    self.speakers.remove(&peer);
                    self.script.log.send_modify(|seen| seen.ends += 1);
                }
                SwarmEvent::ControlStream { peer, stream } => self.listen(peer, stream),
                SwarmEvent::BlobStream { stream, .. } => {
                    self.tasks.spawn(serve(Arc::clone(&self.script), stream));
                }
                _ => {}
            }
        }
    }

    fn listen(&mut self, peer: PeerId, stream: Stream) {
        let speaker = self.speaker(peer);
        self.script.log.send_modify(|seen| seen.links += 1);
        if self.script.conduct.reads {
            self.tasks.spawn(listen(Arc::clone(&self.script), stream, speaker));
        } else {
            self.unread.push(stream);
        }
    }

    /// Opens its own control stream and greets, unless that is done.
    fn speaker(&mut self, peer: PeerId) -> mpsc::Sender<Vec<u8>> {
        // One is left of a connection that another has taken the place of, whose end nobody saw.
        if let Some(speaker) = self.speakers.get(&peer).filter(|speaker| !speaker.is_closed()) {
            return speaker.clone();
        }
        let (speaker, answers) = mpsc::channel(64);
        self.speakers.insert(peer, speaker.clone());
        let prefixes: Vec<[u8; 8]> = self.script.blobs.keys().map(Hash::prefix).collect();
        let filter = OwnFilter::build(1, prefixes.into_iter()).frame().expect("not too full");
        let greeting = (self.script.conduct.greet)(filter);
        let swarm = self.swarm.clone();
        self.tasks.spawn(async move {
            if let Ok(stream) = swarm.open_control(&peer).await {
                speak(stream, greeting, answers).await.ok();
            }
        });
        speaker
    }
}

/// Greets, and then says what is to be said.
async fn speak(
    mut stream: Stream,
    greeting: Said,
    mut answers: mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    if !matches!(greeting.then, Then::Silence) {
        return greeting.say(&mut stream).await;
    }
    stream.write_all(&greeting.bytes).await?;
    stream.flush().await?;
    let mut nothing = [0];
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            // Nobody answers here: it has ended.
            _ = stream.read(&mut nothing) => None,
        };
        let Some(answer) = answer else { break };
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Answers what a neighbour asks.
async fn listen(script: Arc<Script>, stream: Stream, speaker: mpsc::Sender<Vec<u8>>) {
    let mut frames = Frames::of(stream);
    while let Some(frame) = frames.next().await {
        let message = Message::decode(frame.kind, &frame.body).expect("a node speaks well");
        let Some(Message::Ask { id, hash }) = message else { continue };
        let answer = match script.blobs.get(&hash) {
            Some(blob) => (script.conduct.answer)(id, blob),
            None => encode(&Message::Answer { id, result: AskResult::Absent }),
        };
        script.log.send_modify(|seen| seen.asked.push(hash));
        if speaker.send(answer).await.is_err() {
            return;
        }
    }
}

/// Serves one blob stream.
async fn serve(script: Arc<Script>, stream: Stream) {
    let mut frames = Frames::of(stream);
    let Some(frame) = frames.next().await else { return };
    if frame.kind == SMALL_REQUEST {
        return serve_small(&script, frames, frame).await;
    }
    assert_eq!(frame.kind, REQUEST, "a blob stream begins with a request");
    let request: BlobRequest = frame.decode().expect("a node asks well");
    let said = match script.blobs.get(&request.hash) {
        Some(blob) if script.offers(&request) => {
            Said::then_close(script.offer(&Requested::new(blob, &request)))
        }
        Some(blob) => {
            script.log.send_modify(|seen| seen.requested.push(request.hash));
            (script.conduct.serve)(&Requested::new(blob, &request))
        }
        None => Said::then_close(head_of(&BlobHead::Absent)),
    };
    said.say(&mut frames.stream).await.ok();
}

/// Reads a small request, or the one in a pack that asks for a lane: this peer offers none.
fn small_request(frame: &Frame) -> SmallRequest {
    if frame.kind != SMALL_PACK {
        return frame.decode().expect("a node asks well");
    }
    let pack: SmallPack = frame.decode().expect("a node asks well");
    let request = pack.requests().and_then(|mut requests| requests.next());
    request.expect("a node asks for something")
}

/// Answers small requests in turn, until one answer ends the stream.
async fn serve_small(script: &Script, mut frames: Frames<Stream>, first: Frame) {
    let mut next = Some(first);
    while let Some(frame) = next {
        let request = small_request(&frame);
        script.log.send_modify(|seen| seen.requested_small.push(request.hash));
        let said = match script.blobs.get(&request.hash) {
            Some(blob) => (script.conduct.small)(&request, blob),
            None => {
                let answer = SmallAnswer { id: request.id, result: SmallResult::Absent };
                Said::then_silence(answer.encode().expect("encodes"))
            }
        };
        if !matches!(said.then, Then::Silence) {
            said.say(&mut frames.stream).await.ok();
            return;
        }
        let said = async {
            frames.stream.write_all(&said.bytes).await?;
            frames.stream.flush().await
        };
        if said.await.is_err() {
            return;
        }
        next = frames.next().await;
    }
}

impl Script {
    fn offers(&self, request: &BlobRequest) -> bool {
        self.conduct.lanes != LanesAt::Nowhere && request.codecs & TAKES_LANE != 0
    }

    /// Returns an honest response that leaves the groups to lanes.
    fn offer(&self, blob: &Requested<'_>) -> Vec<u8> {
        let tokens = vec![LaneToken::from_bytes([1; 16]), LaneToken::from_bytes([2; 16])];
        let offer = LaneOffer { port: self.lane_port, tokens };
        let offer = frame::encode(LANE_OFFER, &offer).expect("encodes");
        let opening = blob.opening();
        let head = super::blob::head(blob.list.size());
        let rest = opening.strip_prefix(&head[..]).expect("a head comes first");
        [&head, &offer, rest, &super::blob::end()[..]].concat()
    }
}

async fn accept_lanes(script: Arc<Script>, listener: TcpListener, acceptor: TlsAcceptor) {
    let mut lanes = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (script, acceptor) = (Arc::clone(&script), acceptor.clone());
        lanes.spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_lane(script, stream).await;
            }
        });
    }
}

/// Answers the requests of a lane in turn, until one answer ends it.
async fn serve_lane(script: Arc<Script>, stream: TlsStream<TcpStream>) {
    let mut frames = Frames::of(stream);
    let opening = frames.next().await;
    assert!(opening.is_none_or(|frame| frame.kind == LANE_OPEN), "a lane begins with its token");
    while let Some(frame) = frames.next().await {
        let request: BlobRequest = frame.decode().expect("a node asks well");
        let Some(blob) = script.blobs.get(&request.hash) else { return };
        script.log.send_modify(|seen| {
            seen.requested.push(request.hash);
            seen.requested_on_lanes += 1;
        });
        let said = (script.conduct.serve)(&Requested::new(blob, &request));
        let is_last = matches!(said.then, Then::Reset);
        if said.say(&mut frames.stream).await.is_err() || is_last {
            return;
        }
    }
}

/// Makes a secret that no other peer of the tests has.
fn rand_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("random bytes");
    secret
}

/// Cuts what a node says into frames.
struct Frames<S> {
    stream: S,
    reader: FrameReader,
    /// What was read and not cut yet.
    rest: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    fn of(stream: S) -> Self {
        Self { stream, reader: FrameReader::new(body_len_max), rest: Vec::new() }
    }

    /// Returns the next frame, `None` where the stream ends before.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut rest = &self.rest[..];
            let frame = self.reader.poll_frame(&mut rest).expect("a node speaks well");
            self.rest = rest.to_vec();
            if frame.is_some() {
                return frame;
            }
            if self.stream.read_buf(&mut self.rest).await.ok()? == 0 {
                return None;
            }
        }
    }
}
