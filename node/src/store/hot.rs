//! Small blobs that were read lately, in memory: whoever serves the same ones again and again neither opens
//! their files nor hashes them each time.
//!
//! What lies here was verified when it was read. An entry goes with its blob: whatever removes or replaces one
//! says so.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use blobmesh_protocol::Hash;

use super::sys::lock;

/// How many bytes of blobs are kept.
const BYTES_MAX: usize = 16 << 20;
/// The longest blob that is kept: of longer ones the bytes cost more than the look-up.
const LEN_MAX: usize = 16 << 10;
/// How many blobs are kept, at some 150 bytes each beside their own.
const BLOBS_MAX: usize = 16_384;

/// Keeps blobs, first in, first out, but for those that were used since.
#[derive(Debug, Default)]
pub(super) struct Hot(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    blobs: HashMap<Hash, Blob>,
    /// In the order they came; some may have been forgotten since.
    order: VecDeque<Hash>,
    bytes: usize,
    /// Counts what was forgotten.
    age: u64,
}

#[derive(Debug)]
struct Blob {
    bytes: Box<[u8]>,
    used: bool,
}

impl Hot {
    /// Appends a blob to `out`, if it is here. Takes a lock for no longer than a copy of the blob.
    pub(super) fn read(&self, hash: &Hash, out: &mut Vec<u8>) -> bool {
        let mut kept = lock(&self.0);
        let Some(blob) = kept.blobs.get_mut(hash) else { return false };
        blob.used = true;
        out.extend_from_slice(&blob.bytes);
        true
    }

    /// Returns a moment before a blob is read from elsewhere.
    pub(super) fn age(&self) -> u64 {
        lock(&self.0).age
    }

    /// Keeps a verified blob that was read after `age`, if it is short enough, and nothing was forgotten
    /// since: it may have been that one.
    pub(super) fn keep(&self, hash: &Hash, bytes: &[u8], age: u64) {
        if bytes.len() <= LEN_MAX {
            let mut kept = lock(&self.0);
            if kept.age == age {
                kept.insert(*hash, bytes.into());
            }
        }
    }

    /// Forgets a blob, after it was removed or replaced.
    pub(super) fn forget(&self, hash: &Hash) {
        let mut kept = lock(&self.0);
        kept.age += 1;
        kept.remove(hash);
    }
}

impl Kept {
    fn insert(&mut self, hash: Hash, bytes: Box<[u8]>) {
        self.remove(&hash);
        self.bytes += bytes.len();
        self.blobs.insert(hash, Blob { bytes, used: false });
        self.order.push_back(hash);
        while self.bytes > BYTES_MAX || self.order.len() > BLOBS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.blobs.get_mut(&oldest) {
                Some(blob) if blob.used => {
                    blob.used = false;
                    self.order.push_back(oldest);
                }
                Some(_) | None => self.remove(&oldest),
            }
        }
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some(blob) = self.blobs.remove(hash) {
            self.bytes -= blob.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> Hash {
        Hash::of(&n.to_le_bytes())
    }

    fn keep(hot: &Hot, n: usize, bytes: &[u8]) {
        hot.keep(&hash(n), bytes, hot.age());
    }

    fn holds(hot: &Hot, n: usize) -> bool {
        hot.read(&hash(n), &mut Vec::new())
    }

    #[test]
    fn oldest_that_nobody_used_go_first_and_the_bounds_hold() {
        let hot = Hot::default();
        let all = BYTES_MAX / LEN_MAX;
        (0..all).for_each(|n| keep(&hot, n, &[7; LEN_MAX]));
        assert!(holds(&hot, 0), "exactly full");
        keep(&hot, all, &[7; LEN_MAX]);
        assert!(holds(&hot, 0) && !holds(&hot, 1), "the first was used");
        keep(&hot, all + 1, &[7; LEN_MAX + 1]);
        assert!(!holds(&hot, all + 1), "too long");
        for n in 0..3 * BLOBS_MAX {
            keep(&hot, n, b"x");
            hot.forget(&hash(n));
        }
        let kept = lock(&hot.0);
        assert!(kept.order.len() <= BLOBS_MAX && kept.bytes <= BYTES_MAX);
        assert_eq!(kept.bytes, kept.blobs.values().map(|blob| blob.bytes.len()).sum::<usize>());
    }

    #[test]
    fn forgotten_blob_is_not_read_and_comes_back_when_it_is_kept_again() {
        let hot = Hot::default();
        keep(&hot, 1, b"one");
        hot.forget(&hash(1));
        assert!(!holds(&hot, 1));
        let age = hot.age();
        hot.forget(&hash(2));
        hot.keep(&hash(1), b"one", age);
        assert!(!holds(&hot, 1), "it may be the one that was forgotten meanwhile");
        keep(&hot, 1, b"one");
        let mut out = b"->".to_vec();
        assert!(hot.read(&hash(1), &mut out));
        assert_eq!(out, b"->one");
    }
}
