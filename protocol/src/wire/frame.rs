//! Frames: how messages are told apart on a stream.
//!
//! A frame is a header of eight bytes and a body in postcard encoding (SPEC.md, "Frames"):
//!
//! ```text
//!  0      1         2          4                8
//! +------+---------+----------+----------------+------------------
//! | kind | version | reserved | length, u32 LE | body, length bytes
//! +------+---------+----------+----------------+------------------
//! ```
//!
//! This module knows headers and bounds; which kinds there are and what their bodies mean is the
//! business of the message types. Every bound is checked before a byte of the body is taken in, and a
//! reader's memory grows with what has arrived, not with what a header promises. A stream on which
//! framing failed cannot be resumed, since nobody knows where the next frame would begin.

use serde::{Deserialize, Serialize};

/// The length of a frame's header in bytes.
pub const FRAME_HEADER_LEN: usize = 8;

/// The version of the frame format and of all bodies in it.
pub const FRAME_VERSION: u8 = 1;

/// Gives the longest body in bytes that is accepted of each kind, unknown kinds included.
///
/// A bound of 0 for a kind lets only empty bodies through.
pub type FrameLimits = fn(kind: u8) -> u32;

/// Says why a frame is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is of a version that this program does not speak.
    #[error("the frame of kind {kind} has version {found}, not {FRAME_VERSION}")]
    UnknownVersion {
        /// The frame's version.
        found: u8,
        /// The frame's kind.
        kind: u8,
    },
    /// The reserved bytes are not zero.
    #[error("the frame of kind {kind} has reserved bytes {found:#06x}, not zero")]
    Reserved {
        /// The reserved bytes, read as little-endian.
        found: u16,
        /// The frame's kind.
        kind: u8,
    },
    /// The body is longer than its kind allows.
    #[error("the frame of kind {kind} has a body of {len} bytes, more than {max}")]
    TooLong {
        /// The body's length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u32,
        /// The frame's kind.
        kind: u8,
    },
    /// The body does not encode, or is not what its kind asks for.
    #[error("the frame's body is malformed")]
    Body {
        /// What postcard says.
        source: postcard::Error,
    },
    /// The body goes on behind its message.
    #[error("the frame's body has {extra} bytes behind its message")]
    Trailing {
        /// How many bytes are left.
        extra: usize,
    },
}

/// Encodes `body` as one frame of `kind`.
///
/// Bounds by kind are the receiver's affair.
///
/// # Errors
/// [`FrameError::TooLong`] for a body of 4 GiB or more, [`FrameError::Body`] for a type that postcard
/// cannot encode.
pub fn encode(kind: u8, body: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let header = FrameHeader { kind, len: 0 }.encode();
    let mut frame =
        postcard::to_extend(body, header.to_vec()).map_err(|source| FrameError::Body { source })?;
    let body_len = frame.len().saturating_sub(FRAME_HEADER_LEN);
    let len = u32::try_from(body_len).map_err(|_| {
        let len = u64::try_from(body_len).unwrap_or(u64::MAX);
        FrameError::TooLong { len, max: u32::MAX, kind }
    })?;
    frame[..FRAME_HEADER_LEN].copy_from_slice(&FrameHeader { kind, len }.encode());
    Ok(frame)
}

/// Decodes a frame's body, all of it.
///
/// A length that the body claims makes serde allocate 1 MiB at most before the elements are there.
///
/// # Errors
/// [`FrameError::Body`] where the bytes are no `T`, [`FrameError::Trailing`] where they go on behind
/// it.
pub fn decode_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    let (message, rest) =
        postcard::take_from_bytes(body).map_err(|source| FrameError::Body { source })?;
    if rest.is_empty() { Ok(message) } else { Err(FrameError::Trailing { extra: rest.len() }) }
}

/// Is a frame's header, without the version and the zeros that every header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Says what message the body is.
    pub kind: u8,
    /// The body's length in bytes.
    pub len: u32,
}

impl FrameHeader {
    /// Reads a header and checks version, reserved bytes and length, in this order.
    ///
    /// # Errors
    /// [`FrameError::UnknownVersion`], [`FrameError::Reserved`] or [`FrameError::TooLong`].
    pub fn decode(bytes: [u8; FRAME_HEADER_LEN], limits: FrameLimits) -> Result<Self, FrameError> {
        let [kind, version, r0, r1, l0, l1, l2, l3] = bytes;
        if version != FRAME_VERSION {
            return Err(FrameError::UnknownVersion { found: version, kind });
        }
        let reserved = u16::from_le_bytes([r0, r1]);
        if reserved != 0 {
            return Err(FrameError::Reserved { found: reserved, kind });
        }
        let (len, max) = (u32::from_le_bytes([l0, l1, l2, l3]), limits(kind));
        if len > max {
            return Err(FrameError::TooLong { len: u64::from(len), max, kind });
        }
        Ok(Self { kind, len })
    }

    /// Returns the header's bytes.
    pub fn encode(self) -> [u8; FRAME_HEADER_LEN] {
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [self.kind, FRAME_VERSION, 0, 0, l0, l1, l2, l3]
    }
}

/// Is one frame as read from a stream, its body not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Says what message the body is.
    pub kind: u8,
    /// The body; its length keeps the kind's bound.
    pub body: Vec<u8>,
}

impl Frame {
    /// Decodes the body.
    ///
    /// # Errors
    /// As [`decode_body`].
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, FrameError> {
        decode_body(&self.body)
    }
}

/// Cuts a stream into frames, however its bytes arrive.
///
/// Holds at most one frame, of which it allocates no more than twice what has arrived and never more
/// than the kind's bound.
#[derive(Debug)]
pub struct FrameReader {
    limits: FrameLimits,
    state: State,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; FRAME_HEADER_LEN], filled: usize },
    Body { header: FrameHeader, body: Vec<u8> },
    Failed(FrameError),
}

impl State {
    const START: Self = Self::Header { bytes: [0; FRAME_HEADER_LEN], filled: 0 };
}

impl FrameReader {
    /// Starts at the beginning of a stream.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, state: State::START }
    }

    /// Takes bytes from the front of `input` up to the end of the next frame, and returns the frame.
    ///
    /// `None` says that `input` is used up and the frame goes on. Call again while `input` is not
    /// empty: it may hold more frames.
    ///
    /// # Errors
    /// As [`FrameHeader::decode`]. The stream is beyond repair then, and each further call gives the
    /// same error.
    pub fn poll_frame(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    *filled += take(input, &mut bytes[*filled..]);
                    if *filled < FRAME_HEADER_LEN {
                        return Ok(None);
                    }
                    self.state = match FrameHeader::decode(*bytes, self.limits) {
                        Ok(header) => State::Body { header, body: Vec::new() },
                        Err(error) => State::Failed(error),
                    };
                }
                State::Body { header, body } => {
                    if !fill(input, body, header.len) {
                        return Ok(None);
                    }
                    let frame = Frame { kind: header.kind, body: std::mem::take(body) };
                    self.state = State::START;
                    return Ok(Some(frame));
                }
                State::Failed(error) => return Err(error.clone()),
            }
        }
    }

    /// Returns whether the stream may end here, between two frames.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header { filled: 0, .. })
    }
}

/// Moves bytes from the front of `input` to `to`, and returns how many.
fn take(input: &mut &[u8], to: &mut [u8]) -> usize {
    let (taken, rest) = input.split_at(input.len().min(to.len()));
    to[..taken.len()].copy_from_slice(taken);
    *input = rest;
    taken.len()
}

/// Moves bytes from the front of `input` to the end of `body` until it has `len` bytes, and returns
/// whether it has.
fn fill(input: &mut &[u8], body: &mut Vec<u8>, len: u32) -> bool {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let (taken, rest) = input.split_at(input.len().min(len - body.len()));
    *input = rest;
    let filled = body.len() + taken.len();
    if filled > body.capacity() {
        // Twice what is there, but not past the frame's end, where Vec's own growth would go.
        let capacity = filled.saturating_mul(2).min(len);
        body.reserve_exact(capacity - body.len());
    }
    body.extend_from_slice(taken);
    body.len() == len
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Kind 1 has up to 300 bytes, kind 2 none, all others 16.
    fn limits(kind: u8) -> u32 {
        match kind {
            1 => 300,
            2 => 0,
            _ => 16,
        }
    }

    fn read_all(mut input: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut reader = FrameReader::new(limits);
        let mut frames = Vec::new();
        while !input.is_empty() {
            frames.extend(reader.poll_frame(&mut input)?);
        }
        Ok(frames)
    }

    fn header(bytes: [u8; 8]) -> Result<FrameHeader, FrameError> {
        FrameHeader::decode(bytes, limits)
    }

    /// Returns a stream of frames of several lengths, and the frames.
    fn stream() -> (Vec<u8>, Vec<Frame>) {
        let bodies = [(1, vec![7; 290]), (2, vec![]), (9, vec![1; 10]), (1, vec![]), (1, vec![3])];
        let frame = |(kind, text): &(u8, Vec<u8>)| {
            let body = if *kind == 2 { Vec::new() } else { postcard::to_allocvec(text).unwrap() };
            Frame { kind: *kind, body }
        };
        let frames: Vec<Frame> = bodies.iter().map(frame).collect();
        let mut bytes = Vec::new();
        for frame in &frames {
            let header = FrameHeader { kind: frame.kind, len: frame.body.len() as u32 };
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(&frame.body);
        }
        (bytes, frames)
    }

    #[test]
    fn bad_headers_are_refused_by_name() {
        let table = [
            ([1, 0, 0, 0, 0, 0, 0, 0], FrameError::UnknownVersion { found: 0, kind: 1 }),
            ([1, 2, 9, 9, 9, 9, 9, 9], FrameError::UnknownVersion { found: 2, kind: 1 }),
            ([1, 1, 1, 0, 0, 0, 0, 0], FrameError::Reserved { found: 1, kind: 1 }),
            ([1, 1, 0, 2, 9, 9, 9, 9], FrameError::Reserved { found: 512, kind: 1 }),
            ([1, 1, 0, 0, 45, 1, 0, 0], FrameError::TooLong { len: 301, max: 300, kind: 1 }),
            ([2, 1, 0, 0, 1, 0, 0, 0], FrameError::TooLong { len: 1, max: 0, kind: 2 }),
            (
                [255, 1, 0, 0, 255, 255, 255, 255],
                FrameError::TooLong { len: u64::from(u32::MAX), max: 16, kind: 255 },
            ),
        ];
        for (bytes, error) in table {
            assert_eq!(header(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn longest_body_of_each_kind_is_accepted() {
        for (kind, len) in [(1, 300), (2, 0), (77, 16)] {
            let expected = FrameHeader { kind, len };
            assert_eq!(header(expected.encode()), Ok(expected));
        }
    }

    #[test]
    fn encoded_message_is_read_back() {
        let message = (5u32, "blob".to_owned(), vec![1u8, 2, 3]);
        let bytes = encode(1, &message).expect("encode");
        assert_eq!(bytes[..8], [1, 1, 0, 0, bytes.len() as u8 - 8, 0, 0, 0]);
        let frames = read_all(&bytes).expect("read");
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].decode(), Ok(message));
    }

    #[test]
    fn body_must_be_its_message_and_nothing_more() {
        assert_eq!(decode_body::<u8>(&[1, 2, 3]), Err(FrameError::Trailing { extra: 2 }));
        assert!(matches!(decode_body::<u8>(&[]), Err(FrameError::Body { .. })));
        // A string that claims 4 GiB.
        let claims = [0xff, 0xff, 0xff, 0xff, 0x0f, b'a'];
        assert!(matches!(decode_body::<String>(&claims), Err(FrameError::Body { .. })));
    }

    #[test]
    fn stream_cut_at_any_two_places_gives_the_same_frames() {
        let (bytes, frames) = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut reader = FrameReader::new(limits);
                let mut found = Vec::new();
                for mut piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    while !piece.is_empty() {
                        found.extend(reader.poll_frame(&mut piece).expect("good frames"));
                    }
                }
                assert_eq!(found, frames, "cut at {first} and {second}");
                assert!(reader.is_between_frames());
            }
        }
    }

    #[test]
    fn empty_frame_is_complete_with_its_header() {
        let bytes = FrameHeader { kind: 2, len: 0 }.encode();
        let mut reader = FrameReader::new(limits);
        let frame = reader.poll_frame(&mut &bytes[..]);
        assert_eq!(frame, Ok(Some(Frame { kind: 2, body: Vec::new() })));
    }

    #[test]
    fn stream_that_ends_inside_a_frame_is_noticed() {
        let (bytes, _) = stream();
        let mut reader = FrameReader::new(limits);
        assert!(reader.is_between_frames());
        for cut in [&bytes[..1], &bytes[1..8], &bytes[8..20]] {
            assert_eq!(reader.poll_frame(&mut &cut[..]), Ok(None));
            assert!(!reader.is_between_frames());
        }
    }

    #[test]
    fn reader_stays_failed_after_an_error() {
        let mut reader = FrameReader::new(limits);
        let error = Err(FrameError::UnknownVersion { found: 3, kind: 1 });
        let mut input = &[1, 3, 0, 0, 0, 0, 0, 0, 42][..];
        assert_eq!(reader.poll_frame(&mut input), error);
        let (good, _) = stream();
        assert_eq!(reader.poll_frame(&mut &good[..]), error);
        assert!(!reader.is_between_frames());
    }

    #[test]
    fn memory_grows_with_what_arrived_not_with_what_was_promised() {
        let mut reader = FrameReader::new(|_| u32::MAX);
        let header = FrameHeader { kind: 1, len: u32::MAX }.encode();
        assert_eq!(reader.poll_frame(&mut &header[..]), Ok(None));
        for arrived in 1..=1_000 {
            assert_eq!(reader.poll_frame(&mut &[0][..]), Ok(None));
            let State::Body { body, .. } = &reader.state else { panic!("{:?}", reader.state) };
            assert!(body.capacity() <= 2 * arrived, "{} for {arrived}", body.capacity());
        }
    }

    #[test]
    fn memory_of_a_body_ends_at_its_length() {
        let mut reader = FrameReader::new(limits);
        let header = FrameHeader { kind: 1, len: 300 }.encode();
        assert_eq!(reader.poll_frame(&mut &header[..]), Ok(None));
        for piece in [100, 100, 99] {
            assert_eq!(reader.poll_frame(&mut &vec![0; piece][..]), Ok(None));
            let State::Body { body, .. } = &reader.state else { panic!("{:?}", reader.state) };
            assert!(body.capacity() <= 300, "{}", body.capacity());
        }
    }

    /// Gives streams of good headers, bad ones and noise.
    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let good = (0u8..4, 0u32..320).prop_map(|(kind, len)| FrameHeader { kind, len }.encode());
        let good = good.prop_map(|header| header.to_vec());
        let piece = prop_oneof![good, prop::collection::vec(any::<u8>(), 1..100)];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_bytes_give_frames_within_bounds_or_an_error(
            bytes in any_stream(), piece in 1usize..50,
        ) {
            let mut reader = FrameReader::new(limits);
            for mut piece in bytes.chunks(piece) {
                while !piece.is_empty() {
                    let Ok(frame) = reader.poll_frame(&mut piece) else { return Ok(()) };
                    if let State::Body { header, body } = &reader.state {
                        prop_assert!(body.capacity() <= header.len as usize);
                    }
                    if let Some(frame) = frame {
                        prop_assert!(frame.body.len() <= limits(frame.kind) as usize);
                        frame.decode::<(u64, Vec<u8>, String)>().ok();
                    }
                }
            }
        }
    }
}
