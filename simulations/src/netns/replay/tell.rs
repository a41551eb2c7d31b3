//! What a replay was seen to do, as the rows and metrics of a run.
//!
//! A get's own receipt tells its time and tiers. What a receipt has beyond that line, who was asked and
//! who sent, `why` is asked for after the run, of the last get of each blob by each node. Counters of a
//! node that was killed are gone with it, so they are sums over lives at the end. What a killed get had
//! received is known from the get that took it up: those bytes came from where the rest came from.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{
    COMMAND_LIMIT, Counters, Stage,
    player::State,
    users::{Fetch, lock, nanos},
};
use crate::{
    netns::{edge::EdgeServer, error::Error},
    outcome::{FetchRow, NodeRow, Outcome, SeriesRow},
    stats,
};

/// The most gets whose receipts are asked for whole: each is a command.
const RECEIPTS_MAX: usize = 2_000;

/// How many bytes of a blob come with one byte of a wire that carries nothing else: what `calibrate`
/// measures as goodput, on wires whose frames count with their headers.
const BLOB_SHARE_OF_WIRE: f64 = 0.95;

/// How a note begins that tells of a hedge.
const HEDGE_NOTE: &str = "the edge was started after waiting";

/// Is what was measured beside the gets.
pub(super) struct Facts<'a> {
    pub(super) ended: Duration,
    pub(super) processor_share: f64,
    pub(super) machine_share: f64,
    pub(super) before: Counters,
    pub(super) after: Counters,
    pub(super) edge: Option<&'a EdgeServer>,
}

/// Makes the outcome of a run that ended; the nodes still run.
///
/// # Errors
/// Those of commands that fail.
pub(super) fn outcome(stage: &Stage<'_>, facts: &Facts<'_>) -> Result<Outcome, Error> {
    let mut fetches = std::mem::take(&mut lock(&stage.seen).fetches);
    let mut nodes = node_rows(stage, &fetches);
    let mut counters = BTreeMap::new();
    complete(stage, &mut fetches, &mut nodes)?;
    add_lost(&fetches, facts, &mut nodes);
    count(stage, &mut nodes, &mut counters)?;
    let rows: Vec<FetchRow> = fetches.iter().map(|fetch| fetch.row.clone()).collect();
    let series = series(stage, &rows, facts.ended);
    let summary = Sums { rows: &rows, nodes: &nodes, counters: &counters, facts }.summary();
    Ok(Outcome {
        summary,
        complete: rows.iter().all(|row| row.result != "unfinished"),
        fetches: rows,
        series,
        nodes,
        ended_ns: nanos(facts.ended),
        ..Outcome::default()
    })
}

fn node_rows(stage: &Stage<'_>, fetches: &[Fetch]) -> Vec<NodeRow> {
    let nodes = stage.script.nodes.iter().zip(&stage.players).enumerate();
    let row =
        |(index, (node, player)): (usize, (&crate::script::ScriptNode, &super::Player<'_>))| {
            let own: Vec<&FetchRow> = fetches
                .iter()
                .filter(|fetch| fetch.node == index)
                .map(|fetch| &fetch.row)
                .collect();
            let done = |row: &&&FetchRow| row.result == "ok";
            let failed = |row: &&&FetchRow| !matches!(row.result, "ok" | "killed" | "unfinished");
            let ended = |row: &&&FetchRow| !matches!(row.result, "killed" | "unfinished");
            let name = |name: Option<&String>| name.cloned().unwrap_or_default();
            NodeRow {
                node: node.name.clone(),
                group: name(stage.plan.groups.get(node.group).map(|group| &group.name)),
                site: name(stage.plan.sites.get(node.site).map(|site| &site.name)),
                joined_ns: player.joined().map(nanos),
                finished_ns: own.iter().filter(ended).map(|row| row.start_ns + row.took_ns).max(),
                gets_done: own.iter().filter(done).count() as u64,
                gets_failed: own.iter().filter(failed).count() as u64,
                lan_bytes: own.iter().map(|row| row.lan_bytes).sum(),
                edge_bytes: own.iter().map(|row| row.edge_bytes).sum(),
                ..NodeRow::default()
            }
        };
    nodes.map(row).collect()
}

/// Adds to the rows what only a whole receipt tells.
fn complete(stage: &Stage<'_>, fetches: &mut [Fetch], nodes: &mut [NodeRow]) -> Result<(), Error> {
    let mut last: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (index, fetch) in fetches.iter().enumerate() {
        if fetch.row.result == "ok" && fetch.row.found != "local" {
            last.insert((fetch.node, fetch.blob), index);
        }
    }
    let peers: Vec<String> = stage.players.iter().map(super::Player::peer).collect();
    let of_peer = |peer: &str| peers.iter().position(|known| !known.is_empty() && known == peer);
    for ((node, blob), index) in last.into_iter().take(RECEIPTS_MAX) {
        let (Some(player), Some(hash)) = (stage.players.get(node), stage.hashes.get(blob)) else {
            continue;
        };
        if !matches!(player.state(), State::Up(_)) {
            continue;
        }
        let finished = player.home.run(&["why", hash], b"", COMMAND_LIMIT)?;
        // A node that was restarted since has forgotten.
        let lines = finished.stdout.lines().rev();
        let why = lines.filter_map(|line| serde_json::from_str::<Why>(line).ok()).next();
        let (Some(why), Some(fetch)) = (why, fetches.get_mut(index)) else { continue };
        why.fill(&mut fetch.row);
        for from in &why.fetches {
            let sender = of_peer(&from.source).and_then(|sender| nodes.get_mut(sender));
            if let Some(sender) = sender {
                sender.sent_bytes += from.bytes;
            }
        }
    }
    Ok(())
}

/// Adds to nodes what their killed gets had received, from where their other bytes came.
fn add_lost(fetches: &[Fetch], facts: &Facts<'_>, nodes: &mut [NodeRow]) {
    let killed = |index: usize| fetches.iter().any(|f| f.node == index && f.row.result == "killed");
    for (index, row) in nodes.iter_mut().enumerate().filter(|(index, _)| killed(*index)) {
        let down =
            |counters: &Counters| counters.hosts.get(index).map_or(0, |wire| wire.down.bytes);
        let wire = down(&facts.after).saturating_sub(down(&facts.before));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count is no larger than it"
        )]
        let bytes = (wire as f64 * BLOB_SHARE_OF_WIRE) as u64;
        let lost = bytes.saturating_sub(row.lan_bytes + row.edge_bytes);
        let tier =
            if row.edge_bytes > row.lan_bytes { &mut row.edge_bytes } else { &mut row.lan_bytes };
        *tier += lost;
    }
}

/// Asks the nodes that run for their counters, neighbours and stores.
fn count(
    stage: &Stage<'_>,
    nodes: &mut [NodeRow],
    counters: &mut BTreeMap<String, u64>,
) -> Result<(), Error> {
    for (player, row) in stage.players.iter().zip(nodes) {
        if !matches!(player.state(), State::Up(_)) {
            continue;
        }
        let peers = player.home.peers()?;
        row.neighbours = peers.iter().filter(|peer| peer.neighbour).count() as u64;
        let finished = player.home.run(&["status"], b"", COMMAND_LIMIT)?.success()?;
        let status = finished.stdout.lines().rev();
        let status = status.filter_map(|line| serde_json::from_str::<Status>(line).ok()).next();
        let Some(status) = status else { continue };
        row.stored_bytes = status.bytes;
        for (name, value) in status.counters {
            *counters.entry(name).or_default() += value;
        }
    }
    Ok(())
}

/// Makes the time series of what gets tell at their ends.
fn series(stage: &Stage<'_>, rows: &[FetchRow], ended: Duration) -> Vec<SeriesRow> {
    let every = nanos(stage.plan.metrics.every).max(1);
    let end = nanos(ended);
    let mut moments: Vec<u64> = (0..=end / every).map(|step| step * every).collect();
    moments.push(end);
    let joined: Vec<u64> =
        stage.players.iter().filter_map(|player| player.joined().map(nanos)).collect();
    let row = |at: u64| {
        let over = rows.iter().filter(move |row| row.start_ns + row.took_ns <= at);
        let open = |row: &&FetchRow| row.start_ns <= at && at < row.start_ns + row.took_ns;
        SeriesRow {
            at_ns: at,
            lan_bytes: over.clone().map(|row| row.lan_bytes).sum(),
            edge_bytes: over.clone().map(|row| row.edge_bytes).sum(),
            gets_done: over.clone().filter(|row| row.result == "ok").count() as u64,
            gets_failed: over
                .clone()
                .filter(|row| !matches!(row.result, "ok" | "killed" | "unfinished"))
                .count() as u64,
            asks: over.map(|row| row.asks).sum(),
            gets_open: rows.iter().filter(open).count() as u64,
            nodes_up: joined.iter().filter(|joined| **joined <= at).count() as u64,
            ..SeriesRow::default()
        }
    };
    moments.into_iter().map(row).collect()
}

/// Sums up a run.
struct Sums<'a, 'e> {
    rows: &'a [FetchRow],
    nodes: &'a [NodeRow],
    counters: &'a BTreeMap<String, u64>,
    facts: &'a Facts<'e>,
}

impl Sums<'_, '_> {
    /// Returns the metrics that were measured, as a world names them.
    fn summary(&self) -> BTreeMap<&'static str, f64> {
        let mut summary = BTreeMap::new();
        let mut put = |name: &'static str, value: f64| {
            summary.insert(name, value);
        };
        put("nodes", self.nodes.len() as f64);
        self.gets(&mut put);
        self.times(&mut put);
        self.bytes(&mut put);
        self.counts(&mut put);
        summary
    }

    fn of_result(&self, result: &str) -> f64 {
        self.rows.iter().filter(|row| row.result == result).count() as f64
    }

    fn gets(&self, put: &mut impl FnMut(&'static str, f64)) {
        let (all, done) = (self.rows.len() as f64, self.of_result("ok"));
        let (killed, unfinished) = (self.of_result("killed"), self.of_result("unfinished"));
        put("gets", all);
        put("gets.ok", done);
        put("gets.killed", killed);
        put("gets.unfinished", unfinished);
        put("gets.failed", all - done - killed - unfinished);
        for (metric, found) in
            [("hit.local", "local"), ("hit.lan", "lan"), ("hit.dht", "dht"), ("hit.edge", "edge")]
        {
            let hits = self.rows.iter().filter(|row| row.found == found).count() as f64;
            put(metric, hits / done.max(1.0));
        }
    }

    fn times(&self, put: &mut impl FnMut(&'static str, f64)) {
        let remote = self.rows.iter().filter(|row| row.result == "ok" && row.found != "local");
        let fetch = stats::sorted(remote.map(|row| row.took_ns as f64 / 1e9));
        let finish = self.nodes.iter().filter_map(|node| {
            let first = self.rows.iter().filter(|row| row.node == node.node);
            let first = first.map(|row| row.start_ns).min()?;
            Some(node.finished_ns?.saturating_sub(first) as f64 / 1e9)
        });
        let finish = stats::sorted(finish);
        let at = |times: &[f64], share| stats::percentile(times, share).unwrap_or(0.0);
        for (metric, share) in [
            ("fetch.p50", 0.5),
            ("fetch.p95", 0.95),
            ("fetch.p99", 0.99),
            ("fetch.p999", 0.999),
            ("fetch.max", 1.0),
        ] {
            put(metric, at(&fetch, share));
        }
        put("fetch.mean", stats::mean(&fetch).unwrap_or(0.0));
        for (metric, share) in [
            ("finish.p50", 0.5),
            ("finish.p95", 0.95),
            ("finish.p99", 0.99),
            ("finish.p999", 0.999),
            ("finish.max", 1.0),
        ] {
            put(metric, at(&finish, share));
        }
        let first = self.rows.iter().map(|row| row.start_ns).min().unwrap_or(0);
        let last = self.rows.iter().map(|row| row.start_ns + row.took_ns).max().unwrap_or(0);
        put("makespan", last.saturating_sub(first) as f64 / 1e9);
    }

    fn bytes(&self, put: &mut impl FnMut(&'static str, f64)) {
        let done = || self.rows.iter().filter(|row| row.result == "ok");
        let unique: BTreeMap<&str, u64> = done().map(|row| (row.blob.as_str(), row.size)).collect();
        let wanted: u64 = done().map(|row| row.size).sum();
        let local: u64 = self.rows.iter().map(|row| row.local_bytes).sum();
        let edge: u64 = self.nodes.iter().map(|node| node.edge_bytes).sum();
        put("unique.bytes", unique.values().sum::<u64>() as f64);
        put("wanted.bytes", wanted as f64);
        put("local.bytes", local as f64);
        put("lan.bytes", self.nodes.iter().map(|node| node.lan_bytes).sum::<u64>() as f64);
        put("edge.bytes", edge as f64);
        put("sent.bytes", self.nodes.iter().map(|node| node.sent_bytes).sum::<u64>() as f64);
        put("savings.bytes", 1.0 - edge as f64 / wanted.saturating_sub(local).max(1) as f64);
        // A world counts what is asked for blobs; group lists are not what a plan speaks of.
        let served = self.facts.edge.map(EdgeServer::served).unwrap_or_default();
        put("edge.requests", served.blob_requests as f64);
        put("edge.sent.bytes", served.blob_bytes as f64);
        let Facts { before, after, .. } = self.facts;
        let up = |counters: &Counters| counters.uplinks.iter().map(|wire| wire.up.bytes).sum();
        let down = |counters: &Counters| counters.uplinks.iter().map(|wire| wire.down.bytes).sum();
        let passed = |of: &dyn Fn(&Counters) -> u64| of(after).saturating_sub(of(before)) as f64;
        put("uplink.up.bytes", passed(&up));
        put("uplink.down.bytes", passed(&down));
    }

    fn counts(&self, put: &mut impl FnMut(&'static str, f64)) {
        for (metric, counter) in [
            ("asks", "asks_sent"),
            ("asks.wasted", "asks_wasted"),
            ("asks.skipped", "asks_skipped"),
            ("hedges", "hedges"),
            ("stalls", "stalls"),
            ("bans", "bans"),
        ] {
            if let Some(count) = self.counters.get(counter) {
                put(metric, *count as f64);
            }
        }
        let links: u64 = self.nodes.iter().map(|node| node.neighbours).sum();
        put("neighbours.mean", links as f64 / self.nodes.len().max(1) as f64);
        let Facts { before, after, .. } = self.facts;
        let frames = after.pace.frames.saturating_sub(before.pace.frames);
        let late = after.pace.late_frames.saturating_sub(before.pace.late_frames);
        put("relay.late", late as f64 / frames.max(1) as f64);
        put("processor.share", self.facts.processor_share);
        put("machine.share", self.facts.machine_share);
    }
}

/// Is what is read of a `why`.
#[derive(Debug, Deserialize)]
struct Why {
    asked: Vec<Asked>,
    skipped: Vec<String>,
    fetches: Vec<Source>,
    notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    answer: String,
}

#[derive(Debug, Deserialize)]
struct Source {
    source: String,
    bytes: u64,
}

impl Why {
    fn fill(&self, row: &mut FetchRow) {
        row.asks = self.asked.len() as u64;
        row.asks_wasted = self.asked.iter().filter(|asked| asked.answer == "absent").count() as u64;
        row.skipped = self.skipped.len() as u64;
        row.sources = self.fetches.len() as u64;
        row.hedged = self.notes.iter().any(|note| note.starts_with(HEDGE_NOTE));
    }
}

/// Is what is read of a `status`.
#[derive(Debug, Deserialize)]
struct Status {
    bytes: u64,
    counters: BTreeMap<String, u64>,
}
