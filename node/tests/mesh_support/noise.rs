//! Bytes that a peer might send, most of them wrong: what is right, mutilated, and plain noise.

use std::ops::Range;

/// Gives the same bytes for the same seed.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Steps SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).expect("small")).expect("small")
    }

    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below(len - start + 1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Joins a few of `frames` and mutilates them in one to four places; one time in eight it gives
    /// plain noise.
    pub fn mutilate(&mut self, frames: &[Vec<u8>]) -> Vec<u8> {
        if self.below(8) == 0 {
            let len = self.below(300);
            return self.bytes(len);
        }
        let joined = 1 + self.below(3);
        let mut bytes: Vec<u8> =
            (0..joined).flat_map(|_| frames[self.below(frames.len())].clone()).collect();
        for _ in 0..=self.below(4) {
            self.mutilate_once(&mut bytes);
        }
        bytes
    }

    fn mutilate_once(&mut self, bytes: &mut Vec<u8>) {
        let range = self.range(bytes.len());
        match self.below(6) {
            0 => bytes.truncate(range.start),
            1 => drop(bytes.drain(range)),
            2 => {
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            3 => {
                let len = self.below(20);
                let noise = self.bytes(len);
                bytes.splice(range.start..range.start, noise);
            }
            // A header's length, or what is taken for one.
            4 => {
                let len = self.next().to_le_bytes();
                bytes.iter_mut().skip(range.start).zip(&len[..4]).for_each(|(at, to)| *at = *to);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(range.start) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
    }
}
