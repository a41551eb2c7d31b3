//! A neighbour's filter, checked before it is believed.

use std::fmt;

use super::{
    Bits, CRATE_HEADER_LEN, FILTER_DELTA_MAX, FILTER_HASHES_MAX, FILTER_LEN_MAX, FILTER_SEED,
    FilterDelta, FilterError, FilterFrame, Item, bitmap, count_ones, fill_is_bounded, len_u64,
};
use crate::Hash;

/// The version in the bloom filter crate's header.
const CRATE_HEADER_VERSION: u8 = 1;

/// Is a neighbour's filter whose shape has been checked; takes the frame's bitmap of memory.
pub struct PeerFilter {
    bits: Bits,
    hashes: u8,
    /// How many bits are set; between two counts, at least as many as are set.
    ones_at_most: u64,
    generation: u64,
    sequence: u64,
    count: u64,
}

impl PeerFilter {
    /// Checks a whole filter: length, hash count, fill and blob count, in the order of their cost.
    ///
    /// # Errors
    /// [`FilterError::Length`], [`FilterError::Hashes`], [`FilterError::Fill`] or
    /// [`FilterError::Count`]; [`FilterError::Unusable`] is not known to happen.
    pub fn accept(frame: FilterFrame) -> Result<Self, FilterError> {
        let FilterFrame { generation, sequence, count, hashes, bits } = frame;
        if bits.is_empty() || bits.len() > FILTER_LEN_MAX {
            return Err(FilterError::Length { found: bits.len(), max: FILTER_LEN_MAX });
        }
        if hashes == 0 || hashes > FILTER_HASHES_MAX {
            return Err(FilterError::Hashes { found: hashes, max: FILTER_HASHES_MAX });
        }
        let ones = count_ones(&bits);
        check_fill(ones, bit_len(&bits), hashes)?;
        if count > ones || ones > count.saturating_mul(u64::from(hashes)) {
            return Err(FilterError::Count { count, ones, hashes });
        }
        let bits = build(hashes, &bits)?;
        Ok(Self { bits, hashes, ones_at_most: ones, generation, sequence, count })
    }

    /// Returns whether the neighbour may hold the blob; `false` is certain as of this filter's
    /// sequence, if the neighbour is honest.
    pub fn may_hold(&self, hash: &Hash) -> bool {
        self.bits.check(&Item(hash.prefix()))
    }

    /// Adds what the neighbour added.
    ///
    /// # Errors
    /// After [`FilterError::Stale`] or [`FilterError::DeltaLength`] the filter is as it was. After
    /// [`FilterError::Fill`] it holds the delta and says "perhaps" too often: drop it.
    pub fn apply(&mut self, delta: &FilterDelta) -> Result<(), FilterError> {
        if delta.prefixes.len() > FILTER_DELTA_MAX {
            let found = delta.prefixes.len();
            return Err(FilterError::DeltaLength { found, max: FILTER_DELTA_MAX });
        }
        if delta.generation != self.generation || delta.from_sequence != self.sequence {
            return Err(FilterError::Stale {
                generation: self.generation,
                sequence: self.sequence,
                found_generation: delta.generation,
                found_sequence: delta.from_sequence,
            });
        }
        delta.prefixes.iter().for_each(|prefix| self.set(*prefix));
        self.sequence = self.sequence.saturating_add(len_u64(delta.prefixes.len()));
        self.recheck_fill()
    }

    /// Returns how many blobs the neighbour claims to hold, true within a factor of the hash count.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of the neighbour's rebuild.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns how many prefixes the neighbour added since its rebuild.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn set(&mut self, prefix: [u8; 8]) {
        if !self.bits.check_and_set(&Item(prefix)) {
            self.count = self.count.saturating_add(1);
            self.ones_at_most = self.ones_at_most.saturating_add(u64::from(self.hashes));
        }
    }

    /// Counts the bits only when the estimate, which is never too low, is above the bound: to count
    /// the largest filter takes about 0.1 ms, as long as to set a thousand prefixes, and most deltas
    /// have a few.
    fn recheck_fill(&mut self) -> Result<(), FilterError> {
        if fill_is_bounded(self.ones_at_most, self.bits.len(), self.hashes) {
            return Ok(());
        }
        self.ones_at_most = count_ones(bitmap(&self.bits));
        check_fill(self.ones_at_most, self.bits.len(), self.hashes)
    }
}

impl fmt::Debug for PeerFilter {
    /// Leaves out the bitmap, which may be 2 MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerFilter")
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("count", &self.count)
            .field("hashes", &self.hashes)
            .field("bits", &self.bits.len())
            .finish_non_exhaustive()
    }
}

fn check_fill(ones: u64, bits: u64, hashes: u8) -> Result<(), FilterError> {
    if fill_is_bounded(ones, bits, hashes) {
        Ok(())
    } else {
        Err(FilterError::Fill { ones, bits, hashes })
    }
}

/// Gives checked bits to the crate, under a header that we write.
fn build(hashes: u8, bits: &[u8]) -> Result<Bits, FilterError> {
    let mut bytes = Vec::with_capacity(CRATE_HEADER_LEN + bits.len());
    bytes.push(CRATE_HEADER_VERSION);
    bytes.extend_from_slice(&len_u64(bits.len()).to_le_bytes());
    bytes.extend_from_slice(&u32::from(hashes).to_le_bytes());
    bytes.extend_from_slice(&FILTER_SEED);
    bytes.extend_from_slice(bits);
    Bits::from_bytes(bytes).map_err(|reason| FilterError::Unusable { reason })
}

fn bit_len(bits: &[u8]) -> u64 {
    len_u64(bits.len()).saturating_mul(8)
}
