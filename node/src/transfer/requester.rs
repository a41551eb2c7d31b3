//! Fetching from a peer: the requester's side of a blob stream (SPEC.md, "Blob stream").

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{ChainingValue, GroupList, ProvisionalList, group_count, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::wire::frame::{self, Frame};
use blobmesh_protocol::wire::message::{
    BlobHead, BlobRequest, END, GROUP, GROUP_PREFIX_LEN, HEAD, LIST, REQUEST, RUNS_MAX,
    is_of_response,
};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};

use super::sink::{self, GroupSink, RawGroup, Start};
use super::{FetchError, FrameIo, Report};
use crate::compute;
use crate::store::Store;

/// Fetches what is missing of `hash` over a fresh blob stream, and returns the blob's size once it is
/// whole, verified and in the store.
///
/// Waits as long as the peer keeps it waiting: whoever calls decides when it is too long, and drops
/// the future. What was verified until then stays in the store as a partial blob.
pub(crate) async fn fetch(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    hash: Hash,
    store: &Store,
    blob_bytes_max: u64,
    report: Arc<impl Report>,
) -> Result<u64, FetchError> {
    let start = sink::start(store, hash, &report).await?;
    let mut fetch = Fetch { io: FrameIo::new(stream), hash, store, blob_bytes_max, report };
    match start {
        Start::Whole { size } => Ok(size),
        Start::Part { sink, size, missing } => fetch.rest(sink, size, &missing).await,
        Start::Nothing => fetch.whole().await,
    }
}

struct Fetch<'a, S, P> {
    io: FrameIo<S>,
    hash: Hash,
    store: &'a Store,
    blob_bytes_max: u64,
    report: Arc<P>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Report> Fetch<'_, S, P> {
    /// Fetches a blob of which nothing is known but the hash.
    async fn whole(&mut self) -> Result<u64, FetchError> {
        let size = self.request(true, Vec::new()).await?;
        if group_count(size) == 1 {
            return self.single_group(size).await;
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
        let received = self.groups(&mut sink).await;
        sink.finish(received).await?;
        Ok(size)
    }

    /// Fetches the missing groups of a blob whose list is proven.
    async fn rest(
        &mut self,
        mut sink: GroupSink,
        size: u64,
        missing: &[Range<u64>],
    ) -> Result<u64, FetchError> {
        // A request that names no groups would ask for all of them.
        if !missing.is_empty() {
            let claimed = self.request(false, runs_of(missing)).await?;
            if claimed != size {
                return Err(FetchError::Group(blobmesh_protocol::blob::GroupError::Len {
                    index: group_count(size) - 1,
                    expected: group_len(size, group_count(size) - 1),
                    found: group_len(claimed, group_count(claimed) - 1),
                }));
            }
        }
        let received = match missing {
            [] => Ok(()),
            _ => self.groups(&mut sink).await,
        };
        sink.finish(received).await?;
        Ok(size)
    }

    /// Asks for groups and returns the size that the peer claims.
    async fn request(&mut self, with_list: bool, runs: Vec<(u64, u64)>) -> Result<u64, FetchError> {
        let codecs = Codec::Raw.bit() | Codec::Lz4.bit();
        let request = BlobRequest { hash: self.hash, with_list, codecs, runs };
        self.io.write(&frame::encode(REQUEST, &request)?).await?;
        let head = self.frame().await?;
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
            report.progress(size, size);
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
        while held(&values) < groups {
            let piece = self.frame().await?;
            let (entries, rest) = piece.body.as_chunks::<32>();
            let room = usize::try_from(groups - held(&values)).unwrap_or(usize::MAX);
            let fits = !entries.is_empty() && rest.is_empty() && entries.len() <= room;
            if piece.kind != LIST || !fits {
                return Err(FetchError::OutOfTurn { kind: piece.kind });
            }
            values.extend_from_slice(entries);
            self.report.arrived(0, size);
        }
        Ok(values)
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
        let frame = self.frame().await?;
        match frame.kind {
            GROUP => raw_group(frame.body).map(Some),
            END => Ok(None),
            kind => Err(FetchError::OutOfTurn { kind }),
        }
    }

    /// Takes the next frame of a kind that this version knows.
    async fn frame(&mut self) -> Result<Frame, FetchError> {
        loop {
            let frame = self.io.read().await?.ok_or(FetchError::Short)?;
            if is_of_response(frame.kind) {
                return Ok(frame);
            }
        }
    }
}

/// Proves a list by its last group, and returns both.
fn confirm(
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

fn raw_group(body: Vec<u8>) -> Result<RawGroup, FetchError> {
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
