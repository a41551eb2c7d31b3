//! Prefetch: what will be wanted is got ahead, while nobody waits for anything else.
//!
//! Lists wait in a queue; one after the other is worked through, a tree with all that it consists of. As soon as a
//! user asks for bytes, everything that is under way for a prefetch is dropped, which keeps what was verified, and goes on
//! once it has been quiet for [`QUIET`]. A budget bounds what one list may bring.
//!
//! What came ahead is remembered until it is used, so that `why` and `savings` can say what it was good for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobmesh_protocol::Hash;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

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
/// How long nobody must have waited for bytes before anything is got ahead.
const QUIET: Duration = Duration::from_millis(200);
/// How many bytes one list may bring where its owner does not say.
const BUDGET_DEFAULT: u64 = 10 << 30;
/// How many blobs one list may come to, those of its trees included: about 100 bytes each.
const BLOBS_MAX: usize = 500_000;
/// How many blobs that came ahead and were not used yet are remembered, about 100 bytes each; the oldest are forgotten.
const REMEMBERED_MAX: usize = 65_536;

/// Holds the lists that wait, and what came of those that did not.
#[derive(Debug)]
pub(super) struct Prefetch {
    lists: Mutex<VecDeque<List>>,
    news: Notify,
    waiting: watch::Sender<Waiting>,
    ahead: Mutex<Ahead>,
}

/// Tells of the user's requests that wait for bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    requests: usize,
    /// When the last one ended.
    ended: Option<Instant>,
}

/// Is what a user wants got ahead.
#[derive(Clone, Debug)]
struct List {
    blobs: Vec<Hash>,
    budget: u64,
}

/// What came ahead, since the start of the node.
#[derive(Debug, Default)]
struct Ahead {
    counts: AheadCounts,
    unused: HashMap<Hash, Unused>,
    /// In the order in which they came; may name blobs that were used since.
    order: VecDeque<Hash>,
}

#[derive(Clone, Copy, Debug)]
struct Unused {
    size: u64,
    tier: TierBytes,
    came: Instant,
}

/// Counts what came ahead; fields only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AheadCounts {
    /// Gets of a prefetch that ended well.
    pub(super) gets: u64,
    /// Those for which the edge gave no byte.
    pub(super) without_edge: u64,
    /// The bytes they brought.
    pub(super) bytes: u64,
    /// Those of them that somebody used since.
    pub(super) used: u64,
    /// Those of the latter that came to no get, as a directory was made of them.
    pub(super) used_without_get: u64,
}

/// Says that a user waits for bytes, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a watch::Sender<Waiting>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| {
            waiting.requests = waiting.requests.saturating_sub(1);
            waiting.ended = Some(Instant::now());
        });
    }
}

impl Default for Prefetch {
    fn default() -> Self {
        let (lists, news, waiting, ahead) = Default::default();
        Self { lists, news, waiting, ahead }
    }
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
        self.waiting.send_modify(|waiting| waiting.requests += 1);
        Busy(&self.waiting)
    }

    pub(super) fn counts(&self) -> AheadCounts {
        self.ahead().counts
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
        let mut ahead = self.ahead();
        let used = ahead.unused.remove(hash)?;
        ahead.counts.used += used.size;
        let TierBytes { lan, edge, .. } = used.tier;
        let since = used.came.elapsed().as_secs();
        Some(format!("got ahead {since} s before: {lan} bytes from peers, {edge} from the edge"))
    }

    /// Notes that blobs were used without a get of them.
    fn used_without_get(&self, hashes: &[Hash]) {
        let mut ahead = self.ahead();
        for hash in hashes {
            if let Some(used) = ahead.unused.remove(hash) {
                ahead.counts.used += used.size;
                ahead.counts.used_without_get += used.size;
            }
        }
    }

    fn has_unused(&self) -> bool {
        !self.ahead().unused.is_empty()
    }

    fn came(&self, hash: Hash, size: u64, tier: TierBytes) {
        self.ahead().came(hash, Unused { size, tier, came: Instant::now() });
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

    /// Waits until nobody has waited for bytes for a while.
    async fn quiet(&self) {
        let mut waiting = self.waiting.subscribe();
        loop {
            // It fails only without the sender, which lives as long as this.
            let nobody = waiting.wait_for(|waiting| waiting.requests == 0).await;
            let ended = nobody.ok().and_then(|waiting| waiting.ended);
            let since = ended.map_or(QUIET, |ended| ended.elapsed());
            if since >= QUIET {
                return;
            }
            tokio::select! {
                () = sleep(QUIET - since) => {}
                _ = waiting.changed() => {}
            }
        }
    }

    /// Waits until somebody waits for bytes.
    async fn disturbed(&self) {
        self.waiting.subscribe().wait_for(|waiting| waiting.requests > 0).await.ok();
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        lock(&self.ahead)
    }
}

impl Ahead {
    fn came(&mut self, hash: Hash, unused: Unused) {
        self.counts.gets += 1;
        self.counts.without_edge += u64::from(unused.tier.edge == 0);
        self.counts.bytes += unused.tier.lan + unused.tier.edge;
        if self.unused.insert(hash, unused).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.unused.remove(&oldest);
        }
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
        if !self.prefetch.has_unused() {
            return;
        }
        let (store, Tree(root)) = (self.store.clone(), tree);
        if let Ok(Ok(Some(blobs))) = compute::run(move || closure::of_tree(&store, &root)).await {
            self.prefetch.used_without_get(&blobs);
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
        let budget = Budget(AtomicU64::new(list.budget));
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
                    self.prefetch.came(wanted.hash, size, tier);
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
            self.prefetch.quiet().await;
            match compute::store(&self.store, move |store| store.find(&hash)).await {
                Ok(None) => {}
                Ok(Some(_)) => return (wanted, Ok(Came::Here)),
                Err(error) => return (wanted, Err(error.into())),
            }
            tokio::select! {
                biased;
                () = self.prefetch.disturbed() => {}
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

/// Is what is left of a list's budget, in bytes.
#[derive(Debug)]
struct Budget(AtomicU64);

/// Is what one get has taken of a budget; what it does not spend goes back.
#[derive(Debug)]
struct Share<'a> {
    budget: &'a Budget,
    taken: u64,
}

impl Budget {
    fn is_used_up(&self) -> bool {
        self.left() == 0
    }

    fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes what is left, at once; not where `change` says no.
    fn change(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }

    fn share(&self) -> Share<'_> {
        Share { budget: self, taken: 0 }
    }
}

impl Share<'_> {
    /// Takes so many bytes, all or none.
    fn take(&mut self, bytes: u64) -> bool {
        let taken = self.budget.change(|left| left.checked_sub(bytes));
        self.taken += if taken { bytes } else { 0 };
        taken
    }

    /// Spends what came; of a short blob, whose length nobody knew before, perhaps more than was left.
    fn spend(mut self, bytes: u64) {
        let taken = std::mem::take(&mut self.taken);
        self.budget.change(|left| Some(left.saturating_add(taken).saturating_sub(bytes)));
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let taken = self.taken;
        self.budget.change(|left| Some(left.saturating_add(taken)));
    }
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

    fn hash(n: usize) -> Hash {
        Hash::of(&n.to_le_bytes())
    }

    const TIER: TierBytes = TierBytes { local: 0, lan: 3, edge: 4 };

    #[test]
    fn what_came_ahead_counts_as_used_once() {
        let prefetch = Prefetch::default();
        prefetch.came(hash(1), 7, TIER);
        prefetch.came(hash(2), 7, TIER);
        let line = prefetch.used_by_get(&hash(1)).expect("it came ahead");
        assert!(line.ends_with("3 bytes from peers, 4 from the edge"), "{line}");
        assert_eq!(prefetch.used_by_get(&hash(1)), None);
        prefetch.used_without_get(&[hash(1), hash(2), hash(3)]);
        let counts = prefetch.counts();
        assert_eq!((counts.gets, counts.bytes), (2, 14));
        assert_eq!((counts.used, counts.used_without_get), (14, 7));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let prefetch = Prefetch::default();
        (0..REMEMBERED_MAX + 2).for_each(|n| prefetch.came(hash(n), 7, TIER));
        assert_eq!(prefetch.used_by_get(&hash(1)), None);
        assert!(prefetch.used_by_get(&hash(2)).is_some());
        assert_eq!(prefetch.ahead().order.len(), REMEMBERED_MAX);
    }

    #[test]
    fn lists_have_a_bound() {
        let prefetch = Prefetch::default();
        let list = || List { blobs: vec![hash(1)], budget: 1 };
        for before in 0..len_u64(LISTS_MAX) {
            assert_eq!(prefetch.put(list()).expect("room"), before);
        }
        assert_eq!(prefetch.put(list()).expect_err("full").kind, Trouble::Unreachable);
    }

    #[test]
    fn a_budget_is_taken_whole_and_what_is_not_spent_goes_back() {
        let budget = Budget(AtomicU64::new(100));
        let mut dropped = budget.share();
        assert!(dropped.take(60) && !budget.share().take(41) && budget.share().take(40));
        drop(dropped);
        assert_eq!(budget.left(), 100);
        let mut resumed = budget.share();
        assert!(resumed.take(100) && budget.is_used_up());
        resumed.spend(30);
        assert_eq!(budget.left(), 70);
        budget.share().spend(71);
        assert!(budget.is_used_up());
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_a_while_after_the_last_request() {
        let prefetch = Prefetch::default();
        let first = prefetch.busy();
        let started = Instant::now();
        let others = async {
            sleep(Duration::from_secs(1)).await;
            let second = prefetch.busy();
            drop(first);
            sleep(Duration::from_secs(1)).await;
            drop(second);
            sleep(QUIET / 2).await;
            drop(prefetch.busy());
        };
        tokio::join!(prefetch.quiet(), others);
        assert_eq!(started.elapsed(), Duration::from_secs(2) + QUIET / 2 + QUIET);
        prefetch.quiet().await;
        assert_eq!(started.elapsed(), Duration::from_secs(2) + QUIET / 2 + QUIET, "still quiet");
    }
}
