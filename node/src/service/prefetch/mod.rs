//! Prefetch: what will be wanted is got ahead, while nobody waits for anything else.
//!
//! Lists wait in a queue; one after the other is worked through, a tree with all that it consists of. As soon as a
//! user asks for bytes, everything that is under way for a prefetch is dropped, which keeps what was verified, and goes on
//! once nobody has waited for a while ([`quiet`]). A budget bounds what one list may bring.
//!
//! What came is remembered until it is used, so that `why` and `savings` can say what it was good for ([`ahead`]).

mod ahead;
mod budget;
mod quiet;

use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::Hash;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use self::ahead::{Ahead, AheadCounts};
use self::budget::Budget;
use self::quiet::{Busy, Foreground};
use super::{Inner, NodeService, len_u64, parse, parse_all, reports};
use crate::compute;
use crate::control::api::{
    Answer, Event, Exchange, Failure, PrefetchReport, Progress, Request, TierBytes, Trouble,
};
use crate::driver::{DriverHandle, GetProgress};
use crate::service::blobs::PROGRESS_INTERVAL;
use crate::store::StoreError;
use crate::tree::closure;

/// How many lists may wait; further ones are refused.
const LISTS_MAX: usize = 64;
/// How many blobs of a list are got at once.
const AT_ONCE: usize = 8;
/// How many bytes one list may bring where its owner does not say.
const BUDGET_DEFAULT: u64 = 10 << 30;
/// How many blobs one list may come to, those of its trees included: about 100 bytes each.
const BLOBS_MAX: usize = 500_000;

/// Holds the lists that wait, and what came of those that did not.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    lists: Mutex<VecDeque<List>>,
    news: Notify,
    foreground: Foreground,
    ahead: Mutex<Ahead>,
}

/// Is what a user wants got ahead.
#[derive(Clone, Debug)]
struct List {
    blobs: Vec<Hash>,
    budget: u64,
}

impl Prefetch {
    /// Says that a user waits for the bytes of this request; none where it brings none.
    pub(super) fn busy_with(&self, request: &Request) -> Option<Busy<'_>> {
        let brings = matches!(
            request,
            Request::Get { .. }
                | Request::GetMany { .. }
                | Request::Cat { .. }
                | Request::Tree { .. }
                | Request::Checkout { .. }
                | Request::Pull { .. }
        );
        brings.then(|| self.busy())
    }

    /// Says that a user waits for bytes.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.foreground.busy()
    }

    pub(super) fn counts(&self) -> AheadCounts {
        self.ahead().counts()
    }

    /// Returns what `status` shows.
    pub(super) fn named(&self) -> [(&'static str, u64); 3] {
        let counts = self.counts();
        [
            ("prefetched_bytes", counts.bytes),
            ("prefetched_bytes_used", counts.used),
            ("prefetch_lists_waiting", len_u64(lock(&self.lists).len())),
        ]
    }

    /// Notes that a blob was used, and returns a line on how it came if it had come ahead.
    pub(super) fn used_by_get(&self, hash: &Hash) -> Option<String> {
        self.ahead().used_by_get(hash)
    }

    fn put(&self, list: List) -> Result<u64, Failure> {
        let mut lists = lock(&self.lists);
        if lists.len() >= LISTS_MAX {
            let text = format!("{LISTS_MAX} prefetches wait already");
            return Err(Failure::new(Trouble::Unreachable, text));
        }
        let ahead = len_u64(lists.len());
        lists.push_back(list);
        self.news.notify_one();
        Ok(ahead)
    }

    async fn next(&self) -> List {
        loop {
            if let Some(list) = lock(&self.lists).pop_front() {
                return list;
            }
            self.news.notified().await;
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        lock(&self.ahead)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says which blobs a request that succeeded has used without a get of each.
#[derive(Debug)]
pub(super) struct Tree(Hash);

impl Tree {
    pub(super) fn of(request: &Request) -> Option<Self> {
        let (Request::Checkout { hash, .. } | Request::Pull { hash, .. }) = request else {
            return None;
        };
        parse(hash).ok().map(Self)
    }
}

impl NodeService {
    /// Works through the lists, for as long as the node runs.
    pub(crate) async fn keep_prefetching(self) {
        loop {
            let list = self.inner.prefetch.next().await;
            let blobs = list.blobs.len();
            match self.inner.get_ahead(list, &watch::Sender::default()).await {
                Ok(report) => {
                    let PrefetchReport { blobs: got, failed, .. } = report;
                    tracing::info!(blobs, got, failed, "a prefetch ended");
                }
                Err(error) => tracing::warn!(%error, "a prefetch ended"),
            }
        }
    }
}

impl Inner {
    /// Gets blobs ahead: at once where the user waits for the end, else when it is their turn.
    pub(super) async fn prefetch(
        &self,
        hashes: &[String],
        budget: Option<u64>,
        wait: bool,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let blobs = parse_all(hashes)?;
        let list = List { blobs, budget: budget.unwrap_or(BUDGET_DEFAULT) };
        if !wait {
            return Ok(Answer::Prefetching { before: self.prefetch.put(list)? });
        }
        let progress = watch::Sender::default();
        let report = tokio::select! {
            biased;
            report = self.get_ahead(list, &progress) => report?,
            never = tell(&progress, exchange) => match never {},
        };
        Ok(Answer::Prefetched(Box::new(report)))
    }

    /// Notes that all of a tree was used, as far as it came ahead.
    pub(super) async fn used_tree(&self, tree: Tree) {
        if !self.prefetch.ahead().has_unused() {
            return;
        }
        let (store, Tree(root)) = (self.store.clone(), tree);
        if let Ok(Ok(Some(blobs))) = compute::run(move || closure::of_tree(&store, &root)).await {
            self.prefetch.ahead().used_without_get(&blobs);
        }
    }

    /// Works through one list. Dropping the future takes back what is under way; what was verified stays.
    async fn get_ahead(
        &self,
        list: List,
        progress: &watch::Sender<PrefetchReport>,
    ) -> Result<PrefetchReport, Failure> {
        let Some(driver) = &self.driver else {
            return Err(Failure::new(Trouble::NoNode, "no node runs here"));
        };
        let began = Instant::now();
        let budget = Budget::new(list.budget);
        let mut met: HashSet<Hash> = HashSet::new();
        let mut open = VecDeque::new();
        let mut flying = FuturesUnordered::new();
        let mut report = PrefetchReport::default();
        let note = |report: &PrefetchReport| progress.send_replace(report.clone());
        open.extend(list.blobs.into_iter().filter(|hash| met.insert(*hash)).map(Wanted::root));
        loop {
            while flying.len() < AT_ONCE
                && !budget.is_used_up()
                && let Some(wanted) = open.pop_front()
            {
                flying.push(self.get_one_ahead(driver, wanted, &budget));
            }
            let Some((wanted, came)) = flying.next().await else { break };
            match came? {
                Came::Here => report.existed += 1,
                Came::Got { size, tier } => {
                    report.blobs += 1;
                    report.tier.lan += tier.lan;
                    report.tier.edge += tier.edge;
                    self.prefetch.ahead().came(wanted.hash, size, tier);
                }
                Came::Failed => {
                    report.failed += 1;
                    continue;
                }
                Came::TooLong => {
                    report.left += 1;
                    continue;
                }
            }
            if wanted.may_be_tree {
                let below = self.below(wanted.hash).await?;
                let fresh = below.into_iter().filter(|wanted| met.insert(wanted.hash));
                open.extend(fresh);
                if met.len() > BLOBS_MAX {
                    let text = format!("a prefetch comes to more than {BLOBS_MAX} blobs");
                    return Err(Failure::new(Trouble::TooLarge, text));
                }
            }
            note(&report);
        }
        report.left += len_u64(open.len());
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Gets one blob while nobody waits for others.
    async fn get_one_ahead(
        &self,
        driver: &DriverHandle,
        wanted: Wanted,
        budget: &Budget,
    ) -> (Wanted, Result<Came, Failure>) {
        let hash = wanted.hash;
        loop {
            self.prefetch.foreground.quiet().await;
            match compute::store(&self.store, move |store| store.find(&hash)).await {
                Ok(None) => {}
                Ok(Some(_)) => return (wanted, Ok(Came::Here)),
                Err(error) => return (wanted, Err(error.into())),
            }
            tokio::select! {
                biased;
                () = self.prefetch.foreground.disturbed() => {}
                came = get_within(driver, hash, budget) => return (wanted, came),
            }
        }
    }

    /// Returns what a tree's manifest names; nothing of another blob.
    async fn below(&self, hash: Hash) -> Result<Vec<Wanted>, Failure> {
        let below = compute::store(&self.store, move |store| match closure::below(store, &hash) {
            // Evicted already: what it names cannot be known.
            Err(StoreError::Absent { .. }) => Ok(None),
            below => below,
        });
        let Some(below) = below.await? else { return Ok(Vec::new()) };
        let of = |may_be_tree| move |hash| Wanted { hash, may_be_tree };
        let manifests = below.manifests.into_iter().map(of(true));
        Ok(manifests.chain(below.files.into_iter().map(of(false))).collect())
    }
}

/// Is one blob of a list.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    hash: Hash,
    /// What a manifest has as a file is none itself, whatever its bytes look like.
    may_be_tree: bool,
}

impl Wanted {
    fn root(hash: Hash) -> Self {
        Self { hash, may_be_tree: true }
    }
}

/// Says what came of one blob.
#[derive(Clone, Copy, Debug)]
enum Came {
    Here,
    Got {
        size: u64,
        tier: TierBytes,
    },
    Failed,
    /// It is longer than what is left of the budget.
    TooLong,
}

/// Gets one blob, unless it is longer than what is left of the budget.
async fn get_within(driver: &DriverHandle, hash: Hash, budget: &Budget) -> Result<Came, Failure> {
    let progress = watch::Sender::default();
    let mut told = progress.subscribe();
    let mut get = pin!(driver.get(hash, None, progress));
    let mut length = pin!(async {
        let known = told.wait_for(|progress: &GetProgress| progress.size.is_some()).await;
        known.ok().and_then(|progress| progress.size)
    });
    let mut share = budget.share();
    let ended = tokio::select! {
        biased;
        ended = &mut get => ended?,
        Some(size) = &mut length => match share.take(size) {
            true => get.await?,
            false => return Ok(Came::TooLong),
        },
    };
    if ended.result.is_err() {
        return Ok(Came::Failed);
    }
    let tier = reports::tier(&ended.receipt);
    share.spend(tier.lan + tier.edge);
    Ok(Came::Got { size: ended.receipt.size.unwrap_or_default(), tier })
}

/// Tells how far a prefetch is, until it is dropped.
async fn tell(
    progress: &watch::Sender<PrefetchReport>,
    exchange: &Exchange,
) -> std::convert::Infallible {
    loop {
        sleep(PROGRESS_INTERVAL).await;
        let done = {
            let report = progress.borrow();
            report.tier.lan + report.tier.edge
        };
        let phase = "fetch".to_owned();
        let told = Progress { phase, done, total: None, peers: 0, files: None };
        // A reader that is behind misses some: the next one says more.
        exchange.events.try_send(Event::Progress(told)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_a_bound() {
        let prefetch = Prefetch::default();
        let list = || List { blobs: vec![Hash::of(b"blob")], budget: 1 };
        for before in 0..len_u64(LISTS_MAX) {
            assert_eq!(prefetch.put(list()).expect("room"), before);
        }
        assert_eq!(prefetch.put(list()).expect_err("full").kind, Trouble::Unreachable);
    }
}
