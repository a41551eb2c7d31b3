//! The requester's side: the groups of a blob are made of a base, and of what one provider gives.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{
    GROUP_LEN, GroupList, GroupSet, ProvisionalList, group_count, group_len,
};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::delta::plan::range_of;
use blobmesh_protocol::delta::{
    Batch, Cutter, Edge, MapBuilder, MapError, Plan, StretchMap, edges, is_worth, same_groups,
    wants_map,
};
use blobmesh_protocol::wire::delta::{
    DELTA_REQUEST, DeltaRequest, DeltaWants, MAP, RANGE, RANGES_MAX, Ranges, split_range,
};
use blobmesh_protocol::wire::frame::{self, Frame};
use blobmesh_protocol::wire::message::{BlobHead, END, GROUP, HEAD, LIST};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Base;
use super::provider::{EDGES_BYTES_MAX, pieces_of};
use crate::compute;
use crate::store::{BlobReader, Partial, Store, StoreError};
use crate::transfer::requester::{confirm, raw_group};
use crate::transfer::{FetchError, FrameIo};

/// How long the provider may be silent while an answer is owed.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How many bytes a second a provider is supposed to cut at least, when it makes a map.
const CUT_BYTES_PER_S: u64 = 100 << 20;
/// Up to how many bytes all that is missing is fetched by the delta; of more, groups of which the base has nothing are
/// left to the get, which has several sources and lanes.
const WHOLE_BYTES_MAX: u64 = 16 << 20;
/// How many edges are asked about: what is changed in more places than that is not worth it.
const EDGES_MAX: usize = 16 * RANGES_MAX;
/// How many groups are copied before others have a turn: 16 MiB.
const COPIED_AT_ONCE: u64 = 256;
/// How many groups may come out wrong while no more come out right.
const WRONG_MAX: u64 = 64;

/// Says why a delta ended before its end. What was made until then is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeltaError {
    /// The provider did not give what it was asked for.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The provider's map is none.
    #[error("{0}")]
    Map(#[from] MapError),
    /// The base could not be read.
    #[error("the base could not be read: {0}")]
    Base(std::io::Error),
    /// The base has too little of the blob.
    #[error("the base has too little of it")]
    Unlike,
    /// What the plan makes is wrong.
    #[error("{wrong} groups came out wrong")]
    Wrong {
        /// How many.
        wrong: u64,
    },
}

impl From<StoreError> for DeltaError {
    fn from(error: StoreError) -> Self {
        Self::Fetch(error.into())
    }
}

impl From<compute::WorkerLost> for DeltaError {
    fn from(error: compute::WorkerLost) -> Self {
        Self::Fetch(error.into())
    }
}

/// Says what a delta came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// The blob's length in bytes; 0 until it is proven.
    pub(crate) size: u64,
    /// The bytes of the blob that were copied from the base.
    pub(crate) copied: u64,
    /// Those that were fetched.
    pub(crate) fetched: u64,
    /// What was received beside them: the list, the map, the keys of edges.
    pub(crate) beside: u64,
    /// Whether the blob is whole, and has its name.
    pub(crate) whole: bool,
}

/// Makes as much as it can of a blob that is not in the store, and keeps it there as a partial or the whole.
///
/// `made` says at any time what has been done; it is right also where the future is dropped, but for what a thread was
/// doing just then.
pub(crate) async fn make<S: AsyncRead + AsyncWrite + Send + Unpin>(
    stream: S,
    hash: Hash,
    base: &Arc<Base>,
    store: &Store,
    made: &mut Made,
) -> Result<(), DeltaError> {
    let io = FrameIo::new(stream);
    let blob_bytes_max = store.blob_bytes_max();
    let mut delta = Delta { io, hash, blob_bytes_max, base, made };
    let partial = delta.partial(store).await?;
    let filling = Filling(Some(partial.clone()));
    let end = delta.fill(partial).await;
    drop(filling);
    end
}

/// Has the partial saved where that may block, also where the future is dropped.
struct Filling(Option<Partial>);

impl Drop for Filling {
    fn drop(&mut self) {
        let partial = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(partial)));
        }
    }
}

struct Delta<'a, S> {
    io: FrameIo<S>,
    hash: Hash,
    blob_bytes_max: u64,
    base: &'a Arc<Base>,
    made: &'a mut Made,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Delta<'_, S> {
    /// Takes up the partial of the blob, or begins one with the list that the provider gives.
    async fn partial(&mut self, store: &Store) -> Result<Partial, DeltaError> {
        let hash = self.hash;
        let found = compute::store(store, move |store| store.find_partial(&hash)).await?;
        if let Some(partial) = found {
            return self.worth(partial.list().size()).map(|()| partial);
        }
        let (list, last) = self.list().await?;
        let begun = compute::store(store, move |store| {
            let partial = store.partial(list)?;
            // The group that proved the list first: without it the partial could not be taken up again.
            partial.write_group(group_count(partial.list().size()) - 1, &last)?;
            Ok(partial)
        });
        Ok(begun.await?)
    }

    async fn fill(&mut self, partial: Partial) -> Result<(), DeltaError> {
        let size = partial.list().size();
        self.made.size = size;
        self.copy_same(&partial).await?;
        let missing = partial.held().missing();
        if wants_map(size, bytes_of(&missing, size)) {
            self.by_map(&partial).await?;
        }
        if partial.held().is_full() {
            compute::run(move || partial.finish()).await??;
            self.made.whole = true;
        }
        Ok(())
    }

    fn worth(&self, size: u64) -> Result<(), DeltaError> {
        if is_worth(size, self.base.size()) { Ok(()) } else { Err(DeltaError::Unlike) }
    }

    /// Gets the list, and the last group's bytes, which prove it.
    async fn list(&mut self) -> Result<(GroupList, Vec<u8>), DeltaError> {
        self.ask(DeltaWants::List).await?;
        let size = self.head(SILENCE_MAX).await?;
        self.worth(size)?;
        let groups = group_count(size);
        let mut values = Vec::new();
        while u64::try_from(values.len()).unwrap_or(u64::MAX) < groups {
            let piece = self.frame(SILENCE_MAX).await?;
            let (entries, rest) = piece.body.as_chunks::<32>();
            let room = groups - u64::try_from(values.len()).unwrap_or(u64::MAX);
            let fits = u64::try_from(entries.len()).is_ok_and(|len| (1..=room).contains(&len));
            if piece.kind != LIST || !fits || !rest.is_empty() {
                return Err(FetchError::OutOfTurn { kind: piece.kind }.into());
            }
            values.extend_from_slice(entries);
        }
        let last = self.frame(SILENCE_MAX).await?;
        if last.kind != GROUP {
            return Err(FetchError::OutOfTurn { kind: last.kind }.into());
        }
        self.end().await?;
        self.made.beside += 32 * groups;
        self.made.fetched += u64::try_from(group_len(size, groups - 1)).unwrap_or(0);
        let (hash, last) = (self.hash, raw_group(last.body)?);
        let proven = compute::run(move || {
            let provisional = ProvisionalList::check(hash, size, values)?;
            let (list, bytes) = confirm(provisional, &last)?;
            Ok::<_, FetchError>((list, bytes.to_vec()))
        });
        Ok(proven.await??)
    }

    /// Copies the groups that the base has at the same place.
    async fn copy_same(&mut self, partial: &Partial) -> Result<(), DeltaError> {
        let of_base = Arc::clone(self.base);
        let base_list = compute::run(move || of_base.blob().map(BlobReader::list)).await?;
        let Some(base_list) = base_list.transpose()? else { return Ok(()) };
        let held = partial.held();
        let runs = same_groups(&partial.list(), &base_list).into_iter();
        let missing = runs.flat_map(|run| held.missing_within(&run));
        for run in missing.flat_map(|run| parts_of(run, COPIED_AT_ONCE)) {
            let (partial, base) = (partial.clone(), Arc::clone(self.base));
            let copied = compute::run(move || {
                base.blob().map_or(Ok(0), |base| partial.take_over(base, run))
            });
            self.made.copied += copied.await??;
        }
        Ok(())
    }

    /// Looks the provider's map up in the base, and makes what can be made by it.
    async fn by_map(&mut self, partial: &Partial) -> Result<(), DeltaError> {
        let size = self.made.size;
        self.ask(DeltaWants::Map).await?;
        // Both sides cut at the same time.
        let of_base = Arc::clone(self.base);
        let base_map = tokio::task::spawn_blocking(move || of_base.map(size));
        let map = self.map(size).await?;
        let base_map =
            base_map.await.map_err(|_| compute::WorkerLost)?.map_err(DeltaError::Base)?;
        let plan = compute::run(move || Plan::new(&map, &base_map)).await?;
        if plan.fetched() > size / 8 * 7 {
            return Err(DeltaError::Unlike);
        }
        let plan = self.trim(plan, &partial.held()).await?;
        self.carry_out(Arc::new(plan), partial).await
    }

    async fn map(&mut self, size: u64) -> Result<StretchMap, DeltaError> {
        let cutting = SILENCE_MAX + Duration::from_secs(size / CUT_BYTES_PER_S);
        self.head_of(size, cutting).await?;
        let mut map = MapBuilder::new(size);
        let mut silence_max = cutting;
        loop {
            let piece = self.frame(silence_max).await?;
            silence_max = SILENCE_MAX;
            match piece.kind {
                MAP => map.push(&piece.body)?,
                END => return Ok(map.finish()?),
                kind => return Err(FetchError::OutOfTurn { kind }.into()),
            }
            self.made.beside += u64::try_from(piece.body.len()).unwrap_or(0);
        }
    }

    /// Asks how much of the ends of what would be fetched the base has.
    async fn trim(&mut self, plan: Plan, held: &GroupSet) -> Result<Plan, DeltaError> {
        let (size, cutter) = (self.made.size, Cutter::of(self.made.size));
        let is_wanted = |edge: &Edge| {
            let groups = edge.range.start / GROUP_LEN..edge.range.end.div_ceil(GROUP_LEN);
            edges::keys_len(len_of(&edge.range), cutter) > 0
                && !held.missing_within(&groups).is_empty()
        };
        let mut wanted = plan.edges(self.base.size());
        wanted.retain(is_wanted);
        wanted.truncate(EDGES_MAX);
        let mut trims = Vec::with_capacity(wanted.len());
        while !wanted.is_empty() {
            let rest = wanted.split_off(edges_at_once(&wanted, cutter));
            let asked = std::mem::replace(&mut wanted, rest);
            let ranges: Vec<Range<u64>> = asked.iter().map(|edge| edge.range.clone()).collect();
            let len = ranges.iter().map(|range| edges::keys_len(len_of(range), cutter)).sum();
            self.ask(DeltaWants::Edges(Ranges::new(&ranges))).await?;
            self.head_of(size, SILENCE_MAX).await?;
            let keys = self.keys(len).await?;
            let base = Arc::clone(self.base);
            let found = compute::run(move || matching(asked, &keys, cutter, &base)).await?;
            trims.extend(found.map_err(DeltaError::Base)?);
        }
        Ok(compute::run(move || plan.trimmed(&trims)).await?)
    }

    /// Takes the keys of edges, of which there are `len` bytes.
    async fn keys(&mut self, len: u64) -> Result<Vec<u8>, DeltaError> {
        let mut keys: Vec<u8> = Vec::new();
        loop {
            let piece = self.frame(SILENCE_MAX).await?;
            let came = u64::try_from(keys.len() + piece.body.len()).unwrap_or(u64::MAX);
            match piece.kind {
                MAP if came <= len => keys.extend_from_slice(&piece.body),
                END if came == len => break,
                kind => return Err(FetchError::OutOfTurn { kind }.into()),
            }
        }
        self.made.beside += len;
        Ok(keys)
    }

    /// Makes the groups of a plan, batch by batch. The provider reads for the next one while one is made.
    async fn carry_out(&mut self, plan: Arc<Plan>, partial: &Partial) -> Result<(), DeltaError> {
        let missing: Vec<u64> = partial.held().absent().collect();
        let whole = plan.fetched() <= WHOLE_BYTES_MAX;
        let mut batches = plan.batches(missing.into_iter(), whole);
        let mut tally = Tally::default();
        let mut asked = self.ask_batch(batches.next()).await?;
        while let Some(batch) = asked.take() {
            let pieces = self.pieces(&batch).await?;
            asked = self.ask_batch(batches.next()).await?;
            let (plan, base) = (Arc::clone(&plan), Arc::clone(self.base));
            let partial = partial.clone();
            let work = move || assemble(&batch, pieces, &plan, (&base, &partial));
            let done = compute::run(work).await??;
            self.made.copied += done.copied;
            self.made.fetched += done.fetched;
            tally.right += done.right;
            tally.wrong += done.wrong;
            if tally.wrong > WRONG_MAX.max(tally.right) {
                return Err(DeltaError::Wrong { wrong: tally.wrong });
            }
        }
        Ok(())
    }

    async fn ask_batch(&mut self, batch: Option<Batch>) -> Result<Option<Batch>, DeltaError> {
        if let Some(batch) = &batch
            && !batch.fetched.is_empty()
        {
            self.ask(DeltaWants::Bytes(Ranges::new(&batch.fetched))).await?;
        }
        Ok(batch)
    }

    /// Takes the ranges of a batch, as they come.
    async fn pieces(&mut self, batch: &Batch) -> Result<Vec<Frame>, DeltaError> {
        let mut pieces = Vec::new();
        if batch.fetched.is_empty() {
            return Ok(pieces);
        }
        self.head_of(self.made.size, SILENCE_MAX).await?;
        for _ in batch.fetched.iter().flat_map(pieces_of) {
            let piece = self.frame(SILENCE_MAX).await?;
            if piece.kind != RANGE {
                return Err(FetchError::OutOfTurn { kind: piece.kind }.into());
            }
            pieces.push(piece);
        }
        self.end().await?;
        Ok(pieces)
    }

    async fn ask(&mut self, wants: DeltaWants) -> Result<(), DeltaError> {
        let codecs = Codec::Raw.bit() | Codec::Lz4.bit();
        let request = DeltaRequest { hash: self.hash, codecs, wants };
        let bytes = frame::encode(DELTA_REQUEST, &request).map_err(FetchError::from)?;
        let written = timeout(SILENCE_MAX, self.io.write(&bytes)).await;
        Ok(written.map_err(|_| FetchError::Short)?.map_err(FetchError::from)?)
    }

    /// Takes the head of an answer, and returns the size that the provider claims.
    async fn head(&mut self, silence_max: Duration) -> Result<u64, DeltaError> {
        let head = self.frame(silence_max).await?;
        if head.kind != HEAD {
            return Err(FetchError::OutOfTurn { kind: head.kind }.into());
        }
        let size_max = self.blob_bytes_max;
        let error = match head.decode().map_err(FetchError::from)? {
            BlobHead::Ok { size } if size <= size_max => return Ok(size),
            BlobHead::Ok { size } => FetchError::TooLarge { size, size_max },
            BlobHead::Absent => FetchError::Absent,
            BlobHead::Busy { retry_after_ms } => {
                FetchError::Busy { retry_after: Duration::from_millis(u64::from(retry_after_ms)) }
            }
            BlobHead::Refused => FetchError::Refused,
        };
        Err(error.into())
    }

    /// Takes the head of an answer on a blob whose size is proven.
    async fn head_of(&mut self, size: u64, silence_max: Duration) -> Result<(), DeltaError> {
        let claimed = self.head(silence_max).await?;
        if claimed == size { Ok(()) } else { Err(FetchError::other_size(size, claimed).into()) }
    }

    async fn end(&mut self) -> Result<(), DeltaError> {
        let frame = self.frame(SILENCE_MAX).await?;
        if frame.kind == END {
            Ok(())
        } else {
            Err(FetchError::OutOfTurn { kind: frame.kind }.into())
        }
    }

    async fn frame(&mut self, silence_max: Duration) -> Result<Frame, DeltaError> {
        let read = timeout(silence_max, self.io.read()).await.map_err(|_| FetchError::Short)?;
        Ok(read.map_err(FetchError::from)?.ok_or(FetchError::Short)?)
    }
}

/// Counts groups that were made.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    copied: u64,
    fetched: u64,
    right: u64,
    wrong: u64,
}

/// Makes the groups of one batch, on a thread that may block. What comes out wrong is left to the get.
fn assemble(
    batch: &Batch,
    pieces: Vec<Frame>,
    plan: &Plan,
    (base, partial): (&Base, &Partial),
) -> Result<Tally, DeltaError> {
    let received = decode(batch, pieces)?;
    let mut received = &received[..];
    let (mut tally, mut group) = (Tally::default(), Vec::new());
    for index in &batch.groups {
        let (mut copied, mut fetched) = (0, 0);
        group.resize(group_len(plan.size(), *index), 0);
        let mut rest = &mut group[..];
        for part in plan.parts(range_of(plan.size(), *index)) {
            let len = usize::try_from(part.len).unwrap_or(usize::MAX).min(rest.len());
            let (bytes, after) = rest.split_at_mut(len);
            rest = after;
            if let Some(at) = part.base {
                base.read(at, bytes).map_err(DeltaError::Base)?;
                copied += part.len;
            } else {
                let (new, left) = received.split_at_checked(len).ok_or(FetchError::Short)?;
                bytes.copy_from_slice(new);
                received = left;
                fetched += part.len;
            }
        }
        match partial.write_group(*index, &group) {
            // Somebody else brought it meanwhile.
            Ok(false) => {}
            Ok(true) => {
                tally.copied += copied;
                tally.fetched += fetched;
                tally.right += 1;
            }
            Err(StoreError::BadGroup { .. }) => tally.wrong += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tally)
}

/// Decodes what was fetched for a batch into the bytes of its ranges, one after another.
fn decode(batch: &Batch, pieces: Vec<Frame>) -> Result<Vec<u8>, FetchError> {
    let mut bytes = vec![0; usize::try_from(batch.bytes()).unwrap_or(usize::MAX)];
    let mut rest = &mut bytes[..];
    for (range, frame) in batch.fetched.iter().flat_map(pieces_of).zip(pieces) {
        let len = usize::try_from(len_of(&range)).unwrap_or(usize::MAX).min(rest.len());
        let (piece, after) = rest.split_at_mut(len);
        rest = after;
        let (codec, payload) = split_range(&frame.body)?;
        decode_group(Codec::try_from(codec)?, payload, piece)?;
    }
    Ok(bytes)
}

/// Compares the keys of edges with what the base has there.
fn matching(
    asked: Vec<Edge>,
    keys: &[u8],
    cutter: Cutter,
    base: &Base,
) -> std::io::Result<Vec<(Edge, (u64, u64))>> {
    let mut rest = keys;
    let mut found = Vec::with_capacity(asked.len());
    for edge in asked {
        let len = len_of(&edge.range);
        let keys_len = usize::try_from(edges::keys_len(len, cutter)).unwrap_or(usize::MAX);
        let (keys, after) = rest.split_at(keys_len.min(rest.len()));
        rest = after;
        let span = edges::blocks_of(len, cutter) * edges::EDGE_BLOCK_LEN;
        let end = base.size();
        let start = edge.after.min(end);
        let head = read(base, start..start.saturating_add(span).min(end))?;
        let before = edge.before.min(end);
        let tail = read(base, before.saturating_sub(span)..before)?;
        found.push((edge, edges::matching(len, keys, &head, &tail)));
    }
    Ok(found)
}

fn read(base: &Base, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len_of(&range)).unwrap_or(usize::MAX)];
    base.read(range.start, &mut bytes)?;
    Ok(bytes)
}

/// Returns how many of some edges may be asked about at once: at least one, and no more than a provider answers.
fn edges_at_once(edges: &[Edge], cutter: Cutter) -> usize {
    let mut bytes = 0;
    let fits = |edge: &&Edge| {
        bytes += 2 * edges::EDGE_BLOCK_LEN * edges::blocks_of(len_of(&edge.range), cutter);
        bytes <= EDGES_BYTES_MAX
    };
    edges.iter().take(RANGES_MAX).take_while(fits).count().max(1)
}

/// Divides a run of groups.
fn parts_of(run: Range<u64>, len: u64) -> impl Iterator<Item = Range<u64>> {
    let (mut start, end) = (run.start, run.end);
    std::iter::from_fn(move || {
        let part = start..end.min(start.saturating_add(len));
        start = part.end;
        (!part.is_empty()).then_some(part)
    })
}

fn bytes_of(runs: &[Range<u64>], size: u64) -> u64 {
    let run = |run: &Range<u64>| {
        range_of(size, run.end.saturating_sub(1))
            .end
            .saturating_sub(range_of(size, run.start).start)
    };
    runs.iter().map(run).sum()
}

fn len_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}
