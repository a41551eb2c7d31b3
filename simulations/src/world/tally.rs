//! What is counted while a world runs, and the outcome that it becomes.

use std::collections::BTreeMap;
use std::time::Duration;

use blobmesh_protocol::engine::WantError;
use blobmesh_protocol::engine::receipt::{AskedAnswer, Found, Note};
use blobmesh_protocol::stats::Stats;
use blobmesh_protocol::wire::message::{AskResult, Message};
use blobmesh_protocol::{Hash, Time};

use super::host::Want;
use super::transfers::{From, Transfer};
use super::{Ended, Event, NodeIndex, World};
use crate::outcome::{Detail, FetchRow, MessageRow, NodeRow, Outcome, SeriesRow, TransferRow};
use crate::plan::{Group, Site};

/// Counts what travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Filters, deltas and greetings between nodes.
    pub gossip: Messages,
    /// Questions and answers between nodes.
    pub asks: Messages,
    /// Bytes of blobs between nodes.
    pub blob_bytes: u64,
    /// Bytes of blobs from the edge.
    pub edge_bytes: u64,
}

/// Counts messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// Counts, for all and for each node.
#[derive(Debug, Default)]
pub(super) struct Tally {
    detail: Detail,
    traffic: Traffic,
    nodes: Vec<NodeSums>,
    blob_names: BTreeMap<Hash, String>,
    fetches: Vec<FetchRow>,
    transfers: Vec<TransferRow>,
    messages: Vec<MessageRow>,
    /// Questions about the blob that is looked at: who asked whom, by number.
    asked: BTreeMap<(NodeIndex, NodeIndex, u32), Hash>,
    series: Vec<SeriesRow>,
    /// The counters of engines that are gone.
    stats: BTreeMap<&'static str, u64>,
    every: Duration,
    wanted: u64,
    ended: u64,
    done: u64,
    failed: u64,
    killed: u64,
    duplicate_bytes: u64,
    /// Groups that a source of wrong bytes sent and that were stored.
    corrupt_groups: u64,
    got: BTreeMap<Hash, u64>,
    first_want: Option<Time>,
    last_end: Time,
}

#[derive(Clone, Debug, Default)]
struct NodeSums {
    row: NodeRow,
    sent: u64,
    /// Flows that were rounded to whole bytes in `sent`.
    flows: u64,
    first_want: Option<Time>,
}

impl Tally {
    pub(super) fn set_detail(&mut self, detail: Detail) {
        self.detail = detail;
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Returns how many gets ended, and how many were wanted.
    pub(super) fn gets(&self) -> (u64, u64) {
        (self.ended, self.wanted)
    }

    pub(super) fn name_node(
        &mut self,
        node: NodeIndex,
        group: &Group,
        index: usize,
        sites: &[Site],
    ) {
        let site = sites.get(group.site.0).map(|site| site.name.clone()).unwrap_or_default();
        let name = format!("{}-{index}", group.name);
        let row = NodeRow { node: name, group: group.name.clone(), site, ..NodeRow::default() };
        self.node_mut(node).row = row;
    }

    pub(super) fn name_blob(&mut self, hash: Hash, name: String) {
        self.blob_names.insert(hash, name);
    }

    pub(super) fn started(&mut self, node: NodeIndex, now: Time) {
        let row = &mut self.node_mut(node).row;
        row.joined_ns.get_or_insert(now.as_nanos());
    }

    /// Returns the bytes that a node sent, and in how many flows, each rounded to whole bytes.
    pub(super) fn sent_by(&self, node: NodeIndex) -> (f64, f64) {
        self.nodes.get(node).map_or((0.0, 0.0), |node| (to_float(node.sent), to_float(node.flows)))
    }

    fn node_mut(&mut self, node: NodeIndex) -> &mut NodeSums {
        if self.nodes.len() <= node {
            self.nodes.resize_with(node + 1, NodeSums::default);
        }
        // The line before made room for it.
        &mut self.nodes[node]
    }

    fn node_name(&self, node: NodeIndex) -> String {
        let named = self.nodes.get(node).map(|sums| sums.row.node.clone());
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("node-{node}"))
    }

    fn blob_name(&self, hash: &Hash) -> String {
        self.blob_names.get(hash).cloned().unwrap_or_else(|| hash.fmt_short())
    }

    fn is_detailed(&self, hash: &Hash) -> bool {
        match &self.detail {
            Detail::Sums => false,
            Detail::Blob(name) => self.blob_name(hash) == *name,
        }
    }

    pub(super) fn count_message(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        message: &Message,
        len: usize,
        (sent, arrived): (Time, Option<Time>),
    ) {
        let messages = match message {
            Message::Ask { .. } | Message::Answer { .. } => &mut self.traffic.asks,
            Message::Hello(_)
            | Message::Filter(_)
            | Message::FilterDelta(_)
            | Message::FilterRequest
            | Message::Groups { .. }
            | Message::Claims { .. }
            | Message::Near { .. }
            | Message::Rumour { .. }
            | Message::Goodbye => &mut self.traffic.gossip,
        };
        messages.count += 1;
        messages.bytes += u64::try_from(len).unwrap_or(0);
        if self.detail == Detail::Sums {
            return;
        }
        let question = match message {
            Message::Ask { id, hash } if self.is_detailed(hash) => {
                self.asked.insert((from, to, *id), *hash);
                Some(("ask", *hash))
            }
            Message::Answer { id, result } => {
                let word = match result {
                    AskResult::Have { .. } => "have",
                    AskResult::Absent => "absent",
                    AskResult::Busy { .. } => "busy",
                };
                self.asked.remove(&(to, from, *id)).map(|hash| (word, hash))
            }
            Message::Ask { .. }
            | Message::Hello(_)
            | Message::Filter(_)
            | Message::FilterDelta(_)
            | Message::FilterRequest
            | Message::Groups { .. }
            | Message::Claims { .. }
            | Message::Near { .. }
            | Message::Rumour { .. }
            | Message::Goodbye => None,
        };
        let Some((kind, hash)) = question else { return };
        let (from, to, blob) = (self.node_name(from), self.node_name(to), self.blob_name(&hash));
        let (sent_ns, arrived_ns) = (sent.as_nanos(), arrived.map(Time::as_nanos));
        self.messages.push(MessageRow { sent_ns, arrived_ns, from, to, blob, kind });
    }

    /// Counts the bytes of a flow that ended, on both sides.
    pub(super) fn count_bytes(&mut self, to: NodeIndex, from: From, bytes: f64) {
        let bytes = rounded(bytes);
        match from {
            From::Node(sender) => {
                self.traffic.blob_bytes += bytes;
                self.node_mut(to).row.lan_bytes += bytes;
                let sums = self.node_mut(sender);
                sums.sent += bytes;
                sums.flows += 1;
            }
            From::Edge => {
                self.traffic.edge_bytes += bytes;
                self.node_mut(to).row.edge_bytes += bytes;
            }
        }
    }

    pub(super) fn count_duplicate(&mut self, bytes: u64) {
        self.duplicate_bytes += bytes;
    }

    pub(super) fn count_corrupt(&mut self, groups: u64) {
        self.corrupt_groups += groups;
    }

    pub(super) fn transfer_ended(&mut self, transfer: &Transfer, now: Time, outcome: &'static str) {
        if !self.is_detailed(&transfer.hash) {
            return;
        }
        let from = match transfer.from {
            From::Node(node) => self.node_name(node),
            From::Edge => "edge".to_owned(),
        };
        self.transfers.push(TransferRow {
            start_ns: transfer.started.as_nanos(),
            first_byte_ns: transfer.first_byte.map(Time::as_nanos),
            end_ns: now.as_nanos(),
            from,
            to: self.node_name(transfer.node),
            blob: self.blob_name(&transfer.hash),
            bytes: transfer.bytes(),
            outcome,
        });
    }

    /// Adds the counters of an engine that is gone.
    pub(super) fn add_stats(&mut self, stats: &Stats) {
        for (name, count) in stats.named() {
            *self.stats.entry(name).or_default() += count;
        }
    }

    pub(super) fn wanted(&mut self, node: NodeIndex, now: Time) {
        self.wanted += 1;
        self.first_want.get_or_insert(now);
        self.node_mut(node).first_want.get_or_insert(now);
    }

    pub(super) fn get_ended(&mut self, ended: &Ended, want: &Want, size: Option<u64>) {
        let receipt = &ended.receipt;
        let wasted = |answer: Option<AskedAnswer>| answer == Some(AskedAnswer::Absent);
        let row = FetchRow {
            result: result_word(&ended.result),
            found: receipt.found.map_or("-", found_word),
            local_bytes: receipt.bytes_local,
            lan_bytes: receipt.bytes_lan,
            edge_bytes: receipt.bytes_edge,
            asks: to_int(receipt.asked.len()),
            asks_wasted: to_int(receipt.asked.iter().filter(|asked| wasted(asked.answer)).count()),
            skipped: to_int(receipt.skipped.len()),
            sources: to_int(receipt.fetches.len()),
            hedged: receipt.notes.iter().any(|note| matches!(note, Note::HedgeFired { .. })),
            local_ns: nanos(receipt.phases.local),
            find_ns: nanos(receipt.phases.find),
            first_group_ns: nanos(receipt.phases.first_group),
            transfer_ns: nanos(receipt.phases.transfer),
            store_ns: nanos(receipt.phases.store),
            ..self.row(ended.node, want, size, ended.at)
        };
        self.ended += 1;
        self.last_end = ended.at;
        let sums = &mut self.node_mut(ended.node).row;
        sums.finished_ns = Some(ended.at.as_nanos());
        if ended.result.is_ok() {
            sums.gets_done += 1;
            self.done += 1;
            *self.got.entry(want.hash).or_default() += 1;
        } else {
            sums.gets_failed += 1;
            self.failed += 1;
        }
        self.fetches.push(row);
    }

    /// Writes down a get that did not end by itself.
    pub(super) fn get_cut(
        &mut self,
        node: NodeIndex,
        want: &Want,
        size: Option<u64>,
        (now, result): (Time, &'static str),
    ) {
        self.killed += u64::from(result == "killed");
        self.ended += u64::from(result == "killed");
        let row = FetchRow { result, ..self.row(node, want, size, now) };
        self.fetches.push(row);
    }

    fn row(&self, node: NodeIndex, want: &Want, size: Option<u64>, now: Time) -> FetchRow {
        FetchRow {
            node: self.node_name(node),
            blob: self.blob_name(&want.hash),
            size: size.unwrap_or(0),
            start_ns: want.since.as_nanos(),
            took_ns: nanos(now - want.since),
            result: "unfinished",
            found: "-",
            local_bytes: 0,
            lan_bytes: 0,
            edge_bytes: 0,
            asks: 0,
            asks_wasted: 0,
            skipped: 0,
            sources: 0,
            hedged: false,
            local_ns: 0,
            find_ns: 0,
            first_group_ns: 0,
            transfer_ns: 0,
            store_ns: 0,
        }
    }
}

impl World {
    /// Writes down a row of the time series every so often.
    pub(super) fn sample_every(&mut self, every: Duration) {
        self.tally.every = every;
        self.sample();
    }

    pub(super) fn sample(&mut self) {
        let (from_peers, from_edge) = self.bytes_under_way();
        let row = SeriesRow {
            at_ns: self.now.as_nanos(),
            lan_bytes: self.tally.traffic.blob_bytes + from_peers,
            edge_bytes: self.tally.traffic.edge_bytes + from_edge,
            edge_requests: self.edge.as_ref().map_or(0, |edge| edge.requests),
            gets_done: self.tally.done,
            gets_failed: self.tally.failed,
            asks: self.tally.traffic.asks.count,
            gossip_bytes: self.tally.traffic.gossip.bytes,
            searches: self.dht.as_ref().map_or(0, |dht| dht.stats.lookups),
            events: self.steps,
            gets_open: self.tally.wanted - self.tally.ended,
            transfers_open: to_int(self.transfers.len()),
            nodes_up: to_int(self.hosts.iter().filter(|host| host.is_up()).count()),
            stored_bytes: self.hosts.iter().map(|host| host.store.bytes()).sum(),
        };
        self.tally.series.push(row);
        if !self.tally.every.is_zero() {
            self.schedule_own(self.now + self.tally.every, Event::Sample);
        }
    }

    /// Returns the bytes that flows which have not ended have carried, from peers and from the edge.
    fn bytes_under_way(&self) -> (u64, u64) {
        let (mut from_peers, mut from_edge) = (0, 0);
        for (from, flow) in self.transfers.flows() {
            let bytes = rounded(self.flows.done(self.now, flow));
            match from {
                From::Node(_) => from_peers += bytes,
                From::Edge => from_edge += bytes,
            }
        }
        (from_peers, from_edge)
    }

    /// Returns whether everybody has what they wanted.
    pub(super) fn is_done(&self) -> bool {
        self.workloads.is_done()
    }

    /// Ends the run and returns what it measured.
    pub(super) fn outcome(&mut self) -> Outcome {
        self.cut_gets();
        self.end_transfers();
        self.check_conservation();
        self.sample();
        for node in 0..self.hosts.len() {
            let stats = self.stats(node);
            self.tally.add_stats(&stats);
            let (neighbours, stored) = self
                .hosts
                .get(node)
                .map_or((0, 0), |host| (to_int(host.links.len()), host.store.bytes()));
            let sums = self.tally.node_mut(node);
            (sums.row.neighbours, sums.row.stored_bytes) = (neighbours, stored);
            sums.row.sent_bytes = sums.sent;
        }
        let complete = self.is_done();
        let summary = self.summary();
        Outcome {
            summary,
            fetches: std::mem::take(&mut self.tally.fetches),
            series: std::mem::take(&mut self.tally.series),
            nodes: self.tally.nodes.iter().map(|sums| sums.row.clone()).collect(),
            transfers: std::mem::take(&mut self.tally.transfers),
            messages: std::mem::take(&mut self.tally.messages),
            event_log_hash: self.log.hash().to_hex(),
            events: self.steps,
            ended_ns: self.now.as_nanos(),
            complete,
            violations: self.checks.violations().to_vec(),
        }
    }

    /// Writes down the gets that are under way at the end.
    fn cut_gets(&mut self) {
        let hosts = self.hosts.iter().enumerate();
        let open: Vec<(NodeIndex, Want)> = hosts
            .flat_map(|(node, host)| host.wants.values().map(move |want| (node, *want)))
            .collect();
        for (node, want) in open {
            let size = self.blobs.get(&want.hash).copied();
            self.tally.get_cut(node, &want, size, (self.now, "unfinished"));
        }
    }

    fn summary(&self) -> BTreeMap<&'static str, f64> {
        let tally = &self.tally;
        let mut summary = BTreeMap::new();
        let mut put = |name: &'static str, value: f64| summary.insert(name, value);
        put("gets", to_float(tally.wanted));
        put("gets.ok", to_float(tally.done));
        put("gets.failed", to_float(tally.failed));
        put("gets.killed", to_float(tally.killed));
        put("gets.unfinished", to_float(tally.wanted - tally.ended));
        let remote = |row: &&FetchRow| row.result == "ok" && row.found != "local";
        let took = tally.fetches.iter().filter(remote).map(|row| row.took_ns).collect();
        times(
            ["fetch.p50", "fetch.p95", "fetch.p99", "fetch.p999", "fetch.max", "fetch.mean"],
            took,
            &mut put,
        );
        let finished = tally.nodes.iter().filter_map(|sums| {
            let end = sums.row.finished_ns?;
            Some(end.saturating_sub(sums.first_want?.as_nanos()))
        });
        let names = ["finish.p50", "finish.p95", "finish.p99", "finish.p999", "finish.max", ""];
        times(names, finished.collect(), &mut put);
        let first = tally.first_want.unwrap_or(tally.last_end);
        put("makespan", (tally.last_end - first).as_secs_f64());
        self.sum_bytes(&mut put);
        self.sum_engines(&mut put);
        self.sum_dht(&mut put);
        if let Some(probe) = &self.probe {
            probe.sum(&mut put);
        }
        put("violations", to_float(self.checks.count()));
        put("events", to_float(self.steps));
        summary
    }

    fn sum_bytes(&self, put: &mut impl FnMut(&'static str, f64) -> Option<f64>) {
        let tally = &self.tally;
        let size = |hash: &Hash| self.blobs.get(hash).copied().unwrap_or(0);
        let unique: u64 = tally.got.keys().map(size).sum();
        let wanted: u64 = tally.got.iter().map(|(hash, times)| size(hash) * times).sum();
        put("unique.bytes", to_float(unique));
        put("wanted.bytes", to_float(wanted));
        let found = |tier: &str| tally.fetches.iter().filter(|row| row.found == tier).count();
        let done = to_float(tally.done.max(1));
        let share = |tier: &str| to_float(to_int(found(tier))) / done;
        put("hit.local", share("local"));
        put("hit.lan", share("lan"));
        put("hit.dht", share("dht"));
        put("hit.edge", share("edge"));
        let local: u64 = tally.fetches.iter().map(|row| row.local_bytes).sum();
        put("local.bytes", to_float(local));
        put("lan.bytes", to_float(tally.traffic.blob_bytes));
        put("edge.bytes", to_float(tally.traffic.edge_bytes));
        put("sent.bytes", to_float(tally.nodes.iter().map(|sums| sums.sent).sum()));
        let edge_sent = self.edge.as_ref().and_then(super::edge::Edge::pipe);
        let edge_sent = edge_sent.map(|pipe| self.flows.carried(self.now, pipe));
        put("edge.sent.bytes", edge_sent.unwrap_or(to_float(tally.traffic.edge_bytes)));
        put("edge.requests", to_float(self.edge.as_ref().map_or(0, |edge| edge.requests)));
        put("duplicate.bytes", to_float(tally.duplicate_bytes));
        let [up, down] = self
            .sites
            .uplinks()
            .map(|pipes| pipes.iter().map(|pipe| self.flows.carried(self.now, *pipe)).sum::<f64>());
        put("uplink.up.bytes", up);
        put("uplink.down.bytes", down);
        let remote = to_float(wanted.saturating_sub(local).max(1));
        put("savings.bytes", 1.0 - to_float(tally.traffic.edge_bytes) / remote);
        put("corrupt.accepted", to_float(tally.corrupt_groups));
    }

    fn sum_engines(&self, put: &mut impl FnMut(&'static str, f64) -> Option<f64>) {
        let tally = &self.tally;
        let count = |name: &str| to_float(tally.stats.get(name).copied().unwrap_or(0));
        put("asks", count("asks_sent"));
        put("asks.wasted", count("asks_wasted"));
        put("asks.skipped", count("asks_skipped"));
        put("hedges", count("hedges"));
        put("stalls", count("stalls"));
        put("bans", count("bans"));
        put("gossip.messages", to_float(tally.traffic.gossip.count));
        put("gossip.bytes", to_float(tally.traffic.gossip.bytes));
        put("ask.bytes", to_float(tally.traffic.asks.bytes));
        let links: u64 = tally.nodes.iter().map(|sums| sums.row.neighbours).sum();
        put("neighbours.mean", to_float(links) / to_float(to_int(tally.nodes.len().max(1))));
    }

    fn sum_dht(&self, put: &mut impl FnMut(&'static str, f64) -> Option<f64>) {
        let Some(dht) = &self.dht else { return };
        let stats = &dht.stats;
        put("dht.lookups", to_float(stats.lookups));
        put("dht.found", to_float(stats.found));
        put("dht.requests", to_float(stats.requests));
        put("dht.stale", to_float(stats.stale));
        let mut hops: Vec<u64> = stats.hops.iter().map(|hops| u64::from(*hops)).collect();
        hops.sort_unstable();
        let mean = to_float(hops.iter().sum()) / to_float(to_int(hops.len().max(1)));
        put("dht.hops.mean", mean);
        put("dht.hops.p95", to_float(percentile(&hops, 950)));
        let mut took = stats.took.clone();
        took.sort_unstable();
        put("dht.time.p50", to_float(percentile(&took, 500)) / 1e9);
    }
}

/// Puts percentiles of times in seconds: 50, 95, 99, 99.9, the largest, the mean.
fn times(
    names: [&'static str; 6],
    mut nanos: Vec<u64>,
    put: &mut impl FnMut(&'static str, f64) -> Option<f64>,
) {
    nanos.sort_unstable();
    let at = |thousandths| to_float(percentile(&nanos, thousandths)) / 1e9;
    let mean = to_float(nanos.iter().sum()) / to_float(to_int(nanos.len().max(1))) / 1e9;
    let values = [at(500), at(950), at(990), at(999), at(1_000), mean];
    for (name, value) in names.into_iter().zip(values) {
        if !name.is_empty() {
            put(name, value);
        }
    }
}

/// Returns the value of the nearest rank; 0 of none.
fn percentile(sorted: &[u64], thousandths: usize) -> u64 {
    let rank = (sorted.len() * thousandths).div_ceil(1_000).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

fn result_word(result: &Result<(), WantError>) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(WantError::NotFound) => "not_found",
        Err(WantError::WrongBytes) => "wrong_bytes",
        Err(WantError::Refused) => "refused",
        Err(WantError::Unreachable) => "unreachable",
        Err(WantError::TimedOut) => "timed_out",
        Err(WantError::Cancelled) => "cancelled",
        Err(WantError::StoreFailed) => "store_failed",
        Err(WantError::TooLarge) => "too_large",
        Err(WantError::TooMany) => "too_many",
    }
}

fn found_word(found: Found) -> &'static str {
    match found {
        Found::Local => "local",
        Found::Lan => "lan",
        Found::Dht => "dht",
        Found::Edge => "edge",
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn to_int(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]
fn to_float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes that were carried are not negative, and far below 2^52"
)]
fn rounded(bytes: f64) -> u64 {
    bytes.round() as u64
}
