//! Filters: what neighbours tell each other about the blobs they hold.
//!
//! A filter is a bloom filter over hash prefixes. It answers "certainly not" or "perhaps", so that a
//! requester skips the neighbours that cannot help. A node owns one [`OwnFilter`], and sends it whole
//! as a [`FilterFrame`] or, while few blobs were added, as a [`FilterDelta`]. Each neighbour's filter
//! becomes a [`PeerFilter`] once its frame has been checked.
//!
//! Nothing is ever removed from a filter: evicted blobs stay in it as false positives until the
//! engine rebuilds it. A rebuild starts a new *generation*; the *sequence* counts what was added in
//! the generation, so that a receiver notices a lost or doubled delta.
//!
//! Invariants:
//! - a filter of a given generation and sequence holds every prefix that was put into it;
//! - no byte of a peer's reaches the bloom filter crate before the frame's length, hash count, fill
//!   and blob count have been checked: the crate itself accepts an empty bitmap, which panics at the
//!   first question, and any number of hash functions, which makes one question take seconds;
//! - filters have no clock: how long a neighbour's filter counts as fresh is the engine's decision.
//!
//! What the checks cannot find is a lie of plausible shape. A peer can leave out blobs that it holds,
//! claim ones that it does not, or set only the even bits and so pass a quarter of all questions at a
//! fill that looks honest. The requester has to measure how often a filter's "perhaps" came to
//! nothing, and stop believing that peer. A negative answer must never close the way to the edge.
//!
//! Sources:
//! - Bloom, *Space/time trade-offs in hash coding with allowable errors* (CACM 1970): the filter;
//! - Fan, Cao, Almeida, Broder, *Summary Cache* (SIGCOMM 1998): neighbours that tell each other theirs;
//! - Kirsch, Mitzenmacher, *Less hashing, same performance* (ESA 2006): all positions out of two hashes;
//! - Aumasson, Bernstein, *SipHash: a fast short-input PRF* (INDOCRYPT 2012): these two.

mod frame;
mod own;
mod peer;

use std::hash::{Hash as StdHash, Hasher};

use bloomfilter::Bloom;

pub use frame::{FilterDelta, FilterError, FilterFrame};
pub use own::OwnFilter;
pub use peer::PeerFilter;

/// The most bits of a filter, 2 MiB, which hold 1.75 million blobs at the target rate.
///
/// 64 neighbours with the largest filters take 128 MiB of memory.
pub const FILTER_BITS_MAX: u64 = 1 << 24;

/// The most bytes of a filter's bitmap: [`FILTER_BITS_MAX`] in bytes.
pub const FILTER_LEN_MAX: usize = 1 << 21;

const _: () = assert!(FILTER_LEN_MAX as u64 * 8 == FILTER_BITS_MAX);

/// The most hash functions of a filter; our own filters use 7.
pub const FILTER_HASHES_MAX: u8 = 16;

/// The most prefixes in one [`FilterDelta`], 64 KiB of them.
pub const FILTER_DELTA_MAX: usize = 8_192;

/// The share of absent blobs that our own filters let through when they are filled to capacity.
pub const FILTER_FALSE_POSITIVES: f64 = 0.01;

/// The largest `fill^hashes` that is accepted: twice the target, since a filter is rebuilt once it
/// holds more than its capacity and a delta may overtake that.
pub const FILTER_PASS_MAX: f64 = 0.02;

/// The text whose BLAKE3 hash is [`FILTER_SEED`].
pub const FILTER_SEED_TEXT: &str = "blobmesh filter seed v1";

/// The keys of the filters' two hash functions, 16 bytes each, the same in every node.
///
/// The halves have to differ: with equal ones the two functions are one, and a filter made for 1 % of
/// false positives measures nearly 4 %.
#[rustfmt::skip]
pub const FILTER_SEED: [u8; 32] = [
    0x1f, 0x35, 0xf4, 0xb7, 0xde, 0xf2, 0x9f, 0x8b, 0xd7, 0x57, 0x27, 0xee, 0x9b, 0xc6, 0xd7, 0xd3,
    0xf5, 0x0e, 0xf2, 0x34, 0xb4, 0xb0, 0xab, 0x88, 0xc5, 0xa6, 0x33, 0xfc, 0x13, 0xdf, 0xd5, 0xed,
];

/// Is the item of a filter: a hash's first eight bytes, hashed as exactly those bytes.
///
/// `[u8; 8]` itself would be hashed with its length in front of it, as a `usize`: four bytes on some
/// platforms and eight on others, so that two nodes could disagree on every bit.
struct Item([u8; 8]);

impl StdHash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

type Bits = Bloom<Item>;

/// The length of the header that the bloom filter crate keeps in front of its bitmap.
const CRATE_HEADER_LEN: usize = 45;

/// Returns the bitmap without the crate's header.
fn bitmap(bits: &Bits) -> &[u8] {
    bits.as_slice().get(CRATE_HEADER_LEN..).unwrap_or_default()
}

/// Counts the bits that are set.
fn count_ones(bitmap: &[u8]) -> u64 {
    let (words, rest) = bitmap.as_chunks::<8>();
    let of_words: u64 =
        words.iter().map(|word| u64::from(u64::from_le_bytes(*word).count_ones())).sum();
    let of_rest: u64 = rest.iter().map(|byte| u64::from(byte.count_ones())).sum();
    of_words + of_rest
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Returns whether a filter of this fill lets through at most [`FILTER_PASS_MAX`] of absent blobs.
///
/// Multiplies one factor at a time: unlike `powi`, that gives the same answer on every platform.
#[expect(clippy::cast_precision_loss, reason = "there are at most 2^24 bits")]
fn fill_is_bounded(ones: u64, bits: u64, hashes: u8) -> bool {
    let fill = ones as f64 / bits as f64;
    (0..hashes).fold(1.0, |pass, _| pass * fill) <= FILTER_PASS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_is_the_hash_of_its_text_and_has_unequal_halves() {
        assert_eq!(FILTER_SEED, *blake3::hash(FILTER_SEED_TEXT.as_bytes()).as_bytes());
        assert_ne!(FILTER_SEED[..16], FILTER_SEED[16..]);
    }

    #[test]
    fn ones_are_counted_in_words_and_in_the_rest() {
        assert_eq!(count_ones(&[]), 0);
        for len in [1, 7, 8, 9, 16, 23] {
            assert_eq!(count_ones(&vec![0xff; len]), 8 * len as u64, "length {len}");
            assert_eq!(count_ones(&vec![0x10; len]), len as u64, "length {len}");
        }
    }

    #[test]
    fn fill_is_bounded_at_two_per_cent() {
        assert!(fill_is_bounded(0, 8, 1));
        assert!(fill_is_bounded(2, 100, 1) && !fill_is_bounded(3, 100, 1));
        // 0.57^7 = 0.0195 and 0.58^7 = 0.0221.
        assert!(fill_is_bounded(57, 100, 7) && !fill_is_bounded(58, 100, 7));
        assert!(!fill_is_bounded(FILTER_BITS_MAX, FILTER_BITS_MAX, 16));
    }

    #[test]
    fn item_is_hashed_as_its_eight_bytes_alone() {
        struct Recorder(Vec<u8>);
        impl Hasher for Recorder {
            fn finish(&self) -> u64 {
                0
            }
            fn write(&mut self, bytes: &[u8]) {
                self.0.extend_from_slice(bytes);
            }
        }
        let mut recorder = Recorder(Vec::new());
        Item(*b"abcdefgh").hash(&mut recorder);
        assert_eq!(recorder.0, b"abcdefgh");
    }
}
