//! Bytes that look random and are the same in every run.

/// Gives bytes without end that look random: Marsaglia's xorshift64.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// Begins at a number; different numbers give different bytes.
    pub fn new(number: u64) -> Self {
        // Never zero, where xorshift stays.
        Self(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number from `least` on that is at most `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
