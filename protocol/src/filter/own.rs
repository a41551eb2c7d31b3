//! The filter of what this node holds.
//!
//! The engine owns it, puts in each blob that is added, and rebuilds it from the prefixes of all held
//! blobs when [`insert`](OwnFilter::insert) asks for it or when much was evicted.

use std::collections::VecDeque;
use std::fmt;

use super::{
    Bits, FILTER_DELTA_MAX, FILTER_FALSE_POSITIVES, FILTER_SEED, FilterDelta, FilterFrame, Item,
    bitmap, count_ones, fill_is_bounded, len_u64,
};

/// The capacity of the smallest filter, in blobs; it takes 1,227 bytes.
const CAPACITY_MIN: usize = 1_024;

/// The capacity of the largest filter, in blobs; it takes [`FILTER_BITS_MAX`](super::FILTER_BITS_MAX)
/// bits but a few.
const CAPACITY_MAX: usize = 1_750_000;

/// Is our own filter, and what was added to it lately.
///
/// Takes 10 bits of memory for each blob of its capacity, which is 1.5 to 3 times the number of blobs
/// at its building, and at most 64 KiB for the latest prefixes.
pub struct OwnFilter {
    /// `None` only if the crate refused our own parameters, which it has no reason to.
    bits: Option<Bits>,
    capacity: u64,
    generation: u64,
    sequence: u64,
    count: u64,
    /// The latest prefixes, the last of them of number `sequence`; at most [`FILTER_DELTA_MAX`].
    latest: VecDeque<[u8; 8]>,
}

impl OwnFilter {
    /// Builds generation `generation` from the prefixes of all held blobs.
    ///
    /// The capacity is the next power of two above 1.5 times their number, between 1,024 and 1.75
    /// million. Takes about 0.1 s for each million of prefixes.
    pub fn build(generation: u64, prefixes: impl ExactSizeIterator<Item = [u8; 8]>) -> Self {
        let capacity = capacity_for(prefixes.len());
        let bits = Bits::new_for_fp_rate_with_seed(capacity, FILTER_FALSE_POSITIVES, &FILTER_SEED);
        let mut filter = Self {
            bits: bits.ok(),
            capacity: len_u64(capacity),
            generation,
            sequence: 0,
            count: 0,
            latest: VecDeque::new(),
        };
        prefixes.for_each(|prefix| {
            filter.set(prefix);
        });
        filter
    }

    /// Adds the prefix of a blob, and returns whether the filter has outgrown its capacity and should
    /// be rebuilt.
    ///
    /// A prefix that the filter already answers "perhaps" to changes nothing: neighbours answer the
    /// same, so they need not be told. The largest filter never asks to be rebuilt, since that would
    /// not make it larger.
    pub fn insert(&mut self, prefix: [u8; 8]) -> bool {
        if self.set(prefix) {
            self.sequence = self.sequence.saturating_add(1);
            if self.latest.len() == FILTER_DELTA_MAX {
                self.latest.pop_front();
            }
            self.latest.push_back(prefix);
        }
        self.count > self.capacity && self.capacity < len_u64(CAPACITY_MAX)
    }

    /// Returns the whole filter as it travels.
    ///
    /// `None` when it is so full that receivers would refuse it, which takes about 2 million blobs: a
    /// node so large gossips no filter and is asked for everything.
    pub fn frame(&self) -> Option<FilterFrame> {
        let bits = self.bits.as_ref().filter(|_| self.is_acceptable())?;
        let hashes = u8::try_from(bits.number_of_hash_functions()).ok()?;
        let bitmap = bitmap(bits);
        Some(FilterFrame {
            generation: self.generation,
            sequence: self.sequence,
            count: self.count,
            hashes,
            bits: bitmap.to_vec(),
        })
    }

    /// Returns whether receivers would accept the filter: not more than about 2 million blobs are in it.
    pub fn is_acceptable(&self) -> bool {
        let Some(bits) = self.bits.as_ref() else { return false };
        u8::try_from(bits.number_of_hash_functions())
            .is_ok_and(|hashes| fill_is_bounded(count_ones(bitmap(bits)), bits.len(), hashes))
    }

    /// Returns what a neighbour lacks that has `sequence` of `generation`; no prefixes when it lacks
    /// nothing.
    ///
    /// `None` when the neighbour needs the whole filter: its copy is of another generation or ahead
    /// of ours, or the delta would be longer than [`FILTER_DELTA_MAX`] or a quarter of the whole.
    pub fn delta_since(&self, generation: u64, sequence: u64) -> Option<FilterDelta> {
        let lacking = usize::try_from(self.sequence.checked_sub(sequence)?).ok()?;
        let first = self.latest.len().checked_sub(lacking)?;
        if generation != self.generation || lacking > self.delta_max() {
            return None;
        }
        let prefixes = self.latest.range(first..).copied().collect();
        Some(FilterDelta { generation, from_sequence: sequence, prefixes })
    }

    /// Returns how many prefixes the filter holds. Those that set no new bit are not counted, at most
    /// one in a hundred.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of the rebuild.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns how many prefixes were added since the rebuild.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns how many prefixes cost a quarter of the bytes of the whole filter.
    fn delta_max(&self) -> usize {
        self.bits.as_ref().map_or(0, |bits| bitmap(bits).len() / 4 / size_of::<[u8; 8]>())
    }

    /// Sets the bits of a prefix and returns whether one of them is new.
    fn set(&mut self, prefix: [u8; 8]) -> bool {
        let new = self.bits.as_mut().is_some_and(|bits| !bits.check_and_set(&Item(prefix)));
        self.count += u64::from(new);
        new
    }
}

impl fmt::Debug for OwnFilter {
    /// Leaves out the bitmap, which may be 2 MiB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnFilter")
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("count", &self.count)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

fn capacity_for(count: usize) -> usize {
    let above = count.saturating_add(count / 2).saturating_add(1);
    above.checked_next_power_of_two().unwrap_or(CAPACITY_MAX).clamp(CAPACITY_MIN, CAPACITY_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::FILTER_LEN_MAX;
    use super::*;

    #[test]
    fn capacity_is_the_next_power_of_two_above_half_as_much_again() {
        let table = [
            (0, CAPACITY_MIN),
            (10, CAPACITY_MIN),
            (682, CAPACITY_MIN),
            (683, 2_048),
            (1_000, 2_048),
            (10_000, 16_384),
            (699_050, 1 << 20),
            (699_051, CAPACITY_MAX),
            (usize::MAX, CAPACITY_MAX),
        ];
        for (count, capacity) in table {
            assert_eq!(capacity_for(count), capacity, "count {count}");
        }
    }

    #[test]
    fn largest_capacity_keeps_to_the_largest_bitmap() {
        let len = Bits::compute_bitmap_size(CAPACITY_MAX, FILTER_FALSE_POSITIVES);
        assert!(len <= FILTER_LEN_MAX && len > FILTER_LEN_MAX - 1_024, "{len} bytes");
    }

    #[test]
    fn largest_filter_does_not_ask_for_a_rebuild_that_would_not_help() {
        let mut filter = OwnFilter::build(1, std::iter::empty());
        filter.count = 10_000_000;
        assert!(filter.insert([1; 8]), "a small one does");
        filter.capacity = len_u64(CAPACITY_MAX);
        assert!(!filter.insert([2; 8]));
    }

    #[test]
    fn overfull_filter_is_not_gossiped() {
        let mut filter = OwnFilter::build(1, std::iter::empty());
        let mut next = 0u64;
        while filter.frame().is_some() {
            filter.insert(next.to_le_bytes());
            next += 1;
        }
        assert!(filter.count() > filter.capacity, "it was gossiped up to its capacity at least");
    }
}
