//! How the rest of the node asks the swarm for things.

use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId};
use libp2p::PeerId as LibPeerId;
use libp2p::core::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use super::streams::Kind;
use super::{ConnectError, DialError, DialFailure, OpenError, Stream, SwarmStopped, convert};

/// Asks the swarm's task for things; cheap to clone.
///
/// All methods are cancel safe: a dropped call is either made or not, and what it would have returned
/// is cleaned up. The reader of events must not wait for one of them, since the swarm stands still
/// while too many events are unread.
#[derive(Clone, Debug)]
pub struct SwarmHandle {
    commands: mpsc::Sender<Command>,
}

/// A request to the swarm's task.
#[derive(Debug)]
pub(super) enum Command {
    Dial {
        text: String,
        address: Multiaddr,
    },
    Connect {
        peer: LibPeerId,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    },
    Open {
        peer: LibPeerId,
        kind: Kind,
        reply: oneshot::Sender<Result<Stream, OpenError>>,
    },
    FindProviders {
        query: QueryId,
        hash: Hash,
    },
    StopFind {
        query: QueryId,
    },
    Provide {
        hash: Hash,
    },
    StopProviding {
        hash: Hash,
    },
    Disconnect {
        peer: LibPeerId,
    },
    LocalAddresses {
        reply: oneshot::Sender<Vec<String>>,
    },
    PeerAddress {
        peer: LibPeerId,
        reply: oneshot::Sender<Option<String>>,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
    #[cfg(test)]
    Panic,
    #[cfg(test)]
    RemoteKeys {
        reply: oneshot::Sender<usize>,
    },
    #[cfg(test)]
    KnownAddresses {
        peer: LibPeerId,
        reply: oneshot::Sender<Vec<String>>,
    },
}

impl SwarmHandle {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Dials an address, `/ip4/…/tcp/…`, maybe with `/p2p/…` at its end.
    ///
    /// It ends in [`Dialed`](super::SwarmEvent::Dialed) or in
    /// [`DialFailed`](super::SwarmEvent::DialFailed). A connected peer is not dialled again.
    ///
    /// # Errors
    /// When the text is no address, or the swarm has stopped.
    pub async fn dial(&self, address: &str) -> Result<(), DialError> {
        let parsed = convert::parse_address(address)?;
        // A peer that cannot exist here is refused before a packet is sent.
        convert::peer_of_address(address)?;
        let command = Command::Dial { text: address.to_owned(), address: parsed };
        Ok(self.send(command).await?)
    }

    /// Connects to a peer at the addresses known of it, and returns once it is connected.
    ///
    /// Addresses are known of peers that were connected lately, that the DHT has in its table, and that
    /// were reported as [providers](super::SwarmEvent::Providers).
    ///
    /// # Errors
    /// When no address is known or all of them fail, or the swarm has stopped.
    pub async fn connect(&self, peer: &PeerId) -> Result<(), ConnectError> {
        let Some(peer) = convert::to_libp2p(peer) else {
            return Err(ConnectError::Dial(DialFailure::NoAddress));
        };
        self.ask(|reply| Command::Connect { peer, reply }).await?
    }

    /// Opens a control stream to a connected peer.
    ///
    /// # Errors
    /// When the peer is not connected, does not agree within 10 s, or has too many streams.
    pub async fn open_control(&self, peer: &PeerId) -> Result<Stream, OpenError> {
        self.open(peer, Kind::Control).await
    }

    /// Opens a blob stream to a connected peer.
    ///
    /// # Errors
    /// When the peer is not connected, does not agree within 10 s, or has too many streams.
    pub async fn open_blob(&self, peer: &PeerId) -> Result<Stream, OpenError> {
        self.open(peer, Kind::Blob).await
    }

    /// Searches the DHT for providers of a blob; answered by events under `query`, which must be new.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn find_providers(&self, query: QueryId, hash: Hash) -> Result<(), SwarmStopped> {
        self.send(Command::FindProviders { query, hash }).await
    }

    /// Ends a search early; events of it that are under way may still come.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn stop_find(&self, query: QueryId) -> Result<(), SwarmStopped> {
        self.send(Command::StopFind { query }).await
    }

    /// Announces a blob in the DHT, and again from time to time, until it is stopped.
    ///
    /// The announcement waits for a peer and for its turn: eight are made a second.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn provide(&self, hash: Hash) -> Result<(), SwarmStopped> {
        self.send(Command::Provide { hash }).await
    }

    /// Stops announcing a blob; what was announced expires within an hour.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn stop_providing(&self, hash: Hash) -> Result<(), SwarmStopped> {
        self.send(Command::StopProviding { hash }).await
    }

    /// Closes all connections with a peer.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn disconnect(&self, peer: &PeerId) -> Result<(), SwarmStopped> {
        match convert::to_libp2p(peer) {
            Some(peer) => self.send(Command::Disconnect { peer }).await,
            None => Ok(()),
        }
    }

    /// Returns the addresses the node listens on, without a peer at their ends.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn local_addresses(&self) -> Result<Vec<String>, SwarmStopped> {
        self.ask(|reply| Command::LocalAddresses { reply }).await
    }

    /// Returns the other end's address of a connected peer's oldest connection.
    ///
    /// # Errors
    /// When the swarm has stopped.
    pub async fn peer_address(&self, peer: &PeerId) -> Result<Option<String>, SwarmStopped> {
        match convert::to_libp2p(peer) {
            Some(peer) => self.ask(|reply| Command::PeerAddress { peer, reply }).await,
            None => Ok(None),
        }
    }

    /// Closes all connections and ends the swarm's task; returns once it has ended.
    pub async fn shutdown(&self) {
        // An error means that it has ended already.
        self.ask(|done| Command::Shutdown { done }).await.ok();
    }

    async fn open(&self, peer: &PeerId, kind: Kind) -> Result<Stream, OpenError> {
        let Some(peer) = convert::to_libp2p(peer) else { return Err(OpenError::NotConnected) };
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, kind, reply }).await?;
        // A connection that ends drops what was asked of it without an answer.
        answer.await.unwrap_or(Err(OpenError::NotConnected))
    }

    #[cfg(test)]
    pub(super) async fn panic(&self) {
        self.send(Command::Panic).await.ok();
    }

    #[cfg(test)]
    pub(super) async fn remote_keys(&self) -> usize {
        self.ask(|reply| Command::RemoteKeys { reply }).await.unwrap()
    }

    #[cfg(test)]
    pub(super) async fn known_addresses(&self, peer: &PeerId) -> Vec<String> {
        let peer = convert::to_libp2p(peer).unwrap();
        self.ask(|reply| Command::KnownAddresses { peer, reply }).await.unwrap()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SwarmStopped> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| SwarmStopped)
    }

    async fn send(&self, command: Command) -> Result<(), SwarmStopped> {
        self.commands.send(command).await.map_err(|_| SwarmStopped)
    }
}
