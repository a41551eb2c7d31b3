//! The provider's side: a stream of delta requests, answered one after another.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::blob::{GROUP_LEN, group_count, group_offset};
use blobmesh_protocol::compress::Codec;
use blobmesh_protocol::delta::{Cutter, DELTA_BYTES_MIN, STRETCHES_MAX, edges};
use blobmesh_protocol::wire::delta::{
    DELTA_REQUEST, DeltaRequest, DeltaWants, RANGE_PIECE_LEN_MAX, RANGES_BYTES_MAX, push_map,
    push_range,
};
use blobmesh_protocol::wire::frame::{Frame, FrameHeader};
use blobmesh_protocol::wire::message::{BlobHead, BlobRequest, END};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Maps;
use crate::compute;
use crate::lane::Slot;
use crate::small::provider::Admission;
use crate::store::{BlobReader, Store, StoreError};
use crate::transfer::provider::{ServeError, answer, respond, turn_away, write};
use crate::transfer::{FrameIo, Holding, StreamError, UploadRate};

/// How long a stream may ask for nothing: a requester cuts its base meanwhile.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many bytes of frames are handed over at once.
const BATCH_LEN: usize = 1 << 20;
/// How many batches wait to be written.
const BATCHES_MAX: usize = 2;
/// How many bytes are read and hashed at most for one request for edges.
pub(super) const EDGES_BYTES_MAX: u64 = 64 << 20;

/// Is what requests are answered from; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) store: Store,
    pub(crate) maps: Arc<Maps>,
    pub(crate) upload: UploadRate,
}

/// Answers delta requests until the peer ends the stream, or asks for nothing for a while. `first` is the frame that
/// made the stream one of delta requests. Every request is admitted for itself: between two of them the requester may
/// be busy for long.
pub(crate) async fn serve<S, A>(
    mut io: FrameIo<S>,
    first: Frame,
    sources: &Sources,
    mut admission: A,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Admission,
{
    let mut next = Some(first);
    while let Some(frame) = next.take() {
        let request = decode(&frame)?;
        match admission.admit().await {
            Ok(mut slot) => slot.sent(answer_one(&mut io, request, sources).await?),
            Err(Some(retry_after)) => turn_away(&mut io, retry_after).await?,
            // The node stops.
            Err(None) => return Ok(()),
        }
        if let Ok(read) = timeout(IDLE_TIMEOUT, io.read()).await {
            next = read?;
        }
    }
    Ok(())
}

fn decode(frame: &Frame) -> Result<DeltaRequest, ServeError> {
    if frame.kind != DELTA_REQUEST {
        return Err(ServeError::NoRequest);
    }
    Ok(frame.decode().map_err(StreamError::from)?)
}

/// Answers one request, and returns the bytes of the blob that were sent.
async fn answer_one<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut FrameIo<S>,
    request: DeltaRequest,
    sources: &Sources,
) -> Result<u64, ServeError> {
    let DeltaRequest { hash, codecs, wants } = request;
    let reader = compute::store(&sources.store, move |store| store.open_blob(&hash)).await?;
    let Some(reader) = reader else {
        answer(io, BlobHead::Absent).await?;
        return Ok(0);
    };
    let size = reader.size();
    let Some(work) = Work::check(wants, size) else {
        answer(io, BlobHead::Refused).await?;
        return Ok(0);
    };
    if let Work::List = work {
        let last = (group_count(size) - 1, 1);
        let request = BlobRequest { hash, with_list: true, codecs, runs: vec![last] };
        return respond(io, request, (&sources.store, &sources.upload), |_| None).await;
    }
    answer(io, BlobHead::Ok { size }).await?;
    let (frames, mut batches) = mpsc::channel(BATCHES_MAX);
    let of_worker = sources.clone();
    let worker = tokio::task::spawn_blocking(move || {
        let sink = Sink { frames, upload: of_worker.upload, batch: Vec::new() };
        work.carry_out(reader, codecs, &of_worker.maps, sink)
    });
    while let Some(batch) = batches.recv().await {
        write(io, &batch).await?;
    }
    let sent = worker.await.map_err(|_| ServeError::Worker)??;
    write(io, &FrameHeader { kind: END, len: 0 }.encode()).await?;
    Ok(sent)
}

/// Is what is asked for, within its bounds.
#[derive(Debug)]
enum Work {
    List,
    Map,
    Edges(Vec<Range<u64>>),
    Bytes(Vec<Range<u64>>),
}

impl Work {
    /// Checks what is asked for of a blob of `size` bytes; none where it makes no sense.
    fn check(wants: DeltaWants, size: u64) -> Option<Self> {
        if size < DELTA_BYTES_MIN {
            return None;
        }
        let cutter = Cutter::of(size);
        match wants {
            DeltaWants::List => Some(Self::List),
            DeltaWants::Map => (size / cutter.average() <= STRETCHES_MAX).then_some(Self::Map),
            DeltaWants::Edges(ranges) => {
                let ranges = ranges.within(size, u64::MAX)?;
                let read = |range: &Range<u64>| {
                    2 * edges::EDGE_BLOCK_LEN * edges::blocks_of(range.end - range.start, cutter)
                };
                let bytes = ranges.iter().map(read).sum::<u64>();
                (bytes <= EDGES_BYTES_MAX).then_some(Self::Edges(ranges))
            }
            DeltaWants::Bytes(ranges) => ranges.within(size, RANGES_BYTES_MAX).map(Self::Bytes),
        }
    }

    /// Makes the frames of the answer, on a thread that may block, and returns the bytes of the blob among them.
    fn carry_out(
        self,
        reader: BlobReader,
        codecs: u8,
        maps: &Maps,
        mut sink: Sink,
    ) -> Result<u64, StoreError> {
        let mut sent = 0;
        match self {
            // Answered as a part of a blob request.
            Self::List => {}
            Self::Map => {
                push_map(&maps.of(&reader)?, &mut sink.batch);
                sink.flush();
            }
            Self::Edges(ranges) => {
                let cutter = Cutter::of(reader.size());
                let (mut spans, mut keys) = (Spans::new(Holding::Whole(reader)), Vec::new());
                for range in ranges {
                    let (head, tail) = edges::ends_of(&range, cutter);
                    let (head, tail) = (spans.read(&head)?, spans.read(&tail)?);
                    edges::push_keys(&head, &tail, &mut keys);
                }
                push_map(&keys, &mut sink.batch);
                sink.flush();
            }
            Self::Bytes(ranges) => {
                let holding = Holding::Whole(reader);
                // Ranges are short: nothing is learned of the link by them.
                let mut compressor = holding.compressor(codecs & !Codec::Zstd.bit(), 0)?;
                let (mut spans, mut encoded) = (Spans::new(holding), Vec::new());
                for piece in ranges.iter().flat_map(pieces_of) {
                    let bytes = spans.read(&piece)?;
                    let codec = compressor.encode_group(&bytes, &mut encoded);
                    let payload = if codec == Codec::Raw { &bytes } else { &encoded };
                    push_range(codec, payload, &mut sink.batch);
                    sent += piece.end - piece.start;
                    if sink.batch.len() >= BATCH_LEN && !sink.flush() {
                        return Ok(sent);
                    }
                }
                sink.flush();
            }
        }
        Ok(sent)
    }
}

/// Divides a range into the pieces that have a frame each.
pub(super) fn pieces_of(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut start, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let piece = start..end.min(start.saturating_add(RANGE_PIECE_LEN_MAX));
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Hands frames over to be written.
struct Sink {
    frames: mpsc::Sender<Vec<u8>>,
    upload: UploadRate,
    batch: Vec<u8>,
}

impl Sink {
    /// Hands over what there is; false where nobody wants it any more.
    fn flush(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        let piece = usize::try_from(self.upload.piece(BATCH_LEN as u64)).unwrap_or(BATCH_LEN);
        batch.chunks(piece).all(|part| {
            self.upload.wait(part.len(), || !self.frames.is_closed())
                && self.frames.blocking_send(part.to_vec()).is_ok()
        })
    }
}

/// Reads ranges of a blob that lie behind each other, by its groups, which are checked.
struct Spans {
    holding: Holding,
    /// The group that was read last.
    group: Vec<u8>,
    index: Option<u64>,
}

impl Spans {
    fn new(holding: Holding) -> Self {
        Self { holding, group: Vec::new(), index: None }
    }

    /// Reads a range within the blob.
    fn read(&mut self, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut at = range.start;
        while at < range.end {
            let index = at / GROUP_LEN;
            if self.index != Some(index) {
                self.index = None;
                self.holding.read_group(index, &mut self.group)?;
                self.index = Some(index);
            }
            let end = range.end.min(group_offset(index + 1));
            let within = |at: u64| usize::try_from(at - group_offset(index)).unwrap_or(usize::MAX);
            bytes.extend_from_slice(self.group.get(within(at)..within(end)).unwrap_or_default());
            at = end;
        }
        Ok(bytes)
    }
}
