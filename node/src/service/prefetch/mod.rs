//! Prefetch: what will be wanted is got ahead, while nobody waits for anything else.
//!
//! Lists wait in a queue; one after the other is worked through, a tree with all that it consists of. As soon as a
//! user asks for bytes, everything that is under way for a prefetch is dropped, which keeps what was verified, and goes on
//! once nobody has waited for a while ([`quiet`]). A budget bounds what one list may bring.
//!
//! When no list waits, what followed the last get of a user the time before is got ahead, too ([`learned`]).
//!
//! What came is remembered until it is used, so that `why` and `savings` can say what it was good for ([`ahead`]).

mod ahead;
mod budget;
mod learned;
mod quiet;

use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blobmesh_protocol::Hash;
use blobmesh_protocol::engine::WantError;
use blobmesh_protocol::successors::{Prediction, Root};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use self::ahead::{Ahead, AheadCounts};
use self::budget::Budget;
pub(crate) use self::learned::Learned;
pub(super) use self::learned::roots_of;
use self::quiet::{Busy, Foreground};
use super::gets::failure;
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
/// How many bytes may come that nobody asked for, those that came since yesterday and were not used among them; and no
/// more than a quarter of the store.
const BUDGET_LEARNED: u64 = 1 << 30;
/// How many failures of a list are told.
const FAILURES_MAX: usize = 5;
/// How many blobs one list may come to, those of its trees included: about 100 bytes each.
const BLOBS_MAX: usize = 500_000;

/// Holds the lists that wait, and what came of those that did not.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    lists: Mutex<VecDeque<List>>,
    /// What followed the last get of a user the time before, if it is not got ahead yet. It has its turn after all lists.
    predicted: Mutex<Option<List>>,
    news: Notify,
    /// Changes when what is got ahead unasked is to make room for something else.
    displaced: watch::Sender<()>,
    foreground: Foreground,
    ahead: Mutex<Ahead>,
    /// None in tests that do not learn.
    learned: Option<Learned>,
}

/// Is what is to be got ahead.
#[derive(Clone, Debug)]
struct List {
    blobs: Vec<Wanted>,
    budget: u64,
    /// The blob or tree that it followed last time; none where a user asked for it.
    after: Option<Hash>,
}

impl Prefetch {
    pub(super) fn new(learned: Learned) -> Self {
        Self { learned: Some(learned), ..Self::default() }
    }

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

    /// Notes that a user got these with one request, and has got ahead what followed them last time.
    pub(super) fn got(&self, roots: &[Root], store_bytes_max: u64) {
        let predicted = self.learned.as_ref().and_then(|learned| learned.got(roots));
        let Some(Prediction { after, roots }) = predicted else { return };
        let unused = self.ahead().unused_learned();
        let budget = BUDGET_LEARNED.min(store_bytes_max / 4).saturating_sub(unused);
        let blobs = roots.into_iter().map(Wanted::from).collect();
        self.displaced.send_replace(());
        *lock(&self.predicted) = Some(List { blobs, budget, after: Some(after.hash) });
        self.news.notify_one();
    }

    /// Gets ahead no more what a user removed, until it is wanted again.
    pub(super) fn forget(&self, hashes: &HashSet<Hash>) {
        if let Some(learned) = &self.learned {
            learned.forget(hashes);
        }
        if let Some(list) = &mut *lock(&self.predicted) {
            list.blobs.retain(|wanted| !hashes.contains(&wanted.hash));
        }
        self.displaced.send_replace(());
    }

    /// Keeps for the next run what was learned.
    pub(super) async fn save(&self) {
        if let Some(learned) = &self.learned {
            learned.save().await;
        }
    }

    fn put(&self, list: List) -> Result<u64, Failure> {
        let mut lists = lock(&self.lists);
        if lists.len() >= LISTS_MAX {
            let text = format!("{LISTS_MAX} prefetches wait already");
            return Err(Failure::new(Trouble::Unreachable, text));
        }
        let ahead = len_u64(lists.len());
        lists.push_back(list);
        self.displaced.send_replace(());
        self.news.notify_one();
        Ok(ahead)
    }

    /// Waits for the next list; `displaced` says from then on whether it is to make room.
    async fn next(&self, displaced: &mut watch::Receiver<()>) -> List {
        loop {
            displaced.mark_unchanged();
            if let Some(list) = self.first() {
                return list;
            }
            self.news.notified().await;
        }
    }

    fn first(&self) -> Option<List> {
        let asked = lock(&self.lists).pop_front();
        asked.or_else(|| lock(&self.predicted).take())
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
        let mut displaced = self.inner.prefetch.displaced.subscribe();
        loop {
            let list = self.inner.prefetch.next(&mut displaced).await;
            let (blobs, is_learned) = (list.blobs.len(), list.after.is_some());
            let progress = watch::Sender::default();
            let ended = tokio::select! {
                ended = self.inner.get_ahead(list, &progress) => ended,
                Ok(()) = displaced.changed(), if is_learned => continue,
            };
            match ended {
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
        let blobs = parse_all(hashes)?.into_iter().map(Wanted::root).collect();
        let list = List { blobs, budget: budget.unwrap_or(BUDGET_DEFAULT), after: None };
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
        open.extend(list.blobs.into_iter().filter(|wanted| met.insert(wanted.hash)));
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
                    self.prefetch.ahead().came(wanted.hash, size, tier, list.after);
                }
                Came::Failed(failure) => {
                    report.failed += 1;
                    if report.failures.len() < FAILURES_MAX {
                        report.failures.push(*failure);
                    }
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
        // What gets of it that were dropped have left here.
        let mut held = 0;
        loop {
            let progress = watch::Sender::default();
            let told = progress.subscribe();
            self.prefetch.foreground.quiet().await;
            match compute::store(&self.store, move |store| store.find(&hash)).await {
                Ok(None) => {}
                Ok(Some(_)) => return (wanted, Ok(Came::Here)),
                Err(error) => return (wanted, Err(error.into())),
            }
            tokio::select! {
                biased;
                () = self.prefetch.foreground.disturbed() => {}
                came = self.get_within(driver, (hash, held), budget, progress) => {
                    if let Some(came) = came.transpose() {
                        return (wanted, came);
                    }
                }
            }
            held += told.borrow().lan + told.borrow().edge;
        }
    }

    /// Gets one blob of which so many bytes are held, unless the others are more than what is left of the budget; none where a
    /// user has begun to get it.
    async fn get_within(
        &self,
        driver: &DriverHandle,
        (hash, held): (Hash, u64),
        budget: &Budget,
        progress: watch::Sender<GetProgress>,
    ) -> Result<Option<Came>, Failure> {
        let mut told = progress.subscribe();
        let mut share = budget.share(progress.subscribe());
        let mut get = pin!(driver.get_ahead(hash, progress));
        let mut length = pin!(async {
            let known = told.wait_for(|progress: &GetProgress| progress.size.is_some()).await;
            known.ok().and_then(|progress| progress.size)
        });
        let ended = tokio::select! {
            biased;
            ended = &mut get => ended?,
            Some(size) = &mut length => match share.take(size.saturating_sub(held)) {
                true => get.await?,
                false => return Ok(Some(Came::TooLong)),
            },
        };
        match ended.result {
            Ok(()) => {
                let tier = reports::tier(&ended.receipt);
                share.spend(tier.lan + tier.edge);
                Ok(Some(Came::Got { size: ended.receipt.size.unwrap_or_default(), tier }))
            }
            Err(WantError::Cancelled) => Ok(None),
            Err(why) => {
                let receipt = reports::receipt(&ended, self.edge.is_some());
                Ok(Some(Came::Failed(Box::new(failure(hash, why, &receipt, ended)))))
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

impl From<Root> for Wanted {
    fn from(root: Root) -> Self {
        Self { hash: root.hash, may_be_tree: root.with_tree }
    }
}

/// Says what came of one blob.
#[derive(Debug)]
enum Came {
    Here,
    Got {
        size: u64,
        tier: TierBytes,
    },
    Failed(Box<Failure>),
    /// It is longer than what is left of the budget.
    TooLong,
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

    fn list() -> List {
        List { blobs: vec![Wanted::root(Hash::of(b"blob"))], budget: 1, after: None }
    }

    #[test]
    fn lists_have_a_bound() {
        let prefetch = Prefetch::default();
        for before in 0..len_u64(LISTS_MAX) {
            assert_eq!(prefetch.put(list()).expect("room"), before);
        }
        assert_eq!(prefetch.put(list()).expect_err("full").kind, Trouble::Unreachable);
    }

    #[tokio::test]
    async fn prediction_has_its_turn_after_all_lists_and_only_the_last_one_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("successors.json");
        let learned = Learned::load(&path, true).await;
        let [a, b, c] =
            [b"a", b"b", b"c"].map(|name| Root { hash: Hash::of(name), with_tree: true });
        for root in [a, b, c] {
            learned.got(&[root]);
        }
        learned.save().await;
        let prefetch = Prefetch::new(Learned::load(&path, true).await);
        let mut displaced = prefetch.displaced.subscribe();
        prefetch.got(&[a], 800);
        prefetch.got(&[b], 800);
        prefetch.put(list()).expect("room");
        assert_eq!(prefetch.next(&mut displaced).await.after, None);
        let predicted = prefetch.next(&mut displaced).await;
        assert_eq!((predicted.after, predicted.budget), (Some(b.hash), 200));
        let hashes: Vec<_> = predicted.blobs.iter().map(|wanted| wanted.hash).collect();
        assert_eq!(hashes, [c.hash]);
        assert!(prefetch.first().is_none());

        // What is got ahead unasked makes room for a list, and for what a user removed.
        assert!(!displaced.has_changed().expect("a sender"));
        prefetch.put(list()).expect("room");
        assert!(displaced.has_changed().expect("a sender"));
        let prefetch = Prefetch::new(Learned::load(&path, true).await);
        prefetch.got(&[a], 800);
        prefetch.forget(&HashSet::from([b.hash, c.hash]));
        let after = prefetch.first().expect("a list, of nothing");
        assert!(after.after == Some(a.hash) && after.blobs.is_empty(), "{after:?}");
    }
}
