//! Deltas: cuts, maps, plans and edges, and that whatever they say a blob is made right or not at all.

#![allow(clippy::cast_possible_truncation, reason = "the blobs of tests are short")]

use std::ops::Range;

use blobmesh_protocol::Hash;
use blobmesh_protocol::blob::{BlobHasher, GROUP_LEN, GroupList, group_count};
use blobmesh_protocol::delta::map::{ENTRY_LEN, push_entry};
use blobmesh_protocol::delta::plan::range_of;
use blobmesh_protocol::delta::{
    BaseMap, Batch, Cutter, MapBuilder, MapError, Plan, Stretch, StretchMap, edges, is_worth,
    same_groups, wants_map,
};
use fastcdc::v2020::get_gear_with_seed;
use proptest::prelude::*;

const KIB: usize = 1024;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut bytes);
    bytes
}

fn list_of(bytes: &[u8]) -> GroupList {
    let mut hasher = BlobHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn stretches(bytes: &[u8], size: usize) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let done = Cutter::of(size as u64).cut(bytes, true, |stretch| stretches.push(stretch));
    assert_eq!(done, bytes.len());
    stretches
}

fn map_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut map = Vec::new();
    stretches(bytes, bytes.len()).into_iter().for_each(|stretch| push_entry(stretch, &mut map));
    map
}

fn read_map(size: usize, map: &[u8]) -> Result<StretchMap, MapError> {
    let mut builder = MapBuilder::new(size as u64);
    // Pieces that end inside of entries.
    map.chunks(1_000).try_for_each(|piece| builder.push(piece))?;
    builder.finish()
}

fn base_map(base: &[u8], size: usize) -> BaseMap {
    let mut map = BaseMap::default();
    stretches(base, size).into_iter().for_each(|stretch| map.push(stretch));
    map.sorted()
}

fn slice(bytes: &[u8], range: &Range<u64>) -> Vec<u8> {
    bytes[range.start as usize..range.end as usize].to_vec()
}

/// What an honest provider sends of the blob for a batch.
fn fetch(blob: &[u8], batch: &Batch) -> Vec<u8> {
    batch.fetched.iter().flat_map(|range| slice(blob, range)).collect()
}

/// What came of carrying out a plan.
struct Made {
    bytes: Vec<u8>,
    fetched: u64,
    wrong: u64,
    left: u64,
}

/// Carries out a plan as a node does: each group is verified, and what fails or is left comes whole.
fn carry_out(plan: &Plan, blob: &[u8], base: &[u8], whole: bool) -> Made {
    let list = list_of(blob);
    let groups = group_count(blob.len() as u64);
    let mut made = Made { bytes: blob.to_vec(), fetched: 0, wrong: 0, left: groups };
    made.bytes.fill(0);
    for batch in plan.batches(0..groups, whole) {
        let received = fetch(blob, &batch);
        made.fetched += received.len() as u64;
        let mut received = received.into_iter();
        for index in batch.groups {
            let range = range_of(plan.size(), index);
            let mut group = Vec::new();
            for part in plan.parts(range.clone()) {
                match part.base {
                    Some(at) => {
                        let from = (at as usize).min(base.len());
                        let to = (from + part.len as usize).min(base.len());
                        group.extend_from_slice(&base[from..to]);
                    }
                    None => group.extend(received.by_ref().take(part.len as usize)),
                }
            }
            made.left -= 1;
            let right = list.verify(index, &group).is_ok();
            made.wrong += u64::from(!right);
            if !right {
                group = slice(blob, &range);
            }
            made.bytes[range.start as usize..range.end as usize].copy_from_slice(&group);
        }
        assert_eq!(received.next(), None, "nothing is fetched that nobody needs");
    }
    made
}

/// Trims a plan by what both ends of its ranges are, as an honest provider tells.
fn trim(plan: &Plan, blob: &[u8], base: &[u8]) -> Plan {
    let cutter = Cutter::of(blob.len() as u64);
    let of = |edge: &edges::Edge| {
        let (head, tail) = edges::ends_of(&edge.range, cutter);
        let mut keys = Vec::new();
        edges::push_keys(&slice(blob, &head), &slice(blob, &tail), &mut keys);
        let len = edge.range.end - edge.range.start;
        assert_eq!(keys.len() as u64, edges::keys_len(len, cutter));
        let span = head.end - head.start;
        let end = base.len() as u64;
        let after = edge.after.min(end)..(edge.after + span).min(end);
        let before = edge.before.saturating_sub(span)..edge.before;
        edges::matching(len, &keys, &slice(base, &after), &slice(base, &before))
    };
    let edges = plan.edges(base.len() as u64);
    let trims: Vec<_> = edges.into_iter().map(|edge| (edge.clone(), of(&edge))).collect();
    plan.trimmed(&trims)
}

fn plan(blob: &[u8], base: &[u8]) -> Plan {
    let map = read_map(blob.len(), &map_bytes(blob)).expect("an honest map");
    Plan::new(&map, &base_map(base, blob.len()))
}

/// Replaces, inserts and removes.
fn edited(base: &[u8], edits: &[(u8, u32, u16)]) -> Vec<u8> {
    let mut blob = base.to_vec();
    for (number, (kind, at, len)) in edits.iter().enumerate() {
        let at = *at as usize % (blob.len() + 1);
        let len = *len as usize;
        let end = (at + len).min(blob.len());
        let new = noise(number as u64 + 1, len);
        match kind % 3 {
            0 => drop(blob.splice(at..end, new[..end - at].iter().copied())),
            1 => drop(blob.splice(at..at, new)),
            _ => drop(blob.drain(at..end)),
        }
    }
    blob
}

#[test]
fn stretches_are_within_their_bounds_and_do_not_depend_on_the_pieces_they_are_cut_of() {
    let bytes = [noise(1, 3_000_000), vec![0; 400_000], noise(2, 100)].concat();
    let cutter = Cutter::of(bytes.len() as u64);
    assert_eq!((cutter.min(), cutter.average(), cutter.max()), (4_096, 16_384, 65_536));
    let whole = stretches(&bytes, bytes.len());
    let (last, others) = whole.split_last().expect("some");
    let legal = |stretch: &&Stretch| (4_096..=65_536).contains(&stretch.len);
    assert!(others.iter().all(|stretch| legal(&stretch)) && last.len <= 65_536);
    let mean = bytes.len() / whole.len();
    assert!((10_000..25_000).contains(&mean), "{mean}");
    let (mut pieces, mut rest) = (Vec::new(), Vec::new());
    for (number, piece) in bytes.chunks(70_001).enumerate() {
        rest.extend_from_slice(piece);
        let is_end = (number + 1) * 70_001 >= bytes.len();
        let done = cutter.cut(&rest, is_end, |stretch| pieces.push(stretch));
        rest.drain(..done);
    }
    assert_eq!(pieces, whole);
}

#[test]
fn stretches_are_those_of_the_specification() {
    let mut bytes = vec![0; 1_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let lens: Vec<String> =
        stretches(&bytes, bytes.len()).iter().map(|stretch| stretch.len.to_string()).collect();
    let lines: Vec<String> = lens.chunks(14).map(|lens| lens.join(" ")).collect();
    let listed = format!("{}\n{}", lines.join("\n"), Hash::of(&map_bytes(&bytes)).to_hex());
    let spec = include_str!("../SPEC.md");
    assert!(spec.contains(&format!("```text\n{listed}\n```")), "SPEC.md should list\n{listed}");
}

/// The rule of the specification, with the table of numbers that the crate has made of the same source.
fn cut_by_the_specification(bytes: &[u8], average: usize) -> Vec<usize> {
    let spec = include_str!("../SPEC.md");
    let thousands = format!("| {},{:03} | ", average / 1_000, average % 1_000);
    let row = spec.lines().find_map(|line| line.strip_prefix(&thousands)).expect("a row of masks");
    let mask = |digits: &str| u64::from_str_radix(digits.trim(), 16).expect("digits");
    let masks: Vec<u64> = row.trim_end_matches(" |").split(" | ").map(mask).collect();
    let (gear, _) = get_gear_with_seed(0);
    let (mut rest, mut lens) = (bytes, Vec::new());
    while !rest.is_empty() {
        let n = rest.len().min(4 * average);
        let (mut h, mut len) = (0_u64, n);
        for i in average / 4..(n - n % 2).max(average / 4) {
            h = h.wrapping_mul(2).wrapping_add(gear[usize::from(rest[i])]);
            if h & masks[usize::from(i >= average)] == 0 {
                len = i;
                break;
            }
        }
        lens.push(len);
        rest = &rest[len..];
    }
    lens
}

#[test]
fn stretches_are_cut_by_the_rule_of_the_specification() {
    for (size, average) in
        [(1, 16_384), (2 << 30, 32_768), (5 << 30, 65_536), (1 << 35, 131_072), (1 << 40, 262_144)]
    {
        for len in [4_095, 4_097, 16_385, 999_999] {
            let bytes = noise(size, len);
            let lens: Vec<usize> = stretches(&bytes, size as usize)
                .iter()
                .map(|stretch| stretch.len as usize)
                .collect();
            assert_eq!(lens, cut_by_the_specification(&bytes, average), "{average} {len}");
        }
    }
}

#[test]
fn stretches_grow_with_the_blob_so_that_its_map_stays_small() {
    for (size, average) in [
        (0, 16),
        (1 << 30, 16),
        ((1 << 30) + 1, 32),
        (4 << 30, 32),
        (5 << 30, 64),
        (64 << 30, 128),
        (u64::MAX, 256),
    ] {
        let cutter = Cutter::of(size);
        assert_eq!(cutter.average(), average << 10, "{size}");
        if size > 1 << 30 {
            // Three entries in ten thousand bytes.
            assert!(ENTRY_LEN * 10_000 < cutter.average() * 3);
        }
    }
    assert!(Cutter::of(u64::MAX).max() < 1 << 24, "lengths have three bytes");
}

#[test]
fn insertion_moves_the_cuts_behind_it() {
    let base = noise(1, 2_000_000);
    let blob = [&base[..1_000], &noise(2, 1_000), &base[1_000..]].concat();
    let plan = plan(&blob, &base);
    assert!(plan.fetched() <= 2 * 65_536, "{}", plan.fetched());
    let made = carry_out(&plan, &blob, &base, true);
    assert!(made.bytes == blob && made.wrong == 0 && made.left == 0);
    assert_eq!(made.fetched, plan.fetched());
    // What is new begins and ends within a block of what is copied.
    let trimmed = trim(&plan, &blob, &base);
    assert!(trimmed.fetched() <= 1_000 + 2 * 1_024, "{}", trimmed.fetched());
    let made = carry_out(&trimmed, &blob, &base, true);
    assert!(made.bytes == blob && made.wrong == 0);
}

#[test]
fn replaced_and_removed_bytes_at_the_ends_are_trimmed_too() {
    let base = noise(1, 1_000_000);
    let mut blob = base.clone();
    blob[..5_000].copy_from_slice(&noise(2, 5_000));
    blob[995_000..].copy_from_slice(&noise(3, 5_000));
    blob.drain(500_000..500_100);
    let plan = plan(&blob, &base);
    let trimmed = trim(&plan, &blob, &base);
    assert!(trimmed.fetched() <= 10_000 + 4 * 1_024, "{} {}", plan.fetched(), trimmed.fetched());
    let made = carry_out(&trimmed, &blob, &base, true);
    assert!(made.bytes == blob && made.wrong == 0);
}

#[test]
fn what_repeats_is_copied_from_where_it_goes_on() {
    let unit = noise(1, 300_000);
    let base = unit.repeat(5);
    let plan = plan(&base, &base);
    assert_eq!(plan.pieces().len(), 1, "{:?}", plan.pieces());
}

#[test]
fn group_of_which_the_base_has_nothing_is_left_unless_all_is_to_be_fetched() {
    let base = noise(1, 1_000_000);
    let blob = [&base[..500_000], &noise(2, 500_000), &base[500_000..]].concat();
    let plan = plan(&blob, &base);
    let made = carry_out(&plan, &blob, &base, false);
    assert!(made.left >= 6 && made.fetched < plan.fetched(), "{}", made.left);
    assert_eq!(carry_out(&plan, &blob, &base, true).left, 0);
}

#[test]
fn batches_are_bounded_and_their_ranges_apart() {
    // Every other stretch is there.
    let blob = noise(1, 40 << 20);
    let mut base = BaseMap::default();
    for (number, stretch) in stretches(&blob, blob.len()).into_iter().enumerate() {
        let key = if number % 2 == 0 { stretch.key } else { 0 };
        base.push(Stretch { key, ..stretch });
    }
    let map = read_map(blob.len(), &map_bytes(&blob)).expect("an honest map");
    let plan = Plan::new(&map, &base.sorted());
    let mut groups = Vec::new();
    for batch in plan.batches(0..group_count(blob.len() as u64), true) {
        assert!(batch.bytes() <= (4 << 20) + GROUP_LEN, "{}", batch.bytes());
        assert!(batch.groups.len() <= 256 && batch.fetched.len() <= 1_024);
        assert!(batch.fetched.windows(2).all(|two| two[0].end < two[1].start));
        groups.extend(batch.groups);
    }
    assert!(groups.into_iter().eq(0..group_count(blob.len() as u64)));
}

#[test]
fn groups_at_the_same_place_are_found_by_the_lists_alone() {
    let base = noise(1, 10 * 64 * KIB + 5);
    let mut blob = base.clone();
    blob[3 * 64 * KIB] ^= 1;
    blob.truncate(8 * 64 * KIB + 1);
    assert_eq!(same_groups(&list_of(&blob), &list_of(&base)), [0..3, 4..8]);
    assert_eq!(same_groups(&list_of(&base), &list_of(&base)), std::slice::from_ref(&(0..11)));
    assert_eq!(same_groups(&list_of(b"x"), &list_of(&base)), []);
}

#[test]
fn hostile_maps_are_refused() {
    let blob = noise(1, 500_000);
    let honest = map_bytes(&blob);
    assert!(read_map(blob.len(), &honest).is_ok());
    assert_eq!(read_map(blob.len(), &honest[..honest.len() - 1]), Err(MapError::Cut));
    let short = &honest[..honest.len() - ENTRY_LEN as usize];
    assert!(matches!(read_map(blob.len(), short), Err(MapError::Size { .. })));
    let entries = |lens: &[u32]| {
        let mut map = Vec::new();
        lens.iter().for_each(|len| push_entry(Stretch { key: 1, len: *len }, &mut map));
        map
    };
    let size = 300_000;
    for (lens, error) in [
        (&[0][..], MapError::Len { len: 0 }),
        (&[4_095, 65_536][..], MapError::Len { len: 4_095 }),
        (&[65_537][..], MapError::Len { len: 65_537 }),
        (&[0xff_ffff][..], MapError::Len { len: 0xff_ffff }),
        (&[65_536; 5][..], MapError::Size { found: 327_680, size }),
        (&[65_536; 4][..], MapError::Size { found: 262_144, size }),
        (&[][..], MapError::Size { found: 0, size }),
    ] {
        assert_eq!(read_map(size as usize, &entries(lens)), Err(error), "{lens:?}");
    }
    // No more than fit, however long a provider goes on: lengths within their bounds reach the size before.
    assert!(read_map(size as usize, &entries(&[4_096; 74])).is_err());
}

#[test]
fn lying_map_costs_groups_and_nothing_else() {
    let base = noise(1, 1_000_000);
    let blob = noise(2, 1_000_000);
    // The blob is none of the base's, but the map says that it is all of it.
    let map = read_map(blob.len(), &map_bytes(&base)).expect("a legal map");
    let plan = Plan::new(&map, &base_map(&base, blob.len()));
    assert_eq!(plan.fetched(), 0);
    let made = carry_out(&plan, &blob, &base, true);
    assert_eq!(made.wrong, group_count(blob.len() as u64));
    assert!(made.bytes == blob);
}

#[test]
fn keys_that_are_missing_or_wrong_trim_nothing() {
    let (head, tail) = (noise(1, 4_096), noise(2, 4_096));
    let mut keys = Vec::new();
    edges::push_keys(&head, &tail, &mut keys);
    assert_eq!(edges::matching(10_000, &keys, &head, &tail), (4_096, 4_096));
    assert_eq!(edges::matching(5_000, &keys, &head, &tail), (4_096, 904), "they never overlap");
    assert_eq!(edges::matching(10_000, &keys, &head[..4_095], &tail[1_000..]), (3_072, 3_072));
    assert_eq!(edges::matching(10_000, &[], &head, &tail), (0, 0));
    keys[0] ^= 1;
    assert_eq!(edges::matching(10_000, &keys, &head, &tail), (0, 4_096));
}

#[test]
fn delta_is_worth_it_for_long_blobs_with_a_base_of_their_kind() {
    assert!(is_worth(1 << 20, 1 << 20) && is_worth(1 << 30, 256 << 20));
    for (size, base) in [(1 << 20, 0), (262_143, 1 << 20), (1 << 20, 262_143), (9 << 20, 1 << 20)] {
        assert!(!is_worth(size, base), "{size} {base}");
    }
    assert!(wants_map(256 << 20, 5 << 20) && !wants_map(256 << 20, 500_000));
    assert!(!wants_map(u64::MAX, u64::MAX), "there is a bound to maps");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_edited_the_blob_is_made_right(
        len in 300_000usize..1_500_000,
        edits in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u16>()), 0..8),
        whole in any::<bool>(),
        trims in any::<bool>(),
    ) {
        let base = noise(0, len);
        let blob = edited(&base, &edits);
        prop_assume!(!blob.is_empty());
        let mut plan = plan(&blob, &base);
        if trims {
            plan = trim(&plan, &blob, &base);
        }
        prop_assert_eq!(plan.size(), blob.len() as u64);
        let mut made = carry_out(&plan, &blob, &base, whole);
        prop_assert_eq!(made.wrong, 0);
        if whole {
            prop_assert_eq!(made.fetched, plan.fetched());
        } else {
            // The rest comes as ever.
            for index in 0..group_count(blob.len() as u64) {
                let range = range_of(plan.size(), index);
                if plan.parts(range.clone()).all(|part| part.base.is_none()) {
                    let (from, to) = (range.start as usize, range.end as usize);
                    made.bytes[from..to].copy_from_slice(&blob[from..to]);
                }
            }
        }
        prop_assert!(made.bytes == blob);
    }

    #[test]
    fn whatever_a_map_says_nothing_but_the_blob_is_made(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        lens in prop::collection::vec(4_000u32..66_000, 0..40),
    ) {
        read_map(500_000, &bytes).ok();
        let base = noise(1, 500_000);
        let of_base = stretches(&base, 500_000);
        let mut map = Vec::new();
        for (number, len) in lens.iter().enumerate() {
            let key = of_base[number * 7 % of_base.len()].key;
            push_entry(Stretch { key, len: *len }, &mut map);
        }
        let size: u32 = lens.iter().sum();
        if let Ok(map) = read_map(size as usize, &map) {
            let blob = noise(2, size as usize);
            let plan = Plan::new(&map, &base_map(&base, blob.len()));
            let made = carry_out(&plan, &blob, &base, true);
            prop_assert!(made.bytes == blob);
        }
    }
}
