//! What comes over a lane: responses cut into groups, checked, and collected into runs.
//!
//! Bytes are copied once, from the decrypted record to their place in a run's buffer, and hashed there
//! while the processor's cache still has them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobmesh_protocol::blob::{GroupError, GroupList, group_count, group_len};
use blobmesh_protocol::compress::{Codec, decode_group};
use blobmesh_protocol::wire::frame::{FRAME_HEADER_LEN, Frame, FrameHeader};
use blobmesh_protocol::wire::message::{
    BlobHead, END, GROUP, GROUP_PREFIX_LEN, HEAD, body_len_max, is_of_response,
};

use super::buffers::{BUFFER_WAIT, Buffer, Buffers};
use crate::store::CheckedRun;
use crate::transfer::FetchError;

const PREFIX_LEN: usize = GROUP_PREFIX_LEN as usize;

/// How long a group waits for others to fill its buffer. It bounds how long progress over a slow link goes
/// unseen, and with it how slow a source may be before it is taken for a dead one.
const RUN_TIME: Duration = Duration::from_millis(50);

/// A run of groups that one lane has checked.
pub(crate) type Run = CheckedRun<Buffer>;

/// Takes the responses of one lane, in the order they were asked for.
pub(super) struct Receiver<'a> {
    list: Arc<GroupList>,
    buffers: &'a Buffers,
    /// Takes full runs; an error says that nobody stores them any more.
    store: &'a dyn Fn(Run) -> Result<(), FetchError>,
    /// The ranges that are asked for; of the first one the beginning has come.
    asked: VecDeque<Range<u64>>,
    /// Whether the head of the first range's response has come.
    has_head: bool,
    state: State,
    run: Option<Run>,
    /// When the first group of the run was checked.
    since: Option<Instant>,
    /// A payload that is collected before it is decoded.
    packed: Vec<u8>,
    pub(super) verifying: Duration,
}

enum State {
    Header {
        bytes: [u8; FRAME_HEADER_LEN],
        filled: usize,
    },
    /// A small frame.
    Body {
        header: FrameHeader,
        body: Vec<u8>,
    },
    /// A group's number and codec; its payload of so many bytes follows.
    Prefix {
        bytes: [u8; PREFIX_LEN],
        filled: usize,
        payload_len: usize,
    },
    /// A group's own bytes, which go straight to their place.
    Raw {
        filled: usize,
        len: usize,
    },
    /// A compressed group.
    Packed {
        codec: Codec,
        len: usize,
    },
}

const START: State = State::Header { bytes: [0; FRAME_HEADER_LEN], filled: 0 };

impl<'a> Receiver<'a> {
    pub(super) fn new(
        list: Arc<GroupList>,
        buffers: &'a Buffers,
        store: &'a dyn Fn(Run) -> Result<(), FetchError>,
    ) -> Self {
        Self {
            list,
            buffers,
            store,
            asked: VecDeque::new(),
            has_head: false,
            state: START,
            run: None,
            since: None,
            packed: Vec::new(),
            verifying: Duration::ZERO,
        }
    }

    /// Notes that a range was asked for.
    pub(super) fn expect(&mut self, range: Range<u64>) {
        self.asked.push_back(range);
    }

    /// Returns how many ranges are asked for and not answered to their end.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// Returns what was asked for and has not come.
    pub(super) fn into_rest(self) -> impl Iterator<Item = Range<u64>> {
        self.asked.into_iter().filter(|range| !range.is_empty())
    }

    /// Takes bytes as they come.
    ///
    /// # Errors
    /// What is wrong with them, or why they cannot be stored.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), FetchError> {
        while !bytes.is_empty() {
            self.take_part(&mut bytes)?;
        }
        Ok(())
    }

    /// Hands on the groups that have waited long enough for others to fill their buffer.
    pub(super) fn flush_old(&mut self) -> Result<(), FetchError> {
        match self.since {
            Some(since) if since.elapsed() >= RUN_TIME => self.flush(),
            _ => Ok(()),
        }
    }

    /// Hands on the groups that wait for others to fill their buffer.
    pub(super) fn flush(&mut self) -> Result<(), FetchError> {
        self.since = None;
        match self.run.take() {
            Some(run) if !run.is_empty() => {
                // A group that is half there goes on in a buffer of its own.
                let begun = match self.state {
                    State::Raw { filled, .. } => Some((run.groups().end, filled)),
                    // Its place is needed once all of it has come.
                    State::Packed { .. } => Some((run.groups().end, 0)),
                    State::Header { .. } | State::Body { .. } | State::Prefix { .. } => None,
                };
                match begun {
                    Some((index, filled)) => self.split(run, index, filled),
                    None => (self.store)(run),
                }
            }
            run => {
                self.run = run;
                Ok(())
            }
        }
    }

    /// Hands on what is checked when nothing more comes.
    pub(super) fn finish(&mut self) -> Result<(), FetchError> {
        self.state = START;
        self.flush()
    }

    fn split(&mut self, mut run: Run, index: u64, filled: usize) -> Result<(), FetchError> {
        let mut next = match self.begin(index) {
            Ok(next) => next,
            Err(error) => {
                // What is checked counts as having come.
                (self.store)(run)?;
                return Err(error);
            }
        };
        if let (Some(from), Some(to)) = (run.space(), next.space()) {
            let (from, to) = (from.get(..filled), to.get_mut(..filled));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
        self.run = Some(next);
        (self.store)(run)
    }

    fn begin(&self, index: u64) -> Result<Run, FetchError> {
        let buffer = self.buffers.take(BUFFER_WAIT).ok_or(FetchError::NoBuffer)?;
        Ok(CheckedRun::begin(Arc::clone(&self.list), index, buffer))
    }

    fn take_part(&mut self, bytes: &mut &[u8]) -> Result<(), FetchError> {
        match &mut self.state {
            State::Header { bytes: header, filled } => {
                *filled += copy(bytes, header.get_mut(*filled..).unwrap_or_default());
                if *filled == FRAME_HEADER_LEN {
                    let header = FrameHeader::decode(*header, body_len_max)?;
                    self.begin_frame(header)?;
                }
            }
            State::Body { header, body } => {
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                append(bytes, body, len);
                if body.len() == len {
                    let frame = Frame { kind: header.kind, body: std::mem::take(body) };
                    self.state = START;
                    self.take_frame(&frame)?;
                }
            }
            State::Prefix { bytes: prefix, filled, payload_len } => {
                *filled += copy(bytes, prefix.get_mut(*filled..).unwrap_or_default());
                if *filled == PREFIX_LEN {
                    let (prefix, payload_len) = (*prefix, *payload_len);
                    self.begin_group(prefix, payload_len)?;
                }
            }
            State::Raw { filled, len } => {
                let space = self.run.as_mut().and_then(CheckedRun::space).unwrap_or_default();
                *filled += copy(bytes, space.get_mut(*filled..).unwrap_or_default());
                if filled == len {
                    self.accept()?;
                }
            }
            State::Packed { codec, len } => {
                append(bytes, &mut self.packed, *len);
                if self.packed.len() == *len {
                    let codec = *codec;
                    let space = self.run.as_mut().and_then(CheckedRun::space).unwrap_or_default();
                    decode_group(codec, &self.packed, space)?;
                    self.accept()?;
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, header: FrameHeader) -> Result<(), FetchError> {
        let FrameHeader { kind, len } = header;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.state = match (kind, len.checked_sub(PREFIX_LEN)) {
            (GROUP, Some(payload_len)) if self.has_head => {
                State::Prefix { bytes: [0; PREFIX_LEN], filled: 0, payload_len }
            }
            (HEAD, _) if !self.has_head && !self.asked.is_empty() => {
                State::Body { header, body: Vec::new() }
            }
            (END, _) if self.has_head => return self.end_range(),
            (kind, _) if !is_of_response(kind) && !self.asked.is_empty() => {
                State::Body { header, body: Vec::new() }
            }
            (kind, _) => return Err(FetchError::OutOfTurn { kind }),
        };
        // An empty body has no bytes to wait for.
        if len == 0 {
            self.state = START;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &Frame) -> Result<(), FetchError> {
        // Later versions may add kinds.
        if frame.kind != HEAD {
            return Ok(());
        }
        match frame.decode()? {
            BlobHead::Ok { size } if size == self.list.size() => {
                self.has_head = true;
                Ok(())
            }
            BlobHead::Ok { size } => Err(FetchError::other_size(self.list.size(), size)),
            BlobHead::Absent => Err(FetchError::Absent),
            BlobHead::Busy { retry_after_ms } => Err(FetchError::Busy {
                retry_after: Duration::from_millis(u64::from(retry_after_ms)),
            }),
            BlobHead::Refused => Err(FetchError::Refused),
        }
    }

    fn begin_group(
        &mut self,
        prefix: [u8; PREFIX_LEN],
        payload_len: usize,
    ) -> Result<(), FetchError> {
        let [index @ .., codec] = prefix;
        let (index, size) = (u64::from_le_bytes(index), self.list.size());
        let codec = Codec::try_from(codec)?;
        let groups = group_count(size);
        if index >= groups {
            return Err(FetchError::Group(GroupError::Index { index, groups }));
        }
        let len = group_len(size, index);
        let fits = if codec == Codec::Raw { payload_len == len } else { payload_len <= len };
        if !fits || payload_len == 0 {
            let error = GroupError::Len { index, expected: len, found: payload_len };
            return Err(FetchError::Group(error));
        }
        self.place(index)?;
        self.state = if codec == Codec::Raw {
            State::Raw { filled: 0, len }
        } else {
            self.packed.clear();
            State::Packed { codec, len: payload_len }
        };
        Ok(())
    }

    /// Sees to it that group `index` comes next in the run.
    fn place(&mut self, index: u64) -> Result<(), FetchError> {
        if let Some(run) = &mut self.run {
            if run.groups().end == index && run.space().is_some() {
                return Ok(());
            }
            self.state = START;
            self.flush()?;
        }
        self.run = Some(self.begin(index)?);
        Ok(())
    }

    fn accept(&mut self) -> Result<(), FetchError> {
        self.state = START;
        let Some(run) = &mut self.run else { return Err(FetchError::Worker) };
        let started = Instant::now();
        run.accept()?;
        self.verifying += started.elapsed();
        self.since.get_or_insert(started);
        let index = run.groups().end - 1;
        if let Some(range) = self.asked.front_mut()
            && range.start == index
        {
            range.start += 1;
        }
        if run.space().is_none() {
            return self.flush();
        }
        Ok(())
    }

    fn end_range(&mut self) -> Result<(), FetchError> {
        self.state = START;
        self.has_head = false;
        match self.asked.front() {
            Some(range) if range.is_empty() => {
                self.asked.pop_front();
                Ok(())
            }
            _ => Err(FetchError::Short),
        }
    }
}

/// Moves bytes from the front of `from` to `to`, and returns how many.
fn copy(from: &mut &[u8], to: &mut [u8]) -> usize {
    let (taken, rest) = from.split_at(from.len().min(to.len()));
    if let Some(to) = to.get_mut(..taken.len()) {
        to.copy_from_slice(taken);
    }
    *from = rest;
    taken.len()
}

/// Moves bytes from the front of `from` to the end of `to`, until it has `len`.
fn append(from: &mut &[u8], to: &mut Vec<u8>, len: usize) {
    let (taken, rest) = from.split_at(from.len().min(len.saturating_sub(to.len())));
    to.extend_from_slice(taken);
    *from = rest;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN};
    use blobmesh_protocol::compress::{Compressor, Probe};
    use blobmesh_protocol::engine::FetchOutcome;
    use blobmesh_protocol::wire::frame;

    use super::*;

    const GROUPS: u64 = 5;

    /// A blob of four groups and a few bytes, the even groups of which compress.
    fn blob() -> (Vec<u8>, Arc<GroupList>) {
        let group = usize::try_from(GROUP_LEN).expect("small");
        let mut bytes = vec![b'a'; 4 * group + 9];
        let mut noise = blake3::Hasher::new_keyed(&[5; 32]).finalize_xof();
        bytes.chunks_mut(group).skip(1).step_by(2).for_each(|odd| noise.fill(odd));
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        (bytes, Arc::new(hasher.finish()))
    }

    fn head(size: u64) -> Vec<u8> {
        frame::encode(HEAD, &BlobHead::Ok { size }).expect("encodes")
    }

    fn end() -> Vec<u8> {
        FrameHeader { kind: END, len: 0 }.encode().to_vec()
    }

    fn group(bytes: &[u8], index: u64) -> Vec<u8> {
        let mut encoded = Vec::new();
        let part = bytes.chunks(usize::try_from(GROUP_LEN).expect("small"));
        let part = part.clone().nth(usize::try_from(index).expect("small")).expect("a group");
        let codec =
            Compressor::new(Probe::Compressible, Codec::ALL).encode_group(part, &mut encoded);
        let payload = if codec == Codec::Raw { part } else { &encoded };
        let body = [&index.to_le_bytes()[..], &[codec.number()], payload].concat();
        let len = u32::try_from(body.len()).expect("small");
        [&FrameHeader { kind: GROUP, len }.encode()[..], &body].concat()
    }

    /// Returns what an honest provider sends for two ranges.
    fn responses(bytes: &[u8]) -> Vec<u8> {
        let size = u64::try_from(bytes.len()).expect("small");
        let groups = |range: Range<u64>| range.flat_map(|index| group(bytes, index)).collect();
        [head(size), groups(0..3), end(), head(size), groups(3..GROUPS), end()].concat()
    }

    /// Takes `said` in pieces of the given lengths, in turn, with a flush after each if wanted, and
    /// returns the bytes that were handed on and how it ended.
    fn take(said: &[u8], pieces: &[usize], flushes: bool) -> (Vec<u8>, Result<usize, FetchError>) {
        let (bytes, list) = blob();
        let got = Mutex::new(vec![0; bytes.len()]);
        let store = |run: Run| {
            let start = usize::try_from(run.groups().start * GROUP_LEN).expect("small");
            got.lock().expect("unpoisoned")[start..start + run.bytes().len()]
                .copy_from_slice(run.bytes());
            Ok(())
        };
        let buffers = Buffers::new(0);
        let mut receiver = Receiver::new(list, &buffers, &store);
        receiver.expect(0..3);
        receiver.expect(3..GROUPS);
        let mut rest = said;
        let mut result = Ok(());
        for len in pieces.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*len));
            rest = later;
            result = result.and_then(|()| receiver.take(now));
            if flushes && result.is_ok() {
                result = receiver.flush();
            }
            if result.is_err() || rest.is_empty() {
                break;
            }
        }
        let result = result.and_then(|()| receiver.finish()).map(|()| receiver.unanswered());
        drop(receiver);
        (got.into_inner().expect("unpoisoned"), result)
    }

    #[test]
    fn responses_may_come_in_any_pieces_and_be_handed_on_at_any_moment() {
        let (bytes, _) = blob();
        let said = responses(&bytes);
        for pieces in [
            &[1][..],
            &[90],
            &[110],
            &[130],
            &[150],
            &[7, 64 * 1024],
            &[16_384],
            &[65_553, 1],
            &[100_000, 3],
            &[1 << 20],
        ] {
            for flushes in [false, true] {
                if flushes && pieces == [1] {
                    continue;
                }
                let (got, result) = take(&said, pieces, flushes);
                assert_eq!(result.expect("right"), 0, "{pieces:?}, {flushes}");
                assert!(got == bytes, "{pieces:?}, {flushes}");
            }
        }
    }

    #[test]
    fn what_is_checked_is_handed_on_though_there_is_no_buffer_for_what_comes_next() {
        let (bytes, list) = blob();
        let stored = Mutex::new(Vec::new());
        let store = |run: Run| {
            stored.lock().expect("unpoisoned").push(run.groups());
            Ok(())
        };
        let buffers = Buffers::new(0);
        let mut receiver = Receiver::new(list, &buffers, &store);
        receiver.expect(0..3);
        let size = u64::try_from(bytes.len()).expect("small");
        let next = group(&bytes, 1);
        let said = [&head(size)[..], &group(&bytes, 0), &next[..next.len() / 2]].concat();
        receiver.take(&said).expect("right");
        let _others = buffers.take(Duration::ZERO).expect("one of two");
        let error = receiver.flush().expect_err("no buffer");
        assert!(matches!(error, FetchError::NoBuffer), "{error:?}");
        assert!(receiver.into_rest().eq(std::iter::once(1..3)));
        assert!(stored.into_inner().expect("unpoisoned").into_iter().eq(std::iter::once(0..1)));
    }

    #[test]
    fn what_is_out_of_turn_or_not_the_blobs_is_refused() {
        let (bytes, _) = blob();
        let size = u64::try_from(bytes.len()).expect("small");
        let group = |index| group(&bytes, index);
        let wrong_place = [&group(1)[..8], &0u64.to_le_bytes(), &group(1)[16..]].concat();
        let misbehaved: [(&str, Vec<u8>); 4] = [
            ("a group before the head", group(0)),
            ("an end before the head", end()),
            ("two heads", [head(size), head(size)].concat()),
            ("more than was asked for", [responses(&bytes), head(size)].concat()),
        ];
        for (what, said) in misbehaved {
            let error = take(&said, &[1 << 20], false).1.expect_err(what);
            assert!(
                matches!(error.outcome(), FetchOutcome::Misbehaved { .. }),
                "{what}: {error:?}"
            );
        }
        let wrong: [(&str, Vec<u8>); 3] = [
            ("another size", head(size + 1)),
            ("a group past the end", {
                let mut late = group(4);
                late[8] = 5;
                [head(size), late].concat()
            }),
            ("a group in another's place", [head(size), wrong_place].concat()),
        ];
        for (what, said) in wrong {
            let error = take(&said, &[1 << 20], false).1.expect_err(what);
            assert!(
                matches!(error.outcome(), FetchOutcome::WrongBytes { .. }),
                "{what}: {error:?}"
            );
        }
        let early = [head(size), group(0), group(1), end()].concat();
        let (got, result) = take(&early, &[1 << 20], false);
        assert!(matches!(result, Err(FetchError::Short)), "{result:?}");
        assert!(got.iter().all(|byte| *byte == 0), "kept until it is flushed");
    }

    #[test]
    fn no_flipped_bit_gets_through() {
        let (bytes, _) = blob();
        let said = responses(&bytes);
        for seed in 0..200_usize {
            let mut flipped = said.clone();
            // Most bits are payload: half of the flips go where the frames are.
            let at = if seed % 2 == 0 { seed * 1_319 % said.len() } else { seed * 7 % 400 };
            flipped[at] ^= 1 << (seed % 8);
            let (got, _) = take(&flipped, &[10_000], false);
            let right = |(got, right): (&u8, &u8)| got == right || *got == 0;
            assert!(got.iter().zip(&bytes).all(right), "a flip at {at}");
        }
    }
}
