//! Maps: the stretches of a blob as they are sent and kept, and those of a base as they are looked up.
//!
//! A map names lengths and not offsets, so that its stretches can neither overlap nor lie outside of the blob; what is
//! left to check is that each has a legal length and that together they are as long as the blob.

use super::{Cutter, KEY_LEN, STRETCHES_MAX, Stretch};

/// The length of an entry in bytes: a key of six, a length of three.
pub const ENTRY_LEN: u64 = 9;

/// Says why the bytes of a map are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The map ends inside of an entry.
    #[error("the map ends inside of an entry")]
    Cut,
    /// There are more stretches than the blob can have.
    #[error("the map has more than {stretches_max} stretches")]
    TooMany {
        /// How many there may be.
        stretches_max: u64,
    },
    /// A stretch is shorter or longer than any of such a blob.
    #[error("the map has a stretch of {len} bytes")]
    Len {
        /// Its length in bytes.
        len: u32,
    },
    /// The stretches are not as long as the blob.
    #[error("the stretches of the map have {found} bytes together where the blob has {size}")]
    Size {
        /// What the stretches have together.
        found: u64,
        /// What the blob has.
        size: u64,
    },
}

/// Appends a stretch to the bytes of a map.
pub fn push_entry(stretch: Stretch, map: &mut Vec<u8>) {
    map.extend_from_slice(&stretch.key.to_le_bytes()[..KEY_LEN]);
    map.extend_from_slice(&stretch.len.to_le_bytes()[..3]);
}

/// Is the map of a blob, as far as somebody says: within its bounds, and otherwise unproven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StretchMap {
    stretches: Vec<Stretch>,
}

impl StretchMap {
    /// Returns the stretches, in order; together they are as long as the blob.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }
}

/// Takes in the bytes of a map as they come, and holds no more than a blob of its size can have.
#[derive(Debug)]
pub struct MapBuilder {
    size: u64,
    cutter: Cutter,
    stretches: Vec<Stretch>,
    /// What came of an entry that goes on.
    begun: Vec<u8>,
    /// The bytes of the stretches so far.
    sum: u64,
}

impl MapBuilder {
    /// Starts the map of a blob of `size` bytes, which is proven or within the bound for blobs.
    pub fn new(size: u64) -> Self {
        let (stretches, begun) = (Vec::new(), Vec::new());
        Self { size, cutter: Cutter::of(size), stretches, begun, sum: 0 }
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// [`MapError`], and the map is of no further use.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), MapError> {
        let entry_len = usize::try_from(ENTRY_LEN).unwrap_or(usize::MAX);
        if !self.begun.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(entry_len - self.begun.len()));
            self.begun.extend_from_slice(head);
            bytes = rest;
            if self.begun.len() < entry_len {
                return Ok(());
            }
            let begun = std::mem::take(&mut self.begun);
            self.push_entries(&begun)?;
        }
        let whole = bytes.len() - bytes.len() % entry_len;
        self.push_entries(&bytes[..whole])?;
        self.begun.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// Ends the map.
    ///
    /// # Errors
    /// [`MapError::Cut`] or [`MapError::Size`].
    pub fn finish(self) -> Result<StretchMap, MapError> {
        if !self.begun.is_empty() {
            return Err(MapError::Cut);
        }
        if self.sum != self.size {
            return Err(MapError::Size { found: self.sum, size: self.size });
        }
        Ok(StretchMap { stretches: self.stretches })
    }

    fn push_entries(&mut self, bytes: &[u8]) -> Result<(), MapError> {
        for entry in bytes.as_chunks::<9>().0 {
            let [key @ .., l0, l1, l2] = *entry;
            let mut wide = [0; 8];
            wide[..KEY_LEN].copy_from_slice(&key);
            let len = u32::from_le_bytes([l0, l1, l2, 0]);
            self.push_stretch(Stretch { key: u64::from_le_bytes(wide), len })?;
        }
        Ok(())
    }

    fn push_stretch(&mut self, stretch: Stretch) -> Result<(), MapError> {
        let len = u64::from(stretch.len);
        let sum = self.sum + len;
        // Only the last one may be shorter, and then it ends the blob.
        let is_short = len < self.cutter.min() && sum != self.size;
        if len == 0 || len > self.cutter.max() || is_short {
            return Err(MapError::Len { len: stretch.len });
        }
        if sum > self.size {
            return Err(MapError::Size { found: sum, size: self.size });
        }
        let stretches_max = self.cutter.stretches_max(self.size).min(STRETCHES_MAX);
        if u64::try_from(self.stretches.len()).unwrap_or(u64::MAX) >= stretches_max {
            return Err(MapError::TooMany { stretches_max });
        }
        self.stretches.push(stretch);
        self.sum = sum;
        Ok(())
    }
}

/// Holds the stretches of a base, to be looked up by their keys: 28 bytes for each.
#[derive(Debug, Default)]
pub struct BaseMap {
    stretches: Vec<Placed>,
    /// The numbers of the stretches, by key and length and then by place.
    sorted: Vec<u32>,
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Placed {
    stretch: Stretch,
    offset: u64,
}

impl BaseMap {
    /// Adds the next stretch. One beyond [`STRETCHES_MAX`] is left out: the base then ends before it.
    pub fn push(&mut self, stretch: Stretch) {
        if u64::try_from(self.stretches.len()).is_ok_and(|len| len < STRETCHES_MAX) {
            self.stretches.push(Placed { stretch, offset: self.end });
            self.end += u64::from(stretch.len);
        }
    }

    /// Makes it ready for look-ups.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        let count = u32::try_from(self.stretches.len()).unwrap_or(u32::MAX);
        let mut sorted: Vec<u32> = (0..count).collect();
        sorted.sort_unstable_by_key(|number| self.order(*number));
        self.sorted = sorted;
        self
    }

    /// Returns where the base has a stretch: right at `expected` if it is there, else its first place.
    pub(super) fn find(&self, stretch: Stretch, expected: Option<u64>) -> Option<u64> {
        let first = self
            .sorted
            .partition_point(|number| self.order(*number) < (stretch.key, stretch.len, 0));
        if let Some(expected) = expected {
            let wanted = (stretch.key, stretch.len, expected);
            if self.sorted[first..]
                .binary_search_by_key(&wanted, |number| self.order(*number))
                .is_ok()
            {
                return Some(expected);
            }
        }
        let found = self.placed(*self.sorted.get(first)?)?;
        (found.stretch == stretch).then_some(found.offset)
    }

    fn placed(&self, number: u32) -> Option<Placed> {
        self.stretches.get(usize::try_from(number).ok()?).copied()
    }

    fn order(&self, number: u32) -> (u64, u32, u64) {
        let of = |placed: Placed| (placed.stretch.key, placed.stretch.len, placed.offset);
        self.placed(number).map_or((u64::MAX, u32::MAX, u64::MAX), of)
    }
}
