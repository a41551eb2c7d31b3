//! Where fetched groups go: decoded, verified and stored on a thread of their own.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GroupList, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{BATCH_GROUPS, BATCHES_MAX, FetchError, Report};
use crate::compute;
use crate::store::{Partial, Store};

/// How long a group waits for others to fill its batch. It bounds how long progress over a slow link goes
/// unseen, and with it how slow a source may be before it is taken for a dead one.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// How often what was stored is made to survive a crash while a fetch is slow; a fast one has the
/// store do it every 64 MiB.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Is a group as it came: nothing of it is believed yet.
#[derive(Debug)]
pub(super) struct RawGroup {
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
    queue: mpsc::Sender<Work>,
    /// None once its outcome was taken.
    writer: Option<JoinHandle<Result<(), FetchError>>>,
    batch: Vec<RawGroup>,
    /// When the first group of the batch came.
    since: Option<Instant>,
}

#[derive(Debug)]
enum Work {
    Groups(Vec<RawGroup>),
    /// Nothing more comes, and why; the blob is completed if all of it came.
    End(Result<(), FetchError>),
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
        let writer = tokio::task::spawn_blocking(move || write(&partial, work, &*report));
        Self { queue, writer: Some(writer), batch: Vec::new(), since: None }
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

    /// Waits until everything that came is stored, and completes the blob if `received` says that all
    /// of it came. A wrong group among what came is named before a stream that broke off.
    pub(super) async fn finish(
        mut self,
        received: Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        if self.writer.is_none() {
            // The thread's error is what `received` says.
            return received.and(Err(FetchError::Worker));
        }
        self.send().await?;
        // Where the thread has met an error it takes nothing more, and its outcome tells.
        self.queue.send(Work::End(received)).await.ok();
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

    async fn outcome(&mut self) -> Result<(), FetchError> {
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
) -> Result<(), FetchError> {
    let list = partial.list();
    let mut buffer = Vec::new();
    let mut saved = Instant::now();
    while let Some(work) = queue.blocking_recv() {
        let batch = match work {
            Work::Groups(batch) => batch,
            Work::End(received) => return complete(partial, received, report),
        };
        let mut stored = 0;
        let wrong = batch.iter().try_for_each(|group| {
            stored += store_group(partial, &list, group, &mut buffer)?;
            Ok::<(), FetchError>(())
        });
        if stored > 0 {
            report.progress(stored, list.size());
        }
        wrong?;
        if saved.elapsed() >= CHECKPOINT_INTERVAL {
            partial.checkpoint()?;
            saved = Instant::now();
        }
    }
    Ok(())
}

/// Makes a blob of a partial blob that has all its groups.
fn complete(
    partial: &Partial,
    received: Result<(), FetchError>,
    report: &impl Report,
) -> Result<(), FetchError> {
    received?;
    if !partial.held().is_full() {
        return Err(FetchError::Short);
    }
    partial.finish()?;
    report.stored();
    Ok(())
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
        Codec::Lz4 => {
            buffer.resize(len, 0);
            decode_group(group.codec, &group.payload, buffer)?;
            partial.write_group(group.index, buffer)?
        }
    };
    Ok(if is_new { u64::try_from(len).unwrap_or(0) } else { 0 })
}
