//! Where fetched groups go: decoded, verified and stored on a thread of their own.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GroupList, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::engine::FetchOutcome;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{BATCH_GROUPS, BATCHES_MAX, FetchError, Report};
use crate::compute;
use crate::lane::Run;
use crate::store::{Partial, Store};

/// How long a group waits for others to fill its batch. It bounds how long progress over a slow link goes
/// unseen, and with it how slow a source may be before it is taken for a dead one.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// How often what was stored is made to survive a crash while a fetch is slow; a fast one has the
/// store do it every [`CHECKPOINT_BYTES`](crate::store::CHECKPOINT_BYTES).
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Is a group as it came: nothing of it is believed yet.
#[derive(Debug)]
pub(crate) struct RawGroup {
    pub(super) index: u64,
    pub(super) codec: Codec,
    pub(super) payload: Bytes,
}

/// Is what the store holds of a blob when a fetch of it begins.
#[derive(Debug)]
pub(super) enum Start {
    /// All of it: it was added meanwhile, or another fetch was faster.
    Whole {
        /// Its length in bytes.
        size: u64,
    },
    /// A partial blob, which the sink goes on to fill.
    Part {
        /// Takes the missing groups.
        sink: GroupSink,
        /// The blob's length in bytes, proven.
        size: u64,
        /// The runs of groups that are missing.
        missing: Vec<Range<u64>>,
    },
    /// Nothing.
    Nothing,
}

/// Looks what there is of a blob.
pub(super) async fn start(
    store: &Store,
    hash: Hash,
    report: &Arc<impl Report>,
) -> Result<Start, FetchError> {
    let report = Arc::clone(report);
    let look = move |store: &Store| {
        if let Some(found) = store.find(&hash)? {
            return Ok(Start::Whole { size: found.size });
        }
        let partial = store.find_partial(&hash)?;
        Ok(partial.map_or(Start::Nothing, |partial| {
            let (size, missing) = (partial.list().size(), partial.held().missing());
            Start::Part { sink: GroupSink::new(partial, report), size, missing }
        }))
    };
    Ok(compute::store(store, look).await?)
}

/// Takes groups in the order they come and hands them in batches to a thread that verifies and stores
/// them, so that receiving and writing overlap.
///
/// The thread alone owns the partial blob, whose last drop syncs data: an async thread never waits for
/// that. Dropping the sink keeps what was stored and, where the thread has room, what waits for it.
#[derive(Debug)]
pub(super) struct GroupSink {
    list: Arc<GroupList>,
    queue: mpsc::Sender<Work>,
    /// None once its outcome was taken.
    writer: Option<JoinHandle<Result<bool, FetchError>>>,
    batch: Vec<RawGroup>,
    /// When the first group of the batch came.
    since: Option<Instant>,
}

#[derive(Debug)]
enum Work {
    Groups(Vec<RawGroup>),
    /// Groups that a lane has checked.
    Run(Run),
    /// Nothing more comes, and why, and the groups that were wanted if not all were; the blob is
    /// completed if all of it came.
    End(Result<(), FetchError>, Option<Range<u64>>),
}

impl GroupSink {
    /// Begins to fill the partial blob of a proven list.
    pub(super) async fn begin(
        store: &Store,
        list: GroupList,
        report: &Arc<impl Report>,
    ) -> Result<Self, FetchError> {
        let report = Arc::clone(report);
        let begin = move |store: &Store| Ok(Self::new(store.partial(list)?, report));
        Ok(compute::store(store, begin).await?)
    }

    /// Must be called on a thread that may block: if the runtime stops, the partial is dropped here.
    fn new(partial: Partial, report: Arc<impl Report>) -> Self {
        let (queue, work) = mpsc::channel(BATCHES_MAX);
        let list = partial.list();
        let writer = tokio::task::spawn_blocking(move || write(&partial, work, &*report));
        Self { list, queue, writer: Some(writer), batch: Vec::new(), since: None }
    }

    /// Takes one group; waits while the thread is behind.
    ///
    /// # Errors
    /// What the thread met with an earlier group: a wrong one, or a failure of the store.
    pub(super) async fn push(&mut self, group: RawGroup) -> Result<(), FetchError> {
        self.batch.push(group);
        self.since.get_or_insert_with(Instant::now);
        if self.batch.len() < BATCH_GROUPS {
            return Ok(());
        }
        self.send().await
    }

    /// Waits for what the source sends next, and has groups that waited long enough stored meanwhile.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(super) async fn attend<T>(
        &mut self,
        next: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        let mut next = pin!(next);
        loop {
            let due = self.since.map_or_else(Instant::now, |since| since + BATCH_TIME);
            tokio::select! {
                biased;
                next = &mut next => return Ok(next),
                // The thread ends early for an error only: a source that sent a wrong group and then
                // nothing must not be waited for.
                () = self.queue.closed() => {
                    return self.outcome().await.and(Err(FetchError::Worker));
                }
                () = sleep_until(due), if self.since.is_some() => self.send().await?,
            }
        }
    }

    /// Has everything that came stored before what comes next.
    pub(super) async fn flush(&mut self) -> Result<(), FetchError> {
        self.send().await
    }

    /// Makes what takes runs that lanes have checked, on their own threads, which wait while the thread
    /// here is behind. Its error says that nothing is stored any more; [`attend`](Self::attend) tells why.
    pub(super) fn runs(&self) -> impl Fn(Run) -> Result<(), FetchError> + Send + Sync + 'static {
        let queue = self.queue.clone();
        move |run| queue.blocking_send(Work::Run(run)).map_err(|_| FetchError::Worker)
    }

    /// Returns the list that proves the groups.
    pub(super) fn list(&self) -> Arc<GroupList> {
        Arc::clone(&self.list)
    }

    /// Waits until everything that came is stored, and completes the blob if nothing is missing: returns whether it is
    /// whole. Where something is, `received` says whether what was wanted came. A wrong group among what came is named
    /// before a stream that broke off.
    pub(super) async fn finish(
        mut self,
        received: Result<(), FetchError>,
        wanted: Option<Range<u64>>,
    ) -> Result<bool, FetchError> {
        if self.writer.is_none() {
            // The thread's error is what `received` says.
            return received.and(Err(FetchError::Worker));
        }
        self.send().await?;
        // Where the thread has met an error it takes nothing more, and its outcome tells.
        self.queue.send(Work::End(received, wanted)).await.ok();
        self.outcome().await
    }

    async fn send(&mut self) -> Result<(), FetchError> {
        self.since = None;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() || self.queue.send(Work::Groups(batch)).await.is_ok() {
            return Ok(());
        }
        // Before the end of the queue only an error makes the thread end.
        self.outcome().await.and(Err(FetchError::Worker))
    }

    async fn outcome(&mut self) -> Result<bool, FetchError> {
        match self.writer.take() {
            Some(writer) => writer.await.unwrap_or(Err(FetchError::Worker)),
            None => Err(FetchError::Worker),
        }
    }
}

impl Drop for GroupSink {
    fn drop(&mut self) {
        if !self.batch.is_empty() {
            self.queue.try_send(Work::Groups(std::mem::take(&mut self.batch))).ok();
        }
    }
}

/// Stores what comes, and completes the blob if it is told that all of it came.
fn write(
    partial: &Partial,
    mut queue: mpsc::Receiver<Work>,
    report: &impl Report,
) -> Result<bool, FetchError> {
    let list = partial.list();
    let mut buffer = Vec::new();
    let mut saved = Instant::now();
    while let Some(work) = queue.blocking_recv() {
        let started = Instant::now();
        let mut stored: Vec<(Range<u64>, u64)> = Vec::new();
        let is_run = matches!(work, Work::Run(_));
        let written = match work {
            Work::Groups(batch) => batch.iter().try_for_each(|group| {
                let bytes = store_group(partial, &list, group, &mut buffer)?;
                join(&mut stored, group.index..group.index + 1, bytes);
                Ok(())
            }),
            Work::Run(run) => {
                let written = partial.write_run(&run).map_err(FetchError::from);
                written.map(|bytes| join(&mut stored, run.groups(), bytes))
            }
            Work::End(received, wanted) => return complete(partial, received, wanted, report),
        };
        let new = stored.iter().map(|(_, bytes)| bytes).sum();
        let (by_lane, by_stream) = if is_run { (new, 0) } else { (0, new) };
        report.meter().written(started.elapsed(), by_lane, by_stream);
        for (groups, bytes) in stored.into_iter().filter(|(_, bytes)| *bytes > 0) {
            report.progress(bytes, groups, list.size());
        }
        written?;
        if saved.elapsed() >= CHECKPOINT_INTERVAL {
            checkpoint_beside(partial);
            saved = Instant::now();
        }
    }
    Ok(false)
}

/// Adds groups that were stored, and their bytes, to the run before them if they follow it.
fn join(stored: &mut Vec<(Range<u64>, u64)>, groups: Range<u64>, bytes: u64) {
    match stored.last_mut() {
        Some((run, sum)) if run.end == groups.start => {
            run.end = groups.end;
            *sum += bytes;
        }
        Some(_) | None => stored.push((groups, bytes)),
    }
}

/// Has what was stored synced by another thread: a disk takes its time for what a fast source gives in
/// [`CHECKPOINT_INTERVAL`], and who waits for it seems to have stalled. An error of it is the next write's
/// too, or costs no more than bytes that are fetched again.
fn checkpoint_beside(partial: &Partial) {
    let partial = partial.clone();
    drop(tokio::task::spawn_blocking(move || partial.checkpoint().ok()));
}

/// Makes a blob of a partial blob that has all its groups, however the last source of them ended unless with wrong bytes,
/// and returns whether it had: where only some were wanted others may be missing.
fn complete(
    partial: &Partial,
    received: Result<(), FetchError>,
    wanted: Option<Range<u64>>,
    report: &impl Report,
) -> Result<bool, FetchError> {
    let held = partial.held();
    let is_wrong = |error: &FetchError| matches!(error.outcome(), FetchOutcome::WrongBytes { .. });
    if !held.is_full() || received.as_ref().is_err_and(is_wrong) {
        // Another source may have brought the group of which this one gave wrong bytes.
        received?;
        let came = wanted.is_some_and(|mut wanted| wanted.all(|group| held.contains(group)));
        return if came { Ok(false) } else { Err(FetchError::Short) };
    }
    partial.finish()?;
    report.stored();
    Ok(true)
}

/// Decodes, verifies and stores one group, and returns how many new bytes that made.
fn store_group(
    partial: &Partial,
    list: &GroupList,
    group: &RawGroup,
    buffer: &mut Vec<u8>,
) -> Result<u64, FetchError> {
    let len = group_len(list.size(), group.index);
    let is_new = match group.codec {
        Codec::Raw => partial.write_group(group.index, &group.payload)?,
        Codec::Lz4 | Codec::Zstd => {
            buffer.resize(len, 0);
            decode_group(group.codec, &group.payload, buffer)?;
            partial.write_group(group.index, buffer)?
        }
    };
    Ok(if is_new { u64::try_from(len).unwrap_or(0) } else { 0 })
}
