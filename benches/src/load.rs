//! Gets that are asked of a running node, so many at once, and where their time went by their receipts.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use blobmesh_node::control::Client;
use blobmesh_node::control::api::{Answer, Exchange, Receipt, Request, WayRow};
use blobmesh_protocol::Hash;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::stats::{Percentiles, median};

/// Is one get: how long whoever asked waited, and what the node told of it.
#[derive(Clone, Debug)]
pub struct Got {
    wait_s: f64,
    receipt: Receipt,
}

/// Is what the gets of one level took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// How many were under way at once.
    pub at_once: usize,
    /// How many there were.
    pub gets: usize,
    /// How many ended in a second.
    pub per_s: f64,
    /// What whoever asked waited, in milliseconds.
    pub waits_ms: Percentiles,
    /// Where the time went, in milliseconds.
    pub went_ms: Went,
}

/// Tells where the time of some gets went: the median of each part in milliseconds. Parts of threads that work
/// side by side add up, and what belongs to the way is in the phases too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Went {
    /// Between whoever asked and the node: socket, greeting, and waiting for the node.
    pub asking: f64,
    /// Phase: looking into the store.
    pub local: f64,
    /// Phase: finding a holder.
    pub find: f64,
    /// Phase: from the choice of a source to its first verified group.
    pub first_group: f64,
    /// Phase: from the first verified group to the last.
    pub transfer: f64,
    /// Phase: from the last group to the blob's final name.
    pub store: f64,
    /// Way: to a connection and a stream on it.
    pub connect: f64,
    /// Way: from the request to the first byte of its answer.
    pub answer: f64,
    /// Way: to open lanes.
    pub dial: f64,
    /// Way: to verify.
    pub verify: f64,
    /// Way: to write.
    pub write: f64,
}

impl Load {
    /// Sums some gets up; none of none.
    pub fn of(at_once: usize, seconds: f64, all: &[Got]) -> Option<Self> {
        let waits_ms = Percentiles::of(all.iter().map(|got| got.wait_s * 1e3))?;
        let gets = all.len();
        let per_s = u32::try_from(gets).map_or(f64::NAN, f64::from) / seconds;
        Some(Self { at_once, gets, per_s, waits_ms, went_ms: Went::of(all) })
    }

    /// Returns the heading of a table of loads.
    pub fn heading() -> String {
        format!(
            "{:>7} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8} | {:>7} {:>7} {:>7} {:>7} {:>8} {:>7} | {:>7} {:>7} {:>7} {:>7} {:>7}",
            "at once",
            "gets",
            "per s",
            "p50 ms",
            "p95",
            "p99",
            "max",
            "asking",
            "local",
            "find",
            "first",
            "transfer",
            "store",
            "connect",
            "answer",
            "dial",
            "verify",
            "write",
        )
    }

    /// Returns the row of a table of loads.
    pub fn row(&self) -> String {
        let Self { at_once, gets, per_s, waits_ms, went_ms } = self;
        let Percentiles { p50, p95, p99, max } = waits_ms;
        let Went { asking, local, find, first_group, transfer, store, .. } = went_ms;
        let Went { connect, answer, dial, verify, write, .. } = went_ms;
        format!(
            "{at_once:>7} {gets:>6} {per_s:>8.0} {p50:>8.2} {p95:>8.2} {p99:>8.2} {max:>8.2} | \
             {asking:>7.2} {local:>7.2} {find:>7.2} {first_group:>7.2} {transfer:>8.2} {store:>7.2} | \
             {connect:>7.2} {answer:>7.2} {dial:>7.2} {verify:>7.2} {write:>7.2}",
        )
    }
}

impl Went {
    fn of(all: &[Got]) -> Self {
        let of = |of: fn(&Got) -> f64| median(all.iter().map(of)).unwrap_or(0.0);
        Self {
            asking: of(|got| (got.wait_s - got.receipt.seconds) * 1e3),
            local: of(|got| got.receipt.phases.local_s * 1e3),
            find: of(|got| got.receipt.phases.find_s * 1e3),
            first_group: of(|got| got.receipt.phases.first_group_s * 1e3),
            transfer: of(|got| got.receipt.phases.transfer_s * 1e3),
            store: of(|got| got.receipt.phases.store_s * 1e3),
            connect: of(|got| got.way(|way| way.connect_ms)),
            answer: of(|got| got.way(|way| way.answer_ms)),
            dial: of(|got| got.way(|way| way.dial_ms)),
            verify: of(|got| got.way(|way| way.verify_ms)),
            write: of(|got| got.way(|way| way.write_ms)),
        }
    }
}

impl Got {
    /// Sums something up over all sources.
    fn way(&self, of: fn(&WayRow) -> f64) -> f64 {
        self.receipt.fetches.iter().filter_map(|fetch| fetch.way.as_ref()).map(of).sum()
    }
}

/// Gets blobs by the node that serves `socket`, so many at once.
///
/// # Errors
/// When a get fails.
pub async fn get_all(socket: &Path, hashes: &[Hash], at_once: usize) -> io::Result<Load> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for first in 0..at_once {
        let own: Vec<Hash> = hashes.iter().skip(first).step_by(at_once).copied().collect();
        let socket = socket.to_owned();
        tasks.spawn(get_each(socket, own));
    }
    let mut all = Vec::with_capacity(hashes.len());
    while let Some(own) = tasks.join_next().await {
        all.extend(own.map_err(io::Error::other)??);
    }
    let load = Load::of(at_once, started.elapsed().as_secs_f64(), &all);
    load.ok_or_else(|| io::Error::other("there was nothing to get"))
}

async fn get_each(socket: PathBuf, hashes: Vec<Hash>) -> io::Result<Vec<Got>> {
    let mut all = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let asked = Instant::now();
        let receipt = get(&socket, hash).await?;
        all.push(Got { wait_s: asked.elapsed().as_secs_f64(), receipt });
    }
    Ok(all)
}

async fn get(socket: &Path, hash: Hash) -> io::Result<Receipt> {
    let client = Client::connect(socket).await.map_err(io::Error::other)?;
    let client = client.ok_or_else(|| io::Error::other("no node serves the socket"))?;
    let hash = hash.to_hex();
    let (output, timeout_ms, base) = (None, None, None);
    let request = Request::Get { hash, output, force: false, timeout_ms, base, no_store: false };
    // Nobody listens to its progress, and it has no input.
    let (events, _unheard) = mpsc::channel(1);
    let (_no_input, input) = mpsc::channel(1);
    let answer =
        client.call(request, Exchange { events, input }).await.map_err(io::Error::other)?;
    let Answer::Got(receipt) = answer else {
        return Err(io::Error::other("the node answered another question than was asked"));
    };
    Ok(*receipt)
}

#[cfg(test)]
mod tests {
    use blobmesh_node::control::api::{FetchRow, Phases};

    use super::*;

    fn got(wait_s: f64, seconds: f64, verify_ms: f64) -> Got {
        let way = Some(WayRow { verify_ms, ..WayRow::default() });
        let fetch = |way| FetchRow {
            source: String::new(),
            bytes: 0,
            outcome: String::new(),
            ms: 0.0,
            way,
        };
        let phases = Phases { find_s: 0.002, ..Phases::default() };
        let fetches = vec![fetch(way.clone()), fetch(None), fetch(way)];
        Got { wait_s, receipt: Receipt { seconds, phases, fetches, ..Receipt::default() } }
    }

    #[test]
    fn time_is_split_by_receipts_and_what_they_do_not_tell_is_asking() {
        let all = [got(0.010, 0.008, 1.0), got(0.020, 0.016, 3.0), got(0.030, 0.020, 2.0)];
        let load = Load::of(2, 0.5, &all).unwrap();
        assert_eq!((load.gets, load.per_s.to_bits()), (3, 6.0_f64.to_bits()));
        assert!((load.waits_ms.p50 - 20.0).abs() < 1e-9);
        assert!((load.went_ms.asking - 4.0).abs() < 1e-9, "{load:?}");
        assert!((load.went_ms.find - 2.0).abs() < 1e-9);
        assert!((load.went_ms.verify - 4.0).abs() < 1e-9, "of both sources");
        assert!(Load::of(2, 0.5, &[]).is_none());
    }

    #[test]
    fn rows_stand_below_their_headings() {
        let row = Load::of(1, 1.0, &[got(0.010, 0.008, 1.0)]).unwrap().row();
        assert_eq!(row.split_whitespace().count(), Load::heading().split_whitespace().count() - 3);
        assert_eq!(row.len(), Load::heading().len());
    }
}
