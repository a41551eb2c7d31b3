//! Who waits for which connection.

use std::collections::{HashMap, VecDeque};

use blobmesh_protocol::PeerId;
use libp2p::PeerId as LibPeerId;
use libp2p::core::Multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError as LibDialError};
use tokio::sync::oneshot;

use super::{Actor, Link};
use crate::swarm::{ConnectError, DialFailure, SwarmEvent, convert, transport};

/// How many callers may wait for connections to peers.
const WAITING_MAX: usize = 256;

type Reply = oneshot::Sender<Result<(), ConnectError>>;

/// The dials that somebody waits for; the DHT's own are not among them.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// Dials of addresses. Bounded by the limit on pending dials: one more is refused at once.
    addresses: HashMap<ConnectionId, Dialled>,
    /// Dials of peers, one for each.
    peers: HashMap<LibPeerId, Waiting>,
}

#[derive(Debug)]
struct Dialled {
    text: String,
    peer: Option<LibPeerId>,
}

#[derive(Debug)]
struct Waiting {
    dial: ConnectionId,
    replies: Vec<Reply>,
}

impl Dials {
    /// Notes a connection: all who waited for the peer have it, by whichever dial it came.
    /// Returns the address that was dialled, where it is a dial of an address that succeeded.
    pub(super) fn connected(
        &mut self,
        peer: &LibPeerId,
        connection: ConnectionId,
    ) -> Option<String> {
        let waiting = self.peers.remove(peer);
        for reply in waiting.into_iter().flat_map(|waiting| waiting.replies) {
            reply.send(Ok(())).ok();
        }
        self.addresses.remove(&connection).map(|dialled| dialled.text)
    }

    /// Ends all dials of addresses; those who wait for peers find their replies dropped.
    pub(super) fn end_all(&mut self, events: &mut VecDeque<SwarmEvent>) {
        let dials = self.addresses.drain();
        events.extend(dials.map(|(_, dialled)| dialled.failed(DialFailure::Aborted)));
        self.peers.clear();
    }

    fn waiting(&self) -> usize {
        self.peers.values().map(|waiting| waiting.replies.len()).sum()
    }
}

impl Dialled {
    fn failed(self, reason: DialFailure) -> SwarmEvent {
        let peer = self.peer.as_ref().and_then(convert::from_libp2p);
        SwarmEvent::DialFailed { peer, address: Some(self.text), reason }
    }
}

impl Actor {
    /// Dials an address unless that would only make a second connection.
    pub(super) fn dial(&mut self, text: String, address: Multiaddr) {
        let peer = convert::last_peer(&address);
        let dialled = Dialled { text, peer };
        let plain = convert::without_peer(&address);
        if peer == Some(*self.swarm.local_peer_id()) || self.listening().any(|own| *own == plain) {
            self.outbox.push_back(dialled.failed(DialFailure::OwnAddress));
            return;
        }
        if let Some(known) = self.connected_at(peer, &plain) {
            self.outbox.push_back(SwarmEvent::Dialed { peer: known, address: dialled.text });
            return;
        }
        // A port of its own for each dial: two nodes that dial each other from the ports they listen on
        // meet in one connection in which both are the initiator, and both handshakes fail.
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Disconnected)
                .addresses(vec![address])
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.addresses.insert(id, dialled);
            }
            Err(error) => self.outbox.push_back(dialled.failed(transport::dial_failure(&error))),
        }
    }

    /// Returns the peer that a dial would reach, if it is connected already.
    fn connected_at(&self, peer: Option<LibPeerId>, address: &Multiaddr) -> Option<PeerId> {
        let connected = match peer {
            Some(peer) => self.peers.get(&peer),
            None => {
                let dialled = |link: &Link| link.outbound && link.address == *address;
                self.peers.values().find(|connected| connected.links.iter().any(dialled))
            }
        };
        connected.map(|connected| connected.name)
    }

    /// Dials a peer at all known addresses, or joins the dial that is under way.
    pub(super) fn connect(&mut self, peer: LibPeerId, reply: Reply) {
        if self.peers.contains_key(&peer) {
            reply.send(Ok(())).ok();
            return;
        }
        if self.dials.waiting() >= WAITING_MAX {
            reply.send(Err(ConnectError::Busy)).ok();
            return;
        }
        if let Some(waiting) = self.dials.peers.get_mut(&peer) {
            waiting.replies.push(reply);
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(self.addresses.of(&peer).to_vec())
            .extend_addresses_through_behaviour()
            .allocate_new_port()
            .build();
        let dial = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.peers.insert(peer, Waiting { dial, replies: vec![reply] });
            }
            Err(error) => {
                reply.send(Err(ConnectError::Dial(transport::dial_failure(&error)))).ok();
            }
        }
    }

    /// Takes wrong addresses out of the table and lets those know who wait.
    pub(super) fn on_dial_failed(
        &mut self,
        id: ConnectionId,
        peer: Option<LibPeerId>,
        error: &LibDialError,
    ) {
        let reason = transport::dial_failure(error);
        tracing::debug!(?peer, %error, "dial failed");
        if let Some(peer) = peer {
            transport::failed_addresses(error)
                .into_iter()
                .for_each(|address| self.addresses.forget(&peer, address));
            if self.dials.peers.get(&peer).is_some_and(|waiting| waiting.dial == id) {
                let waiting = self.dials.peers.remove(&peer);
                for reply in waiting.into_iter().flat_map(|waiting| waiting.replies) {
                    reply.send(Err(ConnectError::Dial(reason))).ok();
                }
            }
        }
        if let Some(dialled) = self.dials.addresses.remove(&id) {
            self.outbox.push_back(dialled.failed(reason));
        }
    }
}
