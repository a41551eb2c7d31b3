//! The task that owns the libp2p swarm: takes commands, passes events on.
//!
//! [`Actor::run`] never waits for a peer: commands that need one are answered later, by the event that
//! decides them. [`dials`] knows who waits for a connection, [`dht`] who waits for a search.

mod dht;
mod dials;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use blobmesh_protocol::id::QueryId;
use blobmesh_protocol::{Hash, PeerId};
use futures::StreamExt;
use libp2p::PeerId as LibPeerId;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Multiaddr};
use libp2p::identify;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent as LibSwarmEvent};
use tokio::sync::mpsc;

use self::dht::Finds;
use self::dials::Dials;
use super::addresses::{self, ADDRESSES_PER_PEER_MAX, AddressTable};
use super::announce::Announcer;
use super::behaviour::{Behaviour, BehaviourEvent, REPLICATION};
use super::handle::Command;
use super::streams::{Inbound, Kind};
use super::supervise::Tasks;
use super::{EVENTS_MAX, SwarmConfig, SwarmError, SwarmEvent, convert, transport};

/// A connection without streams is kept so long; one control stream keeps its connection for ever.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How many inbound streams of a connection are negotiated at once; the others wait in the muxer.
const NEGOTIATING_IN_MAX: usize = 320;

/// Owns the swarm and everything that is known of its peers.
pub(super) struct Actor {
    swarm: libp2p::Swarm<Behaviour>,
    tasks: Tasks,
    /// Events the reader has no room for; while there are any, the swarm stands still.
    outbox: VecDeque<SwarmEvent>,
    listeners: Vec<Listener>,
    /// The addresses that peers are told.
    told: Vec<Multiaddr>,
    peers: HashMap<LibPeerId, Connected>,
    addresses: AddressTable,
    dials: Dials,
    finds: Finds,
    announcer: Announcer,
    announcing: HashMap<libp2p::kad::QueryId, Hash>,
    /// How many peers the routing table had when it last changed.
    routable: usize,
}

/// An address that is listened on, and what became of it.
struct Listener {
    id: ListenerId,
    wanted: Multiaddr,
    bound: Vec<Multiaddr>,
}

/// A connected peer.
struct Connected {
    name: PeerId,
    links: Vec<Link>,
    /// Whether it has told its addresses since it connected.
    identified: bool,
}

/// One connection; `outbound` when this node dialled it, and `address` is one to dial again.
struct Link {
    id: ConnectionId,
    address: Multiaddr,
    outbound: bool,
}

/// Says why [`Actor::run`] returned.
#[derive(Debug)]
pub(super) enum End {
    /// It was asked to, or nobody can ask or listen any more.
    Shutdown(Option<tokio::sync::oneshot::Sender<()>>),
    /// A task of a connection panicked; libp2p would take its connection for alive.
    TaskPanicked,
}

/// What outlives a swarm that has to be started anew.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Addresses to listen on, with the ports that were bound.
    pub(super) listen: Vec<String>,
    /// Blobs to announce.
    pub(super) hashes: Vec<Hash>,
    /// Events that are owed: what was unread, and the ends of connections and searches.
    pub(super) events: VecDeque<SwarmEvent>,
}

impl Actor {
    /// Builds a swarm, begins to listen and takes over what remains of the last one.
    pub(super) fn new(config: &SwarmConfig, remains: &mut Remains) -> Result<Self, SwarmError> {
        let setup =
            |reason: &dyn std::fmt::Display| SwarmError::Setup { reason: reason.to_string() };
        let keypair = convert::keypair_of_secret(config.identity.secret())
            .ok_or_else(|| setup(&"the identity is no key pair"))?;
        let tasks = Tasks::new();
        let swarm = build(&keypair, config, &tasks).map_err(|error| setup(&error))?;
        let now = Instant::now();
        let mut actor = Self {
            swarm,
            tasks,
            outbox: VecDeque::new(),
            listeners: Vec::new(),
            told: Vec::new(),
            peers: HashMap::new(),
            addresses: AddressTable::default(),
            dials: Dials::default(),
            finds: Finds::default(),
            announcer: Announcer::new(now),
            announcing: HashMap::new(),
            routable: 0,
        };
        actor.listen(&remains.listen)?;
        // Nothing fails from here on, so that a failed start loses nothing that remains.
        actor.outbox.append(&mut remains.events);
        remains.hashes.drain(..).for_each(|hash| actor.provide(hash));
        Ok(actor)
    }

    /// Runs until the end. Not cancel safe: a cancelled run leaves an actor that is good for
    /// [`remains`](Self::remains) only.
    pub(super) async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        events: &mpsc::Sender<SwarmEvent>,
    ) -> End {
        loop {
            let wake = self.announce();
            let wake = tokio::time::sleep_until(wake.unwrap_or_else(far_away).into());
            // First what is owed to the node, then what it asks, and only then what peers want.
            tokio::select! {
                biased;
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.outbox.pop_front() {
                            permit.send(event);
                        }
                    }
                    Err(_) => return End::Shutdown(None),
                },
                command = commands.recv(), if self.outbox.len() < EVENTS_MAX => match command {
                    Some(Command::Shutdown { done }) => return End::Shutdown(Some(done)),
                    Some(command) => self.on_command(command),
                    None => return End::Shutdown(None),
                },
                () = self.tasks.panicked() => return End::TaskPanicked,
                event = self.swarm.select_next_some(), if self.outbox.is_empty() => {
                    self.on_swarm_event(event);
                }
                () = wake => {}
            }
        }
    }

    /// Takes out of a swarm that ended what the next one needs.
    pub(super) fn remains(&mut self) -> Remains {
        let mut events = std::mem::take(&mut self.outbox);
        events.extend(self.finds.end_all());
        let peers = self.peers.drain().map(|(_, peer)| peer.name);
        events.extend(peers.map(|peer| SwarmEvent::Disconnected { peer }));
        self.dials.end_all(&mut events);
        let listen = self.listeners.iter().map(Listener::wanted_again).collect();
        Remains { listen, hashes: self.announcer.hashes(), events }
    }

    /// Closes all connections; those that do not close in time are cut.
    pub(super) async fn close(self) {
        let Self { swarm, tasks, .. } = self;
        drop(swarm);
        tasks.finish().await;
    }

    fn listen(&mut self, texts: &[String]) -> Result<(), SwarmError> {
        let mut wanted = Vec::new();
        for text in texts {
            let address = convert::parse_address(text)
                .map_err(|source| SwarmError::Address { address: text.clone(), source })?;
            transport::check_free(&address)
                .map_err(|source| SwarmError::Listen { address: text.clone(), source })?;
            wanted.push(address);
        }
        for wanted in wanted {
            let id = self.swarm.listen_on(wanted.clone()).map_err(|error| SwarmError::Listen {
                address: wanted.to_string(),
                source: transport::listen_error(error),
            })?;
            self.listeners.push(Listener { id, wanted, bound: Vec::new() });
        }
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { text, address } => self.dial(text, address),
            Command::Connect { peer, reply } => self.connect(peer, reply),
            Command::Open { peer, kind, reply } => {
                self.swarm.behaviour_mut().streams.open(peer, kind, reply);
            }
            Command::FindProviders { query, hash } => self.find(query, hash),
            Command::StopFind { query } => self.stop_find(query),
            Command::Provide { hash } => self.provide(hash),
            Command::StopProviding { hash } => self.stop_providing(hash),
            Command::Disconnect { peer } => {
                // An error means that the peer is not connected.
                self.swarm.disconnect_peer_id(peer).ok();
            }
            Command::LocalAddresses { reply } => {
                reply.send(self.listening().map(ToString::to_string).collect()).ok();
            }
            Command::PeerAddress { peer, reply } => {
                let link = self.peers.get(&peer).and_then(|peer| peer.links.first());
                reply.send(link.map(|link| link.address.to_string())).ok();
            }
            Command::Shutdown { .. } => {}
            #[cfg(test)]
            Command::Panic => panic!("asked to by a test"),
            #[cfg(test)]
            Command::RemoteKeys { reply } => {
                reply.send(self.swarm.behaviour_mut().kad.store_mut().remote_keys()).ok();
            }
            #[cfg(test)]
            Command::KnownAddresses { peer, reply } => {
                let known = self.addresses.of(&peer).iter().map(ToString::to_string);
                reply.send(known.collect()).ok();
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
    fn on_swarm_event(&mut self, event: LibSwarmEvent<BehaviourEvent>) {
        match event {
            LibSwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            LibSwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            LibSwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            LibSwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            LibSwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(%send_back_addr, %error, "inbound connection failed");
            }
            LibSwarmEvent::NewListenAddr { listener_id, address } => {
                self.on_listening(listener_id, address);
            }
            LibSwarmEvent::ExpiredListenAddr { listener_id, address } => {
                let found = self.listeners.iter_mut().find(|listener| listener.id == listener_id);
                if let Some(listener) = found {
                    listener.bound.retain(|other| *other != address);
                }
                self.tell_addresses();
            }
            LibSwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "no longer listening");
            }
            LibSwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a connection could not be accepted");
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only what was learned matters here")]
    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(Inbound { peer, kind, stream }) => {
                self.outbox.push_back(match kind {
                    Kind::Control => SwarmEvent::ControlStream { peer, stream },
                    Kind::Blob => SwarmEvent::BlobStream { peer, stream },
                });
            }
            BehaviourEvent::Identify(
                identify::Event::Received { peer_id, info, .. }
                | identify::Event::Pushed { peer_id, info, .. },
            ) => self.on_identified(peer_id, &info.listen_addrs),
            BehaviourEvent::Kad(event) => self.on_kad_event(event),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: LibPeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        // The streams' behaviour denies all others, before they are reported.
        let Some(name) = convert::from_libp2p(&peer) else { return };
        let (address, outbound) =
            (convert::without_peer(endpoint.get_remote_address()), endpoint.is_dialer());
        if outbound {
            self.addresses.remember(peer, &address);
        }
        let asked = self.dials.connected(&peer, id);
        let link = Link { id, address: address.clone(), outbound };
        match self.peers.get_mut(&peer) {
            Some(connected) => connected.links.push(link),
            None => {
                let connected = Connected { name, links: vec![link], identified: false };
                self.peers.insert(peer, connected);
                let address = address.to_string();
                self.outbox.push_back(SwarmEvent::Connected {
                    peer: name,
                    address,
                    dialed: outbound,
                });
            }
        }
        if let Some(address) = asked {
            self.outbox.push_back(SwarmEvent::Dialed { peer: name, address });
        }
    }

    fn on_closed(&mut self, peer: LibPeerId, id: ConnectionId) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        connected.links.retain(|link| link.id != id);
        if connected.links.is_empty() {
            let name = connected.name;
            self.peers.remove(&peer);
            self.outbox.push_back(SwarmEvent::Disconnected { peer: name });
        }
    }

    /// Takes over where a peer says it listens, as far as that makes sense from here.
    fn on_identified(&mut self, peer: LibPeerId, claimed: &[Multiaddr]) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        let first = !std::mem::replace(&mut connected.identified, true);
        let near = connected.links.iter().any(|link| addresses::is_loopback(&link.address));
        let dialled = connected.links.iter().filter(|link| link.outbound);
        let mut known: Vec<_> = dialled.map(|link| link.address.clone()).collect();
        for address in claimed.iter().map(convert::without_peer) {
            if addresses::is_dialable(&address, near) && !known.contains(&address) {
                known.push(address);
            }
        }
        known.truncate(ADDRESSES_PER_PEER_MAX);
        // The table puts the last one first, and what was dialled is known to work.
        known.iter().rev().for_each(|address| self.addresses.remember(peer, address));
        self.route(peer, &known);
        if first && self.routable <= REPLICATION.get() {
            self.announcer.peer_joined(Instant::now());
        }
    }

    fn on_listening(&mut self, id: ListenerId, address: Multiaddr) {
        if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.id == id) {
            listener.bound.push(address.clone());
        }
        self.outbox.push_back(SwarmEvent::Listening { address: address.to_string() });
        self.tell_addresses();
    }

    /// Lets peers know the addresses that are good for them, those connected at once.
    fn tell_addresses(&mut self) {
        let bound: Vec<_> = self.listening().cloned().collect();
        let told = addresses::to_tell(&bound);
        if told == self.told {
            return;
        }
        for gone in self.told.iter().filter(|address| !told.contains(address)) {
            self.swarm.remove_external_address(gone);
        }
        for new in told.iter().filter(|address| !self.told.contains(address)) {
            self.swarm.add_external_address(new.clone());
        }
        self.told = told;
        let peers: Vec<_> = self.peers.keys().copied().collect();
        self.swarm.behaviour_mut().identify.push(peers);
    }

    fn listening(&self) -> impl Iterator<Item = &Multiaddr> {
        self.listeners.iter().flat_map(|listener| &listener.bound)
    }
}

impl Listener {
    /// Returns the address to listen on after a restart: peers know the port that was bound.
    fn wanted_again(&self) -> String {
        let port = |address: &Multiaddr| {
            address
                .iter()
                .find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None })
        };
        let Some(bound) = self.bound.first().and_then(port) else { return self.wanted.to_string() };
        let with_port =
            |part| if let Protocol::Tcp(_) = part { Protocol::Tcp(bound) } else { part };
        self.wanted.iter().map(with_port).collect::<Multiaddr>().to_string()
    }
}

fn build(
    keypair: &Keypair,
    config: &SwarmConfig,
    tasks: &Tasks,
) -> Result<libp2p::Swarm<Behaviour>, Box<dyn std::error::Error>> {
    let transport = transport::build(keypair, &config.mesh.noise_prologue())?;
    let behaviour = Behaviour::new(keypair, &config.mesh)?;
    let config = libp2p::swarm::Config::with_executor(tasks.executor())
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        // A stream is written to before it is agreed to: all whom we connect to speak what we do.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(NEGOTIATING_IN_MAX);
    let local = keypair.public().to_peer_id();
    Ok(libp2p::Swarm::new(transport, behaviour, local, config))
}

/// A time to sleep to where nothing is due; other events come first.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 60 * 60)
}

/// Searches that are refused still end.
fn ended(query: QueryId) -> SwarmEvent {
    SwarmEvent::ProvidersEnded { query }
}
