//! Edges: how much of a range that a plan would fetch is in the base after all.
//!
//! A change seldom begins and ends where a stretch does. Right behind what is copied, and right before it, the base is
//! likely to go on as the blob does; so the provider names the blocks of 1 KiB at both ends of a range, and the
//! requester compares them with what its base has there. Each costs six bytes and saves a thousand.

use std::ops::Range;

use super::{Cutter, KEY_LEN, key_of};

/// The length of a block in bytes.
pub const EDGE_BLOCK_LEN: u64 = 1024;

/// Is a range of the blob to be fetched, and where in the base its neighbours are copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The range of the blob in bytes.
    pub range: Range<u64>,
    /// Where the base goes on that has what is before the range.
    pub after: u64,
    /// Where in the base begins what is behind the range.
    pub before: u64,
}

/// Returns how many blocks are named at each end of a range of `len` bytes: as many as it has, and no more than two
/// stretches are long.
pub fn blocks_of(len: u64, cutter: Cutter) -> u64 {
    (len / EDGE_BLOCK_LEN).min(2 * cutter.average() / EDGE_BLOCK_LEN)
}

/// Returns how many bytes the keys of a range of `len` bytes take.
pub fn keys_len(len: u64, cutter: Cutter) -> u64 {
    2 * blocks_of(len, cutter) * KEY_LEN as u64
}

/// Returns the two ends of a range that its keys are of; they may overlap.
pub fn ends_of(range: &Range<u64>, cutter: Cutter) -> (Range<u64>, Range<u64>) {
    let span = blocks_of(range.end.saturating_sub(range.start), cutter) * EDGE_BLOCK_LEN;
    (range.start..range.start.saturating_add(span), range.end.saturating_sub(span)..range.end)
}

/// Appends the keys of the ends of a range: of the blocks of `head` from its beginning on, then of those of `tail`
/// from its end back. Both are whole blocks.
pub fn push_keys(head: &[u8], tail: &[u8], keys: &mut Vec<u8>) {
    let block_len = usize::try_from(EDGE_BLOCK_LEN).unwrap_or(usize::MAX);
    for block in head.chunks_exact(block_len).chain(tail.rchunks_exact(block_len)) {
        keys.extend_from_slice(&key_of(block).to_le_bytes()[..KEY_LEN]);
    }
}

/// Returns how many bytes at the beginning and at the end of a range of `len` bytes the base has: `head` are its bytes
/// from [`Edge::after`] on, and `tail` those up to [`Edge::before`], each as many as there are and are named.
///
/// Keys that are missing are of no block, and the two never overlap.
pub fn matching(len: u64, keys: &[u8], head: &[u8], tail: &[u8]) -> (u64, u64) {
    let block_len = usize::try_from(EDGE_BLOCK_LEN).unwrap_or(usize::MAX);
    let keys = keys.as_chunks::<KEY_LEN>().0;
    let (of_head, of_tail) = keys.split_at(keys.len() / 2);
    let has =
        |(block, key): &(&[u8], &[u8; KEY_LEN])| key_of(block).to_le_bytes()[..KEY_LEN] == **key;
    let head = head.chunks_exact(block_len).zip(of_head).take_while(has).count();
    let tail = tail.rchunks_exact(block_len).zip(of_tail).take_while(has).count();
    let bytes = |blocks| u64::try_from(blocks).unwrap_or(u64::MAX).saturating_mul(EDGE_BLOCK_LEN);
    let head = bytes(head).min(len);
    (head, bytes(tail).min(len - head))
}
