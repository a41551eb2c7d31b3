//! Where the bytes of a blob are cut into stretches (SPEC.md, "Stretches").
//!
//! A cut depends on the bytes before it and on nothing else, so both sides find the same stretches in the same bytes
//! wherever these lie. How long stretches are on average follows from the blob's size, so that its map stays small.

use fastcdc::v2020::FastCDC;

use super::key_of;

const KIB: u64 = 1024;
/// The average length of the stretches of a blob of up to 1 GiB.
const AVERAGE_LEAST: u64 = 16 * KIB;
/// The greatest average length.
const AVERAGE_MOST: u64 = 256 * KIB;
/// The size up to which the least average is used; it doubles with each four times as many bytes.
const LEAST_UP_TO: u64 = 1 << 30;

/// Is a stretch: its length, and the key of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first six bytes of the BLAKE3 hash of its bytes, little-endian.
    pub key: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// Cuts bytes as those of a blob of some size are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutter {
    average: u64,
}

impl Cutter {
    /// Returns what cuts for a blob of `size` bytes. A base is cut as the blob that is made of it.
    pub fn of(size: u64) -> Self {
        let (mut average, mut up_to) = (AVERAGE_LEAST, LEAST_UP_TO);
        while size > up_to && average < AVERAGE_MOST {
            average *= 2;
            up_to = up_to.saturating_mul(4);
        }
        Self { average }
    }

    /// Returns the average length of a stretch in bytes, about.
    pub fn average(self) -> u64 {
        self.average
    }

    /// Returns the least length of a stretch in bytes, but for the last one.
    pub fn min(self) -> u64 {
        self.average / 4
    }

    /// Returns the greatest length of a stretch in bytes.
    pub fn max(self) -> u64 {
        self.average * 4
    }

    /// Returns the greatest number of stretches of a blob of `size` bytes.
    pub fn stretches_max(self, size: u64) -> u64 {
        size.div_ceil(self.min())
    }

    /// Cuts bytes into stretches, hands each to `take`, and returns how many bytes were cut.
    ///
    /// The rest, less than [`max`](Self::max), is to be handed in again with what follows; at the end of the blob
    /// (`is_end`) there is none. Feed a megabyte or more at a time.
    pub fn cut(self, bytes: &[u8], is_end: bool, mut take: impl FnMut(Stretch)) -> usize {
        let max = usize::try_from(self.max()).unwrap_or(usize::MAX);
        let mut rest = bytes;
        while !rest.is_empty() && (is_end || rest.len() >= max) {
            let (stretch, after) = rest.split_at(self.first_len(&rest[..rest.len().min(max)]));
            let len = u32::try_from(stretch.len()).unwrap_or(u32::MAX);
            take(Stretch { key: key_of(stretch), len });
            rest = after;
        }
        bytes.len() - rest.len()
    }

    /// Returns the length of the first stretch of some bytes, of which there are no more than the greatest length.
    fn first_len(self, bytes: &[u8]) -> usize {
        // All are powers of two of at most a mebibyte, as the crate wants them.
        let [min, average, max] = [self.min(), self.average, self.max()]
            .map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        let (_, end) = FastCDC::new(bytes, min, average, max).cut(0, bytes.len());
        end.clamp(1, bytes.len())
    }
}
