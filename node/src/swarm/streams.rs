//! The part of the swarm that opens and accepts control and blob streams.
//!
//! `libp2p-stream` would do this, but it hands inbound streams over by a channel without room and drops
//! those that come while the reader is busy (127 to 225 of 5,000 under load), opens outbound streams
//! one at a time, dials on its own and never forgets a connection. Here an inbound stream travels as an
//! event of its connection, which waits when the swarm is busy, so that none is lost; what a peer may
//! have open is bounded by places, and only a stream beyond them is reset.
//!
//! [`Behaviour`] lives in the swarm and knows who is connected. A [`Handler`] lives in each connection.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use blobmesh_protocol::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId as LibPeerId, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{OpenError, Stream, convert};

/// How many control streams a peer may have open to us. One is enough; the others let it replace one
/// whose end we have not seen yet.
pub(super) const CONTROL_STREAMS_PER_PEER_MAX: usize = 8;
/// How many blob streams a peer may have open to us, and we to it.
pub(super) const BLOB_STREAMS_PER_PEER_MAX: usize = 256;
/// How many outbound streams of one connection are negotiated at once; more wait in its queue.
const NEGOTIATING_MAX: usize = 64;
/// How long a peer may take to agree to a stream.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells control streams from blob streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one long-lived stream of messages between two engines.
    Control,
    /// A stream for one or more transfers of blobs.
    Blob,
}

/// Names the two protocols of a mesh.
#[derive(Clone, Debug)]
pub(super) struct Protocols {
    pub(super) control: StreamProtocol,
    pub(super) blob: StreamProtocol,
}

impl Protocols {
    fn name(&self, kind: Kind) -> &StreamProtocol {
        match kind {
            Kind::Control => &self.control,
            Kind::Blob => &self.blob,
        }
    }
}

/// Reports an inbound stream.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) peer: PeerId,
    pub(super) kind: Kind,
    pub(super) stream: Stream,
}

/// Asks a connection for an outbound stream; whoever asked may have gone meanwhile.
#[derive(Debug)]
pub(super) struct Open {
    kind: Kind,
    place: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Stream, OpenError>>,
}

/// The places of one peer, shared by all of its connections.
#[derive(Debug)]
struct Places {
    control_in: Arc<Semaphore>,
    blob_in: Arc<Semaphore>,
    control_out: Arc<Semaphore>,
    blob_out: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        let control = || Arc::new(Semaphore::new(CONTROL_STREAMS_PER_PEER_MAX));
        let blob = || Arc::new(Semaphore::new(BLOB_STREAMS_PER_PEER_MAX));
        Self { control_in: control(), blob_in: blob(), control_out: control(), blob_out: blob() }
    }

    fn take_inbound(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        let places = match kind {
            Kind::Control => &self.control_in,
            Kind::Blob => &self.blob_in,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }

    fn take_outbound(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        let places = match kind {
            Kind::Control => &self.control_out,
            Kind::Blob => &self.blob_out,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// Says that a peer's identity is of a kind this mesh does not know.
#[derive(Debug, thiserror::Error)]
#[error("the peer's identity is not an ed25519 key")]
pub(super) struct NotEd25519;

/// Opens and accepts streams on all connections of the swarm.
pub(super) struct Behaviour {
    protocols: Protocols,
    /// Held by the handlers; an entry without one is left over from a connection that was denied.
    places: HashMap<LibPeerId, Weak<Places>>,
    /// The connections of each peer, the oldest first: it is the one that streams are opened on.
    connections: HashMap<LibPeerId, Vec<ConnectionId>>,
    /// Bounded by the commands that made them: the swarm takes them before the next command.
    requests: VecDeque<(LibPeerId, ConnectionId, Open)>,
    inbound: VecDeque<Inbound>,
}

impl Behaviour {
    pub(super) fn new(protocols: Protocols) -> Self {
        Self {
            protocols,
            places: HashMap::new(),
            connections: HashMap::new(),
            requests: VecDeque::new(),
            inbound: VecDeque::new(),
        }
    }

    /// Opens a stream to a connected peer; the answer goes to `reply`.
    pub(super) fn open(
        &mut self,
        peer: LibPeerId,
        kind: Kind,
        reply: oneshot::Sender<Result<Stream, OpenError>>,
    ) {
        let connection = self.connections.get(&peer).and_then(|all| all.first().copied());
        let places = self.places.get(&peer).and_then(Weak::upgrade);
        let (Some(connection), Some(places)) = (connection, places) else {
            // The receiver may be gone, which is its own affair.
            reply.send(Err(OpenError::NotConnected)).ok();
            return;
        };
        match places.take_outbound(kind) {
            Some(place) => self.requests.push_back((peer, connection, Open { kind, place, reply })),
            None => {
                reply.send(Err(OpenError::TooMany)).ok();
            }
        }
    }

    fn handler(&mut self, peer: LibPeerId) -> Result<Handler, ConnectionDenied> {
        let Some(name) = convert::from_libp2p(&peer) else {
            return Err(ConnectionDenied::new(NotEd25519));
        };
        self.places.retain(|_, places| places.strong_count() > 0);
        let places = match self.places.get(&peer).and_then(Weak::upgrade) {
            Some(places) => places,
            None => {
                let places = Arc::new(Places::new());
                self.places.insert(peer, Arc::downgrade(&places));
                places
            }
        };
        Ok(Handler {
            peer: name,
            protocols: self.protocols.clone(),
            places,
            requests: VecDeque::new(),
            negotiating: 0,
            inbound: VecDeque::new(),
        })
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: LibPeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: LibPeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(peer)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "connections are all that matters here")]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.connections.entry(event.peer_id).or_default().push(event.connection_id);
            }
            FromSwarm::ConnectionClosed(event) => {
                let Some(connections) = self.connections.get_mut(&event.peer_id) else { return };
                connections.retain(|connection| *connection != event.connection_id);
                if connections.is_empty() {
                    self.connections.remove(&event.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: LibPeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inbound.push_back(event);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Inbound, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, event)) = self.requests.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        // The swarm polls again after every event it hands in, so no waker is needed.
        self.inbound
            .pop_front()
            .map_or(Poll::Pending, |inbound| Poll::Ready(ToSwarm::GenerateEvent(inbound)))
    }
}

/// Opens and accepts the streams of one connection.
pub(super) struct Handler {
    peer: PeerId,
    protocols: Protocols,
    places: Arc<Places>,
    /// Bounded by the outbound places of the peer.
    requests: VecDeque<Open>,
    negotiating: usize,
    /// Bounded by the inbound places of the peer.
    inbound: VecDeque<Inbound>,
}

impl Handler {
    fn accept(&mut self, stream: libp2p::Stream, protocol: &StreamProtocol) {
        let kind = if *protocol == self.protocols.control { Kind::Control } else { Kind::Blob };
        let Some(place) = self.places.take_inbound(kind) else {
            tracing::debug!(peer = ?self.peer, ?kind, "stream refused: the peer has too many");
            return;
        };
        let stream = Stream::new(stream, place);
        self.inbound.push_back(Inbound { peer: self.peer, kind, stream });
    }

    fn request(&mut self) -> Option<SubstreamProtocol<Upgrade, Open>> {
        if self.negotiating >= NEGOTIATING_MAX {
            return None;
        }
        let open = loop {
            let open = self.requests.pop_front()?;
            if !open.reply.is_closed() {
                break open;
            }
        };
        self.negotiating += 1;
        let upgrade = Upgrade { protocols: vec![self.protocols.name(open.kind).clone()] };
        Some(SubstreamProtocol::new(upgrade, open).with_timeout(NEGOTIATION_TIMEOUT))
    }

    fn opened(&mut self, stream: libp2p::Stream, open: Open) {
        self.negotiating = self.negotiating.saturating_sub(1);
        // A stream nobody waits for any more is dropped here, which resets it.
        open.reply.send(Ok(Stream::new(stream, open.place))).ok();
    }

    fn failed(&mut self, error: StreamUpgradeError<Infallible>, open: Open) {
        self.negotiating = self.negotiating.saturating_sub(1);
        let error = match error {
            StreamUpgradeError::Timeout => OpenError::Timeout,
            StreamUpgradeError::NegotiationFailed => OpenError::Refused,
            StreamUpgradeError::Io(source) => OpenError::Io(source),
            StreamUpgradeError::Apply(never) => match never {},
        };
        open.reply.send(Err(error)).ok();
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Inbound;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        let protocols = vec![self.protocols.control.clone(), self.protocols.blob.clone()];
        SubstreamProtocol::new(Upgrade { protocols }, ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Open, Inbound>> {
        // The connection polls again after every event it hands in, so no waker is needed.
        if let Some(inbound) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(inbound));
        }
        self.request().map_or(Poll::Pending, |protocol| {
            Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
        })
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.requests.push_back(open);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.accept(stream, &protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
            }) => self.opened(stream, info),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.failed(error, info);
            }
            _ => {}
        }
    }
}

/// Agrees on one of some protocols and hands the bare stream over.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocols: Vec<StreamProtocol>,
}

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.protocols.clone().into_iter()
    }
}

impl InboundUpgrade<libp2p::Stream> for Upgrade {
    type Output = (libp2p::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Upgrade {
    type Output = (libp2p::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
