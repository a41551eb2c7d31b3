//! Serving over a lane: one request after another, in the order they come.
//!
//! The engine admits a peer for one blob at a time. The slot is held while requests for that blob
//! follow each other, and given back when the peer is quiet or turns to another. Packs of small blobs that follow
//! each other count as one.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{GROUP_LEN, group_count, group_len};
use blobmesh_protocol::compress::{Bundler, Compressor, Pace};
use blobmesh_protocol::lane::Speed;
use blobmesh_protocol::wire::frame::{self, FRAME_HEADER_LEN, FrameHeader};
use blobmesh_protocol::wire::message::{
    BlobHead, BlobRequest, END, GROUP, GROUP_PREFIX_LEN, HEAD, LIST, LIST_PIECE_LEN_MAX, REQUEST,
};
use blobmesh_protocol::wire::small::{CODED_PACK, SMALL_PACK, TELLS_BACKLOG};

use super::accepted::Accepted;
use super::buffers::{BUFFER_WAIT, Buffers};
use super::wait::{self, Patience};
use crate::small::provider::{self as small, Answers, Pack};
use crate::store::Store;
use crate::transfer::provider::{self, ServeError};
use crate::transfer::{Holding, StreamError, UploadRate};

/// How long a lane may ask for nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a slot is kept for a peer that asks for nothing. The next request of one that fetches is
/// there already.
const SLOT_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a peer may take to accept one piece.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many bytes of answers are encrypted at once.
const ANSWERS_PIECE_LEN: usize = 256 << 10;
/// How many groups are read, encrypted and sent at once: small enough for the processor's cache.
const PIECE_GROUPS: u64 = 4;
/// A group's header and what precedes its payload.
const GROUP_HEADER_LEN: usize = FRAME_HEADER_LEN + GROUP_PREFIX_LEN as usize;

/// Says whether a peer is served a blob, and keeps its slot.
pub(crate) trait Admission: Send {
    /// Is held while a blob is served; dropping it gives the slot back.
    type Slot: Slot;
    /// Asks for a slot, and waits for the answer.
    ///
    /// # Errors
    /// After how long the peer should come again; none when the node stops.
    fn admit(&mut self) -> Result<Self::Slot, Option<Duration>>;
}

/// Is one service that runs.
pub(crate) trait Slot {
    /// Counts bytes of a blob that were sent.
    fn sent(&mut self, bytes: u64);
}

/// Serves a lane until its end.
pub(super) struct Service<'a, A: Admission> {
    pub(super) lane: Accepted,
    pub(super) admission: A,
    pub(super) store: &'a Store,
    pub(super) buffers: &'a Buffers,
    pub(super) upload: &'a UploadRate,
    pub(super) stop: &'a AtomicBool,
    /// How fast the lane took the blob before, and which that was.
    pub(super) pace: Option<(Hash, Pace)>,
}

/// The blob that a lane is about.
struct Current<S> {
    hash: Hash,
    reader: Holding,
    compressor: Compressor,
    encoded: Vec<Vec<u8>>,
    slot: S,
}

impl<A: Admission> Service<'_, A> {
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let mut current: Option<Current<A::Slot>> = None;
        let mut packs: Option<A::Slot> = None;
        let (mut bundler, mut speed) = (Bundler::default(), Speed::default());
        let mut since = Instant::now();
        loop {
            let has_slot = current.is_some() || packs.is_some();
            let timeout = if has_slot { SLOT_TIMEOUT } else { IDLE_TIMEOUT };
            let patience = Patience { stop: self.stop, deadline: since + timeout };
            let frame = self.lane.next_frame(patience);
            if let Some(current) = &mut current {
                current.compressor.waited(since.elapsed());
            }
            let frame = match frame {
                Err(StreamError::Io(error)) if has_slot && wait::is_tick(&error) => {
                    self.leave(current.take());
                    packs = None;
                    bundler.rested();
                    continue;
                }
                frame => frame?,
            };
            let Some(frame) = frame else { return Ok(()) };
            match frame.kind {
                REQUEST => {
                    packs = None;
                    let request: BlobRequest = frame.decode().map_err(StreamError::from)?;
                    current = self.respond(&request, current)?;
                }
                SMALL_PACK | CODED_PACK => {
                    self.leave(current.take());
                    let sending = (&mut bundler, &mut speed, since);
                    packs = self.answer_pack(Pack::of(&frame)?, packs, sending)?;
                }
                _ => return Err(ServeError::NoRequest),
            }
            since = Instant::now();
        }
    }

    /// Answers a pack of small requests, and returns the slot for the next. What was before has left at a moment.
    fn answer_pack(
        &mut self,
        pack: Pack,
        slot: Option<A::Slot>,
        (bundler, speed, mut left): (&mut Bundler, &mut Speed, Instant),
    ) -> Result<Option<A::Slot>, ServeError> {
        let Pack { mut requests, codecs, .. } = pack;
        let codecs = codecs.unwrap_or(0);
        bundler.set_codecs(codecs);
        bundler.set_tells_backlog(codecs & TELLS_BACKLOG != 0);
        let mut slot = match slot.map_or_else(|| self.admission.admit(), Ok) {
            Ok(slot) => slot,
            Err(Some(retry_after)) => {
                let answers = small::turn_away(&mut requests, retry_after)?;
                return self.send(&[IoSlice::new(&answers)]).map(|()| None);
            }
            Err(None) => return Err(ServeError::Worker),
        };
        let (mut answers, few) = (Answers::default(), small::are_few(requests.len()));
        while !requests.is_empty() {
            answers.read_together(self.store, &mut requests, speed.len_max(codecs), few)?;
            let raw_len = answers.bundle(bundler);
            let started = Instant::now();
            for piece in answers.frames.chunks(ANSWERS_PIECE_LEN) {
                if !self.upload.wait(piece.len(), || !self.stop.load(Ordering::Relaxed)) {
                    return Err(ServeError::Worker);
                }
                self.send(&[IoSlice::new(piece)])?;
            }
            speed.sent(answers.frames.len(), started.elapsed());
            slot.sent(answers.sent);
            bundler.left(u64::try_from(raw_len).unwrap_or(u64::MAX), left.elapsed());
            left = Instant::now();
            answers.clear();
        }
        Ok(Some(slot))
    }

    /// Answers one request, and returns what the next one may go on with.
    fn respond(
        &mut self,
        request: &BlobRequest,
        current: Option<Current<A::Slot>>,
    ) -> Result<Option<Current<A::Slot>>, ServeError> {
        let goes_on = |current: &Current<A::Slot>| {
            current.hash == request.hash && current.reader.has(request)
        };
        let mut current = match current {
            Some(current) if goes_on(&current) => current,
            other => {
                self.leave(other);
                match self.begin(request)? {
                    Ok(current) => current,
                    Err(head) => return self.answer(head).map(|()| None),
                }
            }
        };
        let size = current.reader.size();
        let Some(runs) = provider::plan(request, size) else {
            self.answer(BlobHead::Refused)?;
            return Ok(Some(current));
        };
        self.answer(BlobHead::Ok { size })?;
        let last = group_count(size) - 1;
        let with_list = request.with_list && last > 0;
        if with_list {
            self.send_list(&current.reader)?;
            self.send_run(&mut current, last, last + 1)?;
        }
        for (first, count) in runs {
            let end = first + count;
            let end = if with_list && end == last + 1 { last } else { end };
            self.send_run(&mut current, first, end)?;
        }
        self.send(&[IoSlice::new(&FrameHeader { kind: END, len: 0 }.encode())])?;
        Ok(Some(current))
    }

    /// Asks for a slot and opens the blob, or returns the head that turns the peer away.
    fn begin(
        &mut self,
        request: &BlobRequest,
    ) -> Result<Result<Current<A::Slot>, BlobHead>, ServeError> {
        let slot = match self.admission.admit() {
            Ok(slot) => slot,
            Err(Some(retry_after)) => {
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                return Ok(Err(BlobHead::Busy { retry_after_ms }));
            }
            Err(None) => return Err(ServeError::Worker),
        };
        let Some(reader) = Holding::find(self.store, request)? else {
            return Ok(Err(BlobHead::Absent));
        };
        if provider::plan(request, reader.size()).is_none() {
            return Ok(Err(BlobHead::Refused));
        }
        let first = request.runs.first().map_or(0, |(start, _)| *start);
        let compressor = reader.compressor(request.codecs, first)?;
        let compressor = match self.pace.take() {
            Some((hash, pace)) if hash == request.hash => compressor.at_pace(pace),
            Some((_, pace)) => compressor.at_pace(pace.next_blob()),
            None => compressor,
        };
        let encoded = Vec::new();
        Ok(Ok(Current { hash: request.hash, reader, compressor, encoded, slot }))
    }

    /// Gives back a blob and its slot, and keeps how fast the lane took it.
    fn leave(&mut self, current: Option<Current<A::Slot>>) {
        if let Some(Current { hash, compressor, .. }) = current {
            self.pace = Some((hash, compressor.into_pace()));
        }
    }

    fn send_list(&mut self, reader: &Holding) -> Result<(), ServeError> {
        let list = reader.list()?;
        let piece = usize::try_from(LIST_PIECE_LEN_MAX / 32).unwrap_or(usize::MAX);
        for values in list.values().chunks(piece) {
            let bytes = values.as_flattened();
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let header = FrameHeader { kind: LIST, len }.encode();
            self.send(&[IoSlice::new(&header), IoSlice::new(bytes)])?;
        }
        Ok(())
    }

    /// Sends the groups from `first` to before `end`, as many at once as lie in a piece.
    fn send_run(
        &mut self,
        current: &mut Current<A::Slot>,
        first: u64,
        end: u64,
    ) -> Result<(), ServeError> {
        if first >= end {
            return Ok(());
        }
        let Some(mut buffer) = self.buffers.take_to_send(BUFFER_WAIT) else {
            return Err(ServeError::NoBuffer);
        };
        let size = current.reader.size();
        let groups = self.upload.piece(PIECE_GROUPS * GROUP_LEN) / GROUP_LEN;
        let mut index = first;
        while index < end {
            let after = (index + groups).min(end);
            let len: usize = (index..after).map(|index| group_len(size, index)).sum();
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            current.reader.read_run(index, bytes)?;
            self.send_groups(current, index, bytes)?;
            current.slot.sent(u64::try_from(len).unwrap_or(0));
            index = after;
        }
        Ok(())
    }

    fn send_groups(
        &mut self,
        current: &mut Current<A::Slot>,
        first: u64,
        bytes: &[u8],
    ) -> Result<(), ServeError> {
        let group = usize::try_from(GROUP_LEN).unwrap_or(usize::MAX);
        let groups: Vec<&[u8]> = bytes.chunks(group).collect();
        current.encoded.resize_with(groups.len(), Vec::new);
        let mut headers: Vec<[u8; GROUP_HEADER_LEN]> = Vec::with_capacity(groups.len());
        let started = Instant::now();
        for ((index, group), encoded) in (first..).zip(&groups).zip(&mut current.encoded) {
            let codec = current.compressor.encode_group(group, encoded);
            let payload_len = if encoded.is_empty() { group.len() } else { encoded.len() };
            headers.push(group_header(index, codec.number(), payload_len));
        }
        let encoding = started.elapsed();
        let payloads = groups
            .iter()
            .zip(&current.encoded)
            .map(|(group, encoded)| if encoded.is_empty() { *group } else { &encoded[..] });
        let pieces: Vec<IoSlice<'_>> = headers
            .iter()
            .zip(payloads)
            .flat_map(|(header, payload)| [IoSlice::new(header), IoSlice::new(payload)])
            .collect();
        let started = Instant::now();
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if !self.upload.wait(len, || !self.stop.load(Ordering::Relaxed)) {
            return Err(ServeError::Worker);
        }
        self.send(&pieces)?;
        let bytes = (bytes.len() as u64, len as u64);
        current.compressor.sent(bytes, encoding, started.elapsed());
        Ok(())
    }

    fn answer(&mut self, head: BlobHead) -> Result<(), ServeError> {
        let head = frame::encode(HEAD, &head).map_err(StreamError::from)?;
        self.send(&[IoSlice::new(&head)])
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), ServeError> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let sent = self.lane.put(pieces);
        sent.and_then(|()| self.lane.send(Patience { stop: self.stop, deadline })).map_err(too_slow)
    }
}

fn too_slow(error: io::Error) -> ServeError {
    if wait::is_tick(&error) { ServeError::TooSlow } else { StreamError::from(error).into() }
}

fn group_header(index: u64, codec: u8, payload_len: usize) -> [u8; GROUP_HEADER_LEN] {
    let len = u32::try_from(payload_len).unwrap_or(u32::MAX).saturating_add(GROUP_PREFIX_LEN);
    let mut header = [0; GROUP_HEADER_LEN];
    let (frame, prefix) = header.split_at_mut(FRAME_HEADER_LEN);
    frame.copy_from_slice(&FrameHeader { kind: GROUP, len }.encode());
    if let Some((last, number)) = prefix.split_last_mut() {
        number.copy_from_slice(&index.to_le_bytes());
        *last = codec;
    }
    header
}
