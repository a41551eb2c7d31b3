//! What one sample says: mean, median, percentiles, and its empirical distribution.

/// Returns the values in ascending order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the middle of ascending values: of an even number of them, the mean of the two in the
/// middle.
pub fn median(ascending: &[f64]) -> Option<f64> {
    let above = ascending.len() / 2;
    let high = *ascending.get(above)?;
    if ascending.len() % 2 == 1 {
        return Some(high);
    }
    let low = *ascending.get(above.checked_sub(1)?)?;
    Some(low + (high - low) / 2.0)
}

/// Returns the nearest-rank percentile of ascending values; `share` is 0.5 for the median, and 0 is
/// the least.
pub fn percentile(ascending: &[f64], share: f64) -> Option<f64> {
    let rank = rank_of(ascending.len(), share);
    ascending.get(rank.checked_sub(1)?).copied()
}

/// Returns the least number of values that are at least `share` of `count`, from 1 to `count`.
///
/// Products such as 0.95 * 20 lie a little above the whole number that they stand for; a billionth
/// is taken off, so that they are not rounded up to the next rank.
#[expect(clippy::cast_possible_truncation, reason = "between 0 and `count`, which is a usize")]
#[expect(clippy::cast_sign_loss, reason = "not below 0")]
fn rank_of(count: usize, share: f64) -> usize {
    let exact = share.clamp(0.0, 1.0) * count as f64;
    ((exact - 1e-9).max(0.0).ceil() as usize).clamp(1, count.max(1))
}

/// Is the empirical distribution of a sample: which share of it does not exceed a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cdf {
    ascending: Vec<f64>,
}

impl Cdf {
    /// Makes the distribution of these values, in any order.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        Self { ascending: sorted(values) }
    }

    /// Returns the sample in ascending order.
    pub fn values(&self) -> &[f64] {
        &self.ascending
    }

    /// Returns the share of the sample that does not exceed `value`; 0 of an empty one.
    pub fn at(&self, value: f64) -> f64 {
        let below = self.ascending.partition_point(|sample| *sample <= value);
        below as f64 / self.ascending.len().max(1) as f64
    }

    /// Returns the nearest-rank percentile.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        percentile(&self.ascending, share)
    }

    /// Returns at most `points` pairs of value and share that draw the curve: quantiles evenly
    /// apart, and the last hundredth as finely again, because people look at the tail.
    pub fn curve(&self, points: usize) -> Vec<(f64, f64)> {
        let count = self.ascending.len();
        if count <= points {
            let share = |index: usize| (index + 1) as f64 / count as f64;
            return self.ascending.iter().enumerate().map(|(i, x)| (*x, share(i))).collect();
        }
        let half = (points / 2).max(1);
        let body = (1..=half).map(|step| 0.99 * step as f64 / half as f64);
        let tail = (1..=half).map(|step| 0.99 + 0.01 * step as f64 / half as f64);
        body.chain(tail).filter_map(|share| Some((self.percentile(share)?, share))).collect()
    }
}

/// Returns the two-sample Kolmogorov-Smirnov distance: the most by which two distributions differ.
pub fn ks_distance(a: &Cdf, b: &Cdf) -> Option<f64> {
    if a.ascending.is_empty() || b.ascending.is_empty() {
        return None;
    }
    let steps = a.ascending.iter().chain(&b.ascending);
    Some(steps.map(|value| (a.at(*value) - b.at(*value)).abs()).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank_percentiles_are_those_of_the_textbook() {
        let values = [15.0, 20.0, 35.0, 40.0, 50.0];
        let at = |share| percentile(&values, share).unwrap();
        assert_eq!([at(0.05), at(0.3), at(0.4), at(0.5), at(1.0)], [15.0, 20.0, 20.0, 35.0, 50.0]);
    }

    #[test]
    fn a_percentile_that_falls_on_a_rank_takes_that_rank() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.95), Some(19.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&values, 0.999), Some(20.0));
    }

    #[test]
    fn an_empty_sample_has_no_statistic() {
        let none = Cdf::default();
        assert_eq!((mean(&[]), median(&[]), percentile(&[], 0.5)), (None, None, None));
        assert_eq!((none.at(1.0), ks_distance(&none, &Cdf::new([1.0]))), (0.0, None));
        assert!(none.curve(10).is_empty());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 10.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 10.0, 11.0]), Some(6.0));
        assert_eq!(median(&[7.0]), Some(7.0));
    }

    #[test]
    fn the_distance_of_two_samples_is_the_largest_gap_between_their_steps() {
        let a = Cdf::new([1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ks_distance(&a, &a), Some(0.0));
        assert_eq!(ks_distance(&a, &Cdf::new([3.0, 4.0, 5.0, 6.0])), Some(0.5));
        assert_eq!(ks_distance(&a, &Cdf::new([10.0])), Some(1.0));
        assert_eq!(
            ks_distance(&Cdf::new([1.0, 1.0, 2.0]), &Cdf::new([1.0, 2.0, 2.0])),
            Some(1.0 / 3.0)
        );
    }

    #[test]
    fn a_long_curve_keeps_its_ends_and_its_bound() {
        let cdf = Cdf::new((1..=1_000_000).map(f64::from));
        let curve = cdf.curve(200);
        assert!(curve.len() <= 200);
        assert_eq!(curve.last(), Some(&(1_000_000.0, 1.0)));
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1));
    }
}
