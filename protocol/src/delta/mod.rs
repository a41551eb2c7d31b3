//! Deltas: a blob is made of what an older version of it has, and of the bytes that are new.
//!
//! Participants: a *requester* that has a *base*, any bytes that may resemble the blob, and a *provider* that holds
//! the blob. Both cut their bytes into *stretches* where the content says ([`cut`]), so that an insertion moves the
//! cuts with it. The provider's [`map`] names each stretch of the blob by a short key; the requester looks the keys up
//! in its base and makes a [`plan`]: which ranges of the blob are copied from where, and which are fetched. Where a
//! range to be fetched begins or ends beside a copied one, the [`edges`] of it say how much more of it the base has.
//!
//! Keys are short, and a provider may lie. So nothing here proves anything: what is made by a plan is verified group by
//! group as any other bytes are, and what fails is fetched whole. A wrong map costs time, never correctness.
//!
//! Source: Xia and others, *The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems*
//! (IEEE TPDS 31.9, 2020), for the cuts; Tridgell, *Efficient Algorithms for Sorting and Synchronization* (1999), for
//! the idea.

pub mod cut;
pub mod edges;
pub mod map;
pub mod plan;

pub use cut::{Cutter, Stretch};
pub use edges::Edge;
pub use map::{BaseMap, MapBuilder, MapError, StretchMap};
pub use plan::{Batch, Piece, Plan, same_groups};

/// The shortest blob that is worth a delta, in bytes: below it the list, the map and their round trips cost about as
/// much as the blob.
pub const DELTA_BYTES_MIN: u64 = 256 * 1024;

/// The most stretches that a map may have: 9 MiB of it on the wire, about 30 MiB of memory for a base.
pub const STRETCHES_MAX: u64 = 1 << 20;

/// Returns whether bytes of length `base` are worth being looked at for a blob of `size` bytes: neither is small, and
/// neither is more than eight times the other.
pub fn is_worth(size: u64, base: u64) -> bool {
    size.min(base) >= DELTA_BYTES_MIN && size.max(base) / 8 <= size.min(base)
}

/// Returns whether the map of a blob of `size` bytes is worth asking for, where `missing` bytes of it are not at the
/// same place in the base: it should cost no more than a quarter of them.
pub fn wants_map(size: u64, missing: u64) -> bool {
    let stretches = size / Cutter::of(size).average();
    stretches <= STRETCHES_MAX && missing / 4 >= stretches.saturating_mul(map::ENTRY_LEN)
}

/// A key: the first bytes of a BLAKE3 hash.
pub(crate) const KEY_LEN: usize = 6;

/// Returns the key of some bytes: the first six bytes of their BLAKE3 hash, little-endian.
pub(crate) fn key_of(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    let mut key = [0; 8];
    key[..KEY_LEN].copy_from_slice(&hash.as_bytes()[..KEY_LEN]);
    u64::from_le_bytes(key)
}
