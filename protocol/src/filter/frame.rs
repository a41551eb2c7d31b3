//! What travels of a filter, and why a receiver refuses it.
//!
//! The structs are plain data, as decoded; [`PeerFilter`](super::PeerFilter) checks them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{FILTER_DELTA_MAX, FILTER_LEN_MAX};

/// Is a whole filter as it travels (SPEC.md, "Filter").
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterFrame {
    /// Numbers the rebuild that the filter comes from.
    pub generation: u64,
    /// Says how many prefixes were added since that rebuild.
    pub sequence: u64,
    /// Says how many prefixes the filter holds, those that set no new bit not counted.
    pub count: u64,
    /// Says how many hash functions set bits for each prefix.
    pub hashes: u8,
    /// Holds the bitmap, bit 0 in the lowest bit of the first byte.
    #[serde(with = "byte_string")]
    pub bits: Vec<u8>,
}

impl FilterFrame {
    /// The most bytes an acceptable filter takes when encoded: bitmap, four varints and one byte.
    pub const ENCODED_LEN_MAX: usize = FILTER_LEN_MAX + 4 * 10 + 1;
}

impl fmt::Debug for FilterFrame {
    /// Leaves out the bitmap, which may be 2 MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterFrame")
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("count", &self.count)
            .field("hashes", &self.hashes)
            .field("len", &self.bits.len())
            .finish_non_exhaustive()
    }
}

/// Is what was added to a filter since a sequence number that the receiver is known to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterDelta {
    /// Numbers the rebuild of the filter that this continues.
    pub generation: u64,
    /// Says how many prefixes the receiver's filter has had added; it has this many more afterwards.
    pub from_sequence: u64,
    /// Lists the added prefixes in the order of their adding, at most [`FILTER_DELTA_MAX`].
    pub prefixes: Vec<[u8; 8]>,
}

impl FilterDelta {
    /// The most bytes an acceptable delta takes when encoded: the prefixes and three varints.
    pub const ENCODED_LEN_MAX: usize = 8 * FILTER_DELTA_MAX + 3 * 10;
}

/// Says why a neighbour's filter or delta is refused.
///
/// All but [`Stale`](Self::Stale) are the neighbour's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The bitmap is empty or longer than [`FILTER_LEN_MAX`].
    #[error("the filter's bitmap has {found} bytes, it needs 1 to {max}")]
    Length {
        /// The length in bytes.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// There is no hash function, or more than [`FILTER_HASHES_MAX`](super::FILTER_HASHES_MAX).
    #[error("the filter has {found} hash functions, it needs 1 to {max}")]
    Hashes {
        /// The claim.
        found: u8,
        /// The bound.
        max: u8,
    },
    /// So many bits are set that the filter says "perhaps" too often.
    #[error("the filter has {ones} of {bits} bits set, too many for {hashes} hash functions")]
    Fill {
        /// How many bits are set.
        ones: u64,
        /// How many bits there are.
        bits: u64,
        /// How many hash functions there are.
        hashes: u8,
    },
    /// The count does not fit the bits: each prefix counted sets one bit at least, and one for each
    /// hash function at most.
    #[error("the filter claims {count} blobs with {ones} bits set by {hashes} hash functions")]
    Count {
        /// The claim.
        count: u64,
        /// How many bits are set.
        ones: u64,
        /// How many hash functions there are.
        hashes: u8,
    },
    /// The delta is longer than [`FILTER_DELTA_MAX`].
    #[error("the filter delta has {found} prefixes, more than {max}")]
    DeltaLength {
        /// How many there are.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// The delta does not continue the filter at hand: ask for the whole one.
    #[error(
        "the delta continues sequence {found_sequence} of generation {found_generation}, \
         the filter has sequence {sequence} of generation {generation}"
    )]
    Stale {
        /// The filter's generation.
        generation: u64,
        /// The filter's sequence.
        sequence: u64,
        /// The delta's generation.
        found_generation: u64,
        /// The sequence that the delta continues.
        found_sequence: u64,
    },
    /// The bloom filter crate refused what had passed all checks.
    #[error("the bloom filter cannot be built: {reason}")]
    Unusable {
        /// The crate's own words.
        reason: &'static str,
    },
}

impl FilterError {
    /// Returns whether the receiver merely missed something and should ask for the whole filter.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

/// Encodes the bitmap as one byte string: the same bytes as a sequence of `u8`, without a call for
/// each of two million of them.
mod byte_string {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(BytesVisitor)
    }

    struct BytesVisitor;

    impl Visitor<'_> for BytesVisitor {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a byte string")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_lengths_keep_their_bounds_at_the_largest_values() {
        let frame = FilterFrame {
            generation: u64::MAX,
            sequence: u64::MAX,
            count: u64::MAX,
            hashes: u8::MAX,
            bits: vec![0xff; FILTER_LEN_MAX],
        };
        let delta = FilterDelta {
            generation: u64::MAX,
            from_sequence: u64::MAX,
            prefixes: vec![[0xff; 8]; FILTER_DELTA_MAX],
        };
        let frame_bytes = postcard::to_allocvec(&frame).expect("encode");
        let delta_bytes = postcard::to_allocvec(&delta).expect("encode");
        assert!(frame_bytes.len() <= FilterFrame::ENCODED_LEN_MAX);
        assert!(delta_bytes.len() <= FilterDelta::ENCODED_LEN_MAX);
        assert_eq!(postcard::from_bytes(&frame_bytes), Ok(frame));
        assert_eq!(postcard::from_bytes(&delta_bytes), Ok(delta));
    }

    #[test]
    fn byte_string_has_the_bytes_of_a_sequence() {
        let frame =
            FilterFrame { generation: 300, sequence: 1, count: 2, hashes: 7, bits: vec![9, 8] };
        let plain = (300u64, 1u64, 2u64, 7u8, vec![9u8, 8]);
        assert_eq!(postcard::to_allocvec(&frame), postcard::to_allocvec(&plain));
    }

    #[test]
    fn only_a_gap_asks_for_the_whole_filter() {
        let (generation, sequence, found_generation, found_sequence) = (1, 2, 1, 3);
        let stale = FilterError::Stale { generation, sequence, found_generation, found_sequence };
        assert!(stale.is_stale());
        assert!(!FilterError::Length { found: 0, max: FILTER_LEN_MAX }.is_stale());
    }
}
