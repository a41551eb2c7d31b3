//! Delta requests: what a blob consists of, and ranges of its bytes (SPEC.md, "Delta requests").
//!
//! A requester that has an older version of a blob asks for its group list, for its map, for the ends of ranges, and for
//! the bytes that it lacks, one after another on one stream. Each answer is complete before the next request is read.
//! What these mean is for [`delta`](crate::delta) to say; nothing but the list is verified here or anywhere before the
//! groups that are made of it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::frame::{FrameError, FrameHeader};
use crate::blob::Hash;
use crate::compress::Codec;

/// Frame type of a [`DeltaRequest`].
pub const DELTA_REQUEST: u8 = 0x19;
/// Frame type of a piece of a map, or of the keys of edges: the bytes, one after another.
pub const MAP: u8 = 0x1a;
/// Frame type of a piece of a range: its codec (u8), and its payload.
pub const RANGE: u8 = 0x1b;

/// The longest piece of a map in one frame, in bytes.
pub const MAP_PIECE_LEN_MAX: u32 = 64 * 1024;
/// The longest piece of a range in one frame, in bytes before it is encoded.
pub const RANGE_PIECE_LEN_MAX: u64 = 64 * 1024;
/// The length of what precedes the payload in the frame of a piece of a range.
pub const RANGE_PREFIX_LEN: u32 = 1;
/// The most ranges that one request may name.
pub const RANGES_MAX: usize = 1_024;
/// The most bytes that one request may ask for.
pub const RANGES_BYTES_MAX: u64 = 16 << 20;
/// The bit of [`Hello::features`](super::message::Hello::features) that says that the sender answers delta requests.
pub const ANSWERS_DELTA: u64 = 2;

/// Asks for something of a blob; the first one makes a blob stream one of delta requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRequest {
    /// The blob.
    pub hash: Hash,
    /// The codecs that the requester reads, one bit each, as in a
    /// [`BlobRequest`](super::message::BlobRequest::codecs).
    pub codecs: u8,
    /// What is asked for.
    pub wants: DeltaWants,
}

/// Says what is asked for of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaWants {
    /// The group list, and the last group, which proves it.
    List,
    /// The map.
    Map,
    /// The keys of both ends of ranges.
    Edges(Ranges),
    /// The bytes of ranges.
    Bytes(Ranges),
}

/// Names ranges of a blob: of each how many bytes it begins behind the end of the one before, and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Names some ranges, in rising order, without overlaps. More than [`RANGES_MAX`] are refused by whoever reads
    /// them.
    pub fn new(ranges: &[Range<u64>]) -> Self {
        let mut end = 0;
        let name = |range: &Range<u64>| {
            let named = (range.start.saturating_sub(end), range.end.saturating_sub(range.start));
            end = range.end;
            named
        };
        Self(ranges.iter().map(name).collect())
    }

    /// Returns the ranges of a blob of `size` bytes; none where there are too many of them, an empty one, or one past
    /// the blob's end, or where they are longer than `bytes_max` together.
    pub fn within(&self, size: u64, bytes_max: u64) -> Option<Vec<Range<u64>>> {
        if self.0.is_empty() || self.0.len() > RANGES_MAX {
            return None;
        }
        let (mut end, mut bytes) = (0u64, 0u64);
        let mut ranges = Vec::with_capacity(self.0.len());
        for (gap, len) in &self.0 {
            let start = end.checked_add(*gap)?;
            end = start.checked_add(*len)?;
            bytes = bytes.checked_add(*len)?;
            if *len == 0 || end > size || bytes > bytes_max {
                return None;
            }
            ranges.push(start..end);
        }
        Some(ranges)
    }
}

/// Appends the frames of the bytes of a map, or of keys, to `frames`.
pub fn push_map(map: &[u8], frames: &mut Vec<u8>) {
    let piece_len = usize::try_from(MAP_PIECE_LEN_MAX).unwrap_or(usize::MAX);
    for piece in map.chunks(piece_len) {
        push_header(MAP, piece.len(), frames);
        frames.extend_from_slice(piece);
    }
}

/// Appends the frame of a piece of a range to `frames`.
pub fn push_range(codec: Codec, payload: &[u8], frames: &mut Vec<u8>) {
    push_header(RANGE, payload.len().saturating_add(1), frames);
    frames.push(codec.number());
    frames.extend_from_slice(payload);
}

/// Splits the body of the frame of a piece of a range into its codec's number and its payload.
///
/// # Errors
/// [`FrameError::Body`] for one without a codec.
pub fn split_range(body: &[u8]) -> Result<(u8, &[u8]), FrameError> {
    let short = FrameError::Body { source: postcard::Error::DeserializeUnexpectedEnd };
    body.split_first().map(|(codec, payload)| (*codec, payload)).ok_or(short)
}

fn push_header(kind: u8, len: usize, frames: &mut Vec<u8>) {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    frames.extend_from_slice(&FrameHeader { kind, len }.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_and_those_that_make_no_sense_are_refused() {
        let ranges = [0..1, 1..5, 9..10, 100..200];
        let named = Ranges::new(&ranges);
        assert_eq!(named.within(200, 106), Some(ranges.to_vec()));
        assert_eq!(named.within(199, 106), None, "past the end");
        assert_eq!(named.within(200, 105), None, "too many bytes");
        for wrong in [
            vec![],
            vec![(0, 0)],
            vec![(u64::MAX, 2)],
            vec![(1, u64::MAX)],
            vec![(0, 1), (u64::MAX, 1)],
            vec![(0, 1); RANGES_MAX + 1],
        ] {
            assert_eq!(Ranges(wrong.clone()).within(u64::MAX, u64::MAX), None, "{wrong:?}");
        }
        let most = Ranges(vec![(0, 1); RANGES_MAX]);
        assert_eq!(most.within(u64::MAX, u64::MAX).map(|ranges| ranges.len()), Some(RANGES_MAX));
    }

    #[test]
    fn piece_without_a_codec_is_refused() {
        assert!(split_range(&[]).is_err());
        assert_eq!(split_range(&[1]), Ok((1, &[][..])));
    }
}
