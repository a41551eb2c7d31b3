//! The driver: one task that owns the engine and does what it decides.
//!
//! It hears from the swarm, from discovery and from its own tasks, tells the engine, and carries out
//! what the engine puts out ([`dispatch`]). It never waits for anything but the next event: whatever
//! takes time runs as a task of its own ([`tasks`]) and comes back as an [`event`].
//!
//! [`serving`] puts what peers ask for before the engine, [`links`] are the control streams with neighbours, [`contacts`] says whom to dial, [`holdings`] what
//! came into the store and left it, [`requests`] go to the swarm, and [`inbox`] is where all that comes
//! in is heard.

mod contacts;
mod desk;
mod dispatch;
mod event;
mod handle;
mod holdings;
mod inbox;
mod links;
mod requests;
mod serving;
mod small;
mod tasks;
#[cfg(test)]
mod tests;
mod wants;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::engine::{DropReason, Input, Source};
use blobmesh_protocol::id::{FetchId, ServeId};
use blobmesh_protocol::{Config, Engine, Hash, PeerId, Time};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use contacts::Contacts;
use desk::Desk;
use event::{EVENTS_MAX, Event, Verdict};
use inbox::{Heard, Inboxes};
use links::Links;
use requests::Requests;
use small::Smalls;
use tasks::Tasks;
use wants::Wants;

pub(crate) use dispatch::describe;
pub(crate) use event::{ConnectedPeer, DeltaHolders, GetEnded, GetProgress, Snapshot};
pub(crate) use handle::{DriverHandle, DriverStopped, Many};
pub(crate) use holdings::Holdings;

use crate::alarm::Alarm;
use crate::control::api::Failure;
use crate::delta::Maps;
use crate::discovery::Candidate;
use crate::edge::Edge;
use crate::lane::{Lanes, OpenLanes};
use crate::store::Store;
use crate::swarm::{SwarmEvent, SwarmHandle};
use crate::transfer::{Carried, Meter};

/// How many events the driver handles before it lets other tasks of its thread run.
const TURN_EVENTS_MAX: usize = 64;
/// How late the driver is, or how long the store takes for a write, where that is the node's own silence.
const HELD_UP: Duration = Duration::from_millis(500);

/// Is everything a driver works with.
pub(crate) struct Parts {
    pub(crate) me: PeerId,
    pub(crate) config: Config,
    pub(crate) seed: u64,
    pub(crate) store: Store,
    pub(crate) swarm: SwarmHandle,
    pub(crate) swarm_events: mpsc::Receiver<SwarmEvent>,
    pub(crate) candidates: Option<mpsc::Receiver<Candidate>>,
    pub(crate) edge: Option<Arc<Edge>>,
    pub(crate) lanes: Lanes,
    /// Where lanes are dialled.
    pub(crate) lane_listeners: Vec<TcpListener>,
    /// Multiaddresses of peers to stay linked with.
    pub(crate) peers: Vec<String>,
    /// The addresses already listened on.
    pub(crate) addresses: Vec<String>,
    /// The blobs held at the start, and whether each is advertised.
    pub(crate) held: Vec<(Hash, bool)>,
    /// Says what comes into the store and leaves it from then on.
    pub(crate) holdings: Arc<Holdings>,
}

/// Starts the driver and returns how to ask it, and its task.
pub(crate) fn start(parts: Parts) -> (DriverHandle, JoinHandle<()>) {
    let (events, events_in) = mpsc::channel(EVENTS_MAX);
    let desk = Arc::new(Desk::new(events.clone()));
    let handle = DriverHandle::new(events.clone(), Arc::clone(&desk), Arc::clone(&parts.holdings));
    let inboxes = Inboxes {
        events: events_in,
        swarm: Some(parts.swarm_events),
        candidates: parts.candidates,
        holdings: Arc::clone(&parts.holdings),
        alarm: Alarm::new(),
    };
    let mut tasks = Tasks::new(events);
    let clock = Clock { start: Instant::now() };
    let mut driver = Driver {
        engine: Engine::new(parts.config.clone(), parts.me, parts.seed, Time::ZERO),
        clock,
        blob_bytes_max: parts.config.blob_bytes_max,
        store: parts.store.clone(),
        small: Smalls::start(parts.store.clone(), &parts.holdings, &desk, &mut tasks),
        holdings: parts.holdings,
        requests: Requests::start(parts.swarm.clone(), &mut tasks),
        swarm: parts.swarm,
        edge: parts.edge,
        edge_apart: false,
        lanes: OpenLanes(parts.lanes),
        maps: Arc::new(Maps::new(parts.store.dir())),
        contacts: Contacts::new(&parts.peers, inboxes.candidates.is_some(), clock.start),
        links: Links::default(),
        connected: BTreeMap::new(),
        addresses: parts.addresses,
        wants: Wants::default(),
        failures: HashMap::new(),
        carried: HashMap::new(),
        fetches: BTreeMap::new(),
        serves: BTreeMap::new(),
        next_serve: 0,
        waits_until: None,
        tasks,
    };
    for listener in parts.lane_listeners {
        driver.accept_lanes(listener);
    }
    for (hash, advertise) in parts.held {
        driver.engine.handle(Time::ZERO, Input::Held { hash, advertise });
    }
    desk.seat(driver);
    let task = tokio::spawn(async move {
        // However the task ends, the driver and its tasks end with it.
        let desk = Closing(desk);
        run(&desk.0, inboxes).await;
    });
    (handle, task)
}

/// Tells the engine's time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn now(self) -> Time {
        let nanos = self.start.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn instant(self, at: Time) -> Instant {
        self.start + (at - Time::ZERO)
    }
}

struct Driver {
    engine: Engine,
    clock: Clock,
    blob_bytes_max: u64,
    store: Store,
    holdings: Arc<Holdings>,
    swarm: SwarmHandle,
    requests: Requests,
    small: Smalls,
    edge: Option<Arc<Edge>>,
    /// What the engine was told of the edge's connections.
    edge_apart: bool,
    lanes: OpenLanes,
    maps: Arc<Maps>,
    contacts: Contacts,
    links: Links,
    connected: BTreeMap<PeerId, Connected>,
    addresses: Vec<String>,
    wants: Wants,
    /// The last failure of a source, by blob, for those who still want it.
    failures: HashMap<Hash, Failure>,
    /// Where the time of ended fetches went, by blob, for those who still want it.
    carried: HashMap<Hash, Vec<(FetchId, Source, Carried)>>,
    fetches: BTreeMap<FetchId, Fetch>,
    /// Peers that wait to hear whether they are served.
    serves: BTreeMap<ServeId, (PeerId, oneshot::Sender<Verdict>)>,
    next_serve: u64,
    /// Until when the driver's task waits for events.
    waits_until: Option<Instant>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Connected {
    address: String,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Debug)]
struct Fetch {
    hash: Hash,
    source: Source,
    /// Whether it fetches some groups only.
    ranged: bool,
    /// Whether it goes slowly, as nobody waits for it.
    gentle: bool,
    task: AbortHandle,
    meter: Arc<Meter>,
    /// Bytes that came and are not verified yet.
    unverified: u64,
}

/// Ends the driver when the task that has it ends.
struct Closing(Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        drop(self.0.close());
    }
}

/// Has the driver hear and do, until it is to stop.
async fn run(desk: &Desk, mut inboxes: Inboxes) {
    let mut turn = 0;
    while let Some(wake) = desk.with(Driver::settle) {
        let mut next = Some(inboxes.hear(wake, desk).await);
        // What else is there at once is handled before the clock is set anew.
        while let Some(heard) = next {
            if let Heard::Event(Event::Stop(done)) = heard {
                if let Some(mut driver) = desk.close() {
                    driver.say_goodbye(&mut inboxes.events).await;
                }
                done.send(()).ok();
                return;
            }
            desk.with(|driver| {
                driver.handle(heard);
                driver.drain();
            });
            turn += 1;
            if turn % TURN_EVENTS_MAX == 0 {
                tokio::task::yield_now().await;
                break;
            }
            next = inboxes.events.try_recv().ok().map(Heard::Event);
        }
    }
}

/// Returns whether the driver is late for what is due, or that is due while the store stands still: then what sources
/// gave may wait to be told.
fn is_held_up(due: Option<Instant>, is_behind: impl FnOnce(Duration) -> bool) -> bool {
    let late = due.and_then(|due| Instant::now().checked_duration_since(due));
    late.is_some_and(|late| late >= HELD_UP || is_behind(HELD_UP))
}

impl Driver {
    /// Does what is due without an event, and returns until when to wait for the next.
    fn settle(&mut self) -> Option<Instant> {
        self.settle_contacts();
        self.drain();
        self.tasks.reap();
        self.waits_until = self.wake();
        self.waits_until
    }

    /// Returns when something is to be done even if nothing happens.
    fn wake(&self) -> Option<Instant> {
        let engine = self.engine.poll_timeout().map(|(at, _)| self.clock.instant(at));
        engine.into_iter().chain(self.contacts.next()).min()
    }

    fn handle(&mut self, heard: Heard) {
        match heard {
            Heard::Event(event) => self.handle_event(event),
            Heard::Swarm(event) => self.handle_swarm(event),
            Heard::Candidate(candidate) => self.handle_candidate(candidate, false),
            Heard::Holdings => {
                let holdings = Arc::clone(&self.holdings);
                holdings.take().for_each(|change| self.tell(change));
            }
            Heard::Timeout => self.tell(Input::Timeout),
            // The wait begins anew.
            Heard::Earlier => {}
            Heard::SwarmEnded => self.go_on_alone(),
        }
    }

    fn tell(&mut self, input: Input) {
        let now = self.clock.now();
        if is_held_up(self.waits_until, |long| self.store.is_behind(long)) {
            // Before any of its timers fires.
            self.waits_until = None;
            self.engine.handle(now, Input::HeldUp);
        }
        self.engine.handle(now, input);
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                if let Input::Progress { fetch, bytes, size, .. } = input {
                    self.count_progress(fetch, bytes, size);
                    self.tell_of_edge();
                }
                self.tell(input);
            }
            Event::Get(get) => self.handle_get(*get),
            Event::Cancel(wants) => {
                wants.into_iter().for_each(|want| self.tell(Input::Cancel { want }));
            }
            Event::SmallEnded(ends) => self.small_ended(ends),
            Event::Arrived { fetch, bytes, size } => {
                self.count_arrived(fetch, bytes, size);
                self.tell_of_edge();
                self.tell(Input::Progress { fetch, bytes: 0, groups: 0..0, size });
            }
            Event::FetchEnded { fetch, outcome, failure } => {
                if let Some(ended) = self.forget_fetch(fetch)
                    && let Some(failure) = failure
                {
                    self.failures.insert(ended.hash, *failure);
                }
                self.tell(Input::FetchEnded { fetch, outcome });
            }
            Event::LinkOpened { peer, link, result } => {
                self.handle_link_opened(peer, link, result);
            }
            Event::LinkClosed { peer, link, malformed } => {
                self.close_link(peer, Some(link));
                if malformed {
                    self.drop_peer(peer, DropReason::Malformed);
                }
            }
            Event::ServeAsked { peer, verdict } => {
                self.next_serve += 1;
                let serve = ServeId(self.next_serve);
                self.serves.insert(serve, (peer, verdict));
                self.tell(Input::ServeAsked { serve, peer });
            }
            Event::ServeEnded { serve, peer, bytes } => {
                if let Some(connected) = self.connected.get_mut(&peer) {
                    connected.bytes_out += bytes;
                }
                self.tell(Input::ServeEnded { serve });
            }
            Event::Snapshot(reply) => {
                reply.send(self.snapshot()).ok();
            }
            Event::DeltaHolders(hash, reply) => {
                let (peers, swarm) = (self.engine.delta_holders(&hash), self.swarm.clone());
                let neighbours = self.engine.greeted_neighbours();
                reply.send(DeltaHolders { peers, neighbours, swarm }).ok();
            }
            Event::Stop(_) => {}
        }
    }

    /// Has the engine know what the edge showed of its connections, before it decides what is asked next.
    fn tell_of_edge(&mut self) {
        let apart = self.edge.as_ref().is_some_and(|edge| edge.is_apart());
        if std::mem::replace(&mut self.edge_apart, apart) != apart {
            self.tell(Input::EdgeApart { apart });
        }
    }

    fn count_progress(&mut self, fetch: FetchId, bytes: u64, size: u64) {
        let Some(running) = self.fetches.get_mut(&fetch) else { return };
        let verified = running.unverified.min(bytes);
        running.unverified -= verified;
        let (hash, peer) = (running.hash, running.source.peer());
        if let Some(connected) = peer.and_then(|peer| self.connected.get_mut(&peer)) {
            connected.bytes_in += bytes;
        }
        self.wants.tell_progress(&hash, |progress| {
            progress.size = Some(size);
            progress.unverified = progress.unverified.saturating_sub(verified);
            *(if peer.is_some() { &mut progress.lan } else { &mut progress.edge }) += bytes;
        });
    }

    fn count_arrived(&mut self, fetch: FetchId, bytes: u64, size: u64) {
        let Some(running) = self.fetches.get_mut(&fetch) else { return };
        running.unverified += bytes;
        let hash = running.hash;
        self.wants.tell_progress(&hash, |progress| {
            progress.size.get_or_insert(size);
            progress.unverified += bytes;
        });
    }

    /// Forgets a fetch that ended, and with it what it got and could not verify.
    fn forget_fetch(&mut self, fetch: FetchId) -> Option<Fetch> {
        let ended = self.fetches.remove(&fetch)?;
        // There are as many as the engine's attempts at the blob, which are bounded; ranges of one source
        // are summed.
        if self.wants.contains(&ended.hash) {
            let carried = self.carried.entry(ended.hash).or_default();
            let same = carried.iter_mut().find(|(_, source, _)| *source == ended.source);
            match same.filter(|_| ended.ranged) {
                Some((_, _, sum)) => sum.add(&ended.meter.read()),
                None => carried.push((fetch, ended.source, ended.meter.read())),
            }
        }
        if ended.unverified > 0 {
            self.wants.tell_progress(&ended.hash, |progress| {
                progress.unverified = progress.unverified.saturating_sub(ended.unverified);
            });
        }
        Some(ended)
    }

    fn handle_swarm(&mut self, event: SwarmEvent) {
        match event {
            SwarmEvent::Listening { address } => self.addresses.push(address),
            SwarmEvent::Connected { peer, address, dialed: _ } => {
                self.connected.insert(peer, Connected { address, bytes_in: 0, bytes_out: 0 });
            }
            SwarmEvent::Dialed { peer, address } => self.handle_dialed(peer, &address),
            SwarmEvent::Disconnected { peer } => {
                self.connected.remove(&peer);
                self.close_link(peer, None);
            }
            SwarmEvent::ControlStream { peer, stream } => {
                self.links.inbound(peer, stream, &self.swarm, &mut self.tasks);
            }
            SwarmEvent::BlobStream { peer, stream } => self.start_serving(peer, stream),
            SwarmEvent::Providers { query, peers } => self.tell(Input::Providers { query, peers }),
            SwarmEvent::ProvidersEnded { query } => self.tell(Input::ProvidersEnded { query }),
            SwarmEvent::Provided { hash, ok } => {
                tracing::debug!(hash = %hash.fmt_short(), ok, "provide record");
            }
            SwarmEvent::DialFailed { peer: _, address, reason } => {
                tracing::debug!(%reason, "dial failed");
                let next =
                    address.and_then(|address| self.contacts.failed(&address, Instant::now()));
                if let Some(address) = next {
                    self.dial(address);
                }
            }
        }
    }

    /// Links with a peer that we dialled. The DHT connects peers by itself: a neighbour is only whom we
    /// meant to reach, or who opens a control stream to us.
    fn handle_dialed(&mut self, peer: PeerId, address: &str) {
        let now = Instant::now();
        if !self.contacts.is_contact(peer, address) {
            return;
        }
        if self.links.is_open(peer) {
            // It linked with us first; only now it is known to be whom we dialled.
            self.contacts.linked(peer, now);
        } else if self.contacts.may_link(peer, now) {
            self.links.open(peer, &self.swarm, &mut self.tasks);
        }
    }

    /// Links with somebody that mDNS showed, or dials it; of two nodes that see each other one waits.
    fn handle_candidate(&mut self, candidate: Candidate, waited: bool) {
        let now = Instant::now();
        let known = self.connected.keys().find(|peer| candidate.is_peer(peer)).copied();
        if let Some(peer) = known {
            if self.contacts.may_link(peer, now) {
                self.links.open(peer, &self.swarm, &mut self.tasks);
            }
            return;
        }
        if self.contacts.resting(now).any(|peer| candidate.is_peer(&peer)) {
            return;
        }
        if !candidate.dial_first && !waited {
            return self.contacts.wait(candidate, now);
        }
        if let Some(address) = self.contacts.show(candidate.addresses, now) {
            self.dial(address);
        }
    }

    fn handle_link_opened(
        &mut self,
        peer: PeerId,
        link: u64,
        result: Result<crate::swarm::Stream, crate::swarm::OpenError>,
    ) {
        match result {
            Ok(stream) => {
                if self.links.opened(peer, link, stream, &mut self.tasks) {
                    self.contacts.linked(peer, Instant::now());
                    self.tell(Input::Connected { peer });
                    self.drain();
                    self.links.listen(peer, &mut self.tasks);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no control stream");
                self.close_link(peer, Some(link));
            }
        }
    }

    /// Goes on without a swarm: gets are answered from the store and the edge.
    fn go_on_alone(&mut self) {
        tracing::warn!("the swarm has ended, the node goes on without peers");
        for peer in std::mem::take(&mut self.connected).into_keys() {
            self.close_link(peer, None);
        }
        self.contacts.give_up();
        self.addresses.clear();
    }

    fn close_link(&mut self, peer: PeerId, number: Option<u64>) {
        if self.links.close(peer, number) {
            self.small.part_from(peer);
            self.contacts.unlinked(peer, Instant::now());
            self.tell(Input::Disconnected { peer });
        }
    }

    /// Dials the contacts that are due, and tells the engine when the node has looked long enough.
    fn settle_contacts(&mut self) {
        let now = Instant::now();
        for address in self.contacts.due(now) {
            let linked = crate::swarm::convert::peer_of_address(&address).ok().flatten();
            match linked.filter(|peer| self.connected.contains_key(peer)) {
                Some(peer) if self.links.is_open(peer) => self.contacts.linked(peer, now),
                Some(peer) if self.contacts.may_link(peer, now) => {
                    self.links.open(peer, &self.swarm, &mut self.tasks);
                }
                Some(_) => {}
                None => self.dial(address),
            }
        }
        for candidate in self.contacts.waited(now) {
            self.handle_candidate(candidate, true);
        }
        if self.contacts.settle(now) {
            self.tell(Input::Settled);
        }
    }

    fn dial(&mut self, address: String) {
        let swarm = self.swarm.clone();
        self.tasks.spawn(async move {
            if let Err(error) = swarm.dial(&address).await {
                tracing::debug!(%error, "not dialled");
            }
        });
    }

    fn snapshot(&self) -> Snapshot {
        let connected = self.connected.iter().map(|(peer, connected)| ConnectedPeer {
            peer: *peer,
            address: connected.address.clone(),
            bytes_in: connected.bytes_in,
            bytes_out: connected.bytes_out,
        });
        Snapshot {
            addresses: self.addresses.clone(),
            neighbours: self.engine.neighbours(),
            connected: connected.collect(),
            stats: self.engine.stats(),
        }
    }
}
