//! Outcomes made up by formula: what reports and comparisons are tried with before there is a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_simulations::outcome::{
    FetchRow, MessageRow, NodeRow, Outcome, SeriesRow, TransferRow,
};
use blobmesh_simulations::output::{Head, Keep, Kind, Run, Staged, Writer};
use blobmesh_simulations::plan::{
    Assert, Distribution, Group, Measure, Metrics, Plan, Relation, Site, SiteId, Sweep,
};
use blobmesh_simulations::stats;

const SECOND_NS: u64 = 1_000_000_000;
const BLOB_BYTES: u64 = 8 << 20;

/// Is the shape of a made-up outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) gets_per_node: usize,
    pub(crate) seed: u64,
    /// Multiplies every time.
    pub(crate) slowness: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 40, gets_per_node: 5, seed: 1, slowness: 1.0 }
    }
}

/// Draws numbers by a linear congruence: good enough to look like something.
struct Draw(u64);

impl Draw {
    fn share(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }

    fn time_ns(&mut self, scale: f64) -> u64 {
        let spread = (-(1.0 - self.share()).max(1e-9).ln()).sqrt();
        Duration::from_secs_f64(scale * (0.4 + spread)).as_nanos().try_into().unwrap()
    }
}

/// Makes an outcome in which one node in ten waits for the edge and others get from peers.
pub(crate) fn outcome(shape: Shape) -> Outcome {
    let mut draw = Draw(shape.seed.wrapping_mul(0x9e37_79b9).wrapping_add(17));
    let mut outcome = Outcome::default();
    for index in 0..shape.nodes {
        add_node(&mut outcome, shape, index, &mut draw);
    }
    outcome.fetches.sort_by_key(|row| row.start_ns + row.took_ns);
    outcome.ended_ns =
        outcome.fetches.iter().map(|row| row.start_ns + row.took_ns).max().unwrap_or(0);
    outcome.series = series(&outcome);
    outcome.summary = summary(&outcome);
    outcome.events = outcome.fetches.len() as u64 * 37;
    outcome.complete = true;
    outcome.event_log_hash = blake3::hash(&shape.seed.to_le_bytes()).to_hex().to_string();
    outcome
}

fn add_node(outcome: &mut Outcome, shape: Shape, index: usize, draw: &mut Draw) {
    let group = if index.is_multiple_of(5) { "laptop" } else { "runner" };
    let node = format!("{group}-{index}");
    let start = draw.time_ns(0.4);
    let mut row = NodeRow {
        node: node.clone(),
        group: group.to_owned(),
        site: if index < shape.nodes / 3 { "hq" } else { "branch" }.to_owned(),
        joined_ns: Some(start),
        neighbours: 12,
        ..NodeRow::default()
    };
    let mut at = start;
    for blob in 0..shape.gets_per_node {
        let fetch = fetch(
            &node,
            blob,
            at,
            shape.slowness * if index.is_multiple_of(10) { 1.8 } else { 1.0 },
            draw,
        );
        at += fetch.took_ns;
        row.lan_bytes += fetch.lan_bytes;
        row.edge_bytes += fetch.edge_bytes;
        row.sent_bytes += fetch.lan_bytes;
        row.stored_bytes += BLOB_BYTES;
        row.gets_done += 1;
        row.finished_ns = Some(at);
        outcome.fetches.push(fetch);
    }
    outcome.nodes.push(row);
}

fn fetch(node: &str, blob: usize, start_ns: u64, scale: f64, draw: &mut Draw) -> FetchRow {
    let took_ns = draw.time_ns(scale);
    let (found, edge_bytes) = match draw.share() {
        share if share < 0.04 => ("edge", BLOB_BYTES),
        share if share < 0.10 => ("dht", BLOB_BYTES / 4),
        _ => ("lan", 0),
    };
    FetchRow {
        node: node.to_owned(),
        blob: format!("image/{blob}"),
        size: BLOB_BYTES,
        start_ns,
        took_ns,
        result: "ok",
        found,
        local_bytes: 0,
        lan_bytes: BLOB_BYTES - edge_bytes,
        edge_bytes,
        asks: 3,
        asks_wasted: 1,
        skipped: 8,
        sources: 2,
        hedged: edge_bytes > 0,
        local_ns: 20_000,
        find_ns: took_ns / 10,
        first_group_ns: took_ns / 10,
        transfer_ns: took_ns / 2,
        store_ns: took_ns / 20,
    }
}

fn series(outcome: &Outcome) -> Vec<SeriesRow> {
    let every = (outcome.ended_ns / 120).max(1);
    let moments = (0..=120).map(|step| step * every);
    let row = |at_ns: u64| {
        let ended = |row: &&FetchRow| row.start_ns + row.took_ns <= at_ns;
        let open = |row: &&FetchRow| row.start_ns <= at_ns && at_ns < row.start_ns + row.took_ns;
        let done = outcome.fetches.iter().take_while(ended);
        SeriesRow {
            at_ns,
            lan_bytes: done.clone().map(|row| row.lan_bytes).sum(),
            edge_bytes: done.clone().map(|row| row.edge_bytes).sum(),
            gets_done: done.count() as u64,
            gets_open: outcome.fetches.iter().filter(open).count() as u64,
            nodes_up: outcome
                .nodes
                .iter()
                .filter(|n| n.joined_ns.is_some_and(|j| j <= at_ns))
                .count() as u64,
            ..SeriesRow::default()
        }
    };
    moments.map(row).collect()
}

fn summary(outcome: &Outcome) -> BTreeMap<&'static str, f64> {
    let seconds = |ns: u64| ns as f64 / SECOND_NS as f64;
    let fetch = stats::sorted(outcome.fetches.iter().map(|row| seconds(row.took_ns)));
    let finish = stats::sorted(
        outcome.nodes.iter().filter_map(|node| Some(seconds(node.finished_ns? - node.joined_ns?))),
    );
    let at = |values: &[f64], share| stats::percentile(values, share).unwrap_or(0.0);
    let sum = |of: fn(&FetchRow) -> u64| outcome.fetches.iter().map(of).sum::<u64>() as f64;
    let (lan, edge) = (sum(|row| row.lan_bytes), sum(|row| row.edge_bytes));
    BTreeMap::from([
        ("nodes", outcome.nodes.len() as f64),
        ("gets", fetch.len() as f64),
        ("gets.ok", fetch.len() as f64),
        ("fetch.p50", at(&fetch, 0.5)),
        ("fetch.p95", at(&fetch, 0.95)),
        ("fetch.p99", at(&fetch, 0.99)),
        ("fetch.max", at(&fetch, 1.0)),
        ("finish.p50", at(&finish, 0.5)),
        ("finish.p95", at(&finish, 0.95)),
        ("finish.max", at(&finish, 1.0)),
        ("makespan", seconds(outcome.ended_ns)),
        ("unique.bytes", (BLOB_BYTES * 5) as f64),
        ("local.bytes", 0.0),
        ("lan.bytes", lan),
        ("edge.bytes", edge),
        ("savings.bytes", 1.0 - edge / (lan + edge)),
        ("corrupt.accepted", 0.0),
    ])
}

/// Makes the plan that such an outcome could be of.
pub(crate) fn plan(name: &str, nodes: usize) -> Plan {
    Plan {
        name: name.to_owned(),
        about: "What does a blob cost when everybody wants it at once?".to_owned(),
        seed: 1,
        duration: Duration::from_secs(600),
        sites: vec![Site {
            name: "hq".to_owned(),
            latency: Distribution::constant(200_000),
            loss: 0.0,
            discovery: None,
            uplink: None,
        }],
        groups: vec![Group {
            name: "runner".to_owned(),
            count: nodes,
            site: SiteId(0),
            up: None,
            down: None,
            disk: None,
            hash: None,
            cache: None,
            join: Distribution::constant(0),
            session: None,
            absence: None,
            keeps_store: true,
            engine: None,
        }],
        engine: Config::default(),
        edge: None,
        dht: None,
        blobs: Vec::new(),
        workloads: Vec::new(),
        faults: Vec::new(),
        metrics: Metrics { every: Duration::from_secs(1), filter_looks: 0 },
        asserts: vec![
            assert("edge.bytes", Relation::AtMost, 1e12, "edge.bytes <= 1TB"),
            assert("finish.p95", Relation::AtMost, 3600.0, "finish.p95 <= 1h"),
            assert("corrupt.accepted", Relation::Equal, 0.0, "corrupt.accepted == 0"),
        ],
        sweep: Sweep::default(),
    }
}

pub(crate) fn assert(metric: &str, relation: Relation, value: f64, text: &str) -> Assert {
    let measure = Measure::Metric(metric.to_owned());
    Assert { measure, relation, value, text: text.to_owned() }
}

pub(crate) const PLAN_TEXT: &str =
    "schema = 1\nname = \"flash-crowd\"\nseed = 1\nduration = \"10m\"\n";

/// Writes a run, all but the last step.
pub(crate) fn staged_run(place: &Path, plan: &Plan, outcome: &Outcome) -> Staged {
    let mut writer = Writer::create(place, Kind::Run).unwrap();
    let settings = BTreeMap::new();
    let wall = Duration::from_millis(2500);
    let run = Run { cell: 0, settings: &settings, seed: plan.seed, plan, wall, outcome };
    writer.add(&run, Keep::Rows).unwrap();
    writer.finish(&head(plan)).unwrap()
}

/// Writes a sweep over nodes and the hedge, all but the last step.
pub(crate) fn staged_sweep(place: &Path, cells: &Cells<'_>) -> Staged {
    let mut plan = plan("flash-crowd-sweep", 0);
    let texts = |values: Vec<String>| values;
    plan.sweep.axes = BTreeMap::from([
        (
            "group.runner.count".to_owned(),
            texts(cells.nodes.iter().map(usize::to_string).collect()),
        ),
        (
            "engine.hedge_after".to_owned(),
            texts(cells.hedges.iter().map(|h| format!("\"{h}\"")).collect()),
        ),
    ]);
    let mut writer = Writer::create(place, Kind::Sweep).unwrap();
    let pairs =
        cells.nodes.iter().flat_map(|nodes| cells.hedges.iter().map(move |hedge| (nodes, hedge)));
    for (cell, (nodes, hedge)) in pairs.enumerate() {
        let settings = BTreeMap::from([
            ("group.runner.count".to_owned(), nodes.to_string()),
            ("engine.hedge_after".to_owned(), format!("\"{hedge}\"")),
        ]);
        for seed in 1..=cells.seeds {
            let growth = (*nodes as f64).ln() / 3.0 + cell as f64 % cells.hedges.len() as f64;
            let shape = Shape {
                nodes: *nodes,
                seed: seed * 1000 + cell as u64,
                gets_per_node: 5,
                slowness: cells.slowness * growth,
            };
            let outcome = outcome(shape);
            plan.groups[0].count = *nodes;
            let wall = Duration::from_millis(40);
            let run = Run { cell, settings: &settings, seed, plan: &plan, wall, outcome: &outcome };
            writer.add(&run, Keep::Rows).unwrap();
        }
    }
    writer.finish(&head(&plan)).unwrap()
}

/// Is what a made-up sweep varies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells<'a> {
    pub(crate) nodes: &'a [usize],
    pub(crate) hedges: &'a [&'a str],
    pub(crate) seeds: u64,
    pub(crate) slowness: f64,
}

fn head(plan: &Plan) -> Head<'_> {
    Head {
        plan,
        plan_text: PLAN_TEXT,
        commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        wall: Duration::from_millis(2600),
        threads: Some(2),
        memory_peak_bytes: Some(183 << 20),
    }
}

/// Adds the transfers and messages about one blob: each node asks three others, two of which have
/// it not.
pub(crate) fn with_detail(mut outcome: Outcome, blob: &str) -> Outcome {
    let rows: Vec<FetchRow> =
        outcome.fetches.iter().filter(|row| row.blob == blob).cloned().collect();
    let mut holders = vec!["edge".to_owned()];
    for (index, row) in rows.iter().enumerate() {
        let source = holders[index * 7 % holders.len()].clone();
        let end = row.start_ns + row.took_ns;
        if source != "edge" {
            let ask = |to: &str, kind, from_ns: u64, from: &str| MessageRow {
                sent_ns: from_ns,
                arrived_ns: Some(from_ns + 3_000_000),
                from: from.to_owned(),
                to: to.to_owned(),
                blob: blob.to_owned(),
                kind,
            };
            outcome.messages.push(ask(&source, "ask", row.start_ns, &row.node));
            outcome.messages.push(ask(&row.node, "have", row.start_ns + 4_000_000, &source));
            if let Some(other) = rows.get((index + 3) % rows.len()) {
                outcome.messages.push(ask(&other.node, "ask", row.start_ns, &row.node));
                outcome.messages.push(ask(
                    &row.node,
                    "absent",
                    row.start_ns + 5_000_000,
                    &other.node,
                ));
            }
        }
        outcome.transfers.push(TransferRow {
            start_ns: row.start_ns + row.find_ns,
            first_byte_ns: Some(row.start_ns + row.find_ns + row.first_group_ns),
            end_ns: end,
            from: source,
            to: row.node.clone(),
            blob: blob.to_owned(),
            bytes: BLOB_BYTES,
            outcome: "complete",
        });
        holders.push(row.node.clone());
    }
    outcome
}
