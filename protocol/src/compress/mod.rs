//! Compression on the wire: whether to compress a blob's groups, and doing it to one group.
//!
//! A provider probes a few samples of a blob, and if they shrink, compresses each group it sends with
//! LZ4; a group that does not shrink by a twentieth goes raw. One core of LZ4 handles about 0.7 GB/s:
//! a gain on a link of 1 Gbit/s, a brake above that, so the probe must be cheap and its "no" final.
//! Where the link is slower than that, zstd makes fewer bytes of them (`pace.rs`).
//!
//! Compression never touches identity: hashes are of the raw bytes, the receiver knows each group's
//! raw length from the blob's size, decodes into a buffer of exactly that length and verifies the
//! result. A length that a peer claims is not an allocation here: the block API is used without the
//! size in front of it, of which five bytes would reserve 4 GiB. What is on disk stays raw.
//!
//! Sources: the LZ4 block format, as its project describes it; RFC 8878 for zstd.

mod bundle;
mod pace;

use std::time::Duration;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

pub use self::bundle::Bundler;
use self::pace::Effort;
pub use self::pace::Pace;

/// How many samples a [`probe`] looks at.
pub const PROBE_SAMPLES: usize = 4;

/// How many bytes of each sample a [`probe`] looks at.
pub const PROBE_SAMPLE_LEN: usize = 4_096;

/// The per cent of their length to which samples must shrink for their blob to be compressed.
///
/// Samples shrink less than whole groups, since LZ4 finds nothing behind a sample's beginning.
const PROBE_KEEPS_MAX: usize = 90;

/// The per cent of its length to which a group must shrink to be sent compressed.
const GROUP_KEEPS_MAX: usize = 95;

/// Says how a group's bytes are written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The bytes themselves.
    Raw = 0,
    /// One LZ4 block without a length or checksum of its own.
    Lz4 = 1,
    /// One zstd frame without a dictionary.
    Zstd = 2,
}

impl Codec {
    /// The bits of all codecs: what a requester of this version takes.
    pub const ALL: u8 = Self::Raw.bit() | Self::Lz4.bit() | Self::Zstd.bit();

    /// Returns the number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the bit that stands for the codec in a request's set of codecs.
    pub const fn bit(self) -> u8 {
        1 << self.number()
    }
}

impl TryFrom<u8> for Codec {
    type Error = CodecError;

    fn try_from(number: u8) -> Result<Self, CodecError> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            found => Err(CodecError::Unknown { found }),
        }
    }
}

/// Says why a group cannot be decoded; always the fault of the peer that sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No codec has this number.
    #[error("there is no codec of number {found}")]
    Unknown {
        /// The number.
        found: u8,
    },
    /// The payload has more bytes than the group: compression is for making it shorter.
    #[error("the payload has {found} bytes for a group of {max}")]
    Payload {
        /// The payload's length in bytes.
        found: usize,
        /// The group's length in bytes.
        max: usize,
    },
    /// The payload decodes to fewer bytes than the group has.
    #[error("the payload decodes to {found} bytes where the group has {expected}")]
    Length {
        /// How many bytes it decodes to.
        found: usize,
        /// How many the group has.
        expected: usize,
    },
    /// The payload is not of its codec, or decodes to more bytes than the group has.
    #[error("the payload does not decode to {expected} bytes or fewer")]
    Malformed {
        /// How many bytes the group has.
        expected: usize,
    },
}

/// Says what a [`probe`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The samples shrink by a tenth or more: compress the groups.
    Compressible,
    /// The samples do not shrink enough: send the groups raw, without trying.
    Incompressible,
}

/// Returns the offsets of the samples to [`probe`] in a blob of `size` bytes, spread evenly.
///
/// Samples of a blob of less than 16 KiB overlap.
pub fn probe_offsets(size: u64) -> [u64; PROBE_SAMPLES] {
    let span = size.saturating_sub(PROBE_SAMPLE_LEN as u64);
    let last = PROBE_SAMPLES as u64 - 1;
    // Divided first: a size near the end of u64 must not overflow.
    std::array::from_fn(|number| span / last * number as u64)
}

/// Decides from samples of a blob whether its groups are worth compressing.
///
/// Looks at the first [`PROBE_SAMPLES`] samples and the first [`PROBE_SAMPLE_LEN`] bytes of each,
/// which takes 6 to 25 microseconds. Nothing to look at is incompressible.
pub fn probe<'a>(samples: impl IntoIterator<Item = &'a [u8]>) -> Probe {
    let mut table = CompressTable::small();
    let mut encoded = [0; get_maximum_output_size(PROBE_SAMPLE_LEN)];
    let (mut raw_len, mut encoded_len) = (0, 0);
    for sample in samples.into_iter().take(PROBE_SAMPLES) {
        let sample = &sample[..sample.len().min(PROBE_SAMPLE_LEN)];
        raw_len += sample.len();
        encoded_len +=
            compress_into_with_table(sample, &mut encoded, &mut table).unwrap_or(sample.len());
    }
    if raw_len > 0 && encoded_len * 100 <= raw_len * PROBE_KEEPS_MAX {
        Probe::Compressible
    } else {
        Probe::Incompressible
    }
}

/// Compresses the groups of one blob, or leaves them raw as the [`probe`] said.
///
/// Keeps LZ4's table of 8 to 16 KiB from group to group, and zstd's state of about 1 MiB once it was worth
/// it.
pub struct Compressor {
    table: Option<CompressTable>,
    zstd: Zstd,
    pace: Pace,
}

impl Compressor {
    /// Starts with a blob that was probed, for a requester that takes these codecs, by their
    /// [bits](Codec::bit). Without LZ4 everything goes raw.
    pub fn new(probe: Probe, codecs: u8) -> Self {
        let has = |codec: Codec| codecs & codec.bit() != 0;
        // A whole group is one byte too long for the small table.
        let table = (probe == Probe::Compressible && has(Codec::Lz4)).then(CompressTable::large);
        let most = if has(Codec::Zstd) { Effort::Zstd3 } else { Effort::Lz4 };
        Self { table, zstd: Zstd::default(), pace: Pace::default().up_to(most) }
    }

    /// Goes on at the pace of what was sent before over the same link.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        let pace = pace.up_to(self.pace.most());
        Self { pace, ..self }
    }

    /// Returns the pace, for what is sent next over the same link.
    pub fn into_pace(self) -> Pace {
        self.pace
    }

    /// Encodes one group, and returns what to send: the bytes in `encoded`, or for [`Codec::Raw`] the bytes
    /// of `group` itself, which are not copied.
    ///
    /// What was in `encoded` is dropped, its capacity kept: hand in the same buffer for each group.
    pub fn encode_group(&mut self, group: &[u8], encoded: &mut Vec<u8>) -> Codec {
        encoded.clear();
        let Some(table) = self.table.as_mut() else {
            return Codec::Raw;
        };
        encoded.resize(get_maximum_output_size(group.len()), 0);
        let by_zstd = self
            .zstd
            .at(self.pace.effort())
            .and_then(|zstd| zstd.compress_to_buffer(group, &mut encoded[..]).ok());
        let (codec, len) = match by_zstd {
            Some(len) => (Codec::Zstd, len),
            None => {
                let len = compress_into_with_table(group, encoded, table);
                (Codec::Lz4, len.unwrap_or(group.len()))
            }
        };
        let shrinks = len * 100 <= group.len() * GROUP_KEEPS_MAX && !group.is_empty();
        encoded.truncate(if shrinks { len } else { 0 });
        if shrinks { codec } else { Codec::Raw }
    }

    /// Tells how long it took to encode and to send some groups, of `(raw, encoded)` bytes: where the link is
    /// the limit, the next are compressed harder.
    pub fn sent(&mut self, bytes: (u64, u64), encoding: Duration, sending: Duration) {
        if self.table.is_some() {
            self.pace.note(bytes, encoding, sending);
        }
    }

    /// Tells how long the requester let its next request be waited for, while what it asked for before may
    /// still have been on its way.
    pub fn waited(&mut self, time: Duration) {
        if self.table.is_some() {
            self.pace.waited(time);
        }
    }
}

/// Keeps zstd's state for the effort it was last used at.
#[derive(Default)]
struct Zstd(Option<(Effort, zstd::bulk::Compressor<'static>)>);

impl Zstd {
    /// Returns what compresses at an effort; none where LZ4 does.
    fn at(&mut self, effort: Effort) -> Option<&mut zstd::bulk::Compressor<'static>> {
        let level = match effort {
            Effort::Lz4 => return None,
            Effort::Zstd1 => 1,
            Effort::Zstd3 => 3,
        };
        if self.0.as_ref().is_none_or(|(of, _)| *of != effort) {
            self.0 = zstd::bulk::Compressor::new(level).ok().map(|zstd| (effort, zstd));
        }
        self.0.as_mut().map(|(_, zstd)| zstd)
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("compresses", &self.table.is_some()).finish()
    }
}

/// Decodes a group into `group`, whose length is the group's.
///
/// Allocates nothing that a peer's bytes decide: for [`Codec::Zstd`] the decoder's state of 100 KiB, and no
/// window, since `group` serves as it. What `group` holds after an error is unspecified; what it holds after `Ok` is
/// still to be verified.
///
/// # Errors
/// [`CodecError::Payload`], [`CodecError::Length`] or [`CodecError::Malformed`].
pub fn decode_group(codec: Codec, payload: &[u8], group: &mut [u8]) -> Result<(), CodecError> {
    let expected = group.len();
    if payload.len() > expected {
        return Err(CodecError::Payload { found: payload.len(), max: expected });
    }
    let found = match codec {
        Codec::Raw => {
            group[..payload.len()].copy_from_slice(payload);
            payload.len()
        }
        Codec::Lz4 => {
            decompress_into(payload, group).map_err(|_| CodecError::Malformed { expected })?
        }
        Codec::Zstd => {
            let decoded = zstd::bulk::Decompressor::new()
                .and_then(|mut zstd| zstd.decompress_to_buffer(payload, group));
            decoded.map_err(|_| CodecError::Malformed { expected })?
        }
    };
    if found == expected { Ok(()) } else { Err(CodecError::Length { found, expected }) }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small values of the tests' own making")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: usize = 65_536;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        (0u32..).flat_map(|n| format!("line {n} of a log\n").into_bytes()).take(len).collect()
    }

    /// Returns a compressor for a requester that takes everything, on a link that leaves time for `efforts`
    /// more than the least.
    fn compressor(efforts: u32) -> Compressor {
        let mut compressor = Compressor::new(Probe::Compressible, Codec::ALL);
        for window in 0..2 * u64::from(efforts) {
            // Each effort leaves less than the one before, or it would be taken back.
            let bytes = (1 << 20, (10 - window) << 16);
            compressor.sent(bytes, Duration::ZERO, Duration::MAX);
        }
        compressor
    }

    /// Encodes and decodes a group with LZ4, and returns the codec and the payload's length.
    fn round_trip(group: &[u8]) -> (Codec, usize) {
        round_trip_with(0, group)
    }

    fn round_trip_with(efforts: u32, group: &[u8]) -> (Codec, usize) {
        let mut encoded = vec![1, 2, 3];
        let codec = compressor(efforts).encode_group(group, &mut encoded);
        let payload = if codec == Codec::Raw { group } else { &encoded };
        let mut decoded = vec![0xaa; group.len()];
        assert_eq!(decode_group(codec, payload, &mut decoded), Ok(()));
        assert_eq!(decoded, group);
        (codec, payload.len())
    }

    #[test]
    fn groups_of_every_length_survive_a_round_trip() {
        for len in [0, 1, 2, 12, 13, 100, 4_095, 4_096, GROUP - 1, GROUP] {
            round_trip(&noise(len));
            round_trip(&text(len));
            round_trip(&vec![0; len]);
        }
        assert_eq!(round_trip(&text(GROUP)).0, Codec::Lz4);
    }

    #[test]
    fn slow_link_makes_fewer_bytes_of_the_same_group() {
        let lens: Vec<(Codec, usize)> =
            (0..=3).map(|efforts| round_trip_with(efforts, &text(GROUP))).collect();
        let codecs: Vec<Codec> = lens.iter().map(|(codec, _)| *codec).collect();
        assert_eq!(codecs, [Codec::Lz4, Codec::Zstd, Codec::Zstd, Codec::Zstd]);
        assert!(lens[1].1 < lens[0].1 * 2 / 3, "{lens:?}");
        assert_eq!(lens[2], lens[3], "the third level is the last");
        for efforts in 1..=2 {
            for len in [0, 1, 100, 4_095, GROUP - 1, GROUP] {
                round_trip_with(efforts, &noise(len));
                round_trip_with(efforts, &vec![7; len]);
            }
            assert_eq!(round_trip_with(efforts, &noise(GROUP)), (Codec::Raw, GROUP));
        }
    }

    #[test]
    fn requester_gets_no_codec_that_it_does_not_take() {
        let codec_for = |codecs| {
            let pace = compressor(1).into_pace();
            let mut compressor = Compressor::new(Probe::Compressible, codecs).at_pace(pace);
            compressor.sent((1 << 20, 1), Duration::ZERO, Duration::MAX);
            compressor.encode_group(&text(GROUP), &mut Vec::new())
        };
        let [raw, lz4, zstd] = [Codec::Raw, Codec::Lz4, Codec::Zstd].map(Codec::bit);
        assert_eq!([0, raw, zstd].map(codec_for), [Codec::Raw; 3]);
        assert_eq!(codec_for(raw | lz4), Codec::Lz4);
        assert_eq!(codec_for(raw | lz4 | zstd), Codec::Zstd);
    }

    #[test]
    fn incompressible_group_goes_raw_and_costs_nothing() {
        assert_eq!(round_trip(&noise(GROUP)), (Codec::Raw, GROUP));
        let mut mixed = noise(GROUP);
        // A twenty-fifth of zeros is not worth the receiver's time.
        mixed[..GROUP / 25].fill(0);
        assert_eq!(round_trip(&mixed), (Codec::Raw, GROUP));
        mixed[..GROUP / 15].fill(0);
        assert_eq!(round_trip(&mixed).0, Codec::Lz4);
    }

    #[test]
    fn incompressible_blob_is_not_even_tried() {
        let mut encoded = Vec::new();
        let mut compressor = Compressor::new(Probe::Incompressible, Codec::ALL);
        compressor.sent((1 << 20, 1), Duration::ZERO, Duration::MAX);
        let codec = compressor.encode_group(&text(GROUP), &mut encoded);
        assert_eq!((codec, encoded.capacity()), (Codec::Raw, 0));
    }

    #[test]
    fn one_compressor_encodes_many_groups_independently() {
        let mut compressor = compressor(0);
        let mut encoded = Vec::new();
        for len in [GROUP, 10, GROUP, 4_000, 0, GROUP] {
            let group = text(len);
            if compressor.encode_group(&group, &mut encoded) == Codec::Lz4 {
                let mut decoded = vec![0; len];
                assert_eq!(decode_group(Codec::Lz4, &encoded, &mut decoded), Ok(()));
                assert_eq!(decoded, group);
            }
        }
    }

    #[test]
    fn probe_tells_text_from_noise() {
        let verdict = |blob: &[u8]| {
            let at = |offset: u64| {
                let rest = &blob[offset as usize..];
                &rest[..rest.len().min(PROBE_SAMPLE_LEN)]
            };
            probe(probe_offsets(blob.len() as u64).map(at))
        };
        for len in [1_000, 4_096, 4_097, 100_000, 1_000_000] {
            assert_eq!(verdict(&text(len)), Probe::Compressible, "text of {len}");
            assert_eq!(verdict(&noise(len)), Probe::Incompressible, "noise of {len}");
        }
        assert_eq!(verdict(&[]), Probe::Incompressible);
        assert_eq!(probe([]), Probe::Incompressible);
        // Three samples of noise and one of text shrink to about 80 %.
        let mut mostly_noise = noise(16_384);
        mostly_noise[..4_096].copy_from_slice(&text(4_096));
        assert_eq!(verdict(&mostly_noise), Probe::Compressible);
    }

    #[test]
    fn probe_looks_at_no_more_than_it_promises() {
        let (zeros, noise) = ([0; PROBE_SAMPLE_LEN], noise(2 * PROBE_SAMPLE_LEN));
        let mut long = zeros.to_vec();
        long.extend_from_slice(&noise);
        assert_eq!(probe([&long[..]; PROBE_SAMPLES]), Probe::Compressible);
        let mut many = vec![&zeros[..]; PROBE_SAMPLES];
        many.extend([&noise[..]; 100]);
        assert_eq!(probe(many), Probe::Compressible);
    }

    #[test]
    fn probe_offsets_stay_inside_the_blob() {
        assert_eq!(probe_offsets(0), [0; 4]);
        assert_eq!(probe_offsets(4_096), [0; 4]);
        assert_eq!(probe_offsets(16_384), [0, 4_096, 8_192, 12_288]);
        for size in [4_097, 65_537, u64::MAX] {
            let [first, .., last] = probe_offsets(size);
            assert!(first == 0 && last <= size - PROBE_SAMPLE_LEN as u64, "size {size}");
        }
    }

    #[test]
    fn bomb_stops_at_the_end_of_the_group() {
        let bomb = lz4_flex::block::compress(&vec![0; 16 << 20]);
        let mut group = vec![0; GROUP];
        let cut = &bomb[..GROUP];
        let expected = CodecError::Malformed { expected: GROUP };
        assert_eq!(decode_group(Codec::Lz4, cut, &mut group), Err(expected));
        let whole = decode_group(Codec::Lz4, &bomb, &mut group);
        assert_eq!(whole, Err(CodecError::Payload { found: bomb.len(), max: GROUP }));
    }

    #[test]
    fn zstd_bomb_stops_at_the_end_of_the_group() {
        let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 3).expect("compresses");
        assert!(bomb.len() < GROUP);
        let mut group = vec![0; GROUP];
        let expected = CodecError::Malformed { expected: GROUP };
        assert_eq!(decode_group(Codec::Zstd, &bomb, &mut group), Err(expected));
        let short = zstd::bulk::compress(&text(GROUP - 1), 1).expect("compresses");
        let length = CodecError::Length { found: GROUP - 1, expected: GROUP };
        assert_eq!(decode_group(Codec::Zstd, &short, &mut group), Err(length));
        // A frame that claims a window of 2 GiB, and 2^62 bytes.
        let claims = [0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0];
        assert!(decode_group(Codec::Zstd, &claims, &mut group).is_err());
    }

    #[test]
    fn truncated_zstd_frame_never_decodes_to_the_group() {
        let frame = zstd::bulk::compress(&text(GROUP), 1).expect("compresses");
        let mut group = vec![0; GROUP];
        for cut in (0..frame.len()).step_by(97) {
            assert!(decode_group(Codec::Zstd, &frame[..cut], &mut group).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn payload_of_another_length_is_refused() {
        let mut group = [0; 100];
        let short = lz4_flex::block::compress(&[7; 99]);
        let long = lz4_flex::block::compress(&[7; 101]);
        let length = Err(CodecError::Length { found: 99, expected: 100 });
        assert_eq!(decode_group(Codec::Lz4, &short, &mut group), length);
        assert_eq!(decode_group(Codec::Raw, &[7; 99], &mut group), length);
        let malformed = Err(CodecError::Malformed { expected: 100 });
        assert_eq!(decode_group(Codec::Lz4, &long, &mut group), malformed);
        let payload = Err(CodecError::Payload { found: 101, max: 100 });
        assert_eq!(decode_group(Codec::Raw, &[7; 101], &mut group), payload);
    }

    #[test]
    fn truncated_block_never_decodes_to_the_group() {
        let block = lz4_flex::block::compress(&text(GROUP));
        let mut group = vec![0; GROUP];
        for cut in 0..block.len() {
            assert!(decode_group(Codec::Lz4, &block[..cut], &mut group).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn codec_numbers_are_those_of_the_wire() {
        for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
            assert_eq!(Codec::try_from(codec.number()), Ok(codec));
        }
        assert_eq!((Codec::Raw.bit(), Codec::Lz4.bit(), Codec::Zstd.bit()), (1, 2, 4));
        for found in 3..=u8::MAX {
            assert_eq!(Codec::try_from(found), Err(CodecError::Unknown { found }));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn garbage_never_panics(
            payload in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..2_000,
        ) {
            let mut group = vec![0; len];
            decode_group(Codec::Lz4, &payload, &mut group).ok();
            decode_group(Codec::Raw, &payload, &mut group).ok();
            decode_group(Codec::Zstd, &payload, &mut group).ok();
        }

        #[test]
        fn damaged_block_fills_the_group_or_fails(at: prop::sample::Index, bit in 0u8..8) {
            let mut block = lz4_flex::block::compress(&text(4_096));
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            let mut group = vec![0; 4_096];
            decode_group(Codec::Lz4, &block, &mut group).ok();
            let mut frame = zstd::bulk::compress(&text(4_096), 1).expect("compresses");
            let at = at % frame.len();
            frame[at] ^= 1 << bit;
            decode_group(Codec::Zstd, &frame, &mut group).ok();
        }

        #[test]
        fn any_group_survives_a_round_trip(
            group in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2_000),
        ) {
            let (_, len) = round_trip(&group);
            prop_assert!(len <= group.len());
        }
    }
}
