//! Fetching from a peer: the requester's side of a blob stream (SPEC.md, "Blob stream").

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::blob::{ChainingValue, GroupList, ProvisionalList, group_count, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::wire::frame::{self, Frame};
use blobmesh_protocol::wire::lane::{LaneOffer, TAKES_LANE};
use blobmesh_protocol::wire::message::{
    BlobHead, BlobRequest, END, GROUP, GROUP_PREFIX_LEN, HEAD, LANE_OFFER, LIST, REQUEST, RUNS_MAX,
    is_of_response,
};
use blobmesh_protocol::{Hash, PeerId};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::sink::{self, GroupSink, RawGroup, Start};
use super::{FetchError, FrameIo, Report};
use crate::compute;
use crate::lane::{self, Door, LaneEnd, Lanes};
use crate::store::Store;

/// How many entries of a list are a sign of life: 16 KiB.
const LIST_TOLD_ENTRIES: usize = 512;

/// Leads to one peer.
pub(crate) trait Way: Sync {
    /// Carries bytes to the peer and back.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin;

    /// Opens a fresh blob stream, where need be after connecting.
    fn open(&self) -> impl Future<Output = Result<Self::Stream, FetchError>> + Send;

    /// Returns the peer's lanes; none where blob streams must do.
    fn lanes(&self) -> Option<LaneWay<'_>>;

    /// Returns the host of the peer's control connection, where its lanes are: an IP address or a name.
    fn host(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Leads to the lanes of one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneWay<'a> {
    pub(crate) lanes: &'a Lanes,
    pub(crate) peer: PeerId,
}

/// Fetches all that is missing of `hash`, and returns the blob's size.
#[cfg(test)]
pub(crate) async fn fetch<W: Way>(
    way: &W,
    hash: Hash,
    store: &Store,
    blob_bytes_max: u64,
    report: Arc<impl Report>,
) -> Result<u64, FetchError> {
    let whole = fetch_groups(way, (hash, None), store, blob_bytes_max, report).await?;
    whole.ok_or(FetchError::Short)
}

/// Fetches what is missing of some groups of a blob, or of all of them, from the peer at the end of `way`.
/// Returns the blob's size once it is whole, verified and in the store; `None` says that the groups are
/// stored and others are missing.
///
/// Groups of a blob whose list is proven come over a lane to the peer that is open, if there is one. Else
/// what is asked for first goes over a blob stream. Where the peer answers with an offer of lanes, the
/// groups come over those, and over another blob stream if that fails. Waits as long as the peer keeps it
/// waiting: whoever calls decides when it is too long, and drops the future. What was verified until then
/// stays in the store as a partial blob.
pub(crate) async fn fetch_groups<W: Way>(
    way: &W,
    (hash, groups): (Hash, Option<Range<u64>>),
    store: &Store,
    blob_bytes_max: u64,
    report: Arc<impl Report>,
) -> Result<Option<u64>, FetchError> {
    let start = sink::start(store, hash, &report).await?;
    if let Start::Whole { size } = start {
        return Ok(Some(size));
    }
    let takes_lane = way.lanes().is_some_and(|of| of.lanes.takes(of.peer));
    let (io, offer) = (None, None);
    let mut fetch =
        Fetch { way, io, hash, groups, store, blob_bytes_max, report, takes_lane, offer };
    match start {
        Start::Whole { size } => Ok(Some(size)),
        Start::Part { sink, size, missing } => fetch.rest(sink, size, &missing).await,
        Start::Nothing => fetch.whole().await,
    }
}

struct Fetch<'a, W: Way, P> {
    way: &'a W,
    /// The blob stream; none before the first request.
    io: Option<FrameIo<W::Stream>>,
    hash: Hash,
    /// The groups wanted; none for all.
    groups: Option<Range<u64>>,
    store: &'a Store,
    blob_bytes_max: u64,
    report: Arc<P>,
    /// Whether an offer of lanes is taken: where lanes failed, it is not.
    takes_lane: bool,
    /// The offer, once it has come; the response then has no groups but the last.
    offer: Option<LaneOffer>,
}

impl<W: Way, P: Report> Fetch<'_, W, P> {
    /// Fetches a blob of which nothing is known but the hash.
    async fn whole(&mut self) -> Result<Option<u64>, FetchError> {
        let runs = self.groups.iter().map(|groups| (groups.start, groups.end - groups.start));
        let size = self.request(true, runs.collect()).await?;
        if group_count(size) == 1 {
            return self.single_group(size).await.map(Some);
        }
        let values = self.list(size).await?;
        let hash = self.hash;
        let provisional =
            compute::run(move || ProvisionalList::check(hash, size, values)).await??;
        let last = self.group().await?.ok_or(FetchError::Short)?;
        let (list, payload) = compute::run(move || confirm(provisional, &last)).await??;
        let mut sink = GroupSink::begin(self.store, list, &self.report).await?;
        // The group that proved the list first: without it the partial could not be taken up again.
        let index = group_count(size) - 1;
        sink.push(RawGroup { index, codec: Codec::Raw, payload }).await?;
        let missing = self.wanted(std::slice::from_ref(&(0..index)));
        let received = self.groups_or_lanes(&mut sink, &missing).await;
        let whole = sink.finish(received, self.groups.take()).await?;
        Ok(whole.then_some(size))
    }

    /// Fetches the missing groups of a blob whose list is proven.
    async fn rest(
        &mut self,
        mut sink: GroupSink,
        size: u64,
        missing: &[Range<u64>],
    ) -> Result<Option<u64>, FetchError> {
        let missing = self.wanted(missing);
        let received = self.proven_groups(&mut sink, size, missing).await;
        let whole = sink.finish(received, self.groups.take()).await?;
        Ok(whole.then_some(size))
    }

    /// Takes groups of a blob whose list is proven: over a lane that is open, or as the peer offers.
    async fn proven_groups(
        &mut self,
        sink: &mut GroupSink,
        size: u64,
        mut missing: Vec<Range<u64>>,
    ) -> Result<(), FetchError> {
        // A request that names no groups would ask for all of them.
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(lane) = self.way.lanes().and_then(|of| of.lanes.warm(of.peer)) {
            match self.over_lanes(sink, Door::Warm(lane), &missing).await? {
                Ok(()) => return Ok(()),
                Err(end) if end.is_of_the_way() => missing = end.rest,
                Err(end) => return Err(end.error),
            }
        }
        let claimed = self.request(false, runs_of(&missing)).await?;
        if claimed != size {
            return Err(FetchError::other_size(size, claimed));
        }
        self.groups_or_lanes(sink, &missing).await
    }

    /// Returns what of these runs is wanted.
    fn wanted(&self, missing: &[Range<u64>]) -> Vec<Range<u64>> {
        let Some(groups) = &self.groups else { return missing.to_vec() };
        let cut = missing.iter().map(|run| run.start.max(groups.start)..run.end.min(groups.end));
        cut.filter(|run| !run.is_empty()).collect()
    }

    /// Asks for groups on a fresh blob stream and returns the size that the peer claims.
    async fn request(&mut self, with_list: bool, runs: Vec<(u64, u64)>) -> Result<u64, FetchError> {
        let lane = if self.takes_lane { TAKES_LANE } else { 0 };
        let codecs = Codec::ALL | lane;
        let request = BlobRequest { hash: self.hash, with_list, codecs, runs };
        let connecting = Instant::now();
        let io = self.io.insert(FrameIo::new(self.way.open().await?));
        self.report.meter().connected(connecting.elapsed());
        let started = Instant::now();
        io.write(&frame::encode(REQUEST, &request)?).await?;
        let head = self.frame().await?;
        self.report.meter().answered(started.elapsed());
        if head.kind != HEAD {
            return Err(FetchError::OutOfTurn { kind: head.kind });
        }
        match head.decode()? {
            BlobHead::Ok { size } if size <= self.blob_bytes_max => Ok(size),
            BlobHead::Ok { size } => {
                Err(FetchError::TooLarge { size, size_max: self.blob_bytes_max })
            }
            BlobHead::Absent => Err(FetchError::Absent),
            BlobHead::Busy { retry_after_ms } => Err(FetchError::Busy {
                retry_after: Duration::from_millis(u64::from(retry_after_ms)),
            }),
            BlobHead::Refused => Err(FetchError::Refused),
        }
    }

    /// Takes a blob of one group, which is verified by the hash alone.
    async fn single_group(&mut self, size: u64) -> Result<u64, FetchError> {
        let group = self.group().await?.ok_or(FetchError::Short)?;
        let bytes = compute::run(move || {
            let mut bytes = vec![0; group_len(size, 0)];
            decode_group(group.codec, &group.payload, &mut bytes).map(|()| bytes)
        });
        let bytes = bytes.await??;
        let (hash, report) = (self.hash, Arc::clone(&self.report));
        compute::store(self.store, move |store| {
            store.put_whole(&hash, &bytes)?;
            report.progress(size, 0..1, size);
            report.stored();
            Ok(())
        })
        .await?;
        Ok(size)
    }

    /// Takes the pieces of the list of a blob of `size` bytes; memory grows with what arrives.
    async fn list(&mut self, size: u64) -> Result<Vec<ChainingValue>, FetchError> {
        let groups = group_count(size);
        let mut values: Vec<ChainingValue> = Vec::new();
        let held = |values: &Vec<ChainingValue>| u64::try_from(values.len()).unwrap_or(u64::MAX);
        let mut told = 0;
        while held(&values) < groups {
            let mut piece = self.frame().await?;
            if values.is_empty() && self.take_offer(&piece)? {
                piece = self.frame().await?;
            }
            let (entries, rest) = piece.body.as_chunks::<32>();
            let room = usize::try_from(groups - held(&values)).unwrap_or(usize::MAX);
            let fits = !entries.is_empty() && rest.is_empty() && entries.len() <= room;
            if piece.kind != LIST || !fits {
                return Err(FetchError::OutOfTurn { kind: piece.kind });
            }
            values.extend_from_slice(entries);
            // An entry now and then is no sign of life: nothing else is fetched until the list is there.
            if values.len() - told >= LIST_TOLD_ENTRIES || held(&values) == groups {
                told = values.len();
                self.report.arrived(0, size);
            }
        }
        Ok(values)
    }

    /// Takes what the response holds, and what is missing then over lanes, if they were offered.
    async fn groups_or_lanes(
        &mut self,
        sink: &mut GroupSink,
        missing: &[Range<u64>],
    ) -> Result<(), FetchError> {
        self.groups(sink).await?;
        let Some(offer) = self.offer.take() else { return Ok(()) };
        let came = match self.way.host().await {
            Some(host) => self.over_lanes(sink, Door::Offer { host, offer }, missing).await?,
            None => Err(LaneEnd { error: FetchError::Short, rest: missing.to_vec() }),
        };
        let Err(end) = came else { return Ok(()) };
        if !end.is_of_the_way() {
            return Err(end.error);
        }
        self.takes_lane = false;
        let claimed = self.request(false, runs_of(&end.rest)).await?;
        let proven = sink.list().size();
        if claimed != proven {
            return Err(FetchError::other_size(proven, claimed));
        }
        self.groups(sink).await
    }

    /// Fetches groups over lanes to the peer.
    async fn over_lanes(
        &mut self,
        sink: &mut GroupSink,
        door: Door,
        missing: &[Range<u64>],
    ) -> Result<Result<(), LaneEnd>, FetchError> {
        let Some(of) = self.way.lanes() else {
            return Ok(Err(LaneEnd { error: FetchError::Short, rest: missing.to_vec() }));
        };
        let work = lane::Work {
            peer: of.peer,
            list: sink.list(),
            ranges: missing.to_vec(),
            meter: Arc::clone(self.report.meter()),
        };
        // The group that proved the list first, as above.
        sink.flush().await?;
        let runs = sink.runs();
        sink.attend(of.lanes.fetch(work, door, runs)).await
    }

    /// Takes an offer of lanes, where one was asked for and has not come; false for another frame.
    fn take_offer(&mut self, frame: &Frame) -> Result<bool, FetchError> {
        if frame.kind != LANE_OFFER {
            return Ok(false);
        }
        let offer: LaneOffer = frame.decode()?;
        if !self.takes_lane || self.offer.is_some() || !offer.is_valid() {
            return Err(FetchError::OutOfTurn { kind: frame.kind });
        }
        self.offer = Some(offer);
        Ok(true)
    }

    /// Takes groups up to the end of the response.
    async fn groups(&mut self, sink: &mut GroupSink) -> Result<(), FetchError> {
        while let Some(group) = sink.attend(self.group()).await?? {
            sink.push(group).await?;
        }
        Ok(())
    }

    /// Takes one group, `None` at the end of the response.
    async fn group(&mut self) -> Result<Option<RawGroup>, FetchError> {
        let mut frame = self.frame().await?;
        if self.take_offer(&frame)? {
            frame = self.frame().await?;
        }
        match frame.kind {
            GROUP => raw_group(frame.body).map(Some),
            END => Ok(None),
            kind => Err(FetchError::OutOfTurn { kind }),
        }
    }

    /// Takes the next frame of a kind that this version knows.
    async fn frame(&mut self) -> Result<Frame, FetchError> {
        loop {
            let io = self.io.as_mut().ok_or(FetchError::Short)?;
            let frame = io.read().await?.ok_or(FetchError::Short)?;
            if is_of_response(frame.kind) {
                return Ok(frame);
            }
        }
    }
}

/// Proves a list by its last group, and returns both.
pub(crate) fn confirm(
    provisional: ProvisionalList,
    last: &RawGroup,
) -> Result<(GroupList, Bytes), FetchError> {
    if last.index != provisional.last_group() {
        return Err(FetchError::OutOfTurn { kind: GROUP });
    }
    let mut bytes = vec![0; group_len(provisional.size(), last.index)];
    decode_group(last.codec, &last.payload, &mut bytes)?;
    Ok((provisional.confirm(&bytes)?, Bytes::from(bytes)))
}

/// Reads the body of a group's frame.
pub(crate) fn raw_group(body: Vec<u8>) -> Result<RawGroup, FetchError> {
    let mut body = Bytes::from(body);
    let prefix = usize::try_from(GROUP_PREFIX_LEN).unwrap_or(usize::MAX);
    if body.len() < prefix {
        return Err(FetchError::OutOfTurn { kind: GROUP });
    }
    let index = body.get_u64_le();
    let codec = Codec::try_from(body.get_u8())?;
    Ok(RawGroup { index, codec, payload: body })
}

/// Names runs of groups for a request. Where there are more than it may name, the last one takes in
/// all the rest, and groups already held come again.
fn runs_of(missing: &[Range<u64>]) -> Vec<(u64, u64)> {
    let run = |range: &Range<u64>| (range.start, range.end - range.start);
    let mut runs: Vec<(u64, u64)> = missing.iter().take(RUNS_MAX).map(run).collect();
    if let (Some(last), Some(end)) = (runs.last_mut(), missing.last())
        && missing.len() > RUNS_MAX
    {
        last.1 = end.end - last.0;
    }
    runs
}
