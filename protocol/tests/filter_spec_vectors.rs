//! The blobs and filters of SPEC.md: that the specification says what this crate does.
//!
//! The bits of filters are computed here once more, from the specification's text alone.

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::BlobHasher;
use blobmesh_protocol::filter::{
    FILTER_DELTA_MAX, FILTER_HASHES_MAX, FILTER_LEN_MAX, FILTER_PASS_MAX, FILTER_SEED,
    FILTER_SEED_TEXT, OwnFilter,
};

const SPEC: &str = include_str!("../SPEC.md");

#[test]
fn specification_lists_the_vectors_that_the_code_gives() {
    let vectors = vectors().join("\n");
    let (_, part) = SPEC.split_once("\n### 15.1 Blobs and filters\n").expect("part 15.1");
    let (_, block) = part.split_once("```text\n").expect("a block of vectors");
    let (listed, _) = block.split_once("```").expect("the block's end");
    assert!(listed.trim_end() == vectors, "SPEC.md should list these vectors:\n{vectors}\n");
}

#[test]
fn specification_names_the_bounds_of_the_code() {
    let thousands = |value: usize| {
        let digits = value.to_string().into_bytes();
        let groups: Vec<_> = digits.rchunks(3).rev().map(String::from_utf8_lossy).collect();
        groups.join(",")
    };
    for row in [
        format!("| bitmap of a filter | {} bytes |", thousands(FILTER_LEN_MAX)),
        format!("| hash functions of a filter | {FILTER_HASHES_MAX} |"),
        format!("| fill of a filter | `fill^hashes` ≤ {FILTER_PASS_MAX} |"),
        format!("| prefixes in a FilterDelta | {} |", thousands(FILTER_DELTA_MAX)),
        format!("the BLAKE3 hash of the ASCII text `{FILTER_SEED_TEXT}`"),
    ] {
        assert!(SPEC.contains(&row), "SPEC.md lacks: {row}");
    }
}

fn vectors() -> Vec<String> {
    [blob_vectors(), filter_vectors()].concat()
}

fn blob_vectors() -> Vec<String> {
    let sizes = [0, 1, 1_023, 1_024, 1_025, 65_535, 65_536, 65_537, 131_072, 131_073, 196_609];
    let vector = |size: usize| {
        let mut hasher = BlobHasher::new();
        hasher.update(&(0..251u8).cycle().take(size).collect::<Vec<_>>());
        let list = hasher.finish();
        let file = list.to_file();
        let file_hash = Hash::of(&file);
        [
            format!("blob {size}: {}", list.hash()),
            format!("blob {size}, groups file: {} bytes, {file_hash}", file.len()),
        ]
    };
    sizes.into_iter().flat_map(vector).collect()
}

fn item(number: u32) -> Hash {
    Hash::of(&number.to_le_bytes())
}

fn filter() -> OwnFilter {
    let items: Vec<_> = (0..10).map(|number| item(number).prefix()).collect();
    let mut filter = OwnFilter::build(7, items.into_iter());
    (10..12).for_each(|number| assert!(!filter.insert(item(number).prefix())));
    filter
}

fn filter_vectors() -> Vec<String> {
    let frame = filter().frame().expect("not overfull");
    let body = postcard::to_allocvec(&frame).expect("encode");
    let bits = u64::try_from(frame.bits.len()).expect("small") * 8;
    let positions = positions(item(0).prefix(), frame.hashes, bits);
    vec![
        format!("filter seed: {}", hex(&FILTER_SEED)),
        format!("item 0, prefix: {}", hex(&item(0).prefix())),
        format!("item 0, positions for m = {bits}, k = {}: {positions:?}", frame.hashes),
        format!("filter, bitmap: {} bytes, {}", frame.bits.len(), Hash::of(&frame.bits)),
        format!("filter, sequence {}, count {}", frame.sequence, frame.count),
        format!("filter, body: {} bytes, {}", body.len(), Hash::of(&body)),
    ]
}

#[test]
fn bits_are_where_the_specification_puts_them() {
    let frame = filter().frame().expect("not overfull");
    let mut bits = vec![0u8; frame.bits.len()];
    let m = u64::try_from(bits.len()).expect("small") * 8;
    for number in 0..12 {
        for position in positions(item(number).prefix(), frame.hashes, m) {
            bits[usize::try_from(position / 8).expect("small")] |= 1 << (position % 8);
        }
    }
    assert_eq!(bits, frame.bits);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The positions of SPEC.md, part 9.1.
fn positions(prefix: [u8; 8], hashes: u8, m: u64) -> Vec<u64> {
    let half = |from: usize| FILTER_SEED[from..from + 16].try_into().expect("16 bytes");
    let (h0, h1) = (siphash_1_3(half(0), prefix), siphash_1_3(half(16), prefix));
    let position = |i: u8| match i {
        0 => h0 % m,
        1 => h1 % m,
        _ => h0.wrapping_add(u64::from(i).wrapping_mul(h1)) % 0xffff_ffff_ffff_ffc5 % m,
    };
    (0..hashes).map(position).collect()
}

/// SipHash of one word with one round for the message and three for the end (Aumasson, Bernstein:
/// "SipHash: a fast short-input PRF").
fn siphash_1_3(key: [u8; 16], message: [u8; 8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(key[at..at + 8].try_into().expect("8 bytes"));
    let (k0, k1) = (word(0), word(8));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The message is 8 bytes: one whole word, and a last one of its length alone.
    for word in [u64::from_le_bytes(message), 8 << 56] {
        v[3] ^= word;
        sip_round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..3).for_each(|_| sip_round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}
