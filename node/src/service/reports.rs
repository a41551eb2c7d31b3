//! How things are: peers, status, and why a get went as it did.

use std::time::Duration;

use blobmesh_protocol::engine::Source;
use blobmesh_protocol::engine::receipt::{self, AskedAnswer, Found, Note};

use super::{Inner, len_u64, parse};
use crate::compute;
use crate::control::api::{
    Answer, AskedRow, DhtRow, Failure, FetchRow, PeerRow, Phases, Receipt, Status, TierBytes,
    Trouble, WayRow,
};
use crate::driver::GetEnded;
use crate::swarm::convert::peer_text;
use crate::transfer::Carried;

impl Inner {
    pub(super) async fn peers(&self) -> Result<Answer, Failure> {
        let Some(driver) = &self.driver else { return Err(no_node()) };
        let snapshot = driver.snapshot().await?;
        let row = |connected: &crate::driver::ConnectedPeer| {
            let of_peer = snapshot.neighbours.iter().find(|info| info.peer == connected.peer);
            PeerRow {
                peer: peer_text(&connected.peer),
                address: connected.address.clone(),
                neighbour: of_peer.is_some(),
                filter_blobs: of_peer.and_then(|info| info.filter_blobs),
                rtt_us: of_peer.and_then(|info| info.rtt).map(micros),
                bytes_in: connected.bytes_in,
                bytes_out: connected.bytes_out,
            }
        };
        Ok(Answer::Peers { peers: snapshot.connected.iter().map(row).collect() })
    }

    pub(super) async fn status(&self) -> Result<Answer, Failure> {
        let Some(driver) = &self.driver else { return Err(no_node()) };
        let snapshot = driver.snapshot().await?;
        let stats = compute::store(&self.store, |store| Ok(store.stats())).await?;
        let facts = &self.facts;
        let of_edge = self.edge.iter().flat_map(|edge| edge.stats().counters());
        let counters =
            snapshot.stats.named().into_iter().chain(of_edge).chain(self.prefetch.named());
        Ok(Answer::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            peer: facts.peer.clone(),
            addresses: snapshot.addresses,
            uptime_s: self.started.elapsed().as_secs(),
            home: facts.home.clone(),
            mesh: facts.mesh.clone(),
            edge: self.edge.as_ref().map(|edge| edge.describe()),
            mdns: facts.mdns,
            peers: len_u64(snapshot.connected.len()),
            blobs: stats.blobs,
            bytes: stats.bytes,
            bytes_max: facts.bytes_max,
            counters: counters.map(|(name, count)| (name.to_owned(), count)).collect(),
        })))
    }

    pub(super) fn why(&self, hash: &str) -> Result<Answer, Failure> {
        let hash = parse(hash)?;
        let receipt = self.receipts.find(&hash.to_hex()).ok_or_else(|| {
            let what = format!("no get of blob {} is remembered here", hash.fmt_short());
            Failure::new(Trouble::NotFound, what)
        })?;
        Ok(Answer::Why(Box::new(receipt)))
    }
}

fn no_node() -> Failure {
    Failure::new(Trouble::NoNode, "no node runs here")
}

/// Puts the engine's receipt into the words of the control protocol.
pub(super) fn receipt(ended: &GetEnded, has_edge: bool) -> Receipt {
    let receipt = &ended.receipt;
    let way = |row: &receipt::Fetched| {
        let carried = ended.carried.iter().find(|(fetch, _)| *fetch == row.fetch);
        carried.filter(|_| row.source != Source::Edge).map(|(_, carried)| way(carried))
    };
    Receipt {
        hash: receipt.hash.to_hex(),
        size: receipt.size,
        found: found(receipt.found).to_owned(),
        tier: tier(receipt),
        seconds: receipt.took.as_secs_f64(),
        phases: phases(&receipt.phases),
        neighbours: len_u64(receipt.neighbours),
        asked: receipt.asked.iter().map(asked).collect(),
        skipped: receipt.skipped.iter().map(peer_text).collect(),
        fetches: receipt.fetches.iter().map(|row| fetched(row, way(row))).collect(),
        dht: receipt.search.map(|search| DhtRow {
            providers: len_u64(search.providers),
            ms: millis(search.took),
            ended: search.ended,
        }),
        edge: edge(receipt, has_edge),
        notes: receipt.notes.iter().map(note).collect(),
        delta: None,
    }
}

/// Returns how many bytes came from each tier.
pub(super) fn tier(receipt: &receipt::Receipt) -> TierBytes {
    let (local, lan, edge) = (receipt.bytes_local, receipt.bytes_lan, receipt.bytes_edge);
    TierBytes { local, lan, edge }
}

/// Says in one line per tier what a get that failed had tried.
pub(super) fn tiers(receipt: &Receipt) -> Vec<String> {
    let local = match receipt.tier.local {
        0 => "local: absent".to_owned(),
        bytes => format!("local: {bytes} bytes of it"),
    };
    let dht = match receipt.dht {
        None => "dht: not searched".to_owned(),
        Some(DhtRow { providers: 0, ended: true, .. }) => "dht: no provider".to_owned(),
        Some(DhtRow { providers: 0, ended: false, .. }) => "dht: no answer in time".to_owned(),
        Some(DhtRow { providers: 1, .. }) => "dht: one provider".to_owned(),
        Some(DhtRow { providers, .. }) => format!("dht: {providers} providers"),
    };
    let from_peers = receipt.fetches.iter().filter(|row| row.source != EDGE);
    let fetches = from_peers.map(|row| format!("peer {}: {}", row.source, row.outcome));
    let edge = format!("edge: {}", receipt.edge.as_deref().unwrap_or("not asked"));
    [local, format!("lan: {}", receipt.lan()), dht]
        .into_iter()
        .chain(fetches)
        .chain([edge])
        .collect()
}

/// Names the edge among the sources of a receipt.
const EDGE: &str = "edge";

pub(super) fn found(found: Option<Found>) -> &'static str {
    match found {
        Some(Found::Local) => "local",
        Some(Found::Lan) => "lan",
        Some(Found::Dht) => "dht",
        Some(Found::Edge) => "edge",
        None => "none",
    }
}

fn phases(phases: &receipt::Phases) -> Phases {
    Phases {
        local_s: phases.local.as_secs_f64(),
        find_s: phases.find.as_secs_f64(),
        first_group_s: phases.first_group.as_secs_f64(),
        transfer_s: phases.transfer.as_secs_f64(),
        store_s: phases.store.as_secs_f64(),
    }
}

fn asked(asked: &receipt::Asked) -> AskedRow {
    let answer = match asked.answer {
        Some(AskedAnswer::Have) => "have",
        Some(AskedAnswer::Absent) => "absent",
        Some(AskedAnswer::Busy) => "busy",
        Some(AskedAnswer::Timeout) => "timeout",
        Some(AskedAnswer::Gone) => "gone",
        None => "none yet",
    };
    let (peer, ms) = (peer_text(&asked.peer), millis(asked.after));
    AskedRow { peer, answer: answer.to_owned(), ms }
}

fn fetched(fetched: &receipt::Fetched, way: Option<WayRow>) -> FetchRow {
    FetchRow {
        source: source(&fetched.source),
        bytes: fetched.bytes,
        outcome: fetched.outcome.clone(),
        ms: millis(fetched.took),
        way,
    }
}

fn way(carried: &Carried) -> WayRow {
    WayRow {
        lanes: carried.lanes,
        lane_bytes: carried.lane_bytes,
        stream_bytes: carried.stream_bytes,
        connect_ms: millis(carried.connect),
        answer_ms: millis(carried.answer),
        dial_ms: millis(carried.dial),
        verify_ms: millis(carried.verify),
        write_ms: millis(carried.write),
    }
}

fn edge(receipt: &receipt::Receipt, has_edge: bool) -> Option<String> {
    let of_edge = receipt.fetches.iter().rfind(|row| row.source == Source::Edge);
    match of_edge {
        Some(row) => Some(row.outcome.clone()),
        None if has_edge => None,
        None => Some("none configured".to_owned()),
    }
}

fn note(note: &Note) -> String {
    match note {
        Note::Joined => "joined a get that was under way".to_owned(),
        Note::HedgeFired { after } => {
            format!("the edge was started after waiting {:.0} ms for the LAN", millis(*after))
        }
        Note::FirstGroupLate => "a holder gave no byte in time, the edge was started".to_owned(),
        Note::Stalled { source: of } => format!("{} stalled and was dropped", source(of)),
        Note::Banned { peer } => format!("{} sent wrong bytes and is banned", peer_text(peer)),
        Note::Retry { source: of, after } => {
            format!("{} is tried again after {:.0} ms", source(of), millis(*after))
        }
        Note::Yielded { peer } => {
            format!("{} asked the edge for the same, it was left to it", peer_text(peer))
        }
        Note::Named { holder, by } => {
            format!("{} has it, said {}", peer_text(holder), peer_text(by))
        }
        Note::FilterChanged { peer } => {
            format!("{} was asked after its filter had changed", peer_text(peer))
        }
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Peer(peer) => peer_text(peer),
        Source::Edge => EDGE.to_owned(),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
