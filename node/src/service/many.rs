//! Many blobs by one request, and one blob into memory.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::WantError;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Inner, gets, parse_all, reports};
use crate::compute;
use crate::control::api::{Answer, Event, Exchange, Failure, GotRow, TierBytes, Trouble};
use crate::driver::{DriverHandle, GetEnded, Many};
use crate::store::{SmallRead, StoreError};

/// How many blobs of all lists together are under way at once; the engine resolves 1,024, so that there is room
/// for those who want a single one.
const RUNNING_MAX: usize = 896;
/// How many of one list: a window of small requests that is out, and half of one that waits.
const RUNNING_OF_LIST_MAX: usize = 768;
/// How many rows are told at once, but for the last ones.
const ROWS_MAX: usize = 256;
/// How long a row waits for others.
const ROWS_TIME: Duration = Duration::from_millis(100);
/// How long a list rests for which the engine has no room.
const REST: Duration = Duration::from_millis(50);
/// How many receipts of a list are kept: they should not drive out all others, and each takes some 10 µs to be made.
const RECEIPTS_MAX: usize = 256;

impl Inner {
    pub(super) async fn get_many(
        &self,
        hashes: &[String],
        timeout_ms: Option<u64>,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let mut named = HashSet::new();
        let mut hashes = parse_all(hashes)?;
        hashes.retain(|hash| named.insert(*hash));
        let started = Instant::now();
        let deadline = timeout_ms.map(|ms| started + Duration::from_millis(ms));
        let mut list = List::new(self, RowTeller::new(exchange));
        let missing = list.take_held(hashes).await?;
        list.get_missing(missing, deadline).await?;
        list.taker.flush().await?;
        let List { got, failed, tier, .. } = &list;
        let (got, failed, tier) = (*got, *failed, *tier);
        Ok(Answer::GotMany { got, failed, tier, seconds: started.elapsed().as_secs_f64() })
    }

    pub(super) async fn read(&self, hash: Hash, len_max: u64) -> Result<Bytes, Failure> {
        if let Some(driver) = &self.driver
            && let (_, Some(bytes)) = self.read_by(driver, hash, len_max, None).await?
        {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        let read = compute::store(&self.store, move |store| {
            Ok((store.read_small(&hash, len_max, &mut bytes)?, bytes))
        });
        match read.await? {
            (SmallRead::Whole, bytes) => Ok(bytes.into()),
            (SmallRead::Large { size }, _) => {
                let what = format!("blob {} has {size} bytes", hash.fmt_short());
                Err(Failure::new(Trouble::TooLarge, what))
            }
            (SmallRead::Absent, _) => Err(StoreError::Absent { hash }.into()),
        }
    }

    /// Reads one blob by the driver; without bytes it came into the store, or was there.
    async fn read_by(
        &self,
        driver: &DriverHandle,
        hash: Hash,
        len_max: u64,
        timeout: Option<Duration>,
    ) -> Result<(GetEnded, Option<Bytes>), Failure> {
        let (ended, bytes) = driver.read(hash, len_max, timeout).await?;
        let Err(why) = ended.result else { return Ok((ended, bytes)) };
        let receipt = reports::receipt(&ended, self.edge.is_some());
        Err(gets::failure(hash, why, &receipt, ended))
    }
}

/// Takes the rows of a list as its blobs end.
pub(super) trait TakeRow {
    /// Takes one row.
    ///
    /// # Errors
    /// Ends the list.
    async fn take_row(&mut self, row: Row) -> Result<(), Failure>;

    /// Hears that all ends are taken that there were at once.
    fn rest(&mut self) {}
}

/// Tells how the get of one of many blobs ended.
pub(super) struct Row {
    pub(super) hash: Hash,
    pub(super) size: Option<u64>,
    pub(super) found: &'static str,
    pub(super) tier: TierBytes,
    took: Duration,
    pub(super) failure: Option<Failure>,
}

impl From<Row> for GotRow {
    fn from(row: Row) -> Self {
        let Row { hash, size, found, tier, took, failure } = row;
        let (hash, found, seconds) = (hash.to_hex(), found.to_owned(), took.as_secs_f64());
        Self { hash, size, found, tier, seconds, failure }
    }
}

/// Is one list on its way.
pub(super) struct List<'a, T> {
    node: &'a Inner,
    pub(super) taker: T,
    got: u64,
    failed: u64,
    /// The bytes of those that were got.
    pub(super) tier: TierBytes,
    /// The last that were got, for their receipts.
    ends: VecDeque<GetEnded>,
}

impl<'a, T: TakeRow> List<'a, T> {
    pub(super) fn new(node: &'a Inner, taker: T) -> Self {
        node.lists.fetch_add(1, Ordering::Relaxed);
        let (tier, ends) = (TierBytes::default(), VecDeque::new());
        Self { node, taker, got: 0, failed: 0, tier, ends }
    }

    /// Tells of those that the store holds, and returns the others.
    async fn take_held(&mut self, hashes: Vec<Hash>) -> Result<Vec<Hash>, Failure> {
        let look = move |store: &crate::store::Store| {
            let sizes = store.sizes(&hashes)?;
            Ok((hashes, sizes))
        };
        let mut missing = Vec::new();
        let (hashes, sizes) = compute::store(&self.node.store, look).await?;
        for (hash, size) in hashes.into_iter().zip(sizes) {
            let Some(local) = size else {
                missing.push(hash);
                continue;
            };
            let tier = TierBytes { local, ..TierBytes::default() };
            let (found, took) = ("local", Duration::ZERO);
            self.tell(Row { hash, size, found, tier, took, failure: None }).await?;
        }
        Ok(missing)
    }

    /// Looks at one blob of at most `len_max` bytes, wherever it can be had. Returns its bytes, which are not counted
    /// as got; where it came into the store instead, or was there, it has its row.
    ///
    /// # Errors
    /// As of a get; `TooLarge` for a longer one, which is not got.
    pub(super) async fn look_at(
        &mut self,
        hash: Hash,
        len_max: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Bytes>, Failure> {
        let Some(driver) = &self.node.driver else { return Ok(None) };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let (ended, bytes) = self.node.read_by(driver, hash, len_max, left).await?;
        if bytes.is_none() {
            self.take(ended).await?;
        }
        Ok(bytes)
    }

    /// Gets blobs that the store does not hold, each of which ends with a row.
    pub(super) async fn get_missing(
        &mut self,
        missing: Vec<Hash>,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        match &self.node.driver {
            Some(driver) => {
                let mut many = driver.many(RUNNING_OF_LIST_MAX);
                self.get(missing.into(), deadline, &mut many).await
            }
            None => self.fail_offline(&missing).await,
        }
    }

    /// Gets blobs, as many at once as there is room for, until all have ended.
    async fn get(
        &mut self,
        mut todo: VecDeque<Hash>,
        deadline: Option<Instant>,
        many: &mut Many<'_>,
    ) -> Result<(), Failure> {
        while !todo.is_empty() || !many.is_idle() {
            let room = many.room().min(self.share().saturating_sub(many.running()));
            let next: Vec<Hash> = todo.drain(..room.min(todo.len())).collect();
            if !next.is_empty() {
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                many.get(&next, left).await?;
            }
            let mut full = false;
            for ended in many.ended().await? {
                if ended.result == Err(WantError::TooMany) {
                    full = true;
                    todo.push_back(ended.receipt.hash);
                } else {
                    self.take(ended).await?;
                }
            }
            self.taker.rest();
            if full {
                tokio::time::sleep(REST).await;
            }
        }
        Ok(())
    }

    /// Returns how many of this list may be under way.
    fn share(&self) -> usize {
        let lists = self.node.lists.load(Ordering::Relaxed).max(1);
        (RUNNING_MAX / lists).clamp(1, RUNNING_OF_LIST_MAX)
    }

    async fn fail_offline(&mut self, missing: &[Hash]) -> Result<(), Failure> {
        for hash in missing {
            let what = format!("blob {} is not in the store", hash.fmt_short());
            let failure = Some(Failure::new(Trouble::NoNode, what));
            let (hash, tier, took) = (*hash, TierBytes::default(), Duration::ZERO);
            self.tell(Row { hash, size: None, found: "none", tier, took, failure }).await?;
        }
        Ok(())
    }

    /// Takes in that one has ended.
    async fn take(&mut self, ended: GetEnded) -> Result<(), Failure> {
        let receipt = &ended.receipt;
        let mut row = Row {
            hash: receipt.hash,
            size: receipt.size,
            found: reports::found(receipt.found),
            tier: reports::tier(receipt),
            took: receipt.took,
            failure: None,
        };
        if let Err(why) = ended.result {
            let told = reports::receipt(&ended, self.node.edge.is_some());
            self.node.receipts.insert(told.clone());
            row.failure = Some(gets::failure(ended.receipt.hash, why, &told, ended));
        } else {
            self.ends.push_back(ended);
            if self.ends.len() > RECEIPTS_MAX {
                self.ends.pop_front();
            }
        }
        self.tell(row).await
    }

    /// Counts one that has ended, and has it told.
    async fn tell(&mut self, row: Row) -> Result<(), Failure> {
        match row.failure {
            Some(_) => self.failed += 1,
            None => {
                self.got += 1;
                self.tier.local += row.tier.local;
                self.tier.lan += row.tier.lan;
                self.tier.edge += row.tier.edge;
            }
        }
        self.taker.take_row(row).await
    }
}

impl<T> Drop for List<'_, T> {
    fn drop(&mut self) {
        self.node.lists.fetch_sub(1, Ordering::Relaxed);
        for ended in &self.ends {
            self.node.receipts.insert(reports::receipt(ended, self.node.edge.is_some()));
        }
    }
}

/// Tells the user of each blob, of some at once.
struct RowTeller<'a> {
    exchange: &'a Exchange,
    rows: Vec<GotRow>,
    /// When the first of the rows came.
    since: Option<Instant>,
}

impl<'a> RowTeller<'a> {
    fn new(exchange: &'a Exchange) -> Self {
        Self { exchange, rows: Vec::new(), since: None }
    }

    /// Tells of those that wait for it.
    async fn flush(&mut self) -> Result<(), Failure> {
        self.since = None;
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() && self.exchange.events.send(Event::Got(rows)).await.is_err() {
            return Err(Failure::new(Trouble::Interrupted, "nobody takes the answer"));
        }
        Ok(())
    }
}

impl TakeRow for RowTeller<'_> {
    /// Tells of it sooner or later.
    async fn take_row(&mut self, row: Row) -> Result<(), Failure> {
        self.rows.push(row.into());
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.rows.len() >= ROWS_MAX || since.elapsed() >= ROWS_TIME {
            self.flush().await?;
        }
        Ok(())
    }
}
