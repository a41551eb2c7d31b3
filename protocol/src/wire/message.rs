//! The messages of the control stream and of the blob stream (SPEC.md, "Control stream" and
//! "Blob stream").
//!
//! Every message is one frame: the fixed header of [`frame`] with the type below, then a postcard body.
//! The two frames that carry bulk bytes, [`LIST`] and [`GROUP`], have a body of their own and are read
//! by the data plane, which never hands their bytes to the engine.

use serde::{Deserialize, Serialize};

use super::delta::{ANSWERS_DELTA, DELTA_REQUEST, MAP, MAP_PIECE_LEN_MAX, RANGE, RANGE_PREFIX_LEN};
use super::frame::{self, FrameError};
use super::small::{
    ANSWERS_CODED, ANSWERS_PACKS, ANSWERS_SMALL, BUNDLE_LEN_MAX, BUNDLE_PREFIX_LEN, CODED_PACK,
    MEDIUM_BUNDLE_LEN_MAX, MEDIUM_BYTES_MAX, SMALL_BLOB, SMALL_BUNDLE, SMALL_PACK,
    SMALL_PREFIX_LEN,
};
use crate::blob::Hash;
use crate::filter::{FilterDelta, FilterFrame};
use crate::id::PeerId;

/// The oldest version of the wire protocol this code speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest version of the wire protocol this code speaks.
pub const VERSION_MAX: u16 = 1;

/// Frame type of [`Message::Hello`].
pub const HELLO: u8 = 0x01;
/// Frame type of [`Message::Filter`].
pub const FILTER: u8 = 0x02;
/// Frame type of [`Message::FilterDelta`].
pub const FILTER_DELTA: u8 = 0x03;
/// Frame type of [`Message::FilterRequest`].
pub const FILTER_REQUEST: u8 = 0x04;
/// Frame type of [`Message::Ask`].
pub const ASK: u8 = 0x05;
/// Frame type of [`Message::Answer`].
pub const ANSWER: u8 = 0x06;
/// Frame type of [`Message::Goodbye`].
pub const GOODBYE: u8 = 0x07;
/// Frame type of [`Message::Groups`].
pub const GROUPS: u8 = 0x08;
/// Frame type of [`Message::Claims`].
pub const CLAIMS: u8 = 0x09;
/// Frame type of [`Message::Near`].
pub const NEAR: u8 = 0x0a;
/// Frame type of [`Message::Rumour`].
pub const RUMOUR: u8 = 0x0b;
/// Frame type of [`BlobRequest`].
pub const REQUEST: u8 = 0x10;
/// Frame type of [`BlobHead`].
pub const HEAD: u8 = 0x11;
/// Frame type of a piece of a group list: chaining values, one after another.
pub const LIST: u8 = 0x12;
/// Frame type of a group: its number (u64, little-endian), its codec (u8), its payload.
pub const GROUP: u8 = 0x13;
/// Frame type of the end of a response, with no body.
pub const END: u8 = 0x14;

/// Frame type of a [`LaneOffer`](super::lane::LaneOffer).
pub const LANE_OFFER: u8 = 0x15;
/// Frame type of a [`LaneOpen`](super::lane::LaneOpen).
pub const LANE_OPEN: u8 = 0x20;

/// Returns whether a response carries frames of this kind. Others are skipped, so that later versions
/// may add some.
pub fn is_of_response(kind: u8) -> bool {
    matches!(kind, HEAD | LIST | GROUP | END | LANE_OFFER)
}

/// The longest piece of a group list in one frame, in bytes: 2,048 chaining values.
pub const LIST_PIECE_LEN_MAX: u32 = 64 * 1024;
/// The length of what precedes the payload in a group's frame, in bytes.
pub const GROUP_PREFIX_LEN: u32 = 9;
/// The most runs of groups that a node claims of one blob at a time.
pub const CLAIMS_MAX: usize = 32;
/// The most runs of groups one request may name.
pub const RUNS_MAX: usize = 1_024;

/// The bit of [`Hello::features`] that says that the sender takes [`Message::Near`].
pub const TAKES_NAMES: u64 = 1 << 4;
/// The bit of [`Hello::features`] that says that the sender takes [`Message::Rumour`].
pub const TAKES_RUMOURS: u64 = 1 << 5;

/// The bound of a small message's body in bytes.
const SMALL_LEN_MAX: u32 = 4 * 1024;
/// The bound in bytes of a body that names groups: 1,024 runs of two numbers of up to 10 bytes.
const REQUEST_LEN_MAX: u32 = 1_024 * 20 + 64;

/// The bound in bytes of a body that asks for many small blobs: a number of up to 5 bytes, a flag, the count and the
/// hashes.
const PACK_LEN_MAX: u32 = 5 + 1 + 2 + 256 * 32;

/// Returns the longest body in bytes that a frame of type `kind` may have. Types unknown to this
/// version are skipped on control streams, so they have a bound too: 4 KiB.
pub fn body_len_max(kind: u8) -> u32 {
    match kind {
        FILTER => bound(FilterFrame::ENCODED_LEN_MAX),
        FILTER_DELTA => bound(FilterDelta::ENCODED_LEN_MAX),
        REQUEST | GROUPS | DELTA_REQUEST => REQUEST_LEN_MAX,
        LIST => LIST_PIECE_LEN_MAX,
        MAP => MAP_PIECE_LEN_MAX,
        RANGE => bound(GROUP_BYTES) + RANGE_PREFIX_LEN,
        // The codec only ever shrinks a group.
        GROUP => bound(GROUP_BYTES) + GROUP_PREFIX_LEN,
        SMALL_BLOB => bound(GROUP_BYTES) + SMALL_PREFIX_LEN,
        SMALL_PACK => PACK_LEN_MAX,
        // The codecs come first.
        CODED_PACK => 1 + PACK_LEN_MAX,
        SMALL_BUNDLE => BUNDLE_LEN_MAX + BUNDLE_PREFIX_LEN,
        END => 0,
        _ => SMALL_LEN_MAX,
    }
}

/// Returns the same for whoever has said that it takes [medium blobs](super::small::TAKES_MEDIUM).
pub fn body_len_max_with_medium(kind: u8) -> u32 {
    match kind {
        SMALL_BLOB => u32::try_from(MEDIUM_BYTES_MAX).unwrap_or(u32::MAX) + SMALL_PREFIX_LEN,
        SMALL_BUNDLE => MEDIUM_BUNDLE_LEN_MAX + BUNDLE_PREFIX_LEN,
        kind => body_len_max(kind),
    }
}

const GROUP_BYTES: usize = 64 * 1024;

fn bound(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Is what neighbours say to each other on their control streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Opens a control stream: always the first message, once.
    Hello(Hello),
    /// Tells the whole filter of what the sender holds; unchecked until
    /// [`PeerFilter::accept`](crate::filter::PeerFilter::accept).
    Filter(FilterFrame),
    /// Tells what was added since the sender's last filter message; with no prefixes it only says
    /// that the filter still stands.
    FilterDelta(FilterDelta),
    /// Asks for the whole filter, because a delta did not fit. Has no fields.
    FilterRequest,
    /// Asks whether the receiver holds a blob.
    Ask {
        /// Numbers the question; the answer carries it back. Not in use by another question of the
        /// sender's that is out.
        id: u32,
        /// The blob.
        hash: Hash,
    },
    /// Answers an [`Ask`](Self::Ask).
    Answer {
        /// The question's number.
        id: u32,
        /// What the sender knows.
        result: AskResult,
    },
    /// Tells which groups the sender holds of a blob that it is fetching, and serves to whoever fetches
    /// it too. With no runs it only says that it is fetching the blob.
    Groups {
        /// The blob.
        hash: Hash,
        /// Its length in bytes; a receiver that knows another ignores the message.
        size: u64,
        /// Whether the sender takes groups from the receiver, and wants to hear of new ones.
        follows: bool,
        /// First group and number of groups of each run, in rising order, at most [`RUNS_MAX`].
        runs: Vec<(u64, u64)>,
    },
    /// Tells what the sender brings from the edge of a blob, so that others who want it leave that to it and
    /// take it from there. Replaces what it said before of the blob; with no runs it brings nothing.
    Claims {
        /// The blob.
        hash: Hash,
        /// Whether the sender is about to ask the edge, and wants to hear who does already.
        seeks: bool,
        /// How many groups of the blob the edge has given the sender so far: a sign that it brings something.
        done: u64,
        /// First group and number of groups of each run, in rising order, at most [`CLAIMS_MAX`]. A run may end
        /// past the blob's end, where the sender does not know its length.
        runs: Vec<(u64, u64)>,
    },
    /// Names a peer that holds a blob to a neighbour that seeks it ([`Claims`](Self::Claims)): one that the sender asked,
    /// or itself.
    Near {
        /// The blob.
        hash: Hash,
        /// Who holds it.
        holder: PeerId,
    },
    /// Passes on what a neighbour of somebody's claims ([`Claims`](Self::Claims)), to those who may be no neighbours of
    /// its own.
    Rumour {
        /// The blob.
        hash: Hash,
        /// Who claims it.
        owner: PeerId,
        /// How many groups of the blob the edge had given the owner by then.
        done: u64,
        /// First group and number of groups, at least one. It may end past the blob's end.
        run: (u64, u64),
    },
    /// Says that the sender stops; the receiver forgets its filter at once. Has no fields.
    Goodbye,
}

/// Says which versions and features the sender speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version spoken.
    pub version_min: u16,
    /// The newest version spoken.
    pub version_max: u16,
    /// Optional features, one bit each; unknown bits are ignored: [`ANSWERS_SMALL`],
    /// [`ANSWERS_DELTA`], [`ANSWERS_PACKS`], [`ANSWERS_CODED`], [`TAKES_NAMES`] and [`TAKES_RUMOURS`].
    pub features: u64,
}

impl Hello {
    /// Says what this code speaks.
    pub fn ours() -> Self {
        let of_blobs = ANSWERS_SMALL | ANSWERS_DELTA | ANSWERS_PACKS | ANSWERS_CODED;
        let features = of_blobs | TAKES_NAMES | TAKES_RUMOURS;
        Self { version_min: VERSION_MIN, version_max: VERSION_MAX, features }
    }

    /// Returns the newest version both sides speak; none where the ranges do not overlap, or the peer's
    /// is upside down.
    pub fn common_version(&self) -> Option<u16> {
        let newest = self.version_max.min(VERSION_MAX);
        (newest >= self.version_min.max(VERSION_MIN)).then_some(newest)
    }
}

/// Says whether a peer holds a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskResult {
    /// It holds the whole blob.
    Have {
        /// The blob's length in bytes, a claim until the last group verifies.
        size: u64,
    },
    /// It does not hold it.
    Absent,
    /// It cannot say now.
    Busy {
        /// After how many milliseconds to ask again.
        retry_after_ms: u32,
    },
}

impl Message {
    /// Returns the frame that carries this message, header and body.
    ///
    /// # Errors
    /// [`FrameError::Body`] and [`FrameError::TooLong`], which no message of this type can cause.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        match self {
            Self::Hello(hello) => frame::encode(HELLO, hello),
            Self::Filter(filter) => frame::encode(FILTER, filter),
            Self::FilterDelta(delta) => frame::encode(FILTER_DELTA, delta),
            Self::FilterRequest => frame::encode(FILTER_REQUEST, &()),
            Self::Ask { id, hash } => frame::encode(ASK, &(id, hash)),
            Self::Answer { id, result } => frame::encode(ANSWER, &(id, result)),
            Self::Groups { hash, size, follows, runs } => {
                frame::encode(GROUPS, &(hash, size, follows, runs))
            }
            Self::Claims { hash, seeks, done, runs } => {
                frame::encode(CLAIMS, &(hash, seeks, done, runs))
            }
            Self::Near { hash, holder } => frame::encode(NEAR, &(hash, holder.as_bytes())),
            Self::Rumour { hash, owner, done, run } => {
                frame::encode(RUMOUR, &(hash, owner.as_bytes(), done, run))
            }
            Self::Goodbye => frame::encode(GOODBYE, &()),
        }
    }

    /// Reads the message of a frame; `None` for a type that a control stream does not carry, which
    /// is skipped so that later versions may add messages.
    ///
    /// The bound of the body has been checked with its header; what the message says is checked by
    /// whoever acts on it.
    ///
    /// # Errors
    /// [`FrameError::Body`] where the body is not of its type, [`FrameError::Trailing`] where it goes
    /// on behind its message.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, FrameError> {
        let message = match kind {
            HELLO => Self::Hello(frame::decode_body(body)?),
            FILTER => Self::Filter(frame::decode_body(body)?),
            FILTER_DELTA => Self::FilterDelta(frame::decode_body(body)?),
            FILTER_REQUEST => frame::decode_body(body).map(|()| Self::FilterRequest)?,
            ASK => frame::decode_body(body).map(|(id, hash)| Self::Ask { id, hash })?,
            ANSWER => frame::decode_body(body).map(|(id, result)| Self::Answer { id, result })?,
            GOODBYE => frame::decode_body(body).map(|()| Self::Goodbye)?,
            GROUPS => {
                let (hash, size, follows, runs) = frame::decode_body(body)?;
                Self::Groups { hash, size, follows, runs }
            }
            CLAIMS => {
                let (hash, seeks, done, runs) = frame::decode_body(body)?;
                Self::Claims { hash, seeks, done, runs }
            }
            NEAR => {
                let (hash, holder) = frame::decode_body(body)?;
                Self::Near { hash, holder: PeerId::from_bytes(holder) }
            }
            RUMOUR => {
                let (hash, owner, done, run) = frame::decode_body(body)?;
                Self::Rumour { hash, owner: PeerId::from_bytes(owner), done, run }
            }
            _ => return Ok(None),
        };
        Ok(Some(message))
    }
}

/// Asks a provider for groups of a blob; opens a blob stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRequest {
    /// The blob.
    pub hash: Hash,
    /// Whether the requester has no proven group list yet: the provider then sends the list and the
    /// last group before anything else.
    pub with_list: bool,
    /// The codecs the requester reads, one bit each (bit 0 raw, bit 1 LZ4); unknown bits are ignored,
    /// and raw is always among them. Bit 7 is [`TAKES_LANE`](super::lane::TAKES_LANE).
    pub codecs: u8,
    /// The groups wanted, as runs of first group and count; all where there is none. At most
    /// [`RUNS_MAX`], in rising order, none empty, overlapping or past the end of the blob.
    pub runs: Vec<(u64, u64)>,
}

/// Answers a [`BlobRequest`]; nothing follows any but [`Ok`](Self::Ok).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobHead {
    /// The groups follow.
    Ok {
        /// The blob's length in bytes, a claim until the last group verifies.
        size: u64,
    },
    /// The provider does not hold the blob, or not all of it.
    Absent,
    /// The provider serves as much as it will.
    Busy {
        /// After how many milliseconds to ask again.
        retry_after_ms: u32,
    },
    /// The request makes no sense: runs out of order or past the end.
    Refused,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::OwnFilter;
    use crate::wire::frame::FrameReader;
    use crate::wire::lane::{LaneOffer, LaneOpen};

    fn messages() -> Vec<Message> {
        let hash = Hash::of(b"blob");
        let filter = OwnFilter::build(3, std::iter::once(hash.prefix()));
        let delta = filter.delta_since(3, 0).expect("of this generation");
        vec![
            Message::Hello(Hello::ours()),
            Message::Filter(filter.frame().expect("not too full")),
            Message::FilterDelta(delta),
            Message::FilterRequest,
            Message::Ask { id: u32::MAX, hash },
            Message::Answer { id: 0, result: AskResult::Have { size: u64::MAX } },
            Message::Answer { id: 1, result: AskResult::Absent },
            Message::Answer { id: 2, result: AskResult::Busy { retry_after_ms: 9 } },
            Message::Groups {
                hash,
                size: u64::MAX,
                follows: true,
                runs: vec![(u64::MAX, u64::MAX); RUNS_MAX],
            },
            Message::Claims {
                hash,
                seeks: true,
                done: u64::MAX,
                runs: vec![(u64::MAX, u64::MAX); CLAIMS_MAX],
            },
            Message::Near { hash, holder: PeerId::from_bytes([0xff; 32]) },
            Message::Rumour {
                hash,
                owner: PeerId::from_bytes([0xff; 32]),
                done: u64::MAX,
                run: (u64::MAX, u64::MAX),
            },
            Message::Goodbye,
        ]
    }

    #[test]
    fn every_message_survives_a_round_trip_within_its_bound() {
        let mut reader = FrameReader::new(body_len_max);
        for message in messages() {
            let bytes = message.encode().expect("encodes");
            let frame = reader.poll_frame(&mut &bytes[..]).expect("framed").expect("whole");
            assert_eq!(Message::decode(frame.kind, &frame.body), Ok(Some(message)));
        }
    }

    #[test]
    fn unknown_type_is_skipped_and_trailing_bytes_are_not() {
        assert_eq!(Message::decode(0x7f, &[1, 2, 3]), Ok(None));
        assert!(Message::decode(FILTER_REQUEST, &[1]).is_err());
    }

    #[test]
    fn longest_request_fits_its_bound() {
        let runs = vec![(u64::MAX, u64::MAX); RUNS_MAX];
        let request = BlobRequest { hash: Hash::of(b""), with_list: true, codecs: 3, runs };
        let frame = frame::encode(REQUEST, &request).expect("encodes");
        assert!(frame.len() <= 8 + usize::try_from(REQUEST_LEN_MAX).expect("fits"));
    }

    #[test]
    fn versions_without_overlap_have_nothing_in_common() {
        let hello = |version_min, version_max| Hello { version_min, version_max, features: 0 };
        assert_eq!(Hello::ours().common_version(), Some(VERSION_MAX));
        assert_eq!(hello(0, 0).common_version(), None);
        assert_eq!(hello(2, 9).common_version(), None);
        assert_eq!(hello(0, u16::MAX).common_version(), Some(VERSION_MAX));
        assert_eq!(hello(9, 0).common_version(), None, "upside down");
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_panic(kind in 0u8..=0x20, body in prop::collection::vec(any::<u8>(), 0..400)) {
            Message::decode(kind, &body).ok();
            frame::decode_body::<BlobRequest>(&body).ok();
            frame::decode_body::<BlobHead>(&body).ok();
            frame::decode_body::<LaneOffer>(&body).ok();
            frame::decode_body::<LaneOpen>(&body).ok();
        }
    }
}
