//! Uploads to the edge: blobs, and trees with all that is in them.
//!
//! What the edge has is found out for all blobs together ([`survey`](Edge::survey)). The rest goes up many at once, small
//! blobs in packs where the edge bills requests. A tree's files go before its manifests, so that whoever finds a
//! manifest at the edge finds all that it names; a tree of which something failed leaves its manifests behind.
//!
//! What went up stays: whoever pushes again after a failure, or after hanging up, sends the rest.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, interval};
use tracing::debug;

use super::blobs::PROGRESS_INTERVAL;
use super::{Inner, len_u64, parse_all};
use crate::compute;
use crate::control::api::{
    Answer, Event, Exchange, Failure, FileCount, Progress, PushReport, Trouble,
};
use crate::driver::describe;
use crate::edge::packs::{
    Entry, MEMBER_BYTES_MAX, PACK_BYTES_MAX, PACKED_BYTES_MAX, Presence, packed_len,
};
use crate::edge::{Edge, EdgeError};
use crate::store::{BlobReader, Hold, SmallRead, Store, StoreError};
use crate::tree::closure::{self, Part, level_below};

/// How many blobs and packs go up at once. At 50 ms a request that is 320 a second.
const UPLOADS_MAX: usize = 16;
/// How many bytes they hold in memory together, in MiB. A blob counts as far as it is held: up to 64 MiB.
const UPLOADS_MIB_MAX: u32 = 128;
const BLOB_MIB_MAX: u64 = 64;
/// Fewer small blobs than this go up by themselves: a pack needs two requests more for the index.
const PACKED_MIN: usize = 4;
/// What the edge has of fewer blobs than this is asked blob by blob, without the index.
const SURVEYED_MIN: usize = 4;
/// How often what lies in packs is published while more go up: what was not is sent again after an interruption.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(10);
/// How many failures are told.
const FAILURES_MAX: usize = 5;

/// Says what is to be pushed of what was named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Trees without what is in them.
    pub(super) only: bool,
    /// Every blob as an object of its own.
    pub(super) no_packs: bool,
}

impl Inner {
    pub(super) async fn push(
        &self,
        hashes: &[String],
        wanted: Wanted,
        exchange: &Exchange,
    ) -> Result<Answer, Failure> {
        let hashes = parse_all(hashes)?;
        let Some(edge) = &self.edge else {
            return Err(Failure::new(Trouble::EdgeReadOnly, "no edge is configured"));
        };
        let store = self.store.clone();
        let plan = compute::run(move || Plan::of(&store, &hashes, wanted.only)).await??;
        let upload = Upload {
            store: &self.store,
            edge,
            memory: Semaphore::new(UPLOADS_MIB_MAX as usize),
            tally: Tally::new(&plan),
        };
        let mut push = Push {
            upload: &upload,
            packs: edge.has_packs() && !wanted.no_packs,
            unpublished: Vec::new(),
            published: Instant::now(),
            holds_back: false,
            report: PushReport::default(),
            failures: Vec::new(),
            hopeless: false,
        };
        let (began, requests) = (Instant::now(), edge.stats().requests);
        tokio::select! {
            biased;
            done = push.run(plan) => done?,
            never = tell(&upload.tally, &exchange.events) => match never {},
        }
        let Push { mut report, failures, .. } = push;
        let done = report.uploaded + report.existed;
        report.failed = upload.tally.blobs.saturating_sub(done);
        let is_in_vain = done == 0;
        match failures.first() {
            Some(first) if is_in_vain => return Err(first.clone()),
            _ => report.failures = failures,
        }
        report.requests = edge.stats().requests - requests;
        report.seconds = began.elapsed().as_secs_f64();
        Ok(Answer::Pushed(Box::new(report)))
    }
}

/// Is one blob to be pushed.
#[derive(Clone, Copy, Debug)]
struct Item {
    hash: Hash,
    size: u64,
    /// Manifests go into packs up to a greater length.
    is_manifest: bool,
    presence: Presence,
}

impl Item {
    /// Makes the item of a blob whose length is found out later.
    fn of(hash: Hash, is_manifest: bool) -> Self {
        Self { hash, size: 0, is_manifest, presence: Presence::Unknown }
    }

    fn is_small(&self) -> bool {
        self.size <= if self.is_manifest { MEMBER_BYTES_MAX } else { PACKED_BYTES_MAX }
    }

    fn is_here(&self) -> bool {
        matches!(self.presence, Presence::Indexed | Presence::Here)
    }
}

/// Is what is pushed together: the files of a tree, or blobs without one, and then its manifests.
#[derive(Debug, Default)]
struct Job {
    files: Vec<Item>,
    /// By level, the root first.
    levels: Vec<Vec<Item>>,
}

impl Job {
    fn items(&mut self) -> impl Iterator<Item = &mut Item> {
        self.files.iter_mut().chain(self.levels.iter_mut().flatten())
    }
}

/// Is all that is to be pushed, each blob once, and kept from eviction meanwhile.
#[derive(Debug)]
struct Plan {
    jobs: Vec<Job>,
    _hold: Hold,
}

impl Plan {
    /// Finds out what is to be pushed; the store must hold all of it.
    fn of(store: &Store, hashes: &[Hash], only: bool) -> Result<Self, Failure> {
        let mut met = HashSet::new();
        let (mut lone, mut jobs) = (Job::default(), Vec::new());
        for hash in hashes {
            let is_tree = !only && closure::of_tree(store, hash)?.is_some();
            if is_tree {
                jobs.push(job_of_tree(store, *hash, &mut met)?);
            } else if met.insert(*hash) {
                lone.files.push(Item::of(*hash, false));
            }
        }
        jobs.insert(0, lone);
        let hold = store.hold(met);
        for item in jobs.iter_mut().flat_map(Job::items) {
            let found = store.find(&item.hash)?.ok_or(StoreError::Absent { hash: item.hash })?;
            item.size = found.size;
        }
        Ok(Self { jobs, _hold: hold })
    }
}

/// Finds out what a tree consists of.
fn job_of_tree(store: &Store, root: Hash, met: &mut HashSet<Hash>) -> Result<Job, Failure> {
    let mut levels = Vec::new();
    let mut level = vec![Part { path: Vec::new(), hash: root, size: None }];
    level.retain(|part| met.insert(part.hash));
    while !level.is_empty() {
        levels.push(level.iter().map(|part| Item::of(part.hash, true)).collect());
        let below = level_below(store, &level);
        level = below.map_err(|error| Failure::new(Trouble::UnsafeTree, describe(&error)))?;
        level.retain(|part| met.insert(part.hash));
    }
    // Neighbours are to share a pack; what is in no path has no neighbours.
    let rest = closure::of_tree(store, &root)?.unwrap_or_default();
    let all = in_order(store, &root)?.into_iter().chain(rest);
    let files = all.filter(|hash| met.insert(*hash)).map(|hash| Item::of(hash, false)).collect();
    Ok(Job { files, levels })
}

/// Returns the files of a tree in the order of their paths.
#[cfg(target_os = "linux")]
fn in_order(store: &Store, root: &Hash) -> Result<Vec<Hash>, Failure> {
    Ok(crate::tree::files_of(store, root)?.into_iter().map(|part| part.hash).collect())
}

/// Returns none: only checkouts know the order.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Linux")]
fn in_order(_store: &Store, _root: &Hash) -> Result<Vec<Hash>, Failure> {
    Ok(Vec::new())
}

/// Counts what is done, for whoever waits.
#[derive(Debug)]
struct Tally {
    blobs: u64,
    bytes: u64,
    done_blobs: AtomicU64,
    done_bytes: AtomicU64,
}

impl Tally {
    fn new(plan: &Plan) -> Self {
        let of_job = |Job { files, levels }: &Job| {
            files.iter().chain(levels.iter().flatten()).map(|item| item.size).collect::<Vec<_>>()
        };
        let sizes: Vec<u64> = plan.jobs.iter().flat_map(of_job).collect();
        Self {
            blobs: len_u64(sizes.len()),
            bytes: sizes.iter().sum(),
            done_blobs: AtomicU64::new(0),
            done_bytes: AtomicU64::new(0),
        }
    }

    fn blobs_done(&self, blobs: usize) {
        self.done_blobs.fetch_add(len_u64(blobs), Ordering::Relaxed);
    }

    fn bytes_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Tells how far a push is until it is dropped.
async fn tell(tally: &Tally, events: &mpsc::Sender<Event>) -> std::convert::Infallible {
    let mut pace = interval(PROGRESS_INTERVAL);
    loop {
        pace.tick().await;
        let done = tally.done_blobs.load(Ordering::Relaxed);
        let progress = Progress {
            phase: "push".to_owned(),
            done: tally.done_bytes.load(Ordering::Relaxed),
            total: Some(tally.bytes),
            peers: 0,
            files: (tally.blobs > 1).then_some(FileCount { done, total: Some(tally.blobs) }),
        };
        // A reader that is behind misses some: the next one says more.
        events.try_send(Event::Progress(progress)).ok();
    }
}

/// Is one push on its way.
struct Push<'a> {
    upload: &'a Upload<'a>,
    /// Whether small blobs go into packs, where there are some.
    packs: bool,
    /// What the index does not say yet.
    unpublished: Vec<Entry>,
    published: Instant,
    /// Whether some of it must wait until all of it is there.
    holds_back: bool,
    report: PushReport,
    failures: Vec<Failure>,
    /// Whether what failed would fail for every other blob, too.
    hopeless: bool,
}

impl Push<'_> {
    async fn run(&mut self, mut plan: Plan) -> Result<(), Failure> {
        self.survey(&mut plan).await?;
        for job in plan.jobs {
            if !self.hopeless {
                self.job(job).await;
            }
        }
        Ok(())
    }

    /// Finds out what the edge has, where that is worth it.
    async fn survey(&mut self, plan: &mut Plan) -> Result<(), Failure> {
        let Upload { edge, tally, .. } = self.upload;
        if tally.blobs < len_u64(SURVEYED_MIN) || !edge.has_packs() {
            return Ok(());
        }
        let items: Vec<_> = plan.jobs.iter_mut().flat_map(Job::items).collect();
        let sought: Vec<_> = items.iter().map(|item| (item.hash, item.size)).collect();
        let found = edge.survey(&sought, self.packs).await.map_err(|error| failure(&error))?;
        for (item, presence) in items.into_iter().zip(found) {
            item.presence = presence;
        }
        Ok(())
    }

    /// Pushes the files and then the manifests, those next to the files first.
    async fn job(&mut self, mut job: Job) {
        let missing = job.items().filter(|item| item.is_small() && !item.is_here()).count();
        let packs = self.packs && missing >= PACKED_MIN;
        let mut small = if packs { last_pack(&mut job.files) } else { Vec::new() };
        // Trees may share what failed, so one failure keeps the manifests of all that follow.
        let mut whole = self.stage(job.files, packs).await && self.failures.is_empty();
        for level in job.levels.into_iter().rev() {
            let (packed, alone): (Vec<_>, Vec<_>) =
                level.into_iter().partition(|item| packs && item.is_small());
            // One that lies alone is found at once: what it names must be found by then.
            if !alone.is_empty() && whole {
                let below = std::mem::take(&mut small);
                whole = self.manifests(below).await
                    && self.publish_packed().await
                    && self.stage(alone, false).await;
            }
            small.extend(packed);
        }
        if !whole {
            small.retain(|item| !item.is_manifest);
        }
        self.manifests(small).await;
        self.publish().await;
    }

    /// Pushes manifests, and small files beside them, in packs, and returns whether the edge has all of them then. Where
    /// it has not, no manifest is published.
    async fn manifests(&mut self, items: Vec<Item>) -> bool {
        let manifests = items.iter().filter(|item| item.is_manifest && !item.is_here());
        let manifests: HashSet<Hash> = manifests.map(|item| item.hash).collect();
        self.holds_back = true;
        let whole = self.stage(items, true).await;
        self.holds_back = false;
        if !whole {
            let before = self.unpublished.len();
            self.unpublished.retain(|entry| !manifests.contains(&entry.hash));
            self.found_by_nobody(before - self.unpublished.len());
        }
        whole
    }

    /// Takes in that blobs lie in packs of which the index does not tell.
    fn found_by_nobody(&mut self, blobs: usize) {
        let PushReport { uploaded, packed, .. } = &mut self.report;
        *uploaded = uploaded.saturating_sub(len_u64(blobs));
        *packed = packed.saturating_sub(len_u64(blobs));
    }

    /// Pushes blobs in any order, many at once, and returns whether the edge has all of them then.
    async fn stage(&mut self, items: Vec<Item>, packs: bool) -> bool {
        let (here, missing): (Vec<_>, Vec<_>) = items.into_iter().partition(Item::is_here);
        self.are_here(&here);
        let (packed, alone): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|item| packs && item.is_small());
        let packed = packs_of(packed).into_iter().map(Load::Pack);
        let loads: Vec<_> = packed.chain(alone.into_iter().map(Load::Blob)).collect();
        let upload = self.upload;
        let sent = stream::iter(loads).map(|load| async move { upload.send(load).await });
        let mut sent = std::pin::pin!(sent.buffer_unordered(UPLOADS_MAX));
        let mut whole = true;
        while !self.hopeless
            && let Some(sent) = sent.next().await
        {
            whole &= self.take(sent);
            if !self.holds_back && self.published.elapsed() >= PUBLISH_INTERVAL {
                whole &= self.publish_packed().await;
            }
        }
        whole && !self.hopeless
    }

    /// Counts blobs that the edge has already, and has the index know of them next time.
    fn are_here(&mut self, here: &[Item]) {
        self.report.existed += len_u64(here.len());
        self.upload.tally.blobs_done(here.len());
        self.upload.tally.bytes_done(here.iter().map(|item| item.size).sum());
        let new = here.iter().filter(|item| item.presence == Presence::Here);
        self.unpublished.extend(new.map(|item| Entry::alone(item.hash, item.size)));
    }

    /// Takes in what came of one upload, and returns whether all of it went up.
    fn take(&mut self, sent: Sent) -> bool {
        let Sent { entries, existed, packed, failures } = sent;
        self.upload.tally.blobs_done(entries.len());
        let count = len_u64(entries.len());
        let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
        if existed {
            self.report.existed += count;
        } else {
            self.report.uploaded += count;
            self.report.bytes += bytes;
        }
        if packed && count > 0 {
            self.report.packed += count;
            self.report.packs += 1;
        }
        self.unpublished.extend(entries);
        let whole = failures.is_empty();
        for (failure, hopeless) in failures {
            self.fail(failure, hopeless);
        }
        whole
    }

    /// Has the index say what went up since the last time, where that is worth it, and returns whether it does.
    async fn publish(&mut self) -> bool {
        // What lies alone is found without the index, which only spares the next push its questions.
        let is_worth = self.upload.edge.has_packs() && self.unpublished.len() >= PACKED_MIN;
        if is_worth { self.publish_all().await } else { self.publish_packed().await }
    }

    /// Does so where something lies in a pack, which nobody finds before.
    async fn publish_packed(&mut self) -> bool {
        self.published = Instant::now();
        match self.unpublished.iter().any(Entry::is_packed) {
            true => self.publish_all().await,
            false => true,
        }
    }

    async fn publish_all(&mut self) -> bool {
        let packed = self.unpublished.iter().filter(|entry| entry.is_packed()).count();
        let entries = std::mem::take(&mut self.unpublished);
        match self.upload.edge.publish(&entries).await {
            Ok(()) => true,
            // It has cost nothing but its own requests.
            Err(error) if packed == 0 => {
                debug!(%error, "the index was not written");
                true
            }
            Err(error) => {
                self.found_by_nobody(packed);
                self.fail(failure(&error), is_hopeless(&error));
                false
            }
        }
    }

    fn fail(&mut self, failure: Failure, hopeless: bool) {
        self.hopeless |= hopeless;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}

/// Is what goes up by one upload.
#[derive(Debug)]
enum Load {
    Pack(Vec<Item>),
    Blob(Item),
}

/// Is what came of one.
#[derive(Debug, Default)]
struct Sent {
    /// What the edge has now.
    entries: Vec<Entry>,
    existed: bool,
    packed: bool,
    /// What failed, and whether everything else would.
    failures: Vec<(Failure, bool)>,
}

/// Takes out what would be in the last pack: it goes with the manifests.
fn last_pack(files: &mut Vec<Item>) -> Vec<Item> {
    let goes_in = |item: &&Item| item.is_small() && !item.is_here();
    let last = packs_of(files.iter().filter(goes_in).copied().collect()).pop().unwrap_or_default();
    let hashes: HashSet<Hash> = last.iter().map(|item| item.hash).collect();
    files.retain(|item| !hashes.contains(&item.hash));
    last
}

/// Cuts small blobs into packs, in their order.
fn packs_of(items: Vec<Item>) -> Vec<Vec<Item>> {
    // The table's header, and no more than that.
    let room = len_u64(PACK_BYTES_MAX) - 16;
    let (mut packs, mut left): (Vec<Vec<Item>>, u64) = (Vec::new(), 0);
    for item in items {
        let len = packed_len(item.size);
        match packs.last_mut() {
            Some(last) if len <= left => last.push(item),
            _ => {
                packs.push(vec![item]);
                left = room;
            }
        }
        left = left.saturating_sub(len);
    }
    packs
}

/// Is what every upload needs.
struct Upload<'a> {
    store: &'a Store,
    edge: &'a Edge,
    /// Gives a permit for each MiB that an upload holds.
    memory: Semaphore,
    tally: Tally,
}

impl Upload<'_> {
    async fn send(&self, load: Load) -> Sent {
        let bytes = match &load {
            Load::Pack(items) => items.iter().map(|item| item.size).sum(),
            Load::Blob(item) => item.size,
        };
        let mib = bytes.div_ceil(1 << 20).clamp(1, BLOB_MIB_MAX);
        // Never closed.
        let _held = self.memory.acquire_many(u32::try_from(mib).unwrap_or(UPLOADS_MIB_MAX)).await;
        match load {
            Load::Pack(items) => self.pack(items).await,
            Load::Blob(item) => self.blob(item).await,
        }
    }

    /// Sends blobs as a pack, without those that cannot be read.
    async fn pack(&self, items: Vec<Item>) -> Sent {
        let read = compute::store(self.store, move |store| Ok(read_members(store, &items))).await;
        let (members, unread) = match read {
            Ok(read) => read,
            Err(error) => (Vec::new(), vec![error]),
        };
        let failures = unread.into_iter().map(|error| (Failure::from(error), false)).collect();
        let mut sent = Sent { packed: true, failures, ..Sent::default() };
        if members.is_empty() {
            return sent;
        }
        match self.edge.push_pack(members).await {
            Ok(entries) => {
                self.tally.bytes_done(entries.iter().map(|entry| entry.size).sum());
                sent.entries = entries;
            }
            Err(error) => sent.failures.push((failure(&error), is_hopeless(&error))),
        }
        sent
    }

    async fn blob(&self, item: Item) -> Sent {
        let hash = item.hash;
        let (reader, list) = match compute::store(self.store, move |store| open(store, hash)).await
        {
            Ok(open) => open,
            Err(error) => return Sent::failed(Failure::from(error), false),
        };
        let size = reader.size();
        let mut told = 0;
        let progress = |written: u64| {
            self.tally.bytes_done(written.saturating_sub(told));
            told = written.max(told);
        };
        let absent = item.presence == Presence::Absent;
        let pushed = self.edge.push_blob((&hash, size, absent), &list, source_of(reader), progress);
        match pushed.await {
            Ok(pushed) => {
                self.tally.bytes_done(size.saturating_sub(told));
                let entries = vec![Entry::alone(hash, size)];
                Sent { entries, existed: pushed.existed, ..Sent::default() }
            }
            Err(error) => Sent::failed(failure(&error), is_hopeless(&error)),
        }
    }
}

impl Sent {
    fn failed(failure: Failure, hopeless: bool) -> Self {
        Self { failures: vec![(failure, hopeless)], ..Self::default() }
    }
}

/// Reads small blobs, and checks them: what has rotted is not pushed. Returns the failures beside them.
fn read_members(store: &Store, items: &[Item]) -> (Vec<(Hash, Bytes)>, Vec<StoreError>) {
    let (mut members, mut unread) = (Vec::with_capacity(items.len()), Vec::new());
    for Item { hash, size, .. } in items {
        let mut bytes = Vec::new();
        match store.read_passing(hash, *size, &mut bytes) {
            Ok(SmallRead::Whole) => members.push((*hash, Bytes::from(bytes))),
            Ok(_) => unread.push(StoreError::Absent { hash: *hash }),
            Err(error) => unread.push(error),
        }
    }
    (members, unread)
}

fn open(store: &Store, hash: Hash) -> Result<(BlobReader, Arc<GroupList>), StoreError> {
    let reader = store.open_blob(&hash)?.ok_or(StoreError::Absent { hash })?;
    let list = reader.list()?;
    Ok((reader, list))
}

/// Gives an upload its bytes, group by verified group: what has rotted is not pushed.
fn source_of(reader: BlobReader) -> impl FnMut(u64, usize) -> io::Result<Bytes> + Send + 'static {
    let mut group = Vec::new();
    move |offset, len| {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let mut bytes = BytesMut::with_capacity(len);
        for index in offset / GROUP_LEN..end.div_ceil(GROUP_LEN) {
            reader.read_group(index, &mut group).map_err(io::Error::other)?;
            let start = index * GROUP_LEN;
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let to = usize::try_from(end - start).unwrap_or(usize::MAX).min(group.len());
            bytes.extend_from_slice(group.get(from..to).unwrap_or_default());
        }
        Ok(bytes.freeze())
    }
}

/// Returns whether every other upload would fail in the same way.
fn is_hopeless(error: &EdgeError) -> bool {
    match error {
        EdgeError::NotPublic { .. }
        | EdgeError::BadCredentials { .. }
        | EdgeError::ClockSkew { .. }
        | EdgeError::ReadOnly { .. }
        | EdgeError::LeftAlone { .. }
        | EdgeError::Config { .. } => true,
        EdgeError::Busy { retry_after, .. } => retry_after.is_some(),
        EdgeError::NotFound { .. }
        | EdgeError::Refused { .. }
        | EdgeError::Changed { .. }
        | EdgeError::Unreachable { .. }
        | EdgeError::Stalled { .. }
        | EdgeError::Cut { .. }
        | EdgeError::Protocol { .. }
        | EdgeError::Range { .. }
        | EdgeError::WrongList { .. }
        | EdgeError::Io { .. } => false,
    }
}

fn failure(error: &EdgeError) -> Failure {
    Failure::new(error.trouble(), describe(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(size: u64) -> Item {
        let hash = Hash::of(&size.to_le_bytes());
        Item { hash, size, is_manifest: false, presence: Presence::Unknown }
    }

    #[test]
    fn packs_are_full_and_no_fuller_and_keep_the_order() {
        let sizes = [65_536, 0, 10_000, 3].into_iter().cycle().take(2_000);
        let items: Vec<_> = sizes.map(item).collect();
        let packs = packs_of(items.clone());
        let len = |pack: &[Item]| 16 + pack.iter().map(|item| packed_len(item.size)).sum::<u64>();
        let max = len_u64(PACK_BYTES_MAX);
        assert!(packs.len() > 2 && packs.iter().all(|pack| len(pack) <= max));
        for (pack, next) in packs.iter().zip(&packs[1..]) {
            assert!(len(pack) + packed_len(next[0].size) > max, "the next one has room");
        }
        let order = packs.concat().iter().map(|item| item.hash).collect::<Vec<_>>();
        assert_eq!(order, items.iter().map(|item| item.hash).collect::<Vec<_>>());
        let all = item(len_u64(PACK_BYTES_MAX) - 16 - packed_len(0));
        assert_eq!(packs_of(vec![all, item(0)]).len(), 2);
        assert!(packs_of(Vec::new()).is_empty());
    }
}
