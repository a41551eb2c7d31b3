//! Small requests: blobs of one group, many on one stream (SPEC.md, "Small requests").
//!
//! A requester asks for a blob of which it knows the hash and nothing else, and gets the blob itself in
//! one message if it is no longer than a group. The stream lives as long as both like; requests are
//! pipelined on it and answered in any order, each under the number that its requester gave it: what
//! lies in memory need not wait for what lies on a disk.
//!
//! Many requests may be one message ([`SmallPack`]), on the stream or on a lane: ten thousand files of a tree are some
//! forty of them.
//!
//! A blob alone goes raw: a group list, a lane or a codec would cost it more than it saves. The answers to a
//! [`CodedPack`] may come as [bundles](SMALL_BUNDLE), many of them compressed together.

use serde::{Deserialize, Serialize};

use super::frame::{self, FRAME_HEADER_LEN, FrameError, FrameHeader};
use crate::blob::{GROUP_LEN, Hash};
use crate::compress::{Codec, CodecError, decode_group};

/// Frame type of a [`SmallRequest`].
pub const SMALL_REQUEST: u8 = 0x16;
/// Frame type of a [`SmallAnswer`].
pub const SMALL_ANSWER: u8 = 0x17;
/// Frame type of a small blob: the number of its request (u32, little-endian), and its bytes.
pub const SMALL_BLOB: u8 = 0x18;

/// Frame type of a [`SmallPack`].
pub const SMALL_PACK: u8 = 0x1c;
/// Frame type of a [`CodedPack`].
pub const CODED_PACK: u8 = 0x1d;
/// Frame type of a bundle, which is answers that are compressed together: its codec (u8), how many bytes it has when
/// it is decoded (u32, little-endian), and its payload, which decodes to frames of [`SMALL_BLOB`]s and [`SMALL_ANSWER`]s.
pub const SMALL_BUNDLE: u8 = 0x1e;

/// The most blobs that one [`SmallPack`] asks for.
pub const PACK_BLOBS_MAX: usize = 256;
/// The longest blob that is sent in one message, in bytes: a group.
pub const SMALL_BYTES_MAX: u64 = GROUP_LEN;
/// The longest blob that is sent in one message to a requester that takes [medium](TAKES_MEDIUM) ones, in bytes.
pub const MEDIUM_BYTES_MAX: u64 = 1 << 20;
/// The bit of [`CodedPack::codecs`] that says that the requester takes blobs of up to [`MEDIUM_BYTES_MAX`] bytes in one
/// message, too.
pub const TAKES_MEDIUM: u8 = 1 << 7;
/// The bit of [`CodedPack::codecs`] that says that the requester takes no codec but raw as long as answers wait for it and not
/// for the link.
pub const TELLS_BACKLOG: u8 = 1 << 6;
/// The length of what precedes the bytes in a small blob's frame.
pub const SMALL_PREFIX_LEN: u32 = 4;
/// The most bytes that a bundle decodes to: 256 KiB of answers, and those of one blob that was begun.
pub const BUNDLE_LEN_MAX: u32 = 384 << 10;
/// The same, where the blob may be a medium one.
pub const MEDIUM_BUNDLE_LEN_MAX: u32 = 1_344 << 10;
/// The length of what precedes the payload in a bundle's frame.
pub const BUNDLE_PREFIX_LEN: u32 = 5;
/// The bit of [`Hello::features`](super::message::Hello::features) that says that the sender answers
/// small requests.
pub const ANSWERS_SMALL: u64 = 1;
/// The bit of [`Hello::features`](super::message::Hello::features) that says that the sender takes many small requests
/// as one message, on streams and on lanes.
pub const ANSWERS_PACKS: u64 = 1 << 2;
/// The bit of [`Hello::features`](super::message::Hello::features) that says that the sender takes [`CodedPack`]s.
pub const ANSWERS_CODED: u64 = 1 << 3;

/// Says how long blobs are that come in one message at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longest {
    /// [`SMALL_BYTES_MAX`].
    Small,
    /// [`MEDIUM_BYTES_MAX`].
    Medium,
}

impl Longest {
    /// Reads [`CodedPack::codecs`].
    pub fn of(codecs: u8) -> Self {
        if codecs & TAKES_MEDIUM != 0 { Self::Medium } else { Self::Small }
    }

    /// Returns the length of the longest blob in bytes.
    pub fn blob_bytes(self) -> u64 {
        match self {
            Self::Small => SMALL_BYTES_MAX,
            Self::Medium => MEDIUM_BYTES_MAX,
        }
    }

    /// Returns to how many bytes a bundle decodes at most.
    pub fn bundle_len(self) -> u32 {
        match self {
            Self::Small => BUNDLE_LEN_MAX,
            Self::Medium => MEDIUM_BUNDLE_LEN_MAX,
        }
    }
}

/// Says as what a neighbour takes many small requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packs {
    /// As that many messages.
    #[default]
    None,
    /// As [`SmallPack`]s.
    Plain,
    /// As [`CodedPack`]s.
    Coded,
}

impl Packs {
    /// Reads the bits of [`Hello::features`](super::message::Hello::features).
    pub fn of(features: u64) -> Self {
        match (features & ANSWERS_PACKS != 0, features & ANSWERS_CODED != 0) {
            (true, true) => Self::Coded,
            (true, false) => Self::Plain,
            (false, _) => Self::None,
        }
    }
}

/// Asks for a blob of at most [`SMALL_BYTES_MAX`] bytes; the first one makes a blob stream one of small
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallRequest {
    /// Numbers the request; not in use by another one of this stream that is unanswered.
    pub id: u32,
    /// The blob.
    pub hash: Hash,
}

/// Asks for many blobs as as many [`SmallRequest`]s would, whose numbers follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallPack {
    /// The number of the first; after [`u32::MAX`] comes 0.
    pub first: u32,
    /// Whether the requester takes a lane for the next ones. The provider answers with a
    /// [`LaneOffer`](super::lane::LaneOffer) if it has one; of no effect on a lane.
    pub takes_lane: bool,
    /// The blobs: of 1 to [`PACK_BLOBS_MAX`].
    pub hashes: Vec<Hash>,
}

impl SmallPack {
    /// Returns the frame of the message.
    ///
    /// # Errors
    /// None that a message of this type can cause; one of too many blobs is refused by whoever reads it.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        frame::encode(SMALL_PACK, self)
    }

    /// Returns the requests that it stands for; none where it breaks the rules.
    pub fn requests(&self) -> Option<impl Iterator<Item = SmallRequest>> {
        let fits = (1..=PACK_BLOBS_MAX).contains(&self.hashes.len());
        let request =
            |(n, hash): (u32, &Hash)| SmallRequest { id: self.first.wrapping_add(n), hash: *hash };
        fits.then(|| (0..).zip(&self.hashes).map(request))
    }
}

/// Asks for many blobs whose answers may come as bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodedPack {
    /// The codecs that the requester takes for bundles, by their [bits](Codec::bit), [`TAKES_MEDIUM`] and [`TELLS_BACKLOG`].
    pub codecs: u8,
    /// What is asked for.
    pub pack: SmallPack,
}

impl CodedPack {
    /// Returns the frame of the message.
    ///
    /// # Errors
    /// As of [`SmallPack::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        frame::encode(CODED_PACK, self)
    }
}

/// Says why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It is too short, or says that it decodes to more than it may.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// It does not decode to what it says.
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// Returns the header and the prefix of a bundle's frame, whose payload of `payload_len` bytes decodes to `len`. Longer
/// ones than may be are refused by whoever reads them.
pub fn bundle_head(codec: Codec, len: usize, payload_len: usize) -> [u8; BUNDLE_HEAD_LEN] {
    let bound = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let header = FrameHeader {
        kind: SMALL_BUNDLE,
        len: bound(payload_len).saturating_add(BUNDLE_PREFIX_LEN),
    };
    let mut head = [0; BUNDLE_HEAD_LEN];
    head[..FRAME_HEADER_LEN].copy_from_slice(&header.encode());
    head[FRAME_HEADER_LEN] = codec.number();
    head[FRAME_HEADER_LEN + 1..].copy_from_slice(&bound(len).to_le_bytes());
    head
}

/// The length of what [`bundle_head`] returns.
pub const BUNDLE_HEAD_LEN: usize = FRAME_HEADER_LEN + BUNDLE_PREFIX_LEN as usize;

/// Decodes the body of a bundle's frame, of blobs that are no longer than `longest`: to frames, of which nobody has looked
/// at any.
///
/// # Errors
/// [`BundleError`]. What it says of its length is checked before anything is allocated.
pub fn open_bundle(body: &[u8], longest: Longest) -> Result<Vec<u8>, BundleError> {
    let short = || FrameError::Body { source: postcard::Error::DeserializeUnexpectedEnd };
    let (&[codec, l0, l1, l2, l3], payload) = body.split_first_chunk().ok_or_else(short)?;
    let (codec, len) = (Codec::try_from(codec)?, u32::from_le_bytes([l0, l1, l2, l3]));
    let max = longest.bundle_len();
    if len > max {
        let (len, kind) = (u64::from(len), SMALL_BUNDLE);
        return Err(FrameError::TooLong { len, max, kind }.into());
    }
    let mut frames = vec![0; usize::try_from(len).unwrap_or(0)];
    decode_group(codec, payload, &mut frames)?;
    Ok(frames)
}

/// Answers a [`SmallRequest`] where the blob does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallAnswer {
    /// The request's number.
    pub id: u32,
    /// Why the blob does not come.
    pub result: SmallResult,
}

/// Says why a blob does not come in answer to a small request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SmallResult {
    /// The provider does not hold it, or not all of it.
    Absent,
    /// The provider serves as much as it will.
    Busy {
        /// After how many milliseconds to ask again.
        retry_after_ms: u32,
    },
    /// The provider holds it, and it is longer than one group.
    Large {
        /// The blob's length in bytes, a claim until its last group verifies.
        size: u64,
    },
}

/// Appends the frame of a small blob to `frames`. `bytes` are at most as many as the requester takes: a longer
/// blob's frame is refused by whoever reads it.
pub fn push_small_blob(id: u32, bytes: &[u8], frames: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(SMALL_PREFIX_LEN);
    frames.extend_from_slice(&FrameHeader { kind: SMALL_BLOB, len }.encode());
    frames.extend_from_slice(&id.to_le_bytes());
    frames.extend_from_slice(bytes);
}

/// Splits the body of a small blob's frame into the number of its request and its bytes.
///
/// # Errors
/// [`FrameError::Body`] for one that is too short for a number.
pub fn split_small_blob(body: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    let short = || FrameError::Body { source: postcard::Error::DeserializeUnexpectedEnd };
    let (id, bytes) = body.split_first_chunk().ok_or_else(short)?;
    Ok((u32::from_le_bytes(*id), bytes))
}

impl SmallRequest {
    /// Returns the frame of the request.
    ///
    /// # Errors
    /// None that a message of this type can cause.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        frame::encode(SMALL_REQUEST, self)
    }
}

impl SmallAnswer {
    /// Returns the frame of the answer.
    ///
    /// # Errors
    /// None that a message of this type can cause.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        frame::encode(SMALL_ANSWER, self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::FrameReader;
    use crate::wire::message::{body_len_max, body_len_max_with_medium};

    #[test]
    fn blobs_as_long_as_may_be_survive_a_round_trip_and_longer_ones_are_refused() {
        for len in [0, 1, 4_096, 65_535, 65_536, 65_537] {
            refused_above(SMALL_BYTES_MAX, body_len_max, len);
        }
        for len in [65_537, 1_048_575, 1_048_576, 1_048_577] {
            refused_above(MEDIUM_BYTES_MAX, body_len_max_with_medium, len);
        }
    }

    fn refused_above(max: u64, bound: fn(u8) -> u32, len: usize) {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let mut frames = Vec::new();
        push_small_blob(u32::MAX, &bytes, &mut frames);
        let read = FrameReader::new(bound).poll_frame(&mut &frames[..]);
        if u64::try_from(len).is_ok_and(|len| len > max) {
            assert!(matches!(read, Err(FrameError::TooLong { .. })), "{len}: {read:?}");
            return;
        }
        let frame = read.expect("in its bound").expect("whole");
        assert_eq!(split_small_blob(&frame.body), Ok((u32::MAX, &bytes[..])));
    }

    #[test]
    fn body_without_room_for_a_number_is_refused() {
        for len in 0..4 {
            assert!(split_small_blob(&[7; 4][..len]).is_err(), "{len}");
        }
        assert_eq!(split_small_blob(&[1, 2, 0, 0]), Ok((513, &[][..])), "an empty blob");
    }

    #[test]
    fn pack_is_as_many_requests_and_no_more_than_may_be() {
        let hashes = |count: usize| vec![Hash::of(b"x"); count];
        let pack = |count| SmallPack { first: u32::MAX, takes_lane: true, hashes: hashes(count) };
        for count in [1, 2, PACK_BLOBS_MAX] {
            let frame = pack(count).encode().expect("in its bound");
            let read = FrameReader::new(body_len_max).poll_frame(&mut &frame[..]);
            let read: SmallPack = read.expect("right").expect("whole").decode().expect("a pack");
            assert_eq!(read, pack(count));
            let ids: Vec<u32> = read.requests().expect("allowed").map(|it| it.id).collect();
            assert_eq!(ids.len(), count);
            assert_eq!(
                ids.iter().take(2).copied().collect::<Vec<_>>(),
                [u32::MAX, 0][..count.min(2)]
            );
        }
        assert!(pack(0).requests().is_none());
        assert!(pack(PACK_BLOBS_MAX + 1).requests().is_none());
        let long = pack(PACK_BLOBS_MAX + 1).encode().expect("encodes");
        let read = FrameReader::new(body_len_max).poll_frame(&mut &long[..]);
        assert!(matches!(read, Err(FrameError::TooLong { .. })), "{read:?}");
    }

    #[test]
    fn bundle_decodes_to_the_answers_that_it_was_made_of() {
        let mut answers = Vec::new();
        for id in 0..30 {
            push_small_blob(id, &[7; 10_000], &mut answers);
        }
        let mut encoded = vec![0; answers.len()];
        let mut bundler = crate::compress::Bundler::default();
        bundler.set_codecs(Codec::ALL);
        encoded.clear();
        let codec = bundler.encode(&answers, &mut encoded);
        assert_eq!(codec, Codec::Zstd);
        let mut framed = bundle_head(codec, answers.len(), encoded.len()).to_vec();
        framed.extend(&encoded);
        let read = FrameReader::new(body_len_max).poll_frame(&mut &framed[..]);
        let frame = read.expect("in its bound").expect("whole");
        assert_eq!(frame.kind, SMALL_BUNDLE);
        assert!(open_bundle(&frame.body, Longest::Small).expect("right") == answers);
    }

    #[test]
    fn bundle_that_lies_is_refused_before_anything_is_allocated() {
        let body = |codec: u8, len: u32, payload: &[u8]| {
            [&[codec][..], &len.to_le_bytes(), payload].concat()
        };
        let open = |body: &[u8]| open_bundle(body, Longest::Small);
        for short in 0..5 {
            assert!(matches!(open(&body(0, 0, b"")[..short]), Err(BundleError::Frame(_))));
        }
        assert_eq!(open(&body(0, 2, b"ab")), Ok(b"ab".to_vec()));
        assert_eq!(open(&body(0, 0, b"")), Ok(Vec::new()));
        let unknown = CodecError::Unknown { found: 3 };
        assert_eq!(open(&body(3, 2, b"ab")), Err(unknown.into()));
        for (longest, max) in
            [(Longest::Small, BUNDLE_LEN_MAX), (Longest::Medium, MEDIUM_BUNDLE_LEN_MAX)]
        {
            for len in [max + 1, u32::MAX] {
                let kind = SMALL_BUNDLE;
                let too_long = FrameError::TooLong { len: u64::from(len), max, kind };
                assert_eq!(open_bundle(&body(2, len, b"ab"), longest), Err(too_long.into()));
            }
        }
        // More, and less, than it says.
        for (len, payload) in [(1, &b"ab"[..]), (3, b"ab")] {
            assert!(matches!(open(&body(0, len, payload)), Err(BundleError::Codec(_))));
        }
    }

    #[test]
    fn coded_pack_is_a_pack_with_codecs_before_it() {
        let pack = SmallPack { first: 300, takes_lane: false, hashes: vec![Hash::of(b"x"); 256] };
        let coded = CodedPack { codecs: Codec::ALL, pack };
        let frame = coded.encode().expect("in its bound");
        let read = FrameReader::new(body_len_max).poll_frame(&mut &frame[..]);
        let read: CodedPack = read.expect("right").expect("whole").decode().expect("a pack");
        assert_eq!(read, coded);
        let plain = coded.pack.encode().expect("in its bound");
        assert_eq!(frame[FRAME_HEADER_LEN + 1..], plain[FRAME_HEADER_LEN..]);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            frame::decode_body::<SmallPack>(&body).ok();
            frame::decode_body::<CodedPack>(&body).ok();
            open_bundle(&body, Longest::Medium).ok();
            frame::decode_body::<SmallRequest>(&body).ok();
            frame::decode_body::<SmallAnswer>(&body).ok();
            split_small_blob(&body).ok();
        }
    }
}
