//! Fetching from the edge.
//!
//! The edge is believed no more than a peer. Where the group list lies beside the blob, the groups are
//! verified one by one as they come, and what came before a failure is kept. Where it does not, the
//! bytes go into quarantine and become a blob only if the whole of them has the right hash.

use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, GroupList, group_count, group_len, group_offset};
use blobmesh_protocol::compress::Codec;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::sink::{self, GroupSink, RawGroup, Start};
use super::{BATCHES_MAX, FetchError, Report};
use crate::compute;
use crate::edge::{Edge, EdgeBody, EdgeError};
use crate::store::{Quarantine, Store};

/// A blob up to this size is taken in one request and verified as a whole: a list would cost two
/// requests more than it could save.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// How much of a body is held while the list that proves it is on its way: as much as a connection brings in a
/// few round trips. Held by one fetch of a blob at a time.
const AHEAD_BYTES_MAX: usize = 4 << 20;

/// How often bytes that go into quarantine are told of; none of them is verified before the last.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// How often the edge is said to be alive that reads something of which nothing is told before all of it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Fetches what is missing of `hash` from the edge, or of some groups of it, and returns the blob's size
/// once it is whole, verified and in the store; none where other groups are still missing.
///
/// A blob of which nothing is known may be shorter than the groups asked for. Where the edge has no group list
/// of it or knows no ranges, all of it is fetched, whatever was asked for, and the report is told.
///
/// The edge's own deadlines bound every wait. Dropping the future ends the fetch; what was verified
/// stays in the store as a partial blob.
pub(crate) async fn fetch(
    edge: &Edge,
    (hash, groups): (Hash, Option<Range<u64>>),
    store: &Store,
    blob_bytes_max: u64,
    report: Arc<impl Report>,
) -> Result<Option<u64>, FetchError> {
    let fetch = Fetch { edge, hash, groups, store, blob_bytes_max, report };
    match sink::start(store, hash, &fetch.report).await? {
        Start::Whole { size } => Ok(Some(size)),
        Start::Part { sink, size, missing } => fetch.rest(sink, size, missing).await,
        Start::Nothing => fetch.fresh().await,
    }
}

struct Fetch<'a, P> {
    edge: &'a Edge,
    hash: Hash,
    /// The groups wanted; none for all.
    groups: Option<Range<u64>>,
    store: &'a Store,
    blob_bytes_max: u64,
    report: Arc<P>,
}

impl<P: Report> Fetch<'_, P> {
    /// Fetches a blob of which nothing is known but the hash.
    async fn fresh(&self) -> Result<Option<u64>, FetchError> {
        let wanted = self.groups.as_ref().map(|groups| bytes_of(groups, u64::MAX));
        // It may lie in a pack, and others before it.
        let size = || self.edge.indexed_size(&self.hash);
        let read = Box::pin(self.edge.read(&self.hash, wanted.clone()));
        let mut body = match alive(&*self.report, size, read).await {
            // An empty blob has no ranges.
            Err(EdgeError::Range { .. }) => self.edge.read(&self.hash, None).await?,
            body => body?,
        };
        let size = body.size;
        if size > self.blob_bytes_max {
            return Err(FetchError::TooLarge { size, size_max: self.blob_bytes_max });
        }
        self.report.arrived(0, size);
        if size > WHOLE_BYTES_MAX
            && let Some((list, last)) =
                alive(&*self.report, || Some(size), Box::pin(self.list_beside(&mut body))).await?
        {
            let all = wanted.is_none_or(|wanted| self.is_all(&body, &wanted));
            let sink = GroupSink::begin(self.store, list, &self.report).await?;
            return self.verified(sink, last, body, all).await;
        }
        if size > WHOLE_BYTES_MAX {
            self.report.unlisted();
        }
        if body.range.start != 0 {
            body = self.edge.read(&self.hash, None).await?;
        }
        self.quarantined(body).await.map(Some)
    }

    /// Returns whether a body is all of the blob although less of it was asked for: then more requests would
    /// bring the same again, and this one is taken to its end.
    fn is_all(&self, body: &EdgeBody, asked: &Range<u64>) -> bool {
        let all = body.range == (0..body.size) && *asked != body.range && asked.end < body.size;
        if all {
            self.report.unlisted();
        }
        all
    }

    /// Returns which of the groups of a blob of `size` bytes are wanted.
    fn wanted(&self, size: u64) -> Range<u64> {
        let count = group_count(size);
        let groups = self.groups.clone().unwrap_or(0..count);
        groups.start.min(count)..groups.end.min(count)
    }

    /// Fetches the missing groups of a blob whose list is proven, one request a run.
    async fn rest(
        &self,
        mut sink: GroupSink,
        size: u64,
        missing: Vec<Range<u64>>,
    ) -> Result<Option<u64>, FetchError> {
        let wanted = self.wanted(size);
        let cut = missing
            .into_iter()
            .map(|run| run.start.max(wanted.start)..run.end.min(wanted.end))
            .filter(|run| !run.is_empty());
        let received = self.runs(cut, size, &mut sink).await;
        let all = self.groups.is_none() || matches!(received, Ok(true));
        let whole = sink.finish(received.map(drop), (!all).then_some(wanted)).await?;
        Ok(whole.then_some(size))
    }

    /// Fetches runs of groups, and returns whether all of the blob came at once.
    async fn runs(
        &self,
        missing: impl Iterator<Item = Range<u64>>,
        size: u64,
        sink: &mut GroupSink,
    ) -> Result<bool, FetchError> {
        for run in missing {
            let bytes = bytes_of(&run, size);
            let body = sink.attend(self.edge.read(&self.hash, Some(bytes.clone()))).await??;
            if self.is_all(&body, &bytes) {
                self.groups(body, 0..group_count(size), size, sink).await?;
                return Ok(true);
            }
            self.groups(body, run, size, sink).await?;
        }
        Ok(false)
    }

    /// Returns what [`list`](Self::list) does, and takes the first bytes of the body meanwhile.
    async fn list_beside(
        &self,
        body: &mut EdgeBody,
    ) -> Result<Option<(GroupList, Bytes)>, FetchError> {
        let mut list = pin!(self.list(body.size));
        tokio::select! {
            biased;
            list = &mut list => list,
            () = body.read_ahead(AHEAD_BYTES_MAX) => list.await,
        }
    }

    /// Returns the proven list and the last group that proved it, or none where the edge has no list
    /// that can be proven: then the blob is verified as a whole, so that a bad list costs time and
    /// nothing else.
    async fn list(&self, size: u64) -> Result<Option<(GroupList, Bytes)>, FetchError> {
        // Both at once: most blobs that were pushed have a list, and a round trip is worth a request.
        let last = group_offset(group_count(size) - 1)..size;
        let last_group = async {
            let body = self.edge.read(&self.hash, Some(last.clone())).await?;
            // An edge that knows no ranges gives all of it, which comes already.
            let has_ranges = body.range.start == last.start;
            Ok::<_, FetchError>(if has_ranges { Some(collect(body, &last).await?) } else { None })
        };
        let list = self.edge.group_list(&self.hash, size);
        let (found, bytes) = tokio::join!(list, last_group);
        self.report.arrived(0, size);
        let Some(list) = found?.filter(|list| list.size() == size) else { return Ok(None) };
        let Some(bytes) = bytes? else { return Ok(None) };
        Ok(compute::run(move || Some((list.confirm(&bytes).ok()?, bytes))).await?)
    }

    /// Takes a body from its first byte, group by group, after the last group: without that one a
    /// partial blob could not be taken up again.
    async fn verified(
        &self,
        mut sink: GroupSink,
        last: Bytes,
        body: EdgeBody,
        all: bool,
    ) -> Result<Option<u64>, FetchError> {
        let size = body.size;
        let index = group_count(size) - 1;
        sink.push(RawGroup { index, codec: Codec::Raw, payload: last }).await?;
        // That the list is proven has the next range be asked for.
        sink.flush().await?;
        let wanted = if all { 0..group_count(size) } else { self.wanted(size) };
        let received = self.groups(body, wanted.clone(), size, &mut sink).await;
        let whole = sink.finish(received, (!all).then_some(wanted)).await?;
        Ok(whole.then_some(size))
    }

    /// Cuts a body into the groups of `run`; one that begins before them is the whole blob, from an
    /// edge that knows no ranges.
    async fn groups(
        &self,
        mut body: EdgeBody,
        run: Range<u64>,
        size: u64,
        sink: &mut GroupSink,
    ) -> Result<(), FetchError> {
        let mut index = body.range.start / GROUP_LEN;
        let mut held = BytesMut::new();
        while index < run.end {
            let len = group_len(size, index);
            while held.len() < len {
                if body.range != (0..size) && body.leaves() {
                    let from = index * GROUP_LEN + len_u64(&held);
                    body = sink.attend(self.taken_up(&body, from)).await??;
                }
                let chunk = sink.attend(body.chunk()).await??.ok_or(FetchError::Short)?;
                held.extend_from_slice(&chunk);
            }
            let payload = held.split_to(len).freeze();
            if run.contains(&index) {
                sink.push(RawGroup { index, codec: Codec::Raw, payload }).await?;
            }
            index += 1;
        }
        Ok(())
    }

    /// Asks for the rest of a body from a byte on, over a better connection.
    async fn taken_up(&self, body: &EdgeBody, from: u64) -> Result<EdgeBody, FetchError> {
        let rest = self.edge.read(&self.hash, Some(from..body.range.end)).await?;
        if rest.range.start == from && rest.size == body.size {
            Ok(rest)
        } else {
            Err(FetchError::Short)
        }
    }

    /// Takes a body into quarantine, which opens only for the right hash, and what lies behind its end, too.
    async fn quarantined(&self, mut body: EdgeBody) -> Result<u64, FetchError> {
        let (hash, size) = (self.hash, body.size);
        if size <= GROUP_LEN {
            let bytes = collect(body, &(0..size)).await?;
            let report = Arc::clone(&self.report);
            compute::store(self.store, move |store| {
                store.put_whole(&hash, &bytes)?;
                report.progress(size, 0..group_count(size), size);
                report.stored();
                Ok(())
            })
            .await?;
            return Ok(size);
        }
        let quarantine = compute::store(self.store, move |store| store.quarantine(hash)).await?;
        let (pieces, queue) = mpsc::channel(BATCHES_MAX * 8);
        let report = Arc::clone(&self.report);
        let writer = tokio::task::spawn_blocking(move || fill(quarantine, queue, size, &*report));
        'bodies: loop {
            while let Some(piece) = body.chunk().await? {
                if pieces.send(piece).await.is_err() {
                    break 'bodies;
                }
            }
            let end = body.range.end;
            if end >= size {
                break;
            }
            body = self.edge.read(&hash, Some(end..size)).await?;
            if body.range.start != end || body.size != size {
                return Err(FetchError::Short);
            }
        }
        drop(pieces);
        writer.await.map_err(|_| FetchError::Worker)??;
        Ok(size)
    }
}

/// Waits for what says nothing of itself until it is there: a pack of many blobs, a long list. The edge's own deadlines
/// watch over it, which know a slow link from a dead one, so its source is said to be alive meanwhile, once `size` is known.
async fn alive<T>(
    report: &impl Report,
    size: impl Fn() -> Option<u64>,
    mut what: Pin<Box<impl Future<Output = T>>>,
) -> T {
    loop {
        match timeout(ALIVE_INTERVAL, &mut what).await {
            Ok(there) => return there,
            Err(_) => size().into_iter().for_each(|size| report.arrived(0, size)),
        }
    }
}

/// Returns the bytes of groups of a blob of at most `size` bytes.
fn bytes_of(groups: &Range<u64>, size: u64) -> Range<u64> {
    group_offset(groups.start)..groups.end.saturating_mul(GROUP_LEN).min(size)
}

/// Reads the bytes of `range`, at most one group, also out of a whole blob.
async fn collect(mut body: EdgeBody, range: &Range<u64>) -> Result<Bytes, FetchError> {
    let mut at = body.range.start;
    let mut bytes = BytesMut::new();
    while at < range.end {
        let chunk = body.chunk().await?.ok_or(FetchError::Short)?;
        let skip = range.start.saturating_sub(at).min(len_u64(&chunk));
        let take = (range.end - at).min(len_u64(&chunk));
        at += len_u64(&chunk);
        let piece = usize::try_from(skip).ok().zip(usize::try_from(take).ok());
        if let Some(piece) = piece.and_then(|(skip, take)| chunk.get(skip..take)) {
            bytes.extend_from_slice(piece);
        }
    }
    Ok(bytes.freeze())
}

/// Fills a quarantine on a thread that may block, and opens it.
fn fill(
    mut quarantine: Quarantine,
    mut queue: mpsc::Receiver<Bytes>,
    size: u64,
    report: &impl Report,
) -> Result<(), FetchError> {
    let (mut got, mut told) = (0, 0);
    let mut last = Instant::now();
    while let Some(piece) = queue.blocking_recv() {
        quarantine.write(&piece)?;
        got += len_u64(&piece);
        if last.elapsed() >= TELL_INTERVAL {
            report.arrived(got - told, size);
            (told, last) = (got, Instant::now());
        }
    }
    if got < size {
        return Err(FetchError::Short);
    }
    quarantine.finish()?;
    report.progress(size, 0..group_count(size), size);
    report.stored();
    Ok(())
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::Meter;
    use super::*;

    /// Sums up the lengths that a source claimed while it was alive.
    #[derive(Default)]
    struct Claims(AtomicU64, Arc<Meter>);

    impl Report for Claims {
        fn progress(&self, _: u64, _: Range<u64>, _: u64) {}
        fn arrived(&self, _: u64, size: u64) {
            self.0.fetch_add(size, Ordering::Relaxed);
        }
        fn unlisted(&self) {}
        fn stored(&self) {}
        fn meter(&self) -> &Arc<Meter> {
            &self.1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn edge_that_reads_a_long_pack_is_alive_once_the_length_is_known() {
        let (claims, began) = (Claims::default(), tokio::time::Instant::now());
        let size = || (began.elapsed() > Duration::from_secs(5)).then_some(7);
        let read = tokio::time::sleep(Duration::from_millis(60_500));
        alive(&claims, size, Box::pin(read)).await;
        assert_eq!(claims.0.into_inner(), 55 * 7);
    }
}
