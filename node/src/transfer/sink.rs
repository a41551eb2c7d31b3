//! Where fetched groups go: decoded, verified and stored on a thread of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blobmesh_protocol::blob::{GroupList, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BATCH_BYTES, BATCHES_MAX, FetchError, Report};
use crate::compute;
use crate::store::Partial;

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

/// Takes groups in the order they come and hands them in batches to a thread that verifies and stores
/// them, so that receiving and writing overlap.
///
/// Dropping it gives up what waits in the queue and keeps what was stored.
#[derive(Debug)]
pub(super) struct GroupSink {
    batches: mpsc::Sender<Vec<RawGroup>>,
    /// Owns the partial blob: its last drop syncs data, which an async thread must not wait for.
    writer: JoinHandle<Result<Partial, FetchError>>,
    batch: Vec<RawGroup>,
    batch_bytes: usize,
}

impl GroupSink {
    pub(super) fn new(partial: Partial, report: Arc<impl Report>) -> Self {
        let (batches, queue) = mpsc::channel(BATCHES_MAX);
        let writer = tokio::task::spawn_blocking(move || write(partial, queue, &*report));
        Self { batches, writer, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Takes one group; waits while the thread is behind.
    ///
    /// # Errors
    /// What the thread met with an earlier group: a wrong one, or a failure of the store.
    pub(super) async fn push(&mut self, group: RawGroup) -> Result<(), FetchError> {
        self.batch_bytes += group.payload.len();
        self.batch.push(group);
        if self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.send().await
    }

    /// Waits until everything that came is stored, and completes the blob if `received` says that all
    /// of it came. A wrong group among what came is named before a stream that broke off.
    pub(super) async fn finish(
        mut self,
        received: Result<(), FetchError>,
        report: &Arc<impl Report>,
    ) -> Result<(), FetchError> {
        self.send().await?;
        drop(self.batches);
        let partial = self.writer.await.unwrap_or(Err(FetchError::Worker))?;
        let report = Arc::clone(report);
        compute::run(move || complete(&partial, received, &*report)).await?
    }

    async fn send(&mut self) -> Result<(), FetchError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.batches.send(batch).await.is_ok() {
            return Ok(());
        }
        // The thread has ended, which before the end of the queue only an error makes it do.
        match (&mut self.writer).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Err(FetchError::Worker),
        }
    }
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

fn write(
    partial: Partial,
    mut queue: mpsc::Receiver<Vec<RawGroup>>,
    report: &impl Report,
) -> Result<Partial, FetchError> {
    let list = partial.list();
    let mut buffer = Vec::new();
    let mut saved = Instant::now();
    while let Some(batch) = queue.blocking_recv() {
        let mut stored = 0;
        for group in batch {
            stored += store(&partial, &list, &group, &mut buffer)?;
        }
        if stored > 0 {
            report.progress(stored, list.size());
        }
        if saved.elapsed() >= CHECKPOINT_INTERVAL {
            partial.checkpoint()?;
            saved = Instant::now();
        }
    }
    Ok(partial)
}

/// Decodes, verifies and stores one group, and returns how many new bytes that made.
fn store(
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
