//! Plans: what a simulation is made of, as a researcher writes it down.
//!
//! A [`Plan`] is what a TOML file says, checked: every name resolved to an index, every unit to
//! nanoseconds, bytes or bytes a second, every bound looked at. Whoever holds a plan may run it without
//! asking again. A plan says nothing of how it is run; that is `world`.

mod assert;
mod canned;
mod distribution;
mod error;
mod popularity;
mod read;
mod reference;
mod section;
mod source;
mod text;
mod tree;
mod units;

pub use assert::{Checked, Verdict};
pub use canned::{CANNED, Canned};
pub use distribution::{Distribution, Least, Shape};
pub use error::{PlanError, Problem};
pub use popularity::Zipf;
pub use reference::reference;
pub use source::{Cell, Source, cells};
pub(crate) use units::measure;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use blobmesh_protocol::Config;

/// The newest form of plan files that this program reads.
pub const SCHEMA: u32 = 1;
/// The most nodes a plan may have, all groups together; one costs about 15 KiB and more with what it
/// knows of its neighbours.
pub const NODES_MAX: usize = 200_000;
/// The most blobs a plan may have, all sets together.
pub const BLOBS_MAX: usize = 1_000_000;
/// The most copies of blobs on nodes at the start.
const HOLDINGS_MAX: u128 = 20_000_000;
/// The most gets of a plan; each is a row of its results.
const GETS_MAX: u128 = 20_000_000;
/// The most rows of the time series.
const SERIES_ROWS_MAX: u128 = 1_000_000;
/// The most cells of a sweep, and the most entries of their lists, all cells together.
const CELLS_MAX: u128 = 1_000;
const CELL_ENTRIES_MAX: u128 = 1_000_000;
/// The largest plan file, and the most files of a plan.
const FILE_BYTES_MAX: u64 = 256 << 10;
const FILES_MAX: usize = 32;
/// The largest trace, by bytes and by rows, and the most rows in all cells of a sweep.
const TRACE_BYTES_MAX: u64 = 128 << 20;
const TRACE_ROWS_MAX: usize = 1_000_000;
const TRACED_GETS_MAX: u128 = 10_000_000;

/// Indexes [`Plan::sites`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// Indexes [`Plan::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub usize);

/// Indexes [`Plan::blobs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobSetId(pub usize);

/// Is a whole simulation, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Names the plan: lowercase letters, digits and dashes.
    pub name: String,
    /// What question it answers, for lists and reports.
    pub about: String,
    /// Seeds all randomness.
    pub seed: u64,
    /// Virtual time after which the run is ended, whatever is under way.
    pub duration: Duration,
    /// The LANs.
    pub sites: Vec<Site>,
    /// The nodes.
    pub groups: Vec<Group>,
    /// The engine's own configuration, as every node has it.
    pub engine: Config,
    /// The edge; none where the plan has none.
    pub edge: Option<Edge>,
    /// The DHT; none where nodes have only their LAN.
    pub dht: Option<Dht>,
    /// What blobs there are.
    pub blobs: Vec<BlobSet>,
    /// What nodes do.
    pub workloads: Vec<Workload>,
    /// What befalls them.
    pub faults: Vec<Fault>,
    /// What is written down, and how often.
    pub metrics: Metrics,
    /// What must hold at the end.
    pub asserts: Vec<Assert>,
    /// What is varied by `sweep`; a run by `run` takes the plan as it stands.
    pub sweep: Sweep,
}

impl Plan {
    /// Returns how many nodes there are in all.
    pub fn nodes(&self) -> usize {
        self.groups.iter().map(|group| group.count).sum()
    }
}

/// Is a LAN: its nodes find each other by multicast and share an uplink to everything else.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// One-way delay between two nodes of the site, in nanoseconds.
    pub latency: Distribution,
    /// The share of packets that the LAN loses, 0 to below 1.
    pub loss: f64,
    /// Whether nodes find each other by multicast, and how long after a join, in nanoseconds.
    pub discovery: Option<Distribution>,
    /// The way to other sites and the edge; none where nothing limits or delays it.
    pub uplink: Option<Uplink>,
}

impl Site {
    /// Makes an office LAN: 0.1 ms one way, nothing lost, no multicast, no limit on the way out.
    pub fn office(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            latency: Distribution::constant(100_000),
            loss: 0.0,
            discovery: None,
            uplink: None,
        }
    }
}

/// Is what all nodes of a site share on their way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    /// Bytes a second out of the site; none is without limit.
    pub up: Option<u64>,
    /// Bytes a second into the site; none is without limit.
    pub down: Option<u64>,
    /// One-way delay between the site and the world outside, in nanoseconds.
    pub latency: Distribution,
    /// The share of packets lost on it, 0 to below 1.
    pub loss: f64,
}

/// Is a number of nodes alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many nodes.
    pub count: usize,
    /// Where they are.
    pub site: SiteId,
    /// Bytes a second that a node sends at most; none is without limit.
    pub up: Option<u64>,
    /// Bytes a second that a node receives at most; none is without limit.
    pub down: Option<u64>,
    /// Bytes a second that a node's disk writes and reads; none is without limit.
    pub disk: Option<u64>,
    /// Bytes a second that a node hashes; none is without limit.
    pub hash: Option<u64>,
    /// How many bytes of blobs a node keeps before the least recently used go; none is without limit.
    pub cache: Option<u64>,
    /// When a node starts, in nanoseconds after the run's start.
    pub join: Distribution,
    /// How long a node stays, in nanoseconds; none is to the end.
    pub session: Option<Distribution>,
    /// How long a node is away after a session before it starts again, in nanoseconds; none is for good.
    pub absence: Option<Distribution>,
    /// Whether a node that starts again still has its store.
    pub keeps_store: bool,
    /// Differences of this group's engine configuration to the plan's; the whole configuration.
    pub engine: Option<Config>,
}

/// Is a bucket behind a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// From a request's arrival to its first byte, in nanoseconds.
    pub first_byte: Distribution,
    /// Bytes a second of one connection at most; none is without limit.
    pub rate_per_connection: Option<u64>,
    /// Bytes a second of the edge in all; none is without limit.
    pub rate: Option<u64>,
    /// The share of requests that fail with a server's error, 0 to 1.
    pub error_rate: f64,
}

impl Edge {
    /// Makes an edge that limits nothing and never fails.
    pub fn after(first_byte: Distribution) -> Self {
        Self { first_byte, rate_per_connection: None, rate: None, error_rate: 0.0 }
    }
}

/// Is the Kademlia DHT that all nodes are in.
#[derive(Clone, Debug, PartialEq)]
pub struct Dht {
    /// The size of a bucket, and how many nodes keep a record. Default 20.
    pub k: usize,
    /// Questions of one lookup at once. Default 3.
    pub alpha: usize,
    /// How long a node that is gone is waited for. Default 10 s.
    pub timeout: Duration,
    /// How long a provide record lives. Default 48 h.
    pub record_ttl: Duration,
}

impl Default for Dht {
    /// As the nodes configure it, and as Kademlia has it.
    fn default() -> Self {
        Self {
            k: 20,
            alpha: 3,
            timeout: Duration::from_secs(10),
            record_ttl: Duration::from_secs(48 * 3_600),
        }
    }
}

/// Is a number of blobs, made before the run.
#[derive(Clone, Debug, PartialEq)]
pub struct BlobSet {
    /// Its name.
    pub name: String,
    /// How many blobs.
    pub count: usize,
    /// Their lengths in bytes.
    pub size: Distribution,
    /// Whether the edge holds them.
    pub on_edge: bool,
    /// Who holds them at the start: each blob is on this many nodes of the group, drawn.
    pub held_by: Vec<HeldBy>,
}

/// Says which nodes hold the blobs of a set when they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The group.
    pub group: GroupId,
    /// How many of its nodes hold each blob; as many as it has at most.
    pub copies: usize,
    /// Whether they advertise it in the DHT.
    pub advertised: bool,
}

/// Says what the nodes of a group do.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Whose nodes.
    pub group: GroupId,
    /// When it begins: this long after the later of the run's start and a node's first start,
    /// in nanoseconds, drawn for each node.
    pub start: Distribution,
    /// From the end of one get of a slot to the start of its next, in nanoseconds.
    pub think: Distribution,
    /// Gets of one node at once.
    pub parallel: usize,
    /// The most time a get may take; none is the engine's own.
    pub timeout: Option<Duration>,
    /// What is wanted.
    pub kind: WorkloadKind,
}

/// Says what a workload wants.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkloadKind {
    /// Each node gets every blob of a set once.
    PullSet {
        /// The set.
        blobs: BlobSetId,
        /// Whether each node takes them in an order of its own; else all in the set's order.
        shuffled: bool,
        /// The share of the set that a node wants, drawn for each node; 1 is all.
        share: f64,
    },
    /// Each node gets blobs of a set by popularity: the blob of rank r with weight 1/r^s.
    Zipf {
        /// The set.
        blobs: BlobSetId,
        /// The exponent s; 0 is uniform.
        exponent: f64,
        /// How many gets a node makes.
        gets: u64,
    },
    /// Nodes add new blobs of their own, which nobody wants; to load filters and adverts.
    Add {
        /// How many a node adds.
        blobs: u64,
        /// Their lengths in bytes.
        size: Distribution,
        /// Whether they are advertised in the DHT.
        advertised: bool,
    },
    /// Gets at moments that a CSV file named, in the order of time.
    Trace {
        /// The gets.
        gets: Vec<TracedGet>,
    },
}

/// Is one row of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedGet {
    /// When, after the run's start.
    pub at: Duration,
    /// Which node of the workload's group, from 0.
    pub node: usize,
    /// The set.
    pub blobs: BlobSetId,
    /// Which blob of the set, from 0.
    pub blob: usize,
}

/// Is trouble at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it begins, after the run's start.
    pub at: Duration,
    /// How long it lasts; none is to the end.
    pub lasts: Option<Duration>,
    /// What it is.
    pub kind: FaultKind,
}

/// Says what befalls whom.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Nodes end without a word, as by kill -9, and start again when it has lasted.
    Kill {
        /// Which.
        nodes: Nodes,
    },
    /// No packet passes between two parts.
    Partition {
        /// One part.
        a: Nodes,
        /// The other.
        b: Nodes,
    },
    /// Links of nodes are slower.
    Slow {
        /// Which.
        nodes: Nodes,
        /// Bytes a second up and down.
        rate: u64,
    },
    /// The edge answers nobody.
    EdgeOutage,
    /// A site's way out is cut: no edge, no other site.
    UplinkOutage {
        /// The site.
        site: SiteId,
    },
    /// Provider searches find nothing.
    DhtOutage,
    /// Nodes misbehave.
    Malicious {
        /// Which.
        nodes: Nodes,
        /// How.
        behaviour: Behaviour,
    },
}

/// Says how a node misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// It serves wrong bytes.
    Corrupt,
    /// It admits requests and sends nothing.
    Stall,
    /// It says that it has every blob, and has none.
    FalseHave,
    /// Its filter says maybe to everything.
    FullFilter,
    /// Its filter rules out what it has.
    EmptyFilter,
    /// It names itself a provider of every blob in the DHT.
    FalseProvider,
}

/// Chooses nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Nodes {
    /// All nodes of a site.
    Site(SiteId),
    /// Nodes of a group.
    Group {
        /// The group.
        group: GroupId,
        /// Which of it.
        part: Part,
    },
}

/// Chooses nodes of one group.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// All.
    All,
    /// Those of these indexes, from 0.
    Indexes(Range<usize>),
    /// A share, drawn, rounded to the nearest whole node.
    Share(f64),
    /// A number, drawn.
    Count(usize),
}

/// Says what is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The time between two rows of the time series. Default 1 s.
    pub every: Duration,
    /// Absent blobs that are looked up in the filter of each neighbour at each get. Default 0.
    pub filter_looks: usize,
}

/// Says what must hold at the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Assert {
    /// What is measured: a metric, or one over another.
    pub measure: Measure,
    /// How it is compared.
    pub relation: Relation,
    /// What it is compared with: seconds, bytes, or a bare number.
    pub value: f64,
    /// As it was written, for reports.
    pub text: String,
}

/// Names a number that a run ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A metric of the summary.
    Metric(String),
    /// One metric divided by another.
    Ratio(String, String),
}

/// Compares two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// At most.
    AtMost,
    /// At least.
    AtLeast,
    /// Less than.
    Below,
    /// More than.
    Above,
    /// Equal to nine digits.
    Equal,
}

/// Says what a sweep varies: every combination of these values is a cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// How many seeds each cell runs with, from the plan's seed up. Default 5.
    pub repeat: u32,
    /// Paths into the plan's file, as `group.runner.count`, with the values to take, as TOML text.
    pub axes: BTreeMap<String, Vec<String>>,
}
