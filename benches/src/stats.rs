//! Medians, quartiles and percentiles of what was measured.

use serde::Serialize;

/// Is the middle of some values, and how far the middle half of them lies apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The value that as many are below as above.
    pub median: f64,
    /// A quarter is below this.
    pub low: f64,
    /// A quarter is above this.
    pub high: f64,
}

impl Spread {
    /// Returns the spread of some values; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share| between(&values, share);
        Some(Self { median: at(0.5)?, low: at(0.25)?, high: at(0.75)? })
    }
}

/// Returns the median of some values; none of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(values).map(|spread| spread.median)
}

/// Is what people ask of waiting times, in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the values are at most this.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Percentiles {
    /// Returns the percentiles of some values, each one that was measured; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |hundredths: usize| {
            // The nearest rank: the least value that so many of a hundred do not exceed.
            let rank = (values.len() * hundredths).div_ceil(100).max(1);
            values.get(rank - 1).copied()
        };
        Some(Self { p50: at(50)?, p95: at(95)?, p99: at(99)?, max: at(100)? })
    }
}

/// Returns the value at a share of the way through sorted values, between two of them where it must be.
fn between(sorted: &[f64], share: f64) -> Option<f64> {
    let last = u32::try_from(sorted.len().checked_sub(1)?).ok()?;
    let place = f64::from(last) * share;
    let (below, above) = (index(place.floor()), index(place.ceil()));
    let (below, above) = (sorted.get(below).copied()?, sorted.get(above).copied()?);
    Some(below + (above - below) * place.fract())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
fn index(whole: f64) -> usize {
    whole as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> [f64; 3] {
        let Spread { median, low, high } = Spread::of(values.iter().copied()).unwrap();
        [low, median, high]
    }

    #[test]
    fn spread_of_five_is_the_second_the_third_and_the_fourth() {
        assert_eq!(spread(&[9.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
    }

    #[test]
    fn spread_lies_between_values_where_it_must() {
        assert_eq!(spread(&[4.0, 2.0]), [2.5, 3.0, 3.5]);
        assert_eq!(spread(&[7.0]), [7.0, 7.0, 7.0]);
    }

    #[test]
    fn nothing_has_no_middle() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Percentiles::of([]), None);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = Percentiles::of((1..=100).rev().map(f64::from)).unwrap();
        assert_eq!(hundred, Percentiles { p50: 50.0, p95: 95.0, p99: 99.0, max: 100.0 });
        let few = Percentiles::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(few, Percentiles { p50: 2.0, p95: 3.0, p99: 3.0, max: 3.0 });
        assert_eq!(Percentiles::of([5.0]).unwrap().p50.to_bits(), 5.0_f64.to_bits());
    }
}
