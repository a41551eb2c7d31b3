//! Confidence intervals of medians, by drawing again from the sample.

use super::{Interval, median, percentile, sorted};

/// How often a sample is drawn again.
const DRAWS: usize = 2_000;
/// The most values that are drawn from; of more, as many are taken evenly from the sorted sample,
/// which makes the interval wider than it is, never narrower.
const VALUES_MAX: usize = 1_000;

/// Returns the median and its 95 % confidence interval by the percentile bootstrap.
///
/// The same values in any order and the same seed give the same interval.
pub fn median_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let ascending = sorted(values.iter().copied());
    let middle = median(&ascending)?;
    let kept = thinned(&ascending);
    let mut random = SplitMix(seed);
    let draws = (0..DRAWS).filter_map(|_| {
        let draw =
            sorted((0..kept.len()).filter_map(|_| kept.get(random.below(kept.len())).copied()));
        median(&draw)
    });
    let medians = sorted(draws);
    let (low, high) = (percentile(&medians, 0.025)?, percentile(&medians, 0.975)?);
    Some(Interval { middle, low, high })
}

fn thinned(ascending: &[f64]) -> Vec<f64> {
    let count = ascending.len().min(VALUES_MAX);
    let step = |index: usize| (2 * index + 1) * ascending.len() / (2 * count);
    (0..count).filter_map(|index| ascending.get(step(index)).copied()).collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for drawing indexes, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws an index below `count`. The bias is below `count` / 2^64.
    fn below(&mut self, count: usize) -> usize {
        let wide = u128::from(self.next()) * count as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_draws_the_published_numbers() {
        let mut random = SplitMix(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_whatever_the_order() {
        let mut values: Vec<f64> = (1..=99).map(f64::from).collect();
        let found = median_interval(&values, 7).unwrap();
        values.reverse();
        assert_eq!(median_interval(&values, 7), Some(found));
        assert_ne!(median_interval(&values, 8), Some(found));
    }

    #[test]
    fn the_interval_is_as_wide_as_order_statistics_say() {
        // By the binomial distribution the 95 % interval of the median of 99 values lies between
        // the 40th and the 60th of them.
        let values: Vec<f64> = (1..=99).map(f64::from).collect();
        let found = median_interval(&values, 1).unwrap();
        assert_eq!(found.middle, 50.0);
        assert!((38.0..=42.0).contains(&found.low), "{found:?}");
        assert!((58.0..=62.0).contains(&found.high), "{found:?}");
    }

    #[test]
    fn equal_values_have_an_interval_of_no_width() {
        let found = median_interval(&[4.0; 10], 1).unwrap();
        assert_eq!((found.low, found.high), (4.0, 4.0));
        assert_eq!(median_interval(&[], 1), None);
    }
}
