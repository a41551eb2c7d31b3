//! A world in virtual time: the engines that ship, and models of what is around them.
//!
//! Each node is a real [`Engine`](blobmesh_protocol::Engine) with its real configuration, and its
//! messages travel as the bytes of the real wire format. The rest is modelled: links share their rate
//! max-min fairly (`flows`), stores are maps that forget, the edge and the DHT answer after a while.
//! Bytes of blobs are counted, not made; what a model of a misbehaving peer sends is verified as a node
//! verifies it.
//!
//! One world runs in one order, in whole nanoseconds, and takes all chance from one seed: two runs of one seed
//! give the same [`log_hash`](World::log_hash), however many threads work at it. Nothing here reads a clock.
//!
//! A world is filled by hand ([`World::add_node`], [`World::link`], [`World::get`]) or from a
//! [`Plan`](crate::plan::Plan) ([`run_plan`]).

mod ahead;
mod calibration;
mod checks;
mod connections;
mod dht;
mod discovery;
mod edge;
mod faults;
mod flows;
mod foresight;
mod host;
mod links;
mod log;
mod probe;
mod queue;
mod sessions;
mod stage;
mod store;
mod tally;
mod transfers;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::engine::Input;
use blobmesh_protocol::engine::WantError;
use blobmesh_protocol::engine::receipt::Receipt;
use blobmesh_protocol::id::{QueryId, WantId};
use blobmesh_protocol::stats::Stats;
use blobmesh_protocol::wire::message::Message;
use blobmesh_protocol::{Config, Hash, PeerId, Time};

pub use calibration::{Calibration, CalibrationError};
pub use stage::{Progress, RunError, RunOptions, run_plan};
pub use tally::{Messages, Traffic};

use crate::outcome::Detail;
use crate::plan::{self, Behaviour, Site, SiteId};
use crate::random::Random;
use ahead::Ahead;
use checks::Checks;
use connections::Connections;
use dht::Dht;
use edge::Edge;
use faults::Faults;
use flows::Flows;
use foresight::Foresight;
use host::Host;
use links::{Frame, LinkId, Sites};
use log::{EventLog, Numbered};
use probe::Probe;
use queue::Queue;
use tally::Tally;
use transfers::{Response, TransferId, Transfers};
use workload::Workloads;

/// Numbers a node of a world, from 0.
pub type NodeIndex = usize;

/// Says what a node is made of.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Where it is.
    pub site: SiteId,
    /// Its engine's configuration.
    pub config: Config,
    /// Bytes a second that it sends at most; none is without limit.
    pub up: Option<u64>,
    /// Bytes a second that it receives and stores at most; none is without limit.
    pub down: Option<u64>,
    /// Bytes of blobs that it keeps; none is without limit.
    pub cache: Option<u64>,
}

impl NodeSpec {
    /// Makes a node of the first site with a link of 1 Gbit/s.
    pub fn new(config: Config) -> Self {
        let rate = Some(125_000_000);
        Self { site: SiteId(0), config, up: rate, down: rate, cache: None }
    }
}

/// Tells how one get ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The node.
    pub node: NodeIndex,
    /// The want.
    pub want: WantId,
    /// When.
    pub at: Time,
    /// Whether the blob is there.
    pub result: Result<(), WantError>,
    /// How it was resolved.
    pub receipt: Receipt,
}

/// What will happen.
#[derive(Debug)]
enum Event {
    /// A node starts, or starts again.
    Start {
        node: NodeIndex,
    },
    /// A node's session ends, if it is still the session of this number.
    Leave,
    /// An engine is told something. In a box: few events are such, and all have room for the largest.
    Input(Box<Input>),
    /// The link with a neighbour is open.
    Linked {
        peer: NodeIndex,
        link: LinkId,
    },
    /// The link with a neighbour is gone.
    Unlinked {
        peer: NodeIndex,
        link: LinkId,
    },
    /// A neighbour that cannot be reached has been silent for so long that its link is given up.
    Silent {
        peer: NodeIndex,
        link: LinkId,
    },
    /// Bytes of a control frame from a neighbour.
    Frames {
        from: NodeIndex,
        link: LinkId,
        frame: Arc<Frame>,
    },
    /// The node has time to look for neighbours.
    Discover,
    /// A request for a blob has arrived at its provider.
    Asked {
        transfer: TransferId,
    },
    /// What the provider said has arrived at the requester.
    Answered {
        transfer: TransferId,
        response: Response,
    },
    /// The provider hears that a transfer ended.
    Released {
        serve: blobmesh_protocol::id::ServeId,
    },
    /// A flow's window has grown.
    Grown {
        transfer: TransferId,
    },
    /// A blob is under its final name.
    Finished {
        transfer: TransferId,
    },
    /// A provider search has found somebody, or ended.
    Searched {
        query: QueryId,
        peers: Vec<PeerId>,
        ended: bool,
    },
    /// Provide records have arrived where they are kept.
    Provided {
        hash: Hash,
        keepers: Vec<NodeIndex>,
    },
    Timeout,
    /// A client of a workload wants its next blob.
    Want {
        client: usize,
    },
    Fault {
        index: usize,
    },
    Healed {
        index: usize,
    },
    /// A row of the time series is due.
    Sample,
}

impl Event {
    fn told(input: Input) -> Self {
        Self::Input(Box::new(input))
    }

    /// Returns an event as `Debug` writes it, if it is one of the frequent ones that have a number: without the machinery
    /// of formats.
    fn numbered(&self) -> Option<Numbered> {
        if let Self::Asked { transfer } = self {
            Some(("Asked { transfer: TransferId(", transfer.0, ") }"))
        } else if let Self::Answered { transfer, response: Response::Begins } = self {
            Some(("Answered { transfer: TransferId(", transfer.0, "), response: Begins }"))
        } else if let Self::Released { serve } = self {
            Some(("Released { serve: ServeId(", serve.0, ") }"))
        } else {
            None
        }
    }
}

/// Is an event with whom it befalls, and in which of its lives; the world's own events belong to nobody.
#[derive(Debug)]
struct Planned {
    node: NodeIndex,
    life: u32,
    event: Event,
}

/// Runs engines in virtual time. See the [module](self).
#[derive(Debug)]
pub struct World {
    model: Calibration,
    random: Random,
    now: Time,
    queue: Queue<Planned>,
    /// Threads that work ahead, if there are any.
    ahead: Option<Ahead>,
    foresight: Foresight,
    flows: Flows,
    sites: Sites,
    connections: Connections,
    hosts: Vec<Host>,
    edge: Option<Edge>,
    dht: Option<Dht>,
    transfers: Transfers,
    workloads: Workloads,
    faults: Faults,
    /// The blobs that anybody may want, by hash, for filters that lie.
    blobs: BTreeMap<Hash, u64>,
    tally: Tally,
    checks: Checks,
    probe: Option<Probe>,
    ended: Vec<Ended>,
    log: EventLog,
    steps: u64,
    serial: u64,
    /// What was sent last: the same few words go to many.
    last_sent: [Option<(Message, Arc<Frame>)>; 3],
    /// Nodes that misbehave, by behaviour.
    malicious: BTreeSet<(NodeIndex, Behaviour)>,
}

impl World {
    /// Makes a world without nodes: one office, no edge, no DHT.
    pub fn new(seed: u64) -> Self {
        let mut world = Self::calibrated(seed, Calibration::default());
        world.add_site(&Site::office("office"));
        world
    }

    /// Makes a world without nodes and sites on a machine of these speeds.
    pub fn calibrated(seed: u64, model: Calibration) -> Self {
        let random = Random::new(seed);
        Self {
            sites: Sites::new(&random),
            transfers: Transfers::default(),
            model,
            random,
            now: Time::ZERO,
            queue: Queue::new(),
            ahead: None,
            foresight: Foresight::default(),
            flows: Flows::default(),
            connections: Connections::default(),
            hosts: Vec::new(),
            edge: None,
            dht: None,
            workloads: Workloads::default(),
            faults: Faults::default(),
            blobs: BTreeMap::new(),
            tally: Tally::default(),
            checks: Checks::default(),
            probe: None,
            ended: Vec::new(),
            log: EventLog::default(),
            steps: 0,
            serial: 0,
            last_sent: [None, None, None],
            malicious: BTreeSet::new(),
        }
    }

    /// Writes the event log into a file from now on.
    pub fn log_to(&mut self, path: &Path) -> io::Result<()> {
        self.log = EventLog::to_file(path)?;
        Ok(())
    }

    /// Writes down the transfers and messages about one blob.
    pub(crate) fn set_detail(&mut self, detail: Detail) {
        self.tally.set_detail(detail);
    }

    /// Adds a site.
    pub fn add_site(&mut self, site: &Site) -> SiteId {
        self.sites.add(site, &self.model, &mut self.flows)
    }

    /// Puts an edge into the world.
    pub fn set_edge(&mut self, edge: &plan::Edge) {
        self.edge = Some(Edge::new(edge, &self.model, &self.random, &mut self.flows));
    }

    /// Puts a DHT into the world.
    pub fn set_dht(&mut self, dht: &plan::Dht) {
        self.dht = Some(Dht::new(dht, &self.random));
    }

    /// Adds a node that starts now and has looked for its neighbours already.
    pub fn add_node(&mut self, spec: NodeSpec) -> NodeIndex {
        let node = self.place_node(spec);
        self.start(node);
        node
    }

    /// Adds a node that is down.
    fn place_node(&mut self, spec: NodeSpec) -> NodeIndex {
        let node = self.hosts.len();
        let [up, down] = [spec.up, spec.down]
            .map(|rate| rate.map(|rate| self.flows.add_pipe(links::goodput(rate, &self.model))));
        self.sites.settle_in(spec.site, node);
        self.hosts.push(Host::new(spec, up, down));
        node
    }

    /// Links two nodes as neighbours.
    pub fn link(&mut self, a: NodeIndex, b: NodeIndex) {
        self.open_link(a, b, Duration::ZERO);
    }

    /// Ends the link of two nodes; messages under way between them are lost.
    pub fn unlink(&mut self, a: NodeIndex, b: NodeIndex) {
        self.close_link(a, b, Duration::ZERO, Duration::ZERO);
    }

    /// Puts a blob into a node's store, as its user adds it.
    pub fn add_blob(&mut self, node: NodeIndex, hash: Hash, size: u64) {
        self.blobs.insert(hash, size);
        self.hold_own(node, hash, size, true);
    }

    /// Puts a blob onto the edge.
    pub fn add_to_edge(&mut self, hash: Hash, size: u64) {
        self.blobs.insert(hash, size);
        if let Some(edge) = &mut self.edge {
            edge.put(hash, size);
        }
    }

    /// Has a node want a blob, now.
    pub fn get(&mut self, node: NodeIndex, hash: Hash) -> WantId {
        self.want(node, hash, None, None)
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| true);
    }

    /// Runs until `end`, or until nothing is left to happen, or until `more` says no; it is asked after
    /// every few thousand events.
    fn run_until(&mut self, end: Time, mut more: impl FnMut(&Self) -> bool) {
        const ASKED_EVERY: u64 = 4_096;
        while let Some(at) = self.next_at() {
            if at > end {
                break;
            }
            self.now = at;
            self.look_ahead(end);
            self.step();
            if self.steps.is_multiple_of(ASKED_EVERY) && !more(self) {
                return self.call_all_back();
            }
        }
        self.now = end;
    }

    /// Returns the moment that was reached.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Returns what travelled.
    pub fn traffic(&self) -> Traffic {
        self.tally.traffic()
    }

    /// Returns how many events were handled.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes the gets that ended since the last call.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Returns the counters of a node's engine; none of a node that is down.
    pub fn stats(&self, node: NodeIndex) -> Stats {
        self.hosts.get(node).and_then(Host::stats).unwrap_or_default()
    }

    /// Returns the invariants that did not hold so far, in words.
    pub fn violations(&self) -> &[String] {
        self.checks.violations()
    }

    /// Returns the BLAKE3 hash of the event log: one line for each event, when, to whom, what.
    pub fn log_hash(&mut self) -> Hash {
        self.log.hash()
    }

    fn next_at(&self) -> Option<Time> {
        [self.flows.next_at(), self.queue.next_at()].into_iter().flatten().min()
    }

    /// Handles one event: a flow that has reached its mark first, as its bytes are there already.
    fn step(&mut self) {
        if self.flows.next_at().is_some_and(|at| at <= self.now) {
            if let Some(flow) = self.flows.pop_due(self.now) {
                self.steps += 1;
                self.flow_due(flow);
            }
            return;
        }
        let Some((_, Planned { node, life, event }, of)) = self.queue.pop() else { return };
        if of.is_some() && event.is_bar() {
            self.foresight.bar(false);
        }
        if let Some(host) = of.and_then(|node| self.hosts.get_mut(node)) {
            host.seen -= 1;
        }
        // What was meant for an earlier life of a node befalls nobody.
        if self.hosts.get(node).is_some_and(|host| host.life != life) {
            return;
        }
        self.steps += 1;
        self.record(node, &event);
        self.happen(node, event);
        self.check(node);
    }

    fn happen(&mut self, node: NodeIndex, event: Event) {
        match event {
            Event::Start { node } => self.start(node),
            Event::Leave => self.leave(node),
            Event::Input(input) => self.tell(node, *input),
            Event::Linked { peer, link } => self.linked(node, peer, link),
            Event::Unlinked { peer, link } => self.unlinked(node, peer, link),
            Event::Silent { peer, link } => self.silent(node, peer, link),
            Event::Frames { from, link, frame } => self.frame_arrived(node, from, link, &frame),
            Event::Discover => self.discover(node),
            Event::Asked { transfer } => self.transfer_asked(node, transfer),
            Event::Answered { transfer, response } => self.transfer_answered(transfer, response),
            Event::Released { serve } => self.release(node, serve),
            Event::Grown { transfer } => self.transfer_grown(transfer),
            Event::Finished { transfer } => self.transfer_finished(node, transfer),
            Event::Searched { query, peers, ended } => self.searched(node, query, peers, ended),
            Event::Provided { hash, keepers } => self.provided(node, hash, &keepers),
            Event::Timeout => self.timeout(node),
            Event::Want { client } => self.client_wants(client),
            Event::Fault { index } => self.strike(index),
            Event::Healed { index } => self.heal(index),
            Event::Sample => self.sample(),
        }
    }

    /// Plans an event of a node's present life.
    fn schedule(&mut self, after: Duration, node: NodeIndex, event: Event) {
        self.schedule_at(self.now + after, node, event);
    }

    fn schedule_at(&mut self, at: Time, node: NodeIndex, event: Event) {
        let (life, ahead_of) =
            self.hosts.get(node).map_or((0, Time::ZERO), |host| (host.life, host.ahead_of));
        if at < ahead_of {
            self.foreseen_wrong(node, at, ahead_of);
        }
        self.plan(at, Planned { node, life, event });
    }

    /// Plans an event that befalls the world, not a node.
    fn schedule_own(&mut self, at: Time, event: Event) {
        self.plan(at, Planned { node: NodeIndex::MAX, life: 0, event });
    }

    fn plan(&mut self, at: Time, planned: Planned) {
        let (node, is_bar) = (planned.node, planned.event.is_bar());
        if self.queue.push(at, node, planned) {
            if is_bar {
                self.foresight.bar(true);
            }
            if let Some(host) = self.hosts.get_mut(node) {
                host.seen += 1;
            }
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn record(&mut self, node: NodeIndex, event: &Event) {
        if let Event::Frames { from, frame, .. } = event {
            self.log.frame(self.now, (node, *from), frame.len, frame.sum);
        } else if let Some(numbered) = event.numbered() {
            self.log.numbered(self.now, node, numbered);
        } else {
            self.log.line(self.now, node, format_args!("{event:?}"));
        }
    }
}
