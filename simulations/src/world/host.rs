//! One node of a world: its engine, what is modelled around it, and doing what the engine decides.

use std::collections::BTreeMap;
use std::time::Duration;

use blobmesh_protocol::engine::{Engine, Input, LookResult, Output, ServeVerdict, Source};
use blobmesh_protocol::id::{FetchId, LookId, ServeId, WantId};
use blobmesh_protocol::stats::Stats;
use blobmesh_protocol::{Hash, PeerId, Time};

use super::ahead::{self, Made, Ticket, Told};
use super::edge::Connections;
use super::flows::{FlowId, PipeId};
use super::links::Link;
use super::sessions::Sessions;
use super::store::Store;
use super::transfers::{Response, TransferId};
use super::{Ended, Event, NodeIndex, NodeSpec, World};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) spec: NodeSpec,
    /// None while the node is down, or its engine is away.
    engine: Option<Box<Engine>>,
    /// The work that the engine is away for.
    pub(super) away: Option<Ticket>,
    /// The moment of what it was told last before the world came to it.
    pub(super) ahead_of: Time,
    /// The engine's counters before that, while somebody may ask for them.
    pub(super) stats_before: Option<Stats>,
    /// What the engine was told before the world came to it, and how many of the events that were seen that is.
    told: Option<Told>,
    pub(super) given: usize,
    /// How many hashes it resolves.
    pub(super) resolutions: usize,
    /// How many events of the node were seen before they happen, and the last look that saw one of its flows reach its
    /// mark before its events.
    pub(super) seen: usize,
    pub(super) marked: u64,
    /// The flows of its fetches, and what each does not reach its mark before.
    pub(super) flows: Vec<(FlowId, Time)>,
    /// Counts the node's starts and ends, so that what was meant for an earlier life is known.
    pub(super) life: u32,
    /// When the engine is woken next.
    pub(super) wakes_at: Option<Time>,
    pub(super) up: Option<PipeId>,
    pub(super) down: Option<PipeId>,
    pub(super) store: Store,
    pub(super) links: BTreeMap<NodeIndex, Link>,
    /// How the node comes and goes; none if it was put there by hand.
    pub(super) sessions: Option<Sessions>,
    /// Whether the node will look for neighbours already.
    pub(super) will_discover: bool,
    pub(super) fetches: BTreeMap<FetchId, TransferId>,
    pub(super) serves: BTreeMap<ServeId, TransferId>,
    pub(super) edge_connections: Connections,
    /// The gets under way.
    pub(super) wants: BTreeMap<WantId, Want>,
}

/// Is a get under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) hash: Hash,
    pub(super) since: Time,
    /// The client that wants it; none if it was wanted by hand.
    pub(super) client: Option<usize>,
}

/// Names the node of an index.
pub(super) fn peer_of(node: NodeIndex) -> PeerId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::try_from(node).unwrap_or(u64::MAX).to_le_bytes());
    PeerId::from_bytes(bytes)
}

/// Returns the index of a node's name.
pub(super) fn node_of(peer: PeerId) -> Option<NodeIndex> {
    let bytes = peer.as_bytes().first_chunk::<8>()?;
    NodeIndex::try_from(u64::from_le_bytes(*bytes)).ok()
}

impl Host {
    pub(super) fn new(spec: NodeSpec, up: Option<PipeId>, down: Option<PipeId>) -> Self {
        Self {
            store: Store::new(spec.cache),
            spec,
            engine: None,
            away: None,
            ahead_of: Time::ZERO,
            stats_before: None,
            told: None,
            given: 0,
            resolutions: 0,
            seen: 0,
            marked: 0,
            flows: Vec::new(),
            life: 0,
            wakes_at: None,
            up,
            down,
            links: BTreeMap::new(),
            sessions: None,
            will_discover: false,
            fetches: BTreeMap::new(),
            serves: BTreeMap::new(),
            edge_connections: Connections::default(),
            wants: BTreeMap::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.engine.is_some() || self.away.is_some()
    }

    /// Returns whether the next thing that befalls the engine was told it already.
    pub(super) fn is_ahead(&self) -> bool {
        self.away.is_some() || self.told.is_some()
    }

    /// Returns whether the engine is away to be told of all events that were seen.
    pub(super) fn is_followed(&self) -> bool {
        self.away.is_some() && self.given > 0 && self.given == self.seen
    }

    /// Takes the engine away, to be told something.
    pub(super) fn lend_engine(&mut self) -> Option<Box<Engine>> {
        self.engine.take()
    }

    /// Returns whether the engine would have a peer as a neighbour.
    pub(super) fn would_take(&self, peer: PeerId) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.has_room_for(peer))
    }

    /// Returns the engine's counters; none of a node that is down.
    pub(super) fn stats(&self) -> Option<Stats> {
        let before = self.told.as_ref().and_then(|told| told.next.before.as_deref().copied());
        let after = || self.engine.as_ref().map(|engine| engine.stats());
        self.stats_before.or(before).or_else(after)
    }
}

impl World {
    /// Starts a node, with the store it has: what a node does at its start.
    pub(super) fn start(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node).filter(|host| !host.is_up()) else { return };
        host.life += 1;
        let seed = self.random.fork("engine", u64::try_from(node).unwrap_or(0));
        let seed = seed.fork("life", u64::from(host.life)).draw();
        let engine = Engine::new(host.spec.config.clone(), peer_of(node), seed, self.now);
        host.engine = Some(Box::new(engine));
        (host.wakes_at, host.resolutions) = (None, 0);
        let (site, held) = (host.spec.site, host.store.blobs().collect::<Vec<_>>());
        if let Some(dht) = &mut self.dht {
            dht.join(node);
        }
        for (hash, advertise) in held {
            self.tell(node, Input::Held { hash, advertise });
        }
        self.started(node, site);
        self.tally.started(node, self.now);
        self.plan_leaving(node);
        self.clients_started(node);
    }

    /// Ends a node; its store stays, or goes with it.
    pub(super) fn stop(&mut self, node: NodeIndex, keeps_store: bool) {
        self.abandon_transfers(node);
        self.call_back(node);
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(stats) = host.stats() else { return };
        (host.engine, host.told) = (None, None);
        host.life += 1;
        host.will_discover = false;
        self.tally.add_stats(&stats);
        self.checks.forget(node);
        let wants = std::mem::take(&mut host.wants);
        let links = std::mem::take(&mut host.links);
        if !keeps_store {
            host.store.clear();
        }
        if let Some(dht) = &mut self.dht {
            dht.leave(node);
        }
        for peer in links.keys() {
            // The system closes a process's connections; a peer that is apart hears only silence.
            let apart = self.are_apart(node, *peer);
            let heard = if apart { self.model.silence } else { self.delay(node, *peer) };
            self.close_link(*peer, node, heard, Duration::ZERO);
        }
        for of in wants.into_values() {
            self.want_killed(node, of);
        }
    }

    /// Tells an engine what happened, unless it was told ahead, and does what it decides.
    pub(super) fn tell(&mut self, node: NodeIndex, input: Input) {
        let now = self.now;
        if self.was_told(node) {
            return self.follow(node);
        }
        let Some(engine) = self.engine_mut(node) else { return };
        engine.handle(now, input);
        self.follow(node);
    }

    /// Returns whether an engine was told ahead of what befalls it now.
    pub(super) fn was_told(&mut self, node: NodeIndex) -> bool {
        self.call_back(node);
        let told = self.hosts.get(node).and_then(|host| host.told.as_ref());
        let Some(at) = told.map(|told| told.next.at) else { return false };
        if at != self.now {
            self.foreseen_wrong(node, self.now, at);
        }
        true
    }

    /// Writes down that an engine was told ahead of a moment, and that something befalls it before.
    pub(super) fn foreseen_wrong(&mut self, node: NodeIndex, now: Time, at: Time) {
        self.checks.violate(format!("{now}: node {node} was told ahead of {at}"));
    }

    /// Does what an engine decided that was told of what befalls it now, and sees that it is woken.
    pub(super) fn follow(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        if let Some(told) = host.told.take() {
            let (step, then) = told.split();
            (host.told, host.stats_before) = (then, None);
            return self.follow_made(node, step.made);
        }
        let Some(engine) = &host.engine else { return };
        let made = Made::after(engine, 0);
        self.follow_made(node, made);
    }

    /// Does what an engine has made of something.
    fn follow_made(&mut self, node: NodeIndex, made: Made) {
        for _ in 0..made.outputs {
            let Some(output) = self.engine_mut(node).and_then(Engine::poll_output) else { break };
            self.perform(node, output);
        }
        if let Some(host) = self.hosts.get_mut(node) {
            host.resolutions = made.resolutions;
        }
        if let Some(at) = made.timeout {
            self.wake_at(node, at);
        }
    }

    pub(super) fn timeout(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        // A later wake-up that was planned before an earlier one was needed.
        if host.wakes_at != Some(self.now) {
            return;
        }
        host.wakes_at = None;
        if self.was_told(node) {
            return self.follow(node);
        }
        let Some(host) = self.hosts.get(node) else { return };
        let due = host.engine.as_ref().is_some_and(|engine| ahead::is_due(engine, self.now));
        if due { self.tell(node, Input::Timeout) } else { self.follow(node) }
    }

    /// Has an engine come back that is away.
    pub(super) fn call_back(&mut self, node: NodeIndex) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let (Some(ticket), Some(ahead)) = (host.away.take(), &mut self.ahead) else { return };
        let Some(done) = ahead.take(ticket) else {
            return self.checks.violate(format!("{}: the engine of node {node} is lost", self.now));
        };
        host.ahead_of = done.told.last_at();
        (host.engine, host.told) = (Some(done.engine), Some(done.told));
    }

    fn engine_mut(&mut self, node: NodeIndex) -> Option<&mut Engine> {
        self.hosts.get_mut(node)?.engine.as_deref_mut()
    }

    /// Wakes an engine at a moment, unless that is planned already.
    fn wake_at(&mut self, node: NodeIndex, at: Time) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let at = at.max(self.now);
        if host.wakes_at.is_none_or(|wakes_at| wakes_at > at) {
            host.wakes_at = Some(at);
            self.schedule_at(at, node, Event::Timeout);
        }
    }

    fn perform(&mut self, node: NodeIndex, output: Output) {
        self.checks.saw(node, &output);
        match output {
            Output::Look { look, hash } => self.look(node, look, hash),
            Output::Send { peer, message } => self.send(node, peer, &message),
            Output::Fetch { fetch, hash, source: Source::Peer(peer), groups } => {
                self.fetch_from_peer(node, (fetch, groups), hash, peer);
            }
            Output::Fetch { fetch, hash, source: Source::Edge, groups } => {
                self.fetch_from_edge(node, (fetch, groups), hash);
            }
            Output::FetchSmall { fetch, hash, peer, .. } => {
                self.request_small(node, fetch, hash, peer);
            }
            // The model makes a connection with the request that needs it.
            Output::PrepareEdge => {}
            Output::StopFetch { fetch } => self.stop_fetch(node, fetch),
            Output::FindProviders { query, hash } => self.search(node, query, hash),
            // A search that was given up costs its messages all the same.
            Output::StopFindProviders { .. } => {}
            Output::Provide { hash } => self.provide(node, hash),
            // A record that nobody repeats expires by itself.
            Output::Unprovide { .. } => {}
            Output::Serve { serve, verdict } => self.serve(node, serve, verdict),
            Output::Drop { peer, .. } => {
                if let Some(other) = node_of(peer) {
                    let heard = self.delay(node, other);
                    self.close_link(node, other, Duration::ZERO, heard);
                }
            }
            Output::Ended { want, result, receipt } => {
                let at = self.now;
                let ended = Ended { node, want, at, result, receipt: *receipt };
                self.get_ended(node, ended);
            }
        }
    }

    fn look(&mut self, node: NodeIndex, look: LookId, hash: Hash) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let result = match (host.store.look(&hash), host.store.part(&hash)) {
            (Some(size), _) => LookResult::Whole { size },
            (None, Some((size, held, groups))) => {
                LookResult::Part { size, held, groups: groups.clone() }
            }
            (None, None) => LookResult::Absent,
        };
        self.schedule(self.model.look, node, Event::told(Input::Looked { look, result }));
    }

    fn serve(&mut self, node: NodeIndex, serve: ServeId, verdict: ServeVerdict) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(transfer) = host.serves.get(&serve).copied() else { return };
        match verdict {
            ServeVerdict::Admit => self.transfer_admitted(node, transfer),
            ServeVerdict::Busy { retry_after } => {
                host.serves.remove(&serve);
                self.respond(node, transfer, Response::Busy { retry_after });
            }
        }
    }

    /// Puts a blob into a store as its user adds it.
    pub(super) fn hold_own(&mut self, node: NodeIndex, hash: Hash, size: u64, advertise: bool) {
        self.store_blob(node, hash, size, (true, advertise));
        self.schedule(Duration::ZERO, node, Event::told(Input::Held { hash, advertise }));
    }

    /// Puts a blob into a store, whether its own and whether advertised, and tells the engine what had
    /// to go for it.
    pub(super) fn store_blob(&mut self, node: NodeIndex, hash: Hash, size: u64, own: (bool, bool)) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        for gone in host.store.insert(hash, size, own.0, own.1) {
            self.schedule(Duration::ZERO, node, Event::told(Input::Gone { hash: gone }));
        }
    }

    /// Has a node want a blob.
    pub(super) fn want(
        &mut self,
        node: NodeIndex,
        hash: Hash,
        timeout: Option<Duration>,
        client: Option<usize>,
    ) -> WantId {
        let want = WantId(self.next_serial());
        let since = self.now;
        if let Some(host) = self.hosts.get_mut(node) {
            host.wants.insert(want, Want { hash, since, client });
        }
        self.tally.wanted(node, since);
        self.probe_neighbours(node);
        self.schedule(Duration::ZERO, node, Event::told(Input::Get { want, hash, timeout }));
        want
    }

    fn get_ended(&mut self, node: NodeIndex, ended: Ended) {
        let Some(host) = self.hosts.get_mut(node) else { return };
        let Some(want) = host.wants.remove(&ended.want) else {
            return self.checks.violate(format!("node {node}: {:?} ended twice", ended.want));
        };
        let size = self.blobs.get(&want.hash).copied();
        self.checks.get_ended(node, &ended, self.hosts.get(node).map(|host| &host.store));
        self.tally.get_ended(&ended, &want, size);
        match want.client {
            Some(client) => self.client_served(client),
            None => self.ended.push(ended),
        }
    }

    fn want_killed(&mut self, node: NodeIndex, of: Want) {
        let size = self.blobs.get(&of.hash).copied();
        self.tally.get_cut(node, &of, size, (self.now, "killed"));
        if let Some(client) = of.client {
            self.client_killed(client, of.hash);
        }
    }
}
