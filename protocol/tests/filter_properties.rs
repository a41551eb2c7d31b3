//! What filters promise: no false negatives, few false positives, deltas as good as the whole.

use blobmesh_protocol::Hash;
use blobmesh_protocol::filter::{
    FILTER_DELTA_MAX, FILTER_FALSE_POSITIVES, FILTER_SEED, FilterError, OwnFilter, PeerFilter,
};
use bloomfilter::Bloom;
use proptest::prelude::*;

/// Returns the hash number `number` of a series; a series has no hash in common with another.
fn hash(series: u32, number: u32) -> Hash {
    let text: [u8; 8] = std::array::from_fn(|at| match at {
        0..4 => series.to_le_bytes()[at],
        _ => number.to_le_bytes()[at - 4],
    });
    Hash::of(&text)
}

fn prefixes(series: u32, count: u32) -> Vec<[u8; 8]> {
    (0..count).map(|number| hash(series, number).prefix()).collect()
}

fn filter_of(count: u32) -> OwnFilter {
    OwnFilter::build(1, prefixes(0, count).into_iter())
}

fn accepted(filter: &OwnFilter) -> PeerFilter {
    PeerFilter::accept(filter.frame().expect("not overfull")).expect("an honest filter")
}

/// Returns the share of absent hashes that the filter lets through.
fn false_positives(filter: &PeerFilter, asked: u32) -> f64 {
    let passed = (0..asked).filter(|number| filter.may_hold(&hash(1, *number))).count();
    f64::from(u32::try_from(passed).expect("few")) / f64::from(asked)
}

#[test]
fn false_positives_keep_to_the_target_at_full_capacity() {
    // Counts just below the capacities, where a filter is at its fullest.
    for (built, capacity) in [(0, 1_024u32), (10_000, 16_384), (80_000, 131_072)] {
        let mut filter = filter_of(built);
        let mut outgrown = false;
        (built..capacity).for_each(|number| outgrown |= filter.insert(hash(0, number).prefix()));
        assert!(!outgrown, "{capacity} blobs are within the capacity");
        let rate = false_positives(&accepted(&filter), 100_000);
        assert!(rate <= 1.3 * FILTER_FALSE_POSITIVES, "{capacity} blobs: {rate}");
        assert!(rate >= 0.7 * FILTER_FALSE_POSITIVES, "{capacity} blobs: {rate}, a wasted filter");
    }
}

#[test]
fn false_positives_stay_below_the_target_after_a_build() {
    for count in [1_000, 10_000, 100_000] {
        let rate = false_positives(&accepted(&filter_of(count)), 100_000);
        assert!(rate <= FILTER_FALSE_POSITIVES, "{count} blobs: {rate}");
    }
}

/// Why the seed's halves have to differ: with equal ones the second hash function is the first.
#[test]
fn seed_of_equal_halves_lets_through_several_times_as_much() {
    let rate_with = |seed: &[u8; 32]| {
        let mut bloom: Bloom<[u8; 8]> =
            Bloom::new_for_fp_rate_with_seed(10_000, FILTER_FALSE_POSITIVES, seed).expect("sizes");
        prefixes(0, 10_000).iter().for_each(|prefix| bloom.set(prefix));
        let passed = prefixes(1, 100_000).iter().filter(|prefix| bloom.check(prefix)).count();
        f64::from(u32::try_from(passed).expect("few")) / 100_000.0
    };
    let (ours, trapped) = (rate_with(&FILTER_SEED), rate_with(&[7; 32]));
    assert!(ours <= 1.3 * FILTER_FALSE_POSITIVES, "{ours}");
    assert!(trapped >= 3.0 * FILTER_FALSE_POSITIVES, "{trapped}");
}

#[test]
fn filter_of_ten_blobs_is_cheap() {
    let frame = filter_of(10).frame().expect("not overfull");
    let encoded = postcard::to_allocvec(&frame).expect("encode");
    assert!(encoded.len() <= 1_280, "{} bytes", encoded.len());
    assert_eq!((frame.generation, frame.sequence, frame.count), (1, 0, 10));
}

#[test]
fn empty_filter_rules_everything_out() {
    let filter = accepted(&filter_of(0));
    assert_eq!(filter.count(), 0);
    assert!(!(0..1_000).any(|number| filter.may_hold(&hash(1, number))));
}

#[test]
fn filter_past_its_capacity_asks_to_be_rebuilt() {
    let mut filter = filter_of(0);
    let asked_at = (0..2_000).find(|number| filter.insert(hash(0, *number).prefix()));
    // The 1,025th prefix that sets a new bit; about one in a hundred sets none by then.
    assert!(asked_at.is_some_and(|at| (1_024..1_040).contains(&at)), "at {asked_at:?}");
    let rebuilt = OwnFilter::build(2, prefixes(0, 1_100).into_iter());
    assert_eq!((rebuilt.generation(), rebuilt.sequence()), (2, 0));
}

#[test]
fn known_prefix_is_not_gossiped_again() {
    let mut filter = filter_of(10);
    assert!(!filter.insert(hash(0, 3).prefix()));
    assert_eq!((filter.count(), filter.sequence()), (10, 0));
}

#[test]
fn delta_brings_a_neighbour_to_what_a_rebuild_gives() {
    let mut own = filter_of(1_000);
    let mut peer = accepted(&own);
    (1_000..1_050).for_each(|number| assert!(!own.insert(hash(0, number).prefix())));
    let delta = own.delta_since(1, 0).expect("short enough");
    assert_eq!(delta.prefixes.len(), usize::try_from(own.sequence()).expect("few"));
    peer.apply(&delta).expect("it continues");
    assert_eq!((peer.generation(), peer.sequence()), (own.generation(), own.sequence()));
    assert_eq!(peer.count(), own.count());

    let rebuilt = accepted(&filter_of(1_050));
    assert_eq!(peer.count(), rebuilt.count());
    for number in 0..50_000 {
        assert_eq!(peer.may_hold(&hash(0, number)), rebuilt.may_hold(&hash(0, number)));
    }
    assert_eq!(own.frame().map(|frame| frame.bits), filter_of(1_050).frame().map(|f| f.bits));
}

#[test]
fn delta_that_does_not_continue_is_stale_and_changes_nothing() {
    let mut own = filter_of(1_000);
    let mut peer = accepted(&own);
    (1_000..1_020).for_each(|number| assert!(!own.insert(hash(0, number).prefix())));
    let whole = own.delta_since(1, 0).expect("short enough");
    let mut gap = whole.clone();
    gap.from_sequence = 5;
    let mut other_generation = whole.clone();
    other_generation.generation = 2;
    for delta in [gap, other_generation] {
        let refused = peer.apply(&delta);
        assert!(refused.as_ref().is_err_and(FilterError::is_stale), "{refused:?}");
        assert_eq!((peer.sequence(), peer.count()), (0, 1_000));
    }
    peer.apply(&whole).expect("it continues");
    assert!(peer.apply(&whole).is_err_and(|error| error.is_stale()), "a doubled delta");
}

#[test]
fn neighbour_too_far_behind_needs_the_whole_filter() {
    let mut own = filter_of(0);
    // A quarter of the 1,227 bytes are 38 prefixes.
    (0..39).for_each(|number| assert!(!own.insert(hash(0, number).prefix())));
    assert_eq!(own.delta_since(1, 0), None, "39 prefixes");
    assert!(own.delta_since(1, 1).is_some_and(|delta| delta.prefixes.len() == 38));
    assert!(own.delta_since(1, 39).is_some_and(|delta| delta.prefixes.is_empty()), "up to date");
    assert_eq!(own.delta_since(1, 40), None, "ahead of us");
    assert_eq!(own.delta_since(0, 39), None, "of another generation");
}

#[test]
fn only_the_latest_prefixes_are_remembered() {
    let mut own = filter_of(200_000);
    let added = u32::try_from(FILTER_DELTA_MAX).expect("small") + 100;
    (0..added).for_each(|number| assert!(!own.insert(hash(2, number).prefix())));
    let oldest = own.sequence() - u64::try_from(FILTER_DELTA_MAX).expect("small");
    let delta = own.delta_since(1, oldest).expect("remembered");
    assert_eq!(delta.prefixes.len(), FILTER_DELTA_MAX);
    assert_eq!(delta.prefixes.last(), Some(&hash(2, added - 1).prefix()));
    assert_eq!(own.delta_since(1, oldest - 1), None, "forgotten");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn held_blob_is_never_ruled_out(
        built in prop::collection::vec(any::<[u8; 32]>(), 0..300),
        added in prop::collection::vec(any::<[u8; 32]>(), 0..30),
    ) {
        let hashes = |bytes: &[[u8; 32]]| -> Vec<Hash> {
            bytes.iter().copied().map(Hash::from_bytes).collect()
        };
        let (built, added) = (hashes(&built), hashes(&added));
        let prefixes: Vec<_> = built.iter().map(Hash::prefix).collect();
        let mut own = OwnFilter::build(9, prefixes.into_iter());
        let mut peer = accepted(&own);
        for hash in &added {
            own.insert(hash.prefix());
        }
        let delta = own.delta_since(9, 0).expect("short enough");
        prop_assert_eq!(peer.apply(&delta), Ok(()));
        let whole = accepted(&own);
        for hash in built.iter().chain(&added) {
            prop_assert!(peer.may_hold(hash) && whole.may_hold(hash));
        }
        prop_assert_eq!(peer.count(), whole.count());
    }
}
