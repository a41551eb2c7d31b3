//! Groups: the unit of verification, of transfer and of what a partial blob remembers.

use std::ops::Range;

/// The length of a group in bytes: 64 chunks of 1,024 bytes. Only a blob's last group is shorter.
pub const GROUP_LEN: u64 = 64 * 1024;

/// Returns how many groups a blob of `size` bytes has; an empty blob has one, of no bytes.
pub const fn group_count(size: u64) -> u64 {
    if size == 0 { 1 } else { size.div_ceil(GROUP_LEN) }
}

/// Returns the byte offset at which group `index` begins; saturates at the end of `u64`.
pub const fn group_offset(index: u64) -> u64 {
    index.saturating_mul(GROUP_LEN)
}

/// Returns the length in bytes of group `index` of a blob of `size` bytes, 0 past the end.
pub fn group_len(size: u64, index: u64) -> usize {
    let rest = size.saturating_sub(group_offset(index));
    // A group is at most 64 KiB, which fits any usize.
    usize::try_from(rest.min(GROUP_LEN)).unwrap_or(usize::MAX)
}

/// Says which groups of a blob are held, one bit each.
///
/// Takes 2 bytes of memory per MiB of blob: 128 KiB for the largest blob of the default bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSet {
    words: Vec<u64>,
    groups: u64,
    held: u64,
}

impl GroupSet {
    /// Makes an empty set over `groups` groups; allocates by them, so check the blob's size before.
    pub fn new(groups: u64) -> Self {
        let words = usize::try_from(groups.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], groups, held: 0 }
    }

    /// Returns how many groups the blob has.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// Returns how many groups are held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Returns whether every group is held.
    pub fn is_full(&self) -> bool {
        self.held == self.groups
    }

    /// Returns whether group `index` is held; false past the end.
    pub fn contains(&self, index: u64) -> bool {
        index < self.groups
            && self.word(index).is_some_and(|word| self.words[word] >> (index % 64) & 1 == 1)
    }

    /// Adds group `index` and returns whether it is new; an index past the end is refused as false.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.groups || self.contains(index) {
            return false;
        }
        if let Some(word) = self.word(index) {
            self.words[word] |= 1 << (index % 64);
            self.held += 1;
            return true;
        }
        false
    }

    /// Takes group `index` out and returns whether it was held.
    pub fn remove(&mut self, index: u64) -> bool {
        let Some(word) = self.word(index).filter(|_| self.contains(index)) else { return false };
        self.words[word] &= !(1 << (index % 64));
        self.held -= 1;
        true
    }

    /// Returns the runs of groups that are not held, in rising order.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.missing_within(&(0..self.groups))
    }

    /// Returns the runs of groups of a range that are not held, in rising order.
    pub fn missing_within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let (mut next, end) = (range.start, range.end.min(self.groups));
        while next < end {
            let start = self.first_from(next, false).min(end);
            if start == end {
                break;
            }
            next = self.first_from(start, true).min(end);
            runs.push(start..next);
        }
        runs
    }

    /// Returns the groups that are not held, in rising order.
    pub fn absent(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.words.iter().map(|word| !word);
        members(words).take_while(|index| *index < self.groups)
    }

    /// Returns the groups that are held and that another set lacks, in rising order.
    pub fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        members(self.words.iter().zip(others).map(|(word, other)| word & !other))
    }

    /// Returns the first group from `from` on that is held, or that is not; the end if there is none.
    fn first_from(&self, from: u64, held: bool) -> u64 {
        let Some(first) = self.word(from) else { return self.groups };
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let mut word = if held { *word } else { !word };
            if at == first {
                word &= u64::MAX << (from % 64);
            }
            if word != 0 {
                let base = u64::try_from(at).unwrap_or(u64::MAX).saturating_mul(64);
                return base.saturating_add(u64::from(word.trailing_zeros())).min(self.groups);
            }
        }
        self.groups
    }

    /// Returns the set as bytes, group 0 in the lowest bit of the first byte.
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.groups.div_ceil(8)).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` when the length or a bit past the end
    /// is wrong.
    pub fn from_bytes(groups: u64, bytes: &[u8]) -> Option<Self> {
        if u64::try_from(bytes.len()) != Ok(groups.div_ceil(8)) {
            return None;
        }
        let mut set = Self::new(groups);
        for (at, byte) in bytes.iter().enumerate() {
            for bit in (0..8u64).filter(|bit| byte >> bit & 1 == 1) {
                if !set.insert(u64::try_from(at).ok()? * 8 + bit) {
                    return None;
                }
            }
        }
        Some(set)
    }

    fn word(&self, index: u64) -> Option<usize> {
        usize::try_from(index / 64).ok().filter(|word| *word < self.words.len())
    }
}

/// Returns the indexes of the bits that are set, in rising order.
fn members(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    (0_u64..).zip(words).flat_map(|(at, mut word)| {
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| u64::from(word.trailing_zeros()))?;
            word &= word - 1;
            Some(at * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_that_is_taken_out_can_be_added_again() {
        let mut set = GroupSet::new(130);
        for index in [0, 63, 64, 129] {
            assert!(!set.remove(index), "{index} was never in");
            assert!(set.insert(index));
        }
        assert!(set.remove(64) && !set.remove(64) && !set.remove(130) && !set.remove(u64::MAX));
        assert_eq!((set.held(), set.contains(64), set.contains(63)), (3, false, true));
        assert!(set.insert(64));
        assert_eq!(set.held(), 4);
    }

    #[test]
    fn geometry_holds_at_every_boundary() {
        // (size, groups, length of the last group)
        let table = [
            (0, 1, 0),
            (1, 1, 1),
            (GROUP_LEN - 1, 1, 65_535),
            (GROUP_LEN, 1, 65_536),
            (GROUP_LEN + 1, 2, 1),
            (2 * GROUP_LEN, 2, 65_536),
            (2 * GROUP_LEN + 1, 3, 1),
        ];
        for (size, groups, last) in table {
            assert_eq!(group_count(size), groups, "size {size}");
            assert_eq!(group_len(size, groups - 1), last, "size {size}");
            assert_eq!(group_len(size, groups), 0, "size {size}");
        }
        assert_eq!(group_len(u64::MAX, u64::MAX / 2), 0);
    }

    #[test]
    fn set_remembers_groups_and_lists_what_is_missing() {
        let mut set = GroupSet::new(130);
        assert!(set.insert(0) && set.insert(64) && set.insert(129));
        assert!(!set.insert(64), "a second insert is not new");
        assert!(!set.insert(130), "past the end");
        assert_eq!(set.missing(), vec![1..64, 65..129]);
        assert_eq!(GroupSet::from_bytes(130, &set.to_bytes()), Some(set));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        assert_eq!(GroupSet::from_bytes(9, &[0]), None, "too short");
        assert_eq!(GroupSet::from_bytes(9, &[0, 2]), None, "a bit past the end");
    }

    #[test]
    fn what_is_missing_and_what_another_lacks_agree_with_a_look_at_every_group() {
        for groups in [1, 63, 64, 65, 130, 192] {
            let (mut set, mut other) = (GroupSet::new(groups), GroupSet::new(groups));
            (0..groups).filter(|n| n % 3 == 0 || *n > 100).for_each(|n| {
                set.insert(n);
            });
            (0..groups).filter(|n| n % 5 < 2).for_each(|n| {
                other.insert(n);
            });
            let held: Vec<u64> = (0..groups).filter(|n| set.contains(*n)).collect();
            let lacked = |n: &u64| !other.contains(*n);
            let beyond: Vec<u64> = held.iter().copied().filter(lacked).collect();
            assert!(set.beyond(&other).eq(beyond), "{groups}");
            let absent: Vec<u64> = (0..groups).filter(|n| !set.contains(*n)).collect();
            assert!(set.absent().eq(absent.iter().copied()), "{groups}");
            assert!(set.missing().into_iter().flatten().eq(absent.iter().copied()), "{groups}");
            for range in [0..groups, 1..groups - 1, 60..70, 64..64, 5..1_000, 300..400] {
                let within = absent.iter().copied().filter(|n| range.contains(n));
                let runs = set.missing_within(&range);
                assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?}");
                assert!(runs.into_iter().flatten().eq(within), "{groups} {range:?}");
            }
        }
    }

    #[test]
    fn full_set_misses_nothing() {
        let mut set = GroupSet::new(65);
        (0..65).for_each(|index| assert!(set.insert(index)));
        assert!(set.is_full());
        assert!(set.missing().is_empty());
    }
}
