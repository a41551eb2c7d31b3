//! Serving a peer: the provider's side of a blob stream (SPEC.md, "Blob stream").

use std::time::{Duration, Instant};

use blobmesh_protocol::blob::{group_count, group_len, group_offset};
use blobmesh_protocol::compress::{Codec, Compressor};
use blobmesh_protocol::wire::frame::{self, Frame, FrameHeader};
use blobmesh_protocol::wire::lane::{LaneOffer, TAKES_LANE};
use blobmesh_protocol::wire::message::{
    BlobHead, BlobRequest, END, GROUP, GROUP_PREFIX_LEN, HEAD, LANE_OFFER, LIST,
    LIST_PIECE_LEN_MAX, REQUEST, RUNS_MAX,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::holding::Holding;
use super::{BATCH_BYTES, BATCHES_MAX, FrameIo, StreamError, UploadRate};
use crate::compute;
use crate::store::{Store, StoreError};

/// How long a peer that opened a blob stream may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may take to accept one batch of groups: below 52 KiB/s it is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Says why a service ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The stream broke.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The peer opened a stream and asked for nothing, or something else than a blob.
    #[error("the peer asked for nothing")]
    NoRequest,
    /// The peer did not take what it had asked for.
    #[error("the peer takes the blob too slowly")]
    TooSlow,
    /// The peer opened a lane with a token that this node did not give it, or gave it for another lane.
    #[error("the peer showed no token")]
    NoToken,
    /// The peer has as many lanes as it may have.
    #[error("the peer has too many lanes")]
    TooMany,
    /// All the memory for lanes stayed in use.
    #[error("no buffer became free in time")]
    NoBuffer,
    /// Our store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A thread of ours did not come to its end.
    #[error("a worker thread was lost")]
    Worker,
}

/// Waits for the first frame on a fresh stream, which says what the stream is for.
pub(crate) async fn first<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
) -> Result<Frame, ServeError> {
    let frame = timeout(REQUEST_TIMEOUT, io.read()).await.map_err(|_| ServeError::NoRequest)??;
    frame.ok_or(ServeError::NoRequest)
}

/// Reads the request that a first frame is.
pub(crate) fn request(first: &Frame) -> Result<BlobRequest, ServeError> {
    if first.kind != REQUEST {
        return Err(ServeError::NoRequest);
    }
    Ok(first.decode().map_err(StreamError::from)?)
}

/// Turns a request away.
pub(crate) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    retry_after: Duration,
) -> Result<(), ServeError> {
    let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
    answer(io, BlobHead::Busy { retry_after_ms }).await
}

/// Serves one request, and returns the bytes of the blob that were sent.
///
/// Every group is verified by the store before it is sent, so nothing wrong leaves this node. Ends
/// when the peer stops taking what it asked for. Dropping the future ends the service.
///
/// Where the peer takes lanes, `offer` may make an offer for the bytes that it wants, or is going to want;
/// the groups then stay behind for the lanes, but for the last one that proves the list.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    request: BlobRequest,
    (store, upload): (&Store, &UploadRate),
    offer: impl FnOnce(u64) -> Option<LaneOffer>,
) -> Result<u64, ServeError> {
    let sent = respond(io, request, (store, upload), offer).await?;
    timeout(WRITE_TIMEOUT, io.close()).await.map_err(|_| ServeError::TooSlow)??;
    Ok(sent)
}

/// Answers one request as [`serve`] does, and leaves the stream open for another.
pub(crate) async fn respond<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    request: BlobRequest,
    (store, upload): (&Store, &UploadRate),
    offer: impl FnOnce(u64) -> Option<LaneOffer>,
) -> Result<u64, ServeError> {
    let wanted = request.clone();
    let holding = compute::store(store, move |store| Holding::find(store, &wanted)).await?;
    let Some(reader) = holding else {
        answer(io, BlobHead::Absent).await?;
        return Ok(0);
    };
    let size = reader.size();
    let Some(mut groups) = plan(&request, size) else {
        answer(io, BlobHead::Refused).await?;
        return Ok(0);
    };
    answer(io, BlobHead::Ok { size }).await?;
    let takes_lane = request.codecs & TAKES_LANE != 0 && group_count(size) > 1;
    if let Some(offer) = takes_lane.then(|| offer(bytes_coming(&groups, size))).flatten() {
        write(io, &frame::encode(LANE_OFFER, &offer).map_err(StreamError::from)?).await?;
        groups.clear();
    }
    let (batches, mut queue) = mpsc::channel(BATCHES_MAX);
    let upload = upload.clone();
    let worker =
        tokio::task::spawn_blocking(move || read(&reader, &request, groups, (&batches, &upload)));
    while let Some(batch) = queue.recv().await {
        write(io, &batch).await?;
    }
    let sent = worker.await.map_err(|_| ServeError::Worker)??;
    write(io, &FrameHeader { kind: END, len: 0 }.encode()).await?;
    Ok(sent)
}

/// Sends a head.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    head: BlobHead,
) -> Result<(), ServeError> {
    let head = frame::encode(HEAD, &head).map_err(StreamError::from)?;
    write(io, &head).await
}

/// Sends frames to a peer that takes them in time.
pub(crate) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    frames: &[u8],
) -> Result<(), ServeError> {
    Ok(timeout(WRITE_TIMEOUT, io.write(frames)).await.map_err(|_| ServeError::TooSlow)??)
}

/// Returns how many bytes a requester of some runs is likely to want of a blob. Who asks for a range in
/// the middle is dividing the blob among its holders, and comes again.
fn bytes_coming(runs: &[(u64, u64)], size: u64) -> u64 {
    let goes_on = runs.last().is_some_and(|(start, count)| start + count < group_count(size));
    if goes_on { size } else { bytes_of(runs, size) }
}

/// Returns how many bytes of a blob of `size` bytes are in some runs of groups.
fn bytes_of(runs: &[(u64, u64)], size: u64) -> u64 {
    let run = |(first, count): &(u64, u64)| {
        let (start, end) = (group_offset(*first), group_offset(first.saturating_add(*count)));
        end.min(size).saturating_sub(start)
    };
    runs.iter().map(run).sum()
}

/// Returns the runs of groups to send, `None` when the request makes no sense.
pub(crate) fn plan(request: &BlobRequest, size: u64) -> Option<Vec<(u64, u64)>> {
    let groups = group_count(size);
    if request.runs.is_empty() {
        return Some(vec![(0, groups)]);
    }
    let mut end = 0;
    for (start, count) in &request.runs {
        if *start < end || *count == 0 {
            return None;
        }
        end = start.checked_add(*count)?;
    }
    (end <= groups && request.runs.len() <= RUNS_MAX).then(|| request.runs.clone())
}

/// Reads, compresses and frames what was asked for, on a thread that may block.
fn read(
    reader: &Holding,
    request: &BlobRequest,
    runs: Vec<(u64, u64)>,
    (batches, upload): (&mpsc::Sender<Vec<u8>>, &UploadRate),
) -> Result<u64, StoreError> {
    let size = reader.size();
    let last = group_count(size) - 1;
    let with_list = request.with_list && last > 0;
    // Where lanes bring the groups there are none to send here; of a part only these may be read.
    let first = request.runs.first().map_or(0, |(start, _)| *start);
    let compressor = reader.compressor(request.codecs, first)?;
    let mut framer = Framer::new(reader, compressor, (batches, upload));
    if with_list {
        framer.list()?;
        framer.group(last)?;
    }
    let indices = runs.into_iter().flat_map(|(start, count)| start..start + count);
    for index in indices.filter(|index| !with_list || *index != last) {
        if !framer.group(index)? {
            break;
        }
    }
    framer.flush();
    Ok(framer.sent)
}

/// Makes batches of frames out of one blob.
struct Framer<'a> {
    reader: &'a Holding,
    batches: &'a mpsc::Sender<Vec<u8>>,
    upload: &'a UploadRate,
    compressor: Compressor,
    batch: Vec<u8>,
    group: Vec<u8>,
    encoded: Vec<u8>,
    /// The bytes of the groups in the batch, and how long they took to encode.
    batched: u64,
    encoding: Duration,
    sent: u64,
}

impl<'a> Framer<'a> {
    fn new(
        reader: &'a Holding,
        compressor: Compressor,
        (batches, upload): (&'a mpsc::Sender<Vec<u8>>, &'a UploadRate),
    ) -> Self {
        let (batch, group, encoded) = (Vec::new(), Vec::new(), Vec::new());
        let (batched, encoding, sent) = (0, Duration::ZERO, 0);
        Self { reader, batches, upload, compressor, batch, group, encoded, batched, encoding, sent }
    }

    fn list(&mut self) -> Result<(), StoreError> {
        let list = self.reader.list()?;
        let piece = usize::try_from(LIST_PIECE_LEN_MAX / 32).unwrap_or(usize::MAX);
        for values in list.values().chunks(piece) {
            self.frame(LIST, values.len() * 32);
            self.batch.extend(values.iter().flatten());
            if self.batch.len() >= BATCH_BYTES {
                self.flush();
            }
        }
        Ok(())
    }

    /// Frames one group, and returns whether anybody still listens.
    fn group(&mut self, index: u64) -> Result<bool, StoreError> {
        self.reader.read_group(index, &mut self.group)?;
        let started = Instant::now();
        let codec = self.compressor.encode_group(&self.group, &mut self.encoded);
        self.encoding += started.elapsed();
        let payload_len = match codec {
            Codec::Raw => self.group.len(),
            Codec::Lz4 | Codec::Zstd => self.encoded.len(),
        };
        let prefix = usize::try_from(GROUP_PREFIX_LEN).unwrap_or(usize::MAX);
        self.frame(GROUP, prefix + payload_len);
        self.batch.extend_from_slice(&index.to_le_bytes());
        self.batch.push(codec.number());
        match codec {
            Codec::Raw => self.batch.extend_from_slice(&self.group),
            Codec::Lz4 | Codec::Zstd => self.batch.extend_from_slice(&self.encoded),
        }
        self.batched += u64::try_from(group_len(self.reader.size(), index)).unwrap_or(0);
        let is_full = self.batched >= self.upload.piece(BATCH_BYTES as u64);
        Ok(!is_full || self.flush())
    }

    fn frame(&mut self, kind: u8, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.batch.extend_from_slice(&FrameHeader { kind, len }.encode());
    }

    fn flush(&mut self) -> bool {
        let next = Vec::with_capacity(self.batch.capacity());
        let batch = std::mem::replace(&mut self.batch, next);
        if batch.is_empty() {
            return true;
        }
        // Where the link is the limit, this waits for it.
        let started = Instant::now();
        let len = batch.len() as u64;
        let is_wanted = self.upload.wait(batch.len(), || !self.batches.is_closed());
        let is_heard = is_wanted && self.batches.blocking_send(batch).is_ok();
        self.compressor.sent((self.batched, len), self.encoding, started.elapsed());
        self.sent += self.batched;
        (self.batched, self.encoding) = (0, Duration::ZERO);
        is_heard
    }
}
