//! The requests of the node's own user, carried out.
//!
//! One [`NodeService`] serves the control socket and the command that runs a node of its own alike.
//! [`gets`] fetches one blob, [`deltas`] makes of an older version what it can before, [`many`] fetches a list of them, [`prefetch`] ahead of any get, [`blobs`] works on the store, [`trees`] adds
//! and lists directories, [`checkouts`] makes directories of trees, [`pulls`] gets what is missing of them before,
//! [`push`] uploads, [`reports`] tells how things are, [`savings`] what the edge was spared.

mod blobs;
mod checkouts;
mod deltas;
mod gets;
mod many;
mod prefetch;
mod pulls;
mod push;
mod receipts;
mod reports;
mod savings;
mod trees;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use blobmesh_protocol::Hash;
use bytes::Bytes;
use tokio::time::Instant;

use crate::compute;
use crate::config::NodeConfig;
use crate::control::Service;
use crate::control::api::{Answer, Exchange, Failure, Request, Trouble};
use crate::driver::{DriverHandle, DriverStopped, describe};
use crate::edge::Edge;
use crate::store::{Store, StoreError};

use prefetch::Learned;
use receipts::Receipts;
use savings::Ledger;

/// Is what a node knows of itself from its start on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) home: PathBuf,
    pub(crate) peer: String,
    pub(crate) mesh: Option<String>,
    pub(crate) mdns: bool,
    pub(crate) bytes_max: u64,
    pub(crate) addresses: Vec<String>,
}

/// Is what earlier runs of a node left for this one.
#[derive(Debug)]
pub(crate) struct Records {
    receipts: Receipts,
    ledger: Ledger,
    learned: Learned,
}

impl Records {
    pub(crate) async fn load(config: &NodeConfig) -> Self {
        let receipts = Receipts::load(&config.receipts_path()).await;
        let ledger = Ledger::load(&config.savings_path()).await;
        let learned = Learned::load(&config.successors_path(), config.learn).await;
        Self { receipts, ledger, learned }
    }
}

/// Serves the requests of a node's own user; cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    edge: Option<Arc<Edge>>,
    /// None for a node without a network.
    driver: Option<DriverHandle>,
    facts: Facts,
    receipts: Receipts,
    ledger: Ledger,
    prefetch: prefetch::Prefetch,
    /// How many lists are being got.
    lists: AtomicUsize,
    checkouts: checkouts::Places,
    started: Instant,
}

impl NodeService {
    pub(crate) fn new(
        store: Store,
        edge: Option<Arc<Edge>>,
        driver: Option<DriverHandle>,
        facts: Facts,
        records: Records,
    ) -> Self {
        let (lists, started) = (AtomicUsize::new(0), Instant::now());
        let checkouts = checkouts::Places::default();
        let Records { receipts, ledger, learned } = records;
        let prefetch = prefetch::Prefetch::new(learned);
        let inner = Inner {
            store,
            edge,
            driver,
            facts,
            receipts,
            ledger,
            prefetch,
            lists,
            checkouts,
            started,
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Reads one blob of at most `len_max` bytes into memory.
    ///
    /// A blob of up to 64 KiB that a neighbour holds comes in one answer and is not stored; any other is got
    /// into the store as by [`Request::Get`], and read from there. No receipt is kept.
    ///
    /// Dropping the future takes the want back; what was verified by then stays in the store.
    ///
    /// # Errors
    /// As [`Request::Get`]; [`Trouble::TooLarge`] for a longer blob, on the word of a neighbour where it was
    /// not got.
    pub async fn read(&self, hash: Hash, len_max: u64) -> Result<Bytes, Failure> {
        let _busy = self.inner.prefetch.busy();
        self.inner.read(hash, len_max).await
    }

    /// Books what the edge was spared, and keeps it and what was learned, for as long as the node runs.
    pub(crate) async fn keep_records(self) {
        loop {
            tokio::time::sleep(savings::LOOK_INTERVAL).await;
            self.book_savings().await;
            self.inner.prefetch.save().await;
        }
    }

    /// Books what the edge was spared up to now.
    pub(crate) async fn book_savings(&self) {
        self.inner.book_savings().await;
    }

    /// Waits for checkouts and gets to files to end, saves the receipts and what was learned, and closes the store.
    pub(crate) async fn close(&self) {
        self.inner.checkouts.wait().await;
        self.inner.receipts.save().await;
        self.inner.prefetch.save().await;
        let store = self.inner.store.clone();
        if compute::run(move || store.close()).await.is_err() {
            tracing::warn!("the store was not closed cleanly");
        }
    }
}

impl Service for NodeService {
    async fn handle(&self, request: Request, exchange: Exchange) -> Result<Answer, Failure> {
        let node = &*self.inner;
        let _busy = node.prefetch.busy_with(&request);
        let tree = prefetch::Tree::of(&request);
        let roots = prefetch::roots_of(&request);
        let answer = node.answer(request, exchange).await?;
        if !matches!(answer, Answer::GotMany { failed: 1.., .. }) {
            node.prefetch.got(&roots, node.facts.bytes_max);
        }
        if let Some(tree) = tree {
            node.used_tree(tree).await;
        }
        Ok(answer)
    }
}

impl Inner {
    async fn answer(&self, request: Request, exchange: Exchange) -> Result<Answer, Failure> {
        match request {
            Request::Add { path, pin } => self.add(path, pin, exchange).await,
            Request::AddTree { path, pin, ignore } => {
                self.add_tree(path, pin, ignore, &exchange).await
            }
            Request::Tree { hash } => self.tree(&hash).await,
            Request::GetMany { hashes, timeout_ms } => {
                self.get_many(&hashes, timeout_ms, &exchange).await
            }
            Request::Get { hash, output, force, timeout_ms, base, no_store } => {
                let wanted = gets::Wanted { output, force, timeout_ms, base, no_store };
                self.get_to(&hash, wanted, &exchange).await
            }
            Request::Cat { hash, timeout_ms } => self.cat(&hash, timeout_ms, &exchange).await,
            Request::Checkout { hash, dir, options } => {
                let report = self.check_out(parse(&hash)?, dir, options, &exchange).await?;
                Ok(Answer::CheckedOut(Box::new(report)))
            }
            Request::Pull { hash, dir, options, timeout_ms } => {
                self.pull(&hash, dir, options, timeout_ms, &exchange).await
            }
            Request::Prefetch { hashes, budget, wait } => {
                self.prefetch(&hashes, budget, wait, &exchange).await
            }
            Request::Has { hashes } => self.has(&hashes).await,
            Request::List => self.list().await,
            Request::Remove { hashes, force } => self.remove(&hashes, force).await,
            Request::Pin { hashes } => self.pin(&hashes).await,
            Request::Unpin { hashes } => self.unpin(&hashes).await,
            Request::Push { hashes, only, no_packs } => {
                let wanted = push::Wanted { only, no_packs };
                self.push(&hashes, wanted, &exchange).await
            }
            Request::Peers => self.peers().await,
            Request::Status => self.status().await,
            Request::Why { hash } => self.why(&hash),
            Request::Savings => self.savings().await,
            Request::Verify { hashes } => self.verify(&hashes, &exchange).await,
            Request::Gc => self.gc().await,
        }
    }
}

fn parse(hash: &str) -> Result<Hash, Failure> {
    hash.parse().map_err(|error| Failure::new(Trouble::Usage, format!("not a hash: {error}")))
}

fn parse_all(hashes: &[String]) -> Result<Vec<Hash>, Failure> {
    hashes.iter().map(|hash| parse(hash)).collect()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind(), describe(&error))
    }
}

impl From<DriverStopped> for Failure {
    fn from(error: DriverStopped) -> Self {
        Self::new(Trouble::NoNode, error.to_string())
    }
}

impl From<compute::WorkerLost> for Failure {
    fn from(error: compute::WorkerLost) -> Self {
        Self::new(Trouble::Other, error.to_string())
    }
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
