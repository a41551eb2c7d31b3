//! The libp2p side of a node: connections, streams and the DHT.
//!
//! One task owns the libp2p swarm. The rest of the node holds a [`SwarmHandle`] to ask it for things
//! and a receiver of [`SwarmEvent`]s; libp2p types stay inside, see [`convert`] for the border. Which
//! peers to dial, what to announce and whom to ask is decided elsewhere.
//!
//! - `transport`: TCP, Noise with the mesh's prologue, Yamux: strangers fail in the handshake.
//! - `streams`: control and blob streams, none lost, each peer bounded.
//! - `records`, `announce`, `addresses`: provider records, when to announce, where peers are.
//! - `actor`: the task; `supervise`: starts it anew when it panics on a peer's bytes.
//!
//! **Invariants.** A peer is reported connected only after a handshake that proves the mesh key and its
//! ed25519 identity. Each peer is reported `Connected` once, before anything else of it, and
//! `Disconnected` once, after its last connection. Everything a peer can make grow has a bound named
//! in these modules. The receiver of events must be read: while [`EVENTS_MAX`] are waiting the swarm
//! stands still, and so does all that would need it.

mod actor;
mod addresses;
mod announce;
mod behaviour;
pub mod convert;
mod handle;
mod records;
mod stream;
mod streams;
mod supervise;
#[cfg(test)]
mod tests;
mod transport;

use std::io;

use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId};
use tokio::sync::mpsc;

use crate::identity::Identity;
use crate::mesh::MeshKey;

pub use handle::SwarmHandle;
pub use stream::Stream;

/// How many events wait for their reader before the swarm stands still.
pub const EVENTS_MAX: usize = 1_024;
/// How many requests wait for the swarm before those who ask wait too.
const COMMANDS_MAX: usize = 256;

/// Configures a swarm.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Who this node is.
    pub identity: Identity,
    /// The mesh it belongs to.
    pub mesh: MeshKey,
    /// Addresses to listen on, such as `/ip4/0.0.0.0/tcp/0`; none makes a node that only dials.
    pub listen: Vec<String>,
}

/// Starts swarms.
#[derive(Debug)]
pub struct Swarm;

impl Swarm {
    /// Starts a swarm's task and returns how to ask it and how to hear from it.
    ///
    /// The task ends with [`SwarmHandle::shutdown`], when all handles are gone, or when the receiver
    /// is. Addresses that are listened on are reported as events.
    ///
    /// # Errors
    /// When an address to listen on is malformed or taken, or the identity is unfit.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(
        config: SwarmConfig,
    ) -> Result<(SwarmHandle, mpsc::Receiver<SwarmEvent>), SwarmError> {
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let (events, events_in) = mpsc::channel(EVENTS_MAX);
        supervise::start(config, commands_in, events)?;
        Ok((SwarmHandle::new(commands), events_in))
    }
}

/// Says why a swarm cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// An address to listen on is no address.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        source: convert::ParseAddressError,
    },
    /// An address cannot be listened on, for instance because its port is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system says; its kind is `AddrInUse` for a port that is taken.
        source: io::Error,
    },
    /// The identity or the mesh makes no transport.
    #[error("cannot set up connections: {reason}")]
    Setup {
        /// What libp2p says.
        reason: String,
    },
}

/// Reports what happened in the swarm.
#[derive(Debug)]
pub enum SwarmEvent {
    /// The node listens on one more address.
    Listening {
        /// The address with the port that was bound, without a peer at its end.
        address: String,
    },
    /// A peer has its first connection.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Its end of the connection; for an inbound one a port of the moment.
        address: String,
        /// Whether this node dialled; the DHT dials on its own, whom it needs for a search.
        dialed: bool,
    },
    /// A [dial](SwarmHandle::dial) reached a peer. It comes after the peer's `Connected`, and also
    /// where the peer was connected before, so it tells whom this node asked for from whom the DHT
    /// brought along.
    Dialed {
        /// The peer.
        peer: PeerId,
        /// The address as it was given.
        address: String,
    },
    /// A peer has lost its last connection; its streams are dead.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer opened a control stream.
    ControlStream {
        /// The peer.
        peer: PeerId,
        /// The stream.
        stream: Stream,
    },
    /// A peer opened a blob stream.
    BlobStream {
        /// The peer.
        peer: PeerId,
        /// The stream.
        stream: Stream,
    },
    /// A provider search found peers, each reported once for a search.
    Providers {
        /// The search.
        query: QueryId,
        /// The peers, never this node itself.
        peers: Vec<PeerId>,
    },
    /// A provider search found all it will find; reported once, unless the search was stopped.
    ProvidersEnded {
        /// The search.
        query: QueryId,
    },
    /// A blob was announced for the first time, or will not be.
    Provided {
        /// The blob.
        hash: Hash,
        /// Whether some peer was told; false when too many blobs are provided already.
        ok: bool,
    },
    /// A [dial](SwarmHandle::dial) failed.
    DialFailed {
        /// The peer the address names, if it names one.
        peer: Option<PeerId>,
        /// The address as it was given.
        address: Option<String>,
        /// Why.
        reason: DialFailure,
    },
}

/// Says why no connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// Nothing listens there, or there is no way there.
    #[error("nothing answers at this address")]
    Unreachable,
    /// Something listens there and does not finish the handshake.
    #[error("no answer in time")]
    Timeout,
    /// The other end is of another mesh, no blobmesh node at all, or has too many connections.
    #[error("the handshake failed: is it a node of this mesh?")]
    Handshake,
    /// A different peer than the named one is there.
    #[error("another peer than the named one is at this address")]
    OtherPeer,
    /// The address is this node's own.
    #[error("this is this node's own address")]
    OwnAddress,
    /// This node has too many connections, or the peer's identity is not ed25519.
    #[error("this node has too many connections, or refuses the peer's kind of identity")]
    Denied,
    /// No address of the peer is known.
    #[error("no address of the peer is known")]
    NoAddress,
    /// The dial was given up, for instance because the swarm stopped.
    #[error("the dial was given up")]
    Aborted,
}

/// Says that the swarm has stopped and answers nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the swarm has stopped")]
pub struct SwarmStopped;

/// Says why an address was not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The text is no address.
    #[error("cannot dial")]
    Address(#[from] convert::ParseAddressError),
    /// The swarm has stopped.
    #[error(transparent)]
    Stopped(#[from] SwarmStopped),
}

/// Says why there is no connection with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The dial failed.
    #[error("cannot connect to the peer")]
    Dial(#[source] DialFailure),
    /// Too many wait for connections already.
    #[error("too many connections are waited for")]
    Busy,
    /// The swarm has stopped.
    #[error(transparent)]
    Stopped(#[from] SwarmStopped),
}

/// Says why no stream was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer is not connected, or its connection ended meanwhile.
    #[error("the peer is not connected")]
    NotConnected,
    /// The peer does not speak the protocol.
    #[error("the peer does not speak this protocol")]
    Refused,
    /// The peer did not agree in time.
    #[error("the peer did not open the stream in time")]
    Timeout,
    /// As many streams are open to the peer as may be.
    #[error("too many streams are open to the peer")]
    TooMany,
    /// The connection failed.
    #[error("the connection failed while a stream was opened")]
    Io(#[source] io::Error),
    /// The swarm has stopped.
    #[error(transparent)]
    Stopped(#[from] SwarmStopped),
}
