//! What a run of a plan ends with: the rows that files, reports and comparisons are made of.
//!
//! Times are nanoseconds of virtual time since the run's start, sizes are bytes. Names of nodes are
//! `GROUP-INDEX`, of blobs `SET/INDEX`. Rows are in the order in which they came to their end, so two
//! runs of one seed give the same rows in the same order.

use std::collections::BTreeMap;

/// Is all that a run measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The metrics by name, as asserts use them; durations in seconds. [`METRICS`] says what each is.
    pub summary: BTreeMap<&'static str, f64>,
    /// Each get that ended, and each that was under way at the end.
    pub fetches: Vec<FetchRow>,
    /// Sums at regular moments.
    pub series: Vec<SeriesRow>,
    /// One row for each node.
    pub nodes: Vec<NodeRow>,
    /// Each transfer of bytes, if [`Detail`] asked for it.
    pub transfers: Vec<TransferRow>,
    /// Each message about a blob, if [`Detail`] asked for it.
    pub messages: Vec<MessageRow>,
    /// BLAKE3 of the event log, in hex.
    pub event_log_hash: String,
    /// Events handled.
    pub events: u64,
    /// The virtual time reached.
    pub ended_ns: u64,
    /// Whether all gets had ended; else the plan's duration cut the run.
    pub complete: bool,
    /// Invariants that did not hold, in words; empty in a sound run.
    pub violations: Vec<String>,
}

/// Says how much a run writes down beside its sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Gets, sums and nodes.
    #[default]
    Sums,
    /// Also the transfers and messages about one blob, named as in [`FetchRow::blob`].
    Blob(String),
}

/// Tells of one get. Columns of `fetches.csv`, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRow {
    /// The node.
    pub node: String,
    /// The blob.
    pub blob: String,
    /// Its length, as the plan has it.
    pub size: u64,
    /// When it was wanted.
    pub start_ns: u64,
    /// How long it took, or has taken at the end of the run.
    pub took_ns: u64,
    /// `ok`, `not_found`, `wrong_bytes`, `refused`, `unreachable`, `timed_out`, `cancelled`,
    /// `store_failed`, `too_many`, `killed` (its node ended), `unfinished` (the run ended).
    pub result: &'static str,
    /// What found it: `local`, `lan`, `dht`, `edge`, or `-`.
    pub found: &'static str,
    /// Bytes that were in the store before.
    pub local_bytes: u64,
    /// Bytes from peers.
    pub lan_bytes: u64,
    /// Bytes from the edge.
    pub edge_bytes: u64,
    /// Neighbours asked.
    pub asks: u64,
    /// Neighbours that were asked and had it not.
    pub asks_wasted: u64,
    /// Neighbours that their filter ruled out.
    pub skipped: u64,
    /// Sources tried.
    pub sources: u64,
    /// Whether the edge's hedge fired.
    pub hedged: bool,
    /// Looking into the store.
    pub local_ns: u64,
    /// Finding a source.
    pub find_ns: u64,
    /// From the first source chosen to the first verified byte.
    pub first_group_ns: u64,
    /// From the first verified byte to the last.
    pub transfer_ns: u64,
    /// From the last byte to the blob's final name.
    pub store_ns: u64,
}

/// Tells of one moment. Columns of `timeseries.csv`; all but the last four only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesRow {
    /// The moment.
    pub at_ns: u64,
    /// Bytes of blobs that came from peers.
    pub lan_bytes: u64,
    /// Bytes of blobs that came from the edge.
    pub edge_bytes: u64,
    /// Requests to the edge.
    pub edge_requests: u64,
    /// Gets that ended well.
    pub gets_done: u64,
    /// Gets that failed.
    pub gets_failed: u64,
    /// Questions to neighbours.
    pub asks: u64,
    /// Bytes of filters, deltas and greetings.
    pub gossip_bytes: u64,
    /// Provider searches.
    pub searches: u64,
    /// Events handled.
    pub events: u64,
    /// Gets under way.
    pub gets_open: u64,
    /// Transfers under way.
    pub transfers_open: u64,
    /// Nodes that are up.
    pub nodes_up: u64,
    /// Bytes of blobs in all stores.
    pub stored_bytes: u64,
}

/// Tells of one node. Columns of `nodes.csv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRow {
    /// The node.
    pub node: String,
    /// Its group.
    pub group: String,
    /// Its site.
    pub site: String,
    /// When it first started; none if it never did.
    pub joined_ns: Option<u64>,
    /// When the last of its gets ended; none if it had none.
    pub finished_ns: Option<u64>,
    /// Gets that ended well.
    pub gets_done: u64,
    /// Gets that failed.
    pub gets_failed: u64,
    /// Bytes of blobs received from peers.
    pub lan_bytes: u64,
    /// Bytes of blobs received from the edge.
    pub edge_bytes: u64,
    /// Bytes of blobs sent to peers.
    pub sent_bytes: u64,
    /// Neighbours at the end.
    pub neighbours: u64,
    /// Bytes of blobs in its store at the end.
    pub stored_bytes: u64,
}

/// Tells of one transfer. Columns of `transfers.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRow {
    /// When it was asked for.
    pub start_ns: u64,
    /// When its first byte came; none if none did.
    pub first_byte_ns: Option<u64>,
    /// When it ended.
    pub end_ns: u64,
    /// Who sent: a node, or `edge`.
    pub from: String,
    /// Who received.
    pub to: String,
    /// The blob.
    pub blob: String,
    /// Bytes that came.
    pub bytes: u64,
    /// `complete`, `stopped`, `absent`, `busy`, `failed`, `wrong_bytes`.
    pub outcome: &'static str,
}

/// Tells of one message about a blob. Columns of `messages.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// When it was sent.
    pub sent_ns: u64,
    /// When it arrived; none if it never did.
    pub arrived_ns: Option<u64>,
    /// Who sent it.
    pub from: String,
    /// Who received it.
    pub to: String,
    /// The blob.
    pub blob: String,
    /// `ask`, `have`, `absent`, `busy`, `search`, `providers`.
    pub kind: &'static str,
}

/// Every metric of the summary: name, unit, and what it is.
pub const METRICS: &[(&str, &str, &str)] = &[
    ("nodes", "count", "nodes of the plan"),
    ("gets", "count", "gets that were wanted"),
    ("gets.ok", "count", "gets that ended with the blob"),
    ("gets.failed", "count", "gets that ended without it, those of killed nodes not counted"),
    ("gets.killed", "count", "gets whose node ended"),
    ("gets.unfinished", "count", "gets under way when the run ended"),
    ("fetch.p50", "s", "time of a get that was not local, median"),
    ("fetch.p95", "s", "the same, 95th percentile"),
    ("fetch.p99", "s", "the same, 99th percentile"),
    ("fetch.p999", "s", "the same, 99.9th percentile"),
    ("fetch.max", "s", "the same, the slowest"),
    ("fetch.mean", "s", "the same, the mean"),
    ("finish.p50", "s", "when a node's last get ended, since its first want, median over nodes"),
    ("finish.p95", "s", "the same, 95th percentile"),
    ("finish.p99", "s", "the same, 99th percentile"),
    ("finish.p999", "s", "the same, 99.9th percentile"),
    ("finish.max", "s", "the same, the slowest"),
    ("makespan", "s", "from the first want to the last end"),
    ("unique.bytes", "bytes", "bytes of the blobs that were got at least once, each counted once"),
    ("wanted.bytes", "bytes", "bytes of all gets that ended well"),
    ("local.bytes", "bytes", "bytes of gets that were in the store before"),
    ("lan.bytes", "bytes", "bytes received from peers"),
    ("edge.bytes", "bytes", "bytes received from the edge"),
    ("sent.bytes", "bytes", "bytes sent by peers"),
    ("edge.sent.bytes", "bytes", "bytes sent by the edge"),
    ("edge.requests", "count", "requests to the edge"),
    ("duplicate.bytes", "bytes", "bytes received more than once by one node for one blob"),
    ("uplink.up.bytes", "bytes", "bytes of blobs out of sites"),
    ("uplink.down.bytes", "bytes", "bytes of blobs into sites"),
    ("hit.local", "share", "gets answered by the store"),
    ("hit.lan", "share", "gets answered by neighbours"),
    ("hit.dht", "share", "gets answered by a provider that the DHT named"),
    ("hit.edge", "share", "gets answered by the edge"),
    ("asks", "count", "questions to neighbours"),
    ("asks.wasted", "count", "questions answered with absent although the filter said maybe"),
    ("asks.skipped", "count", "questions that filters saved"),
    ("filter.looks", "count", "absent blobs that were looked up in filters of neighbours"),
    ("filter.wrong", "share", "those to which the filter said maybe"),
    ("filter.wrong.low", "share", "the lower end of Wilson's interval of 99.99 % for that"),
    ("filter.wrong.high", "share", "the upper end"),
    ("filter.law", "share", "what (1 - e^(-kn/m))^k says, the mean over the looks"),
    ("hedges", "count", "hedges that fired"),
    ("stalls", "count", "fetches dropped because no byte came"),
    ("bans", "count", "peers banned for wrong bytes"),
    ("gossip.messages", "count", "filters, deltas and greetings"),
    ("gossip.bytes", "bytes", "their bytes"),
    ("ask.bytes", "bytes", "bytes of questions and answers"),
    ("dht.lookups", "count", "provider searches"),
    ("dht.found", "count", "provider searches that named somebody"),
    ("dht.hops.mean", "count", "rounds of a lookup, mean"),
    ("dht.hops.p95", "count", "rounds of a lookup, 95th percentile"),
    ("dht.requests", "count", "requests of lookups and provides"),
    ("dht.time.p50", "s", "time of a lookup, median"),
    ("dht.stale", "count", "providers named that were not there"),
    ("corrupt.accepted", "count", "groups of wrong bytes that were stored; must be 0"),
    ("savings.bytes", "share", "1 - edge.bytes / bytes that all gets would take from the edge"),
    ("neighbours.mean", "count", "neighbours of a node at the end, mean"),
    ("relay.late", "share", "of a replay: frames handed over more than 1 ms late"),
    ("processor.share", "share", "of a replay: processor time that it took, of all there was"),
    ("machine.share", "share", "of a replay: processor time that was not idle, whoever used it"),
    ("violations", "count", "invariants that did not hold; must be 0"),
    ("events", "count", "events handled"),
];
